"""The scripted agent on every store, and the same script with `custody.disabled()`."""

import asyncio
import inspect

import pytest
from tests.calls.faces import Stage, events, told

import custody
from custody.blocking import BlockingRun, BlockingRuntime
from custody.calls.disabled import Disabled, DisabledCall, DisabledRun, DisabledStep, disabled
from custody.calls.handle import RunHandle
from custody.calls.observe import ObservedCall
from custody.calls.runtime import Runtime
from custody.calls.steps import RecordedStep
from custody.errors import CustodyError, NotRecorded
from custody.index import RunFilter
from custody.records import RUN_OUTCOMES, Totals

STEPS, BATCHES = 12, (0, 3, 2, 0, 4, 1, 2, 3, 0, 1, 2, 2)
"""Twenty calls, in parallel batches behind some of the steps."""
SECRET_STEP, FAILOVER_STEP = 4, 6


async def agent_loop(runtime):
    """12 steps, 20 calls in parallel batches, one failover, one secret tool, one exception, two children."""
    async with runtime.run("answer the question", agent="a", caller="ada", inputs={"q": "why"}) as run:
        for number, batch in enumerate(BATCHES):
            secret = number == SECRET_STEP
            tools = ["http_get" if secret and call == 0 else "search" for call in range(batch)]
            run.step(
                f"step {number}: the key is hunter2" if secret else f"step {number}",
                model="model-a" if number < FAILOVER_STEP else "model-b",
                tokens={"input": 100, "output": 10},
                calls=[{"id": f"t{number}{call}", "name": tool} for call, tool in enumerate(tools)],
            )
            calls = [
                run.observe(tool, {"number": number}, external_id=f"t{number}{call}").open()
                for call, tool in enumerate(tools)
            ]
            for call in reversed(calls):
                if number == STEPS - 1 and call is calls[0]:
                    call.close(ConnectionError("reset"))
                else:
                    call.result = {"hits": number}
                    call.close()
        for part in ("left", "right"):
            async with run.child(part) as child:
                child.step(f"the {part}", model="model-b", tokens={"input": 7, "output": 1})
        run.event("looked", pages=3)
        run.error("one page was slow")
        assert isinstance(run.totals, Totals)
        await run.finish("succeeded", output={"answer": 42}, passed=True, totals={"dollars": 0.1})
    return run


def judge(runtime, parent_id):
    """What is on the record of it."""
    (run,) = [run for run in runtime.index.runs(RunFilter(agent="a")).items if run.parent_run_id is None]
    assert (run.id, run.outcome, run.output, run.passed, run.caller) == (
        parent_id, "succeeded", {"answer": 42}, True, "ada",
    )  # fmt: skip
    assert (run.totals.steps, run.totals.calls, run.totals.calls_by_outcome) == (
        STEPS, 20, {"succeeded": 19, "failed": 1},
    )  # fmt: skip
    assert (run.totals.input_tokens, run.totals.output_tokens) == (1_200, 120)
    assert run.stated_totals == {"dollars": 0.1}
    children = runtime.index.children(run.id).items
    assert sorted((child.intent, child.outcome, child.caller) for child in children) == [
        ("left", "succeeded", "ada"), ("right", "succeeded", "ada"),
    ]  # fmt: skip
    steps = runtime.index.run_steps(bytes.fromhex(run.id))
    calls = runtime.index.run_calls(bytes.fromhex(run.id), details=True)
    assert [step.iteration for step in steps] == list(range(1, 13))
    assert sorted(one.position for one in (*steps, *calls)) == list(range(32))
    assert [step.text_withheld for step in steps] == [number == SECRET_STEP for number in range(STEPS)]
    step_of = {step.id: number for number, step in enumerate(steps)}
    assert [step_of[call.step_id] for call in calls] == [
        number for number, batch in enumerate(BATCHES) for _ in range(batch)
    ]
    assert [call.error["message"] for call in calls if call.outcome == "failed"] == ["reset"]
    assert len({call.external_id for call in calls}) == 20
    models = [event["model"] for event in events(runtime, "run.model")]
    assert models == ["model-a", "model-b", "model-b", "model-b"]
    assert {run.outcome for run in runtime.index.runs(RunFilter()).items} <= set(RUN_OUTCOMES)


def judge_order(runtime):
    """Records are in the order in which things happened."""
    kinds = told(runtime)
    expected = ["run+"]
    for number, batch in enumerate(BATCHES):
        expected += ["step"] + ["run.model"] * (number in (0, FAILOVER_STEP))
        expected += ["call+"] * batch + ["call-"] * batch
    expected += ["run+", "step", "run.model", "run-"] * 2 + ["app.looked", "run.error", "run-"]
    assert kinds == expected


def test_a_scripted_agent_in_memory(stage: Stage):
    async def scenario(runtime):
        run = await agent_loop(runtime)
        judge(runtime, run.id)
        judge_order(runtime)

    stage.play(scenario)


def test_a_scripted_agent_on_a_folder_opened_again(folder_stage: Stage):
    run_id = folder_stage.play(agent_loop).id

    async def look(runtime):
        judge(runtime, run_id)
        judge_order(runtime)

    folder_stage.play(look)


def test_the_same_script_disabled_runs_unchanged_and_has_no_effect(stage: Stage, caplog, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    run = stage.disabled(agent_loop)
    assert (run.id, run.totals, run.outcome) == ("", Totals(), None)
    assert caplog.records == []
    assert sorted(tmp_path.rglob("*")) == before


# -- the same object --------------------------------------------------------------------------------------

OURS = {
    "after_fork_in_child", "belongs_to", "child_of", "dropped", "end_at_close", "failed", "joined_run",
    "keep", "keep_numbered", "new_run", "record_step", "run_of_name", "step_id", "takes",
    "undo_store",
}  # fmt: skip
"""What Custody's own modules call; no caller does."""


def offered(kind):
    return {name for name in dir(kind) if not name.startswith("_")} - OURS


@pytest.mark.parametrize(
    ("real", "stand_in"),
    [
        (Runtime, Disabled), (BlockingRuntime, Disabled), (RunHandle, DisabledRun),
        (BlockingRun, DisabledRun), (ObservedCall, DisabledCall), (RecordedStep, DisabledStep),
    ],
)  # fmt: skip
def test_it_has_every_name_and_takes_every_argument(real, stand_in):
    assert offered(real) - offered(stand_in) == set()
    for name in offered(real):
        method = inspect.getattr_static(real, name)
        if not inspect.isfunction(method):
            continue
        theirs = inspect.signature(getattr(stand_in, name))
        accepts_any = any(one.kind is one.VAR_KEYWORD for one in theirs.parameters.values())
        for parameter in inspect.signature(method).parameters.values():
            assert accepts_any or parameter.name in theirs.parameters, f"{name}({parameter.name})"


def test_everything_is_a_no_op_on_both_faces():
    with disabled() as runtime, runtime.run("x", agent="a") as run:
        with runtime.join("abc") as joined, runtime.named_run("n") as named:
            assert joined.totals == named.totals == Totals()
        with run.observe("search", {"q": 1}, durable=True) as call:
            assert (call.result, call.passed, call.cached, call.id) == (None, None, False, "")
            call.result = 1
            call.fail("no")
            call.reject("no")
        with run.step("x", tokens={"input": 1}, whole_text=True) as step:
            assert step.id == ""
        with pytest.raises(LookupError), run.child("y").observe("search"):
            raise LookupError
        run.event("x", name="y", self=1)
        run.error(ValueError("x"), message="y")
        run.finish("failed", output=1)
        assert runtime.cancel("abc") == []
        runtime.close()

    async def main():
        async with disabled() as runtime, runtime.run("x") as run, run.child("y") as child:
            async with await runtime.join("abc") as joined, await runtime.named_run("n"):
                assert joined.id == ""
            async with child.observe("search") as call:
                call.result = 1
            await run.finish("failed")
            assert await runtime.cancel("abc") == []
            await runtime.close()

    asyncio.run(main())


def test_a_guarded_call_is_refused_for_there_is_no_act_without_a_record():
    runtime = disabled()
    with pytest.raises(NotRecorded, match="disabled"):
        runtime.call("exec", {"argv": ["true"]})
    with runtime.run() as run, pytest.raises(NotRecorded, match="disabled"):
        run.call("exec", {"argv": ["true"]})
    with runtime.run() as run, pytest.raises(NotRecorded, match="disabled"):
        run.observe("search", {}, guard=True)
    with pytest.raises(CustodyError, match="nothing to be asked"):
        runtime.index  # noqa: B018


def test_a_decorated_function_in_a_disabled_run_just_runs_and_the_log_is_silent(caplog):
    @custody.observed
    def work(n):
        return n + 1

    with disabled().run():
        assert work(1) == 2
    assert caplog.records == []
