"""Whether a condition on the state holds.

Owns the operators. Pure. A condition that cannot be judged does not hold: an
unknown operator, an order between what are not both numbers. Says which condition is not met by its key and
operator, never by a value, as what it says is recorded and shown. Used by the scheduler, by what foresees a
plan, and by policy rules that ask the state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from msgspec import Struct

from custody.policy import json_equal

OPERATORS = ("eq", "neq", "gt", "lt", "gte", "lte", "exists", "not_exists", "contains")

DESCRIPTION_CHARACTERS_MAX = 200
"""Of the agent's own words, in the sentence that says what is not met."""


class Readable(Protocol):
    """A state, or a mapping."""

    def __contains__(self, key: object, /) -> bool: ...

    def get(self, key: str, /) -> Any: ...


class Condition(Struct, frozen=True, kw_only=True):
    """What has to be true of one key of the state."""

    key: str
    operator: str = "eq"
    value: Any = None
    description: str = ""

    def holds(self, state: Readable) -> bool:
        """`neq` and `not_exists` hold where nothing stands at the key; no other operator does."""
        there = self.key in state
        if self.operator == "exists":
            return there
        if self.operator == "not_exists":
            return not there
        if not there:
            return self.operator == "neq"
        operator = _COMPARED.get(self.operator)
        return operator is not None and operator(state.get(self.key), self.value)


def unmet(conditions: Iterable[Condition], state: Readable) -> list[str]:
    """A sentence for each that does not hold, in their order."""
    return [_sentence(condition) for condition in conditions if not condition.holds(state)]


def _sentence(condition: Condition) -> str:
    if condition.operator not in OPERATORS:
        return f"The condition on state key {condition.key!r} has an unknown operator, so it does not hold."
    words = condition.description[:DESCRIPTION_CHARACTERS_MAX]
    said = f" ({words})" if words else ""
    return f"The condition {condition.operator} on state key {condition.key!r} does not hold{said}."


def _contains(whole: Any, part: Any) -> bool:
    """A text in a text, a value in a list, a name in an object."""
    if isinstance(whole, str):
        return isinstance(part, str) and part in whole
    if isinstance(whole, (list, tuple)):
        return any(json_equal(item, part) for item in cast("Sequence[Any]", whole))
    return isinstance(whole, Mapping) and isinstance(part, str) and part in whole


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda one, other: _is_number(one) and _is_number(other) and compare(one, other)


_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "eq": json_equal,
    "neq": lambda one, other: not json_equal(one, other),
    "gt": _ordered(lambda one, other: one > other),
    "lt": _ordered(lambda one, other: one < other),
    "gte": _ordered(lambda one, other: one >= other),
    "lte": _ordered(lambda one, other: one <= other),
    "contains": _contains,
}
