"""`custody hook run`: answers one hook by itself, where no daemon serves. The hooks' client calls it.

Owns the deadline of that, and what is said where not even a store can be opened. Used by the program alone.
"""

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from custody.errors import CustodyError, UsageError

if TYPE_CHECKING:
    from custody.doors.hooks.event import Spoken
    from custody.doors.hooks.told import Told

REQUEST_BYTES_MAX = 512 * 1024 * 1024
"""The client's 64 MiB, each byte of which may be six in JSON, with secrets: more comes from nobody's hook."""

SECONDS_MAX = 25.0
"""Less than the client gives itself, as that has begun before."""


@click.group("hook", hidden=True)
def hook_command() -> None:
    """What coding CLIs call."""


@hook_command.command("run")
def hook_run() -> int:
    """Answer the hook that the client hands over on standard input."""
    from custody.doors.hooks.event import speak_failure
    from custody.doors.hooks.told import decode

    if sys.stdin.isatty():
        raise UsageError("Coding CLIs call this, not people.", hint="custody status says who does.")
    told: Told | None = None
    request = sys.stdin.buffer.read(REQUEST_BYTES_MAX + 1)
    if len(request) > REQUEST_BYTES_MAX:
        raise UsageError(f"A hook tells {REQUEST_BYTES_MAX} bytes at most.")
    try:
        told = decode(request)
        spoken = asyncio.run(asyncio.wait_for(_answer(told, request), SECONDS_MAX))
    except TimeoutError:
        spoken = speak_failure(
            "before" if told is None else told.kind, f"No answer within {SECONDS_MAX:g} s."
        )
    except (CustodyError, OSError) as error:
        spoken = speak_failure("before" if told is None else told.kind, str(error))
    sys.stdout.write(spoken.out)
    sys.stdout.flush()
    sys.stderr.write(spoken.err)
    return spoken.exit_code


async def _answer(told: "Told", request: bytes) -> "Spoken":
    from custody.cli.options import load
    from custody.compose import open_runtime
    from custody.doors.hooks.answering import Hooks
    from custody.settings import workspace_of

    settings = load(told.store)
    runtime = await open_runtime(settings, door="hook")
    try:
        return await Hooks(runtime, workspace_of).answer(request)
    finally:
        await runtime.close()
