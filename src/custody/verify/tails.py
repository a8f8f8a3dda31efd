"""What stands where no record counts: behind a shard's end, and in segments that were left for another.

Owns the difference between an interrupted put, which is as it may be, and bytes that no writer puts there.
Used by `shard`.
"""

from collections.abc import Callable, Iterator

from msgspec import Struct

from custody.journal.disk import Disk
from custody.journal.frames import (
    FORMAT_VERSION,
    FRAME_BYTES_MAX,
    HEADER,
    HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Stored,
)
from custody.records import LEAF_TYPES, Kind
from custody.verify.findings import Findings
from custody.verify.frames import FrameReader, unheard
from custody.verify.gather import Repair
from custody.verify.segments import Segment

SECTOR_BYTES = 512
"""What a disk writes whole or not at all: a put that a power loss tore lacks some of them."""

RECORDS_UNSYNCED_MAX = 100_000
"""So many are never waiting for a sync: their bytes are bounded."""

KINDS = {int(kind) for kind in LEAF_TYPES} | {int(Kind.COMMIT)}


def open_reader(disk: Disk, segment: Segment, odd: Callable[[str, int, int], None] = unheard) -> FrameReader:
    return FrameReader(disk.open(segment.path, write=False), segment.header, odd)


def is_beginning(reader: FrameReader, offset: int, sequence: int) -> bool:
    """Whether what stands behind `offset` can be what interrupted puts of records from `sequence` on left.

    A put that is not there at all leaves zeros, one that is torn lacks whole sectors. So the first byte that
    is not zero begins a sector, or is in a header of that record or, at another place, of a later one.
    """
    used = reader.used(offset)
    if used is None:
        return True
    first = used[0]
    if first >= offset + SECTOR_BYTES - offset % SECTOR_BYTES and first % SECTOR_BYTES == 0:
        return True
    if first - offset < HEADER_BYTES and is_header(reader, offset, range(sequence, sequence + 1)):
        return True
    later = range(sequence, sequence + RECORDS_UNSYNCED_MAX)
    starts = range(max(offset, first - HEADER_BYTES + 8) & ~7, first + 1, 8)
    return any(is_header(reader, start, later) for start in starts)


def is_header(reader: FrameReader, offset: int, sequences: range) -> bool:
    """Whether the part of a header that is in the first sector there makes sense."""
    if offset + HEADER_BYTES > reader.size_bytes:
        return False
    data = reader.read(min(SECTOR_BYTES - offset % SECTOR_BYTES, HEADER_BYTES), offset)
    header = data.ljust(HEADER_BYTES, b"\0")
    _, _, found, leaf_bytes, payload_bytes, kind, version, flags, _ = HEADER.unpack(header)
    checks = (
        (16, found in sequences),
        (24, HEADER_BYTES + leaf_bytes + payload_bytes <= FRAME_BYTES_MAX),
        (28, kind in KINDS and version == FORMAT_VERSION and flags == 0),
    )
    return all(holds for needed, holds in checks if len(data) >= needed)


def frames_behind(disk: Disk, segments: list[Segment], offset: int) -> Iterator[tuple[Segment, Stored]]:
    """Believable frames from `offset` of the first of these segments on, and in all the others."""
    for segment in segments:
        try:
            reader = open_reader(disk, segment)
        except FileNotFoundError:
            return
        try:
            for stored in reader.believable(offset):
                yield segment, stored
        finally:
            reader.close()
        offset = SEGMENT_HEADER_BYTES


class Left(Struct, frozen=True):
    """Bytes of one segment at places that do not count."""

    segment: Segment
    offset: int
    sequence: int
    """The record that went on elsewhere."""
    last: int
    """The last byte that is not zero."""
    following: int
    """What comes after the records that stand there whole."""
    beyond: int | None
    """The first byte behind those that is not zero."""
    begun: bool
    """What stands behind them can be what interrupted puts left."""
    put_there: bool
    """It begins with the header of the record that should come."""


class LeftBehind:
    """What was left in segments, judged when all events of the shard are known."""

    def __init__(self, shard: int, findings: Findings) -> None:
        self._shard = shard
        self._findings = findings
        self._left: list[Left] = []

    def add(self, segment: Segment, reader: FrameReader, offset: int, sequence: int) -> None:
        """Behind `offset` of this segment nothing counts; `sequence` went on elsewhere."""
        used = reader.used(offset)
        if used is None:
            return
        end, following = reader.run(offset, sequence)
        behind = reader.used(end)
        begun = is_beginning(reader, end, following)
        if segment.first is None and next(reader.believable(offset), None) is not None:
            begun = True  # a segment's first frame comes last, when the records behind it are in place
        begins = is_header(reader, end, range(following, following + 1))
        put_there = behind is not None and behind[0] - end < HEADER_BYTES and begins
        self._left.append(
            Left(segment, offset, sequence, used[1], following, behind and behind[0], begun, put_there)
        )

    def judge(self, repairs: list[Repair], segments: list[Segment], *, purging: bool) -> None:
        """Say what of it no event and no interruption explains. `purging`: a purge is zeroing it."""
        firsts = {segment.index: segment.first.sequence for segment in segments if segment.first is not None}
        said: dict[int, int] = {}
        for left in self._left:
            repair = next((repair for repair in repairs if self._explains(repair, left, firsts)), None)
            short = left.last - left.offset < FRAME_BYTES_MAX
            ended = repair is not None and repair.ended_at(left.following)
            after = left.segment.index + 1
            left_too = repair is not None and after < repair.at_segment
            whole = ended or (left_too and left.following == firsts.get(after))
            if purging:
                self._note(left, "that were left, and a purge is about to zero")
            elif left.beyond is not None and (whole or not left.begun):
                self._fault(left, left.beyond, "bytes behind the last of what was left in the segment")
            elif repair is None and (left.following > left.sequence or not left.put_there or not short):
                self._fault(left, left.beyond or left.offset, "bytes where the segment was left for another")
            elif repair is None:
                self._note(left, "of a put that failed; its record went elsewhere")
            elif (over := self._over(left, repair, said)) > 0:
                at = max(left.offset, left.last - over + 1)
                self._fault(left, at, f"more than the {repair.bytes:,} bytes that a repair cut off")
            else:
                self._note(left, "that were left when the shard went on elsewhere")

    def _explains(self, repair: Repair, left: Left, firsts: dict[int, int]) -> bool:
        """Whether the shard went on in the event's segment with the record that comes next here."""
        if repair.shard != self._shard or left.segment.index >= repair.at_segment:
            return False
        return repair.segment <= left.segment.index or firsts.get(repair.at_segment) == left.sequence

    @staticmethod
    def _over(left: Left, repair: Repair, said: dict[int, int]) -> int:
        """By how many bytes there is more than the repair found."""
        if repair.bytes is None or left.segment.index < repair.segment:
            return 0
        start = left.offset
        if left.segment.index == repair.segment and repair.offset is not None:
            start = repair.offset
        said[repair.at_segment] = total = said.get(repair.at_segment, 0) + max(0, left.last + 1 - start)
        return total - repair.bytes

    def _fault(self, left: Left, offset: int, what: str) -> None:
        self._findings.fault(
            what, file=left.segment.path, offset=offset, shard=self._shard, sequence=left.sequence
        )

    def _note(self, left: Left, what: str) -> None:
        what = f"{left.last + 1 - left.offset:,} bytes {what}"
        self._findings.note(what, file=left.segment.path, offset=left.offset, shard=self._shard)
