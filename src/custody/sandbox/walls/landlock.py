"""What a Landlock domain allows: from places to the kernel's rights, for the ABI a machine has.

Owns which right is which and which a place is given. Pure: the ABI is an argument, the ruleset is a value;
making and entering the domain is the launcher's. Used by `plan`.

Numbers as in linux/landlock.h and landlock(7).
"""

from collections.abc import Iterable

from msgspec import Struct

from custody.errors import SandboxError
from custody.sandbox.walls.model import Network, beneath_both

ABI_MIN = 3
"""From it on a file that may not be written may not be truncated either; below, `confined` is not offered."""

_ABI_NET = 4
_ABI_IOCTL_DEV = 5
_ABI_SCOPED = 6
_ABI_RESOLVE_UNIX = 9

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_DIR = 1 << 4
REMOVE_FILE = 1 << 5
MAKE_CHAR = 1 << 6
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
MAKE_SOCK = 1 << 9
MAKE_FIFO = 1 << 10
MAKE_BLOCK = 1 << 11
MAKE_SYM = 1 << 12
REFER = 1 << 13
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15
RESOLVE_UNIX = 1 << 16
"""To reach a socket by its path. Never given: those made inside the domain are reached without it."""

BIND_TCP = 1 << 0
CONNECT_TCP = 1 << 1

SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1

FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX
"""All that a rule on something other than a directory may give: the kernel refuses the rule otherwise."""

_READ = READ_FILE | READ_DIR
_CHANGE = (
    WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | REFER
    | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM
)  # fmt: skip
"""Devices are not made, nor is one that lies in a writable place driven: those are no files of the work."""
_DEVICE = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV

DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero")
"""What programs expect of any machine: each holds nothing, or is the caller's own terminal."""

TERMINALS = ("/dev/ptmx", "/dev/pts")
"""All pseudo-terminals of one mount. Whoever opens another program's reads what is typed there."""


class Ruleset(Struct, frozen=True, kw_only=True):
    """What is handled, so refused, and the rules that allow some of it again."""

    fs: int
    net: int
    scoped: int
    rules: tuple[tuple[str, int], ...]
    """Path and rights, by path. A rule on something other than a directory gives its FILE_RIGHTS only."""
    ports: tuple[tuple[int, int], ...]
    """Port and rights."""


def ruleset(
    abi: int,
    *,
    read: Iterable[str],
    write: Iterable[str],
    execute: Iterable[str] | None,
    network: Network,
    terminals: bool = False,
) -> Ruleset:
    """The ruleset for these places: all the rights this ABI has are refused, but for what is given here.

    `read` and `write` are all there is, roots and the system's folders included; what is written may be read.
    `execute` is as in a `Sandbox`. In all three symbolic links are resolved. The devices are added, and with
    `terminals` the pseudo-terminals: none that could be opened there is somebody else's.

    Raises SandboxError below ABI_MIN.
    """
    if abi < ABI_MIN:
        raise SandboxError(
            f"This machine's Landlock has ABI {max(abi, 0)}; `confined` needs {ABI_MIN}.",
            hint="Use a kernel from 6.2 on with Landlock among its security modules, or the level `process`.",
        )
    read, write = tuple(read), tuple(write)
    rights: dict[str, int] = {}

    def give(paths: Iterable[str], given: int) -> None:
        for path in paths:
            rights[path] = rights.get(path, 0) | given

    give(read, _READ)
    give(write, _READ | _CHANGE)
    give((*read, *write) if execute is None else beneath_both(execute, (*read, *write)), EXECUTE)
    give((*DEVICES, *TERMINALS) if terminals else DEVICES, _DEVICE)
    handled = handled_fs(abi)
    return Ruleset(
        fs=handled,
        net=_handled_net(abi, network),
        scoped=SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= _ABI_SCOPED else 0,
        rules=tuple(sorted((path, given & handled) for path, given in rights.items())),
        ports=(),
    )


def handled_fs(abi: int) -> int:
    """All rights to files this ABI knows; those of ABIs not known here are not asked for."""
    last = TRUNCATE
    if abi >= _ABI_IOCTL_DEV:
        last = IOCTL_DEV
    if abi >= _ABI_RESOLVE_UNIX:
        last = RESOLVE_UNIX
    return (last << 1) - 1


def _handled_net(abi: int, network: Network) -> int:
    """With a loopback of its own a command must reach it, at any port: the network namespace is the wall."""
    return BIND_TCP | CONNECT_TCP if network == "none" and abi >= _ABI_NET else 0
