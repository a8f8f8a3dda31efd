"""Steps, and what a run's steps and calls come to."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.index.conftest import Store, call_id, run_id, us

from custody.index import RunFilter, rows
from custody.records import Redaction, Tokens, Totals, document, rfc3339


def test_a_step_is_shown_whole(store):
    store.start_run(1, agent="ada")
    asked = [{"id": "toolu_1", "name": "search", "arguments": {"q": "x"}}]
    leaf = {
        "iteration": 2,
        "model": "large-2",
        "requested_model": "large",
        "redactions": (Redaction("sensitive_key", "text"),),
        "external_id": "resp_1",
        "parent_id": call_id(9),
        "finish_reason": "tool_calls",
        "since_previous_us": 70,
        "model_us": 60,
        "text_bytes": 100,
        "text_cut_bytes": 92,
        "text_withheld": False,
        "requested": ("search",),
        "tokens": Tokens(10, 5, 1, 2, 3),
        "cost_nano_usd": 1_500,
        "prices": "2026-11",
        "unusable": ("temperature",),
    }
    store.step(50, 1, 3, 4.0, "thinking", calls=asked, data={"seed": 1}, **leaf)
    (step,) = store.index().run_steps(run_id(1))
    expected = {name: value.hex() if isinstance(value, bytes) else value for name, value in leaf.items()}
    expected |= {
        "id": call_id(50).hex(),
        "run_id": run_id(1).hex(),
        "position": 3,
        "at": rfc3339(us(4.0)),
        "agent": "ada",
        "responded": True,
        "text": "thinking",
        "calls": asked,
        "data": {"seed": 1},
        "shard": step.shard,
        "sequence": step.sequence,
    }
    assert msgspec.structs.asdict(step) == expected
    assert document(step)["cost_usd"] == 1.5e-6


def test_what_a_step_did_not_say_is_unknown(store):
    store.start_run(1)
    store.step(50, 1, responded=False)
    (step,) = store.index().run_steps(run_id(1))
    assert (step.tokens, step.cost_nano_usd, step.agent, step.model, step.calls) == (None,) * 5
    assert step.responded is False


def test_a_step_inherits_its_runs_agent_however_late_the_run_is_told_of(store):
    index, other = store.index(), store.open_writer()
    store.step(50, 1, 0)
    store.step(51, 1, 1, agent="eve")
    assert [step.agent for step in index.run_steps(run_id(1))] == [None, "eve"]
    store.start_run(1, agent="ada", writer=other)
    assert [step.agent for step in index.run_steps(run_id(1))] == ["ada", "eve"]
    assert [group.key for group in index.usage("agent").groups] == ["ada", "eve"]


def test_a_record_of_a_step_can_be_described(store):
    store.step(50, 1, 0, text="x", requested=("a", "b"), tokens=Tokens(1))
    (stored,) = [stored for stored in store.writer.follow() if stored.kind == 7]
    described = store.index().describe(stored)
    assert described["requested"] == ["a", "b"] and described["tokens"]["input"] == 1
    assert described["payload"] == {"text": "x"}


# -- totals -----------------------------------------------------------------------------------------------


def test_totals_are_what_the_finished_run_says(store):
    totals = Totals(steps=7, calls=3, calls_by_outcome={"failed": 3}, input_tokens=9, dropped=4)
    store.start_run(1)
    store.step(50, 1)
    store.finish_run(1, totals=totals, stated_totals={"cost_usd": 0.25})
    run = store.index().run("a1")
    assert (run.totals, run.steps, run.stated_totals) == (totals, 1, {"cost_usd": 0.25})


def test_totals_are_added_up_where_nobody_counted(store):
    store.start_run(1)
    store.step(50, 1, 0, tokens=Tokens(10, 5, None, 2, 3), cost_nano_usd=7)
    store.step(51, 1, 1, tokens=Tokens(input=1))
    store.step(52, 1, 2)
    store.call(1, run=1)
    store.call(2, 1.0, "failed", run=1)
    store.start_call(3, 2.0, run=1)
    store.reject_call(4, 3.0, run=1)
    store.event(90, "run.refused", run_id=run_id(1))
    store.event(91, "journal.gap", data={"by_run": {run_id(1).hex(): 2, "ff": 3}})
    store.event(92, "journal.gap")
    index = store.index()
    run = index.run("a1")
    assert run.totals == Totals(
        steps=3,
        calls=4,
        calls_by_outcome={"succeeded": 1, "failed": 1, "rejected": 1},
        input_tokens=11,
        output_tokens=5,
        reasoning_tokens=None,
        cache_read_tokens=2,
        cache_write_tokens=3,
        cost_nano_usd=7,
        steps_without_tokens=1,
        steps_without_cost=2,
        refused=1,
    )
    assert run.calls_by_outcome["running"] == 1
    assert index.runs(RunFilter()).items == [run]


def test_records_that_were_dropped_are_in_the_totals(store):
    from custody.records import Event

    store.start_run(1)
    lost = {"count": 5, "by_run": {run_id(1).hex(): 2, run_id(2).hex(): 3}}
    store.put(Event(call_id(90), "journal.gap", us(1), b"", data=lost))
    store.put(Event(call_id(91), "journal.gap", us(2), b"", data=lost))
    assert store.index().run("a1").totals.dropped == 4


def test_before_the_first_step_totals_are_zero_and_then_unknown_until_one_says(store):
    store.start_run(1)
    index = store.index()
    assert index.run("a1").totals == Totals()
    store.step(50, 1)
    assert index.run("a1").totals == Totals(
        steps=1,
        input_tokens=None,
        output_tokens=None,
        reasoning_tokens=None,
        cache_read_tokens=None,
        cache_write_tokens=None,
        cost_nano_usd=None,
        steps_without_tokens=1,
        steps_without_cost=1,
    )
    store.step(51, 1, tokens=Tokens(0, 0), cost_nano_usd=0)
    totals = index.run("a1").totals
    assert (totals.input_tokens, totals.output_tokens, totals.cost_nano_usd) == (0, 0, 0)


@pytest.mark.parametrize("count", [rows.AMOUNT_MAX + 1, 2**63, 2**64 - 1])
def test_a_count_that_cannot_be_one_is_unknown_in_sums_and_shown_as_recorded(store, count):
    store.start_run(1)
    store.step(50, 1, tokens=Tokens(count, 5), cost_nano_usd=count)
    store.step(51, 1, tokens=Tokens(rows.AMOUNT_MAX), model_us=count)
    index = store.index()
    assert index.run_steps(run_id(1))[0].tokens == Tokens(count, 5)
    totals = index.run("a1").totals
    assert (totals.input_tokens, totals.cost_nano_usd) == (rows.AMOUNT_MAX, None)


amounts = st.none() | st.integers(0, 1_000)


@given(
    st.lists(st.tuples(st.builds(Tokens, amounts, amounts, amounts, amounts, amounts), amounts), max_size=8)
)
def test_sums_are_of_what_is_known(steps):
    store = Store(None)
    try:
        store.start_run(1)
        for number, (tokens, cost) in enumerate(steps):
            store.step(number, 1, number, tokens=tokens, cost_nano_usd=cost)
        index = store.index()
        totals, total = index.run("a1").totals, index.usage("day").total
        columns = [*zip(*(msgspec.structs.astuple(tokens) for tokens, _ in steps), strict=True)] or [()] * 5
        columns.append(tuple(cost for _, cost in steps))
        names = [f"{name}_tokens" for name in Tokens.__struct_fields__] + ["cost_nano_usd"]
        for name, column in zip(names, columns, strict=True):
            known = [value for value in column if value is not None]
            expected = sum(known) if known or not steps else None
            assert getattr(totals, name) == getattr(total, name) == expected
        unsaid = sum(tokens.input is None and tokens.output is None for tokens, _ in steps)
        assert totals.steps_without_tokens == total.steps_without_tokens == unsaid
    finally:
        store.close()
