"""`file_edit`: exact replacements, all of them or none."""

import hashlib
import os
import subprocess
import sys

import pytest
from tests.tools.trees import Place, message, succeeded, temporary_files, tree


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def edit(old, new, **more):
    return {"old": old, "new": new, **more}


def test_an_edit_replaces_what_stands_there_once_and_says_what_changed(place):
    file = place.work / "a.py"
    file.write_text("one\ntwo\nthree\n")
    os.chmod(file, 0o751)
    with place.open() as runtime, runtime.run("edit") as run:
        call = run.call("file_edit", {"path": "a.py", "edits": [edit("two", "2")]})
    result = succeeded(call)
    assert file.read_text() == "one\n2\nthree\n"
    assert file.stat().st_mode & 0o7777 == 0o751
    assert result["path"] == os.fspath(file)
    assert (result["replaced"], result["bytes_before"], result["bytes"]) == (1, 14, 12)
    assert [line for line in result["diff"] if line.startswith(("-two", "+2"))] == ["-two", "+2"]
    (change,) = call.changes
    assert (change.path, change.change, change.kind) == (os.fspath(file), "modified", "file")
    assert change.after.sha256 == result["sha256"]


def test_edits_are_made_one_after_another(place):
    file = place.work / "a"
    file.write_text("a b c")
    edits = [edit("a", "b"), edit("b", "x", count=2), edit("x x", "done")]
    with place.open() as runtime:
        result = succeeded(runtime.call("file_edit", {"path": "a", "edits": edits}))
    assert file.read_text() == "done c"
    assert result["replaced"] == 4


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ([edit("x", "y")], ["stands 3 times", "lines 1, 3, 3", "not 1", "`count`"]),
        ([edit("x", "y", count=2)], ["stands 3 times", "not 2"]),
        ([edit("nowhere", "y")], ["does not stand in"]),
        (
            [edit("one", "1"), edit("one", "2")],
            ["edit 2 of 2", "does not stand in", "after the edits before it"],
        ),
    ],
)
def test_a_text_that_stands_there_another_number_of_times_changes_nothing(place, edits, says):
    file = place.work / "a"
    file.write_text("x\none\nxx\n")
    before = tree(place.work)
    with place.open() as runtime:
        said = message(runtime.call("file_edit", {"path": "a", "edits": edits}))
    assert [words for words in [*says, os.fspath(file), "nothing was changed"] if words not in said] == []
    assert tree(place.work) == before
    assert place.undo_data() == {}


def test_of_many_places_the_message_names_the_first(place):
    (place.work / "a").write_text("x\n" * 500)
    with place.open() as runtime:
        said = message(runtime.call("file_edit", {"path": "a", "edits": [edit("x", "y")]}))
    assert "stands 500 times" in said
    assert "(lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …)" in said


def test_several_files_are_edited_or_none(place):
    for name in "abc":
        (place.work / name).write_text(f"{name}: old\n")
    before = tree(place.work)
    files = [{"path": name, "edits": [edit("old", "new")]} for name in "ab"]
    with place.open() as runtime, runtime.run("edit") as run:
        refused = run.call("file_edit", {"files": [*files, {"path": "c", "edits": [edit("gone", "new")]}]})
        assert "does not stand in" in message(refused)
        assert tree(place.work) == before
        call = run.call("file_edit", {"files": files})
        result = succeeded(call)
        assert [(place.work / name).read_text() for name in "abc"] == ["a: new\n", "b: new\n", "c: old\n"]
        assert [one["path"] for one in result["files"]] == [os.fspath(place.work / name) for name in "ab"]
        succeeded(run.call("undo", {"call": call.id}))
    assert tree(place.work) == before


def test_one_file_named_twice_by_different_names_is_refused(place):
    (place.work / "a").write_text("old")
    (place.work / "link").symlink_to("a")
    files = [{"path": name, "edits": [edit("old", "new")]} for name in ("a", "link")]
    with place.open() as runtime:
        assert "named twice" in message(runtime.call("file_edit", {"files": files}))
    assert (place.work / "a").read_text() == "old"


def test_a_link_that_stays_within_is_followed_and_stays_a_link(place):
    (place.work / "a").write_text("old")
    (place.work / "link").symlink_to("a")
    with place.open() as runtime:
        result = succeeded(runtime.call("file_edit", {"path": "link", "edits": [edit("old", "new")]}))
    assert result["path"] == os.fspath(place.work / "a")
    assert (place.work / "link").is_symlink()
    assert (place.work / "a").read_text() == "new"


@pytest.mark.parametrize(
    ("before", "edits", "after"),
    [
        (b"\xef\xbb\xbfone\n", [edit("one", "two")], b"\xef\xbb\xbftwo\n"),
        (b"one\r\ntwo\r\n", [edit("one\ntwo", "1\n2\n3")], b"1\r\n2\r\n3\r\n"),
        (b"one\r\ntwo\r\n", [edit("one\r\n", "1\r\n")], b"1\r\ntwo\r\n"),
        (b"one\r\ntwo\nthree", [edit("two\n", "2\n")], b"one\r\n2\nthree"),
        (b"no end", [edit("end", "End")], b"no End"),
        ("æ é ü".encode(), [edit("é", "ê€")], "æ ê€ ü".encode()),
    ],
    ids=["byte order mark", "CRLF by LF", "CRLF", "mixed", "no last line end", "not ASCII"],
)
def test_encoding_and_line_endings_stay(place, before, edits, after):
    file = place.work / "a"
    file.write_bytes(before)
    with place.open() as runtime:
        succeeded(runtime.call("file_edit", {"path": "a", "edits": edits}))
    assert file.read_bytes() == after


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9", "not UTF-8 text: byte 3 is 0xe9"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"a\0b", "NUL at byte 1"),
    ],
)
def test_what_is_not_utf_8_text_is_refused_with_words(place, content, says):
    (place.work / "a").write_bytes(content)
    with place.open() as runtime:
        assert says in message(runtime.call("file_edit", {"path": "a", "edits": [edit("a", "b")]}))
    assert (place.work / "a").read_bytes() == content


def test_an_edit_that_changes_nothing_touches_nothing(place):
    (place.work / "a").write_text("same")
    before = tree(place.work)
    with place.open() as runtime:
        call = runtime.call("file_edit", {"path": "a", "edits": [edit("same", "same")]})
    assert succeeded(call)["unchanged"] is True
    assert call.changes == ()
    assert tree(place.work) == before
    assert place.undo_data() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"path": "a"},
        {"edits": [edit("a", "b")]},
        {"path": "a", "edits": []},
        {"path": "a", "edits": [edit("", "b")]},
        {"path": "a", "edits": [edit("a", "b", count=0)]},
        {"path": "a", "edits": [edit("a", "b")], "files": [{"path": "a", "edits": [edit("a", "b")]}]},
        {"files": []},
        {"path": "a", "edits": [edit("\ud800", "b")]},
        {"path": "a\0", "edits": [edit("a", "b")]},
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_runs(place, arguments):
    (place.work / "a").write_text("a")
    with place.open() as runtime:
        call = runtime.call("file_edit", arguments)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert (place.work / "a").read_text() == "a"


def test_what_is_no_file_is_named(place):
    os.mkfifo(place.work / "pipe")
    (place.work / "folder").mkdir()
    edits = [edit("a", "b")]
    with place.open() as runtime:
        said = {
            name: message(runtime.call("file_edit", {"path": name, "edits": edits}))
            for name in ("pipe", "folder", "none")
        }
    assert "pipe is a named pipe" in said["pipe"]
    assert "folder is a folder" in said["folder"]
    assert "There is no file" in said["none"]


def test_a_file_outside_the_roots_or_protected_is_refused(place):
    (place.outside / "a").write_text("a")
    (place.work / ".env").write_text("a")
    edits = [edit("a", "b")]
    with place.open() as runtime:
        outside = runtime.call("file_edit", {"path": os.fspath(place.outside / "a"), "edits": edits})
        protected = runtime.call("file_edit", {"path": ".env", "edits": edits})
    assert [call.decision.by for call in (outside, protected)] == ["nobody", "nobody"]
    assert f"--root {place.outside}" in outside.reason
    assert (place.outside / "a").read_text() == (place.work / ".env").read_text() == "a"


def test_a_large_file_is_refused_with_the_bound(place):
    with (place.work / "large").open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    with place.open() as runtime:
        said = message(runtime.call("file_edit", {"path": "large", "edits": [edit("a", "b")]}))
    assert str(16 * 1024 * 1024) in said


def test_a_dry_run_says_what_would_change_and_touches_nothing(place):
    (place.work / "a").write_text("one\ntwo\n")
    arguments = {"path": "a", "edits": [edit("two", "2")]}
    with place.open() as runtime:
        succeeded(runtime.call("file_write", {"path": "other", "content": "so that there is undo data"}))
        before, undo = tree(place.work), place.undo_data()
        call = runtime.call("file_edit", arguments, dry_run=True)
        assert tree(place.work) == before
        assert place.undo_data() == undo
        said = succeeded(call)["would_edit"]
        assert "+2" in said["diff"]
        assert not call.changes
        done = succeeded(runtime.call("file_edit", arguments))
    assert done == said


def test_a_dry_run_fails_where_the_edit_would(place):
    (place.work / "a").write_text("one")
    with place.open() as runtime:
        call = runtime.call("file_edit", {"path": "a", "edits": [edit("two", "2")]}, dry_run=True)
    assert "does not stand in" in message(call)


CHANGING = """
import os, sys
path = sys.argv[1]
os.write(1, b"at it\\n")
number = 0
while True:
    number += 1
    with open(path + ".other", "w") as file:
        file.write(f"counter {number}\\nmark\\n")
    os.replace(path + ".other", path)
"""


def test_what_is_replaced_is_what_was_edited_while_somebody_else_writes(place):
    """Another program replaces the file all the time: each edit is made on what it replaces, or refused."""
    file = place.work / "a"
    file.write_text("counter 0\nmark\n")
    arguments = [{"path": "a", "edits": [edit("mark", f"edit {number}")]} for number in range(20)]
    with subprocess.Popen([sys.executable, "-c", CHANGING, file], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            with place.open() as runtime:
                calls = [runtime.call("file_edit", one) for one in arguments]
        finally:
            other.kill()
    for call in calls:
        if call.outcome == "succeeded":
            (counter,) = [line[1:] for line in call.result["diff"] if line.startswith(" counter")]
            before = hashlib.sha256(f"{counter}\nmark\n".encode()).hexdigest()
            assert call.changes[0].before.sha256 == before
        else:
            assert call.error["type"] in ("UndoConflict", "ToolError"), call.error
    assert temporary_files(place.work) == []
