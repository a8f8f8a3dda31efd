"""What of a call is handed to conditions: only what they read, measured first.

Owns the walk over a call's values that finds what CEL cannot hold and how much there is of the rest, and
the CEL context of one decision. Knows nothing of rules. Used by `conditions` and the engine.

A value that cannot be handed on fails the conditions that read it, and no other.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, cast

from custody.errors import ConditionFailed

ROOTS = ("params", "facts", "run", "agent", "state", "counters")
"""What a condition may speak of."""

Fields = frozenset[str] | None
"""Of a root: the fields that are read. None: all of it."""

VALUE_DEPTH_MAX = 64
"""Lists in lists in …: the library walks them by recursion and ends the process at some 200 levels in a
thread with a small stack. Arguments of real tools stay below ten."""

ELEMENTS_MAX = 1_000_000
"""Of lists and maps, that one condition is handed: each takes about a microsecond."""

CHARACTERS_MAX = 32 * 1024 * 1024
"""Of texts, that one condition is handed, times the sums it makes of them: the library copies them."""

INTEGER_MAX = 2**63 - 1
"""CEL's whole numbers have 64 bits; the library rounds larger ones without a word."""


@cache
def _library() -> Any:
    """Loaded by the first condition: many a policy has none."""
    import cel

    return cel


Size = tuple[int, int, int]
"""Of some values: their elements, their characters, and the characters of the longest text."""

_NO_FIELDS: Fields = frozenset()
_NOTHING: Size = (0, 0, 0)
_SCALAR: Size = (1, 0, 0)


class _Unfit(Exception):
    """A value CEL cannot hold; the words say of what kind."""


class _Handed:
    """One root, as far as it was handed on."""

    __slots__ = ("missing", "sizes", "unfit")

    def __init__(self, missing: str | None = None) -> None:
        self.missing = missing
        """Why there is nothing of it."""
        self.sizes: dict[str, Size] = {}
        self.unfit: dict[str, str] = {}
        """Field -> why it was not handed on."""


class Handing:
    """The values of one call for the conditions of one decision. Not to be shared between threads."""

    __slots__ = ("_ask", "_roots", "_wanted", "context", "total", "whole")

    def __init__(
        self, ask: Callable[[str], Mapping[str, Any]], wanted: Mapping[str, Fields] | None = None
    ) -> None:
        """`ask` gives a root, and is asked once at most for each; `wanted`: the fields of each that anybody
        may read here, None: not known, so all."""
        self.context = _library().Context()
        self.total: Size = _NOTHING
        """Of all that was handed on, at least what any one condition reads of it."""
        self.whole = True
        """Whether everything that was asked for could be had and held."""
        self._ask = ask
        self._wanted = wanted
        self._roots: dict[str, _Handed] = {}

    def hand(self, root: str) -> None:
        """Hand a root on, if it is not yet."""
        if root not in self._roots:
            self._roots[root] = self._handed(root)

    def size_of(self, reads: Mapping[str, Fields]) -> Size:
        """How much there is of just these. Raises ConditionFailed where some cannot be had or held."""
        size = _NOTHING
        for root, fields in reads.items():
            handed = self._roots[root]
            if handed.missing is not None:
                raise ConditionFailed(f"{root} {handed.missing}")
            if fields is None and handed.unfit:  # names of fields that no rule holds are the caller's words
                raise ConditionFailed(f"{root} holds {next(iter(handed.unfit.values()))}")
            for field in handed.sizes if fields is None else sorted(fields):
                if field in handed.unfit:
                    raise ConditionFailed(f"{root}.{field} holds {handed.unfit[field]}")
                size = _sum(size, handed.sizes.get(field, _NOTHING))
        return size

    def _handed(self, root: str) -> _Handed:
        try:
            value = self._ask(root)
        except Exception as error:
            self.whole = False
            return _Handed(f"could not be worked out ({type(error).__name__})")
        if not _is_table(value):
            self.whole = False
            return _Handed("is no table")
        fields = None if self._wanted is None else self._wanted.get(root, _NO_FIELDS)
        handed = _Handed()
        fit: dict[str, Any] = {}
        elements, characters, longest = self.total
        for name in value if fields is None else fields:
            if fields is not None and name not in value:
                continue
            one = value[name]
            try:
                size = _named(name, one) if fields is None else measure(one)
            except _Unfit as error:
                handed.unfit[name] = str(error)
                self.whole = False
                continue
            handed.sizes[name] = size
            fit[name] = one
            elements += size[0]
            characters += size[1]
            if size[2] > longest:
                longest = size[2]
        self.total = elements, characters, longest
        self.context.add_variable(root, fit)
        return handed


def _sum(size: Size, other: Size) -> Size:
    return size[0] + other[0], size[1] + other[1], max(size[2], other[2])


def _named(name: Any, value: Any) -> Size:
    characters = _name(name)
    return _sum((0, characters, characters), measure(value))


def measure(value: Any, depth: int = 0) -> Size:
    """How much there is of a value. Raises _Unfit where CEL cannot hold it, or there is no end of it."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        length = _text(value)
        return 1, length, length
    if kind is bool or value is None:
        return _SCALAR
    if kind is int:
        if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
            raise _Unfit("a whole number of more than 64 bits")
        return _SCALAR
    if kind is float:
        if not math.isfinite(value):
            raise _Unfit("a number that is not finite")
        return _SCALAR
    if depth >= VALUE_DEPTH_MAX:
        raise _Unfit(f"lists or tables nested deeper than {VALUE_DEPTH_MAX}")
    if isinstance(value, (list, tuple)):
        return _measure_all(cast("Sequence[Any]", value), depth)
    if _is_table(value):
        table = cast("Mapping[Any, Any]", value)
        named = _measure_names(table)
        elements, characters, longest = _measure_all(table.values(), depth)
        return elements, characters + named, max(longest, named)
    raise _Unfit("a value that JSON does not have")


def _measure_all(items: Collection[Any], depth: int) -> Size:
    if len(items) > ELEMENTS_MAX:
        raise _Unfit(f"more than {ELEMENTS_MAX:,} elements")
    elements, characters, longest = 1, 0, 0
    for item in items:
        if type(item) is str and item.isascii():  # most are, and a call for each would cost as much again
            more, length, longer = 1, len(item), len(item)
        elif item is True or item is False or item is None:
            elements += 1
            continue
        else:
            more, length, longer = measure(item, depth + 1)
        elements += more
        characters += length
        if longer > longest:
            longest = longer
        if elements > ELEMENTS_MAX:
            raise _Unfit(f"more than {ELEMENTS_MAX:,} elements")
        if characters > CHARACTERS_MAX:
            raise _Unfit(f"more than {CHARACTERS_MAX:,} characters")
    return elements, characters, longest


def _is_table(value: Any) -> bool:
    return type(value) is dict or isinstance(value, Mapping)  # the second takes a microsecond


def _measure_names(table: Mapping[Any, Any]) -> int:
    characters = 0
    for name in table:
        characters += len(name) if type(name) is str and name.isascii() else _name(name)
    return characters


def _text(text: str) -> int:
    if len(text) > CHARACTERS_MAX:
        raise _Unfit(f"more than {CHARACTERS_MAX:,} characters")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Unfit("text that UTF-8 cannot hold") from None
    return len(text)


def _name(name: Any) -> int:
    if type(name) is not str:
        raise _Unfit("a table with a name that is no text")
    return _text(name)
