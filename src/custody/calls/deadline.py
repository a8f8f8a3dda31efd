"""How long a call may take.

Owns whose word counts: the caller's, else the tool's, else the runtime's. Used by `runtime`.
"""

import math

from custody.errors import UsageError
from custody.tools import Tool


def limit_seconds(timeout: float | None, tool: Tool | None, default: float | None) -> float | None:
    """The deadline of a call: what its caller says, else its tool, else the default. Raises UsageError."""
    if timeout is not None:
        try:
            makes_sense = timeout >= 0
        except TypeError:
            makes_sense = False
        if not makes_sense:
            raise UsageError(
                f"A timeout of {timeout!r} makes no sense.", hint="Give seconds; 0 is none.", field="timeout"
            )
        return None if timeout in (0, math.inf) else timeout
    return default if tool is None or tool.timeout_seconds is None else tool.timeout_seconds
