"""What calls did to files, as `custody show` and `custody changes` show it."""

import base64
import json
import os
import re

from custody.blocking import BlockingRuntime


def done(call):
    """The call, which must have succeeded."""
    assert call.outcome == "succeeded", (call.reason, call.error, call.decision)
    return call


def write(runtime: BlockingRuntime, path: str, content: str, **more):
    return done(runtime.call("file_write", {"path": path, "content": content, **more}))


def edit(runtime: BlockingRuntime, path: str, old: str, new: str):
    return done(runtime.call("file_edit", {"path": path, "edits": [{"old": old, "new": new}]}))


def delete(runtime: BlockingRuntime, path: str):
    return done(runtime.call("file_delete", {"path": path, "recursive": True}))


def section(text: str, title: str) -> list[str]:
    """The lines below a heading, to the next empty line."""
    lines = text.splitlines()
    begin = lines.index(title) + 1
    return lines[begin : lines.index("", begin) if "" in lines[begin:] else None]


# -- one call ---------------------------------------------------------------------------------------------


def test_a_call_shows_what_it_changed_with_signs_paths_and_sizes(custody):
    (custody.work / "old.txt").write_text("one\n")
    (custody.work / "away").mkdir()
    (custody.work / "away" / "gone.bin").write_bytes(bytes(2048))
    (custody.work / "away" / "link").symlink_to("gone.bin")
    with custody.recording() as runtime:
        created = write(runtime, "new/file.txt", "x" * 120)
        modified = edit(runtime, "old.txt", "one", "one and two")
        deleted = delete(runtime, "away")
    shown = custody("show", created.id)
    assert section(shown.out, "Changes") == ["+ new/          folder", "+ new/file.txt  120 B"]
    assert shown.err == f"custody: It can be undone: custody undo {created.id[:8]}\n"
    assert section(custody("show", modified.id).out, "Changes") == ["~ old.txt  4 B → 12 B"]
    lines = section(custody("show", deleted.id).out, "Changes")
    assert sorted(lines) == [
        "- away/          folder",
        "- away/gone.bin  2 KiB",
        "- away/link      link to gone.bin",
    ]


def test_in_json_changes_are_documents_with_both_versions(custody):
    (custody.work / "a.txt").write_text("one\n")
    with custody.recording() as runtime:
        call = edit(runtime, "a.txt", "one", "two")
    document = custody("show", call.id, "--json").json
    assert document["changes_count"] == 1
    (change,) = document["changes"]
    assert (change["path"], change["change"], change["kind"]) == (
        str(custody.work / "a.txt"), "modified", "file",
    )  # fmt: skip
    assert (change["before"]["bytes"], change["after"]["bytes"]) == (4, 4)
    assert change["before"]["sha256"] != change["after"]["sha256"]
    assert change["undoable"] is True
    assert "diff" not in change


def test_a_call_that_changed_nothing_says_so_and_one_that_does_not_tell_has_no_block(custody):
    (custody.work / "a.txt").write_text("one\n")
    with custody.recording() as runtime:
        nothing = done(runtime.call("file_delete", {"path": "none", "missing_ok": True}))
        read = done(runtime.call("file_read", {"path": "a.txt"}))
    assert section(custody("show", nothing.id).out, "Changes") == ["none"]
    assert "Changes" not in custody("show", read.id).out


def test_paths_are_shown_from_the_workspace_of_the_call(custody):
    project = custody.work / "project"
    (project / ".git").mkdir(parents=True)
    (project / "src").mkdir()
    with custody.recording(project) as runtime:
        call = write(runtime, "src/a.txt", "a")
        outside = write(runtime, str(custody.folder / "b.txt"), "b")
    for place in (custody.work, project / "src"):
        assert section(custody("show", call.id, cwd=place).out, "Changes") == ["+ src/a.txt  1 B"]
    assert section(custody("show", outside.id).out, "Changes") == [f"+ {custody.folder / 'b.txt'}  1 B"]


def test_a_name_cannot_steer_the_terminal_nor_look_like_another(custody):
    # Names with control characters cannot be given to a tool, but can be in a tree that is deleted.
    names = ["two  spaces", "line\nbreak", "\x1b[31mred", "\u202ercs.exe", "漢字 é"]
    (custody.work / "tree").mkdir()
    for name in names:
        (custody.work / "tree" / name).write_text("x")
    with custody.recording() as runtime:
        call = delete(runtime, "tree")
    lines = section(custody("show", call.id).out, "Changes")
    out = custody.at_terminal("changes", call.id, columns=60, NO_COLOR="1")
    assert not re.search("\x1b\\[31m|\u202e", out)
    for shown in ("two  spaces", "line\\x0abreak", "\\x1b[31mred", "\\u202ercs.exe", "漢字 é"):
        assert any(line.startswith(f"- tree/{shown}  ") for line in lines), (shown, lines)
        assert f"- tree/{shown}  " in out


def test_a_name_that_is_not_utf8_is_shown_escaped_in_text_and_json(custody):
    tree = os.fsencode(custody.work / "tree")
    os.mkdir(tree)
    with open(tree + b"/caf\xe9", "wb") as file:
        file.write(b"x")
    call = custody("call", "file_delete", "--args", '{"path": "tree", "recursive": true}', "--json").json
    assert "- tree/caf\\udce9  1 B" in section(custody("show", call["id"]).out, "Changes")
    for arguments in (["show", call["id"]], ["changes", call["id"]]):
        paths = [change["path"] for change in custody(*arguments, "--json").json["changes"]]
        assert any("caf" in path for path in paths)
    assert custody("undo", call["id"]).code == 0
    assert os.path.exists(tree + b"/caf\xe9")


# -- diffs ------------------------------------------------------------------------------------------------


def test_a_diff_shows_old_and_new_lines_of_a_text(custody):
    (custody.work / "a.py").write_text("first\nsecond\nthird\n")
    with custody.recording() as runtime:
        call = edit(runtime, "a.py", "second", "2nd")
    out = custody("show", call.id, "--diff").out
    assert "-second\n+2nd\n" in out
    assert " first\n" in out
    (change,) = custody("show", call.id, "--diff", "--json").json["changes"]
    assert "-second\n+2nd\n" in change["diff"]
    assert change["diff_absent"] is None
    coloured = custody.at_terminal("show", call.id, "--diff", columns=80)
    assert "\x1b[31m-second\x1b[0m" in coloured
    assert "\x1b[32m+2nd\x1b[0m" in coloured


def test_a_created_and_a_deleted_text_are_all_new_and_all_old(custody):
    with custody.recording() as runtime:
        created = write(runtime, "a.txt", "one\ntwo\n")
        deleted = delete(runtime, "a.txt")
    # It is not there any more, and stands in the arguments of the call that wrote it.
    assert "+one\n+two\n" in custody("show", created.id, "--diff").out
    assert "-one\n-two\n" in custody("show", deleted.id, "--diff").out


def test_what_is_no_longer_there_is_said_and_never_replaced_by_something_else(custody):
    (custody.work / "a.txt").write_text("one\n")
    with custody.recording() as runtime:
        call = edit(runtime, "a.txt", "one", "two")
    (custody.work / "a.txt").write_text("six\n")  # as long as before
    out = custody("show", call.id, "--diff").out
    assert "a.txt: what was left there is no longer there" in out
    assert "six" not in out
    (change,) = custody("show", call.id, "--diff", "--json").json["changes"]
    assert change["diff"] is None
    assert "no longer there" in change["diff_absent"]


def test_a_binary_file_has_sizes_and_digests_for_a_diff(custody):
    (custody.work / "a.bin").write_bytes(b"\0\1\2")
    with custody.recording() as runtime:
        content = base64.b64encode(b"\0" * 10).decode()
        call = done(runtime.call("file_write", {"path": "a.bin", "content_base64": content}))
    assert re.search(
        r"^a\.bin: binary: 3 B sha256 [0-9a-f]{12} → 10 B sha256 [0-9a-f]{12}$",
        custody("show", call.id, "--diff").out,
        re.MULTILINE,
    )


def test_a_large_file_is_not_compared(custody):
    (custody.work / "a.txt").write_text("x\n" * 600_000)
    with custody.recording() as runtime:
        call = write(runtime, "a.txt", "y\n")
    assert "a.txt: not compared: 1.14 MiB is much to read" in custody("show", call.id, "--diff").out


def test_what_stands_in_place_of_the_file_now_is_never_waited_for(custody):
    names = ("fifo", "folder", "link", "nothing")
    with custody.recording() as runtime, runtime.run("work") as run:
        for name in names:
            (custody.work / name).write_text("one\n")
            edit(runtime, name, "one", "two")
            (custody.work / name).unlink()
    os.mkfifo(custody.work / "fifo")
    (custody.work / "folder").mkdir()
    (custody.work / "link").symlink_to("/dev/zero")
    ran = custody("changes", run.id, "--diff")
    assert ran.code == 0
    for name in names:
        assert f"{name}: what was left there is no longer there" in ran.out


def test_a_diff_does_not_show_the_secrets_of_this_environment(custody):
    secret = "tok-5f1c0de5f1c0de"
    (custody.work / "a.ini").write_text(f"user = ada\nlabel = {secret}\n")
    with custody.recording() as runtime:
        call = edit(runtime, "a.ini", "ada", "bob")
    shown = custody("changes", call.id, "--diff", DEPLOY_TOKEN=secret).out
    (change,) = custody("show", call.id, "--diff", "--json", DEPLOY_TOKEN=secret).json["changes"]
    for diff in (shown, change["diff"]):
        assert "+user = bob" in diff
        assert " label = [redacted:known_value:" in diff
        assert secret not in diff
    assert secret in custody("changes", call.id, "--diff").out  # it is the owner's own file


def test_only_a_call_is_shown_with_diffs(custody):
    with custody.recording() as runtime, runtime.run("work") as run:
        step = run.step("thinking")
    for of, hint in ((run.id, run.id), (step.id, run.id)):
        ran = custody("show", of, "--diff")
        assert (ran.code, ran.out) == (2, "")
        assert f"custody changes {hint[:8]} --diff" in ran.err


# -- a run ------------------------------------------------------------------------------------------------


def test_a_run_says_how_many_files_each_call_changed(custody):
    with custody.recording() as runtime:
        with runtime.run("write") as run:
            write(runtime, "a/b.txt", "x")
            done(runtime.call("file_read", {"path": "a/b.txt"}))
        with runtime.run("with steps") as second:
            second.step("I write.")
            write(runtime, "c.txt", "x")
    ran = custody("show", run.id)
    head, first, read = ran.out.splitlines()[-3:]
    assert head.split() == ["#", "call", "tool", "what", "outcome", "changed", "took", "why"]
    assert re.search(r"succeeded +2  ", first)
    assert re.search(r"succeeded +–  ", read)
    assert f"custody changes {run.id[:8]}" in ran.err
    assert re.search(r"file_write  succeeded .*, 1 changed  ", custody("show", second.id).out)


def test_the_sum_of_a_run_is_its_net_effect(custody):
    (custody.work / "kept.txt").write_text("one\n")
    (custody.work / "gone.txt").write_text("bye\n")
    with custody.recording() as runtime, runtime.run("work") as run:
        write(runtime, "passing.txt", "x")
        edit(runtime, "kept.txt", "one", "two")
        edit(runtime, "kept.txt", "two", "three")
        write(runtime, "new.txt", "first")
        write(runtime, "new.txt", "second")
        delete(runtime, "gone.txt")
        delete(runtime, "passing.txt")
    ran = custody("changes", run.id[:10])
    assert sorted(ran.out.splitlines()) == ["+ new.txt   6 B", "- gone.txt  4 B", "~ kept.txt  4 B → 6 B"]
    assert ran.err == (f"custody: 3 paths changed by 7 calls. It can be undone: custody undo {run.id[:8]}\n")
    out = custody("changes", run.id, "--diff").out
    assert "-one\n+three\n" in out
    assert "two" not in out
    assert "-bye\n" in out
    assert "+second\n\\ No newline at end of file\n" in out
    said = custody("changes", run.id, "--json").json
    assert (said["of"], said["id"], said["calls"], said["undoable"]) == ("run", run.id, 7, True)
    assert len(said["calls_changed"]) == 7
    assert sorted(change["change"] for change in said["changes"]) == ["created", "deleted", "modified"]


def test_calls_that_do_not_tell_are_named_and_readers_are_not(custody):
    def own(path: str) -> None:
        """Writes without telling."""

    with custody.recording() as runtime, runtime.run("work") as run:
        write(runtime, "a.txt", "x")
        done(runtime.call("file_read", {"path": "a.txt"}))
        told = done(runtime.call(own, {"path": "x"}))
        with run.child("deeper"):
            pass
    ran = custody("changes", run.id)
    assert ran.out == "+ a.txt  1 B\n"
    assert "Not in this sum, as their tools do not tell what they change: 1 call of own" in ran.err
    assert told.id[:8] in ran.err
    assert "Not in this sum: 1 run started from this one." in ran.err
    assert custody("changes", run.id, "--json").json["calls_untold"] == [told.id]


def test_what_a_command_changed_is_told_and_where_nobody_looked_that_is_said(custody):
    call = custody("exec", "--json", "--", "sh", "-c", "echo new > made.txt").json
    assert section(custody("show", call["id"]).out, "Changes") == ["+ made.txt  4 B"]
    assert custody("changes", call["run_id"]).out == "+ made.txt  4 B\n"
    custody.settings.write_text(custody.settings.read_text() + "[files]\nwatch = false\n")
    call = custody("exec", "--json", "--", "sh", "-c", "echo new > other.txt").json
    assert "Changes" not in custody("show", call["id"]).out
    ran = custody("changes", call["run_id"])
    assert (ran.code, ran.out) == (0, "")
    assert f"their tools do not tell what they change: 1 call of exec ({call['id'][:8]})" in ran.err
    assert custody("undo", call["id"]).code == 1


def test_a_run_without_changes_and_one_of_which_nothing_is_left_say_so(custody):
    with custody.recording() as runtime:
        with runtime.run("look") as none:
            done(runtime.call("file_list", {"path": "."}))
        with runtime.run("try") as nothing:
            write(runtime, "a.txt", "x")
            delete(runtime, "a.txt")
    ran = custody("changes", none.id)
    assert (ran.code, ran.out, ran.err) == (0, "", "custody: no changes to files.\n")
    ran = custody("changes", nothing.id)
    assert (ran.code, ran.out, ran.err) == (0, "", "custody: nothing is left of what was changed.\n")


def test_changes_that_the_record_only_counts_are_said_so_and_can_be_undone(custody):
    custody.settings.write_text(custody.settings.read_text() + '[tools]\nkeep = { file_write = "none" }\n')
    (custody.work / ".git").mkdir()
    with custody.recording() as runtime, runtime.run("work") as run:
        call = write(runtime, "a.txt", "secret")
    shown = custody("show", call.id)
    assert "1 counted, of which the record lists 0." in shown.err
    assert "It can be undone" in shown.err
    ran = custody("changes", run.id)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == ("custody: Not in this sum: 1 change counted on the record and not listed there.\n")
    assert custody("undo", "--yes").code == 0
    assert not (custody.work / "a.txt").exists()


def test_what_can_no_longer_be_undone_is_said(custody):
    with custody.recording() as runtime, runtime.run("work") as run:
        call = write(runtime, "a.txt", "x")
    for file in (custody.store / "undo").rglob("*"):
        if file.is_file():
            file.unlink()
    assert "cannot be undone" in custody("show", call.id).err
    assert f"What calls {call.id[:8]} replaced is not kept" in custody("changes", run.id).err
    assert custody("changes", run.id, "--json").json["undoable"] is False


def test_changes_of_a_step_or_of_nothing_are_refused_with_what_to_ask_instead(custody):
    with custody.recording() as runtime, runtime.run("work") as run:
        step = run.step("thinking")
    ran = custody("changes", step.id)
    assert (ran.code, ran.out) == (2, "")
    assert f"custody changes {run.id[:8]}" in ran.err
    assert custody("changes", "no-such").code == 2
    assert custody("changes", "no-such", "--json").json["error"]["type"] == "NotFound"


def test_every_change_in_json_survives_a_round_trip(custody):
    with custody.recording() as runtime, runtime.run("work") as run:
        write(runtime, "a.txt", "x")
    again = json.loads(json.dumps(custody("changes", run.id, "--json").json))
    assert set(again["changes"][0]) == {
        "path", "change", "kind", "before", "after", "renamed_from", "inferred", "undoable",
    }  # fmt: skip
