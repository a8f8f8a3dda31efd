"""A store with runs in it, exporters of it, and collectors to export to."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.bridges.collector import WAIT_SECONDS_MAX, Collector, GrpcCollector, HttpCollector, collecting
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.bridges.otel.background import BackgroundExport
from custody.bridges.otel.destination import OtelSection, destination_of
from custody.bridges.otel.exporter import Exporter, Pace
from custody.records import Step, Tokens, now_us
from custody.settings import load_settings
from custody.stores import make_recorder, open_disk, open_view

QUICK = Pace(
    poll_seconds=0.01,
    backoff_seconds=0.01,
    backoff_seconds_max=0.05,
    save_seconds=0.0,
    send_seconds=WAIT_SECONDS_MAX,
)


def finish(export: BackgroundExport) -> None:
    """Stop it, with time for all that is left on a machine that is busy with other tests."""
    export.stop(WAIT_SECONDS_MAX)
    assert export.wait(0), "it has not ended"


@custody.tool(effect="read")
def add(left: int, right: int) -> int:
    return left + right


@custody.tool(effect="read")
def fail(text: str) -> None:
    raise LookupError(text)


@custody.tool(effect="write")
def log_in(password: str, note: str) -> str:
    return f"logged in: {note}"


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working directory that is in no git working tree, with nobody's settings or collectors."""
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    never_short_of_resources(tmp_path / "config")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


class Recorded:
    """A store on disk: what is recorded in it, and exporters of it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        open_disk(folder)

    def run(
        self, use: Callable[[Any, Any], Any] | None = None, *, intent: str = "work", **options: Any
    ) -> str:
        """Record a run; `use` is awaited with the runtime and the run. Returns the run's id."""

        async def record() -> str:
            async with custody.open(self.folder, tools=[add, fail, log_in]) as runtime:
                async with runtime.run(intent, **options) as run:
                    if use is not None:
                        await use(runtime, run)
                return run.id

        return asyncio.run(record())

    def calls(self, count: int = 1) -> str:
        """A run with so many calls."""

        async def use(_: Any, run: Any) -> None:
            for number in range(count):
                await run.call(add, {"left": number, "right": 1})

        return self.run(use, agent="adder")

    def exporting(self, collector: Collector, **options: Any) -> "Exporting":
        return Exporting(self.folder, collector, **options)

    def export(self, collector: Collector, *, from_start: bool = False, **options: Any) -> Exporter:
        """Export once, as the command does; what stopped it is `exporter.failure`."""
        with self.exporting(collector, **options) as exporting:
            exporter = exporting.make(threading.Event())
            exporter.resume(from_start=from_start)
            exporter.failure = exporter.deliver_all()
            exporter.save()
        return exporter

    def events(self, name: str) -> list[Any]:
        from custody.index import EventFilter

        with open_view(load_settings(store=self.folder)) as view:
            return view.index.events(EventFilter(name=name, order="oldest")).items


class Exporting:
    """A store opened to be exported."""

    def __init__(self, folder: str, collector: Collector, *, pace: Pace = QUICK, **options: Any) -> None:
        self._settings = load_settings(store=folder)
        self._pace = pace
        self._options = options
        self.destination = destination_of(
            OtelSection(), {}, endpoint=collector.endpoint, protocol=collector.protocol
        )
        self.said: list[str] = []

    def __enter__(self) -> "Exporting":
        self.view = open_view(self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        self.view.index.close()
        self.view.journal.close()

    def make(self, stop: threading.Event) -> Exporter:
        disk = open_disk(self._settings.store)
        return Exporter(
            journal=self.view.journal,
            index=self.view.index,
            make_recorder=lambda: make_recorder(disk, self.view.journal, os.environ),
            destination=self.destination,
            pace=self._pace,
            say=self.said.append,
            stop=stop,
            **self._options,
        )

    def background(self) -> BackgroundExport:
        export = BackgroundExport(self.view.journal, self.view.index, self.make)
        export.start()
        return export


def record_step(runtime: Any, run: Any, text: str = "", **fields: Any) -> bytes:
    """A model turn, put on the record as `run.step` does."""
    recorder = runtime.ledger.recorder
    step_id = recorder.ids.take(8)
    said = {"text": text, **{name: fields.pop(name) for name in ("calls",) if name in fields}}
    recorder.append(
        recorder.draft(
            Step, said, step_id=step_id, run_id=run.run_id, at_us=now_us(),
            tokens=fields.pop("tokens", Tokens(input=100, output=20)), **fields,
        )
    )  # fmt: skip
    return step_id


@pytest.fixture
def recorded(tmp_path) -> Recorded:
    return Recorded(os.fspath(tmp_path / "store"))


@pytest.fixture(params=[HttpCollector, GrpcCollector], ids=["http", "grpc"])
def kind(request) -> type[Collector]:
    """Everything works over both."""
    return request.param


@pytest.fixture
def collector(kind) -> Iterator[Collector]:
    with collecting(kind) as collector:
        yield collector


@pytest.fixture
def http() -> Iterator[HttpCollector]:
    with collecting(HttpCollector) as collector:
        yield collector
