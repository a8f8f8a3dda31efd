"""Inclusion and consistency proofs: the vectors everybody uses, another implementation, any tree."""

from itertools import pairwise

import pymerkle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.how_many import as_many

from custody.journal.proofs import (
    Hashes,
    consistency_path,
    inclusion_path,
    root_by_inclusion,
    verify_consistency,
    verify_inclusion,
)
from custody.journal.tree import EMPTY_ROOT, Frontier, leaf_hash

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"
    )
]  # fmt: skip
"""The reference tree of Certificate Transparency's own tests."""

ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Of the first leaf, the first two, and so on."""

INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
"""Index (from 0) and size -> path."""

CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}

SIZES = st.integers(1, 200)


def tree_of(size: int) -> Hashes:
    return Hashes([leaf_hash(b"leaf %d" % number) for number in range(size)])


def reference() -> Hashes:
    return Hashes([leaf_hash(leaf) for leaf in LEAVES])


def test_the_roots_of_the_reference_tree_are_those_everybody_has():
    hashes, frontier = reference(), Frontier()
    for size, root in enumerate(ROOTS, 1):
        frontier.add_leaf(LEAVES[size - 1])
        assert hashes(0, size).hex() == frontier.root().hex() == root


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_the_paths_of_the_reference_tree_are_those_everybody_has(index: int, size: int):
    hashes = reference()
    path = inclusion_path(index, size, hashes)
    assert [node.hex() for node in path] == INCLUSION[index, size]
    assert verify_inclusion(leaf_hash(LEAVES[index]), index, size, path, hashes(0, size))


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_the_consistency_of_the_reference_tree_is_what_everybody_has(old: int, new: int):
    hashes = reference()
    path = consistency_path(old, new, hashes)
    assert [node.hex() for node in path] == CONSISTENCY[old, new]
    assert verify_consistency(old, hashes(0, old), new, hashes(0, new), path)


def test_another_implementation_has_the_same_roots_and_paths():
    other = pymerkle.InmemoryTree(algorithm="sha256")
    hashes: list[bytes] = []
    for number in range(70):
        data = b"leaf %d" % number
        other.append_entry(data)
        hashes.append(leaf_hash(data))
    ours = Hashes(hashes)
    for size in (1, 2, 3, 7, 8, 33, 64, 70):
        assert other.get_root(size) == ours(0, size)
        for index in {0, size // 2, size - 1}:
            theirs = other.prove_inclusion(index + 1, size)
            # Theirs has the leaf itself among the nodes, in the order in which they are hashed.
            path = inclusion_path(index, size, ours)
            assert {node.hex() for node in (hashes[index], *path)} == set(theirs.serialize()["path"])
            pymerkle.verify_inclusion(hashes[index], ours(0, size), theirs)
    for old, new in pairwise((1, 2, 3, 7, 8, 33, 64, 70)):
        pymerkle.verify_consistency(ours(0, old), ours(0, new), other.prove_consistency(old, new))
        assert verify_consistency(old, ours(0, old), new, ours(0, new), consistency_path(old, new, ours))


@given(SIZES, st.data())
@settings(max_examples=as_many(150), deadline=None)
def test_every_leaf_of_any_tree_has_a_path_and_it_fits_no_other_place(size: int, data: st.DataObject):
    index = data.draw(st.integers(0, size - 1))
    hashes = tree_of(size)
    leaf, root = hashes(index, index + 1), hashes(0, size)
    path = inclusion_path(index, size, hashes)
    assert len(path) <= (size - 1).bit_length()
    assert verify_inclusion(leaf, index, size, path, root)
    other = data.draw(st.integers(0, size + 3))
    if other != index:
        assert not verify_inclusion(leaf, other, size, path, root)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, path, root)
    assert not verify_inclusion(leaf, index, size, [*path, root], root)
    if path:
        assert not verify_inclusion(leaf, index, size, path[:-1], root)
        changed = data.draw(st.integers(0, len(path) - 1))
        wrong = [bytes(32) if at == changed else node for at, node in enumerate(path)]
        assert not verify_inclusion(leaf, index, size, wrong, root)


@given(SIZES, st.data())
@settings(max_examples=as_many(150), deadline=None)
def test_every_tree_begins_with_each_smaller_one_and_with_no_other(size: int, data: st.DataObject):
    old = data.draw(st.integers(0, size))
    hashes = tree_of(size)
    old_root, root = hashes(0, old), hashes(0, size)
    path = consistency_path(old, size, hashes)
    assert verify_consistency(old, old_root, size, root, path)
    assert not verify_consistency(old, bytes(32), size, root, path)
    assert not verify_consistency(old, old_root, size, bytes(32), path) or old in (0, size)
    if old != size:
        assert not verify_consistency(size, root, old, old_root, path)
    if path:
        assert not verify_consistency(old, old_root, size, root, path[:-1])
        assert not verify_consistency(old, old_root, size, root, [*path, path[0]])


def test_a_tree_whose_last_leaf_stands_twice_has_another_root():
    once, twice = tree_of(3), Hashes([leaf_hash(b"leaf %d" % number) for number in (0, 1, 2, 2)])
    assert once(0, 3) != twice(0, 4)


def test_what_makes_no_sense_is_no_proof():
    hashes = tree_of(5)
    assert root_by_inclusion(bytes(32), 5, 5, []) is None
    assert root_by_inclusion(bytes(32), -1, 5, []) is None
    assert root_by_inclusion(bytes(32), 0, 2, [b"short"]) is None
    assert not verify_consistency(2, hashes(0, 2), 5, hashes(0, 5), [b"short"])
    assert not verify_consistency(0, b"", 5, hashes(0, 5), [])
    assert verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    with pytest.raises(ValueError, match="no leaf 5"):
        inclusion_path(5, 5, hashes)
    with pytest.raises(ValueError, match="does not go on"):
        consistency_path(6, 5, hashes)
