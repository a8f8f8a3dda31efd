"""Settings in JSON with comments: read as their programs read them, and edited without a byte too many."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.installing.texts import LISTS, OBJECTS, VALUES, Text

from custody.installing.json_edits import added, apply, removed
from custody.installing.jsonc import NotJson, parse


@given(VALUES)
def test_a_text_with_comments_says_what_it_says_without(text: Text):
    assert parse(text[0]).value == text[1]


@given(st.text(st.sampled_from('{}[]",:/*\\n 1ae.-\ud800'), max_size=12))
def test_what_python_reads_says_the_same_here(text: str):
    try:
        expected = json.loads(text)
    except ValueError:
        return
    assert json.dumps(parse(text).value) == json.dumps(expected)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("{", 1, 1),
        ('{\n  "a": 1\n  "b": 2\n}', 3, 3),
        ('{"a" 1}', 1, 6),
        ('{\n"a": tru}', 2, 6),
        ("{a: 1}", 1, 2),
        ('{"a": "x\ny"}', 1, 7),
        ("{} {}", 1, 4),
        ('{"a": 1 /* never ends', 1, 9),
        ("[" * 300, 1, 201),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, line: int, column: int):
    with pytest.raises(NotJson) as raised:
        parse(text)
    assert (raised.value.details["line"], raised.value.details["column"]) == (line, column)


@given(OBJECTS, st.integers(1, 3))
def test_what_is_put_in_is_there_and_the_rest_says_the_same(text: Text, count: int):
    new = {f"new member {number}": [number] for number in range(count)}
    edited = apply(text[0], added(text[0], parse(text[0]), list(new.items())))
    assert parse(edited).value == text[1] | new
    node = parse(edited)
    back = apply(
        edited, removed(edited, node, [n for n, child in enumerate(node.children) if child.key in new])
    )
    assert parse(back).value == text[1]
    if text[1]:  # blanks between brackets with nothing in them are not kept apart
        assert back == text[0]


@given(LISTS, st.integers(0, 31))
def test_any_parts_can_be_taken_out(text: Text, chosen: int):
    gone = {number for number in range(len(text[1])) if chosen >> number & 1}
    left = apply(text[0], removed(text[0], parse(text[0]), gone))
    assert parse(left).value == [value for number, value in enumerate(text[1]) if number not in gone]


def test_new_parts_look_like_the_others():
    text = '{\n    "a": 1, // one\n    "b": [1, 2] // two\n}\n'
    edited = apply(text, added(text, parse(text), [("c", {"d": [3]})]))
    assert edited == (
        '{\n    "a": 1, // one\n    "b": [1, 2], // two\n'
        '    "c": {\n        "d": [\n            3\n        ]\n    }\n}\n'
    )
