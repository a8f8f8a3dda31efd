"""Where something too long may be cut: between words or lines, so that no half of a secret is left.

Secrets are found by their form, and half of one has none. What is cut before redaction has seen it is
therefore cut here: whatever stands across the cut goes whole, up to `ACROSS_MAX`. Owns the places; counting
what is left out is the caller's. Knows nothing of rules, nor which values are secret. Used wherever there is
a bound on what is kept.
"""

import functools
import re
from collections.abc import Iterable
from typing import Any, AnyStr

ACROSS_MAX = 4096
"""Of what may stand across a cut: nearly every secret is shorter, and only private keys have lines."""

RUN_MAX = 64 * 1024
"""How far the end of something longer is looked for. A run without a blank that is longer still holds no
words: it is cut all the same, `ACROSS_MAX` away from where it would have been."""

KEY_MAX = 16 * 1024  # a private key of 16,384 bits, as PEM

HALF_MIN = 4
"""Characters of a known value that are taken for the beginning or the end of it."""

_WORD_END = r"[\s\u2e80-\U0010ffff]"
"""Behind what a word may end: blanks, and the characters of scripts that write none between words."""

_LINE_END = r"\n"
_KEY_BEGINS = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY"
_KEY_ENDS = r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?(?:-----)?"


def _expression(pattern: str, text: str | bytes) -> Any:
    return _compiled(pattern, isinstance(text, str))


@functools.cache
def _compiled(pattern: str, is_text: bool) -> Any:
    """When something is cut for the first time, which most processes never do."""
    if is_text:
        return re.compile(pattern)
    return re.compile((r"\s" if pattern is _WORD_END else pattern).encode())


def beginning(text: AnyStr, most: int) -> AnyStr:
    """At most so much of the beginning, ending with a whole word; empty if the first word is longer."""
    if len(text) <= most:
        return text
    return _without_open_key(text[: _last_end(text, most)])


def ending(text: AnyStr, most: int) -> AnyStr:
    """At most so much of the end, beginning with a whole word."""
    if len(text) <= most:
        return text
    begin = len(text) - most
    word = _expression(_WORD_END, text).search(text, max(0, begin - 1))
    return _without_closed_key(text[len(text) if word is None else word.end() :])


def beginning_of_stream(kept: AnyStr) -> AnyStr:
    """The beginning of something whose rest is lost, ending with a whole line where lines are of common
    length, else with a word."""
    end = len(kept)
    before = max(0, end - ACROSS_MAX)
    place = _last(_expression(_LINE_END, kept), kept, before, end)
    if place is None:
        place = _last(_expression(_WORD_END, kept), kept, max(0, before - RUN_MAX), before)
    return _without_open_key(kept[: before if place is None else place])


def end_of_stream(kept: AnyStr) -> AnyStr:
    """The end of something whose beginning is lost, from the start of a line or a word on: what stands
    behind a name on the same line is a secret by that name."""
    line = _expression(_LINE_END, kept).search(kept, 0, ACROSS_MAX)
    if line is not None:
        begin = line.end()
    elif len(kept) <= ACROSS_MAX:
        begin = len(kept)
    else:
        word = _expression(_WORD_END, kept).search(kept, ACROSS_MAX, ACROSS_MAX + RUN_MAX)
        begin = ACROSS_MAX if word is None else word.end()
    return _without_closed_key(kept[begin:])


def whole_words(text: AnyStr, *, starts_inside: bool, ends_inside: bool) -> AnyStr:
    """A part of a text without what its start, its end, or both may have cut in two."""
    word, begin, end = _expression(_WORD_END, text), 0, len(text)
    if starts_inside:
        found = word.search(text, 0, ACROSS_MAX)
        begin = min(end, ACROSS_MAX) if found is None else found.end()
    if ends_inside:
        nearest = max(begin, end - ACROSS_MAX)
        place = _last(word, text, nearest, end)
        end = nearest if place is None else place
    kept: Any = text[begin:end]
    kept = _without_closed_key(kept) if starts_inside else kept
    return _without_open_key(kept) if ends_inside else kept


def without_begun(kept: bytes, values: Iterable[bytes]) -> bytes:
    """Without the beginning of one of these values at the end, whatever blanks and lines it has."""
    end = len(kept)
    for value in values:
        start = kept.find(value[:HALF_MIN], max(0, len(kept) - len(value) + 1))
        while 0 <= start < end:
            if value.startswith(kept[start:]):
                end = start
                break
            start = kept.find(value[:HALF_MIN], start + 1)
    return kept[:end]


def without_ended(kept: bytes, values: Iterable[bytes]) -> bytes:
    """Without the end of one of these values at the beginning."""
    begin = 0
    for value in values:
        stop = kept.rfind(value[-HALF_MIN:], 0, len(value) - 1) + HALF_MIN
        while stop - HALF_MIN >= 0 and stop > begin:
            if value.endswith(kept[:stop]):
                begin = stop
                break
            stop = kept.rfind(value[-HALF_MIN:], 0, stop - 1) + HALF_MIN
    return kept[begin:]


def _last_end(text: Any, most: int) -> int:
    """Behind the last word that ends at `most` or before."""
    if most <= 0:
        return 0
    blank = _expression(_WORD_END, text)
    if len(text) > most and blank.match(text, most):
        return most
    found = _last(blank, text, max(0, most - RUN_MAX), most)
    if found is not None:
        return found
    return most - ACROSS_MAX if most > RUN_MAX else 0


def _last(blank: Any, text: Any, begin: int, end: int) -> int | None:
    """Behind the last blank between the two places. Looks from the end on, in growing steps."""
    step = 256
    while True:
        start = max(begin, end - step)
        places = [found.end() for found in blank.finditer(text, start, end)]
        if places:
            return places[-1]
        if start == begin:
            return None
        step *= 4


def _without_open_key(kept: Any) -> Any:
    """Without a private key that begins and does not end."""
    start = max(0, len(kept) - KEY_MAX)
    begins = list(_expression(_KEY_BEGINS, kept).finditer(kept, start))
    if begins and not _expression(_KEY_ENDS, kept).search(kept, begins[-1].start()):
        return kept[: begins[-1].start()]
    return kept


def _without_closed_key(kept: Any) -> Any:
    """Without the rest of a private key whose beginning is lost."""
    end = _expression(_KEY_ENDS, kept).search(kept, 0, KEY_MAX)
    if end and not _expression(_KEY_BEGINS, kept).search(kept, 0, end.start()):
        return kept[end.end() :]
    return kept
