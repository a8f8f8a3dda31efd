"""Files of policy that change under a program that stays: what holds then, and what is looked at again."""

import asyncio
import os
from contextlib import closing

import pytest

import custody
from custody.calls.answers import yes
from custody.compose import open_runtime
from custody.errors import InvalidPolicy
from custody.index import EventFilter, Index
from custody.journal import Journal, RealDisk
from custody.policy_files import StandingPolicy
from custody.settings import load_settings


@custody.tool(effect="write")
def note(text: str) -> str:
    return text


@pytest.fixture
def users_policy(tmp_path):
    """Writes the user's policy, which needs nobody's trust."""

    def write(text: str):
        path = tmp_path / "config" / "custody" / "policy.toml"
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


ASKS = '[[rules]]\nname = "look"\ndecision = "ask"\ntool = "note"\n'


def test_a_policy_that_changes_takes_effect_and_one_that_cannot_be_used_changes_nothing(policy, caplog):
    settings = load_settings(store=":memory:")

    async def main():
        async with await open_runtime(settings, tools=[note]) as runtime:
            standing = runtime.policy
            free = await runtime.call("note", {"text": "a"})
            policy('[[rules]]\nname = "no"\ndecision = "deny"\ntool = "note"\n')
            await asyncio.to_thread(standing.look)
            refused = await runtime.call("note", {"text": "b"})
            policy("[[rules]\n")
            await asyncio.to_thread(standing.look)
            still = await runtime.call("note", {"text": "c"})
            events = runtime.index.events(EventFilter()).items
            return [free, refused, still], [event.name for event in events]

    calls, names = asyncio.run(main())
    assert [call.outcome for call in calls] == ["succeeded", "rejected", "rejected"]
    assert "policy.in_force" in names and "policy.unusable" in names
    assert any("rules.toml:1" in line for line in caplog.messages)


def test_a_link_to_nothing_that_is_taken_away_again_is_noticed(policy, work):
    policy('[[rules]]\nname = "no"\ndecision = "deny"\ntool = "note"\n')
    rules = work / ".custody" / "policy" / "rules.toml"

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            rules.unlink()
            rules.symlink_to(work / "nothing")
            await asyncio.to_thread(runtime.policy.look)
            refused = await runtime.call("note", {"text": "a"})
            rules.unlink()
            await asyncio.to_thread(runtime.policy.look)
            return refused, await runtime.call("note", {"text": "b"})

    refused, free = asyncio.run(main())
    assert (refused.outcome, free.outcome) == ("rejected", "succeeded")


def test_a_program_does_not_begin_under_a_policy_that_cannot_be_used(policy, work):
    policy('[[rules]]\nname = "x"\ndesicion = "deny"\n')
    with pytest.raises(InvalidPolicy, match=r"rules\.toml:3:1.*decision"):
        custody.open(":memory:").__enter__()


# -- what people are asked, and where they are told ------------------------------------------------------


async def yes_of_kim(question):
    return yes(question, "kim")


async def silent(question):
    await asyncio.Event().wait()


def test_how_long_a_call_waits_changes_with_the_file(policy):
    policy(ASKS + "[approvals]\nwait_seconds = 3600\n")

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = yes_of_kim
            first = await runtime.call("note", {"text": "a"})
            policy(ASKS + "[approvals]\nwait_seconds = 0.01\n")
            await asyncio.to_thread(runtime.policy.look)
            runtime.prompt = silent
            return first, await asyncio.wait_for(runtime.call("note", {"text": "b"}), 20)

    first, second = asyncio.run(main())
    assert (first.outcome, second.decision.by) == ("succeeded", "nobody")
    assert "waiting for a person" in second.reason


def test_how_long_a_question_is_open_changes_with_the_file(policy):
    policy(ASKS)
    open_hours = []

    async def prompt(question):
        open_hours.append((question.open_until_us - question.asked_at_us) / 3_600_000_000)
        return yes(question, "kim")

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = prompt
            await runtime.call("note", {"text": "a"})
            policy(ASKS + "[approvals]\nopen_hours = 2\n")
            await asyncio.to_thread(runtime.policy.look)
            await runtime.call("note", {"text": "b"})

    asyncio.run(main())
    assert open_hours == [8, 2]


def test_people_are_told_where_the_file_says_by_now_and_only_there(users_policy, tmp_path):
    """Where nobody is named a call is refused at once; where somebody is, it asks."""
    told = '[approvals]\nwait_seconds = 0.01\nnotify = [["/nowhere/told", "{call}"]]\n'
    store = os.fspath(tmp_path / "store")

    async def main():
        async with await open_runtime(load_settings(store=store), tools=[note]) as runtime:
            reasons = []
            for text in ("", told, ""):
                users_policy(ASKS + text)
                await asyncio.to_thread(runtime.policy.look)
                reasons.append((await runtime.call("note", {"text": "a"})).decision.reason)
            return reasons

    assert ["waiting for a person" in reason for reason in asyncio.run(main())] == [False, True, False]
    with closing(Journal(RealDisk(store))) as journal, closing(Index(None, journal)) as index:
        tried = index.events(EventFilter(name="approvals.undelivered")).items
    assert [event.data["to"] for event in tried] == ["command 1: /nowhere/told"]


# -- what is looked at again -----------------------------------------------------------------------------


@pytest.fixture
def standing(work, tmp_path):
    """What a program that stays looks after, and what it tells."""
    events = []
    user_settings = os.fspath(tmp_path / "config" / "custody" / "custody.toml")
    policy = StandingPolicy([], os.fspath(work), user_settings, lambda *event: events.append(event))
    policy.events = events
    return policy


@pytest.fixture
def opened(monkeypatch):
    """The paths that are opened, each as often as it is."""
    paths, opening = [], os.open

    def open_and_note(path, *more, **options):
        paths.append(os.fspath(path))
        return opening(path, *more, **options)

    monkeypatch.setattr(os, "open", open_and_note)
    return paths


@pytest.mark.parametrize("text", ["[[rules]\n", '[[rules]]\nname = "x"\ndesicion = "deny"\n'])
def test_a_file_that_cannot_be_used_is_read_once_until_it_changes(users_policy, standing, opened, text):
    path = os.fspath(users_policy(text))
    for _ in range(3):
        standing.look()
    assert opened.count(path) == 1
    assert [name for name, _ in standing.events] == ["policy.unusable"]

    users_policy('default = "deny"\n')
    for _ in range(3):
        standing.look()
    assert opened.count(path) == 2
    assert standing().layers[-1].default == "deny"


def test_a_file_that_cannot_be_read_is_tried_again_each_time_and_told_once(users_policy, standing, opened):
    path = users_policy('default = "deny"\n')
    standing.look()
    path.unlink()
    path.symlink_to(path)  # a circle of links: whoever opens it gets an error of the operating system
    for _ in range(3):
        standing.look()
    assert opened.count(os.fspath(path)) == 4
    assert [name for name, _ in standing.events] == ["policy.in_force", "policy.unusable"]
    assert standing().layers[-1].default == "deny"

    path.unlink()
    standing.look()
    assert [name for name, _ in standing.events][2:] == ["policy.in_force"]
    assert not any(layer.default for layer in standing().layers)
