"""JSON Schema of a tool's arguments: checked by jsonschema-rs, made from a function's annotations by msgspec.

Used by the registry (checking) and by function tools (making).
"""

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jsonschema_rs
import msgspec

from custody.errors import UsageError
from custody.tools.schema_cost import extent_of, size_of

MASK = "the value"
"""Stands in a message for what was passed: a refusal's reason is kept for ever, and may be shown anywhere."""

VIOLATIONS_NAMED_MAX = 5  # a message a person reads, not a report

VIOLATION_CHARACTERS_MAX = 300
"""Of each; one of an enumeration repeats all of it, and a refusal's reason is kept for ever."""

SCHEMA_PARTS_MAX = 100_000
"""With what it refers to unfolded: to look at each takes a millisecond, for each part of the arguments."""

DETAIL_COST_MAX = 50_000
"""Parts looked at to say where arguments do not fit: some tens of milliseconds, in which nobody else is
served."""

BACKTRACK_MAX = 10_000
"""Steps of an expression with look-around on one text; others are matched in linear time."""


class ArgumentsSchema:
    """A compiled JSON Schema (draft 2020-12 unless it names another)."""

    def __init__(self, schema: Mapping[str, Any], tool: str) -> None:
        try:
            self._validator = jsonschema_rs.validator_for(
                dict(schema), mask=MASK, retriever=_only_its_own, pattern_options=_EXPRESSIONS
            )
        except (ValueError, jsonschema_rs.ValidationError) as error:
            raise UsageError(f"The schema of tool {tool!r} is not a valid JSON Schema: {error}") from error
        extent = extent_of(schema, SCHEMA_PARTS_MAX)
        if extent is None:
            raise UsageError(
                f"The schema of tool {tool!r} unfolds to more than {SCHEMA_PARTS_MAX} parts.",
                hint="Its definitions refer to each other too often.",
            )
        self._extent = extent

    def violation(self, arguments: Any) -> str | None:
        """One sentence naming where the arguments differ from the schema and what is expected."""
        if self._validator.is_valid(arguments):
            return None
        if self._extent.detail_cost(*size_of(arguments, DETAIL_COST_MAX)) > DETAIL_COST_MAX:
            return "The arguments do not fit the schema; it would take too long to say where."
        found = [
            f"{_place(error.instance_path)}: {_cut(error.message)}"
            for _, error in zip(
                range(VIOLATIONS_NAMED_MAX), self._validator.iter_errors(arguments), strict=False
            )
        ]
        return f"The arguments do not fit the schema: {'; '.join(found)}."


_EXPRESSIONS = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_MAX)


def _cut(message: str) -> str:
    more = len(message) - VIOLATION_CHARACTERS_MAX
    return message if more <= 0 else f"{message[:VIOLATION_CHARACTERS_MAX]}… ({more} characters more)"


def _only_its_own(uri: str) -> NoReturn:
    """A schema may refer to its own parts only: the library would read files and fetch from the network."""
    raise ValueError(f"{uri} lies outside the schema")


def _place(path: list[str | int]) -> str:
    return "arguments" + "".join(f".{step}" for step in path)


def parameters_of(function: Callable[..., Any], *, leave_out: str) -> type[msgspec.Struct]:
    """A struct with a field for each parameter of `function` but `leave_out`.

    Raises UsageError for a parameter that has no name on the wire (`*args`) or no usable annotation.
    """
    name = function.__name__
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == leave_out:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UsageError(f"Tool {name!r}: parameter {parameter} cannot be passed by name.")
        annotation = hints.get(parameter.name, Any)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            fields.append(
                (
                    parameter.name,
                    annotation,
                    msgspec.field(default_factory=lambda value=parameter.default: value),
                )
            )
    return msgspec.defstruct(
        re.sub(r"\W", "_", f"{name}_arguments"), fields, kw_only=True, forbid_unknown_fields=True
    )


def schema_of(parameters: type[msgspec.Struct], tool: str) -> dict[str, Any]:
    """The JSON Schema of a parameters struct. Raises UsageError for a type that has none."""
    try:
        _, components = msgspec.json.schema_components((parameters,), ref_template="#/$defs/{name}")
    except TypeError as error:
        raise UsageError(
            f"Tool {tool!r}: {error}", hint="Annotate its parameters with types that have a JSON form."
        ) from error
    own = dict(components.pop(parameters.__name__))
    own.pop("title", None)
    return {**own, "$defs": components} if components else own
