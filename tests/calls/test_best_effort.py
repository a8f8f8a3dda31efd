"""Recording never disturbs the agent: what a failing store cannot take is dropped, counted and reported."""

import errno
import os
import shutil
import threading
import time

import pytest
from tests.calls.faces import UNDISTURBED_SECONDS, Stage, gaps, settle, some_work, told, wait_until

from custody.errors import NotRecorded
from custody.index import CallFilter
from custody.journal.disk_faulty import Fault

SECRET = "s3cr3t-v4lue-that-nobody-may-keep"


def custody_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("custody")}


WORK_RECORDS = 3 * 3 + 1 + 1 + 1
"""Steps, calls, the model, the event, the error."""


# -- a store that takes nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_the_agent_goes_on_and_one_gap_record_has_the_count_when_the_store_is_back(
    stage: Stage, error, caplog
):
    async def scenario(runtime):
        async with runtime.run("before", agent="a") as run:
            await some_work(run)
            stage.fill_up(error=error)
            began = time.monotonic()
            await some_work(run)
            assert time.monotonic() - began < UNDISTURBED_SECONDS
            settle(runtime)
            dropped = run.totals.dropped
            stage.heal()
            await some_work(run)
        return dropped, run.totals, run.id

    dropped, totals, run_id = stage.play(scenario)

    async def look(runtime):
        return gaps(runtime), told(runtime), runtime.index.run(run_id)

    found, kinds, run = stage.play(look)
    assert dropped == WORK_RECORDS - 1  # the model is the one it was before
    assert sum(gap["count"] for gap in found) == totals.dropped == run.totals.dropped
    assert all(gap["by_run"] == {run_id: gap["count"]} for gap in found)
    offered = 2 + 3 * WORK_RECORDS - 2
    assert len([kind for kind in kinds if kind != "journal.gap"]) == offered - totals.dropped
    assert (run.outcome, totals.calls, totals.steps) == ("succeeded", 9, 9)
    dropping = [line for line in caplog.messages if line.startswith("Records are dropped")]
    assert len(dropping) == 1
    assert os.strerror(error) in dropping[0]
    assert "nothing was run" not in dropping[0]


def test_a_run_that_begins_on_a_full_disk_is_on_the_record_once_there_is_room(stage: Stage):
    async def scenario(runtime):
        stage.fill_up()
        async with runtime.run("born poor", agent="a") as run:
            async with run.observe("search"):
                pass
            settle(runtime)
            stage.heal()
            wait_until(lambda: runtime.recording.backlog.healthy)
            async with run.observe("search"):
                pass
        return run.id, told(runtime), gaps(runtime), runtime.index.run(run.id)

    _, kinds, found, run = stage.play(scenario)
    assert kinds == ["journal.gap", "run+", "call+", "call-", "run-"]
    assert [gap["count"] for gap in found] == [2]
    assert (run.intent, run.agent, run.outcome) == ("born poor", "a", "succeeded")


def test_a_run_that_begins_and_ends_while_the_store_fails_is_recorded_at_the_close_or_the_next_open(
    folder_stage: Stage,
):
    async def scenario(runtime):
        folder_stage.fill_up(error=errno.EIO)
        async with runtime.run("all in the dark") as run:
            async with run.observe("search"):
                pass
            await run.finish(output="done", totals={"tokens": 3})
        return run.id

    run_id = folder_stage.play(scenario)
    folder_stage.heal()

    async def look(runtime):
        return told(runtime), gaps(runtime), runtime.index.run(run_id)

    kinds, found, run = folder_stage.play(look)
    assert sorted(kinds) == ["journal.gap", "run+", "run-"]
    assert [gap["count"] for gap in found] == [2]
    assert (run.outcome, run.output, run.stated_totals) == ("succeeded", "done", {"tokens": 3})
    assert run.totals.dropped == 2


def test_an_end_that_fails_is_retried_when_the_store_is_opened_again_and_stands_once(folder_stage: Stage):
    async def scenario(runtime):
        async with runtime.run("long") as run:
            async with run.observe("search") as call:
                pass
            folder_stage.fill_up(error=errno.EIO)
            await run.finish("failed", reason="tired")
        return run.id, call.id

    run_id, _ = folder_stage.play(scenario)
    folder_stage.heal()

    async def look(runtime):
        return told(runtime), runtime.index.run(run_id)

    kinds, run = folder_stage.play(look)
    assert kinds == ["run+", "call+", "call-", "run-"]
    assert (run.outcome, run.reason) == ("failed", "tired")


def test_a_call_whose_end_is_lost_is_unknown_and_one_whose_start_is_lost_says_everything_at_its_end(
    stage: Stage,
):
    async def scenario(runtime):
        async with runtime.run() as run:
            ended_in_the_dark = run.observe("a", {"n": 1}).open()
            stage.fill_up(error=errno.EIO)
            ended_in_the_dark.close()
            begun_in_the_dark = run.observe("b", {"n": 2}, external_id="x").open()
            lost = run.observe("c", {"n": 3}).open()
            lost.close()
            settle(runtime)
            stage.heal()
            wait_until(lambda: runtime.recording.backlog.healthy)
            begun_in_the_dark.result = "found"
            begun_in_the_dark.close()
        return [call.id for call in (ended_in_the_dark, begun_in_the_dark, lost)], run.totals

    ids, totals = stage.play(scenario)

    async def look(runtime):
        calls = runtime.index.calls(CallFilter(order="oldest")).items
        return [runtime.index.call(call.id) for call in calls], gaps(runtime)

    (first, second), found = stage.play(look)
    assert [first.id, second.id] == ids[:2], "of the third nothing is known but that it is missing"
    assert (first.outcome, first.arguments) == ("unknown", {"n": 1})
    assert (second.outcome, second.arguments, second.result) == ("succeeded", {"n": 2}, "found")
    assert (second.external_id, second.position) == ("x", 1)
    assert second.latency_us is not None
    assert sum(gap["count"] for gap in found) == totals.dropped == 4
    assert totals.calls == 3


def test_a_full_disk_with_room_in_its_segment_keeps_a_record_whose_large_value_finds_none(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            run.step("so that there is a segment")
            stage.fill_up("create", "replace", "make_folder")
            async with run.observe("dump", {"q": "x" * 50_000, "small": 1}) as call:
                call.result = "y" * 100_000
            await run.finish(output="z" * 60_000)
        stage.heal()
        return runtime.index.call(call.id), runtime.index.run(run.id), run.totals

    call, run, totals = stage.play(scenario)
    assert call.outcome == run.outcome == "succeeded"
    assert call.arguments["$omitted"] is call.result["$omitted"] is run.output["$omitted"] is True
    assert call.result["bytes"] >= 100_000
    assert totals.dropped == 0


def test_a_call_open_while_the_disk_fills_up_has_room_for_its_end(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            calls = [run.observe("slow", {"n": number}).open() for number in range(5)]
            stage.fill_up("create", "replace")
            filler = "x" * 10_000
            while run.totals.dropped == 0:
                run.event("filler", text=filler)
                settle(runtime)
            for call in calls:
                call.result = filler
                call.close()
            settle(runtime)
            lost = run.totals.dropped
        settle(runtime)
        assert run.totals.dropped == lost, "the run's end had room, too"
        return [runtime.index.call(call.id).result == filler for call in calls], runtime.index.run(
            run.id
        ).outcome

    kept, outcome = stage.play(scenario)
    assert kept == [True] * 5
    assert outcome == "succeeded"


# -- raise is the caller's choice -------------------------------------------------------------------------


def test_raise_raises_where_the_record_is_offered_and_nothing_is_dropped(stage: Stage):
    async def scenario(runtime):
        async with runtime.run(on_error="raise") as run:
            stage.fill_up()
            ran = []
            with pytest.raises(NotRecorded):
                async with run.observe("search"):
                    ran.append(1)
            for offer in (lambda: run.step("x"), lambda: run.event("x"), lambda: run.error("x")):
                with pytest.raises(NotRecorded):
                    offer()
            async with run.observe("search", on_error="warn"):
                ran.append(2)
            settle(runtime)
            stage.heal()
            assert ran == [2]
            async with run.observe("search"):
                pass
        return run.totals

    async def look(runtime):
        return gaps(runtime), told(runtime)

    totals = stage.play(scenario)
    found, kinds = stage.play(look)
    assert (totals.calls, totals.dropped) == (2, 2)
    assert sum(gap["count"] for gap in found) == 2
    assert [kind for kind in kinds if kind != "journal.gap"] == ["run+", "call+", "call-", "run-"]


def test_warn_and_raise_can_be_chosen_for_a_single_call_or_the_whole_runtime(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            stage.fill_up()
            with pytest.raises(NotRecorded):
                run.step("x")
            stage.heal()

    stage.play(scenario, on_error="raise")


def test_a_strict_call_whose_start_cannot_be_made_durable_never_ran(stage: Stage):
    async def scenario(runtime):
        async with runtime.run(on_error="raise") as run:
            stage.disk.inject(Fault(operation="sync", error=errno.EIO, times=None))
            call = run.observe("pay", durable=True)
            with pytest.raises(NotRecorded):
                async with call:
                    raise AssertionError("it may not run")
            stage.heal()
            return call.outcome, run.totals

    outcome, totals = stage.play(scenario)
    assert outcome == "rejected"
    assert totals.calls_by_outcome == {"rejected": 1}

    async def look(runtime):
        return [call.outcome for call in runtime.index.calls(CallFilter()).items]

    assert stage.play(look) == ["unknown"], "while the disk failed, its end could not be recorded either"


# -- in the end -------------------------------------------------------------------------------------------


def test_leaving_a_store_that_fails_for_good_does_not_disturb_the_agent(stage: Stage, caplog):
    async def scenario(runtime):
        async with runtime.run() as run:
            stage.fill_up(error=errno.EIO)
            stage.disk.inject(Fault(operation="sync", error=errno.EIO, times=None))
            await some_work(run)
        return run.outcome

    assert stage.play(scenario) == "succeeded"


def test_its_threads_end_with_the_store(stage: Stage):
    before = custody_threads()

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.fill_up()
            await some_work(run)
            stage.heal()
            await some_work(run)

    stage.play(scenario)
    wait_until(lambda: custody_threads() <= before)


def test_no_secret_of_an_argument_is_in_a_log_line_or_a_gap(stage: Stage, caplog):
    async def scenario(runtime):
        async with runtime.run(SECRET) as run:
            stage.fill_up()
            for _ in range(3):
                async with run.observe(f"tool-{SECRET}", {"password": SECRET}) as call:
                    call.result = SECRET
                run.event(SECRET, password=SECRET)
                run.step(SECRET, model=SECRET)
            stage.heal()
        run.event(SECRET)
        return gaps(runtime)

    found = stage.play(scenario)
    assert found
    assert SECRET not in repr(found)
    assert SECRET not in caplog.text


def test_a_store_deleted_under_a_running_program_does_not_disturb_it(folder_stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            await some_work(run)
            shutil.rmtree(folder_stage.store)
            for _ in range(40):
                async with run.observe("dump", {"q": "x" * 15_000}) as call:
                    call.result = "y" * 50_000
        return run.outcome, run.totals.calls

    assert folder_stage.play(scenario) == ("succeeded", 43)


def test_in_a_deleted_store_a_strict_durable_call_does_not_run(folder_stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            await some_work(run)
            shutil.rmtree(folder_stage.store)
            with pytest.raises(NotRecorded):
                async with run.observe("pay", durable=True, on_error="raise"):
                    raise AssertionError("it ran")
        return True

    assert folder_stage.play(scenario)


def test_a_store_that_is_closed_drops_what_still_comes(stage: Stage, caplog):
    kept = {}

    async def scenario(runtime):
        run = kept["run"] = runtime.run()
        await run.__aenter__()
        kept["call"] = run.observe("slow").open()

    stage.play(scenario)
    run, call = kept["run"], kept["call"]
    call.close()
    run.step("late")
    run.event("late")
    run.observe("late").open().close()
    assert run.outcome == "incomplete"

    async def look(runtime):
        (found,) = runtime.index.calls(CallFilter()).items
        return told(runtime), runtime.index.run(run.id), found.outcome

    kinds, found, outcome = stage.play(look)
    assert sorted(kinds) == ["call+", "call-", "run+", "run-"]
    assert (found.outcome, found.reason, outcome) == ("incomplete", "its store was closed", "unknown")
