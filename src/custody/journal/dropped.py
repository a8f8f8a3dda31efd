"""What is left of segments that were dropped as a whole: where a shard begins, and the tree before that.

Owns the file `journal/<shard>/dropped` and its form. Whoever reads a shard takes what it says for granted;
that it is true, the event `store.dropped` and a signed checkpoint bear out (`verify`). Used by `segments`,
`follow` and `opening`; written by `purging`.
"""

import msgspec
from msgspec import Struct

from custody.errors import CorruptJournal
from custody.journal.disk import Disk
from custody.journal.frames import extend


class Dropped(Struct, frozen=True, kw_only=True):
    """As the event `store.dropped` says it."""

    purge_id: str
    shard: int
    segments: tuple[int, int]
    """The first and the last that are gone; nothing below the last is read, should it be there."""
    first_kept: int
    """The sequence of the shard's first record now."""
    size: int
    root: str
    """Of the tree over the records that are gone, in hex."""
    frontier: tuple[str, ...]
    """The roots of its perfect subtrees, largest first."""
    previous_id: str
    """Of the segment before the first that is kept, in hex."""


_decoder = msgspec.json.Decoder(Dropped)


def dropped_path(shard_folder: str) -> str:
    return f"{shard_folder}/dropped"


def read_dropped(disk: Disk, shard_folder: str) -> Dropped | None:
    """None when nothing of the shard was dropped. Raises CorruptJournal."""
    data = disk.read_all(dropped_path(shard_folder))
    if data is None:
        return None
    crc, _, text = data.rstrip().partition(b" ")
    try:
        if int(crc, 16) == extend(0, text):
            return _decoder.decode(text)
    except (ValueError, msgspec.DecodeError):
        pass
    raise CorruptJournal(
        f"The file {dropped_path(shard_folder)} is damaged, which says where the shard begins.",
        hint="Restore it from a copy; the event store.dropped says the same.",
    )


def write_dropped(disk: Disk, shard_folder: str, dropped: Dropped) -> None:
    """Durably. Raises OSError."""
    text = msgspec.json.encode(dropped)
    disk.replace(dropped_path(shard_folder), b"%08x %s\n" % (extend(0, text), text))
