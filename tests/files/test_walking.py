"""A walk visits every entry once, follows no link, keeps its bounds; more files take no more memory."""

import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
from tests.files.conftest import as_ordinary_user, leaving_nothing_open

from custody.files import Entry, TooDeep, TooMany, walk

MEMORY_BYTES_MAX = 256 * 1024
"""Of a walk through any number of entries; a list of five thousand names alone is more."""


def tree(folder: Path) -> None:
    (folder / "a/b/c").mkdir(parents=True)
    (folder / "a/file").write_text("x")
    (folder / "a/b/c/deep").write_text("xy")
    (folder / "link").symlink_to("a")
    (folder / "out").symlink_to("/etc")
    os.mkfifo(folder / "pipe")


def everything(folder_fd: int, **bounds: object) -> list[Entry]:
    return list(walk(folder_fd, **{"entries_max": 1000, "depth_max": 20, **bounds}))  # pyright: ignore[reportArgumentType]


def test_every_entry_comes_once_and_before_what_is_below_it(tmp_path: Path, folder_fd: int):
    tree(tmp_path)
    entries = everything(folder_fd)
    assert {entry.relative: entry.kind for entry in entries} == {
        "a": "directory",
        "a/b": "directory",
        "a/b/c": "directory",
        "a/b/c/deep": "file",
        "a/file": "file",
        "link": "link",
        "out": "link",
        "pipe": "other",
    }
    assert len(entries) == 8
    names = [entry.relative for entry in entries]
    assert all(
        names.index(name) > names.index(os.path.dirname(name)) for name in names if os.path.dirname(name)
    )
    sizes = {entry.relative: entry.stat.st_size for entry in entries}
    assert sizes["a/b/c/deep"] == 2


def test_a_folder_held_without_being_readable_is_walked_too(tmp_path: Path):
    tree(tmp_path)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert len(everything(fd)) == 8
    finally:
        os.close(fd)


def test_what_is_skipped_is_left_out_with_what_is_below(tmp_path: Path, folder_fd: int):
    tree(tmp_path)
    asked: list[str] = []

    def skip(relative: str) -> bool:
        asked.append(relative)
        return relative in ("a/b/", "link")

    assert sorted(entry.relative for entry in everything(folder_fd, skip=skip)) == [
        "a",
        "a/file",
        "out",
        "pipe",
    ]
    assert sorted(asked) == ["a/", "a/b/", "a/file", "link", "out", "pipe"]


def test_more_entries_than_may_be_visited_are_told_after_those_that_may(tmp_path: Path, folder_fd: int):
    tree(tmp_path)
    assert len(everything(folder_fd, entries_max=8)) == 8
    walking = walk(folder_fd, entries_max=7, depth_max=20)
    assert len([next(walking) for _ in range(7)]) == 7
    with pytest.raises(TooMany, match="more than 7 entries") as caught:
        next(walking)
    assert caught.value.details == {"entries_max": 7}


def test_a_folder_too_deep_is_told_and_not_entered(tmp_path: Path, folder_fd: int):
    tree(tmp_path)
    assert len(everything(folder_fd, depth_max=4)) == 8
    with pytest.raises(TooDeep) as caught:
        everything(folder_fd, depth_max=3)
    assert caught.value.details == {"depth_max": 3, "relative": "a/b/c"}


def test_an_entry_that_vanishes_meanwhile_is_left_out(tmp_path: Path, folder_fd: int):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text("x")
    seen: list[str] = []
    for entry in walk(folder_fd, entries_max=100, depth_max=5):
        seen.append(entry.relative)
        for name in ("one", "two", "three"):
            if (tmp_path / name).exists():
                (tmp_path / name / "inside").unlink(missing_ok=True)
                (tmp_path / name).rmdir()
    assert len(seen) == 1


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path: Path, folder_fd: int):
    outside = tmp_path / "outside"
    (tmp_path / "root/folder").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("x")
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    try:
        seen: list[str] = []
        for entry in walk(fd, entries_max=100, depth_max=5):
            seen.append(entry.relative)
            (tmp_path / "root/folder").rmdir()
            (tmp_path / "root/folder").symlink_to(outside)
    finally:
        os.close(fd)
    assert seen == ["folder"]


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, folder_fd: int):
    tree(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "a/b").chmod(0)
    try:
        with pytest.raises(PermissionError):
            as_ordinary_user(lambda: everything(folder_fd))
        told: list[str] = []
        entries = as_ordinary_user(
            lambda: everything(folder_fd, on_error=lambda relative, _: told.append(relative))
        )
    finally:
        (tmp_path / "a/b").chmod(0o755)
    assert told == ["a/b"]
    assert "a/file" in {entry.relative for entry in entries}


def test_names_that_are_no_utf8_come_as_they_are(tmp_path: Path, folder_fd: int):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).write_text("x")
    (entry,) = everything(folder_fd)
    assert os.fsencode(entry.relative) == b"caf\xe9"


def test_a_walk_that_is_broken_off_leaves_nothing_open(tmp_path: Path, folder_fd: int):
    tree(tmp_path)
    with leaving_nothing_open():
        walking = walk(folder_fd, entries_max=100, depth_max=10)
        while next(walking).relative != "a/b/c":
            pass
        walking.close()
        with pytest.raises(TooDeep):
            everything(folder_fd, depth_max=2)


def fill(folder: Path, count: int) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for number in range(count):
        os.mknod(f"{number:06}", dir_fd=fd)
    os.close(fd)


def memory_of_a_walk(folder: Path) -> tuple[int, int]:
    """How many entries there are, and how many bytes were held at most while they were visited."""
    fd = os.open(folder, os.O_RDONLY)
    tracemalloc.start()
    try:
        count = sum(1 for _ in walk(fd, entries_max=1_000_000, depth_max=5))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        os.close(fd)
        shutil.rmtree(folder)


def test_a_folder_of_five_thousand_files_takes_no_memory(tmp_path: Path):
    fill(tmp_path, 5_000)
    count, held_bytes = memory_of_a_walk(tmp_path)
    assert count == 5_000
    assert held_bytes < MEMORY_BYTES_MAX


@pytest.mark.long
def test_a_folder_of_a_hundred_thousand_files_takes_no_memory_either(tmp_path: Path):
    fill(tmp_path, 100_000)
    count, held_bytes = memory_of_a_walk(tmp_path)
    assert count == 100_000
    assert held_bytes < MEMORY_BYTES_MAX
