"""Runs looked at call by call: where one goes in circles, and how it went."""

import json

import pytest
from tests.index.conftest import call_id, request, run_id, us

from custody.errors import InvalidInput
from custody.index import Scope, loops
from custody.index.preview import RESULT_PREVIEW_CHARACTERS_MAX
from custody.records import CallStarted, Tokens, rfc3339

# -- loops ------------------------------------------------------------------------------------------------


def found_loops(store, *args, **options):
    return [
        (one.tool, one.repeats, one.first_position, one.last_position)
        for one in store.index().loops(*args, **options).items
    ]


def test_a_tool_called_again_and_again_with_equal_arguments_is_a_loop(store):
    store.start_run(1, agent="ada")
    said = [
        ("search", {"q": "a", "n": 1}), ("search", {"n": 1, "q": "a"}), ("search", {"q": "a", "n": 1}),
        ("search", {"q": "b"}), ("read", {"q": "b"}), ("search", {"q": "b"}), ("search", {"q": "b"}),
    ]  # fmt: skip
    for position, (tool, arguments) in enumerate(said):
        store.call(position, float(position), run=1, tool=tool, position=position, arguments=arguments)
        store.step(100 + position, 1, 50 + position)
    assert found_loops(store) == [("search", 3, 0, 2)]
    assert found_loops(store, repeats_min=2) == [("search", 3, 0, 2), ("search", 2, 5, 6)]
    assert found_loops(store, Scope(agent="bob")) == []
    answer = store.index().loops()
    (loop,) = answer.items
    assert (loop.run_id, loop.first_call_id, loop.last_call_id) == (
        run_id(1).hex(),
        call_id(0).hex(),
        call_id(2).hex(),
    )
    assert json.loads(loop.arguments) == {"q": "a", "n": 1}
    assert loop.by_outcome == {"succeeded": 3}
    assert (answer.complete, answer.runs_searched, answer.calls_compared) == (True, 1, 4)


def test_calls_in_several_runs_or_in_none_are_no_loop(store):
    store.start_run(1)
    store.start_run(2)
    for number, run in enumerate((1, 2, 1, 2, None, None, None)):
        store.call(number, float(number), run=run, arguments={"q": "a"})
    assert found_loops(store) == []


@pytest.mark.parametrize("mark", [{"$omitted": True, "bytes": 3}, {"$digest": "ff" * 32, "bytes": 3}])
def test_arguments_that_are_not_kept_are_not_called_equal(store, mark):
    store.start_run(1)
    for number in range(4):
        store.call(number, float(number), run=1, arguments=mark)
    assert found_loops(store) == []


def test_purged_arguments_are_not_called_equal(store):
    store.start_run(1)
    for number in range(4):
        store.put(CallStarted(call_id(number), us(number), 1, b"", request(number, run=1)), None)
    assert found_loops(store) == []


def test_large_arguments_are_equal_by_their_blobs_and_types_are_told_apart(store):
    store.start_run(1)
    for number in range(3):
        store.call(number, float(number), run=1, position=number, arguments=store.put_blob("y" * 9_000))
    for number, value in enumerate((1, True, 1.0), 3):
        store.call(number, float(number), run=1, position=number, arguments={"n": value})
    (loop,) = store.index().loops(repeats_min=3).items
    assert (loop.repeats, loop.arguments, loop.arguments_cut_characters) == (3, "y" * 4_000, 5_000)


def test_loops_beyond_the_bounds_are_not_looked_for_and_it_says_so(store, monkeypatch):
    for run in (1, 2):
        store.start_run(run, float(run))
        for number in range(4):
            store.call(run * 10 + number, run + number / 10, run=run, position=number, arguments="same")
    index = store.index()
    assert (len(index.loops().items), index.loops().complete) == (2, True)
    assert (len(index.loops(limit=1).items), index.loops(limit=1).complete) == (1, False)
    monkeypatch.setattr(loops, "RUNS_MAX", 1)
    only = index.loops()
    assert ([one.run_id for one in only.items], only.complete, only.runs_searched) == (
        [run_id(2).hex()], False, 1,
    )  # fmt: skip
    monkeypatch.undo()
    monkeypatch.setattr(loops, "CALLS_MAX", 7)
    cut = index.loops()
    assert ([one.repeats for one in cut.items], cut.complete, cut.calls_compared) == ([4, 3], False, 7)
    monkeypatch.setattr(loops, "CALLS_MAX", 4)
    cut = index.loops()
    assert ([one.repeats for one in cut.items], cut.complete) == ([4], False)
    with pytest.raises(InvalidInput):
        index.loops(repeats_min=1)


# -- the timeline -----------------------------------------------------------------------------------------


def line(store, run="a1", **options):
    return [(one.kind, one.position) for one in store.index().timeline(run, **options).items]


def test_a_timeline_has_every_call_step_and_event_in_order(store):
    store.start_run(1, agent="ada")
    store.step(
        50, 1, 0, 1.0, "let me look", model="large", tokens=Tokens(5), cost_nano_usd=9, model_us=70,
        calls=[{"name": "search"}],
    )  # fmt: skip
    store.call(
        1, 2.0, run=1, position=1, tool="search", arguments={"q": "a"}, result={"hits": 3}, latency_us=8,
        step_id=call_id(50),
    )  # fmt: skip
    store.event(90, "app.note", 2.5, {"n": 1}, run_id=run_id(1), call_id=call_id(1))
    store.event(91, "recovery.reaped", 3.5, call_id=call_id(2))
    store.call(
        2, 3.0, "failed", run=1, position=2, error={"type": "E", "message": "no"}, parent_id=call_id(1)
    )
    store.call(3, 2.0, run=2)
    step, call, event, second, reaped = store.index().timeline("a1").items
    assert [one.kind for one in (step, call, event, second, reaped)] == [
        "step", "call", "event", "call", "event",
    ]  # fmt: skip
    assert (step.name, step.agent, step.latency_us, step.tokens, step.cost_nano_usd) == (
        "large", "ada", 70, Tokens(5), 9,
    )  # fmt: skip
    assert (step.preview, json.loads(step.arguments)) == ("let me look", [{"name": "search"}])
    assert (call.name, call.outcome, call.latency_us, call.step_id) == ("search", "succeeded", 8, step.id)
    assert (json.loads(call.arguments), json.loads(call.preview)) == ({"q": "a"}, {"hits": 3})
    assert (event.name, event.parent_id, event.at, json.loads(event.preview)) == (
        "app.note", call.id, rfc3339(us(2.5)), {"n": 1},
    )  # fmt: skip
    assert (second.parent_id, json.loads(second.preview)) == (call.id, {"type": "E", "message": "no"})
    assert (reaped.name, reaped.parent_id) == ("recovery.reaped", second.id)


def test_a_position_goes_before_the_clock(store):
    store.start_run(1)
    for number, (position, at) in enumerate([(0, 5.0), (1, 3.0), (2, 6.0), (None, 5.5)]):
        store.call(number, at, run=1, position=position)
    store.event(90, "app.note", 4.0, run_id=run_id(1))
    assert line(store) == [("event", None), ("call", 0), ("call", 1), ("call", None), ("call", 2)]


def test_a_preview_is_cut_and_counts_what_is_cut(store):
    store.start_run(1)
    store.call(1, 1.0, run=1, position=0, arguments="é" * 4_001, result="x" * RESULT_PREVIEW_CHARACTERS_MAX)
    (call,) = store.index().timeline("a1").items
    assert (call.arguments, call.arguments_cut_characters) == ("é" * 4_000, 1)
    assert (len(call.preview), call.preview_cut_characters) == (4_000, 0)


def test_a_long_timeline_comes_in_pages(store):
    store.start_run(1)
    store.start_run(2)
    for number in range(5):
        store.call(number, float(number), run=1, position=number)
    index = store.index()
    seen, cursor = [], None
    for _ in range(3):
        page = index.timeline("a1", limit=2, cursor=cursor)
        seen += [one.position for one in page.items]
        cursor = page.next
    assert (seen, cursor) == ([0, 1, 2, 3, 4], None)
    cursor = index.timeline("a1", limit=2).next
    for run, limit, bad in (("a2", 2, cursor), ("a1", 2, "x"), ("a1", 0, None)):
        with pytest.raises(InvalidInput):
            index.timeline(run, limit=limit, cursor=bad)


def test_a_running_call_and_a_refused_one_say_what_is_known(store):
    store.start_run(1)
    store.start_call(1, 1.0, run=1, position=0)
    store.reject_call(2, 2.0, run=1, position=1)
    running, rejected = store.index().timeline("a1").items
    assert (running.outcome, running.preview, running.latency_us) == (None, None, None)
    assert (rejected.outcome, rejected.preview) == ("rejected", "denied")
