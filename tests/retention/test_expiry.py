"""Changes that are held for too long are discarded: on the record first, and nothing of a run on hold."""

import os
import threading
import time

import pytest
from tests.settings_for_tests import NEVER_SHORT
from tests.tools.test_commit_discard import held, opened
from tests.tools.trees import Place, message, tree

from custody.errors import NotRecorded
from custody.retention import Bounds, hold_run
from custody.retention.expiry import EXPIRED, discard_expired
from custody.retention.keeper import Keeper

DAYS = 24 * 3600


@pytest.fixture(autouse=True)
def thirty_days(tmp_path, monkeypatch):
    settings = tmp_path / "settings.toml"
    settings.write_text(NEVER_SHORT + "\n[undo]\nheld_days_max = 30\n")
    monkeypatch.setenv("CUSTODY_CONFIG", os.fspath(settings))
    return settings


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def folder_of(place, call):
    return place.store / "undo" / "held" / call.id


def make_old(place, call, days=31):
    at = time.time() - days * DAYS
    os.utime(folder_of(place, call) / "manifest", (at, at))


def expired(runtime):
    return runtime.index.events(name=EXPIRED).items


def test_what_was_held_for_too_long_is_discarded_when_the_store_is_next_opened_and_that_is_recorded(place):
    before = tree(place.work)
    with opened(place) as runtime:
        old, young = held(runtime, "one"), held(runtime, "two")
        make_old(place, old)
        make_old(place, young, days=29)
    with opened(place) as runtime:
        again = runtime.index.call(old.id)
        assert (again.held, again.settled_by, runtime.index.call(young.id).held) == (
            "discarded",
            None,
            "held",
        )
        (event,) = expired(runtime)
        assert event.data == {"call": old.id, "changes": 1, "days_max": 30, "digest": old.held_digest}
        assert [path.name for path in folder_of(place, old).parent.iterdir() if len(path.name) == 16] == [
            young.id
        ]
        for tool in ("commit", "discard"):
            assert "had been held for too long" in message(runtime.call(tool, {"call": old.id}))
    assert tree(place.work) == before


def test_without_a_bound_it_is_held_for_ever(place, thirty_days):
    thirty_days.write_text(NEVER_SHORT)
    with opened(place) as runtime:
        call = held(runtime, "one")
        make_old(place, call, days=10_000)
    with opened(place) as runtime:
        assert runtime.index.call(call.id).held == "held"


def test_nothing_of_a_run_that_is_held_is_discarded(place):
    with opened(place) as runtime:
        with runtime.run("kept") as run:
            call = held(run, "one")
        recorder = runtime._runtime.ledger.recorder
        hold_run(runtime._runtime.journal, recorder, bytes.fromhex(run.id), "a question")
        make_old(place, call)
    with opened(place) as runtime:
        assert (runtime.index.call(call.id).held, expired(runtime)) == ("held", [])


def store_parts(runtime):
    inner = runtime._runtime
    return held_store_of(runtime), inner.ledger.recorder


def held_store_of(runtime):
    return runtime._runtime._means.held()


def test_what_cannot_be_recorded_is_held_still(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        make_old(place, call)

        class Full:
            def event(self, *_, **__):
                raise NotRecorded

        with pytest.raises(NotRecorded):
            discard_expired(held_store_of(runtime), 30, time.time_ns(), lambda: _Open(runtime.index), Full)
        assert folder_of(place, call).exists()


def test_a_process_that_dies_between_the_record_and_the_act_leaves_it_to_the_next_which_records_it_once(
    place,
):
    class Killed(BaseException):
        pass

    with opened(place) as runtime:
        call = held(runtime, "one")
        make_old(place, call)
        store, recorder = store_parts(runtime)

        class Dying:
            def older_than(self, before_ns):
                return store.older_than(before_ns)

            def discard(self, call_id, *, first):
                def die():
                    first()
                    raise Killed

                store.discard(call_id, first=die)

        with pytest.raises(Killed):
            discard_expired(Dying(), 30, time.time_ns(), lambda: _Open(runtime.index), lambda: recorder)
        assert folder_of(place, call).exists()
    with opened(place) as runtime:
        assert not folder_of(place, call).exists()
        assert len(expired(runtime)) == 1
        assert runtime.index.call(call.id).held == "discarded"


def test_of_several_who_look_at_once_one_discards_it_and_it_is_recorded_once(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        make_old(place, call)
        store, recorder = store_parts(runtime)
        done = []

        def look():
            done.extend(
                discard_expired(store, 30, time.time_ns(), lambda: _Open(runtime.index), lambda: recorder)
            )

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert done == [bytes.fromhex(call.id)]
        assert len(expired(runtime)) == 1


def test_what_somebody_is_at_work_on_is_left_alone_and_not_said_to_be_gone(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        make_old(place, call)
        store, recorder = store_parts(runtime)
        disk = store._disk()
        lock = disk.lock(f"{call.id}/lock")
        assert lock is not None
        try:
            assert (
                discard_expired(store, 30, time.time_ns(), lambda: _Open(runtime.index), lambda: recorder)
                == []
            )
        finally:
            lock.release()
        assert expired(runtime) == []


def test_the_keeper_of_a_process_that_lives_long_looks_after_it_too(place):
    looked = threading.Event()
    keeper = Keeper(Bounds(), _no_purge, first_seconds=0.0, beside=looked.set)
    keeper.start()
    assert looked.wait(30)
    keeper.stop()


def _no_purge():
    raise AssertionError("no purge is wanted")


class _Open:
    """An index that somebody else closes."""

    def __init__(self, index):
        self._index = index

    def __getattr__(self, name):
        return getattr(self._index, name)

    def close(self):
        pass
