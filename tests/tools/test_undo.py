"""`undo`: takes back what a call changed, or a run, backwards."""

import os

import pytest
from tests.tools.trees import Place, message, succeeded, tree, write

import custody


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


# -- one call -------------------------------------------------------------------------------------------


def test_each_kind_of_change_is_taken_back(place):
    (place.work / "there").write_text("old")
    (place.work / "gone").write_text("gone")
    os.chmod(place.work / "there", 0o640)
    os.utime(place.work / "there", ns=(5, 5_000_000_001))
    asked = [
        ("file_write", {"path": "a/b/new", "content": "new"}),
        ("file_write", {"path": "there", "content": "new"}),
        ("file_write", {"path": "there", "content": "more", "append": True}),
        ("file_edit", {"path": "there", "edits": [{"old": "old", "new": "new"}]}),
        ("file_delete", {"path": "gone"}),
    ]
    before = tree(place.work)
    with place.open() as runtime:
        for name, arguments in asked:
            call = runtime.call(name, arguments)
            succeeded(call)
            assert tree(place.work) != before
            result = succeeded(runtime.call("undo", {"call": call.id}))
            assert tree(place.work) == before, name
            assert result["undone"] == [{"call": call.id, "tool": name, "changes": call.changes_count}]
            assert (result["conflicts"], result["lost"], result["stopped_at"]) == ([], [], None)


def test_a_call_is_named_by_the_beginning_of_its_id(place):
    with place.open() as runtime:
        call = write(runtime, "a", "new")
        succeeded(runtime.call("undo", {"call": call.id[:8]}))
        assert not (place.work / "a").exists()
        unknown = runtime.call("undo", {"call": "0000000000000000"})
        assert unknown.error["type"] == "NotFound"


def test_an_undo_tells_its_changes_and_can_be_undone_again_and_again(place):
    (place.work / "a").write_text("old")
    with place.open() as runtime:
        states = [tree(place.work)]
        call = write(runtime, "a", "new")
        states.append(tree(place.work))
        for number in range(4):
            undoing = runtime.call("undo", {"call": call.id})
            succeeded(undoing)
            (change,) = undoing.changes
            assert (change.path, change.change) == (os.fspath(place.work / "a"), "modified")
            assert tree(place.work) == states[number % 2]
            call = undoing


def test_what_was_undone_already_is_said_until_that_is_undone(place):
    with place.open() as runtime:
        call = write(runtime, "a", "new")
        undoing = runtime.call("undo", {"call": call.id})
        again = runtime.call("undo", {"call": call.id})
        assert f"undone already, by call {undoing.id}" in message(again)
        succeeded(runtime.call("undo", {"call": undoing.id}))
        assert (place.work / "a").read_text() == "new"
        succeeded(runtime.call("undo", {"call": call.id}))
        assert not (place.work / "a").exists()


def test_a_file_that_changed_since_is_not_taken_back_and_both_are_shown(place):
    file = place.work / "a"
    file.write_text("old")
    with place.open() as runtime:
        call = write(runtime, "a", "new")
        file.write_text("somebody else's")
        before, undo = tree(place.work), place.undo_data()
        refused = runtime.call("undo", {"call": call.id})
        assert refused.error["type"] == "UndoConflict"
        assert os.fspath(file) in message(refused)
        (conflict,) = refused.result["conflicts"]
        assert conflict["path"] == os.fspath(file)
        assert (conflict["expected"]["bytes"], conflict["found"]["bytes"]) == (3, 15)
        assert conflict["expected"]["sha256"] == call.changes[0].after.sha256
        assert (refused.result["undone"], refused.result["stopped_at"]) == ([], call.id)
        assert tree(place.work) == before
        assert place.undo_data() == undo
        assert not refused.changes


def test_force_takes_it_back_all_the_same_and_says_what_is_lost(place):
    file = place.work / "a"
    file.write_text("old")
    with place.open() as runtime:
        call = write(runtime, "a", "new")
        file.write_text("somebody else's")
        forced = runtime.call("undo", {"call": call.id, "force": True})
        result = succeeded(forced)
        assert file.read_text() == "old"
        assert [conflict["path"] for conflict in result["conflicts"]] == [os.fspath(file)]
        assert any(os.fspath(file) in sentence for sentence in result["lost"])
        succeeded(runtime.call("undo", {"call": forced.id}))
        assert file.read_text() == "somebody else's"


def test_what_force_took_back_in_part_only_is_not_undone(place):
    """Of what was appended only the end is kept; once the file is another, there is nothing to cut off."""
    (place.work / "log").write_text("one\n")
    before = tree(place.work)
    with place.open() as runtime:
        with runtime.run("work") as run:
            call = write(run, "log", "two\n", append=True)
            write(run, "log", "another")
            forced = run.call("undo", {"call": call.id, "force": True})
        (one,) = succeeded(forced)["undone"]
        assert (one["call"], one["changes"], one["partly"]) == (call.id, 0, True)
        assert (place.work / "log").read_text() == "another"
        assert succeeded(runtime.call("undo", {"run": run.id}))["already_undone"] == []
    assert tree(place.work) == before


def test_of_several_files_none_is_taken_back_where_one_changed(place):
    for name in "abc":
        (place.work / name).write_text("old")
    files = [{"path": name, "edits": [{"old": "old", "new": "new"}]} for name in "abc"]
    with place.open() as runtime:
        call = runtime.call("file_edit", {"files": files})
        (place.work / "b").write_text("other")
        assert "UndoConflict" in runtime.call("undo", {"call": call.id}).error["type"]
    assert [(place.work / name).read_text() for name in "abc"] == ["new", "other", "new"]


def test_a_folder_the_call_made_stays_where_somebody_put_something_in(place):
    with place.open() as runtime:
        call = write(runtime, "made/a", "new")
        (place.work / "made" / "theirs").write_text("kept")
        refused = runtime.call("undo", {"call": call.id})
        assert "theirs" in message(refused)
        assert (place.work / "made" / "a").exists()
        forced = runtime.call("undo", {"call": call.id, "force": True})
        succeeded(forced)
    assert [path.name for path in (place.work / "made").iterdir()] == ["theirs"]


@pytest.mark.parametrize("tool", ["exec", "file_read", "refused", "dry run"])
def test_a_call_that_changed_nothing_is_named_as_such(place, tool):
    (place.work / "a").write_text("text")
    with place.open() as runtime:
        call = {
            "exec": lambda: runtime.call("exec", {"argv": ["true"]}),
            "file_read": lambda: runtime.call("file_read", {"path": "a"}),
            "refused": lambda: runtime.call("file_write", {"path": "a"}),
            "dry run": lambda: runtime.call("file_write", {"path": "a", "content": "b"}, dry_run=True),
        }[tool]()
        said = message(runtime.call("undo", {"call": call.id}))
    words = {"refused": "refused and did nothing"}.get(tool, "changed no files")
    assert words in said


def test_a_call_whose_changes_nobody_looked_at_is_named_as_such(place):
    @custody.tool(effect="write")
    def scribble() -> None:
        (place.work / "a").write_text("unseen")

    with place.open(tools=[scribble]) as runtime:
        call = runtime.call("scribble")
        assert "is not known" in message(runtime.call("undo", {"call": call.id}))


def test_what_is_past_its_undo_data_says_so(place):
    with place.open() as runtime:
        call = write(runtime, "a", "new")
        for path in (place.store / "undo").glob("*"):
            if path.is_file():
                path.unlink()
        gone = runtime.call("undo", {"call": call.id})
    assert gone.error["type"] == "UndoGone"
    assert "days" in message(gone)
    assert (place.work / "a").read_text() == "new"


def test_damaged_undo_data_is_named_and_nothing_is_touched(place):
    with place.open() as runtime:
        call = write(runtime, "a", "new")
        path = place.store / "undo" / call.id
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        damaged = runtime.call("undo", {"call": call.id})
        assert damaged.error["type"] == "UndoGone"
        assert "damaged" in message(damaged)
    assert (place.work / "a").read_text() == "new"


def test_the_undo_data_holds_nothing_that_can_be_read(place):
    (place.work / "a").write_text("a sentence that was there before " * 50)
    with place.open() as runtime:
        write(runtime, "a", "another")
    data = b"".join(place.undo_data().values())
    assert b"sentence" not in data and b"work" not in data


def test_outside_the_roots_of_today_nothing_is_taken_back(place, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with place.open(roots=[os.fspath(other)]) as runtime:
        call = write(runtime, os.fspath(other / "a"), "new")
    with place.open() as runtime:
        refused = runtime.call("undo", {"call": call.id})
        assert refused.error["type"] == "PathRefused"
        assert f"--root {other}" in message(refused)
        assert (other / "a").exists()
    with place.open(roots=[os.fspath(other)]) as runtime:
        succeeded(runtime.call("undo", {"call": call.id}))
    assert not (other / "a").exists()


def test_a_folder_replaced_by_a_link_to_outside_is_not_followed(place):
    with place.open() as runtime:
        call = write(runtime, "folder/a", "new")
        os.rename(place.work / "folder", place.outside / "folder")
        (place.work / "folder").symlink_to(place.outside / "folder")
        for force in (False, True):
            runtime.call("undo", {"call": call.id, "force": force})
    assert (place.outside / "folder" / "a").read_text() == "new"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"call": "a", "run": "b"},
        {"call": ""},
        {"call": "a", "children": True},
        {"run": "a", "unknown": 1},
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_runs(place, arguments):
    with place.open() as runtime:
        call = runtime.call("undo", arguments)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
