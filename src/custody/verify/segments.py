"""The segment files of one shard: which there are, what their headers say, and up to where each counts.

Owns the checks of a segment's header, of the chain from each segment to the one before, and of the file
that says which segments were dropped whole. Knows nothing of what frames hold. Used by `shard`.
"""

import re
from typing import Any

import msgspec
from msgspec import Struct

from custody.journal.disk import Disk
from custody.journal.frames import (
    NO_SEGMENT_ID,
    SEGMENT_HEADER_BYTES,
    Decoder,
    SegmentHeader,
    Stored,
    decode_commit,
    decode_segment_header,
    extend,
    is_free,
)
from custody.journal.tree import Frontier
from custody.verify.findings import Findings
from custody.verify.frames import FrameReader

SEGMENT_NAME = re.compile(r"(\d{8})\.seg")
FIRST_READ_BYTES = 4096  # a header, and a first frame with a frontier of up to 64 hashes
HASH_BYTES = 32
ENDLESS = 1 << 63
"""The limit of a segment that no later one ends."""


class Segment(Struct):
    """One segment file with a believable header."""

    path: str
    header: SegmentHeader
    first: Stored | None
    """Its first frame that can be believed; None while the segment is not in use."""
    limit: int = ENDLESS
    """It counts up to, and not including, this sequence."""
    begins_at: int = SEGMENT_HEADER_BYTES
    """Where `first` stands: elsewhere when the frame that should be first cannot be believed."""

    @property
    def index(self) -> int:
        return self.header.index

    @property
    def counts(self) -> bool:
        return self.first is not None and self.first.sequence < self.limit


class Dropped(Struct, frozen=True):
    """The first segments of a shard, which are there no more, as a tombstone says."""

    purge_id: str
    shard: int
    segments: tuple[int, int]
    first_kept: int
    frontier: list[str]
    root: str
    size: int
    previous_id: str
    """Of the segment before the first that is kept."""

    def tree(self) -> Frontier | None:
        """The tree over what was dropped; None when this does not agree with itself."""
        try:
            tree = Frontier(self.size, map(bytes.fromhex, self.frontier))
        except ValueError:
            return None
        if self.size < 0 or any(len(node) != HASH_BYTES for node in tree.hashes):
            return None
        return tree if tree.root().hex() == self.root and self.first_kept == self.size + 1 else None


def shard_folder(shard: int) -> str:
    return f"journal/{shard:04d}"


def find_segments(
    disk: Disk, shard: int, findings: Findings, dropped: Dropped | None, *, live: bool = False
) -> list[Segment]:
    """The shard's segments with their limits. A file that cannot be believed is a fault, and left out.

    Raises OSError.
    """
    found: list[Segment] = []
    ids: set[bytes] = set() if dropped is not None else {NO_SEGMENT_ID}
    for name in disk.names(shard_folder(shard)):
        if not (match := SEGMENT_NAME.fullmatch(name)):
            continue
        if dropped is not None and int(match[1]) <= dropped.segments[1]:
            findings.note(
                "a dropped segment is still there", file=f"{shard_folder(shard)}/{name}", shard=shard
            )
            continue
        path = f"{shard_folder(shard)}/{name}"
        segment = _read(disk, path, shard, int(match[1]), findings, live=live)
        if segment is None:
            continue
        if not _follows(segment, found, ids, dropped):
            findings.fault(
                "a segment is missing before this one, or it stands in the place of another",
                file=path, offset=44, shard=shard, sequence=segment.first and segment.first.sequence,
            )  # fmt: skip
        ids.add(segment.header.id)
        found.append(segment)
    limit = ENDLESS
    for segment in reversed(found):
        segment.limit = limit
        if segment.first is not None:
            limit = min(limit, segment.first.sequence)
    return found


def _follows(segment: Segment, before: list[Segment], ids: set[bytes], dropped: Dropped | None) -> bool:
    """Whether it was made after one that is still here, or is the first that is left."""
    previous = segment.header.previous_id
    if segment.header.id in ids:
        return False
    if before:
        return previous in ids and previous != NO_SEGMENT_ID
    if dropped is not None:
        return segment.index > dropped.segments[1] and previous.hex() == dropped.previous_id
    return previous == NO_SEGMENT_ID


def _read(disk: Disk, path: str, shard: int, index: int, findings: Findings, *, live: bool) -> Segment | None:
    try:
        file = disk.open(path, write=False)
    except FileNotFoundError:
        return None  # a spare that its writer has just removed
    try:
        data, size = file.read(FIRST_READ_BYTES, 0), file.size_bytes()
        header = decode_segment_header(data) or decode_segment_header(file.read(FIRST_READ_BYTES, 0))
        if header is None:
            unmade = is_free(data[:SEGMENT_HEADER_BYTES])  # the header is put when the rest is there
            if not unmade or not (live or _all_free(file, size)):
                findings.fault("the segment's header is not readable", file=path, offset=0, shard=shard)
            elif not live:
                findings.note("a segment whose making was interrupted", file=path, shard=shard)
            return None
    finally:
        file.close()
    if (header.shard, header.index) != (shard, index):
        what = f"the header is that of segment {header.index} of shard {header.shard}"
        findings.fault(what, file=path, offset=12, shard=shard)
        return None
    if size != header.size_bytes:
        what = f"the file has {size:,} bytes and should have {header.size_bytes:,}"
        findings.fault(what, file=path, offset=size, shard=shard)
    first = Decoder(header).decode(data, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES)
    if first is not None and decode_commit(first) is not None:
        return Segment(path, header, first)
    first = None if is_free(data[SEGMENT_HEADER_BYTES:]) else _first_believable(disk, path, header)
    if first is None:
        return Segment(path, header, None)
    if first.offset == SEGMENT_HEADER_BYTES:
        return Segment(path, header, first)  # its writer has brought it into use meanwhile
    findings.fault(
        "the segment's first frame cannot be believed",
        file=path, offset=SEGMENT_HEADER_BYTES, shard=shard, sequence=first.sequence,
    )  # fmt: skip
    return Segment(path, header, first, begins_at=first.offset)


def _first_believable(disk: Disk, path: str, header: SegmentHeader) -> Stored | None:
    """The first believable frame of a segment that was in use, as those behind it tell; None when it was not.

    A record of it is durable only when its first frame is. Where none says so the first frame may never have
    reached the disk.
    """
    file = disk.open(path, write=False)
    try:
        first: Stored | None = None
        reader = FrameReader(file, header)
        for stored in reader.believable(SEGMENT_HEADER_BYTES):
            first = first or stored
            if stored.sequence - stored.unsynced >= first.sequence:
                now = reader.decode(SEGMENT_HEADER_BYTES)
                return first if now is None or decode_commit(now) is None else now
        return None
    finally:
        file.close()


def _all_free(file: Any, size: int) -> bool:
    return all(is_free(file.read(1 << 20, offset)) for offset in range(0, size, 1 << 20))


# -- segments dropped whole -----------------------------------------------------------------------------


def read_dropped(disk: Disk, shard: int, findings: Findings) -> Dropped | None:
    """What the shard's file `dropped` says; None when there is none to be believed."""
    path = f"{shard_folder(shard)}/dropped"
    data = _read_small(disk, path, findings)
    if data is None:
        return None
    crc, _, text = data.rstrip().partition(b" ")
    try:
        if int(crc, 16) != extend(0, text):
            raise ValueError
        dropped = msgspec.json.decode(text, type=Dropped)
    except (ValueError, msgspec.DecodeError):
        findings.fault("what was dropped from the shard cannot be read", file=path, offset=0, shard=shard)
        return None
    if dropped.shard != shard or dropped.tree() is None:
        findings.fault("what was dropped does not agree with itself", file=path, offset=0, shard=shard)
        return None
    return dropped


def _read_small(disk: Disk, path: str, findings: Findings) -> bytes | None:
    try:
        return disk.read_all(path)
    except OSError as error:
        findings.problem(f"cannot be read: {error.strerror or error}", file=path)
        return None
