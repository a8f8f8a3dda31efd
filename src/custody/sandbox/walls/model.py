"""What a confined command may reach: a frozen value, the four that have a name, and how one narrows another.

Owns what is a sandbox and what is wider than what. Knows nothing of the machine but where symbolic links
lead, and nothing of how a wall is built: `plan` makes of a sandbox what a launcher is told. Used by policy,
which chooses one and narrows it, and by whoever makes a command.
"""

import os
import re
import resource
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct, structs

from custody.errors import InvalidSetting

Network = Literal["none", "loopback", "listed", "open"]
"""From the narrowest: nothing at all, its own loopback, what `hosts` lists, what the machine reaches."""

RootAccess = Literal["read", "write"]
"""What a command may do beneath the roots of its call, which are not known to the sandbox."""

PATHS_MAX = 256  # each is a rule the launcher opens a descriptor for; a person lists a few
PATH_BYTES_MAX = 4095  # PATH_MAX without its end
NAMES_MAX = 256  # of hosts, of variables: each is compared with each when one sandbox narrows another
NAME_LENGTH_MAX = 255
NUMBER_MAX = 2**63 - 1  # what the kernel's interfaces take

_NETWORKS: tuple[Network, ...] = ("none", "loopback", "listed", "open")
_NAME = re.compile(r"[a-z][a-z0-9_+-]{0,254}")
_UNLIMITED = -1  # as RLIM_INFINITY


def _check_paths(field: str, paths: tuple[str, ...]) -> None:
    if len(paths) > PATHS_MAX:
        raise _invalid(field, f"at most {PATHS_MAX} paths")
    if not all(map(_is_path, paths)):
        raise _invalid(field, "absolute paths without `.`, `..`, doubled or closing slashes")


def _is_path(path: str) -> bool:
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:
        return False
    spelled = path.startswith("/") and not path.startswith("//") and os.path.normpath(path) == path
    return spelled and "\0" not in path and length <= PATH_BYTES_MAX


def _check_names(field: str, names: tuple[str, ...]) -> None:
    if len(names) > NAMES_MAX:
        raise _invalid(field, f"at most {NAMES_MAX} names")
    for name in names:
        if not 0 < len(name) <= NAME_LENGTH_MAX or "=" in name or not name.isprintable() or " " in name:
            raise _invalid(field, f"names of at most {NAME_LENGTH_MAX} characters, without blanks and `=`")


def _check_limits(limits: Mapping[str, int]) -> None:
    for name, value in limits.items():
        if not (name.islower() and hasattr(resource, f"RLIMIT_{name.upper()}")):
            raise _invalid("limits", "limits named as in setrlimit(2), in lower case: `nofile`, `fsize`")
        if not _is_number(value, _UNLIMITED):
            raise _invalid("limits", "whole numbers from 0, or -1 for unlimited")


def _is_number(value: int, least: int) -> bool:
    """True and False are none, though Python counts with them."""
    return type(value) is int and least <= value <= NUMBER_MAX


def _invalid(field: str, expected: str) -> InvalidSetting:
    return InvalidSetting(f"The {field} of a sandbox cannot be used: it takes {expected}.")


class Sandbox(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a confined command may reach, beside the system's folders and a few devices.

    Raises InvalidSetting for what cannot be meant.
    """

    name: str
    roots: RootAccess = "read"
    """What it may do beneath the roots of its call."""
    read: tuple[str, ...] = ()
    """Further places it may read, everything beneath them included. Absolute, without `..`."""
    write: tuple[str, ...] = ()
    """Further places it may read and change."""
    execute: tuple[str, ...] | None = None
    """Where programs may be executed, as far as it may read there; the loader of shared libraries is such a
    program. None: wherever it may read."""
    network: Network = "none"
    hosts: tuple[str, ...] = ()
    """What `listed` lists."""
    memory_bytes: int | None = None
    """Of the whole tree. None: no bound, here and below."""
    processes: int | None = None
    """Processes and threads of the whole tree."""
    cpu_percent: int | None = None
    """Of one processor: 200 is two of them."""
    limits: Mapping[str, int] = {}
    """Resource limits of every process, by the name of setrlimit(2) in lower case. -1 is unlimited."""
    environment: tuple[str, ...] | None = None
    """The only variables it is given, of those it would be given. None: all of those."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise _invalid("name", "a lower-case letter, then letters, digits, `_`, `+` and `-`")
        if self.roots not in ("read", "write"):
            raise _invalid("roots", "`read` or `write`")
        if self.network not in _NETWORKS:
            raise _invalid("network", "`none`, `loopback`, `listed` or `open`")
        for field, paths in (("read", self.read), ("write", self.write), ("execute", self.execute or ())):
            _check_paths(field, paths)
        if self.hosts and self.network != "listed":
            raise _invalid("hosts", "nothing unless the network is `listed`")
        _check_names("hosts", self.hosts)
        _check_names("environment", self.environment or ())
        for field in ("memory_bytes", "processes", "cpu_percent"):
            value: int | None = getattr(self, field)
            if value is not None and not _is_number(value, 1):
                raise _invalid(field, "a whole number from 1")
        _check_limits(self.limits)
        # A copy of its own, in one order: what the caller does to its mapping later changes no wall.
        structs.force_setattr(self, "limits", dict(sorted(self.limits.items())))

    def __hash__(self) -> int:
        """Launchers are kept by it; a mapping has no hash of its own."""
        others = (getattr(self, field) for field in self.__struct_fields__ if field != "limits")
        return hash((*others, *self.limits.items()))


class View(Struct, frozen=True):
    """What a command sees in place of a root, so that the root itself stays as it is."""

    root: str
    kind: Literal["overlay", "copy"]
    upper: str
    """Where what it changes is written, beside the root; or a copy of the root, seen in its place."""
    work: str = ""
    """A folder beside `upper` that is the kernel's, for an overlay."""
    store: str = ""
    """A folder above `upper` in which those of later calls will lie as well: with it a launcher can be walled
    in before there is a call. Nothing in it is seen by a command."""


PROCESSES_MAX = 4096
"""Of one command's tree: a build on a large machine has hundreds of threads, a fork bomb what there is."""

WORKSPACE = Sandbox(name="workspace", roots="write", network="listed", processes=PROCESSES_MAX)
"""What an agent's commands have by default: the roots are theirs, the rest of the machine is not."""

NAMED: Mapping[str, Sandbox] = MappingProxyType({
    "read_only": Sandbox(name="read_only", roots="read", network="none", processes=PROCESSES_MAX),
    "workspace": WORKSPACE,
    "network": structs.replace(WORKSPACE, name="network", network="open"),
    "open": structs.replace(WORKSPACE, name="open", network="open", read=("/",), write=("/",)),
})  # fmt: skip
"""`open` lets through what owners and modes of files allow; system calls stay refused, processes apart."""


def narrowed(sandbox: Sandbox, by: Sandbox) -> Sandbox:
    """What both allow, and nothing else; where the two cannot be joined exactly, less.

    Symbolic links are followed first: beneath a path of one, a link may lead out of every path of the other.
    """
    read = beneath_both(_resolved((*sandbox.read, *sandbox.write)), _resolved((*by.read, *by.write)))
    write = beneath_both(_resolved(sandbox.write), _resolved(by.write))
    network = _NETWORKS[min(_NETWORKS.index(sandbox.network), _NETWORKS.index(by.network))]
    narrower = Sandbox(
        name=sandbox.name,
        roots="write" if sandbox.roots == by.roots == "write" else "read",
        read=tuple(path for path in read if path not in write),
        write=write,
        execute=_places_of_both(sandbox.execute, by.execute),
        network=network,
        hosts=_hosts(sandbox, by) if network == "listed" else (),
        memory_bytes=_least(sandbox.memory_bytes, by.memory_bytes),
        processes=_least(sandbox.processes, by.processes),
        cpu_percent=_least(sandbox.cpu_percent, by.cpu_percent),
        limits={
            name: _lower(sandbox.limits.get(name, _UNLIMITED), by.limits.get(name, _UNLIMITED))
            for name in {*sandbox.limits, *by.limits}
        },
        environment=_names_of_both(sandbox.environment, by.environment),
    )
    return structs.replace(narrower, name=_name(narrower, sandbox, by))


def is_beneath(path: str, folder: str) -> bool:
    """Whether it is the folder itself or lies in it, by their spelling."""
    return path == folder or path.startswith(folder if folder == "/" else folder + "/")


def beneath_both(paths: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """The places that lie beneath one of the first and one of the second, none beneath another, sorted.

    By their spelling; who has not resolved symbolic links before is told more than holds.
    """
    others = tuple(others)
    found: set[str] = set()
    for path in paths:
        for other in others:
            if is_beneath(path, other):
                found.add(path)
            elif is_beneath(other, path):
                found.add(other)
    return tuple(sorted(p for p in found if not any(p != q and is_beneath(p, q) for q in found)))


# -- narrowing, field by field --------------------------------------------------------------------------


def _resolved(paths: Iterable[str]) -> list[str]:
    return [os.path.realpath(path) for path in paths]


def _places_of_both(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if one is None or other is None:
        return one if other is None else other
    return beneath_both(_resolved(one), _resolved(other))


def _names_of_both(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if one is None or other is None:
        return one if other is None else other
    return tuple(name for name in one if name in other)


def _hosts(one: Sandbox, other: Sandbox) -> tuple[str, ...]:
    if one.network == other.network:
        return tuple(host for host in one.hosts if host in other.hosts)
    return one.hosts if one.network == "listed" else other.hosts


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _lower(one: int, other: int) -> int:
    return min((value for value in (one, other) if value != _UNLIMITED), default=_UNLIMITED)


def _name(narrower: Sandbox, sandbox: Sandbox, by: Sandbox) -> str:
    """The name of the one it is equal to, or both; narrowed by the same ones again it grows no further."""
    for known in (sandbox, by):
        if structs.replace(narrower, name=known.name) == known:
            return known.name
    parts = list(dict.fromkeys((*sandbox.name.split("+"), *by.name.split("+"))))
    return "+".join(parts)[:NAME_LENGTH_MAX].rstrip("+")
