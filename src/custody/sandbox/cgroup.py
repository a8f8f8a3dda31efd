"""Cgroups (version 2): one for each launcher, and one for each command whose whole tree is bounded.

Owns where they are made, what they are called, the files of the kernel's interface, and how they go away. A
launcher's needs no controllers: with it a whole tree is killed at once, and without it the launcher's sweeps
do the same more slowly, so every trouble there means None. A command's is made only where the controllers of
its bounds can be had; from then on a bound that cannot be set is an error. Used by `process`.
"""

import asyncio
import contextlib
import itertools
import os
import re
from collections.abc import Iterable

from msgspec import Struct

from custody.sandbox.launcher.tree import stat_of

CPU_PERIOD_US = 100_000  # the kernel's own
_REMOVALS_MAX = 50  # what was killed in it takes a moment to be gone
_REMOVAL_SECONDS = 0.02

_PREFIX = "custody-"
_NAME = re.compile(r"custody-(\d+)-(\d+)-\d+")  # pid and start ticks of the process that made it
_number = itertools.count(1)


class Bounds(Struct, frozen=True):
    """Of a whole tree. None: no bound."""

    memory_bytes: int | None = None
    processes: int | None = None
    """And threads."""
    cpu_percent: int | None = None
    """Of one processor."""

    def controllers(self) -> tuple[str, ...]:
        """What the kernel needs for them."""
        named = (("memory", self.memory_bytes), ("pids", self.processes), ("cpu", self.cpu_percent))
        return tuple(name for name, bound in named if bound is not None)

    def files(self) -> list[tuple[str, str]]:
        """What is written where. One process out of memory ends all: half a tree is of no use to anybody."""
        found: list[tuple[str, str]] = []
        if self.memory_bytes is not None:
            found += [("memory.max", str(self.memory_bytes)), ("memory.oom.group", "1")]
        if self.processes is not None:
            found.append(("pids.max", str(self.processes)))
        if self.cpu_percent is not None:
            found.append(("cpu.max", f"{self.cpu_percent * CPU_PERIOD_US // 100} {CPU_PERIOD_US}"))
        return found


class Used(Struct, frozen=True, kw_only=True):
    """What a group has used, and how often it came to a bound. None: no controller counts it."""

    user_us: int | None = None
    system_us: int | None = None
    memory_peak_bytes: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    memory_kills: int = 0
    """Processes that were killed for want of memory."""
    process_refusals: int = 0
    """Processes and threads that could not be started."""


class Cgroup:
    """One group, which a process enters by itself."""

    def __init__(self, path: str) -> None:
        self.path = path

    def entrance(self) -> int:
        """A descriptor by which a process enters that may be allowed to open nothing here: it writes a 0."""
        return os.open(os.path.join(self.path, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)

    def kill(self) -> list[tuple[int, int]]:
        """SIGKILL to everything in it, for a launcher that is lost; pid and start ticks of what there was."""
        members: list[tuple[int, int]] = []
        with contextlib.suppress(OSError):
            pids = map(int, self._read("cgroup.procs").split())
            members = [(pid, found.start_ticks) for pid in pids if (found := stat_of(pid)) is not None]
            _write(os.path.join(self.path, "cgroup.kill"), "1")
        return members

    def used(self) -> Used:
        """So far; what has ended is in it."""
        processor, memory, processes = map(self._fields, ("cpu.stat", "memory.events", "pids.events"))
        storage = self._storage()
        return Used(
            user_us=processor.get("user_usec"),
            system_us=processor.get("system_usec"),
            memory_peak_bytes=self._count("memory.peak"),
            read_bytes=None if storage is None else storage[0],
            write_bytes=None if storage is None else storage[1],
            memory_kills=memory.get("oom_kill", 0),
            process_refusals=processes.get("max", 0),
        )

    def remove(self) -> bool:
        """Whether it is gone: not before it is empty."""
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    async def end(self) -> None:
        """Kill what may be left in it, and remove it. What cannot be ended keeps it."""
        self.kill()
        for _ in range(_REMOVALS_MAX):
            if self.remove():
                break
            await asyncio.sleep(_REMOVAL_SECONDS)

    def _read(self, name: str) -> str:
        with open(os.path.join(self.path, name)) as file:
            return file.read()

    def _count(self, name: str) -> int | None:
        try:
            return int(self._read(name))
        except (OSError, ValueError):
            return None

    def _fields(self, name: str) -> dict[str, int]:
        """Lines of a name and a number."""
        try:
            return {field: int(value) for field, value in map(str.split, self._read(name).splitlines())}
        except (OSError, ValueError):
            return {}

    def _storage(self) -> tuple[int, int] | None:
        """Bytes read from and written to all devices, a line each: `8:0 rbytes=1 wbytes=2 …`."""
        try:
            fields = [field.partition("=") for field in self._read("io.stat").split()]
            sums = [sum(int(value) for name, _, value in fields if name == want) for want in _STORAGE]
        except (OSError, ValueError):
            return None
        return sums[0], sums[1]


_STORAGE = ("rbytes", "wbytes")


def parent_folder(mounts: str = "/proc/self/mountinfo", own: str = "/proc/self/cgroup") -> str | None:
    """The folder of the group this process is in; None where there is no second version of cgroups."""
    try:
        with open(own) as file:
            paths = [line[3:].rstrip("\n") for line in file if line.startswith("0::")]
        with open(mounts) as file:
            fields = [line.split() for line in file if " - cgroup2 " in line]
    except OSError:
        return None
    if not paths or not fields:
        return None
    root, mount_point = fields[0][3], fields[0][4]
    below = os.path.relpath(paths[0], root)
    folder = os.path.normpath(os.path.join(mount_point, below))
    return None if below.startswith("..") or not os.path.isdir(folder) else folder


def bounding_folder(own: str, controllers: Iterable[str]) -> str | None:
    """Where groups with these controllers can be made: in the group this process is in, or beside that.

    A group that has processes hands on no controllers (but the machine's first), so mostly it is beside; and
    only where the folder above was handed to whoever runs here, which systemd says by an attribute. Elsewhere
    its owner may take the controllers away again at any time, and the bounds with them.
    """
    for folder in (own, os.path.dirname(own)):
        is_handed = _is_delegated(folder)
        if (folder == own or is_handed) and _hands_on(folder, set(controllers), may_change=is_handed):
            return folder
    return None


def _is_delegated(folder: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _hands_on(folder: str, controllers: set[str], *, may_change: bool) -> bool:
    switch = os.path.join(folder, "cgroup.subtree_control")
    try:
        with open(switch) as file:
            there = set(file.read().split())
        if may_change and not controllers <= there:
            _write(switch, " ".join(f"+{name}" for name in sorted(controllers)))
            there |= controllers
        if may_change and "io" not in there:  # bounds nothing, and counts
            with contextlib.suppress(OSError):
                _write(switch, "+io")
    except OSError:
        return False
    return controllers <= there


def make_cgroup(parent: str) -> Cgroup | None:
    """A new group below `parent`; None where that is not allowed or the kernel cannot kill by group."""
    found = stat_of(os.getpid())
    assert found is not None, "this process runs"
    path = os.path.join(parent, f"{_PREFIX}{os.getpid()}-{found.start_ticks}-{next(_number)}")
    try:
        os.mkdir(path)
    except OSError:
        return None
    cgroup = Cgroup(path)
    if not os.path.exists(os.path.join(path, "cgroup.kill")):  # Linux before 5.14
        cgroup.remove()
        return None
    return cgroup


def make_bounded(parent: str, bounds: Bounds) -> Cgroup | None:
    """The same with bounds; None where no group can be made, OSError where it cannot be bounded."""
    cgroup = make_cgroup(parent)
    if cgroup is None:
        return None
    try:
        for name, text in bounds.files():
            _write(os.path.join(cgroup.path, name), text)
        if bounds.memory_bytes is not None:  # what would be swapped out counts as well; there may be no swap
            with contextlib.suppress(FileNotFoundError):
                _write(os.path.join(cgroup.path, "memory.swap.max"), "0")
    except OSError:
        cgroup.remove()
        raise
    return cgroup


def remove_abandoned(parent: str) -> None:
    """Remove empty groups of processes that are gone, launcher and all."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            found = stat_of(int(match[1]))
            if found is None or found.start_ticks != int(match[2]):
                Cgroup(os.path.join(parent, name)).remove()


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # what is not there is not to be made
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
