"""User namespaces: the one this process enters, and the ones that only say whose files are shown as whose.

Owns how both are made and mapped. Which users are mapped is said by who asks: `confine`, and the trials of
`walls`, so that what is tried is what is done.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import errno
import itertools
import os

from . import kernel


def enter_own() -> None:
    """One with this user in it, and no other. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")  # else no group may be mapped
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")


def mapping(uid_map: str, gid_map: str) -> int:
    """A descriptor of one with these maps (as in user_namespaces(7)), which nothing else holds. Raises
    OSError."""
    made_reading, made_writing = os.pipe()
    done_reading, done_writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(done_writing)
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(made_writing, b"1")
            os.read(done_reading, 1)  # until it is written down, or who asked is gone
        finally:
            os._exit(0)
    os.close(made_writing)
    os.close(done_reading)
    try:
        if not os.read(made_reading, 1):
            raise kernel.CallFailed(errno.EPERM, "unshare")
        _write(f"/proc/{pid}/uid_map", uid_map)
        _write(f"/proc/{pid}/gid_map", gid_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made_reading)
        os.close(done_writing)
        os.waitpid(pid, 0)


class Mappings:
    """Those in which one user, and its group, stands for the owner of this or that folder: so what it writes
    there belongs to whom the folder belongs to. Each is made once: that takes longer than the mounts it is
    for."""

    def __init__(self, uid: int | None, gid: int | None) -> None:
        self._user = uid, gid
        self._made: dict[tuple[str, str], int] = {}

    def of(self, owner: os.stat_result) -> int:
        """A descriptor, which stays this object's. Raises OSError; ValueError where there is no such user."""
        uid, gid = self._user
        if uid is None or gid is None:
            raise ValueError("uid")
        maps = f"{owner.st_uid} {uid} 1", f"{owner.st_gid} {gid} 1"
        if maps not in self._made:
            self._made[maps] = mapping(*maps)
        return self._made[maps]

    def close(self) -> None:
        for descriptor in self._made.values():
            os.close(descriptor)


def swapped(one: int, other: int, there: str) -> str:
    """A map in which these two stand for one another and everybody else for himself. `there` has the lines of
    /proc/self/uid_map, or gid_map: nobody else can be mapped."""
    lines: list[str] = []
    for first, _, count in (map(int, line.split()) for line in there.splitlines()):
        end = first + count
        cuts = sorted({first, end, *(n for n in (one, one + 1, other, other + 1) if first < n < end)})
        for begin, until in itertools.pairwise(cuts):
            shown = {one: other, other: one}.get(begin, begin)
            lines.append(f"{begin} {shown} {until - begin}")
    return "\n".join(lines)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
