"""A small store that has everything a store can have, as files in memory, and what verifying it says."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.crash.damage import Files, disk_of, files_of
from tests.crash.lanes import tiny_settings

from custody.checkpoints import Sealer, seen_by_writer
from custody.journal import Journal, boot_id
from custody.journal.disk import Disk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.journal.frames import purged_payload
from custody.recorder import Recorder
from custody.records import (
    CallAsked,
    CallFinished,
    CallStarted,
    Decision,
    IdSource,
    Request,
    RunFinished,
    RunStarted,
)
from custody.redaction import Redactor
from custody.verify import Finding, Report, Wanted, verify_store

KEY = bytes(range(32))
LARGE = "a line that is said again and again, and is kept once\n" * 800


class Writer:
    """One process with the store open."""

    def __init__(self, disk: Disk, segment_bytes: int = 4096) -> None:
        self.disk = disk
        self.journal = Journal(disk, settings=tiny_settings(segment_bytes, spares_max=0))
        self.recorder = Recorder(self.journal, Redactor(KEY), IdSource(), seen_by_writer(disk))
        self.sealer = Sealer(disk, self.journal, self._record)

    def _record(self, name: str, data: dict[str, Any]) -> None:
        self.event(name, data).wait_durable(20)

    def event(self, name: str, data: dict[str, Any]) -> Any:
        return self.recorder.event(name, data, leaf_data=True)

    def run(self, calls: int, *, result: str = "done", at_us: int = 1_000_000) -> None:
        """A run of so many calls."""
        ids, chance = self.recorder.ids, random.Random(calls)
        run_id = ids.take(16)
        self._append(RunStarted, {"intent": "to be verified"}, run_id=run_id, at_us=at_us, agent="tester")
        for position in range(calls):
            call_id = ids.take(8)
            request = Request(
                run_id, position, "exec", "write", "process", Decision("allow", "rule", "fine"),
                asked_at_us=at_us + position,
            )  # fmt: skip
            text = "x" * chance.choice((0, 1, 2, 3, 40, 300))
            self._append(
                CallStarted, {"arguments": {"text": text}}, call_id=call_id, at_us=at_us + 1 + position,
                monotonic_ns=position, request=request,
            )  # fmt: skip
            self._append(
                CallFinished, {"result": result}, call_id=call_id, at_us=at_us + 100 + position,
                outcome="succeeded", latency_us=7,
            )  # fmt: skip
        self._append(
            RunFinished, {"output": None}, run_id=run_id, at_us=at_us + 1000, outcome="succeeded", calls=calls
        )

    def run_proposed(self) -> None:
        """A run somebody else has an id for, with actions of a proposal: one asked for, one started, one
        told of afterwards."""
        ids = self.recorder.ids
        run_id, call_ids = ids.take(16), [ids.take(8) for _ in range(3)]
        requests = [
            Request(
                run_id, position, "drive_cli", "unknown", "none", Decision("allow", "rule", "fine"),
                asked_at_us=5_000_000 + position, external_id="tool-use", proposal_id="p", action_id="a",
                attempt=1 + position, connection="0123456789abcdef",
            )
            for position in range(3)
        ]  # fmt: skip
        asked, started, told = requests
        self._append(RunStarted, {}, run_id=run_id, at_us=5_000_000, external_id="key")
        self._append(CallAsked, {"arguments": {}}, call_id=call_ids[0], request=asked)
        self._append(CallStarted, {}, call_id=call_ids[0], at_us=5_000_003, monotonic_ns=1)
        self._append(
            CallStarted,
            {"arguments": {}},
            call_id=call_ids[1],
            at_us=5_000_003,
            monotonic_ns=1,
            request=started,
        )
        for call_id, request in zip(call_ids, (None, None, told), strict=True):
            self._append(
                CallFinished, {"result": 1}, call_id=call_id, at_us=5_000_009, outcome="succeeded",
                request=request, passed=True, source="observed",
            )  # fmt: skip

    def _append(self, leaf_type: Any, payload: dict[str, Any], **fields: Any) -> None:
        self.recorder.append(self.recorder.draft(leaf_type, payload, **fields))

    def sync(self) -> None:
        self.journal.sync()

    def seal(self) -> bytes:
        """The newest checkpoint, over everything."""
        self.journal.sync()
        note = self.sealer.seal(all_shards=True, wait_seconds=20)
        assert note is not None, "nobody else signs"
        return note.data

    def close(self) -> None:
        self.journal.close()


@dataclass
class Store:
    """A store's files, and the anchors taken while it grew."""

    files: Files
    anchors: list[bytes]


def purge(disk: Disk, writer: Writer, shard: int, sequences: range) -> None:
    """Put a tombstone on the record, then the mark over each payload, as a purge does."""
    ranges = {str(shard): [[sequences[0], sequences[-1]]]}
    data = {
        "purge_id": "00" * 8, "by": {"match": True}, "reason": "wanted", "shards": ranges,
        "records": len(sequences), "payload_bytes": 0, "blobs": 0,
    }  # fmt: skip
    writer.event("store.purged", data).wait_durable(20)
    for stored in writer.journal.follow():
        if stored.shard == shard and stored.sequence in sequences and len(stored.payload) > 8:
            file = disk.open(f"journal/{shard:04d}/{stored.segment:08d}.seg")
            file.put(purged_payload(len(stored.payload)), stored.offset + 32 + len(stored.leaf))
            file.close()


def make_store() -> Store:
    """Two shards over several segments: one left behind a failed sync, one behind a torn tail; payloads
    purged; blobs; four checkpoints of two keys."""
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    anchors: list[bytes] = []
    first = Writer(disk)
    first.run(5)
    first.sync()
    anchors.append(first.seal())
    first.run(1)
    disk.inject(Fault(operation="sync", within="0001/"))
    first.sync()  # fails once: what was not durable goes to another segment
    first.run(3, result=LARGE)
    first.seal()
    second = Writer(disk)
    second.run(4)
    second.sync()
    second.run(1)
    killed = disk_of(files_of(memory))  # its process dies here, in the middle of a put
    _tear(killed, "0002")
    first = Writer(killed)
    second = Writer(killed)
    first.run(1)
    second.run(2)
    for writer in (first, second):
        writer.sync()
    anchors.append(first.seal())
    purge(killed, first, 1, range(3, 7))
    note = first.sealer.rotate_key(wait_seconds=20)
    assert note is not None
    first.run(4)
    anchors.append(first.seal())
    first.close()
    second.close()
    last = Writer(killed)
    anchors.append(last.seal())
    last.close()
    return Store(files_of(killed), anchors)


def _tear(disk: MemoryDisk, shard: str) -> None:
    """The last segment's last record has only its first half."""
    folder = f"journal/{shard}"
    path = f"{folder}/{[name for name in disk.names(folder) if name.endswith('.seg')][-1]}"
    data = disk.read_all(path)
    assert data is not None
    end = len(data.rstrip(b"\0"))
    file = disk.open(path)
    file.put(bytes(len(data) - end + 60), end - 60)
    file.close()


def verify(files: Files, anchors: list[bytes] | None = None, **wanted: Any) -> Report:
    """What verifying these files says."""
    named = {f"anchor {number}": data for number, data in enumerate(anchors or [])}
    return verify_store(disk_of(files), root=None, wanted=Wanted(named, **wanted), boot_id=boot_id())


def places(report: Report) -> Iterator[Finding]:
    yield from report.faults
    yield from report.problems
