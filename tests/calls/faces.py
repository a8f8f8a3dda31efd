"""The same scenario through both faces of a runtime, and the records it left.

A scenario is a coroutine that is given a runtime and says `async with` and `await`. On the blocking face the
same words go to `with` and plain calls, with no event loop in the thread.
"""

import asyncio
import contextlib
import contextvars
import gc
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, ClassVar

import custody
from custody.blocking import BlockingRuntime
from custody.calls.runtime import Runtime
from custody.compose import open_runtime
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.records import (
    CallFinished,
    CallStarted,
    Event,
    RunFinished,
    RunStarted,
    Step,
    decode_leaf,
    decode_payload,
)
from custody.settings import load_settings

Scenario = Callable[..., Awaitable[Any]]

MACHINERY = ("writer.opened", "host.sampled", "journal.poisoned", "key.created")


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    async def __aenter__(self) -> "_Run":
        self._run.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._run.__exit__(*error)

    def observe(self, *arguments: Any, **options: Any) -> "_Observed":
        return _Observed(self._run.observe(*arguments, **options))

    def child(self, *arguments: Any, **options: Any) -> "_Run":
        return _Run(self._run.child(*arguments, **options))

    async def finish(self, *arguments: Any, **options: Any) -> None:
        self._run.finish(*arguments, **options)

    async def call(self, *arguments: Any, **options: Any) -> Any:
        return self._run.call(*arguments, **options)


class _Observed:
    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def __aenter__(self) -> Any:
        return self._call.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        self._call.__exit__(*error)


class _Runtime:
    def __init__(self, runtime: Any) -> None:
        self._blocking = runtime
        self.runtime = getattr(runtime, "_runtime", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    def run(self, *arguments: Any, **options: Any) -> _Run:
        return _Run(self._blocking.run(*arguments, **options))

    async def call(self, *arguments: Any, **options: Any) -> Any:
        return self._blocking.call(*arguments, **options)


def drive(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits, without an event loop."""
    try:
        scenario.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the blocking face has awaited something")


def on_blocking(scenario: Scenario, make: Callable[[], Coroutine[Any, Any, Runtime]]) -> Any:
    with BlockingRuntime(make) as runtime:
        return contextvars.copy_context().run(drive, scenario(_Runtime(runtime)))


def on_asyncio(scenario: Scenario, make: Callable[[], Coroutine[Any, Any, Runtime]]) -> Any:
    async def main() -> Any:
        async with await make() as runtime:
            return await scenario(runtime)

    return asyncio.run(main())


FACES = {"blocking": on_blocking, "asyncio": on_asyncio}


class Stage:
    """Where a scenario is played: a face, and a store on a disk that can be made to fail."""

    def __init__(self, face: str = "blocking", store: str = ":memory:") -> None:
        self.face = face
        self.store = store
        self.disk = FaultyDisk(MemoryDisk() if store == ":memory:" else _real(store))

    def play(self, scenario: Scenario, **options: Any) -> Any:
        """What the scenario returns. May be asked again: the store stays."""

        def make() -> Coroutine[Any, Any, Runtime]:
            return open_runtime(load_settings(store=self.store), disk=self.disk, **options)

        return FACES[self.face](scenario, make)

    def disabled(self, scenario: Scenario) -> Any:
        if self.face == "blocking":
            return drive(scenario(_Runtime(custody.disabled())))
        return asyncio.run(scenario(custody.disabled()))

    def fill_up(self, *operations: str, error: int = 28) -> None:
        """No more room: puts and new files fail until `heal`."""
        for operation in operations or ("put", "create", "replace"):
            self.disk.inject(Fault(operation=operation, error=error, times=None))

    def stall(self, *operations: str, seconds: float = 60.0) -> None:
        for operation in operations or ("sync",):
            self.disk.inject(Fault(operation=operation, error=None, stall_seconds=seconds, times=None))

    def heal(self) -> None:
        self.disk.heal()


def _real(store: str) -> Any:
    from custody.stores import open_disk

    return open_disk(store)


# -- doing and waiting ------------------------------------------------------------------------------------

UNDISTURBED_SECONDS = 20.0
"""Far above what records cost on a machine that stands still for seconds, and below how long the disks of the
tests hang."""


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        threading.Event().wait(0.005)


def settle(runtime):
    """Until each record offered so far has been written or dropped."""
    wait_until(lambda: not runtime.recording.backlog._queue)


async def some_work(run, calls=3):
    for number in range(calls):
        run.step(f"step {number}", model="m")
        async with run.observe("search", {"n": number}) as call:
            call.result = number
    run.event("noted", n=1)
    run.error("a small thing")


# -- what nobody holds ------------------------------------------------------------------------------------


@contextlib.contextmanager
def collecting() -> Iterator[None]:
    """The garbage collector runs at nearly every allocation."""
    before = gc.get_threshold()
    gc.set_threshold(1, 2, 2)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Forgotten:
    """A task in the middle of `work`, until it is thrown away."""

    _alive: ClassVar[list[None]] = []

    def __init__(self, work):
        self._begun = asyncio.Event()
        self._coroutine = self._do(work)
        self._task = asyncio.get_running_loop().create_task(self._coroutine)

    async def _do(self, work):
        self._alive.append(None)
        try:
            await work(self._wait)
        finally:
            self._alive.pop()

    @classmethod
    async def all_thrown_away(cls):
        """Wait until the collector has come by, which may be at work in another thread."""
        until = time.monotonic() + 60
        while cls._alive:
            assert time.monotonic() < until, "some are held"
            gc.collect()
            await asyncio.sleep(0.001)

    async def _wait(self):
        self._begun.set()
        await asyncio.get_running_loop().create_future()

    async def begin(self):
        await self._begun.wait()
        return self

    def throw_away(self):
        """As the collector does."""
        self._coroutine.close()


async def forget(run, count):
    """So many runs with a call each, thrown away in the middle, between as many steps and calls of `run`."""

    async def work(wait):
        async with run.child("part") as child, child.observe("slow"):
            await wait()

    for _ in range(count):
        await Forgotten(work).begin()
        run.step("thinking")
        async with run.observe("search"):
            await asyncio.sleep(0)


def counted(runtime):
    """How the runs ended, and how their calls did."""
    runs = runtime.index.runs(limit=1000).items
    calls = [call.outcome for run in runs for call in runtime.index.run_calls(bytes.fromhex(run.id))]
    return Counter(run.outcome for run in runs), Counter(calls)


# -- what was recorded ------------------------------------------------------------------------------------


def records(runtime: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Leaf and payload of each record, without what the machinery says of itself."""
    found = [
        (decode_leaf(stored.kind, stored.leaf), decode_payload(stored.payload) or {})
        for stored in runtime.journal.follow()
    ]
    return [(leaf, said) for leaf, said in found if not (isinstance(leaf, Event) and leaf.name in MACHINERY)]


def told(runtime: Any) -> list[str]:
    """The records in order, a word each: `run+ run- call+ call- step`, and events by name."""
    words: dict[type[Any], str] = {
        RunStarted: "run+", RunFinished: "run-", CallStarted: "call+", CallFinished: "call-", Step: "step"
    }  # fmt: skip
    return [words.get(type(leaf)) or leaf.name for leaf, _ in records(runtime)]


def gaps(runtime: Any) -> list[dict[str, Any]]:
    return [
        leaf.data for leaf, _ in records(runtime) if isinstance(leaf, Event) and leaf.name == "journal.gap"
    ]


def events(runtime: Any, name: str) -> list[dict[str, Any]]:
    """What the events of that name say, in order."""
    return [
        said.get("data") if leaf.data is None else leaf.data
        for leaf, said in records(runtime)
        if isinstance(leaf, Event) and leaf.name == name
    ]


def of_kind(runtime: Any, kind: type[Any]) -> list[tuple[Any, dict[str, Any]]]:
    return [(leaf, said) for leaf, said in records(runtime) if isinstance(leaf, kind)]
