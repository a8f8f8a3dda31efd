"""The frames of one segment, read one after another until something is not as it should be.

Owns the loop over the bytes, which is where the time of a verification goes, and the words for what is wrong
with a frame. Shares the format (`journal.frames`) with the writer and nothing else. Used by `shard`.
"""

from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct

from custody.errors import StoreTooNew
from custody.journal.disk import File
from custody.journal.frames import (
    FORMAT_VERSION,
    FRAME_BYTES_MAX,
    HEADER,
    HEADER_BYTES,
    SEQUENCE,
    Decoder,
    SegmentHeader,
    Stored,
    extend,
    is_free,
    is_purged,
    is_zeroed,
)
from custody.records import Kind

READ_BYTES = 1024 * 1024
SEARCH_BYTES = 2 * FRAME_BYTES_MAX
COMMIT = int(Kind.COMMIT)

Stopped = Literal["limit", "free", "damaged", "payload", "sequence"]
"""Why reading stopped: the segment counts no further; nothing stands there; the frame cannot be believed; its
payload cannot, though its leaf can; it is believable and belongs elsewhere."""


Frame = tuple[int, int, bytes, bytes | None, int, int]
"""Sequence, kind, leaf, payload (None when it was purged), offset and `unsynced`. A plain tuple: a million of
them are made in three seconds."""

PADDING = tuple(map(bytes, range(8)))

NO_LEAF = "a frame's header or leaf does not have its checksum"
NO_PAYLOAD = "a payload does not have its checksum"


class Stop(Struct, frozen=True):
    """Where and why reading stopped."""

    why: Stopped
    offset: int
    sequence: int
    """The one that should have come."""
    what: str = ""
    frame: Frame | None = None
    """What stands there, for `payload` and `sequence`; its payload is empty."""
    end: int = 0
    """Behind that frame."""


def unheard(_what: str, _offset: int, _sequence: int) -> None:
    pass


class FrameReader:
    """Reads a segment. `stop` says how the last reading ended."""

    def __init__(
        self, file: File, header: SegmentHeader, odd: Callable[[str, int, int], None] = unheard
    ) -> None:
        """`odd` is told, with offset and sequence, of what is wrong and does not end the reading."""
        self._seed = header.crc_seed
        self.size_bytes = header.size_bytes
        self._decoder = Decoder(header)
        self._odd = odd
        self.stop = Stop("free", 0, 0)
        self.half_purged: list[tuple[int, int]] = []
        """Offset and sequence of records marked as purged of whose payloads something is left."""
        self.read = file.read
        self.close = file.close

    def frames(self, offset: int, sequence: int, limit: int) -> Iterator[Frame]:
        """From `offset`, where `sequence` should come, up to and not including `limit`."""
        unpack, seed, pack = HEADER.unpack_from, self._seed, SEQUENCE.pack
        base = offset
        while sequence < limit:
            data, start = self.read(READ_BYTES, base), 0
            size = len(data)
            while (body := start + HEADER_BYTES) <= size:
                (
                    leaf_crc, payload_crc, found, leaf_bytes, payload_bytes, kind, version, flags, unsynced
                ) = unpack(data, start)  # fmt: skip
                leaf_stop = body + leaf_bytes
                stop = leaf_stop + payload_bytes
                end = (stop + 7) & ~7
                if kind == 0 or stop - start > FRAME_BYTES_MAX:
                    self.stop = _unread(data[start:], base + start, sequence)
                    return
                if end > size and (stop > size or size == READ_BYTES):
                    break  # the rest of it is in the next read; at the file's end its padding may be missing
                leaf = data[body:leaf_stop]
                if extend(seed, data[start + 4 : leaf_stop]) != leaf_crc:
                    self.stop = Stop("damaged", base + start, sequence, NO_LEAF)
                    return
                payload = data[leaf_stop:stop]
                frame: Frame | None = (found, kind, leaf, payload, base + start, unsynced)
                if (
                    found != sequence
                    or version != FORMAT_VERSION
                    or flags
                    or extend(extend(seed, data[start + 8 : start + 16]), payload) != payload_crc
                    or (end != stop and data[stop:end] != PADDING[end - stop])
                ):
                    believed = extend(extend(seed, pack(found)), payload) == payload_crc
                    _known_version(version)
                    frame = self._odd_one(frame, sequence, believed, base + end)
                    if frame is None:
                        return
                    if flags or version != FORMAT_VERSION:
                        self._odd(
                            "the frame has a version or flags that mean nothing", base + start, sequence
                        )
                    if any(data[stop:end]):
                        self._odd("the padding behind the frame is not zero", base + stop, sequence)
                if kind != COMMIT:
                    sequence += 1
                start = end
                yield frame
                if sequence >= limit:
                    break
            if start == 0:
                self.stop = _unread(data, base, sequence)
                return
            base += start
        self.stop = Stop("limit", base, sequence)

    def _odd_one(self, frame: Frame, sequence: int, believed: bool, end: int) -> Frame | None:
        """The frame as it is to be taken; None when reading stops at it."""
        found, kind, leaf, payload, offset, unsynced = frame
        purged = not believed and is_purged(payload or b"")
        if found != sequence:
            what = f"record {found} stands where {sequence} should"
            self.stop = Stop("sequence", offset, sequence, what, frame, end)
            return None
        if not believed and not purged:
            bare = (found, kind, leaf, b"", offset, unsynced)
            self.stop = Stop("payload", offset, sequence, NO_PAYLOAD, bare, end)
            return None
        if purged and not is_zeroed(payload or b""):
            self.half_purged.append((offset, found))
        return (found, kind, leaf, None, offset, unsynced) if purged else frame

    # -- beyond what can be read ------------------------------------------------------------------------

    def believable(self, offset: int) -> Iterator[Stored]:
        """Every believable frame at or after `offset`, whatever its sequence."""
        decode, search = self._decoder.decode, self._decoder.search
        while data := self.read(SEARCH_BYTES, offset):
            at = 0
            if not is_free(data):
                while found := decode(data, at, offset + at) or search(data[at:], offset + at):
                    yield found
                    at = found.end - offset
            # What begins in the last frame's length of this read may end in the next.
            step = len(data) - FRAME_BYTES_MAX if len(data) == SEARCH_BYTES else len(data)
            offset += max(step, at, 8) & ~7

    def run(self, offset: int, sequence: int) -> tuple[int, int]:
        """Where the frames that follow each other from there on end, and the sequence that would come."""
        stop, odd, self._odd = self.stop, self._odd, unheard
        try:
            for _ in self.frames(offset, sequence, 1 << 63):
                pass
            return self.stop.offset, self.stop.sequence
        finally:
            self.stop, self._odd = stop, odd

    def used(self, offset: int) -> tuple[int, int] | None:
        """The first and the last byte from `offset` on that is not zero."""
        first: int | None = None
        last = 0
        while data := self.read(READ_BYTES, offset):
            if not is_free(data):
                if first is None:
                    first = offset + len(data) - len(data.lstrip(b"\0"))
                last = offset + len(data.rstrip(b"\0")) - 1
            offset += len(data)
        return None if first is None else (first, last)

    def decode(self, offset: int) -> Stored | None:
        """The frame at `offset`, read anew; None when there is none to be believed."""
        return self._decoder.decode(self.read(FRAME_BYTES_MAX, offset), 0, offset)


def _unread(data: bytes, offset: int, sequence: int) -> Stop:
    if is_free(data[:HEADER_BYTES]):
        return Stop("free", offset, sequence)
    return Stop("damaged", offset, sequence, "a frame's header makes no sense")


def _known_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise StoreTooNew(
            f"A frame of the journal has version {version}; this Custody knows up to {FORMAT_VERSION}.",
            hint="Use the Custody that wrote it, or a later one.",
        )
