"""A cgroup (version 2) for each launcher, where one can be made.

Owns where it is made, what it is called and how it goes away. With it a whole tree is killed at once;
without it the launcher's sweeps do the same more slowly, so every trouble here means None. It sets no limits
and needs no controllers. Used by `process`.
"""

import contextlib
import itertools
import os
import re

from custody.sandbox.launcher.tree import stat_of

_PREFIX = "custody-"
_NAME = re.compile(r"custody-(\d+)-(\d+)-\d+")  # pid and start ticks of the process that made it
_number = itertools.count(1)


class Cgroup:
    """One group, which a launcher enters by itself."""

    def __init__(self, path: str) -> None:
        self.path = path

    def kill(self) -> list[tuple[int, int]]:
        """SIGKILL to everything in it, for a launcher that is lost; pid and start ticks of what there was."""
        members: list[tuple[int, int]] = []
        with contextlib.suppress(OSError):
            with open(os.path.join(self.path, "cgroup.procs")) as file:
                pids = [int(line) for line in file]
            members = [(pid, found.start_ticks) for pid in pids if (found := stat_of(pid)) is not None]
            with open(os.path.join(self.path, "cgroup.kill"), "wb", buffering=0) as file:
                file.write(b"1")
        return members

    def remove(self) -> bool:
        """Whether it is gone: not before it is empty."""
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


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
