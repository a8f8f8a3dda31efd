"""Proofs that a record is in a shard's tree, and that one tree is the beginning of another.

Owns the paths of RFC 6962 and RFC 9162 (sections 2.1.3 and 2.1.4 there): making them, and checking them.
Pure: knows nothing of files, signatures or what a leaf says. Used by `checkpoints`, `verify` and bundles.

Whoever makes a path says how the root of a range of leaves is had: from hashes in memory (`Hashes`), from
tiles on the disk, or from what is left of a tree whose first records were dropped.
"""

from collections.abc import Callable, Sequence

from custody.journal.tree import EMPTY_ROOT, node_hash

RangeRoot = Callable[[int, int], bytes]
"""`(start, stop)` -> root of the tree over the leaves from `start` up to, and not including, `stop`."""


def split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2: where RFC 6962 divides a tree."""
    return 1 << ((size - 1).bit_length() - 1)


class Hashes:
    """Leaf hashes in memory. Calling it gives the root of a range of them; what it has seen it remembers."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self._hashes = hashes
        self._known: dict[tuple[int, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def __call__(self, start: int, stop: int) -> bytes:
        if stop - start == 1:
            return self._hashes[start]
        if stop == start:
            return EMPTY_ROOT
        root = self._known.get((start, stop))
        if root is None:
            middle = start + split(stop - start)
            root = self._known[start, stop] = node_hash(self(start, middle), self(middle, stop))
        return root


# -- one record is in the tree --------------------------------------------------------------------------


def inclusion_path(index: int, size: int, root_of: RangeRoot) -> list[bytes]:
    """The path of leaf `index` (from 0) in the tree of `size` leaves, from the leaf to the root."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + split(stop - start)
        if index < middle:
            path.append(root_of(middle, stop))
            stop = middle
        else:
            path.append(root_of(start, middle))
            start = middle
    path.reverse()
    return path


def root_by_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf hash and its path lead to; None when the path does not fit the place.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    node, last = index, size - 1
    root = leaf
    for sibling in path:
        if last == 0 or len(sibling) != len(leaf):
            return None
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        node >>= 1
        last >>= 1
    return root if last == 0 else None


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf with this hash is number `index` of the tree with this size and root."""
    return root_by_inclusion(leaf, index, size, path) == root


# -- one tree is the beginning of another ---------------------------------------------------------------


def consistency_path(old: int, new: int, root_of: RangeRoot) -> list[bytes]:
    """The path between the trees over the first `old` and the first `new` leaves. RFC 9162, section 2.1.4.1.

    Empty when they are the same tree, or the old one has no leaf.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not go on from one of {old}")
    path: list[bytes] = []
    if old in (0, new):
        return path
    start, stop, whole = 0, new, True
    while old != stop:
        middle = start + split(stop - start)
        if old <= middle:
            path.append(root_of(middle, stop))
            stop = middle
        else:
            path.append(root_of(start, middle))
            start = middle
            whole = False
    if not whole:
        path.append(root_of(start, stop))
    path.reverse()
    return path


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether the tree of `new_size` leaves begins with that of `old_size`. RFC 9162, section 2.1.4.2."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path and old_root == EMPTY_ROOT
    if any(len(node) != len(EMPTY_ROOT) for node in path):
        return False
    # A perfect tree is a node of the new one, so its path leaves it out.
    nodes = [old_root, *path] if old_size.bit_count() == 1 else list(path)
    if not nodes:
        return False
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == new_root
