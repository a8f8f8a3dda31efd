"""Conditions compare as JSON does, and what cannot be judged does not hold."""

from typing import Any

import pytest

from custody.plans import Condition, State
from custody.plans.conditions import DESCRIPTION_CHARACTERS_MAX, OPERATORS, unmet

STATE = State({
    "one": 1, "real": 1.0, "yes": True, "none": None, "text": "deploy to staging", "digits": "10",
    "list": [1, "two", {"x": True}], "object": {"name": [1]},
})  # fmt: skip


@pytest.mark.parametrize(
    ("key", "operator", "value", "holds"),
    [
        ("one", "eq", 1, True), ("one", "eq", 1.0, True), ("one", "eq", True, False),
        ("one", "eq", "1", False), ("yes", "eq", True, True), ("yes", "eq", 1, False),
        ("none", "eq", None, True), ("none", "eq", 0, False),
        ("list", "eq", [1.0, "two", {"x": True}], True), ("list", "eq", [True, "two", {"x": True}], False),
        ("list", "eq", [1, "two", {"x": 1}], False), ("object", "eq", {"name": [1]}, True),
        ("object", "eq", {}, False), ("text", "eq", "deploy", False), ("one", "neq", 2, True),
        ("one", "neq", 1.0, False), ("one", "neq", True, True), ("none", "neq", None, False),
        ("one", "gt", 0, True), ("one", "gt", 1, False), ("one", "lt", 1.5, True), ("one", "gte", 1, True),
        ("one", "lte", 0.5, False), ("real", "gte", 1, True), ("yes", "gt", 0, False),
        ("one", "gt", False, False), ("digits", "gt", 1, False), ("one", "lt", "2", False),
        ("none", "lte", 1, False), ("list", "gt", [0], False), ("none", "exists", None, True),
        ("none", "not_exists", None, False), ("text", "contains", "to stag", True),
        ("text", "contains", "To", False), ("text", "contains", 1, False), ("list", "contains", 1.0, True),
        ("list", "contains", True, False), ("list", "contains", {"x": True}, True),
        ("object", "contains", "name", True), ("object", "contains", "x", False),
        ("object", "contains", [1], False), ("one", "contains", 1, False),
        ("none", "contains", None, False),
    ],
)  # fmt: skip
def test_an_operator_holds_or_not(key: str, operator: str, value: Any, holds: bool) -> None:
    condition = Condition(key=key, operator=operator, value=value)
    assert condition.holds(STATE) is holds
    assert condition.holds(STATE.contents()) is holds


def test_of_a_key_that_is_not_there_only_its_absence_and_its_difference_hold() -> None:
    holding = [name for name in OPERATORS if Condition(key="absent", operator=name, value=None).holds(STATE)]
    assert holding == ["neq", "not_exists"]


@pytest.mark.parametrize("operator", ["", "EQ", "==", "matches", "eq "])
@pytest.mark.parametrize("key", ["one", "absent"])
def test_an_unknown_operator_never_holds(key: str, operator: str) -> None:
    condition = Condition(key=key, operator=operator, value=1)
    assert unmet([condition], STATE) == [
        f"The condition on state key '{key}' has an unknown operator, so it does not hold."
    ]


def test_equality_is_what_is_meant_where_nothing_is_said() -> None:
    assert unmet([Condition(key="one", value=1)], STATE) == []


def test_what_is_not_met_is_said_by_key_and_operator_and_never_by_value() -> None:
    state = State({"token": "hunter2"})
    said = unmet(
        [
            Condition(key="token", value="swordfish", description="the token has to be the new one"),
            Condition(key="token", operator="exists"),
            Condition(key="count", operator="gt", value=3),
        ],
        state,
    )
    assert said == [
        "The condition eq on state key 'token' does not hold (the token has to be the new one).",
        "The condition gt on state key 'count' does not hold.",
    ]


def test_a_description_is_cut() -> None:
    (said,) = unmet([Condition(key="x", description="d" * 10_000)], State())
    assert said.count("d" * DESCRIPTION_CHARACTERS_MAX) == 1
    assert len(said) < DESCRIPTION_CHARACTERS_MAX + 100
