"""`undo` of a run: backwards through its calls, as far as that goes."""

import os
import subprocess
import sys
import threading

import pytest
from tests.settings_for_tests import NEVER_SHORT
from tests.tools.trees import Place, message, succeeded, temporary_files, tree, write

import custody


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_run_is_taken_back_from_its_end(place):
    (place.work / "a").write_text("old")
    (place.work / "folder").mkdir()
    before = tree(place.work)
    with place.open() as runtime:
        with runtime.run("work") as run:
            write(run, "a", "1")
            write(run, "a", "2")
            write(run, "new/b", "b")
            run.call("file_edit", {"path": "a", "edits": [{"old": "2", "new": "3"}]})
            run.call("file_read", {"path": "a"})
            run.call("exec", {"argv": ["true"]})
            run.call("file_delete", {"paths": ["folder", "new"], "recursive": True})
            run.call("file_write", {"path": "../outside", "content": ""})
        undoing = runtime.call("undo", {"run": run.id})
        result = succeeded(undoing)
        assert tree(place.work) == before
        assert [one["tool"] for one in result["undone"]] == [
            "file_delete", "file_edit", "file_write", "file_write", "file_write",
        ]  # fmt: skip
        assert result["not_kept"] == []
        # The net of it: "a" is the old again; what came and went within the run is not a change.
        assert [(change.path, change.change) for change in undoing.changes] == [
            (os.fspath(place.work / "a"), "modified"),
            (os.fspath(place.work / "folder"), "created"),
        ]
        succeeded(runtime.call("undo", {"call": undoing.id}))
        assert (place.work / "a").read_text() == "3"
        assert not (place.work / "folder").exists() and not (place.work / "new").exists()


def test_a_run_that_goes_on_may_take_itself_back(place):
    before = tree(place.work)
    with place.open() as runtime, runtime.run("work") as run:
        write(run, "a", "1")
        write(run, "b", "2")
        assert len(succeeded(run.call("undo", {"run": run.id}))["undone"]) == 2
        assert tree(place.work) == before
        write(run, "c", "3")
        succeeded(runtime.call("undo", {"run": run.id}))
        assert tree(place.work) == before


def test_it_stops_at_the_first_conflict_and_what_was_undone_until_then_stays_so(place):
    with place.open() as runtime:
        with runtime.run("work") as run:
            calls = [write(run, name, name) for name in "abc"]
        (place.work / "b").write_text("somebody else's")
        stopped = runtime.call("undo", {"run": run.id})
        assert stopped.outcome == "failed" and stopped.error["type"] == "UndoConflict"
        assert calls[1].id in message(stopped) and os.fspath(place.work / "b") in message(stopped)
        assert [one["call"] for one in stopped.result["undone"]] == [calls[2].id]
        assert stopped.result["stopped_at"] == calls[1].id
        assert [(change.path, change.change) for change in stopped.changes] == [
            (os.fspath(place.work / "c"), "deleted")
        ]
        assert sorted(path.name for path in place.work.iterdir()) == ["a", "b"]
        (place.work / "b").write_text("b")
        again = succeeded(runtime.call("undo", {"run": run.id}))
        assert [one["call"] for one in again["undone"]] == [calls[1].id, calls[0].id]
        assert again["already_undone"] == [calls[2].id]
    assert list(place.work.iterdir()) == []


def test_with_force_a_run_is_taken_back_over_what_changed_since(place):
    before = tree(place.work)
    with place.open() as runtime:
        with runtime.run("work") as run:
            for name in "abc":
                write(run, name, name)
        (place.work / "b").write_text("somebody else's")
        result = succeeded(runtime.call("undo", {"run": run.id, "force": True}))
    assert [conflict["path"] for conflict in result["conflicts"]] == [os.fspath(place.work / "b")]
    assert len(result["undone"]) == 3
    assert {name: entry for name, entry in tree(place.work).items() if name != b"."} == {
        name: entry for name, entry in before.items() if name != b"."
    }


def test_calls_of_a_run_that_were_undone_one_by_one_are_passed_over(place):
    before = tree(place.work)
    with place.open() as runtime:
        with runtime.run("work") as run:
            first, second, third = (write(run, "a", content) for content in "123")
        outside = runtime.call("undo", {"call": third.id})
        result = succeeded(runtime.call("undo", {"run": run.id}))
        assert result["already_undone"] == [third.id]
        assert [one["call"] for one in result["undone"]] == [second.id, first.id]
        assert tree(place.work) == before
        assert outside.outcome == "succeeded"


def test_an_undo_within_the_run_is_taken_back_like_any_other_call(place):
    (place.work / "a").write_text("0")
    before = tree(place.work)
    with place.open() as runtime:
        with runtime.run("work") as run:
            write(run, "a", "1")
            second = write(run, "a", "2")
            succeeded(run.call("undo", {"call": second.id}))
            write(run, "a", "3")
        succeeded(runtime.call("undo", {"run": run.id}))
    assert tree(place.work) == before


def test_the_runs_started_from_a_run_are_taken_along_where_that_is_asked(place):
    before = tree(place.work)
    with place.open() as runtime:
        with runtime.run("work") as run:
            write(run, "a", "parent")
            with run.child("below") as child:
                write(child, "a", "child")
                with child.child("below that") as grandchild:
                    write(grandchild, "b", "grandchild")
        alone = runtime.call("undo", {"run": run.id})
        assert alone.error["type"] == "UndoConflict"
        assert alone.result["children"] == [child.id, grandchild.id]
        assert (place.work / "a").read_text() == "child"
        result = succeeded(runtime.call("undo", {"run": run.id, "children": True}))
        assert (len(result["undone"]), result["children"]) == (3, [])
    assert tree(place.work) == before


def test_calls_that_do_not_tell_what_they_changed_are_named(place):
    @custody.tool(effect="write")
    def scribble() -> None:
        (place.work / "unseen").write_text("unseen")

    with place.open(tools=[scribble]) as runtime:
        with runtime.run("work") as run:
            write(run, "a", "a")
            scribbled = run.call("scribble")
        result = succeeded(runtime.call("undo", {"run": run.id}))
    assert [(one["call"], one["tool"]) for one in result["not_kept"]] == [(scribbled.id, "scribble")]
    assert [path.name for path in place.work.iterdir()] == ["unseen"]


def test_where_undo_data_has_gone_the_run_is_taken_back_as_far_as_it_reaches(place):
    with place.open() as runtime:
        with runtime.run("work") as run:
            first, second, third = (write(run, name, name) for name in "abc")
        (place.store / "undo" / second.id).unlink()
        stopped = runtime.call("undo", {"run": run.id})
        assert stopped.error["type"] == "UndoGone"
        assert [one["call"] for one in stopped.result["undone"]] == [third.id]
        assert stopped.result["stopped_at"] == second.id
        assert sorted(path.name for path in place.work.iterdir()) == ["a", "b"]
        result = succeeded(runtime.call("undo", {"run": run.id, "force": True}))
    assert [one["call"] for one in result["undone"]] == [first.id]
    assert [one["call"] for one in result["not_kept"]] == [second.id]
    assert [path.name for path in place.work.iterdir()] == ["b"]


def test_a_run_with_nothing_to_take_back_succeeds_and_says_so(place):
    with place.open() as runtime:
        with runtime.run("look") as run:
            run.call("exec", {"argv": ["true"]})
        call = runtime.call("undo", {"run": run.id})
        assert succeeded(call)["undone"] == []
        assert call.changes == ()
        assert runtime.call("undo", {"run": "no such run"}).error["type"] == "NotFound"


def test_a_run_whose_call_still_runs_is_taken_back_up_to_that(place):
    running, over = threading.Event(), threading.Event()

    @custody.tool(effect="write")
    def long_work() -> None:
        running.set()
        over.wait(30)

    with place.open(tools=[long_work]) as runtime, runtime.run("work") as run:
        write(run, "a", "a")
        thread = threading.Thread(target=run.call, args=("long_work",))
        thread.start()
        running.wait(30)
        refused = runtime.call("undo", {"run": run.id})
        over.set()
        thread.join()
        assert "still running" in message(refused)
        assert (place.work / "a").exists()
        succeeded(runtime.call("undo", {"run": run.id}))
    assert not (place.work / "a").exists()


# -- dry run --------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_run_says_what_would_be_undone_and_touches_nothing(place):
    (place.work / "a").write_text("old")
    first = tree(place.work)
    with place.open() as runtime:
        with runtime.run("work") as run:
            for content in "123":
                write(run, "a", content)
            write(run, "new/b", "b")
            run.call("file_delete", {"path": "new", "recursive": True})
        before, undo = tree(place.work), place.undo_data()
        call = runtime.call("undo", {"run": run.id}, dry_run=True)
        said = succeeded(call)["would_undo"]
        assert tree(place.work) == before
        assert place.undo_data() == undo
        assert not call.changes
        assert succeeded(runtime.call("undo", {"run": run.id}))["undone"] == said["undone"]
    assert tree(place.work) == first


def test_a_dry_run_finds_the_conflict(place):
    with place.open() as runtime:
        with runtime.run("work") as run:
            call = write(run, "a", "1")
            write(run, "b", "2")
        (place.work / "a").write_text("other")
        before = tree(place.work)
        for arguments in ({"call": call.id}, {"run": run.id}):
            said = runtime.call("undo", arguments, dry_run=True)
            assert said.error["type"] == "UndoConflict"
            assert said.result["would_undo"]["stopped_at"] == call.id
        assert tree(place.work) == before
        succeeded(runtime.call("undo", {"call": call.id, "force": True}, dry_run=True))
        assert tree(place.work) == before


# -- through crashes and settings -----------------------------------------------------------------------


def test_another_process_can_take_it_back(place):
    before = tree(place.work)
    with place.open() as runtime, runtime.run("work") as run:
        write(run, "a/b", "new")
    program = (
        "import custody, sys\n"
        "with custody.open(sys.argv[1], cwd=sys.argv[2]) as runtime:\n"
        "    call = runtime.call('undo', {'run': sys.argv[3]})\n"
        "    print(call.outcome, call.error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, place.store, place.work, run.id],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split()[0] == "succeeded", done
    assert tree(place.work) == before


def test_old_undo_data_goes_when_there_is_too_much_of_it(place, monkeypatch, tmp_path):
    settings = tmp_path / "config" / "custody" / "custody.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(NEVER_SHORT + "\n[undo]\nbytes_max = 300_000\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    with place.open() as runtime:
        calls = [write(runtime, "a", f"{number}" * 50_000) for number in range(20)]
        assert "UndoGone" in runtime.call("undo", {"call": calls[0].id}).error["type"]
        succeeded(runtime.call("undo", {"call": calls[-1].id}))
    assert (place.work / "a").read_text() == "18" * 50_000
    assert temporary_files(place.work) == []
