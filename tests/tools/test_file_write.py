"""`file_write`: a file's content, put in place in one step, or added at its end."""

import base64
import hashlib
import os
import socket
import subprocess
import sys
import threading

import pytest
from tests.tools.trees import Place, can_set_xattrs, message, succeeded, tree

from custody.files import putting


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -- what it does ---------------------------------------------------------------------------------------


def test_a_new_file_is_written_with_the_folders_above_it(place):
    with place.open() as runtime, runtime.run("write") as run:
        call = run.call("file_write", {"path": "a/b/c.txt", "content": "hällo\n"})
    result = succeeded(call)
    file = place.work / "a" / "b" / "c.txt"
    assert file.read_bytes() == "hällo\n".encode()
    assert result == {
        "path": os.fspath(file),
        "created": True,
        "unchanged": False,
        "bytes_written": 7,
        "bytes_before": None,
        "bytes": 7,
        "sha256": sha256("hällo\n".encode()),
        "folders_made": [os.fspath(file.parents[1]), os.fspath(file.parent)],
    }
    assert [(change.path, change.change, change.kind) for change in call.changes] == [
        (os.fspath(file.parents[1]), "created", "directory"),
        (os.fspath(file.parent), "created", "directory"),
        (os.fspath(file), "created", "file"),
    ]
    assert call.changes_count == 3


def test_a_new_file_gets_its_mode_less_the_umask(place):
    program = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from tests.tools.trees import Place
os.umask(0o027)
with Place(Path({os.fspath(place.work.parent)!r})).open() as runtime:
    for name, more in (("usual", {{}}), ("script", {{"mode": "0755"}}), ("private", {{"mode": "600"}})):
        assert runtime.call("file_write", {{"path": name, "content": "", **more}}).outcome == "succeeded"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in place.work.iterdir()}
    assert modes == {"usual": "0o640", "script": "0o750", "private": "0o600"}


def test_a_file_that_is_replaced_keeps_its_mode_owner_and_extended_attributes(place):
    file = place.work / "script"
    file.write_text("old")
    os.chmod(file, 0o4711)
    if os.geteuid() == 0:
        os.chown(file, 4711, 4712)
        os.chmod(file, 0o4711)
    if can_set_xattrs(place.work):
        os.setxattr(file, "user.origin", b"a download")
    before = tree(place.work)[b"script"]
    with place.open() as runtime:
        result = succeeded(runtime.call("file_write", {"path": "script", "content": "new", "mode": "0600"}))
    after = tree(place.work)[b"script"]
    assert (result["created"], result["bytes_before"]) == (False, 3)
    assert after["content"] == b"new"
    assert {name: after[name] for name in ("mode", "owner", "xattrs")} == {
        name: before[name] for name in ("mode", "owner", "xattrs")
    }


def test_bytes_are_written_as_base64(place):
    content = bytes(range(256))
    arguments = {"path": "a", "content_base64": base64.b64encode(content).decode()}
    with place.open() as runtime:
        assert succeeded(runtime.call("file_write", arguments))["sha256"] == sha256(content)
    assert (place.work / "a").read_bytes() == content


def test_content_that_stands_there_already_touches_nothing(place):
    (place.work / "a").write_text("same")
    before = tree(place.work)
    with place.open() as runtime:
        call = runtime.call("file_write", {"path": "a", "content": "same"})
    assert succeeded(call)["unchanged"] is True
    assert call.result["bytes_written"] == 0
    assert call.changes == ()
    assert tree(place.work) == before
    assert place.undo_data() == {}


def test_a_reader_sees_the_old_content_or_the_new(place):
    """The file is written again and again, each time with one letter; no reader ever sees two."""
    file = place.work / "a"
    letters = "abcdefgh"
    file.write_text(letters[-1] * 100_000)
    over = threading.Event()
    mixed: list[set[str]] = []

    def read():
        while not over.is_set():
            seen = file.read_text()
            if len(seen) != 100_000 or len(set(seen)) != 1:
                mixed.append(set(seen))

    reader = threading.Thread(target=read)
    with place.open() as runtime:
        reader.start()
        try:
            for letter in letters:
                succeeded(runtime.call("file_write", {"path": "a", "content": letter * 100_000}))
        finally:
            over.set()
            reader.join()
    assert mixed == []


# -- append ---------------------------------------------------------------------------------------------


def test_append_adds_at_the_end_of_the_same_file(place):
    file = place.work / "log"
    file.write_text("one\n")
    os.link(file, place.work / "other name")
    inode = file.stat().st_ino
    with place.open() as runtime, runtime.run("log") as run:
        call = run.call("file_write", {"path": "log", "content": "two\n", "append": True})
        result = succeeded(call)
        assert (result["bytes_before"], result["bytes_written"], result["bytes"]) == (4, 4, 8)
        assert result["sha256"] == sha256(b"one\ntwo\n")
        assert file.stat().st_ino == inode
        assert (place.work / "other name").read_text() == "one\ntwo\n"
        succeeded(run.call("undo", {"call": call.id}))
    assert (place.work / "other name").read_text() == file.read_text() == "one\n"
    assert file.stat().st_ino == inode


def test_append_makes_a_file_that_is_not_there(place):
    with place.open() as runtime:
        result = succeeded(runtime.call("file_write", {"path": "a/log", "content": "one", "append": True}))
    assert result["created"] is True
    assert (place.work / "a" / "log").read_text() == "one"


def test_an_append_of_nothing_touches_nothing(place):
    (place.work / "log").write_text("one")
    before = tree(place.work)
    with place.open() as runtime:
        result = succeeded(runtime.call("file_write", {"path": "log", "content": "", "append": True}))
    assert result["unchanged"] is True
    assert tree(place.work) == before


TRIES_MAX = 200
"""Of one append: one that was overtaken again and again is told so, and others wrote meanwhile."""


def test_appends_from_several_threads_are_all_there(place, monkeypatch):
    monkeypatch.setattr(putting, "LOCK_WAIT_SECONDS", 60)  # none of them is to be thought to hang
    (place.work / "log").write_text("")
    lines = [f"{number}\n" for number in range(24)]
    with place.open() as runtime:
        calls: list = []

        def append(mine):
            for line in mine:
                for _ in range(TRIES_MAX):
                    call = runtime.call("file_write", {"path": "log", "content": line, "append": True})
                    calls.append(call)
                    if call.outcome == "succeeded":
                        break

        threads = [threading.Thread(target=append, args=(lines[part::3],)) for part in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = [call.arguments["content"] for call in calls if call.outcome == "succeeded"]
    assert sorted((place.work / "log").read_text().splitlines(keepends=True)) == sorted(written)
    assert {call.error["type"] for call in calls if call.outcome == "failed"} <= {"UndoConflict"}, [
        c.error for c in calls
    ]
    assert sorted(written) == sorted(lines)


# -- what it is asked to make sure of -------------------------------------------------------------------


def test_a_file_that_is_not_the_expected_one_is_left(place):
    file = place.work / "a"
    file.write_text("other")
    before = tree(place.work)
    arguments = {"path": "a", "content": "new"}
    with place.open() as runtime:
        wrong = runtime.call("file_write", {**arguments, "expected_sha256": sha256(b"old")})
        assert sha256(b"other") in message(wrong)
        assert tree(place.work) == before
        missing = runtime.call("file_write", {**arguments, "path": "b", "expected_sha256": sha256(b"")})
        assert "There is no file" in message(missing)
        succeeded(runtime.call("file_write", {**arguments, "expected_sha256": sha256(b"other").upper()}))
    assert file.read_text() == "new"


def test_create_says_whether_there_may_or_must_be_a_file(place):
    (place.work / "there").write_text("old")
    with place.open() as runtime:

        def write(path, create):
            return runtime.call("file_write", {"path": path, "content": "new", "create": create})

        assert "is there already" in message(write("there", "only"))
        assert "There is no file" in message(write("missing", "never"))
        assert (place.work / "there").read_text() == "old"
        assert not (place.work / "missing").exists()
        succeeded(write("there", "never"))
        succeeded(write("missing", "only"))
    assert {path.name: path.read_text() for path in place.work.iterdir()} == {
        "there": "new",
        "missing": "new",
    }


def test_folders_are_not_made_where_that_is_not_wanted(place):
    arguments = {"path": "a/b/c", "content": "", "make_parents": False}
    with place.open() as runtime:
        said = message(runtime.call("file_write", arguments))
    assert f"The folder {place.work / 'a'} does not exist" in said
    assert list(place.work.iterdir()) == []


# -- paths that cannot be written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["", "a\0b", "a\nb", "a\x1bb", "a\x7f", "x" * 256, "x/" * 2048, "a\ud800", "folder/", "a/../../no/../x"],
    ids=lambda path: repr(path[:12]),
)
def test_what_is_no_path_is_refused_before_anything_runs(place, path):
    before = tree(place.work.parent)
    with place.open() as runtime:
        call = runtime.call("file_write", {"path": path, "content": "x"})
    assert call.outcome == "rejected"
    assert call.decision.by in ("schema", "path")
    after = tree(place.work.parent)
    assert {
        name: entry for name, entry in after.items() if not name.startswith(b"store") and name != b"."
    } == {name: entry for name, entry in before.items() if name != b"."}


@pytest.mark.parametrize(
    "name", ["report..final.txt", "a b", "-rf", "é", "e\u0301", "x" * 255, "\udce9\udcff"]
)
def test_an_unusual_name_is_a_name(place, name):
    with place.open() as runtime:
        result = succeeded(runtime.call("file_write", {"path": name, "content": "x"}))
        assert (place.work / name).read_text() == "x"
        assert os.fsencode(result["path"]) == os.fsencode(place.work / name)


def test_the_longest_path_there_can_be_is_written(place):
    base = len(os.fsencode(place.work)) + 1
    names, left = [], 4095 - base
    while left > 256:
        names.append("d" * 200)
        left -= 201
    path = "/".join([*names, "f" * left])
    with place.open() as runtime:
        succeeded(runtime.call("file_write", {"path": path, "content": "deep"}))
        longer = f"{os.fspath(place.work)}/{path}x"
        assert "4095" in message(runtime.call("file_write", {"path": longer, "content": "deep"}))
    folder = os.open(place.work, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = inner
    assert os.stat("f" * left, dir_fd=folder).st_size == 4
    os.close(folder)


def test_outside_the_roots_nothing_is_written(place):
    (place.work / "link").symlink_to(place.outside)
    (place.work / "final").symlink_to(place.outside / "there")
    (place.outside / "there").write_text("old")
    paths = ["../outside/a", os.fspath(place.outside / "a"), "link/a", "final", "link/../outside/a"]
    with place.open() as runtime:
        for path in paths:
            call = runtime.call("file_write", {"path": path, "content": "escaped"})
            assert (path, call.outcome, call.decision.by) == (path, "rejected", "nobody")
            assert os.fspath(place.work) in call.reason
        assert (
            f"--root {place.outside}" in runtime.call("file_write", {"path": paths[1], "content": ""}).reason
        )
    assert [path.name for path in place.outside.iterdir()] == ["there"]
    assert (place.outside / "there").read_text() == "old"


def test_a_link_that_leads_nowhere_is_refused_and_one_that_stays_within_is_followed(place):
    (place.work / "nowhere").symlink_to("gone")
    (place.work / "there").write_text("old")
    (place.work / "within").symlink_to("there")
    with place.open() as runtime:
        assert "symbolic link" in message(runtime.call("file_write", {"path": "nowhere", "content": "x"}))
        succeeded(runtime.call("file_write", {"path": "within", "content": "new"}))
    assert (place.work / "within").is_symlink()
    assert (place.work / "there").read_text() == "new"
    assert not (place.work / "gone").exists()


def test_protected_files_and_custodys_own_are_not_written(place):
    (place.work / ".git").mkdir()
    (place.work / ".env").write_text("TOKEN=1")
    os.link(place.work / ".env", place.work / "notes.txt")
    paths = [
        ".git/config",
        ".git/hooks/pre-commit",
        ".env",
        ".envrc",
        ".vscode/tasks.json",
        ".ENV",
        ".Git/Config",
        "notes.txt",
        "custody.toml",
    ]
    with place.open(roots=[os.fspath(place.store)]) as runtime:
        for path, by in [*((path, "nobody") for path in paths), (os.fspath(place.store / "journal"), "path")]:
            call = runtime.call("file_write", {"path": path, "content": "mine now"})
            assert (path, call.outcome, call.decision.by) == (path, "rejected", by)
        for path in ("foo.env", ".env.example", "my_id_rsa"):
            succeeded(runtime.call("file_write", {"path": path, "content": "fine"}))
    assert (place.work / ".env").read_text() == "TOKEN=1"


def test_what_is_no_file_is_not_written_and_not_waited_for(place):
    os.mkfifo(place.work / "pipe")
    (place.work / "folder").mkdir()
    (place.work / "file").write_text("old")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(place.work)  # a socket's path is short
    listening.bind("socket")
    os.chdir(here)
    expected = {"pipe": "a named pipe", "folder": "a folder", "socket": "a socket", "file/below": "file"}
    if os.geteuid() == 0:
        os.mknod(place.work / "device", 0o600 | 0o020000, os.makedev(1, 3))
        expected["device"] = "a character device"
    before = tree(place.work)
    with place.open() as runtime:
        for name, words in expected.items():
            call = runtime.call("file_write", {"path": name, "content": "x"}, timeout=20)
            assert words in message(call), name
    listening.close()
    assert tree(place.work) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "path"),
        ({"path": "a"}, "either `content` or `content_base64`"),
        ({"path": "a", "content": "x", "content_base64": "eA=="}, "either `content` or `content_base64`"),
        ({"path": "a", "content_base64": "no base64!"}, "not base64"),
        ({"path": "a", "content_base64": "é"}, "not base64"),
        ({"path": "a", "content": "\ud800"}, "surrogate"),
        ({"path": "a", "content": "x", "mode": "0999"}, "mode"),
        ({"path": "a", "content": "x", "mode": "4755"}, "mode"),
        ({"path": "a", "content": "x", "create": "maybe"}, "create"),
        ({"path": "a", "content": "x", "expected_sha256": "12"}, "expected_sha256"),
        ({"path": "a", "content": "x", "expected_sha256": "0" * 64, "create": "only"}, "create"),
        ({"path": "a", "content": "x", "unknown": 1}, "unknown"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_runs(place, arguments, says):
    with place.open() as runtime:
        call = runtime.call("file_write", arguments)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert says in call.reason
    assert list(place.work.iterdir()) == []


def test_a_content_beyond_the_bound_is_refused_with_the_bound(place):
    with place.open() as runtime:
        call = runtime.call("file_write", {"path": "a", "content": "x" * (64 * 1024 * 1024 + 1)})
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert str(64 * 1024 * 1024) in call.reason


# -- dry run --------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_written_and_touches_nothing(place):
    (place.work / "there").write_text("old")
    asked = [
        {"path": "there", "content": "new"},
        {"path": "there", "content": "more", "append": True},
        {"path": "a/b", "content": "new"},
        {"path": "there", "content": "old"},
    ]
    with place.open() as runtime:
        succeeded(runtime.call("file_write", {"path": "other", "content": "so that there is undo data"}))
        before, undo = tree(place.work.parent / "work"), place.undo_data()
        said = [runtime.call("file_write", arguments, dry_run=True) for arguments in asked]
        assert tree(place.work) == before
        assert place.undo_data() == undo
        for call, arguments in zip(said, asked, strict=True):
            assert call.result["dry_run"] is True
            assert not call.changes
            would = succeeded(call)["would_write"]
            done = runtime.call("file_write", arguments)
            assert {**succeeded(done), "sha256": would["sha256"]} == would
            succeeded(runtime.call("undo", {"call": done.id})) if done.changes else None


def test_a_dry_run_fails_where_the_write_would(place):
    (place.work / "folder").mkdir()
    with place.open() as runtime:
        assert "a folder" in message(
            runtime.call("file_write", {"path": "folder", "content": ""}, dry_run=True)
        )
        outside = {"path": os.fspath(place.outside / "a"), "content": ""}
        assert runtime.call("file_write", outside, dry_run=True).outcome == "rejected"
