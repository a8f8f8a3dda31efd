"""Values that are not JSON are kept typed, with a mark; no value makes keeping fail."""

import base64
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import io
import math
import pathlib
import sys
import uuid
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.redaction import Mark, Redactor, plain
from custody.redaction.typed import REPR_CHARACTERS_MAX
from custody.redaction.walk import ELEMENT_BYTES, VALUE_BYTES_MAX

SECRET = "hunter2-hunter2"
REDACTOR = Redactor(b"k" * 32, {"API_TOKEN": SECRET})


def kept(value: Any) -> Any:
    return plain(msgspec.msgpack.decode(REDACTOR.keep(value, "result").data))


class Colour(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Size(enum.IntEnum):
    BIG = 7


@dataclasses.dataclass
class Login:
    user: str
    password: str


class Point(NamedTuple):
    x: int
    y: int


class Record(msgspec.Struct):
    name: str
    api_key: str


class Model:
    """Has the one method of a pydantic model that matters here."""

    def model_dump(self) -> dict[str, Any]:
        return {"name": "n", "token": "abc"}


class Raises:
    def __repr__(self) -> str:
        raise ValueError("no")


class Exits:
    def __repr__(self) -> str:
        sys.exit(1)

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError("no")


class Odd(dict[str, Any]):
    def items(self) -> Any:
        raise ValueError("no")


class Telling:
    def __repr__(self) -> str:
        return f"<Telling {SECRET}>" + "é" * REPR_CHARACTERS_MAX * 2


NAME = __name__


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\xff", {"$type": "bytes", "base64": "/w=="}),
        (bytearray(b"\xff"), {"$type": "bytes", "base64": "/w=="}),
        (memoryview(b"-\xff-")[1:2], {"$type": "bytes", "base64": "/w=="}),
        (math.nan, {"$type": "float", "value": "NaN"}),
        (math.inf, {"$type": "float", "value": "Infinity"}),
        (-math.inf, {"$type": "float", "value": "-Infinity"}),
        (2**64, {"$type": "int", "value": "18446744073709551616"}),
        ([2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
        (-(2**63) - 1, {"$type": "int", "value": "-9223372036854775809"}),
        ("a\\\udcff", {"$type": "str", "escaped": "a\\\\\\udcff"}),
        ({"a\udcff": 1}, {"a\\udcff": 1}),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, {"$type": "set", "items": [1, 2, 3]}),
        (frozenset({1}), {"$type": "set", "items": [1]}),
        (collections.deque([1]), [1]),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), {"$type": "datetime", "value": "2026-01-02T00:00:00+00:00"}),
        (dt.date(2026, 1, 2), {"$type": "date", "value": "2026-01-02"}),
        (dt.timedelta(minutes=1), {"$type": "timedelta", "seconds": 60.0}),
        (uuid.UUID(int=1), {"$type": "uuid", "value": "00000000-0000-0000-0000-000000000001"}),
        (pathlib.Path("/a"), {"$type": "path", "value": "/a"}),
        (decimal.Decimal("1.10"), {"$type": "decimal", "value": "1.10"}),
        (fractions.Fraction(1, 3), {"$type": "fraction", "value": "1/3"}),
        (1j, {"$type": "complex", "value": "1j"}),
        (range(3), {"$type": "range", "value": "range(0, 3)"}),
        (Colour.RED, {"$type": "enum", "class": f"{NAME}.Colour", "name": "RED", "value": 1}),
        ([Word.YES, Size.BIG], ["yes", 7]),
        ({Word.YES: 1}, {"yes": 1}),
        ({1: "a", "1": "b"}, {"$type": "mapping", "items": [[1, "a"], ["1", "b"]]}),
        ({(1, 2): "a"}, {"$type": "mapping", "items": [[[1, 2], "a"]]}),
        ({"$type": "bytes"}, {"$type": "mapping", "items": [["$type", "bytes"]]}),
        ({"a\udcff": 1, "a\\udcff": 2}, {"$type": "mapping", "items": [["a\\udcff", 1], ["a\\udcff", 2]]}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.ChainMap({"a": 1}), {"a": 1}),
        ({"a": 1}.keys(), ["a"]),
        (Odd(a=1), {"a": 1}),
        (Text("x"), "x"),
        (Point(1, 2), {"$type": "object", "class": f"{NAME}.Point", "fields": {"x": 1, "y": 2}}),
        (Raises(), {"$type": "object", "class": f"{NAME}.Raises", "repr": "<repr raised ValueError>"}),
        (Exits(), {"$type": "object", "class": f"{NAME}.Exits", "repr": "<repr raised SystemExit>"}),
        (int, {"$type": "object", "class": "builtins.type", "repr": "<class 'int'>"}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_that_is_not_json_is_kept_with_its_type(value: Any, expected: Any) -> None:
    assert kept(value) == expected


def test_a_cycle_is_marked_where_it_closes_and_a_shared_value_is_not_a_cycle() -> None:
    ring: dict[str, Any] = {"n": 1}
    ring["again"] = [ring]
    assert kept(ring) == {"n": 1, "again": [{"$type": "cycle", "class": "builtins.dict"}]}
    shared = [1]
    assert kept([shared, shared, {1: shared}]) == [[1], [1], {"$type": "mapping", "items": [[1, [1]]]}]


def test_sensitive_keys_count_in_fields_of_objects() -> None:
    for value in (Login("me", "abc"), Record("n", "abc"), Model()):
        data = kept([value])[0]
        assert data["$type"] == "object"
        assert "abc" not in str(data)
        assert "redacted:sensitive_key" in str(data["fields"])
    assert "redacted" in str(kept({b"password": "abc", 1: 2}))


def test_a_repr_is_bounded_with_a_count_and_holds_no_known_value() -> None:
    shown = kept(Telling())["repr"]
    assert SECRET not in shown
    assert shown.endswith("characters dropped]")
    assert len(shown) < REPR_CHARACTERS_MAX + 200


def test_an_iterator_is_not_consumed() -> None:
    stream = io.StringIO("text")
    numbers = iter([1, 2])
    kept([stream, numbers, (n for n in [1])])
    assert (stream.read(), list(numbers)) == ("text", [1, 2])


def test_marks_given_by_the_caller_stand_as_they_are() -> None:
    assert kept({"result": Mark({"$type": "blob", "bytes": 3})}) == {"result": {"$type": "blob", "bytes": 3}}


# -- bounds -------------------------------------------------------------------------------------------


def test_a_value_beyond_the_bound_is_marked_and_its_neighbours_are_kept() -> None:
    size = VALUE_BYTES_MAX + 1
    assert kept({"stdout": "x" * size, "exit_code": 0}) == {
        "stdout": {"$type": "too_large", "class": "builtins.str", "bytes": size, "characters": size},
        "exit_code": 0,
    }
    big = bytes(size)
    mark = {"$type": "too_large", "class": "builtins.bytes", "bytes": size}
    assert kept([big, "x"]) == [mark, "x"]
    assert kept(memoryview(big)) == {**mark, "class": "builtins.memoryview"}
    assert kept(base64.b64encode)["$type"] == "object"


def test_a_gigabyte_is_neither_copied_nor_read() -> None:
    """A sparse gigabyte: reading it would make its pages real."""
    import mmap
    import resource

    with mmap.mmap(-1, 1 << 30) as area, memoryview(area) as view:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert kept({"result": view, "password": view})["result"]["bytes"] == 1 << 30
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_too_many_elements_are_marked_with_their_number() -> None:
    count = VALUE_BYTES_MAX // ELEMENT_BYTES + 1
    assert kept([[0] * count, 1]) == [{"$type": "too_large", "class": "builtins.list", "items": count}, 1]


@pytest.mark.long
def test_shared_values_that_would_unfold_without_end_are_bounded() -> None:
    value: Any = "x"
    for _ in range(40):
        value = [value] * 10
    data = REDACTOR.keep(value, "").data
    assert len(data) < VALUE_BYTES_MAX


def test_a_very_large_integer_is_kept_in_hexadecimal_at_once() -> None:
    assert kept(1 << 100_000)["value"] == hex(1 << 100_000)


# -- whatever is thrown at it -------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=9),
    st.text("a\\\ud800\udcffé", max_size=4),
    st.binary(max_size=9),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.builds(bytearray, st.binary(max_size=4)),
    st.builds(range, st.integers(0, 9)),
    st.sampled_from(Colour),
    st.builds(object),
    st.builds(Raises),
    st.builds(Exits),
    st.builds(Text, st.text(max_size=3)),
    st.builds(Model),
    st.builds(iter, st.just([1])),
    st.just(NotImplemented),
    st.just(...),
    st.builds(Exception, st.text(max_size=3)),
)
KEYS = st.one_of(
    st.text(st.characters(), max_size=6),
    st.integers(),
    st.booleans(),
    st.none(),
    st.binary(max_size=3),
    st.tuples(st.integers()),
    st.floats(),
    st.sampled_from(["password", "$type", "value", "name", "\udcff"]),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(Login, inner, inner),
        st.builds(collections.deque, st.lists(inner, max_size=3)),
        st.builds(lambda items: collections.OrderedDict(enumerate(items)), st.lists(inner, max_size=3)),
    ),
    max_leaves=25,
)


@given(ANYTHING)
def test_no_value_makes_keeping_fail_and_every_kept_value_can_be_shown(value: Any) -> None:
    data = REDACTOR.keep(value, "result").data
    assert b'"error"' not in data
    shown = plain(msgspec.msgpack.decode(data))
    assert msgspec.json.decode(msgspec.json.encode(shown)) == shown


@given(ANYTHING)
def test_keeping_twice_gives_the_same_bytes(value: Any) -> None:
    assert REDACTOR.keep(value, "result").data == REDACTOR.keep(value, "result").data


def test_keeping_works_at_the_bottom_of_the_callers_stack() -> None:
    def descend() -> bytes:
        try:
            return descend()
        except RecursionError:
            return REDACTOR.keep({1: [{2: [3]}]}, "").data

    assert msgspec.msgpack.decode(descend())
