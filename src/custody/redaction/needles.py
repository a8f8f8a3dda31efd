"""Many needles searched for at once: keywords, known values and their encoded spellings.

Owns the search and what it gives, in C where that was built and in Python (decision 0022). Knows nothing of
rules or secrets. Used by the scanner and by the proof that a value is ordinary.

A needle that is itself what is sought is found as it stands. Any other is a keyword: found is the stretch
around it, `before` and `after` so many bytes, and stretches of one group that touch are one, so that a text
full of keywords gives few of them.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from custody import native
from custody.redaction.encodings import base64_pieces, encoded_length_max, hexadecimal_pieces

NEEDLE_BYTES_MIN = 3
NEEDLE_BYTES_MAX = 1 << 20

BASE64_GROUP, HEXADECIMAL_GROUP = 0, 1
"""Groups of the stretches around what looks like an encoded needle; they are to be decoded."""

AROUND_BYTES_MAX = 64 * 1024
"""Around an encoded keyword, whatever is said of the plain one."""

FRONTS = b" =:\"'\n/,("
"""What stands in front of a token. Of three bytes in base64 too little is their own, so one of these is put
before them."""

FOLDED_BYTES_MIN = 5
"""A shorter needle of which capitals do not count is not searched for encoded, where each way to write it
looks different: it is a word."""

FOUND_MAX = 100_000
"""Stretches in one text. With more it is given up: they would take more memory than the text."""

NOTHING, NEAR, ITSELF = 0, 1, 2
"""What `Filter.level` answers: no needle; keywords; a needle that is itself what is sought."""

RUN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.+/=~%"
_RUN_TO_A = bytes(97 if byte in RUN else 32 for byte in range(256))
"""Every character of a run as `a`, any other as a blank: a run is then found with one search."""

_BEGIN_BYTES = 4
_PIECE_BYTES = 64 * 1024
"""Of a text that are looked at at once, in Python: as numbers of four bytes, which a set finds quickly."""

_find_in_c = native.find_needles
_level_in_c = native.find_level


class Needle(NamedTuple):
    data: bytes
    fold: bool
    """Capital and small letters are one."""
    group: int
    """`BASE64_GROUP` and `HEXADECIMAL_GROUP` are taken."""
    before: int = 0
    after: int = 0
    """Both 0: the needle is itself what is sought."""
    run: int = 0
    """So many characters of `RUN` in a row from the needle's begin on, within `after`, or it is none."""
    encoded: bool = False
    """Searched for in base64 and hexadecimal too; a find of that is a stretch of their groups."""


class Stretch(NamedTuple):
    group: int
    start: int
    end: int


class Filter:
    """Needles made ready to be searched for. Safe to share between threads."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._needles = tuple(dict.fromkeys(needles))
        self._by_begin: dict[bytes, list[Needle]] | None = None
        self._short: list[bytes] = []
        self._numbers = frozenset[int]()
        self._sought = frozenset(one.group for one in self._needles if not one.before and not one.after)
        self.tables = b"" if native.make_filter is None else native.make_filter(self._needles)

    def find(self, data: bytes) -> list[Stretch] | None:
        """All stretches, by start; None with more than `FOUND_MAX`."""
        if _find_in_c is not None:
            found = _find_in_c(data, self.tables)
        else:
            found = self._find_in_python(data)
        if not found:
            return found if found is None else []
        if len(found) == 1:
            return [Stretch._make(found[0])]
        return _merged(found, self._sought)

    def level(self, data: bytes) -> int:
        """What stands in the data; the quick question to ask first."""
        if _level_in_c is not None:
            return _level_in_c(data, self.tables)
        level = NOTHING
        for stretch, itself in self._each(data):
            if itself:
                return ITSELF
            level = NEAR if stretch else level
        return level

    # -- in Python ------------------------------------------------------------------------------------

    def _find_in_python(self, data: bytes) -> list[tuple[int, int, int]] | None:
        found: list[tuple[int, int, int]] = []
        for stretch, _ in self._each(data):
            found.append(stretch)
            if len(found) > FOUND_MAX:
                found = [*_merged(found, self._sought)]
                if len(found) > FOUND_MAX:
                    return None
        return found

    def _each(self, data: bytes) -> Iterator[tuple[tuple[int, int, int], bool]]:
        """Each needle's places, as a stretch and whether it is itself the find."""
        small = data.lower()
        runs = b""
        for needle in self._likely(small):
            text, sought = (small, needle.data.lower()) if needle.fold else (data, needle.data)
            at = text.find(sought)
            if at >= 0 and needle.run and not runs:
                runs = data.translate(_RUN_TO_A)
            while at >= 0:
                end = at + len(sought)
                if not needle.before and not needle.after:
                    yield (needle.group, at, end), True
                elif not needle.run or runs.find(b"a" * needle.run, at, end + needle.after) >= 0:
                    start = max(0, at - needle.before)
                    yield (needle.group, start, min(len(data), end + needle.after)), False
                at = text.find(sought, at + 1)

    def prepare(self) -> None:
        """What the first search would do before it: no text is to pay for it out of its budget."""
        if _find_in_c is None and self._by_begin is None:
            self._tabled()

    def _tabled(self) -> dict[bytes, list[Needle]]:
        if self._by_begin is None:
            by_begin: dict[bytes, list[Needle]] = {}
            for one in dict.fromkeys(one for needle in self._needles for one in _ways(needle)):
                by_begin.setdefault(one.data.lower()[:_BEGIN_BYTES], []).append(one)
            self._short = [begin for begin in by_begin if len(begin) < _BEGIN_BYTES]
            whole = [begin for begin in by_begin if len(begin) == _BEGIN_BYTES]
            self._numbers = frozenset(int.from_bytes(begin, sys.byteorder) for begin in whole)
            self._by_begin = by_begin  # last: another thread sees all of it or nothing
        return self._by_begin

    def _likely(self, small: bytes) -> list[Needle]:
        """The needles whose first four bytes the text, in small letters, has; and those of three."""
        by_begin = self._tabled()
        begins = {begin for begin in self._short if begin in small}
        for start in range(0, len(small), _PIECE_BYTES):
            piece = small[start : start + _PIECE_BYTES + _BEGIN_BYTES - 1]
            for shift in range(_BEGIN_BYTES):
                whole = len(piece) - shift - (len(piece) - shift) % _BEGIN_BYTES
                if whole > 0:
                    with memoryview(piece[shift : shift + whole]) as view:
                        numbers = self._numbers.intersection(view.cast("I"))
                    begins.update(number.to_bytes(_BEGIN_BYTES, sys.byteorder) for number in numbers)
        return [needle for begin in begins for needle in by_begin[begin]]


def _ways(needle: Needle) -> Iterator[Needle]:
    """The needle, and as base64 and hexadecimal spell it."""
    yield needle
    data, letters = needle.data, needle.data.lower() != needle.data.upper()
    if not needle.encoded or (needle.fold and letters and len(data) < FOLDED_BYTES_MIN):
        return
    ends = not needle.before and not needle.after
    before, after = (
        encoded_length_max(len(data) if ends else min(around, AROUND_BYTES_MAX))
        for around in (needle.before, needle.after)
    )
    ways = {data, data.lower(), data.upper(), data.title()} if needle.fold and letters else {data}
    for way in ways:
        for piece in base64_pieces(way, ends=ends):
            yield Needle(piece, False, BASE64_GROUP, before, after)
        for piece in hexadecimal_pieces(way, ends=ends):
            yield Needle(piece, True, HEXADECIMAL_GROUP, before, after)
    for front in FRONTS if len(data) == NEEDLE_BYTES_MIN else b"":
        for piece in base64_pieces(bytes((front,)) + data, ends=ends):
            yield Needle(piece, False, BASE64_GROUP, before, after)


def _merged(found: Iterable[tuple[int, int, int]], sought: frozenset[int]) -> list[Stretch]:
    """One stretch for those of one group that touch, or overlap where they are what is sought; by start."""
    merged: list[Stretch] = []
    for group, start, end in sorted(found):
        if merged and merged[-1].group == group and merged[-1].end >= start + (group in sought):
            if end > merged[-1].end:
                merged[-1] = Stretch(group, merged[-1].start, end)
        else:
            merged.append(Stretch(group, start, end))
    merged.sort(key=lambda stretch: (stretch.start, stretch.group))
    return merged
