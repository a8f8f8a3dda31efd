"""The journal: the append-only truth of a store, written by any number of processes at once.

Owns the leasing of shards and the one face of everything in this package. Knows nothing of what records
say. `recorder` alone appends; the index and whatever else leaves the journal follow it.
"""

import functools
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from custody.errors import StoreClosed
from custody.journal import positions
from custody.journal.blobs import Blobs
from custody.journal.commit import Receipt, not_recorded
from custody.journal.disk import Disk, Lock
from custody.journal.follow import Cursor, Following, Place
from custody.journal.frames import FRAME_BYTES_MAX, Decoder, Stored
from custody.journal.lease import boot_id, lock_path, read_lease
from custody.journal.opening import open_shard, verify_clean
from custody.journal.plan_lock import take_plan_lock
from custody.journal.requests import Adoptions, CancelRequests
from custody.journal.segments import (
    SegmentCache,
    corrupt,
    segment_path,
    shard_folder,
    shard_numbers,
)
from custody.journal.settings import JournalSettings
from custody.journal.shard import Shard
from custody.journal.spares import WouldWait
from custody.journal.tree import Frontier
from custody.journal.trees import extend_tree, last_sequence, tree_at
from custody.records import Kind, Redacted

if TYPE_CHECKING:
    from custody.journal.purging import Purging

RECORD_READ_BYTES = 4096
"""Holds most records; one that is larger is read again as a whole."""


class ShardState(Struct, frozen=True):
    """What is known of a shard without reading its records."""

    shard: int
    holder: Literal["ours", "held", "free"]
    clean: bool
    """Its last lease was closed and nothing had been written since; of ours, the lease before."""
    lease_sequence: int
    """The first sequence of the present lease, else of the last: earlier records are of writers long gone."""


class Positions:
    """The counter of one shared run."""

    def __init__(self, shared: positions.Shared, run_id: bytes) -> None:
        self._shared = shared
        self._run_id = run_id

    def take(self, append: Callable[[int], Receipt], count: int = 1) -> Receipt:
        """Call `append` with the run's next position, the first of `count`: taken if it returns. May wait.

        Raises what `append` raises, and NotRecorded when the counter cannot be had.
        """
        try:
            return self._shared.take(self._run_id, append, count)
        except OSError as error:
            raise not_recorded(error) from error


class Journal:
    """One process's way to a store's journal. Opens nothing for writing until the first append.

    Safe for threads. After a fork the child leases a shard of its own; the parent is undisturbed.
    """

    def __init__(self, disk: Disk, *, settings: JournalSettings | None = None) -> None:
        self._disk = disk
        self.cancel_requests = CancelRequests(disk)
        self.adoptions = Adoptions(disk)
        self._settings = settings or JournalSettings()
        self._cache = SegmentCache(disk)
        self._blobs = Blobs(disk)
        self._shared = positions.Shared(
            disk, self._settings.boot_id or boot_id(), self.here, self._follow_some
        )
        self._shard: Shard | None = None
        self._found_clean = False
        self._told: Callable[[int], None] | None = None
        self._leasing = threading.Lock()
        self._closed = False
        _journals.add(self)

    # -- writing ----------------------------------------------------------------------------------------

    def lease(self) -> None:
        """Take a shard now, unless there is one. May wait: not for an event loop.

        Raises NotRecorded, CorruptJournal, StoreTooNew or StoreClosed.
        """
        self._leased()

    def append(
        self,
        kind: Kind,
        leaf: bytes,
        payload: Redacted,
        reserve: int = 0,
        reserved: int = 0,
        essential: bool = False,
    ) -> Receipt:
        """Write a record. It is *written* when this returns; the receipt can be asked for more.

        `reserve` sets bytes aside for a later record of the same call; `reserved` are bytes set aside
        earlier, which this record may use and gives back. A record with `reserved`, or an `essential` one
        (a refusal, a purge), may use the room that is kept for such records on a full disk.

        May wait for the disk. Raises NotRecorded when the record cannot be kept, ValueError for one that
        does not fit a frame.
        """
        shard = self._shard
        if shard is None:
            shard = self._leased()
        refusal = None
        while True:
            try:
                return shard.append(
                    kind, leaf, payload, reserve, reserved, essential, at_once=False, refusal=refusal
                )
            except WouldWait as waiting:
                try:
                    shard.provide(waiting.spare_bytes)
                except OSError as error:
                    refusal = error

    def append_at_once(
        self, kind: Kind, leaf: bytes, payload: Redacted, reserve: int = 0, reserved: int = 0
    ) -> Receipt | None:
        """The same for an event loop, which never waits: None, and nothing written, where that would.

        Only the loss of a segment, once a sync has failed, is waited for.
        """
        shard = self._shard
        if shard is None:
            return None
        try:
            return shard.append(kind, leaf, payload, reserve, reserved, essential=False, at_once=True)
        except WouldWait:
            return None

    def puts_here(self) -> bool:
        """Whether this thread is in the middle of putting a record, which a finalizer or a signal handler has
        interrupted: no other can be put before that is done."""
        return self._shard is not None and self._shard.puts_here()

    def release(self, reserved: int) -> None:
        """Give back room that was set aside for a record that will not come."""
        if self._shard is not None:
            self._shard.release(reserved)

    def sync(self) -> None:
        """Make everything written so far durable. Raises NotRecorded."""
        if self._shard is not None:
            self._shard.sync()

    def close(self) -> None:
        """Make all durable, seal it, mark the shard as left in order, release it. Raises NotRecorded.

        Whatever it raises, the journal is closed and its shard is free.
        """
        with self._leasing:
            self._closed = True
            shard = self._shard
            if shard is not None:
                shard.close()

    def put_blob(self, data: Redacted) -> bytes:
        """Keep `data` durably; returns the SHA-256 it is found under. Waits. Raises NotRecorded."""
        try:
            return self._blobs.put(data)
        except OSError as error:
            raise not_recorded(error) from error

    def has_blob(self, digest: bytes) -> bool:
        """Whether it is there. Whoever has put one asks again once a record names it: a purge that looked
        for such a record in between found none."""
        return self._blobs.has(digest)

    # -- trees ------------------------------------------------------------------------------------------

    @property
    def shard_number(self) -> int | None:
        """Of the shard this process appends to; None before the first append."""
        shard = self._shard
        return None if shard is None else shard.number

    @property
    def durable_sequence(self) -> int:
        """The last durable one of that shard; 0 without a shard."""
        shard = self._shard
        return 0 if shard is None else shard.durable_tree()[0]

    def durable_tree(self) -> tuple[int, Frontier, Place] | None:
        """The shard this process appends to, the tree over its durable records, and a place at or before
        which the next of them stands; None without a shard. Makes durable what was written: waits.

        Raises NotRecorded.
        """
        shard = self._shard
        if shard is None:
            return None
        place = shard.place()
        shard.sync()
        return shard.number, Frontier(*shard.durable_tree()), place

    def tell_of_durable(self, told: Callable[[int], None]) -> None:
        """Call `told` with the last durable sequence of the shard whenever there are more.

        It runs in the thread that synced, before anybody who waits for it, so it must be quick and not raise.
        """
        with self._leasing:
            self._told = told
            if self._shard is not None:
                self._shard.tell_of_durable(told)

    def tree_at(self, shard: int, size: int) -> Frontier:
        """The tree over a shard's first `size` records, from the disk. Raises CorruptJournal."""
        return tree_at(self._cache, shard, size)

    def extend_tree(self, shard: int, tree: Frontier, size: int, place: Place | None = None) -> None:
        """Let a shard's tree grow to `size` records, from the disk. `place` is at or before where the next of
        them stands, if that is known. Raises CorruptJournal."""
        extend_tree(self._cache, shard, tree, size, place)

    def last_sequence(self, shard: int) -> int:
        """Of the records of a shard; 0 for none. Raises CorruptJournal."""
        return last_sequence(self._cache, shard)

    def settled_tree(self, number: int) -> Frontier | None:
        """The tree over a shard that nobody writes to, all of it made durable; None while somebody does.

        What a dead writer left is repaired as the next writer would do it. May wait.
        Raises NotRecorded, CorruptJournal.
        """
        try:
            lock = self._disk.lock(lock_path(number))
            if lock is None:
                return None
            try:
                opened = open_shard(self._cache, number)
                if opened.clean:
                    return opened.frontier
            finally:
                lock.release()
            shard = self._try_shard(number, note=False)
        except OSError as error:
            raise not_recorded(error) from error
        if shard is None:
            return None
        try:
            return Frontier(*shard.durable_tree())
        finally:
            shard.close()

    # -- shared runs ------------------------------------------------------------------------------------

    def create_shared(self, run_id: bytes) -> None:
        """Make the position counter of a shared run, durably. Raises NotRecorded."""
        try:
            self._shared.create(run_id)
        except OSError as error:
            raise not_recorded(error) from error

    def shared_exists(self, run_id: bytes) -> bool:
        return self._shared.exists(run_id)

    def positions(self, run_id: bytes) -> Positions:
        return Positions(self._shared, run_id)

    def named_run(
        self, name: str, create: Callable[[], bytes], is_open: Callable[[bytes], bool] = lambda run_id: True
    ) -> tuple[bytes, bool]:
        """The id of the open run of that name, and whether `create` has just made it: once for all processes.

        `create` is called while the name is held; it returns the id of the run it has started. `is_open`
        says whether the run that has the name takes calls: if not, another gets the name. May wait.
        """
        try:
            return self._shared.named_run(name, create, is_open)
        except OSError as error:
            raise not_recorded(error) from error

    # -- reading ----------------------------------------------------------------------------------------

    def follow(self, cursor: Cursor | None = None, *, only_shard: int | None = None) -> Following:
        """All records behind the cursor that there are now, or those of one shard, each shard in sequence.

        Iterate the answer; its `cursor` is the place behind the record yielded last. See `follow` for what
        a sequence that steps back means. Iterating raises CorruptJournal and never skips.
        """
        return Following(self._cache, cursor, only_shard)

    def read(self, shard: int, segment: int, offset: int) -> Stored:
        """One record by its place. Raises CorruptJournal when there is none to be believed."""
        found = self._cache.segment(shard, segment)
        if found is not None:
            try:
                file = self._disk.open(segment_path(shard, segment), write=False)
            except FileNotFoundError:
                raise corrupt("a segment is missing", shard, segment, offset, None) from None
            try:
                decoder = Decoder(found.header)
                for count in (RECORD_READ_BYTES, FRAME_BYTES_MAX):
                    stored = decoder.decode(file.read(count, offset), 0, offset)
                    if stored is not None:
                        return stored
            finally:
                file.close()
        raise corrupt("there is no frame", shard, segment, offset, None)

    def shards(self) -> list[ShardState]:
        """The state of every shard, for recovery."""
        return [self._state(shard) for shard in shard_numbers(self._disk)]

    def get_blob(self, digest: bytes) -> bytes | None:
        """None when it was never kept or has been purged. Raises CorruptJournal."""
        return self._blobs.get(digest)

    def left_open(self) -> bool:
        """Whether some writer ended without closing its shard, so that there may be something to recover."""
        return not all(state.clean or state.holder == "held" for state in self.shards())

    def recovery_lock(self) -> Lock | None:
        """The right to close what dead writers left open; None while another process has it."""
        return self._disk.lock("journal/recovery.lock")

    def answer_lock(self) -> Lock | None:
        """The right to record an answer, or the use of one; None while somebody else has it."""
        return self._disk.lock("journal/answers.lock")

    def approver_lock(self) -> Lock | None:
        """Held by whoever listens for questions; None while somebody else does."""
        self._disk.make_folder("journal")
        return self._disk.lock("journal/approver.lock")

    def approver_listens(self) -> bool:
        """Whether somebody, in whichever process, waits for questions to answer them."""
        return self._disk.locked("journal/approver.lock")

    def export_lock(self, destination: str) -> Lock | None:
        """The right to export to a destination; None while somebody else has it."""
        self._disk.make_folder("journal")
        return self._disk.lock(f"journal/export-{destination}.lock")

    def plan_lock(self, name: str) -> Lock | None:
        """The right to work on a plan; None while somebody else has it. Raises NotRecorded."""
        try:
            return take_plan_lock(self._disk, name)
        except OSError as error:
            raise not_recorded(error) from error

    @functools.cached_property
    def purging(self) -> "Purging":
        """The means of forgetting."""
        from custody.journal.purging import Purging

        return Purging(self._disk, self._cache)

    # -- leasing ----------------------------------------------------------------------------------------

    def _leased(self) -> Shard:
        with self._leasing:
            if self._closed:
                raise StoreClosed
            if self._shard is None:
                try:
                    self._shard = self._take_shard()
                    if self._told is not None:
                        self._shard.tell_of_durable(self._told)
                except OSError as error:
                    raise not_recorded(error) from error
            return self._shard

    def _take_shard(self) -> Shard:
        """The first whose lock is free, else a new one."""
        number = 0
        for number in shard_numbers(self._disk):
            if (shard := self._try_shard(number)) is not None:
                return shard
        while True:
            number += 1
            self._disk.make_folder(shard_folder(number))
            if (shard := self._try_shard(number)) is not None:
                return shard

    def _try_shard(self, number: int, *, note: bool = True) -> Shard | None:
        lock = self._disk.lock(lock_path(number))
        if lock is None:
            return None
        try:
            opened = open_shard(self._cache, number)
            if note:
                self._found_clean = opened.clean
            shard = Shard(self._disk, number, lock, opened, self._settings)
        except BaseException:
            lock.release()
            raise
        try:
            shard.start(opened)
        except BaseException:
            shard.abandon()
            raise
        return shard

    def _state(self, number: int) -> ShardState:
        if self._shard is not None and self._shard.number == number and not self._closed:
            return ShardState(number, "ours", self._found_clean, self._shard.first_sequence)
        # In this order: a shard seen free was free when its lease was read, or is by now leased anew.
        lease = read_lease(self._disk, number)
        held = self._disk.locked(lock_path(number))
        clean = False
        if not held and lease is not None and lease.clean is not None:
            clean = verify_clean(self._cache, number, lease.clean) is not None
        return ShardState(number, "held" if held else "free", clean, lease.first_sequence if lease else 1)

    def here(self) -> tuple[int, Place]:
        """The shard this process appends to, and a place at or before which its next record will stand."""
        shard = self._leased()
        return shard.number, shard.place()

    def _follow_some(self, cursor: Cursor | None, only_shard: int | None) -> Following:
        return Following(self._cache, cursor, only_shard)

    def after_fork_in_child(self) -> None:
        """Locks may be held by threads that are gone; the shard is the parent's."""
        self._leasing = threading.Lock()
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.lose()


_journals: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    positions.after_fork_in_child()
    for journal in list(_journals):
        journal.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
