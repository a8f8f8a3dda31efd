"""What becomes of a line: handed on as it came, held up for a decision, or not handed on at all."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.doors.proxy.messages import (
    one_line,
)
from custody.doors.proxy.relay import (
    Begin,
    Ended,
    Faulty,
    GivenUp,
    GoesOn,
    Heard,
    Listed,
    Lost,
    Passed,
    Relay,
    Step,
    ToClient,
    Told,
    ToolCall,
    ToServer,
    Waits,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("abc_$é\"\\", max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : "), (",\t", ":\r ")])
IDS = st.integers(-5, 5) | st.text("abc1", min_size=1, max_size=3)


def line(message: Any, spaces: tuple[str, str] = (",", ":")) -> bytes:
    return json.dumps(message, separators=spaces, ensure_ascii=False).encode()


def asked(identity: Any, method: str, params: Any = None) -> bytes:
    return line({"jsonrpc": "2.0", "id": identity, "method": method, "params": params or {}})


def called(identity: Any, name: str = "echo", *, modern: bool = False, **more: Any) -> bytes:
    meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}} if modern else {}
    return asked(identity, "tools/call", {"name": name, "arguments": {"a": [1, True]}, **meta, **more})


def answered(identity: Any, **said: Any) -> bytes:
    return line({"jsonrpc": "2.0", "id": identity, "result": said})


def begun(relay: Relay, data: bytes) -> ToolCall:
    (step,) = relay.from_client(data)
    assert isinstance(step, Begin)
    return step.call


def faults(steps: list[Step]) -> list[str]:
    return [step.reason for step in steps if isinstance(step, Faulty)]


# -- as it came ---------------------------------------------------------------------------------------------


@given(IDS, st.dictionaries(st.text("xyz", min_size=1, max_size=3), JSON, max_size=3), SPACES)
def test_what_is_no_tool_call_is_handed_on_byte_for_byte_either_way(
    identity: Any, params: dict[str, Any], spaces: tuple[str, str]
):
    relay = Relay()
    request = line(
        {"method": "x/y", "params": params, "id": identity, "jsonrpc": "2.0", "x-more": 1.0}, spaces
    )
    answer = line({"result": {"said": params}, "id": identity, "jsonrpc": "2.0"}, spaces)
    telling = line({"jsonrpc": "2.0", "method": "notifications/x", "params": params}, spaces)
    assert relay.from_client(request) == [ToServer(request)]
    assert relay.from_server(telling) == [ToClient(telling)]
    first, passed = relay.from_server(answer)
    assert first == ToClient(answer)
    assert isinstance(passed, Passed)
    assert relay.from_client(telling) == [ToServer(telling)]


@given(IDS, SPACES)
def test_a_tool_call_is_held_up_and_then_handed_on_byte_for_byte(identity: Any, spaces: tuple[str, str]):
    relay = Relay()
    said = {"id": identity, "params": {"arguments": {"b": 1.0, "a": {"$ref": None}}, "name": "t"}}
    request = line({**said, "method": "tools/call", "jsonrpc": "2.0"}, spaces)
    call = begun(relay, request)
    assert (call.name, call.arguments) == ("t", {"b": 1.0, "a": {"$ref": None}})
    assert relay.forwarded(call) == request
    answer = answered(identity, content=[])
    (ended,) = relay.from_server(answer)
    assert isinstance(ended, Ended)
    assert (ended.call, ended.line) == (call, answer)


def test_a_request_of_the_server_and_its_answer_are_handed_on():
    relay = Relay()
    request = asked("s", "sampling/createMessage", {"maxTokens": 1})
    assert relay.from_server(request) == [ToClient(request)]
    answer = answered("s", model="m")
    first, passed = relay.from_client(answer)
    assert first == ToServer(answer)
    assert isinstance(passed, Passed)
    assert (passed.by_server, passed.request.method) == (True, "sampling/createMessage")
    assert faults(relay.from_client(answer)) != []


# -- what two readers might take for different things -------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","name":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"p":{"a":1,"a":2}}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","param\xc5\xbf":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","Name":"y"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","Arguments":{}}}',
        b'[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}]',
        b'{"jsonrpc":"2.0","id":true,"method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["x"]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":[]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"n":NaN}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"x"}}',
        '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16-le"),
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call\\u0000","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list "}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"x","error":{}}',
        b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
        b'{"jsonrpc":"2.0","id":18446744073709551617,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":"' + b"i" * 1_025 + b'","method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"n":1e400}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"p":"\\udc00"}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"p":1,"P":2}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":[{"p":1,"P":2}]}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x\\u0000"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x\\n"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":" x"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\u202ex"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"' + b"x" * 257 + b'"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"clientInfo":{"name":"'
        + b"x" * 257
        + b'"}}}',
        b"[" * 200_000,
        b"junk",
        b"7",
    ],
)
def test_an_ambiguous_line_of_a_client_is_refused_in_its_own_protocol(data: bytes):
    steps = Relay().from_client(data)
    fault, refusal = steps
    assert isinstance(fault, Faulty)
    assert isinstance(refusal, ToClient)
    assert json.loads(refusal.line)["error"]["code"] in (-32700, -32600, -32602)


def test_a_line_end_inside_a_message_does_not_make_two_of_it():
    hidden = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}'
    smuggled = b'{"jsonrpc":"2.0","method":"x","params":[\r' + hidden + b"\r]}\r"
    cleaned = one_line(smuggled)
    assert b"\r" not in cleaned
    assert json.loads(cleaned) == json.loads(smuggled)


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","id":1,"result":{"a":1},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"Result":{"a":1}}',
        b'{"jsonrpc":"2.0", "id":1 , "result":{}, "\\u0069d":1}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"n":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"text":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"jsonrpc":"2.0","id":1,"result":{"half":',
    ],
)
def test_an_answer_that_cannot_be_read_or_only_in_two_ways_is_an_error_at_once(data: bytes):
    relay = Relay()
    call = begun(relay, called(1))
    relay.forwarded(call)
    fault, lost = relay.from_server(data)
    assert isinstance(fault, Faulty)
    assert isinstance(lost, Lost)
    assert lost.call is call
    relay = Relay()
    relay.from_client(asked(1, "prompts/get"))
    fault, refusal, _ = relay.from_server(data)
    assert isinstance(fault, Faulty)
    assert isinstance(refusal, ToClient)
    assert json.loads(refusal.line)["error"]["code"] == -32000


def test_what_only_looks_like_a_broken_answer_ends_nothing():
    relay = Relay()
    call = begun(relay, called(1))
    relay.forwarded(call)
    for junk in (
        b'{"id": 1, "level": "info"',
        b'{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{"n":NaN}}',
        b'{"jsonrpc":"2.0","id":7,"result":NaN}',
    ):
        assert all(isinstance(step, Faulty) for step in relay.from_server(junk))
    (ended,) = relay.from_server(answered(1))
    assert isinstance(ended, Ended)


def test_what_a_server_prints_between_messages_reaches_nobody():
    relay = Relay()
    for junk in (b"Listening...", b"[1]", b'{"half": ', b'{"jsonrpc":"2.0"}', b'"text"'):
        (step,) = relay.from_server(junk)
        assert isinstance(step, Faulty)
        assert step.by_server


# -- what answers what --------------------------------------------------------------------------------------


def test_an_answer_counts_once():
    relay = Relay()
    relay.from_client(asked(1, "prompts/get"))
    assert len(relay.from_server(answered(1))) == 2
    assert faults(relay.from_server(answered(1))) != []
    assert faults(relay.from_server(answered(99))) != []


def test_an_id_that_is_a_number_is_not_the_same_one_as_text():
    relay = Relay()
    relay.from_client(asked(1, "prompts/get"))
    assert faults(relay.from_server(answered("1"))) != []
    assert faults(relay.from_server(answered(1))) == []


def test_a_call_that_the_server_does_not_have_is_not_answered_by_it():
    relay = Relay()
    call = begun(relay, called(1))
    assert faults(relay.from_server(answered(1, content=[]))) != []
    relay.forwarded(call)
    (ended,) = relay.from_server(answered(1, content=[]))
    assert isinstance(ended, Ended)


def test_an_id_that_is_open_is_not_taken_twice():
    relay = Relay()
    begun(relay, called(1))
    fault, refusal = relay.from_client(called(1))
    assert isinstance(fault, Faulty)
    assert isinstance(refusal, ToClient)
    assert json.loads(refusal.line)["id"] is None  # else it would answer the first


def cancel_of(identity: Any) -> bytes:
    said = {"requestId": identity}
    return line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": said})


def test_a_cancelled_call_is_given_up_and_its_late_answer_which_is_on_no_record_reaches_nobody():
    relay = Relay()
    call = begun(relay, called(1))
    relay.forwarded(call)
    cancel = line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    assert relay.from_client(cancel) == [ToServer(cancel), GivenUp(call)]
    for _ in range(2):
        (fault,) = relay.from_server(answered(1, content=[]))
        assert isinstance(fault, Faulty)


def test_a_cancelled_request_is_given_up_and_its_late_answer_is_handed_on():
    relay = Relay()
    relay.from_client(asked(1, "prompts/get"))
    relay.from_client(cancel_of(1))
    late = answered(1, messages=[])
    assert relay.from_server(late) == [ToClient(late)]
    assert faults(relay.from_server(late)) != []


@pytest.mark.parametrize("data", [called(1), asked(1, "tools/list"), asked(1, "prompts/get")])
def test_the_answer_to_what_was_given_up_answers_nothing_else(data: bytes):
    relay = Relay()
    for step in relay.from_client(data):
        if isinstance(step, Begin):
            relay.forwarded(step.call)
    relay.from_client(cancel_of(1))
    fault, refusal = relay.from_client(called(1))
    assert isinstance(fault, Faulty)
    assert isinstance(refusal, ToClient)
    assert "may still come" in json.loads(refusal.line)["error"]["message"]
    relay.from_server(answered(1))
    assert begun(relay, called(1)).id == 1


def test_a_call_that_was_answered_for_leaves_its_id_taken_until_the_server_answers():
    relay = Relay()
    call = begun(relay, called(1))
    relay.forwarded(call)
    relay.forget(call)
    assert len(faults(relay.from_client(called(1)))) == 1
    assert len(faults(relay.from_server(answered(1)))) == 1
    begun(relay, called(1))


def test_what_is_cancelled_has_an_id_that_all_readers_take_for_the_same():
    relay = Relay()
    call = begun(relay, called(1))
    relay.forwarded(call)
    for identity in (1.0, True, None, [1]):
        steps = relay.from_client(cancel_of(identity))
        assert faults(steps) != []
        assert not any(isinstance(step, ToServer) for step in steps)


def test_the_cancellation_of_a_call_that_was_not_sent_is_not_sent_either():
    relay = Relay()
    call = begun(relay, called("a"))
    cancel = line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}})
    assert relay.from_client(cancel) == [GivenUp(call)]


def test_when_the_server_is_gone_everything_open_is_answered_and_all_that_comes_later():
    relay = Relay()
    call = begun(relay, called(1))
    relay.forwarded(call)
    waiting = begun(relay, called(2))
    relay.from_client(asked(3, "prompts/get"))
    steps = relay.server_gone(-32000, "it is gone")
    assert [step.call for step in steps if isinstance(step, Lost)] == [call]
    assert [json.loads(step.line)["id"] for step in steps if isinstance(step, ToClient)] == [3]
    (later,) = relay.from_client(called(4))
    assert isinstance(later, ToClient)
    assert json.loads(later.line) == {
        "jsonrpc": "2.0", "id": 4, "error": {"code": -32000, "message": "it is gone"},
    }  # fmt: skip
    assert waiting.sent is False


# -- rounds -------------------------------------------------------------------------------------------------


def asked_first(relay: Relay) -> ToolCall:
    call = begun(relay, called(1, modern=True))
    relay.forwarded(call)
    required = answered(1, resultType="input_required", inputRequests={"q": {}}, requestState="s")
    handed_on, waits = relay.from_server(required)
    assert handed_on == ToClient(required)
    assert waits == Waits(call)
    return call


def test_the_next_round_goes_on_with_its_call_and_is_handed_on_as_it_came():
    relay = Relay()
    call = asked_first(relay)
    again = called(2, modern=True, requestState="s", inputResponses={"q": {"action": "accept"}})
    assert relay.from_client(again) == [GoesOn(call), ToServer(again)]
    (ended,) = relay.from_server(answered(2, content=[], resultType="complete"))
    assert isinstance(ended, Ended)
    assert ended.call is call


@pytest.mark.parametrize(
    "differs",
    [{"name": "other"}, {"arguments": {"a": [1, 1]}}, {"arguments": {}}, {"requestState": "t"}],
)
def test_what_only_looks_like_the_next_round_is_a_call_of_its_own(differs: dict[str, Any]):
    relay = Relay()
    first = asked_first(relay)
    said = {
        "name": "echo",
        "arguments": {"a": [1, True]},
        "requestState": "s",
        "inputResponses": {},
    } | differs
    assert begun(relay, asked(2, "tools/call", said)) is not first


def test_a_round_is_gone_on_with_once():
    relay = Relay()
    call = asked_first(relay)
    again: dict[str, Any] = {"requestState": "s", "inputResponses": {}}
    assert relay.from_client(called(2, modern=True, **again))[0] == GoesOn(call)
    assert begun(relay, called(3, modern=True, **again)) is not call


def test_a_question_of_ours_comes_back_and_the_server_never_sees_it():
    relay = Relay()
    call = begun(relay, called(1, modern=True))
    assert relay.ask_again(call, "ours") is None
    responses = {"custody": {"action": "accept"}}
    (told,) = relay.from_client(called(2, modern=True, requestState="ours", inputResponses=responses))
    assert told == Told(call, responses)
    sent = json.loads(relay.forwarded(call))
    assert sent == json.loads(called(2, modern=True))


def test_a_request_of_ours_is_answered_to_us_alone():
    relay = Relay()
    relay.ask("custody-1")
    (heard,) = relay.from_client(answered("custody-1", action="accept"))
    assert isinstance(heard, Heard)
    assert faults(relay.from_client(answered("custody-1", action="accept"))) != []


def test_the_client_is_known_in_either_era():
    relay = Relay()
    relay.from_client(asked(1, "initialize", {
        "protocolVersion": "2025-06-18", "capabilities": {"elicitation": {}}, "clientInfo": {"name": "c"},
    }))  # fmt: skip
    assert (relay.client.name, relay.client.forms, relay.client.protocol) == ("c", True, "2025-06-18")
    meta = "io.modelcontextprotocol/"
    call = begun(relay, called(2, _meta={
        f"{meta}protocolVersion": "2026-07-28", f"{meta}clientInfo": {"name": "d", "version": "2"},
        f"{meta}clientCapabilities": {"elicitation": {"url": {}}},
    }))  # fmt: skip
    assert (relay.client.name, relay.client.version, call.modern, call.forms) == ("d", "2", True, False)


def test_a_list_of_tools_is_looked_through_before_the_client_has_it():
    relay = Relay()
    relay.from_client(asked(1, "tools/list"))
    (listed,) = relay.from_server(answered(1, tools=[]))
    assert isinstance(listed, Listed)
