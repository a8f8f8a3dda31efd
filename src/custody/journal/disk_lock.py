"""POSIX locks on a store's lock files, and what this process holds of them.

Owns the rule that a held lock file is never opened a second time. Refuses to know what a lock stands for.
Used by `disk` alone.
"""

import fcntl
import os
import stat
import struct
import sys
import threading
from typing import Literal

LOCK_MODE = 0o600


class RealLock:
    """A POSIX lock: dropped by the kernel when this process dies, not inherited by a forked child."""

    def __init__(self, descriptor: int, key: tuple[int, int]) -> None:
        self.descriptor = descriptor
        self._key = key

    def release(self) -> None:
        with held.mutex:
            if self.descriptor >= 0:
                del held.locks[self._key]
                self.forget()

    def forget(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


class Held:
    """Locks this process holds, by device and inode.

    POSIX drops a lock when the process closes *any* descriptor of that file, and grants it again to the
    process that has it: so a held lock file must not be opened a second time.
    """

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.locks: dict[tuple[int, int], RealLock] = {}

    def find(self, path: str) -> RealLock | None:
        if not self.locks:
            return None
        try:
            return self.locks.get(_key(os.stat(path, follow_symlinks=False)))
        except FileNotFoundError:
            return None

    def after_fork_in_child(self) -> None:
        # The locks are the parent's; closing the child's descriptors does not touch them.
        self.mutex = threading.Lock()
        locks, self.locks = self.locks, {}
        for lock in locks.values():
            lock.forget()


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


held = Held()
os.register_at_fork(after_in_child=held.after_fork_in_child)

# struct flock: type, whence, start, length, pid.
_FLOCK, _FLOCK_TYPE = ("@qqihh", 3) if sys.platform == "darwin" else ("@hhqqi0q", 0)


def _lock_request(kind: int) -> bytes:
    fields = [0, 0, 0, 0, 0]
    fields[_FLOCK_TYPE] = kind
    return struct.pack(_FLOCK, *fields)


def locked_elsewhere(descriptor: int) -> bool:
    """Whether another process holds the lock; asks without taking it."""
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _lock_request(fcntl.F_WRLCK))
    return struct.unpack(_FLOCK, answer)[_FLOCK_TYPE] != fcntl.F_UNLCK


def try_lock(descriptor: int, path: str) -> RealLock | Literal["held", "replaced"]:
    """Take the lock on an open lock file; *replaced* when the name has come to mean another file."""
    status = os.fstat(descriptor)
    if stat.S_IMODE(status.st_mode) != LOCK_MODE and status.st_uid == os.geteuid():
        os.fchmod(descriptor, LOCK_MODE)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return "held"
    try:
        if _key(os.stat(path, follow_symlinks=False)) != _key(status):
            return "replaced"
    except FileNotFoundError:
        return "replaced"
    lock = held.locks[_key(status)] = RealLock(descriptor, _key(status))
    return lock
