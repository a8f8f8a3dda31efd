"""A purge that is interrupted anywhere: by a death, by a power loss, by a disk that fails. Whoever opens the
store next finishes it, or it has touched nothing; nothing else is lost, whatever happens."""

import errno
import random
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest
from tests.crash.simulated_disk import CRASH_MODES, KilledInPut, SimulatedDisk
from tests.index.conftest import call_id, us
from tests.retention.stores import Purgeable

from custody.errors import CustodyError
from custody.journal import Journal
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.records import Event, decode_leaf
from custody.retention import finish_purges

SECRET = "walnut-4711"
LOOKS_MAX = 3
"""Openings until a purge is over: the first may have to make durable again what a power loss left unsaid."""


class Killed(BaseException):
    """The process is gone."""


def die() -> NoReturn:
    """As whoever drives the process. Its helper threads change nothing any more either; an error of the disk
    is what they are prepared for."""
    if threading.current_thread() is threading.main_thread():
        raise Killed
    raise OSError(errno.EIO, "the process is killed")


def fill(store: Purgeable) -> None:
    """Calls that say it and calls that do not, over several segments."""
    for number in range(1, 25):
        said = {"n": number, "t": SECRET if number % 2 else "plain", "more": "x" * (number * 37 % 700)}
        store.call_by(store.writer, number, number, said)
        if number % 6 == 0:
            store.writer.sync()
    store.start_call(30, 30, arguments=store.put_blob({"t": SECRET * 2_000}))
    store.finish_call(30, 31)
    store.call(31, 31, result=store.put_blob({"t": "plain " * 2_000}))
    store.writer.sync()


def leaves_of(store: Purgeable) -> list[bytes]:
    return [stored.leaf for stored in store.records() if b"store.purged" not in stored.leaf]


def purged_fully(store: Purgeable) -> bool:
    """Whether the statement stands on the record, all of it."""
    events = (decode_leaf(stored.kind, stored.leaf) for stored in store.records())
    return any(isinstance(leaf, Event) and leaf.name == "store.purged" for leaf in events)


def judge(disk: SimulatedDisk, leaves: list[bytes]) -> bool:
    """Open what is left, go on with it, and look at every byte. Whether the purge took place."""
    store = Purgeable(disk=disk)
    for _ in range(LOOKS_MAX):
        journal = store.open_writer()
        journal.lease()
        finish_purges(store.means(journal))
        journal.close()
        if not journal.purging.begun():
            break
    else:
        raise AssertionError("a purge does not come to its end")
    found = leaves_of(store)
    assert [leaf for leaf in found if leaf in leaves] == leaves
    said = [said["arguments"] for said in store.said() if said.get("arguments") and "n" in said["arguments"]]
    plain = [one["n"] for one in said if one["t"] == "plain"]
    assert plain == list(range(2, 25, 2)), "what was not asked for is still there"
    assert store.index().call("001f").result == {"t": "plain " * 2_000}
    done = purged_fully(store)
    if done:
        assert not store.holds(SECRET)
    else:
        assert sum(one["t"] == SECRET for one in said) == 12
    store.close()
    return done


def operations() -> int:
    """How many changes to the disk a purge makes."""
    disk = SimulatedDisk()
    store = Purgeable(disk=disk, flush_seconds=3600.0)
    fill(store)
    seen: list[str] = []

    def note(operation: str, path: str) -> None:
        seen.append(operation)

    disk.on_operation = note
    store.purge(text=SECRET)
    store.close()
    return len(seen)


def interrupted(at: int, share: float | None) -> tuple[SimulatedDisk, list[bytes]]:
    """The disk of a store whose purge was killed at its n-th change, in the middle of it if it is a put."""
    disk = SimulatedDisk()
    store = Purgeable(disk=disk, flush_seconds=3600.0)
    fill(store)
    leaves = leaves_of(store)
    count = 0

    def meet(operation: str, path: str) -> None:
        nonlocal count
        count += 1
        if count >= at:
            if share is not None and operation == "put" and count == at:
                raise KilledInPut(share, path)
            die()

    disk.on_operation = meet
    try:
        store.purge(text=SECRET)
    except (Killed, OSError, CustodyError):
        pass
    disk.on_operation = None
    return disk, leaves


def states(disk: SimulatedDisk, chance: random.Random) -> Iterator[SimulatedDisk]:
    yield disk.after_process_death()
    for mode in CRASH_MODES:
        yield disk.after_power_loss(mode, chance)


def run_lane(step: int) -> tuple[int, int]:
    """Every n-th change: how many states were judged, and in how many the purge took place."""
    judged = took_place = 0
    for at in range(1, operations() + 1, step):
        disk, leaves = interrupted(at, (None, 0.5)[at % 2])
        for state in states(disk, random.Random(at)):
            judged += 1
            took_place += judge(state, leaves)
    return judged, took_place


@pytest.mark.timeout(300)
def test_a_purge_cut_short_anywhere_is_finished_by_the_next_opening() -> None:
    judged, took_place = run_lane(17)
    assert 0 < took_place < judged


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_purge_cut_short_at_each_change_is_finished_by_the_next_opening() -> None:
    judged, took_place = run_lane(1)
    assert 0 < took_place < judged


def test_a_reader_sees_purged_or_whole_at_each_step_of_a_purge() -> None:
    """Nobody who reads meanwhile takes a record that is being purged for damage."""
    disk = SimulatedDisk()
    store = Purgeable(disk=disk)
    fill(store)
    expected = len(store.records())

    def look(operation: str, path: str) -> None:
        disk.on_operation = None
        assert len(list(Journal(disk).follow())) >= expected
        disk.on_operation = look

    disk.on_operation = look
    store.purge(text=SECRET)
    disk.on_operation = None
    store.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["put", "sync", "rename", "remove", "sync_folder", "create"])
def test_a_disk_that_fails_once_leaves_a_purge_to_be_finished(operation: str, code: int) -> None:
    for at in range(1, 40, 3):
        faulty = FaultyDisk(MemoryDisk())
        store = Purgeable(disk=faulty)
        fill(store)
        hits = faulty.hit_count
        faulty.inject(Fault(operation=operation, at=at, error=code))  # type: ignore[arg-type]
        try:
            store.purge(text=SECRET)
        except (CustodyError, OSError):
            pass
        met = faulty.hit_count > hits
        faulty.heal()
        finish_purges(store.means())
        assert store.writer.purging.begun() == []
        assert store.holds(SECRET) != purged_fully(store)
        store.close()
        if not met:
            return


def test_who_finishes_a_purge_also_forgets_undo_data() -> None:
    faulty = FaultyDisk(MemoryDisk())
    store = Purgeable(disk=faulty)
    fill(store)
    faulty.inject(Fault(operation="rename"))
    with pytest.raises(OSError, match="error"):
        store.purge(text=SECRET)
    assert store.undone == []
    finish_purges(store.means())
    assert sorted(store.undone) == sorted(call_id(number) for number in [*range(1, 25, 2), 30])
    store.close()


def test_on_a_full_disk_a_purge_is_still_recorded_and_done() -> None:
    faulty = FaultyDisk(MemoryDisk())
    store = Purgeable(disk=faulty)
    store.means().make_recorder().event("app.begins", {})
    fill(store)
    faulty.free = (0, 1 << 40)
    faulty.inject(
        Fault(operation="replace", times=None, error=errno.ENOSPC),
        Fault(operation="create", times=None, error=errno.ENOSPC, within=".seg"),
    )
    with pytest.raises(CustodyError):
        fill_up(store)
    assert store.purge(text=SECRET).records == 26
    assert not store.holds(SECRET)
    assert purged_fully(store)
    store.close()


def fill_up(store: Purgeable) -> None:
    for number in range(40, 10_000):
        store.call_by(store.writer, number, number, "fill it up " * 20)


def test_what_a_torn_tail_left_behind_is_zeroed_too() -> None:
    """A writer that is killed in the middle of a put leaves text where no reader ever comes."""
    disk = SimulatedDisk()
    store = Purgeable(disk=disk)
    store.call_by(store.writer, 1, 1, "plain")
    store.writer.sync()

    puts = 0

    def kill(operation: str, path: str) -> None:
        nonlocal puts
        puts += operation == "put" and path.endswith(".seg")
        if puts == 1:
            raise KilledInPut(1.0, path)
        die()

    disk.on_operation = kill
    with pytest.raises(Killed):
        store.start_call(2, 2, arguments=SECRET + "z" * 4_500)
    disk.on_operation = None
    after = Purgeable(disk=disk.after_process_death())
    after.writer.lease()
    assert after.holds(SECRET)
    after.call_by(after.writer, 3, 3, "old")
    done = after.purge(before_us=us(10))
    assert done.leftover_bytes > 2_000
    assert not after.holds(SECRET)
    after.close()
