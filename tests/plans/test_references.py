"""`$id.output` in parameters is the output itself, or stands within a text; what only looks so stays text."""

import time
from typing import Any

import pytest

from custody.plans.references import (
    REFERENCE_CHARACTERS_MAX,
    RESOLVED_CHARACTERS_MAX,
    Reference,
    Unresolved,
    references_in,
    resolved,
)

OUTPUTS: dict[str, Any] = {
    "build": {
        "version": "1.2",
        "files": [{"path": "a.py"}, {"path": "b.py"}],
        "size": 7,
        "ok": True,
        "": "blank",
    },
    "text": "plain",
    "list": [10, 20],
    "nothing": None,
    "bait": "${text.output} $text.output",
}


def put_in(value: Any) -> Any:
    return resolved(value, OUTPUTS, OUTPUTS.__contains__)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$text.output", "plain"),
        ("$list.output", [10, 20]),
        ("$nothing.output", None),
        ("$build.output.size", 7),
        ("$build.output.ok", True),
        ("$build.output.files.1.path", "b.py"),
        ("$list.output.0", 10),
        ("$build.output.", "blank"),
        ("to ${text.output}!", "to plain!"),
        ("${text.output}", "plain"),
        ("v${build.output.version}-${list.output.1}", "v1.2-20"),
        (
            "${build.output.files} ${nothing.output} ${build.output.ok}",
            '[{"path":"a.py"},{"path":"b.py"}] null true',
        ),
    ],
)
def test_a_reference_is_what_the_action_gave(text: str, value: Any) -> None:
    assert put_in(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "$", "$HOME", "$.output", "$text", "$text.outputs", "$text.output then more", "say $text.output",
        "${module.output}", "costs ${price}", "${{ steps.text.output }}", "${ text.output }", "$ text.output",
        "${text.outputs}", "${text.output",
        "$" + "a" * REFERENCE_CHARACTERS_MAX + ".output",
    ],
)  # fmt: skip
def test_what_is_no_reference_stays_as_it_is(text: str) -> None:
    assert put_in(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$$text.output", "$text.output"),
        ("see $${text.output}", "see ${text.output}"),
        ("$$ and $$5", "$$ and $$5"),
        ("$${module.output}", "$${module.output}"),
    ],
)
def test_a_second_dollar_says_that_none_is_meant(text: str, value: str) -> None:
    assert list(references_in(text)) == [] or "module" in text
    assert put_in(text) == value


def test_references_are_found_and_put_in_at_any_depth_but_in_no_name() -> None:
    value = {"a": ["$text.output", {"b": "${list.output.1}"}], "$text.output": 3, "n": 1.5}
    assert list(references_in(value)) == [
        Reference("text"),
        Reference("list", ("1",), whole=False),
    ]
    assert put_in(value) == {"a": ["plain", {"b": "20"}], "$text.output": 3, "n": 1.5}


def test_what_is_put_in_is_not_searched_again() -> None:
    assert put_in("<${bait.output}>") == "<${text.output} $text.output>"
    assert put_in("$bait.output") == "${text.output} $text.output"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$build.output.nothing", "nothing stands at 'nothing'"),
        ("$build.output.files.2", "nothing stands at '2'"),
        ("$build.output.files.-1", "nothing stands at '-1'"),
        ("$build.output.files.path", "nothing stands at 'path'"),
        ("$build.output.files." + "9" * 400, "nothing stands at"),
        ("$text.output.0", "nothing stands at '0'"),
        ("${build.output.secret}", "nothing stands at 'secret'"),
        ("$absent.output", "gave no output"),
    ],
)
def test_a_place_that_is_not_there_is_named_without_a_value(text: str, said: str) -> None:
    with pytest.raises(Unresolved, match=said) as refusal:
        put_in(text)
    assert "1.2" not in str(refusal.value)


def test_an_output_named_many_times_does_not_make_much_of_little() -> None:
    outputs = {"big": "x" * (RESOLVED_CHARACTERS_MAX // 4)}
    with pytest.raises(Unresolved, match="characters"):
        resolved("${big.output}" * 5, outputs, outputs.__contains__)


def test_what_has_no_json_text_cannot_stand_within_one() -> None:
    outputs = {"odd": object()}
    with pytest.raises(Unresolved, match="no JSON text"):
        resolved("<${odd.output}>", outputs, outputs.__contains__)


@pytest.mark.parametrize("piece", ["$", "${", ".output", "$a.output", "${a.output", "${.output", "a}"])
def test_a_long_text_is_searched_in_linear_time(piece: str) -> None:
    text = "$" + piece * (500_000 // len(piece)) + " "
    began = time.process_time()
    assert put_in(text) == text
    assert time.process_time() - began < 2
