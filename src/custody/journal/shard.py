"""One leased shard: appending, rolling over, and going on elsewhere when a segment can no longer be trusted.

Owns the put lock, the place of the next frame, the room set aside, and the unsynced records in memory.
Knows nothing of which shard to lease nor of what records mean. Used by `journal` alone.

A segment is left for another in three cases: it is full; a put into it failed; a sync of it failed. In
the last case what the kernel kept of it is unknown, so it is *poisoned*: never synced nor written again,
and every unsynced record is written again, under the same sequence, to the next one. Opening a shard
behind a torn tail is the same as leaving a poisoned segment.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from custody.errors import NotRecorded, StoreClosed
from custody.journal.commit import GroupCommit, Receipt, not_recorded
from custody.journal.disk import Disk, File, Lock
from custody.journal.frames import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_frame,
    frame_bytes,
)
from custody.journal.lease import Clean, Lease, boot_id, own_start_ticks, write_lease
from custody.journal.opening import Kept, Opened, open_spares, put_again
from custody.journal.put import NoFile, put_frame
from custody.journal.seals import Seals, Snapshot
from custody.journal.segments import segment_path
from custody.journal.settings import JournalSettings
from custody.journal.spares import Fresh, Spares, WouldWait, smallest_segment
from custody.journal.tree import grow
from custody.locks import NESTED, held_here
from custody.records import Event, Kind, encode_leaf, now_us

COMMIT_ROOM_BYTES = 160
"""A commit frame without a frontier takes 112 bytes; each segment keeps room for its last."""

FIRST_COMMIT_ROOM_BYTES = 2560
"""A segment's first frame, with a frontier of up to 64 hashes."""

SYNC_TRIES = 2
"""The segment, and the one the records go to when it fails; then whoever waits is told."""


class Shard:
    """A shard this process holds. Every method may be called by any thread."""

    def __init__(
        self, disk: Disk, number: int, lock: Lock, opened: Opened, settings: JournalSettings
    ) -> None:
        """Takes over the lock. `start` comes next; whoever made this closes it if that raises."""
        self.number = number
        self.first_sequence = opened.end.sequence
        self._disk = disk
        self._lock_held = lock
        self._commit_leaves = settings.commit_leaves
        self._unsynced_bytes_max = settings.unsynced_bytes_max
        self._mutex = threading.RLock()
        self._next = opened.end.sequence
        self._seals = Seals(opened)
        self._unsynced = opened.unsynced
        """The records after the last durable one. What a failed sync or an interruption leaves in doubt
        is made good from them."""
        self._appended_bytes = _room_of(self._unsynced)
        self._synced_bytes = 0
        self._full: list[File] = []
        """Segments left in good order that hold unsynced records."""
        self._file: File = NoFile()
        self._header: SegmentHeader | None = None
        self._crc_seed = 0
        self._offset = 0
        self._size = 0
        self._ahead_at = 0  # past this offset a spare is due
        self._reserved = 0
        self._least_room = settings.refusal_reserve_bytes + COMMIT_ROOM_BYTES
        self._kept_room = self._least_room
        """What a record that is not essential leaves free: the reserve, and all room set aside."""
        self._broken: OSError | None = None
        """Why the segment can no longer be used, while there is no other."""
        self._poisonings = 0
        """How often: a sync that fails behind such a change says nothing of the present segment."""
        self._closed = False
        self._ended = False
        spares = open_spares(disk, opened.spares)
        self._spares = Spares(disk, number, settings, opened.top, spares, opened.total_bytes)
        self._commit = GroupCommit(self._sync_once, self.written, opened.durable, settings.flush_seconds)

    def start(self, opened: Opened) -> None:
        """Begin the lease: say whose it is, repair or seal what the last one left, make it durable.

        Raises NotRecorded or OSError.
        """
        self._lease = Lease(self.first_sequence, os.getpid(), own_start_ticks(), boot_id(), opened.durable)
        with self._mutex:
            write_lease(self._disk, self.number, self._lease)
            if opened.wreck is not None:
                data = {
                    "shard": self.number,
                    "segment": opened.end.segment,
                    "offset": opened.end.offset,
                    "frames": opened.wreck.frames,
                    "bytes": opened.wreck.bytes,
                }
                self._write_again("journal.repaired", data)
            elif opened.used:
                for used in opened.used:
                    self._full.append(self._disk.open(segment_path(self.number, used.header.index)))
                    put_again(self._full[-1], used)
                self._enter(Fresh(opened.used[-1].header, self._full.pop()), opened.end.offset)
                self._seal()
            else:
                self._roll(0)
        if self._next - 1 > self._commit.durable:
            self._commit.wait(self._next - 1)
        self._commit.rests = self._say_durable

    # -- appending --------------------------------------------------------------------------------------

    def written(self) -> int:
        """The last sequence that was written."""
        return self._next - 1

    def puts_here(self) -> bool:  # whether this thread is in the middle of a put
        return held_here(self._mutex)

    def place(self) -> tuple[int, int, int]:
        """Segment, offset and sequence at or before which the next record will stand."""
        with self._mutex:
            assert self._header is not None, "started shards have a segment"
            return self._header.index, self._offset, self._next

    def durable_tree(self) -> Snapshot:
        """The tree over all durable records."""
        with self._mutex:
            return self._seals.durable

    def tell_of_durable(self, told: Callable[[int], None]) -> None:
        """Call `told` with the last durable sequence whenever there are more, in the thread that synced."""
        self._commit.told = told

    def append(
        self,
        kind: int,
        leaf: bytes,
        payload: bytes,
        reserve: int,
        reserved: int,
        essential: bool,
        at_once: bool,
        refusal: OSError | None = None,
    ) -> Receipt:
        """See `Journal.append`. Raises WouldWait; `refusal` is why what was wanted then is not to be had."""
        # What is a call elsewhere stands here in full: this is the path every record takes.
        need = (HEADER_BYTES + len(leaf) + len(payload) + 7) & ~7
        if need > FRAME_BYTES_MAX:
            raise ValueError(f"a record of {need} bytes does not fit a frame; its payload belongs in a blob")
        commit, seals = self._commit, self._seals
        if at_once and self._appended_bytes - self._synced_bytes + need > self._unsynced_bytes_max:
            raise WouldWait(0)
        if held_here(self._mutex):
            raise WouldWait(0) if at_once else NotRecorded(NESTED)
        with self._mutex:
            if self._offset + need + reserve - reserved + self._kept_room > self._size:
                if at_once and self._broken is not None:
                    raise WouldWait(0)
                self._make_room(need, reserve, reserved, essential or reserved > 0, refusal)
            if seals.uncommitted >= self._commit_leaves:
                self._commit_if_room(need)
            sequence, offset = self._next, self._offset
            unsynced = sequence - commit.durable
            try:
                put_frame(self._file, offset, self._crc_seed, sequence, unsynced, kind, leaf, payload)
                self._unsynced.append((kind, leaf, payload))
                self._offset = offset + need
                self._next = sequence + 1
                frontier = seals.frontier
                grow(frontier.hashes, frontier.size, leaf)
                frontier.size += 1
                seals.uncommitted += 1
                self._appended_bytes += need
            except OSError as error:
                self._put_elsewhere(error, (kind, leaf, payload), need, reserve)
            except BaseException:
                # Interrupted (Ctrl-C) between two of these: the unsynced records are what holds.
                self._break(OSError(errno.EINTR, "interrupted while a record was put"))
                raise
            if reserve != reserved:
                set_aside = self._reserved + reserve - reserved
                self._reserved = set_aside if set_aside > 0 else 0  # noqa: FURB136 - a call costs more
                self._kept_room = self._reserved + self._least_room
            if ahead := self._offset > self._ahead_at:
                self._ahead_at = self._size
        if ahead:  # without the put lock: the thread that makes it may record as it starts
            self._spares.make_ahead(smallest_segment(FIRST_COMMIT_ROOM_BYTES + 2 * self._kept_room))
        if commit.idle:
            commit.wake()
        if not at_once and self._appended_bytes - self._synced_bytes > self._unsynced_bytes_max:
            commit.wait(sequence)
        return Receipt(self.number, sequence, commit)

    def provide(self, bytes_min: int) -> None:
        """Have a spare. Without the put lock: meanwhile others are told that they would wait."""
        self._spares.provide(bytes_min)

    def _set_aside(self, bytes_more: int) -> None:
        """Change the room set aside for records that must not fail."""
        self._reserved = max(0, self._reserved + bytes_more)
        self._kept_room = self._reserved + self._least_room

    def release(self, reserved: int) -> None:
        with self._mutex:
            self._set_aside(-reserved)

    def _make_room(
        self, need: int, reserve: int, reserved: int, essential: bool, refusal: OSError | None
    ) -> None:
        """The segment is full for this record, or cannot be used. Raises NotRecorded, WouldWait."""
        if self._closed:
            raise StoreClosed
        try:
            if self._broken is not None:
                self._write_again("journal.poisoned", {"error": str(self._broken)})
            if self._offset + need + reserve - reserved + self._kept_room > self._size:
                if refusal is not None:
                    raise refusal
                self._go_on_in(self._spares.take(self._bytes_of_next(need + reserve - reserved)))
        except OSError as error:
            fits = self._offset + need + self._reserved - reserved <= self._size
            if self._broken is None and essential and fits:
                return
            raise not_recorded(error) from error

    def _put_elsewhere(self, error: OSError, kept: Kept, need: int, reserve: int) -> None:
        """A put failed: a part of the frame may be there, so the record goes to a new segment."""
        sequence = self._next
        try:
            self._roll(need + reserve)
            unsynced = sequence - self._commit.durable
            self._put(encode_frame(self._crc_seed, sequence, unsynced, *kept))
        except OSError:
            self._wipe(need, error)
            raise not_recorded(error) from error
        self._unsynced.append(kept)
        self._next = sequence + 1
        self._seals.frontier.add_leaf(kept[1])
        self._seals.uncommitted += 1
        self._appended_bytes += need

    def _put(self, frame: bytes) -> None:
        self._file.put(frame, self._offset)
        self._offset += len(frame)

    def _wipe(self, count: int, cause: OSError) -> None:
        """Free the place of a put that failed, or give the segment up."""
        try:
            self._file.put(bytes(count), self._offset)
        except OSError:
            self._break(cause)

    def _break(self, cause: OSError) -> None:
        self._broken = cause
        self._size = 0  # so that the next append comes to `_make_room`

    # -- commit frames ----------------------------------------------------------------------------------

    def _commit_if_room(self, need: int) -> None:
        if self._offset + COMMIT_ROOM_BYTES + need + self._reserved <= self._size:
            self._put_commit()

    def _seal(self) -> None:
        """A commit frame over what has none yet. A broken segment has no room."""
        if self._seals.uncommitted and self._offset + COMMIT_ROOM_BYTES <= self._size:
            self._put_commit()

    def _put_commit(self) -> None:
        """A failed one is left out: the next says the same and more."""
        leaf = self._seals.next_leaf()
        unsynced = self._next - self._commit.durable
        frame = encode_frame(self._crc_seed, self._next, unsynced, Kind.COMMIT, leaf, b"")
        offset = self._offset
        try:
            self._put(frame)
        except OSError as error:
            self._wipe(len(frame), error)
            if self._broken:
                raise not_recorded(error) from error
        else:
            self._seals.note(self._next, leaf, offset)

    # -- segments ---------------------------------------------------------------------------------------

    def _enter(self, fresh: Fresh, offset: int) -> None:
        self._file = fresh.file
        self._header = fresh.header
        self._crc_seed = fresh.header.crc_seed
        self._offset = offset
        self._ahead_at = fresh.header.size_bytes // 2
        # A closed shard only makes durable what it has.
        self._size = 0 if self._closed else fresh.header.size_bytes

    def _roll(self, need: int) -> None:
        """Go on in another segment. Raises OSError and leaves everything as it was."""
        self._go_on_in(self._spares.another(self._bytes_of_next(need)))

    def _go_on_in(self, fresh: Fresh) -> None:
        offset = self._begin(fresh, self._next, [])
        if self._header is not None:
            self._full.append(self._file)
        self._enter(fresh, offset)

    def _bytes_of_next(self, need: int) -> int:
        return smallest_segment(FIRST_COMMIT_ROOM_BYTES + need + self._kept_room)

    def _begin(self, fresh: Fresh, first: int, records: list[Kept]) -> int:
        """Put `records` into a segment and then its first frame, which brings it into use.

        In this order a death or a power loss in between leaves the records where they were. Returns the
        offset after them.
        """
        seed, file = fresh.header.crc_seed, fresh.file
        leaf = self._seals.first_leaf(first)
        durable = self._commit.durable
        frame = encode_frame(seed, first, first - durable, Kind.COMMIT, leaf, b"")
        offset = SEGMENT_HEADER_BYTES + len(frame)
        try:
            for sequence, kept in enumerate(records, first):
                data = encode_frame(seed, sequence, sequence - durable, *kept)
                file.put(data, offset)
                offset += len(data)
            if records:
                # They may be durable where they were, though not known to be: until they are here, too,
                # nothing may say that they are.
                file.sync()
            file.put(frame, SEGMENT_HEADER_BYTES)
        except OSError:
            with contextlib.suppress(OSError):
                file.put(bytes(len(frame)), SEGMENT_HEADER_BYTES)
            file.close()
            raise
        self._seals.note_first(first, leaf, SEGMENT_HEADER_BYTES, records)
        return offset

    # -- syncing ----------------------------------------------------------------------------------------

    def _sync_once(self) -> int:
        """Called by one leader at a time."""
        cause = OSError(errno.EIO, os.strerror(errno.EIO))
        for _ in range(SYNC_TRIES):
            with self._mutex:
                if self._ended:
                    raise NotRecorded("The store was closed before the record was durable.")
                if self._broken is not None:
                    self._write_again_or_refuse(self._broken)
                poisonings = self._poisonings
            try:
                return self._sync_written()
            except OSError as error:
                cause = error
                with self._mutex:
                    if poisonings == self._poisonings:
                        self._break(error)
        raise not_recorded(cause) from cause

    def _sync_written(self) -> int:
        """Nothing is changed until the disk has answered."""
        with self._mutex:
            target, bytes_before, poisonings = self._next - 1, self._appended_bytes, self._poisonings
            files = [*self._full, self._file]
            tree = self._seals.snapshot()
        # What was left before goes first: a receipt in the new segment promises all before it.
        for file in files:
            file.sync()
        with self._mutex:
            if len(files) > 1 and poisonings == self._poisonings:
                self._full = self._full[len(files) - 1 :]
                for file in files[:-1]:
                    file.close()
            del self._unsynced[: target - self._commit.durable]
            self._synced_bytes = bytes_before
            self._commit.durable = target
            self._seals.note_durable(tree)
        return target

    def _write_again_or_refuse(self, cause: OSError) -> None:
        try:
            self._write_again("journal.poisoned", {"error": str(cause)})
        except OSError as error:
            raise not_recorded(error) from error

    def _write_again(self, event: str, data: dict[str, Any]) -> None:
        """Leave the segment and all unsynced records in it; they go on, with an event, in a new one.

        Raises OSError and leaves everything as it was.
        """
        first = self._commit.durable + 1
        data = {"shard": self.number, **data}
        if self._header is not None:
            data = {"segment": self._header.index, "sequence": first, **data}
        said = Event(event_id=os.urandom(8), name=event, at_us=now_us(), payload_digest=b"", data=data)
        records: list[Kept] = [*self._unsynced, (Kind.EVENT, encode_leaf(said), b"")]
        room = _room_of(records)
        fresh = self._spares.another(self._bytes_of_next(room))
        offset = self._begin(fresh, first, records)
        self._poison()
        self._enter(fresh, offset)
        self._broken = None
        self._unsynced = records
        self._appended_bytes = self._synced_bytes + room
        self._next = first + len(records)

    def _poison(self) -> None:
        """Never write or sync these again."""
        self._poisonings += 1
        for file in self._full:
            file.close()
        self._full = []
        self._file.close()

    # -- the end ----------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Raises NotRecorded."""
        self._commit.wait(self.written())

    def close(self) -> None:
        """Make everything durable, mark the shard as left in order, release it. Raises NotRecorded."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(NotRecorded):
                self._seal()
            self._size = 0
        try:
            self.sync()
            with self._mutex, contextlib.suppress(OSError):
                self._mark_clean()
        finally:
            self._commit.close()
            self._spares.close()
            with self._mutex:
                self._poison()
                self._ended = True
            self._lock_held.release()

    def _say_durable(self) -> None:
        """In the lease, for whoever purges: else only a later record would say it of the last ones."""
        with self._mutex, contextlib.suppress(OSError):
            if not self._closed and self._commit.durable > self._lease.durable:
                self._lease = msgspec.structs.replace(self._lease, durable=self._commit.durable)
                write_lease(self._disk, self.number, self._lease)

    def _mark_clean(self) -> None:
        if self._broken is not None or not self._seals.end_at(self._next):
            return
        assert self._header is not None, "started shards have a segment"
        clean = Clean(
            self._header.index,
            self._offset,
            self._next,
            self._seals.last_offset,
            tuple(self._seals.frontier.hashes),
            self._spares.total_bytes,
        )
        lease = self._lease
        write_lease(
            self._disk,
            self.number,
            Lease(lease.first_sequence, lease.pid, lease.start_ticks, lease.boot_id, self._next - 1, clean),
        )

    def abandon(self) -> None:
        """Release a shard that could not be started, as a process that dies would."""
        with self._mutex:
            self._closed = self._ended = True
            self._size = 0
        self._commit.close()
        self._spares.close()
        with self._mutex:
            self._poison()
        self._lock_held.release()

    def lose(self) -> None:
        """In a forked child: the shard is the parent's."""
        self._commit.lose()
        self._spares.lose()
        for file in (*self._full, self._file):
            file.close()


def _room_of(records: list[Kept]) -> int:
    return sum(frame_bytes(len(leaf), len(payload)) for _, leaf, payload in records)
