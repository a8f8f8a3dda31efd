"""A store to ask questions of: records are put in it as writers would, each with a journal of its own."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from custody.index import Index
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.journal.disk_memory import MemoryDisk
from custody.records import (
    KINDS,
    CallFinished,
    CallStarted,
    Decision,
    Event,
    Leaf,
    Redacted,
    Request,
    RunFinished,
    RunStarted,
    Step,
)

ALLOW = Decision("allow", "nobody", "no rule is against it")
BEGIN_US = 1_790_000_000_000_000
SALT = b"\x01" * 16
SMALL = JournalSettings(first_segment_bytes=64 * 1024)


class Store:
    """Writers and readers of one store. Times are seconds after BEGIN_US."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self.disk = MemoryDisk() if folder is None else RealDisk(folder)
        self.path = None if folder is None else os.path.join(folder, "index.db")
        self.journals: list[Journal] = []
        self.indexes: list[Index] = []
        self.writer = self.open_writer()

    def open_writer(self) -> Journal:
        """One more writer: it has a shard of its own."""
        journal = Journal(self.disk, settings=SMALL)
        self.journals.append(journal)
        return journal

    def index(self) -> Index:
        index = Index(self.path, self.writer)
        self.indexes.append(index)
        return index

    def put(self, leaf: Leaf, payload: dict[str, Any] | None = None, writer: Journal | None = None) -> None:
        data = Redacted(b"" if payload is None else SALT + msgspec.msgpack.encode(payload))
        (writer or self.writer).append(KINDS[type(leaf)], msgspec.msgpack.encode(leaf), data)

    def put_blob(self, value: Any) -> dict[str, Any]:
        data = msgspec.msgpack.encode(value)
        return {"$blob": self.writer.put_blob(Redacted(data)).hex(), "bytes": len(data)}

    def start_run(self, number: int, at: float = 0.0, writer: Journal | None = None, **fields: Any) -> bytes:
        said = {name: fields.pop(name) for name in ("intent", "inputs", "labels") if name in fields}
        self.put(RunStarted(run_id(number), us(at), b"", **fields), said, writer)
        return run_id(number)

    def finish_run(
        self, number: int, at: float = 9.0, outcome: Any = "succeeded", output: Any = None, **fields: Any
    ) -> None:
        said = {"output": output} | {name: fields.pop(name) for name in ("stated_totals",) if name in fields}
        self.put(RunFinished(run_id(number), us(at), b"", outcome, **fields), said)

    def start_call(
        self,
        number: int,
        at: float = 0.0,
        *,
        arguments: Any = None,
        writer: Journal | None = None,
        withheld: list[str] | None = None,
        host_before: bytes | None = None,
        **fields: Any,
    ) -> bytes:
        payload = {"arguments": arguments} | ({} if withheld is None else {"environment_withheld": withheld})
        leaf = CallStarted(
            call_id(number), us(at), 7_000 + number, b"", request(at, **fields), host_before=host_before
        )
        self.put(leaf, payload, writer)
        return call_id(number)

    def finish_call(
        self,
        number: int,
        at: float = 1.0,
        outcome: Any = "succeeded",
        *,
        result: Any = None,
        error: dict[str, str] | None = None,
        writer: Journal | None = None,
        **fields: Any,
    ) -> None:
        payload = {"result": result} | ({} if error is None else {"error": error})
        self.put(CallFinished(call_id(number), us(at), outcome, b"", **fields), payload, writer)

    def reject_call(self, number: int, at: float = 0.0, *, arguments: Any = None, **fields: Any) -> None:
        leaf = CallFinished(call_id(number), us(at), "rejected", b"", request(at, **fields), reason="denied")
        self.put(leaf, {"arguments": arguments})

    def told_call(
        self,
        number: int,
        at: float = 1.0,
        asked: float = 0.0,
        outcome: Any = "succeeded",
        said: dict[str, Any] | None = None,
        writer: Journal | None = None,
        **fields: Any,
    ) -> bytes:
        """One that somebody told of afterwards: its only record is its end. `said` is its payload."""
        ending = {name: fields.pop(name) for name in ("passed", "reason") if name in fields}
        leaf = CallFinished(
            call_id(number), us(at), outcome, b"", request(asked, **fields), source="observed", **ending
        )
        self.put(leaf, said or {}, writer)
        return call_id(number)

    def call(self, number: int, at: float = 0.0, outcome: Any = "succeeded", **fields: Any) -> bytes:
        """A whole one."""
        ending = {
            name: fields.pop(name) for name in ("result", "error", "latency_us", "reason") if name in fields
        }
        self.start_call(number, at, **fields)
        self.finish_call(number, at + 0.5, outcome, **ending)
        return call_id(number)

    def step(
        self,
        number: int,
        run: int,
        position: int | None = None,
        at: float = 0.0,
        text: Any = "",
        **fields: Any,
    ) -> bytes:
        said = {"text": text} | {name: fields.pop(name) for name in ("calls", "data") if name in fields}
        self.put(Step(call_id(number), run_id(run), us(at), b"", position, **fields), said)
        return call_id(number)

    def event(self, number: int, name: str, at: float = 0.0, data: Any = None, **fields: Any) -> bytes:
        self.put(Event(call_id(number), name, us(at), b"", **fields), {"data": data})
        return call_id(number)

    def close(self) -> None:
        for index in self.indexes:
            index.close()
        for journal in self.journals:
            journal.close()


def us(at: float) -> int:
    return BEGIN_US + round(at * 1_000_000)


def run_id(number: int) -> bytes:
    return bytes([0xA0 + number]) * 16


def call_id(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\x11" * 6


def request(at: float, **fields: Any) -> Request:
    run = fields.pop("run", None)
    given = {
        "position": None,
        "tool": "exec",
        "effect": "write",
        "level": "process",
        "decision": ALLOW,
    } | fields
    return Request(run_id=None if run is None else run_id(run), asked_at_us=us(at), **given)


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.long), "real"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Store]:
    """The same answers from both."""
    store = Store(None if request.param == "memory" else str(tmp_path / "store"))
    yield store
    store.close()


@pytest.fixture
def real_store(tmp_path: Any) -> Iterator[Store]:
    store = Store(str(tmp_path / "store"))
    yield store
    store.close()


@pytest.fixture
def new_store() -> Iterator[Any]:
    """Makes stores in memory, for tests that need many."""
    stores: list[Store] = []

    def make() -> Store:
        stores.append(Store(None))
        return stores[-1]

    yield make
    for store in stores:
        store.close()
