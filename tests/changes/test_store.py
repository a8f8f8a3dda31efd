"""What lies in a store's `undo/`: nothing readable, nothing without end, and damage is named."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.changes.conftest import Place
from tests.changes.trees import call, seen, standing

from custody.changes import (
    UndoStore,
    appended_at,
    carry_out,
    file_at,
    link_at,
    nothing_at,
    recover_changes,
    undo_call,
)
from custody.errors import UndoGone
from custody.journal import Disk, MemoryDisk, RealDisk
from custody.records import now_us

SENTINEL = b"sentinel-that-must-not-be-found"


def gone(pid: int, start_ticks: int) -> bool:
    return False


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() + os.fsencode(path) for path in folder.rglob("*") if path.is_file())


# -- what can be read of it -------------------------------------------------------------------------------


def test_no_content_name_or_path_can_be_read_on_the_disk(place: Place, tmp_path: Path):
    undo = UndoStore(RealDisk(tmp_path / "store"))
    name = SENTINEL.decode()
    place.make(name, SENTINEL * 100)
    log = place.make("log", SENTINEL)
    wanted = [
        file_at(place.at(name), b"new" + SENTINEL),
        link_at(place.at("link"), name),
        appended_at(place.at("log"), standing(place.root, log), SENTINEL),
    ]
    carry_out(undo, call(1), wanted, roots=place.roots)
    undo_call(undo, call(1), call(2))
    found = everything_in(tmp_path / "store")
    assert len(found) > 3000
    for secret in (SENTINEL, SENTINEL[:12], os.fsencode(place.root), b"log"):
        assert secret not in found
    assert SENTINEL in everything_in(place.root)


def test_only_the_owner_may_look_at_it(place: Place, tmp_path: Path):
    undo = UndoStore(RealDisk(tmp_path / "store"))
    carry_out(undo, call(1), [file_at(place.at("f"), b"x")], roots=place.roots)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*") if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})


def test_nothing_is_made_and_cryptography_is_not_loaded_before_something_changes(tmp_path: Path):
    program = (
        "import sys; from custody.journal import RealDisk; from custody.changes import *;"
        "undo = UndoStore(RealDisk(sys.argv[1])); undo.read(bytes(8)); undo.unfinished();"
        "recover_changes(undo, lambda pid, ticks: False); print('cryptography' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "store"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"
    assert list((tmp_path / "store").iterdir()) == []


def test_the_key_is_made_once_by_many_at_once(place: Place, tmp_path: Path):
    started = threading.Barrier(8)
    failed: list[BaseException] = []

    def change(number: int) -> None:
        undo = UndoStore(RealDisk(tmp_path / "store"))
        started.wait(60)
        try:
            carry_out(undo, call(number), [file_at(place.at(f"f{number}"), b"x")], roots=place.roots)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [str(error) for error in failed] == []
    undo = UndoStore(RealDisk(tmp_path / "store"))
    for number in range(8):
        undo_call(undo, call(number), call(100 + number))
    assert list(place.root.iterdir()) == []
    assert len((tmp_path / "store/keys/undo").read_bytes()) == 32


def test_threads_share_one_store(place: Place, undo: UndoStore):
    def change(number: int) -> None:
        for again in range(5):
            carry_out(undo, call(number), [file_at(place.at(f"f{number}"), b"%d" % again)], roots=place.roots)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(4):
        undo_call(undo, call(number), call(100 + number))
    assert list(place.root.iterdir()) == []


# -- damage -----------------------------------------------------------------------------------------------


@pytest.fixture
def kept(place: Place) -> tuple[MemoryDisk, UndoStore, bytearray]:
    """A finished call with two chunks of old content, and the bytes of its undo file."""
    disk = MemoryDisk()
    undo = UndoStore(disk)
    place.make("f", os.urandom(1024 * 1024 + 1000))
    carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots)
    return disk, undo, bytearray(disk.read_all("undo/0000000000000001") or b"")


def failure(act: Callable[[], object]) -> UndoGone | None:
    try:
        act()
    except UndoGone as error:
        return error
    return None


def test_any_flipped_bit_is_named_or_does_no_harm(
    place: Place, kept: tuple[MemoryDisk, UndoStore, bytearray]
):
    disk, undo, data = kept
    shown = seen(place.root)
    places = [*range(0, 64, 5), *range(64, 300, 9), *range(300, len(data), len(data) // 40), len(data) - 1]
    harmless = 0
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        disk.replace("undo/0000000000000001", bytes(damaged))
        error = failure(lambda at=at: undo_call(undo, call(1), call(1000 + at)))
        if error is not None:
            assert "damaged" in str(error)
            assert seen(place.root) == shown
        else:  # behind `ready`: only says where things stood, which is looked at anyway
            harmless += 1
            undo_call(undo, call(1000 + at), call(2000 + at))
    assert harmless < len(places) // 4
    assert undo.unfinished() == []


def test_a_file_cut_anywhere_is_named_or_does_no_harm(
    place: Place, kept: tuple[MemoryDisk, UndoStore, bytearray]
):
    disk, undo, data = kept
    shown = seen(place.root)
    for length in [*range(0, 400, 7), *range(400, len(data), len(data) // 30)]:
        disk.replace("undo/0000000000000001", bytes(data[:length]))
        with pytest.raises(UndoGone):
            undo_call(undo, call(1), call(1000 + length))
        assert seen(place.root) == shown


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\0\0\1", os.urandom(3)], ids=["zeros", "header", "garbage"])
def test_what_stands_behind_the_end_of_a_finished_call_does_not_count(
    place: Place, kept: tuple[MemoryDisk, UndoStore, bytearray], tail: bytes
):
    disk, undo, data = kept
    disk.replace("undo/0000000000000001", bytes(data) + tail)
    undo_call(undo, call(1), call(2))
    assert (place.root / "f").stat().st_size == 1024 * 1024 + 1000


def test_another_key_or_no_key_is_named(place: Place, kept: tuple[MemoryDisk, UndoStore, bytearray]):
    disk, _, _ = kept
    disk.replace("keys/undo", os.urandom(32))
    with pytest.raises(UndoGone, match="damaged"):
        undo_call(UndoStore(disk), call(1), call(2))
    disk.remove("keys/undo")
    with pytest.raises(UndoGone, match="key"):
        undo_call(UndoStore(disk), call(1), call(2))
    assert (place.root / "f").read_bytes() == b"new"


def test_undo_data_of_one_call_is_not_taken_for_that_of_another(
    place: Place, kept: tuple[MemoryDisk, UndoStore, bytearray]
):
    disk, undo, data = kept
    disk.replace("undo/0000000000000002", bytes(data))
    with pytest.raises(UndoGone, match="damaged"):
        undo_call(undo, call(2), call(3))


# -- how much and how long --------------------------------------------------------------------------------


def fill(undo: UndoStore, place: Place, numbers: range, bytes_each: int) -> None:
    for number in numbers:
        path = place.make(f"f{number}", os.urandom(bytes_each))
        carry_out(undo, call(number), [nothing_at(place.at(path.name))], roots=place.roots)


def make_older(disk: Disk, number: int, days: float) -> None:
    """As if the call had been made so long ago: what is sealed cannot be opened then, but its age be read."""
    data = bytearray(disk.read_all(f"undo/{call(number).hex()}") or b"")
    data[24:32] = (now_us() - int(days * 86_400_000_000)).to_bytes(8, "big")
    disk.replace(f"undo/{call(number).hex()}", bytes(data))


def test_the_oldest_go_when_there_is_too_much(place: Place):
    undo = UndoStore(MemoryDisk(), bytes_max=100_000)
    fill(undo, place, range(20), 10_000)
    undo.keep_within_bounds()
    assert undo.total_bytes() <= 100_000
    left = sorted(undo.call_ids())
    assert left == [call(number) for number in range(20 - len(left), 20)]
    assert 5 <= len(left) <= 8
    with pytest.raises(UndoGone, match="too long ago"):
        undo_call(undo, call(0), call(100))
    undo_call(undo, call(19), call(100))


def test_it_is_kept_within_bounds_without_anybody_asking(place: Place):
    undo = UndoStore(MemoryDisk(), bytes_max=200_000)
    fill(undo, place, range(60), 10_000)
    assert undo.total_bytes() <= 200_000 + 20_000


def test_several_processes_share_the_bounds(place: Place):
    disk = MemoryDisk()
    stores = [UndoStore(disk, bytes_max=200_000) for _ in range(3)]
    for number in range(60):
        fill(stores[number % 3], place, range(number, number + 1), 10_000)
    assert stores[0].total_bytes() <= 200_000 + 3 * 20_000


def test_what_is_too_old_goes(place: Place):
    disk = MemoryDisk()
    undo = UndoStore(disk)
    fill(undo, place, range(5), 100)
    for number, days in ((0, 8), (1, 7.1), (2, 6.9)):
        make_older(disk, number, days)
    assert undo.keep_within_bounds() == [call(0), call(1)]
    assert sorted(undo.call_ids()) == [call(2), call(3), call(4)]


def test_a_call_that_is_still_at_it_keeps_its_data(place: Place):
    disk = MemoryDisk()
    undo = UndoStore(disk, bytes_max=10_000)
    writer = undo.begin(call(1), roots=place.roots)
    writer.content(os.urandom(50_000))
    writer.flush()
    make_older(disk, 1, 30)
    assert undo.keep_within_bounds() == []
    writer.abandon()
    assert undo.call_ids() == set()


def test_all_parts_of_a_call_go_together(place: Place):
    disk = MemoryDisk()
    undo = UndoStore(disk)
    for number in range(5):
        carry_out(undo, call(1), [file_at(place.at("f"), b"%d" % number)], roots=place.roots)
    for part in range(5):
        name = f"undo/{call(1).hex()}" + (f".{part}" if part else "")
        data = bytearray(disk.read_all(name) or b"")
        data[24:32] = bytes(8)
        disk.replace(name, bytes(data))
    assert undo.keep_within_bounds() == [call(1)]
    assert undo.parts(call(1)) == 0


def test_counting_is_rare(place: Place):
    from custody.journal.disk_faulty import FaultyDisk

    disk = FaultyDisk(MemoryDisk())
    undo = UndoStore(disk)
    fill(undo, place, range(3), 100)
    counted = len([one for one in disk.operations if one == ("replace", "undo/bounds")])
    fill(undo, place, range(3, 60), 100)
    again = UndoStore(disk)
    fill(again, place, range(60, 70), 100)
    assert [one for one in disk.operations if one == ("replace", "undo/bounds")] == [
        ("replace", "undo/bounds")
    ] * counted
    assert ("names", "undo") not in disk.operations[-100:]


def test_what_nobody_can_read_is_the_first_to_go(place: Place):
    disk = MemoryDisk()
    undo = UndoStore(disk, bytes_max=200_000)
    fill(undo, place, range(2), 100)
    disk.replace(f"undo/{call(9).hex()}", b"garbage")
    assert undo.keep_within_bounds() == [call(9)]


def test_a_file_that_is_just_being_begun_is_left_alone(place: Place):
    disk = MemoryDisk()
    undo = UndoStore(disk)
    fill(undo, place, range(1), 100)
    disk.open(f"undo/{call(9).hex()}", create=True).close()
    assert undo.keep_within_bounds() == []
    assert undo.read(call(9)) is None


def test_removing_forgets_a_call_whole(place: Place, undo: UndoStore):
    for number in range(3):
        carry_out(undo, call(1), [file_at(place.at("f"), b"%d" % number)], roots=place.roots)
    undo.remove(call(1))
    undo.remove(call(1))
    assert undo.parts(call(1)) == 0
    assert undo.total_bytes() == 0


# -- parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [*range(20), 31, 32, 33, 100])
def test_parts_are_counted_without_listing(place: Place, count: int):
    undo = UndoStore(MemoryDisk())
    for _ in range(count):
        writer = undo.begin(call(1), roots=())
        writer.ready()
        writer.done([], [])
    assert undo.parts(call(1)) == count
    assert recover_changes(undo, gone) == []
