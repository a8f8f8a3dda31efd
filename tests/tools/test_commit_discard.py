"""`commit` and `discard`: what was held is put in place or dropped, guarded and on the record."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from tests.tools.holding import Rearrange
from tests.tools.trees import Place, message, succeeded, temporary_files, tree, write

from custody.calls.answers import no, yes


def everything(root):
    """One of each kind of change."""
    (root / "new").write_text("new\n")
    (root / "there").write_text("other and longer\n")
    (root / "gone").unlink()
    shutil.rmtree(root / "folder")
    os.rename(root / "moves", root / "moved")
    os.chmod(root / "runs", 0o755)
    os.unlink(root / "link")
    os.symlink("elsewhere", root / "link")
    (root / "made" / "deep").mkdir(parents=True)
    (root / "made" / "deep" / "er").write_text("deep\n")


def another_name(root):
    (root / "another-name").unlink()
    (root / "another-name").write_text("no hook\n")


ACTS = {
    "everything": everything,
    "nothing": lambda root: None,
    "one": lambda root: (root / "one").write_text("1\n"),
    "two": lambda root: (root / "two").write_text("2\n"),
    "there": lambda root: (root / "there").write_text("there, after\n"),
    "hook": lambda root: (root / ".git" / "hooks" / "pre-commit").write_text("#!/bin/sh\n"),
    "no hook": lambda root: (root / ".git" / "hooks" / "post-commit").unlink(),
    "another name": another_name,
    "odd names": lambda root: [(root / name).write_text(name) for name in ("line\nbreak", "a" * 250, "~")],
}


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    for name in ("there", "gone", "moves", "runs"):
        (place.work / name).write_text(f"{name}, before\n")
    os.utime(place.work / "gone", ns=(5, 5_000_000_001))
    os.symlink("there", place.work / "link")
    (place.work / "folder" / "in").mkdir(parents=True)
    (place.work / "folder" / "in" / "it").write_text("in it\n")
    (place.work / ".git" / "hooks").mkdir(parents=True)
    (place.work / ".git" / "hooks" / "post-commit").write_text("#!/bin/sh\n")
    return place


async def sure(question):
    return yes(question, "kim")


@contextmanager
def opened(place, **options):
    """A program whose commits a person says yes to."""
    with place.open(tools=[Rearrange(ACTS)], **options) as runtime:
        runtime._runtime.prompt = sure
        yield runtime


def held(run, act):
    """A call that has left the changes of an act held."""
    call = run.call("rearrange", {"act": act})
    succeeded(call)
    assert call.held == "held"
    return call


def paths(changes):
    return {os.path.basename(change.path): change.change for change in changes}


# -- commit ---------------------------------------------------------------------------------------------


def test_a_commit_puts_every_kind_of_change_in_place_and_undo_of_the_command_takes_all_of_it_back(place):
    before = tree(place.work)
    with opened(place) as runtime:
        call = held(runtime, "everything")
        assert tree(place.work) == before
        expected = {
            "new": "created", "there": "modified", "gone": "deleted", "folder": "deleted", "in": "deleted",
            "it": "deleted", "moved": "renamed", "runs": "mode", "link": "link", "made": "created",
            "deep": "created", "er": "created",
        }  # fmt: skip
        assert paths(call.changes) == expected
        assert [change.path for change in call.changes if change.inferred] == [str(place.work / "moved")]

        commit = runtime.call("commit", {"call": call.id})
        result = succeeded(commit)
        assert (result["call"], result["tool"], result["kind"]) == (call.id, "rearrange", "copy")
        assert result["committed"] == len(commit.changes)
        assert not (place.work / "folder").exists() and not (place.work / "gone").exists()
        assert (place.work / "new").read_text() == "new\n"
        assert (place.work / "there").read_text() == "other and longer\n"
        assert (place.work / "moved").read_text() == "moves, before\n"
        assert (place.work / "made" / "deep" / "er").read_text() == "deep\n"
        assert os.readlink(place.work / "link") == "elsewhere"
        assert (place.work / "runs").stat().st_mode & 0o777 == 0o755
        again = runtime.index.call(call.id)
        assert (again.held, again.settled_by) == ("committed", commit.id)

        undoing = succeeded(runtime.call("undo", {"call": call.id}))
        assert undoing["committed_by"] == {call.id: commit.id}
        assert [one["call"] for one in undoing["undone"]] == [commit.id]
        assert tree(place.work) == before
    assert temporary_files(place.work) == []


def test_a_call_is_named_by_the_beginning_of_its_id(place):
    with opened(place) as runtime:
        first, second = held(runtime, "one"), held(runtime, "two")
        succeeded(runtime.call("commit", {"call": first.id[:10]}))
        succeeded(runtime.call("discard", {"call": second.id[:10]}))
        assert (place.work / "one").exists() and not (place.work / "two").exists()
        unknown = runtime.call("commit", {"call": "0000000000000000"})
        assert unknown.error["type"] == "NotFound"


def test_what_was_committed_is_not_held_any_more_and_it_is_said_by_whom(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        commit = runtime.call("commit", {"call": call.id})
        succeeded(commit)
        for tool in ("commit", "discard"):
            again = runtime.call(tool, {"call": call.id})
            assert f"committed already, by call {commit.id}" in message(again)
            assert not again.changes
        assert (place.work / "one").read_text() == "1\n"


def test_a_file_that_changed_meanwhile_is_a_conflict_that_shows_both_touches_nothing_and_keeps_the_set(place):
    with opened(place) as runtime:
        call = held(runtime, "everything")
        (place.work / "there").write_text("somebody else's\n")
        before, kept = tree(place.work), place.undo_data()
        refused = runtime.call("commit", {"call": call.id})
        assert refused.error["type"] == "UndoConflict"
        assert str(place.work / "there") in message(refused)
        assert "held still" in message(refused)
        (conflict,) = refused.result["conflicts"]
        assert conflict["path"] == str(place.work / "there")
        assert (conflict["expected"]["bytes"], conflict["found"]["bytes"]) == (14, 16)
        assert (refused.result["committed"], refused.result["conflicts_count"]) == (0, 1)
        assert (refused.changes, tree(place.work)) == ((), before)
        assert place.undo_data() == kept
        assert runtime.index.call(call.id).held == "held"
        succeeded(runtime.call("discard", {"call": call.id}))
        assert tree(place.work) == before


def test_a_dry_run_says_what_would_come_and_leaves_all_as_it_is(place):
    with opened(place) as runtime:
        call, before = held(runtime, "one"), tree(place.work)
        commit = succeeded(runtime.call("commit", {"call": call.id}, dry_run=True))
        discard = succeeded(runtime.call("discard", {"call": call.id}, dry_run=True))
        assert (commit["dry_run"], commit["would_commit"]["committed"]) == (True, 1)
        assert (discard["dry_run"], discard["would_discard"]["discarded"]) == (True, 1)
        assert tree(place.work) == before
        assert runtime.index.call(call.id).held == "held"
        succeeded(runtime.call("commit", {"call": call.id}))


def test_names_that_no_tool_would_be_given_are_committed_as_well(place):
    with opened(place) as runtime:
        succeeded(runtime.call("commit", {"call": held(runtime, "odd names").id}))
    assert {"line\nbreak", "a" * 250, "~"} <= set(os.listdir(place.work))


# -- discard --------------------------------------------------------------------------------------------


def test_a_discard_drops_what_is_held_and_the_files_were_never_touched(place):
    before = tree(place.work)
    with opened(place) as runtime:
        call = held(runtime, "everything")
        discard = runtime.call("discard", {"call": call.id})
        result = succeeded(discard)
        assert (result["call"], result["discarded"]) == (call.id, call.changes_count)
        assert (discard.changes, tree(place.work)) == ((), before)
        again = runtime.index.call(call.id)
        assert (again.held, again.settled_by) == ("discarded", discard.id)
        for tool in ("commit", "discard"):
            assert f"discarded already, by call {discard.id}" in message(
                runtime.call(tool, {"call": call.id})
            )
        assert "no file was ever touched" in message(runtime.call("undo", {"call": call.id}))
        assert "cannot be brought back" in message(runtime.call("undo", {"call": discard.id}))


# -- what is no call with held changes ------------------------------------------------------------------


def test_a_call_that_held_nothing_says_so(place):
    with opened(place) as runtime:
        wrote = write(runtime, "a", "a")
        refused = runtime.call("rearrange", {"act": 1})
        for tool in ("commit", "discard"):
            assert "left no changes that are held" in message(runtime.call(tool, {"call": wrote.id}))
            assert "was refused and did nothing" in message(runtime.call(tool, {"call": refused.id}))
            for identifier in ("", None, 7):
                assert runtime.call(tool, {"call": identifier}).decision.by == "schema"


def test_what_is_held_no_more_without_anybody_having_said_so_is_no_success(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        shutil.rmtree(place.store / "undo" / "held" / call.id)
        for tool in ("commit", "discard"):
            ended = runtime.call(tool, {"call": call.id})
            assert ended.error["type"] == "NothingHeld"
            assert "the record does not say why" in message(ended)
        assert "the record does not say why" in message(runtime.call("undo", {"call": call.id}))
        assert runtime.index.call(call.id).held == "held"


# -- guards ---------------------------------------------------------------------------------------------


def answered(place, answer, act, tool="commit"):
    """The call an agent makes where a person answers so, and the questions."""
    questions = []

    async def prompt(question):
        questions.append(question)
        return answer(question, "kim")

    with opened(place) as runtime:
        call = held(runtime, act)
        return runtime.call(tool, {"call": call.id}, prompt=prompt), questions


@pytest.mark.parametrize("act", ["hook", "no hook"])
def test_a_protected_file_among_the_changes_is_for_a_person_to_allow(place, act):
    before = tree(place.work)
    refused, questions = answered(place, no, act)
    assert (refused.outcome, len(questions)) == ("rejected", 1)
    assert ".git/hooks/" in questions[0].reason
    assert tree(place.work) == before
    allowed, _ = answered(place, yes, act)
    succeeded(allowed)
    assert paths(allowed.changes) in ({"pre-commit": "created"}, {"post-commit": "deleted"})


def test_nobody_there_to_ask_means_no_and_discarding_asks_nobody(place):
    before = tree(place.work)
    with opened(place) as runtime:
        runtime._runtime.prompt = None
        call = held(runtime, "hook")
        refused = runtime.call("commit", {"call": call.id}, timeout=0.2)
        assert refused.outcome == "rejected"
        assert tree(place.work) == before
        succeeded(runtime.call("discard", {"call": call.id}))


def test_another_name_of_a_protected_file_is_protected_too(place):
    os.link(place.work / ".git" / "hooks" / "post-commit", place.work / "another-name")
    before = tree(place.work)
    refused, questions = answered(place, no, "another name")
    assert (refused.outcome, len(questions)) == ("rejected", 1)
    assert "another name of" in questions[0].reason
    assert tree(place.work) == before


def test_changes_beneath_another_root_are_neither_committed_nor_discarded(place, tmp_path):
    with opened(place) as runtime:
        call = held(runtime, "one")
    (tmp_path / "elsewhere").mkdir()
    other = Place(tmp_path / "elsewhere")
    other.store = place.store
    with opened(other) as runtime:
        for tool in ("commit", "discard"):
            refused = runtime.call(tool, {"call": call.id})
            assert (refused.outcome, refused.decision.by) == ("rejected", "path")
            assert f"--root {place.work} would allow it" in message(refused)
        assert runtime.index.call(call.id).held == "held"
    assert not (place.work / "one").exists()


def test_what_is_damaged_is_not_committed_and_can_be_discarded(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        (manifest,) = (place.store / "undo" / "held" / call.id).glob("manifest*")
        manifest.write_bytes(b"\0damage" + manifest.read_bytes()[7:])
        before = tree(place.work)
        assert runtime.call("commit", {"call": call.id}).error["type"] == "NothingHeld"
        assert tree(place.work) == before
        succeeded(runtime.call("discard", {"call": call.id}))
        assert runtime.index.call(call.id).held == "discarded"


def test_a_rule_may_keep_agents_from_committing(place):
    policy = place.work / ".custody" / "policy" / "rules.toml"
    policy.parent.mkdir(parents=True)
    policy.write_text('[[rules]]\nname = "people-commit"\ntool = "commit"\ndecision = "deny"\n')
    before = tree(place.work)
    with opened(place) as runtime:
        call = held(runtime, "one")
        assert "people-commit" in (runtime.call("commit", {"call": call.id}).decision.rule or "")
        assert tree(place.work) == before
        succeeded(runtime.call("discard", {"call": call.id}))


# -- undo -----------------------------------------------------------------------------------------------


def test_what_is_held_still_is_not_undone_but_discarded(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        refused = runtime.call("undo", {"call": call.id})
        assert "no file has been touched" in message(refused)
        assert f"custody discard {call.id}" in message(refused)
        assert runtime.index.call(call.id).held == "held"


def test_an_undo_of_a_committed_call_can_be_undone_and_is_said_the_second_time(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        commit = runtime.call("commit", {"call": call.id})
        undoing = runtime.call("undo", {"call": call.id})
        succeeded(undoing)
        for named in (call.id, commit.id):
            again = runtime.call("undo", {"call": named})
            assert f"{commit.id} was undone already, by call {undoing.id}" in message(again)
        succeeded(runtime.call("undo", {"call": undoing.id}))
        assert (place.work / "one").exists()
        succeeded(runtime.call("undo", {"call": commit.id}))
        assert not (place.work / "one").exists()


def test_a_run_is_taken_back_with_its_commits_wherever_they_were_made_and_without_what_is_held(place):
    with opened(place) as runtime:
        write(runtime, "mine", "stays")
        before = tree(place.work)
        with runtime.run("work") as run:
            inside, outside = held(run, "there"), held(run, "one")
            kept, dropped = held(run, "two"), held(run, "everything")
            first = run.call("commit", {"call": inside.id})
            succeeded(first)
            write(run, "there", "and once more")
            succeeded(run.call("discard", {"call": dropped.id}))
        second = runtime.call("commit", {"call": outside.id})
        succeeded(second)
        result = succeeded(runtime.call("undo", {"run": run.id}))
        assert tree(place.work) == before
        assert [one["call"] for one in result["undone"]][::2] == [second.id, first.id]
        assert result["committed_by"] == {inside.id: first.id, outside.id: second.id}
        assert result["held"] == [kept.id]
        succeeded(runtime.call("discard", {"call": kept.id}))


def test_a_commit_made_in_a_run_of_what_another_had_changed_goes_with_the_run_it_was_made_in(place):
    with opened(place) as runtime:
        before = tree(place.work)
        with runtime.run("thinks") as thinker:
            call = held(thinker, "one")
        with runtime.run("decides") as decider:
            commit = decider.call("commit", {"call": call.id})
            succeeded(commit)
        result = succeeded(runtime.call("undo", {"run": decider.id}))
        assert [one["call"] for one in result["undone"]] == [commit.id]
        assert tree(place.work) == before
        assert succeeded(runtime.call("undo", {"run": thinker.id}))["already_undone"] == [commit.id]


def test_of_several_at_once_one_wins_and_the_others_are_told(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        tools = ["commit", "discard", "commit", "discard"]
        with ThreadPoolExecutor(len(tools)) as pool:
            ended = list(pool.map(lambda tool: runtime.call(tool, {"call": call.id}), tools))
        (won,) = [one for one in ended if one.outcome == "succeeded"]
        assert {one.error["type"] for one in ended if one is not won} <= {"NothingHeld", "HeldBusy"}
        again = runtime.index.call(call.id)
        assert (again.held, again.settled_by) == (
            {"commit": "committed", "discard": "discarded"}[won.tool],
            won.id,
        )
        assert (place.work / "one").exists() == (won.tool == "commit")
