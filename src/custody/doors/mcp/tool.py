"""What a tool of this door is: a question or an act that is no tool of the runtime's registry.

Owns its shape: name, parameters with their schema, effect, what it needs. The tools are in `questions`,
`skills`, `plans` and `working`, all of them in `table`.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any

import msgspec
from mcp_types import ToolAnnotations
from msgspec import Struct

from custody.calls.answers import Prompt
from custody.doors.mcp.caller import Backing, Caller
from custody.doors.mcp.progress import Progress
from custody.errors import InvalidInput
from custody.records import Effect

NOT_IMPLEMENTED, RUNTIME_UNAVAILABLE = "not_implemented", "runtime_unavailable"


class Requirement(Struct, frozen=True, kw_only=True):
    """What a tool needs beside this server."""

    what: str
    """`a connected daemon`: as it stands behind *needs*."""
    hint: str
    """How to get it."""
    met: Callable[[Backing], bool]


class Asked(Struct, frozen=True):
    """One request, as a tool sees it."""

    caller: Caller
    progress: Progress
    prompt: Prompt | None = None
    """Asks the person behind the client, where a rule asks."""


class DoorTool(Struct, frozen=True, kw_only=True):
    """One of them."""

    name: str
    about: str
    """What it does, for whoever chooses among tools."""
    params: type[Struct]
    """Forbids unknown fields; each has a description."""
    answer: Callable[[Asked, Any], Awaitable[Any]]
    """Gives what becomes the structured content. Raises CustodyError, RpcError."""
    effect: Effect = "read"
    requires: Requirement | None = None
    drives: str | None = None
    """The tool of the runtime that it is another way to."""
    failed: Callable[[Any], bool] = lambda _: False
    """Whether an answer tells of a failure."""

    @property
    def description(self) -> str:
        if self.requires is None:
            return self.about
        return (
            f"{self.about} Needs {self.requires.what}; without it the answer is an error with status "
            f"{NOT_IMPLEMENTED}. {self.requires.hint}"
        )

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of its arguments."""
        return schema_of(self.params)

    def read(self, arguments: Mapping[str, Any]) -> Any:
        """The arguments, typed. Raises InvalidInput."""
        try:
            return msgspec.convert(dict(arguments), self.params)
        except msgspec.ValidationError as error:
            raise _named(error, self) from None


def _named(error: msgspec.ValidationError, tool: DoorTool) -> InvalidInput:
    """`Expected `str`, got `int` - at `$.name`` in words, with the field told apart."""
    problem, _, place = str(error).partition(" - at ")
    field = place.strip("`").removeprefix("$").lstrip(".") or None
    problem = problem.replace("Object contains unknown field", "There is no argument")
    problem = problem.replace("Object missing required field", "It needs")
    known = ", ".join(tool.params.__struct_fields__)
    hint = f"{tool.name} takes: {known}." if known else f"{tool.name} takes no arguments."
    return InvalidInput(f"{problem}." if field is None else f"{field}: {problem}.", hint=hint, field=field)


@cache
def schema_of(params: type[Struct]) -> dict[str, Any]:
    """Of one Struct, as the object that MCP wants at the root."""
    (_,), shapes = msgspec.json.schema_components((params,), ref_template="#/$defs/{name}")
    root = {**shapes.pop(params.__name__)}
    root.pop("title", None)
    root.pop("description", None)
    return {**root, "$defs": shapes} if shapes else root


def annotations_of(effect: Effect) -> ToolAnnotations:
    """What a client may tell its user: hints, as the protocol calls them."""
    return ToolAnnotations(
        read_only_hint=effect == "read",
        destructive_hint=effect != "read",
        idempotent_hint=effect == "read",
        open_world_hint=effect in ("irreversible", "unknown"),
    )
