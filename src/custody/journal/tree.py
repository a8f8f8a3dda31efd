"""The Merkle tree over a shard's leaves (RFC 6962, section 2.1).

Owns the hashing of leaves and nodes and the growing edge of the tree. Knows nothing of frames. Used by
`shard` while it appends, and by whoever checks a root.
"""

from collections.abc import Iterable

from custody import native
from custody.journal.frames import sha256

LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"
EMPTY_ROOT = sha256(b"")


def leaf_hash(leaf: bytes) -> bytes:
    """Of the leaf's bytes as stored."""
    return sha256(LEAF_PREFIX, leaf)


def grow_in_python(hashes: list[bytes], size: int, leaf: bytes) -> None:
    """`grow`, in Python."""
    _join(hashes, size, leaf_hash(leaf))


grow = native.grow or grow_in_python
"""`grow(hashes, size, leaf)`: the frontier of a tree of `size` leaves gets one more."""


def _join(hashes: list[bytes], size: int, node: bytes) -> None:
    while size & 1:
        node = sha256(NODE_PREFIX, hashes.pop(), node)
        size >>= 1
    hashes.append(node)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(NODE_PREFIX, left, right)


class Frontier:
    """The roots of the perfect subtrees that make up a tree of `size` leaves, largest first."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)
        if len(self.hashes) != size.bit_count():
            raise ValueError(
                f"a tree of {size} leaves has {size.bit_count()} subtrees, not {len(self.hashes)}"
            )

    def add(self, node: bytes) -> None:
        """Add a leaf by its hash."""
        _join(self.hashes, self.size, node)
        self.size += 1

    def add_leaf(self, leaf: bytes) -> None:
        """Add a leaf by its bytes as stored."""
        grow(self.hashes, self.size, leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for node in reversed(self.hashes[:-1]):
            root = node_hash(node, root)
        return root

    def copy(self) -> "Frontier":
        return Frontier(self.size, self.hashes)
