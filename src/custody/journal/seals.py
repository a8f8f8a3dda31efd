"""The commit frames of a shard as they are written: the tree so far, and the chain from one to the next.

Owns what stands in a commit frame and which of them counts before another. Puts nothing anywhere. Used by
`shard`, under its put lock.

A commit frame counts before another if its sequence is lower: one that stands at the very end of a
segment which was left for another does not count, as the first frame of the other says the same.
"""

from custody.journal.frames import Commit, encode_commit, sha256
from custody.journal.opening import Kept, Opened
from custody.journal.tree import Frontier

Snapshot = tuple[int, tuple[bytes, ...]]
"""Size and hashes of a frontier."""


def _snapshot(frontier: Frontier) -> Snapshot:
    return frontier.size, tuple(frontier.hashes)


class Seals:
    """The growing tree of a shard, and its commit frames since the last durable record."""

    __slots__ = ("_entries", "durable", "frontier", "last_offset", "uncommitted")

    def __init__(self, opened: Opened) -> None:
        self.frontier = opened.frontier
        """Over all records written."""
        self.durable: Snapshot = _snapshot(opened.durable_frontier)
        """Over all durable records."""
        self._entries = opened.commits
        self.last_offset = opened.commit_offset
        """Where the last commit frame stands in the present segment."""
        self.uncommitted = opened.uncommitted
        """Records since then."""

    def first_leaf(self, first: int) -> bytes:
        """Of a segment's first frame, when record `first` comes next: the next one, or the next durable."""
        frontier = self.frontier if first == self.frontier.size + 1 else Frontier(*self.durable)
        assert frontier.size == first - 1, "a segment begins behind all records, or behind the durable ones"
        return encode_commit(Commit(first - 1, frontier.root(), self._before(first), tuple(frontier.hashes)))

    def next_leaf(self) -> bytes:
        size = self.frontier.size
        return encode_commit(Commit(size, self.frontier.root(), self._before(size + 1)))

    def _before(self, sequence: int) -> bytes:
        """Digest of the commit frame that counts before one of that sequence."""
        return next((digest for earlier, digest in reversed(self._entries) if earlier < sequence), b"")

    def note(self, sequence: int, leaf: bytes, offset: int) -> None:
        """A commit frame has been put."""
        self._entries.append((sequence, sha256(leaf)))
        self.last_offset = offset
        self.uncommitted = 0

    def note_first(self, sequence: int, leaf: bytes, offset: int, records: list[Kept]) -> None:
        """A segment has been begun with these records behind its first frame."""
        self._entries = [entry for entry in self._entries if entry[0] < sequence]
        self.note(sequence, leaf, offset)
        if records:
            self.frontier = Frontier(*self.durable)
            for _, leaf, _ in records:
                self.frontier.add_leaf(leaf)
            self.uncommitted = len(records)

    def snapshot(self) -> Snapshot:
        return _snapshot(self.frontier)

    def note_durable(self, durable: Snapshot) -> None:
        """The tree over all durable records, which is where a failed sync would take it up again."""
        self.durable = durable
        entries, size = self._entries, durable[0]
        if len(entries) > 1 and entries[1][0] <= size:
            last = max(index for index, entry in enumerate(entries) if entry[0] <= size)
            del entries[:last]

    def end_at(self, sequence: int) -> bool:
        """Whether a commit frame is the last frame, and `sequence` comes next."""
        return not self.uncommitted and self._entries[-1][0] == sequence
