"""What is wrong with a plan is said at once, and what it would do is told without doing it."""

import time
from typing import Any

import pytest
from tests.plans.plans import assertion, call, read, write

from custody.errors import InvalidInput
from custody.plans import Action, Condition, Graph, State
from custody.plans.foresee import Foreseen, Issue, simulate, verify
from custody.plans.graph import ACTIONS_MAX, Conflict

TOOLS = ["echo"]
NEEDS_K = (Condition(key="k", value=1),)


def said(foreseen: Foreseen) -> list[tuple[str, str | None]]:
    return [(issue.severity, issue.action_id) for issue in foreseen.issues]


def test_a_sound_plan_has_no_issues_and_tells_its_waves_and_its_end() -> None:
    plan = [write("a", "k", 1), call("b", preconditions=NEEDS_K, expected_effects={"done": True})]
    assert verify(plan, {"old": 0}, TOOLS) == Foreseen(
        issues=(), state={"old": 0, "k": 1, "done": True}, waves=(("a",), ("b",))
    )


def test_every_fault_is_found_at_once() -> None:
    plan = [
        call("a", tool="rm"),
        call("b", preconditions=(Condition(key="k"), Condition(key="k", operator="like"))),
        assertion("c", "k", value=2),
        call("d", state_dependencies=("nowhere",)),
        write("e", "k" * 1000, 1),
    ]
    foreseen = verify(plan, None, TOOLS)
    assert not foreseen.valid
    assert said(foreseen) == [("error", name) for name in ["a", "b", "b", "b", "c", "d", "e"]]
    assert {issue.tier for issue in foreseen.issues} == {"decision_procedure"}


def test_a_plan_without_an_order_is_told_with_what_else_is_wrong_with_its_actions() -> None:
    plan = [call("a", dependencies=("b",)), call("b", tool="rm", dependencies=("a", "nobody"))]
    foreseen = verify(plan, {"k": 1}, TOOLS)
    assert [issue.message for issue in foreseen.issues] == [
        "Action 'b' depends on 'nobody', which is no action of the plan.",
        "There is no tool named 'rm'.",
    ]
    assert (foreseen.state, foreseen.waves, foreseen.valid) == ({"k": 1}, (), False)


def test_effects_of_a_blocked_action_are_taken_for_given_by_verify_and_not_by_simulate() -> None:
    plan = [
        call("a", tool="rm", failure_behavior="skip", expected_effects={"k": 1}),
        call("b", preconditions=NEEDS_K, failure_behavior="skip"),
    ]
    assert said(verify(plan, None, TOOLS)) == [("error", "a")]
    assert verify(plan, None, TOOLS).state == {"k": 1}
    simulated = simulate(Graph(plan), None, TOOLS)
    assert simulated.statuses == {"a": "rejected", "b": "rejected"}
    assert (simulated.state, simulated.aborted_by) == ({}, None)


def test_simulate_goes_the_way_of_the_scheduler() -> None:
    plan = [
        write("w", "k", 1),
        call("a", tool="rm", failure_behavior="skip"),
        call("b", dependencies=("a",)),
        assertion("sure", "k", value=2),
        call("c"),
        call("d", dependencies=("c",)),
    ]
    simulated = simulate(Graph(plan), {"old": 1}, TOOLS)
    assert simulated.statuses == {
        "w": "succeeded", "a": "rejected", "b": "skipped", "sure": "failed", "c": "succeeded", "d": "skipped",
    }  # fmt: skip
    assert simulated.reasons == {
        "a": "There is no tool named 'rm'.",
        "sure": "The condition eq on state key 'k' does not hold.",
        "b": "It needs 'a', which would not succeed.",
        "d": "The plan would have been aborted by 'sure'.",
    }
    assert (simulated.state, simulated.aborted_by) == ({"old": 1}, "sure")


def test_two_that_use_a_key_without_an_order_are_warned_of() -> None:
    foreseen = verify([write("a", "k", 1), write("b", "k", 2), call("c", read_set=("k",))])
    assert foreseen.conflicts == (
        Conflict(one="a", other="b", key="k"),
        Conflict(one="a", other="c", key="k"),
        Conflict(one="b", other="c", key="k"),
    )
    assert said(foreseen) == [("warning", "b"), ("warning", "c"), ("warning", "c")]
    assert foreseen.valid


def test_three_calls_alike_look_like_a_loop() -> None:
    alike = [call(name, parameters=parameters) for name, parameters in [
        ("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1}), ("c", {"x": 1, "y": 2}),
    ]]  # fmt: skip
    assert verify(alike).issues == (
        Issue(
            severity="warning",
            message="3 calls of 'echo' have the same parameters: a loop?",
            tier="heuristic",
            action_id="c",
        ),
    )
    assert verify(alike[:2]).issues == ()
    assert verify([*alike[:2], call("c", tool="other", parameters={"x": 1, "y": 2})]).issues == ()


def test_a_text_that_looks_like_a_reference_is_mentioned() -> None:
    (issue,) = verify([call("a", parameters={"prompt": "fix ${module.output} and $${a.output}"})]).issues
    assert (issue.severity, issue.action_id) == ("info", "a")
    assert issue.message == "$module.output stays text, as no action is called 'module'."


@pytest.mark.parametrize(
    "later",
    [
        call("later", preconditions=(Condition(key="k", operator="gt", value=5),)),
        assertion("later", "k", value=7),
        assertion("later", "k", operator="exists"),
        assertion("later", "old", value="$a.output"),
    ],
)
@pytest.mark.parametrize(
    "earlier", [write("earlier", "k", "$a.output"), call("earlier", write_set=("k",))], ids=["value", "key"]
)
def test_what_nobody_can_know_yet_is_not_held_against_a_plan(earlier: Action, later: Action) -> None:
    plan = [call("a"), earlier, later]
    assert verify(plan, {"old": 1}).valid
    assert set(simulate(Graph(plan), {"old": 1}).statuses.values()) == {"succeeded"}


def test_a_value_that_becomes_known_is_held_against_a_plan_again() -> None:
    plan = [call("a", write_set=("k",)), write("b", "k", 1), assertion("c", "k", value=2)]
    assert said(verify(plan)) == [("error", "c"), ("warning", "b")]
    unknown = [call("a"), write("b", "k", "$a.output"), assertion("c", "k", operator="not_exists")]
    assert said(verify(unknown)) == [("error", "c")]


def test_nothing_of_what_is_handed_in_is_changed() -> None:
    state, mapping = State({"k": 0}), {"k": 0}
    plan = [write("a", "k", 1), read("b", "k")]
    for initial in (state, mapping):
        assert verify(plan, initial).state == {"k": 1}
        assert simulate(Graph(plan), initial).state == {"k": 1}
    assert (state.contents(), mapping) == ({"k": 0}, {"k": 0})


def test_a_state_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'k'"):
        verify([], {"k": float("nan")})


def test_too_many_actions_are_one_fault_and_little_work() -> None:
    plan = [call(str(number), tool="rm") for number in range(20 * ACTIONS_MAX)]
    foreseen = verify(plan, None, TOOLS)
    assert said(foreseen)[0] == ("error", None)
    assert len(foreseen.issues) == 1 + ACTIONS_MAX


@pytest.mark.parametrize("ordered", [True, False])
def test_the_largest_plans_are_judged_in_a_bounded_time(ordered: bool) -> None:
    keys = tuple(f"k{number}" for number in range(50))
    fields: dict[str, Any] = {"state_dependencies": keys} if ordered else {}
    plan = [call(str(number), write_set=keys, **fields) for number in range(ACTIONS_MAX)]
    began = time.thread_time()
    foreseen = verify(plan)
    assert time.thread_time() - began < 20
    assert len(foreseen.conflicts) == (0 if ordered else 1000)
