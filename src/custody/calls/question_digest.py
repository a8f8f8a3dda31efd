"""The digest a yes is bound to: of a tool, all its arguments with their content, and where and under what.

Owns the one spelling of any value that tells apart what differs. Knows nothing of questions. Used by
`answers`.
"""

import datetime as dt
import enum
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence, Set
from typing import Any, cast

import msgspec

LABEL = b"custody question 1\n"
"""What the digest is of; another spelling gets another number, and old answers open nothing."""

NONCE_BYTES = 32


def question_digest(
    key: bytes,
    *,
    tool: str,
    arguments: Mapping[str, Any],
    cwd: str | None,
    agent: str | None,
    policy_digest: str | None,
    dry_run: bool = False,
    walls: Any = None,
    opens: Sequence[tuple[str, str]] = (),
    difference: str | None = None,
    input_unread: bool = False,
) -> str:
    """HMAC-SHA-256 in hex. `walls`: sandbox and roots of a command that is confined; `opens`: the paths a yes
    opens, and why each is closed; `difference`: the digest of what the call would make of files.

    What cannot be spelled makes a digest like no other, and such a call is asked about each time: a value of
    the caller's own, or `input_unread`, what a command will be handed on its standard input.
    """
    asked = (tool, arguments, cwd, agent, policy_digest, *(("dry run",) if dry_run else ()))
    if walls is not None:
        asked = (*asked, "walls", walls)
    if opens:
        asked = (*asked, "opens", sorted(opens))
    if difference is not None:
        asked = (*asked, "difference", difference)
    try:
        text = os.urandom(NONCE_BYTES) if input_unread else msgspec.json.encode(_spelled(asked))
    except (TypeError, ValueError, RecursionError, RuntimeError, UnicodeError):
        text = os.urandom(NONCE_BYTES)
    return hmac.new(key, LABEL + text, hashlib.sha256).hexdigest()


def _spelled(value: Any) -> Any:
    """As JSON that says of each value what kind it is: 1 is not 1.0, nor True, nor "1"."""
    kind = cast("type[Any]", type(value))
    if value is None or kind is bool:
        return value
    if kind is str:
        return _text(value)
    if kind is int:
        return ["i", str(value)]
    if kind is float:
        return ["f", value.hex()]
    if kind in (bytes, bytearray, memoryview):
        return ["b", bytes(value).hex()]
    if isinstance(value, Mapping):
        return ["m", *_pairs(cast("Mapping[Any, Any]", value))]
    if isinstance(value, list | tuple):
        return ["l", *(_spelled(item) for item in cast("Sequence[Any]", value))]
    if isinstance(value, Set):
        members = (msgspec.json.encode(_spelled(item)) for item in cast("Set[Any]", value))
        return ["s", *(member.decode() for member in sorted(members))]
    return ["o", kind.__module__, kind.__qualname__, _content(value)]


def _text(value: str) -> Any:
    """Lone surrogates (a path that is not UTF-8) are no JSON."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return ["u", value.encode("utf-8", "surrogatepass").hex()]
    return value


def _pairs(value: Mapping[Any, Any]) -> list[Any]:
    """In an order that is not the mapping's own."""
    pairs = [[_spelled(name), _spelled(item)] for name, item in value.items()]
    return sorted(pairs, key=lambda pair: msgspec.json.encode(pair[0]))


def _content(value: Any) -> Any:
    """Of the few other kinds whose content is known. Raises TypeError for the rest."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return _spelled(os.fspath(cast("os.PathLike[Any]", value)))
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, msgspec.Struct):
        return [_spelled(getattr(value, name)) for name in value.__struct_fields__]
    raise TypeError("its content cannot be told")
