"""Signing what is durable: one checkpoint, over all shards, whenever it is asked for.

Owns what a checkpoint may say: heads of durable records only, each going on from the head that was signed
before it, which is checked against the disk whenever this process has not signed that one itself. What does
not go on is not signed; the checkpoint names the shard as it was. Knows nothing of when one is due
(`background`) or where it is kept besides (`destinations`).
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from custody.checkpoints.keys import forget_replaced, keys_to_sign, publish, read_verifiers, rotate
from custody.checkpoints.log import FOLDER, LOCK, CheckpointLog, Reached
from custody.errors import CheckpointRefused, CorruptJournal, MalformedKey
from custody.journal import Disk, Journal, Place
from custody.journal.checkpoint import NOTE_BYTES_MAX, Head, Note, Verifier, next_checkpoint, sign_note
from custody.journal.disk import Lock
from custody.journal.tree import Frontier
from custody.records import Event, Kind, decode_leaf, now_us

LOCK_POLL_SECONDS = 0.01

KEY_CREATED = b"key.created"
"""How a record of a key reads in its leaf: a store that has one had a key."""

Record = Callable[[str, dict[str, Any]], object]
"""Puts an event with this leaf data on the record. Raises NotRecorded."""


class Sealer:
    """Signs for one process. Threads take turns."""

    def __init__(self, disk: Disk, journal: Journal, record: Record) -> None:
        self._disk = disk
        self._journal = journal
        self._record = record
        self.made = 0
        """Checkpoints, by this one."""
        self.forget()

    def forget(self) -> None:
        """In a forked child: what was signed is the parent's shard, and a lock may be held by nobody."""
        self.looked = 0
        """The last durable sequence of our shard, when it was last to be signed."""
        self._turn = threading.Lock()
        self._log = CheckpointLog(self._disk)
        self._signed: dict[int, Head] = {}
        """Heads this process has signed and kept adding to in memory since."""
        self.refused: dict[int, str] = {}
        """Shards that do not go on from their signed head, and what is wrong."""

    def seal(self, *, all_shards: bool = False, wait_seconds: float = 0.0) -> Note | None:
        """Sign what is durable and not signed yet; gives the newest checkpoint.

        None when another process had the right to sign all that time: it signs for its own shard alone, so
        ask again. `all_shards` takes in what writers that are gone left unsigned. Raises CheckpointRefused,
        MalformedKey, MalformedNote, NotRecorded or OSError.
        """
        return self._locked(wait_seconds, lambda: self._seal(all_shards))

    def rotate_key(self, *, wait_seconds: float = 0.0) -> Note | None:
        """Make another key, and a checkpoint signed with it and with the one before. As `seal`."""

        def work() -> Note:
            self._log.read()
            if not read_verifiers(self._disk) and (known := self._verifiers_on_record()):
                publish(self._disk, known)
            newest = self._log.newest
            rotate(self._disk, newest.checkpoint.origin if newest else None, self._key_on_record)
            return self._seal(True)

        return self._locked(wait_seconds, work)

    def _locked(self, wait_seconds: float, work: Callable[[], Note]) -> Note | None:
        until = time.monotonic() + wait_seconds
        if not self._turn.acquire(timeout=wait_seconds):
            return None
        try:
            self._disk.make_folder(FOLDER)
            lock = self._lock(until)
            if lock is None:
                return None
            try:
                return work()
            finally:
                lock.release()
        finally:
            self._turn.release()

    def _lock(self, until: float) -> Lock | None:
        while (lock := self._disk.lock(LOCK)) is None and time.monotonic() < until:
            time.sleep(LOCK_POLL_SECONDS)
        return lock

    # -- one checkpoint ---------------------------------------------------------------------------------

    def _seal(self, all_shards: bool) -> Note:
        log = self._log
        log.read()
        keys = keys_to_sign(self._disk, self._was_signed, self._key_on_record)
        newest = log.newest
        if newest is not None and not newest.signed_by(keys.verifiers):
            raise CheckpointRefused(
                f"The newest checkpoint of {self._disk.description} is not signed by any of its keys; "
                "nothing is signed.",
                hint="Something has changed the log or the keys. `custody verify` says more.",
            )
        heads = dict(newest.checkpoint.heads) if newest else {}
        reached = self._add_own(heads)
        if all_shards:
            self._add_free(heads)
        if newest is not None and newest.checkpoint.heads == heads and len(keys.signers) == 1:
            log.make_durable()
            return newest
        tree = log.tree.copy()
        origin = newest.checkpoint.origin if newest else keys.signer.name
        note = sign_note(next_checkpoint(origin, tree, now_us(), heads), keys.signers)
        if len(note.data) > NOTE_BYTES_MAX:
            raise CheckpointRefused(f"A checkpoint of {len(heads):,} shards is larger than a note may be.")
        log.append(note, tree, reached)
        self.made += 1
        self._signed.update({shard: heads[shard] for shard in reached})
        forget_replaced(self._disk, keys)
        return note

    def _add_own(self, heads: dict[int, Head]) -> dict[int, Reached]:
        """The head of the shard this process appends to, and how it is found again."""
        own = self._journal.durable_tree()
        if own is None:
            return {}
        shard, tree, place = own
        self.looked = tree.size
        if not self._add(heads, shard, tree):
            return {}
        return {shard: Reached(place, tuple(tree.hashes))}

    def _add_free(self, heads: dict[int, Head]) -> None:
        for state in self._journal.shards():
            if state.holder == "free":
                try:
                    tree = self._journal.settled_tree(state.shard)
                except CorruptJournal as error:
                    self._refuse(state.shard, heads.get(state.shard), None, error.message)
                    continue
                if tree is not None:
                    self._add(heads, state.shard, tree)

    def _add(self, heads: dict[int, Head], shard: int, tree: Frontier) -> bool:
        """Put a shard's head among those to be signed, if it goes on from the one that was."""
        head, before = Head(tree.size, tree.root()), heads.get(shard)
        if shard in self.refused or (head.size == 0 and before is None):
            return False
        if before is not None and before != self._signed.get(shard):
            wrong = self._what_is_wrong(shard, before, head)
            if wrong is not None:
                self._refuse(shard, before, head, wrong)
                return False
        heads[shard] = head
        return True

    def _what_is_wrong(self, shard: int, before: Head, head: Head) -> str | None:
        """None when the disk bears out that `head` goes on from the signed one."""
        if head.size < before.size:
            return f"{before.size} records were signed and {head.size} are there"
        if head.size == before.size:
            return None if head == before else "its records are not those that were signed"
        try:
            tree, place = self._signed_tree(shard, before)
            if tree.root() != before.root:
                return "its records are not those that were signed"
            self._journal.extend_tree(shard, tree, head.size, place)
        except CorruptJournal as error:
            return error.message
        return None if tree.root() == head.root else "its records do not go on from those that were signed"

    def _signed_tree(self, shard: int, before: Head) -> tuple[Frontier, Place | None]:
        known = self._log.reached(shard)
        if known is not None and len(known.frontier) == before.size.bit_count():
            tree = Frontier(before.size, known.frontier)
            if tree.root() == before.root and known.place[2] <= before.size + 1:
                return tree, known.place
        return self._journal.tree_at(shard, before.size), None

    def _refuse(self, shard: int, before: Head | None, head: Head | None, wrong: str) -> None:
        if shard in self.refused:
            return
        self.refused[shard] = wrong
        self._record(
            "checkpoint.refused",
            {
                "shard": shard,
                "reason": wrong,
                "signed": None if before is None else {"size": before.size, "root": before.root.hex()},
                "found": None if head is None else {"size": head.size, "root": head.root.hex()},
            },
        )

    # -- keys -------------------------------------------------------------------------------------------

    def _was_signed(self) -> bool:
        """Whether a store without keys had one: it has checkpoints, or a key is on the record."""
        if self._log.newest is not None or read_verifiers(self._disk):
            return True
        return any(KEY_CREATED in stored.leaf for stored in self._journal.follow())

    def _verifiers_on_record(self) -> list[Verifier]:
        """The public keys as the record has them, oldest first."""
        found: dict[Verifier, int] = {}
        for stored in self._journal.follow():
            if stored.kind == Kind.EVENT and KEY_CREATED in stored.leaf:
                with contextlib.suppress(MalformedKey, msgspec.DecodeError):
                    event = decode_leaf(stored.kind, stored.leaf)
                    assert isinstance(event, Event), "its kind says so"
                    if event.name == "key.created":
                        found[Verifier.parse(str((event.data or {}).get("key")))] = event.at_us
        return sorted(found, key=lambda verifier: found[verifier])

    def _key_on_record(self, data: dict[str, Any]) -> None:
        self._record("key.created", data)
        self._journal.sync()
