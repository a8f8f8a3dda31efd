"""Disks that are full or fail, under the undo data and under the files: nothing is half done or left."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.changes.conftest import Place
from tests.changes.trees import call, seen, standing, temporaries
from tests.conftest import Mounted

from custody.changes import (
    UndoStore,
    Wanted,
    appended_at,
    carry_out,
    file_at,
    folder_at,
    nothing_at,
    recover_changes,
    undo_call,
)
from custody.errors import CustodyError, ToolError
from custody.journal import MemoryDisk, RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk


def grow(place: Place) -> list[Wanted]:
    place.make("written", b"old" * 1000)
    place.make("gone/deep/f", b"old")
    log = place.make("log", b"line\n")
    os.utime(place.root, ns=(10**18, 10**18))
    return [
        file_at(place.at("written"), b"new"),
        file_at(place.at("made"), b"new"),
        folder_at(place.at("folder")),
        nothing_at(place.at("gone/deep/f")),
        nothing_at(place.at("gone/deep")),
        nothing_at(place.at("gone")),
        appended_at(place.at("log"), standing(place.root, log), b"another\n"),
    ]


def operations(folder: Path) -> int:
    place = Place(folder / "measured")
    place.root.mkdir()
    disk = FaultyDisk(MemoryDisk())
    carry_out(UndoStore(disk), call(1), grow(place), roots=place.roots)
    return len(disk.operations)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("times", [1, None], ids=["once", "from then on"])
def test_wherever_the_store_fails_the_change_is_whole_or_not_made(
    folder: Path, error: int, times: int | None
):
    made = 0
    for at in range(1, operations(folder) + 1):
        place = Place(folder / f"tree{at}")
        place.root.mkdir()
        wanted = grow(place)
        shown = seen(place.root)
        disk = FaultyDisk(MemoryDisk(), Fault(at=at, times=times, error=error))
        undo = UndoStore(disk)
        try:
            carry_out(undo, call(1), wanted, roots=place.roots)
        except ToolError:
            assert seen(place.root) == shown
            disk.heal()
            recover_changes(undo, lambda pid, start_ticks: False)
            assert undo.read(call(1)) is None
        else:
            made += 1
            disk.heal()
            undo_call(undo, call(1), call(2))
            recover_changes(undo, lambda pid, start_ticks: False)
        assert seen(place.root) == shown
        assert temporaries(place.root) == []
        assert undo.unfinished() == []
    assert made >= 1


def test_what_could_not_be_said_at_the_end_is_found_out_when_the_store_is_opened(place: Place):
    disk = FaultyDisk(MemoryDisk())
    undo = UndoStore(disk)
    wanted = grow(place)
    shown = seen(place.root)
    disk.inject(Fault(operation="put", at=3, error=errno.ENOSPC))  # staging, ready, done
    assert len(carry_out(undo, call(1), wanted, roots=place.roots)) == 7
    disk.heal()
    assert undo.unfinished() == [(call(1), 0)]
    (found,) = recover_changes(undo, lambda pid, start_ticks: False)
    assert (found.sealed, found.restored, found.left) == (True, 0, ())
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown


@pytest.fixture
def small(mounted: Mounted) -> Path:
    return mounted("tmpfs", "size=2m")


def test_a_full_disk_in_the_middle_of_a_file_leaves_the_old_one(small: Path, undo: UndoStore):
    place = Place(small)
    place.make("a", b"old")
    place.make("b", b"old")
    shown = seen(small)
    wanted = [file_at(place.at("a"), b"new"), file_at(place.at("b"), bytes(3 * 1024 * 1024))]
    with pytest.raises(OSError, match="No space left"):
        carry_out(undo, call(1), wanted, roots=place.roots)
    assert seen(small) == shown
    assert undo.unfinished() == []


def test_a_full_disk_in_the_middle_of_an_append_leaves_the_old_end(small: Path, undo: UndoStore):
    place = Place(small)
    path = place.make("log", b"old\n")
    shown = seen(small)
    wanted = [
        file_at(place.at("new"), b"x"),
        appended_at(place.at("log"), standing(small, path), bytes(3 * 1024 * 1024)),
    ]
    with pytest.raises(OSError, match="No space left"):
        carry_out(undo, call(1), wanted, roots=place.roots)
    assert seen(small) == shown
    assert undo.unfinished() == []


def test_undo_data_that_finds_no_room_leaves_the_file_alone(small: Path, place: Place):
    undo = UndoStore(RealDisk(small / "store"))
    place.make("large", os.urandom(3 * 1024 * 1024))
    shown = seen(place.root)
    with pytest.raises(ToolError, match="could not be kept in the store: No space left"):
        carry_out(undo, call(1), [nothing_at(place.at("large"))], roots=place.roots)
    assert seen(place.root) == shown
    assert undo.unfinished() == []
    assert os.listdir(small / "store" / "undo" / "open") == []
    assert not undo.call_ids()  # and takes up none


def test_a_full_disk_cannot_be_made_fuller_by_taking_back(small: Path):
    """What was deleted does not fit any more: it stays deleted, and can be taken back later."""
    place = Place(small)
    undo = UndoStore(MemoryDisk())
    place.make("large", os.urandom(1024 * 1024 + 500_000))
    shown = seen(small)
    carry_out(undo, call(1), [nothing_at(place.at("large"))], roots=place.roots)
    empty = seen(small)
    carry_out(undo, call(2), [file_at(place.at("other"), bytes(1024 * 1024))], roots=place.roots)
    filled = seen(small)
    with pytest.raises(OSError, match="No space left"):
        undo_call(undo, call(1), call(3))
    assert seen(small) == filled
    undo_call(undo, call(2), call(4))
    assert seen(small) == empty
    undo_call(undo, call(1), call(5))
    assert seen(small) == shown


LIMITED = """
import os, resource, signal, sys
from custody.changes import UndoStore, carry_out, file_at
from custody.files.reach import Target
from custody.journal import MemoryDisk

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
wanted = [file_at(Target(sys.argv[1], name), os.urandom(size)) for name, size in (("a", 10), ("b", 200_000))]
try:
    carry_out(UndoStore(MemoryDisk()), bytes(8), wanted, roots=(sys.argv[1],))
except OSError as error:
    print(error.strerror)
"""


def test_a_file_that_may_not_grow_so_large_is_not_there_in_part(place: Place):
    place.make("b", b"old")
    shown = seen(place.root)
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, os.fspath(place.root)], capture_output=True, text=True, timeout=60
    )
    assert (said.stdout, said.stderr) == ("File too large\n", "")
    assert seen(place.root) == shown


def test_a_read_only_file_system_is_a_clear_refusal(small: Path, undo: UndoStore):
    place = Place(small)
    place.make("f", b"old")
    shown = seen(small)
    subprocess.run(["mount", "-o", "remount,ro", os.fspath(small)], check=True)
    with pytest.raises((OSError, CustodyError), match="Read-only"):
        carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots)
    assert seen(small) == shown
    assert undo.unfinished() == []
