"""Handing a text to a command of the settings: a notice, a checkpoint. Nobody sees what it prints.

Owns that it has our environment, a deadline, and a whole tree that ends with it. Used by `checkpoints` and
`calls.notify`, each in a thread of its own.
"""

import os
from collections.abc import Sequence

from custody.sandbox.command import Command
from custody.sandbox.process import Launchers


def hand_to(command: Sequence[str], data: bytes, deadline_seconds: float) -> str | None:
    """Run a command with `data` on its standard input; why that did not succeed. Waits; not for an event
    loop. Raises SandboxError."""
    import asyncio  # here: few stores have such commands

    asked = Command(
        argv=tuple(command),
        cwd=os.path.expanduser("~"),
        environment=dict(os.environ),
        stdin=data,
        deadline_seconds=deadline_seconds,
    )

    async def run() -> str | None:
        launchers = Launchers()
        try:
            finished = await launchers.run(asked)
        finally:
            await launchers.close()
        if finished.is_cut:
            return f"ended after {deadline_seconds:g} s"
        if finished.signal is not None:
            return f"ended by signal {finished.signal}"
        return f"exit code {finished.exit_code}" if finished.exit_code else None

    return asyncio.run(run())
