"""Somebody else swaps, adds and ends while files are being changed."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.tools.trees import Place, temporary_files, tree

RENAME_EXCHANGE = 2
TRIES = [pytest.param(20, id="few"), pytest.param(300, id="many", marks=pytest.mark.long)]


@pytest.fixture(params=TRIES)
def tries(request):
    return request.param


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Two names change what they stand for all the time; neither is ever free."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    over = threading.Event()
    errors: list[int] = []

    def swap() -> None:
        while not over.is_set():
            if libc.renameat2(-100, names[0], -100, names[1], RENAME_EXCHANGE) != 0:
                errors.append(ctypes.get_errno())

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert set(errors) <= {2}, "only what was deleted cannot be swapped"


CALLS = {
    "file_write": lambda path, number: {"path": path, "content": f"{number}"},
    "append": lambda path, number: {"path": path, "content": f"{number}", "append": True},
    "file_edit": lambda path, number: {"path": path, "edits": [{"old": "secret", "new": "secret!"}]},
    "file_delete": lambda path, number: {"path": path, "recursive": True},
}


def play(place: Place, tool: str, path: str, tries: int, fill: Callable[[], None] = lambda: None) -> set[str]:
    """The outcomes of one call after another; `fill` is called before each."""
    outcomes: set[str] = set()
    with place.open() as runtime:
        for number in range(tries):
            fill()
            name = "file_write" if tool == "append" else tool
            outcomes.add(runtime.call(name, CALLS[tool](path, number)).outcome)
    return outcomes


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives what puts a file `a` into the folder, by whatever name it goes at the moment."""
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def fill() -> None:
        fd = os.open("a", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder_fd)
        os.write(fd, b"secret")
        os.close(fd)

    try:
        yield fill
    finally:
        os.close(folder_fd)


@pytest.mark.parametrize("tool", CALLS)
def test_a_folder_swapped_for_a_link_never_leads_outside(place, tool, tries):
    folder, link = place.work / "folder", place.work / "link"
    folder.mkdir()
    link.symlink_to(place.outside)
    (place.outside / "a").write_text("secret")
    before = tree(place.outside)
    with filling(folder) as fill, swapping(folder, link):
        outcomes = play(place, tool, "folder/a", tries, fill)
    assert tree(place.outside) == before
    assert outcomes <= {"succeeded", "failed", "rejected"}
    assert temporary_files(place.work) == []


@pytest.mark.parametrize("tool", CALLS)
def test_a_file_swapped_for_a_link_never_leads_outside(place, tool, tries):
    file, link = place.work / "file", place.work / "link"
    file.write_text("secret")
    link.symlink_to(place.outside / "a")
    (place.outside / "a").write_text("secret")
    before = tree(place.outside)
    with swapping(file, link):
        outcomes = play(place, tool, "file", tries)
    assert tree(place.outside) == before
    assert outcomes <= {"succeeded", "failed", "rejected"}
    assert temporary_files(place.work) == []


def test_a_folder_moved_out_of_the_roots_takes_nothing_with_it(place, tries):
    """The folder is moved to outside and back: what is written stands in the folder, or the call fails."""
    folder, away = place.work / "folder", place.outside / "folder"
    folder.mkdir()
    away.mkdir()
    with swapping(folder, away):
        outcomes = play(place, "file_write", "folder/a", tries)
    assert outcomes <= {"succeeded", "failed", "rejected"}
    assert temporary_files(place.work) + temporary_files(place.outside) == []


def test_a_call_that_runs_out_of_time_has_done_all_of_it_or_nothing(place):
    many = place.work / "many"
    many.mkdir()
    for number in range(400):
        (many / f"{number}").write_text(f"{number}")
    before = tree(place.work)
    outcomes: list[str] = []
    with place.open() as runtime:
        for milliseconds in (1, 5, 10, 20, 40, 80, 160, 320, 30_000):
            call = runtime.call(
                "file_delete", {"path": "many", "recursive": True}, timeout=milliseconds / 1000
            )
            outcomes.append(call.outcome)
            if call.outcome == "succeeded":
                assert not many.exists()
                break
            assert call.outcome == "timed_out"
            assert tree(place.work) == before
    assert outcomes[0] == "timed_out" and outcomes[-1] == "succeeded"
