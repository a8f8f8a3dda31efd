"""What begins when, what is handed on, and what stands in the state afterwards."""

import asyncio
from typing import Any

import pytest
from tests.plans.plans import (
    BOUND_SECONDS,
    Pauses,
    Tools,
    assertion,
    at_once,
    call,
    failed,
    read,
    rejected,
    run,
    statuses,
    succeeded,
    write,
)

from custody.plans import Action, Condition, Graph, Performed, ScheduleSettings, State, run_plan
from custody.plans.results import Costs
from custody.plans.schedule import RETRY_PAUSE_SECONDS_MAX


class Gate:
    """Answers of several actions that come once all of them have begun: in vain if they never do."""

    def __init__(self, parties: int) -> None:
        self._barrier = asyncio.Barrier(parties)

    async def __call__(self) -> Performed:
        async with asyncio.timeout(BOUND_SECONDS):
            await self._barrier.wait()
        return succeeded("together")


# -- order --------------------------------------------------------------------------------------------


def test_a_plan_without_actions_is_done() -> None:
    assert run([]).costs.actions_executed == 0


def test_actions_that_would_abort_run_one_by_one_as_listed() -> None:
    tools = Tools()
    run([call("b"), call("a"), call("c")], tools)
    assert tools.calls == [("b", 1), ("a", 1), ("c", 1)]
    assert tools.running_max == 1


@pytest.mark.parametrize("behavior", ["skip", "retry"])
def test_a_wave_in_which_none_would_abort_runs_at_once(behavior: str) -> None:
    gate = Gate(3)
    tools = Tools({name: [gate] for name in "abc"})
    result = run([call(name, failure_behavior=behavior) for name in "abc"], tools)
    assert set(statuses(result).values()) == {"succeeded"}


def test_one_that_would_abort_makes_its_whole_wave_wait_in_turn() -> None:
    tools = Tools()
    run([call("a", failure_behavior="skip"), call("b"), call("c", failure_behavior="skip")], tools)
    assert (tools.calls, tools.running_max) == ([("a", 1), ("b", 1), ("c", 1)], 1)


def test_so_many_run_at_once_and_no_more() -> None:
    async def longer() -> Performed:
        for _ in range(3):
            await asyncio.sleep(0)
        return succeeded()

    actions = [call(str(number), failure_behavior="skip") for number in range(20)]
    tools = Tools({action.id: [longer] for action in actions})
    run(actions, tools, settings=at_once(concurrent_actions_max=3))
    assert tools.running_max == 3
    assert [action_id for action_id, _ in tools.calls] == [str(number) for number in range(20)]


def test_results_are_in_the_order_of_the_plan() -> None:
    result = run([call("last", dependencies=("first",)), call("first")])
    assert [one.action_id for one in result.results] == ["last", "first"]


# -- what is handed on --------------------------------------------------------------------------------


def test_a_tool_gets_outputs_where_its_parameters_refer_to_them() -> None:
    tools = Tools({"build": [succeeded({"files": ["a", "b"], "version": 3})]})
    parameters = {"files": "$build.output.files", "tag": "v${build.output.version}", "n": 1}
    run([call("build"), call("push", parameters=parameters)], tools)
    assert tools.parameters["push"] == {"files": ["a", "b"], "tag": "v3", "n": 1}


def test_a_reference_to_what_is_not_in_the_output_is_rejected_before_the_tool_runs() -> None:
    tools = Tools({"build": [succeeded({})]})
    result = run([call("build"), call("push", parameters={"x": "$build.output.version"})], tools)
    assert tools.calls == [("build", 1)]
    assert result.of("push").status == "rejected"
    assert (
        result.of("push").error
        == "$build.output.version has no value: nothing stands at 'version' in that output."
    )


def test_state_actions_write_and_read_and_give_what_they_wrote_and_read() -> None:
    state = State()
    result = run(
        [
            call("a"),
            write("w", "count", {"from": "$a.output"}),
            read("r", "count"),
            read("none", "absent"),
        ],
        Tools({"a": [succeeded(7)]}),
        state,
    )
    assert state.contents() == {"count": {"from": 7}}
    assert (result.of("w").output, result.of("r").output) == ({"from": 7}, {"from": 7})
    assert (result.of("none").status, result.of("none").output) == ("succeeded", None)
    assert result.of("w").state_changes == {"count": {"from": 7}}
    assert result.of("r").state_changes == {}


def test_expected_effects_stand_in_the_state_once_the_action_has_succeeded() -> None:
    state = State()
    result = run(
        [
            call("a", expected_effects={"built": True, "n": 1}),
            call("b", failure_behavior="skip", expected_effects={"deployed": True}),
        ],
        Tools({"b": [failed()]}),
        state,
    )
    assert state.contents() == {"built": True, "n": 1}
    assert result.of("a").state_changes == {"built": True, "n": 1}
    assert result.of("b").state_changes == {}


def test_what_an_action_writes_outranks_what_it_expects() -> None:
    state = State()
    run([write("w", "k", "written", expected_effects={"k": "expected", "l": 1})], state=state)
    assert state.contents() == {"k": "written", "l": 1}


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"value": 3}, "succeeded"),
        ({"expected": 3}, "succeeded"),
        ({"operator": "gt", "value": 2}, "succeeded"),
        ({"operator": "exists"}, "succeeded"),
        ({"value": "$a.output"}, "succeeded"),
        ({"value": 4}, "failed"),
        ({"operator": "sounds like", "value": 3}, "failed"),
        ({}, "failed"),
    ],
)
def test_an_assertion_succeeds_or_fails(said: dict[str, Any], status: str) -> None:
    result = run([call("a"), assertion("sure", "k", **said)], Tools({"a": [succeeded(3)]}), State({"k": 3}))
    assert result.of("sure").status == status
    assert result.of("sure").output is (status == "succeeded")


def test_a_failed_assertion_aborts_and_names_no_value() -> None:
    result = run(
        [assertion("sure", "token", value="swordfish"), call("b")], state=State({"token": "hunter2"})
    )
    assert statuses(result) == {"sure": "failed", "b": "skipped"}
    assert result.of("sure").error == "The condition eq on state key 'token' does not hold."


# -- what keeps an action from being begun ------------------------------------------------------------


def test_preconditions_are_asked_of_the_state_as_it_is_then() -> None:
    tools = Tools()
    result = run(
        [
            call("test", expected_effects={"passed": True}),
            call("deploy", preconditions=(Condition(key="passed", value=True),)),
            call(
                "again",
                preconditions=(Condition(key="passed", operator="not_exists", description="only once"),),
            ),
        ],
        tools,
    )
    assert statuses(result) == {"test": "succeeded", "deploy": "succeeded", "again": "rejected"}
    assert result.of("again").error == (
        "The condition not_exists on state key 'passed' does not hold (only once)."
    )
    assert tools.calls == [("test", 1), ("deploy", 1)]


def test_a_key_an_action_depends_on_has_to_be_there_or_written_by_the_plan() -> None:
    plan = [
        call("there", state_dependencies=("old",)),
        call("writer", write_set=("outside",)),
        call("written", state_dependencies=("outside",)),
        call("absent", state_dependencies=("nowhere",), failure_behavior="skip"),
    ]
    result = run(plan, state=State({"old": None}))
    assert statuses(result) == {
        "there": "succeeded",
        "writer": "succeeded",
        "written": "succeeded",
        "absent": "rejected",
    }
    assert result.of("absent").error == "State key 'nowhere', which it depends on, is not there."


def test_everything_that_is_missing_is_said() -> None:
    action = call("a", state_dependencies=("k",), preconditions=(Condition(key="l", operator="exists"),))
    assert run([action]).of("a").error == (
        "State key 'k', which it depends on, is not there. "
        "The condition exists on state key 'l' does not hold."
    )


def test_a_fallback_runs_for_the_very_case_that_the_first_way_failed() -> None:
    plan = [
        call("fast", failure_behavior="skip", expected_effects={"fetched": True}),
        call("slow", preconditions=(Condition(key="fetched", operator="not_exists"),)),
    ]
    assert statuses(run(plan, Tools({"fast": [failed()]}))) == {"fast": "failed", "slow": "succeeded"}
    assert statuses(run(plan)) == {"fast": "succeeded", "slow": "rejected"}


def test_effects_the_state_has_no_room_for_are_a_failure_and_none_of_them_is_kept() -> None:
    state = State(keys_max=1)
    result = run([call("a", failure_behavior="skip", expected_effects={"k": 1, "l": 2})], state=state)
    assert (result.of("a").status, state.contents()) == ("failed", {})
    assert str(result.of("a").error).startswith(
        "Its effects on the state could not be kept. The state has 1 keys"
    )
    assert result.of("a").output == {}


# -- attempts and costs -------------------------------------------------------------------------------


def test_pauses_between_attempts_double_and_have_a_most() -> None:
    pauses = Pauses()
    settings = ScheduleSettings(sleep=pauses.sleep)
    action = call("a", failure_behavior="retry", max_retries=10)
    result = run([action], Tools({"a": [failed()]}), settings=settings)
    assert [round(seconds, 3) for seconds in pauses.seconds] == [
        0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, RETRY_PAUSE_SECONDS_MAX,
    ]  # fmt: skip
    assert (result.of("a").attempts, result.costs.retries, result.costs.tool_calls) == (11, 10, 11)


def test_every_attempt_knows_its_number_and_leaves_its_call() -> None:
    answers = [failed(call_id="one"), failed(call_id="two"), succeeded("third time", call_id="three")]
    tools = Tools({"a": answers})
    result = run([call("a", failure_behavior="retry")], tools)
    assert tools.calls == [("a", 1), ("a", 2), ("a", 3)]
    assert result.of("a").call_ids == ("one", "two", "three")
    assert (result.of("a").status, result.of("a").output) == ("succeeded", "third time")


def test_costs_tell_executed_rejected_and_skipped_apart() -> None:
    plan = [
        call("good", failure_behavior="skip"),
        call("bad", failure_behavior="skip"),
        call("denied", failure_behavior="skip"),
        call("after", failure_behavior="skip", dependencies=("bad",)),
        call("again", failure_behavior="retry", max_retries=1),
        write("w", "k", 1, failure_behavior="skip"),
    ]
    tools = Tools({"bad": [failed()], "denied": [rejected()], "again": [failed(), succeeded()]})
    costs = run(plan, tools).costs
    assert costs == Costs(
        tool_calls=4,
        actions_executed=4,
        actions_rejected=1,
        actions_skipped=1,
        retries=1,
        duration_seconds=costs.duration_seconds,
    )
    assert costs.duration_seconds > 0


# -- the cache ----------------------------------------------------------------------------------------


class Remembered:
    """Outputs by tool and parameters."""

    def __init__(self) -> None:
        self.outputs: dict[str, Any] = {}

    async def get(self, action: Action, parameters: dict[str, Any], /) -> Performed | None:
        key = f"{action.tool} {parameters}"
        return succeeded(self.outputs[key], source="cache", call_id="hit") if key in self.outputs else None

    def put(self, action: Action, parameters: dict[str, Any], performed: Performed, /) -> None:
        self.outputs[f"{action.tool} {parameters}"] = performed.output


def test_what_an_idempotent_action_gave_stands_for_the_next_one() -> None:
    tools, cache = Tools(), Remembered()
    plan = [call(name, idempotent=True, parameters={"x": 1}, expected_effects={name: 1}) for name in "ab"]
    state = State()
    result = run(plan, tools, state, cache=cache)
    assert tools.calls == [("a", 1)]
    assert [(one.source, one.output, one.attempts) for one in result.results] == [
        ("executed", {"x": 1}, 1),
        ("cache", {"x": 1}, 0),
    ]
    assert result.of("b").call_ids == ("hit",)
    assert (result.costs.tool_calls, result.costs.actions_executed) == (1, 2)
    assert state.contents() == {"a": 1, "b": 1}


def test_only_successes_of_idempotent_actions_that_may_be_kept_are_kept() -> None:
    cache = Remembered()
    plan = [
        call("plain", tool="plain"),
        call("broken", tool="broken", idempotent=True, failure_behavior="skip"),
        call("denied", tool="denied", idempotent=True, failure_behavior="skip"),
        call("unsure", tool="unsure", idempotent=True),
        call("kept", tool="kept", idempotent=True),
    ]
    answers = {
        "broken": [failed()],
        "denied": [rejected()],
        "unsure": [succeeded({"error": "x"}, cacheable=False)],
    }
    run(plan, Tools(answers), cache=cache)
    assert list(cache.outputs) == ["kept {}"]


# -- several plans, one state -------------------------------------------------------------------------


def test_plans_on_one_state_do_not_take_back_each_others_writes() -> None:
    async def main() -> tuple[State, dict[str, Any]]:
        state = State({"mine": 0, "shared": 0})
        other = asyncio.Event()

        async def breaks() -> Performed:
            async with asyncio.timeout(BOUND_SECONDS):
                await other.wait()
            return failed()

        async def later() -> dict[str, str]:
            done = await run_plan(
                Graph([write("x", "theirs", 2), write("y", "shared", 2)]), state, Tools().perform
            )
            other.set()
            return statuses(done)

        plan = Graph([write("a", "mine", 1), write("b", "shared", 1), call("c")])
        first = asyncio.create_task(run_plan(plan, state, Tools({"c": [breaks]}).perform))
        theirs = asyncio.create_task(later())
        result, done = await first, await theirs
        assert set(done.values()) == {"succeeded"}
        assert result.rollback is not None
        return state, {"left": result.rollback.keys_left, "statuses": statuses(result)}

    state, told = asyncio.run(main())
    assert state.contents() == {"mine": 0, "shared": 2, "theirs": 2}
    assert told == {"left": ("shared",), "statuses": {"a": "succeeded", "b": "succeeded", "c": "failed"}}
