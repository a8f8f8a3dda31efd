"""Commands behind walls: which of them may share a launcher, what they are given, and what it means when
their launcher cannot be walled in.

Owns the key of a launcher and the reading of its refusal, and loads `walls` when the first command needs it:
that costs as much as the rest of this package, and most commands have none. Knows nothing of how a plan is
made (`walls.plan`) or carried out (`launcher.confine`). Used by `process` and `running`.
"""

import importlib
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from custody.errors import SandboxError
from custody.sandbox.command import Command

if TYPE_CHECKING:
    from custody.sandbox.walls.machine import Machine
    from custody.sandbox.walls.model import Sandbox

REFUSED_EXIT_CODE = 71
"""What a launcher exits with that cannot put up a wall of its plan; it says which, and has run nothing."""

TEMPORARY_FOLDER = "/tmp"  # behind the walls, where it is private


class Walls(Struct, frozen=True):
    """What the commands of one launcher have in common: nobody else's come to it."""

    sandbox: "Sandbox"
    roots: tuple[str, ...]
    run_id: str


class Shared(Struct, frozen=True):
    """The same for commands without walls, which have nothing in common but this."""

    no_new_privs: bool


Key = Walls | Shared


def key_of(command: Command) -> Key:
    """Launchers of one key may serve it."""
    if command.sandbox is None:
        return Shared(command.no_new_privs)
    return Walls(command.sandbox, tuple(dict.fromkeys(command.roots)), command.run_id)


def look_at_this_machine(uids: tuple[int, int] | None) -> "Machine":
    """Try every wall, with these users or the usual ones. Takes a moment: not for an event loop."""
    from custody.sandbox.walls.machine import look_at_machine
    from custody.sandbox.walls.users import UIDS

    importlib.import_module("custody.sandbox.walls.plan")  # `packed_plan`, on the event loop, finds it loaded
    return look_at_machine(uids=uids or UIDS)


def packed_plan(command: Command, machine: "Machine", number: int) -> bytes:
    """What a launcher that can serve it is told. Raises SandboxError for what cannot be had here."""
    from custody.sandbox.walls.plan import plan_of

    assert command.sandbox is not None, "only a command behind walls has a plan"
    roots = [os.path.realpath(root) for root in command.roots]
    cwd = os.path.realpath(command.cwd)
    return plan_of(command.sandbox, roots, cwd, machine, number=number).pack()


def confined_environment(command: Command) -> dict[str, str]:
    """Of its variables those its sandbox lets through."""
    assert command.sandbox is not None, "without walls it has all of them"
    names = command.sandbox.environment
    environment = command.environment
    if names is not None:
        environment = {name: value for name, value in environment.items() if name in names}
    return {**environment, "TMPDIR": TEMPORARY_FOLDER}


def refusal(last_words: str, sandbox: "Sandbox") -> SandboxError:
    """The error for a launcher that could not put up a wall, from the line it wrote: `which wall: why`."""
    wall, _, why = last_words.splitlines()[-1].partition(": ")
    return SandboxError(
        f"The walls of sandbox {sandbox.name!r} cannot be put up, and nothing was run: {wall}: {why}.",
        hint="`custody doctor` says which walls this machine gives, and what would change it.",
        wall=wall,
    )
