"""What a bundle needs of its store's checkpoints: the newest one, paths to it, and the store's signature.

Owns that everything there is gets signed first, as far as this process can see to it: records that another
process is just writing are signed by that one, within seconds. How any of it is done is `checkpoints`'. Used
by `compose` and the command line.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from custody.bridges.bundle.making import BundleMaker
from custody.checkpoints import Sealer, load_keys, newest_note, read_verifiers
from custody.checkpoints.keys import missing_key
from custody.checkpoints.tiles import Tiles
from custody.errors import NotRecorded
from custody.index import Index
from custody.journal import Disk, Journal
from custody.journal.checkpoint import Head, Note, Signer, Verifier
from custody.journal.dropped import read_dropped
from custody.journal.proofs import RangeRoot, inclusion_path
from custody.journal.segments import shard_folder
from custody.journal.tree import Frontier
from custody.recorder import Recorder

NODES_KEPT_MAX = 4096
"""Of a tree: records in a bundle often lie beside each other, and their paths have most nodes in common."""

SEAL_SECONDS = 10.0
"""For another process that signs at this moment; it takes milliseconds."""


class StoreEvidence:
    """One store's. One thread at a time; `close` lets go of files, and it may be used again."""

    def __init__(
        self,
        disk: Disk,
        journal: Journal,
        record: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """`record` puts an event with this leaf data on the record: a key that is made now."""
        self._disk = disk
        self._journal = journal
        self._sealer = Sealer(disk, journal, record)
        self._heads: dict[int, Head] = {}
        self._tiles: dict[int, Tiles] = {}
        self._roots: dict[int, RangeRoot] = {}

    def seal(self) -> Note:
        """Sign all that can be signed. A store that cannot be written gives the newest checkpoint it has.

        Raises CheckpointRefused, MalformedKey, MalformedNote; NotRecorded or OSError when there is none.
        """
        self.close()
        try:
            self._journal.sync()
            note = self._sealer.seal(all_shards=True, wait_seconds=SEAL_SECONDS)
        except (NotRecorded, OSError):
            note = newest_note(self._disk)
            if note is None:
                raise
        note = note or newest_note(self._disk, durable=True)
        if note is None:
            raise missing_key(self._disk)
        self._heads = note.checkpoint.heads
        return note

    def path(self, shard: int, index: int, size: int) -> Sequence[bytes]:
        """Raises CheckpointRefused when the shard does not have the root that was signed, CorruptJournal."""
        if shard not in self._tiles:
            tiles = self._tiles[shard] = Tiles(self._disk, self._journal, shard, self._dropped(shard))
            tiles.prepare(self._heads[shard])
            self._roots[shard] = functools.lru_cache(NODES_KEPT_MAX)(tiles.root_of)
        return inclusion_path(index, size, self._roots[shard])

    def _dropped(self, shard: int) -> Frontier | None:
        """The tree over the shard's records that are not there any more."""
        dropped = read_dropped(self._disk, shard_folder(shard))
        if dropped is None:
            return None
        return Frontier(dropped.size, map(bytes.fromhex, dropped.frontier))

    def signer(self) -> Signer:
        """Raises CheckpointRefused when the key is gone, MalformedKey, OSError."""
        keys = load_keys(self._disk)
        if keys is None:
            raise missing_key(self._disk)
        return keys.signer

    def verifiers(self) -> Sequence[Verifier]:
        return read_verifiers(self._disk)

    def close(self) -> None:
        self._roots = {}
        tiles, self._tiles = self._tiles, {}
        for one in tiles.values():
            one.close()


def bundle_maker(
    disk: Disk, journal: Journal, index: Callable[[], Index], recorder: Callable[[], Recorder]
) -> BundleMaker:
    """What makes bundles of a store; `recorder` is asked for one where a key has to be made first."""

    def record(name: str, data: dict[str, Any]) -> None:
        recorder().event(name, data, leaf_data=True)

    return BundleMaker(journal, index, StoreEvidence(disk, journal, record))
