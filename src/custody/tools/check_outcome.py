"""The built-in tool `check_outcome`: a command says whether the work is done.

Owns what of its end is the verdict: exit code 0 is `passed`. A verdict of no is an answer, not a failure of
the call. Used through the registry.
"""

from collections.abc import Mapping
from typing import Any

from custody.records import Decision, Effect, Level
from custody.sandbox import Finished
from custody.tools import tailing
from custody.tools.roots import Scope
from custody.tools.tool import Context, Ended, Keep

TIMEOUT_SECONDS = 600.0  # a whole test suite; a longer one says so


class CheckOutcome:
    """Run a verifier: its exit code says whether the work passed."""

    name = "check_outcome"
    description = (
        "Run a command that checks the work; it passed if the exit code is 0. "
        "The answer has the end of what the command printed."
    )
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "command": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                ],
                "description": "A line for sh -c, or a program and its arguments.",
            },
            **tailing.ARGUMENTS,
        },
        "required": ["command"],
        "additionalProperties": False,
    }
    effect: Effect = "unknown"
    level: Level = "process"
    timeout_seconds: float | None = TIMEOUT_SECONDS
    keep: Keep = "full"

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        return tailing.check(_argv(arguments), arguments, scope)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        def answer(finished: Finished) -> dict[str, Any]:
            exit_code = None if finished.is_cut else finished.exit_code
            return {"passed": exit_code == 0, "exit_code": exit_code}

        return await tailing.run_tailed(_argv(arguments), arguments, context, answer)


def _argv(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    command: str | list[str] = arguments["command"]
    return ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
