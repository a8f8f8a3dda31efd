"""What one action's failure means for the others, for every behaviour and every way to fail."""

import asyncio
import logging
from collections.abc import Sequence

import pytest
from tests.plans.plans import (
    BOUND_SECONDS,
    Tools,
    at_once,
    begun,
    call,
    cancelled_once,
    failed,
    rejected,
    run,
    statuses,
    succeeded,
    write,
)

from custody.errors import NotRecorded
from custody.plans import Action, ActionResult, Condition, Performed, ScheduleSettings, State
from custody.plans.results import Rollback


def plan(behavior: str, **fields: object) -> list[Action]:
    """One before, one that goes wrong, one that needs it, one that does not, and one in a later wave."""
    return [
        write("before", "k", 1),
        call("wrong", failure_behavior=behavior, max_retries=2, dependencies=("before",), **fields),
        call("needs", dependencies=("wrong",)),
        call("beside", failure_behavior=behavior, dependencies=("before",)),
        call("later", dependencies=("beside",)),
    ]


UNMET = {"preconditions": (Condition(key="k", value=2),)}
WENT_ON = ["succeeded", "skipped", "succeeded", "succeeded"]
"""Of before, needs, beside and later where only what needs it is skipped."""

STOPPED = ["succeeded", "skipped", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("behavior", "answers", "status", "attempts", "others"),
    [
        ("abort", [failed()], "failed", 1, STOPPED),
        ("abort", [rejected()], "rejected", 1, STOPPED),
        ("abort", None, "rejected", 0, STOPPED),
        ("abort", [failed(terminal=True)], "failed", 1, STOPPED),
        ("skip", [failed()], "failed", 1, WENT_ON),
        ("skip", [rejected()], "rejected", 1, WENT_ON),
        ("skip", None, "rejected", 0, WENT_ON),
        ("skip", [failed(terminal=True)], "failed", 1, STOPPED),
        ("skip", [NotRecorded()], "failed", 1, STOPPED),
        ("retry", [failed()], "failed", 3, STOPPED),
        ("retry", [failed(), rejected()], "rejected", 2, STOPPED),
        ("retry", [rejected()], "rejected", 1, STOPPED),
        ("retry", None, "rejected", 0, STOPPED),
        ("retry", [failed(), failed(terminal=True)], "failed", 2, STOPPED),
        ("retry", [NotRecorded()], "failed", 1, STOPPED),
    ],
)
def test_every_behaviour_and_every_way_to_fail(
    behavior: str, answers: list[Performed] | None, status: str, attempts: int, others: list[str]
) -> None:
    """`None` stands for a precondition that is not met. Concurrency is one, so that what is begun is sure."""
    state = State()
    tools = Tools({} if answers is None else {"wrong": answers})
    actions = plan(behavior, **(UNMET if answers is None else {}))
    result = run(actions, tools, state, settings=at_once(concurrent_actions_max=1))
    found = statuses(result)
    assert (found.pop("wrong"), result.of("wrong").attempts) == (status, attempts)
    assert list(found.values()) == others
    aborted = others == STOPPED
    assert state.contents() == ({} if aborted else {"k": 1})
    assert result.aborted_by == ("wrong" if aborted else None)
    assert result.rollback == (Rollback() if aborted else None)


@pytest.mark.parametrize("behavior", ["abort", "skip", "retry"])
def test_a_success_on_the_last_attempt_or_the_first_goes_on(behavior: str) -> None:
    answers = [failed(), failed(), succeeded()] if behavior == "retry" else [succeeded()]
    assert set(statuses(run(plan(behavior), Tools({"wrong": answers}))).values()) == {"succeeded"}


def test_why_something_was_not_begun_names_the_action_that_is_to_blame() -> None:
    result = run([call("a"), call("b"), call("c")], Tools({"b": [failed("No room.")]}))
    assert result.of("b").error == "No room."
    assert result.of("c").error == "Not begun: the plan was aborted when 'b' failed."
    result = run(
        [call("a", failure_behavior="skip"), call("b", dependencies=("a",))], Tools({"a": [rejected()]})
    )
    assert result.of("b").error == "Not begun: it needs 'a', which was rejected."


def test_what_is_skipped_skips_what_needs_it_and_aborts_nothing() -> None:
    actions = [
        call("a", failure_behavior="skip"),
        call("b", dependencies=("a",)),
        call("c", parameters={"x": "$b.output"}),
        call("d"),
    ]
    assert statuses(run(actions, Tools({"a": [failed()]}))) == {
        "a": "failed",
        "b": "skipped",
        "c": "skipped",
        "d": "succeeded",
    }


def test_a_key_whose_writer_failed_skips_those_that_depend_on_it() -> None:
    actions = [
        call("a", failure_behavior="skip", expected_effects={"k": 1}),
        call("b", state_dependencies=("k",)),
    ]
    assert statuses(run(actions, Tools({"a": [failed()]}), State({"k": 0}))) == {
        "a": "failed",
        "b": "skipped",
    }


# -- taking back --------------------------------------------------------------------------------------


def test_an_abort_takes_back_every_write_and_says_of_whom() -> None:
    state = State({"k": 0, "other": "x"})
    before = state.snapshot()
    result = run(
        [write("a", "k", 1), call("b", expected_effects={"k": 2, "new": 3}), call("c")],
        Tools({"c": [failed()]}),
        state,
    )
    assert state.changes_since(before) == []
    assert [(one.status, one.rolled_back, one.state_changes) for one in result.results] == [
        ("succeeded", True, {}),
        ("succeeded", True, {}),
        ("failed", False, {}),
    ]


def test_what_was_done_beside_the_state_is_handed_over_to_be_taken_back_last_first() -> None:
    given: list[Sequence[ActionResult]] = []

    async def on_rollback(ran: Sequence[ActionResult]) -> None:
        given.append(ran)

    tools = Tools({
        "a": [succeeded(call_id="1")],
        "b": [failed(call_id="2"), succeeded(call_id="3")],
        "c": [failed(call_id="4")],
    })  # fmt: skip
    actions = [call("a"), call("b", failure_behavior="retry"), write("w", "k", 1), call("c"), call("d")]
    run(actions, tools, on_rollback=on_rollback)
    assert [[(one.action_id, one.call_ids) for one in ran] for ran in given] == [
        [("c", ("4",)), ("b", ("2", "3")), ("a", ("1",))]
    ]


def test_nothing_is_handed_over_where_no_tool_was_called_or_nothing_was_aborted() -> None:
    async def on_rollback(ran: Sequence[ActionResult]) -> None:
        raise AssertionError(ran)

    assert run([call("a")], on_rollback=on_rollback).rollback is None
    state = State()
    result = run(
        [write("w", "k", 1), call("a", state_dependencies=("x",))], state=state, on_rollback=on_rollback
    )
    assert (result.rollback, state.contents()) == (Rollback(), {})


def test_the_state_is_taken_back_even_if_the_rest_cannot_be() -> None:
    async def on_rollback(ran: Sequence[ActionResult]) -> None:
        raise NotRecorded("The disk is full.")

    state = State()
    result = run([write("w", "k", 1), call("a")], Tools({"a": [failed()]}), state, on_rollback=on_rollback)
    assert result.rollback == Rollback(error="The disk is full.")
    assert state.contents() == {}


def test_a_cancellation_while_things_are_taken_back_goes_on_and_is_told() -> None:
    async def main() -> None:
        taking_back, state = asyncio.Event(), State()

        async def on_rollback(ran: Sequence[ActionResult]) -> None:
            taking_back.set()
            await asyncio.Event().wait()

        plan = [write("w", "k", 1), call("a")]
        running = begun(plan, Tools({"a": [failed()]}), state, on_rollback=on_rollback)
        await cancelled_once(taking_back, running.work())
        assert running.result.rollback == Rollback(error="It was cancelled.")
        assert (statuses(running.result), state.contents()) == ({"w": "succeeded", "a": "failed"}, {})

    asyncio.run(main())


# -- in a wave that runs at once ----------------------------------------------------------------------


def test_an_abort_lets_what_runs_end_begins_nothing_and_tries_nothing_again() -> None:
    async def main() -> None:
        begun_all, state = asyncio.Event(), State()

        async def slow() -> Performed:
            async with asyncio.timeout(BOUND_SECONDS):
                await begun_all.wait()
            await asyncio.sleep(0)
            return succeeded("late")

        async def breaks() -> Performed:
            begun_all.set()
            return failed(terminal=True)

        actions = [
            call(name, failure_behavior="retry", expected_effects={name: 1})
            for name in ("slow", "again", "breaks", "next")
        ]
        tools = Tools({"slow": [slow], "again": [failed("Not yet.")], "breaks": [breaks]})
        endless = ScheduleSettings(concurrent_actions_max=3, sleep=lambda _: asyncio.Event().wait())
        async with asyncio.timeout(BOUND_SECONDS):
            result = await begun(actions, tools, state, settings=endless).work()
        assert statuses(result) == {
            "slow": "succeeded",
            "again": "failed",
            "breaks": "failed",
            "next": "skipped",
        }
        assert (result.of("slow").rolled_back, result.of("again").attempts) == (True, 1)
        assert (result.of("breaks").terminal, result.aborted_by) == (True, "breaks")
        assert state.contents() == {}

    asyncio.run(main())


# -- errors and cancellation --------------------------------------------------------------------------


def test_an_error_of_the_performer_aborts_and_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="custody"):
        result = run([call("a", failure_behavior="skip"), call("b")], Tools({"a": [ValueError("hunter2")]}))
    assert statuses(result) == {"a": "failed", "b": "skipped"}
    assert result.of("a").error == "An error of the runtime: ValueError."
    assert not result.of("a").terminal
    assert "hunter2" in caplog.text


def test_a_tool_that_is_cancelled_by_somebody_else_has_failed() -> None:
    async def cancelled() -> Performed:
        raise asyncio.CancelledError

    result = run([call("a", failure_behavior="skip"), call("b")], Tools({"a": [cancelled]}))
    assert statuses(result) == {"a": "failed", "b": "succeeded"}
    assert result.of("a").error == "It was cancelled while it ran."
    assert (result.cancelled, result.costs.tool_calls) == (False, 2)


async def never() -> Performed:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("behavior", ["abort", "skip"])
def test_cancelling_ends_what_runs_takes_all_back_and_leaves_a_result(behavior: str) -> None:
    async def main() -> None:
        state, given, hanging = State({"k": 0}), list[str](), 2 if behavior == "skip" else 1
        all_hang = asyncio.Event()

        async def hang() -> Performed:
            if tools.running == hanging:
                all_hang.set()
            return await never()

        async def on_rollback(ran: Sequence[ActionResult]) -> None:
            given.extend(one.action_id for one in ran)

        tools = Tools({"b": [hang], "c": [hang]})
        actions = [
            call("a", expected_effects={"k": 1}),
            call("b", failure_behavior=behavior, dependencies=("a",)),
            call("c", failure_behavior=behavior, dependencies=("a",)),
            call("d", dependencies=("c",)),
        ]
        running = begun(actions, tools, state, on_rollback=on_rollback)
        await cancelled_once(all_hang, running.work())
        result = running.result
        second = "failed" if behavior == "skip" else "skipped"
        assert statuses(result) == {"a": "succeeded", "b": "failed", "c": second, "d": "skipped"}
        assert (result.cancelled, result.aborted_by, tools.running) == (True, None, 0)
        assert result.of("b").error == "It was cancelled while it ran."
        assert result.of("d").error == "Not begun: the plan was cancelled."
        assert result.costs.tool_calls == (3 if behavior == "skip" else 2)
        assert state.contents() == {"k": 0}
        assert sorted(given) == sorted(action_id for action_id, _ in tools.calls)

    asyncio.run(main())


@pytest.mark.parametrize("behavior", ["abort", "skip"])
def test_an_answer_that_comes_in_spite_of_the_cancellation_is_kept_and_the_plan_ends(behavior: str) -> None:
    async def main() -> None:
        async def stubborn() -> Performed:
            try:
                return await never()
            except asyncio.CancelledError:
                return succeeded("done by then", call_id="1")

        tools = Tools({"a": [stubborn]})
        actions = [call(name, failure_behavior=behavior) for name in "ab"]
        running = begun(actions, tools, settings=at_once(concurrent_actions_max=1))
        task = asyncio.create_task(running.work())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert tools.calls == [("a", 1)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (running.result.of("a").status, running.result.of("a").output) == ("succeeded", "done by then")
        assert running.result.of("a").rolled_back
        assert running.result.of("b").status == "skipped"

    asyncio.run(main())


def test_cancelling_twice_still_waits_for_what_runs() -> None:
    """What is left running would write to a state that has been taken back."""

    async def main() -> None:
        cancelled, over, state = asyncio.Event(), asyncio.Event(), State()

        async def slow_to_end() -> Performed:
            try:
                return await never()
            except asyncio.CancelledError:
                cancelled.set()
                try:
                    return await never()
                except asyncio.CancelledError:
                    over.set()
                    return succeeded()

        actions = [call(name, failure_behavior="skip", expected_effects={name: 1}) for name in "ab"]
        running = begun(actions, Tools({"a": [slow_to_end]}), state)
        task = asyncio.create_task(running.work())
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(BOUND_SECONDS):
            await cancelled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert over.is_set()
        assert (running.result.of("a").status, state.contents()) == ("succeeded", {})

    asyncio.run(main())


def test_a_pause_between_attempts_can_be_cancelled() -> None:
    async def main() -> None:
        paused = asyncio.Event()

        async def sleep(_: float) -> None:
            paused.set()
            await asyncio.Event().wait()

        action = call("a", failure_behavior="retry")
        running = begun([action], Tools({"a": [failed()]}), settings=ScheduleSettings(sleep=sleep))
        await cancelled_once(paused, running.work())
        result = running.result
        assert (result.of("a").status, result.of("a").attempts, result.costs.tool_calls) == ("failed", 1, 1)
        assert result.of("a").error == "It was cancelled before its next attempt."

    asyncio.run(main())
