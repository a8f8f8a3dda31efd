"""Spans of other programs as they stand on the record: what of them, once, in whatever order they came."""

import asyncio
import json
import random
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.bridges.collector import HttpCollector, collecting
from tests.bridges.spans_told import ERROR, OK, Told, Trace, as_json, gen_ai, receiving, request_of, tool
from tests.redaction.rule_examples import github

from custody.bridges.otel.received import LOCAL_QUIET_SECONDS, QUIET_SECONDS
from custody.bridges.otel.told_trace import OTHERS_ID, OTHERS_RUN
from custody.bridges.otel.wire import BadRequest, parsed

REMOTE = 0x300


@pytest.fixture
def told():
    with receiving() as told:
        yield told


def an_agent_at_work() -> Trace:
    """One turn of a model, which asks for two calls, one of which fails."""
    trace = Trace()
    said = [
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "Let me look."},
                {"type": "tool_call", "id": "c1", "name": "search", "arguments": {"q": "shoes"}},
            ],
        }
    ]
    trace.span(
        "turn",
        gen_ai("chat", **{
            "request.model": "claude-x", "response.model": "claude-x-1", "response.id": "msg_1",
            "usage.input_tokens": 30, "usage.output_tokens": 7, "usage.cache_read.input_tokens": 10,
            "response.finish_reasons": ["tool_use"], "output.messages": json.dumps(said),
        }),
        under="agent", at_ms=10, ms=20,
    )  # fmt: skip
    trace.span(
        "search",
        tool("search", **{"tool.call.id": "c1", "tool.call.arguments": '{"q": "shoes"}'})
        | {"gen_ai.tool.call.result": "[3]"},
        under="agent", at_ms=40, ms=5,
    )  # fmt: skip
    trace.span(
        "pay", tool("pay") | {"error.type": "shop.CardError"},
        under="agent", at_ms=50, ms=2, status=ERROR, message="declined", raised=("CardError", "declined"),
    )  # fmt: skip
    trace.span(
        "agent", gen_ai("invoke_agent", **{"agent.name": "shopper", "conversation.id": "monday"}), ms=100
    )
    return trace


def test_a_trace_is_a_run_with_its_steps_and_calls(told: Told):
    trace = an_agent_at_work()
    received = told.tell(*trace.spans)
    run = told.run
    assert (received.recorded, received.known, received.left_out, received.rejected) == (4, 0, {}, {})
    assert (run.id, run.outcome, run.agent, run.session_id) == (
        trace.id.hex(),
        "succeeded",
        "shopper",
        "monday",
    )
    assert (run.door, run.client, run.duration_us, run.intent) == ("otel", "shop", 100_000, "agent")
    (step,) = told.steps()
    assert (step.id, step.position, step.model) == (trace.ids["turn"].hex(), 0, "claude-x-1")
    assert (step.requested_model, step.finish_reason, step.model_us) == ("claude-x", "tool_use", 20_000)
    assert (step.tokens.input, step.tokens.output, step.tokens.cache_read) == (30, 7, 10)
    assert (step.text, step.requested, step.external_id) == ("Let me look.", ("search",), "msg_1")
    calls = told.calls()
    search, pay = calls["search"], calls["pay"]
    assert (search.id, search.position, search.source) == (trace.ids["search"].hex(), 1, "imported")
    assert (search.arguments, search.result, search.external_id) == ({"q": "shoes"}, "[3]", "c1")
    assert (search.outcome, search.latency_us, search.agent) == ("succeeded", 5_000, "shopper")
    assert (search.decision.verdict, search.decision.by) == ("allow", "nobody")
    assert (pay.outcome, pay.error) == ("failed", {"type": "shop.CardError", "message": "declined"})


def test_what_came_before_adds_nothing(told: Told):
    trace = an_agent_at_work()
    told.tell(*trace.spans)
    before = told.runtime.journal.last_sequence(1)
    again = told.tell(*trace.spans, *trace.spans)
    assert (again.recorded, again.known) == (0, 8)
    assert told.runtime.journal.last_sequence(1) == before


def test_nor_does_it_after_a_restart(tmp_path):
    trace = an_agent_at_work()
    with receiving(str(tmp_path / "store")) as told:
        assert told.tell(*trace.spans[:2]).recorded == 2
    with receiving(str(tmp_path / "store")) as told:
        assert told.tell(*trace.spans).recorded == 2
    with receiving(str(tmp_path / "store")) as told:
        assert told.tell(*trace.spans).recorded == 0
        assert (told.run.outcome, told.run.agent, len(told.steps())) == ("succeeded", "shopper", 1)
        assert sorted(call.position for call in told.calls().values()) == [1, 2]


def story(told: Told) -> Any:
    """What is on the record of the only run, but for positions, which are those of coming."""
    run, calls = told.run, told.runtime.index.run_calls(bytes.fromhex(told.run.id))
    ids = {call.id for call in calls}
    return (
        (run.outcome, run.agent, run.session_id, run.started_at, run.finished_at, run.intent),
        sorted((call.id, call.tool, call.outcome, call.started_at, call.latency_us) for call in calls),
        sorted((call.id, call.parent_id) for call in calls if call.parent_id in ids),
        sorted((step.id, step.at, step.text) for step in told.steps()),
    )


def nested() -> Trace:
    trace = an_agent_at_work()
    trace.span("helper", gen_ai("invoke_agent", **{"agent.name": "helper"}), under="agent", at_ms=60, ms=30)
    trace.span("lookup", tool("lookup"), under="helper", at_ms=65)
    trace.span("again", tool("again"), under="helper", at_ms=70)
    return trace


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(1, 6), max_size=4))
def test_any_order_in_any_batches_tells_the_same_story(seed: int, cuts: set[int]):
    trace = nested()
    with receiving() as whole:
        whole.tell(*trace.spans)
        expected = story(whole)
    shuffled = list(trace.spans)
    random.Random(seed).shuffle(shuffled)
    ends = [0, *sorted(cuts), len(shuffled)]
    with receiving() as told:
        for start, end in pairwise(ends):
            told.tell(*shuffled[start:end])
        assert story(told) == expected
        positions = [call.position for call in told.calls().values()] + [
            step.position for step in told.steps()
        ]
        assert sorted(positions) == list(range(6))


def test_an_agent_inside_a_run_is_a_call_and_what_it_does_is_made_in_it(told: Told):
    trace = nested()
    told.tell(*trace.spans)
    calls = told.calls()
    helper = calls["invoke_agent"]
    assert helper.arguments["agent"] == "helper"
    assert {calls["lookup"].parent_id, calls["again"].parent_id} == {helper.id}
    assert calls["search"].parent_id is None


def test_a_call_made_within_a_turn_belongs_to_it_and_to_the_call_around(told: Told):
    trace = Trace()
    trace.span("root", gen_ai("invoke_agent"))
    trace.span("outer", tool("outer"), under="root")
    trace.span("turn", gen_ai("chat"), under="outer")
    trace.span("request", {"http.request.method": "POST"}, under="turn")
    trace.span("inner", tool("inner"), under="request")
    received = told.tell(*trace.spans)
    inner = told.calls()["inner"]
    assert (inner.step_id, inner.parent_id) == (trace.ids["turn"].hex(), trace.ids["outer"].hex())
    assert received.left_out == {"other": 1}
    (event,) = told.runtime.index.events(name="trace.received").items
    assert (event.run_id, event.data["left_out"], event.data["spans"]) == (told.run.id, {"other": 1}, 5)


# -- the names of others ------------------------------------------------------------------------------------


def test_openinference_is_understood(told: Told):
    trace = Trace()
    kind = "openinference.span.kind"
    trace.span("Runner", {kind: "AGENT", "agent.name": "clerk", "session.id": "s1", "user.id": "ada"})
    trace.span(
        "ChatCompletion",
        {
            kind: "LLM", "llm.model_name": "gpt-x",
            "llm.token_count.prompt": 12, "llm.token_count.completion": 3,
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "I will look.",
            "llm.output_messages.0.message.tool_calls.0.tool_call.id": "t1",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "weather",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"city": "Bern"}',
        },
        under="Runner",
    )  # fmt: skip
    trace.span(
        "weather",
        {kind: "TOOL", "tool.name": "weather", "input.value": '{"city": "Bern"}', "output.value": "rain"},
        under="Runner",
        status=OK,
    )
    trace.span("retrieve", {kind: "RETRIEVER", "input.value": "rain", "output.value": "[]"}, under="Runner")
    trace.span("chain", {kind: "CHAIN"}, under="Runner")
    received = told.tell(*trace.spans)
    run, (step,), calls = told.run, told.steps(), told.calls()
    assert (run.agent, run.session_id, run.caller) == ("clerk", "s1", "ada")
    assert (step.model, step.text, step.requested) == ("gpt-x", "I will look.", ("weather",))
    assert (step.tokens.input, step.tokens.output) == (12, 3)
    assert step.calls == [{"id": "t1", "name": "weather", "arguments": {"city": "Bern"}}]
    assert (calls["weather"].arguments, calls["weather"].result) == ({"city": "Bern"}, "rain")
    assert (calls["retriever"].effect, calls["weather"].effect) == ("read", "unknown")
    assert received.left_out == {"CHAIN": 1}


def test_openllmetry_is_understood(told: Told):
    trace = Trace()
    entity = "traceloop.entity."
    trace.span("pirate.workflow", {"traceloop.span.kind": "workflow", "traceloop.workflow.name": "pirate"})
    trace.span(
        "joke.tool",
        {
            "traceloop.span.kind": "tool", f"{entity}name": "joke", f"{entity}input": '{"args": ["sea"]}',
            f"{entity}output": '"arr"',
        },
        under="pirate.workflow",
    )  # fmt: skip
    trace.span(
        "openai.chat",
        {
            "llm.request.type": "chat", "gen_ai.request.model": "gpt-y", "gen_ai.usage.prompt_tokens": 5,
            "gen_ai.usage.completion_tokens": 2, "gen_ai.completion.0.content": "Arr!",
            "gen_ai.completion.0.finish_reason": "stop",
        },
        under="pirate.workflow",
    )  # fmt: skip
    told.tell(*trace.spans)
    (step,), joke = told.steps(), told.calls()["joke"]
    assert (told.run.name, told.run.agent) == ("pirate", "shop")
    assert (joke.arguments, joke.result) == ({"args": ["sea"]}, '"arr"')
    assert (step.text, step.finish_reason, step.requested_model) == ("Arr!", "stop", "gpt-y")
    assert (step.tokens.input, step.tokens.output) == (5, 2)


def test_a_model_that_fails_is_a_step_without_a_response(told: Told):
    trace = Trace()
    trace.span(
        "chat m", gen_ai("chat", **{"request.model": "m"}), status=ERROR, raised=("RateLimit", "slow down")
    )
    told.tell(*trace.spans)
    (step,) = told.steps()
    assert (step.responded, step.data) == (False, {"error": {"type": "RateLimit", "message": "slow down"}})
    assert (told.run.outcome, told.run.reason) == ("failed", "RateLimit")


@pytest.mark.parametrize(
    ("attributes", "status", "outcome"),
    [
        ({}, 0, "succeeded"),
        ({"gen_ai.tool.call.result": '{"success": false}'}, 0, "failed"),
        ({"gen_ai.tool.call.result": '{"success": false}'}, OK, "succeeded"),
        ({}, ERROR, "failed"),
        ({"error.type": "asyncio.TimeoutError"}, ERROR, "timed_out"),
        ({"error.type": "CancelledError"}, ERROR, "cancelled"),
        ({"error.type": "500"}, 0, "failed"),
        ({"custody.outcome": "rejected"}, ERROR, "rejected"),
        ({"custody.outcome": "shining"}, 0, "succeeded"),
    ],
)
def test_status_and_result_say_the_outcome(told: Told, attributes: Any, status: int, outcome: str):
    trace = Trace()
    trace.span("root", gen_ai("invoke_agent"))
    trace.span("it", tool("it") | attributes, under="root", status=status)
    told.tell(*trace.spans)
    call = told.calls()["it"]
    assert call.outcome == outcome
    assert call.decision.verdict == ("deny" if outcome == "rejected" else "allow")


# -- a root that comes late, or never -------------------------------------------------------------------


def test_a_run_is_there_before_its_root_and_is_closed_when_nobody_tells_more(told: Told):
    trace = an_agent_at_work()
    told.tell(*trace.spans[:3])
    assert (told.run.outcome, told.run.agent) == (None, "shop")
    assert told.receiver.close_quiet() == 0
    told.now += QUIET_SECONDS + 1
    assert told.receiver.close_quiet() == 1
    assert (told.run.outcome, told.run.reason) == ("incomplete", "its root span never came")
    told.tell(trace.spans[3])
    assert (told.run.outcome, told.run.agent, told.run.duration_us) == ("succeeded", "shopper", 100_000)


def test_a_run_whose_root_is_in_another_program_ends_as_this_part_of_it_did(told: Told):
    trace = Trace()
    trace.span("search", tool("search"), under="agent")
    trace.span(
        "agent", gen_ai("invoke_agent", **{"agent.name": "a"}), under="caller", ms=9, flags=REMOTE,
        status=ERROR, raised=("Broken", "x"),
    )  # fmt: skip
    told.tell(*trace.spans)
    told.now += LOCAL_QUIET_SECONDS + 1
    assert told.receiver.close_quiet() == 1
    assert (told.run.outcome, told.run.agent, told.run.reason) == ("failed", "a", "Broken")


def test_a_trace_without_agents_models_or_tools_is_no_run(told: Told):
    trace = Trace()
    trace.span("GET /", {"http.request.method": "GET"})
    trace.span("SELECT", {"db.system": "sqlite"}, under="GET /")
    assert told.tell(*trace.spans).left_out == {"other": 2}
    assert told.runtime.index.runs().items == []


def test_a_request_around_an_agent_begins_and_ends_its_run(told: Told):
    trace = Trace()
    trace.span("POST /chat", {"http.request.method": "POST"}, ms=50)
    trace.span("agent", gen_ai("invoke_agent", **{"agent.name": "helper"}), under="POST /chat", at_ms=5)
    trace.span("search", tool("search"), under="agent", at_ms=6)
    told.tell(*trace.spans)
    calls = told.calls()
    assert (told.run.agent, told.run.intent, told.run.duration_us) == ("helper", "POST /chat", 50_000)
    assert (calls["invoke_agent"].parent_id, calls["search"].parent_id) == (None, calls["invoke_agent"].id)


# -- what is not taken ----------------------------------------------------------------------------------


def test_spans_that_cannot_be_any_are_rejected_and_counted(told: Told):
    trace = an_agent_at_work()
    no_trace, no_span, ends_before, late = (
        trace.span(name, tool(name), under="agent") for name in ("a", "b", "c", "d")
    )
    no_trace.trace_id, no_span.span_id = b"\0" * 16, b"123"
    ends_before.end_time_unix_nano = ends_before.start_time_unix_nano - 10**6
    late.end_time_unix_nano = 2**63
    received = told.tell(*trace.spans)
    assert received.rejected == {
        "no trace id": 1, "no span id": 1, "no start, or an end before it": 1, "times in the future": 1
    }  # fmt: skip
    assert received.recorded == 4


def test_nobody_adds_to_a_run_that_was_recorded_here(told: Told):
    made = Trace()

    async def own() -> str:
        async with told.runtime.run("own work") as run:
            return run.id

    run_id = asyncio.run(own())
    made.id = bytes.fromhex(run_id)
    made.span("forged", tool("forged"), under="root")
    made.span("root", gen_ai("invoke_agent"), status=ERROR)
    assert told.tell(*made.spans).rejected == {OTHERS_RUN: 2}
    assert (told.run.outcome, told.run.calls, told.run.door) == ("succeeded", 0, "server")


def test_nobody_ends_a_call_of_another_run(told: Told):
    mine, other = an_agent_at_work(), Trace()
    told.tell(*mine.spans)
    other.ids["stolen"] = mine.ids["pay"]
    other.span("stolen", tool("stolen"))
    assert told.tell(*other.spans).rejected == {OTHERS_ID: 1}
    assert told.runtime.index.call(mine.ids["pay"].hex()).outcome == "failed"


def test_who_speaks_for_an_agent_tells_of_that_one_alone(told: Told):
    trace = an_agent_at_work()
    told.tell(*trace.spans[:2], agent="ada")
    assert (told.run.agent, told.calls()["search"].agent) == ("ada", "ada")
    assert told.tell(*trace.spans[2:], agent="bob").rejected == {OTHERS_RUN: 2}
    assert told.tell(*trace.spans[2:], agent="ada").recorded == 2


def test_secrets_are_replaced_wherever_a_span_says_them(told: Told):
    secret = github(random.Random(7)).secret
    trace = Trace()
    trace.span(
        "agent", gen_ai("invoke_agent", **{"input.messages": f"use {secret}"}), message=secret, status=ERROR
    )
    trace.span(
        "call",
        tool("call", **{"tool.call.arguments": json.dumps({"password": "hunter-and-half", "note": secret})}),
        under="agent", raised=("E", f"bad {secret}"), status=ERROR,
    )  # fmt: skip
    trace.span("chat", gen_ai("chat", **{"completion.0.content": f"it is {secret}"}), under="agent")
    told.tell(*trace.spans)
    for stored in told.runtime.journal.follow():
        assert secret.encode() not in stored.leaf + stored.payload
        assert b"hunter-and" not in stored.leaf + stored.payload
    assert "[redacted:" in told.calls()["call"].arguments["password"]


# -- both encodings -------------------------------------------------------------------------------------


def test_json_says_what_protobuf_says():
    trace = nested()
    trace.span(
        "odd", {"text": "é", "list": [1, "a", True, [2.5]], "map": {"a": {"b": 1}}, "raw": b"\x00\xff"}
    )
    request = request_of(trace.spans, {"service.name": "shop", "host.name": "h"})
    binary, text = parsed(request.SerializeToString(), "protobuf"), parsed(as_json(request), "json")
    assert text.spans == binary.spans
    assert binary.spans[-1].attributes["list"] == [1, "a", True, [2.5]]


@given(body=st.binary(max_size=300))
def test_no_body_does_more_than_be_refused(body: bytes):
    for encoding in ("protobuf", "json"):
        with suppress(BadRequest):
            assert all(len(span.trace_id) == 16 for span in parsed(body, encoding).spans)


# -- what Custody itself sends --------------------------------------------------------------------------


def test_what_one_store_exports_another_takes_as_it_was(recorded, tmp_path):
    recorded.calls(3)
    with collecting(HttpCollector) as collector:
        recorded.export(collector, content=True)
        spans = list(collector.spans)
    with receiving(str(tmp_path / "other")) as told, receiving(recorded.folder) as own:
        told.tell(*spans)
        told_runs, runs = told.runtime.index.runs().items, own.runtime.index.runs().items
        assert [(run.id, run.agent, run.outcome, run.calls) for run in told_runs] == [
            (run.id, run.agent or "shop", run.outcome, run.calls) for run in runs if run.calls
        ]
        for call in own.runtime.index.calls().items:
            taken = told.runtime.index.call(call.id)
            assert (taken.tool, taken.outcome, taken.effect, taken.arguments, taken.result) == (
                call.tool, call.outcome, call.effect, call.arguments, json.dumps(call.result)
            )  # fmt: skip
        back = own.tell(*spans)
        assert (back.recorded, back.rejected) == (0, {})


def test_what_was_taken_and_exported_again_comes_back_as_nothing_new(recorded):
    with receiving(recorded.folder) as told:
        told.tell(*an_agent_at_work().spans)
    with collecting(HttpCollector) as collector:
        recorded.export(collector)
        spans = list(collector.spans)
    assert len(spans) == 4
    with receiving(recorded.folder) as told:
        back = told.tell(*spans)
        assert (back.recorded, back.known, back.rejected) == (0, 4, {})
