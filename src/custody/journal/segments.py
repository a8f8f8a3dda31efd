"""The files of a shard: their names, their headers, up to where each counts, and what lies beyond damage.

Owns the one reading rule: a segment counts up to, and not including, the first sequence of any later
segment that is in use. A segment is in use once its first frame, a commit frame, is there; that frame is
put last, when everything it stands for is in place. Cutting a torn tail, leaving a poisoned segment and
rolling over are thereby the same act, and nothing is ever overwritten.

Writes nothing, takes no lock. Used by `shard` when it opens and by `follow`.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from custody.errors import CorruptJournal
from custody.journal.disk import Disk, File
from custody.journal.dropped import Dropped, read_dropped
from custody.journal.frames import (
    FRAME_BYTES_MAX,
    NO_SEGMENT_ID,
    SEGMENT_HEADER_BYTES,
    Decoder,
    SegmentHeader,
    Stored,
    decode_commit,
    decode_segment_header,
    is_free,
)
from custody.records import Kind

JOURNAL_FOLDER = "journal"
SHARD_NAME = re.compile(r"\d{4,}")
SEGMENT_NAME = re.compile(r"(\d{8})\.seg")

FIRST_READ_BYTES = 4096
"""Holds a segment's header and its first frame, which a frontier of 64 hashes makes 2.3 KiB at most."""

TAIL_READ_BYTES = FRAME_BYTES_MAX + 64 * 1024
"""The first read: any frame fits, and a reader at the tail of a large segment copies few zeros."""

READ_BYTES = 1024 * 1024

ENDLESS = 1 << 63
"""The limit of a segment that nothing later ends."""


def shard_folder(shard: int) -> str:
    return f"{JOURNAL_FOLDER}/{shard:04d}"


def segment_path(shard: int, index: int) -> str:
    return f"{shard_folder(shard)}/{index:08d}.seg"


def shard_numbers(disk: Disk) -> list[int]:
    return sorted(int(name) for name in disk.names(JOURNAL_FOLDER) if SHARD_NAME.fullmatch(name))


def segment_indexes(disk: Disk, shard: int) -> list[int]:
    found = (SEGMENT_NAME.fullmatch(name) for name in disk.names(shard_folder(shard)))
    return sorted(int(name[1]) for name in found if name)


def corrupt(what: str, shard: int, segment: int, offset: int, sequence: int | None) -> CorruptJournal:
    at = "" if sequence is None else f", sequence {sequence}"
    return CorruptJournal(
        f"The journal is damaged: {what} (shard {shard}, segment {segment}, offset {offset}{at}).",
        hint="Nothing after this place was read. Restore the segment from a copy.",
        shard=shard, segment=segment, offset=offset, sequence=sequence,
    )  # fmt: skip


class Segment(Struct):
    """What is known of one segment file from its first kilobytes."""

    header: SegmentHeader
    first: Stored | None
    """Its first frame; None while the segment is not in use."""
    limit: int = ENDLESS
    """It counts up to, and not including, this sequence."""

    @property
    def index(self) -> int:
        return self.header.index

    @property
    def counts(self) -> bool:
        return self.first is not None and self.first.sequence < self.limit


class SegmentReader:
    """Reads the frames of one segment and remembers where and why it stopped."""

    def __init__(self, disk: Disk, segment: Segment) -> None:
        header = segment.header
        self.file: File = disk.open(segment_path(header.shard, header.index), write=False)
        self.decoder = Decoder(header)
        self.size_bytes = header.size_bytes
        self.offset = SEGMENT_HEADER_BYTES
        self.sequence = 0
        self.rest_free = True
        """Whether the bytes seen after the last frame were all zero."""

    def close(self) -> None:
        self.file.close()

    def frames(self, offset: int, sequence: int, limit: int) -> Iterator[Stored]:
        """Frames in order from `offset`, where `sequence` comes next, until `limit` or the last believable.

        Commit frames are among them. Afterwards `offset` and `sequence` say what would have come.
        """
        decode = self.decoder.decode
        self.offset, self.sequence = offset, sequence
        count = TAIL_READ_BYTES
        while sequence < limit:
            data = self.file.read(count, offset)
            base, start = offset, 0
            while (frame := decode(data, start, offset)) is not None and frame.sequence == sequence:
                if frame.kind != Kind.COMMIT:
                    sequence += 1
                offset = frame.end
                start = offset - base
                self.offset, self.sequence = offset, sequence
                yield frame
                if sequence >= limit:
                    return
            if start == 0 or len(data) < count:
                self.rest_free = is_free(data[start:])
                return
            count = READ_BYTES

    def believable(self, offset: int) -> Iterator[Stored]:
        """Every believable frame at or after `offset`, whatever its sequence."""
        while offset < self.size_bytes:
            data = self.file.read(READ_BYTES, offset)
            if not data:
                return
            found = None if is_free(data) else self.decoder.search(data, offset)
            if found is not None:
                yield found
                offset = found.end
            else:
                # What begins in the last frame's length of this read may end in the next.
                step = len(data) - FRAME_BYTES_MAX if len(data) == READ_BYTES else len(data)
                offset += max(step, 8) & ~7

    def used_bytes(self, offset: int) -> int:
        """From `offset` to the last byte that is not zero."""
        last = offset
        position = offset
        while data := self.file.read(READ_BYTES, position):
            if not is_free(data):
                last = position + len(data.rstrip(b"\0"))
            position += len(data)
        return last - offset


class SegmentCache:
    """Segments of a store as they are found; those in use are read once."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._in_use: dict[tuple[int, int], tuple[SegmentHeader, Stored]] = {}

    def segments(self, shard: int, start_index: int = 0) -> list[Segment]:
        """The shard's segments from an index on, with their limits. Raises CorruptJournal."""
        dropped = self.dropped(shard)
        least = start_index if dropped is None else max(start_index, dropped.segments[1] + 1)
        indexes = (index for index in segment_indexes(self.disk, shard) if index >= least)
        found = [found for index in indexes if (found := self.segment(shard, index)) is not None]
        if start_index == 0:
            _check_chain(found, NO_SEGMENT_ID if dropped is None else bytes.fromhex(dropped.previous_id))
        limit = ENDLESS
        for segment in reversed(found):
            segment.limit = limit
            if segment.first is not None:
                limit = min(limit, segment.first.sequence)
        return found

    def dropped(self, shard: int) -> Dropped | None:
        """What of the shard is there no more; None when all is. Raises CorruptJournal."""
        return read_dropped(self.disk, shard_folder(shard))

    def segment(self, shard: int, index: int) -> Segment | None:
        """One segment, its limit not known; None when it is not there or not finished."""
        known = self._in_use.get((shard, index))
        if known is not None:
            return Segment(*known)
        try:
            file = self.disk.open(segment_path(shard, index), write=False)
        except FileNotFoundError:
            return None  # a spare that its writer has just removed
        try:
            data, size = file.read(FIRST_READ_BYTES, 0), file.size_bytes()
        finally:
            file.close()
        header = decode_segment_header(data)
        if header is None:
            if is_free(data):
                return None  # its making was interrupted: the header is put last
            raise corrupt("a segment's header is not readable", shard, index, 0, None)
        if (header.shard, header.index) != (shard, index):
            raise corrupt("a segment stands in another's place", shard, index, 0, None)
        if size < header.size_bytes:
            raise corrupt("a segment has been cut short", shard, index, size, None)
        first = Decoder(header).decode(data, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES)
        if first is None or decode_commit(first) is None:
            return Segment(header, None)
        self._in_use[shard, index] = header, first
        return Segment(header, first)


def _check_chain(segments: list[Segment], before: bytes) -> None:
    """Each segment in use was made after one that is still here, or `before` them all."""
    ids = {NO_SEGMENT_ID, before}
    for segment in segments:
        header = segment.header
        if segment.first is not None and header.previous_id not in ids:
            raise corrupt("a segment is missing before this one", header.shard, header.index, 0, None)
        ids.add(header.id)


class Wreck(Struct, frozen=True):
    """What lies beyond the place where a shard's frames stop."""

    frames: int
    """Believable frames that nothing reaches."""
    bytes: int
    promised: bool
    """One of them says that what is missing was durable: then this is corruption, not a torn tail."""


def survey(disk: Disk, segments: list[Segment], offset: int, sequence: int) -> Wreck:
    """Judge damage at `offset` of the first of `segments`, where `sequence` should have come."""
    frames = used_bytes = 0
    promised = False
    for segment in segments:
        reader = SegmentReader(disk, segment)
        try:
            used_bytes += reader.used_bytes(offset)
            for frame in reader.believable(offset):
                if frame.sequence >= sequence:
                    frames += frame.kind != Kind.COMMIT
                    promised = promised or frame.sequence - frame.unsynced >= sequence
        finally:
            reader.close()
        offset = SEGMENT_HEADER_BYTES
    return Wreck(frames, used_bytes, promised)
