"""Records of a call come from several shards, in any order between them and in any division into batches:
the rows must be the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index.conftest import ALLOW, Store, call_id, request, run_id, us

from custody.index import CallFilter, Index, RunFilter, catch_up, database
from custody.records import (
    CallAnswered,
    CallAsked,
    CallFinished,
    CallStarted,
    Decision,
    Event,
    RunFinished,
    RunStarted,
    Step,
    Tokens,
)

VIEWS = ("runs", "calls", "steps", "events")
WORDS = """alpha beta gamma delta intent output exec one two reaped
 epsilon zeta eta theta""".split()
ASK = Decision("ask", "rule", "dangerous")

ORIGIN = {"proposal_id": "p", "action_id": "a", "attempt": 1, "connection": "c1"}

HISTORY = [
    # Run 1: joined from elsewhere, ended twice (by itself and by a recovery that did not know).
    (RunStarted(run_id(1), us(0), b"", "ada", "kim", "s1", name="one", workspace="/w", external_id="one's"),
     {"intent": "intent"}),
    (RunFinished(run_id(1), us(9), b"", "incomplete", "reaped"), {}),
    (RunFinished(run_id(1), us(8), b"", "succeeded"), {"output": "output"}),
    # Call 1: usual; ended a second time by recovery at the same moment.
    (CallStarted(call_id(1), us(1), 1, b"", request(1, run=1, position=0)), {"arguments": {"q": "alpha"}}),
    (CallFinished(call_id(1), us(2), "succeeded", b"", latency_us=10), {"result": "beta"}),
    (CallFinished(call_id(1), us(2), "unknown", b"", reason="reaped"), {}),
    # Call 2: asked, answered twice, started, ended; says itself whose it is.
    (CallAsked(call_id(2), request(1, run=1, agent="eve", decision=ASK), b""), {"arguments": "gamma"}),
    (CallAnswered(call_id(2), us(2), ALLOW, b"", "kim"), {}),
    (CallAnswered(call_id(2), us(3), Decision("deny", "person", "too late"), b"", "lee"), {}),
    (CallStarted(call_id(2), us(3), 2, b""), {}),
    (CallFinished(call_id(2), us(4), "failed", b"", latency_us=5), {"error": {"message": "delta"}}),
    # Call 3: refused.
    (CallFinished(call_id(3), us(3), "rejected", b"", request(3, run=1, tool="git")), {"arguments": "alpha"}),
    # Call 4: never ended, in a run nobody has told of. Call 5: only its end is known.
    (CallStarted(call_id(4), us(3), 4, b"", request(3, run=7, session_id="s7")), {"arguments": "beta"}),
    (CallFinished(call_id(5), us(3), "unknown", b""), {"result": "gamma"}),
    (RunStarted(run_id(2), us(3), b"", name="two", session_id="s1", parent_run_id=run_id(1)), {}),
    # Steps: dear, by another agent, with a count that cannot be one, and of a run nobody has told of.
    (Step(call_id(80), run_id(1), us(1), b"", 2, 1, "big", tokens=Tokens(9, 5), cost_nano_usd=7), {}),
    (Step(call_id(81), run_id(1), us(2), b"", 3, 2, "small", agent="eve"), {"text": "b"}),
    (Step(call_id(81), run_id(2), us(3), b"", 9, 1, "other", tokens=Tokens(4)), {"text": "twice"}),
    (Step(call_id(82), run_id(1), us(3), b"", 4, tokens=Tokens(input=2**63, reasoning=1)), None),
    (Step(call_id(83), run_id(7), us(3), b"", 1, requested_model="big", responded=False), {"data": [1]}),
    # Two failures that are alike, one of them asked for by a step.
    (CallStarted(call_id(6), us(4), 6, b"", request(4, run=1, tool="net", step_id=call_id(80))), {}),
    (CallFinished(call_id(6), us(5), "failed", b""), {"error": {"type": "E", "message": "no 12 in /a"}}),
    (CallStarted(call_id(7), us(4), 7, b"", request(4, tool="net")), {"arguments": 1}),
    (CallFinished(call_id(7), us(6), "timed_out", b"", reason="after 3 s"), {"error": {"message": "no 7"}}),
    (CallFinished(call_id(7), us(6), "failed", b""), {"error": {"type": "E", "message": "no 9 in /c"}}),
    # Calls told of only afterwards: by itself; told twice, the second time by another; and one whose start
    # turned up all the same, in another run and as another action.
    (CallFinished(call_id(8), us(7), "succeeded", b"", request(6, run=1, position=5, **ORIGIN), passed=False),
     {"prompt": "epsilon", "arguments": {"cli": "x"}, "result": {"exit_code": 3}}),
    (CallFinished(call_id(9), us(7), "timed_out", b"", request(6, run=1, position=6, attempt=2)),
     {"prompt": "zeta"}),
    (CallFinished(call_id(9), us(7), "failed", b"", request(6, run=2, position=0, action_id="b")),
     {"error": {"type": "E", "message": "eta"}}),
    (CallFinished(call_id(10), us(8), "cancelled", b"", request(7, run=1, position=7, **ORIGIN)), {}),
    (CallStarted(call_id(10), us(7), 10, b"", request(7, run=2, position=1, connection="c2")),
     {"prompt": "theta", "arguments": "theta"}),
    (RunStarted(run_id(3), us(4), b"", name="three", external_id="key"), {}),
    (RunStarted(run_id(3), us(5), b"", name="three again", external_id="other key"), {}),
    (Event(call_id(92), "run.refused", us(9), b"", run_id(1)), None),
    (Event(call_id(93), "journal.gap", us(9), b"", data={"by_run": {run_id(1).hex(): 3}}), None),
    (Event(call_id(90), "host.sampled", us(4), b"", run_id(1)), {"data": {"load": 1}}),
    (Event(call_id(91), "recovery.reaped", us(4), b"", call_id=call_id(4), data={"pids": [1]}), None),
]  # fmt: skip


def answers(index: Index) -> dict:
    return {
        "calls": index.calls(limit=100).items,
        "runs": index.runs(limit=100).items,
        "sessions": index.sessions(limit=100).items,
        "events": index.events(limit=100).items,
        "stats": index.stats(),
        "open": (index.open_calls(), index.open_runs()),
        "runs' calls": [index.run_calls(run_id(number)) for number in (1, 2, 7)],
        "pages": [index.run_calls(run_id(number), after_position=place, limit=2)
                  for number in (1, 2, 7) for place in (-1, 0, 5)],
        "unfinished": [index.first_unfinished(run_id(number)) for number in (1, 2, 7)],
        "origins": [index.calls(CallFilter(**fields)).items
                    for fields in ({"proposal_id": "p"}, {"action_id": "b"}, {"attempt": 1}, {"attempt": 2},
                                   {"connection": "c1"}, {"connection": "c2"})],
        "runs by key": [index.runs(external_id=key).items for key in ("key", "other key", "one's")],
        "steps": [index.run_steps(run_id(number)) for number in (1, 2, 7)],
        "usage": [index.usage(by) for by in ("agent", "tool", "model", "day", "run", "caller", "session")],
        "failures": index.failure_patterns(count_min=1),
        "loops": index.loops(repeats_min=2),
        "slowest": index.slowest(),
        "runs' own": [ask(run.id) for ask in (index.children, index.ancestors, index.timeline)
                      for run in index.runs(limit=100).items],
        "last": (index.last_runs(), index.last_runs("name")),
        "silent": index.silent_runs(1, now_us=us(1_000)),
        "sql": [index.sql(f"SELECT * FROM {view} ORDER BY id") for view in VIEWS],
        "text": [
            ([one.id for one in index.calls(CallFilter(text=word)).items],
             [one.id for one in index.runs(RunFilter(text=word)).items])
            for word in WORDS
        ],
    }  # fmt: skip


@pytest.mark.long
@settings(max_examples=25)
@given(
    order=st.permutations(range(len(HISTORY))),
    shards=st.lists(st.integers(0, 2), min_size=len(HISTORY), max_size=len(HISTORY)),
    refreshes=st.sets(st.integers(0, len(HISTORY))),
)
def test_any_order_of_shards_and_refreshes_gives_the_rows_of_a_rebuild(order, shards, refreshes):
    store = Store(None)
    try:
        writers = [store.writer, store.open_writer(), store.open_writer()]
        index = store.index()
        for count, number in enumerate(order):
            if count in refreshes:
                index.refresh()
            store.put(*HISTORY[number], writers[shards[number]])
        caught_up = answers(index)
        index.rebuild()
        assert answers(index) == caught_up
        assert answers(store.index()) == caught_up
    finally:
        store.close()


def test_the_history_says_what_it_should(new_store):
    store = new_store()
    for record in HISTORY:
        store.put(*record)
    told = answers(store.index())
    calls = {int(call.id[:4], 16): call for call in told["calls"]}
    assert sorted(calls) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [calls[number].outcome for number in (1, 2, 3, 4)] == ["succeeded", "failed", "rejected", None]
    assert [calls[number].agent for number in (1, 2, 3, 4)] == ["ada", "eve", "ada", None]
    assert calls[2].decision == ALLOW and calls[4].session_id == "s7"
    assert [(calls[number].outcome, calls[number].attempt) for number in (8, 9, 10)] == [
        ("succeeded", 1), ("timed_out", 2), ("cancelled", 1),
    ]  # fmt: skip
    assert [calls[number].prompt for number in (8, 9, 10)] == ["epsilon", "zeta", None]
    assert [len(found) for found in told["origins"]] == [2, 0, 2, 1, 2, 0]
    assert [len(found) for found in told["runs by key"]] == [1, 0, 1]
    assert [(run.name, run.outcome) for run in told["runs"]] == [
        ("three", None), ("two", None), ("one", "succeeded"),
    ]  # fmt: skip
    assert [run.output for run in told["runs"]] == [None, None, "output"]


@pytest.mark.parametrize("records", [1, 2, 3, 5])
def test_batches_interrupted_anywhere_lose_and_double_nothing(new_store, monkeypatch, records):
    monkeypatch.setattr(catch_up, "BATCH_RECORDS", records)
    monkeypatch.setattr(catch_up, "FIRST_BATCH_RECORDS", records)

    class Interruption(Exception):
        pass

    def interrupt(_: int) -> None:
        raise Interruption

    store = new_store()
    for record in HISTORY:
        store.put(*record)
    index = store.index()
    for _ in range(len(HISTORY) // records):
        with pytest.raises(Interruption):
            index.refresh(interrupt)
    interrupted = answers(index)
    monkeypatch.undo()
    assert interrupted == answers(store.index())


@pytest.mark.parametrize("records", [1, 2, 5])
def test_an_index_filled_in_many_batches_is_the_same(new_store, monkeypatch, records):
    """A call begun in one and ended in another is found again."""
    store = new_store()
    for record in HISTORY:
        store.put(*record)
    expected = answers(store.index())
    monkeypatch.setattr(catch_up, "FIRST_BATCH_RECORDS", records)
    # On its own, as an index would get over an error by trying again.
    assert catch_up.CatchUp(database.Database(None), store.writer).run() is None
    assert answers(store.index()) == expected


def test_the_same_record_put_twice_is_one(new_store):
    """After a failed sync records are written again, elsewhere."""
    store = new_store()
    index = store.index()
    for _ in range(2):
        for record in HISTORY:
            store.put(*record)
        index.refresh()
    twice = answers(index)
    once = new_store()
    for record in HISTORY:
        once.put(*record)
    assert twice == answers(once.index())
