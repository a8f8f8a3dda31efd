"""Whole segments are dropped from a shard's beginning, and everything else goes on as before: readers from
the start, opening, positions, the tree over what is left."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.crash.simulated_disk import SimulatedDisk
from tests.index.conftest import call_id, run_id, us
from tests.retention.stores import Purgeable
from tests.retention.test_crash import Killed, die

from custody.errors import CheckpointRefused, PurgeRefused
from custody.journal import Cursor, Journal
from custody.journal.disk_memory import MemoryDisk
from custody.journal.tree import Frontier
from custody.records import Event, decode_leaf
from custody.retention import (
    drop_segments,
    finish_purges,
    hold_run,
    plan_drop,
)


@pytest.fixture(params=["memory", "real"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Purgeable]:
    store = Purgeable(None if request.param == "memory" else str(tmp_path / "store"))
    yield store
    store.close()


def fill(store: Purgeable, count: int = 120, **fields: Any) -> None:
    for number in range(1, count + 1):
        store.start_call(number, number, arguments=f"call {number} " + "x" * 200, **fields)
        store.finish_call(number, number + 0.5)
    store.writer.sync()


def drop(store: Purgeable, before: float, journal: Journal | None = None) -> Any:
    journal = journal or store.writer
    plan = plan_drop(journal, us(before))
    return plan, drop_segments(store.means(journal, seal=sign), plan, reason="too old")


def sign() -> dict[int, int]:
    """Everything."""
    return {1: 1 << 40, 2: 1 << 40}


def numbers(store: Purgeable, journal: Journal | None = None) -> list[int]:
    return [stored.sequence for stored in (journal or store.writer).follow()]


def events(store: Purgeable, name: str) -> list[dict[str, Any]]:
    leaves = (decode_leaf(stored.kind, stored.leaf) for stored in store.writer.follow())
    return [leaf.data or {} for leaf in leaves if isinstance(leaf, Event) and leaf.name == name]


def test_the_first_segments_go_and_what_is_left_can_be_read_from_the_start(store: Purgeable) -> None:
    fill(store)
    last = numbers(store)[-1]
    plan, done = drop(store, 60)
    (going,) = plan.shards
    assert 0 < going.records == going.first_kept - 1 < 120
    assert done.index_clean and not store.holds("call 1 x")
    left = numbers(store)
    assert left == list(range(going.first_kept, left[-1] + 1)) and left[-1] > last
    assert [call.id for call in store.index().calls(limit=200).items][-1] > call_id(1).hex()


def test_the_statement_names_the_roots_of_what_is_gone(store: Purgeable) -> None:
    fill(store)
    leaves = [stored.leaf for stored in store.writer.follow()]
    plan, done = drop(store, 60)
    (stated,) = events(store, "store.dropped")
    tree = Frontier()
    for leaf in leaves[: stated["size"]]:
        tree.add_leaf(leaf)
    assert stated["purge_id"] == done.purge_id
    assert (stated["root"], tuple(stated["frontier"])) == (
        tree.root().hex(),
        tuple(node.hex() for node in tree.hashes),
    )
    for stored in store.writer.follow():
        tree.add_leaf(stored.leaf)
    store.writer.sync()
    own = store.writer.durable_tree()
    assert own is not None and own[1].root() == tree.root()
    assert (stated["segments"], stated["first_kept"]) == (
        [plan.shards[0].first, plan.shards[0].last],
        plan.shards[0].first_kept,
    )


def test_a_writer_that_comes_later_goes_on_where_the_shard_ended(store: Purgeable) -> None:
    fill(store)
    drop(store, 60)
    end = numbers(store)[-1]
    store.writer.close()
    for clean in (True, False):
        later = store.open_writer()
        later.lease()
        store.call_by(later, 300 + clean, 300, "more")
        later.sync()
        if clean:
            later.close()
    found = list(later.follow())
    assert [stored.sequence for stored in found] == list(range(found[0].sequence, end + 5))
    third = store.open_writer()
    third.lease()
    store.call_by(third, 400, 400, "other shard")


def test_a_shard_that_was_not_left_in_order_is_opened_all_the_same() -> None:
    disk = MemoryDisk()
    store = Purgeable(disk=disk)
    fill(store)
    drop(store, 60)
    end = numbers(store)[-1]
    disk.locks.clear()  # its writer died
    later = store.open_writer()
    later.lease()
    assert later.here()[0] == 1
    store.call_by(later, 300, 300, "more")
    assert [stored.sequence for stored in later.follow()][-1] == end + 2


def test_a_reader_that_stood_in_what_is_gone_goes_on_behind_it(store: Purgeable) -> None:
    fill(store)
    following = store.writer.follow()
    for stored in following:
        if stored.sequence == 10:
            break
    cursor: Cursor = following.cursor
    plan, _ = drop(store, 60)
    assert next(iter(store.writer.follow(cursor))).sequence == plan.shards[0].first_kept


def test_an_index_of_another_process_follows(tmp_path: Path) -> None:
    store = Purgeable(str(tmp_path / "store"))
    other = store.index()
    fill(store)
    assert len(other.calls(limit=200).items) == 120
    drop(store, 60)
    left = other.calls(limit=200).items
    assert 0 < len(left) < 120
    store.close()


def test_dropping_twice_goes_on_from_the_first_time(store: Purgeable) -> None:
    fill(store)
    first, _ = drop(store, 40)
    second, _ = drop(store, 100)
    assert second.shards[0].first == first.shards[0].last + 1
    assert second.shards[0].records == second.shards[0].first_kept - first.shards[0].first_kept
    assert numbers(store)[0] == second.shards[0].first_kept
    assert len(events(store, "store.dropped")) == 2


def test_what_is_held_or_has_not_ended_keeps_its_segment_and_all_behind_it(store: Purgeable) -> None:
    fill(store, 30)
    store.start_call(500, 31, arguments="still running")
    for number in range(501, 600):
        store.call_by(store.writer, number, 32, "y" * 200)
    store.writer.sync()
    plan = plan_drop(store.writer, us(1000))
    still = next(stored for stored in store.records() if call_id(500) in stored.leaf)
    assert plan.shards and all(going.last < still.segment for going in plan.shards)


def test_a_held_run_keeps_its_segment(store: Purgeable) -> None:
    store.start_run(1, 0, intent="held")
    fill(store, 100, run=1)
    store.finish_run(1, 200)
    hold_run(store.writer, store.means().make_recorder(), run_id(1), None)
    assert plan_drop(store.writer, us(1000)).shards == []


def test_a_run_that_has_not_ended_keeps_its_segment(store: Purgeable) -> None:
    """A shared one counts its calls on the record."""
    store.start_run(1, 0, intent="open")
    fill(store, 100, run=1)
    assert plan_drop(store.writer, us(1000)).shards == []
    store.finish_run(1, 200)
    store.writer.sync()
    assert plan_drop(store.writer, us(1000)).shards != []


def test_the_last_segment_never_goes(store: Purgeable) -> None:
    fill(store, 3)
    assert plan_drop(store.writer, us(1000)).shards == []


def test_statements_of_purges_that_would_go_are_said_again(store: Purgeable) -> None:
    store.call(1, 1, arguments="old")
    store.writer.sync()
    other = store.open_writer()
    store.call_by(other, 900, 1, "old too")
    other.sync()
    store.call_by(other, 901, 500, "new")
    store.purge(before_us=us(10))
    fill(store)
    plan = plan_drop(store.writer, us(10**8))
    assert [name for name, _ in plan.again] == ["store.purged"]
    drop_segments(store.means(seal=sign), plan)
    (stated,) = events(store, "store.purged")
    assert stated["said_first"]["shard"] == 1 and "2" in stated["shards"]


def test_without_a_signature_nothing_is_dropped(store: Purgeable) -> None:
    fill(store)
    plan = plan_drop(store.writer, us(60))
    with pytest.raises(PurgeRefused):
        drop_segments(store.means(), plan)

    with pytest.raises(PurgeRefused, match="not signed up to"):
        drop_segments(store.means(seal=lambda: {1: 3}), plan)

    def refuse() -> dict[int, int]:
        raise CheckpointRefused

    with pytest.raises(CheckpointRefused):
        drop_segments(store.means(seal=refuse), plan)
    assert numbers(store)[0] == 1
    assert store.writer.purging.begun() == []


@pytest.mark.parametrize("at", range(1, 9))
def test_a_drop_cut_short_is_finished_by_whoever_can_sign(at: int) -> None:
    disk = SimulatedDisk()
    store = Purgeable(disk=disk)
    fill(store)
    plan = plan_drop(store.writer, us(60))
    signed = 0

    def seal() -> dict[int, int]:
        nonlocal signed
        signed += 1
        if signed == 2:
            disk.on_operation = count
        return sign()

    seen = 0

    def count(operation: str, path: str) -> None:
        nonlocal seen
        seen += 1
        if seen >= at:
            die()

    with pytest.raises(Killed):
        drop_segments(store.means(seal=seal), plan)
    for state in (disk.after_process_death(), disk.after_power_loss("none", random.Random(at))):
        after = Purgeable(disk=state)
        after.writer.lease()
        finish_purges(after.means())
        finish_purges(after.means(seal=sign))
        assert after.writer.purging.begun() == []
        found = numbers(after)
        assert found == list(range(plan.shards[0].first_kept, found[-1] + 1))
        assert not after.holds("call 1 x")
        after.close()
    disk.on_operation = None
