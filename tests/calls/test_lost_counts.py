"""index.db is a copy of the journal: whoever deletes it gets no other allowance of hosts and of loops."""

import asyncio
import shutil
from pathlib import Path

import pytest

import custody
from custody.calls.questions import Answer
from custody.compose import open_runtime
from custody.errors import Denied
from custody.settings import load_settings


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def made(run, tool, *asked):
    """How each of such calls ends, made by the program itself and guarded."""
    return [ended(run.observe(tool, arguments, guard=True)) for arguments in asked]


def ended(call):
    try:
        with call:
            pass
    except Denied as refused:
        return refused.details["decision"].param
    return call.outcome


def lose_the_index(store):
    for path in store.glob("index.db*"):
        path.unlink()


def urls(*names):
    return [{"url": f"https://{name}.example/"} for name in names]


DONE = "succeeded"


def test_hosts_that_were_named_still_count(policy, store):
    policy("[budgets.store]\nhosts = 2\n")
    with custody.open(store) as runtime, runtime.run("first") as run:
        assert made(run, "fetch", *urls("a", "b", "c")) == [DONE, DONE, "hosts"]
    lose_the_index(store)
    with custody.open(store) as runtime, runtime.run("second") as run:
        assert made(run, "fetch", *urls("c", "B", "a")) == ["hosts", DONE, DONE]


@custody.tool(effect="write")
def put(path: str, content: str) -> str:
    return content


@pytest.mark.long
def test_what_a_text_only_hands_on_is_no_host_afterwards_either(policy, store):
    policy("[budgets.store]\nhosts = 1\n")
    with custody.open(store, tools=[put]) as runtime, runtime.run("first") as run:
        run.call("put", {"path": "a", "content": "see https://b.example and https://c.example"})
    lose_the_index(store)
    with custody.open(store) as runtime, runtime.run("second") as run:
        assert made(run, "fetch", *urls("a", "b")) == [DONE, "hosts"]


KEPT = (
    {},
    {"a": [1, 1.0, True, None, {"b": "ü", "c": (1, "2")}], "d": b"\0\xff"},
    {"text": "x" * 40_000},  # kept beside the record
)


def test_the_same_call_made_again_still_counts(policy, store):
    policy("[loops]\nsame_call = { deny = 3 }\n")
    with custody.open(store) as runtime, runtime.run("again") as run:
        for number, asked in enumerate(KEPT):
            assert made(run, f"look {number}", asked, asked, {"other": 1}) == [DONE] * 3
        lose_the_index(store)
        for number, asked in enumerate(KEPT):
            assert made(run, f"look {number}", asked, {"other": 1}) == ["same_call", DONE]
            assert made(run, f"search {number}", asked) == [DONE]


IN_PART = ({"of": "not UTF-8: \udcff"}, {"of": {1, 2}}, {"password": "Tr0ub4dor&3-horse"})


def test_what_the_record_holds_in_part_may_have_been_any_call_of_its_tool(policy, store):
    policy("[loops]\nsame_call = { deny = 3 }\n")
    with custody.open(store) as runtime, runtime.run("again") as run:
        for number, asked in enumerate(IN_PART):
            assert made(run, f"look {number}", asked, asked) == [DONE] * 2
        lose_the_index(store)
        for number, asked in enumerate(IN_PART):
            assert made(run, f"look {number}", asked, {}) == ["same_call"] * 2
            assert made(run, f"search {number}", {}) == [DONE]


@pytest.mark.long
def test_a_host_beside_something_replaced_is_known(policy, store):
    policy("[budgets.run]\nhosts = 2\n")
    with custody.open(store) as runtime, runtime.run("secrets") as run:
        asked = {"url": "https://a.example/", "headers": {"Authorization": "Bearer Tr0ub4dor-3-horse-9"}}
        assert made(run, "fetch", *[asked] * 3) == [DONE] * 3
        lose_the_index(store)
        assert made(run, "fetch", *urls("a", "b", "c")) == [DONE, DONE, "hosts"]


@pytest.mark.long
def test_calls_whose_arguments_are_not_kept_count_as_what_they_may_have_been(policy, store, tmp_path):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + '[tools]\nkeep = { fetch = "none" }\n')
    policy("[budgets.run]\nhosts = 2\n[loops]\nsame_call = { deny = 3 }\n")
    with custody.open(store) as runtime, runtime.run("kept back") as run:
        assert made(run, "fetch", *urls("a", "a")) == [DONE] * 2
        lose_the_index(store)
        assert made(run, "fetch", *urls("a")) == ["hosts"]
        assert made(run, "fetch", {}) == ["same_call"]
        assert made(run, "look", {}) == [DONE]


@pytest.mark.long
def test_of_what_was_asked_about_only_what_ran_counts(policy, store):
    policy('[[rules]]\nname = "look"\ndecision = "ask"\ntool = "put"\n[loops]\nsame_call = { deny = 2 }\n')
    said = {"a": "allow", "b": "deny"}

    async def prompt(question):
        return Answer(
            verdict=said[question.shown["path"]],
            by="person",
            reason="",
            person="kim",
            call_id=question.call_id,
        )

    async def main():
        async with await open_runtime(load_settings(store=str(store)), tools=[put]) as runtime:
            runtime.prompt = prompt
            async with runtime.run("asked") as run:
                first = [await run.call("put", {"path": path, "content": ""}) for path in "ab"]
                lose_the_index(store)
                said["b"] = "allow"
                again = [await run.call("put", {"path": path, "content": ""}) for path in "ab"]
                return [call.outcome for call in (*first, *again)]

    assert asyncio.run(main()) == [DONE, "rejected", "rejected", DONE]


@pytest.mark.long
def test_after_the_journal_lost_its_end_what_is_left_counts_once(policy, store, tmp_path):
    policy("[budgets.store]\nhosts = 2\n[loops]\nsame_call = { deny = 4 }\n")
    with custody.open(store) as runtime:
        assert made(runtime.named_run("shared"), "fetch", *urls("a", "a")) == [DONE] * 2
    earlier = tmp_path / "earlier"
    shutil.copytree(store, earlier)
    with custody.open(store) as runtime:
        assert made(runtime.named_run("shared"), "fetch", *urls("b", "c")) == [DONE, "hosts"]
    for path in store.glob("index.db*"):
        shutil.copy(path, earlier)
    with custody.open(earlier) as runtime:
        asked = urls("c", "b", "a", "a")
        assert made(runtime.named_run("shared"), "fetch", *asked) == [DONE, "hosts", DONE, "same_call"]
