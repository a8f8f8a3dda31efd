"""How much undo data is kept, and for how long.

Owns when it is counted and what has to go. Counting opens every file, so it is done now and then, by one
process of those that share a store, and what it came to is kept beside the data. Used by `store`.
"""

import time
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from custody.journal import Disk
from custody.records import now_us

COUNT_AGAIN_SECONDS = 600.0
"""What is too old or too much is gone within ten minutes, if somebody changes something."""

COUNT_SHARE = 100
"""Counting takes at most this part of the time: with very many files it is done less often."""

ADDED_SHARE = 64
"""A process that has added so much of what may be kept has it counted: the bound is passed by little."""

BLOCK_BYTES = 4096
"""A file takes at least so much of the disk."""


class Kept(Struct, frozen=True, kw_only=True):
    """One undo file, as it is counted."""

    call_id: bytes
    at_us: int
    file_bytes: int
    at_it: bool
    """Its call is still changing something."""

    @property
    def disk_bytes(self) -> int:
        return -(-self.file_bytes // BLOCK_BYTES) * BLOCK_BYTES


class _Count(Struct, frozen=True, array_like=True):
    """What the last count came to."""

    at_us: int
    total_bytes: int
    took_us: int


class Bounds:
    """The bounds of one store's undo data."""

    def __init__(self, disk: Disk, path: str, *, bytes_max: int, age_seconds: float) -> None:
        self.bytes_max = bytes_max
        self.age_seconds = age_seconds
        self._disk = disk
        self._path = path
        self._count: _Count | None = None
        self._added_bytes = 0

    def added(self, file_bytes: int) -> None:
        """An undo file has been written."""
        self._added_bytes += file_bytes  # a sum that two threads get wrong is only counted a little later

    def due(self) -> bool:
        """Whether it is time to count. Raises OSError."""
        if self._is_due():
            self._count, known = self._last_count(), self._count
            if self._count != known:  # somebody else has just counted
                self._added_bytes = 0
        return self._is_due()

    def keep(self, kept: Callable[[], Iterable[Kept]], remove: Callable[[bytes], None]) -> list[bytes]:
        """Count, and remove what is beyond the bounds; the calls whose data went. Raises OSError."""
        try:
            lock = self._disk.lock(f"{self._path}.lock")
        except FileNotFoundError:  # there is no undo data yet
            return []
        if lock is None:  # somebody else counts
            return []
        try:
            began_ns = time.monotonic_ns()
            total_bytes, going = self._judge(kept())
            for call_id in going:
                remove(call_id)
            took_us = (time.monotonic_ns() - began_ns) // 1000
            count = _Count(now_us(), total_bytes, took_us)
            self._disk.replace(self._path, msgspec.msgpack.encode(count))
            self._count, self._added_bytes = count, 0
            return going
        finally:
            lock.release()

    def _judge(self, found: Iterable[Kept]) -> tuple[int, list[bytes]]:
        """What is left of the sum, and the calls that have to go, oldest first. A call goes as a whole."""
        calls: dict[bytes, tuple[int, int, bool]] = {}
        for kept in found:
            at_us, size, at_it = calls.get(kept.call_id, (0, 0, False))
            calls[kept.call_id] = max(at_us, kept.at_us), size + kept.disk_bytes, at_it or kept.at_it
        total_bytes = sum(size for _, size, _ in calls.values())
        oldest_us = now_us() - int(self.age_seconds * 1e6)
        going: list[bytes] = []
        for call_id, (at_us, size, at_it) in sorted(calls.items(), key=lambda item: item[1]):
            if total_bytes <= self.bytes_max and at_us >= oldest_us:
                break
            if not at_it:
                going.append(call_id)
                total_bytes -= size
        return total_bytes, going

    def _is_due(self) -> bool:
        count = self._count
        if count is None:
            return True
        every_seconds = max(COUNT_AGAIN_SECONDS, count.took_us / 1e6 * COUNT_SHARE)
        return (
            now_us() - count.at_us > every_seconds * 1e6
            or self._added_bytes > self.bytes_max // ADDED_SHARE
            or (self._added_bytes > 0 and count.total_bytes + self._added_bytes > self.bytes_max)
        )

    def _last_count(self) -> _Count | None:
        """As whoever did it left it beside the data."""
        try:
            data = self._disk.read_all(self._path)
            return None if data is None else msgspec.msgpack.decode(data, type=_Count)
        except msgspec.DecodeError:
            return None
