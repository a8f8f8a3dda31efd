"""What a hostile program may put into spans: bodies that would fill the machine, circles, ids and times that
are none, and stories about runs and calls that are not its own."""

import errno
import gzip
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tests.bridges.spans_told import ERROR, Told, Trace, as_json, gen_ai, receiving, request_of, tool
from tests.redaction.rule_examples import github

from custody.bridges.otel import wire
from custody.bridges.otel.parts import PARTS_MAX, count_parts
from custody.bridges.otel.told_trace import OTHERS_ID, OTHERS_RUN, RECEIVED
from custody.bridges.otel.wire import BODY_BYTES_MAX, MEMBERS_MAX, BadRequest, TooLarge, inflated, parsed
from custody.calls.imported import ImportedCall, append_imported, call_finished
from custody.errors import NotRecorded
from custody.index import CallFilter
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk

MANY = 9_000_000
OPERATION = {"key": "gen_ai.operation.name", "value": {"stringValue": "execute_tool"}}


@pytest.fixture
def told():
    with receiving() as told:
        yield told


def spelt(*spans: dict[str, Any], resource: Any = None) -> bytes:
    """A request in JSON of spans that are calls unless they say otherwise."""
    now = time.time_ns()
    whole = [
        {
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": os.urandom(8).hex(), "name": "call",
            "startTimeUnixNano": str(now - 10**9), "endTimeUnixNano": str(now), "attributes": [OPERATION],
        } | span
        for span in spans
    ]  # fmt: skip
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": whole}]}]}).encode()


def argument(value: Any, name: str = "gen_ai.tool.call.arguments") -> dict[str, Any]:
    return {"attributes": [OPERATION, {"key": name, "value": value}]}


# -- bodies that are more than they seem --------------------------------------------------------------------


def test_a_gzip_of_countless_members_is_refused_before_they_are_opened():
    assert inflated(gzip.compress(b"") * MEMBERS_MAX + gzip.compress(b"end")[:0]) == b""
    with pytest.raises(TooLarge, match="members"):
        inflated(gzip.compress(b"") * (MEMBERS_MAX * 100))


def test_members_of_a_gzip_are_one_body_wherever_they_are_cut():
    pieces = [bytes([number]) * 70_000 for number in range(5)]
    assert inflated(b"".join(map(gzip.compress, pieces))) == b"".join(pieces)
    assert inflated(gzip.compress(random.Random(3).randbytes(200_000))) == random.Random(3).randbytes(200_000)


def test_a_gzip_within_a_gzip_is_no_request():
    with pytest.raises(BadRequest):
        parsed(inflated(gzip.compress(gzip.compress(spelt({})))), "json")


def test_what_unpacks_to_exactly_the_bound_passes():
    assert len(inflated(gzip.compress(bytes(BODY_BYTES_MAX), 1))) == BODY_BYTES_MAX


WHOLE = gzip.compress(b"{}", mtime=0)


@pytest.mark.parametrize(
    "packed",
    [zlib.compress(b"{}"), WHOLE[:-1], WHOLE + b"\0", b"\x1f"],
    ids=["deflate", "cut", "with_more", "a_byte"],
)
def test_what_is_no_whole_gzip_is_refused(packed: bytes):
    with pytest.raises(BadRequest):
        inflated(packed)


def field(number: int, data: bytes) -> bytes:
    made, length = bytearray([number << 3 | 2]), len(data)
    while length > 0x7F:
        made.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*made, length]) + data


def in_span(fields: bytes) -> bytes:
    called = Trace().span("call", tool("call")).SerializeToString()
    return field(1, field(2, field(2, called + fields)))


UNKNOWN_GROUP = b"\xa3\x06\xa4\x06"  # field 100, which no message has: passed over

IN_PROTOBUF: dict[str, Callable[[], bytes]] = {
    "spans": lambda: field(1, field(2, b"\x12\x00" * MANY)),
    "resources": lambda: b"\x0a\x00" * MANY,
    "attributes": lambda: in_span(b"\x4a\x00" * MANY),
    "events": lambda: in_span(b"\x5a\x00" * MANY),
    "links": lambda: in_span(b"\x6a\x00" * MANY),
    "values": lambda: in_span(field(9, field(1, b"a") + field(2, field(5, b"\x0a\x00" * MANY)))),
    "behind_a_group": lambda: UNKNOWN_GROUP + b"\x0a\x00" * MANY,
}


@pytest.mark.long
@pytest.mark.parametrize("what", IN_PROTOBUF)
def test_a_million_empty_messages_in_protobuf_are_refused_before_they_are_made(what: str):
    with pytest.raises(TooLarge, match="attributes, values and other parts"):
        parsed(IN_PROTOBUF[what](), "protobuf")


def test_parts_are_counted_as_protobuf_makes_them():
    few, long = Trace(), "x" * (2 * PARTS_MAX)
    few.span(
        "call", tool("call", **{"tool.call.arguments": long, "list": [1, {"a": "b"}]}), raised=("E", "e")
    )
    request = request_of(few.spans)
    body = request.SerializeToString()
    assert count_parts(body) == messages_in(request) - 1
    assert len(parsed(body, "protobuf").spans) == 1


def messages_in(message: Any) -> int:
    """Itself among them."""
    held: list[Any] = [value for field, value in message.ListFields() if field.message_type is not None]
    each: list[Any] = []
    for value in held:
        each += value if isinstance(value, Iterable) else [value]
    return 1 + sum(map(messages_in, each))


@pytest.mark.parametrize(
    "where", ['"spans": [', '"values": [', '"events": [', '"links": [', '"attributes": [']
)
def test_a_million_empty_objects_in_json_are_refused_before_they_are_made(where: str):
    empty: list[Any] = []
    called = {"events": empty, "links": empty, **argument({"arrayValue": {"values": empty}})}
    body = spelt(called).replace(where.encode(), where.encode() + b"{}," * PARTS_MAX, 1)
    assert len(body) < BODY_BYTES_MAX
    with pytest.raises(TooLarge, match="attributes, values and other parts"):
        parsed(body, "json")


def test_a_text_full_of_braces_is_no_such_body():
    (span,) = parsed(spelt(argument({"stringValue": "{" * (PARTS_MAX // 2)})), "json").spans
    assert len(span.attributes["gen_ai.tool.call.arguments"]) == PARTS_MAX // 2


def test_more_attributes_than_are_read_are_counted(told: Told):
    trace = Trace()
    trace.span("call", tool("call") | {f"a{number}": number for number in range(5_000)})
    told.tell(*trace.spans)
    (event,) = told.runtime.index.events(name=RECEIVED).items
    assert event.data["attributes_left_out"] == 5_000


@pytest.mark.parametrize(("depth", "fault"), [(60, None), (100, "a value nested too deep"), (1_000, "whole")])
def test_a_value_nested_too_deep_costs_its_span_alone_or_the_request(
    told: Told, depth: int, fault: str | None
):
    value = '{"arrayValue":{"values":[' * depth + '{"boolValue":true}' + "]}}" * depth
    body = spelt(argument({"stringValue": "HERE"}), {}).replace(b'{"stringValue": "HERE"}', value.encode())
    if fault == "whole":
        with pytest.raises(BadRequest, match="too deep"):
            parsed(body, "json")
        return
    received = told.receiver.receive(parsed(body, "json"))
    assert received.rejected == ({} if fault is None else {fault: 1})
    assert received.recorded == (2 if fault is None else 1)


def test_so_does_one_in_protobuf():
    value = b"\x10\x01"
    for _ in range(60):
        value = field(5, field(1, value))
    with pytest.raises(BadRequest):
        parsed(in_span(field(9, field(1, b"a") + field(2, value))), "protobuf")


@pytest.mark.parametrize("text", ['{"a":' * 900 + "1" + "}" * 900, "[" * 900 + "]" * 900, "[" * 100_000, "{"])
def test_texts_that_look_like_json_are_kept_as_what_they_are(told: Told, text: str):
    trace = Trace()
    trace.span("call", tool("call") | {"gen_ai.tool.call.arguments": text})
    trace.span("turn", gen_ai("chat", **{"output.messages": text}))
    trace.span("agent", gen_ai("invoke_agent", **{"input.messages": text}), under="call")
    assert told.tell(*trace.spans).recorded == 3


# -- ids, times and numbers that are none -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "why"),
    [
        ({"traceId": ""}, "no trace id"),
        ({"traceId": "00" * 16}, "no trace id"),
        ({"traceId": "ab" * 15}, "no trace id"),
        ({"traceId": "ab" * 17}, "no trace id"),
        ({"traceId": "W47/95gDgQPSabYzgT/GDA=="}, "an id or a number that is none"),
        ({"spanId": "00" * 8}, "no span id"),
        ({"spanId": "abc"}, "an id or a number that is none"),
        ({"parentSpanId": "ab" * 4}, "a parent id of another length"),
        ({"startTimeUnixNano": "-5"}, "no start, or an end before it"),
        ({"startTimeUnixNano": None}, "no start, or an end before it"),
        ({"endTimeUnixNano": "1"}, "no start, or an end before it"),
        ({"endTimeUnixNano": str(2**64 - 1)}, "times in the future"),
        ({"endTimeUnixNano": "9" * 40}, "times in the future"),
        ({"endTimeUnixNano": "9" * 5_000}, "an id or a number that is none"),
        ({"startTimeUnixNano": "1000"}, "longer than a month"),
        ({"droppedAttributesCount": "many"}, "an id or a number that is none"),
        (argument({"intValue": "x"}), "an id or a number that is none"),
        ({"flags": "x"}, "an id or a number that is none"),
        ({"status": {"code": "STATUS_CODE_ERROR"}}, "an id or a number that is none"),
    ],
)
def test_a_span_that_cannot_be_one_is_rejected_and_the_next_one_stands(told: Told, span: Any, why: str):
    received = told.receiver.receive(parsed(spelt(span, {}), "json"))
    assert (received.recorded, received.rejected) == (1, {why: 1})


def test_a_resource_that_cannot_be_read_rejects_its_spans():
    request = parsed(
        spelt({}, {}, resource={"attributes": [{"key": "a", "value": {"intValue": "x"}}]}), "json"
    )
    assert (request.spans, request.rejected) == ([], {"an id or a number that is none": 2})


@pytest.mark.parametrize(
    "value",
    [
        {"intValue": "9" * 40}, {"intValue": str(-(2**63))}, {"doubleValue": "NaN"}, {"doubleValue": 1e308},
        {"doubleValue": "-Infinity"}, {"stringValue": "\x00\x1b[2J\u202e\u2028"},
        {"stringValue": "é" * 300_000}, {"bytesValue": "!"}, {},
        {"kvlistValue": {"values": [{"key": ""}, {"key": ""}]}},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["gen_ai.tool.call.arguments", "gen_ai.tool.name", "gen_ai.usage.input_tokens"]
)
def test_odd_values_are_recorded_and_read_again(told: Told, name: str, value: Any):
    turn = {"attributes": [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}]}
    turn["attributes"].append({"key": name, "value": value})
    assert told.receiver.receive(parsed(spelt(argument(value, name), turn), "json")).recorded == 2
    (call,) = told.calls().values()
    assert len(call.tool) <= 1_024
    assert told.runtime.index.stats(CallFilter()).calls == 1


def test_a_count_of_what_was_dropped_that_no_counter_holds_is_still_a_record(told: Told):
    assert told.receiver.receive(parsed(spelt({"droppedAttributesCount": "9" * 40}), "json")).recorded == 1
    (event,) = told.runtime.index.events(name=RECEIVED).items
    assert event.data["attributes_left_out"] == 2**32 - 1


def test_ids_may_be_in_capitals_and_are_the_same_ids(told: Told):
    first = {"spanId": "eee19b7ec3c1b174"}
    assert told.receiver.receive(parsed(spelt(first), "json")).recorded == 1
    again = {"spanId": "EEE19B7EC3C1B174", "traceId": "5B8EFFF798038103D269B633813FC60C"}
    assert told.receiver.receive(parsed(spelt(again), "json")).known == 1


def test_a_parent_of_zeros_is_none(told: Told):
    trace = Trace()
    trace.span("root", gen_ai("invoke_agent")).parent_span_id = bytes(8)
    told.tell(*trace.spans)
    assert told.run.outcome == "succeeded"
    in_json = parsed(as_json(request_of(trace.spans)), "json").spans
    assert in_json[0].parent_id is None


def test_text_that_is_no_utf_8_refuses_the_request():
    with pytest.raises(BadRequest):
        parsed(spelt({"name": "\ud800"}), "json")
    trace = Trace()
    trace.span("HERE", tool("call"))
    with pytest.raises(BadRequest):
        parsed(request_of(trace.spans).SerializeToString().replace(b"HERE", b"\xff\xfe\xfd\xfc"), "protobuf")


def test_calls_that_took_fifty_years_spoil_no_sum(told: Told):
    """SQLite refuses a sum that is no 64-bit number, and with it every later question."""
    trace = Trace()
    for number in range(20):
        trace.span(f"{number}", tool("slow"), under="agent").start_time_unix_nano = 1_000
    trace.span("good", tool("slow"), under="agent")
    received = told.tell(*trace.spans)
    assert (received.recorded, received.rejected) == (1, {"longer than a month": 20})
    assert told.runtime.index.stats(CallFilter()).tools[0].latency_total_us == 1_000


# -- shapes of a trace --------------------------------------------------------------------------------------


def test_nothing_is_made_inside_itself(told: Told):
    trace = Trace()
    trace.span("root", gen_ai("invoke_agent"))
    trace.span("own", tool("own"), under="own")
    trace.span("a", tool("a"), under="b")
    trace.span("b", tool("b"), under="a")
    trace.span("c", tool("c"), under="b")
    trace.span("x", {"http.request.method": "GET"}, under="y")
    trace.span("y", gen_ai("chat"), under="x")
    trace.span("z", tool("z"), under="x")
    assert told.tell(*trace.spans).recorded == 7
    calls = told.calls()
    assert [calls[name].parent_id for name in ("own", "a", "b")] == [None, None, None]
    assert (calls["c"].parent_id, calls["z"].parent_id) == (trace.ids["b"].hex(), None)
    (event,) = told.runtime.index.events(name=RECEIVED).items
    assert event.data["parents_left_out"] == 5


def test_a_deep_trace_takes_as_long_as_a_flat_one(told: Told):
    """Each span was once looked at for each below it: 150 s for what fits into one request."""
    trace = Trace()
    trace.span("agent", gen_ai("invoke_agent"))
    above = "agent"
    for number in range(600):
        trace.span(f"o{number}", {"http.request.method": "GET"}, under=above)
        above = f"o{number}"
    for number in range(600):
        trace.span(f"c{number}", tool("call"), under=above)
    began = time.process_time()
    assert told.tell(*trace.spans).recorded == 601
    assert time.process_time() - began < 1.5


def test_a_parent_in_another_trace_is_no_parent(told: Told):
    one, two = Trace(), Trace()
    one.span("call", tool("one"))
    two.ids["call"] = one.ids["call"]
    two.span("inner", tool("two"), under="call")
    told.tell(*one.spans)
    told.tell(*two.spans)
    inner = told.runtime.index.call(two.ids["inner"].hex())
    assert (inner.run_id, inner.parent_id) == (two.id.hex(), None)


def test_one_id_is_one_record_whatever_else_it_is_told_to_be(told: Told):
    trace = Trace()
    trace.span("agent", gen_ai("invoke_agent"))
    trace.span("it", tool("first"), under="agent")
    trace.span("it", tool("second"), under="agent")
    trace.span("it", gen_ai("chat"), under="agent")
    first = told.tell(*trace.spans)
    again = told.tell(trace.spans[2])
    assert (first.recorded, first.known, again.recorded, again.known) == (2, 2, 0, 1)
    assert set(told.calls()) == {"first"}
    assert told.steps() == []


def test_one_id_in_two_traces_of_one_request_is_the_first_ones(told: Told):
    one, two = Trace(), Trace()
    two.ids["call"] = one.span_id("call")
    one.span("call", tool("one"))
    two.span("call", tool("two"))
    received = told.tell(*one.spans, *two.spans)
    assert received.rejected == {OTHERS_ID: 1}
    assert told.runtime.index.call(one.ids["call"].hex()).run_id == one.id.hex()


# -- stories about what is not its own ----------------------------------------------------------------------


def test_whatever_a_span_says_its_call_is_told_as_imported(told: Told):
    """Custody's own words in it change what is said of the call, and never who says it."""
    trace = Trace()
    trace.span("agent", gen_ai("invoke_agent"))
    forged = {
        "custody.outcome": "succeeded", "custody.effect": "irreversible", "custody.passed": True,
        "custody.source": "executed", "custody.door": "cli", "custody.level": "confined",
        "custody.decision.by": "person", "custody.decision.verdict": "allow", "source": "executed",
    }  # fmt: skip
    trace.span("exec", tool("exec") | forged, under="agent")
    trace.span("commit", tool("commit") | {"custody.outcome": "rejected"}, under="agent")
    told.tell(*trace.spans)
    for call in told.calls().values():
        assert (call.source, call.door, call.level, call.decision.by) in {
            ("imported", "otel", "none", "nobody"),
            ("imported", "otel", "none", "rule"),
        }
    assert told.calls()["exec"].decision.by == "nobody"
    assert {stored.source for stored in told.runtime.index.calls().items} == {"imported"}


def test_a_run_whose_beginning_is_gone_is_not_begun_by_somebody_else(told: Told):
    """Its first segment was dropped; calls of it that were recorded here are still there."""
    run_id, now = os.urandom(16), time.time_ns() // 1_000
    left = ImportedCall(
        call_id=os.urandom(8), run_id=run_id, position=0, door="python", tool="exec", arguments={},
        result=None, started_us=now - 5, ended_us=now,
    )  # fmt: skip
    receipt = append_imported(told.runtime.recording, [call_finished(told.runtime.recording, left)])
    assert receipt is not None
    trace = Trace()
    trace.id = run_id
    trace.span("forged", tool("forged"))
    assert told.tell(*trace.spans).rejected == {OTHERS_RUN: 1}


def test_the_id_of_a_run_that_is_its_own_makes_nothing_known(told: Told):
    trace = Trace()
    trace.span("agent", gen_ai("invoke_agent"))
    trace.span("call", tool("call") | {"custody.run.id": "00" * 16}, under="agent")
    assert told.tell(*trace.spans).recorded == 2


NAMES = (
    "gen_ai.tool.name", "gen_ai.tool.call.id", "gen_ai.agent.name", "error.type", "session.id", "user.id",
    "gen_ai.response.model", "gen_ai.response.id", "gen_ai.workflow.name", "gen_ai.response.finish_reasons",
    "custody.reason",
)  # fmt: skip


def test_secrets_are_replaced_in_names_too_and_counted(told: Told):
    secret = github(random.Random(7)).secret
    for operation in ("execute_tool", "chat", "invoke_agent"):
        trace = Trace()
        trace.span(secret, gen_ai(operation) | dict.fromkeys(NAMES, secret), message=secret, status=ERROR)
        told.tell(*trace.spans, **{"service.name": secret, "host.name": secret})
    said = [json.dumps(secret), json.dumps({"note": [secret], "api_key": "hunter-and-half"})]
    trace = Trace()
    trace.span("call", tool("call", **{"tool.call.arguments": said[1], "tool.call.result": said[0]}))
    told.tell(*trace.spans)
    for stored in told.runtime.journal.follow():
        assert secret.encode() not in stored.leaf + stored.payload
        assert b"hunter-and" not in stored.leaf + stored.payload
    call = told.runtime.index.call(trace.ids["call"].hex())
    assert {redaction.path.partition(".")[0] for redaction in call.redactions} == {"arguments", "result"}


def test_names_that_are_too_long_are_cut_with_a_mark(told: Told):
    trace = Trace()
    long = gen_ai(
        "invoke_agent", **{"agent.name": "an agent " * 10**5, "conversation.id": "a session " * 10**5}
    )
    trace.span("agent", long, called="n" * 10**6)
    trace.span("call", tool("a tool " * 10**5), under="agent", called="\x1b]0;title\x07\x00")
    told.tell(*trace.spans)
    (call,) = told.calls().values()
    for name in (call.tool, told.run.agent, told.run.session_id):
        assert (1_000 < len(name) <= 1_024, name[-1]) == (True, "…")


def test_a_run_that_cannot_be_closed_now_is_closed_by_a_later_look():
    disk = FaultyDisk(MemoryDisk())
    trace = Trace()
    trace.span("call", tool("call"), under="agent")
    with receiving(disk=disk) as told:
        told.tell(*trace.spans)
        told.now += 10_000
        disk.inject(
            Fault(operation="put", error=errno.ENOSPC, times=None),
            Fault(operation="create", error=errno.ENOSPC, times=None),
        )
        with pytest.raises(NotRecorded):
            told.receiver.close_quiet()
        disk.heal()
        assert (told.receiver.close_quiet(), told.receiver.close_quiet()) == (1, 0)
        assert told.run.outcome == "incomplete"


def test_a_span_of_the_shape_of_the_specification_is_read():
    """The example of opentelemetry-proto, whose fields we do not know included."""
    body = spelt({"traceState": "a=b", "kind": 2, "links": [{"traceId": "ab" * 16}], "future": {"x": [1]}})
    assert [type(span.name) for span in parsed(body, "json").spans] == [str]
    assert Span.FromString(Trace().span("a", {}).SerializeToString()).name == "a"
    assert wire.response("json", 3, "why") == b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"why"}}'
