"""Taking bytes out of the journal again: payloads in place, what a crash left behind, segments as a whole.

Owns the order of steps that makes each of them safe beside writers and through crashes, and the folder
`journal/purge`, where a purge that has begun says so until it is over. Knows nothing of why something is
purged, nor of what records say (`retention`). Used through `Journal`.

Only durable records are purged: their writer never writes them again, and whoever opens the shard after it
sees by the same claims that it need not either. A payload is first marked, which no crash leaves half done,
and then zeroed, which may be repeated as often as it takes; its leaf is not touched.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby, islice

from msgspec import Struct

from custody.journal.blobs import BLOBS_FOLDER
from custody.journal.disk import Disk, File, Lock
from custody.journal.dropped import Dropped, write_dropped
from custody.journal.follow import Place
from custody.journal.frames import (
    FRAME_BYTES_MAX,
    HEADER,
    HEADER_BYTES,
    PURGED_MARK,
    SEGMENT_HEADER_BYTES,
    Decoder,
    is_free,
    is_purged,
    is_zeroed,
    mark_place,
)
from custody.journal.lease import read_lease
from custody.journal.segments import (
    ENDLESS,
    READ_BYTES,
    Segment,
    SegmentCache,
    SegmentReader,
    corrupt,
    segment_indexes,
    segment_path,
    shard_folder,
    shard_numbers,
)
from custody.records import Kind

PURGE_FOLDER = "journal/purge"
PURGE_LOCK = "journal/purge.lock"
KEPT_AT = "journal/kept"
"""When somebody last saw to the bounds of the settings."""

CONDEMNED = ".condemned"
"""What the name of a blob ends in while it is made sure that nobody needs it."""

BATCH_RECORDS = 4_096
"""Marked, synced and zeroed in one go: few syncs, and a purge that is killed has left little to do again."""

ZERO_BYTES = 64 * 1024

_INTENT = re.compile(r"([0-9a-f]{16})-(purge|drop)-(\d+)-(\d+)-(\d+)-(\d+)")
_BLOB = re.compile(r"([0-9a-f]{64})(\.condemned)?")


class Spot(Struct, frozen=True, order=True):
    """Where a record stands."""

    segment: int
    offset: int
    sequence: int


class Intent(Struct, frozen=True):
    """A purge that has begun: its statement stands in a shard at or behind a place."""

    purge_id: str
    what: str
    """`purge` or `drop`."""
    shard: int
    place: Place

    @property
    def name(self) -> str:
        return "-".join([self.purge_id, self.what, *map(str, (self.shard, *self.place))])


class Purging:
    """The store's means of forgetting. Every method may wait."""

    def __init__(self, disk: Disk, cache: SegmentCache) -> None:
        self._disk = disk
        self._cache = cache

    def lock(self) -> Lock | None:
        """The right to purge; None while another process has it."""
        self._disk.make_folder("journal")
        return self._disk.lock(PURGE_LOCK)

    # -- what has begun ---------------------------------------------------------------------------------

    def begin(self, intent: Intent) -> None:
        """Say durably that a purge has begun. The name says it all, as a full disk still has room for one."""
        self._disk.make_folder(PURGE_FOLDER)
        self._disk.open(f"{PURGE_FOLDER}/{intent.name}", create=True).close()
        self._disk.sync_folder(PURGE_FOLDER)

    def begun(self) -> list[Intent]:
        """The purges that have begun and are not over."""
        found = map(_INTENT.fullmatch, self._disk.names(PURGE_FOLDER))
        return [
            Intent(name[1], name[2], int(name[3]), (int(name[4]), int(name[5]), int(name[6])))
            for name in found
            if name is not None
        ]

    def end(self, intent: Intent) -> None:
        with suppress(FileNotFoundError):
            self._disk.remove(f"{PURGE_FOLDER}/{intent.name}")
        self._disk.sync_folder(PURGE_FOLDER)

    def kept_at_us(self) -> int:
        """When the store was last brought within its bounds; 0: never, as far as anybody knows."""
        data = (self._disk.read_all(KEPT_AT) or b"").strip()
        return int(data) if data.isdigit() else 0

    def note_kept(self, at_us: int) -> None:
        self._disk.replace(KEPT_AT, b"%d\n" % at_us)

    # -- what is durable --------------------------------------------------------------------------------

    def shards(self) -> list[int]:
        return shard_numbers(self._disk)

    def claimed(self, shard: int) -> int:
        """The last sequence that the shard's lease and the first frames of its segments say is durable.

        Records say it of those before them, too.
        """
        lease = read_lease(self._disk, shard)
        counting = [segment for segment in self._cache.segments(shard) if segment.counts]
        firsts = [segment.first for segment in counting if segment.first is not None]
        return max([lease.durable if lease else 0, *(frame.sequence - frame.unsynced for frame in firsts)])

    # -- payloads ---------------------------------------------------------------------------------------

    def purge(self, shard: int, spots: Iterable[Spot]) -> int:
        """Zero the payloads of durable records; returns their bytes. Raises OSError, CorruptJournal."""
        count = 0
        for index, wanted in groupby(sorted(spots), key=lambda spot: spot.segment):
            segment = self._cache.segment(shard, index)
            if segment is None:
                raise corrupt("a segment is missing", shard, index, 0, None)
            file = self._disk.open(segment_path(shard, index))
            try:
                while batch := list(islice(wanted, BATCH_RECORDS)):
                    count += _purge_batch(file, segment, batch)
            finally:
                file.close()
        return count

    def clear_dead(self, shard: int, durable: int) -> int:
        """Zero what no reader can reach: behind the end of segments that were left for another, where a
        writer that died or a disk that failed left copies of records. Returns the bytes that were there."""
        count = 0
        for segment, start in self._dead(shard, durable):
            path = segment_path(shard, segment.index)
            file = self._disk.open(path)
            try:
                count += _zero_used(file, start, segment.header.size_bytes)
            finally:
                file.close()
        return count

    def _dead(self, shard: int, durable: int) -> Iterator[tuple[Segment, int]]:
        """Segments that are over for good, and from where on nothing of them counts.

        For good means that a record of a later segment is durable, and so the frame which brought that one
        into use.
        """
        segments = self._cache.segments(shard)
        for position, segment in enumerate(segments):
            later = [one.first.sequence for one in segments[position + 1 :] if one.first and one.counts]
            if not later or min(later) > durable:
                continue
            if segment.first is None:
                yield segment, SEGMENT_HEADER_BYTES
            elif not segment.counts:
                yield segment, segment.first.end
            elif segment.limit != ENDLESS and (end := self._end(segment)) is not None:
                yield segment, end

    def _end(self, segment: Segment) -> int | None:
        """Behind the last frame that counts, and commit frames behind it; None where frames are missing."""
        assert segment.first is not None, "it counts"
        reader = SegmentReader(self._cache.disk, segment)
        try:
            for _ in reader.frames(SEGMENT_HEADER_BYTES, segment.first.sequence, segment.limit):
                pass
            if reader.sequence < segment.limit:
                return None
            offset = reader.offset
            while True:
                data = reader.file.read(FRAME_BYTES_MAX, offset)
                frame = reader.decoder.decode(data, 0, offset)
                if frame is None or frame.kind != Kind.COMMIT or frame.sequence != segment.limit:
                    return offset
                offset = frame.end
        finally:
            reader.close()

    # -- blobs ------------------------------------------------------------------------------------------

    def blobs(self) -> Iterator[tuple[bytes, bool]]:
        """The digest of each blob there is, and whether it is condemned."""
        for folder in self._disk.names(BLOBS_FOLDER):
            for name in self._disk.names(f"{BLOBS_FOLDER}/{folder}"):
                found = _BLOB.fullmatch(name)
                if found is not None:
                    yield bytes.fromhex(found[1]), found[2] is not None

    def blob_bytes(self, digest: bytes) -> int:
        """Of its file; 0 when there is none."""
        return self._file_bytes(_blob_path(digest)[1])

    def condemn(self, digest: bytes) -> None:
        """Give a blob a name under which no reader finds it. `spare` or `remove` comes next."""
        folder, path = _blob_path(digest)
        with suppress(FileNotFoundError):
            self._disk.rename(path, path + CONDEMNED)
            self._disk.sync_folder(folder)

    def spare(self, digest: bytes) -> None:
        """A blob that was condemned is needed after all."""
        folder, path = _blob_path(digest)
        with suppress(FileNotFoundError):
            self._disk.rename(path + CONDEMNED, path)
        self._disk.sync_folder(folder)

    def remove(self, digest: bytes) -> int:
        """Remove a condemned blob; returns the bytes of its file."""
        folder, path = _blob_path(digest)
        count = self._file_bytes(path + CONDEMNED)
        with suppress(FileNotFoundError):
            self._disk.remove(path + CONDEMNED)
        self._disk.sync_folder(folder)
        return count

    def _file_bytes(self, path: str) -> int:
        try:
            file = self._disk.open(path, write=False)
        except FileNotFoundError:
            return 0
        try:
            return file.size_bytes()
        finally:
            file.close()

    # -- whole segments ---------------------------------------------------------------------------------

    def segments(self, shard: int) -> list[Segment]:
        """Those that count, in order."""
        return [segment for segment in self._cache.segments(shard) if segment.counts]

    def dropped(self, shard: int) -> Dropped | None:
        return self._cache.dropped(shard)

    def drop(self, dropped: Dropped) -> int:
        """Remove a shard's first segments; returns the bytes of their files. Raises OSError.

        The event that says so is durable and sealed. From here on readers begin behind them, however many
        of their files are still there.
        """
        shard, (_, last) = dropped.shard, dropped.segments
        before = self._cache.dropped(shard)
        if before is None or before.segments[1] < last:
            write_dropped(self._disk, shard_folder(shard), dropped)
        count = 0
        for index in segment_indexes(self._disk, shard):
            if index <= last:
                path = segment_path(shard, index)
                count += self._file_bytes(path)
                self._disk.remove(path)
        self._disk.sync_folder(shard_folder(shard))
        return count


class _Payload(Struct, frozen=True):
    offset: int
    count: int

    @property
    def mark(self) -> int:
        return self.offset + mark_place(self.offset)


def _purge_batch(file: File, segment: Segment, spots: Iterable[Spot]) -> int:
    """In this order: no crash leaves a payload that is neither whole nor marked."""
    decoder = Decoder(segment.header)
    payloads = [found for spot in spots if (found := _find(file, decoder, segment, spot)) is not None]
    if not payloads:
        return 0
    for payload in payloads:
        file.put(PURGED_MARK, payload.mark)
    file.sync()
    for payload in payloads:
        behind = payload.mark + len(PURGED_MARK)
        if payload.mark > payload.offset:
            file.put(bytes(payload.mark - payload.offset), payload.offset)
        file.put(bytes(payload.offset + payload.count - behind), behind)
    file.sync()
    for payload in payloads:
        behind = payload.mark + len(PURGED_MARK)
        file.punch(behind, payload.offset + payload.count - behind)
    return sum(payload.count for payload in payloads)


def _find(file: File, decoder: Decoder, segment: Segment, spot: Spot) -> _Payload | None:
    """The payload of a record; None when it is purged already. Raises CorruptJournal."""
    data = file.read(HEADER_BYTES, spot.offset)
    if len(data) == HEADER_BYTES:
        _, _, sequence, leaf_bytes, payload_bytes, _, _, _, _ = HEADER.unpack(data)
        if sequence == spot.sequence and HEADER_BYTES + leaf_bytes + payload_bytes <= FRAME_BYTES_MAX:
            data = file.read(HEADER_BYTES + leaf_bytes + payload_bytes, spot.offset)
            if decoder.decode(data, 0, spot.offset) is not None:
                payload = data[HEADER_BYTES + leaf_bytes :]
                if len(payload) <= len(PURGED_MARK) or (is_purged(payload) and is_zeroed(payload)):
                    return None
                return _Payload(spot.offset + HEADER_BYTES + leaf_bytes, payload_bytes)
    header = segment.header
    raise corrupt("there is no frame", header.shard, header.index, spot.offset, spot.sequence)


def _zero_used(file: File, start: int, end: int) -> int:
    """Zero from one offset to another; returns how many bytes of it, up to the last, were used."""
    last = start
    for offset in range(start, end, READ_BYTES):
        data = file.read(min(READ_BYTES, end - offset), offset)
        if not is_free(data):
            last = offset + len(data.rstrip(b"\0"))
    if last == start:
        return 0
    for offset in range(start, last, ZERO_BYTES):
        file.put(bytes(min(ZERO_BYTES, last - offset)), offset)
    file.sync()
    file.punch(start, last - start)
    return last - start


def _blob_path(digest: bytes) -> tuple[str, str]:
    name = digest.hex()
    folder = f"{BLOBS_FOLDER}/{name[:2]}"
    return folder, f"{folder}/{name}"
