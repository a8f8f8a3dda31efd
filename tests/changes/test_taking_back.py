"""What is asked before something is taken back, what is refused, and what force does."""

import os
import tracemalloc
from pathlib import Path

import pytest
from tests.changes.conftest import Place
from tests.changes.trees import call, seen, standing, temporaries

from custody.changes import (
    UndoStore,
    appended_at,
    carry_out,
    file_at,
    folder_at,
    missing_folders,
    mode_at,
    net_changes,
    nothing_at,
    plan_call,
    plan_undo,
    tree_removed,
    undo_call,
)
from custody.errors import UndoConflict, UndoGone
from custody.journal import RealDisk
from custody.records import Version


def refusal(undo: UndoStore, number: int) -> UndoConflict:
    with pytest.raises(UndoConflict) as caught:
        undo_call(undo, call(number), call(99))
    assert undo.read(call(99)) is None
    return caught.value


# -- conflicts --------------------------------------------------------------------------------------------


def test_a_file_changed_since_is_shown_in_both_versions_and_left(place: Place, undo: UndoStore):
    path = place.make("f", b"old")
    carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots)
    path.write_bytes(b"theirs")
    error = refusal(undo, 1)
    (conflict,) = error.details["conflicts"]
    assert conflict.path == os.fspath(path)
    assert (conflict.expected.bytes, conflict.found.bytes) == (3, 6)
    assert conflict.expected.sha256 != conflict.found.sha256
    assert "a file of 3 bytes" in str(error) and "a file of 6 bytes" in str(error)
    assert path.read_bytes() == b"theirs"


def test_force_brings_it_back_all_the_same_and_what_it_lost_can_be_taken_back(place: Place, undo: UndoStore):
    path = place.make("f", b"old")
    carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots)
    path.write_bytes(b"theirs")
    shown = seen(place.root)
    undone = undo_call(undo, call(1), call(2), force=True)
    assert path.read_bytes() == b"old"
    (lost,) = undone.plan.lost
    assert lost.startswith(f"{path} loses what stands there now: a file of 6 bytes (mode 0644, sha256 ")
    undo_call(undo, call(2), call(3))
    assert seen(place.root) == shown


def test_one_conflict_is_enough_to_change_nothing(place: Place, undo: UndoStore):
    place.make("a", b"old a")
    place.make("b", b"old b")
    wanted = [file_at(place.at("a"), b"new a"), file_at(place.at("b"), b"new b")]
    carry_out(undo, call(1), wanted, roots=place.roots)
    (place.root / "b").unlink()
    shown = seen(place.root)
    assert [conflict.found for conflict in refusal(undo, 1).details["conflicts"]] == [None]
    assert seen(place.root) == shown
    undo_call(undo, call(1), call(2), force=True)
    assert (place.root / "a").read_bytes() == b"old a"
    assert (place.root / "b").read_bytes() == b"old b"


def test_a_path_that_is_already_as_it_was_is_no_conflict(place: Place, undo: UndoStore):
    place.make("a", b"old a")
    place.make("b", b"old b")
    wanted = [file_at(place.at("a"), b"new a"), file_at(place.at("b"), b"new b")]
    carry_out(undo, call(1), wanted, roots=place.roots)
    (place.root / "b").write_bytes(b"old b")
    (change,) = undo_call(undo, call(1), call(2)).changes
    assert change.path.endswith("/a")
    assert undo_call(undo, call(1), call(3)).changes == ()


@pytest.mark.parametrize("what", ["mode", "kind", "link"])
def test_another_mode_or_another_kind_is_a_change_as_well(place: Place, undo: UndoStore, what: str):
    carry_out(undo, call(1), [file_at(place.at("f"), b"new")], roots=place.roots)
    path = place.root / "f"
    if what == "mode":
        path.chmod(0o640)
    else:
        path.unlink()
        path.mkdir() if what == "kind" else path.symlink_to("elsewhere")
    refusal(undo, 1)
    assert os.path.lexists(path)


def test_a_folder_it_made_stays_while_somebody_else_keeps_something_in_it(place: Place, undo: UndoStore):
    wanted = [*missing_folders(place.at("d/e/f")), file_at(place.at("d/e/f"), b"x")]
    carry_out(undo, call(1), wanted, roots=place.roots)
    theirs = place.make("d/theirs", b"precious")
    error = refusal(undo, 1)
    assert "theirs, which the call did not make" in str(error)
    undone = undo_call(undo, call(1), call(2), force=True)
    assert theirs.read_bytes() == b"precious"
    assert not (place.root / "d/e").exists()
    assert undone.plan.lost == (f"{place.root}/d stays: it holds theirs, which the call did not make.",)


def test_a_file_whose_folder_has_gone_comes_back_with_force(place: Place, undo: UndoStore):
    place.make("d/f", b"old")
    carry_out(undo, call(1), [nothing_at(place.at("d/f"))], roots=place.roots)
    (place.root / "d").rmdir()
    assert "its folder" in str(refusal(undo, 1))
    undo_call(undo, call(1), call(2), force=True)
    assert (place.root / "d/f").read_bytes() == b"old"


def test_a_folder_in_the_place_of_a_file_is_never_removed(place: Place, undo: UndoStore):
    place.make("f", b"old")
    carry_out(undo, call(1), [nothing_at(place.at("f"))], roots=place.roots)
    place.make("f/theirs")
    refusal(undo, 1)
    undone = undo_call(undo, call(1), call(2), force=True)
    assert undone.changes == ()
    assert undone.plan.lost == (f"{place.root}/f stays as it is now: a folder.",)
    assert (place.root / "f/theirs").exists()


def test_a_log_that_has_grown_since_is_not_cut(place: Place, undo: UndoStore):
    path = place.make("log", b"one\n")
    carry_out(
        undo, call(1), [appended_at(place.at("log"), standing(place.root, path), b"two\n")], roots=place.roots
    )
    with path.open("ab") as file:
        file.write(b"theirs\n")
    refusal(undo, 1)
    undone = undo_call(undo, call(1), call(2), force=True)
    assert path.read_bytes() == b"one\ntwo\ntheirs\n"
    assert "only its old end was kept" in undone.plan.lost[0]


def test_a_mode_is_given_back_to_a_file_that_was_written_to_since(place: Place, undo: UndoStore):
    path = place.make("f", b"old", mode=0o644)
    carry_out(undo, call(1), [mode_at(place.at("f"), standing(place.root, path), 0o600)], roots=place.roots)
    path.write_bytes(b"theirs")
    undo_call(undo, call(1), call(2))
    assert path.read_bytes() == b"theirs"
    assert path.stat().st_mode & 0o777 == 0o644


def test_folder_times_come_back_unless_somebody_else_changed_the_folder(place: Place, undo: UndoStore):
    place.make("mine/f")
    place.make("shared/f")
    for name in ("mine", "shared"):
        os.utime(place.root / name, ns=(10**18, 10**18))
    wanted = [nothing_at(place.at("mine/f")), nothing_at(place.at("shared/f"))]
    carry_out(undo, call(1), wanted, roots=place.roots)
    place.make("shared/theirs")
    undo_call(undo, call(1), call(2))
    assert (place.root / "mine").stat().st_mtime_ns == 10**18
    assert (place.root / "shared").stat().st_mtime_ns != 10**18


# -- what is kept -----------------------------------------------------------------------------------------


def test_a_call_that_changed_nothing_or_is_too_old_says_how_long_things_are_kept(undo: UndoStore):
    with pytest.raises(UndoGone, match=r"kept for 7 days and up to 2,048 MiB"):
        undo_call(undo, call(1), call(2))
    with pytest.raises(UndoGone):
        plan_call(undo, call(1))


def test_the_old_text_can_be_shown_without_taking_back(place: Place, undo: UndoStore):
    path = place.make("f", b"old text")
    log = place.make("log", b"line\n")
    wanted = [
        file_at(place.at("f"), b"new"),
        file_at(place.at("new"), b"new"),
        appended_at(place.at("log"), standing(place.root, log), b"x"),
    ]
    carry_out(undo, call(1), wanted, roots=place.roots)
    undo_set = undo.read(call(1))
    assert undo_set is not None
    assert undo_set.content_of(os.fspath(path), 100) == b"old text"
    assert undo_set.content_of(os.fspath(path), 7) is None
    assert undo_set.content_of(f"{place.root}/new", 100) is None
    assert undo_set.content_of(f"{place.root}/log", 100) is None
    assert undo_set.content_of(f"{place.root}/other", 100) is None


# -- several changes of one call --------------------------------------------------------------------------


def test_a_call_may_change_things_several_times_and_is_taken_back_whole(place: Place, undo: UndoStore):
    place.make("f", b"0")
    shown = [seen(place.root)]
    for number in range(1, 8):
        carry_out(undo, call(1), [file_at(place.at("f"), b"%d" % number)], roots=place.roots)
    shown.append(seen(place.root))
    assert undo.parts(call(1)) == 7
    undone = undo_call(undo, call(1), call(2))
    assert seen(place.root) == shown[0]
    assert undo.parts(call(2)) == 7
    (change,) = net_changes([undone.changes])
    assert (change.before, change.after) == (
        Version(bytes=1, sha256=change.before.sha256 if change.before else "", mode="0644"),
        Version(bytes=1, sha256=change.after.sha256 if change.after else "", mode="0644"),
    )
    undo_call(undo, call(2), call(3))
    assert seen(place.root) == shown[1]


def test_a_dry_run_over_several_calls_sees_what_the_newer_ones_leave(place: Place, undo: UndoStore):
    place.make("f", b"0")
    first = [file_at(place.at("f"), b"1"), folder_at(place.at("d"))]
    carry_out(undo, call(1), first, roots=place.roots)
    carry_out(
        undo, call(2), [file_at(place.at("f"), b"2"), file_at(place.at("d/x"), b"x")], roots=place.roots
    )
    shown = seen(place.root)
    alone = plan_call(undo, call(1))
    assert len(alone.conflicts) == 2
    standing_then: dict = {}
    plans = [plan_call(undo, call(number), standing=standing_then) for number in (2, 1)]
    assert [plan.conflicts for plan in plans] == [(), ()]
    assert [len(plan.wanted) for plan in plans] == [2, 2]
    assert seen(place.root) == shown
    undo_call(undo, call(2), call(3))
    undo_call(undo, call(1), call(4))
    assert [path.name for path in place.root.iterdir()] == ["f"]


def test_a_plan_looks_and_changes_nothing(place: Place, undo: UndoStore):
    place.make("tree/a/b", b"old")
    carry_out(undo, call(1), tree_removed(place.at("tree"), entries_max=9, depth_max=9), roots=place.roots)
    shown = seen(place.root)
    undo_set = undo.read(call(1))
    assert undo_set is not None
    plan = plan_undo(undo_set)
    assert {wanted.target.relative for wanted in plan.wanted} == {"tree", "tree/a", "tree/a/b"}
    assert seen(place.root) == shown
    assert temporaries(place.root) == []


# -- size -------------------------------------------------------------------------------------------------


def test_content_goes_in_pieces_so_that_a_large_file_is_never_held(place: Place, tmp_path: Path):
    undo = UndoStore(RealDisk(tmp_path / "store"))
    path = place.make("large", b"")
    with path.open("wb") as file:
        for _ in range(24):
            file.write(os.urandom(1024 * 1024))
    shown = seen(place.root)
    carry_out(undo, call(0), [file_at(place.at("warm"), b"")], roots=place.roots)
    undo_call(undo, call(0), call(9))
    tracemalloc.start()
    carry_out(undo, call(1), [nothing_at(place.at("large"))], roots=place.roots)
    undo_call(undo, call(1), call(2))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 * 1024 * 1024
    assert seen(place.root)["large"] == shown["large"]
