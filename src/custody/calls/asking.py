"""A person is asked: the call waits, without a place among those that run, for an answer or for nobody.

Owns what is put on the record of it: that it was asked, and what was answered. Who is asked and how an answer
reaches us is `answers`', what one is worth `questions`'. Used by `execute`.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from custody.calls.answers import Answering
from custody.calls.lifecycle import advance
from custody.calls.machinery import Machinery, append_first
from custody.calls.progress import Progress, working_directory
from custody.calls.questions import Answer, Question, text_of
from custody.errors import CustodyError
from custody.recorder import Draft, Recorder
from custody.records import CallAsked, Decision, Kind, Redaction
from custody.tools import Context
from custody.tools.tool import Difference

ANSWERS_MAX = 8
"""Others that are the same may be quicker so often; then there are so many that a person is to look again."""

SUMMARY_CHARACTERS_MAX = 200
"""One line of a list; all of it is shown with the question."""

DIFFERENCE = "difference"
"""Both what a tool has that tells it, and the part of the record."""

_CHANGED = "What was asked about has changed meanwhile, or the policy; repeat the call to ask anew."


async def ask(progress: Progress, context: Context, machinery: Machinery) -> Decision:
    """What a person says, or said before, or that nobody said anything. Raises NotRecorded."""
    asked, answering = progress.decision, machinery.deciding.answering
    progress.input_unread = context.input_unread
    clean = _Cleaning(machinery.ledger.recorder)
    progress.difference = await _difference(progress, clean)
    progress.asked_about = _about(progress, asked.policy)
    question = _question(progress, answering)
    before = await answering.passed_before(question.digest, question.session_id)
    if before is None:
        nobody = answering.refused_at_once(progress.asked.prompt)
        if nobody is not None:
            # Why it was asked goes with it: nobody else will read that.
            return _worded(
                asked, msgspec.structs.replace(nobody, reason=f"{asked.reason} But {nobody.reason}")
            )
        question = await _record_question(progress, question, machinery, clean)
        before = await answering.ask(question, progress.asked.prompt, context.on_early_end)
        if before.by == "person":
            progress.state = advance(progress.state, Kind.CALL_ANSWERED)
    progress.answer = before
    return _worded(asked, before)


async def use(progress: Progress, answered: Decision, machinery: Machinery) -> Decision | None:
    """Use the yes up, right before the call starts. A no where it was used by another call meanwhile, or is
    to something else than what would happen now. Raises NotRecorded."""
    assert progress.answer is not None, "a person has said yes"
    answering, asks = machinery.deciding.answering, progress.decision.verdict == "ask"
    # Where there is none any more the call itself says why, and does nothing else than was agreed.
    progress.difference = await _difference(progress, None) or progress.difference
    policy = (progress.decision if asks else answered).policy
    now = _digest(progress, policy, answering)
    # What cannot be spelled has another digest each time: only what it would open can be compared then.
    changed = now != progress.answer.digest and now == _digest(progress, policy, answering)
    if changed or progress.asked_about != _about(progress, policy):
        return Decision("deny", "nobody", _CHANGED)
    answer: Answer | None = progress.answer
    for _ in range(ANSWERS_MAX):
        if answer is None:
            break
        if await answering.consume(answer, progress.asked.call_id):
            return None
        # Of all that found the same yes one has it; for the others there may be a grant.
        answer = await answering.passed_before(now, progress.asked.who.session_id)
    return Decision(
        "deny", "nobody", "The yes to it has been used meanwhile; repeat the same call to ask anew."
    )


def _worded(asked: Decision, answer: Answer) -> Decision:
    """The answer as a decision, which goes on naming the rule that asked."""
    return Decision(
        answer.verdict, answer.by, answer.reason, asked.rule, asked.param, asked.matched, asked.policy
    )


def _question(progress: Progress, answering: Answering) -> Question:
    asked, decision = progress.asked, progress.decision
    where = working_directory(asked)
    return answering.question(
        call_id=asked.call_id,
        tool=asked.name,
        effect="unknown" if asked.tool is None else asked.tool.effect,
        summary=asked.name,
        reason=decision.reason,
        rule=decision.rule,
        digest=_digest(progress, decision.policy, answering),
        session_id=asked.who.session_id,
        agent=asked.who.agent,
        run_id=None if asked.numbering is None else asked.numbering.run_id,
        asked_at_us=progress.at_us,
        cwd=where,
        standing_allowed=decision.by == "rule" and not progress.openings and not progress.input_unread,
        once=progress.input_unread,
    )


def _about(
    progress: Progress, policy_digest: str | None
) -> tuple[str | None, frozenset[tuple[str, str]], str | None]:
    """What a yes is to, beside the call's arguments: the policy that asked, what is opened, what comes."""
    opens = frozenset((opening.path, opening.why) for opening in progress.openings)
    return policy_digest, opens, None if progress.difference is None else progress.difference.digest


class _Cleaning:
    """Takes secrets out of what a person is shown of files, and says how many of them are in it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._rules: set[str] = set()

    def __call__(self, text: str) -> str:
        text, hits = self._recorder.clean_text(text, DIFFERENCE)
        self._rules.update(hit.rule for hit in hits)
        return text

    def counted_in(self, text: str) -> tuple[Redaction, ...]:
        """Of all that was taken out, what stands in the part that is shown."""
        counts = ((rule, text.count(f"[redacted:{rule}:")) for rule in sorted(self._rules))
        return tuple(Redaction(rule, DIFFERENCE, count) for rule, count in counts if count)


async def _difference(progress: Progress, clean: Callable[[str], str] | None) -> Difference | None:
    """What it would make of files, where its tool tells that; without `clean` only the digest. What cannot
    be read is none: the call itself says why, and does nothing."""
    tell: Callable[..., Difference | None] | None = getattr(progress.asked.tool, DIFFERENCE, None)
    if tell is None:
        return None
    try:
        return await asyncio.to_thread(tell, progress.asked.arguments, progress.asked.scope, clean)
    except (CustodyError, OSError):
        return None


def _digest(progress: Progress, policy_digest: str | None, answering: Answering) -> str:
    """Of what would happen now."""
    asked = progress.asked
    return answering.digest(
        tool=asked.name,
        arguments=asked.arguments,
        cwd=working_directory(asked),
        agent=asked.who.agent,
        policy_digest=policy_digest,
        dry_run=asked.dry_run,
        walls=_walls(progress),
        opens=[(opening.path, opening.why) for opening in progress.openings],
        difference=None if progress.difference is None else progress.difference.digest,
        input_unread=progress.input_unread,
    )


def _walls(progress: Progress) -> tuple[Any, ...] | None:
    """What holds its command, where that is more than its user; a yes is to that."""
    held = progress.confinement
    if held is None or held.sandbox is None:
        return None
    more = () if held.level == "confined" else (held.level, held.afterwards)
    return held.sandbox, progress.asked.scope.roots, *more


async def _record_question(
    progress: Progress, question: Question, machinery: Machinery, clean: _Cleaning
) -> Question:
    """It stands before anybody is asked; gives it with what a person may be shown."""
    asked, recorder = progress.asked, machinery.ledger.recorder
    payload = {"arguments": asked.arguments, "cwd": working_directory(asked)}
    if progress.difference is not None:
        payload[DIFFERENCE] = progress.difference.text
    said = recorder.redact(payload, asked.keep)
    if progress.difference is not None:
        more = clean.counted_in(progress.difference.text)
        said = msgspec.structs.replace(said, redactions=said.redactions + more)
    progress.state = advance(progress.state, Kind.CALL_ASKED)

    def draft_at(position: int | None) -> Draft:
        return recorder.draft_of(
            said,
            CallAsked,
            call_id=asked.call_id,
            request=progress.request_at(position),
            **question.recorded(),
        )

    first = await append_first(progress, draft_at, machinery, opens=True)
    recorded = first.said()
    shown, difference = recorded.get("arguments"), text_of(recorded.get(DIFFERENCE))
    text = shown if isinstance(shown, str) else msgspec.json.encode(shown).decode()
    name = f"dry run: {asked.name}" if asked.dry_run else asked.name
    if (held := progress.confinement) is not None and held.sandbox is not None:
        name = f"{name}, behind the walls of {held.sandbox.name},"
    summary = f"{name} {text}"[:SUMMARY_CHARACTERS_MAX]
    reason, _ = recorder.clean_text(question.reason, "reason")
    return msgspec.structs.replace(
        question, shown=shown, summary=summary, reason=reason, difference=difference
    )
