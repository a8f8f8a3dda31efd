"""Blobs that no record names any more, removed beside writers that may just be about to name one.

Owns the steps: a blob is condemned (it loses its name), the records that came since the look are read, and
only then is it removed, or given its name back. A writer asks for its blobs once more when their record is
written, and puts again what is gone. Used by `purge`, `drop` and `finish`.
"""

from collections.abc import Iterable

from custody.journal import Cursor, Journal
from custody.retention.selection import blobs_of


def sweep(journal: Journal, condemned: Iterable[bytes], cursor: Cursor) -> tuple[int, int]:
    """Remove blobs that no record up to the cursor names; returns how many, and the bytes of their files.

    Raises OSError, CorruptJournal.
    """
    purging = journal.purging
    doomed = set(condemned)
    for digest in doomed:
        purging.condemn(digest)
    needed, _ = named_blobs(journal, cursor) if doomed else (set[bytes](), cursor)
    removed = freed = 0
    for digest in doomed:
        if digest in needed:
            purging.spare(digest)
        else:
            freed += purging.remove(digest)
            removed += 1
    return removed, freed


def sweep_all(journal: Journal) -> tuple[int, int]:
    """The same for all blobs, also those that were condemned by a purge which a crash cut short."""
    needed, cursor = named_blobs(journal, None)
    purging = journal.purging
    there = list(purging.blobs())
    for digest, condemned in there:
        if condemned and digest in needed:
            purging.spare(digest)
    return sweep(journal, {digest for digest, _ in there if digest not in needed}, cursor)


def named_blobs(journal: Journal, cursor: Cursor | None) -> tuple[set[bytes], Cursor]:
    """The digests that records behind the cursor name, and the place behind the last of them."""
    needed: set[bytes] = set()
    following = journal.follow(cursor)
    for stored in following:
        needed.update(blobs_of(stored.payload))
    return needed, following.cursor
