"""A call that a rule asks about, where something goes wrong on its way: the disk, the policy, its caller."""

import asyncio
import os
import threading
import time
from importlib import import_module
from types import SimpleNamespace

import pytest

import custody
from custody.calls.answers import yes
from custody.calls.pause import begin_pause
from custody.calls.questions import Means, answer_question
from custody.compose import open_runtime
from custody.errors import InvalidPolicy, NotRecorded
from custody.index import CallFilter
from custody.journal import RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.records import Kind
from custody.settings import load_settings
from custody.stores import open_view

ASKS = '[[rules]]\nname = "look"\ndecision = "ask"\ntool = "note"\nreason = "Notes are looked at."\n'


@pytest.fixture
def one_place(tmp_path):
    """One call runs at a time."""
    settings = tmp_path / "config" / "custody" / "custody.toml"
    settings.write_text(settings.read_text() + "[calls]\nparallel = 1\n")


@custody.tool(effect="read")
def note(text: str, tags: list | None = None) -> str:
    return text


async def says_yes(question):
    return yes(question, "kim")


class Hold:
    """A tool that keeps the one place there is, until it is let go."""

    def __init__(self):
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

        @custody.tool(effect="read", name="hold")
        async def hold() -> None:
            self.begun.set()
            await self.go_on.wait()

        self.tool = hold


async def answered(runtime, text="x", **arguments):
    """A call to which a person has said yes, and that waits for its place; and who lets it go on."""
    hold, asked, say = Hold(), asyncio.Event(), asyncio.Event()

    async def prompt(question):
        asked.set()
        await say.wait()
        return yes(question, "kim")

    runtime.prompt = prompt
    runtime.tools.know(hold.tool)
    calling = asyncio.ensure_future(runtime.call("note", {"text": text, **arguments}))
    await asked.wait()
    holding = asyncio.ensure_future(runtime.call(hold.tool))
    await hold.begun.wait()
    say.set()
    await asyncio.to_thread(_until_answered, runtime)
    return calling, holding, hold.go_on


def _until_answered(runtime):
    while not any(stored.kind == Kind.CALL_ANSWERED for stored in runtime.journal.follow()):
        threading.Event().wait(0.002)


def _until_seen(runtime):
    while runtime._deciding.pauses.active() is None:
        threading.Event().wait(0.01)


def notes_of(runtime):
    return [
        (call.outcome, call.reason) for call in runtime.index.calls(CallFilter(tool="note"), limit=9).items
    ]


@pytest.mark.parametrize(
    ("at", "missing"),
    [
        pytest.param(2, "that its answer was used", id="use"),
        pytest.param(3, "its start", id="start", marks=pytest.mark.long),
    ],
)
def test_a_yes_whose_use_cannot_be_recorded_runs_nothing_and_leaves_nothing_open(
    policy, one_place, tmp_path, monkeypatch, at, missing
):
    """Of the records from there on the first ends what holds the place."""
    monkeypatch.setattr("custody.calls.samples.SAMPLE_SECONDS", 3600.0)  # a sample is a record, too
    policy(ASKS + "[budgets.store]\ncalls = 3\n")
    settings = load_settings(store=os.fspath(tmp_path / "store"))
    disk = FaultyDisk(RealDisk(settings.store, create=True))

    async def main():
        async with await open_runtime(settings, disk=disk, tools=[note]) as runtime:
            calling, holding, go_on = await answered(runtime)
            disk.inject(
                Fault(operation="put", at=at, times=None, within=".seg"),
                Fault(operation="create", times=None),
            )
            go_on.set()
            await asyncio.gather(holding, return_exceptions=True)
            with pytest.raises(NotRecorded):
                await calling
            disk.heal()
            runtime.prompt = says_yes
            return [(await runtime.call("note", {"text": text})).outcome for text in "abc"]

    assert asyncio.run(main()) == ["succeeded", "succeeded", "rejected"]
    with open_view(settings) as view:
        notes = notes_of(view)
    assert ("rejected", f"{missing} could not be recorded") in notes
    assert None not in [outcome for outcome, _ in notes]


@pytest.mark.long
@pytest.mark.parametrize("what", ["asked", "answered"])
def test_a_question_or_an_answer_that_cannot_be_recorded_runs_nothing_and_leaves_nothing_open(
    policy, tmp_path, what
):
    policy(ASKS)
    settings = load_settings(store=os.fspath(tmp_path / "store"))
    disk = FaultyDisk(RealDisk(settings.store, create=True))

    def fail():
        disk.inject(Fault(operation="put", times=None), Fault(operation="create", times=None))

    async def prompt(question):
        fail()
        return yes(question, "kim")

    async def main():
        async with await open_runtime(settings, disk=disk, tools=[note]) as runtime:
            runtime.prompt = prompt
            if what == "asked":
                await runtime.call("file_list", {"path": "."})
                fail()
            with pytest.raises(NotRecorded):
                await runtime.call("note", {"text": "x"})
            disk.heal()

    asyncio.run(main())
    with open_view(settings) as view:
        assert [outcome for outcome, _ in notes_of(view)] == ([] if what == "asked" else ["rejected"])


def test_a_call_of_a_shared_run_that_is_asked_about_takes_one_position(policy):
    policy(ASKS)

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = says_yes
            async with runtime.run("together", shared=True) as run:
                return [await run.call("note", {"text": text}) for text in "ab"]

    assert [(call.outcome, call.position) for call in asyncio.run(main())] == [
        ("succeeded", 0), ("succeeded", 1),
    ]  # fmt: skip


@pytest.mark.long
def test_a_pause_that_begins_while_somebody_thinks_counts_the_call_once(policy, one_place):
    policy(ASKS + "[budgets.store]\ncalls = 3\n")

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            calling, holding, go_on = await answered(runtime)
            await asyncio.to_thread(
                begin_pause, runtime.ledger.recorder, runtime.index,
                seconds=60, reason="now", person="kim", may_pause=True,
            )  # fmt: skip
            await asyncio.to_thread(_until_seen, runtime)
            go_on.set()
            await holding
            return [await calling, *[await runtime.call("note", {"text": text}) for text in "ab"]]

    assert [call.outcome for call in asyncio.run(main())] == ["succeeded", "succeeded", "rejected"]


def test_where_nothing_can_be_counted_the_call_is_refused_and_on_the_record(policy, tmp_path):
    policy("[budgets.store]\ncalls = 3\n")
    store = tmp_path / "store"
    with custody.open(os.fspath(store), tools=[note]) as runtime:
        for name in ("index.db", "index.db-wal", "index.db-shm"):
            (store / name).unlink(missing_ok=True)
        (store / "index.db").mkdir()
        call = runtime.call("note", {"text": "x"})
        (store / "index.db").rmdir()
        kept = runtime.index.call(call.id)
    assert (call.outcome, call.decision.verdict, call.decision.by) == ("rejected", "deny", "error")
    assert kept.outcome == "rejected"


def test_the_time_a_person_thinks_is_not_the_calls_time(policy, monkeypatch):
    policy(ASKS)
    ahead = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
    monkeypatch.setattr(import_module("custody.tools.tool"), "time", clock)  # by which calls have deadlines

    @custody.tool(effect="read", name="note")
    async def slow(text: str) -> str:
        await asyncio.sleep(0.005)
        return text

    async def prompt(question):
        nonlocal ahead
        ahead += 3600  # longer than the call may take
        return yes(question, "kim")

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[slow]) as runtime:
            runtime.prompt = prompt
            return await runtime.call("note", {"text": "x"}, timeout=60)

    assert asyncio.run(main()).outcome == "succeeded"


def test_a_yes_to_a_dry_run_lets_no_real_call_pass(policy):
    policy(ASKS + "[approvals]\nwait_seconds = 0.01\n")

    async def silent(question):
        assert question.summary.startswith("dry run: note")
        await asyncio.Event().wait()

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = silent
            asked = await runtime.call("note", {"text": "x"}, dry_run=True)
            means = Means(journal=runtime.journal, recorder=runtime.ledger.recorder, index=runtime.index)
            await asyncio.to_thread(answer_question, means, asked.id, "allow", person="kim")
            runtime.prompt = None
            real = await runtime.call("note", {"text": "x"})
            return real, await runtime.call("note", {"text": "x"}, dry_run=True)

    real, dry = asyncio.run(main())
    assert (real.outcome, real.decision.by) == ("rejected", "nobody")
    assert dry.decision.by == "person"


@pytest.mark.parametrize("changed", ["arguments", "policy", "nothing"])
def test_a_yes_is_to_what_was_asked_about_and_to_nothing_else(policy, one_place, changed):
    policy(ASKS)
    tags = ["a"]

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            calling, holding, go_on = await answered(runtime, tags=tags)
            if changed == "arguments":
                tags.append("b")
            if changed == "policy":
                policy('[[rules]]\nname = "more"\ndecision = "ask"\neffect = "read"\n', "more.toml")
                await asyncio.to_thread(runtime.policy.look)
            go_on.set()
            await holding
            return await calling

    call = asyncio.run(main())
    if changed == "nothing":
        assert (call.outcome, call.decision.by) == ("succeeded", "person")
    else:
        assert (call.outcome, call.decision.by) == ("rejected", "nobody")
        assert "changed meanwhile" in call.decision.reason


@pytest.mark.parametrize("how", ["cancel", "task", "close"])
def test_a_call_that_waits_for_a_person_can_be_cancelled_and_is_closed(policy, how):
    policy(ASKS)

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            asked = asyncio.Event()

            async def prompt(question):
                asked.set()
                await asyncio.Event().wait()

            runtime.prompt = prompt
            calling = asyncio.ensure_future(runtime.call("note", {"text": "x"}))
            await asked.wait()
            (waiting,) = (await asyncio.to_thread(runtime.index.calls, CallFilter(tool="note"))).items
            assert waiting.outcome is None
            if how == "cancel":
                assert await runtime.cancel(waiting.id) == [waiting.id]
                await calling
            elif how == "task":
                calling.cancel()
                await asyncio.wait({calling})
            else:
                for context, _, _ in runtime._running.values():
                    context.request_cancel()
                await calling
            return notes_of(runtime)

    ((outcome, reason),) = asyncio.run(main())
    assert outcome == "rejected"
    assert reason.startswith("cancelled while it waited for a person")


def test_a_pipe_among_the_policies_is_refused_and_keeps_nobody_waiting(policy, work):
    policy(ASKS)

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            os.mkfifo(work / ".custody" / "policy" / "pipe.toml")
            await asyncio.wait_for(asyncio.to_thread(runtime.policy.look), 30)
            return await runtime.call("note", {"text": "x"})

    assert asyncio.run(main()).decision.rule == "look"
    with pytest.raises(InvalidPolicy, match=r"pipe\.toml is not a file"):
        load_settings(store=":memory:")
