"""What is found of a process that died in the middle of a change. (Deaths at any line: test_kill_changes.)"""

import os

from tests.changes.conftest import Place
from tests.changes.crashing import die_at
from tests.changes.trees import call, seen, temporaries

from custody.changes import (
    Observed,
    RolledBack,
    UndoStore,
    carry_out,
    entries,
    file_at,
    recover_changes,
    undo_call,
)
from custody.journal import MemoryDisk, RealDisk


def gone(pid: int, start_ticks: int) -> bool:
    return False


def here(pid: int, start_ticks: int) -> bool:
    return True


def killed_between(place: Place) -> UndoStore:
    """Two files were to be written; the process died when one of them was in place."""
    store = place.root.parent / "store"
    wanted = [file_at(place.at("a"), b"new a"), file_at(place.at("b"), b"new b")]
    early, late = 1, 20_000
    while True:
        for name in ("a", "b"):
            place.make(name, b"old " + name.encode())
        os.utime(place.root, ns=(10**18, 10**18))
        line = (early + late) // 2
        die_at(line, lambda: carry_out(UndoStore(RealDisk(store)), call(1), wanted, roots=place.roots))
        contents = (place.root / "a").read_bytes(), (place.root / "b").read_bytes()
        if contents == (b"new a", b"old b"):
            return UndoStore(RealDisk(store))
        early, late = (line + 1, late) if contents == (b"old a", b"old b") else (early, line)
        recover_changes(UndoStore(RealDisk(store)), gone)
        UndoStore(RealDisk(store)).remove(call(1))


def test_what_was_half_done_is_put_back_and_told(place: Place):
    undo = killed_between(place)
    assert recover_changes(undo, here) == []  # while its process lives it is left alone
    assert (place.root / "a").read_bytes() == b"new a"
    assert recover_changes(undo, gone) == [RolledBack(call_id=call(1), restored=1, left=(), sealed=False)]
    assert (place.root / "a").read_bytes() == b"old a"
    assert place.root.stat().st_mtime_ns == 10**18
    assert temporaries(place.root) == []
    assert undo.read(call(1)) is None
    assert recover_changes(undo, gone) == []
    assert recover_changes(undo, gone, calls=[call(1), call(2)]) == []


def test_what_somebody_else_wrote_since_is_left_and_named(place: Place):
    undo = killed_between(place)
    (place.root / "a").write_bytes(b"theirs")
    (found,) = recover_changes(undo, gone)
    assert (found.restored, found.left, found.sealed) == (0, (f"{place.root}/a",), False)
    assert (place.root / "a").read_bytes() == b"theirs"
    assert recover_changes(undo, gone) == []
    undo_call(undo, call(1), call(2), force=True)  # what was kept is still there for who wants it
    assert (place.root / "a").read_bytes() == b"old a"


def test_one_recovers_at_a_time(place: Place):
    undo = killed_between(place)
    lock = undo.only_one()
    assert lock is not None
    assert recover_changes(undo, gone) == []
    lock.release()
    assert len(recover_changes(undo, gone)) == 1


def test_a_mark_that_went_with_the_power_is_not_needed_if_the_call_is_known(place: Place):
    undo = killed_between(place)
    os.unlink(place.root.parent / "store" / "undo" / "open" / call(1).hex())
    assert recover_changes(undo, gone) == []
    (found,) = recover_changes(undo, gone, calls=[call(1)])
    assert found.restored == 1
    assert (place.root / "a").read_bytes() == b"old a"


def test_a_mark_without_data_goes(place: Place):
    disk = MemoryDisk()
    disk.make_folder("undo/open")
    disk.open(f"undo/open/{call(1).hex()}", create=True).close()
    disk.open(f"undo/open/{call(2).hex()}", create=True).close()
    disk.open(f"undo/{call(2).hex()}", create=True).put(bytes(4096), 0)  # as a power loss leaves it
    undo = UndoStore(disk)
    assert recover_changes(undo, gone) == []
    assert undo.unfinished() == []


def test_data_that_cannot_be_read_is_said_once(place: Place):
    undo = killed_between(place)
    path = place.root.parent / "store" / "undo" / call(1).hex()
    path.write_bytes(b"garbage" * 100)
    (found,) = recover_changes(undo, gone)
    assert found.words is not None and "damaged" in found.words
    assert recover_changes(undo, gone) == []


def test_a_cut_file_of_a_change_that_had_not_begun_leaves_the_tree_as_it_is(place: Place):
    undo = killed_between(place)
    recover_changes(undo, gone)
    shown = seen(place.root)
    disk = MemoryDisk()
    unfinished = UndoStore(disk)
    writer = unfinished.begin(call(1), roots=place.roots)
    for number in range(3):
        entry = entries.Staging(number, entries.pack_target(place.at(f".custody-{number}")))
        writer.write(entry)
        writer.content(os.urandom(3000))
    writer.flush()
    data = disk.read_all(f"undo/{call(1).hex()}") or b""
    for length in range(0, len(data), 97):
        disk.replace(f"undo/{call(1).hex()}", data[:length])
        if f"{call(1).hex()}" not in disk.names("undo/open"):
            disk.open(f"undo/open/{call(1).hex()}", create=True).close()
        found = recover_changes(unfinished, gone)
        assert all(one.restored == 0 and not one.left for one in found)
        assert seen(place.root) == shown
        assert unfinished.unfinished() == []


def test_a_tree_that_is_gone_altogether_does_not_stop_anything(place: Place):
    undo = killed_between(place)
    shown = seen(place.root)
    place.root.rename(place.root.parent / "elsewhere")
    (found,) = recover_changes(undo, gone)
    assert found.left == (f"{place.root}/a", f"{place.root}/b") or found.words is not None
    (place.root.parent / "elsewhere").rename(place.root)
    assert {name for name in seen(place.root) if not name.startswith(".custody")} == {
        name for name in shown if not name.startswith(".custody")
    }


def test_what_a_dead_process_watched_is_kept_as_it_stands(place: Place, undo: UndoStore):
    place.make("changed", b"old")
    place.make("same", b"same")
    shown = seen(place.root)
    observed = Observed(undo, call(1), roots=place.roots)
    for name in ("changed", "same", "new"):
        observed.keep(place.at(name))
    observed.ready()
    (place.root / "changed").write_bytes(b"new")
    (place.root / "new").write_bytes(b"new")
    assert recover_changes(undo, here) == []
    assert recover_changes(undo, gone) == [RolledBack(call_id=call(1), restored=0, left=(), sealed=True)]
    assert (place.root / "changed").read_bytes() == b"new"
    undo_call(undo, call(1), call(2))
    after = seen(place.root)
    assert after.keys() == shown.keys()
    assert after["changed"] == shown["changed"]


def test_nothing_is_kept_of_what_a_dead_process_watched_in_vain(place: Place, undo: UndoStore):
    place.make("same", b"same")
    observed = Observed(undo, call(1), roots=place.roots)
    observed.keep(place.at("same"))
    (found,) = recover_changes(undo, gone)
    assert found.sealed
    assert undo.read(call(1)) is None
