"""What a command changed is told as it was, the root stays untouched, and a commit makes it so."""

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
from tests.changes.held.conftest import CALL, COMMIT, Case
from tests.changes.held.overlays import seeing
from tests.changes.trees import A_TIME_NS, seen

from custody.changes import undo_call


def some_tree(case: Case) -> None:
    case.make("src/x/y", b"source")
    case.make("src/z", b"more")
    case.make("a", b"content that moves")
    case.make("c", b"#!/bin/sh\n")
    case.make("d/kept", b"kept")
    case.make("twin", b"one file")
    (case.root / "link").symlink_to("a")
    os.setxattr(case.root / "c", "user.colour", b"red")
    for path in (*case.root.rglob("*"), case.root):
        os.utime(path, ns=(A_TIME_NS, A_TIME_NS), follow_symlinks=False)


def do_everything(root: Path) -> dict:
    shutil.rmtree(root / "src")
    (root / "src").mkdir()
    (root / "src" / "z").write_bytes(b"another")
    (root / "new").write_bytes(b"x\n")
    os.rename(root / "a", root / "b")
    (root / "c").chmod(0o755)
    (root / "link").unlink()
    (root / "link").symlink_to("b")
    (root / "made" / "deep").mkdir(parents=True)
    (root / "made" / "deep" / "f").write_bytes(b"f")
    (root / "made").chmod(0o750)
    os.setxattr(root / "d", "user.shape", b"round")
    os.link(root / "twin", root / "twin2")
    return seen(root)


def test_everything_a_command_does_is_told_and_the_root_stays_as_it_was(case: Case, kind: str):
    some_tree(case)
    before = seen(case.root)
    held = case.hold(lambda: do_everything(case.root), kind=kind)
    assert case.told(held) == {
        "src/x": "deleted",
        "src/x/y": "deleted",
        "src/z": "modified",
        "new": "created",
        "b": "renamed",
        "c": "mode",
        "link": "link",
        "made": "created",
        "made/deep": "created",
        "made/deep/f": "created",
        "d": "mode",
        "twin2": "created",
    }
    moved = next(change for change in held.changes if change.change == "renamed")
    assert (moved.renamed_from, moved.inferred) == (os.fspath(case.root / "a"), True)
    assert held.warnings == ()
    assert seen(case.root) == before
    assert case.store.read(CALL) == held
    assert case.store.calls() == [CALL]


def test_a_commit_makes_the_tree_the_command_saw_and_an_undo_gives_the_old_one_back(case: Case, kind: str):
    some_tree(case)
    before = seen(case.root)
    told = case.hold(lambda: do_everything(case.root), kind=kind).changes
    changes = case.commit()
    assert seen(case.root) == case.shown
    assert [(one.path, one.change) for one in changes] == [(one.path, one.change) for one in told]
    assert case.store.calls() == [] and os.listdir(case.folder) == ["lock"]
    undo_call(case.undo, COMMIT, bytes(8))
    assert seen(case.root) == before


def test_a_command_that_changes_nothing_leaves_nothing(case: Case, kind: str):
    some_tree(case)

    def nothing() -> None:
        (case.root / "temporary").write_bytes(b"x")
        (case.root / "temporary").unlink()
        (case.root / "a").open("r+b").close()

    held = case.hold(nothing, kind=kind)
    assert (held.changes, held.entries) == ((), ())
    assert case.store.read(CALL) is None
    assert os.listdir(case.folder) == ["lock"]


def test_a_folder_that_was_only_gone_through_is_no_change_and_keeps_its_time(case: Case, kind: str):
    some_tree(case)
    held = case.hold(lambda: (case.root / "d" / "kept").write_bytes(b"new"), kind=kind)
    assert case.told(held) == {"d/kept": "modified"}
    case.commit()
    assert os.stat(case.root / "d").st_mtime_ns == A_TIME_NS


def test_another_time_alone_is_said_and_committed(case: Case, kind: str):
    some_tree(case)
    held = case.hold(lambda: os.utime(case.root / "c", ns=(5, 5)), kind=kind)
    assert held.changes == ()
    assert held.warnings == (f"{case.root}/c: only the time of change is another.",)
    case.commit()
    assert os.stat(case.root / "c").st_mtime_ns == 5


def test_that_a_program_runs_as_its_owner_is_left_out_and_said(case: Case, kind: str):
    case.make("program", mode=0o755)
    case.make("runs as its owner", mode=0o4755)

    def change() -> None:
        (case.root / "program").chmod(0o4711)
        (case.root / "runs as its owner").write_bytes(b"something else")
        (case.root / "runs as its owner").chmod(0o4755)

    held = case.hold(change, kind=kind)
    case.commit()

    assert case.told(held) == {"program": "mode", "runs as its owner": "modified"}
    assert stat.S_IMODE((case.root / "program").stat().st_mode) == 0o711
    assert stat.S_IMODE((case.root / "runs as its owner").stat().st_mode) == 0o755
    assert len(held.warnings) == 1 and "set-user-id" in held.warnings[0]


@pytest.mark.parametrize("name", ["caf\udce9", "new\nline", " ", "x" * 255])
def test_every_name_a_file_can_have_is_held(case: Case, kind: str, name: str):
    case.make(f"{name}/{name}", b"old")
    case.hold(lambda: (case.root / name / name).write_bytes(b"new"), kind=kind)
    case.commit()
    assert (case.root / name / name).read_bytes() == b"new"


def test_what_nobody_can_put_in_place_is_left_out_and_named(case: Case, kind: str):
    case.make("was")

    def special() -> None:
        os.mkfifo(case.root / "fifo")
        (case.root / "was").unlink()
        os.mkfifo(case.root / "was")
        server = socket.socket(socket.AF_UNIX)
        os.chdir(case.root)
        server.bind("socket")
        (case.root / "file").write_bytes(b"x")

    held = case.hold(special, kind=kind)
    assert case.told(held) == {"file": "created"}
    assert len(held.warnings) == 1 and "left out" in held.warnings[0] and "fifo" in held.warnings[0]
    case.commit()
    assert sorted(os.listdir(case.root)) == ["file", "was"]
    assert (case.root / "was").read_bytes() == b"old"


def test_a_file_in_the_place_of_a_folder_and_the_other_way_round(case: Case, kind: str):
    some_tree(case)

    def swap() -> None:
        shutil.rmtree(case.root / "src")
        (case.root / "src").write_bytes(b"a file")
        (case.root / "a").unlink()
        (case.root / "a").mkdir()
        (case.root / "a" / "in").symlink_to("nowhere")

    before = seen(case.root)
    case.hold(swap, kind=kind)
    case.commit()
    assert (case.root / "src").read_bytes() == b"a file"
    assert os.readlink(case.root / "a" / "in") == "nowhere"
    undo_call(case.undo, COMMIT, bytes(8))
    assert seen(case.root) == before


def test_a_diff_is_shown_of_what_is_held(case: Case, kind: str):
    case.make("text", b"one\ntwo\n")
    case.make("binary", b"\0\1")
    (case.root / "link").symlink_to("text")

    def work() -> None:
        (case.root / "text").write_bytes(b"one\nthree\n")
        (case.root / "binary").write_bytes(b"\0\2")
        (case.root / "link").unlink()
        (case.root / "link").symlink_to("binary")

    held = case.hold(work, kind=kind)
    diffs = {os.path.basename(change.path): lines for change, lines in held.diffs()}
    assert diffs["text"] is not None
    assert diffs["text"][2:] == ["@@ -1,2 +1,2 @@", " one", "-two", "+three"]
    assert diffs["binary"] is None
    assert diffs["link"] is not None
    assert [line.split("\n")[0] for line in diffs["link"][3:]] == ["-text", "+binary"]
    text = next(change for change in held.changes if change.path.endswith("text"))
    assert held.old_and_new(text) == (b"one\ntwo\n", b"one\nthree\n")
    (case.root / "text").write_bytes(b"one\nfour\n")
    lines = next(lines for change, lines in held.diffs() if change.path.endswith("text"))
    assert lines is not None and "changed since" in lines[0]


def test_several_roots_are_held_and_committed_as_one(case: Case, folder: Path, overlays: None):
    other = folder / "other"
    other.mkdir()
    inner = case.root / "inner"
    inner.mkdir()
    roots = [os.fspath(path) for path in (case.root, other, inner)]
    holding = case.store.begin(CALL, roots)
    assert [view.root for view in holding.views] == [roots[1], roots[0]]

    def work() -> None:
        (other / "x").write_bytes(b"x")
        (inner / "y").write_bytes(b"y")

    seeing(holding.views, work)
    held = holding.settle()
    assert sorted(one.path for one in held.changes) == sorted([f"{other}/x", f"{inner}/y"])
    case.commit()
    assert (other / "x").read_bytes() + (inner / "y").read_bytes() == b"xy"
