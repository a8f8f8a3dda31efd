"""Bytes as text: which encoding they have, where characters begin, where lines begin.

Owns the decision whether a file is text at all. It is taken on the file's first bytes:

1. A byte order mark says UTF-8 or UTF-16, and is no part of the text.
2. NUL bytes at every second place, all of them even or all of them odd, between readable characters: UTF-16
   without its mark.
3. Any other NUL: binary. No text has one, and nearly every binary format has one soon.
4. Bytes that are UTF-8: text, whatever control characters are among them (coloured logs are full of them).
5. Other bytes, most of which are UTF-8 where they are above ASCII: UTF-8 with faults. Those become U+FFFD
   and are counted.
6. Other bytes, no control characters among them (but those of terminals): Latin-1, in which every byte is a
   character.
7. The rest: binary.

Knows nothing of files. Used by the tools that read and search them.
"""

import codecs
from array import array
from sys import byteorder
from typing import Literal, get_args

from msgspec import Struct

HEAD_BYTES = 8192  # what the decision is taken on: as much as git and ripgrep look at, in one read

CHARACTER_BYTES_MAX = 4  # of UTF-8 and of UTF-16

EncodingName = Literal["utf-8", "utf-16-le", "utf-16-be", "latin-1"]

UTF8_MARK = codecs.BOM_UTF8
_UTF32_MARK = codecs.BOM_UTF32_LE  # begins as UTF-16's does

_READABLE = frozenset((*range(0x20, 0x7F), *b"\t\n\r"))
_TERMINAL = b"\a\b\t\n\v\f\r\x1b"
_CONTROL = bytes(set(range(0x20)) - set(_TERMINAL)) + b"\x7f"


class Encoding(Struct, frozen=True):
    """How the bytes of a text are to be read."""

    name: EncodingName
    mark_bytes: int = 0
    """Length of the byte order mark at the file's beginning."""


UTF8 = Encoding("utf-8")


def encoding_of(head: bytes) -> Encoding | None:
    """The encoding of a text that begins so; None: it is none. `head` has HEAD_BYTES, or is all there is."""
    if head.isascii() and b"\0" not in head:
        return UTF8
    if head.startswith(UTF8_MARK):
        return Encoding("utf-8", len(UTF8_MARK))
    if head.startswith(_UTF32_MARK):
        return None
    if head.startswith(codecs.BOM_UTF16_LE):
        return Encoding("utf-16-le", 2)
    if head.startswith(codecs.BOM_UTF16_BE):
        return Encoding("utf-16-be", 2)
    if b"\0" in head:
        return _unmarked_utf16(head)
    return _of_eight_bits(head)


def marked(name: Literal["utf-8", "utf-16"] | EncodingName, head: bytes) -> Encoding:
    """The encoding that was asked for, with the mark that the file begins with."""
    if name == "utf-16":
        name = "utf-16-be" if head.startswith(codecs.BOM_UTF16_BE) else "utf-16-le"
    marks = {
        "utf-8": UTF8_MARK,
        "utf-16-le": codecs.BOM_UTF16_LE,
        "utf-16-be": codecs.BOM_UTF16_BE,
        "latin-1": b"",
    }
    mark = marks[name]
    return Encoding(name, len(mark) if head.startswith(mark) else 0)


def _unmarked_utf16(head: bytes) -> Encoding | None:
    even, odd = head[0::2], head[1::2]
    for high, low, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if b"\0" in low or high.count(0) * 2 < len(high):
            continue
        if sum(byte in _READABLE for byte, above in zip(low, high, strict=False) if above == 0) * 2 >= len(
            high
        ):
            return Encoding("utf-16-le" if name == "utf-16-le" else "utf-16-be")
    return None


def _of_eight_bits(head: bytes) -> Encoding | None:
    try:
        codecs.utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        pass
    else:
        return UTF8
    text = head.decode("utf-8", "surrogateescape")
    faults = sum("\udc80" <= character <= "\udcff" for character in text)
    others = sum(character > "\x7f" for character in text) - faults
    if others > faults:
        return UTF8
    return None if len(head.translate(None, _CONTROL)) < len(head) else Encoding("latin-1")


def decoded(data: bytes, encoding: Encoding) -> tuple[str, int]:
    """The text, and how many of its characters stand for bytes that are no text in this encoding."""
    try:
        return data.decode(encoding.name), 0
    except UnicodeDecodeError:
        text = data.decode(encoding.name, "replace")
        meant = data.decode(encoding.name, "ignore").count("\ufffd")
        return text, text.count("\ufffd") - meant


def whole_characters(window: bytes, begin: int, end: int, encoding: Encoding, at: int) -> tuple[int, int]:
    """`begin` and `end` moved inwards so that neither is inside a character.

    Both are places in `window`, which stands at place `at` of the file and holds what there is of
    CHARACTER_BYTES_MAX bytes more on either side.
    """
    begin = _character_around(window, begin, encoding, at)[1]
    end = _character_around(window, end, encoding, at)[0]
    return begin, max(begin, end)


def _character_around(window: bytes, place: int, encoding: Encoding, at: int) -> tuple[int, int]:
    """Beginning and end of the character that `place` is inside of; `place` twice if it is between two."""
    if encoding.name == "utf-8":
        return _utf8_around(window, place)
    if encoding.name == "latin-1":
        return place, place
    odd = (at + place) % 2
    first = place - odd
    if odd and first + 2 > len(window):  # half a character at the end of the file
        return place, place
    low, high = (first, first - 2)
    if (
        high >= 0
        and _unit(window, high, encoding) >> 10 == 0x36
        and _unit(window, low, encoding) >> 10 == 0x37
    ):
        return high, low + 2
    return (first, first + 2) if odd else (place, place)


def _unit(window: bytes, place: int, encoding: Encoding) -> int:
    """The 16 bits there; 0 behind the end."""
    order: Literal["little", "big"] = "little" if encoding.name == "utf-16-le" else "big"
    pair = window[place : place + 2]
    return int.from_bytes(pair, order) if len(pair) == 2 else 0


def _utf8_around(window: bytes, place: int) -> tuple[int, int]:
    for first in range(place - 1, max(-1, place - CHARACTER_BYTES_MAX), -1):
        byte = window[first]
        if byte & 0xC0 == 0x80:
            continue
        size = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        if first + size > place:
            try:
                window[first : first + size].decode()
            except UnicodeDecodeError:
                break
            return first, first + size
        break
    return place, place


class Lines:
    """Where lines end in chunks of an encoding: behind each line feed."""

    def __init__(self, name: EncodingName) -> None:
        self._wide = name.startswith("utf-16")
        native = "utf-16-le" if byteorder == "little" else "utf-16-be"
        self._feed = 0x0A if name == native else 0x0A00
        self._feed_bytes = "\n".encode(name)

    def count(self, chunk: bytes) -> int:
        """How many lines end in it."""
        return self._units(chunk).count(self._feed) if self._wide else chunk.count(b"\n")

    def count_begun(self, text: bytes) -> int:
        """How many there are in it, if it begins where a line does; the last need not have ended."""
        return self.count(text) + (len(text) > 0 and not self.have_ended(text))

    def have_ended(self, text: bytes) -> bool:
        """Whether the last of them has. The text is not cut inside a character."""
        return text.endswith(self._feed_bytes)

    def behind(self, chunk: bytes, number: int) -> int:
        """The place behind the line feed of this number, counted from 1, of those in the chunk."""
        if not self._wide:
            return len(chunk) - len(chunk.split(b"\n", number)[number])
        units = self._units(chunk)
        place = 0
        for _ in range(number):
            place = units.index(self._feed, place) + 1
        return place * 2

    def _units(self, chunk: bytes) -> "array[int]":
        return array("H", chunk[: len(chunk) // 2 * 2])


_LINES = {name: Lines(name) for name in get_args(EncodingName)}


def lines_of(encoding: Encoding) -> Lines:
    """How its lines are told apart."""
    return _LINES[encoding.name]
