"""A step plan stops, skips or goes on as it says; one that was cut goes on where it was, and what is done is
not done again."""

import asyncio
import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.plans.plans import BOUND_SECONDS, at_once, cancelled_once
from tests.plans.stepped import Told, begin, in_a_store, of, outcome, plan, reasons, run, step, stepped, words

import custody
from custody.cli.plan_run import exit_code, stopped_by
from custody.compose import open_runtime
from custody.errors import InvalidInput, NotRecorded, PeerLost, PlanBusy
from custody.index import CallFilter, EventFilter, RunFilter
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.plans.steps.results import StepsProgress
from custody.settings import load_settings

# -- what the plan says -------------------------------------------------------------------------------


def test_stop_lets_what_runs_end_and_begins_nothing_but_what_answers_the_failure() -> None:
    stopped = asyncio.Event()

    async def slow() -> Any:
        async with asyncio.timeout(BOUND_SECONDS):
            await stopped.wait()
        return outcome("succeeded")

    async def broken() -> Any:
        stopped.set()
        return outcome("failed")

    read = plan(
        step("slow"),
        step("broken"),
        step("after", "broken"),
        step("beside", "slow"),
        step("mend", condition={"if_failed": "broken"}),
    )
    told = Told({"slow": [slow], "broken": [broken]})
    results = run(read, told)
    assert words(results) == {
        "slow": "completed",
        "broken": "failed",
        "after": "pending",
        "beside": "pending",
        "mend": "completed",
    }
    assert "'broken'" in reasons(results)["after"]
    assert reasons(results)["beside"] == "The plan was stopped when 'broken' failed."


def test_skip_skips_all_that_needs_it_and_says_for_which_failure() -> None:
    read = plan(step("a", on_failure="skip"), step("b", "a"), step("c", "b"), step("d"))
    results = run(read, Told({"a": ["failed"]}))
    assert words(results) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "completed"}
    assert reasons(results)["b"] == "It needs 'a', which failed."
    assert reasons(results)["c"] == "It needs 'b', which was skipped because 'a' failed."


def test_continue_lets_what_needs_it_go_on() -> None:
    read = plan(step("a", on_failure="continue"), step("b", "a"))
    assert words(run(read, Told({"a": ["failed"]}))) == {"a": "failed", "b": "completed"}


@pytest.mark.parametrize("on_failure", ["stop", "skip", "continue"])
def test_nothing_begins_after_one_of_which_nobody_knows_how_it_ended_whatever_the_plan_says(
    on_failure: str,
) -> None:
    read = plan(
        step("a", on_failure=on_failure),
        step("b", "a"),
        step("mend", condition={"if_failed": "a"}),
        step("c", "d"),
        step("d"),
    )
    told = Told({"a": ["unknown"]})
    results = run(read, told, settings=at_once(concurrent_actions_max=1))
    assert told.begun == ["a"]
    assert {one.reason for one in results if one.status == "pending"} == {
        "Not begun: the plan stopped at 'a'."
    }


def test_an_attempt_that_raises_what_it_should_not_fails_its_action_and_stops_the_plan() -> None:
    async def broken() -> Any:
        raise RuntimeError("a defect")

    results = run(plan(step("a", on_failure="continue"), step("b", "a")), Told({"a": [broken]}))
    assert words(results) == {"a": "failed", "b": "pending"}
    assert reasons(results)["a"] == "An error of the runtime: RuntimeError."


def test_a_plan_that_is_cancelled_ends_what_runs_and_tells_of_each_action() -> None:
    async def main() -> None:
        running = asyncio.Event()

        async def hang() -> Any:
            running.set()
            await asyncio.Event().wait()

        work = begin(plan(step("done"), step("a", "done"), step("b", "a")), Told({"a": [hang]}))
        await cancelled_once(running, work.work())
        assert words(work.results) == {"done": "completed", "a": "failed", "b": "pending"}
        assert reasons(work.results) == {
            "a": "It was cancelled while it ran.",
            "b": "Not begun: the plan was cancelled.",
        }

    asyncio.run(main())


# -- tools --------------------------------------------------------------------------------------------


class Behaviour:
    """What the tool `act` does, by the text it is given; it notes what it did."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.lost: set[str] = set()
        self.failing: set[str] = set()
        self.hanging: set[str] = set()
        self.hangs = asyncio.Event()
        self.says = "it broke"

    def tool(self) -> Any:
        @custody.tool(name="act", effect="write")
        async def act(text: str) -> str:
            self.did.append(text)
            if text in self.hanging:
                self.hangs.set()
                await asyncio.Event().wait()
            if text in self.lost:
                raise PeerLost("its process died")
            if text in self.failing:
                raise ValueError(self.says)
            return text.upper()

        return act


def act(action_id: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    return step(action_id, *depends_on, tool="act", arguments={"text": action_id}, **fields)


# -- what a call's end means --------------------------------------------------------------------------


def test_a_failure_names_its_outcome_and_its_call() -> None:
    behaviour = Behaviour()
    behaviour.failing = {"a"}

    async def work(runtime: Any) -> None:
        result = await stepped(runtime, plan(act("a")))
        (call,) = runtime.index.calls(CallFilter()).items
        assert of(result, "a").reason == f"It failed (call {call.id}): it broke."
        assert (of(result, "a").outcome, result.state) == ("failed", "blocked")
        (run_,) = runtime.index.runs(RunFilter()).items
        assert run_.outcome == "failed"

    in_a_store(work, behaviour.tool())


@pytest.mark.parametrize(
    ("says", "reason"),
    [("it broke.", "it broke."), ("why?", "why?"), ("more …", "more …"), ("a: b\n", "a: b."), ("", None)],
)
def test_a_reason_is_a_sentence_that_ends_once_here_and_in_what_goes_on(
    says: str, reason: str | None
) -> None:
    behaviour = Behaviour()
    behaviour.failing, behaviour.lost, behaviour.says = {"a"}, {"b"}, says

    async def work(runtime: Any) -> None:
        read = plan(act("a", on_failure="continue"), act("b", "a"))
        first = of(await stepped(runtime, read), "a").reason
        assert first is not None
        assert first == of(await stepped(runtime, read), "a").reason
        assert reason is None or first.endswith(f"): {reason}")
        assert first.endswith((".", "?", "…"))
        assert not first.endswith("..")

    in_a_store(work, behaviour.tool())


def test_what_a_guard_refuses_is_a_failure_that_is_not_tried_again() -> None:
    async def work(runtime: Any) -> None:
        read = plan(step("a", tool="file_read", arguments={"path": "/etc/shadow"}, retries=3))
        result = await stepped(runtime, read)
        assert (of(result, "a").outcome, of(result, "a").attempts) == ("rejected", 1)
        assert "It was rejected" in reasons(result.actions)["a"]
        assert not reasons(result.actions)["a"].endswith("..")

    in_a_store(work)


def test_cancelling_a_plans_call_from_elsewhere_ends_the_plan_whatever_it_says() -> None:
    behaviour = Behaviour()
    behaviour.hanging = {"a"}

    async def work(runtime: Any) -> None:
        task = asyncio.create_task(stepped(runtime, plan(act("a", on_failure="continue"), act("b", "a"))))
        await behaviour.hangs.wait()
        (run_,) = runtime.index.runs(RunFilter()).items
        await runtime.cancel(run_.id)
        result = await task
        assert words(result.actions) == {"a": "failed", "b": "pending"}
        assert "`--retry a`" in reasons(result.actions)["a"]
        (run_,) = runtime.index.runs(RunFilter()).items
        assert run_.outcome == "cancelled"

    in_a_store(work, behaviour.tool())


# -- going on -----------------------------------------------------------------------------------------


def test_a_plan_that_was_cancelled_goes_on_with_what_was_not_begun() -> None:
    behaviour = Behaviour()
    behaviour.hanging = {"b"}
    read = plan(act("a"), act("b", "a", on_failure="continue"), act("c", "b"))

    async def work(runtime: Any) -> None:
        task = asyncio.create_task(stepped(runtime, read))
        await behaviour.hangs.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        first = runtime.index.runs(RunFilter()).items[0]
        result = await stepped(runtime, read)

        assert (first.outcome, result.resumed_from) == ("cancelled", first.id)
        assert behaviour.did == ["a", "b", "c"]
        assert words(result.actions) == {"a": "completed", "b": "failed", "c": "completed"}
        assert (of(result, "a").source, of(result, "c").source) == ("earlier run", "executed")
        (resumed,) = runtime.index.events(EventFilter(name="plan.resumed")).items
        assert (resumed.run_id, resumed.data["resumed_from"]) == (result.run_id, first.id)

    in_a_store(work, behaviour.tool())


def test_an_action_nobody_knows_the_end_of_stops_the_plan_until_somebody_decides() -> None:
    behaviour = Behaviour()
    behaviour.lost = {"b"}
    read = plan(act("a"), act("b", "a", on_failure="continue"), act("c", "b"))

    async def work(runtime: Any) -> None:
        first = await stepped(runtime, read)
        call = next(one for one in runtime.index.calls(CallFilter()).items if one.action_id == "b")
        assert (first.state, of(first, "b").outcome, of(first, "c").status) == (
            "blocked",
            "unknown",
            "pending",
        )
        for said in (call.id, "custody show", "--done b", "--retry b"):
            assert said in first.why
        still = await stepped(runtime, read)
        assert (still.state, still.run_id, still.resumed_from) == ("blocked", None, first.run_id)
        assert of(still, "c").reason == "Not begun: nobody knows how 'b' ended."

        last = await stepped(runtime, read, done=["b"], caller="ada")
        assert (last.state, last.resumed_from, behaviour.did) == ("complete", first.run_id, ["a", "b", "c"])
        assert of(last, "b").reason == "ada said that it is done."
        (decided,) = runtime.index.events(EventFilter(name="plan.decided")).items
        assert (decided.data, decided.run_id) == ({"action_id": "b", "as": "done", "who": "ada"}, last.run_id)
        outcomes = [one.outcome for one in runtime.index.runs(RunFilter(order="oldest")).items]
        assert outcomes == ["unknown", "succeeded"]

    in_a_store(work, behaviour.tool())


def test_ids_that_the_record_redacts_are_found_again() -> None:
    behaviour = Behaviour()
    behaviour.lost = {"b"}
    hidden, named = "https://ada:hunter2hunter2@example.org", "rotate-token"
    read = plan(
        step(hidden, tool="act", arguments={"text": "a"}),
        step(named, hidden, tool="act", arguments={"text": "b"}),
        act("c", named),
        plan_id="https://ada:hunter2hunter2@example.net",
    )

    async def work(runtime: Any) -> None:
        await stepped(runtime, read)
        (said,) = runtime.index.events(EventFilter(name="plan.finished")).items
        assert "hunter2" not in str(runtime.index.calls(CallFilter()).items)
        assert "hunter2" not in str(said)
        assert [one["status"] for one in said.data["actions"]] == ["completed", "failed", "pending"]
        assert (await stepped(runtime, read, done=[named])).state == "complete"
        assert behaviour.did == ["a", "b", "c"]

    in_a_store(work, behaviour.tool())


def test_what_is_to_be_typed_does_what_it_says_whatever_an_action_is_called() -> None:
    behaviour = Behaviour()
    behaviour.lost = {"a"}

    async def work(runtime: Any) -> None:
        read = plan(step("$(reboot)", tool="act", arguments={"text": "a"}))
        (one,) = (await stepped(runtime, read)).actions
        assert "`--done '$(reboot)'`" in (one.reason or "")
        assert "`--retry '$(reboot)'`" in (one.reason or "")

    in_a_store(work, behaviour.tool())


def test_what_was_decided_stands_when_the_run_it_was_decided_in_is_cut_as_well() -> None:
    behaviour = Behaviour()
    behaviour.lost = {"a"}
    behaviour.hanging = {"b"}
    read = plan(act("a"), act("b", "a"), act("c", "b"))

    async def work(runtime: Any) -> None:
        await stepped(runtime, read)
        task = asyncio.create_task(stepped(runtime, read, done=["a"]))
        await behaviour.hangs.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        behaviour.hanging = set()
        result = await stepped(runtime, read, retry=["b"])
        assert (result.state, behaviour.did) == ("complete", ["a", "b", "b", "c"])

    in_a_store(work, behaviour.tool())


def test_a_plan_that_failed_stays_so_until_somebody_says_what_to_do() -> None:
    behaviour = Behaviour()
    behaviour.failing = {"b"}
    read = plan(act("a"), act("b", "a"), act("c", "b"))

    async def work(runtime: Any) -> None:
        first = await stepped(runtime, read)
        same = await stepped(runtime, read)
        assert (same.state, same.run_id, same.resumed_from) == ("blocked", None, first.run_id)
        assert behaviour.did == ["a", "b"]
        anew = await stepped(runtime, read, again=True)
        assert (anew.resumed_from, behaviour.did) == (None, ["a", "b", "a", "b"])
        behaviour.failing = set()
        on = await stepped(runtime, read, retry=["b"])
        assert (on.state, on.resumed_from) == ("complete", anew.run_id)
        assert behaviour.did == ["a", "b", "a", "b", "b", "c"]

    in_a_store(work, behaviour.tool())


def test_again_begins_anew_what_was_cut() -> None:
    behaviour = Behaviour()
    behaviour.lost = {"b"}
    read = plan(act("a"), act("b", "a"))

    async def work(runtime: Any) -> None:
        await stepped(runtime, read)
        behaviour.lost = set()
        result = await stepped(runtime, read, again=True)
        assert (result.state, result.resumed_from, behaviour.did) == ("complete", None, ["a", "b", "a", "b"])

    in_a_store(work, behaviour.tool())


@pytest.mark.parametrize(
    "options",
    [
        {"done": ["a"]},
        {"retry": ["nosuch"]},
        {"done": ["b"], "retry": ["b"]},
        {"again": True, "done": ["b"]},
    ],
    ids=["a done action", "no action", "both", "and anew"],
)
def test_where_there_is_nothing_to_decide_nothing_begins(options: dict[str, Any]) -> None:
    behaviour = Behaviour()
    behaviour.lost = {"b"}
    read = plan(act("a"), act("b", "a"))

    async def work(runtime: Any) -> None:
        await stepped(runtime, read)
        with pytest.raises(InvalidInput):
            await stepped(runtime, read, **options)
        assert behaviour.did == ["a", "b"]
        assert len(runtime.index.runs(RunFilter()).items) == 1

    in_a_store(work, behaviour.tool())


def test_another_plan_and_another_folder_know_nothing_of_what_was_cut(tmp_path: Path) -> None:
    behaviour = Behaviour()
    behaviour.lost = {"a"}
    store = os.fspath(tmp_path / "store")

    async def first(runtime: Any) -> None:
        await stepped(runtime, plan(act("a")))
        behaviour.lost = set()
        assert (await stepped(runtime, plan(act("a"), act("b")))).state == "complete"

    async def elsewhere(runtime: Any) -> None:
        assert (await stepped(runtime, plan(act("a")))).state == "complete"

    in_a_store(first, behaviour.tool(), store=store)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        in_a_store(elsewhere, behaviour.tool(), store=store)


# -- what earlier runs gave ---------------------------------------------------------------------------


def test_what_an_earlier_run_gave_is_handed_on_where_the_record_has_it_as_it_was() -> None:
    behaviour = Behaviour()
    behaviour.lost = {"b"}

    @custody.tool(effect="read")
    async def secret() -> dict[str, str]:
        return {"api_key": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", "name": "kept"}

    read = plan(
        act("a"),
        step("hidden", tool="secret"),
        act("b", "a", "hidden"),
        step("plain", "b", tool="act", arguments={"text": "$a.output"}),
        step(
            "redacted", "b", tool="act", arguments={"text": "$hidden.output.api_key"}, on_failure="continue"
        ),
    )

    async def work(runtime: Any) -> None:
        await stepped(runtime, read)
        result = await stepped(runtime, read, done=["b"])
        assert behaviour.did == ["a", "b", "A"]
        assert words(result.actions)["redacted"] == "failed"
        assert "secrets are replaced there" in reasons(result.actions)["redacted"]

    in_a_store(work, behaviour.tool(), secret)


# -- a store that cannot be written -------------------------------------------------------------------


def test_a_plan_whose_calls_cannot_be_recorded_stops_and_goes_on_once_they_can() -> None:
    behaviour = Behaviour()
    disk = FaultyDisk(MemoryDisk())
    read = plan(act("a"), act("b", "a"), act("c", "b"))

    async def main() -> None:
        settings = load_settings(store=":memory:")
        async with await open_runtime(settings, disk=disk, tools=[behaviour.tool()]) as runtime:
            full = [Fault(operation=name, error=errno.ENOSPC, times=None) for name in ("put", "create")]

            def filled(progress: StepsProgress) -> None:
                if progress.changed.id == "a" and progress.changed.status == "completed":
                    disk.inject(*full)

            cut = await stepped(runtime, read, on_change=filled)
            disk.heal()
            assert (words(cut.actions), cut.state) == (
                {"a": "completed", "b": "failed", "c": "pending"},
                "blocked",
            )
            assert behaviour.did == ["a"]
            assert not cut.recorded
            assert exit_code(cut, stopped_by(read, cut)) == NotRecorded.exit_code
            assert "'b'" in cut.why
            for said in (cut.why, of(cut, "b").reason or ""):
                assert "could not be recorded" in said
                assert "No space left" in said
            result = await stepped(runtime, read)
            assert result.recorded
            assert (result.state, result.resumed_from, behaviour.did) == (
                "complete",
                cut.run_id,
                ["a", "b", "c"],
            )

    asyncio.run(main())


def test_wherever_a_store_fails_while_a_plan_goes_on_nothing_is_done_twice() -> None:
    async def main(put: int) -> bool:
        behaviour, disk = Behaviour(), FaultyDisk(MemoryDisk())
        behaviour.lost = {"b"}
        read = plan(act("a"), act("b", "a"), act("c", "b"), act("d", "c"))
        settings = load_settings(store=":memory:")
        async with await open_runtime(settings, disk=disk, tools=[behaviour.tool()]) as runtime:
            await stepped(runtime, read)
            before = disk.hit_count
            disk.inject(
                Fault(operation="put", error=errno.ENOSPC, at=put, times=None),
                Fault(operation="create", error=errno.ENOSPC, times=None),
            )
            state = ""
            with suppress(NotRecorded):
                state = (await stepped(runtime, read, done=["b"])).state
            hit = disk.hit_count > before
            disk.heal()
            while state != "complete":  # whoever is asked has seen to it
                result = await stepped(runtime, read)
                asked = [one.id for one in result.actions if one.outcome == "unknown"]
                state = (await stepped(runtime, read, done=asked)).state if asked else result.state
            assert behaviour.did == ["a", "b", "c", "d"]
            return hit

    async def everywhere() -> int:
        put = 1
        while await main(put):
            put += 1
        return put

    assert asyncio.run(everywhere()) > 8, "so many records there are: each was one that could not be kept"


# -- once at a time -----------------------------------------------------------------------------------


def test_a_plan_that_is_being_run_is_refused_to_everybody_else_with_its_run_and_process() -> None:
    behaviour = Behaviour()
    behaviour.hanging = {"a"}
    read = plan(act("a"))

    async def work(runtime: Any) -> None:
        task = asyncio.create_task(stepped(runtime, read))
        await behaviour.hangs.wait()
        (run_,) = runtime.index.runs(RunFilter()).items
        with pytest.raises(PlanBusy) as caught:
            await stepped(runtime, read, again=True)
        assert caught.value.details == {"run_id": run_.id, "pid": os.getpid()}
        assert run_.id[:12] in str(caught.value)
        assert (await stepped(runtime, plan(act("b")))).state == "complete"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await stepped(runtime, plan(act("c")))).state == "complete"
        behaviour.hanging = set()
        assert (await stepped(runtime, read, again=True)).state == "complete"

    in_a_store(work, behaviour.tool())


RUNNER = """
import asyncio, sys
import custody
from custody.plans.steps.running import run_steps
from custody.plans.steps.model import parse_plan

@custody.tool(effect="write")
async def act(text: str) -> str:
    print(text, flush=True)
    if text == "b":
        await asyncio.Event().wait()
    return text

def action(one, *before):
    return {"id": one, "depends_on": list(before), "tool": "act", "arguments": {"text": one}}

async def main():
    plan, _ = parse_plan({"id": "example", "actions": [action("a"), action("b", "a"), action("c", "b")]})
    async with custody.open(sys.argv[1], tools=[act]) as runtime:
        await run_steps(runtime, plan)

asyncio.run(main())
"""


def test_a_plan_of_a_process_that_is_killed_is_refused_before_and_goes_on_after(tmp_path: Path) -> None:
    script, store = tmp_path / "runner.py", os.fspath(tmp_path / "store")
    script.write_text(RUNNER)
    behaviour = Behaviour()
    read = plan(act("a"), act("b", "a"), act("c", "b"))
    runner = subprocess.Popen([sys.executable, script, store], stdout=subprocess.PIPE, text=True)
    try:
        assert runner.stdout is not None
        assert [runner.stdout.readline().strip() for _ in range(2)] == ["a", "b"]

        async def while_it_runs(runtime: Any) -> None:
            with pytest.raises(PlanBusy) as caught:
                await stepped(runtime, read)
            assert caught.value.details["pid"] == runner.pid
            runner.kill()
            await asyncio.to_thread(runner.wait, BOUND_SECONDS)
            # This store was open all the time: nobody has closed yet what the dead process left.
            result = await stepped(runtime, read)
            assert (result.state, of(result, "b").outcome, behaviour.did) == ("blocked", "unknown", [])

        in_a_store(while_it_runs, behaviour.tool(), store=store)
    finally:
        runner.kill()
        runner.wait(BOUND_SECONDS)
        assert runner.stdout is not None
        runner.stdout.close()

    async def afterwards(runtime: Any) -> None:
        (cut,) = runtime.index.runs(RunFilter()).items
        result = await stepped(runtime, read, retry=["b"])
        assert (cut.outcome, result.resumed_from, result.state) == ("incomplete", cut.id, "complete")
        assert behaviour.did == ["b", "c"]
        assert list((tmp_path / "store" / "journal" / "plans").iterdir()) == []

    in_a_store(afterwards, behaviour.tool(), store=store)
