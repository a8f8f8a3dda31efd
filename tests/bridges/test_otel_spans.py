"""What arrives at a collector: the spans of runs, steps and calls, and what they say."""

import hashlib
import json
from collections import Counter

import pytest
from tests.bridges.collector import attributes
from tests.bridges.conftest import add, fail, log_in, record_step

from custody.bridges.otel.mapping import SCHEMA_URL
from custody.records import CallFinished, Decision, Request, Tokens, now_us

ERROR = 2  # Status.STATUS_CODE_ERROR
INTERNAL, CLIENT = 1, 3


def span_of_run(run_id: str) -> bytes:
    return hashlib.sha256(bytes.fromhex(run_id)).digest()[:8]


def test_the_spans_of_a_run_arrive_complete_and_exactly_once(recorded, collector):
    calls = []

    async def use(runtime, run):
        record_step(runtime, run, "let me add", model="m-1", model_us=1500)
        calls.append(await run.call(add, {"left": 1, "right": 2}))
        calls.append(await run.call(add, {"left": 3, "right": 4}))

    run_id = recorded.run(use, agent="adder", session="monday")
    exporter = recorded.export(collector)

    assert exporter.failure is None
    assert Counter(span.name for span in collector.spans) == {
        "invoke_agent adder": 1, "chat m-1": 1, "execute_tool add": 2
    }  # fmt: skip
    assert {span.trace_id.hex() for span in collector.spans} == {run_id}
    run = collector.by_name("invoke_agent adder")
    assert (run.span_id, run.parent_span_id, run.kind) == (span_of_run(run_id), b"", INTERNAL)
    assert attributes(run.attributes)["gen_ai.conversation.id"] == "monday"
    executed = [span for span in collector.spans if span.name == "execute_tool add"]
    assert [span.span_id.hex() for span in executed] == [call.id for call in calls]
    assert {span.parent_span_id for span in executed} == {run.span_id}
    assert all(span.kind == INTERNAL and span.status.code == 0 for span in executed)
    first = executed[0]
    assert first.end_time_unix_nano - first.start_time_unix_nano == calls[0].latency_us * 1000


def test_a_second_export_sends_nothing_that_was_sent(recorded, collector):
    recorded.calls(2)
    recorded.export(collector)
    before = collector.asked

    again = recorded.export(collector)

    assert (collector.asked, again.progress.spans) == (before, 0)
    assert len(recorded.events("export.advanced")) == 1


def test_an_export_goes_on_where_the_last_one_stopped(recorded, http):
    recorded.calls(1)
    recorded.export(http)
    recorded.calls(2)

    exporter = recorded.export(http)

    assert exporter.progress.spans == 3
    ids = [span.span_id for span in http.spans]
    assert len(ids) == len(set(ids)) == 5
    said = [event.data for event in recorded.events("export.advanced")]
    assert [one["spans"] for one in said] == [2, 3]


def test_exported_from_the_start_every_span_is_the_same_and_nothing_is_counted_twice(recorded, collector):
    async def use(runtime, run):
        record_step(runtime, run, "hm", model="m-1")
        await run.call(add, {"left": 1, "right": 2})
        await run.call(fail, {"text": "no"})

    recorded.run(use, agent="adder")
    recorded.export(collector, content=True)
    first = {span.span_id: span.SerializeToString(deterministic=True) for span in collector.spans}
    counted = collector.total("custody.calls")
    collector.requests.clear()

    recorded.export(collector, content=True, from_start=True)

    assert {s.span_id: s.SerializeToString(deterministic=True) for s in collector.spans} == first
    assert collector.total("custody.calls") == counted == 2


def test_a_call_says_who_decided_what_it_used_and_where_its_records_are(recorded, http):
    async def use(_, run):
        await run.call("exec", {"argv": ["true"]}, external_id="toolu_7")

    run_id = recorded.run(use, agent="shell")
    recorded.export(http)

    said = attributes(http.by_name("execute_tool exec").attributes)
    assert said["gen_ai.operation.name"] == "execute_tool"
    assert (said["gen_ai.tool.name"], said["gen_ai.tool.call.id"]) == ("exec", "toolu_7")
    assert (said["custody.outcome"], said["custody.exit_code"]) == ("succeeded", 0)
    assert said["custody.decision.verdict"] == "allow"
    assert (said["custody.source"], said["custody.position"]) == ("executed", 0)
    assert said["custody.usage.wall_us"] > 0
    assert said["custody.shard"] >= 1
    assert said["custody.sequence"] >= 1
    assert "error.type" not in said
    assert attributes(http.by_name("invoke_agent shell").attributes)["custody.run.id"] == run_id


def test_what_was_refused_is_a_span_with_who_refused_it(recorded, collector):
    async def use(_, run):
        await run.call("no_such_tool", {})

    recorded.run(use)
    recorded.export(collector)

    span = collector.by_name("execute_tool no_such_tool")
    said = attributes(span.attributes)
    assert span.status.code == ERROR
    assert (said["error.type"], said["custody.outcome"]) == ("rejected", "rejected")
    assert said["custody.decision.verdict"] == "deny"
    assert said["custody.decision.by"] == "schema"
    assert collector.total("custody.calls", **{"custody.outcome": "rejected"}) == 1
    assert collector.points("gen_ai.execute_tool.duration") == []


def test_a_call_that_failed_has_the_type_of_its_error(recorded, http):
    async def use(_, run):
        await run.call(fail, {"text": "not here"})

    recorded.run(use)
    recorded.export(http)

    span = http.by_name("execute_tool fail")
    assert span.status.code == ERROR
    assert attributes(span.attributes)["error.type"] == "LookupError"
    assert http.total("gen_ai.execute_tool.duration", **{"error.type": "LookupError"}) == 1


def test_a_call_whose_process_died_is_unknown(recorded, http):
    async def leave_open(runtime, run):
        recorder = runtime.ledger.recorder
        from custody.records import CallStarted, Decision, Request, now_us

        request = Request(run.run_id, 0, "deploy", "write", "none", Decision("allow", "nobody", ""), now_us())
        recorder.append(
            recorder.draft(
                CallStarted, {"arguments": {}}, call_id=b"deploy-1", at_us=now_us(), monotonic_ns=1,
                request=request,
            )
        )  # fmt: skip

    recorded.run(leave_open)
    recorded.export(http)

    span = http.by_name("execute_tool deploy")
    assert attributes(span.attributes)["custody.outcome"] == "unknown"
    assert attributes(span.attributes)["error.type"] == "unknown"
    assert span.status.code == ERROR


def test_a_step_is_an_inference_with_its_tokens_and_its_cost(recorded, collector):
    async def use(runtime, run):
        record_step(
            runtime, run, "I will add",
            model="m-1-2026", requested_model="m-1", external_id="resp_1", finish_reason="tool_calls",
            model_us=250_000, position=0, iteration=1, cost_nano_usd=1_500_000, prices="2026-05",
            tokens=Tokens(input=120, output=30, reasoning=5, cache_read=100, cache_write=10),
            requested=("add",),
        )  # fmt: skip

    run_id = recorded.run(use, agent="adder")
    recorded.export(collector)

    span = collector.by_name("chat m-1")
    assert span.kind == CLIENT
    assert span.parent_span_id == span_of_run(run_id)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    said = attributes(span.attributes)
    assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("m-1", "m-1-2026")
    assert said["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert said["gen_ai.usage.input_tokens"] == 120
    assert said["gen_ai.usage.cache_read.input_tokens"] == 100
    assert said["gen_ai.agent.name"] == "adder"
    assert said["custody.cost_usd"] == 0.0015
    (tokens_in,) = [
        point
        for point in collector.points("gen_ai.client.token.usage")
        if attributes(point.attributes)["gen_ai.token.type"] == "input"
    ]
    assert (tokens_in.count, tokens_in.sum) == (1, 120)
    (duration,) = collector.points("gen_ai.client.operation.duration")
    assert duration.sum == 0.25


def test_what_is_unknown_is_left_out(recorded, http):
    async def use(runtime, run):
        record_step(runtime, run, tokens=None)

    recorded.run(use)
    recorded.export(http)

    span = http.by_name("chat")
    assert not any(name.startswith("gen_ai.usage") for name in attributes(span.attributes))
    assert span.start_time_unix_nano == span.end_time_unix_nano
    assert http.points("gen_ai.client.token.usage") == []


def test_a_child_run_is_a_trace_of_its_own_that_links_to_its_parent(recorded, http):
    async def use(runtime, run):
        async with runtime.run("part", agent="helper", parent=run.id) as child:
            await child.call(add, {"left": 1, "right": 1})

    parent_id = recorded.run(use, agent="lead")
    recorded.export(http)

    child = http.by_name("invoke_agent helper")
    assert child.trace_id.hex() != parent_id
    (link,) = child.links
    assert (link.trace_id.hex(), link.span_id) == (parent_id, span_of_run(parent_id))
    assert attributes(child.attributes)["custody.parent_run_id"] == parent_id
    assert http.by_name("execute_tool add").trace_id == child.trace_id


def test_a_call_in_a_call_is_its_child_and_a_call_without_a_run_has_a_trace_of_its_own(recorded, http):
    import custody

    with custody.open(recorded.folder) as runtime:

        @custody.tool(effect="read")
        def outer() -> int:
            return runtime.call(add, {"left": 1, "right": 1}).result

        made = runtime.call(outer)
        assert made.result == 2
    recorded.export(http)

    above = http.by_name("execute_tool outer")
    below = http.by_name("execute_tool add")
    assert above.span_id.hex() == made.id
    assert above.trace_id == hashlib.sha256(above.span_id).digest()[:16]
    assert (below.trace_id, below.parent_span_id) == (above.trace_id, above.span_id)


def test_a_call_belongs_to_the_step_that_asked_for_it(recorded, http):
    async def use(runtime, run):
        from custody.records import CallFinished, Decision, Request, now_us

        step_id = record_step(runtime, run, "no", model="m-1")
        recorder = runtime.ledger.recorder
        request = Request(
            run.run_id,
            1,
            "rm",
            "write",
            "none",
            Decision("deny", "rule", "no", "r1"),
            now_us(),
            step_id=step_id,
        )
        recorder.append(
            recorder.draft(
                CallFinished, {}, call_id=b"call-001", at_us=now_us(), outcome="rejected", request=request
            )
        )

    recorded.run(use)
    recorded.export(http)

    assert http.by_name("execute_tool rm").parent_span_id == http.by_name("chat m-1").span_id
    assert attributes(http.by_name("execute_tool rm").attributes)["custody.decision.rule"] == "r1"


def test_what_a_program_observes_is_exported_as_what_is_guarded(recorded, collector):
    async def use(_, run):
        run.step("I will look", model="m-1", tokens={"input": 12, "output": 3}, model_us=2000)
        with run.observe("search", {"query": "life"}, effect="read", external_id="toolu_1") as call:
            call.result = ["everything"]
        with run.observe("delete", {"id": 7}) as call:
            call.reject("a person said no")
        with run.observe("fetch") as call:
            call.fail("gone", type="NotThere")

    recorded.run(use, agent="oracle")
    recorded.export(collector)

    step = collector.by_name("chat m-1")
    found = collector.by_name("execute_tool search")
    assert {s.parent_span_id for s in collector.spans if s.name.startswith("execute_tool")} == {step.span_id}
    said = attributes(found.attributes)
    assert (said["custody.source"], said["gen_ai.tool.call.id"]) == ("observed", "toolu_1")
    assert attributes(collector.by_name("execute_tool delete").attributes)["error.type"] == "rejected"
    assert attributes(collector.by_name("execute_tool fetch").attributes)["error.type"] == "NotThere"
    run = attributes(collector.by_name("invoke_agent oracle").attributes)
    assert (run["gen_ai.usage.input_tokens"], run["gen_ai.usage.output_tokens"]) == (12, 3)
    assert (run["custody.steps"], run["custody.calls"], run["custody.calls.rejected"]) == (1, 3, 1)


def test_a_call_told_of_afterwards_is_exported_with_the_action_it_was_made_for(recorded, http):
    async def use(runtime, run):
        recorder = runtime.ledger.recorder
        request = Request(
            run_id=run.run_id, position=0, tool="drive_cli", effect="unknown", level="none",
            decision=Decision("allow", "nobody", "run by its caller"), asked_at_us=now_us() - 9_000,
            proposal_id="p", action_id="a", attempt=2, connection="c1",
        )  # fmt: skip
        recorder.append(
            recorder.draft(
                CallFinished, {"prompt": "paint the shed", "result": {"exit_code": 0}}, source="observed",
                call_id=recorder.ids.take(8), at_us=now_us(), outcome="succeeded", request=request,
            )
        )  # fmt: skip

    recorded.run(use)
    recorded.export(http, content=True)

    span = http.by_name("execute_tool drive_cli")
    said = attributes(span.attributes)
    origin = {"proposal_id": "p", "action_id": "a", "attempt": 2, "connection": "c1"}
    assert {name: said[f"custody.{name}"] for name in origin} == origin
    assert said["custody.prompt"] == "paint the shed"
    assert span.end_time_unix_nano - span.start_time_unix_nano >= 9_000_000


def test_content_stays_here_unless_it_is_asked_for(recorded, http):
    async def use(runtime, run):
        record_step(runtime, run, "a private thought", calls=[{"id": "1", "name": "add", "arguments": {}}])
        await run.call(log_in, {"password": "x", "note": "a private note"})
        await run.call(fail, {"text": "a private failure"})

    recorded.run(use, intent="a private intent")
    recorded.export(http)

    assert b"private" not in b"".join(http.raw)
    assert not any(
        name.startswith("gen_ai.tool.call.arg") for s in http.spans for name in attributes(s.attributes)
    )


def test_content_that_is_asked_for_is_what_is_on_the_record(recorded, http):
    async def use(runtime, run):
        asked = [{"id": "1", "name": "add", "arguments": {"left": 1}}]
        record_step(runtime, run, "let me see", calls=asked, finish_reason="tool_calls")
        await run.call(add, {"left": 1, "right": 2})

    recorded.run(use, intent="sums", agent="adder", inputs={"task": "1+2"})
    recorded.export(http, content=True)

    said = attributes(http.by_name("execute_tool add").attributes)
    assert json.loads(said["gen_ai.tool.call.arguments"]) == {"left": 1, "right": 2}
    assert said["gen_ai.tool.call.result"] == "3"
    (message,) = json.loads(attributes(http.by_name("chat").attributes)["gen_ai.output.messages"])
    assert message == {
        "role": "assistant",
        "parts": [
            {"type": "text", "content": "let me see"},
            {"type": "tool_call", "id": "1", "name": "add", "arguments": {"left": 1}},
        ],
        "finish_reason": "tool_calls",
    }
    run = attributes(http.by_name("invoke_agent adder").attributes)
    assert (run["custody.intent"], json.loads(run["custody.inputs"])) == ("sums", {"task": "1+2"})


def test_a_secret_never_arrives(recorded, collector, monkeypatch):
    monkeypatch.setenv("SHOP_API_KEY", "hunter2-hunter2-hunter2")

    async def use(runtime, run):
        record_step(runtime, run, "the key is hunter2-hunter2-hunter2")
        await run.call(log_in, {"password": "correct-horse", "note": "with hunter2-hunter2-hunter2"})
        await run.call(fail, {"text": "hunter2-hunter2-hunter2"})

    recorded.run(use, intent="log in with hunter2-hunter2-hunter2", inputs={"token": "s3cr3t-s3cr3t"})
    recorded.export(collector, content=True)

    sent = b"".join(collector.raw)
    assert b"[redacted:" in sent
    for secret in (b"hunter2", b"correct-horse", b"s3cr3t"):
        assert secret not in sent
    assert attributes(collector.by_name("execute_tool log_in").attributes)["custody.redactions"] >= 2


def test_a_refusal_that_repeats_arguments_is_exported_without_its_words(recorded, http):
    async def use(_, run):
        await run.call(log_in, {"password": {"is": "correct-horse"}, "note": "x"})
        await run.call("exec", {"argv": ["ls"], "cwd": "/a-private-folder"})

    recorded.run(use)
    recorded.export(http, content=True)

    span = http.by_name("execute_tool log_in")
    assert b"correct-horse" not in b"".join(http.raw)
    assert attributes(span.attributes)["custody.decision.by"] == "schema"
    assert "custody.decision.reason" not in attributes(span.attributes)
    assert span.status.message == http.by_name("execute_tool exec").status.message == ""


def test_content_that_is_too_long_is_cut_between_characters_and_counted(recorded, http):
    async def use(_, run):
        await run.call(log_in, {"password": "x", "note": "ü" * 100_000})

    recorded.run(use)
    recorded.export(http, content=True)

    said = attributes(http.by_name("execute_tool log_in").attributes)
    arguments = said["gen_ai.tool.call.arguments"]
    assert len(arguments.encode()) <= 64 * 1024
    assert arguments.endswith("ü")
    assert said["custody.cut_bytes"] > 2 * (200_000 - 64 * 1024)


def test_spans_and_metrics_name_the_version_of_their_conventions(recorded, http):
    recorded.calls(1)
    recorded.export(http)

    (request,) = http.requests
    (whole,) = request.resource_spans
    assert whole.scope_spans[0].schema_url == SCHEMA_URL
    assert whole.scope_spans[0].scope.name == "custody"
    assert attributes(whole.resource.attributes) == {"service.name": "custody"}
    (metrics,) = http.metrics_requests
    assert metrics.resource_metrics[0].scope_metrics[0].schema_url == SCHEMA_URL


def test_dropped_records_are_counted_by_their_gap(recorded, http):
    async def use(runtime, _):
        runtime.ledger.recorder.event("journal.gap", {"count": 7}, leaf_data=True)

    recorded.run(use)
    recorded.export(http)

    assert http.total("custody.records.dropped") == 7


@pytest.mark.parametrize("count", [0, 1])
def test_labels_are_attributes_of_their_run(recorded, http, count):
    recorded.run(labels={"team": "blue"} if count else None, agent="a")
    recorded.export(http)

    said = attributes(http.by_name("invoke_agent a").attributes)
    assert said.get("custody.label.team") == ("blue" if count else None)
