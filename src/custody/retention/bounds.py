"""How long and how much is kept: the settings turned into a time before which things are purged.

Owns what counts for the bound (payloads and blobs), which goes first (what ended first), and how near the
bound a store is. 0 deletes nothing. Used by the command line and the keeper.
"""

import os
from collections.abc import Iterator

from msgspec import Struct

from custody.journal import Journal
from custody.records import decode_leaf
from custody.retention.selection import blobs_of, says_something
from custody.retention.survey import Progress, Survey

DAY_US = 24 * 3600 * 1_000_000

WARN_SHARE = 0.8
"""Of the bound: there is time left to look what fills the store."""
FREE_SHARE_MIN = 0.05
"""Of the disk: below it calls will soon be refused for want of room."""


class Bounds(Struct, frozen=True, kw_only=True):
    """`[retention]`; 0 is no bound."""

    days_max: float = 0
    bytes_max: int = 0

    def __bool__(self) -> bool:
        return bool(self.days_max or self.bytes_max)

    def before_us(self, journal: Journal, now_us: int, progress: Progress | None = None) -> int | None:
        """Before when everything has to go; None when nothing has. Raises CorruptJournal."""
        by_age = now_us - round(self.days_max * DAY_US) if self.days_max else None
        by_size = _too_much(journal, self.bytes_max, progress) if self.bytes_max else None
        return max((time for time in (by_age, by_size) if time is not None), default=None)


def _too_much(journal: Journal, bytes_max: int, progress: Progress | None) -> int | None:
    """The time before which enough ended that without it the rest is within the bound."""
    survey = Survey(journal, None, progress)
    total = 0
    ended_bytes: dict[int, int] = {}
    blobs: dict[bytes, int | None] = {}
    for stored in journal.follow():
        leaf = decode_leaf(stored.kind, stored.leaf)
        if not says_something(stored, leaf):
            continue
        total += len(stored.payload)
        ended = None if survey.run_of(leaf) in survey.held else survey.ended_us(leaf)
        if ended is not None:
            ended_bytes[ended] = ended_bytes.get(ended, 0) + len(stored.payload)
        for digest in blobs_of(stored.payload):
            known = blobs.get(digest, 0)
            blobs[digest] = None if known is None or ended is None else max(known, ended)
    for digest, ended in blobs.items():
        size = journal.purging.blob_bytes(digest)
        total += size
        if ended is not None:  # it goes with the last that names it
            ended_bytes[ended] = ended_bytes.get(ended, 0) + size
    before: int | None = None
    for ended in sorted(ended_bytes):
        if total <= bytes_max:
            break
        total -= ended_bytes[ended]
        before = ended + 1
    return before


# -- how near -------------------------------------------------------------------------------------------


class Standing(Struct, frozen=True, kw_only=True):
    """What a store takes of its disk, beside its bound."""

    used_bytes: int | None
    """Of journal and blobs, as the file system counts them; None where that was not counted."""
    bytes_max: int
    free_bytes: int
    total_bytes: int

    @property
    def near_bound(self) -> bool:
        return self.used_bytes is not None and self.used_bytes >= WARN_SHARE * self.bytes_max

    @property
    def disk_nearly_full(self) -> bool:
        return self.free_bytes < FREE_SHARE_MIN * self.total_bytes


def standing(store: str, bytes_max: int, *, files_max: int | None = None) -> Standing:
    """Counts nothing where there is no bound to be near to, nor beyond so many files. Raises OSError."""
    status = os.statvfs(store)
    return Standing(
        used_bytes=_used_bytes(store, files_max) if bytes_max else None,
        bytes_max=bytes_max,
        free_bytes=status.f_bavail * status.f_frsize,
        total_bytes=status.f_blocks * status.f_frsize,
    )


def _used_bytes(store: str, files_max: int | None) -> int | None:
    used = 0
    for count, size in enumerate(_file_bytes(store), 1):
        if files_max is not None and count > files_max:
            return None
        used += size
    return used


def _file_bytes(store: str) -> Iterator[int]:
    for name in ("journal", "blobs"):
        for folder, _, files in os.walk(os.path.join(store, name)):
            for file in files:
                try:
                    yield os.stat(os.path.join(folder, file)).st_blocks * 512
                except FileNotFoundError:
                    continue  # gone meanwhile
