"""The bounds of the settings: what ended first goes first, 0 deletes nothing, once a day is enough."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import eventually
from tests.index.conftest import us
from tests.retention.stores import Purgeable

from custody.records import now_us
from custody.retention import Bounds, hold_run
from custody.retention.bounds import DAY_US, Standing, standing
from custody.retention.keeper import Keeper


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Purgeable]:
    store = Purgeable(str(tmp_path / "store"))
    yield store
    store.close()


def test_absent_or_0_deletes_nothing(store: Purgeable) -> None:
    store.call(1, 1, arguments="old")
    assert not Bounds()
    assert Bounds(days_max=0, bytes_max=0).before_us(store.writer, now_us()) is None


def test_days_are_counted_back_from_now(store: Purgeable) -> None:
    assert Bounds(days_max=2).before_us(store.writer, us(0)) == us(0) - 2 * DAY_US


def test_of_too_many_bytes_what_ended_first_goes_first(store: Purgeable) -> None:
    for number in range(1, 11):
        store.call(number, number, arguments="x" * 1_000)
    before = Bounds(bytes_max=5_500).before_us(store.writer, now_us())
    assert before is not None
    store.purge(before_us=before)
    left = [said["arguments"] for said in store.said() if "arguments" in said]
    assert len(left) == 5
    assert Bounds(bytes_max=5_500).before_us(store.writer, now_us()) is None


def test_blobs_count_and_go_with_the_last_that_names_them(store: Purgeable) -> None:
    from random import Random

    large = store.put_blob(Random(1).randbytes(50_000))
    store.call(1, 1, arguments=large)
    store.call(2, 20, arguments=large)
    store.call(3, 50, arguments="new")
    before = Bounds(bytes_max=10_000).before_us(store.writer, now_us())
    assert before is not None and us(20) < before < us(50)


def test_what_is_held_does_not_make_room(store: Purgeable) -> None:
    store.start_run(1, intent="held " * 1_000)
    store.finish_run(1, 2)
    store.call(2, 20, arguments="x" * 1_000)
    hold_run(store.writer, store.means().make_recorder(), b"\xa1" * 16, None)
    before = Bounds(bytes_max=5_200).before_us(store.writer, now_us())
    assert before is not None
    store.purge(before_us=before)
    assert store.holds("held held") and not store.holds("x" * 1_000)


def test_the_keeper_purges_once_a_day(store: Purgeable) -> None:
    store.call(1, 1, arguments="old")
    store.writer.sync()
    keeper = Keeper(Bounds(days_max=1), store.means)
    done = keeper.keep()
    assert done is not None and done.records == 2
    store.call(2, 2, arguments="older than a day, too")
    store.writer.sync()
    assert keeper.keep() is None
    store.writer.purging.note_kept(now_us() - DAY_US - 1)
    done = keeper.keep()
    assert done is not None and done.records == 2


def test_the_keeper_leaves_a_store_alone_that_somebody_purges(store: Purgeable) -> None:
    store.call(1, 1, arguments="old")
    lock = store.writer.purging.lock()
    assert lock is not None
    assert Keeper(Bounds(days_max=1), store.means).keep() is None
    lock.release()


def test_the_keeper_works_in_a_thread_and_stops(store: Purgeable) -> None:
    store.call(1, 1, arguments="old")
    store.writer.sync()
    keeper = Keeper(Bounds(days_max=1), store.means, first_seconds=0.0)
    keeper.start()
    eventually(store.writer.purging.kept_at_us)
    keeper.stop()
    assert {"arguments": "old"} not in store.said()


def test_without_a_bound_the_keeper_does_nothing(store: Purgeable) -> None:
    keeper = Keeper(Bounds(), store.means, first_seconds=0.0)
    keeper.start()
    keeper.stop()
    assert store.writer.purging.kept_at_us() == 0


@pytest.mark.parametrize(("used", "free", "said"), [(79, 50, (False, False)), (80, 4, (True, True))])
def test_it_is_time_to_say_so_from_80_percent_of_the_bound_and_below_5_of_the_disk(
    used: int, free: int, said: tuple[bool, bool]
) -> None:
    stands = Standing(used_bytes=used, bytes_max=100, free_bytes=free, total_bytes=100)
    assert (stands.near_bound, stands.disk_nearly_full) == said


def test_what_a_store_takes_is_counted_where_there_is_a_bound(store: Purgeable) -> None:
    store.call(1, 1, arguments="x")
    store.writer.sync()
    assert store.folder is not None
    assert standing(store.folder, 0).used_bytes is None
    assert standing(store.folder, 1).near_bound
    assert standing(store.folder, 1, files_max=1).used_bytes is None
