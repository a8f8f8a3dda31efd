"""What is allowed, folded from the events that say so."""

from custody.redaction.allowed import ALLOWED, DISALLOWED, folded

EARLY, LATER, LAST = (f"2026-11-2{day}T10:00:00.000000Z" for day in (1, 2, 3))
EARLY_US = 1_795_255_200_000_000


def said(name: str, at: str, **more: object) -> tuple[str, str, dict[str, object]]:
    return name, at, {"fingerprint": "0123abcd", "rule": None, "reason": "a sample", **more}


def test_the_last_word_counts() -> None:
    assert list(folded([said(DISALLOWED, EARLY), said(ALLOWED, LATER)])) == ["0123abcd"]
    assert folded([said(ALLOWED, EARLY), said(DISALLOWED, LATER)]) == {}


def test_what_is_said_again_because_its_record_was_dropped_does_not_undo_what_came_between() -> None:
    first = {"shard": 1, "sequence": 7, "at_us": EARLY_US}
    again = said(ALLOWED, LAST, said_first=first)
    assert folded([said(DISALLOWED, LATER), again]) == {}
    assert folded([again])["0123abcd"].at == EARLY
