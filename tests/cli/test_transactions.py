"""`custody commit` and `custody discard`, and what is shown of changes that are held."""

import os
import re
import subprocess

import pytest
from tests.tools.holding import Rearrange
from tests.tools.trees import can_set_xattrs, succeeded, tree

import custody as package
from custody.sandbox.walls.machine import look_at_machine


def everything(root):
    (root / "new").write_text("x\n")
    (root / "text").write_text("one\ntwo and a half\nthree\n")
    (root / "picture").write_bytes(b"\0\1\2\3")
    (root / "gone").unlink()
    os.rename(root / "from", root / "to")
    os.chmod(root / "runs", 0o755)
    os.unlink(root / "link")
    os.symlink("elsewhere", root / "link")


ACTS = {
    "everything": everything,
    "one": lambda root: (root / "one").write_text("1\n"),
    "text": lambda root: (root / "text").write_text("another\n"),
    "escape": lambda root: (root / "\x1b[31mred").write_text("secret hunter2-hunter2-9\n"),
    "many": lambda root: [(root / f"{number:03}").write_text("") for number in range(205)],
}


@pytest.fixture
def folder(custody):
    """The working directory, with a file for each kind of change."""
    work = custody.work
    (work / "text").write_text("one\ntwo\nthree\n")
    (work / "picture").write_bytes(b"\0" * 10)
    (work / "gone").write_text("gone\n")
    (work / "from").write_text("it moves\n")
    (work / "runs").write_text("#!/bin/sh\n")
    (work / "runs").chmod(0o644)
    (work / "link").symlink_to("text")
    return work


def opened(custody, folder=None):
    return package.open(custody.store, tools=[Rearrange(ACTS)], cwd=os.fspath(folder or custody.work))


def held(custody, act, folder=None):
    """A call that has left the changes of an act held."""
    with opened(custody, folder) as runtime:
        call = runtime.call("rearrange", {"act": act})
        succeeded(call)
    return call


def section(text, title):
    """The lines below a heading, to the next empty line."""
    lines = text.splitlines()
    begin = lines.index(title) + 1
    return lines[begin : lines.index("", begin) if "" in lines[begin:] else None]


LISTED = [
    "- gone     5 B",
    "@ link     text → elsewhere",
    "+ new      2 B",
    "~ picture  10 B → 4 B",
    "m runs     mode 0644 → 0755",
    "~ text     14 B → 25 B",
    "> to       from from (inferred)",
]


# -- show -----------------------------------------------------------------------------------------------


def test_show_lists_what_is_held_and_what_can_be_done_about_it(custody, folder):
    call = held(custody, "everything")
    short = call.id[:8]
    ran = custody("show", short)
    assert ran.code == 0
    assert section(ran.out, "Changes held") == LISTED
    ways = f"custody commit {short}, custody discard {short}, custody show {short} --diff"
    assert ran.err == f"custody: changes held: 7 ({ways})\n"
    shown = custody("show", short, "--json").json
    assert (shown["held"], shown["settled_by"], shown["changes_count"]) == ("held", None, 7)
    (renamed,) = [change for change in shown["changes"] if change["change"] == "renamed"]
    assert renamed["inferred"] is True


def test_the_diffs_of_held_changes_compare_what_stands_there_with_what_is_held(custody, folder):
    call = held(custody, "everything")
    ran = custody("show", call.id, "--diff")
    assert ran.code == 0, ran.err
    assert "-two\n+two and a half\n" in ran.out
    assert "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n" in ran.out
    assert "--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n" in ran.out
    assert re.search(r"^picture: binary: 10 B sha256 \w+ → 4 B sha256 \w+$", ran.out, re.MULTILINE)
    by_path = {
        os.path.basename(change["path"]): change
        for change in custody("show", call.id, "--diff", "--json").json["changes"]
    }
    assert "+two and a half\n" in by_path["text"]["diff"]
    assert (by_path["to"]["diff"], by_path["to"]["diff_absent"]) == (None, None)
    assert by_path["picture"]["diff_absent"].startswith("binary: ")
    (folder / "text").write_text("one\nTWO\nthree\n")
    assert "text: what was there has been changed since" in custody("show", call.id, "--diff").out


def test_names_and_secrets_in_diffs_do_not_reach_the_terminal_as_they_are(custody, folder):
    call = held(custody, "escape")
    ran = custody("show", call.id, "--diff", MY_API_TOKEN="hunter2-hunter2-9")
    assert "\x1b[31m" not in ran.out + ran.err
    assert "hunter2-hunter2-9" not in ran.out


def test_many_held_changes_are_shown_up_to_a_bound_that_is_said(custody, folder):
    call = held(custody, "many")
    ran = custody("show", call.id)
    assert len(section(ran.out, "Changes held")) == 200
    assert f"The first 200 of 205; all: custody changes {call.id[:8]}" in ran.err
    assert len(section(custody("changes", call.id).out, f"Held of call {call.id[:8]}")) == 205


# -- commit ---------------------------------------------------------------------------------------------


def test_a_commit_lists_what_it_put_in_place_and_undo_of_the_command_takes_it_back(custody, folder):
    before = tree(folder)
    call = held(custody, "everything")
    short = call.id[:8]
    assert tree(folder) == before
    ran = custody("commit", short)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == LISTED
    found = re.search(rf"Committed: call {short}, 7 paths\. custody undo (\w{{8}}) takes it back\.", ran.err)
    assert found, ran.err
    assert (folder / "to").read_text() == "it moves\n"
    shown = custody("show", call.id)
    assert f"Committed by call {found[1]}. It can be undone: custody undo {short}" in shown.err
    undone = custody("undo", short)
    assert undone.code == 0, undone.err
    assert f"Undone: call {short}, committed by call {found[1]}." in undone.err
    assert tree(folder) == before
    assert f"Committed by call {found[1]}. Undone by call " in custody("show", call.id).err


def test_with_json_it_prints_the_call(custody, folder):
    call = held(custody, "one")
    ran = custody("commit", call.id, "--json", "--agent", "ada")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["tool"], ran.json["outcome"], ran.json["agent"]) == ("commit", "succeeded", "ada")
    assert (ran.json["result"]["call"], ran.json["result"]["committed"]) == (call.id, 1)
    assert custody("show", call.id, "--json").json["settled_by"] == ran.json["id"]


def test_a_file_that_changed_meanwhile_is_a_conflict_and_nothing_is_touched(custody, folder):
    call = held(custody, "everything")
    (folder / "text").write_text("somebody else's\n")
    before = tree(folder)
    ran = custody("commit", call.id)
    assert ran.code == 1
    title, row = ran.out.splitlines()
    assert title.split("  ")[0] == "path"
    assert re.match(r"text +14 B, sha256 \w{8} +16 B", row), row
    assert f"call {call.id[:8]} is not committed: 1 path has changed since." in ran.err
    assert f"custody discard {call.id[:8]}" in ran.err
    assert tree(folder) == before
    assert custody("show", call.id, "--json").json["held"] == "held"
    assert custody("commit", call.id, "--json").json["error"]["type"] == "UndoConflict"


def test_a_dry_run_says_what_it_would_do_and_touches_nothing(custody, folder):
    call, before = held(custody, "everything"), tree(folder)
    for command in ("commit", "discard"):
        for arguments in ([call.id], []):
            ran = custody(command, *arguments, "--dry-run")
            assert (ran.code, ran.out.splitlines()) == (0, LISTED)
            said = f"Would {command} what was changed by call {call.id[:8]}, 7 paths. Nothing was touched."
            assert said in ran.err
    assert tree(folder) == before
    assert custody("show", call.id, "--json").json["held"] == "held"


# -- discard --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_discard_says_what_it_dropped_and_that_is_not_to_be_had_again(custody, folder):
    before = tree(folder)
    call = held(custody, "everything")
    short = call.id[:8]
    ran = custody("discard", short)
    assert (ran.code, ran.out.splitlines()) == (0, LISTED)
    assert ran.err == f"custody: Discarded: call {short}, 7 paths. The files are as they were.\n"
    assert tree(folder) == before
    assert re.search(r"Discarded by call \w{8}: no file was ever touched\.", custody("show", short).err)
    for command in ("commit", "discard", "undo"):
        ran = custody(command, short)
        assert (ran.code, ran.out) == (1, "")
        assert "discarded" in ran.err
    assert f"as it was held and discarded: {short}" in custody("changes", short).err


# -- which one ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_alone_without_a_terminal_it_says_which_call_it_would_be_and_how_to_say_yes(custody, folder):
    held(custody, "text")
    call = held(custody, "one")
    for command in ("commit", "discard"):
        ran = custody(command)
        assert (ran.code, ran.out) == (2, "")
        assert f"What was held last here is of call {call.id[:8]}" in ran.err
        assert f"custody {command} {call.id[:8]}, or say --yes" in ran.err
        said = custody(command, "--json")
        assert (said.code, said.err, said.json["error"]["type"]) == (2, "", "UsageError")
    assert custody("commit", "--yes").code == 0
    assert (folder / "one").exists()
    assert (folder / "text").read_text() == "one\ntwo\nthree\n"
    assert custody("discard", "--yes").code == 0
    ran = custody("commit", "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert "No changes are held in this workspace." in ran.err


@pytest.mark.long
def test_alone_it_never_means_another_workspace(custody):
    here, there = custody.work / "here", custody.work / "there"
    for place in (here, there):
        (place / ".git").mkdir(parents=True)
    first, second = held(custody, "one", here), held(custody, "one", there)
    assert first.id[:8] in custody("commit", cwd=here).err
    assert second.id[:8] in custody("commit", cwd=there).err
    assert custody("calls", "--held", "--json", cwd=here).json["items"][0]["id"] == first.id
    assert len(custody("calls", "--held", "--all", "--json", cwd=here).json["items"]) == 2
    assert custody("discard", "--yes", cwd=here).code == 0
    assert custody("calls", "--held", cwd=here).out == ""
    assert custody("discard", "--yes", cwd=here).code == 1


@pytest.mark.parametrize(
    ("command", "typed", "code"),
    [("commit", "y\n", 0), ("commit", "\n", 1), ("discard", "y\n", 0), ("discard", "\x04", 1)],
)
def test_at_a_terminal_it_shows_what_is_held_and_asks(custody, folder, command, typed, code):
    call = held(custody, "one")
    arguments = [command] if typed == "y\n" else [command, call.id]
    out = custody.at_terminal(*arguments, columns=100, typed=typed, code=code, NO_COLOR="1")
    assert "+ one  2 B" in out
    assert {"commit": "Put it in place? [y/N]", "discard": "Drop it? It cannot be brought back. [y/N]"}[
        command
    ] in out
    assert out.count("+ one") == 1
    assert (folder / "one").exists() == (command == "commit" and code == 0)
    assert (custody("show", call.id, "--json").json["held"] == "held") == (code == 1)


def test_what_is_no_id_of_a_call_is_a_sentence_and_2(custody, folder):
    with opened(custody) as runtime, runtime.run("work") as run:
        step = run.step("thinking")
        run.call("rearrange", {"act": "one"})
    for command in ("commit", "discard"):
        for identifier, said in (
            (run.id, "Changes are held of a call, and this is a run."),
            (step.id, "Changes are held of a call, and this is a step."),
            ("zz", ""), ("", ""), ("../..", ""), ("-1", ""), ("\x1b[31m", ""), ("é" * 300, ""),
        ):  # fmt: skip
            ran = custody(command, "--", identifier)
            assert (ran.code, ran.out) == (2, ""), identifier
            assert ran.err.startswith("custody: ")
            assert said in ran.err
            assert "\x1b" not in ran.err and "bug" not in ran.err


def test_outside_the_roots_it_is_refused_with_the_root_that_would_allow_it(custody):
    home, other = custody.folder / "home", custody.folder / "elsewhere"
    for place in (home, other):
        place.mkdir()
    temporary = {"TMPDIR": str(other)}  # the temporary folder is a root, and the tests' folders may lie in it
    call = held(custody, "one", home)
    for command in ("discard", "commit"):
        ran = custody(command, call.id, cwd=other, **temporary)
        assert ran.code == 3
        assert f"--root {home} would allow it" in ran.err
    assert custody("commit", call.id, "--root", str(home), cwd=other, **temporary).code == 0
    assert (home / "one").exists()


@pytest.mark.long
def test_ids_of_calls_with_held_changes_are_completed_and_no_others(custody, folder):
    call, gone = held(custody, "one"), held(custody, "text")
    custody("discard", gone.id)
    for command in ("commit", "discard"):
        words = custody(_CUSTODY_COMPLETE="bash_complete", COMP_WORDS=f"custody {command} ", COMP_CWORD="2")
        assert words.out == f"plain,{call.id}\n"


def test_without_a_store_there_is_nothing_to_commit(custody):
    for command in ("commit", "discard"):
        ran = custody(command, "--yes")
        assert (ran.code, ran.out) == (2, "")
        assert "does not exist" in ran.err
    assert not custody.store.exists()


# -- the sum of a run -----------------------------------------------------------------------------------


@pytest.mark.long
def test_the_sum_of_a_run_has_what_was_committed_and_shows_what_is_held_apart(custody, folder):
    with opened(custody) as runtime, runtime.run("work", name="nightly") as run:
        one = succeeded_call(run, "one")
        text = succeeded_call(run, "text")
        many = succeeded_call(run, "many")
    ran = custody("changes", "nightly", "--diff")
    assert "no changes to files." in ran.err
    assert section(ran.out, f"Held of call {one.id[:8]}")[0] == "+ one  2 B"
    assert "+another\n" in ran.out
    assert custody("discard", many.id).code == 0
    assert custody("commit", one.id).code == 0
    ran = custody("changes", "nightly")
    assert ran.out.splitlines()[:3] == ["+ one  2 B", "", f"Held of call {text.id[:8]}"]
    assert "1 path changed by 1 call. It can be undone: custody undo" in ran.err
    assert f"as it was held and discarded: {many.id[:8]}" in ran.err
    said = custody("changes", "nightly", "--json").json
    assert [os.path.basename(change["path"]) for change in said["changes"]] == ["one"]
    assert [(one["call"], one["changes_count"]) for one in said["held"]] == [(text.id, 1)]
    assert said["calls_discarded"] == [many.id]
    assert custody("undo", "nightly").code == 0
    assert not (folder / "one").exists()
    assert "All of it was undone since" in custody("changes", "nightly").err


def succeeded_call(run, act):
    call = run.call("rearrange", {"act": act})
    succeeded(call)
    return call


# -- the whole way --------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_checkout_is_untouched_until_the_commit_and_as_it_was_after_the_undo(custody):
    missing = "; ".join(finding.why for finding in look_at_machine().missing)
    if missing:
        pytest.skip(f"`transaction` is not offered here: {missing}")
    work = custody.work
    (work / "src").mkdir()
    for name in ("src/main.py", "src/more.py", "a", "c"):
        (work / name).write_text(f"{name}\n")
        os.utime(work / name, ns=(5, 1_500_000_000_000_000_005))
    os.link(work / "a", work / "src" / "hard")
    if can_set_xattrs(work):
        os.setxattr(work / "src" / "main.py", "user.custody.test", b"1")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=work, check=True)
    subprocess.run([*git, "add", "."], cwd=work, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], cwd=work, check=True)
    before = tree(work)

    line = "rm -r src; echo x > new; mv a b; chmod +x c"
    ran = custody("exec", "--level", "transaction", "--json", "--", "sh", "-c", line)
    assert ran.code == 0, ran.err
    assert tree(work) == before
    call = ran.json
    assert call["held"] == "held"
    told = {os.path.relpath(change["path"], work): change["change"] for change in call["changes"]}
    assert told["new"] == "created" and told["c"] == "mode" and told["src/main.py"] == "deleted"
    assert "m c" in custody("show", call["id"], "--diff").out

    assert custody("commit", call["id"]).code == 0
    assert sorted(path.name for path in work.iterdir()) == [".git", "b", "c", "new"]
    assert (work / "c").stat().st_mode & 0o111
    assert custody("undo", call["id"]).code == 0
    assert tree(work) == before
