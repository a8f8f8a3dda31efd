"""The synchronous face of a runtime: the same words without `await`.

Owns the thread in which the runtime's event loop runs. Used by programs that are not asynchronous;
context variables cross with each call, so nested calls find their run and their parent.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from custody.calls.beginning import NewRun, RunOptions
from custody.calls.lifecycle import left_with
from custody.calls.run import FINISH_SECONDS, RunRecord
from custody.calls.runtime import Runtime
from custody.errors import StoreClosed, UsageError
from custody.policy.model import Afterwards, WallLevel
from custody.records import Call, RunOutcome

if TYPE_CHECKING:
    from custody.calls.notices import Notices
    from custody.index import Index

T = TypeVar("T")

THREAD_END_SECONDS = 10.0  # the loop's thread ends at once; this bounds a wait that should not happen


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="custody-loop", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it; an interrupt of the wait cancels it. Raises StoreClosed."""
        if self._loop.is_closed():
            work.close()
            raise StoreClosed
        if self._pid != os.getpid():
            work.close()
            raise UsageError(
                "A forked child cannot make guarded calls through its parent's runtime.",
                hint="Open the store again in the child; observed calls, steps and events work as they are.",
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def closed(self) -> bool:
        """Also in a forked child, which has no part in it."""
        return self._loop.is_closed() or self._pid != os.getpid()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(THREAD_END_SECONDS)
        self._loop.close()


class BlockingRun(RunRecord):
    """A run for `with`; see `RunHandle`. Only its guarded calls need the event loop."""

    def __init__(self, loop: _Loop, runtime: Runtime, new: NewRun) -> None:
        super().__init__(runtime, new)
        self._loop = loop
        self._home = runtime

    def __enter__(self) -> Self:
        if not self._joined:
            self._start()
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if not self._joined and self.outcome is None:
            outcome, reason = left_with(error)
            self.finish(outcome, reason=reason)

    def child(
        self, intent: str | None = None, *, name: str | None = None, **options: Unpack[RunOptions]
    ) -> "BlockingRun":
        """A run below this one; see `RunHandle.child`."""
        return BlockingRun(self._loop, self._home, self._child(intent, name, options))

    def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        level: WallLevel | None = None,
        sandbox: str | None = None,
        afterwards: Afterwards | None = None,
        dry_run: bool = False,
        external_id: str | None = None,
    ) -> Call:
        """Make a call in this run; see `RunHandle.call`."""
        self.recording.recorder.check_can_append()
        return self._loop.wait(
            self._home.call(
                tool,
                arguments,
                timeout=timeout,
                level=level,
                sandbox=sandbox,
                afterwards=afterwards,
                dry_run=dry_run,
                external_id=external_id,
                run=self,
            )
        )

    def finish(
        self,
        outcome: RunOutcome | None = None,
        *,
        output: Any = None,
        reason: str | None = None,
        passed: bool | None = None,
        totals: Any = None,
    ) -> None:
        """End the run; see `RunHandle.finish`."""
        stored = self._finish(outcome, output, reason, passed, totals)
        self.recording.backlog.wait(stored, FINISH_SECONDS)


class BlockingRuntime:
    """A runtime for `with`; see `Runtime`. May be used from several threads at once."""

    def __init__(self, make_runtime: Callable[[], Coroutine[Any, Any, Runtime]]) -> None:
        self._loop = _Loop()
        try:
            self._runtime = self._loop.wait(make_runtime())
        except BaseException:
            self._loop.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def index(self) -> "Index":
        """Questions about what is recorded."""
        return self._runtime.index

    @property
    def notices(self) -> "Notices | None":
        """Who is told of each call beside the record; None where nobody is."""
        return self._runtime.notices

    def call(
        self, tool: str | Callable[..., Any], arguments: Mapping[str, Any] | None = None, **options: Any
    ) -> Call:
        """Make a call; options as in `Runtime.call`."""
        self._runtime.recording.recorder.check_can_append()
        return self._loop.wait(self._runtime.call(tool, arguments, **options))

    def run(
        self,
        intent: str | None = None,
        *,
        name: str | None = None,
        shared: bool = False,
        **options: Unpack[RunOptions],
    ) -> BlockingRun:
        """A new run for `with`; see `Runtime.run`."""
        new = self._runtime.new_run(intent, name, shared, options)
        return BlockingRun(self._loop, self._runtime, new)

    def join(self, run_id: str) -> BlockingRun:
        """Take part in a shared run; see `Runtime.join`."""
        return BlockingRun(self._loop, self._runtime, self._loop.wait(self._runtime.new_runs.joined(run_id)))

    def named_run(self, name: str, intent: str | None = None, **options: Unpack[RunOptions]) -> BlockingRun:
        """Join or start the shared run of this name; see `Runtime.named_run`."""
        new = self._loop.wait(self._runtime.new_runs.of_name(name, intent, options))
        return BlockingRun(self._loop, self._runtime, new)

    def cancel(self, target: str) -> list[str]:
        """Ask a call or a run's calls to end; see `Runtime.cancel`."""
        return self._loop.wait(self._runtime.cancel(target))

    def close(self) -> None:
        """End what still runs and seal the store. A second close does nothing."""
        if self._loop.closed:
            if self._runtime.notices is not None:
                self._runtime.notices.close()
            self._runtime.recording.backlog.drain()  # of a forked child, whose own records these are
            return
        self._loop.wait(self._runtime.close())
        self._loop.close()
