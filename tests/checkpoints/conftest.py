"""Writers whose records are signed, on any disk."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from custody.checkpoints import Sealer
from custody.errors import CustodyError
from custody.journal import Disk, Journal, JournalSettings
from custody.journal.checkpoint import Head, Log, parse_log
from custody.journal.proofs import Hashes
from custody.journal.tree import EMPTY_ROOT, Frontier, leaf_hash
from custody.recorder import Recorder
from custody.records import Event, IdSource, decode_leaf
from custody.redaction import Redactor

SETTINGS = JournalSettings(
    first_segment_bytes=8 * 1024,
    segment_bytes_max=16 * 1024,
    commit_leaves=4,
    flush_seconds=3600.0,
    refusal_reserve_bytes=0,
    spares_max=0,
    fill_pause_seconds=0.0,
)
"""Rolls over after some tens of records, and syncs only when asked."""

PATIENCE_SECONDS = 60.0
"""No wait of these tests may end by this bound."""


@dataclass
class Writer:
    """One process's journal, recorder and sealer."""

    disk: Disk
    settings: JournalSettings = SETTINGS
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.disk, settings=self.settings)
        self.recorder = Recorder(self.journal, Redactor(bytes(32), ()), IdSource())
        self.sealer = Sealer(self.disk, self.journal, self.say)

    def say(self, name: str, data: dict[str, Any]) -> None:
        self.said.append((name, data))
        self.recorder.event(name, data, leaf_data=True)

    def write(self, count: int = 1) -> None:
        for number in range(count):
            self.recorder.event("app.number", {"number": number})

    def seal(self, **options: Any) -> Head:
        """Of the shard written to."""
        note = self.sealer.seal(**options)
        assert note is not None
        return note.checkpoint.heads[self.journal.shard_number or 1]

    def close(self) -> None:
        with contextlib.suppress(CustodyError, OSError):
            self.journal.close()


MakeWriter = Callable[..., Writer]


@pytest.fixture
def writer_on() -> Iterator[MakeWriter]:
    """Writers, which are closed when the test ends."""
    made: list[Writer] = []

    def make(disk: Disk, **changes: Any) -> Writer:
        made.append(Writer(disk, **changes))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


def log_of(disk: Disk) -> Log:
    return parse_log(disk.read_all("checkpoints/log") or b"")


def leaves_of(disk: Disk) -> dict[int, list[bytes]]:
    """Shard -> the leaves on the disk."""
    journal, leaves = Journal(disk, settings=SETTINGS), dict[int, list[bytes]]()
    for stored in journal.follow():
        assert stored.sequence == len(leaves.setdefault(stored.shard, [])) + 1
        leaves[stored.shard].append(stored.leaf)
    journal.close()
    return leaves


def events_of(disk: Disk, name: str) -> list[dict[str, Any]]:
    """Leaf data of the events of a name."""
    journal = Journal(disk, settings=SETTINGS)
    leaves = [decode_leaf(stored.kind, stored.leaf) for stored in journal.follow()]
    journal.close()
    return [leaf.data or {} for leaf in leaves if isinstance(leaf, Event) and leaf.name == name]


def judge(disk: Disk) -> list[str]:
    """What is wrong with the checkpoints of a store, judged by its records alone."""
    wrong: list[str] = []
    leaves = {shard: Hashes([leaf_hash(leaf) for leaf in of]) for shard, of in leaves_of(disk).items()}
    tree, before = Frontier(), dict[int, Head]()
    for note in log_of(disk).notes:
        checkpoint = note.checkpoint
        tree.add_leaf(checkpoint.statement)
        if (checkpoint.size, checkpoint.root) != (tree.size, tree.root()):
            wrong.append(f"checkpoint {checkpoint.size} does not go on from those before it")
        for shard, head in checkpoint.heads.items():
            there = leaves.get(shard, Hashes([]))
            if head.size > len(there):
                wrong.append(f"shard {shard} has {len(there)} records, {head.size} are signed")
            elif (there(0, head.size) if head.size else EMPTY_ROOT) != head.root:
                wrong.append(f"shard {shard}: the first {head.size} records are not those signed")
        wrong += [
            f"shard {shard} went back to {checkpoint.heads.get(shard)} from {head}"
            for shard, head in before.items()
            if shard not in checkpoint.heads or checkpoint.heads[shard].size < head.size
        ]
        before = checkpoint.heads
    return wrong
