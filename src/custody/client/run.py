"""A run of the daemon's as a coroutine, or a thread, holds it: what waits is awaited, or waited for.

Owns nothing but the waiting; everything else is `told`. Made by `runtime` and `blocking`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from custody.calls.beginning import RunOptions
from custody.calls.lifecycle import left_with
from custody.calls.run import FINISH_SECONDS
from custody.client.told import Told
from custody.errors import CustodyError
from custody.records import Call, RunOutcome

if TYPE_CHECKING:
    from custody.client.outbox import Item


class RemoteRun(Told):
    """An open run. `async with` begins it and finishes it; calls made inside belong to it."""

    async def __aenter__(self) -> Self:
        try:
            await self._home.link.work(self._beginning()).over()
        except Exception as error:
            if not self.begun_late(error):
                raise
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if not self.joined and self.outcome is None:
            outcome, reason = left_with(error)
            if isinstance(error, GeneratorExit):  # its coroutine is closed, maybe as garbage: it cannot await
                self.finishing(outcome, None, reason, None, None)
            else:
                await self.finish(outcome, reason=reason)

    def child(
        self, intent: str | None = None, *, name: str | None = None, **options: Unpack[RunOptions]
    ) -> "RemoteRun":
        """A run below this one; see `RunHandle.child`. Whether it may be is asked when it begins."""
        return RemoteRun(*self._home.child_of(self, intent, name, options))

    async def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        level: str | None = None,
        sandbox: str | None = None,
        afterwards: str | None = None,
        dry_run: bool = False,
        external_id: str | None = None,
    ) -> Call:
        """Make a call in this run; see `RunHandle.call`."""
        asked = self._home.asked(
            run=self,
            timeout=timeout,
            level=level,
            sandbox=sandbox,
            afterwards=afterwards,
            dry_run=dry_run,
            external_id=external_id,
        )
        return await self._home.link.work(self._home.make(tool, arguments, asked)).over()

    async def finish(
        self,
        outcome: RunOutcome | None = None,
        *,
        output: Any = None,
        reason: str | None = None,
        passed: bool | None = None,
        totals: Any = None,
    ) -> None:
        """End the run; see `RunHandle.finish`."""
        end = self.finishing(outcome, output, reason, passed, totals)
        if end is not None:
            try:
                await end.over(FINISH_SECONDS)
            except CustodyError:
                if self.strict:
                    raise


class BlockingRemoteRun(Told):
    """The same for `with`."""

    def __enter__(self) -> Self:
        try:
            self._home.link.wait(self._beginning())
        except Exception as error:
            if not self.begun_late(error):
                raise
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if not self.joined and self.outcome is None:
            outcome, reason = left_with(error)
            self.finish(outcome, reason=reason)

    def child(
        self, intent: str | None = None, *, name: str | None = None, **options: Unpack[RunOptions]
    ) -> "BlockingRemoteRun":
        """A run below this one; see `RemoteRun.child`."""
        return BlockingRemoteRun(*self._home.child_of(self, intent, name, options))

    def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        level: str | None = None,
        sandbox: str | None = None,
        afterwards: str | None = None,
        dry_run: bool = False,
        external_id: str | None = None,
    ) -> Call:
        """Make a call in this run; see `RunHandle.call`."""
        asked = self._home.asked(
            run=self,
            timeout=timeout,
            level=level,
            sandbox=sandbox,
            afterwards=afterwards,
            dry_run=dry_run,
            external_id=external_id,
        )
        return self._home.link.wait(self._home.make(tool, arguments, asked))

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
        end: Item | None = self.finishing(outcome, output, reason, passed, totals)
        if end is not None:
            with suppress(*(() if self.strict else (CustodyError,))):
                end.wait(FINISH_SECONDS)
