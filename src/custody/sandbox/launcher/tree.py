"""Everything below this process: what there is, and how all of it is told to end.

Owns the walk over /proc and the proof that a pid is still who it was. Used by the launcher's service; the
identity of a process (`stat_of`) also by `survivors`.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
else:
    import _signal as signal  # `signal` itself brings `enum`: a third of the launcher's start

DEPTH_MAX = 100
"""Levels of one walk, which holds a descriptor for each; deeper processes come up as their parents end."""


def read(path: str) -> bytes:
    """All of a small file of /proc."""
    descriptor = os.open(path, os.O_RDONLY)  # a third of what a file object costs
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


class Stat:
    """What /proc/PID/stat says; the pair of pid and start ticks names a process for good."""

    def __init__(self, text: bytes) -> None:
        fields = text[text.rfind(b")") + 2 :].split()  # the name before it may hold anything, parentheses too
        self.state = fields[0]
        self.parent_pid = int(fields[1])
        self.session_id = int(fields[3])
        self.threads = int(fields[17])
        self.start_ticks = int(fields[19])

    @property
    def dead(self) -> bool:
        """A zombie; a process whose first thread has ended while others run is not."""
        return self.state in b"ZX" and self.threads <= 1


def stat_of(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        return Stat(read(f"/proc/{pid}/stat"))
    except (OSError, IndexError):
        return None


def children_of(pid: int) -> Iterator[int]:
    """Not exact while the tree changes: ask again."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                data = b""
                while more := file.read(65536):
                    data += more
            yield from map(int, data.split())
    except OSError:  # it has ended
        return


def _alive(descriptor: int | None) -> bool:
    """Whether the process of a pidfd (None: this one) has not been reaped, so that its number is its own."""
    if descriptor is None:
        return True
    try:
        signal.pidfd_send_signal(descriptor, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


class Tree:
    """Everything below this process."""

    def __init__(self) -> None:
        self.signalled: set[tuple[int, int]] = set()
        """Pid and start ticks of what was told to end."""

    def sweep(self, signum: int) -> int:
        """Signal every process there is; how many of them had not been signalled before."""
        return self._sweep_below(os.getpid(), None, signum, DEPTH_MAX)

    def _sweep_below(self, parent: int, parent_descriptor: int | None, signum: int, depth: int) -> int:
        fresh = 0
        for pid in list(children_of(parent)):
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                found = stat_of(pid)
                if found is None or found.parent_pid != parent:
                    continue
                # Both still hold their numbers, so what was just read was of the process behind `descriptor`,
                # and its parent was ours: no other process that came to have the number can be meant.
                if not _alive(descriptor) or not _alive(parent_descriptor):
                    continue
                if signum == signal.SIGKILL:  # so that it forks no more while its children are looked at
                    _send(descriptor, signal.SIGSTOP)
                if depth:
                    fresh += self._sweep_below(pid, descriptor, signum, depth - 1)
                fresh += self._end(pid, found, descriptor, signum)
            finally:
                os.close(descriptor)
        return fresh

    def _end(self, pid: int, found: Stat, descriptor: int, signum: int) -> int:
        name = (pid, found.start_ticks)
        fresh = not found.dead and name not in self.signalled
        if signum == signal.SIGTERM and not fresh:
            return 0  # told once: a handler that is cleaning up is not to be begun again
        _send(descriptor, signum)
        if signum == signal.SIGTERM:
            _send(descriptor, signal.SIGCONT)  # a stopped process handles nothing
        if not fresh:
            return 0
        self.signalled.add(name)
        return 1


def _send(descriptor: int, signum: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signum)
    except (ProcessLookupError, PermissionError):  # gone, or another user's
        pass
