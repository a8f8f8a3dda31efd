"""A command of which only the end of what it says is kept, under a deadline that its arguments may shorten.

Owns the arguments and the result that `drive_cli` and `check_outcome` share: both streams are one, in the
order they were written, and its tail is text. Knows nothing of what the command means. Used by those two.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from custody.records import Decision
from custody.sandbox import Command, Finished
from custody.tools.process import ended, run_command, secrets_in, without_nul
from custody.tools.roots import Scope
from custody.tools.tool import Context, Ended

OUTPUT_TAIL_BYTES = 16 * 1024
"""What a model reads of a long output without losing its thread: some two hundred lines."""

TIMEOUT_MS_MAX = 24 * 3600 * 1000  # longer than any build; what is meant to stay is no call

ARGUMENTS: dict[str, Any] = {
    "cwd": {"type": "string", "description": "Working directory, inside the allowed roots."},
    "timeout_ms": {
        "type": "integer",
        "minimum": 1,
        "maximum": TIMEOUT_MS_MAX,
        "description": "Deadline in milliseconds, where the call's own is not shorter.",
    },
}

Result = dict[str, Any]


def check(argv: tuple[str, ...], arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
    """A refusal of what cannot be run, or not there."""
    return without_nul(*argv) or scope.at(arguments.get("cwd")).check()


async def run_tailed(
    argv: tuple[str, ...],
    arguments: Mapping[str, Any],
    context: Context,
    answer: Callable[[Finished], Result],
    *,
    output_tail_bytes: int = OUTPUT_TAIL_BYTES,
    stdin: bytes | None = None,
) -> Ended:
    """Run it to its end; the result is `answer` with the tail.

    An exit code is part of the answer and makes no failure of the call; a signal that nobody here sent does.
    """
    if context.dry_run:
        now = time.monotonic_ns()
        return Ended(started_ns=now, ended_ns=now, result={"dry_run": True, "would_run": list(argv)})
    environment = context.environment({})
    scope = context.scope.at(arguments.get("cwd"))
    deadline_seconds, note = _deadline(arguments.get("timeout_ms"), context.remaining_seconds())
    command = Command(
        argv=argv,
        cwd=scope.cwd,
        environment=environment,
        whole=secrets_in(environment),
        stdin=stdin,
        deadline_seconds=deadline_seconds,
        keep_head_bytes=0,
        keep_tail_bytes=output_tail_bytes,
        joined=True,
    )

    def read(finished: Finished) -> Ended:
        done = ended(finished, answer(finished) | _tail(finished))
        return msgspec.structs.replace(done, exit_code=None, note=note)

    return await run_command(command, scope, context, read)


def _deadline(timeout_ms: int | None, remaining_seconds: float | None) -> tuple[float | None, str | None]:
    """The shorter of the two, and what the record says where it is not the call's."""
    if timeout_ms is None or (remaining_seconds is not None and remaining_seconds <= timeout_ms / 1000):
        return remaining_seconds, None
    return timeout_ms / 1000, f"its timeout_ms was {timeout_ms}"


def _tail(finished: Finished) -> Result:
    """The end of what was said, from a whole line or word on. Bytes that are no UTF-8 are shown as \\xff."""
    return {
        "timed_out": finished.limit_hit == "deadline",
        "output_tail": finished.stdout.data.decode(errors="backslashreplace"),
        "output_dropped_bytes": finished.stdout.dropped_bytes,
    }
