"""A run as a coroutine holds it: what waits is awaited.

Owns nothing but the waiting; everything else is `run`. Made by `Runtime.run`, `join` and `named_run`.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

from custody.calls.backlog import Offer
from custody.calls.beginning import RunOptions
from custody.calls.lifecycle import left_with
from custody.calls.run import FINISH_SECONDS, RunRecord
from custody.errors import NotRecorded
from custody.policy.model import Afterwards, WallLevel
from custody.records import Call, RunOutcome


class RunHandle(RunRecord):
    """An open run. `async with` starts it and finishes it; calls made inside belong to it."""

    async def __aenter__(self) -> Self:
        await self.start()
        self._enter()
        return self

    async def start(self, *, durable: bool = False) -> None:
        """Put the run on the record, for whoever names it in each call instead of entering it.

        `durable` waits until its start survives a power loss, where `on_error` is `raise`. Raises
        NotRecorded for a shared run and where `on_error` is `raise`.
        """
        if self._joined:
            return
        if not self._waits_to_start:
            self._start()
            return
        stored = await asyncio.to_thread(self._start)
        if durable and stored is not None:
            await stored.durable()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if not self._joined and self.outcome is None:
            outcome, reason = left_with(error)
            if isinstance(error, GeneratorExit):  # its coroutine is closed, maybe as garbage: it cannot await
                self._finish(outcome, None, reason, None, None)
            else:
                await self.finish(outcome, reason=reason)

    def child(
        self, intent: str | None = None, *, name: str | None = None, **options: Unpack[RunOptions]
    ) -> "RunHandle":
        """A run below this one, with its caller and channel, and its agent unless another is named.

        Raises DelegationRefused where the same task is already being worked on above, or it would be too
        deep; RunClosed.
        """
        return RunHandle(self._runtime, self._child(intent, name, options))

    async def call(
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
        """Make a call in this run; returns the finished call for every outcome.

        `timeout` is in seconds, `level` and `sandbox` are as in `Runtime.call`. Raises NotRecorded (nothing
        ran), OutcomeUnknown, UsageError.
        """
        return await self._runtime.call(
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

    async def finish(
        self,
        outcome: RunOutcome | None = None,
        *,
        output: Any = None,
        reason: str | None = None,
        passed: bool | None = None,
        totals: Any = None,
        durable: bool = False,
    ) -> None:
        """End the run; a second finish changes nothing. Without an outcome it succeeded.

        `totals` is what the caller counted, kept beside the run's own numbers; `durable` waits until the end
        survives a power loss. It ends although the task it is called in has been cancelled. Raises
        NotRecorded where `on_error` is `raise`.
        """
        if self._strict:
            finishing = asyncio.ensure_future(
                self._finish_strictly(outcome, output, reason, passed, totals, durable)
            )
            try:
                await asyncio.shield(finishing)
            except asyncio.CancelledError:
                while not finishing.done():  # who is told of the end finds it on the record
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait({finishing})
                raise
            return
        stored = self._finish(outcome, output, reason, passed, totals)
        if isinstance(stored, Offer):
            with suppress(TimeoutError):
                async with asyncio.timeout(FINISH_SECONDS):
                    await self.recording.backlog.settled(stored)
        elif durable and stored is not None:
            with suppress(NotRecorded):
                await stored.durable()

    async def _finish_strictly(
        self, outcome: RunOutcome | None, output: Any, reason: str | None, passed: bool | None, totals: Any,
        durable: bool,
    ) -> None:  # fmt: skip
        stored = await asyncio.to_thread(self._finish, outcome, output, reason, passed, totals)
        if durable and stored is not None:
            assert not isinstance(stored, Offer), "what may not be lost is not queued"
            await stored.durable()
