"""Following the journal: one cursor over all shards, through which everything leaves it.

Owns where a reader stands and what it does at the end of what there is. Takes no lock and writes nothing:
a live shard's records are seen as they are put, and one that is not whole yet is not there yet. Used by
the index, `tail`, export, and by `positions`.

A record's sequence may step back once in a while: a shard was repaired after a power loss or after a kill in
the middle of a put, or records were written again after a failed sync. Whoever keeps a view of records drops
what it has of that shard from that sequence on, and takes what follows. Unless the power or the disk failed,
that begins with the same records, byte for byte.
"""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct

from custody.errors import CorruptJournal
from custody.journal.frames import SEGMENT_HEADER_BYTES, Stored
from custody.journal.lease import read_lease
from custody.journal.segments import (
    ENDLESS,
    Segment,
    SegmentCache,
    SegmentReader,
    corrupt,
    shard_numbers,
    survey,
)
from custody.records import Kind

Place = tuple[int, int, int]
"""Segment, offset and sequence of the record a reader wants next."""

START: Place = (0, 0, 1)


class Cursor(Struct, frozen=True):
    """Where a reader stands in every shard; immutable."""

    places: Mapping[int, Place] = {}

    def to_json(self) -> str:
        return msgspec.json.encode(self.places).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Cursor":
        """Raises msgspec.ValidationError for text that is no cursor."""
        return cls(msgspec.json.decode(text, type=dict[int, Place]))

    def after(self, stored: Stored) -> "Cursor":
        """This cursor moved past a record."""
        return Cursor({**self.places, stored.shard: (stored.segment, stored.end, stored.sequence + 1)})


class Following:
    """The records a journal holds behind a cursor, shard by shard in sequence. Iterate once.

    `cursor` is the place behind the last record that was yielded. A shard ends at the first frame that is
    damaged though it was durable; iterating raises CorruptJournal for the first such shard once the others
    have been read.
    """

    def __init__(self, cache: SegmentCache, cursor: Cursor | None, only_shard: int | None = None) -> None:
        self._cache = cache
        self._only_shard = only_shard
        self._places = dict(cursor.places) if cursor else {}
        self._last: Stored | None = None

    @property
    def cursor(self) -> Cursor:
        cursor = Cursor(dict(self._places))
        return cursor if self._last is None else cursor.after(self._last)

    def __iter__(self) -> Iterator[Stored]:
        every = shard_numbers(self._cache.disk) if self._only_shard is None else [self._only_shard]
        damage: CorruptJournal | None = None
        for shard in every:
            try:
                yield from self._records(shard)
            except CorruptJournal as error:
                self._places = dict(self.cursor.places)
                self._last = None
                damage = damage or error
        if damage is not None:
            raise damage

    def _records(self, shard: int) -> Iterator[Stored]:
        lease = read_lease(self._cache.disk, shard)
        walk = _Walk(self._cache, shard, self._places.get(shard, START))
        for stored in walk.records():
            self._last = stored
            yield stored
        self._last = None
        if walk.place != START:
            self._places[shard] = walk.place
        if lease is not None and walk.place[2] <= lease.durable:
            raise _lost(shard, walk.place)


def _lost(shard: int, place: Place) -> CorruptJournal:
    return corrupt("records that were durable are missing", shard, *place)


class _Walk:
    """One shard, from a place to the end of what can be read."""

    def __init__(self, cache: SegmentCache, shard: int, place: Place) -> None:
        self._cache = cache
        self._shard = shard
        self.place = place
        self._read_twice: Place | None = None

    def records(self) -> Iterator[Stored]:
        while (segment := self._segment_here()) is not None:
            reader = SegmentReader(self._cache.disk, segment)
            try:
                for frame in reader.frames(self.place[1], self.place[2], segment.limit):
                    if frame.kind != Kind.COMMIT:
                        yield frame
                self.place = segment.index, reader.offset, reader.sequence
                if reader.sequence < segment.limit and self._is_end(segment, reader.rest_free):
                    return
            finally:
                reader.close()

    def _segment_here(self) -> Segment | None:
        """The segment to read on in; moves on to the next where this one no longer counts."""
        self._skip_dropped()
        index, _, sequence = self.place
        segments = self._cache.segments(self._shard, index)
        here = segments[0] if segments and segments[0].index == index else None
        if here is None and index:
            raise corrupt("a segment is missing", self._shard, *self.place)
        if here is not None and sequence < here.limit:
            return here
        following = next((segment for segment in segments if segment is not here and segment.counts), None)
        if following is None:
            if segments:
                self._judge(segments, segments[0].index, SEGMENT_HEADER_BYTES)
            return None
        first = following.first
        assert first is not None, "a segment that counts is in use"
        if first.sequence > sequence:
            self._judge(segments, segments[0].index, SEGMENT_HEADER_BYTES)
            return None
        self.place = following.index, SEGMENT_HEADER_BYTES, first.sequence
        return following

    def _skip_dropped(self) -> None:
        """What was dropped on purpose is not missing: a reader that stood in it goes on behind it."""
        dropped = self._cache.dropped(self._shard)
        if dropped is not None and self.place[0] <= dropped.segments[1]:
            self.place = START[0], START[1], max(self.place[2], dropped.first_kept)

    def _is_end(self, segment: Segment, rest_free: bool) -> bool:
        """Whether nothing more can be read; False to look once more. Raises CorruptJournal."""
        if segment.limit == ENDLESS and rest_free:
            return True
        if self._read_twice != self.place:
            # A live writer may have been in the middle of a put, or have gone on to the next segment.
            self._read_twice = self.place
            return False
        segments = self._cache.segments(self._shard, segment.index)
        return self._judge(segments, segment.index, self.place[1])

    def _judge(self, segments: list[Segment], index: int, offset: int) -> bool:
        """True for a torn tail, which the shard's next writer cuts; raises for corruption."""
        sequence = self.place[2]
        if not survey(self._cache.disk, segments, offset, sequence).promised:
            return True
        # The writer may have been quicker than the survey: then what was missing is there now.
        reader = SegmentReader(self._cache.disk, segments[0])
        try:
            if next(reader.frames(offset, sequence, sequence + 1), None) is not None:
                return False
        finally:
            reader.close()
        raise corrupt("a frame is not readable", self._shard, index, offset, sequence)
