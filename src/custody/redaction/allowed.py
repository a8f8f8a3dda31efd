"""What a person has said is no secret: fingerprints, and the file that says them to every opener of a store.

Owns the fold of the events `redaction.allowed` and `redaction.disallowed`, and the file's form. The record is
the truth; the file is a view of it that can be read before the index is, and a damaged one allows nothing.
Knows nothing of where the file lies. Used by `compose` and by `custody redact`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.records import rfc3339

ALLOWED = "redaction.allowed"
DISALLOWED = "redaction.disallowed"

FINGERPRINT = re.compile(r"[0-9a-f]{8}")
TOKEN = re.compile(r"\[redacted:([a-z0-9_]+):([0-9a-f]{8})\]")

NEVER = frozenset({"known_value", "sensitive_key", "url_credentials", "unscanned"})
"""Rules whose finds stay secrets, whoever says otherwise."""


class Allowed(Struct, frozen=True, kw_only=True):
    """One fingerprint that scanners pass over."""

    fingerprint: str
    rule: str | None
    """Which rule found it, where that was said."""
    reason: str
    at: str
    """RFC 3339: since when."""


class _File(Struct, kw_only=True):
    allowed: tuple[Allowed, ...]
    version: int = 1


def folded(events: Iterable[tuple[str, str, Mapping[str, Any]]]) -> dict[str, Allowed]:
    """What is allowed after these events (name, time, data), which come in their order.

    One that was said again, as its first record was dropped, counts where it was said first.
    """
    allowed: dict[str, Allowed] = {}
    said = [(name, _said_at(at, data), data) for name, at, data in events]
    for name, at, data in sorted(said, key=lambda event: event[1]):
        fingerprint = str(data.get("fingerprint"))
        allowed.pop(fingerprint, None)
        if name == ALLOWED:
            rule = data.get("rule")
            allowed[fingerprint] = Allowed(
                fingerprint=fingerprint,
                rule=None if rule is None else str(rule),
                reason=str(data.get("reason")),
                at=at,
            )
    return allowed


def _said_at(at: str, data: Mapping[str, Any]) -> str:
    first: Any = data.get("said_first")
    return rfc3339(first["at_us"]) if first else at


def encode(allowed: Iterable[Allowed]) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(_File(allowed=tuple(allowed)))) + b"\n"


def fingerprints_in(data: bytes | None) -> frozenset[str]:
    """What a file of this content allows. Raises ValueError for one that is none."""
    if data is None:
        return frozenset()
    file = msgspec.json.decode(data, type=_File)  # its error is a ValueError
    found = frozenset(one.fingerprint for one in file.allowed)
    if file.version != 1 or not all(map(FINGERPRINT.fullmatch, found)):
        raise ValueError("it is of another version, or holds what is no fingerprint")
    return found
