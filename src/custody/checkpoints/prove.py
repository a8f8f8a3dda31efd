"""Making proofs out of a store: of records under its newest checkpoint, and from an older one to that.

Knows where records stand only as places it is handed; what a proof looks like is `proof`'s, the nodes of the
trees are `tiles`'. Used by the command line and by whoever hands records on with their proofs.
"""

from collections.abc import Iterable

from msgspec import Struct

from custody.checkpoints.keys import read_verifiers
from custody.checkpoints.log import read_log
from custody.checkpoints.proof import (
    ConsistencyProof,
    InclusionProof,
    LogProof,
    RecordProof,
    ShardProof,
    base64,
    kind_name,
    leaf_view,
)
from custody.checkpoints.tiles import Progress, Tiles
from custody.errors import CheckpointRefused
from custody.journal import Disk, Journal, Stored
from custody.journal.checkpoint import Checkpoint, Head, Note
from custody.journal.dropped import read_dropped
from custody.journal.proofs import Hashes, consistency_path
from custody.journal.segments import shard_folder
from custody.journal.tree import EMPTY_ROOT, Frontier, leaf_hash


def dropped_tree(disk: Disk, shard: int) -> Frontier | None:
    """The tree over the records of a shard that were dropped; None when none were. Raises CorruptJournal."""
    dropped = read_dropped(disk, shard_folder(shard))
    return dropped and Frontier(dropped.size, map(bytes.fromhex, dropped.frontier))


class Prover:
    """Proofs under one checkpoint. Used by one thread, and closed."""

    def __init__(
        self,
        disk: Disk,
        journal: Journal,
        note: Note,
        progress: Progress | None = None,
    ) -> None:
        self.note = note
        self.keys = tuple(verifier.line for verifier in read_verifiers(disk))
        self._disk = disk
        self._journal = journal
        self._progress = progress
        self._tiles: dict[int, Tiles] = {}

    def __enter__(self) -> "Prover":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        tiles, self._tiles = self._tiles, {}
        for one in tiles.values():
            one.close()

    def covers(self, stored: Stored) -> bool:
        """Whether the checkpoint is of a time when this record was there."""
        head = self.note.checkpoint.heads.get(stored.shard)
        return head is not None and stored.sequence <= head.size

    def inclusion(self, of: str, records: Iterable[Stored]) -> InclusionProof:
        """That these records were there when the checkpoint was signed. Raises CheckpointRefused when one is
        not covered, or is not what was signed."""
        ordered = sorted(records, key=lambda stored: (stored.shard, stored.sequence))
        return InclusionProof(
            of=of,
            checkpoint=self.note.data.decode(),
            keys=self.keys,
            records=tuple(map(self.record, ordered)),
        )

    def record(self, stored: Stored) -> RecordProof:
        """As `inclusion`, of one."""
        head = self.note.checkpoint.heads.get(stored.shard)
        if head is None or stored.sequence > head.size:
            raise CheckpointRefused(
                f"Record {stored.sequence} of shard {stored.shard} is not under a checkpoint yet.",
                hint="`custody checkpoint` makes one.",
            )
        index = stored.sequence - 1
        path = self._tiles_of(stored.shard, head).inclusion_path(index, head.size)
        return RecordProof(
            kind=kind_name(stored.kind),
            shard=stored.shard,
            sequence=stored.sequence,
            index=index,
            size=head.size,
            root=base64(head.root),
            leaf=base64(stored.leaf),
            path=tuple(map(base64, path)),
            view=leaf_view(stored.kind, stored.leaf),
        )

    def consistency(self, old: Note) -> "Consistency":
        """That the checkpoint takes nothing back of what an older one of the same store said."""
        before, after = old.checkpoint, self.note.checkpoint
        if before.origin != after.origin:
            raise CheckpointRefused(
                f"The checkpoint is of another store: {before.origin}; this one is {after.origin}."
            )
        faults: list[str] = []
        proof = ConsistencyProof(
            old=old.data.decode(),
            new=self.note.data.decode(),
            keys=self.keys,
            log=self._log_proof(before, faults),
            shards=tuple(self._shard_proof(shard, head, faults) for shard, head in before.heads.items()),
        )
        return Consistency(proof, tuple(faults))

    def _log_proof(self, before: Checkpoint, faults: list[str]) -> LogProof:
        after = self.note.checkpoint
        statements = [note.checkpoint.statement for note in read_log(self._disk).notes]
        hashes = Hashes([leaf_hash(statement) for statement in statements[: after.size]])
        path: list[bytes] = []
        if before.size > after.size or len(hashes) < after.size:
            faults.append(f"The log has {len(hashes)} checkpoints; the older one is number {before.size}.")
        else:
            path = consistency_path(before.size, after.size, hashes)
            if hashes(0, before.size) != before.root:
                faults.append(f"Checkpoint {before.size} of the log is not the older one.")
        return LogProof(
            old_size=before.size,
            old_root=base64(before.root),
            new_size=after.size,
            new_root=base64(after.root),
            path=tuple(map(base64, path)),
        )

    def _shard_proof(self, shard: int, head: Head, faults: list[str]) -> ShardProof:
        newer = self.note.checkpoint.heads.get(shard, Head(0, EMPTY_ROOT))
        path: list[bytes] = []
        if newer.size < head.size:
            faults.append(f"Shard {shard} had {head.size} records; the newest checkpoint names {newer.size}.")
        else:
            try:
                tiles = self._tiles_of(shard, newer)
                path = tiles.consistency_path(head.size, newer.size)
                same = tiles.root_of(0, head.size) == head.root
            except KeyError:  # only records that were dropped would tell
                same = True
                faults.append(f"Shard {shard}: the older head lies among records that were dropped.")
            except CheckpointRefused as error:
                same = True
                faults.append(error.message)
            if not same:
                faults.append(
                    f"Shard {shard}: its first {head.size} records are not those of the older head."
                )
        return ShardProof(
            shard=shard,
            old_size=head.size,
            old_root=base64(head.root),
            new_size=newer.size,
            new_root=base64(newer.root),
            path=tuple(map(base64, path)),
        )

    def _tiles_of(self, shard: int, head: Head) -> Tiles:
        tiles = self._tiles.get(shard)
        if tiles is None:
            tiles = Tiles(self._disk, self._journal, shard, dropped_tree(self._disk, shard))
            tiles.prepare(head, self._progress)
            self._tiles[shard] = tiles
        return tiles


class Consistency(Struct, frozen=True):
    """A proof of consistency, and where it fails: as sentences."""

    proof: ConsistencyProof
    faults: tuple[str, ...]
