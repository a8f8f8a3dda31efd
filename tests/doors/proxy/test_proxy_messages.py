"""What a line says, how it is cut with the rest as it was, and what counts of a list of tools."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.doors.proxy.lists import by_name, digest_of, invisible_in, shown, tools_in
from custody.doors.proxy.messages import (
    Lines,
    NoMessage,
    TooLong,
    kept,
    place_of,
    read,
    read_strictly,
    with_value,
    without,
)
from custody.doors.proxy.pins import Pins

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


# -- reading --------------------------------------------------------------------------------------------


@given(IDS, JSON, SPACES, st.permutations(["jsonrpc", "id", "result", "x-more"]))
def test_an_answer_is_read_however_it_is_written(
    identity: Any, said: Any, spaces: tuple[str, str], order: list[str]
):
    whole = {"jsonrpc": "2.0", "id": identity, "result": said, "x-more": said}
    message = read(line({name: whole[name] for name in order}, spaces))
    assert (message.id, json.loads(bytes(message.result or b""))) == (identity, said)


@given(IDS, SPACES, st.sampled_from(["jsonrpc", "id", "result", "x"]), st.integers(0, 3), st.integers(0, 3))
def test_a_name_that_stands_twice_in_an_envelope_is_found_wherever_it_stands(
    identity: Any, spaces: tuple[str, str], name: str, at: int, other: int
):
    whole = {"jsonrpc": "2.0", "id": identity, "result": [1], "x": {"id": 1}}
    pairs = [f"{json.dumps(key)}{spaces[1]}{json.dumps(value)}" for key, value in whole.items()]
    pairs.insert(at, pairs[[*whole].index(name)] if other else f'"{name}"{spaces[1]}7')
    with pytest.raises(NoMessage):
        read(("{" + spaces[0].join(pairs) + "}").encode())


# -- cutting ------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text('ab"\\é ', max_size=3), JSON, min_size=1, max_size=4), JSON, SPACES, st.data())
def test_a_value_is_replaced_and_the_rest_stays_as_it_is_written(
    said: dict[str, Any], value: Any, spaces: tuple[str, str], data: st.DataObject
):
    name = data.draw(st.sampled_from(sorted(said)))
    raw = line({"x": said}, spaces)
    place = place_of(raw.decode(), "x", name)
    assert place is not None
    cut = with_value(raw, value, "x", name)
    assert json.loads(cut) == {"x": said | {name: value}}
    assert cut.startswith(raw.decode()[: place[0]].encode())
    assert cut.endswith(raw.decode()[place[1] :].encode())
    assert json.loads(without(raw, frozenset({name}), "x")) == {
        "x": {key: one for key, one in said.items() if key != name}
    }


@given(st.lists(JSON, max_size=4), SPACES)
def test_a_list_that_is_kept_whole_says_the_same(items: list[Any], spaces: tuple[str, str]):
    text = line(items, spaces).decode()
    assert json.loads(kept(text, 0, lambda one: text[one.start : one.end])) == items


def test_hidden_tools_are_left_out_and_the_others_stand_as_they_were_written():
    one = '{ "name" : "one", "x": {"b":1.0,"a":[ ]} }'
    two = '{"inputSchema":{},"name":"two"}'
    raw = f'{{"id":1,"result":{{"ttlMs":5,"tools":[ {one} ,{two}],"cacheScope":"public"}}}}'.encode()
    cut = shown(raw, ["two"])
    assert one.encode() in cut
    assert json.loads(cut)["result"] == {"ttlMs": 5, "tools": [json.loads(one)], "cacheScope": "private"}
    assert shown(raw, []) == raw


# -- tools ----------------------------------------------------------------------------------------------


def test_a_digest_is_of_what_a_model_reads():
    tool = {"name": "a", "description": "b", "inputSchema": {"x": 1, "y": 2}}
    assert digest_of(tool) == digest_of({"inputSchema": {"y": 2, "x": 1}, "_meta": {}, **tool})
    assert digest_of(tool) != digest_of({**tool, "description": "B"})
    assert digest_of(tool) != digest_of({**tool, "annotations": {"readOnlyHint": True}})


def test_a_digest_is_of_names_in_any_case_and_of_all_tools_of_one_name():
    tool = {"name": "a", "description": "b"}
    assert digest_of(tool) != digest_of({**tool, "Description": "c"})
    assert digest_of(tool) != digest_of(tool, {**tool, "description": "c"})


@pytest.mark.parametrize("listed", [{"tools": [], "Tools": []}, {"tools": [{"name": "a", "Name": "b"}]}])
def test_a_list_that_two_clients_read_differently_is_none(listed: Any):
    with pytest.raises(NoMessage):
        tools_in(listed)


def named(*tools: tuple[str, str]) -> dict[str, Any]:
    return dict(by_name([{"name": name, "description": said} for name, said in tools]))


def test_a_description_that_was_other_once_is_asked_about_for_the_rest_of_the_session():
    pins = Pins("s", {})
    first, changed = pins.look(named(("a", "good"), ("b", "good")))
    pins.pinned(first)
    assert (set(first), changed) == ({"a", "b"}, [])
    assert [one.tool for one in pins.look(named(("a", "evil")))[1]] == ["a"]
    assert pins.look(named(("a", "good")))[1] == []
    assert pins.objection("a") is not None
    assert pins.objection("b") is None


def test_a_second_tool_of_one_name_is_a_change():
    pins = Pins("s", {})
    pins.pinned(pins.look(named(("a", "good")))[0])
    for order in (("evil", "good"), ("good", "evil")):
        assert [one.tool for one in pins.look(named(*(("a", said) for said in order)))[1]] == ["a"]
    assert pins.objection("a") is not None


def test_a_tool_is_called_as_it_is_listed():
    pins = Pins("s", {"delete": "1"})
    pins.pinned({"Add": "2", "add": "3"})
    meant = [pins.meant(name) for name in ("delete", "Delete", "\uff44elete", "Add", "ADD", "other")]
    assert meant == [None, "delete", "delete", None, "add", None]


def test_characters_that_nobody_sees_are_counted():
    assert invisible_in({"a": ["visible é 漢字", "tag \U000e0041", "zero\u200bwidth", "\u202eturned"]}) == 3


# -- lines --------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=12).map(lambda one: one.replace(b"\n", b" ")), max_size=6), st.data())
def test_lines_come_whole_however_they_are_cut(parts: list[bytes], data: st.DataObject):
    stream = b"".join(part + b"\n" for part in parts)
    lines = Lines(8)
    found: list[bytes | TooLong] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += lines.take(stream[:size])
        stream = stream[size:]
    assert [one if isinstance(one, bytes) else None for one in found] == [
        part if len(part) <= 8 else None for part in parts
    ]


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","id":7,"result":"%s"}',
        b'{"id": 7, "result": "%s"}',
        b'{"result":{"id":1,"x":"%s"},"jsonrpc":"2.0","id":7}',
        b'{"result":"%s","id":7,"jsonrpc":"2.0"}',
    ],
)
def test_a_line_that_is_too_long_still_says_what_it_answers(data: bytes):
    assert Lines(1_000).take(data % (b"x" * 2_000) + b"\n") == [TooLong(7)]


def test_a_client_line_is_read_as_its_bytes_say():
    with pytest.raises(NoMessage, match="stands twice"):
        read_strictly(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1,"\\u0061":2}}')
