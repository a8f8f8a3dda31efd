"""Whatever an agent does and whenever its disk fails: every record offered is on the record, or counted in
exactly one gap record.

The machine predicts the records, the totals and the positions from what it did, without looking at the code's
own counts; how many of them were dropped is then asked of the gap records.
"""

import contextvars
import errno
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.calls.faces import Stage, gaps, records

from custody.blocking import BlockingRuntime
from custody.compose import open_runtime
from custody.errors import DelegationRefused, RunClosed
from custody.records import CallFinished, CallStarted, Event, RunFinished, RunStarted, Step
from custody.settings import load_settings

SIZES = st.sampled_from([0, 10, 10, 10, 6_000, 40_000])
NAMES = {RunStarted: "run_started", RunFinished: "run_finished", CallStarted: "call_started",
         CallFinished: "call_finished", Step: "step", Event: "event"}  # fmt: skip


@dataclass
class Life:
    """One run, as the machine knows it."""

    run: Any
    open: list[Any] = field(default_factory=list)
    offered: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    ended: dict[str, str] = field(default_factory=dict)
    """Calls that were closed, and how."""
    positions: list[int | None] = field(default_factory=list)
    steps: int = 0
    calls: int = 0
    tokens: int = 0
    model: str | None = None
    finished: str | None = None
    refused: int = 0
    at_finish: Any = None


class Agent(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.stage = Stage()
        self.runtime = self.open()
        self.lives: list[Life] = []
        self.start(self.runtime.run("the first", agent="a"))

    def open(self) -> BlockingRuntime:
        return BlockingRuntime(lambda: open_runtime(load_settings(store=":memory:"), disk=self.stage.disk))

    def start(self, run: Any) -> None:
        contextvars.copy_context().run(run.__enter__)  # the test's own context is left as it is
        self.lives.append(Life(run))

    def life(self, pick: int) -> Life:
        return self.lives[pick % len(self.lives)]

    def takes(self, life: Life) -> bool:
        if life.finished is None:
            return True
        life.refused += 1
        if life.refused == 1:
            life.offered["event"] += 1
        return False

    # -- what an agent does -----------------------------------------------------------------------------

    @rule(pick=st.integers(0, 9), size=SIZES, durable=st.booleans())
    def open_call(self, pick: int, size: int, durable: bool) -> None:
        life = self.life(pick)
        call = life.run.observe("search", {"text": "x" * size}, durable=durable and size == 10).open()
        if self.takes(life):
            life.open.append(call)
            life.calls += 1
            life.offered["call_started"] += 1
            life.positions.append(call.position)

    @rule(
        pick=st.integers(0, 9),
        which=st.integers(0, 9),
        size=SIZES,
        how=st.sampled_from(["ok", "raise", "fail"]),
    )
    def close_call(self, pick: int, which: int, size: int, how: str) -> None:
        life = self.life(pick)
        if not life.open:
            return
        call = life.open.pop(which % len(life.open))
        call.result = "y" * size
        if how == "fail":
            call.fail("no")
        call.close(ValueError("no") if how == "raise" else None)
        call.close()
        outcome = "succeeded" if how == "ok" else "failed"
        life.outcomes[outcome] += 1
        life.ended[call.id] = outcome
        life.offered["call_finished"] += 1

    @rule(pick=st.integers(0, 9))
    def reject(self, pick: int) -> None:
        life = self.life(pick)
        call = life.run.observe("delete")
        call.reject("no")
        if self.takes(life):
            life.calls += 1
            life.outcomes["rejected"] += 1
            life.ended[call.id] = "rejected"
            life.offered["call_finished"] += 1
            life.positions.append(call.position)

    @rule(
        pick=st.integers(0, 9), size=SIZES, model=st.sampled_from([None, "a", "b"]), tokens=st.integers(0, 9)
    )
    def step(self, pick: int, size: int, model: str | None, tokens: int) -> None:
        life = self.life(pick)
        step = life.run.step("z" * size, model=model, tokens={"input": tokens}, whole_text=True)
        if self.takes(life):
            life.steps += 1
            life.tokens += tokens
            life.offered["step"] += 1
            life.positions.append(step.position)
            if model is not None and model != life.model:
                life.offered["event"] += 1
                life.model = model

    @rule(pick=st.integers(0, 9), size=SIZES, error=st.booleans())
    def event(self, pick: int, size: int, error: bool) -> None:
        life = self.life(pick)
        (life.run.error if error else life.run.event)("noted", text="e" * size)
        if self.takes(life):
            life.offered["event"] += 1

    @precondition(lambda self: len(self.lives) < 5)
    @rule(pick=st.integers(0, 9))
    def child(self, pick: int) -> None:
        life = self.life(pick)
        try:
            child = life.run.child(f"part {len(self.lives)}")
        except RunClosed:
            assert not self.takes(life)
        except DelegationRefused:
            raise AssertionError("five runs are neither deep nor a circle") from None
        else:
            assert self.takes(life)
            self.start(child)

    @rule(pick=st.integers(1, 9), outcome=st.sampled_from(["succeeded", "failed"]), size=SIZES)
    def finish(self, pick: int, outcome: str, size: int) -> None:
        life = self.life(pick)
        life.run.finish(outcome, output="o" * size)
        if life.finished is None:
            life.finished = outcome
            life.at_finish = (life.steps, life.calls, life.tokens, dict(life.outcomes))
        elif outcome != life.finished:
            self.takes(life)

    # -- what a disk does -------------------------------------------------------------------------------

    @rule(error=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def fill_up(self, error: int) -> None:
        self.stage.fill_up(error=error)

    @rule()
    def no_new_files(self) -> None:
        self.stage.fill_up("create", "replace")

    @rule()
    def heal(self) -> None:
        self.stage.heal()

    # -- what must hold ---------------------------------------------------------------------------------

    @rule()
    def totals_are_those_of_the_oracle(self) -> None:
        for life in self.lives:
            totals = life.run.totals
            assert (totals.steps, totals.calls, totals.refused) == (life.steps, life.calls, life.refused)
            assert totals.calls_by_outcome == dict(life.outcomes)
            assert not life.steps or totals.input_tokens == life.tokens

    def teardown(self) -> None:
        if not hasattr(self, "runtime"):
            return
        self.totals_are_those_of_the_oracle()
        self.stage.heal()
        self.runtime.close()
        again = self.open()
        try:
            self.judge(again._runtime)
        finally:
            again.close()

    def judge(self, runtime: Any) -> None:
        found: dict[str, Counter[str]] = {life.run.id: Counter() for life in self.lives}
        unknown: Counter[str] = Counter()
        run_of = {}
        for leaf, _ in records(runtime):
            if isinstance(leaf, CallStarted | CallFinished) and leaf.request is not None:
                run_of[leaf.call_id] = leaf.request.run_id.hex()
            run = run_of.get(leaf.call_id) if isinstance(leaf, CallStarted | CallFinished) else None
            run = run or (leaf.run_id.hex() if getattr(leaf, "run_id", None) else None)
            if isinstance(leaf, Event) and leaf.name == "journal.gap":
                continue
            assert run is not None, leaf
            if isinstance(leaf, CallFinished) and leaf.outcome == "unknown":
                unknown[run] += 1
            else:
                found[run][NAMES[type(leaf)]] += 1
        dropped = Counter()
        for gap in gaps(runtime):
            assert gap["count"] == sum(gap["by_kind"].values()) == sum(gap["causes"].values())
            dropped.update(gap["by_run"])
        for life in self.lives:
            self.judge_run(runtime, life, found[life.run.id], dropped[life.run.id])
        by_kind = sum((Counter(gap["by_kind"]) for gap in gaps(runtime)), Counter())
        offered = sum((life.offered for life in self.lives), Counter())
        on_record = sum(found.values(), Counter())
        for kind in ("call_started", "call_finished", "step"):
            assert on_record[kind] + by_kind[kind] == offered[kind], kind

    def judge_run(self, runtime: Any, life: Life, found: Counter[str], dropped: int) -> None:
        run = runtime.index.run(life.run.id)
        again = 1 if life.refused > 1 else 0
        assert (found["run_started"], found["run_finished"]) == (1, 1)
        ours = sum(found.values()) - 2 - again
        assert ours + dropped == sum(life.offered.values())
        assert life.run.totals.dropped == dropped
        assert run.outcome == (life.finished or "incomplete")
        taken = sorted(position for position in life.positions if position is not None)
        assert taken == list(range(len(life.positions)))
        if life.at_finish is not None:
            steps, calls, tokens, _ = life.at_finish
            assert (run.totals.steps, run.totals.calls) == (steps, calls)
            assert not steps or run.totals.input_tokens == tokens
        still_open = {call.id for call in life.open}
        for call in runtime.index.run_calls(life.run.run_id):
            assert call.outcome in (life.ended.get(call.id, "unknown"), "unknown")
            assert call.id in life.ended or call.id in still_open


@pytest.mark.timeout(300)
def test_every_record_is_kept_or_counted_in_exactly_one_gap() -> None:
    run_state_machine_as_test(Agent, settings=settings(max_examples=30, stateful_step_count=40))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_record_is_kept_or_counted_in_exactly_one_gap_for_long() -> None:
    run_state_machine_as_test(Agent, settings=settings(max_examples=600, stateful_step_count=80))
