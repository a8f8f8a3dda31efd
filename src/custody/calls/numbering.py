"""Positions: 0, 1, 2 … in a run, whoever takes them.

Owns the counting within one process and, once it has forked, among it and its children. Runs that other
processes join by id count in the journal instead (`Journal.positions`). Used by `ledger` and `run`.

What parent and child count together stands in one file without a name, eight bytes a run, that all of them
inherit; the first eight say how many runs have a place in it.
"""

import fcntl
import os
import threading
import weakref

from custody.locks import held_here

POSITION_BYTES = 8


class Numbering:
    """The next position of one run. Safe for threads and for forked children."""

    def __init__(self, run_id: bytes, *, shared: bool) -> None:
        self.run_id = run_id
        self.shared = shared
        """Joined by other processes: the journal counts, not this object."""
        self._next = 0
        self._lock = threading.RLock()
        self._slot: int | None = None
        """Where the family counts; None as long as this process has it for itself."""
        self._lost = False
        self.guarded = threading.Lock()
        """Held while a guarded call takes its position and its first record is appended: of those that cannot
        be kept, and of one that a kill cuts off, no position is used."""
        _known.append(weakref.ref(self, _known.remove))

    def take(self, count: int = 1) -> int | None:
        """The next position, the first of so many. It is used up, whatever becomes of its record: a hole in
        the positions of a run is where a record is missing. None for a child that could not be given a share
        in the count, and for a finalizer that comes while this thread counts in its family's file."""
        if self._slot is not None and held_here(self._lock):
            return None
        with self._lock:
            if self._slot is not None:
                return _add(self._slot, count)
            position = self._next
            self._next = position + count
            return None if self._lost else position

    def give_back(self, position: int | None, count: int = 1) -> None:
        """Nothing came of the last `count` positions taken: the next call may have them."""
        with self._lock:
            if self._slot is None and position is not None and self._next == position + count:
                self._next = position

    # -- forks ----------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """From here on parent and child count together. Holds the lock over the fork."""
        self._lock.acquire()
        if self._slot is None and not self.shared and not self._lost:
            try:
                slot = _add(0, 1) + 1
                _add(slot, self._next)
                self._slot = slot
            except OSError:
                pass  # no descriptor left: the parent goes on alone

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self.guarded = threading.Lock()
        self._lost = self._slot is None


def _add(slot: int, more: int) -> int:
    """What the family had counted there. A process that dies in here leaves the lock free."""
    global _file
    if _file is None:
        _file = os.memfd_create("custody-positions", os.MFD_CLOEXEC)
    offset = slot * POSITION_BYTES
    fcntl.lockf(_file, fcntl.LOCK_EX, POSITION_BYTES, offset)
    try:
        found = int.from_bytes(os.pread(_file, POSITION_BYTES, offset), "little")
        os.pwrite(_file, (found + more).to_bytes(POSITION_BYTES, "little"), offset)
        return found
    finally:
        fcntl.lockf(_file, fcntl.LOCK_UN, POSITION_BYTES, offset)


_file: int | None = None
"""Made by the first fork, and never closed: closing would free the locks of this process on it."""
_known: "list[weakref.ref[Numbering]]" = []
_forking: list[Numbering] = []
_fork = threading.Lock()
"""Held over a fork: of two threads that fork at a time, the second would wait for locks the first holds."""


def _before_fork() -> None:
    _fork.acquire()
    _forking[:] = [numbering for ref in _known.copy() if (numbering := ref()) is not None]
    for numbering in _forking:
        numbering.before_fork()


def _after_fork_in_parent() -> None:
    for numbering in _forking:
        numbering.after_fork_in_parent()
    _forking.clear()
    _fork.release()


def _after_fork_in_child() -> None:
    global _fork
    for numbering in _forking:
        numbering.after_fork_in_child()
    _forking.clear()
    _fork = threading.Lock()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
