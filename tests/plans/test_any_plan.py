"""Any plan, with tools that do anything: order, attempts, sums, and the way back."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.plans.plans import (
    BOUND_SECONDS,
    Tools,
    at_once,
    begun,
    call,
    failed,
    read,
    rejected,
    statuses,
    succeeded,
    write,
)

from custody.plans import Action, Condition, Graph, Performed, PlanResult, PlanRun, State
from custody.plans.foresee import simulate, verify

KEYS = ["k", "l", "m"]
BEHAVIORS = ["abort", "skip", "retry"]
RETRIES = 2

keys = st.lists(st.sampled_from(KEYS), max_size=2, unique=True).map(tuple)


@st.composite
def actions(draw: st.DrawFn, number: int) -> Action:
    """One that may depend on, or refer to, any listed before it."""
    some = st.lists(st.integers(0, max(0, number - 1)), max_size=2 if number else 0, unique=True)
    operator = draw(st.sampled_from(["exists", "not_exists", "eq", "neq"]))
    fields: dict[str, Any] = {
        "failure_behavior": draw(st.sampled_from(BEHAVIORS)),
        "max_retries": draw(st.integers(0, RETRIES)),
        "dependencies": tuple(f"a{other}" for other in draw(some)),
        "state_dependencies": draw(keys) if draw(st.integers(0, 3)) == 0 else (),
        "preconditions": tuple(Condition(key=key, operator=operator, value=1) for key in draw(keys)[:1]),
        "expected_effects": dict.fromkeys(draw(keys), number),
    }
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return write(f"a{number}", draw(st.sampled_from(KEYS)), number, **fields)
    if kind == 1:
        return read(f"a{number}", draw(st.sampled_from(KEYS)), **fields)
    return call(f"a{number}", parameters={"refers": [f"$a{other}.output" for other in draw(some)]}, **fields)


@st.composite
def plans(draw: st.DrawFn) -> list[Action]:
    return [draw(actions(number)) for number in range(draw(st.integers(1, 10)))]


outcomes = st.sampled_from(
    [succeeded(1), succeeded(2), succeeded(3), failed(), failed(), rejected(), failed(terminal=True)]
)
states = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2))


def attempts_max(action: Action) -> int:
    return 1 + (action.max_retries if action.failure_behavior == "retry" else 0)


def check_end(graph: Graph, state: State, initial: dict[str, Any], result: PlanResult, tools: Tools) -> None:
    """What is true of every plan that has ended."""
    found = statuses(result)
    assert list(found) == [action.id for action in graph.actions]
    costs = result.costs
    assert costs.actions_executed + costs.actions_rejected + costs.actions_skipped == len(found)
    assert costs.retries == sum(attempt > 1 for _, attempt in tools.calls)
    assert costs.tool_calls <= len(tools.calls)
    for action in graph.actions:
        one = result.of(action.id)
        tried = [attempt for action_id, attempt in tools.calls if action_id == action.id]
        assert tried == list(range(1, one.attempts + 1))
        assert one.attempts <= attempts_max(action)
        assert (one.error is None) == (one.status == "succeeded")
        assert one.rolled_back == (one.status == "succeeded" and result.rollback is not None)
        if one.status not in ("skipped", "rejected"):
            assert all(found[needed] == "succeeded" for needed in graph.needed_by(action.id))
    if result.rollback is None:
        assert not result.cancelled
        wrong = [graph[name] for name, status in found.items() if status in ("failed", "rejected")]
        assert all(action.failure_behavior == "skip" for action in wrong)
        changed = {key for one in result.results for key in one.state_changes}
        assert {key for key, value in state.contents().items() if initial.get(key, -1) != value} <= changed
    else:
        assert result.cancelled or found[str(result.aborted_by)] in ("failed", "rejected")
        assert state.contents() == initial
        assert all(one.state_changes == {} for one in result.results)


@given(plan=plans(), initial=states, told=st.data())
@settings(max_examples=60)
def test_every_plan_ends_and_its_sums_are_right(
    plan: list[Action], initial: dict[str, Any], told: st.DataObject
) -> None:
    graph, state = Graph(plan), State(initial)
    answers = {
        action.id: told.draw(st.lists(outcomes, min_size=1, max_size=3)) for action in plan if action.tool
    }
    tools = Tools(answers)

    async def main() -> PlanResult:
        async with asyncio.timeout(BOUND_SECONDS):
            return await begun(plan, tools, state).work()

    check_end(graph, state, initial, asyncio.run(main()), tools)


@given(plan=plans(), initial=states)
@settings(max_examples=60)
def test_a_plan_whose_tools_succeed_goes_as_it_was_foreseen(
    plan: list[Action], initial: dict[str, Any]
) -> None:
    state = State(initial)
    foreseen = simulate(Graph(plan), initial, ["echo"])
    found = verify(plan, initial, ["echo"])

    async def main() -> PlanResult:
        async with asyncio.timeout(BOUND_SECONDS):
            return await begun(plan, Tools(), state).work()

    result = asyncio.run(main())
    assert (statuses(result), state.contents()) == (foreseen.statuses, foreseen.state)
    assert result.aborted_by == foreseen.aborted_by
    if found.valid:
        assert set(foreseen.statuses.values()) == {"succeeded"}
        assert found.state == foreseen.state


class Scheduling(RuleBasedStateMachine):
    """Answers come one at a time, in any order, and a cancellation may come at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.waiting: dict[str, asyncio.Future[Performed]] = {}
        self.ended: dict[str, list[Performed]] = {}
        self.stopped = False
        self.cancelled = False

    @initialize(plan=plans(), initial=states)
    def begin(self, plan: list[Action], initial: dict[str, Any]) -> None:
        self.graph, self.state, self.initial = Graph(plan), State(initial), initial
        self.tools = Tools()
        self.tools.perform = self.perform  # pyright: ignore[reportAttributeAccessIssue]
        self.plan: PlanRun = begun(plan, self.tools, self.state, settings=at_once(concurrent_actions_max=3))
        self.task = self.loop.create_task(self.plan.work())
        self.settle()

    async def perform(self, action: Action, parameters: dict[str, Any], attempt: int) -> Performed:
        assert not self.stopped
        assert action.id not in self.waiting
        assert attempt == len(self.ended.get(action.id, [])) + 1 <= attempts_max(action)
        over = {one.action_id: one.status for one in self.plan.result.results}
        assert all(before in over for before in self.graph.before(action.id))
        assert all(over[needed] == "succeeded" for needed in self.graph.needed_by(action.id))
        self.tools.calls.append((action.id, attempt))
        answer = self.waiting[action.id] = self.loop.create_future()
        try:
            return await answer
        finally:
            del self.waiting[action.id]

    def settle(self) -> None:
        """Until nothing happens any more but waiting for answers."""

        async def turns() -> None:
            for _ in range(10 + 4 * len(self.graph)):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 99), performed=outcomes)
    def answer(self, which: int, performed: Performed) -> None:
        action_id = sorted(self.waiting)[which % len(self.waiting)]
        action = self.graph[action_id]
        self.ended.setdefault(action_id, []).append(performed)
        last = len(self.ended[action_id]) >= attempts_max(action)
        skips = action.failure_behavior == "skip" and not performed.terminal
        over = performed.status == "rejected" or performed.terminal or last
        self.waiting[action_id].set_result(performed)
        self.stopped |= performed.status != "succeeded" and over and not skips
        self.settle()

    @rule()
    def wait(self) -> None:
        """Nothing comes: nothing happens."""
        begun_before, running = list(self.tools.calls), set(self.waiting)
        self.settle()
        assert (self.tools.calls, set(self.waiting)) == (begun_before, running)

    @precondition(lambda self: self.waiting and not self.cancelled)
    @rule()
    def cancel(self) -> None:
        self.task.cancel()
        self.stopped = self.cancelled = True
        self.settle()
        assert self.task.done()

    @invariant()
    def not_too_many_at_once(self) -> None:
        if not hasattr(self, "graph"):
            return
        running = [self.graph[action_id] for action_id in self.waiting]
        assert len(running) <= 3
        if any(action.failure_behavior == "abort" for action in running):
            assert len(running) == 1
        assert self.task.done() or self.waiting, "nothing runs and the plan has not ended"

    def teardown(self) -> None:
        if hasattr(self, "task"):
            while self.waiting:
                self.answer(0, failed(terminal=True))
            assert self.task.done()
            assert self.task.cancelled() == self.cancelled == self.plan.result.cancelled
            check_end(self.graph, self.state, self.initial, self.plan.result, self.tools)
        self.loop.close()


@pytest.mark.parametrize("examples", [25, pytest.param(500, marks=pytest.mark.long)])
def test_a_plan_whose_answers_come_in_any_order_ends_as_it_should(examples: int) -> None:
    run_state_machine_as_test(Scheduling, settings=settings(max_examples=examples, stateful_step_count=12))
