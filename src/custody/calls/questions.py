"""Questions to people: which are open, how one is answered, how a yes is used.

Owns the rules: one answer to a question, in its time and its session; one call passes on a yes, and it is the
very call that was asked about or one exactly like it. Whoever answers or uses an answer does so under the
store's one lock for it, having read what was recorded before; so of many processes exactly one does. Knows
nothing of waiting (`answers`) nor of who may answer (the doors). Everything here may wait: not for an event
loop.
"""

import time
from collections.abc import Callable, Container, Generator
from contextlib import contextmanager
from typing import Any, Literal

from msgspec import Struct

from custody.errors import Ambiguous, AnswerRefused, InvalidInput, NotFound, NotRecorded
from custody.index import Index
from custody.index.questions import GRANT_USED, GRANTED, USED, GrantView, QuestionView
from custody.journal import Journal, Receipt
from custody.recorder import Draft, Recorder
from custody.records import By, CallAnswered, Decision, Effect, now_us, rfc3339

LOCK_WAIT_SECONDS = 10.0
"""The lock is held for the reading of what was recorded since: milliseconds."""

LOCK_PAUSE_SECONDS_MAX = 0.002
"""POSIX locks wake nobody, so who waits looks again after at most this long."""

STANDING_HOURS_MAX = 168.0
"""A week: a grant that is wanted for longer is a rule."""

STANDING_CALLS_MAX = 1_000
"""Each use is a record that the next one reads."""

REASON_CHARACTERS_MAX = 1_000
"""Of what a person says: it stands in a leaf, which is kept for ever."""

SHORT_ID = 8  # hex digits of a call's id in a sentence

Said = Literal["allow", "deny"]


class Standing(Struct, frozen=True, kw_only=True):
    """A yes to exactly this, for more than one call."""

    hours: float = 8.0
    calls_max: int = 20


class Question(Struct, frozen=True, kw_only=True):
    """What a person is asked about a call."""

    call_id: bytes
    tool: str
    effect: Effect
    summary: str
    """One line: what would happen."""
    reason: str
    """Why it is asked."""
    rule: str | None
    digest: str
    """See `question_digest`, hex."""
    session_id: str | None
    agent: str | None
    run_id: bytes | None
    asked_at_us: int
    open_until_us: int
    cwd: str | None = None
    standing_allowed: bool = True
    once: bool = False
    """A yes is for this call alone, while it waits: what it would be handed is not known before it runs."""
    shown: Any = None
    """What a person is shown of the arguments, secrets replaced."""
    difference: str | None = None
    """What it would make of files, where a tool tells: lines of a unified diff and words, bounded, secrets
    replaced. A yes is to all of it."""

    def recorded(self) -> dict[str, Any]:
        """Fields of its `CallAsked`."""
        return {
            "digest": bytes.fromhex(self.digest),
            "open_until_us": self.open_until_us,
            "standing": self.standing_allowed,
        }


class Answer(Struct, frozen=True, kw_only=True):
    """What came of a question."""

    verdict: Said
    by: By
    """`person`, `nobody`, or `error`."""
    reason: str
    person: str | None = None
    call_id: bytes | None = None
    """The call that was asked about: an earlier one, where an earlier yes lets this one pass."""
    digest: str | None = None
    session_id: str | None = None
    rule: str | None = None
    granted: bool = False
    """It is a grant's."""
    standing: Standing | None = None
    """What a prompt brings: for more than this call."""
    open_until_us: int | None = None
    """Of a question nobody has answered: until when somebody still can."""

    def decision(self) -> Decision:
        return Decision(self.verdict, self.by, self.reason, self.rule)


class OpenQuestion(Struct, frozen=True, kw_only=True):
    """A question as it is listed."""

    call_id: str
    tool: str
    effect: Effect
    agent: str | None
    caller: str | None
    session_id: str | None
    run_id: str | None
    rule: str | None
    reason: str
    asked_at: str
    open_until: str
    waiting: bool
    """The call waits for the answer; else the next one that asks exactly this has it."""
    asked_times: int
    """How often exactly this is being asked in its session; one answer settles those that do not wait."""
    standing_allowed: bool
    arguments: Any
    """As recorded; None once purged."""
    cwd: str | None
    difference: str | None = None
    """What a commit would put in place: lines of a unified diff, bounded, and words; None for other tools."""


class Answered(Struct, frozen=True, kw_only=True):
    """An answer that is on the record."""

    call_id: str
    verdict: Said
    person: str
    reason: str
    waiting: bool
    """The call waited for it; else the next one that asks exactly this has it."""
    open_until: str
    grant: bool


class Means(Struct, frozen=True, kw_only=True):
    """What it takes to answer in a store."""

    journal: Journal
    recorder: Recorder
    index: Index
    clock_us: Callable[[], int] = now_us


@contextmanager
def one_at_a_time(journal: Journal) -> Generator[None]:
    """Of all threads and processes. Raises NotRecorded."""
    deadline, pause = time.monotonic() + LOCK_WAIT_SECONDS, 0.0001
    while (lock := journal.answer_lock()) is None:
        if time.monotonic() > deadline:
            raise NotRecorded(
                f"Another process has held the store's lock for answers for {LOCK_WAIT_SECONDS:.0f} s.",
                hint="See which process has journal/answers.lock open.",
            )
        time.sleep(pause)
        pause = min(pause * 2, LOCK_PAUSE_SECONDS_MAX)
    try:
        yield
    finally:
        lock.release()


# -- looking ----------------------------------------------------------------------------------------------


def open_questions(index: Index, at_us: int) -> list[OpenQuestion]:
    """Those that can be answered, the oldest first; what is asked again and again is listed once."""
    alike: dict[tuple[bytes, str | None], list[QuestionView]] = {}
    for view in index.questions.not_answered(at_us):
        alike.setdefault((view.digest, view.session_id), []).append(view)
    found: list[OpenQuestion] = []
    for (digest, session_id), views in alike.items():
        answered = index.questions.answered(digest, session_id, at_us, refresh=False)
        still = [view for view in views if _settled_by(view.call_id, view.at_us, answered) is None]
        waiting = [view for view in still if view.ended_at_us is None]
        if still:
            shown = index.questions.shown((waiting or still)[-1].call_id)
            found.append(_listed((waiting or still)[-1], len(still), shown))
    return found


def _listed(view: QuestionView, times: int, shown: dict[str, Any]) -> OpenQuestion:
    request = view.request
    return OpenQuestion(
        call_id=view.call_id.hex(),
        tool=request.tool,
        effect=request.effect,
        agent=view.agent,
        caller=view.caller,
        session_id=view.session_id,
        run_id=None if view.run_id is None else view.run_id.hex(),
        rule=request.decision.rule,
        reason=request.decision.reason,
        asked_at=rfc3339(view.at_us),
        open_until=rfc3339(view.open_until_us),
        waiting=view.ended_at_us is None,
        asked_times=times,
        standing_allowed=view.standing,
        arguments=shown.get("arguments"),
        cwd=shown.get("cwd"),
        difference=text_of(shown.get("difference")),
    )


def text_of(said: Any) -> str | None:
    """What is recorded as text; None where only its digest is."""
    return said if isinstance(said, str) else None


def _settled_by(call_id: bytes, at_us: int, answered: list[QuestionView]) -> QuestionView | None:
    """Another question for exactly this whose answer, given since, holds for this one too: a no, or a yes
    that nobody has used and whose own call has ended."""
    for other in answered:
        if other.answer is None or other.call_id == call_id or other.answer.at_us < at_us:
            continue
        if not other.allowed or (other.used_by is None and other.ended_at_us is not None):
            return other
    return None


def answer_to(means: Means, question: Question, *, refresh: bool = True) -> Answer | None:
    """The answer to a question that waits: its own, or what it takes over from another for exactly this.
    Raises NotRecorded."""
    own, other = _answers_for(means, question, refresh=refresh)
    if own is None and other is not None:
        with one_at_a_time(means.journal):
            own = _take_over(means, question)
    return None if own is None else _as_answer(own)


def _answers_for(
    means: Means, question: Question, *, refresh: bool = True
) -> tuple[QuestionView | None, QuestionView | None]:
    """The question itself, if it was answered, and another whose answer holds for it too."""
    digest, now = bytes.fromhex(question.digest), means.clock_us()
    answered = means.index.questions.answered(digest, question.session_id, now, refresh=refresh)
    own = next((view for view in answered if view.call_id == question.call_id), None)
    return own, _settled_by(question.call_id, question.asked_at_us, answered)


def _take_over(means: Means, question: Question) -> QuestionView | None:
    """A yes moves from the call that has ended to the one that waits, and still lets one call pass."""
    own, other = _answers_for(means, question)
    if own is not None or other is None or other.answer is None:
        return own
    said = other.answer.decision
    decision = Decision(said.verdict, said.by, said.reason, question.rule)
    drafts = [_answer_draft(means, question.call_id, decision, other.answer.person)]
    if other.allowed:  # first: should only that be kept, the yes is lost and not doubled
        drafts.insert(0, _used_draft(means, USED, other.call_id, question.call_id))
    means.recorder.append_all(drafts)
    return means.index.questions.one(question.call_id.hex())


def passed_before(means: Means, digest: str, session_id: str | None) -> Answer | None:
    """What lets a call pass that is exactly like one a person has allowed in its session: a yes nobody has
    used and whose own call has ended without it, or a grant. It is not used by being found."""
    wanted, now = bytes.fromhex(digest), means.clock_us()
    answered = means.index.questions.answered(wanted, session_id, now)
    for view in reversed(answered):
        if view.is_good(now) and view.ended_at_us is not None:
            return _as_answer(view)
    for grant in means.index.questions.granted(wanted, session_id, now, refresh=False):
        return _of_grant(grant)
    return None


def _as_answer(view: QuestionView) -> Answer:
    assert view.answer is not None, "only what was answered is asked for"
    decision = view.answer.decision
    return Answer(
        verdict="allow" if view.allowed else "deny",
        by=decision.by,
        reason=decision.reason,
        person=view.answer.person,
        call_id=view.call_id,
        digest=view.digest.hex(),
        session_id=view.session_id,
        rule=view.request.decision.rule,
    )


def _of_grant(grant: GrantView) -> Answer:
    return Answer(
        verdict="allow",
        by="person",
        reason=f"granted by {grant.by} until {rfc3339(grant.until_us)}",
        person=grant.by,
        call_id=grant.call_id,
        digest=grant.digest.hex(),
        session_id=grant.session_id,
        granted=True,
    )


# -- answering --------------------------------------------------------------------------------------------


def answer_question(
    means: Means,
    call: str,
    verdict: Said,
    *,
    person: str,
    reason: str | None = None,
    standing: Standing | None = None,
    sessions: Container[str | None] | None = None,
) -> Answered:
    """Put a person's answer to the question about a call (the beginning of its id) on the record.

    `standing` makes a yes good for more calls; `sessions` are those the person may answer for (None: all).
    Raises NotFound, Ambiguous, InvalidInput, AnswerRefused and NotRecorded.
    """
    _check(verdict, reason, standing)
    with one_at_a_time(means.journal):
        try:
            view = means.index.questions.one(call)
        except (NotFound, Ambiguous) as error:
            why = "ambiguous" if isinstance(error, Ambiguous) else "not_found"
            _record_refusal(means, why, person, None)
            raise
        now = means.clock_us()
        refusal = _refusal(means, view, now, standing, sessions)
        if refusal is not None:
            raise refuse(means, *refusal, person, view.call_id)
        said = reason or f"{person} said {'yes' if verdict == 'allow' else 'no'}"
        decision = Decision(verdict, "person", said, view.request.decision.rule)
        drafts = [_answer_draft(means, view.call_id, decision, person)]
        if standing is not None:
            drafts.append(_grant_draft(means, view, standing, person, now))
        receipt = means.recorder.append_all(drafts)
    receipt.wait_durable()
    return Answered(
        call_id=view.call_id.hex(),
        verdict=verdict,
        person=person,
        reason=said,
        waiting=view.ended_at_us is None,
        open_until=rfc3339(view.open_until_us),
        grant=standing is not None,
    )


def _check(verdict: Said, reason: str | None, standing: Standing | None) -> None:
    """Raises InvalidInput."""
    if reason is not None and len(reason) > REASON_CHARACTERS_MAX:
        raise InvalidInput(f"A reason has up to {REASON_CHARACTERS_MAX} characters, not {len(reason)}.")
    if standing is None:
        return
    if verdict != "allow":
        raise InvalidInput("Only a yes can hold for more than one call.")
    if not 0 < standing.hours <= STANDING_HOURS_MAX:
        raise InvalidInput(f"A grant holds for up to {STANDING_HOURS_MAX:g} hours, not {standing.hours:g}.")
    if not 1 <= standing.calls_max <= STANDING_CALLS_MAX:
        raise InvalidInput(f"A grant is for 1 to {STANDING_CALLS_MAX} calls, not {standing.calls_max}.")


def _refusal(
    means: Means,
    view: QuestionView,
    now_us: int,
    standing: Standing | None,
    sessions: Container[str | None] | None,
) -> tuple[str, str] | None:
    """Why a question cannot be answered (so): one word and a sentence."""
    name = f"call {view.call_id.hex()[:SHORT_ID]}"
    if sessions is not None and view.session_id not in sessions:
        return "session", f"The question about {name} belongs to another session."
    if view.answer is not None:
        by, verdict = view.answer.person or view.answer.decision.by, "yes" if view.allowed else "no"
        if view.used_by is not None:
            user = view.used_by.hex()[:SHORT_ID]
            return "used", f"{by} said {verdict} to {name}, and call {user} has used it."
        return "answered", f"{by} has said {verdict} to {name} before; that stands."
    if view.started:
        return "started", f"{name.capitalize()} has run already."
    if not view.in_time(now_us):
        return "expired", f"The question about {name} was open until {rfc3339(view.open_until_us)}."
    answered = means.index.questions.answered(view.digest, view.session_id, now_us, refresh=False)
    if (other := _settled_by(view.call_id, view.at_us, answered)) is not None:
        same = other.call_id.hex()[:SHORT_ID]
        return "answered", f"Call {same}, which asks for exactly the same, was answered since."
    if standing is not None and not view.standing:
        return "standing", f"What {name} asks for is allowed one call at a time."
    return None


_HINTS = {
    "session": "Answer it from where its session is looked after.",
    "expired": "When the call is made again, it is asked about anew.",
    "standing": "Approve it without --for and --max.",
}


def refuse(means: Means, why: str, message: str, person: str, call_id: bytes) -> AnswerRefused:
    """The refusal, once it is on the record. Raises NotRecorded."""
    _record_refusal(means, why, person, call_id)
    hint = _HINTS.get(why, "`custody approvals` lists the questions that are open.")
    return AnswerRefused(message, hint=hint, why=why, call_id=call_id.hex())


def _record_refusal(means: Means, why: str, person: str, call_id: bytes | None) -> None:
    data = {"why": why, "person": person}
    means.recorder.event("approval.refused", data, leaf_data=True, call_id=call_id)


def _answer_draft(means: Means, call_id: bytes, decision: Decision, person: str | None) -> Draft:
    return means.recorder.draft(
        CallAnswered, {}, call_id=call_id, at_us=means.clock_us(), decision=decision, person=person
    )


def _grant_draft(means: Means, view: QuestionView, standing: Standing, person: str, now_us: int) -> Draft:
    data = {
        "digest": view.digest.hex(),
        "tool": view.request.tool,
        "session_id": view.session_id,
        "agent": view.agent,
        "until_us": now_us + round(standing.hours * 3_600_000_000),
        "max": standing.calls_max,
        "by": person,
        "of_call": view.call_id.hex(),
    }
    return means.recorder.draft_event(GRANTED, data, leaf_data=True, call_id=view.call_id)


# -- using ------------------------------------------------------------------------------------------------


def use_answer(means: Means, answer: Answer, call_id: bytes) -> bool:
    """Let a call pass on a yes: of many callers in many processes exactly one gets it. The use is durable
    when this returns. False: it is used, over, revoked, or was never given. Raises NotRecorded."""
    if answer.verdict != "allow" or answer.call_id is None or answer.digest is None:
        return False
    with one_at_a_time(means.journal):
        receipt = _use(means, answer, answer.call_id, bytes.fromhex(answer.digest), call_id)
    if receipt is None:
        return False
    receipt.wait_durable()
    return True


def _use(means: Means, answer: Answer, of_call: bytes, digest: bytes, by_call: bytes) -> Receipt | None:
    view, now = means.index.questions.one(of_call.hex()), means.clock_us()
    if (view.digest, view.session_id) != (digest, answer.session_id):
        return None
    if not answer.granted:
        # While the call that was asked about is still there, the yes is its own.
        mine = view.ended_at_us is not None or by_call == of_call
        if not mine or not view.is_good(now):
            return None
        return means.recorder.append(_used_draft(means, USED, of_call, by_call))
    grant = view.grant
    if grant is None or not grant.is_good(now) or grant.session_id != answer.session_id:
        return None
    return means.recorder.append(_used_draft(means, GRANT_USED, of_call, by_call))


def _used_draft(means: Means, name: str, of_call: bytes, by_call: bytes) -> Draft:
    """A grant is named by the call that was asked about, as its yes is."""
    data = {"of_call": of_call.hex(), "by_call": by_call.hex()}
    return means.recorder.draft_event(name, data, leaf_data=True, call_id=of_call)
