"""The ways a text is written down by something else: JSON, URLs, shells, base64, hexadecimal.

Owns the spellings of a value, the pieces by which an encoded one is recognised, and the decoding of the
stretch around such a piece, with the way back to the places in the text. Knows nothing of rules or tokens.
Used by the scanner.

Base64 shifts what stands behind other bytes by two or four bits, so each text has three spellings, and none
knows its neighbours: the characters it shares with them are left out of the pieces. Lines are broken at any
place (`base64` at 76 characters, MIME, PEM, YAML), so a piece of the begin and one of the end are searched
for, and the decoded text decides.
"""

import binascii
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec

BASE64, HEXADECIMAL, URL = "base64", "hex", "url"

PIECE_CHARACTERS_MIN = 4
PIECE_CHARACTERS_MAX = 12
"""Of an encoded spelling that are searched for. The decoded text decides, so more would gain nothing; of
fewer an image is full."""

RUN_CHARACTERS_MIN = 8
"""Shorter runs hold no secret."""

LINE_CHARACTERS_MIN = 32
"""Lines are not broken shorter than this by what breaks them; the expressions below know it too."""

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""RFC 3986, section 2.3."""

_QUOTED = [bytes((byte,)) if byte in _UNRESERVED else b"%%%02X" % byte for byte in range(256)]

_URL_ALPHABET = bytes.maketrans(b"+/", b"-_")
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")

_LINE_END = rb"(?:\r?\n|(?:\\\\?r)?\\\\?n)[ \t]*"
"""A line's end, also as JSON spells it, once or twice, and the indentation behind it."""

_RUNS = {
    BASE64: rb"(?:[A-Za-z0-9+/_-]{32,}" + _LINE_END + rb")*[A-Za-z0-9+/_-]{2,}",
    HEXADECIMAL: rb"(?:[0-9A-Fa-f]{32,}" + _LINE_END + rb")*[0-9A-Fa-f]{2,}",
}

_compiled = cache(re.compile)
"""Where an expression is first needed: most processes need none."""

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def encoded(text: str) -> bytes:
    """The bytes an environment's text was made of (PEP 383)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that no bytes were decoded to
        return text.encode("utf-8", "surrogatepass")


def spellings(value: str) -> list[bytes]:
    """The value as text, JSON (also inside JSON), Python, URLs, forms, shells and markup spell it; itself
    first."""
    data = encoded(value)
    if _UNRESERVED.issuperset(data):
        return [data]
    found = [data, *_in_urls(data)]
    try:
        data.decode()
    except UnicodeDecodeError:
        return [*dict.fromkeys(found)]
    value = data.decode()
    for once in _in_json(value):
        found.append(once.encode())
        found += [twice.encode() for twice in _in_json(once)]
    found += (shown.encode() for shown in (repr(value)[1:-1], ascii(value)[1:-1], repr(data)[2:-1]))
    found.append(value.replace("'", "'\\''").encode())
    found.append(value.translate(_HTML).encode())
    return [*dict.fromkeys(found)]


def _in_json(value: str) -> list[str]:
    text = msgspec.json.encode(value).decode()[1:-1]
    ascii_only = "".join(character if character < "\x80" else _escaped(character) for character in text)
    return [text, ascii_only, text.replace("/", "\\/")]


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def in_url(data: bytes) -> bytes:
    return b"".join([_QUOTED[byte] for byte in data])


def _in_urls(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    for plain in (b"", b"/", b"!'()*"):
        for form in (b"%%%02X", b"%%%02x"):
            quoted = b"".join(
                bytes((byte,)) if byte in _UNRESERVED or byte in plain else form % byte for byte in data
            )
            found += (quoted, quoted.replace(b"%20", b"+"))
    return found


# -- the pieces by which an encoded text is recognised --------------------------------------------------


def base64_pieces(data: bytes, *, ends: bool) -> set[bytes]:
    """Pieces of each base64 spelling, in both alphabets: of its begin, and with `ends` of its end as well."""
    pieces: set[bytes] = set()
    for shift in range(3):
        whole = binascii.b2a_base64(bytes(shift) + data, newline=False)
        own = whole[(0, 2, 3)[shift] : (shift + len(data)) * 8 // 6]
        pieces.update(_pieces(own, ends=ends))
    return pieces | {piece.translate(_URL_ALPHABET) for piece in pieces}


def hexadecimal_pieces(data: bytes, *, ends: bool) -> set[bytes]:
    """As `base64_pieces`, in small letters."""
    return _pieces(binascii.hexlify(data), ends=ends)


def _pieces(own: bytes, *, ends: bool) -> set[bytes]:
    if len(own) < PIECE_CHARACTERS_MIN:
        return set()
    if not ends:
        return {own[:PIECE_CHARACTERS_MAX]}
    half = min(PIECE_CHARACTERS_MAX, max(PIECE_CHARACTERS_MIN, len(own) // 2))
    return {own[:half], own[-half:]}


def encoded_length_max(length: int) -> int:
    """Characters that so many bytes take at most in base64 or hexadecimal, broken into lines."""
    characters = 2 * length + RUN_CHARACTERS_MIN
    return characters + 4 * (characters // LINE_CHARACTERS_MIN)


# -- decoding ---------------------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """What a run of encoded characters says, if it begins so many characters in."""

    data: bytes
    shift: int
    bits: int
    """Of one character."""
    pieces: tuple[tuple[int, int], ...]
    """Where the lines of the run begin, in it without its breaks, and in the text."""
    end: int

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the text that hold these bytes, whole or in part."""
        first = self.shift + start * 8 // self.bits
        last = self.shift + -(-end * 8 // self.bits) - 1
        return self._in_text(first), min(self._in_text(last) + 1, self.end)

    def _in_text(self, at: int) -> int:
        own, there = self.pieces[bisect_right(self.pieces, (at, 2**62)) - 1]
        return there + at - own


def decoded(
    encoding: str, data: bytes, start: int, end: int, worth_it: Callable[[bytes], object]
) -> Iterator[Decoded]:
    """What the runs in a stretch of the text may say, of those that look worth it. Where one begins is not
    known, nor whether the last line is a part of it: each way is tried."""
    for run in _compiled(_RUNS[encoding]).finditer(data, start, end):
        if run.end() - run.start() < RUN_CHARACTERS_MIN or not worth_it(run[0]):
            continue
        breaks = [found.span() for found in _compiled(_LINE_END).finditer(data, run.start(), run.end())]
        yield from _readings(encoding, data, run.start(), run.end(), breaks)
        if breaks:
            yield from _readings(encoding, data, run.start(), breaks[-1][0], breaks[:-1])
            yield from _readings(encoding, data, breaks[-1][1], run.end(), [])


_URL_RUN = rb"[^\s\"'<>\\]+"
_PERCENT = rb"%([0-9A-Fa-f]{2})"


class Unquoted(NamedTuple):
    """What a part of a URL says."""

    data: bytes
    places: tuple[tuple[int, int], ...]
    """Where what begins at an escape, or behind one, stands in the data and in the text."""
    end: int

    def place(self, start: int, end: int) -> tuple[int, int]:
        return self._in_text(start), self._in_text(end) if end < len(self.data) else self.end

    def _in_text(self, at: int) -> int:
        own, there = self.places[bisect_right(self.places, (at, 2**62)) - 1]
        return there + at - own


def unquoted(data: bytes, start: int, end: int) -> Iterator[Unquoted]:
    """What the percent-encoded runs in a stretch of the text say (RFC 3986, section 2.1)."""
    for run in _compiled(_URL_RUN).finditer(data, start, end):
        if data.find(b"%", run.start(), run.end()) < 0:
            continue
        bits: list[Any] = _compiled(_PERCENT).split(run[0])  # text, escape, text, escape, …, text
        escaped = binascii.unhexlify(b"".join(bits[1::2]))
        if not escaped:
            continue
        places = [(0, run.start())]
        at, there = 0, run.start()
        for text in bits[:-1:2]:
            at += len(text) + 1
            there += len(text) + 3
            places += ((at - 1, there - 3), (at, there))
        bits[1::2] = [escaped[at : at + 1] for at in range(len(escaped))]
        yield Unquoted(b"".join(bits), tuple(places), run.end())


def _readings(
    encoding: str, data: bytes, start: int, end: int, breaks: list[tuple[int, int]]
) -> Iterator[Decoded]:
    plain, pieces = _without_breaks(data, start, end, breaks)
    if encoding == HEXADECIMAL:
        for shift in range(2):
            whole = plain[shift : shift + (len(plain) - shift) // 2 * 2]
            yield Decoded(binascii.unhexlify(whole), shift, 4, pieces, end)
        return
    plain = plain.translate(_STANDARD_ALPHABET)
    for shift in range(4):
        whole = plain[shift:]
        whole = whole[:-1] if len(whole) % 4 == 1 else whole
        padded = whole + b"=" * (-len(whole) % 4)
        yield Decoded(binascii.a2b_base64(padded), shift, 6, pieces, end)


def _without_breaks(
    data: bytes, start: int, end: int, breaks: list[tuple[int, int]]
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The run without its line ends, and where each of its lines begins in that and in the text."""
    lines: list[bytes] = []
    pieces: list[tuple[int, int]] = []
    length = 0
    for stop, next_start in [*breaks, (end, end)]:
        lines.append(data[start:stop])
        pieces.append((length, start))
        length += stop - start
        start = next_start
    return b"".join(lines), tuple(pieces)
