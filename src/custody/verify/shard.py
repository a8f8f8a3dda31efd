"""One shard read from its first record to its last.

Owns the order of checks: sequences without a gap, every leaf, its payload's digest, and where the records
end. After a fault it goes on where it can: at the next frame that can be believed, or with the next segment.
Reads a shard at whose end a writer is at work as far as its records go. Used by `verify`.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from custody.journal.disk import Disk
from custody.journal.frames import PURGED_AGAIN, SEGMENT_HEADER_BYTES, sha256
from custody.journal.tree import grow
from custody.records import LEAF_TYPES
from custody.verify.findings import Findings
from custody.verify.frames import COMMIT, Frame, FrameReader, Stop
from custody.verify.gather import BLOB_MARK, EVENT, Gather, ids_of
from custody.verify.index_rows import Take
from custody.verify.lease import read_lease
from custody.verify.segments import Dropped, Segment, find_segments, read_dropped, shard_folder
from custody.verify.tails import LeftBehind, frames_behind, is_beginning, open_reader
from custody.verify.tree import Head, TreeCheck

LOOKS_MAX = 1000
"""At the end of a shard whose writer is at work; each look reads on as far as there are records."""

Place = tuple[Segment, int]
"""Where to read on."""

PURGE_FOLDER = "journal/purge"
"""Names the purges that are under way."""

NO_SENSE = (KeyError, msgspec.DecodeError, ValueError, RecursionError)
"""What decoding a leaf raises for bytes that are none."""

_decoders = {int(kind): msgspec.msgpack.Decoder(leaf).decode for kind, leaf in LEAF_TYPES.items()}


class ShardEnd(Struct):
    """How far a shard was read."""

    shard: int
    first: int
    next: int
    """The sequence that comes after the last record."""
    here: Segment | None
    offset: int
    live: bool
    dropped: Dropped | None
    matched: list[Head]
    """The heads whose root the shard's tree has at that size."""
    heads_before: int
    """Heads about records that were dropped."""


class ShardReader:
    """Reads one shard once."""

    def __init__(
        self, disk: Disk, shard: int, findings: Findings, gather: Gather, heads: list[Head], boot_id: str,
        index_take: Take | None, progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        """`boot_id` is of the machine's present boot."""
        self._index_take = index_take
        self._progress = progress
        self._disk = disk
        self._shard = shard
        self._findings = findings
        self._gather = gather
        self._boot_id = boot_id
        self._live = self._is_held()
        self._lease = read_lease(disk, shard, findings, boot_id, live=self._live)
        self._dropped = read_dropped(disk, shard, findings)
        self._trees = TreeCheck(shard, heads, self._dropped, findings)
        self._first = self._next = self._dropped.first_kept if self._dropped else 1
        self._promised = max(self._trees.promised, self._lease.durable if self._lease else 0)
        self._segments = find_segments(disk, shard, findings, self._dropped, live=self._live)
        self._left = LeftBehind(shard, findings)
        self._here: Segment | None = None
        self._offset = SEGMENT_HEADER_BYTES
        self._looks = 0
        self._lost_end = False
        """Nothing can be read from here on, and it has been said."""

    def _is_held(self) -> bool:
        return self._disk.locked(f"{shard_folder(self._shard)}/lock")

    def _odd(self, what: str, offset: int, sequence: int) -> None:
        self._fault(what, self._here.path if self._here else None, offset, sequence=sequence)

    def _fault(self, what: str, path: str | None, offset: int, **more: Any) -> None:
        place: dict[str, Any] = {"sequence": self._next, **more}
        self._findings.fault(what, file=path, offset=offset, shard=self._shard, **place)

    def run(self) -> ShardEnd:
        """Raises StoreTooNew, OSError."""
        place = self._start()
        while place is not None:
            before = (place[0].index, place[1], self._next)
            place = self._read(*place)
            if place is not None and (place[0].index, place[1], self._next) == before:
                self._fault("a frame is not readable", place[0].path, place[1])
                self._lost_end = True
                break
        self._live = self._live or self._is_held()
        if not self._lost_end:
            self._judge_promises()
        if not self._live:
            self._judge_lease()
            self._add_unused()
            purging = bool(self._disk.names(PURGE_FOLDER))
            self._left.judge(self._gather.repairs, self._segments, purging=purging)
        return ShardEnd(
            self._shard, self._first, self._next, self._here, self._offset, self._live, self._dropped,
            self._trees.matched, self._trees.before,
        )  # fmt: skip

    # -- from segment to segment --------------------------------------------------------------------------

    def _start(self) -> Place | None:
        for segment in self._segments:
            if segment.first is not None and segment.first.sequence == self._next and segment.counts:
                return segment, segment.begins_at
        if not self._segments:
            return None
        self._here = self._segments[0]
        reader = open_reader(self._disk, self._here)
        try:
            return self._stopped(self._here, reader, Stop("free", SEGMENT_HEADER_BYTES, self._next))
        finally:
            reader.close()

    def _read(self, segment: Segment, offset: int) -> Place | None:
        """Read a segment on from there; returns where to go on, None when the shard ends."""
        self._here = segment
        reader = open_reader(self._disk, segment, self._odd)
        try:
            self._take(segment, reader.frames(offset, self._next, segment.limit))
            self._judge_purged(segment, reader)
            stop = reader.stop
            self._offset = stop.offset
            if stop.why != "limit":
                return self._stopped(segment, reader, stop)
            self._behind(segment, reader, stop.offset)
        finally:
            reader.close()
        following = next(other for other in self._segments if other.counts and other.index > segment.index)
        if following.begins_at != SEGMENT_HEADER_BYTES:
            self._trees.forget_chain()
        return following, following.begins_at

    def _behind(self, segment: Segment, reader: FrameReader, offset: int) -> None:
        """The segment was left for another: a last commit frame may stand there, and nothing else."""
        stored = reader.decode(offset)
        if stored is not None and stored.kind == COMMIT and stored.sequence == self._next:
            self._trees.check(stored.sequence, stored.leaf, stored.payload, segment.path, offset)
            offset = stored.end
        self._left.add(segment, reader, offset, self._next)

    def _add_unused(self) -> None:
        """Segments before the end of which nothing counts: left while they were being made or made good."""
        here = self._here.index if self._here else 0
        for segment in self._segments:
            if segment.counts or segment.index >= here:
                continue
            reader = open_reader(self._disk, segment)
            try:
                began = segment.first.sequence if segment.first is not None else segment.limit
                self._left.add(segment, reader, SEGMENT_HEADER_BYTES, began)
            finally:
                reader.close()

    # -- records ------------------------------------------------------------------------------------------

    def _take(self, segment: Segment, frames: Iterator[Frame]) -> None:
        trees, gather, shard, index = self._trees, self._gather, self._shard, segment.index
        decoders, hashed, add, index_take = _decoders, sha256, grow, self._index_take
        tree, goal, count = trees.tree, trees.goal, 0
        sequence = self._next - 1
        for sequence, kind, leaf, payload, offset, _ in frames:
            if kind == COMMIT:
                self._next = sequence
                if tree is not None:
                    tree.size = sequence - 1
                trees.commit(sequence, leaf, payload, segment.path, offset)
                tree, goal = trees.tree, trees.goal
                gather.records, count = gather.records + count, 0
                self._progress(gather.records)
                sequence -= 1
                continue
            count += 1
            if tree is not None:
                add(tree.hashes, sequence - 1, leaf)
            try:
                record = decoders[kind](leaf)
            except NO_SENSE:
                self._fault("the leaf makes no sense", segment.path, offset, sequence=sequence)
            else:
                if payload is not None and hashed(payload) != record.payload_digest:
                    payload = self._check_digest(segment, record, payload, offset, sequence)
                if kind == EVENT or payload is None or BLOB_MARK in payload:
                    gather.take(record, payload, shard, index, offset, sequence)
                if index_take is not None:
                    index_take(record, kind, index, offset, sequence)
            if sequence == goal:
                trees.at_head(sequence)
                goal = trees.goal
        self._next = sequence + 1
        if tree is not None:
            tree.size = sequence
        gather.records += count

    def _judge_purged(self, segment: Segment, reader: FrameReader) -> None:
        """While a purge lasts, or until the next open when it was killed, a payload may be half there."""
        for offset, sequence in reader.half_purged:
            if self._disk.names(PURGE_FOLDER):
                what = "a purge is not through: something is left of a payload"
                self._findings.note(what, file=segment.path, shard=self._shard, sequence=sequence)
            else:
                self._fault("something is left of a purged payload", segment.path, offset, sequence=sequence)

    def _check_digest(
        self, segment: Segment, record: Any, payload: bytes, offset: int, sequence: int
    ) -> bytes | None:
        """The payload as it is to be taken: None for one that had been purged when it was written again."""
        if payload == PURGED_AGAIN:
            return None
        if payload or record.payload_digest:  # what the journal itself records has neither
            what = "the payload is not the one whose digest is in the leaf"
            self._fault(what, segment.path, offset, sequence=sequence, **ids_of(record))
        return payload

    def _take_leaf(self, segment: Segment, frame: Frame, what: str) -> None:
        """A record whose payload is damaged: its leaf can be believed, and the tree goes on."""
        sequence, kind, leaf, _, offset, _ = frame
        self._fault(what, segment.path, offset, **_ids(frame))
        tree = self._trees.tree
        if tree is not None:
            tree.add_leaf(leaf)
        self._next = sequence + 1
        if (decode := _decoders.get(kind)) is not None:
            with suppress(*NO_SENSE):
                self._gather.take(decode(leaf), b"", self._shard, segment.index, offset, sequence)
        self._trees.at_head(sequence)

    # -- where reading stops ------------------------------------------------------------------------------

    def _stopped(self, segment: Segment, reader: FrameReader, stop: Stop) -> Place | None:
        """Where to go on, once it has been said what is wrong here; None at the end of the shard."""
        if self._has_grown(segment, reader, stop):
            return segment, stop.offset
        gone_on = self._gone_on(segment)
        if gone_on is not None:
            return gone_on
        if stop.why == "sequence":
            assert stop.frame is not None, "this stop has the frame"
            self._fault(stop.what, segment.path, stop.offset, **_ids(stop.frame))
            self._trees.lose()
            return self._next_believable(segment, stop.end if stop.frame[0] < self._next else stop.offset)
        if not self._is_promised(segment, stop):
            self._end(segment, reader, stop)
            return None
        if self._nothing_follows(segment, reader, stop):
            return None  # what is missing is said when it is known how much
        if self._has_grown(segment, reader, stop):  # the writer was quicker than the look for a promise
            return segment, stop.offset
        if stop.why == "payload" and stop.frame is not None:
            self._take_leaf(segment, stop.frame, stop.what)
            return segment, stop.end
        return self._over_damage(segment, reader, stop)

    def _has_grown(self, segment: Segment, reader: FrameReader, stop: Stop) -> bool:
        """Whether a frame that was not whole is now: it was being put, or purged, while it was read."""
        self._looks += 1
        if self._looks > LOOKS_MAX or stop.why == "sequence" or stop.sequence >= segment.limit:
            return False
        found = reader.decode(stop.offset)
        return found is not None and found.sequence == stop.sequence

    def _gone_on(self, segment: Segment) -> Place | None:
        """The segment its writer has gone on in since the segments were listed, if there is one."""
        if not (self._live or self._is_held()):
            return None
        fresh = find_segments(self._disk, self._shard, Findings(), self._dropped, live=True)
        for later in fresh:
            if later.index > segment.index and later.counts and later.first is not None:
                if later.first.sequence == self._next:
                    self._segments = fresh
                    return later, later.begins_at
                return None
        return None

    def _is_promised(self, segment: Segment, stop: Stop) -> bool:
        """Whether somebody says that what is not readable here was durable."""
        if stop.sequence <= self._promised:
            return True
        return any(
            stored.sequence - stored.unsynced >= stop.sequence
            for _, stored in frames_behind(self._disk, self._from(segment), stop.offset)
        )

    def _nothing_follows(self, segment: Segment, reader: FrameReader, stop: Stop) -> bool:
        if stop.why != "free" or reader.used(stop.offset) is not None:
            return False
        return not any(True for _ in frames_behind(self._disk, self._from(segment), stop.offset))

    def _from(self, segment: Segment) -> list[Segment]:
        return [other for other in self._segments if other.index >= segment.index]

    def _next_believable(self, segment: Segment, offset: int) -> Place | None:
        """The next frame that counts, from there on; the tree is lost where records are missing before it."""
        for found, stored in frames_behind(self._disk, self._from(segment), offset):
            if self._next <= stored.sequence < found.limit:
                if stored.sequence > self._next:
                    self._trees.lose()
                    self._next = stored.sequence
                self._trees.forget_chain()
                return found, stored.offset
        self._lost_end = True
        return None

    def _over_damage(self, segment: Segment, reader: FrameReader, stop: Stop) -> Place | None:
        path, offset, what, missing = segment.path, stop.offset, stop.what, self._next
        if stop.why == "free":
            what = f"nothing stands where record {missing} should"
            if reader.used(stop.offset) is None:
                later = [other for other in self._from(segment) if other is not segment]
                if later and later[0].first is None:
                    path, offset = later[0].path, SEGMENT_HEADER_BYTES
                    what = "the segment's first frame cannot be believed"
        place = self._next_believable(segment, stop.offset)
        if self._lost_end:
            what = f"{what}; records from {missing} on cannot be read"
        elif self._next > missing + 1:
            what = f"{what}; records {missing} to {self._next - 1} cannot be read"
        self._fault(what, path, offset, sequence=missing)
        return place

    # -- the end ------------------------------------------------------------------------------------------

    def _end(self, segment: Segment, reader: FrameReader, stop: Stop) -> None:
        """Nothing is missing here; what stands behind may be an interrupted put."""
        used = reader.used(stop.offset)
        others = [other for other in self._from(segment) if other is not segment]
        if self._is_held() or self._live:
            return
        if used is not None:
            self._judge_tail(segment, stop, used, is_beginning(reader, stop.offset, stop.sequence))
        for other in others:
            behind = open_reader(self._disk, other)
            try:
                used = behind.used(SEGMENT_HEADER_BYTES)
                if used is not None:
                    ours = is_beginning(behind, SEGMENT_HEADER_BYTES, stop.sequence) or any(
                        True for _ in behind.believable(SEGMENT_HEADER_BYTES)
                    )
                    self._judge_tail(other, Stop("free", SEGMENT_HEADER_BYTES, stop.sequence), used, ours)
            finally:
                behind.close()

    def _judge_tail(self, segment: Segment, stop: Stop, used: tuple[int, int], plausible: bool) -> None:
        if self._left_in_order_here(stop) or not plausible:
            what = "bytes behind the shard's end, where no writer puts any"
            self._fault(what, segment.path, used[0])
            return
        self._findings.note(
            f"{used[1] + 1 - stop.offset:,} bytes of an interrupted put, which nobody was promised",
            file=segment.path, offset=stop.offset, shard=self._shard, sequence=self._next,
        )  # fmt: skip

    def _left_in_order_here(self, stop: Stop) -> bool:
        """The shard was left in order since the machine was started, so no put can have been torn."""
        lease = self._lease
        return (
            lease is not None
            and lease.clean is not None
            and lease.boot_id == self._boot_id
            and lease.clean.sequence == stop.sequence
        )

    def _judge_promises(self) -> None:
        end = self._next - 1
        if self._lease is not None and self._lease.durable > end:
            what = f"records to {self._lease.durable} were durable, and only {end} are there"
            self._fault(what, self._here.path if self._here else None, self._offset)
        self._trees.missing_heads(end)

    def _judge_lease(self) -> None:
        """What the file says of the shard's end must be so."""
        clean = self._lease.clean if self._lease is not None else None
        if clean is None or self._lost_end or clean.sequence > self._next:
            return
        path = f"{shard_folder(self._shard)}/lease"
        here = self._here.index if self._here else 0
        tree = self._trees.tree
        if clean.sequence < self._next:
            what = f"records behind {clean.sequence - 1}, where the shard was left in order"
        elif (clean.segment, clean.offset) != (here, self._offset) or (
            tree is not None and list(clean.frontier) != tree.hashes
        ):
            what = "the lease does not agree with the shard's end"
        else:
            return
        if self._lease is not None and self._lease.boot_id == self._boot_id:
            self._findings.fault(what, file=path, offset=0, shard=self._shard, sequence=clean.sequence)
        else:  # neither the lease nor the last commit frame is synced: a power loss may take one of them
            self._findings.note(what, file=path, shard=self._shard, sequence=clean.sequence)


def _ids(frame: Frame) -> dict[str, str]:
    try:
        return ids_of(_decoders[frame[1]](frame[2]))
    except NO_SENSE:
        return {}
