"""A call that its caller runs, put on the record as if Custody had run it.

Owns the two records of an observed call and what each is made of. Recording never disturbs the agent unless
the caller asks for that: whatever goes wrong in here is logged, counted, and the body of the `with` runs.
Used by `run`; the guarded way of a call is `execute`.
"""

import asyncio
import os
import threading
import time
from contextvars import Token
from types import TracebackType
from typing import Any, Self

from custody.calls.backlog import Offer
from custody.calls.execute import current_call
from custody.calls.lifecycle import Judgement, describe, judge_result, outcome_of
from custody.calls.recording import OnError, OpenRun
from custody.errors import Denied
from custody.journal import Receipt
from custody.recorder import Draft, Keep
from custody.records import (
    CALL_ID_BYTES,
    CallFinished,
    CallStarted,
    Decision,
    Effect,
    Outcome,
    Request,
    now_us,
)

UNGUARDED = Decision("allow", "nobody", "run by its caller")


class ObservedCall:
    """One call that is run by whoever holds this. Use it as `with` or `async with`; or `open` and `close`.

    Set `result` before it ends. An exception inside is recorded, and goes on.
    """

    __slots__ = (
        "_agent", "_arguments", "_asked_at_us", "_closed", "_decision", "_dry_run", "_durable", "_effect",
        "_external_id", "_failure", "_guard", "_keep", "_parent_id", "_pid", "_record_us", "_reserved",
        "_run", "_started_ns", "_step_id", "_strict", "_token", "_tool", "cached", "call_id", "outcome",
        "passed", "position", "result", "stored",
    )  # fmt: skip

    def __init__(
        self,
        run: OpenRun,
        tool: str,
        arguments: Any,
        *,
        effect: Effect = "unknown",
        external_id: str | None = None,
        step_id: bytes | None = None,
        parent_id: bytes | None = None,
        durable: bool = False,
        on_error: OnError | None = None,
        dry_run: bool = False,
        agent: str | None = None,
        guard: bool = False,
    ) -> None:
        self._run = run
        self._tool = tool
        self._arguments = arguments
        self._effect: Effect = effect
        self._external_id = external_id
        self._step_id = step_id
        self._parent_id = parent_id
        self._dry_run = dry_run
        self._agent = agent
        self._guard = guard
        self._strict = guard or (on_error or run.on_error) == "raise"
        self._durable = durable or (guard and effect in run.recording.durable_before and not dry_run)
        self._decision = UNGUARDED
        self._failure: dict[str, Any] | None = None
        self._pid = os.getpid()
        self._closed = self._reserved = False
        self._token: Token[bytes | None] | None = None
        self._started_ns = self._asked_at_us = 0
        self._keep: Keep = "full"
        self._record_us: int | None = None
        self.call_id = b""
        self.position: int | None = None
        """In its run; None until it is known, and for a call that was refused."""
        self.stored: Receipt | Offer | None = None
        """Of the newest record: a receipt once it is written."""
        self.result: Any = None
        """What the tool gave; set it before the call ends."""
        self.passed: bool | None = None
        """What a verifier said of the work."""
        self.cached = False
        """The result came from a cache: nothing was executed, so there is no latency."""
        self.outcome: Outcome | None = None
        """How it ended; None while it runs."""

    @property
    def id(self) -> str:
        """16 hexadecimal digits: also the OpenTelemetry span id. Empty for a call that was not recorded."""
        return self.call_id.hex()

    def fail(self, message: str, *, type: str = "ToolError") -> None:
        """The call failed, though nothing is raised."""
        self._failure = {"type": type, "message": message}

    # -- with -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        self._token = current_call.set(self.call_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            current_call.reset(self._token)
        self.close(error)

    async def __aenter__(self) -> Self:
        if self._strict:
            await asyncio.to_thread(self.open)
        else:
            self._open()
            if self._durable:
                await self._run.recording.backlog.settle_durable(self.stored)
        self._token = current_call.set(self.call_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            current_call.reset(self._token)
        if self._strict:
            await asyncio.shield(asyncio.to_thread(self.close, error))
        else:
            self._close(error)
            if self._durable:
                await self._run.recording.backlog.settle_durable(self.stored)

    # -- the two records ------------------------------------------------------------------------------

    def open(self) -> Self:
        """Record that it starts. Raises Denied for a guarded call that may not happen, NotRecorded and
        RunClosed where `on_error` is `raise`; else nothing."""
        self._open()
        if self._durable:
            self._run.recording.backlog.wait_durable(self.stored, strict=self._strict)
        return self

    def close(self, error: BaseException | None = None) -> None:
        """Record how it ended; once. Raises NotRecorded where `on_error` is `raise`, else nothing."""
        self._close(error)
        if self._durable:
            self._run.recording.backlog.wait_durable(self.stored, strict=self._strict)

    def _open(self) -> None:
        run = self._run
        self._closed = True  # until its start has been offered there is nothing to end
        if not run.takes("call", self._tool, strict=self._strict):
            return
        try:
            self._record_start()
        except Exception as error:
            if self._strict:
                raise
            run.failed(error)

    def _record_start(self) -> None:
        run, recording = self._run, self._run.recording
        recorder = recording.recorder
        began_ns = time.monotonic_ns()
        self._asked_at_us = now_us()
        self.call_id = recorder.ids.take(CALL_ID_BYTES)
        if self._step_id is None:
            self._step_id = run.step_id()
        if self._parent_id is None:
            self._parent_id = current_call.get()
        self._keep = recording.keep(self._tool)
        run.tally.call_offered()
        if self._guard:
            self._decide()
        said = recorder.redact({"arguments": self._arguments}, self._keep)
        self._reserved = recording.set_aside()

        def draft_at(position: int | None) -> Draft:
            self.position = position
            return recorder.draft_of(
                said,
                CallStarted,
                call_id=self.call_id,
                at_us=self._asked_at_us,
                monotonic_ns=began_ns,
                request=self._request(),
            )

        self._closed = False
        self.stored = run.keep_numbered(
            draft_at, CallStarted, strict=self._strict, opens=self._reserved, dropped=self._start_dropped
        )
        self._started_ns = time.monotonic_ns()
        self._record_us = (self._started_ns - began_ns) // 1000

    def _decide(self) -> None:
        self._decision = self._run.recording.decide(self._tool, self._arguments)
        if self._decision.verdict != "allow":
            self._record_rejection()
            raise Denied(self._decision.reason, decision=self._decision, call_id=self.id)

    def _record_rejection(self) -> None:
        """One record says that it was asked and never ran."""
        recorder = self._run.recording.recorder
        said = recorder.redact({"arguments": self._arguments}, self._keep)

        def draft_at(position: int | None) -> Draft:
            self.position = position
            return recorder.draft_of(
                said,
                CallFinished,
                call_id=self.call_id,
                at_us=now_us(),
                outcome="rejected",
                request=self._request(),
                reason=self._decision.reason,
                source="observed",
            )

        self.outcome = "rejected"
        self.stored = self._run.keep_numbered(draft_at, CallFinished, strict=True)
        self._run.tally.call_ended("rejected")

    def _close(self, error: BaseException | None) -> None:
        # A forked child holds a copy of what its parent has begun, and will end.
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        try:
            self._record_end(error)
        except Exception as raised:
            if self._strict:
                raise
            self._run.failed(raised)

    def _record_end(self, error: BaseException | None) -> None:
        run, recorder = self._run, self._run.recording.recorder
        ended_ns = time.monotonic_ns()
        judgement = self._judge(error)
        self.outcome = judgement.outcome
        payload: dict[str, Any] = {"result": self.result}
        if judgement.error is not None:
            payload["error"] = judgement.error
        request = None
        if not self._start_is_written():  # then its end says what was asked, too
            request, payload["arguments"] = self._request(), self._arguments
        draft = recorder.draft(
            CallFinished,
            payload,
            keep=self._keep,
            call_id=self.call_id,
            at_us=now_us(),
            outcome=judgement.outcome,
            request=request,
            reason=judgement.reason,
            passed=self.passed,
            source="cache" if self.cached else "observed",
            monotonic_ns=ended_ns,
            latency_us=None if self.cached else (ended_ns - self._started_ns) // 1000,
            record_us=self._record_us,
        )
        run.tally.call_ended(judgement.outcome)
        self.stored = run.keep(draft, strict=self._strict, closes=self._reserved, dropped=self._end_dropped)
        if self._reserved:
            run.recording.give_back()

    def _judge(self, error: BaseException | None) -> Judgement:
        if error is None:
            if self._failure is not None:
                return Judgement("failed", self._failure["type"], self._failure)
            return judge_result(self.result)
        return Judgement(outcome_of(error), type(error).__name__, describe(error))

    def _start_is_written(self) -> bool:
        stored = self.stored
        if isinstance(stored, Offer):
            return stored.done.done() and stored.done.result() is not None
        return stored is not None

    def _start_dropped(self) -> bool:
        if self._reserved:
            self._reserved = False
            self._run.recording.give_back()
        return self._run.dropped()

    def _end_dropped(self) -> bool:
        """At its close the store will say that nobody knows how the call ended."""
        self._run.recording.unrecorded.add(self.call_id)
        return self._run.dropped()

    def _request(self) -> Request:
        run = self._run
        return Request(
            run_id=run.run_id,
            position=self.position,
            tool=self._tool,
            effect=self._effect,
            level="none",
            decision=self._decision,
            asked_at_us=self._asked_at_us,
            parent_id=self._parent_id,
            step_id=self._step_id,
            external_id=self._external_id,
            agent=self._agent,
            door=run.recording.door,
            dry_run=self._dry_run,
            pid=self._pid,
            thread_id=threading.get_native_id(),
        )
