"""Positions: 0, 1, 2 … in a run, whoever takes them.

Owns the counting within one process and, once it has forked, among it and its children. Runs that other
processes join by id count in the journal instead (`Journal.positions`). Used by `ledger` and `run`.
"""

import fcntl
import os
import threading
import weakref

POSITION_BYTES = 8


class Numbering:
    """The next position of one run. Safe for threads and for forked children."""

    def __init__(self, run_id: bytes, *, shared: bool) -> None:
        self.run_id = run_id
        self.shared = shared
        """Joined by other processes: the journal counts, not this object."""
        self._next = 0
        self._lock = threading.Lock()
        self._counter_fd: int | None = None
        _numberings.add(self)

    def take(self) -> int:
        """The next position. It is used up, whatever becomes of its record: a hole in the positions of a run
        is where a record is missing."""
        with self._lock:
            if self._counter_fd is None:
                position = self._next
                self._next = position + 1
                return position
            return self._count(self._counter_fd, 1)

    def give_back(self, position: int) -> None:
        """Nothing came of the last position taken: the next call may have it."""
        with self._lock:
            if self._counter_fd is None and self._next == position + 1:
                self._next = position

    def _count(self, counter_fd: int, add: int) -> int:
        """Add to the counter all relatives share. A process that dies in here leaves the lock free."""
        fcntl.lockf(counter_fd, fcntl.LOCK_EX)
        try:
            found = int.from_bytes(os.pread(counter_fd, POSITION_BYTES, 0), "little")
            os.pwrite(counter_fd, (found + add).to_bytes(POSITION_BYTES, "little"), 0)
            return found
        finally:
            fcntl.lockf(counter_fd, fcntl.LOCK_UN)

    # -- forks ----------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """From here on the count is in memory that parent and child share. Holds the lock over the fork."""
        self._lock.acquire()
        if self._counter_fd is None and not self.shared:
            self._counter_fd = os.memfd_create("custody-positions", os.MFD_CLOEXEC)
            self._count(self._counter_fd, self._next)

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._counter_fd is not None:
            os.close(self._counter_fd)


_numberings: "weakref.WeakSet[Numbering]" = weakref.WeakSet()
_forking: list[Numbering] = []


def _before_fork() -> None:
    _forking[:] = _numberings
    for numbering in _forking:
        numbering.before_fork()


def _after_fork_in_parent() -> None:
    for numbering in _forking:
        numbering.after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    for numbering in _forking:
        numbering.after_fork_in_child()
    _forking.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
