"""An agent hands a part of its task on: runs below runs, not in a circle and not without end."""

import pytest
from tests.calls.faces import Stage, events

from custody.calls.delegation import Task, refusal
from custody.errors import DelegationRefused, RunClosed


def test_a_child_speaks_for_the_same_caller_in_the_same_channel(stage: Stage):
    async def scenario(runtime):
        async with (
            runtime.run(
                "plan",
                agent="a",
                caller="ada",
                channel="chat",
                session="s1",
                workspace="/w",
                labels={"x": "1"},
            ) as parent,
            parent.child("look it up", agent="b", inputs={"q": 1}) as child,
            child.child() as last,
        ):
            pass
        return parent.id, child.id, [runtime.index.run(run.id) for run in (child, last)]

    parent_id, child_id, (child, grandchild) = stage.play(scenario)
    assert (child.parent_run_id, grandchild.parent_run_id) == (parent_id, child_id)
    assert (child.caller, child.channel, child.session_id, child.workspace) == ("ada", "chat", "s1", "/w")
    assert (child.agent, child.intent, child.inputs, child.labels) == ("b", "look it up", {"q": 1}, None)
    assert (grandchild.agent, grandchild.caller, grandchild.channel) == ("b", "ada", "chat")


def test_the_same_task_below_itself_is_a_circle(stage: Stage):
    async def scenario(runtime):
        async with (
            runtime.run("solve", agent="a", inputs={"n": 1}) as run,
            run.child("help", agent="b") as helper,
        ):
            with pytest.raises(DelegationRefused, match="a was given the same task 2 runs above: a circle"):
                helper.child("solve", agent="a", inputs={"n": 1})
            async with helper.child("solve", agent="a", inputs={"n": 2}) as part:
                pass
        return events(runtime, "run.refused"), part.outcome, runtime.index.run(helper.id).outcome

    refused, part, helper = stage.play(scenario)
    assert (part, helper) == ("succeeded", "succeeded")
    assert [(event["offered"], event["name"]) for event in refused] == [("child", "a")]


def test_runs_may_be_so_deep_and_no_deeper(stage: Stage, tmp_path):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + "[observe]\nchild_depth_max = 3\n")

    async def scenario(runtime):
        async def descend(run, depth):
            async with run:
                try:
                    return await descend(run.child(f"level {depth}"), depth + 1)
                except DelegationRefused as error:
                    return depth - 1, error.details["depth"]

        return await descend(runtime.run("level 0"), 1)

    assert stage.play(scenario) == (3, 4)


def test_the_guard_holds_while_the_store_takes_nothing(stage: Stage):
    async def scenario(runtime):
        stage.fill_up()
        async with runtime.run("solve", agent="a") as run:
            with pytest.raises(DelegationRefused):
                run.child("solve", agent="a")
        stage.heal()

    stage.play(scenario)


def test_a_run_that_has_finished_has_no_children(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            pass
        with pytest.raises(RunClosed):
            run.child("late")
        return run.totals.refused

    assert stage.play(scenario) == 1


def test_inputs_that_cannot_be_spelt_are_equal_to_themselves_alone(stage: Stage):
    class Unspeakable:
        def __repr__(self):
            raise RuntimeError("no words")

    async def scenario(runtime):
        async with (
            runtime.run("x", inputs=Unspeakable()) as run,
            run.child("x", inputs=Unspeakable()) as child,
        ):
            pass
        return child.outcome

    assert stage.play(scenario) == "succeeded"


def test_the_judgement_is_pure():
    tasks = tuple(Task("a", f"{number}", "") for number in range(4))
    assert refusal(tasks, Task("a", "4", ""), 4) is None
    assert refusal(tasks, Task("a", "4", ""), 3) == "runs may be 3 deep, and this one would be 4"
    assert refusal(tasks, tasks[3], 9) == "a was given the same task 1 run above: a circle"
    assert refusal((Task(None, None, ""),), Task(None, None, ""), 9) is not None
