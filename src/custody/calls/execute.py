"""The way of a call: decide, record that it starts, run it, record how it ended.

This is the one place where a tool is run. Read `execute` first: it is the list of steps. What each step
may say lives elsewhere: `guards` (may it happen), `lifecycle` (what an end means), `ledger` (records).
"""

import threading
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec
from msgspec import Struct

from custody.calls import process
from custody.calls.guards import ALLOWED, Guard, Proposal, decide
from custody.calls.ledger import Ledger
from custody.calls.lifecycle import Judgement, State, advance, judge
from custody.calls.notices import Ending, Notices, tell_rejected
from custody.calls.numbering import Numbering
from custody.calls.samples import Sampled, Samples
from custody.errors import NotRecorded, OutcomeUnknown
from custody.journal import Receipt
from custody.recorder import Draft, Keep, Recorder
from custody.records import (
    Call,
    CallFinished,
    CallStarted,
    Effect,
    Kind,
    Request,
    changes_said,
    now_us,
    rfc3339,
)
from custody.tools import Context, Ended, Origin, Scope, Tool

current_call: ContextVar[bytes | None] = ContextVar("custody_current_call", default=None)
"""The call in which this code runs: the parent of calls it makes."""


@contextmanager
def inside(call_id: bytes | None) -> Generator[None]:
    """What is recorded here was made in this call; None: in the one that it is made in anyway."""
    if call_id is None:
        yield
        return
    token = current_call.set(call_id)
    try:
        yield
    finally:
        current_call.reset(token)


class Who(Struct, frozen=True, kw_only=True):
    """On whose behalf, and in which surroundings, a call is made."""

    session_id: str | None = None
    agent: str | None = None
    caller: str | None = None
    workspace: str | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """A call as a door hands it over: what is asked, by whom, and where it belongs."""

    call_id: bytes
    tool: Tool | None
    name: str
    arguments: Mapping[str, Any]
    scope: Scope
    timeout_seconds: float | None
    dry_run: bool
    numbering: Numbering | None
    """None: a call outside a run."""
    stated: Who
    """What the record says of who asks; None where the run's record says it."""
    who: Who
    """The same with the run's words filled in."""
    external_id: str | None
    origin: Origin
    door: str
    keep: Keep
    as_recorded: bool
    """Whether the caller gets arguments, result and error as the record has them, or as they were."""


class Machinery(Struct, frozen=True, kw_only=True):
    """What a runtime brings to each call."""

    ledger: Ledger
    samples: Samples
    guards: tuple[Guard, ...]
    slots: AbstractAsyncContextManager[Any]
    """Bounds how many calls run at once."""
    durable_before: frozenset[Effect]
    """Effects whose *started* must be durable before anything runs."""
    unrecorded: set[bytes]
    """Calls that ran and whose end could not be recorded; the runtime tries again when it closes."""
    unfinished: list[Draft]
    """Ends that are known and could not be recorded; tried again at the close, and at the next open."""
    notices: Notices | None = None
    """Who is told of each call beside the record."""


class _Progress:
    """What is known of one call so far. Its records are immutable; this is not a record."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.state: State = "new"
        self.at_us = now_us()
        self.decision = ALLOWED
        self.position: int | None = None
        self.queue_us: int | None = None
        self.decide_us: int | None = None
        self.record_us: int | None = None
        self.host_before = Sampled()
        self.host_after = Sampled()
        self.redactions: tuple[Any, ...] = ()
        self.receipt: Receipt | None = None
        self.started_at_us: int | None = None
        self.started_ns: int | None = None
        self.asked_for: Any = asked.arguments
        """The arguments as the caller gets them back."""
        self.withheld: tuple[str, ...] | None = None
        self.cwd: str | None = None
        self.parent_id, self.thread_id = current_call.get(), threading.get_native_id()
        """Of whoever asks: the first record may be made in another thread."""
        self.request: Request | None = None
        """As it stands in the first record."""

    def request_at(self, position: int | None) -> Request:
        asked = self.asked
        self.request = Request(
            run_id=None if asked.numbering is None else asked.numbering.run_id,
            position=position,
            tool=asked.name,
            effect="unknown" if asked.tool is None else asked.tool.effect,
            level="none" if asked.tool is None else asked.tool.level,
            decision=self.decision,
            asked_at_us=self.at_us,
            session_id=asked.stated.session_id,
            parent_id=self.parent_id,
            external_id=asked.external_id,
            agent=asked.stated.agent,
            caller=asked.stated.caller,
            door=asked.door,
            dry_run=asked.dry_run,
            pid=process.pid,
            thread_id=self.thread_id,
            workspace=asked.stated.workspace,
            decide_us=self.decide_us,
            proposal_id=asked.origin.proposal_id,
            action_id=asked.origin.action_id,
            attempt=asked.origin.attempt,
            connection=asked.origin.connection,
        )
        return self.request


async def execute(asked: Asked, context: Context, machinery: Machinery) -> Call:
    """Take one call all the way and return it, whatever its outcome.

    Raises NotRecorded when nothing could be recorded (then nothing ran) and OutcomeUnknown when the call
    ran but its end could not be recorded.
    """
    progress = _Progress(asked)
    arrived_ns = time.monotonic_ns()
    async with machinery.slots:
        progress.queue_us = (time.monotonic_ns() - arrived_ns) // 1000
        await _decide(progress, context, machinery)
        if progress.decision.verdict != "allow":
            return await _reject(progress, machinery)
        await _record_start(progress, context, machinery)
        if machinery.notices is not None:
            machinery.notices.started(asked.call_id, asked.name, progress.started_at_us or progress.at_us)
        ended = await _run(asked, context)
        return await _record_end(progress, ended, machinery)


async def _decide(progress: _Progress, context: Context, machinery: Machinery) -> None:
    asked = progress.asked
    progress.host_before = await machinery.samples.newest()
    began_ns = time.monotonic_ns()
    progress.decision = decide(
        Proposal(
            name=asked.name,
            tool=asked.tool,
            arguments=asked.arguments,
            scope=asked.scope,
            host=progress.host_before.sample,
            asker=context.asker,
            tools=asked.origin.tools,
        ),
        (*machinery.guards, *asked.origin.guards),
    )
    progress.decide_us = (time.monotonic_ns() - began_ns) // 1000


async def _reject(progress: _Progress, machinery: Machinery) -> Call:
    """One record says that it was asked and never ran."""
    ledger = machinery.ledger
    progress.state = advance(progress.state, Kind.CALL_FINISHED)
    finished_at_us = now_us()
    said = ledger.recorder.redact({"arguments": progress.asked.arguments}, progress.asked.keep)

    def draft_at(position: int | None) -> Draft:
        return ledger.recorder.draft_of(
            said,
            CallFinished,
            call_id=progress.asked.call_id,
            at_us=finished_at_us,
            outcome="rejected",
            request=progress.request_at(position),
            reason=progress.decision.reason,
        )

    drafts: list[Draft] = []
    progress.position, progress.receipt = await ledger.append_first(
        progress.asked.numbering,
        lambda position: drafts.append(draft_at(position)) or drafts[-1],
        opens=False,
    )
    _note(progress, drafts[-1])
    asked = progress.asked
    tell_rejected(machinery.notices, asked.call_id, asked.name, progress.at_us, finished_at_us)
    judgement = Judgement("rejected", progress.decision.reason)
    call = _as_call(progress, judgement, None, finished_at_us=finished_at_us)
    return _in_recorded_words(call, ledger.recorder)


async def _record_start(progress: _Progress, context: Context, machinery: Machinery) -> None:
    """No record, no act: this raises before anything runs."""
    ledger = machinery.ledger
    asked = progress.asked
    assert asked.tool is not None, "only a known tool is allowed"
    progress.state = advance(progress.state, Kind.CALL_STARTED)
    payload: dict[str, Any] = {"arguments": asked.arguments}
    if asked.tool.level != "none":
        payload["cwd"] = progress.cwd = _working_directory(asked)
        progress.withheld = context.inherited[1] or None
        if progress.withheld:
            payload["environment_withheld"] = progress.withheld
    began_ns = time.monotonic_ns()
    progress.started_at_us, progress.started_ns = now_us(), began_ns
    drafts: list[Draft] = []
    said = ledger.recorder.redact(payload, progress.asked.keep)

    def draft_at(position: int | None) -> Draft:
        drafts.append(
            ledger.recorder.draft_of(
                said,
                CallStarted,
                call_id=asked.call_id,
                at_us=progress.started_at_us,
                monotonic_ns=began_ns,
                request=progress.request_at(position),
                queue_us=progress.queue_us,
                host_before=progress.host_before.event_id,
            )
        )
        return drafts[-1]

    progress.position, progress.receipt = await ledger.append_first(asked.numbering, draft_at, opens=True)
    _note(progress, drafts[-1])
    if asked.tool.effect in machinery.durable_before and not asked.dry_run:
        await _make_durable(progress, machinery)
    progress.record_us = (time.monotonic_ns() - began_ns) // 1000


async def _make_durable(progress: _Progress, machinery: Machinery) -> None:
    """Wait for the disk. Where that fails nothing runs, and the record says so as soon as it can."""
    assert progress.receipt is not None, "it was appended before"
    try:
        await progress.receipt.durable()
    except NotRecorded:
        draft = machinery.ledger.recorder.draft(
            CallFinished,
            {},
            call_id=progress.asked.call_id,
            at_us=now_us(),
            outcome="rejected",
            reason="its start could not be made durable",
        )
        try:
            await machinery.ledger.append(draft, closes=True)
        except NotRecorded:
            machinery.unfinished.append(draft)
        raise


def _note(progress: _Progress, first: Draft) -> None:
    """Keep what the first record made of the request."""
    progress.redactions = first.redactions
    if progress.asked.as_recorded:
        progress.asked_for = first.said().get("arguments")


async def _run(asked: Asked, context: Context) -> Ended:
    """Run the tool. Nothing a tool does gets past here as an exception."""
    assert asked.tool is not None, "only a known tool is allowed"
    began_ns = time.monotonic_ns()
    try:
        with inside(asked.call_id):
            return await asked.tool.execute(asked.arguments, context)
    except Exception as error:
        return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), error=error)


async def _record_end(progress: _Progress, ended: Ended, machinery: Machinery) -> Call:
    progress.state = advance(progress.state, Kind.CALL_FINISHED)
    ledger = machinery.ledger
    judgement = judge(ended, progress.asked.timeout_seconds)
    progress.host_after = await machinery.samples.newest()
    finished_at_us = now_us()
    payload: dict[str, Any] = {"result": ended.result if ended.recorded is None else ended.recorded}
    if judgement.error is not None:
        payload["error"] = judgement.error
    if ended.changes is not None:
        payload["changes"] = changes_said(ended.changes)

    def draft(keep: Keep) -> Draft:
        return ledger.recorder.draft(
            CallFinished,
            payload,
            keep=keep,
            call_id=progress.asked.call_id,
            at_us=finished_at_us,
            outcome=judgement.outcome,
            reason=judgement.reason,
            passed=judgement.passed,
            monotonic_ns=ended.ended_ns,
            latency_us=_latency_us(ended),
            record_us=progress.record_us,
            exit_code=ended.exit_code,
            signal=ended.signal,
            limit_hit=ended.limit_hit,
            source=ended.source,
            usage=ended.usage,
            child_pid=ended.child_pid,
            child_start_ticks=ended.child_start_ticks,
            changes=None if ended.changes is None else len(ended.changes),
            host_after=progress.host_after.event_id,
        )

    try:
        finished = await ledger.append_terminal(draft(progress.asked.keep), lambda: draft("none"))
    except NotRecorded as error:
        machinery.unrecorded.add(progress.asked.call_id)
        _tell_end(progress, Judgement("unknown"), ended, machinery.notices)
        raise OutcomeUnknown(
            "The call ran, but its end could not be recorded; its result is withheld.",
            hint="Free space in the store; the call is shown as unknown.",
            call_id=progress.asked.call_id.hex(),
        ) from error
    _tell_end(progress, judgement, ended, machinery.notices)
    progress.redactions += finished.redactions
    if progress.asked.as_recorded:
        said = finished.said()
        if ended.recorded is None:
            ended = msgspec.structs.replace(ended, result=said.get("result"))
        judgement = msgspec.structs.replace(judgement, error=said.get("error"))
    call = _as_call(progress, judgement, ended, finished_at_us=finished_at_us)
    if call.outcome == "succeeded" and not progress.asked.as_recorded:
        return call
    return _in_recorded_words(call, ledger.recorder)


_WORDS = (
    "tool", "session_id", "external_id", "agent", "caller", "workspace", "cwd", "reason", "proposal_id",
    "action_id",
)  # fmt: skip


def _in_recorded_words(call: Call, recorder: Recorder) -> Call:
    """What is said of a call beside its arguments, result and error may repeat them: as the record has it."""
    words = {name: said for name in _WORDS if isinstance(said := getattr(call, name), str)}
    clean: dict[str, Any] = {name: recorder.clean_text(said, name)[0] for name, said in words.items()}
    reason, _ = recorder.clean_text(call.decision.reason, "decision")
    return msgspec.structs.replace(
        call, decision=msgspec.structs.replace(call.decision, reason=reason), **clean
    )


def _tell_end(progress: _Progress, judgement: Judgement, ended: Ended, notices: Notices | None) -> None:
    if notices is None:
        return
    notices.ended(
        Ending(
            progress.asked.call_id,
            progress.asked.name,
            now_us(),
            judgement.outcome,
            None if judgement.outcome == "unknown" else _latency_us(ended),
            None if judgement.error is None else judgement.error.get("type"),
            ended.child_pid,
        )
    )


def unknown_end(recorder: Recorder, call_id: bytes) -> Draft:
    """The terminal record of a call that ran and whose end could not be recorded when it was known."""
    return recorder.draft(
        CallFinished,
        {},
        call_id=call_id,
        at_us=now_us(),
        outcome="unknown",
        reason="its end could not be recorded",
    )


def _working_directory(asked: Asked) -> str:
    named = asked.arguments.get("cwd")
    return asked.scope.at(named if isinstance(named, str) else None).cwd


def _latency_us(ended: Ended) -> int:
    return max(0, ended.ended_ns - ended.started_ns) // 1000


def _as_call(
    progress: _Progress,
    judgement: Judgement,
    ended: Ended | None,
    *,
    finished_at_us: int,
) -> Call:
    """The call as its caller gets it: the result as the tool gave it, the rest as recorded."""
    asked, request, receipt = progress.asked, progress.request, progress.receipt
    assert request is not None and receipt is not None, "a call is returned only once it is on the record"
    changes = None if ended is None else ended.changes
    return Call(
        id=asked.call_id.hex(),
        run_id=None if request.run_id is None else request.run_id.hex(),
        session_id=asked.who.session_id,
        position=progress.position,
        parent_id=None if request.parent_id is None else request.parent_id.hex(),
        step_id=None,
        external_id=asked.external_id,
        agent=asked.who.agent,
        caller=asked.who.caller,
        tool=asked.name,
        effect=request.effect,
        level=request.level,
        arguments=progress.asked_for,
        dry_run=asked.dry_run,
        source="executed" if ended is None else ended.source,
        decision=progress.decision,
        outcome=judgement.outcome,
        reason=judgement.reason,
        passed=judgement.passed,
        result=None if ended is None else ended.result,
        error=judgement.error,
        exit_code=None if ended is None else ended.exit_code,
        signal=None if ended is None else ended.signal,
        limit_hit=None if ended is None else ended.limit_hit,
        started_at=None if progress.started_at_us is None else rfc3339(progress.started_at_us),
        finished_at=rfc3339(finished_at_us),
        asked_at=rfc3339(progress.at_us),
        monotonic_start_ns=progress.started_ns,
        monotonic_end_ns=None if ended is None else ended.ended_ns,
        latency_us=None if ended is None else _latency_us(ended),
        queue_us=None if progress.started_at_us is None else progress.queue_us,
        decide_us=progress.decide_us,
        record_us=progress.record_us,
        usage=None if ended is None else ended.usage,
        host_before=progress.host_before.data if ended is not None else None,
        host_after=progress.host_after.data,
        changes=changes,
        changes_count=None if changes is None else len(changes),
        redactions=progress.redactions,
        cwd=progress.cwd,
        environment_withheld=progress.withheld,
        door=asked.door,
        workspace=asked.who.workspace,
        pid=request.pid,
        thread_id=request.thread_id,
        child_pid=None if ended is None else ended.child_pid,
        child_start_ticks=None if ended is None else ended.child_start_ticks,
        proposal_id=request.proposal_id,
        action_id=request.action_id,
        attempt=request.attempt,
        connection=request.connection,
        prompt=None,
        shard=receipt.shard,
        sequence=receipt.sequence,
    )
