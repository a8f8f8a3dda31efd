"""Opening a shard for writing: where its frames end, and what has to be done before it goes on.

Owns the difference between an end, a torn tail and corruption, as the writing side sees it. Changes
nothing except that it removes segments nobody can use. Used by `shard`, which holds the lock.
"""

from collections import deque
from hashlib import sha256

from msgspec import Struct

from custody.errors import CorruptJournal
from custody.journal.disk import Disk, File
from custody.journal.frames import (
    NO_SEGMENT_ID,
    PURGED_AGAIN,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    Stored,
    decode_commit,
    encode_segment_header,
    is_free,
)
from custody.journal.lease import Clean, read_lease
from custody.journal.segments import (
    ENDLESS,
    Segment,
    SegmentCache,
    SegmentReader,
    Wreck,
    corrupt,
    segment_indexes,
    segment_path,
    shard_folder,
    survey,
)
from custody.journal.spares import Fresh
from custody.journal.tree import Frontier, leaf_hash
from custody.records import Kind

PUT_BYTES = 64 * 1024


Kept = tuple[int, bytes, bytes]
"""Kind, leaf and payload of a record, held in memory until it is durable."""


class Place(Struct, frozen=True):
    """Where a shard's frames stop."""

    segment: int
    offset: int
    sequence: int


class Used(Struct, frozen=True):
    """A segment, and from where to where its frames are not known to be durable."""

    header: SegmentHeader
    start: int
    end: int


class Opened(Struct):
    """A shard as its frames tell it."""

    end: Place
    durable: int
    """The last sequence that is known to be durable."""
    frontier: Frontier
    durable_frontier: Frontier
    commits: list[tuple[int, bytes]]
    """Sequence and digest of commit frames: at least the last at or before the durable sequence."""
    commit_offset: int
    """Of the last commit frame in the last segment."""
    uncommitted: int
    """Records since then."""
    unsynced: list[Kept]
    used: list[Used]
    """Segments that hold unsynced records, and last the one that goes on."""
    top: SegmentHeader | None
    spares: list[SegmentHeader]
    total_bytes: int
    clean: bool = False
    """Its last writer left it in order, or it is new."""
    wreck: Wreck | None = None
    """What lies behind the end: the shard must go on in a new segment."""


def open_shard(cache: SegmentCache, shard: int) -> Opened:
    """Raises CorruptJournal, StoreTooNew or OSError. The caller holds the shard's lock."""
    lease = read_lease(cache.disk, shard)
    if lease is not None and lease.clean is not None:
        opened = verify_clean(cache, shard, lease.clean)
        if opened is not None:
            return opened
    _remove_unfinished(cache.disk, shard)
    return _Scan(cache, shard, lease.durable if lease else 0).run()


# -- the short way: it was left in order ----------------------------------------------------------------


def verify_clean(cache: SegmentCache, shard: int, clean: Clean) -> Opened | None:
    """The shard as its last writer left it; None when the frames do not bear that out."""
    segments = cache.segments(shard, clean.segment)
    if not segments or segments[0].index != clean.segment or not segments[0].counts:
        return None
    if segment_indexes(cache.disk, shard)[-1] != clean.segment:
        return None
    header = segments[0].header
    reader = SegmentReader(cache.disk, segments[0])
    try:
        data = reader.file.read(clean.offset - clean.commit, clean.commit)
        frame = reader.decoder.decode(data, 0, clean.commit)
        if frame is None or frame.end != clean.offset or reader.used_bytes(clean.offset):
            return None
    finally:
        reader.close()
    commit = decode_commit(frame)
    size = clean.sequence - 1
    if commit is None or (frame.sequence, commit.size) != (clean.sequence, size):
        return None
    if len(clean.frontier) != size.bit_count() or Frontier(size, clean.frontier).root() != commit.root:
        return None
    return Opened(
        end=Place(clean.segment, clean.offset, clean.sequence),
        durable=size,
        frontier=Frontier(size, clean.frontier),
        durable_frontier=Frontier(size, clean.frontier),
        commits=[(0, commit.previous), (clean.sequence, sha256(frame.leaf).digest())],
        commit_offset=clean.commit,
        uncommitted=0,
        unsynced=[],
        used=[Used(header, clean.offset, clean.offset)],
        top=header,
        spares=[],
        total_bytes=clean.total_bytes,
        clean=True,
    )


# -- the long way ---------------------------------------------------------------------------------------


def _remove_unfinished(disk: Disk, shard: int) -> None:
    for index in segment_indexes(disk, shard):
        path = segment_path(shard, index)
        file = disk.open(path, write=False)
        try:
            if not is_free(file.read(SEGMENT_HEADER_BYTES, 0)):
                continue
            offset = 0
            while data := file.read(1024 * 1024, offset):
                if not is_free(data):
                    raise corrupt("a segment's header is not readable", shard, index, 0, None)
                offset += len(data)
        finally:
            file.close()
        disk.remove(path)


class _Scan:
    """Reads the last segments of a shard, as many as may hold records that are not durable."""

    def __init__(self, cache: SegmentCache, shard: int, promised: int) -> None:
        """`promised` is the last sequence that the lease file says was durable."""
        self._cache = cache
        self._shard = shard
        self._promised = promised
        self._segments = self._without_orphans(cache.segments(shard))
        self._counting = [segment for segment in self._segments if segment.counts]
        self._durable = 0
        self._recent: deque[tuple[Stored, bytes]] = deque()
        """Records not known to be durable, with their leaf hashes."""
        self._last_durable: Stored | None = None
        self._ends: dict[int, int] = {}
        """Where the frames of each segment that was read stop."""
        self._durable_frontier = Frontier()
        self._commits: list[tuple[int, bytes]] = [(0, b"")]
        self._commit_offset = 0
        self._uncommitted = 0
        self._rest_free = True

    def _without_orphans(self, segments: list[Segment]) -> list[Segment]:
        """Remove spares that were made after a spare whose removal outlived a power loss, theirs not."""
        ids = {NO_SEGMENT_ID, *(segment.header.id for segment in segments)}
        kept: list[Segment] = []
        for segment in segments:
            header = segment.header
            if segment.first is None and header.previous_id not in ids and self._untouched(segment):
                self._cache.disk.remove(segment_path(header.shard, header.index))
                ids.discard(header.id)
            else:
                kept.append(segment)
        return kept

    def run(self) -> Opened:
        start = self._first_to_read()
        end = self._read(start)
        behind = [segment for segment in self._segments if segment.index >= end.segment]
        wreck = self._judge(behind, end)
        frontier = self._durable_frontier.copy()
        for _, node in self._recent:
            frontier.add(node)
        spares = [] if wreck else [segment.header for segment in behind if segment.first is None]
        used = [self._used(segment) for segment in self._counting if segment.index in self._ends]
        return Opened(
            end=end,
            durable=self._durable,
            frontier=frontier,
            durable_frontier=self._durable_frontier,
            commits=self._commits,
            commit_offset=self._commit_offset,
            uncommitted=self._uncommitted,
            unsynced=[_kept(stored) for stored, _ in self._recent],
            used=[entry for entry in used if entry.start < entry.end or entry is used[-1]],
            top=self._segments[-1].header if self._segments else None,
            spares=spares,
            total_bytes=sum(segment.header.size_bytes for segment in self._segments),
            clean=not self._segments,
            wreck=wreck,
        )

    def _first_to_read(self) -> int:
        """Index, among those that count, of the last segment with everything before it durable."""
        start = len(self._counting) - 1
        if start < 0:
            return 0
        durable = _claim(_first(self._counting[start]))
        while start > 0 and _first(self._counting[start]).sequence - 1 > durable:
            start -= 1
        return start

    def _read(self, start: int) -> Place:
        """Read on until the frames stop."""
        dropped = self._cache.dropped(self._shard)
        begin = 1 if dropped is None else dropped.first_kept
        if not self._counting or (start == 0 and _first(self._counting[0]).sequence != begin):
            # Either nothing yet, or the shard's first records are not there.
            index = self._segments[0].index if self._segments else 0
            self._rest_free = not self._segments
            return Place(index, SEGMENT_HEADER_BYTES, 1)
        first = _first(self._counting[start])
        commit = decode_commit(first)
        assert commit is not None, "a segment in use begins with a commit frame"
        if commit.frontier is None or len(commit.frontier) != commit.size.bit_count():
            raise corrupt(
                "a segment's first frame has no frontier", self._shard, first.segment, first.offset, None
            )
        self._durable_frontier = Frontier(commit.size, commit.frontier)
        self._durable = max(commit.size, self._promised)
        self._commits = [(0, commit.previous)]
        index, offset, sequence = first.segment, SEGMENT_HEADER_BYTES, first.sequence
        for segment in self._counting[start:]:
            if _first(segment).sequence != sequence:
                break
            reader = SegmentReader(self._cache.disk, segment)
            try:
                for frame in reader.frames(SEGMENT_HEADER_BYTES, sequence, segment.limit):
                    self._take(frame)
                sequence, offset, index = reader.sequence, reader.offset, segment.index
                self._ends[index] = offset
                if sequence < segment.limit:
                    self._rest_free = segment.limit == ENDLESS and not reader.used_bytes(offset)
                    break
            finally:
                reader.close()
        return Place(index, offset, sequence)

    def _take(self, frame: Stored) -> None:
        if frame.kind == Kind.COMMIT:
            self._commits.append((frame.sequence, sha256(frame.leaf).digest()))
            self._commit_offset = frame.offset
            self._uncommitted = 0
        else:
            self._recent.append((frame, leaf_hash(frame.leaf)))
            self._uncommitted += 1
        self._durable = max(self._durable, min(_claim(frame), frame.sequence))
        while self._recent and self._recent[0][0].sequence <= self._durable:
            self._last_durable, node = self._recent.popleft()
            self._durable_frontier.add(node)

    def _used(self, segment: Segment) -> Used:
        last, start = self._last_durable, SEGMENT_HEADER_BYTES
        if last is not None and last.segment >= segment.index:
            start = last.end if last.segment == segment.index else self._ends[segment.index]
        return Used(segment.header, start, self._ends[segment.index])

    def _judge(self, behind: list[Segment], end: Place) -> Wreck | None:
        """None when the shard can go on where its frames end."""
        if end.sequence <= self._promised:
            raise corrupt(
                "records that were durable are missing", self._shard, end.segment, end.offset, end.sequence
            )
        if not self._segments:
            return None
        if self._rest_free and all(self._untouched(segment) for segment in behind[1:]):
            return None
        wreck = survey(self._cache.disk, behind, end.offset, end.sequence)
        if wreck.promised:
            raise self._corrupt("a frame is not readable", end)
        return wreck if wreck.bytes else None

    def _corrupt(self, what: str, end: Place) -> CorruptJournal:
        return corrupt(what, self._shard, end.segment, end.offset, end.sequence)

    def _untouched(self, segment: Segment) -> bool:
        reader = SegmentReader(self._cache.disk, segment)
        try:
            return not reader.used_bytes(SEGMENT_HEADER_BYTES)
        finally:
            reader.close()


def _first(segment: Segment) -> Stored:
    assert segment.first is not None, "only segments in use are asked"
    return segment.first


def _kept(stored: Stored) -> Kept:
    return stored.kind, stored.leaf, PURGED_AGAIN if stored.purged else stored.payload


def _claim(frame: Stored) -> int:
    """The last sequence that was durable when this frame was written."""
    return frame.sequence - frame.unsynced


def open_spares(disk: Disk, headers: list[SegmentHeader]) -> list[Fresh]:
    """Segments that were made and never used. Raises OSError."""
    spares: list[Fresh] = []
    for header in headers:
        file = disk.open(segment_path(header.shard, header.index))
        spares.append(Fresh(header, file))
        # Whoever made it may have died before these steps, or after one of them had failed.
        file.put(encode_segment_header(header), 0)
        file.sync()
        disk.sync_folder(shard_folder(header.shard))
    return spares


def put_again(file: File, used: Used) -> None:
    """Make a sync of these frames mean what it says. Raises OSError.

    Their writer may have died after a sync of them failed: the kernel then holds the pages for clean, and
    the next sync would succeed without writing them. The same bytes in the same place harm nothing.
    """
    for offset in range(used.start, used.end, PUT_BYTES):
        file.put(file.read(min(PUT_BYTES, used.end - offset), offset), offset)
