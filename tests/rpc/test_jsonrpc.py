"""The grammar of the wire: what a frame says, whatever it holds."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.how_many import as_many

from custody.rpc import jsonrpc
from custody.rpc.jsonrpc import Malformed, Notification, Request, Response, parse


def said(text: str) -> tuple[Any, ...]:
    """A frame in short: kind, id, and what it is about."""
    frame = parse(text)
    match frame:
        case Request(identity, method, params):
            return "request", identity.decode(), method, params.decode()
        case Notification(method, params):
            return "notification", method, params.decode()
        case Response(identity, result, error):
            return "response", identity, result.decode(), error
        case Malformed(identity, code, _):
            return "malformed", identity.decode(), code


@pytest.mark.parametrize("identity", ["1", "0", "-5", "1.0", "1e400", '"1"', '""', '"\\u0061"', "9" * 40])
def test_an_id_is_kept_as_it_came(identity: Any) -> None:
    text = f'{{"jsonrpc":"2.0","id":{identity},"method":"m"}}'
    assert said(text) == ("request", identity, "m", "")
    assert f'"id":{identity},' in jsonrpc.success(identity.encode(), 5)


@pytest.mark.parametrize("identity", ["null", "true", "[1]", "{}", '"' + "x" * 1_024 + '"'])
def test_an_id_is_a_string_or_a_number_of_some_size(identity: Any) -> None:
    text = f'{{"jsonrpc":"2.0","id":{identity},"method":"m"}}'
    assert said(text) == ("malformed", "null", jsonrpc.INVALID_REQUEST)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ('"id":7', jsonrpc.INVALID_REQUEST),
        ('"id":7,"method":5', jsonrpc.INVALID_REQUEST),
        ('"id":7,"method":null', jsonrpc.INVALID_REQUEST),
        ('"id":7,"method":"m","params":5', jsonrpc.INVALID_REQUEST),
        ('"id":7,"method":"m","params":"x"', jsonrpc.INVALID_REQUEST),
        ('"id":7,"method":"m","params":["\\ud800"]', jsonrpc.PARSE_ERROR),
    ],
)
def test_whoever_asked_badly_is_told_under_its_own_id(members: str, code: int) -> None:
    assert said(f'{{"jsonrpc":"2.0",{members}}}') == ("malformed", "7", code)


@pytest.mark.parametrize("version", ["", '"jsonrpc":"1.0",', '"jsonrpc":2.0,', '"jsonrpc":null,'])
def test_a_request_says_which_json_rpc_it_is(version: str) -> None:
    assert said(f'{{{version}"id":7,"method":"m"}}') == ("malformed", "7", jsonrpc.INVALID_REQUEST)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", jsonrpc.PARSE_ERROR),
        ("nonsense", jsonrpc.PARSE_ERROR),
        ('{"jsonrpc":"2.0"', jsonrpc.PARSE_ERROR),
        ('{"jsonrpc":"2.0","id":NaN,"method":"m"}', jsonrpc.PARSE_ERROR),
        ('{"a":1} {"b":2}', jsonrpc.PARSE_ERROR),
        ('{"method":"\ud800"}', jsonrpc.PARSE_ERROR),
        ("[" * 100_000, jsonrpc.INVALID_REQUEST),
        ('{"params":' + "[" * 100_000 + "]" * 100_000 + "}", jsonrpc.PARSE_ERROR),
        ("5", jsonrpc.INVALID_REQUEST),
        ('"text"', jsonrpc.INVALID_REQUEST),
        ("null", jsonrpc.INVALID_REQUEST),
        ("{}", jsonrpc.INVALID_REQUEST),
        ("[]", jsonrpc.INVALID_REQUEST),
        ('[{"jsonrpc":"2.0","id":1,"method":"m"}]', jsonrpc.INVALID_REQUEST),
    ],
    ids=range(14),
)
def test_what_is_no_request_is_told_by_its_code(text: str, code: int) -> None:
    assert said(text) == ("malformed", "null", code)


def test_params_are_an_object_an_array_or_absent() -> None:
    assert said('{"jsonrpc":"2.0","id":1,"method":"m","params":null}') == ("request", "1", "m", "")
    assert said('{"jsonrpc":"2.0","id":1,"method":"m","params":[1, 2]}') == ("request", "1", "m", "[1, 2]")
    assert said('{"jsonrpc":"2.0","method":"m","params":{"a":1}}') == ("notification", "m", '{"a":1}')


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ('"id":"cb-1","result":{"error":"x"}', ("cb-1", '{"error":"x"}', None)),
        ('"id":"cb-1","result":null', ("cb-1", "null", None)),
        ('"id":"cb-1","result":1,"error":null', ("cb-1", "1", None)),
        ('"id":"cb-1","error":null', ("cb-1", "null", None)),
        ('"id":"cb-1","result":null,"error":{"code":-1}', ("cb-1", "", {"code": -1})),
        ('"id":"cb-1","error":"odd"', ("cb-1", "", "odd")),
        ('"id":null,"error":{"code":-32700,"message":"no"}', (None, "", {"code": -32700, "message": "no"})),
        ('"id":[],"result":1', (None, "1", None)),
        ('"result":1', (None, "1", None)),
    ],
)
def test_an_answer_that_is_oddly_made_is_an_answer(members: str, expected: Any) -> None:
    assert said(f'{{"jsonrpc":"2.0",{members}}}') == ("response", *expected)
    assert said(f"{{{members}}}") == ("response", *expected)


def test_an_answer_that_holds_half_a_character_is_an_error() -> None:
    kind, identity, _, error = said('{"jsonrpc":"2.0","id":"cb-1","result":["\\udcff"]}')
    assert (kind, identity, error["code"]) == ("response", "cb-1", jsonrpc.PARSE_ERROR)


@pytest.mark.parametrize(
    "result",
    ["NaN", "[-Infinity]", '"a', '"\x01"', "[" * 100_000 + "]" * 100_000, "undefined", '"\\udcff'],
    ids=range(7),
)
def test_an_answer_that_is_no_json_is_an_error_of_what_it_names_before_its_result(result: str) -> None:
    for text in (
        f'{{"jsonrpc":"2.0","id":"cb-1","result":{result}}}',
        f'{{"id": "cb-1", "error": {result}}}',
    ):
        kind, identity, _, error = said(text)
        assert (kind, identity, error["code"]) == ("response", "cb-1", jsonrpc.PARSE_ERROR)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5_000], ids=["huge", "low", "long"])
def test_a_number_beyond_every_bound_breaks_no_answer(number: str) -> None:
    assert said(f'{{"id":{number},"result":1}}') == ("response", None, "1", None)
    kind, identity, _, error = said(f'{{"id":"cb-1","error":{{"code":{number}}}}}')
    assert (kind, identity, error["code"]) == ("response", "cb-1", jsonrpc.PARSE_ERROR)


def test_a_success_has_no_error_and_a_failure_no_result() -> None:
    assert json.loads(jsonrpc.success(b"1", None)) == {"jsonrpc": "2.0", "id": 1, "result": None}
    assert json.loads(jsonrpc.failure(b'"a"', -1, "no")) == {
        "jsonrpc": "2.0", "id": "a", "error": {"code": -1, "message": "no"}
    }  # fmt: skip
    assert json.loads(jsonrpc.failure(b"1", -1, "no", {"a": 1}))["error"]["data"] == {"a": 1}


def test_what_json_cannot_hold_is_said_in_text() -> None:
    odd = {"name": "\udcff", "huge": 2**70, "bytes": b"\xff", "set": {1}}
    assert json.loads(jsonrpc.success(b"1", odd))["result"] == {
        "name": "\\udcff", "huge": 2**70, "bytes": "/w==", "set": [1]
    }  # fmt: skip
    assert json.loads(jsonrpc.success(b"1", float("nan")))["result"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("jsonrpc", "id", "method", "params", "result", "error", "more"), JSON)
)


@settings(max_examples=as_many(60))
@given(st.text() | JSON.map(json.dumps) | MEMBERS.map(json.dumps))
def test_every_text_is_some_frame_and_each_refusal_can_be_sent(text: str) -> None:
    frame = parse(text)
    if isinstance(frame, Malformed):
        answer = json.loads(jsonrpc.failure(frame.id, frame.code, frame.message))
        assert answer.keys() == {"jsonrpc", "id", "error"}
        assert frame.code in (jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST)


@settings(max_examples=as_many(60))
@given(JSON, JSON)
def test_what_was_sent_is_what_is_read(params: Any, result: Any) -> None:
    asked = parse(jsonrpc.request("cb-1", "m", {"of": params}))
    assert isinstance(asked, Request) and json.loads(asked.params) == {"of": params}
    answered = parse(jsonrpc.success(asked.id, result))
    assert isinstance(answered, Response) and json.loads(answered.result) == result
    assert answered.id == "cb-1"
