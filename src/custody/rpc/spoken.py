"""Values of a program as JSON, for the wire, and back.

Owns what is sent for a value that is not JSON: the mark that the record would have of it. Whoever hears it
makes marks of them again before it is redacted, so that what is recorded is the same over a wire and without
one. Used by the client for arguments, results and texts, and by the methods that record them.
"""

import base64
import binascii
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgspec

from custody.redaction import MARK_KEYS, Mark, plain
from custody.redaction.typed import class_name, integer, reduce, surrogates

DEPTH_MAX = 64
"""As deep as the record goes: what is below it would not be kept."""

_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1  # what msgspec encodes
_type: Any = type  # untyped, as nothing is known of what a program says
_subclass: Any = issubclass


class Spoken(NamedTuple):
    """A value for the wire."""

    value: Any
    marked: bool
    """Whether marks stand in it for what is not JSON; else a mapping that looks like one is a mapping."""


def spoken(value: Any) -> Spoken:
    """The value as JSON can hold it. Raises for no value."""
    try:
        if _is_plain(value, 0):
            return Spoken(value, False)
        return Spoken(_Walk().value(value, 0), True)
    except Exception as error:  # the value's own code, or changed by another thread meanwhile
        mark = {"$type": "object", "class": class_name(value), "error": type(error).__name__}
        return Spoken(mark, True)


def heard(value: Any, *, marked: bool) -> Any:
    """What `spoken` was given, as far as the record keeps it. What a mark holds is redacted like anything."""
    return _heard(value) if marked else value


def _heard(value: Any) -> Any:
    if isinstance(value, list):
        return [_heard(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("dict[str, Any]", value)
    inside = {name: _heard(item) for name, item in named.items()}
    kind = named.get("$type")
    if kind == "bytes" and isinstance(named.get("base64"), str):
        try:
            return base64.b64decode(named["base64"], validate=True)
        except binascii.Error:
            return Mark(inside)
    if kind == "float" and named.get("value") in _FLOATS:
        return _FLOATS[named["value"]]
    if kind == "str" and isinstance(named.get("escaped"), str):
        return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", named["escaped"])
    if kind == "mapping":
        return _mapping(inside.get("items")) or Mark(inside)
    return inside if kind is None else Mark(inside)


def _mapping(items: Any) -> dict[Any, Any] | None:
    """A mapping that only looked like a mark, or whose names are no texts; None for what was none."""
    try:
        return dict(items)
    except (TypeError, ValueError):
        return None


_ESCAPED = re.compile(r"\\(?:\\|u([0-9a-f]{4}))")  # as `surrogates` writes them

_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def size_bytes(value: Any) -> int:
    """Of what `spoken` gave, encoded."""
    return len(msgspec.json.encode(value))


def _is_plain(value: Any, depth: int) -> bool:
    """Whether it is JSON as it stands. A mapping that looks like a mark is not: it must be told from one."""
    kind = _type(value)
    if kind is str:
        return value.isascii() or _encodable(value)
    if value is None or kind is bool:
        return True
    if kind is int:
        return _INTEGER_MIN <= value <= _INTEGER_MAX
    if kind is float:
        return math.isfinite(value)
    if depth >= DEPTH_MAX:
        return False
    if kind is dict:
        return all(
            type(name) is str and name not in MARK_KEYS and _is_plain(name, depth) for name in value
        ) and all(_is_plain(item, depth + 1) for item in value.values())
    return kind is list and all(_is_plain(item, depth + 1) for item in value)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Walk:
    """One value that is not plain, on its way to marks."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def value(self, value: Any, depth: int) -> Any:
        kind = _type(value)
        if value is None or kind is bool:
            return value
        if kind is str or kind is bytes or kind is int or kind is float:
            return _scalar(value, kind)
        if _subclass(kind, (bytes, bytearray, memoryview)):
            return _scalar(bytes(value), bytes)
        if id(value) in self._open:
            return {"$type": "cycle", "class": class_name(value)}
        if depth >= DEPTH_MAX:
            return {"$type": "too_deep", "class": class_name(value)}
        self._open.add(id(value))
        try:
            return self._inside(value, kind, depth)
        finally:
            self._open.discard(id(value))

    def _inside(self, value: Any, kind: type, depth: int) -> Any:
        if kind is dict:
            return self._mapping(value, depth)
        if kind is list or kind is tuple:
            return [self.value(item, depth + 1) for item in list(value)]
        reduced = value if kind is Mark else reduce(value)
        if type(reduced) is Mark:
            return {name: self.value(item, depth + 1) for name, item in reduced.items()}
        return self.value(reduced, depth + 1)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        pairs = [(name, self.value(item, depth + 1)) for name, item in list(value.items())]
        if all(type(name) is str and name not in MARK_KEYS and _encodable(name) for name, _ in pairs):
            return dict(pairs)
        return {"$type": "mapping", "items": [[self.value(name, depth + 1), item] for name, item in pairs]}


def _scalar(value: Any, kind: type) -> Any:
    if kind is str:
        return value if _encodable(value) else {"$type": "str", "escaped": surrogates(value)}
    if kind is int:
        return value if _INTEGER_MIN <= value <= _INTEGER_MAX else dict(integer(value))
    return plain(value)
