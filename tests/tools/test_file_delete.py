"""`file_delete`: files, links and whole trees, all of it or nothing."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.tools.trees import Place, can_set_xattrs, message, succeeded, temporary_files, tree

from custody.records import CHANGES_KEPT_MAX
from custody.tools.file_delete import DEPTH_MAX, ENTRIES_MAX


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def make_tree(folder: Path) -> None:
    """One of everything that can be given back."""
    (folder / "inner" / "empty").mkdir(parents=True)
    (folder / "inner" / "file").write_bytes(b"\0\xff" * 5000)
    (folder / "script").write_text("#!/bin/sh\n")
    os.chmod(folder / "script", 0o4750)
    os.link(folder / "script", folder / "inner" / "other name")
    (folder / "link").symlink_to("inner/file")
    (folder / "nowhere").symlink_to("/nowhere/at all")
    (folder / os.fsdecode(b"not \xff UTF-8")).write_text("")
    os.chmod(folder / "inner", 0o711)
    if can_set_xattrs(folder):
        os.setxattr(folder / "script", "user.origin", b"here")
        os.setxattr(folder / "inner", "user.origin", b"there")
    for number, path in enumerate([folder / "inner" / "empty", folder / "inner", folder / "script", folder]):
        os.utime(path, ns=(1, 1_000_000_000 + number))
    os.utime(folder / "link", ns=(1, 77), follow_symlinks=False)


# -- what goes ------------------------------------------------------------------------------------------


def test_a_file_is_deleted_and_can_be_given_back(place):
    file = place.work / "a"
    file.write_text("content")
    before = tree(place.work)
    with place.open() as runtime, runtime.run("delete") as run:
        call = run.call("file_delete", {"path": "a"})
        result = succeeded(call)
        assert not file.exists()
        assert result == {
            "deleted": [os.fspath(file)],
            "missing": [],
            "files": 1,
            "folders": 0,
            "links": 0,
            "bytes": 7,
        }
        (change,) = call.changes
        assert (change.path, change.change, change.kind, change.before.bytes, change.after) == (
            os.fspath(file), "deleted", "file", 7, None,
        )  # fmt: skip
        succeeded(run.call("undo", {"call": call.id}))
    assert tree(place.work) == before


def test_a_tree_goes_as_a_whole_and_comes_back_as_it_was(place):
    (place.work / "tree").mkdir()
    make_tree(place.work / "tree")
    before = tree(place.work)
    with place.open() as runtime, runtime.run("delete") as run:
        call = run.call("file_delete", {"path": "tree", "recursive": True})
        result = succeeded(call)
        assert list(place.work.iterdir()) == []
        assert (result["files"], result["folders"], result["links"]) == (4, 3, 2)
        assert call.changes_count == 9
        succeeded(run.call("undo", {"call": call.id}))
    assert tree(place.work) == before


def test_a_folder_that_is_not_empty_needs_recursive(place):
    (place.work / "empty").mkdir()
    (place.work / "full").mkdir()
    (place.work / "full" / "a").touch()
    with place.open() as runtime:
        succeeded(runtime.call("file_delete", {"path": "empty"}))
        assert "`recursive`" in message(runtime.call("file_delete", {"path": "full"}))
    assert [path.name for path in place.work.rglob("*")] == ["full", "a"]


def test_a_link_goes_itself_and_never_what_it_points_to(place):
    (place.outside / "kept").write_text("kept")
    (place.work / "folder").mkdir()
    (place.work / "folder" / "kept").write_text("kept")
    (place.work / "out").symlink_to(place.outside)
    (place.work / "in").symlink_to("folder")
    (place.work / "nowhere").symlink_to("gone")
    with place.open() as runtime:
        for name in ("out", "in", "nowhere"):
            result = succeeded(runtime.call("file_delete", {"path": name, "recursive": True}))
            assert (result["links"], result["files"]) == (1, 0)
    assert [path.name for path in place.work.iterdir()] == ["folder"]
    assert (place.outside / "kept").exists() and (place.work / "folder" / "kept").exists()


def test_several_paths_go_or_none(place):
    for name in ("a", "b"):
        (place.work / name).write_text(name)
    before = tree(place.work)
    with place.open() as runtime:
        assert "There is no" in message(runtime.call("file_delete", {"paths": ["a", "gone", "b"]}))
        assert tree(place.work) == before
        result = succeeded(runtime.call("file_delete", {"paths": ["a", "gone", "b"], "missing_ok": True}))
    assert result["missing"] == [os.fspath(place.work / "gone")]
    assert result["files"] == 2
    assert list(place.work.iterdir()) == []


def test_paths_that_lie_in_each_other_go_once(place):
    (place.work / "tree").mkdir()
    make_tree(place.work / "tree")
    before = tree(place.work)
    paths = ["tree/inner", "tree", "tree/inner/file", "tree"]
    with place.open() as runtime:
        call = runtime.call("file_delete", {"paths": paths, "recursive": True})
        assert succeeded(call)["files"] == 4
        succeeded(runtime.call("undo", {"call": call.id}))
    assert tree(place.work) == before


def test_what_is_not_there_is_an_error_unless_that_is_fine(place):
    with place.open() as runtime:
        assert "There is no" in message(runtime.call("file_delete", {"path": "gone"}))
        call = runtime.call("file_delete", {"path": "gone/below", "missing_ok": True})
    assert succeeded(call)["missing"] == [os.fspath(place.work / "gone" / "below")]
    assert call.changes == ()
    assert place.undo_data() == {}


def test_a_name_of_a_hard_linked_file_goes_and_comes_back_as_another_name_of_it(place):
    (place.work / "a").write_text("one file")
    os.link(place.work / "a", place.work / "b")
    before = tree(place.work)
    with place.open() as runtime:
        call = runtime.call("file_delete", {"path": "a"})
        succeeded(call)
        assert (place.work / "b").read_text() == "one file"
        succeeded(runtime.call("undo", {"call": call.id}))
    assert tree(place.work) == before


# -- what does not go -----------------------------------------------------------------------------------


def test_roots_the_working_directory_and_what_holds_them_do_not_go(place):
    inner = place.work / "inner" / "project"
    inner.mkdir(parents=True)
    before = tree(place.work)
    with place.open(roots=[os.fspath(inner)]) as runtime:
        for path in (
            ".",
            os.fspath(place.work),
            os.fspath(place.temporary),
            "inner",
            "inner/project",
            "../work",
        ):
            call = runtime.call("file_delete", {"path": path, "recursive": True})
            assert (path, call.outcome, call.decision.by) == (path, "rejected", "path")
    assert tree(place.work) == before


def test_the_working_directory_of_a_call_does_not_go_where_it_lies_deeper(place):
    import asyncio

    from custody.compose import open_runtime
    from custody.settings import load_settings

    (place.work / "a" / "b").mkdir(parents=True)

    async def delete():
        settings = load_settings(store=":memory:", cwd=os.fspath(place.work))
        async with await open_runtime(settings) as runtime:
            arguments = {"path": os.fspath(place.work / "a"), "recursive": True}
            return await runtime.call("file_delete", arguments, cwd="a/b")

    call = asyncio.run(delete())
    assert (call.outcome, call.decision.by) == ("rejected", "path")
    assert "working directory" in call.reason
    assert (place.work / "a" / "b").is_dir()


def test_outside_the_roots_nothing_goes(place):
    (place.outside / "a").write_text("kept")
    (place.work / "link").symlink_to(place.outside)
    with place.open() as runtime:
        for path in ("../outside/a", os.fspath(place.outside), "link/a", "link/../outside/a"):
            call = runtime.call("file_delete", {"path": path, "recursive": True})
            assert (path, call.outcome, call.decision.by) == (path, "rejected", "nobody")
    assert (place.outside / "a").read_text() == "kept"


def test_a_tree_with_something_protected_in_it_stays_whole(place):
    for name in ("repo/.git/config", "repo/src/a.py", "app/.env", "app/b", ".bashrc"):
        (place.work / name).parent.mkdir(parents=True, exist_ok=True)
        (place.work / name).touch()
    before = tree(place.work)
    with place.open() as runtime:
        assert ".env" in message(runtime.call("file_delete", {"path": "app", "recursive": True}))
        assert "repo/.git" in message(runtime.call("file_delete", {"path": "repo", "recursive": True}))
        assert runtime.call("file_delete", {"path": ".bashrc"}).decision.by == "nobody"
        assert tree(place.work) == before
        succeeded(runtime.call("file_delete", {"path": "repo/src", "recursive": True}))


def test_custodys_own_folder_and_what_holds_it_do_not_go(place):
    with place.open(roots=[os.fspath(place.work.parent)]) as runtime:
        for path in ("../store", "../store/journal"):
            call = runtime.call("file_delete", {"path": path, "recursive": True})
            assert (path, call.outcome, call.decision.by) == (path, "rejected", "path")
        assert runtime.call("file_write", {"path": "a", "content": "still works"}).outcome == "succeeded"


def test_what_could_not_be_given_back_does_not_go(place):
    (place.work / "tree").mkdir()
    (place.work / "tree" / "a").touch()
    os.mkfifo(place.work / "tree" / "pipe")
    before = tree(place.work)
    with place.open() as runtime:
        for path in ("tree", "tree/pipe"):
            said = message(runtime.call("file_delete", {"path": path, "recursive": True}))
            assert "pipe is a named pipe" in said
    assert tree(place.work) == before


def test_a_tree_that_is_too_deep_is_refused_with_the_bound_and_where_to_begin(place):
    deep = place.work / "deep"
    names = [f"{number}" for number in range(DEPTH_MAX + 3)]
    deep.joinpath(*names).mkdir(parents=True)
    with place.open() as runtime:
        said = message(runtime.call("file_delete", {"path": "deep", "recursive": True}))
        assert f"{DEPTH_MAX} levels" in said
        assert "/".join(names[:DEPTH_MAX]) in said
        assert deep.joinpath(*names).is_dir()
        first = os.path.join("deep", *names[:DEPTH_MAX])
        succeeded(runtime.call("file_delete", {"path": first, "recursive": True}))
        succeeded(runtime.call("file_delete", {"path": "deep", "recursive": True}))
    assert list(place.work.iterdir()) == []


def test_what_is_mounted_in_a_tree_keeps_it(place):
    inner = place.work / "tree" / "mounted"
    inner.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "custody-test", os.fspath(inner)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        (inner / "a").touch()
        with place.open() as runtime:
            for path in ("tree", "tree/mounted"):
                call = runtime.call("file_delete", {"path": path, "recursive": True})
                assert call.outcome == "failed", path
        assert (inner / "a").exists()
    finally:
        subprocess.run(["umount", os.fspath(inner)], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"paths": []},
        {"path": "a", "paths": ["b"]},
        {"path": ""},
        {"path": "a\0"},
        {"paths": ["a", "\x07"]},
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_runs(place, arguments):
    (place.work / "a").touch()
    with place.open() as runtime:
        call = runtime.call("file_delete", arguments)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert (place.work / "a").exists()


def test_a_dry_run_says_what_would_go_and_touches_nothing(place):
    (place.work / "tree").mkdir()
    make_tree(place.work / "tree")
    arguments = {"path": "tree", "recursive": True}
    with place.open() as runtime:
        succeeded(runtime.call("file_write", {"path": "other", "content": "so that there is undo data"}))
        before, undo = tree(place.work), place.undo_data()
        call = runtime.call("file_delete", arguments, dry_run=True)
        said = succeeded(call)["would_delete"]
        assert tree(place.work) == before
        assert place.undo_data() == undo
        assert not call.changes
        assert "`recursive`" in message(runtime.call("file_delete", {"path": "tree"}, dry_run=True))
        assert succeeded(runtime.call("file_delete", arguments)) == said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete everywhere")
def test_a_tree_that_can_be_deleted_in_part_only_stays_whole(place):
    (place.work / "tree" / "closed").mkdir(parents=True)
    (place.work / "tree" / "a").touch()
    (place.work / "tree" / "closed" / "b").touch()
    os.chmod(place.work / "tree" / "closed", 0o555)
    before = tree(place.work)
    with place.open() as runtime:
        assert "Permission denied" in message(
            runtime.call("file_delete", {"path": "tree", "recursive": True})
        )
    assert tree(place.work) == before
    assert temporary_files(place.work) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a file immutable")
def test_a_file_that_cannot_go_keeps_the_whole_tree(place):
    (place.work / "tree").mkdir()
    make_tree(place.work / "tree")
    immutable = place.work / "tree" / "inner" / "file"
    if subprocess.run(["chattr", "+i", os.fspath(immutable)], capture_output=True).returncode:
        pytest.skip("chattr is missing, or this file system has no immutable files")
    try:
        before = tree(place.work)
        with place.open() as runtime:
            message(runtime.call("file_delete", {"path": "tree", "recursive": True}))
        assert tree(place.work) == before
    finally:
        subprocess.run(["chattr", "-i", os.fspath(immutable)], check=True)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_folder_of_a_hundred_thousand_files_goes_and_comes_back_and_one_more_is_refused(place):
    full = place.work / "full"
    full.mkdir()
    for number in range(ENTRIES_MAX - 1):  # the folder is one of them
        os.mknod(full / f"{number}")
    before = tree(place.work)
    with place.open() as runtime:
        call = runtime.call("file_delete", {"path": "full", "recursive": True}, timeout=0)
        assert succeeded(call)["files"] == ENTRIES_MAX - 1
        assert call.changes_count == len(call.changes) == ENTRIES_MAX
        assert len(runtime.index.call(call.id).changes) == CHANGES_KEPT_MAX
        assert not full.exists()
        succeeded(runtime.call("undo", {"call": call.id}, timeout=0))
        assert tree(place.work) == before
        (full / "one more").touch()
        refused = runtime.call("file_delete", {"path": "full", "recursive": True}, timeout=0)
        assert f"more than the {ENTRIES_MAX}" in message(refused)
    assert len(os.listdir(full)) == ENTRIES_MAX
