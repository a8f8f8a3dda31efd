"""What a value must be to stand in JSON and come back as it was. Used by what keeps values of plans."""

import math
from collections.abc import Iterator
from typing import Any, cast

DEPTH_MAX = 100
"""Lists and objects within each other; well below what recursion over them may cost."""


def why_not_json(value: Any) -> str | None:
    """What is in the way (`is nested deeper than …`); None where nothing is. JSON would change some silently:
    a NaN, names that are no text, half a character."""
    return next(_faults(value, 0), None)


def _faults(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if not is_text(value):
            yield "has no JSON text"
    elif isinstance(value, (list, dict)):
        if depth >= DEPTH_MAX:
            yield f"is nested deeper than {DEPTH_MAX}"
            return
        parts = cast("list[Any] | dict[Any, Any]", value)
        if isinstance(parts, dict):
            if not all(isinstance(name, str) and is_text(name) for name in parts):
                yield "has a name that is no text"
            parts = list(parts.values())
        for one in parts:
            yield from _faults(one, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield "has no JSON form"
    elif value is not None and not isinstance(value, int):
        yield "has no JSON form"


def is_text(value: str) -> bool:
    """Whether it has a UTF-8 form: JSON can spell half a character, and nothing can keep one."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
