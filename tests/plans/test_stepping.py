"""Step plans are worked on as soon as may be, so many at once, and each action is a call of one run."""

import asyncio
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.plans.plans import BOUND_SECONDS, Pauses, at_once
from tests.plans.stepped import Told, in_a_store, of, outcome, plan, reasons, run, step, stepped, words

import custody
from custody.errors import InvalidInput
from custody.index import CallFilter, EventFilter, RunFilter
from custody.plans.schedule import ScheduleSettings
from custody.plans.steps.analysis import check_plan
from custody.plans.steps.run import Tried
from custody.plans.steps.running import with_statuses


class Gate:
    """Answers of several actions that come once all of them have begun: in vain if they never do."""

    def __init__(self, parties: int) -> None:
        self._barrier = asyncio.Barrier(parties)

    async def __call__(self) -> Tried:
        async with asyncio.timeout(BOUND_SECONDS):
            await self._barrier.wait()
        return outcome("succeeded")


# -- order --------------------------------------------------------------------------------------------


def test_a_plan_without_actions_is_done() -> None:
    assert run(plan()) == ()


def test_an_action_begins_as_soon_as_what_it_comes_after_has_ended_and_not_wave_by_wave() -> None:
    gate = Gate(2)  # `late` is of the first wave, `second` of the second: they meet only if both run at once
    told = Told({"late": [gate], "second": [gate]})
    results = run(plan(step("late"), step("first"), step("second", "first")), told)
    assert set(words(results).values()) == {"completed"}


def test_so_many_run_at_once_and_no_more() -> None:
    async def longer() -> Tried:
        for _ in range(3):
            await asyncio.sleep(0)
        return outcome("succeeded")

    actions = [step(f"a{number}") for number in range(20)]
    told = Told({f"a{number}": [longer] for number in range(20)})
    run(plan(*actions), told, settings=at_once(concurrent_actions_max=3))
    assert (told.running_max, told.begun) == (3, [f"a{number}" for number in range(20)])


def test_a_condition_waits_for_the_end_it_asks_for() -> None:
    read = plan(step("mend", condition={"if_failed": "a"}), step("a", on_failure="continue"))
    told = Told({"a": ["failed"]})
    assert words(run(read, told)) == {"mend": "completed", "a": "failed"}
    assert told.begun == ["a", "mend"]


def test_an_unmet_condition_is_skipped_with_its_reason_and_what_comes_after_it_goes_on() -> None:
    read = plan(step("a"), step("mend", condition={"if_failed": "a"}), step("after", "mend"))
    results = run(read)
    assert words(results) == {"a": "completed", "mend": "skipped", "after": "completed"}
    assert reasons(results) == {"mend": "Its condition if_failed 'a' does not hold: 'a' succeeded."}


def test_what_others_gave_is_put_into_arguments() -> None:
    read = plan(
        step("a", arguments={"n": 7}),
        step("b", "a", arguments={"got": "$a.output.n", "as": "${a.output.n}!"}),
    )
    told = Told()
    run(read, told)
    assert told.arguments["b"] == {"got": 7, "as": "7!"}


def test_a_reference_to_what_is_not_in_an_output_fails_before_the_tool_is_called() -> None:
    read = plan(step("a"), step("b", "a", arguments={"got": "$a.output.n"}))
    told = Told()
    results = run(read, told)
    assert (told.begun, words(results)["b"]) == (["a"], "failed")
    assert reasons(results)["b"] == "$a.output.n has no value: nothing stands at 'n' in that output."


def test_everybody_who_watches_hears_of_each_beginning_and_each_end() -> None:
    heard: list[tuple[str, str]] = []
    read = plan(step("a"), step("b", condition={"if_failed": "a"}), step("c", "b"))
    run(read, on_change=lambda one: heard.append((one.id, one.status)))
    assert heard == [
        ("a", "in_progress"),
        ("a", "completed"),
        ("b", "skipped"),
        ("c", "in_progress"),
        ("c", "completed"),
    ]


# -- the same as the analysis -------------------------------------------------------------------------

IDS = "abcdef"


@st.composite
def plans(draw: Any) -> Any:
    """Small plans without circles: an action comes after ones with earlier letters only."""
    actions = []
    for number, action_id in enumerate(IDS[: draw(st.integers(1, len(IDS)))]):
        before = IDS[:number]
        condition: Any = "always"
        if before and draw(st.booleans()):
            condition = {draw(st.sampled_from(("if_succeeded", "if_failed"))): draw(st.sampled_from(before))}
        actions.append(
            step(
                action_id,
                *draw(st.lists(st.sampled_from(before), unique=True, max_size=2) if before else st.just([])),
                condition=condition,
                on_failure=draw(st.sampled_from(("stop", "skip", "continue"))),
            )
        )
    return plan(*draw(st.permutations(actions)))


@given(plans(), st.sets(st.sampled_from(IDS)), st.integers(1, 3), st.randoms(use_true_random=False))
def test_what_is_left_at_the_end_is_what_the_analysis_says_cannot_begin(
    read: Any, failing: set[str], at_once_max: int, chance: Any
) -> None:
    assume(check_plan(read).valid)  # no condition that can never hold

    async def some_time_later(word: str) -> Tried:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        return outcome(word)

    def answer(action_id: str) -> Any:
        return lambda: some_time_later("failed" if action_id in failing else "succeeded")

    told = Told({action_id: [answer(action_id)] for action_id in IDS})
    results = run(read, told, settings=at_once(concurrent_actions_max=at_once_max))
    report = check_plan(with_statuses(read, results))

    assert report.ready == ()
    assert report.state == (
        "complete" if not set(words(results).values()) & {"pending", "failed"} else "blocked"
    )
    assert sorted(told.begun) == sorted(one.id for one in results if one.status in ("completed", "failed"))
    held = {one.action_id for one in report.blocked if one.chain}
    assert held == {one.id for one in results if one.status == "pending"}
    if not any(one.on_failure == "stop" and one.id in failing for one in read.actions):
        assert words(results) == in_turn(read, failing)  # then it does not matter in which order things end


def in_turn(read: Any, failing: set[str]) -> dict[str, str]:
    """The plan's end by the rules as they are written down, action by action in the order of letters."""
    ends: dict[str, str] = {}
    lost: set[str] = set()
    """Skipped for a failure, as all that needs them is."""
    for one in sorted(read.actions, key=lambda one: one.id):
        asked, kind = one.condition.action_id, one.condition.kind
        needs = [
            other
            for other in {*one.after, *([asked] if asked else [])}
            if (other, kind) != (asked, "if_failed")
        ]
        policies = {other.id: other.on_failure for other in read.actions}
        losing = any(
            other in lost or (ends[other] == "failed" and policies[other] == "skip") for other in needs
        )
        wanted = {"if_succeeded": "completed", "if_failed": "failed"}.get(kind)
        if losing:
            lost.add(one.id)
        if losing or (asked and ends[asked] != wanted):
            ends[one.id] = "skipped"
        else:
            ends[one.id] = "failed" if one.id in failing else "completed"
    return {one.id: ends[one.id] for one in read.actions}


# -- attempts -----------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_so_often_after_growing_pauses() -> None:
    pauses = Pauses()
    told = Told({"a": ["failed", "timed_out", "succeeded"]})
    (result,) = run(plan(step("a", retries=5)), told, settings=ScheduleSettings(sleep=pauses.sleep))
    assert (result.status, result.attempts, result.outcome) == ("completed", 3, "succeeded")
    assert pauses.seconds == [0.1, 0.2]


@pytest.mark.parametrize("word", ["rejected", "cancelled", "unknown"])
def test_what_was_refused_or_ended_or_is_not_known_is_not_tried_again(word: str) -> None:
    told = Told({"a": [word]})
    (result,) = run(plan(step("a", retries=5)), told)
    assert (result.status, result.attempts, result.outcome) == ("failed", 1, word)


# -- calls of one run ---------------------------------------------------------------------------------


@custody.tool(effect="read")
async def echo(text: str = "") -> dict[str, str]:
    return {"text": text}


@custody.tool(effect="read")
async def fail(text: str = "") -> None:
    raise ValueError(text)


def test_a_plan_is_one_run_whose_calls_say_which_action_and_attempt_they_are() -> None:
    read = plan(
        step("a", arguments={"text": "one"}),
        step("b", "a", arguments={"text": "$a.output.text"}),
        step("c", tool="fail", retries=1, on_failure="continue"),
    )

    async def work(runtime: Any) -> None:
        heard: list[Any] = []
        result = await stepped(runtime, read, agent="ada", on_change=heard.append)
        (run_,) = runtime.index.runs(RunFilter()).items
        calls = runtime.index.calls(CallFilter(run=run_.id)).items
        (said,) = runtime.index.events(EventFilter(name="plan.finished")).items

        assert (run_.id, run_.external_id) == (result.run_id, f"plan:{read.digest}")
        assert (run_.name, run_.agent, run_.outcome) == ("plan example", "ada", "failed")
        told = sorted((call.proposal_id, call.action_id, call.attempt, call.outcome) for call in calls)
        assert told == [
            ("example", "a", 1, "succeeded"),
            ("example", "b", 1, "succeeded"),
            ("example", "c", 1, "failed"),
            ("example", "c", 2, "failed"),
        ]
        assert next(call.arguments for call in calls if call.action_id == "b") == {"text": "one"}
        assert (result.state, result.counts) == ("blocked", {"completed": 2, "failed": 1})
        assert set(of(result, "c").call_ids) == {call.id for call in calls if call.action_id == "c"}
        assert "ValueError" not in reasons(result.actions)["c"] or "call" in reasons(result.actions)["c"]
        assert {one["action_id"]: one["status"] for one in said.data["actions"]} == words(result.actions)
        assert heard[-1].counts == result.counts
        assert {one.run_id for one in heard} == {run_.id}

    in_a_store(work, echo, fail)


def test_a_plan_that_is_complete_stays_so_until_somebody_wants_it_again() -> None:
    async def work(runtime: Any) -> None:
        first, second = [await stepped(runtime, plan(step("a"))) for _ in range(2)]
        assert (first.state, second.state) == ("complete", "complete")
        assert (second.run_id, second.resumed_from) == (None, first.run_id)
        assert len(runtime.index.calls(CallFilter()).items) == 1
        anew = await stepped(runtime, plan(step("a")), again=True)
        assert (anew.state, anew.resumed_from) == ("complete", None)
        assert len(runtime.index.calls(CallFilter()).items) == 2
        assert {run_.outcome for run_ in runtime.index.runs(RunFilter()).items} == {"succeeded"}

    in_a_store(work, echo)


def test_what_the_plan_says_is_done_is_not_done_and_no_run_begins_where_nothing_is_left() -> None:
    async def work(runtime: Any) -> None:
        some = await stepped(runtime, plan(step("a", status="completed"), step("b", "a")))
        none = await stepped(runtime, plan(step("a", status="completed")))
        assert [(one.status, one.source) for one in some.actions] == [
            ("completed", "plan"),
            ("completed", "executed"),
        ]
        assert (none.state, none.run_id) == ("complete", None)
        assert [call.action_id for call in runtime.index.calls(CallFilter()).items] == ["b"]

    in_a_store(work, echo)


def test_everything_that_keeps_a_plan_from_being_run_is_told_before_any_of_it_begins() -> None:
    read = plan(
        step("a"),
        step("unknown", tool="nosuch"),
        step("none", tool=None),
        step("wrong", "a", arguments={"txt": 1}),
        step("later", "a", arguments={"text": "$a.output.text"}),
        step("others", status="in_progress"),
        step("done", tool=None, status="completed"),
    )

    async def work(runtime: Any) -> None:
        with pytest.raises(InvalidInput) as caught:
            await stepped(runtime, read)
        faults = {one.action_id: one for one in caught.value.details["faults"]}
        assert set(faults) == {"unknown", "none", "wrong", "others"}
        assert faults["unknown"].kind == "unknown_tool"
        assert "txt" in faults["wrong"].message
        assert all(repr(name) in str(caught.value) for name in faults)
        assert runtime.index.runs(RunFilter()).items == []
        assert runtime.index.calls(CallFilter()).items == []

    in_a_store(work, echo)


def test_watching_that_fails_ends_nothing() -> None:
    def broken(progress: Any) -> None:
        raise RuntimeError("the terminal is gone")

    async def work(runtime: Any) -> None:
        assert (await stepped(runtime, plan(step("a"), step("b", "a")), on_change=broken)).state == "complete"

    in_a_store(work, echo)
