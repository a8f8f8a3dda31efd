"""A call that its caller runs, put on the record as if Custody had run it.

Owns the two records of an observed call and what each is made of. Recording never disturbs the agent unless
the caller asks for that: whatever goes wrong in here is logged, counted, and the body of the `with` runs.
Used by `run`; the guarded way of a call is `execute`.
"""

import asyncio
import threading
import time
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import Any, Self

from custody.calls import process, stated
from custody.calls.asked import current_call
from custody.calls.backlog import Offer
from custody.calls.lifecycle import Judgement, describe, judge_result, outcome_of
from custody.calls.notices import Ending, tell_rejected
from custody.calls.recording import OnError, OpenRun, check_on_error
from custody.errors import Denied, NotRecorded
from custody.journal import Receipt
from custody.recorder import Draft, Keep
from custody.records import (
    CALL_ID_BYTES,
    CallFinished,
    CallStarted,
    Decision,
    Effect,
    Kind,
    Outcome,
    Request,
    now_us,
)

UNGUARDED = Decision("allow", "nobody", "run by its caller")


class ObservedCall:
    """One call that is run by whoever holds this. Use it as `with` or `async with`; or `open` and `close`.

    Set `result` before it ends. An exception inside is recorded, and goes on.
    """

    # Defaults stand here and not in `__init__`: what a call does not use costs it nothing.
    call_id = b""
    position: int | None = None
    """In its run; None until it is known, and for a call that was refused."""
    stored: Receipt | Offer | None = None
    """Of the newest record: a receipt once it is written."""
    result: Any = None
    """What the tool gave; set it before the call ends."""
    passed: bool | None = None
    """What a verifier said of the work."""
    cached = False
    """The result came from a cache: nothing was executed, so there is no latency."""
    outcome: Outcome | None = None
    """How it ended; None while it runs."""
    _decision = UNGUARDED
    _door: str | None = None
    """Through which it comes; None: the runtime's."""
    _may_start = False
    """The guards let it pass, and counted it."""
    _failure: dict[str, Any] | None = None
    _rejection: str | None = None
    _closed = False
    _reserved = False
    """Room for its end was set aside with its start."""
    _started: Receipt | Offer | None = None
    _token: Token[bytes | None] | None = None
    _started_ns = _asked_at_us = 0
    _ended_at_us = 0
    """When it ended, where that was told later; 0: now."""
    _keep: Keep = "full"
    _record_us: int | None = None

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
        self._tool = stated.name(tool) or ""
        self._arguments: Any = stated.arguments(arguments)
        self._effect: Effect = stated.effect(effect)
        self._external_id = None if external_id is None else stated.name(external_id)
        self._step_id = step_id
        self._parent_id = parent_id
        self._dry_run = bool(dry_run)
        self._agent = None if agent is None else stated.name(agent)
        self._guard = guard
        if on_error is not None:
            check_on_error(on_error)
        self._strict = guard or (on_error or run.on_error) == "raise"
        self._durable = durable or (guard and self._effect in run.recording.durable_before and not dry_run)
        self._pid = process.pid
        self._slot: list[None] = []
        """Its place among those that may have room set aside: whoever takes it out, of two threads, gives it
        back."""

    @property
    def id(self) -> str:
        """16 hexadecimal digits: also the OpenTelemetry span id. Empty for a call that was not recorded."""
        return self.call_id.hex()

    def fail(self, message: str, *, type: str = "ToolError") -> None:
        """The call failed, though nothing is raised."""
        self._failure = {"type": stated.name(type) or "ToolError", "message": message}

    def reject(self, reason: str, *, rule: str | None = None) -> None:
        """It never ran, as somebody said no. Of a call that was not opened this is the only record."""
        self._rejection = stated.name(reason) or ""
        if self.outcome is not None or self._closed or self._started is not None or self.call_id:
            return  # its end says so
        self._closed = True
        self._decision = Decision("deny", "rule", self._rejection, stated.name(rule))
        if not self._run.takes("call", self._tool, strict=self._strict):
            return
        try:
            self._name_it()
            self._record_rejection()
        except Exception as error:
            if self._strict:
                raise
            self._run.failed(Kind.CALL_FINISHED, error)

    # -- with -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        # As `open` and `_enter`, without the calls: this is the path every observed call takes.
        if self._durable:
            self.open()
        else:
            self._open()
        if self.call_id:
            self._token = current_call.set(self.call_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if self._durable:
            self.close(error)
        else:
            self._close(error)

    async def __aenter__(self) -> Self:
        await self.open_on_loop()
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if isinstance(error, GeneratorExit):  # its coroutine is closed, maybe as garbage: it cannot await
            self._close(error)
        else:
            await self.close_on_loop(error)

    def _enter(self) -> None:
        if self.call_id:
            self._token = current_call.set(self.call_id)

    def _leave(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                current_call.reset(token)
            except ValueError:
                pass  # entered in another context, which a generator or a fixture may do: it is over there

    async def _open_in_thread(self) -> None:
        """If the caller is cancelled meanwhile, the call is ended and recorded before it hears."""
        opening = asyncio.ensure_future(asyncio.to_thread(self.open))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError as error:
            while not opening.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({opening})
            if not opening.cancelled() and opening.exception() is None:
                await asyncio.shield(asyncio.to_thread(self._abandon, error))
            raise

    # -- the two records ------------------------------------------------------------------------------

    def open(self) -> Self:
        """Record that it starts. Raises Denied for a guarded call that may not happen, NotRecorded and
        RunClosed where `on_error` is `raise`; else nothing."""
        self._open()
        if self._durable:
            try:
                self._run.recording.backlog.wait_durable(self.stored, strict=self._strict)
            except BaseException as error:
                self._abandon(error)
                raise
        return self

    def close(self, error: BaseException | None = None) -> None:
        """Record how it ended; once. Raises NotRecorded where `on_error` is `raise`, else nothing."""
        if self._close(error) and self._durable:
            self._run.recording.backlog.wait_durable(self.stored, strict=self._strict)

    async def open_on_loop(self) -> Self:
        """`open` for a coroutine: what may have to wait, which is to decide and to count too, does so in a
        thread. Raises the same."""
        if self._strict:
            await self._open_in_thread()
            return self
        self._open()
        if self._durable:
            try:
                await self._run.recording.backlog.settle_durable(self.stored)
            except BaseException as error:
                self._abandon(error)
                raise
        return self

    async def close_on_loop(self, error: BaseException | None = None) -> None:
        """`close` for a coroutine. Raises the same."""
        if self._strict:
            await asyncio.shield(asyncio.to_thread(self.close, error))
        elif self._close(error) and self._durable:
            await self._run.recording.backlog.settle_durable(self.stored)

    def _abandon(self, error: BaseException) -> None:
        """Its start is on the record, and what it was to start will not run."""
        if isinstance(error, NotRecorded):
            self._rejection = "its start could not be made durable"
        with suppress(Exception):
            self._close(error)

    def _open(self) -> None:
        run = self._run
        if self.call_id or self._closed:
            return  # opened before
        self._closed = True  # until its start has been offered there is nothing to end
        self._pid = process.pid
        if not run.takes("call", self._tool, strict=self._strict):
            return
        try:
            self._record_start()
        except Exception as error:
            if self._strict:
                raise
            run.failed(Kind.CALL_STARTED, error)
        finally:
            if self._may_start and self._started is None:
                run.recording.guards.release(self.call_id)

    def _name_it(self) -> None:
        run, recording = self._run, self._run.recording
        self._asked_at_us = now_us()
        self.call_id = recording.recorder.ids.take(CALL_ID_BYTES)
        if self._step_id is None:
            self._step_id = run.step_id()
        if self._parent_id is None:
            self._parent_id = current_call.get()
        self._keep = recording.keep(self._tool)
        run.tally.call_offered()

    def _record_start(self) -> None:
        run, recording = self._run, self._run.recording
        recorder = recording.recorder
        began_ns = time.monotonic_ns()
        self._name_it()
        if self._guard:
            self._decide()
            self._may_start = True
        said = recorder.redact({"arguments": self._arguments}, self._keep)
        if recording.set_aside():
            self._reserved = True
            self._slot.append(None)

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

        recording.open_calls.add(self.call_id)
        try:
            self.stored = self._started = run.keep_numbered(
                draft_at, CallStarted, strict=self._strict, opens=self._reserved, dropped=self._start_dropped
            )
        except BaseException:
            run.tally.call_withdrawn()
            self._give_back()
            recording.open_calls.discard(self.call_id)
            raise
        self._closed = False
        if recording.notices is not None:
            recording.notices.started(self.call_id, self._tool, self._asked_at_us)
        self._started_ns = time.monotonic_ns()
        self._record_us = (self._started_ns - began_ns) // 1000

    def _decide(self) -> None:
        self._decision = self._run.recording.decide(
            self._tool,
            self._arguments,
            run=self._run,
            call_id=self.call_id,
            effect=self._effect,
            agent=self._agent,
            door=self._door,
            dry_run=self._dry_run,
        )
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
        self._run.tally.call_ended("rejected")
        try:
            self.stored = self._run.keep_numbered(draft_at, CallFinished, strict=self._strict)
        except BaseException:
            self._run.tally.call_withdrawn("rejected")
            raise
        tell_rejected(self._run.recording.notices, self.call_id, self._tool, self._asked_at_us, now_us())
        self._arguments = None

    def _close(self, error: BaseException | None) -> bool:
        """Whether there was something to end."""
        # A forked child holds a copy of what its parent has begun, and will end.
        if self._closed or self._pid != process.pid:
            return False
        self._closed = True
        try:
            self._record_end(error)
        except Exception as raised:
            self._mark_unrecorded()
            if self._strict:
                raise
            self._run.failed(Kind.CALL_FINISHED, raised)
        finally:
            self._give_back()
            self._run.recording.open_calls.discard(self.call_id)
            self._arguments = None
        return True

    def _record_end(self, error: BaseException | None) -> None:
        run, recorder = self._run, self._run.recording.recorder
        ended_ns, ended_at_us = time.monotonic_ns(), self._ended_at_us or now_us()
        judgement = self._judge(error)
        self.outcome = judgement.outcome
        run.tally.call_ended(judgement.outcome)
        payload: dict[str, Any] = {"result": self.result}
        if judgement.error is not None:
            payload["error"] = judgement.error
        request = None
        if not self._start_is_written():  # then its end says what was asked, too
            request, payload["arguments"] = self._request(), self._arguments
        executed = not self.cached and judgement.outcome != "rejected"
        latency_us = (ended_ns - self._started_ns) // 1000 if executed else None
        notices = run.recording.notices
        if notices is not None:
            kind = None if judgement.error is None else judgement.error.get("type")
            notices.ended(Ending(self.call_id, self._tool, ended_at_us, judgement.outcome, latency_us, kind))
        draft = recorder.draft(
            CallFinished,
            payload,
            keep=self._keep,
            call_id=self.call_id,
            at_us=ended_at_us,
            outcome=judgement.outcome,
            request=request,
            reason=judgement.reason,
            passed=judgement.passed if self.passed is None else stated.truth(self.passed),
            source="cache" if self.cached else "observed",
            monotonic_ns=ended_ns,
            latency_us=latency_us,
            record_us=self._record_us,
        )
        self.stored = run.keep(
            draft, strict=self._strict, closes=self._is_reserved, dropped=self._end_dropped
        )

    def _judge(self, error: BaseException | None) -> Judgement:
        if self._rejection is not None:
            return Judgement("rejected", self._rejection)
        if error is not None and (outcome := outcome_of(error)) != "succeeded":
            return Judgement(outcome, type(error).__name__, describe(error))
        if self._failure is not None:
            return Judgement("failed", self._failure["type"], self._failure)
        try:
            return judge_result(self.result)
        except Exception:  # what a result says of itself is asked with its own code
            return Judgement("succeeded")

    def _start_is_written(self) -> bool:
        started = self._started
        if isinstance(started, Offer):
            return started.receipt is not None
        return started is not None

    # -- what becomes of them: also called by the thread that works off a queue -----------------------

    def _is_reserved(self) -> bool:
        return self._reserved

    def _give_back(self) -> None:
        try:
            self._slot.pop()
        except IndexError:
            return
        self._run.recording.give_back()

    def _start_dropped(self) -> bool:
        self._reserved = False
        self._give_back()
        self._run.recording.open_calls.discard(self.call_id)
        return self._run.dropped()

    def _end_dropped(self) -> bool:
        self._mark_unrecorded()
        return self._run.dropped()

    def _mark_unrecorded(self) -> None:
        """Where its start is on the record, the store will say at its close that nobody knows its end."""
        if self._start_is_written():
            self._run.recording.unrecorded.add(self.call_id)

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
