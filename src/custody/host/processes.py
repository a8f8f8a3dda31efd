"""The machine's processes in a few numbers.

Owns one scan of /proc: how many there are, how many are zombies, which use most. Its cost grows with the
machine's processes (some 15 µs each), so the scan stops at a bound and the sampler repeats it seldom.
Used by the sampler.
"""

import heapq
import os
from collections.abc import Callable

from msgspec import Struct

TOP_PROCESSES = 3

SCAN_SECONDS_MAX = 0.25
"""A scan that takes longer (tens of thousands of processes, a machine out of memory) gives only the count."""

_STAT_BYTES_MAX = 4096
"""One read gets all of it: 52 numbers and a name of 64 bytes at most."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class TopProcess(Struct, frozen=True, kw_only=True, array_like=True):
    """One of the processes that use most."""

    pid: int
    comm: str
    cpu_percent: float | None
    """Of one core, since the scan before; None for a process first seen now."""
    memory_bytes: int


class ProcessSummary(Struct, frozen=True, kw_only=True, array_like=True):
    """All processes of the machine, as far as this one may see them."""

    count: int
    zombies: int | None
    """None, as are the lists, when the scan was cut off."""
    top_cpu: tuple[TopProcess, ...] | None
    """None in the first scan too: there is nothing to compare with."""
    top_memory: tuple[TopProcess, ...] | None


class _Process(Struct, frozen=True):
    pid: int
    comm: str
    state: str
    ticks: int
    start_ticks: int
    memory_bytes: int


class ProcessScanner:
    """Remembers the scan before, for the differences. Not for several threads at once."""

    def __init__(self, proc: str, clock: Callable[[], float]) -> None:
        self._proc = proc
        self._clock = clock
        self._ticks: dict[tuple[int, int], int] | None = None
        self._scanned_at = 0.0

    def scan(self) -> ProcessSummary | None:
        """None where /proc cannot be listed."""
        now = self._clock()
        try:
            pids = [int(name) for name in os.listdir(self._proc) if name.isascii() and name.isdigit()]
        except OSError:
            return None
        if not pids:
            return None
        give_up_at = now + SCAN_SECONDS_MAX
        processes: list[_Process] = []
        for pid in pids:
            if self._clock() > give_up_at:
                self._ticks = None
                return ProcessSummary(count=len(pids), zombies=None, top_cpu=None, top_memory=None)
            process = _read(f"{self._proc}/{pid}/stat", pid)
            if process is not None:
                processes.append(process)
        return self._summary(processes, now)

    def _summary(self, processes: list[_Process], now: float) -> ProcessSummary:
        top_cpu: tuple[TopProcess, ...] | None = None
        if self._ticks is not None:
            shown = [self._top(process, now) for process in processes]
            busy = [top for top in shown if top.cpu_percent]
            top_cpu = tuple(heapq.nlargest(TOP_PROCESSES, busy, key=lambda top: top.cpu_percent or 0.0))
        largest = heapq.nlargest(TOP_PROCESSES, processes, key=lambda process: process.memory_bytes)
        top_memory = tuple(self._top(process, now) for process in largest)
        self._ticks = {(process.pid, process.start_ticks): process.ticks for process in processes}
        self._scanned_at = now
        return ProcessSummary(
            count=len(processes),
            zombies=sum(process.state == "Z" for process in processes),
            top_cpu=top_cpu,
            top_memory=top_memory,
        )

    def _top(self, process: _Process, now: float) -> TopProcess:
        before = (self._ticks or {}).get((process.pid, process.start_ticks))
        elapsed = now - self._scanned_at
        percent = None
        if before is not None and elapsed > 0:
            percent = round(max(0, process.ticks - before) / _TICKS_PER_SECOND / elapsed * 100, 1)
        return TopProcess(
            pid=process.pid, comm=process.comm, cpu_percent=percent, memory_bytes=process.memory_bytes
        )


def _read(path: str, pid: int) -> _Process | None:
    """proc_pid_stat(5): the name stands in parentheses and may hold spaces and parentheses itself."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None  # it has ended
    try:
        content = os.read(descriptor, _STAT_BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    name_at, name_end = content.find(b"("), content.rfind(b")")
    fields = content[name_end + 1 :].split(None, 22)
    if name_at < 0 or name_end < name_at or len(fields) < 22:
        return None
    user, system, start, pages = fields[11], fields[12], fields[19], fields[21]
    if not (user.isdigit() and system.isdigit() and start.isdigit()):
        return None
    return _Process(
        pid=pid,
        comm=content[name_at + 1 : name_end].decode("utf-8", "replace"),
        state=fields[0].decode("ascii", "replace"),
        ticks=int(user) + int(system),
        start_ticks=int(start),
        memory_bytes=int(pages) * _PAGE_BYTES if pages.isdigit() else 0,
    )
