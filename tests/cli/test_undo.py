"""`custody undo` at the command line: what it takes back, what it asks, what it refuses."""

import json
import os
import re
import shutil

import pytest


def done(call):
    """The call, which must have succeeded."""
    assert call.outcome == "succeeded", (call.reason, call.error, call.decision)
    return call


def write(runtime, path, content):
    return done(runtime.call("file_write", {"path": str(path), "content": content}))


@pytest.fixture
def written(custody):
    """A program, a file it has overwritten, and the call that did it."""
    file = custody.work / "a.txt"
    file.write_text("before\n")
    with custody.recording() as runtime:
        call = write(runtime, "a.txt", "after, and longer\n")
    return custody, file, call


# -- what is named --------------------------------------------------------------------------------------


def test_a_call_is_undone_and_the_undo_is_undone_by_its_id(written):
    custody, file, call = written
    ran = custody("undo", call.id[:10])
    assert ran.code == 0, ran.err
    assert ran.out == "~ a.txt  18 B → 7 B\n"
    found = re.fullmatch(
        rf"custody: Undone: call {call.id[:8]}\. custody undo (\w{{8}}) brings it back\.\n", ran.err
    )
    assert found, ran.err
    assert file.read_text() == "before\n"
    assert f"Undone by call {found[1]}" in custody("show", call.id).err
    again = custody("undo", found[1])
    assert (again.code, again.out) == (0, "~ a.txt  7 B → 18 B\n")
    assert file.read_text() == "after, and longer\n"
    assert "It can be undone" in custody("show", call.id).err


def test_with_json_it_prints_the_call(written):
    custody, file, call = written
    ran = custody("undo", call.id, "--json", "--agent", "ada")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["tool"], ran.json["outcome"], ran.json["agent"]) == ("undo", "succeeded", "ada")
    assert [one["call"] for one in ran.json["result"]["undone"]] == [call.id]
    assert ran.json["changes_count"] == 1
    assert custody("show", ran.json["id"], "--json").json["changes"] == ran.json["changes"]
    assert file.read_text() == "before\n"


def test_a_run_is_undone_backwards_by_id_or_name(custody):
    (custody.work / "a.txt").write_text("one\n")
    with custody.recording() as runtime, runtime.run("work", name="nightly"):
        write(runtime, "a.txt", "two\n")
        write(runtime, "deep/er/b.txt", "new")
        write(runtime, "a.txt", "three\n")
        done(runtime.call("file_delete", {"path": "a.txt"}))
    ran = custody("undo", "nightly")
    assert ran.code == 0, ran.err
    assert re.search(r"Undone: run \w{8}, 4 calls\. custody undo \w{8} brings it back\.", ran.err)
    assert sorted(path.name for path in custody.work.rglob("*")) == ["a.txt"]
    assert (custody.work / "a.txt").read_text() == "one\n"
    assert "of it was undone since" in custody("changes", "nightly").err


def test_children_are_undone_only_when_asked(custody):
    with custody.recording() as runtime, runtime.run("work") as run:
        write(runtime, "a.txt", "a")
        with run.child("below"):
            write(runtime, "b.txt", "b")
    ran = custody("undo", run.id)
    assert ran.code == 0, ran.err
    assert "Left as it is: 1 run started from it. --children undoes it too." in ran.err
    assert [path.name for path in custody.work.iterdir()] == ["b.txt"]
    assert custody("undo", run.id, "--children").code == 0
    assert list(custody.work.iterdir()) == []


def test_a_dry_run_says_what_it_would_do_and_touches_nothing(written):
    custody, file, call = written
    stamp = file.stat().st_mtime_ns
    for arguments in ([call.id], []):
        ran = custody("undo", *arguments, "--dry-run")
        assert ran.code == 0, ran.err
        assert ran.out == "~ a.txt  18 B → 7 B\n"
        assert f"Would undo call {call.id[:8]}. Nothing was touched." in ran.err
    assert file.read_text() == "after, and longer\n"
    assert file.stat().st_mtime_ns == stamp


def test_what_is_no_id_is_a_sentence_and_2(written):
    custody, file, _ = written
    for identifier in ("zz", "", "../..", "-1", "\x1b[31m", "é" * 300):
        ran = custody("undo", "--", identifier)
        assert (ran.code, ran.out) == (2, ""), identifier
        assert ran.err.startswith("custody: ")
        assert "\x1b" not in ran.err
        assert "bug" not in ran.err
    assert file.read_text() == "after, and longer\n"


def test_a_step_a_call_with_children_and_an_unknown_option_are_refused(custody):
    with custody.recording() as runtime, runtime.run("work") as run:
        step = run.step("thinking")
        call = write(runtime, "a.txt", "a")
    for arguments, said in (
        ([step.id], "A step changes no files"),
        ([call.id, "--children"], "Only a run has children"),
        ([call.id, run.id], "unexpected extra argument"),
    ):
        ran = custody("undo", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err
    assert (custody.work / "a.txt").exists()


def test_what_changed_no_files_has_nothing_to_undo(custody):
    (custody.work / "a.txt").write_text("one\n")
    with custody.recording() as runtime:
        read = done(runtime.call("file_read", {"path": "a.txt"}))
    ran = custody("undo", read.id)
    assert (ran.code, ran.out) == (1, "")
    assert "changed no files" in ran.err


def test_a_second_undo_of_the_same_call_says_by_what_it_was_undone(written):
    custody, _, call = written
    undo = custody("undo", call.id, "--json").json
    ran = custody("undo", call.id)
    assert ran.code == 1
    assert undo["id"] in ran.err


# -- what stands in the way -----------------------------------------------------------------------------


def test_a_file_that_changed_since_is_a_conflict_that_shows_both_and_touches_nothing(written):
    custody, file, call = written
    file.write_text("somebody else's\n")
    ran = custody("undo", call.id)
    assert ran.code == 1
    head, line = ran.out.splitlines()
    assert re.split("  +", head) == ["path", "what was left there", "what is there now"]
    assert re.fullmatch(r"a\.txt  18 B, sha256 [0-9a-f]{8}  16 B, sha256 [0-9a-f]{8}", line), line
    assert ran.err == (
        f"custody: call {call.id[:8]} is not undone: 1 path is not as it left it. Nothing was changed.\n"
        f"custody: What can be brought back all the same: custody undo {call.id[:8]} --force\n"
    )
    assert file.read_text() == "somebody else's\n"
    said = custody("undo", call.id, "--json")
    assert (said.code, said.json["error"]["type"]) == (1, "UndoConflict")
    assert [one["path"] for one in said.json["result"]["conflicts"]] == [str(file)]


def test_force_says_what_is_lost_and_then_does_it(written):
    custody, file, call = written
    file.write_text("somebody else's\n")
    ran = custody("undo", call.id, "--force")
    assert ran.code == 0, ran.err
    assert "by force this is lost:" in ran.err
    assert re.search(r"^a\.txt +18 B, .* +16 B, ", ran.out, re.MULTILINE)
    assert file.read_text() == "before\n"
    undo = re.search(r"custody undo (\w{8}) brings it back", ran.err)
    assert custody("undo", undo[1]).code == 0
    assert file.read_text() == "somebody else's\n"


def test_force_where_nothing_is_lost_asks_nothing(written):
    custody, file, call = written
    ran = custody("undo", call.id, "--force")
    assert ran.code == 0
    assert "lost" not in ran.err
    assert file.read_text() == "before\n"


def test_at_a_terminal_force_asks_and_no_leaves_all_as_it_is(written):
    custody, file, call = written
    file.write_text("somebody else's\n")
    out = custody.at_terminal("undo", call.id, "--force", columns=100, typed="n\n", code=1)
    assert "Undo it all the same? [y/N]" in out
    assert "nothing was undone" in out
    assert file.read_text() == "somebody else's\n"
    custody.at_terminal("undo", call.id, "--force", columns=100, typed="y\n")
    assert file.read_text() == "before\n"


def test_a_run_stops_at_its_first_conflict_and_what_lies_behind_it_stays_undone(custody):
    with custody.recording() as runtime, runtime.run("work") as run:
        write(runtime, "a.txt", "a")
        write(runtime, "b.txt", "b")
        write(runtime, "c.txt", "c")
    (custody.work / "b.txt").write_text("mine")
    ran = custody("undo", run.id)
    assert ran.code == 1
    assert "- c.txt" in ran.out
    assert "b.txt" in ran.out
    assert sorted(path.name for path in custody.work.iterdir()) == ["a.txt", "b.txt"]
    assert (custody.work / "b.txt").read_text() == "mine"


def test_what_is_not_kept_any_more_is_said(written):
    custody, file, call = written
    shutil.rmtree(custody.store / "undo")
    ran = custody("undo", call.id)
    assert (ran.code, ran.out) == (1, "")
    assert "kept" in ran.err
    assert file.read_text() == "after, and longer\n"


def test_outside_the_roots_it_is_refused_with_the_root_that_would_allow_it(custody):
    home, other = custody.folder / "home", custody.folder / "elsewhere"
    for folder in (home, other):
        folder.mkdir()
    temporary = {"TMPDIR": str(other)}  # the temporary folder is a root, and the tests' folders may lie in it
    arguments = json.dumps({"path": "a.txt", "content": "x"})
    call = custody("call", "file_write", "--args", arguments, "--json", cwd=home, **temporary).json
    ran = custody("undo", call["id"], cwd=other, **temporary)
    assert ran.code == 3
    assert f"--root {home} would allow it" in ran.err
    assert (home / "a.txt").exists()
    assert custody("undo", call["id"], "--root", str(home), cwd=other, **temporary).code == 0
    assert not (home / "a.txt").exists()


# -- alone ----------------------------------------------------------------------------------------------


def test_alone_without_a_terminal_it_says_which_call_it_would_be_and_how_to_say_yes(written):
    custody, file, call = written
    ran = custody("undo")
    assert (ran.code, ran.out) == (2, "")
    assert f"The newest change here is call {call.id[:8]}" in ran.err
    assert f"custody undo {call.id[:8]}, or say --yes" in ran.err
    said = custody("undo", "--json")
    assert (said.code, said.err, said.json["error"]["type"]) == (2, "", "UsageError")
    assert file.read_text() == "after, and longer\n"
    assert custody("undo", "--yes").code == 0
    assert file.read_text() == "before\n"


@pytest.mark.parametrize(
    ("typed", "code"), [("yes\n", 0), ("\n", 1), ("\x04", 1)], ids=["yes", "enter", "end"]
)
def test_alone_at_a_terminal_it_shows_what_it_would_change_and_asks(written, typed, code):
    custody, file, call = written
    out = custody.at_terminal("undo", columns=100, typed=typed, code=code, NO_COLOR="1")
    assert f"The newest change here is call {call.id[:8]}" in out
    assert "~ a.txt  18 B → 7 B" in out
    assert "Undo it? [y/N]" in out
    assert file.read_text() == ("before\n" if code == 0 else "after, and longer\n")


def test_again_and_again_it_goes_further_back_and_then_there_is_nothing(custody):
    file = custody.work / "a.txt"
    file.write_text("0")
    with custody.recording() as runtime:
        for number in "12":
            write(runtime, "a.txt", number)
    for expected in "10":
        assert custody("undo", "--yes").code == 0
        assert file.read_text() == expected
    ran = custody("undo", "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert "There is nothing to undo in this workspace." in ran.err
    assert custody("undo", "--json").json["error"]["type"] == "UndoGone"


def test_what_an_undone_undo_brought_back_is_the_newest_again(written):
    custody, file, call = written
    undo = custody("undo", call.id, "--json").json
    assert custody("undo", undo["id"]).code == 0
    assert file.read_text() == "after, and longer\n"
    assert call.id[:8] in custody("undo").err


def test_alone_it_never_means_another_workspace(custody):
    here, there = custody.work / "here", custody.work / "there"
    for folder in (here, there):
        (folder / ".git").mkdir(parents=True)
    with custody.recording(here) as runtime:
        first = write(runtime, "a.txt", "a")
    with custody.recording(there) as runtime:
        write(runtime, "b.txt", "b")
    assert first.id[:8] in custody("undo", cwd=here).err
    (custody.folder / "no-workspace").mkdir()
    ran = custody("undo", "--yes", cwd=custody.folder / "no-workspace")
    assert (ran.code, ran.out) == (1, "")
    assert custody("undo", "--yes", cwd=here).code == 0
    assert (there / "b.txt").exists()
    assert not (here / "a.txt").exists()


def test_without_a_store_there_is_nothing_to_undo(custody):
    ran = custody("undo", "--yes")
    assert (ran.code, ran.out) == (2, "")
    assert "does not exist" in ran.err
    assert not custody.store.exists()


def test_ids_of_calls_and_runs_are_completed(written):
    custody, _, call = written
    for command in ("undo", "changes"):
        words = custody(
            _CUSTODY_COMPLETE="bash_complete", COMP_WORDS=f"custody {command} {call.id[:6]}", COMP_CWORD="2"
        )
        assert f"plain,{call.id}\n" in words.out


def test_modes_and_times_come_back_too(written):
    custody, file, _ = written
    file.chmod(0o640)
    os.utime(file, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    stamp = file.stat()
    arguments = json.dumps({"path": "a.txt", "content": "again"})
    custody("call", "file_write", "--args", arguments)
    assert custody("undo", "--yes").code == 0
    found = file.stat()
    assert (found.st_mode, found.st_mtime_ns) == (stamp.st_mode, stamp.st_mtime_ns)
