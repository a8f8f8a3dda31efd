"""What an agent says of how its run went, in Custody's words.

Owns the spellings. What was said is kept whole beside the word. Pure; used by `runs.complete`.
"""

from typing import Any, cast

from msgspec import Struct

from custody.records import RunOutcome

SPELLINGS: dict[str, RunOutcome] = {
    "success": "succeeded",
    "succeeded": "succeeded",
    "successful": "succeeded",
    "complete": "succeeded",
    "completed": "succeeded",
    "done": "succeeded",
    "ok": "succeeded",
    "pass": "succeeded",
    "passed": "succeeded",
    "failure": "failed",
    "fail": "failed",
    "failed": "failed",
    "error": "failed",
    "errored": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "aborted": "cancelled",
    "interrupted": "cancelled",
    "timeout": "timed_out",
    "timedout": "timed_out",
    "rejected": "rejected",
    "denied": "rejected",
    "incomplete": "incomplete",
    "partial": "incomplete",
    "unknown": "unknown",
}
"""Without `_`, `-` and blanks, in lower case."""

_PLACES = ("status", "outcome", "result", "state", "kind", "type")
"""Names under which an outcome says its word, the likeliest first."""

WORD_CHARACTERS_MAX = 64  # of a word that is not known here, as the reason repeats it
REASON_CHARACTERS_MAX = 1_024


class Told(Struct, frozen=True):
    """How a run went."""

    outcome: RunOutcome
    reason: str | None = None
    passed: bool | None = None


def told_of(outcome: Any) -> Told:
    """Without a word of how it went, it was completed and so succeeded; a word nobody knows is `unknown`."""
    if not isinstance(outcome, dict):
        return _of_word(outcome)
    said = cast("dict[str, Any]", outcome)
    told = _of_word(_word_in(said))
    reason, passed = said.get("reason"), said.get("passed")
    return Told(
        told.outcome,
        reason[:REASON_CHARACTERS_MAX] if isinstance(reason, str) and reason else told.reason,
        passed if isinstance(passed, bool) else None,
    )


def _of_word(word: Any) -> Told:
    if word is None:
        return Told("succeeded")
    if isinstance(word, bool):
        return Told("succeeded" if word else "failed")
    if isinstance(word, str):
        known = SPELLINGS.get(_spelt(word))
        if known is not None:
            return Told(known)
        return Told("unknown", f"its outcome was stated as {word[:WORD_CHARACTERS_MAX]!r}")
    return Told("unknown", "its outcome was stated as no word")


def _word_in(said: dict[str, Any]) -> Any:
    for place in _PLACES:
        word = said.get(place)
        if isinstance(word, dict):
            word = _word_in(cast("dict[str, Any]", word))
        if isinstance(word, str):
            return word
    for place in ("success", "ok"):
        if isinstance(said.get(place), bool):
            return said[place]
    if len(said) == 1 and _spelt(next(iter(said))) in SPELLINGS:  # {"Success": {…}}
        return next(iter(said))
    return None


def _spelt(word: str) -> str:
    return word.lower().translate({ord("_"): None, ord("-"): None, ord(" "): None})
