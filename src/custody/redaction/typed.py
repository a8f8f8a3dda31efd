"""Values that are not JSON: what stands in the record for each, one level at a time.

Owns the marks, mappings with a `$type`, and `plain`, which renders a decoded payload as JSON. Knows
nothing of secrets or sizes: the redactor walks into what is returned here. Used by the redactor, and
`plain` by everything that shows a payload.

Marks: `bytes` (base64; in the payload itself the raw bytes), `float` (NaN and infinities), `int` (beyond
64 bits), `str` (text with lone surrogates, backslash-escaped), `set`, `datetime date time timedelta uuid
path decimal fraction complex range` (value), `enum`, `mapping` (items; for keys that are not text, or a
key of the value's own that marks are known by), `object` (class and fields, or class and repr), `cycle`,
`too_deep`, `too_large`, `unscanned` (bytes, digest under the store's key; for text that was not searched for
secrets because the record's budget was spent).
"""

import base64
import math
import os
import sys
from collections.abc import Callable, Iterable, KeysView, Mapping, ValuesView
from typing import Any, cast

from custody.cuts import beginning

REPR_CHARACTERS_MAX = 4096
"""Enough to recognise an object; a table's or a tensor's repr has no end."""

_CLASS_CHARACTERS_MAX = 256
_DECIMAL_BITS_MAX = 4096
"""Larger integers are written in hexadecimal: decimal takes quadratic time."""


MARK_KEYS = frozenset({"$type", "$blob", "$digest", "$omitted"})
"""Keys by which a mark is known; a caller's own mapping that has one is kept as a `mapping` mark. The last
three are the recorder's."""


class Mark(dict[str, Any]):
    """A mapping that stands for a value that is not JSON, told from a mapping that only looks like one."""


def class_name(value: object) -> str:
    kind = type(value)
    try:
        return f"{kind.__module__}.{kind.__qualname__}"[:_CLASS_CHARACTERS_MAX]
    except Exception:  # a metaclass may define either name as anything
        return "unknown"


def bounded_repr(value: object) -> str:
    """The object's repr, cut with a count; never raises what the object raises."""
    try:
        text = str.__str__(repr(value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"<repr raised {type(error).__name__}>"
    if len(text) > REPR_CHARACTERS_MAX:
        kept = beginning(text, REPR_CHARACTERS_MAX)
        return f"{kept}[{len(text) - len(kept)} characters dropped]"
    return text


def integer(value: int) -> Mark:
    """Stands for an integer beyond 64 bits."""
    digits = str(value) if value.bit_length() <= _DECIMAL_BITS_MAX else hex(value)
    return Mark({"$type": "int", "value": digits})


def surrogates(text: str) -> str:
    """Text that UTF-8 cannot hold, escaped so that it can be read and turned back."""
    return text.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def opaque(value: object) -> Mark:
    return Mark({"$type": "object", "class": class_name(value), "repr": bounded_repr(value)})


def reduce(value: object) -> Any:
    """One step from an odd value towards plain data: a `Mark`, a dict, a list or a scalar.

    What is inside may be odd again. Never raises; never consumes an iterator.
    """
    try:
        reduced = _reduce(value, type(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # the value's own code ran: properties, iteration, model_dump
        return opaque(value)
    return opaque(value) if reduced is None else reduced


def _reduce(value: Any, kind: type) -> Any:
    fields = _fields(value, kind)
    if fields is not None:
        return Mark({"$type": "object", "class": class_name(value), "fields": fields})
    for base in kind.__mro__:
        convert = _BY_NAME.get(f"{base.__module__}.{base.__qualname__}")
        if convert is not None:
            return convert(value)
    if hasattr(kind, "__fspath__"):
        return Mark({"$type": "path", "value": os.fspath(value)})
    if issubclass(kind, _MAPPING):
        return dict(value.items())
    if issubclass(kind, _VIEWS):
        return list(value)
    return _number(value, kind)


_MAPPING: Any = Mapping
_VIEWS: Any = (KeysView, ValuesView)


def _number(value: Any, kind: type) -> Any:
    """Numbers of other libraries, which register with `numbers`: so it is loaded where there are any."""
    numbers = sys.modules.get("numbers")
    if numbers is not None and issubclass(kind, numbers.Integral):
        return int(value)
    if numbers is not None and issubclass(kind, numbers.Real):
        return float(value)
    return None


_TUPLE: Any = tuple


def _fields(value: Any, kind: type) -> dict[str, Any] | None:
    """The named parts of a record-like object."""
    names: Iterable[str] | None = None
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        names = [field.name for field in fields(cast("Any", kind))]
    elif issubclass(kind, _TUPLE):
        named: Any = getattr(kind, "_fields", None)
        return None if named is None else dict(zip(named, _items(tuple, value), strict=False))
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in _attribute(kind, "__attrs_attrs__")]
    elif hasattr(kind, "__struct_fields__"):
        names = _attribute(kind, "__struct_fields__")
    elif hasattr(kind, "model_dump"):
        return dict(value.model_dump())
    return None if names is None else {name: getattr(value, name) for name in names}


def _attribute(kind: type, name: str) -> Any:
    return getattr(kind, name)


def _items(base: Any, value: Any) -> list[Any]:
    """The items a built-in container holds, whatever its subclass says of them."""
    return list(base.__iter__(value))


def _value(name: str, show: Callable[[Any], str] = str) -> Callable[[Any], Mark]:
    return lambda value: Mark({"$type": name, "value": show(value)})


def _set(base: type) -> Callable[[Any], Mark]:
    return lambda value: Mark({"$type": "set", "items": _items(base, value)})


def _iso(value: Any) -> str:
    return value.isoformat()


def _enum(value: Any) -> Mark:
    return Mark({"$type": "enum", "class": class_name(value), "name": value.name, "value": value.value})


_DICT: Any = dict

_BY_NAME: dict[str, Callable[[Any], Any]] = {
    # A member of an enumeration that is text or a number too is found as that.
    "builtins.str": str.__str__,
    "builtins.int": int.__int__,
    "builtins.float": float.__float__,
    "builtins.complex": _value("complex"),
    "builtins.range": _value("range"),
    "builtins.dict": lambda value: dict(_DICT.items(value)),
    "builtins.list": lambda value: _items(list, value),
    "builtins.tuple": lambda value: _items(tuple, value),
    "builtins.set": _set(set),
    "builtins.frozenset": _set(frozenset),
    "collections.deque": list,
    "datetime.datetime": _value("datetime", _iso),
    "datetime.date": _value("date", _iso),
    "datetime.time": _value("time", _iso),
    "datetime.timedelta": lambda value: Mark({"$type": "timedelta", "seconds": value.total_seconds()}),
    "decimal.Decimal": _value("decimal"),
    "enum.Enum": _enum,
    "fractions.Fraction": _value("fraction"),
    "uuid.UUID": _value("uuid"),
}
"""By the name of the class or of one it derives from, so that no library is loaded to recognise its types."""


# -- showing ------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A decoded payload value as JSON can hold it: bytes and odd floats become their marks."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, bytes):
        return {"$type": "bytes", "base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$type": "float", "value": _FLOAT_NAMES[str(value)]}
    return value


_FLOAT_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
