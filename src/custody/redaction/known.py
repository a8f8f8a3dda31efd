"""What stands for a secret, and the finding of values the runtime was told of.

Owns the token's fingerprint and the search for known values in their spellings. Knows nothing of names or
of the shape of values. Used by the redactor.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from custody import native

_Text = TypeVar("_Text", str, bytes)

_DIGEST_PIECE_BYTES = 2047
"""hashlib gives up the interpreter lock for more at once."""

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""RFC 3986, section 2.3."""


class Fingerprints:
    """HMAC-SHA256 (RFC 2104), in pieces small enough for hashlib to keep the interpreter lock; hmac's
    own call into OpenSSL always gives it up."""

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def token(self, rule: str, secret: bytes) -> str:
        inner = self._inner.copy()
        for start in range(0, len(secret), _DIGEST_PIECE_BYTES):
            inner.update(secret[start : start + _DIGEST_PIECE_BYTES])
        outer = self._outer.copy()
        outer.update(inner.digest())
        return f"[redacted:{rule}:{outer.hexdigest()[:8]}]"


class KnownValues:
    """Finds and replaces the values the runtime was told of, also as JSON and URLs would spell them."""

    def __init__(self, known: Mapping[str, str], fingerprints: Fingerprints) -> None:
        needles: dict[str, str] = {}
        for value in known.values():
            value = value.strip()
            token = fingerprints.token("known_value", encoded(value))
            for spelling in _spellings(value):
                needles.setdefault(spelling, token)
        self._texts = tuple(needles.items())
        self._bytes = tuple((encoded(text), token.encode()) for text, token in needles.items())
        self.byte_needles = tuple(needle for needle, _ in self._bytes)

    def replace(self, text: str) -> tuple[str, int]:
        """The text without known values, and how many there were."""
        parts, count = _parts(text, self._texts)
        return ("".join(parts), count) if count else (text, 0)

    def replace_bytes(self, data: bytes) -> tuple[bytes, int]:
        parts, count = _parts(data, self._bytes)
        return (b"".join(parts), count) if count else (data, 0)


def holds_any_in_python(data: bytes, needles: tuple[bytes, ...]) -> bool:
    """`holds_any`, in Python."""
    for needle in needles:  # noqa: SIM110 - a generator costs more than the search
        if needle in data:
            return True
    return False


holds_any = native.holds_any or holds_any_in_python
"""Whether any of the needles stands in the bytes."""


def _spellings(value: str) -> list[str]:
    if not value:
        return []
    quoted = "".join(chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in encoded(value))
    spellings = [value, quoted]
    if encodable(value):
        spellings.append(msgspec.json.encode(value).decode()[1:-1])
    return spellings


def encoded(text: str) -> bytes:
    """The bytes an environment's text was made of (PEP 383)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that no bytes were decoded to
        return text.encode("utf-8", "surrogatepass")


def _parts(text: _Text, needles: Sequence[tuple[_Text, _Text]]) -> tuple[list[_Text], int]:
    """Each stretch covered by needles, overlapping ones too, becomes the token of its longest."""
    found: list[tuple[int, int, _Text]] = []
    for needle, token in needles:
        end = -1
        at = text.find(needle)
        while at >= 0:
            if at < end:  # it overlaps itself
                found[-1] = (found[-1][0], at + len(needle), token)
            else:
                found.append((at, at + len(needle), token))
            end = at + len(needle)
            at = text.find(needle, at + 1)
    if not found:
        return [], 0
    found.sort(key=lambda span: (span[0], -span[1]))
    return _cover(text, found)


def _cover(text: _Text, spans: list[tuple[int, int, _Text]]) -> tuple[list[_Text], int]:
    """Replace spans sorted by start; those that overlap are one."""
    parts: list[_Text] = []
    kept_to = 0
    count = 0
    start, end, token = spans[0]
    longest = end - start
    for next_start, next_end, next_token in [*spans[1:], (len(text), len(text), text[:0])]:
        if next_start < end:
            if next_end - next_start > longest:
                longest, token = next_end - next_start, next_token
            end = max(end, next_end)
            continue
        parts += (text[kept_to:start], token)
        kept_to, count = end, count + 1
        start, end, token, longest = next_start, next_end, next_token, next_end - next_start
    parts.append(text[kept_to:])
    return parts, count


def encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
