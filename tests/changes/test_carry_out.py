"""What a change does, what it says of it, and that it does all of it or nothing."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.changes.conftest import Place
from tests.changes.trees import call, keeps_attributes, seen, standing, temporaries

from custody.changes import (
    UndoStore,
    Wanted,
    appended_at,
    carry_out,
    file_at,
    folder_at,
    link_at,
    missing_folders,
    mode_at,
    nothing_at,
    tree_removed,
    undo_call,
)
from custody.errors import ToolError, UndoConflict
from custody.files.state import State
from custody.records import Change, Version

OLD_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of b"test"


# -- what it does ---------------------------------------------------------------------------------------


def test_a_new_file_is_there_and_told(place: Place, undo: UndoStore):
    changes = carry_out(undo, call(1), [file_at(place.at("new"), b"test")], roots=place.roots)
    mode = stat.S_IMODE((place.root / "new").stat().st_mode)
    assert (place.root / "new").read_bytes() == b"test"
    assert mode == 0o666 & ~_umask()
    after = Version(bytes=4, sha256=OLD_SHA256, mode=f"{mode:04o}")
    path = str(place.root / "new")
    assert changes == (Change(path=path, change="created", kind="file", before=None, after=after),)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_file_written_over_keeps_mode_owner_and_attributes(place: Place, undo: UndoStore):
    path = place.make("f", mode=0o751)
    with_attributes = keeps_attributes(place.root)
    if with_attributes:
        os.setxattr(path, "user.colour", b"red")
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
        path.chmod(0o751)
    before = path.stat()
    (change,) = carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots)
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert not with_attributes or os.getxattr(path, "user.colour") == b"red"
    assert (change.change, change.undoable) == ("modified", True)


def test_several_files_folders_links_and_modes_change_at_once(place: Place, undo: UndoStore):
    place.make("gone")
    place.make("kept", mode=0o600)
    (place.root / "link").symlink_to("gone")
    wanted = [
        nothing_at(place.at("gone")),
        link_at(place.at("link"), "kept"),
        mode_at(place.at("kept"), standing(place.root, place.root / "kept"), 0o640),
        *missing_folders(place.at("one/two/f")),
        file_at(place.at("one/two/f"), b"deep"),
    ]
    changes = carry_out(undo, call(1), wanted, roots=place.roots)
    assert (place.root / "one/two/f").read_bytes() == b"deep"
    assert os.readlink(place.root / "link") == "kept"
    assert stat.S_IMODE((place.root / "kept").stat().st_mode) == 0o640
    assert not (place.root / "gone").exists()
    assert [(change.path.removeprefix(f"{place.root}/"), change.change) for change in changes] == [
        ("gone", "deleted"),
        ("link", "link"),
        ("kept", "mode"),
        ("one", "created"),
        ("one/two", "created"),
        ("one/two/f", "created"),
    ]


def test_an_append_rewrites_nothing(place: Place, undo: UndoStore):
    path = place.make("log", b"te")
    other = place.root / "another name"
    os.link(path, other)
    inode = path.stat().st_ino
    (change,) = carry_out(
        undo, call(1), [appended_at(place.at("log"), standing(place.root, path), b"st")], roots=place.roots
    )
    assert other.read_bytes() == b"test"
    assert path.stat().st_ino == inode
    assert change.after is not None and (change.after.bytes, change.after.sha256) == (4, OLD_SHA256)
    undo_call(undo, call(1), call(2))
    assert other.read_bytes() == b"te"
    assert path.stat().st_ino == inode
    undo_call(undo, call(2), call(3))
    assert other.read_bytes() == b"test"


def test_a_tree_goes_and_comes_back_with_everything_in_it(place: Place, undo: UndoStore):
    place.make("tree/a/b/c", b"deep")
    os.link(place.root / "tree/a/b/c", place.root / "tree/same")
    (place.root / "tree/dangling").symlink_to("nowhere")
    (place.root / "tree/empty").mkdir(mode=0o700)
    shown = seen(place.root)
    wanted = tree_removed(place.at("tree"), entries_max=100, depth_max=10)
    changes = carry_out(undo, call(1), wanted, roots=place.roots)
    assert not (place.root / "tree").exists()
    assert {change.change for change in changes} == {"deleted"} and len(changes) == 7
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown


def test_a_link_is_replaced_and_never_followed(place: Place, undo: UndoStore, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"not yours")
    (place.root / "link").symlink_to(outside)
    carry_out(undo, call(1), [file_at(place.at("link"), b"mine")], roots=place.roots)
    assert outside.read_bytes() == b"not yours"
    assert not (place.root / "link").is_symlink()
    undo_call(undo, call(1), call(2))
    assert os.readlink(place.root / "link") == os.fspath(outside)


def test_a_folder_on_the_way_that_became_a_link_leads_nowhere(place: Place, undo: UndoStore, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (place.root / "folder").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="folder"):
        carry_out(undo, call(1), [file_at(place.at("folder/f"), b"x")], roots=place.roots)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_file_may_become_a_folder_and_the_other_way_round(place: Place, undo: UndoStore):
    place.make("was a file", b"text")
    place.make("was a folder/inside", b"text")
    shown = seen(place.root)
    wanted = [
        folder_at(place.at("was a file")),
        file_at(place.at("was a file/f"), b"x"),
        file_at(place.at("was a folder"), b"x"),
        nothing_at(place.at("was a folder/inside")),
    ]
    carry_out(undo, call(1), wanted, roots=place.roots)
    assert (place.root / "was a file/f").read_bytes() == (place.root / "was a folder").read_bytes() == b"x"
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown


@pytest.mark.parametrize("name", [b"\xff\xfe", "e\u0301".encode(), b"a" * 255, b".custody", b"x..y"])
def test_any_name_a_file_may_have(place: Place, undo: UndoStore, name: bytes):
    path = os.path.join(os.fsencode(place.root), name)
    carry_out(undo, call(1), [file_at(place.at(os.fsdecode(name)), b"x")], roots=place.roots)
    assert os.listdir(os.fsencode(place.root)) == [name]
    carry_out(undo, call(2), [nothing_at(place.at(os.fsdecode(name)))], roots=place.roots)
    assert os.listdir(os.fsencode(place.root)) == []
    undo_call(undo, call(2), call(3))
    with open(path, "rb") as file:
        assert file.read() == b"x"
    undo_call(undo, call(1), call(4), force=True)
    assert os.listdir(os.fsencode(place.root)) == []


def test_what_is_no_file_may_go_and_is_told_as_gone_for_good(place: Place, undo: UndoStore):
    os.mkfifo(place.root / "fifo")
    (change,) = carry_out(undo, call(1), [nothing_at(place.at("fifo"))], roots=place.roots)
    assert (change.kind, change.change, change.undoable) == ("other", "deleted", False)
    with pytest.raises(UndoConflict, match="cannot be brought back"):
        undo_call(undo, call(1), call(2))


def test_the_same_content_again_is_no_change(place: Place, undo: UndoStore):
    place.make("f", b"same")
    shown = seen(place.root)
    assert carry_out(undo, call(1), [file_at(place.at("f"), b"same")], roots=place.roots) == ()
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown  # its time as well


def test_nothing_wanted_is_nothing_done(place: Place, undo: UndoStore):
    assert carry_out(undo, call(1), [], roots=place.roots) == ()
    assert undo.read(call(1)) is None


# -- all or nothing ---------------------------------------------------------------------------------------


def two_files(place: Place) -> list[Wanted]:
    place.make("a", b"old a")
    place.make("b", b"old b")
    return [
        file_at(place.at("a"), b"new a"),
        file_at(place.at("b"), b"new b"),
        file_at(place.at("c"), b"new c"),
        folder_at(place.at("d")),
    ]


class AtQuestion:
    """A `stop` that does something at its n-th question, and never says yes."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self._act = act

    def __call__(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self._act()
        return False


def questions(place: Place, undo: UndoStore) -> int:
    """How often a change of these files asks whether to stop."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return False

    carry_out(undo, call(90), two_files(place), roots=place.roots, stop=stop)
    undo_call(undo, call(90), call(91))
    return asked


def test_a_stop_before_anything_changed_changes_nothing(place: Place, undo: UndoStore):
    asked = questions(place, undo)
    shown = seen(place.root)
    for number in range(asked):
        stop = iter([False] * number + [True]).__next__
        with pytest.raises(ToolError, match="asked to end"):
            carry_out(undo, call(number), two_files_again(place), roots=place.roots, stop=stop)
        assert seen(place.root) == shown
        assert undo.read(call(number)) is None
    assert undo.unfinished() == []


def two_files_again(place: Place) -> list[Wanted]:
    return [
        file_at(place.at("a"), b"new a"),
        file_at(place.at("b"), b"new b"),
        file_at(place.at("c"), b"new c"),
        folder_at(place.at("d")),
    ]


@pytest.mark.parametrize("change", ["written", "deleted", "replaced", "mode"])
def test_what_somebody_else_changes_meanwhile_is_not_lost(place: Place, undo: UndoStore, change: str):
    """At the last moment before it goes through, so that some paths are changed by then and are put back."""

    def interfere() -> None:
        path = place.root / "b"
        if change == "written":
            path.write_bytes(b"theirs")
        elif change == "deleted":
            path.unlink()
        elif change == "mode":
            path.chmod(0o600)
        else:
            (place.root / "other").write_bytes(b"theirs")
            (place.root / "other").rename(path)

    asked = questions(place, undo)
    for number in range(1, asked + 1):
        wanted = two_files(place)
        last = number == asked
        try:
            carry_out(undo, call(number), wanted, roots=place.roots, stop=AtQuestion(number, interfere))
        except UndoConflict:
            assert (place.root / "a").read_bytes() == b"old a"
            assert not (place.root / "c").exists()
            assert not (place.root / "d").exists()
            assert {"written": b"theirs", "replaced": b"theirs", "mode": b"old b"}.get(change) == (
                (place.root / "b").read_bytes() if (place.root / "b").exists() else None
            )
        else:
            assert not last  # before it is kept, it is just what stands there
            undo_call(undo, call(number), call(1000 + number))
        assert temporaries(place.root) == []
        for path in place.root.iterdir():
            path.unlink()
    assert undo.unfinished() == []


def test_a_file_that_appears_where_one_is_to_be_made_stays(place: Place, undo: UndoStore):
    asked = questions(place, undo)

    def interfere() -> None:
        (place.root / "c").write_bytes(b"theirs")

    with pytest.raises(UndoConflict, match="at the same time"):
        carry_out(undo, call(1), two_files(place), roots=place.roots, stop=AtQuestion(asked, interfere))
    assert (place.root / "a").read_bytes() == b"old a"
    assert (place.root / "c").read_bytes() == b"theirs"


def test_a_state_that_is_expected_must_stand_there(place: Place, undo: UndoStore):
    path = place.make("f", b"read before")
    expected = {os.fspath(path): standing(place.root, path)}
    path.write_bytes(b"written since")
    shown = seen(place.root)
    with pytest.raises(UndoConflict):
        carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots, expected=expected)
    assert seen(place.root) == shown
    nothing = {os.fspath(path): State("absent")}
    with pytest.raises(UndoConflict):
        carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots, expected=nothing)
    assert seen(place.root) == shown


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (lambda place: [nothing_at(place.at("folder"))], "not empty"),
        (lambda place: [file_at(place.at("a"), b"x"), file_at(place.at("a"), b"y")], "once"),
        (lambda place: [file_at(place.at("missing/f"), b"x")], "No such file"),
        (lambda place: [file_at(place.at("a/f"), b"x")], "Not a directory"),
        (lambda place: [mode_at(place.at("missing"), State("file"), 0o600)], "nothing"),
        (lambda place: [appended_at(place.at("folder"), State("file"), b"x")], "directory"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    place: Place, undo: UndoStore, wanted: Callable[[Place], list[Wanted]], words: str
):
    place.make("a")
    place.make("folder/inside")
    shown = seen(place.root)
    with pytest.raises((ToolError, OSError), match=words):
        carry_out(undo, call(1), [file_at(place.at("b"), b"b"), *wanted(place)], roots=place.roots)
    assert seen(place.root) == shown
    assert undo.unfinished() == []
    assert undo.read(call(1)) is None


def test_content_that_fails_in_the_middle_changes_nothing(place: Place, undo: UndoStore):
    place.make("a")
    shown = seen(place.root)

    def content() -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.EIO, "the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        carry_out(
            undo, call(1), [file_at(place.at("b"), b"b"), file_at(place.at("a"), content)], roots=place.roots
        )
    assert seen(place.root) == shown


def test_more_old_content_than_may_be_kept_is_refused_before_anything_is_written(place: Place):
    from custody.journal import MemoryDisk

    undo = UndoStore(MemoryDisk(), call_bytes_max=1024 * 1024)
    place.make("large", bytes(1024 * 1024 + 1))
    shown = seen(place.root)
    with pytest.raises(ToolError, match=r"1\.0 MiB.*call_bytes_max"):
        carry_out(undo, call(1), [nothing_at(place.at("large"))], roots=place.roots)
    assert seen(place.root) == shown
    (place.root / "large").write_bytes(bytes(1024 * 1024))
    carry_out(undo, call(2), [nothing_at(place.at("large"))], roots=place.roots)


def test_an_append_to_a_large_file_keeps_little(place: Place):
    from custody.journal import MemoryDisk

    undo = UndoStore(MemoryDisk(), call_bytes_max=1000)
    path = place.make("log", bytes(3 * 1024 * 1024 + 5))
    carry_out(
        undo, call(1), [appended_at(place.at("log"), standing(place.root, path), b"x")], roots=place.roots
    )
    assert undo.total_bytes() < 8192
    undo_call(undo, call(1), call(2))
    assert path.read_bytes() == bytes(3 * 1024 * 1024 + 5)
