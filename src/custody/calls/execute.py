"""The way of a call: decide, record that it starts, run it, record how it ended.

This is the one place where a tool is run. Read `execute` first: it is the list of steps. What each step
may say lives elsewhere: `guards` (may it happen), `lifecycle` (what an end means), `ledger` (records).
"""

import asyncio
import time
from contextlib import suppress
from typing import Any

import msgspec

from custody.calls.asked import Asked, inside
from custody.calls.guards import Proposal, decide
from custody.calls.lifecycle import Judgement, advance, judge
from custody.calls.machinery import Machinery, append_end, append_first, tell_connections, tell_noted
from custody.calls.notices import Ending, Notices, tell_rejected
from custody.calls.progress import Progress, as_call, in_recorded_words, latency_us, working_directory
from custody.calls.walled import said_of_walls
from custody.errors import NotRecorded, OutcomeUnknown
from custody.recorder import Draft, Keep, Recorder
from custody.records import (
    Call,
    CallFinished,
    CallStarted,
    Decision,
    Kind,
    changes_said,
    now_us,
)
from custody.tools import Context, Ended


async def execute(asked: Asked, context: Context, machinery: Machinery) -> Call:
    """Take one call all the way and return it, whatever its outcome.

    Raises NotRecorded when nothing could be recorded (then nothing ran) and OutcomeUnknown when the call
    ran but its end could not be recorded.
    """
    progress = Progress(asked)
    arrived_ns = time.monotonic_ns()
    async with machinery.slots:
        progress.queue_us = (time.monotonic_ns() - arrived_ns) // 1000
        await _decide(progress, context, machinery)
        if progress.decision.verdict == "allow":
            return await _carry_out(progress, context, machinery)
    if progress.decision.verdict == "ask":
        from custody.calls.asking import ask  # most calls are asked of nobody

        # Without a place: others go on while a person thinks.
        answered = progress.decision = await ask(progress, context, machinery)
        if answered.verdict == "allow":
            context.begin_deadline()  # how long a person thinks is not the call's time
            async with machinery.slots:
                return await _go_on(progress, context, machinery)
    return await _reject(progress, machinery)


async def _go_on(progress: Progress, context: Context, machinery: Machinery) -> Call:
    """A person said yes, and may have thought for long: whatever says no by now says it, and only a call that
    passes uses the answer up."""
    from custody.calls.asking import use

    answered = progress.decision
    await _decide(progress, context, machinery, answered=True)
    if progress.decision.verdict == "deny":
        return await _reject(progress, machinery)
    try:
        refused = await use(progress, answered, machinery)
    except BaseException:
        await _withdraw(progress, "that its answer was used could not be recorded", machinery)
        raise
    progress.decision = refused or answered
    if refused is not None:
        return await _reject(progress, machinery)
    if progress.openings:
        context.open(progress.openings)
    if progress.difference is not None:
        context.agreed = bytes.fromhex(progress.difference.digest)
    return await _carry_out(progress, context, machinery)


async def _carry_out(progress: Progress, context: Context, machinery: Machinery) -> Call:
    """What nobody objects to: recorded, run, recorded."""
    asked, missing = progress.asked, "recorded"
    try:
        await _record_start(progress, context, machinery)
        missing = "made durable"
        await _make_durable(progress, machinery)
    except BaseException:
        await _withdraw(progress, f"its start could not be {missing}", machinery)
        raise
    if machinery.notices is not None:
        machinery.notices.started(asked.call_id, asked.name, progress.started_at_us or progress.at_us)
    ended = await _run(asked, context)
    return await _record_end(progress, ended, machinery)


async def _decide(
    progress: Progress, context: Context, machinery: Machinery, *, answered: bool = False
) -> None:
    progress.host_before = await machinery.samples.newest()
    began_ns = time.monotonic_ns()
    proposal = _proposal(progress, context, machinery)
    progress.decision = await _guarded(progress, proposal, machinery, answered=answered)
    passes = answered and progress.decision.verdict == "ask"
    if not passes and await _paused(progress.decision, machinery):
        proposal = msgspec.structs.replace(proposal, paused=True)
        progress.decision = await _guarded(progress, proposal, machinery, answered=answered)
    progress.noted, progress.openings = proposal.noted, tuple(proposal.openings)
    if progress.decision.verdict == "allow" and progress.openings:
        context.open(progress.openings)
    if progress.decision.verdict != "deny":
        await _wall_in(progress, context, proposal, machinery)
    progress.decide_us = (time.monotonic_ns() - began_ns) // 1000


async def _wall_in(progress: Progress, context: Context, proposal: Proposal, machinery: Machinery) -> None:
    """What holds its command: what was wished for, and what rules demand, which may be a refusal."""
    asked = progress.asked
    held = await machinery.walled.demanded(asked.wish, proposal.walls, asked.tool)
    if isinstance(held, Decision):
        progress.decision = held
    else:
        progress.confinement = context.confinement = held
        context.private = machinery.walled.entered(held, context.run_id)


async def _guarded(
    progress: Progress, proposal: Proposal, machinery: Machinery, *, answered: bool
) -> Decision:
    guards = (*machinery.guards, *progress.asked.origin.guards)
    limits = machinery.deciding.limits(proposal.policy)
    if limits is None:
        return decide(proposal, guards)
    from custody.calls.admitting import decide_and_take

    return await decide_and_take(progress, proposal, guards, machinery, limits, answered=answered)


async def _paused(decision: Decision, machinery: Machinery) -> bool:
    """Whether a person has paused the rules that say no, or ask."""
    if decision.verdict == "allow" or decision.policy is None:
        return False
    return await asyncio.to_thread(machinery.deciding.pauses.active) is not None


def _proposal(progress: Progress, context: Context, machinery: Machinery) -> Proposal:
    asked, asker = progress.asked, context.asker
    return Proposal(
        name=asked.name,
        tool=asked.tool,
        arguments=asked.arguments,
        scope=asked.scope,
        host=progress.host_before.sample,
        policy=machinery.policy(),
        effect="unknown" if asked.tool is None else asked.tool.effect,
        agent=asked.who.agent,
        run={} if asker.run_id is None else {"id": asker.run_id},
        asker=asker,
        tools=asked.origin.tools,
        state=asked.origin.state,
        dry_run=asked.dry_run,
    )


async def _give_back(progress: Progress, machinery: Machinery) -> None:
    """What was counted of a call that does not start."""
    if progress.taken:
        from custody.calls.admitting import give_back

        await give_back(progress, machinery)


async def _withdraw(progress: Progress, reason: str, machinery: Machinery) -> None:
    """It does not start, as the record of that failed: what there is of it on the record is closed, as soon
    as that can be."""
    await _give_back(progress, machinery)
    if progress.receipt is None:
        return
    draft = machinery.ledger.recorder.draft(
        CallFinished,
        {},
        call_id=progress.asked.call_id,
        at_us=now_us(),
        outcome="rejected",
        reason=reason,
    )
    with suppress(NotRecorded):
        await append_end(draft, machinery)


async def _reject(progress: Progress, machinery: Machinery) -> Call:
    """It was asked for and never ran: one record, unless a person was asked, whose record it then closes."""
    await _give_back(progress, machinery)
    asked, recorder = progress.asked, machinery.ledger.recorder
    questioned = progress.state != "new"
    progress.state = advance(progress.state, Kind.CALL_FINISHED)
    finished_at_us = now_us()
    said = recorder.redact({} if questioned else {"arguments": asked.arguments}, asked.keep)

    def draft_at(position: int | None) -> Draft:
        return recorder.draft_of(
            said,
            CallFinished,
            call_id=asked.call_id,
            at_us=finished_at_us,
            outcome="rejected",
            request=None if questioned else progress.request_at(position),
            reason=progress.decision.reason,
            decision=progress.decision if questioned else None,
        )

    if questioned:
        await append_end(draft_at(progress.position), machinery)
    else:
        await append_first(progress, draft_at, machinery, opens=False)
    await tell_noted(progress, machinery)
    tell_rejected(machinery.notices, asked.call_id, asked.name, progress.at_us, finished_at_us)
    judgement = Judgement("rejected", progress.decision.reason)
    call = as_call(progress, judgement, None, finished_at_us=finished_at_us)
    return in_recorded_words(call, recorder)


async def _record_start(progress: Progress, context: Context, machinery: Machinery) -> None:
    """No record, no act: this raises before anything runs."""
    ledger = machinery.ledger
    asked = progress.asked
    assert asked.tool is not None, "only a known tool is allowed"
    questioned = progress.state != "new"
    progress.state = advance(progress.state, Kind.CALL_STARTED)
    payload: dict[str, Any] = {} if questioned else {"arguments": asked.arguments}
    if asked.tool.level != "none":
        payload["cwd"] = progress.cwd = working_directory(asked)
        progress.withheld = context.inherited[1] or None
        if progress.withheld:
            payload["environment_withheld"] = progress.withheld
        if progress.confinement is not None and progress.confinement.sandbox is not None:
            payload["sandbox"] = said_of_walls(progress.confinement.sandbox, asked.scope.roots)
    began_ns = time.monotonic_ns()
    progress.started_at_us, progress.started_ns = now_us(), began_ns
    said = ledger.recorder.redact(payload, progress.asked.keep)

    def draft_at(position: int | None) -> Draft:
        return ledger.recorder.draft_of(
            said,
            CallStarted,
            call_id=asked.call_id,
            at_us=progress.started_at_us,
            monotonic_ns=began_ns,
            request=None if questioned else progress.request_at(position),
            queue_us=progress.queue_us,
            host_before=progress.host_before.event_id,
        )

    if questioned:
        progress.receipt = await ledger.append(draft_at(progress.position))
    else:
        await append_first(progress, draft_at, machinery, opens=True)
    await tell_noted(progress, machinery)
    if progress.soft:
        from custody.calls.admitting import tell_soft

        await tell_soft(progress, machinery)


async def _make_durable(progress: Progress, machinery: Machinery) -> None:
    """Wait for the disk, where the call's effect asks for that. Raises NotRecorded."""
    asked, receipt, began_ns = progress.asked, progress.receipt, progress.started_ns
    assert asked.tool is not None and receipt is not None and began_ns is not None, "it was appended before"
    if asked.tool.effect in machinery.durable_before and not asked.dry_run:
        await receipt.durable()
    progress.record_us = (time.monotonic_ns() - began_ns) // 1000


async def _run(asked: Asked, context: Context) -> Ended:
    """Run the tool. Nothing a tool does gets past here as an exception."""
    assert asked.tool is not None, "only a known tool is allowed"
    began_ns = time.monotonic_ns()
    try:
        with inside(asked.call_id):
            return await asked.tool.execute(asked.arguments, context)
    except Exception as error:
        return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), error=error)


async def _record_end(progress: Progress, ended: Ended, machinery: Machinery) -> Call:
    progress.state = advance(progress.state, Kind.CALL_FINISHED)
    ledger = machinery.ledger
    judgement = judge(ended, progress.asked.timeout_seconds)
    if ended.connections:
        with suppress(NotRecorded):  # how it ended matters more, and says whether that can be recorded
            await tell_connections(progress, ended, machinery)
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
            latency_us=latency_us(ended),
            record_us=progress.record_us,
            exit_code=ended.exit_code,
            signal=ended.signal,
            limit_hit=ended.limit_hit,
            source=ended.source,
            usage=ended.usage,
            child_pid=ended.child_pid,
            child_start_ticks=ended.child_start_ticks,
            changes=None if ended.changes is None else len(ended.changes),
            held=ended.held,
            held_digest=ended.held_digest,
            settles=None if ended.settles is None else bytes.fromhex(ended.settles[0]),
            settled=None if ended.settles is None else ended.settles[1],
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
    call = as_call(progress, judgement, ended, finished_at_us=finished_at_us)
    if call.outcome == "succeeded" and not progress.asked.as_recorded:
        return call
    return in_recorded_words(call, ledger.recorder)


def _tell_end(progress: Progress, judgement: Judgement, ended: Ended, notices: Notices | None) -> None:
    if notices is None:
        return
    notices.ended(
        Ending(
            progress.asked.call_id,
            progress.asked.name,
            now_us(),
            judgement.outcome,
            None if judgement.outcome == "unknown" else latency_us(ended),
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
