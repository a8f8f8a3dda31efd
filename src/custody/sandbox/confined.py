"""Commands behind walls: which of them may share a launcher, what they are given, and what it means when
their launcher cannot be walled in.

Owns the key of a launcher and the reading of its refusal, and loads `walls` when the first command needs it:
that costs as much as the rest of this package, and most commands have none. Knows nothing of how a plan is
made (`walls.plan`) or carried out (`launcher.confine`). Used by `process` and `running`.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import sys
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from custody.errors import SandboxError
from custody.sandbox.cgroup import (
    Bounds,
    Cgroup,
    bounding_folder,
    make_bounded,
    parent_folder,
    remove_abandoned,
)
from custody.sandbox.command import Command

if TYPE_CHECKING:
    from custody.sandbox.walls.machine import Machine
    from custody.sandbox.walls.model import Sandbox, View

REFUSED_EXIT_CODE = 71
"""What a launcher exits with that cannot put up a wall of its plan; it says which, and has run nothing."""

_KEY_DIGITS = 16
TEMPORARY_FOLDER = "/tmp"  # behind the walls, where it is private

PROXY = "http://127.0.0.1:3128"
"""The way out of a network that is `listed`, as it is seen inside."""
_PROXIED = ("http_proxy", "https_proxy", "all_proxy")
_DIRECT = "localhost,127.0.0.1,::1"
"""What a command starts on its own loopback it reaches without the proxy."""


NO_GROUP_SECONDS = 10.0
"""How long it is taken for granted that no group can be made here: to find out reads a handful of files, for
each command, and hardly ever becomes another answer."""
_no_group_until: dict[tuple[int, tuple[str, ...]], float] = {}
"""By process, which may be moved to a group of its own, and by controllers."""


class Walls(Struct, frozen=True, cache_hash=True):
    """What the commands of one launcher have in common: nobody else's come to it."""

    sandbox: "Sandbox"
    roots: tuple[str, ...]
    run_id: str
    views: "tuple[View, ...]" = ()
    """With one, it is one command's alone."""


class Shared(Struct, frozen=True):
    """The same for commands without walls, which have nothing in common but this."""

    no_new_privs: bool


Key = Walls | Shared


def key_of(command: Command) -> Key:
    """Launchers of one key may serve it."""
    if command.sandbox is None:
        return Shared(command.no_new_privs)
    return Walls(command.sandbox, tuple(dict.fromkeys(command.roots)), command.run_id, command.views)


def look_at_this_machine(uids: tuple[int, int] | None) -> "Machine":
    """Try every wall, with these users or the usual ones. Takes a moment: not for an event loop."""
    from custody.sandbox.walls.machine import look_at_machine
    from custody.sandbox.walls.users import UIDS

    importlib.import_module("custody.sandbox.walls.plan")  # `packed_plan`, on the event loop, finds it loaded
    return look_at_machine(uids=uids or UIDS)


def packed_plan(command: Command, machine: "Machine", number: int, *, later: bool = False) -> bytes:
    """What a launcher that can serve it is told; or one that is for a command like it, and told `later` where
    that one's changes go. Raises SandboxError for what cannot be had here."""
    from custody.sandbox.walls.plan import plan_of

    assert command.sandbox is not None, "only a command behind walls has a plan"
    roots = [os.path.realpath(root) for root in command.roots]
    cwd = os.path.realpath(command.cwd)
    plan = plan_of(
        command.sandbox, roots, cwd, machine,
        number=number, views=command.views, later=later, kept=_kept_in(command),
    )  # fmt: skip
    return plan.pack()


def _kept_in(command: Command) -> str:
    """The folder for the private folders of its launcher, made: one for each sandbox and set of roots, as one
    key stands for. What a transaction leaves in them would outlive being discarded, so it has none."""
    if not command.private or command.views:
        return ""
    key = msgspec.json.encode((command.sandbox, tuple(dict.fromkeys(command.roots))))
    name = hashlib.sha256(key).hexdigest()[:_KEY_DIGITS]
    folder = os.path.join(os.path.realpath(command.private), name)
    with contextlib.suppress(OSError):  # without it they are in memory
        os.mkdir(folder, 0o700)
    return folder


_EGRESS = "custody.sandbox.egress.proxy"


def egress_is_loaded() -> bool:
    return _EGRESS in sys.modules


def load_egress() -> None:
    """Takes a moment, once: not for an event loop."""
    importlib.import_module(_EGRESS)


def bounded_group(sandbox: "Sandbox") -> Cgroup | None:
    """For the tree of one command, where the sandbox bounds one and this machine can; elsewhere the bounds
    hold for each process by itself, as far as the kernel has such. Raises SandboxError."""
    bounds = Bounds(sandbox.memory_bytes, sandbox.processes, sandbox.cpu_percent)
    folder = _bounding_folder(bounds.controllers())
    if folder is None:
        return None
    remove_abandoned(folder)
    try:
        return make_bounded(folder, bounds)
    except OSError as error:
        raise SandboxError(
            f"The bounds of sandbox {sandbox.name!r} cannot be set, and nothing was run: {error}.",
            hint="The kernel refused what the sandbox says of memory, processes or processor time.",
        ) from error


def _bounding_folder(controllers: tuple[str, ...]) -> str | None:
    key = os.getpid(), controllers
    if not controllers or time.monotonic() < _no_group_until.get(key, 0.0):
        return None
    own = parent_folder()
    folder = None if own is None else bounding_folder(own, controllers)
    if folder is None:
        _no_group_until[key] = time.monotonic() + NO_GROUP_SECONDS
    return folder


def confined_environment(command: Command) -> dict[str, str]:
    """Of its variables those its sandbox lets through."""
    assert command.sandbox is not None, "without walls it has all of them"
    names = command.sandbox.environment
    environment = command.environment
    if names is not None:
        environment = {name: value for name, value in environment.items() if name in names}
    environment = {**environment, "TMPDIR": TEMPORARY_FOLDER}
    if command.sandbox.network == "listed":
        environment |= _proxy_variables(command.sandbox.hosts)
    return environment


@functools.lru_cache(maxsize=16)  # a runtime has one list of hosts, and what rules make of it
def _proxy_variables(hosts: tuple[str, ...]) -> dict[str, str]:
    """In both spellings: each has its programs. A loopback address that is listed is the machine's, and only
    the proxy leads there; then a command's own loopback has to be reached past these variables."""
    from custody.hosts import parse_address

    is_machines = any(parse_address(_host_of(listed))[1] == "loopback" for listed in hosts)
    values = {**dict.fromkeys(_PROXIED, PROXY), "no_proxy": "" if is_machines else _DIRECT}
    return {**values, **{name.upper(): value for name, value in values.items()}}


def _host_of(listed: str) -> str:
    if listed.startswith("["):
        return listed[1:].partition("]")[0]
    return listed.partition(":")[0] if listed.count(":") == 1 else listed


def refusal(last_words: str, sandbox: "Sandbox") -> SandboxError:
    """The error for a launcher that could not put up a wall, from the line it wrote: `which wall: why`."""
    wall, _, why = last_words.splitlines()[-1].partition(": ")
    return SandboxError(
        f"The walls of sandbox {sandbox.name!r} cannot be put up, and nothing was run: {wall}: {why}.",
        hint="`custody doctor` says which walls this machine gives, and what would change it.",
        wall=wall,
    )
