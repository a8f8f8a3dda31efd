"""Questions over many runs and calls: what was used, what fails, what goes in circles, what is silent."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.index.conftest import ALLOW, BEGIN_US, Store, call_id, request, run_id, us

from custody.errors import Ambiguous, InvalidInput, NotFound
from custody.index import CallFilter, RunFilter, Scope, relatives
from custody.records import CallAnswered, CallAsked, CallStarted, Tokens, rfc3339

SECOND = 1_000_000


def numbers(runs):
    """Which runs, by the number they were made with."""
    return [int(run.id[:2], 16) - 0xA0 for run in runs]


@pytest.mark.parametrize(
    "ask",
    [
        lambda index: index.last_runs().items,
        lambda index: index.silent_runs(0).items,
        lambda index: index.usage().groups,
        lambda index: index.tool_rates(),
        lambda index: index.failure_patterns().items,
        lambda index: index.loops().items,
        lambda index: index.slowest(),
    ],
)
def test_an_empty_store_answers_with_nothing(store, ask):
    assert ask(store.index()) == []


@pytest.mark.parametrize("ask", ["children", "ancestors", "timeline"])
def test_a_run_that_is_not_there_is_not_found_and_none_is_an_empty_list(store, ask):
    store.start_run(1, parent_run_id=run_id(9))
    store.start_run(2)
    index = store.index()
    assert getattr(index, ask)("a1").items == []
    for text in ("ffff", "nobody", run_id(9).hex()):
        with pytest.raises(NotFound):
            getattr(index, ask)(text)
    with pytest.raises(Ambiguous):
        getattr(index, ask)("a")


# -- runs among themselves --------------------------------------------------------------------------------


@pytest.fixture
def family(store):
    """1 has 2 and 3, 2 has 4, 4 has 5."""
    for number, parent in ((1, None), (2, 1), (3, 1), (4, 2), (5, 4)):
        store.start_run(number, float(number), parent_run_id=parent and run_id(parent))
    return store


def test_children_are_of_one_generation_or_all(family):
    index = family.index()
    assert numbers(index.children("a1").items) == [2, 3]
    assert numbers(index.children("a1", recursive=True).items) == [2, 3, 4, 5]
    assert numbers(index.children("a3", recursive=True).items) == []
    assert index.children("a1").complete


def test_ancestors_come_nearest_first(family):
    index = family.index()
    assert numbers(index.ancestors("a5").items) == [4, 2, 1]
    assert numbers(index.ancestors("a1").items) == []


def test_runs_that_are_each_others_parents_end_the_chain(store):
    """A parent is what a caller said it is."""
    for number, parent in ((1, 3), (2, 1), (3, 2), (4, 4), (5, 3)):
        store.start_run(number, float(number), parent_run_id=run_id(parent))
    index = store.index()
    assert numbers(index.children("a1", recursive=True).items) == [2, 3, 5]
    assert numbers(index.ancestors("a1").items) == [3, 2]
    assert numbers(index.ancestors("a5").items) == [3, 2, 1]
    assert numbers(index.children("a4").items) == numbers(index.ancestors("a4").items) == []


def test_a_family_that_is_too_large_is_cut_and_says_so(family, monkeypatch):
    monkeypatch.setattr(relatives, "RUNS_MAX", 2)
    index = family.index()
    cut = index.children("a1", recursive=True)
    assert (numbers(cut.items), cut.complete) == ([2, 3], False)
    cut = index.ancestors("a5")
    assert (numbers(cut.items), cut.complete) == ([4, 2], False)
    assert index.children("a1").complete


@given(st.lists(st.none() | st.integers(0, 7), min_size=8, max_size=8))
def test_whatever_is_said_of_parents_every_chain_ends(parents):
    store = Store(None)
    try:
        for number, parent in enumerate(parents):
            store.start_run(number, float(number), parent_run_id=None if parent is None else run_id(parent))
        index = store.index()
        for number in range(8):
            below = numbers(index.children(run_id(number).hex(), recursive=True).items)
            above = numbers(index.ancestors(run_id(number).hex()).items)
            assert len(set(below)) == len(below) and len(set(above)) == len(above)
            assert number not in below and number not in above
            for one in below:
                assert number in numbers(index.ancestors(run_id(one).hex()).items)
    finally:
        store.close()


def test_the_last_run_of_each_agent_or_name(store):
    for number, agent, name in ((1, "ada", "x"), (2, "bob", "x"), (3, "ada", "y"), (4, None, None)):
        store.start_run(number, float(number), agent=agent, name=name)
    index = store.index()
    assert numbers(index.last_runs().items) == [4, 3, 2]
    assert numbers(index.last_runs("name").items) == [4, 3, 2]
    assert numbers(index.last_runs(filter=RunFilter(until_us=us(3), agent="ada")).items) == [1]
    assert numbers(index.last_runs(filter=RunFilter(agent="nobody")).items) == []
    with pytest.raises(InvalidInput):
        index.last_runs("mood")


def silent(store, seconds, now=100.0, **fields):
    found = store.index().silent_runs(round(seconds * SECOND), RunFilter(**fields), now_us=us(now)).items
    return dict(zip(numbers(one.run for one in found), found, strict=True))


def test_runs_nothing_was_recorded_of_for_so_long_are_silent(store):
    for number in range(1, 8):
        store.start_run(number, 0.0, agent="ada" if number < 7 else "bob")
    store.finish_run(1, 1.0)
    store.call(2, 50.0, run=2)  # ends half a second later
    store.step(53, 3, 0, 60.0)
    store.event(54, "app.note", 70.0, run_id=run_id(4))
    store.start_call(5, 99.0, run=5)
    store.start_call(6, 10.0, run=6)
    found = silent(store, 20.0)
    assert [*found] == [7, 6, 2, 3, 4]
    assert [(one.last_sign_at, one.silent_us, one.running_calls) for one in found.values()] == [
        (rfc3339(us(at)), round((100 - at) * SECOND), running)
        for at, running in ((0.0, 0), (10.0, 1), (50.5, 0), (60.0, 0), (70.0, 0))
    ]
    assert [*silent(store, 45.0)] == [7, 6, 2]
    assert [*silent(store, 45.0, agent="bob")] == [7]
    assert silent(store, 20.0, outcome="failed") == {}
    with pytest.raises(InvalidInput):
        store.index().silent_runs(-1)


def test_an_answer_to_an_ask_is_a_sign_of_life(store):
    for number in (1, 2, 3):
        store.start_run(number, 0.0)
        store.put(CallAsked(call_id(number), request(1.0, run=number), b""), {})
    store.put(CallAnswered(call_id(2), us(90), ALLOW, b""), {})
    store.put(CallAnswered(call_id(3), us(20), ALLOW, b""), {})
    store.put(CallStarted(call_id(3), us(30), 1, b""), {})
    assert {number: one.last_sign_at for number, one in silent(store, 50.0).items()} == {
        1: rfc3339(us(1)),
        3: rfc3339(us(30)),
    }


# -- usage ------------------------------------------------------------------------------------------------


@pytest.fixture
def used(store):
    store.start_run(1, 0.0, agent="ada", caller="kim", session_id="s")
    store.start_run(2, 0.0, agent="bob")
    store.step(50, 1, 0, 1.0, model="large", tokens=Tokens(100, 10), cost_nano_usd=30)
    store.step(51, 1, 3, 3.0, model="large", tokens=Tokens(7))
    store.step(52, 2, 0, 2 * 86_400.0, requested_model="small", agent="eve")
    store.call(1, 1.0, run=1, tool="search", step_id=call_id(50))
    store.call(2, 2.0, run=1, tool="search", step_id=call_id(50))
    store.call(3, 2.0, run=1, tool="write", step_id=call_id(50))
    store.reject_call(4, 3.0, run=2, tool="write", step_id=call_id(52))
    store.start_call(5, 4.0, tool="other")
    return store


def groups(store, by, **scope):
    """Key -> calls, steps, input tokens, output tokens, cost, steps without tokens and cost."""
    report = store.index().usage(by, Scope(**scope))
    return {
        one.key: (
            one.calls, one.steps, one.input_tokens, one.output_tokens, one.cost_nano_usd,
            one.steps_without_tokens, one.steps_without_cost,
        )
        for one in report.groups
    }  # fmt: skip


def test_usage_is_added_up_by_one_thing(used):
    assert groups(used, "agent") == {
        "ada": (3, 2, 107, 10, 30, 0, 1),
        "eve": (0, 1, None, None, None, 1, 1),
        "bob": (1, 0, 0, 0, 0, 0, 0),
        None: (1, 0, 0, 0, 0, 0, 0),
    }
    assert groups(used, "caller") == {
        "kim": (3, 2, 107, 10, 30, 0, 1),
        None: (2, 1, None, None, None, 1, 1),
    }
    assert groups(used, "model") == {
        "large": (3, 2, 107, 10, 30, 0, 1),
        "small": (1, 1, None, None, None, 1, 1),
        None: (1, 0, 0, 0, 0, 0, 0),
    }
    assert [*groups(used, "run")] == [run_id(1).hex(), None, run_id(2).hex()]
    assert groups(used, "day") == {
        "2026-09-21": (5, 2, 107, 10, 30, 0, 1),
        "2026-09-23": (0, 1, None, None, None, 1, 1),
    }
    assert groups(used, "session")["s"] == (3, 2, 107, 10, 30, 0, 1)


def test_a_step_that_asked_for_two_tools_counts_for_both_and_once_in_the_total(used):
    assert groups(used, "tool") == {
        "write": (2, 2, 100, 10, 30, 1, 1),
        "search": (2, 1, 100, 10, 30, 0, 0),
        None: (0, 1, 7, None, None, 0, 1),
        "other": (1, 0, 0, 0, 0, 0, 0),
    }
    total = used.index().usage("tool").total
    assert (total.calls, total.steps, total.input_tokens, total.cost_nano_usd) == (5, 3, 107, 30)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"agent": "ada"}, (3, 2)),
        ({"agent": "bob"}, (1, 0)),
        ({"agent": "eve"}, (0, 1)),
        ({"agent": "nobody"}, (0, 0)),
        ({"caller": "kim"}, (3, 2)),
        ({"session": "s"}, (3, 2)),
        ({"workspace": "/w"}, (0, 0)),
        ({"run": "a2"}, (1, 1)),
        ({"since_us": us(2), "until_us": us(3)}, (2, 0)),
        ({"until_us": us(2)}, (1, 1)),
    ],
)
def test_usage_is_of_whom_and_when_one_asks(used, scope, expected):
    total = used.index().usage("model", Scope(**scope)).total
    assert (total.calls, total.steps) == expected


def test_usage_of_more_groups_than_asked_for_says_so(used):
    report = used.index().usage("agent", limit=1)
    assert ([one.key for one in report.groups], report.complete) == (["ada"], False)
    for by, limit in (("mood", 1), ("agent", 0), ("agent", 1_001)):
        with pytest.raises(InvalidInput):
            used.index().usage(by, limit=limit)


def test_a_day_beyond_any_calendar_is_no_error(store):
    store.start_run(1)
    store.step(50, 1, 0, 2.0**42)
    assert [one.key for one in store.index().usage("day").groups] == [None]


# -- tools and failures -----------------------------------------------------------------------------------


def test_rates_are_of_calls_that_ran_and_ended(store):
    for number, outcome in enumerate(("succeeded", "failed", "timed_out", "cancelled", "unknown"), 1):
        store.call(number, number, outcome, tool="mixed", latency_us=number)
    store.reject_call(6, 6.0, tool="mixed")
    store.start_call(7, 7.0, tool="mixed")
    store.call(8, 8.0, tool="fine")
    store.call(9, 9.0, tool="fine")
    store.reject_call(10, 6.0, tool="never")
    index = store.index()
    assert [(one.tool, one.calls, one.success_rate) for one in index.tool_rates()] == [
        ("mixed", 7, 0.25),
        ("fine", 2, 1.0),
        ("never", 1, None),
    ]
    assert [one.tool for one in index.tool_rates(calls_min=2)] == ["mixed", "fine"]
    assert [one.tool for one in index.tool_rates(CallFilter(since_us=us(7)))] == ["fine", "mixed"]
    assert {one.tool: one for one in index.tool_rates()} == {one.tool: one for one in index.stats().tools}


def test_the_slowest_calls_are_those_whose_execution_took_longest(store):
    for number, latency_us in ((1, 5), (2, 900), (3, None), (4, 50)):
        store.call(number, number, tool="a" if number < 4 else "b", latency_us=latency_us)
    index = store.index()
    assert [call.latency_us for call in index.slowest()] == [900, 50, 5]
    assert [call.latency_us for call in index.slowest(limit=1)] == [900]
    assert [call.latency_us for call in index.slowest(CallFilter(tool="b"))] == [50]
    assert index.slowest(CallFilter(text="nothing")) == []
    with pytest.raises(InvalidInput):
        index.slowest(limit=0)


def failed(store, number, at, message, tool="net", outcome="failed", kind="Timeout", **fields):
    error = {"type": kind, "message": message}
    store.call(number, at, outcome, tool=tool, error=error, reason=kind, **fields)


def test_failures_that_are_alike_are_one_pattern(store):
    store.start_run(1, agent="ada")
    failed(store, 1, 1.0, "timeout after 31 s for /a/b", run=1)
    failed(store, 2, 5.0, "timeout after 7 s for /c")
    failed(store, 3, 3.0, "timeout after 9 s for /d", outcome="timed_out")
    failed(store, 4, 4.0, "timeout after 9 s for /d", tool="other")
    failed(store, 5, 4.0, "refused", tool="net")
    store.call(6, 6.0, "failed", tool="sh", reason="exit code 7")
    store.call(7, 7.0, "failed", tool="sh", reason="exit code 9")
    store.call(8, 8.0, tool="net", error={"message": "not wrong"})
    store.reject_call(9, 9.0, tool="net")
    index = store.index()
    found = index.failure_patterns()
    assert [(one.tool, one.pattern, one.count) for one in found.items] == [
        ("net", "Timeout: timeout after <n> s for <path>", 3),
        ("sh", "exit code <n>", 2),
    ]
    first, second = found.items
    assert (first.first_at, first.last_at) == (rfc3339(us(1)), rfc3339(us(5)))
    assert (first.example_id, first.example_message) == (call_id(2).hex(), "timeout after 7 s for /c")
    assert first.by_outcome == {"failed": 2, "timed_out": 1}
    assert (second.example_message, found.complete) == ("exit code 9", True)


def test_failure_patterns_take_filters_and_bounds(store):
    store.start_run(1, agent="ada")
    failed(store, 1, 1.0, "no 1", run=1)
    failed(store, 2, 2.0, "no 2")
    failed(store, 3, 3.0, "gone")
    index = store.index()
    assert [one.count for one in index.failure_patterns(count_min=1).items] == [2, 1]
    assert [one.count for one in index.failure_patterns(CallFilter(agent="ada"), count_min=1).items] == [1]
    assert [one.count for one in index.failure_patterns(CallFilter(text="gone"), count_min=1).items] == [1]
    cut = index.failure_patterns(count_min=1, limit=1)
    assert ([one.count for one in cut.items], cut.complete) == ([2], False)
    for bad in ({"count_min": 0}, {"limit": 0}):
        with pytest.raises(InvalidInput):
            index.failure_patterns(**bad)


def test_a_long_message_is_cut_and_a_large_one_comes_out_of_its_blob(store):
    blob = store.put_blob({"type": "E", "message": "x" * 5_000})
    store.call(1, 1.0, "failed", error=blob)
    (one,) = store.index().failure_patterns(count_min=1).items
    assert one.pattern.startswith("E: xxx")
    assert (one.example_message, one.example_cut_characters) == ("x" * 4_000, 1_000)


def test_the_pattern_of_a_purged_failure_is_its_reason(store):
    store.start_call(1)
    store.finish_call(1, outcome="failed", error={"$blob": "00" * 32, "bytes": 3}, reason="Timeout")
    (one,) = store.index().failure_patterns(count_min=1).items
    assert (one.pattern, one.example_message) == ("Timeout", "Timeout")


# -- all of them ----------------------------------------------------------------------------------------


def test_runs_are_filtered_by_why_they_ended(store):
    store.start_run(1)
    store.start_run(2)
    store.finish_run(1, outcome="failed", reason="budget_exceeded")
    index = store.index()
    assert numbers(index.runs(RunFilter(reason="budget_exceeded")).items) == [1]
    assert numbers(index.runs(RunFilter(reason="killed")).items) == []


def test_every_answer_is_json(used):
    index = used.index()
    failed(used, 9, 1.0, "no 1")
    for answer in (
        index.usage(), index.tool_rates(), index.failure_patterns(count_min=1), index.loops(),
        index.slowest(), index.last_runs(), index.silent_runs(0, now_us=BEGIN_US * 2), index.timeline("a1"),
        index.children("a1"), index.run_steps(run_id(1)),
    ):  # fmt: skip
        assert msgspec.json.encode(answer)


def test_a_list_takes_the_fields_of_its_filter_by_name_and_refuses_others(store: Store):
    index = store.index()
    assert index.runs(caller="nobody").items == []
    assert index.calls(tool="nothing", outcome="failed").items == []
    with pytest.raises(InvalidInput, match="RunFilter has no colour"):
        index.runs(colour="red")
