"""What it may cost to check a value against a JSON Schema, told from the schema alone.

Owns the reckoning. The validator says quickly whether a value fits, unless a few definitions refer to each
other so often that they unfold to millions. To say *where* one does not fit it follows every branch, and
where definitions refer to themselves that doubles with each level of the value. Schema and value come from
whoever offers a tool and calls it, and both would hold up everybody else. Used by `schema`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote

from msgspec import Struct

DATA_KEYWORDS = frozenset({"const", "default", "enum", "examples"})
"""What they hold are values, not schemas."""

DEFINITION_KEYWORDS = frozenset({"$defs", "definitions"})
"""Counted where they are referred to."""

BY_NAME_KEYWORDS = frozenset({"properties", "patternProperties", "dependentSchemas"})
"""They hold schemas under names of the author's, which are no keywords."""

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

ELSEWHERE_PARTS = 1_000
"""What a reference that is no pointer into the schema is taken for: meta-schemas are the largest."""


class Extent(Struct, frozen=True):
    """How large a schema is."""

    parts: int
    """Its parts, each counted as often as it is referred to."""
    refers_to_itself: bool

    def detail_cost(self, nodes: int, depth: int) -> int:
        """At most so much work, in parts looked at, to say where a value of this size does not fit."""
        return nodes * (self.parts ** max(1, depth) if self.refers_to_itself else self.parts)


def extent_of(schema: Mapping[str, Any], most: int) -> Extent | None:
    """None for a schema of more than `most` parts, or one nested deeper than can be followed."""
    counting = _Counting(schema, most)
    try:
        parts = counting.parts(schema)
    except RecursionError:
        return None
    return None if parts > most else Extent(parts, counting.refers_to_itself)


class _Counting:
    def __init__(self, schema: Mapping[str, Any], most: int) -> None:
        self._schema = schema
        self._most = most
        self._known: dict[int, int] = {}
        self._within: set[int] = set()
        self.refers_to_itself = False

    def parts(self, part: Any) -> int:
        if isinstance(part, Mapping):
            named = cast("Mapping[str, Any]", part)
        elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
            return sum(map(self.parts, cast("Sequence[Any]", part)))
        else:
            return 0
        identity = id(named)
        if identity in self._within:
            self.refers_to_itself = True
            return 1
        if identity not in self._known:
            self._within.add(identity)
            self._known[identity] = min(1 + self._beneath(named), self._most + 1)
            self._within.discard(identity)
        return self._known[identity]

    def _beneath(self, part: Mapping[str, Any]) -> int:
        total = 0
        for name, value in part.items():
            if name in REFERENCES and isinstance(value, str):
                total += self._referred(value)
            elif name in BY_NAME_KEYWORDS and isinstance(value, Mapping):
                total += sum(map(self.parts, cast("Mapping[str, Any]", value).values()))
            elif name not in DATA_KEYWORDS and name not in DEFINITION_KEYWORDS:
                total += self.parts(value)
        return total

    def _referred(self, reference: str) -> int:
        found: Any = self._schema
        if reference != "#" and not reference.startswith("#/"):
            self.refers_to_itself = True
            return ELSEWHERE_PARTS
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping):
                found = cast("Mapping[str, Any]", found).get(name)
            elif isinstance(found, Sequence) and name.isdigit() and int(name) < len(cast("Any", found)):
                found = cast("Sequence[Any]", found)[int(name)]
            else:
                found = None
        return self.parts(found)


def size_of(value: Any, nodes_max: int) -> tuple[int, int]:
    """How many parts a value has, and how deep it is; counting ends beyond `nodes_max`."""
    nodes = depth = 0
    level: list[Any] = [value]
    while level and nodes <= nodes_max:
        nodes += len(level)
        beneath: list[Any] = []
        for one in level:
            if isinstance(one, Mapping):
                beneath.extend(cast("Mapping[Any, Any]", one).values())
            elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
                beneath.extend(cast("Sequence[Any]", one))
            if len(beneath) > nodes_max:
                break
        depth += 1
        level = beneath
    return nodes, depth
