"""The Merkle tree over a shard's leaves (RFC 6962, section 2.1).

Owns the hashing of leaves and nodes and the growing edge of the tree. Knows nothing of frames. Used by
`shard` while it appends, and by whoever checks a root.
"""

import hashlib
from collections.abc import Iterable
from hashlib import sha256

from custody.journal.frames import GIL_KEPT_BYTES_MAX, sha256_in_pieces

LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """Of the leaf's bytes as stored."""
    if len(leaf) < GIL_KEPT_BYTES_MAX:
        return sha256(b"\x00" + leaf).digest()
    return sha256_in_pieces(LEAF_PREFIX + leaf)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(NODE_PREFIX + left + right).digest()


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
        size, hashes = self.size, self.hashes
        self.size = size + 1
        while size & 1:
            node = sha256(b"\x01" + hashes.pop() + node).digest()
            size >>= 1
        hashes.append(node)

    def root(self) -> bytes:
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for node in reversed(self.hashes[:-1]):
            root = node_hash(node, root)
        return root

    def copy(self) -> "Frontier":
        return Frontier(self.size, self.hashes)
