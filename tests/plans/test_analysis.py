"""What is said of a step plan: every fault once, how it stands, and what comes next."""

import json
import random
import time
from typing import Any

import pytest
from tests.plans.step_plans import (
    done,
    failed,
    if_failed,
    if_succeeded,
    in_progress,
    plan_of,
    step,
    waiting,
)

from custody.plans import PlanReport, check_plan, read_plan
from custody.plans.steps.analysis import check_data
from custody.plans.steps.standing import CHAIN_ENDS_MAX, Blocked

CHECK_SECONDS_MAX = 10.0
"""For ten thousand actions, on a slow machine that is busy too; the figure is in `benchmarks/`."""


def check(*actions: dict[str, Any], tools: set[str] | None = None) -> PlanReport:
    return check_plan(plan_of(*actions), tools)


def kinds(*actions: dict[str, Any], tools: set[str] | None = None) -> list[tuple[str, str | None]]:
    return [(fault.kind, fault.action_id) for fault in check(*actions, tools=tools).faults]


def blocked(*found: tuple[str, str, tuple[str, ...]]) -> tuple[Blocked, ...]:
    return tuple(Blocked(action_id=one, by=by, chain=chain) for one, by, chain in found)


# -- the states ---------------------------------------------------------------------------------------


def test_a_plan_nobody_has_begun_is_ready_with_what_waits_for_nothing() -> None:
    report = check(step("c", "a", "b"), step("a"), step("b"), step("d", "c"))
    assert (report.state, report.ready, report.valid) == ("ready", ("a", "b"), True)
    assert report.groups == (("a", "b"), ("c",), ("d",))
    assert report.critical_path == ("a", "c", "d")
    assert report.counts.pending == 4
    assert report.analysis_only is True


def test_what_is_in_progress_is_running_and_never_a_deadlock() -> None:
    report = check(done("a"), in_progress("b", "a"))
    assert (report.state, report.why) == ("running", "'b' is in progress.")
    report = check(done("a"), in_progress("b", "a"), step("c", "b"))
    assert (report.state, report.ready, report.groups) == ("running", (), (("b",), ("c",)))


def test_what_waits_for_an_answer_is_waiting_unless_something_else_may_begin() -> None:
    report = check(waiting("a"), step("b", "a"))
    assert (report.state, report.why) == ("waiting", "'a' waits for an answer.")
    assert check(waiting("a"), step("b")).state == "ready"
    assert check(waiting("a"), in_progress("b")).state == "running"


def test_a_failed_action_blocks_what_needs_it_and_the_chain_says_how() -> None:
    report = check(failed("a"), step("b", "a"), step("c", "b"))
    assert report.state == "blocked"
    assert report.why == "'a' failed, which keeps 'b' and 'c' from being begun."
    assert report.blocked == blocked(("b", "a", ("a", "b")), ("c", "a", ("a", "b", "c")))
    assert (report.ready, report.groups, report.critical_path, report.valid) == ((), (), (), True)


def test_a_failed_action_that_stops_the_plan_holds_back_what_has_nothing_to_do_with_it() -> None:
    report = check(failed("a"), step("x"), step("y", "x"))
    assert (report.state, report.ready) == ("blocked", ())
    assert report.blocked == blocked(("x", "a", ("a", "x")), ("y", "a", ("a", "x", "y")))


def test_what_answers_a_failure_runs_whether_it_depends_on_what_failed_or_not() -> None:
    assert check(failed("a"), step("c", condition=if_failed("a"))).ready == ("c",)
    report = check(failed("a"), step("b"), step("c", "a", condition=if_failed("a")))
    assert (report.state, report.ready) == ("ready", ("c",))
    assert report.blocked == blocked(("b", "a", ("a", "b")))


def test_what_an_answer_needs_and_what_follows_its_success_runs_too() -> None:
    plan = [
        failed("deploy"),
        step("credentials"),
        step("roll_back", "credentials", condition=if_failed("deploy")),
        step("tell", condition=if_succeeded("roll_back")),
        step("announce", "roll_back"),
    ]
    assert check(*plan).ready == ("credentials",)
    plan[1], plan[2] = done("credentials"), done("roll_back", "credentials", condition=if_failed("deploy"))
    assert check(*plan).ready == ("tell",)
    assert [one.action_id for one in check(*plan).blocked] == ["announce"]


def test_with_skip_all_that_needs_what_failed_is_skipped_with_the_reason() -> None:
    report = check(
        failed("a", on_failure="skip"),
        step("b", "a"),
        step("c", "b"),
        step("d", condition=if_succeeded("a")),
        step("e", "d"),
        step("f", "a", condition=if_failed("a")),
        step("g"),
    )
    assert [(one.action_id, one.reason) for one in report.skipped_next] == [
        ("b", "It needs 'a', which failed."),
        ("d", "Its condition if_succeeded 'a' does not hold: 'a' failed."),
        ("c", "It needs 'b', which was skipped because 'a' failed."),
        ("e", "It needs 'd', which was skipped because 'a' failed."),
    ]
    assert (report.state, report.ready) == ("ready", ("f", "g"))


def test_with_continue_a_failure_satisfies() -> None:
    report = check(failed("a", on_failure="continue"), step("b", "a"), step("c"))
    assert (report.state, report.ready) == ("ready", ("b", "c"))


def test_an_unmet_condition_is_skipped_and_what_needs_it_goes_on() -> None:
    report = check(done("a"), step("b", condition=if_failed("a")), step("c", "b"))
    assert [(one.action_id, one.reason) for one in report.skipped_next] == [
        ("b", "Its condition if_failed 'a' does not hold: 'a' succeeded.")
    ]
    assert (report.state, report.ready) == ("ready", ("c",))
    assert check(done("a"), step("b", condition=if_failed("a"))).state == "complete"


def test_an_action_that_asks_success_of_what_failed_is_skipped_not_blocked() -> None:
    report = check(failed("a"), step("b", "a", condition=if_succeeded("a")))
    assert [one.action_id for one in report.skipped_next] == ["b"]
    assert report.blocked == blocked(("a", "a", ()))


def test_a_condition_waits_until_what_it_asks_has_ended() -> None:
    report = check(
        in_progress("a"), step("b", condition=if_failed("a")), step("c", condition=if_succeeded("a"))
    )
    assert (report.state, report.ready, report.skipped_next) == ("running", (), ())


def test_nothing_is_decided_before_all_that_an_action_comes_after_has_ended() -> None:
    report = check(done("a"), in_progress("p"), step("b", "p", condition=if_failed("a")), step("c", "b"))
    assert (report.ready, report.skipped_next) == ((), ())


def test_a_plan_is_complete_when_everything_is_completed_or_skipped() -> None:
    report = check(done("a"), step("b", status={"skipped": "Not needed."}))
    assert (report.state, report.runnable) == ("complete", True)
    assert check().state == "complete"


def test_a_failure_with_nothing_left_is_blocked_by_itself() -> None:
    report = check(done("a"), failed("b"))
    assert (report.state, report.blocked) == ("blocked", blocked(("b", "b", ())))
    assert report.why == "Nothing is left to be begun, and 'b' failed."


def test_only_faults_make_a_deadlock_and_only_where_nothing_can_begin() -> None:
    assert check(step("a", "b"), step("b", "a")).state == "deadlocked"
    assert check(step("a", "a")).state == "deadlocked"
    assert check(step("a", "nobody")).state == "deadlocked"
    assert check(step("a", "b"), step("b", "a"), step("c")).state == "invalid"
    assert check(step("a", "b"), step("b", "a"), done("c")).state == "deadlocked"
    assert check(step("a", "b"), step("b", "a"), in_progress("c")).state == "running"
    assert check(step("a", "b"), step("b", "a"), failed("c"), step("d", "c")).state == "invalid"


def test_the_chain_of_a_plan_that_is_one_chain_is_told_from_both_ends() -> None:
    length = 3 * CHAIN_ENDS_MAX
    report = check(failed("0"), *(step(str(n), str(n - 1)) for n in range(1, length)))
    last = report.blocked[-1]
    assert (last.chain[:2], last.chain[-2:]) == (("0", "1"), (str(length - 2), str(length - 1)))
    assert len(last.chain) + last.left_out == length
    assert last.left_out == CHAIN_ENDS_MAX
    short = report.blocked[CHAIN_ENDS_MAX]
    assert (short.chain, short.left_out) == (tuple(map(str, range(CHAIN_ENDS_MAX + 2))), 0)


# -- faults -------------------------------------------------------------------------------------------


def test_each_fault_has_a_kind_of_its_own_and_makes_no_other() -> None:
    assert kinds(step("a"), step("b"), step("a"), step("a")) == [("duplicate_id", "a")]
    assert kinds(step("a", "nobody", "nobody"), step("b", "a")) == [("missing_dependency", "a")]
    assert kinds(step("a", "a"), step("b", "a")) == [("self_dependency", "a")]
    assert kinds(step("a", "b"), step("b", "a"), step("c", "b"), step("d", "c")) == [("cycle", "a")]
    assert kinds(step("a", condition=if_failed("nobody"))) == [("unknown_condition", "a")]
    assert kinds(step("a", tool="rm", tools_required=["rm", "ls"]), tools={"ls"}) == [("unknown_tool", "a")]
    assert kinds(step("a", tool="rm")) == []
    assert kinds(step("a", condition=if_succeeded("a")), step("b", "a")) == [("never", "a")]


def test_references_are_dependencies() -> None:
    assert check(step("b", arguments={"x": "$a.output"}), step("a")).groups == (("a",), ("b",))
    assert kinds(step("a", arguments={"x": "$b.output"}), step("b", "a")) == [("cycle", "a")]
    assert kinds(step("a", "x", arguments={"x": "$x.output"})) == [("missing_dependency", "a")]
    assert kinds(step("a", arguments={"x": ["$x.output", "$x.output.y"]})) == [("missing_dependency", "a")]
    assert kinds(step("a", arguments={"x": "$a.output"})) == [("self_dependency", "a")]
    assert kinds(step("a", arguments={"x": "about ${module.output}"})) == []


def test_all_faults_are_told_at_once() -> None:
    actions = [
        step("a", "nobody"),
        step("a"),
        step("b", "b", tool="rm"),
        step("c", "d"),
        step("d", "c"),
        step("e", condition=if_failed("ghost")),
        step("f", condition=if_failed("f")),
    ]
    assert kinds(*actions, tools=set()) == [
        ("duplicate_id", "a"),
        ("missing_dependency", "a"),
        ("self_dependency", "b"),
        ("unknown_tool", "b"),
        ("unknown_condition", "e"),
        ("cycle", "c"),
        ("never", "f"),
    ]


def test_a_cycle_names_its_members_in_order() -> None:
    (fault,) = check(step("into", "c"), step("a", "b"), step("b", "c"), step("c", "a")).faults
    assert fault.message == "Actions wait for each other: 'a' -> 'b' -> 'c' -> 'a'."
    assert (fault.action_id, fault.others) == ("a", ("b", "c"))


def test_of_ways_round_the_shortest_is_told_and_every_one_that_has_nothing_in_common_with_it() -> None:
    report = check(
        step("a", "b", "c"),
        step("b", "c"),
        step("c", "d", "a"),
        step("d", "e"),
        step("e", "d"),
        step("f", "f"),
    )
    told = [(fault.kind, fault.action_id, fault.others) for fault in report.faults]
    assert told == [("self_dependency", "f", ()), ("cycle", "a", ("c",)), ("cycle", "d", ("e",))]


def test_ways_round_that_hang_together_are_told_one_by_one() -> None:
    report = check(step("a", "b"), step("b", "a", "c"), step("c", "d"), step("d", "c", "a"))
    assert [(fault.kind, fault.action_id, fault.others) for fault in report.faults] == [
        ("cycle", "a", ("b",)),
        ("cycle", "c", ("d",)),
    ]


@pytest.mark.parametrize(
    ("actions", "others"),
    [
        ([step("a", condition=if_succeeded("b")), step("b", "a")], ("b",)),
        ([step("a", condition=if_succeeded("b")), step("b", condition=if_failed("a"))], ("b",)),
        ([step("a", condition=if_failed("c")), step("b", "a"), step("c", "b")], ("c", "b")),
    ],
    ids=["on one that needs it", "on each other", "on one that needs it by way of another"],
)
def test_a_condition_in_a_circle_can_never_hold(
    actions: list[dict[str, Any]], others: tuple[str, ...]
) -> None:
    (fault,) = check(*actions).faults
    assert (fault.kind, fault.action_id, fault.others) == ("never", "a", others)
    assert "can never begin" in fault.message


def test_a_condition_against_what_is_needed_can_never_hold() -> None:
    (fault,) = check(step("a"), step("b", "a"), step("c", "b", condition=if_failed("a"))).faults
    assert (fault.kind, fault.action_id, fault.others) == ("never", "c", ("b",))
    assert "when its condition if_failed 'a' holds, 'b', which it needs, is held back" in fault.message
    assert (
        kinds(step("a", on_failure="continue"), step("b", "a"), step("c", "b", condition=if_failed("a")))
        == []
    )
    assert kinds(step("a"), step("b", "a", condition=if_failed("a")), step("c", "b")) == []
    skipping = [step("a", on_failure="skip"), step("b", "a"), step("c", "b", condition=if_failed("a"))]
    assert "is skipped" in check(*skipping).faults[0].message


def test_what_only_asks_an_action_that_never_begins_is_no_second_fault() -> None:
    actions = [step("a"), step("b", "a"), step("c", "b", condition=if_failed("a"))]
    assert kinds(*actions, step("d", condition=if_succeeded("c")), step("e", "c")) == [("never", "c")]


def test_a_condition_that_what_has_happened_rules_out_is_skipped_and_no_fault() -> None:
    report = check(done("x"), step("a", condition=if_failed("x")))
    assert (report.valid, len(report.skipped_next)) == (True, 1)


# -- the rest of the report ---------------------------------------------------------------------------


def test_statuses_that_do_not_go_together_are_warnings() -> None:
    report = check(step("a"), done("b", "a"), done("c", condition=if_failed("d")), done("d"))
    assert report.valid
    assert [(one.action_id, one.message) for one in report.warnings] == [
        ("b", "Action 'b' is completed, though 'a', which it comes after, is pending."),
        ("c", "Action 'c' is completed, though its condition if_failed 'd' does not hold."),
    ]


def test_a_plan_can_be_run_when_all_that_is_left_says_its_tool() -> None:
    assert check(done("a"), step("b", tool="exec")).runnable
    assert not check(step("a"), step("b", tool="exec")).runnable
    assert not check(step("a", tool="exec"), step("b", "x", tool="exec")).runnable


def test_the_critical_path_is_of_what_is_left() -> None:
    report = check(done("a"), done("b", "a"), step("c", "b"), step("x"), step("y", "x"))
    assert report.critical_path == ("x", "y")
    assert report.groups == (("c", "x"), ("y",))


def test_what_is_no_plan_has_a_report_as_well() -> None:
    report = check_data({"id": "p", "actions": "all of them"})
    assert (report.valid, report.state, report.plan_id) == (False, "invalid", None)
    assert [fault.kind for fault in report.faults] == ["malformed"]


# -- size ---------------------------------------------------------------------------------------------


def large_plan(count: int, **kept: Any) -> str:
    chosen = random.Random(7)
    actions = [
        step(
            f"action-{number}",
            *{f"action-{chosen.randrange(number)}" for _ in range(3) if number},
            tool="exec",
            arguments={"argv": ["true", str(number)]},
            **kept,
        )
        for number in range(count)
    ]
    return json.dumps({"id": "large", "actions": actions})


def test_ten_thousand_actions_are_read_and_checked_in_no_time() -> None:
    text = large_plan(10_000)
    began = time.thread_time()
    plan, _ = read_plan(text, ".json")
    assert plan is not None
    report = check_plan(plan, {"exec"})
    assert time.thread_time() - began < CHECK_SECONDS_MAX
    assert (report.valid, report.runnable, report.state) == (True, True, "ready")


@pytest.mark.parametrize(
    ("actions", "state"),
    [
        ([step(str(n), str((n + 1) % 5000)) for n in range(5000)], "deadlocked"),
        ([failed("0"), *(step(str(n), str(n - 1)) for n in range(1, 5000))], "blocked"),
        ([step("0"), *(step(str(n), condition=if_failed(str(n - 1))) for n in range(1, 5000))], "ready"),
        ([step("0"), *(step(str(n), "0", condition=if_failed("0")) for n in range(1, 5000))], "ready"),
    ],
    ids=["one ring", "one blocked chain", "each if the last one failed", "all if the first one failed"],
)
def test_plans_of_the_worst_shape_are_checked_in_no_time(actions: list[dict[str, Any]], state: str) -> None:
    began = time.thread_time()
    assert check(*actions).state == state
    assert time.thread_time() - began < CHECK_SECONDS_MAX
