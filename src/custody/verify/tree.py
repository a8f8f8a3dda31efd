"""The tree of one shard, compared with everything that vouches for it.

Owns what a commit frame must say, the chain from one to the next, and the comparison with signed heads. Where
records cannot be read the tree is lost, until a segment's first frame states it again; a signed head behind
that then shows whether it stated the truth. Used by `shard`.
"""

from typing import Any

import msgspec
from msgspec import Struct

from custody.journal.frames import Commit, sha256
from custody.journal.tree import Frontier
from custody.verify.findings import Findings
from custody.verify.segments import HASH_BYTES, Dropped

NEVER = 1 << 63
COMMITS_KEPT = 4
"""Two may have the same sequence: one at the end of a segment that was left, one at the start of the next."""

_decoder = msgspec.msgpack.Decoder(Commit)


class Head(Struct, frozen=True):
    """A size of a shard's tree that somebody vouched for."""

    size: int
    root: bytes
    file: str
    offset: int | None
    time: str
    said_by: str
    """`checkpoint 3`, `the anchor`."""
    number: int = 0
    """Of the checkpoint in the log; 0 for an anchor."""
    anchor: bool = False


class TreeCheck:
    """The growing tree of one shard."""

    def __init__(self, shard: int, heads: list[Head], dropped: Dropped | None, findings: Findings) -> None:
        self._shard = shard
        self._findings = findings
        self._heads = sorted(heads, key=lambda head: head.size, reverse=True)
        self.matched: list[Head] = []
        """Heads whose root the tree has at that size."""
        self.before = 0
        """Heads about records that were dropped whole: what they sign is not there to be compared."""
        self.tree: Frontier | None = Frontier() if dropped is None else dropped.tree()
        self._commits: list[tuple[int, bytes]] | None = [(0, b"")] if dropped is None else None
        """Sequence and digest of the last ones; None while it is not known which came before."""
        first = self.tree.size if self.tree is not None else 0
        while self._heads and self._heads[-1].size < first:
            self._heads.pop()
            self.before += 1
        self._last: tuple[str, int] | None = None
        """Segment and sequence of the last commit frame: within a segment no two have the same."""
        self.goal = NEVER
        """The size at which `at_head` is due."""
        self._good = first
        """The last size at which the tree was known to be right."""
        self.at_head(first)

    @property
    def promised(self) -> int:
        """The largest size anybody vouched for."""
        return self._heads[0].size if self._heads else 0

    def lose(self) -> None:
        """Records are missing: what follows cannot be added."""
        self.tree = None
        self._commits = None

    def forget_chain(self) -> None:
        """A commit frame may be missing."""
        self._commits = None

    def at_head(self, size: int) -> None:
        """Compare with what was signed at this size."""
        while self._heads and self._heads[-1].size <= size:
            head = self._heads.pop()
            if head.size == size and self.tree is not None:
                if self.tree.root() == head.root:
                    self.matched.append(head)
                    self._good = size
                else:
                    self._differs(head, size)
        self.goal = self._heads[-1].size if self._heads else NEVER

    def _differs(self, head: Head, size: int) -> None:
        self._findings.fault(
            f"records {self._good + 1} to {size} are not those {head.said_by} vouches for",
            shard=self._shard, sequence=self._good + 1, file=head.file, offset=head.offset,
        )  # fmt: skip

    def missing_heads(self, end: int) -> None:
        """Say which heads speak of more records than there are."""
        beyond = [head for head in self._heads if head.size > end]
        if beyond:
            furthest = max(beyond, key=lambda head: head.size)
            self._findings.fault(
                f"{furthest.said_by} vouches for {furthest.size} records, and only {end} are there",
                shard=self._shard, sequence=end + 1, file=furthest.file, offset=furthest.offset,
            )  # fmt: skip

    # -- commit frames ------------------------------------------------------------------------------------

    def commit(self, sequence: int, leaf: bytes, payload: bytes | None, path: str, offset: int) -> None:
        """One commit frame, before record `sequence`. It counts in the chain."""
        commit = self.check(sequence, leaf, payload, path, offset)
        if commit is None:
            return
        if (path, sequence) == self._last:
            self._findings.fault(
                "a commit frame stands there twice",
                file=path, offset=offset, shard=self._shard, sequence=sequence,
            )  # fmt: skip
        self._last = path, sequence
        if self.tree is None and commit.frontier is not None:
            self._resume(commit)
        if self._commits is None:
            self._commits = []
        self._commits = [*self._commits[-COMMITS_KEPT:], (sequence, sha256(leaf))]

    def check(
        self, sequence: int, leaf: bytes, payload: bytes | None, path: str, offset: int
    ) -> Commit | None:
        """None when it makes no sense."""
        place: dict[str, Any] = {
            "file": path, "offset": offset, "shard": self._shard, "sequence": sequence
        }  # fmt: skip
        try:
            commit = _decoder.decode(leaf)
        except msgspec.DecodeError:
            self._findings.fault("a commit frame makes no sense", **place)
            return None
        if payload or commit.size != sequence - 1:
            self._findings.fault(
                f"a commit frame speaks of {commit.size} records where {sequence - 1} are", **place
            )
            return None
        if self.tree is not None:
            frontier = commit.frontier
            if self.tree.root() != commit.root or (
                frontier is not None and list(frontier) != self.tree.hashes
            ):
                place["sequence"] = self._good + 1
                what = f"records {self._good + 1} to {commit.size} are not those the commit frame stands for"
                self._findings.fault(what, **place)
                self.lose()
            else:
                self._good = commit.size
        self._check_chain(commit, sequence, place)
        return commit

    def _check_chain(self, commit: Commit, sequence: int, place: dict[str, Any]) -> None:
        if self._commits is None:
            return
        before = [digest for earlier, digest in self._commits if earlier < sequence]
        if not before or before[-1] != commit.previous:
            self._findings.fault("a commit frame does not follow the one before it", **place)
            self._commits = None

    def _resume(self, commit: Commit) -> None:
        """Take the tree up where a segment's first frame states it."""
        assert commit.frontier is not None, "the caller asked"
        try:
            tree = Frontier(commit.size, commit.frontier)
        except ValueError:
            return
        if tree.root() == commit.root and all(len(node) == HASH_BYTES for node in tree.hashes):
            self.tree, self._good = tree, commit.size
            self.at_head(commit.size)
