"""The tree of a shard as the disk has it, at any size, and what of it is durable."""

import pytest
from tests.journal.conftest import OpenJournal

from custody.errors import CorruptJournal
from custody.journal import Disk, Journal
from custody.journal.tree import Frontier
from custody.records import Kind, Redacted


def append(journal: Journal, count: int) -> None:
    for number in range(count):
        journal.append(Kind.EVENT, b"leaf %d " % number + bytes(number % 50), Redacted(bytes(20)))


def trees_of(journal: Journal) -> list[Frontier]:
    """Of no record, of the first, of the first two …"""
    trees = [Frontier()]
    for stored in journal.follow():
        trees.append(trees[-1].copy())
        trees[-1].add_leaf(stored.leaf)
    return trees


def test_the_tree_is_had_at_any_size(disk: Disk, open_journal: OpenJournal):
    journal = open_journal(disk)
    append(journal, 150)
    trees = trees_of(journal)
    for size in range(len(trees)):
        tree = journal.tree_at(1, size)
        assert (tree.size, tree.root()) == (size, trees[size].root())
    with pytest.raises(CorruptJournal, match="missing"):
        journal.tree_at(1, len(trees))


def test_a_tree_grows_from_any_size_to_any_other(disk: Disk, open_journal: OpenJournal):
    journal = open_journal(disk)
    append(journal, 120)
    trees = trees_of(journal)
    for old, new in ((0, 120), (1, 2), (50, 51), (33, 119), (120, 120), (60, 10)):
        tree = trees[old].copy()
        journal.extend_tree(1, tree, new)
        assert tree.root() == trees[max(old, new)].root()


def test_the_place_of_the_durable_tree_is_where_reading_goes_on(disk: Disk, open_journal: OpenJournal):
    journal = open_journal(disk)
    append(journal, 30)
    own = journal.durable_tree()
    assert own is not None
    shard, tree, place = own
    assert (shard, tree.size) == (1, 30)
    append(journal, 50)
    journal.extend_tree(1, tree, 80, place)
    assert tree.root() == trees_of(journal)[80].root()


def test_what_was_only_written_is_made_durable_before_it_is_told(disk: Disk, open_journal: OpenJournal):
    journal = open_journal(disk)
    assert journal.durable_tree() is None
    assert journal.durable_sequence == 0
    told: list[int] = []
    journal.tell_of_durable(told.append)
    append(journal, 7)
    assert (journal.durable_sequence, told) == (0, [])
    own = journal.durable_tree()
    assert own is not None and own[1].size == 7
    assert (journal.durable_sequence, told) == (7, [7])


def test_a_shard_somebody_writes_to_is_not_settled_by_others(disk: Disk, open_journal: OpenJournal):
    writer, onlooker = open_journal(disk), open_journal(disk)
    append(writer, 3)
    assert onlooker.settled_tree(1) is None
    writer.close()
    tree = onlooker.settled_tree(1)
    assert tree is not None and tree.root() == trees_of(onlooker)[3].root()
    assert onlooker.shard_number is None


def test_the_last_sequence_is_told_without_a_shard(disk: Disk, open_journal: OpenJournal):
    journal = open_journal(disk)
    append(journal, 101)
    onlooker = open_journal(disk)
    assert onlooker.last_sequence(1) == 101
    assert onlooker.last_sequence(2) == 0
