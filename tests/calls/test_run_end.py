"""A run ends once, whatever happens around it, with numbers that are of one moment."""

import asyncio
import os
import threading

import pytest
from tests.calls.faces import Stage, events, of_kind, told

import custody
from custody.errors import NotRecorded, RunClosed
from custody.index import RunFilter
from custody.records import RUN_OUTCOMES, RunFinished


def only_run(runtime):
    (run,) = runtime.index.runs(RunFilter()).items
    return run


# -- one end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", RUN_OUTCOMES)
def test_finish_says_how_with_what_and_why(stage: Stage, outcome):
    async def scenario(runtime):
        async with runtime.run("work", agent="a") as run:
            await run.finish(
                outcome, output={"answer": 42}, reason="because", passed=True, totals={"tokens": 7}
            )
        assert run.outcome == outcome
        return only_run(runtime)

    run = stage.play(scenario)
    assert (run.outcome, run.output, run.reason, run.passed, run.stated_totals) == (
        outcome, {"answer": 42}, "because", True, {"tokens": 7},
    )  # fmt: skip


def test_leaving_the_with_finishes_it(stage: Stage):
    async def scenario(runtime):
        async with runtime.run():
            pass
        return only_run(runtime), told(runtime)

    run, kinds = stage.play(scenario)
    assert (run.outcome, run.reason, run.output, run.passed) == ("succeeded", None, None, None)
    assert kinds == ["run+", "run-"]


def test_a_run_entered_twice_begins_and_ends_once(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run, run:
            run.step("inside")
        return told(runtime)

    assert stage.play(scenario) == ["run+", "step", "run-"]


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (ValueError("no"), "failed", "ValueError"),
        (TimeoutError(), "timed_out", "TimeoutError"),
        (asyncio.CancelledError(), "cancelled", None),
        (KeyboardInterrupt(), "cancelled", None),
        (SystemExit(0), "succeeded", None),
        (SystemExit(3), "failed", "SystemExit"),
    ],
)
def test_how_the_with_is_left_says_how_it_ended(error, outcome, reason):
    with custody.open(":memory:") as runtime:
        with pytest.raises(type(error)), runtime.run():
            raise error
        run = only_run(runtime)
    assert (run.outcome, run.reason) == (outcome, reason)


def test_a_second_finish_changes_nothing_and_a_different_one_is_refused_and_counted(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            await run.finish("failed", reason="tired")
            await run.finish("failed")
            await run.finish()
            await run.finish("succeeded", output="no, it was fine")
        return (
            only_run(runtime),
            of_kind(runtime, RunFinished),
            run.totals.refused,
            events(runtime, "run.refused"),
        )

    run, ends, refused, said = stage.play(scenario)
    assert len(ends) == 1
    assert (run.outcome, run.reason, run.output) == ("failed", "tired", None)
    assert refused == 1
    assert [(event["offered"], event["name"]) for event in said] == [("finish", "succeeded")]


@pytest.mark.parametrize("outcome", ["complete", 5, ["succeeded"], b"succeeded", object()], ids=range(5))
def test_an_outcome_that_is_none_is_unknown_and_what_was_said_is_the_reason(stage: Stage, outcome):
    async def scenario(runtime):
        async with runtime.run() as run:
            await run.finish(outcome, passed="yes", totals=object())
        return only_run(runtime)

    run = stage.play(scenario)
    assert (run.outcome, run.passed) == ("unknown", None)
    assert run.reason.startswith("its outcome was stated as ")


def test_a_reason_that_is_no_text_becomes_one(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            await run.finish("failed", reason=ValueError("xxx " * 1_250))
        return only_run(runtime).reason

    reason = stage.play(scenario)
    assert reason.startswith("xxx")
    assert (len(reason), reason[-4:]) == (1_024, "xxx…")


def test_what_is_offered_after_the_end_is_refused_counted_and_said_once(stage: Stage, caplog):
    async def scenario(runtime):
        async with runtime.run() as run:
            pass
        async with run.observe("search") as call:
            call.result = "it runs all the same"
        assert (call.id, call.position, call.outcome) == ("", None, None)
        for _ in range(3):
            run.step("late")
            run.event("late")
            run.error("late")
        run.observe("late").reject("no")
        return run.totals

    totals = stage.play(scenario)
    assert (totals.refused, totals.calls, totals.steps) == (11, 0, 0)
    assert len([line for line in caplog.messages if "has finished" in line]) == 1

    async def look(runtime):
        return events(runtime, "run.refused"), told(runtime), only_run(runtime).totals

    said, kinds, recorded = stage.play(look)
    assert [event["count"] for event in said] == [1, 10]
    assert (recorded.refused, recorded.calls, recorded.steps) == (11, 0, 0)
    assert kinds == ["run+", "run-", "run.refused", "run.refused"]


def test_with_raise_what_is_offered_after_the_end_raises(stage: Stage):
    async def scenario(runtime):
        async with runtime.run(on_error="raise") as run:
            pass
        for offer in (lambda: run.step("x"), lambda: run.event("x"), lambda: run.error("x")):
            with pytest.raises(RunClosed):
                offer()
        with pytest.raises(RunClosed):
            async with run.observe("x"):
                raise AssertionError("it may not run")
        return run.totals.refused

    assert stage.play(scenario) == 4


# -- cancelled, timed out, forgotten ----------------------------------------------------------------------


def test_it_ends_although_the_task_around_it_is_cancelled():
    stage = Stage("asyncio")

    async def scenario(runtime):
        async def agent():
            async with runtime.run("work"):
                await asyncio.Event().wait()

        task = asyncio.create_task(agent())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return only_run(runtime).outcome

    assert stage.play(scenario) == "cancelled"


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_it_ends_although_the_finish_itself_is_cancelled(on_error):
    stage = Stage("asyncio")

    async def scenario(runtime):
        async with runtime.run(on_error=on_error) as run:
            task = asyncio.create_task(run.finish("failed", output="x" * 50_000))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})

    async def look(runtime):
        return only_run(runtime)

    stage.play(scenario)
    run = stage.play(look)
    assert (run.outcome, run.output) == ("failed", "x" * 50_000)


@pytest.mark.parametrize("together", ["gather", "group", "wait"])
def test_a_parent_that_times_out_with_three_children_in_flight_leaves_four_terminal_runs(together):
    """`wait` lets the children go on: they are ended with the store."""
    stage = Stage("asyncio")
    tasks = []  # held by nobody else once the parent has left: the collector would end them

    async def scenario(runtime):
        started = asyncio.Semaphore(0)
        run = runtime.run("plan", agent="a")

        async def work(child):
            async with child:
                child.step("thinking")
                async with child.observe("slow"):
                    started.release()
                    await asyncio.Event().wait()

        async def plan():
            async with run:
                async with asyncio.timeout(None) as limit:
                    tasks.extend(asyncio.create_task(work(run.child(f"part {n}"))) for n in range(3))
                    for _ in tasks:
                        await started.acquire()
                    limit.reschedule(asyncio.get_running_loop().time() + 0.05)
                    if together == "gather":
                        await asyncio.gather(*tasks)
                    elif together == "wait":
                        await asyncio.wait(tasks)
                    else:
                        async with asyncio.TaskGroup() as group:
                            for task in tasks:
                                group.create_task(asyncio.wait_for(task, None))

        with pytest.raises(TimeoutError):
            await plan()
        return run.id

    run_id = stage.play(scenario)

    async def look(runtime):
        runs = {run.id: run for run in runtime.index.runs(RunFilter()).items}
        calls = [call.outcome for run in runs for call in runtime.index.run_calls(bytes.fromhex(run))]
        return runs, calls, runtime.recovered

    runs, calls, recovered = stage.play(look)
    assert runs.pop(run_id).outcome == "timed_out"
    ended = {"gather": "cancelled", "group": "cancelled", "wait": "incomplete"}[together]
    assert [run.outcome for run in runs.values()] == [ended] * 3
    assert calls == ["unknown" if together == "wait" else "cancelled"] * 3
    assert recovered is None, "nothing was left for the next process to close"


def test_three_threads_in_flight_when_the_store_is_closed_leave_terminal_runs(tmp_path):
    store = os.fspath(tmp_path / "store")
    go, started = threading.Event(), threading.Semaphore(0)

    def work(child):
        with child, child.observe("slow"):
            started.release()
            go.wait(30)

    with custody.open(store) as runtime, runtime.run("plan") as run:
        threads = [threading.Thread(target=work, args=(run.child(f"{n}"),)) for n in range(3)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert started.acquire(timeout=30)
    go.set()
    for thread in threads:
        thread.join(30)
    with custody.open(store) as runtime:
        outcomes = sorted(run.outcome for run in runtime.index.runs(RunFilter()).items)
    assert outcomes == ["incomplete"] * 3 + ["succeeded"]


# -- numbers ----------------------------------------------------------------------------------------------


def test_totals_are_what_the_run_did_and_what_the_caller_counted_stands_beside_them(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            run.step("a", tokens={"input": 10, "output": 5, "cache_read": 2})
            run.step("b", tokens={"input": 1})
            run.step("c")
            async with run.observe("good"):
                pass
            with pytest.raises(LookupError):
                async with run.observe("bad"):
                    raise LookupError
            open_call = run.observe("open").open()
            await run.finish(totals={"input_tokens": 999})
            open_call.close()
        return run.totals, only_run(runtime)

    totals, run = stage.play(scenario)
    assert (run.totals.steps, run.totals.calls, run.totals.calls_by_outcome) == (
        3,
        3,
        {"succeeded": 1, "failed": 1},
    )
    assert (run.totals.input_tokens, run.totals.output_tokens, run.totals.cache_read_tokens) == (11, 5, 2)
    assert run.totals.reasoning_tokens is run.totals.cache_write_tokens is None
    assert run.totals.steps_without_tokens == 1
    assert run.stated_totals == {"input_tokens": 999}
    assert totals.calls_by_outcome == {"succeeded": 2, "failed": 1}


def test_a_run_that_did_nothing_has_zeros(stage: Stage):
    async def scenario(runtime):
        async with runtime.run():
            pass
        return only_run(runtime).totals

    totals = stage.play(scenario)
    assert (totals.steps, totals.calls, totals.input_tokens, totals.cost_nano_usd) == (0, 0, 0, 0)


def test_a_snapshot_from_any_thread_is_of_one_moment(stage: Stage):
    """Each step says one token of each kind, so all sums are equal in every snapshot."""

    async def scenario(runtime):
        async with runtime.run() as run:
            over, torn = threading.Event(), []

            def look():
                while not over.is_set():
                    totals = run.totals
                    if not totals.steps == totals.input_tokens == totals.output_tokens:
                        torn.append(totals)

            lookers = [threading.Thread(target=look) for _ in range(2)]
            for thread in lookers:
                thread.start()
            for _ in range(300):
                run.step("x", tokens={"input": 1, "output": 1})
            over.set()
            for thread in lookers:
                thread.join()
            return torn

    assert stage.play(scenario) == []


def test_guarded_and_observed_calls_are_counted_together(stage: Stage):
    @custody.tool(effect="read")
    def add(a: int) -> int:
        return a + 1

    async def scenario(runtime):
        async with runtime.run() as run:
            assert (await run.call("add", {"a": 1})).result == 2
            await run.call("add", {"a": "one"})
            async with run.observe("search"):
                pass
        return run.totals, runtime.index.run_calls(run.run_id)

    totals, calls = stage.play(scenario, tools=[add])
    assert (totals.calls, totals.calls_by_outcome) == (3, {"succeeded": 2, "rejected": 1})
    assert [call.position for call in calls] == [0, 1, 2]


def test_a_guarded_call_that_cannot_be_recorded_is_not_counted(stage: Stage):
    @custody.tool(effect="read")
    def add(a: int) -> int:
        return a + 1

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.fill_up()
            with pytest.raises(NotRecorded):
                await run.call("add", {"a": 1})
            stage.heal()
        return run.totals.calls

    assert stage.play(scenario, tools=[add]) == 0


def test_a_run_never_left_is_ended_with_its_store(stage: Stage):
    async def scenario(runtime):
        run = runtime.run("forgotten")
        await run.__aenter__()
        run.step("thinking")
        return run.id

    run_id = stage.play(scenario)

    async def look(runtime):
        return runtime.index.run(run_id), runtime.recovered

    run, recovered = stage.play(look)
    assert (run.outcome, run.reason, run.totals.steps, recovered) == (
        "incomplete",
        "its store was closed",
        1,
        None,
    )
