"""Any small step plan, in any of the ways it may go: what the analysis says is what comes to pass.

The ways are found by going all of them: every order, every action succeeding or failing. What may begin is
decided here once more, slowly and from the statuses alone, as the documentation has it.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans.step_plans import plan_of, step

from custody.plans import StepPlan, check_plan
from custody.plans.steps.analysis import PlanReport
from custody.plans.steps.model import StepAction, StepStatus
from custody.plans.steps.standing import Standing

Statuses = tuple[str, ...]
"""One word an action, as the plan lists them."""

ENDED = ("completed", "failed", "skipped")


class Slow:
    """What the documentation says of a plan, asked anew each time."""

    def __init__(self, plan: StepPlan) -> None:
        self.actions = plan.actions
        self.ids = [action.id for action in plan.actions]

    def word(self, statuses: Statuses, action_id: str) -> str:
        return statuses[self.ids.index(action_id)] if action_id in self.ids else "missing"

    def before(self, action: StepAction) -> set[str]:
        asked = action.condition.action_id
        return {*action.depends_on, *([asked] if asked else [])}

    def lost(self, statuses: Statuses, action: StepAction) -> bool:
        """Whether a failure with `skip` takes it along."""
        needs = set(action.depends_on)
        if action.condition.kind == "if_succeeded":
            needs.add(str(action.condition.action_id))
        elif action.condition.kind == "if_failed":
            needs.discard(str(action.condition.action_id))
        for other in self.actions:
            if other.id in needs:
                word = self.word(statuses, other.id)
                if word == "failed" and other.on_failure == "skip":
                    return True
                if word == "skipped" and self.lost(statuses, other):
                    return True
        return False

    def answers(self, statuses: Statuses, action: StepAction) -> bool:
        asked = action.condition.action_id
        if asked not in self.ids or asked == action.id:
            return False
        word = self.word(statuses, asked)
        if action.condition.kind == "if_failed":
            return word == "failed"
        other = self.actions[self.ids.index(asked)]
        return word == "completed" and self.answers(statuses, other)

    def wanted(self, statuses: Statuses) -> set[str]:
        found: set[str] = set()
        rest = [action for action in self.actions if self.answers(statuses, action)]
        while rest:
            action = rest.pop()
            if action.id not in found and self.word(statuses, action.id) not in ENDED:
                found.add(action.id)
                rest += [other for other in self.actions if other.id in self.before(action)]
        return found

    def decision(self, statuses: Statuses, action: StepAction) -> str:
        """`wait`, `blocked`, `skip`, `hold` or `begin`, of a pending action."""
        words = {other: self.word(statuses, other) for other in self.before(action)}
        if any(word not in ENDED for word in words.values()):
            return "wait"
        for other in self.actions:
            failed = words.get(other.id) == "failed" and other.on_failure == "stop"
            if failed and other.id in action.depends_on and other.id != action.condition.action_id:
                return "blocked"
        wanted = {"if_succeeded": "completed", "if_failed": "failed"}.get(action.condition.kind)
        if wanted is not None and words[str(action.condition.action_id)] != wanted:
            return "skip"
        if self.lost(statuses, action):
            return "skip"
        stopped = any(
            word == "failed" and other.on_failure == "stop"
            for word, other in zip(statuses, self.actions, strict=True)
        )
        return "hold" if stopped and action.id not in self.wanted(statuses) else "begin"

    def settled(self, statuses: Statuses) -> tuple[Statuses, set[str]]:
        """With everything skipped that is to be, and what may begin then."""
        while True:
            decided = {
                action.id: self.decision(statuses, action)
                for word, action in zip(statuses, self.actions, strict=True)
                if word == "pending"
            }
            skipped = {one for one, decision in decided.items() if decision == "skip"}
            if not skipped:
                return statuses, {one for one, decision in decided.items() if decision == "begin"}
            statuses = tuple(
                "skipped" if one in skipped else word
                for one, word in zip(self.ids, statuses, strict=True)
            )  # fmt: skip

    def next(self, statuses: Statuses) -> Iterator[Statuses]:
        """From what is settled: each that may begin begins, each in progress ends either way."""
        _, ready = self.settled(statuses)
        for place, word in enumerate(statuses):
            others = {
                "pending": ("in_progress",) if self.ids[place] in ready else (),
                "in_progress": ("completed", "failed"),
            }.get(word, ())
            for other in others:
                yield self.settled((*statuses[:place], other, *statuses[place + 1 :]))[0]

    def reachable(self) -> list[Statuses]:
        """Every way the plan may stand, in the order in which they are found."""
        first = self.settled(("pending",) * len(self.ids))[0]
        found, rest = {first: None}, [first]
        while rest:
            for statuses in self.next(rest.pop()):
                if statuses not in found:
                    found[statuses] = None
                    rest.append(statuses)
        return list(found)


def with_statuses(plan: StepPlan, statuses: Statuses) -> StepPlan:
    actions = tuple(
        msgspec.structs.replace(
            action, status=StepStatus(word, reason="…" if word in ("failed", "skipped") else None)
        )
        for action, word in zip(plan.actions, statuses, strict=True)
    )
    return msgspec.structs.replace(plan, actions=actions)


def expected_state(slow: Slow, statuses: Statuses, report: PlanReport) -> str:
    settled, ready = slow.settled(statuses)
    if "in_progress" in statuses:
        return "running"
    if report.faults:
        left = [one for one, word in zip(slow.ids, settled, strict=True) if word == "pending"]
        return "deadlocked" if left and not ready and not report.blocked else "invalid"
    if ready:
        return "ready"
    return "blocked" if {"pending", "failed"} & set(settled) else "complete"


@st.composite
def step_plans(draw: st.DrawFn, acyclic: bool, count_max: int = 5) -> StepPlan:
    """A few actions in any order, that depend on and ask each other; not in circles where `acyclic`."""
    count = draw(st.integers(1, count_max))
    actions: list[dict[str, Any]] = []
    for number in range(count):
        others = [f"a{other}" for other in range(number if acyclic else count)]
        if not acyclic:
            others.append("nobody")
        named = st.sampled_from(others) if others else st.nothing()
        fields: dict[str, Any] = {
            "on_failure": draw(st.sampled_from(["stop", "skip", "continue"])),
            "depends_on": draw(st.lists(named, max_size=2, unique=True)) if others else [],
        }
        kind = draw(st.sampled_from(["always", "if_failed", "if_succeeded"]))
        if others and kind != "always":
            fields["condition"] = {kind: draw(named)}
        actions.append(step(f"a{number}", **fields))
    random.Random(draw(st.integers(0, 99))).shuffle(actions)
    return plan_of(*actions)


def compare(plan: StepPlan, chosen: random.Random, *, acyclic: bool) -> None:
    """Every way the plan may go, and what the analysis says of some of the places on it."""
    slow = Slow(plan)
    reachable = slow.reachable()
    for statuses in chosen.sample(reachable, min(6, len(reachable))):
        report = check_plan(with_statuses(plan, statuses))
        settled, ready = slow.settled(statuses)
        assert set(report.ready) == ready
        assert report.state == expected_state(slow, statuses, report)
        assert settled == statuses
        assert report.skipped_next == ()
        goes_on = "in_progress" in statuses or bool(ready)
        assert goes_on == bool(list(slow.next(statuses)))
        if not goes_on and report.valid:
            pending = [one for one, word in zip(slow.ids, statuses, strict=True) if word == "pending"]
            fallback = [one for one, word in zip(slow.ids, statuses, strict=True) if word == "failed"]
            assert [one.action_id for one in report.blocked] == (pending or fallback)
    begun = {
        one for statuses in reachable for one, word in zip(slow.ids, statuses, strict=True)
        if word == "in_progress"
    }  # fmt: skip
    faults = check_plan(plan).faults
    if acyclic:
        assert {fault.kind for fault in faults} <= {"never"}
        assert {one for one in slow.ids if one not in begun} == with_those_asking(
            plan, {str(fault.action_id) for fault in faults}
        )
    assert not begun & {fault.action_id for fault in faults}


def with_those_asking(plan: StepPlan, never: set[str]) -> set[str]:
    """Those whose condition asks one of these succeed or fail, and so on."""
    while True:
        more = {action.id for action in plan.actions if action.condition.action_id in never} - never
        if not more:
            return never
        never |= more


@given(step_plans(acyclic=True), st.integers(0, 2**32))
@settings(max_examples=60)
def test_what_is_said_of_a_plan_is_what_comes_to_pass_in_all_the_ways_it_may_go(
    plan: StepPlan, seed: int
) -> None:
    compare(plan, random.Random(seed), acyclic=True)


@given(step_plans(acyclic=False, count_max=4), st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_plan_with_circles_and_missing_actions_stands_as_far_as_it_can_go(
    plan: StepPlan, seed: int
) -> None:
    compare(plan, random.Random(seed), acyclic=False)


@pytest.mark.long
@given(step_plans(acyclic=True, count_max=6), st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_many_larger_plans_too(plan: StepPlan, seed: int) -> None:
    compare(plan, random.Random(seed), acyclic=True)


@given(step_plans(acyclic=False, count_max=6))
def test_every_circle_is_told_and_none_that_is_not_there(plan: StepPlan) -> None:
    faults = check_plan(plan).faults
    needs = {action.id: set(action.depends_on) for action in plan.actions}
    waits = {action.id: Slow(plan).before(action) for action in plan.actions}
    told: set[str] = set()
    for fault in faults:
        if fault.kind == "cycle" or (fault.kind == "never" and "waits for what waits" in fault.message):
            way = [str(fault.action_id), *fault.others]
            edges = needs if fault.kind == "cycle" else waits
            for one, other in itertools.pairwise([*way, way[0]]):
                assert other in edges[one]
            told |= set(way) if fault.kind == "cycle" else set()
    without_told = {one: edges - {one} for one, edges in needs.items() if one not in told}
    while free := [one for one, edges in without_told.items() if not edges & without_told.keys()]:
        for one in free:
            del without_told[one]
    assert without_told == {}


@given(step_plans(acyclic=True, count_max=8), st.integers(0, 2**32))
def test_a_plan_stands_the_same_however_it_came_there(plan: StepPlan, seed: int) -> None:
    chosen = random.Random(seed)
    standing, running = Standing(plan.actions), list[str]()
    words: dict[str, str] = {one: "skipped" for one, _ in standing.take_skipped()}
    while standing or running:
        if standing and (not running or chosen.random() < 0.5):
            action = standing.take()
            assert action is not None
            running.append(action.id)
            words[action.id] = "in_progress"
        else:
            ended = running.pop(chosen.randrange(len(running)))
            words[ended] = chosen.choice(["completed", "completed", "failed"])
            standing.ended(ended, words[ended])
            words |= {one: "skipped" for one, _ in standing.take_skipped()}
        anew = Standing(plan.actions, words)
        assert anew.ready == standing.ready
        assert anew.take_skipped() == []
        blocked, again = standing.blocked(), anew.blocked()
        assert [one.action_id for one in blocked] == [one.action_id for one in again]
        for one in blocked:
            assert standing.held_back(one.action_id) is not None
            assert (one.chain[0], one.chain[-1], one.left_out) == (one.by, one.action_id, 0)
