"""Read models from the objects that every door shows: the way back from `records.document`.

Owns the reading of fields by name, by the annotations of the types themselves: there is no second list of
them. A field that an older daemon does not send is None; one that is not known here is left out.
"""

import functools
import types
import typing
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct

T = TypeVar("T")

_NANO = "cost_nano_usd"
_USD = "cost_usd"
"""Money is shown in dollars and kept in billionths; see `records.models`."""


def read(kind: type[T], said: Any) -> T:
    """One read model. Raises msgspec.ValidationError for what is not an object."""
    if not isinstance(said, dict):
        raise msgspec.ValidationError(f"Expected an object for {kind.__name__}.")
    return cast("T", _struct(cast("Any", kind), cast("dict[str, Any]", said)))


def _struct(kind: Any, said: dict[str, Any]) -> Any:
    fields = _fields(kind)
    values = {name: _value(hint, said[name]) for name, hint in fields.items() if name in said}
    if _NANO in fields and _USD in said:
        values[_NANO] = None if said[_USD] is None else round(said[_USD] * 1e9)
    for name in fields.keys() - values.keys() - _defaulted(kind):
        values[name] = None
    return kind(**values)


def _value(hint: Any, said: Any) -> Any:
    if said is None:
        return None
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _value(_one_of(typing.get_args(hint), said), said)
    if origin is list and isinstance(said, list):
        (inner,) = typing.get_args(hint)
        return [_value(inner, item) for item in cast("list[Any]", said)]
    if origin is tuple and isinstance(said, list):
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item) for item in cast("list[Any]", said))
    if isinstance(hint, type) and issubclass(hint, Struct) and isinstance(said, dict):
        return _struct(hint, cast("dict[str, Any]", said))
    return said


def _one_of(hints: tuple[Any, ...], said: Any) -> Any:
    """Of a union the member that the value can be; None stands aside, it was seen to before."""
    rest = [hint for hint in hints if hint is not type(None)]
    structs = [hint for hint in rest if isinstance(hint, type) and issubclass(hint, Struct)]
    if isinstance(said, dict) and structs:
        return structs[0]
    return rest[0] if len(rest) == 1 else Any


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in kind.__struct_fields__}


@functools.cache
def _defaulted(kind: Any) -> frozenset[str]:
    return frozenset(field.name for field in msgspec.structs.fields(kind) if not field.required)
