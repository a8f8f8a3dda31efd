"""One call on its way: what is known of it so far, and the call its caller gets in the end.

Owns what the first record repeats of a request. Decides nothing and records nothing. Used by `execute`.
"""

import threading
from typing import TYPE_CHECKING, Any

import msgspec

from custody.calls import process
from custody.calls.asked import Asked, current_call
from custody.calls.guards import ALLOWED
from custody.calls.lifecycle import Judgement, State
from custody.calls.samples import Sampled
from custody.journal import Receipt
from custody.policy import Matched
from custody.recorder import Recorder
from custody.records import Call, Level, Request, now_us, rfc3339
from custody.tools import Ended
from custody.tools.tool import Difference

if TYPE_CHECKING:
    from custody.calls.admission import SoftCrossed
    from custody.calls.questions import Answer
    from custody.files import Opening


class Progress:
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
        self.confinement = asked.wish
        """What holds its command, with what rules demand."""
        self.parent_id, self.thread_id = current_call.get(), threading.get_native_id()
        """Of whoever asks: the first record may be made in another thread."""
        self.request: Request | None = None
        """As it stands in the first record."""
        self.answer: Answer | None = None
        """By which it passes where a person said yes; used up when it starts."""
        self.taken = False
        """Whether budgets count it already."""
        self.soft: tuple[SoftCrossed, ...] = ()
        """Soft bounds it was the first to pass."""
        self.openings: tuple[Opening, ...] = ()
        """What a person opens with a yes: paths the call could not write otherwise."""
        self.asked_about: tuple[str | None, frozenset[tuple[str, str]], str | None] | None = None
        """By which policy a person was asked, what a yes would open, and what it would put in place."""
        self.difference: Difference | None = None
        """What it would make of files, as it stands now."""
        self.input_unread = False
        """Whether its command would be handed what nobody has looked at: a yes is for this call alone."""
        self.noted: list[Matched] = []
        """What rules would have refused or asked, were they enforced."""

    def request_at(self, position: int | None) -> Request:
        asked = self.asked
        self.request = Request(
            run_id=None if asked.numbering is None else asked.numbering.run_id,
            position=position,
            tool=asked.name,
            effect="unknown" if asked.tool is None else asked.tool.effect,
            level=_level(self),
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


_WORDS = (
    "tool", "session_id", "external_id", "agent", "caller", "workspace", "cwd", "reason", "proposal_id",
    "action_id",
)  # fmt: skip


def in_recorded_words(call: Call, recorder: Recorder) -> Call:
    """What is said of a call beside its arguments, result and error may repeat them: as the record has it."""
    words = {name: said for name in _WORDS if isinstance(said := getattr(call, name), str)}
    clean: dict[str, Any] = {name: recorder.clean_text(said, name)[0] for name, said in words.items()}
    reason, _ = recorder.clean_text(call.decision.reason, "decision")
    return msgspec.structs.replace(
        call, decision=msgspec.structs.replace(call.decision, reason=reason), **clean
    )


def latency_us(ended: Ended) -> int:
    return max(0, ended.ended_ns - ended.started_ns) // 1000


def as_call(progress: Progress, judgement: Judgement, ended: Ended | None, *, finished_at_us: int) -> Call:
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
        latency_us=None if ended is None else latency_us(ended),
        queue_us=None if progress.started_at_us is None else progress.queue_us,
        decide_us=request.decide_us,
        record_us=progress.record_us,
        usage=None if ended is None else ended.usage,
        host_before=progress.host_before.data if ended is not None else None,
        host_after=progress.host_after.data,
        changes=changes,
        changes_count=None if changes is None else len(changes),
        held="held" if ended is not None and ended.held is not None else None,
        settled_by=None,
        held_digest=None if ended is None or ended.held_digest is None else ended.held_digest.hex(),
        redactions=progress.redactions,
        cwd=progress.cwd,
        environment_withheld=progress.withheld,
        sandbox=None if progress.started_at_us is None else _sandbox(progress),
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


def _level(progress: Progress) -> Level:
    if progress.confinement is not None:
        return progress.confinement.level
    return "none" if progress.asked.tool is None else progress.asked.tool.level


def _sandbox(progress: Progress) -> str | None:
    held = progress.confinement
    return None if held is None or held.sandbox is None else held.sandbox.name


def working_directory(asked: Asked) -> str:
    """Where a command of this call would run."""
    named = asked.arguments.get("cwd")
    return asked.scope.at(named if isinstance(named, str) else None).cwd
