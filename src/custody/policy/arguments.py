"""Arguments of a call as rules without a condition compare them: by path, as JSON, as text.

Owns the dotted path, the equality of JSON values and the text of an argument. Refuses to know rules. Used by
the rule kinds that name one parameter (`denials`, `bridges.policies`).

`argv.0` is the first element of the list `argv`. `equals` compares as JSON does: `1` is `1.0`, `true` is not
`1`. An argument that is no string has its compact JSON for a text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec


def argument_at(arguments: Any, path: Sequence[str]) -> tuple[bool, Any]:
    """Whether there is an argument at the path, and it."""
    value: Any = arguments
    for step in path:
        if isinstance(value, (list, tuple)):
            items = cast("Sequence[Any]", value)
            if not (step.isascii() and step.isdigit() and int(step) < len(items)):
                return False, None
            value = items[int(step)]
        elif isinstance(
            value, (dict, Mapping)
        ):  # a dict is told at once, another mapping takes a microsecond
            if step not in value:
                return False, None
            value = cast("Mapping[str, Any]", value)[step]
        else:
            return False, None
    return True, value


def json_equal(value: Any, expected: Any) -> bool:
    """Equality of JSON values: Python's, but a boolean is no number, at any depth."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(expected, str):
        return value == expected
    if isinstance(value, Mapping) and isinstance(expected, Mapping):
        ours = cast("Mapping[Any, Any]", value)
        theirs = cast("Mapping[Any, Any]", expected)
        return ours.keys() == theirs.keys() and all(json_equal(ours[name], theirs[name]) for name in ours)
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        items = cast("Sequence[Any]", value)
        wanted = cast("Sequence[Any]", expected)
        return len(items) == len(wanted) and all(map(json_equal, items, wanted))
    return value == expected


def argument_text(value: Any) -> str:
    """A string as it is, anything else as compact JSON. Raises for what has neither: that denies."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def is_json(value: Any) -> bool:
    """Whether JSON has such a value; TOML has dates beside."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return True
    if isinstance(value, list):
        return all(map(is_json, cast("list[Any]", value)))
    return isinstance(value, dict) and all(map(is_json, cast("dict[str, Any]", value).values()))


class InvalidExpression(ValueError):
    """RE2 cannot compile this."""


def compile_expression(pattern: str) -> Any:
    """An RE2 expression; `search` finds it anywhere, in linear time. Raises InvalidExpression."""
    import re2  # pyright: ignore[reportMissingTypeStubs]  # a policy without expressions starts without it

    library: Any = re2
    options = library.Options()
    options.log_errors = False
    try:
        return library.compile(pattern, options=options)
    except UnicodeEncodeError:
        raise InvalidExpression("it is not text UTF-8 can hold") from None
    except library.error as error:
        detail = error.args[0]
        words = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise InvalidExpression(words) from None


EXPRESSION_HINT = "RE2 has no back-references and no look-around: https://github.com/google/re2/wiki/Syntax"
