"""Watching what something else does to files."""

import os
import shutil
import time
from pathlib import Path

import pytest
from tests.changes.conftest import Place
from tests.changes.trees import call, seen

from custody.changes import Observed, UndoStore, undo_call
from custody.errors import ToolError, UndoConflict
from custody.files.state import ABSENT, look
from custody.journal import MemoryDisk

A_MOMENT_NS = 60_000_000_000


def watching(place: Place, undo: UndoStore, number: int = 1) -> Observed:
    return Observed(undo, call(number), roots=place.roots)


def told(place: Place, changes) -> list[tuple[str, str]]:
    return sorted((change.path.removeprefix(f"{place.root}/"), change.change) for change in changes)


def test_what_changed_is_told_and_can_be_taken_back(place: Place, undo: UndoStore):
    for name in ("written", "gone", "mode", "same", "touched"):
        place.make(name, b"old " + name.encode())
    (place.root / "link").symlink_to("same")
    shown = seen(place.root)
    observed = watching(place, undo)
    for name in ("written", "gone", "mode", "same", "touched", "link", "new", "d", "d/new"):
        observed.keep(place.at(name))
    observed.ready()
    (place.root / "written").write_bytes(b"new")
    (place.root / "gone").unlink()
    (place.root / "mode").chmod(0o600)
    (place.root / "touched").touch()
    (place.root / "link").unlink()
    (place.root / "link").symlink_to("gone")
    place.make("new")
    place.make("d/new")
    assert told(place, observed.settle()) == [
        ("d", "created"),
        ("d/new", "created"),
        ("gone", "deleted"),
        ("link", "link"),
        ("mode", "mode"),
        ("new", "created"),
        ("written", "modified"),
    ]
    undo_call(undo, call(1), call(2))
    after = seen(place.root)
    assert {name: one for name, one in after.items() if name != "touched"} == {
        name: one for name, one in shown.items() if name != "touched"
    }


def test_a_write_in_the_same_moment_is_seen(place: Place, undo: UndoStore):
    for number in range(20):
        path = place.make("f", b"old")
        moment = time.time_ns() + A_MOMENT_NS  # as now: however long a busy machine takes
        os.utime(path, ns=(moment, moment))
        observed = watching(place, undo, number)
        observed.keep(place.at("f"))
        path.write_bytes(b"new")
        os.utime(path, ns=(moment, moment))  # as a file system with coarse times notes it
        assert told(place, observed.settle()) == [("f", "modified")]


def test_a_mode_is_given_back_without_making_another_file(place: Place, undo: UndoStore):
    path = place.make("f", b"old")
    os.link(path, place.root / "another name")
    shown = seen(place.root)
    observed = watching(place, undo)
    observed.keep(place.at("f"))
    path.chmod(0o600)
    assert told(place, observed.settle()) == [("f", "mode")]
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown


def test_nothing_is_kept_where_nothing_changed(place: Place, undo: UndoStore):
    place.make("f")
    observed = watching(place, undo)
    observed.keep(place.at("f"))
    observed.ready()
    assert observed.settle() == ()
    assert undo.read(call(1)) is None
    assert undo.unfinished() == []


def test_who_kept_nothing_writes_nothing(place: Place, undo: UndoStore):
    observed = watching(place, undo)
    assert observed.settle() == ()
    observed.abandon()
    assert undo.call_ids() == set()


def test_a_tree_is_watched_with_what_appears_in_it(place: Place, undo: UndoStore):
    place.make("tree/a/b", b"old")
    place.make("tree/ignored/x", b"old")
    place.make("tree/c", b"old")
    shown = seen(place.root)
    observed = watching(place, undo)
    observed.keep(place.at("tree"))
    observed.keep_tree(
        place.at("tree"), entries_max=100, depth_max=9, skip=lambda relative: relative == "ignored/"
    )
    observed.ready()
    shutil.rmtree(place.root / "tree/a")
    place.make("tree/new/deep", b"new")
    place.make("tree/ignored/y", b"new")
    assert told(place, observed.settle()) == [
        ("tree/a", "deleted"),
        ("tree/a/b", "deleted"),
        ("tree/new", "created"),
        ("tree/new/deep", "created"),
    ]
    undo_call(undo, call(1), call(2))
    (place.root / "tree/ignored/y").unlink()
    assert seen(place.root).keys() == shown.keys()
    assert seen(place.root)["tree/a/b"] == shown["tree/a/b"]


def test_a_tree_that_went_altogether_comes_back(place: Place, undo: UndoStore):
    place.make("tree/a/b", b"old")
    shown = seen(place.root)
    observed = watching(place, undo)
    observed.keep(place.at("tree"))
    observed.keep_tree(place.at("tree"), entries_max=100, depth_max=9)
    shutil.rmtree(place.root / "tree")
    observed.settle()
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown


def test_a_file_that_moved_is_told_as_renamed_and_moves_back(place: Place, undo: UndoStore):
    place.make("old name", b"content")
    shown = seen(place.root)
    observed = watching(place, undo)
    observed.keep(place.at("old name"))
    observed.keep(place.at("new name"))
    (place.root / "old name").rename(place.root / "new name")
    (change,) = observed.settle()
    assert (change.change, change.path, change.renamed_from) == (
        "renamed",
        f"{place.root}/new name",
        f"{place.root}/old name",
    )
    assert change.before == change.after
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown


def test_more_than_may_be_kept_is_refused_and_what_is_kept_stays_good(place: Place):
    undo = UndoStore(MemoryDisk(), call_bytes_max=1000)
    place.make("small", b"old")
    place.make("large", bytes(5000))
    place.make("last", b"old")
    observed = watching(place, undo)
    observed.keep(place.at("small"))
    with pytest.raises(ToolError, match="call_bytes_max"):
        observed.keep(place.at("large"))
    observed.abandon()
    assert undo.call_ids() == set()


def test_a_change_seen_without_its_old_content_says_that_it_is_gone(place: Place, undo: UndoStore):
    path = place.make("f", b"old")
    fd = os.open(place.root, os.O_RDONLY)
    before = look(fd, "f", digest=False)
    path.write_bytes(b"new one")
    after = look(fd, "f")
    observed = watching(place, undo)
    observed.note(place.at("f"), before, after)
    (change,) = observed.settle()
    assert (change.change, change.undoable) == ("modified", False)
    with pytest.raises(UndoConflict, match="was not kept") as caught:
        undo_call(undo, call(1), call(2))
    assert caught.value.details["lost"] == (f"{path} cannot be brought back: what stood there was not kept.",)
    assert undo_call(undo, call(1), call(2), force=True).changes == ()
    os.close(fd)


def test_a_change_seen_with_its_old_content_can_be_taken_back(place: Place, undo: UndoStore):
    path = place.make("f", b"old")
    fd = os.open(place.root, os.O_RDONLY)
    before = look(fd, "f")
    path.write_bytes(b"new one")
    observed = watching(place, undo)
    observed.note(place.at("f"), before, look(fd, "f"), lambda: iter([b"o", b"ld"]))
    place.make("new", b"x")
    observed.note(place.at("new"), ABSENT, look(fd, "new"))
    mode_before = look(fd, "new")
    observed.settle()
    undo_call(undo, call(1), call(2))
    assert path.read_bytes() == b"old"
    assert not (place.root / "new").exists()
    assert mode_before.kind == "file"
    os.close(fd)


def test_a_mode_that_was_seen_to_change_needs_no_content(place: Place, undo: UndoStore):
    path = place.make("f", b"old", mode=0o644)
    fd = os.open(place.root, os.O_RDONLY)
    before = look(fd, "f", digest=False)
    path.chmod(0o600)
    observed = watching(place, undo)
    observed.note(place.at("f"), before, look(fd, "f", digest=False))
    (change,) = observed.settle()
    assert (change.change, change.undoable) == ("mode", True)
    undo_call(undo, call(1), call(2))
    assert path.stat().st_mode & 0o777 == 0o644
    os.close(fd)


def test_a_file_that_was_made_and_not_read_is_removed_only_while_nobody_wrote_to_it(
    place: Place, undo: UndoStore
):
    fd = os.open(place.root, os.O_RDONLY)
    for number in (1, 2):
        path = place.make("large", b"made")
        observed = watching(place, undo, number)
        observed.note(place.at("large"), ABSENT, look(fd, "large", digest=False))
        observed.settle()
        if number == 2:
            path.write_bytes(b"othr")
            os.utime(path, ns=(1, 1))  # another time than before, however coarse those of the file system are
            with pytest.raises(UndoConflict):
                undo_call(undo, call(2), call(12))
        else:
            undo_call(undo, call(1), call(11))
            assert not path.exists()
    os.close(fd)


def test_a_path_that_is_kept_may_be_noted_as_well(place: Place, undo: UndoStore):
    place.make("f", b"old")
    fd = os.open(place.root, os.O_RDONLY)
    observed = watching(place, undo)
    assert observed.keep(place.at("new")) == observed.keep(place.at("new")) == ABSENT
    before = observed.keep(place.at("f"))
    place.make("f", b"new")
    place.make("new", b"x")
    observed.note(place.at("f"), before, look(fd, "f"), lambda: iter([b"old"]))
    observed.note(place.at("new"), ABSENT, look(fd, "new"))
    assert told(place, observed.settle()) == [("f", "modified"), ("new", "created")]
    undo_call(undo, call(1), call(2))
    assert (place.root / "f").read_bytes() == b"old"
    assert not (place.root / "new").exists()
    os.close(fd)


def test_what_is_being_watched_cannot_be_taken_back_yet(place: Place, undo: UndoStore):
    place.make("f", b"old")
    observed = watching(place, undo)
    observed.keep(place.at("f"))
    observed.ready()
    with pytest.raises(ToolError, match="not come to its end"):
        undo_call(undo, call(1), call(2))
    observed.abandon()


def test_more_new_paths_than_the_bounds_allow_are_not_told_and_nothing_fails(place: Place, undo: UndoStore):
    place.make("tree/f", b"old")
    observed = watching(place, undo)
    observed.keep_tree(place.at("tree"), entries_max=3, depth_max=9)
    for number in range(9):
        place.make(f"tree/new{number}")
    (place.root / "tree/f").write_bytes(b"new")
    changes = told(place, observed.settle())
    assert ("tree/f", "modified") in changes
    assert len(changes) <= 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_watched_all_the_same(place: Place, undo: UndoStore):
    path = place.make("f", b"old", mode=0o000)
    observed = watching(place, undo)
    observed.keep(place.at("f"))
    path.unlink()
    (change,) = observed.settle()
    assert (change.change, change.undoable) == ("deleted", False)


def test_names_of_one_file_are_one_file_again(place: Place, undo: UndoStore, tmp_path: Path):
    place.make("a", b"old")
    os.link(place.root / "a", place.root / "b")
    shown = seen(place.root)
    observed = watching(place, undo)
    observed.keep(place.at("a"))
    (place.root / "a").unlink()
    place.make("a", b"new")
    observed.settle()
    undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown
