"""Many files at once, in several folders: staged in threads, and still all or nothing."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.changes.conftest import Place
from tests.changes.crashing import ENDED, KILLED, die_at
from tests.changes.trees import A_TIME_NS, call, seen, temporaries

from custody.changes import UndoStore, Wanted, carry_out, file_at, link_at, recover_changes, undo_call
from custody.changes.apply import STAGED_IN_TURN_MAX
from custody.errors import ToolError
from custody.journal import RealDisk

FOLDERS = 4
FILES = STAGED_IN_TURN_MAX // FOLDERS + 4  # in each
NEVER = 1 << 60
"""Lines; what dies here does so by itself."""


def grow(place: Place) -> None:
    for folder in range(FOLDERS):
        for file in range(FILES):
            place.make(f"d{folder}/f{file}", b"old %d %d" % (folder, file))
    for path in (*place.root.rglob("*"), place.root):
        os.utime(path, ns=(A_TIME_NS, A_TIME_NS))


def all_anew(place: Place, at: int = 0, act: Callable[[], None] = lambda: None) -> list[Wanted]:
    """Another content for each file, and links beside them; `act` is done when the n-th content is asked
    for."""
    asked = iter(range(1, 1 << 20))

    def content() -> Iterator[bytes]:
        if next(asked) == at:
            act()
        yield b"new"

    files = [
        file_at(place.at(f"d{folder}/f{file}"), content) for folder in range(FOLDERS) for file in range(FILES)
    ]
    return [*files, *(link_at(place.at(f"d{folder}/link"), "f0") for folder in range(FOLDERS))]


def gone(pid: int, start_ticks: int) -> bool:
    return False


def test_all_of_them_are_changed_and_taken_back(place: Place, undo: UndoStore):
    grow(place)
    os.link(place.root / "d0" / "f0", place.root / "d1" / "again")
    shown = seen(place.root)
    changes = carry_out(undo, call(1), all_anew(place), roots=place.roots)
    assert len(changes) == FOLDERS * (FILES + 1)
    files = [path for path in place.root.rglob("f*") if path.is_file()]
    assert {path.read_bytes() for path in files} == {b"new"} and len(files) == FOLDERS * FILES
    assert temporaries(place.root) == []
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown


@pytest.mark.parametrize("at", [1, FILES, FOLDERS * FILES])
def test_one_that_fails_leaves_all_as_they_were(place: Place, undo: UndoStore, at: int):
    def fail() -> None:
        raise OSError(errno.EIO, "the source is gone")

    grow(place)
    shown = seen(place.root)
    with pytest.raises(OSError, match="the source is gone"):
        carry_out(undo, call(1), all_anew(place, at, fail), roots=place.roots)
    assert seen(place.root) == shown
    assert undo.unfinished() == []


def test_asked_to_end_in_the_midst_of_them_nothing_is_changed(place: Place, undo: UndoStore):
    stopped: list[bool] = []
    grow(place)
    shown = seen(place.root)
    wanted = all_anew(place, FILES, lambda: stopped.append(True))
    with pytest.raises(ToolError, match="asked to end"):
        carry_out(undo, call(1), wanted, roots=place.roots, stop=lambda: bool(stopped))
    assert seen(place.root) == shown
    assert undo.unfinished() == []


@pytest.mark.parametrize("at", [1, FILES + 1, FOLDERS * FILES])
def test_killed_in_the_midst_of_them_nothing_is_changed(place: Place, folder: Path, at: int):
    undo = UndoStore(RealDisk(folder / "store"))
    grow(place)
    shown = seen(place.root)
    wanted = all_anew(place, at, lambda: os._exit(KILLED))
    assert die_at(NEVER, lambda: carry_out(undo, call(1), wanted, roots=place.roots)) == KILLED
    assert all(one.words is None and not one.left for one in recover_changes(undo, gone))
    assert seen(place.root) == shown
    assert undo.unfinished() == []
    assert die_at(NEVER, lambda: carry_out(undo, call(2), all_anew(place), roots=place.roots)) == ENDED
