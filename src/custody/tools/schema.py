"""JSON Schema of a tool's arguments: checked by jsonschema-rs, made from a function's annotations by msgspec.

Used by the registry (checking) and by function tools (making).
"""

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs
import msgspec

from custody.errors import UsageError

MASK = "the value"
"""Stands in a message for what was passed: a refusal's reason is kept for ever, and may be shown anywhere."""

VIOLATIONS_NAMED_MAX = 5  # a message a person reads, not a report


class ArgumentsSchema:
    """A compiled JSON Schema (draft 2020-12 unless it names another)."""

    def __init__(self, schema: Mapping[str, Any], tool: str) -> None:
        try:
            self._validator = jsonschema_rs.validator_for(dict(schema), mask=MASK)
        except (ValueError, jsonschema_rs.ValidationError) as error:
            raise UsageError(f"The schema of tool {tool!r} is not a valid JSON Schema: {error}") from error

    def violation(self, arguments: Any) -> str | None:
        """One sentence naming where the arguments differ from the schema and what is expected."""
        if self._validator.is_valid(arguments):
            return None
        found = [
            f"{_place(error.instance_path)}: {error.message}"
            for _, error in zip(
                range(VIOLATIONS_NAMED_MAX), self._validator.iter_errors(arguments), strict=False
            )
        ]
        return f"The arguments do not fit the schema: {'; '.join(found)}."


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
