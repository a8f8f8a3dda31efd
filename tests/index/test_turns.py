"""The turns of a run: what each came from, those told of only afterwards, and the pages they are read in."""

import pytest
from tests.index.conftest import Store, call_id, request, run_id, us

from custody.errors import InvalidInput
from custody.index import CallFilter, RunFilter
from custody.records import CallFinished, CallStarted, Decision, rfc3339

ORIGIN = {"proposal_id": "p1", "action_id": "a1", "attempt": 2, "connection": "0123456789abcdef"}


def numbers(calls):
    return sorted(int(call.id[:4], 16) for call in calls)


# -- what they came from --------------------------------------------------------------------------------


@pytest.fixture
def proposed(store):
    """One proposal with a retried action and a second one, then another proposal that uses its ids again."""
    store.start_run(1, external_id="key-1")
    store.call(1, 1.0, "failed", run=1, error={"type": "E", "message": "no 1"}, latency_us=5, **ORIGIN)
    store.call(2, 2.0, run=1, latency_us=6, **ORIGIN | {"attempt": 3})
    store.call(3, 3.0, run=1, latency_us=7, **ORIGIN | {"action_id": "a2", "attempt": 1})
    store.call(4, 4.0, tool="net", latency_us=8, **ORIGIN | {"proposal_id": "p2", "connection": "c2"})
    store.call(5, 5.0, latency_us=9)
    return store


def test_a_call_says_what_it_came_from(proposed):
    call = proposed.index().call("0001")
    assert {name: getattr(call, name) for name in ORIGIN} == ORIGIN
    alone = proposed.index().call("0005")
    assert {getattr(alone, name) for name in ORIGIN} == {None}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"proposal_id": "p1"}, [1, 2, 3]),
        ({"proposal_id": "p2"}, [4]),
        ({"proposal_id": "p3"}, []),
        ({"action_id": "a1"}, [1, 2, 4]),
        ({"action_id": "a1", "proposal_id": "p1"}, [1, 2]),
        ({"attempt": 2}, [1, 4]),
        ({"attempt": 3, "run": run_id(1).hex()}, [2]),
        ({"attempt": 9}, []),
        ({"connection": "c2"}, [4]),
        ({"connection": "nobody's"}, []),
        ({"connection": ORIGIN["connection"], "outcome": "succeeded"}, [2, 3]),
        ({"proposal_id": "p2", "text": "net"}, [4]),
    ],
)
def test_calls_are_filtered_by_what_they_came_from_in_every_answer(proposed, fields, expected):
    asked, index = CallFilter(**fields), proposed.index()
    assert numbers(index.calls(asked).items) == expected
    assert numbers(index.slowest(asked)) == expected
    assert index.stats(asked).calls == len(expected)
    failures = index.failure_patterns(asked, count_min=1).items
    assert sum(one.count for one in failures) == expected.count(1)


@pytest.mark.parametrize("attempt", [0, -1, 2**63])
def test_an_attempt_that_cannot_be_is_refused(proposed, attempt):
    with pytest.raises(InvalidInput, match="counted from 1"):
        proposed.index().calls(attempt=attempt)


def test_a_run_is_found_by_the_id_another_system_gave_it(proposed):
    index = proposed.index()
    proposed.start_run(2, 2.0, external_id="key-1", agent="eve")
    proposed.start_run(3, 3.0, external_id="key-2")
    found = index.runs(external_id="key-1").items
    assert [run.id for run in found] == [run_id(2).hex(), run_id(1).hex()]
    assert [run.id for run in index.runs(external_id="key-1", agent="eve").items] == [run_id(2).hex()]
    assert index.runs(RunFilter(external_id="key")).items == []


def test_what_a_decision_was_about_is_shown(store):
    no = Decision("deny", "rule", "not there", rule="no_production", param="host")
    store.put(CallFinished(call_id(1), us(1), "rejected", b"", request(1.0, decision=no)), {})
    assert store.index().call("0001").decision == no


# -- told afterwards ------------------------------------------------------------------------------------


def told_in_full(store: Store):
    store.start_run(1)
    store.told_call(
        1, 5.0, 4.0, "failed", run=1, position=0, tool="drive_cli", passed=False, **ORIGIN,
        said={"prompt": "paint the shed", "arguments": {"cli": "x"}, "result": {"exit_code": 3},
              "error": {"type": "E", "message": "no 12"}},
    )  # fmt: skip
    return store.index()


def test_a_call_told_of_afterwards_is_one_that_ended(store):
    index = told_in_full(store)
    call = index.call("0001")
    assert (call.outcome, call.passed, call.source, call.position) == ("failed", False, "observed", 0)
    assert (call.asked_at, call.started_at, call.finished_at) == (
        rfc3339(us(4)), rfc3339(us(4)), rfc3339(us(5)),
    )  # fmt: skip
    assert (call.latency_us, call.monotonic_start_ns, call.queue_us) == (None, None, None)
    assert (call.prompt, call.arguments, call.result) == (
        "paint the shed", {"cli": "x"}, {"exit_code": 3},
    )  # fmt: skip
    assert {name: getattr(call, name) for name in ORIGIN} == ORIGIN


def test_a_call_told_of_afterwards_is_counted_and_found_as_any_other(store):
    index = told_in_full(store)
    run = index.run(run_id(1).hex())
    assert (run.calls_by_outcome, run.totals.calls) == ({"failed": 1}, 1)
    (tool,) = index.stats().tools
    assert (tool.by_outcome, tool.success_rate, tool.latency_p50_us) == ({"failed": 1}, 0.0, None)
    assert index.open_calls() == [] and index.slowest() == []
    (entry,) = index.timeline(run_id(1).hex()).items
    assert (entry.kind, entry.outcome, entry.latency_us) == ("call", "failed", None)
    for word in ("shed", "drive_cli", "no"):
        assert numbers(index.calls(text=word).items) == [1]
    (pattern,) = index.failure_patterns(count_min=1).items
    assert pattern.pattern == "E: no <n>"
    rows = index.sql("SELECT outcome, latency_us, payload(id) ->> '$.prompt' FROM calls").rows
    assert rows == [["failed", None, "paint the shed"]]


def test_a_start_that_turns_up_later_says_when_it_started(store):
    index = told_in_full(store)
    index.refresh()
    store.put(CallStarted(call_id(1), us(4.5), 7, b""), {})
    call = index.call("0001")
    assert (call.started_at, call.outcome, call.prompt) == (rfc3339(us(4.5)), "failed", "paint the shed")


def test_a_prompt_that_was_not_kept_as_text_is_unknown(store):
    store.start_call(1)
    store.put(CallStarted(call_id(2), us(1), 7, b"", request(1.0)), {"prompt": {"$omitted": True}})
    large = store.put_blob("paint " * 10_000)
    store.put(CallStarted(call_id(3), us(2), 7, b"", request(2.0)), {"prompt": large})
    index = store.index()
    assert [index.call(f"000{number}").prompt for number in (1, 2, 3)] == [None, None, "paint " * 10_000]


# -- pages ----------------------------------------------------------------------------------------------


@pytest.fixture
def long(store):
    """Positions 0..29: every third is a step, call 13 is running, and one call has no position."""
    store.start_run(1)
    for position in range(30):
        if position % 3 == 2:
            store.step(100 + position, 1, position, position)
        elif position == 13:
            store.start_call(14, 13.0, run=1, position=13)
        else:
            store.call(position + 1, 100.0 - position, run=1, position=position)
    store.call(90, 90.0, run=1)
    store.start_run(2)
    store.call(91, 91.0, run=2, position=5)
    return store


@pytest.mark.parametrize("ask", ["run_calls", "run_steps"])
@pytest.mark.parametrize("limit", [1, 4, 1_000])
def test_pages_of_turns_join_without_gap_or_overlap(long, ask, limit):
    read = getattr(long.index(), ask)
    found: list[int] = []
    while page := read(run_id(1), after_position=found[-1] if found else -1, limit=limit):
        assert len(page) <= limit
        found += [turn.position for turn in page]
    is_step = ask == "run_steps"
    assert found == [position for position in range(30) if (position % 3 == 2) == is_step]


def test_all_of_a_run_at_once_includes_what_has_no_position(long):
    assert [call.position for call in long.index().run_calls(run_id(1))][-2:] == [28, None]


def test_a_page_of_turns_has_a_bound(long):
    index = long.index()
    for limit in (0, 1_001):
        with pytest.raises(InvalidInput):
            index.run_calls(run_id(1), after_position=-1, limit=limit)
    assert index.run_calls(run_id(1), after_position=2**70) == []
    assert len(index.run_steps(run_id(1), after_position=-(2**70))) == 10
    assert index.run_calls(run_id(7), after_position=-1) == []


def test_the_first_turn_that_has_not_ended_is_known(long):
    index = long.index()
    assert index.first_unfinished(run_id(1)) == 13
    assert index.first_unfinished(run_id(2)) is None
    assert index.first_unfinished(run_id(7)) is None
    long.start_call(80, 200.0, run=1, position=30)
    long.start_call(81, 200.0, run=1)
    assert index.first_unfinished(run_id(1)) == 13
    long.finish_call(14, 201.0)
    assert index.first_unfinished(run_id(1)) == 30
    long.finish_call(80, 202.0)
    assert index.first_unfinished(run_id(1)) is None


def test_a_page_is_read_without_looking_at_the_rest_of_the_run(long):
    """A trace is read in pages while it grows: each must cost what it holds."""
    from custody.index.database import SQL

    index = long.index()
    index.refresh()
    database = index._upkeep._opened()[0]
    for name, wanted in (
        ("run_calls_after", "calls_by_position (run=? AND position>?)"),
        ("run_steps_after", "steps_by_run (run=? AND position>?)"),
        ("first_unfinished", "calls_unfinished (run=?"),
        ("max_position", "calls_by_position (run=?)"),
    ):
        values = (run_id(1), 3, 5)[: SQL[name].count("?")]
        plan = "\n".join(row[-1] for row in database.query(f"EXPLAIN QUERY PLAN {SQL[name]}", values))
        assert wanted in plan, plan
