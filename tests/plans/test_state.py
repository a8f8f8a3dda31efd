"""A state keeps JSON by key within bounds, and gives back what was there before."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidInput
from custody.plans import State
from custody.plans.json_values import DEPTH_MAX
from custody.plans.state import KEY_CHARACTERS_MAX, StateChange, Writes

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
writes = st.lists(st.tuples(st.sampled_from("abc"), json_values), max_size=8)


def test_what_is_put_there_is_there() -> None:
    state = State({"a": 1})
    state.set("b", {"list": [1, None, "ü"]})
    assert state.contents() == {"a": 1, "b": {"list": [1, None, "ü"]}}
    assert (state.get("b"), state.exists("b"), "c" in state, len(state)) == (
        {"list": [1, None, "ü"]},
        True,
        False,
        2,
    )


def test_null_is_a_value_and_nothing_is_not() -> None:
    state = State({"a": None})
    assert (state.get("a"), state.exists("a")) == (None, True)
    assert (state.get("b"), state.exists("b")) == (None, False)


def test_keys_are_in_order() -> None:
    assert State({"b": 1, "a": 2, "ä": 3}).keys() == ["a", "b", "ä"]


def test_what_is_handed_in_or_out_can_be_changed_without_changing_the_state() -> None:
    value = {"list": [1]}
    state = State({"a": value})
    value["list"].append(2)
    state.get("a")["list"].append(3)
    assert state.get("a") == {"list": [1]}


def test_every_write_has_a_version_of_its_own() -> None:
    state = State()
    assert [state.set("a", 1), state.set("b", 1), state.set("a", 1)] == [1, 2, 3]
    assert (state.version, state.version_of("a"), state.version_of("b"), state.version_of("c")) == (
        3,
        3,
        2,
        0,
    )


def test_what_is_different_since_is_told_by_key() -> None:
    state = State({"a": 1, "b": 1})
    snapshot = state.snapshot()
    state.set("c", 2)
    state.set("a", None)
    assert state.changes_since(snapshot) == [
        StateChange(key="a", version=4, value=None),
        StateChange(key="c", version=3, value=2),
    ]
    later = state.snapshot()
    state.restore(snapshot)
    assert state.changes_since(snapshot) == []
    assert [(change.key, change.removed) for change in state.changes_since(later)] == [
        ("a", False),
        ("c", True),
    ]


@given(before=writes, after=writes)
def test_restoring_gives_back_the_values_the_versions_and_the_room(
    before: list[tuple[str, Any]], after: list[tuple[str, Any]]
) -> None:
    state = State()
    for key, value in before:
        state.set(key, value)
    values, used, snapshot = state.contents(), state.encoded_bytes, state.snapshot()
    versions = {key: state.version_of(key) for key in values}
    for key, value in after:
        state.set(key, value)
    state.restore(snapshot)
    assert (state.contents(), state.encoded_bytes) == (values, used)
    assert {key: state.version_of(key) for key in values} == versions
    assert state.set("a", 0) > len(before) + len(after) - 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["ours", "theirs"]), st.sampled_from("ab"), st.integers(0, 9)), max_size=12
    )
)
def test_taking_back_undoes_what_the_plan_wrote_last_and_nothing_of_others(
    steps: list[tuple[str, str, int]],
) -> None:
    state, expected = State({"a": -1}), {"a": -1}
    ours = Writes(state)
    for whose, key, value in steps:
        if whose == "ours":
            ours.apply({key: value})
        else:
            state.set(key, value)
            expected[key] = value
    last = {key: whose for whose, key, _ in steps}
    mixed = {key for key in "ab" if len({whose for whose, k, _ in steps if k == key}) == 2}
    left = ours.take_back()
    assert state.contents() == expected
    assert set(left) <= mixed
    assert {key for key in mixed if last[key] == "theirs"} <= set(left)


def test_effects_that_do_not_all_fit_are_not_applied_at_all() -> None:
    state = State({"a": 1}, keys_max=2)
    ours = Writes(state)
    with pytest.raises(InvalidInput, match="2 keys"):
        ours.apply({"a": 2, "b": 2, "c": 2})
    assert state.contents() == {"a": 1}
    assert ours.take_back() == []


def test_there_is_a_most_of_keys_and_of_bytes() -> None:
    state = State({"key": "x" * 10}, keys_max=1, bytes_max=20)
    assert state.encoded_bytes == len("key") + len('"xxxxxxxxxx"')
    with pytest.raises(InvalidInput, match="1 keys"):
        state.set("other", 1)
    with pytest.raises(InvalidInput, match="larger than 20 bytes"):
        state.set("key", "x" * 16)
    state.set("key", "x" * 15)
    state.set("key", "")
    assert state.encoded_bytes == len("key") + len('""')


class Unheard:
    def __repr__(self) -> str:  # the same in every process, as it names the test
        return "Unheard"


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, [math.nan], {1: 2}, {"a": b"bytes"}, {1, 2}, Unheard(), "\ud800"],
    ids=repr,
)
def test_what_json_cannot_say_is_refused_and_not_shown(value: Any) -> None:
    state = State({"a": 1})
    with pytest.raises(InvalidInput) as refusal:
        state.set("a", value)
    assert refusal.value.message.startswith("The value of 'a' ")
    assert state.contents() == {"a": 1}


@pytest.mark.parametrize("value", [2**64, -(2**70), 1e300, -0.0, "\0", "", [], {}], ids=repr)
def test_what_json_can_say_is_kept_as_it_is(value: Any) -> None:
    kept = State({"a": value}).get("a")
    assert (kept, type(kept)) == (value, type(value))


def test_a_value_may_be_so_deep_and_no_deeper() -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    assert State({"a": value}).get("a") == value
    with pytest.raises(InvalidInput, match="deeper"):
        State({"a": [value]})


@pytest.mark.parametrize(
    "key", ["", "k" * (KEY_CHARACTERS_MAX + 1), 1, None, "\ud800"], ids=lambda key: repr(key)[:9]
)
def test_a_key_is_text_of_a_bounded_length(key: Any) -> None:
    with pytest.raises(InvalidInput):
        State().set(key, 1)
