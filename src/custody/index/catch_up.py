"""Bringing the tables up to the journal's end.

Owns the batches, the watermarks that go with them in one transaction, and the check that the journal is
still the one the watermarks speak of. Safe for several processes at once: each batch reads the watermarks
again inside its transaction, and a record folded twice changes nothing. Used by `index`.
"""

import zlib
from collections.abc import Callable, Iterator

import msgspec

from custody.errors import CorruptJournal, StoreError
from custody.index.database import Database
from custody.index.rows import Rows, Seen
from custody.journal import Cursor, Journal, Place, Stored

BATCH_RECORDS = 5_000
"""Folded in one transaction: long enough to spread its cost, short enough (a tenth of a second) that
another process waiting to write is not held up."""

FIRST_BATCH_RECORDS = 50_000
"""The same while an index is filled for the first time: ids are random, so that every batch touches all
pages of their index, and there is nobody to answer yet."""

BATCH_CHARACTERS = 16 * 1024 * 1024
"""Text gathered after which a batch ends early: it waits in memory until the batch is written."""

RESTARTS_MAX = 3
"""Of one catching-up; each stands for a repair of the journal, which is rare."""

Progress = Callable[[int], None]
"""Told the number of records folded so far."""


START: Place = (0, 0, 0)


class _SteppedBack(Exception):
    """A shard was repaired, or its last records were written again: what was folded of them is void."""


class CatchUp:
    """Folds what the journal has and the tables have not."""

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal
        self._checked = False
        self._damage: CorruptJournal | None = None
        self._marks_seen: dict[int, Place] = {}
        self._seen: Seen | None = None

    def run(self, progress: Progress | None = None) -> CorruptJournal | None:
        """Up to what the journal held when this began, or more; returns what of it is damaged."""
        for _ in range(RESTARTS_MAX):
            self._damage = None
            try:
                self._run(progress)
            except _SteppedBack:
                self.start_again()
            else:
                return self._damage
            finally:
                self._seen = None
        raise StoreError("The journal is being repaired again and again.", hint="Its disk may be failing.")

    def holds(self) -> bool:
        """Inside `reading`: whether all that `run` folded is there. Another process may have begun again."""
        marks = self._marks()
        return all(marks.get(shard, START) >= seen for shard, seen in self._marks_seen.items())

    def start_again(self) -> None:
        """Forget everything folded so far."""
        with self._database.writing():
            self._database.empty()

    def _run(self, progress: Progress | None) -> None:
        with self._database.reading() as made:
            marks = self._marks() if made else {}
            complete = made and self._database.is_indexed()
            made_as = self._database.made
        if not self._checked and not self._belongs():
            raise _SteppedBack
        self._checked = True
        self._marks_seen = dict(marks)
        # Good for as long as this process alone fills an index that began empty.
        self._seen = None if marks else Seen()
        records = self._records(marks)
        record = next(records, None)
        folded = 0
        while record is not None or not complete:
            with self._database.writing():
                now = self._marks()
                if now != marks or self._database.made != made_as:
                    # Another process was here first; or the tables were made anew, after a purge perhaps,
                    # which what was read of the journal before may not know of.
                    self._seen = None if now else Seen()
                    made_as = self._database.made
                    marks, records = now, self._records(now)
                    record = next(records, None)
                indexed = self._database.is_indexed()
                limit = BATCH_RECORDS if indexed else FIRST_BATCH_RECORDS
                record, count = self._batch(record, records, marks, limit)
                complete = record is None
                if complete and not indexed:
                    self._database.make_indexes()
            self._marks_seen = dict(marks)
            folded += count
            if progress is not None:
                progress(folded)

    def _batch(
        self, record: Stored | None, records: Iterator[Stored], marks: dict[int, Place], limit: int
    ) -> tuple[Stored | None, int]:
        """Fold up to one batch; returns the record that comes after it, and how many there were."""
        rows = Rows(self._database, self._journal, self._seen)
        last: dict[int, Stored] = {}
        count = 0
        while record is not None and count < limit and rows.characters < BATCH_CHARACTERS:
            if record.sequence < marks.get(record.shard, START)[2]:
                raise _SteppedBack
            place = (record.shard, record.segment, record.offset)
            try:
                rows.add(record.kind, record.leaf, record.payload, place)
            except (msgspec.DecodeError, ValueError) as error:
                raise StoreError(
                    f"Record {record.sequence} of shard {record.shard} cannot be read by this Custody.",
                    hint="It was probably written by a newer one: upgrade, or read the store with that one.",
                ) from error
            last[record.shard] = record
            marks[record.shard] = (record.segment, record.end, record.sequence + 1)
            count += 1
            record = next(records, None)
        rows.write()
        self._database.put_all(
            "put_watermark",
            [(shard, *marks[shard], at.segment, at.offset, _check(at)) for shard, at in last.items()],
        )
        return record, count

    def _records(self, marks: dict[int, Place]) -> Iterator[Stored]:
        try:
            yield from self._journal.follow(Cursor(dict(marks)))
        except CorruptJournal as damage:
            self._damage = damage

    def _marks(self) -> dict[int, Place]:
        return {row[0]: (row[1], row[2], row[3]) for row in self._database.rows("watermarks")}

    def _belongs(self) -> bool:
        """Whether the last record folded of each shard is still there.

        It is not when a power loss took records that were written but not durable while the index, synced
        at another time, has them; nor when the journal was replaced by another.
        """
        with self._database.reading() as made:
            checks = self._database.rows("watermark_checks") if made else []
        for shard, segment, offset, next_sequence, check in checks:
            try:
                stored = self._journal.read(shard, segment, offset)
            except (StoreError, OSError, LookupError):
                return False
            if (stored.sequence + 1, _check(stored)) != (next_sequence, check):
                return False
        return True


def _check(stored: Stored) -> int:
    return zlib.crc32(stored.leaf)
