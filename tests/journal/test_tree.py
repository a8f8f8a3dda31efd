import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.implementations import with_each  # noqa: F401 - every test here holds for both

from custody.journal.tree import Frontier, leaf_hash


def root_of(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


# From the Certificate Transparency test vectors, which every implementation of RFC 6962 shares.
CT_LEAVES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_the_roots_are_those_of_certificate_transparency() -> None:
    frontier = Frontier()
    roots: list[str] = []
    for leaf in CT_LEAVES:
        frontier.add_leaf(bytes.fromhex(leaf))
        roots.append(frontier.root().hex())
    assert roots == CT_ROOTS


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_a_root_is_that_of_the_definition(leaves: list[bytes]) -> None:
    frontier, by_hash = Frontier(), Frontier()
    for leaf in leaves:
        frontier.add_leaf(leaf)
        by_hash.add(leaf_hash(leaf))
    assert frontier.root() == root_of(leaves)
    assert (by_hash.size, by_hash.hashes) == (frontier.size, frontier.hashes)
    assert frontier.size == len(leaves)


def test_a_copied_frontier_grows_on_its_own() -> None:
    one = Frontier()
    for number in range(5):
        one.add(leaf_hash(bytes([number])))
    two = Frontier(one.size, one.hashes)
    two.add(leaf_hash(b"x"))
    assert (one.size, two.size) == (5, 6)
    assert one.root() == root_of([bytes([number]) for number in range(5)])


def test_a_frontier_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="5 leaves has 2 subtrees"):
        Frontier(5, [bytes(32)])


@pytest.mark.parametrize("size", [2046, 2047, 2048, 9000])
def test_a_long_leaf_has_the_same_hash_as_in_one_piece(size: int) -> None:
    leaf = bytes(range(256)) * 40
    assert leaf_hash(leaf[:size]) == hashlib.sha256(b"\x00" + leaf[:size]).digest()
