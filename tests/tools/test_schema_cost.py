"""Schemas and arguments that would take long to check: refused, or refused without saying where, and soon."""

import time
from typing import Any

import pytest

from custody.errors import UsageError
from custody.tools.schema import VIOLATION_CHARACTERS_MAX, VIOLATIONS_NAMED_MAX, ArgumentsSchema

SOON_SECONDS = 20.0
"""Of this process's own time. Each of these takes milliseconds, and took hours or for ever; where it was
seconds, the words tell that it was not begun."""

ITSELF = {"type": "object", "additionalProperties": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}


def doubling(times: int) -> dict[str, Any]:
    """Definitions of which each refers twice to the one before."""
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for number in range(1, times + 1):
        reference = {"$ref": f"#/$defs/d{number - 1}"}
        definitions[f"d{number}"] = {"anyOf": [reference, dict(reference)]}
    return {"properties": {"a": {"$ref": f"#/$defs/d{times}"}}, "$defs": definitions}


def nested(depth: int, innermost: Any = 1) -> Any:
    for _ in range(depth):
        innermost = {"a": innermost}
    return innermost


def soon(schema: dict[str, Any], arguments: Any) -> str | None:
    """What is violated, which has to be told soon."""
    checked = ArgumentsSchema(schema, "t")
    began = time.process_time()
    violation = checked.violation(arguments)
    assert time.process_time() - began < SOON_SECONDS
    return violation


def test_definitions_that_unfold_without_end_are_refused_and_those_that_do_not_are_taken():
    assert "arguments.a" in (soon(doubling(4), {"a": 1}) or "")
    assert "too long" in (soon(doubling(14), {"a": 1}) or "")
    with pytest.raises(UsageError, match="unfolds"):
        ArgumentsSchema(doubling(40), "t")


def test_where_a_deep_value_does_not_fit_a_schema_that_refers_to_itself_is_not_searched_for():
    assert "arguments" in (soon(ITSELF, nested(2)) or "")
    assert "too long" in (soon(ITSELF, nested(60)) or "")
    assert soon(ITSELF, nested(60, {})) is None


def test_where_many_values_do_not_fit_is_not_searched_for():
    schema = {"properties": {"a": {"items": {"type": "string"}}}}
    few = soon(schema, {"a": list(range(20))}) or ""
    assert few.count("arguments.a.") == VIOLATIONS_NAMED_MAX
    assert "too long" in (soon(schema, {"a": list(range(200_000))}) or "")
    assert soon(schema, {"a": ["x"] * 200_000}) is None


def test_an_expression_that_goes_back_and_forth_is_given_up():
    schema = {"properties": {"a": {"items": {"pattern": "^(?:(?:a|b|ab)*)*(?=c)$"}}}}
    assert soon(schema, {"a": ["ab" * 20 + "d"] * 100}) is not None


def test_a_long_name_is_not_repeated_whole():
    violation = soon({"required": ["x" * 10_000]}, {}) or ""
    assert len(violation) < VIOLATION_CHARACTERS_MAX + 200
    assert "characters more" in violation


def test_a_property_may_be_called_like_a_keyword_and_hides_nothing():
    hidden = {"properties": {"definitions": {"$ref": "#/$defs/d40"}}, "$defs": doubling(40)["$defs"]}
    with pytest.raises(UsageError, match="unfolds"):
        ArgumentsSchema(hidden, "t")


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"properties": {"n": {"$ref": "#/$defs/a~1b~0c"}}, "$defs": {"a/b~c": {"type": "integer"}}}, False),
        ({"properties": {"n": {"$ref": "#/prefixItems/0"}}, "prefixItems": [{"type": "integer"}]}, False),
        (
            {"properties": {"n": {"$ref": "#word"}}, "$defs": {"w": {"$anchor": "word", "type": "integer"}}},
            False,
        ),
        ({"properties": {"enum": {"type": "integer"}, "n": {"enum": ["x", {"$ref": "#"}]}}}, True),
        ({"properties": {"n": True}}, True),
    ],
)
def test_references_of_every_kind_are_followed(schema, fits):
    assert (soon(schema, {"n": "x"}) is None) == fits
