"""A tool whose changes are held, without a command: a function makes them in a copy of the root.

What `exec` does at level `transaction` with walls and views, for tests of what comes after.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from custody.records import Decision, Effect, Level
from custody.tools import Context, Ended, Scope
from custody.tools.tool import Keep

Act = Callable[[Path], None]


class Rearrange:
    """Does with a copy of the working directory what `acts` has under a name, and leaves that held."""

    name = "rearrange"
    description = "Change files, and leave the changes held."
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {"act": {"type": "string"}},
        "required": ["act"],
        "additionalProperties": False,
    }

    def __init__(self, acts: Mapping[str, Act]) -> None:
        self._acts = acts

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        began = time.monotonic_ns()
        holding = context.held.begin(bytes.fromhex(context.call_id), [context.cwd], kind="copy")
        (view,) = holding.views
        self._acts[arguments["act"]](Path(view.upper))
        held = holding.settle()
        return Ended(
            started_ns=began,
            ended_ns=time.monotonic_ns(),
            result={},
            changes=held.changes,
            held=len(held.changes),
            held_digest=held.manifest_digest,
        )
