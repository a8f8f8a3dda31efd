"""The bytes of a segment: its header, its frames, and what makes a frame believable.

Owns the format. Knows nothing of files, threads or which frame should come next. Used by the writing
side (`shard`) and the reading side (`follow`).

A segment is a 64-byte header and then frames, each a multiple of 8 bytes; what follows the last one is
zero. A frame is a 32-byte header, the leaf, the payload and zero padding:

    u32 leaf CRC       CRC32C of segment id, the header from its second field on, and the leaf
    u32 payload CRC    CRC32C of segment id, sequence and payload
    u64 sequence       of this record; a commit frame has that of the record that comes next
    u32 leaf bytes
    u32 payload bytes
    u8  kind           0 is free space
    u8  frame version
    u16 flags          none yet
    u32 unsynced       sequence minus the last sequence known durable when the frame was written

The leaf's CRC covers the payload's, so that purging a payload in place leaves the leaf believable. A
purged payload begins with a mark: one that is all zero was torn by a power loss. The mark is put first and
the rest zeroed behind it; as it lies within one sector of a disk, no crash leaves half of it.
Sequences count records alone, from 1 without a gap, so a record's leaf index in the tree is its sequence
minus one.
"""

import hashlib
import re
import struct
from collections.abc import Callable
from typing import cast

import google_crc32c
import msgspec
from msgspec import Struct

from custody import native
from custody.errors import StoreTooNew
from custody.records import Kind

extend = cast(Callable[[int, bytes], int], google_crc32c.extend)  # pyright: ignore[reportUnknownMemberType]
"""CRC32C of more bytes, given that of those before; 0 to begin with. Keeps the GIL."""

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"CUSTODY\x00"
SEGMENT_ID_BYTES = 16
SEGMENT_HEADER = struct.Struct("<8sHHIIQ16s16sI")
SEGMENT_HEADER_BYTES = SEGMENT_HEADER.size
assert SEGMENT_HEADER_BYTES == 64

HEADER = struct.Struct("<IIQIIBBHI")
HEADER_BYTES = HEADER.size
assert HEADER_BYTES == 32
BODY = struct.Struct("<IQIIBBHI")
"""The header without its first field: what the leaf CRC covers."""
CRC = struct.Struct("<I")
SEQUENCE = struct.Struct("<Q")

FRAME_BYTES_MAX = 128 * 1024
"""A frame fits any segment and any read-ahead; larger payloads are blobs, whose limit is half of this."""

GIL_KEPT_BYTES_MAX = 2047
"""hashlib gives up the GIL above this, and winning it back beside one busy thread costs 5 ms."""

_PADDING = tuple(bytes(count) for count in range(8))
NO_SEGMENT_ID = bytes(SEGMENT_ID_BYTES)


def sha256_in_pieces(*parts: bytes) -> bytes:
    """`sha256`, in Python."""
    data = b"".join(parts)
    if len(data) <= GIL_KEPT_BYTES_MAX:
        return hashlib.sha256(data).digest()
    state = hashlib.sha256()
    view = memoryview(data)
    for start in range(0, len(data), GIL_KEPT_BYTES_MAX):
        state.update(view[start : start + GIL_KEPT_BYTES_MAX])
    return state.digest()


sha256: Callable[..., bytes] = native.sha256 or sha256_in_pieces
"""`sha256(*parts)`: SHA-256 of the parts one after another, without giving up the GIL."""


def frame_bytes(leaf_bytes: int, payload_bytes: int) -> int:
    """The room a frame takes."""
    return (HEADER_BYTES + leaf_bytes + payload_bytes + 7) & ~7


# -- segments -----------------------------------------------------------------------------------------


class SegmentHeader(Struct, frozen=True):
    """The first 64 bytes of a segment."""

    shard: int
    index: int
    size_bytes: int
    """The whole file; written only when all of it is filled and synced."""
    id: bytes
    previous_id: bytes = NO_SEGMENT_ID
    """The segment before this one in the folder when this one was made; zeros for the first."""

    @property
    def crc_seed(self) -> int:
        """CRC32C of the segment id, from which every CRC of its frames goes on."""
        return extend(0, self.id)


def encode_segment_header(header: SegmentHeader) -> bytes:
    data = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC, FORMAT_VERSION, 0, header.shard, header.index, header.size_bytes,
        header.id, header.previous_id, 0,
    )  # fmt: skip
    return data[:-4] + CRC.pack(extend(0, data[:-4]))


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """None when these bytes are no segment header. Raises StoreTooNew for a later format."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return None
    magic, version, _, shard, index, size, id_, previous, crc = SEGMENT_HEADER.unpack_from(data)
    if magic != SEGMENT_MAGIC or extend(0, data[: SEGMENT_HEADER_BYTES - 4]) != crc:
        return None
    if version > FORMAT_VERSION:
        raise _too_new(f"format {version}")
    return SegmentHeader(shard, index, size, id_, previous)


# -- frames -------------------------------------------------------------------------------------------


class Stored(Struct, frozen=True):
    """One frame read back."""

    shard: int
    segment: int
    offset: int
    sequence: int
    kind: int
    leaf: bytes
    payload: bytes
    """Empty when it was purged."""
    end: int
    """Where the next frame begins."""
    unsynced: int
    purged: bool = False


def encode_frame_in_python(
    crc_seed: int, sequence: int, unsynced: int, kind: int, leaf: bytes, payload: bytes
) -> bytes:
    """`encode_frame`, in Python."""
    payload_crc = extend(extend(crc_seed, SEQUENCE.pack(sequence)), payload)
    leaf_bytes, payload_bytes = len(leaf), len(payload)
    body = BODY.pack(payload_crc, sequence, leaf_bytes, payload_bytes, kind, FORMAT_VERSION, 0, unsynced)
    body += leaf
    padding = _PADDING[-(HEADER_BYTES + leaf_bytes + payload_bytes) & 7]
    return CRC.pack(extend(crc_seed, body)) + body + payload + padding


encode_frame = native.encode_frame or encode_frame_in_python
"""`encode_frame(crc_seed, sequence, unsynced, kind, leaf, payload)`: the frame with its padding. `crc_seed`
is the segment's."""


class Decoder:
    """Believes or disbelieves bytes as frames of one segment."""

    __slots__ = ("_crc_seed", "_index", "_shard")

    def __init__(self, header: SegmentHeader) -> None:
        self._crc_seed = header.crc_seed
        self._shard = header.shard
        self._index = header.index

    def decode(self, data: bytes, start: int, offset: int) -> Stored | None:
        """The frame at `start` of `data`, which is `offset` of the segment; None when there is none.

        None as well when `data` ends before the frame does. Raises StoreTooNew for a later frame version.
        """
        stop = start + HEADER_BYTES
        if stop > len(data):
            return None
        (
            leaf_crc, payload_crc, sequence, leaf_bytes, payload_bytes, kind, version, _, unsynced
        ) = HEADER.unpack_from(data, start)  # fmt: skip
        leaf_stop = stop + leaf_bytes
        payload_stop = leaf_stop + payload_bytes
        if kind == 0 or payload_stop > len(data) or payload_stop - start > FRAME_BYTES_MAX:
            return None
        seed = self._crc_seed
        if extend(seed, data[start + 4 : leaf_stop]) != leaf_crc:
            return None
        if version > FORMAT_VERSION:
            raise _too_new(f"a frame of version {version}")
        payload = data[leaf_stop:payload_stop]
        purged = False
        if extend(extend(seed, SEQUENCE.pack(sequence)), payload) != payload_crc:
            if not is_purged(payload):
                return None
            payload, purged = b"", True
        elif payload == PURGED_AGAIN:
            payload, purged = b"", True
        end = offset + ((payload_stop - start + 7) & ~7)
        leaf = data[stop:leaf_stop]
        return Stored(self._shard, self._index, offset, sequence, kind, leaf, payload, end, unsynced, purged)

    def search(self, data: bytes, offset: int) -> Stored | None:
        """The first believable frame in `data`, which is `offset` of the segment; 8-aligned as all are."""
        position = 0
        while (found := _NOT_FREE.search(data, position)) is not None:
            # A frame's first bytes may be zero; its kind and version, at 24 and 25, are not.
            earliest = max(position, (found.start() - 24) & ~7)
            position = (found.start() + 8) & ~7
            for start in range(earliest, position, 8):
                if data[start + 24 : start + 25] > b"\0" and (
                    frame := self.decode(data, start, offset + start)
                ):
                    return frame
        return None


_NOT_FREE = re.compile(rb"[^\0]")
_ZEROS = bytes(1024 * 1024)


PURGED_MARK = b"purged\0\0"
"""Shorter than a salt, with which every payload begins."""

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""

PURGED_AGAIN = PURGED_MARK.ljust(16, b"\0")
"""The payload of a record that was purged, where the record has to be written again. A salt is never that."""


def mark_place(payload_offset: int) -> int:
    """Where in a payload at that offset of its segment the mark stands: at its beginning, unless a sector
    ends within the mark; then where the next one begins."""
    left = -payload_offset % SECTOR_BYTES
    return left if left < len(PURGED_MARK) else 0


def purged_payload(payload_bytes: int, payload_offset: int = 0) -> bytes:
    """What stands in the place of a payload of that size once it is purged."""
    marked = bytes(mark_place(payload_offset)) + PURGED_MARK
    return marked[:payload_bytes].ljust(payload_bytes, b"\0")


def is_purged(payload: bytes) -> bool:
    """Whether it bears the mark. What lies around the mark may be there for as long as the purge lasts."""
    return len(payload) > len(PURGED_MARK) and PURGED_MARK in payload[: 2 * len(PURGED_MARK) - 1]


def is_zeroed(payload: bytes) -> bool:
    """Whether nothing but the mark is left of a purged payload."""
    return payload.count(0) == len(payload) - len(PURGED_MARK.rstrip(b"\0"))


def is_free(data: bytes) -> bool:
    """Whether all of it is zero."""
    if len(data) <= len(_ZEROS):
        return _ZEROS.startswith(data)
    return data.count(0) == len(data)


def _too_new(what: str) -> StoreTooNew:
    return StoreTooNew(
        f"The store's journal has {what}; this Custody knows versions up to {FORMAT_VERSION}.",
        hint="Use the Custody that wrote it, or a later one.",
    )


# -- commit frames ------------------------------------------------------------------------------------


class Commit(Struct, frozen=True, array_like=True):
    """The leaf of a commit frame: the tree over all records before this frame's sequence."""

    size: int
    root: bytes
    previous: bytes
    """SHA-256 of the leaf of the commit frame that counts before this one; empty for the first."""
    frontier: tuple[bytes, ...] | None = None
    """In a segment's first frame: the roots of the perfect subtrees, largest first, so that opening a
    shard reads its last segment alone."""


_commit_encoder = msgspec.msgpack.Encoder()
_commit_decoder = msgspec.msgpack.Decoder(Commit)


def encode_commit(commit: Commit) -> bytes:
    return _commit_encoder.encode(commit)


def decode_commit(frame: Stored) -> Commit | None:
    """None when this is no commit frame, or none that can be understood."""
    if frame.kind != Kind.COMMIT:
        return None
    try:
        return _commit_decoder.decode(frame.leaf)
    except msgspec.DecodeError:
        return None
