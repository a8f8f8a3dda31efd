"""C says of a value that it is ordinary only where Python says so too, and encodes it to the same bytes."""

import math
import random
import threading
from collections import OrderedDict
from enum import IntEnum, StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.how_many import as_many
from tests.implementations import built, use_python
from tests.redaction.patience import PATIENT_MS

from custody import native
from custody.redaction import VALUE_BYTES_MAX, Redactor
from custody.redaction.needles import ITSELF, NEAR, NOTHING, Filter, Needle
from custody.redaction.typed import MARK_KEYS
from custody.redaction.urls import holds_userinfo
from custody.redaction.walk import DEPTH_MAX

pytestmark = built

KEY = b"k" * 32
KNOWN = {"API_TOKEN": "hunter2-hunter2", "DB_PASSWORD": 'p"a ss\\w&rd'}
ORDINARY = {"a", "argv", "name", "value", "-m", "maxfail", "path", "n", "ü", ""}


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 300


class Named(dict[str, Any]):
    pass


class Items(list[Any]):
    pass


WORDS = st.sampled_from([
    "a", "argv", "name", "Name", "key", "value", "Value", "password", "API_KEY", "token_count", "$type",
    "$blob", "-m", "--token", "-H", "--header", "--no-password", "--maxfail=1", "--password=abc",
    "API_KEY=abc", "x=1", "maxfail=", "---x=1", "-=1", "é=1", "tokén=1", "Authorization: abc",
    "authorization:", "X-Api-Key: abc", "X-Trace: abc", "https://x/y?z=1", "Cookie", "Accept", "", " ",
    "=", ":", "-", "--", "hunter2-hunter2", "hunter2", "ü", "€", "𝄞", "\udc80", "\ud834\udd1e", "\0",
    "x" * 64, "x" * 65, "x" * 64 + "=1", "x" * 129 + "=1", "a" * 31, "a" * 32, "a" * 255, "a" * 256,
    "é" * 128, "𝄞" * 70,
    "://", "@", "user", "a:b", "https://a:b@h", "https://longer-than-8@h", "ssh://git@h", "a@b", "/", "\x7f",
])  # fmt: skip
TEXTS = st.one_of(WORDS, st.text(max_size=6), st.lists(WORDS, max_size=3).map("".join))
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([
        sign * 2**bits + more
        for sign in (1, -1)
        for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63, 64, 200)
        for more in (-1, 0, 1)
    ]),
)  # fmt: skip
ODD = st.sampled_from([
    Text("text"), Number(7), Colour.RED, Size.LARGE, Named(a=1), Items([1]), OrderedDict(a=1), {1, 2},
    range(3), bytearray(b"x"), memoryview(b"x"), object, 1j, ..., {1: 2}, {None: 1}, {Text("a"): 1},
    {b"a": 1}, {("a",): 1},
])  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.floats(), TEXTS, st.binary(max_size=4),
    st.sampled_from([b"x" * 255, b"x" * 256]),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(SCALARS, SCALARS, SCALARS, ODD),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(TEXTS, max_size=5),
        st.tuples(inner, inner),
        st.tuples(TEXTS, TEXTS),
        st.dictionaries(TEXTS, inner, max_size=5),
    ),
    max_leaves=25,
)


NO_NEEDLES = Filter(()).tables


def encode(value: Any, tables: bytes = NO_NEEDLES, salt: bytes = b"") -> Any:
    assert native.encode_ordinary is not None
    return native.encode_ordinary(value, ORDINARY, tables, VALUE_BYTES_MAX, salt)


IN_C = Redactor(KEY, KNOWN, ms_max=PATIENT_MS)
IN_PYTHON = Redactor(KEY, KNOWN, ms_max=PATIENT_MS)


@settings(max_examples=as_many(800))
@given(VALUES)
@example({"a": [math.nan, -0.0, math.inf]})
@example({"x" * 30: {"name": "x" * 65, "value": 1}})
@example([["x" * 65, "y"]])
@example({"n": {str(number): number for number in range(17)}})
@example({"n": list(range(70_000))})
@example({"n": "é" * 40_000, "m": b"x" * 70_000})
def test_what_is_kept_is_the_same_in_both(value: Any) -> None:
    in_c = IN_C.keep(value, "root", b"salt")
    with pytest.MonkeyPatch.context() as patch:
        use_python(patch)
        in_python = IN_PYTHON.keep(value, "root", b"salt")
    assert in_c == in_python


@settings(max_examples=as_many(800))
@given(VALUES)
def test_what_c_says_is_ordinary_the_long_way_leaves_alone(value: Any) -> None:
    data = encode(value, IN_C._filter)
    if type(data) is bytes:
        assert data == msgspec.msgpack.encode(value)
        walk = IN_C._walk("root")
        assert (msgspec.msgpack.encode(walk.value(value, "root", 0, False)), walk.redactions()) == (data, ())


def test_most_values_are_ordinary_to_c() -> None:
    value = {
        "a": ["python3", "-m", "pytest", "-q", "--maxfail=1", "https://x/y", "", "é", 1, None],
        "path": "a/b",
        "n": [1.5, True, b"\0", {"name": "path", "value": 3}, ("a", "b"), [["n", "x"]]],
    }
    assert encode(value) == msgspec.msgpack.encode(value)
    assert encode(value, salt=b"s" * 5000) == b"s" * 5000 + msgspec.msgpack.encode(value)


def test_names_that_are_not_known_are_handed_back_to_be_judged() -> None:
    value = {"new": ["--old=1", "x", "-z", "y"], "n": {"Name": "who", "Value": 1}, "a": ["one", "two"]}
    assert encode(value) == ["new", "old", "-z", "Name", "Value", "who", "one"]


@pytest.mark.parametrize(
    "value",
    [
        "text", 1, None, {1: 2}, {"a": {1}}, {"a": Text("x")}, {Text("a"): 1}, [Number(1)], Named(a=1),
        Items(), [2**64], [-(2**63) - 1], ["\ud800"], ["a\udfff"], {"\udc80": 1}, ["Cookie: x"],
        ["AUTHORIZATION:x"],
        {"x" * 65: 1}, ["x" * 65, "y"], ["-" + "x" * 70, "y"], [["x" * 65 + "=1", 1]], {"a": bytearray(b"x")},
    ],
)  # fmt: skip
def test_c_gives_up_on_what_it_cannot_judge(value: Any) -> None:
    assert encode(value) is None


@pytest.mark.parametrize(("depth", "ordinary"), [(DEPTH_MAX, True), (DEPTH_MAX + 1, False), (100_000, False)])
def test_c_gives_up_on_depth_where_python_does(depth: int, ordinary: bool) -> None:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    assert (encode(value) is not None) is ordinary


def test_c_gives_up_on_a_value_that_holds_itself() -> None:
    items: list[Any] = []
    items.append(items)
    named: dict[str, Any] = {}
    named["a"] = [named]
    assert (encode(items), encode(named)) == (None, None)


def test_c_gives_up_at_the_same_size_as_python() -> None:
    assert native.encode_ordinary is not None
    value = {"a": ["é" * 100, b"x" * 50, [1, 2, 3]], "n": {"path": None}}
    weight = 100 + 50 + 64 * (2 + 3 + 3 + 1)
    redactor = Redactor(KEY)
    assert redactor._weigh(value, weight, 0) == 0
    assert redactor._weigh(value, weight - 1, 0) == -1
    names = {*ORDINARY}
    assert native.encode_ordinary(value, names, NO_NEEDLES, weight, b"") == msgspec.msgpack.encode(value)
    assert native.encode_ordinary(value, names, NO_NEEDLES, weight - 1, b"") is None


PIECES = st.sampled_from(
    [b"a", b"b", b"A", b"ab", b"aba", b"abab", b" ", b"_", b"\xff", b"\0", b"aaaaaaaa", b"bAb"]
)
MADE_OF_PIECES = st.lists(PIECES, max_size=12).map(b"".join)
NEEDLES = st.lists(
    st.builds(
        Needle,
        MADE_OF_PIECES.filter(lambda data: len(data) >= 3),
        st.booleans(),
        st.integers(0, 3),
        st.sampled_from([0, 1, 5, 100]),
        st.sampled_from([1, 7, 100]),
        st.sampled_from([0, 0, 2, 9]),
    ),
    max_size=6,
)


def sought(data: bytes, fold: bool, group: int) -> Needle:
    return Needle(data, fold, group)


SOUGHT = st.lists(
    st.builds(
        sought,
        MADE_OF_PIECES.filter(lambda data: len(data) >= 3),
        st.booleans(),
        st.integers(4, 6),
    ),
    max_size=3,
)


@settings(max_examples=as_many(800))
@given(MADE_OF_PIECES, NEEDLES, SOUGHT)
def test_needles_are_found_by_both(data: bytes, keywords: list[Needle], sought: list[Needle]) -> None:
    for needles in (keywords, sought, keywords + sought):
        by_rule = {needle.group: needle for needle in needles}
        alike = [needle._replace(run=by_rule[needle.group].run) for needle in needles]
        both = Filter(alike)
        in_c = (both.find(data), both.level(data), encode({"a": data}, both.tables))
        with pytest.MonkeyPatch.context() as patch:
            use_python(patch)
            assert both.find(data) == in_c[0]
            assert both.level(data) == in_c[1]
            level = both.level(msgspec.msgpack.encode({"a": data}))
        plain = msgspec.msgpack.encode({"a": data})
        assert in_c[2] == {NOTHING: plain, NEAR: (plain,), ITSELF: None}[level]


@given(st.integers(0, 40), st.booleans())
def test_needles_are_found_at_every_place(before: int, fold: bool) -> None:
    for needle in (b"abc", b"abcd", b"token_of_mine"):
        data = b"x" * before + (needle.upper() if fold else needle) + b"y"
        assert Filter([Needle(needle, fold, 0)]).find(data) == [(0, before, before + len(needle))]


@settings(max_examples=as_many(800))
@given(
    st.lists(
        st.sampled_from([b"://", b"@", b":", b"/", b"a", b"seven77", b" ", b"\\", b"\xff", b"\0", b"<"]),
        max_size=12,
    ).map(b"".join)
)
@example(b"@://a:@")
@example(b"://@@:@")
@example(b"://1234567@")
@example(b"://12345678@")
@example(b"://1234@678@")
def test_what_may_be_credentials_in_a_url_is_found_by_both(data: bytes) -> None:
    value = {"a": data}
    found = holds_userinfo(msgspec.msgpack.encode(value))
    assert (encode(value) is None) is found
    assert encode({"a": 1}, salt=b"://a:b@h") is not None


def test_a_needle_is_not_looked_for_in_the_salt() -> None:
    tables = Filter([Needle(b"salt", False, 0)]).tables
    assert encode({"a": 1}, tables, b"salt") == b"salt" + msgspec.msgpack.encode({"a": 1})


def test_names_that_are_marks_are_never_learnt() -> None:
    redactor = Redactor(KEY)
    for name in MARK_KEYS:
        redactor.keep({name: 1}, "")
        redactor.keep(["-x", name, f"{name}=1"], "")
    assert redactor._ordinary_names.isdisjoint(MARK_KEYS)


@pytest.mark.parametrize(
    "arguments",
    [
        (), ({},), ({}, {}, NO_NEEDLES, 1, b""), ({}, set(), [], 1, b""), ({}, set(), b"", 1, b""),
        ({}, set(), b"\0" * 100_000, 1, b""), ({}, set(), NO_NEEDLES, 1.0, b""),
        ({}, set(), NO_NEEDLES, 1, ""),
    ],
)  # fmt: skip
def test_c_refuses_what_is_not_its_own_arguments(arguments: tuple[Any, ...]) -> None:
    assert native.encode_ordinary is not None
    assert native.find_needles is not None and native.find_level is not None
    with pytest.raises(TypeError):
        native.encode_ordinary(*arguments)
    with pytest.raises(TypeError):
        native.find_needles(*arguments)
    with pytest.raises(TypeError):
        native.find_level(*arguments)


def test_a_needle_that_is_no_needle_is_refused() -> None:
    assert native.make_filter is not None and native.encode_ordinary is not None
    with pytest.raises(ValueError, match="three bytes or more"):
        Filter([Needle(b"ab", False, 0)])
    for needles in ([], ((b"abc",),), ((b"abc", 0, 0, 0, 0, 0, "0"),), (b"abc",)):
        with pytest.raises(TypeError):
            native.make_filter(needles)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="three bytes or more"):
        native.make_filter(((b"ab", 0, 0, 0, 0, 0, 0),))  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        native.encode_ordinary({}, set(), NO_NEEDLES, 2**70, b"")


def test_without_memory_c_raises_or_answers_and_leaks_nothing() -> None:
    memory = pytest.importorskip("_testcapi")
    value = {"a": ["x" * 5000, "--maxfail=1", 2**64 - 1, {"path": b"x" * 5000}], "new": ["-y", "é" * 5000]}
    raised = 0
    for start in range(1, 40):
        try:
            memory.set_nomemory(start, start + 1)
            answer = encode(value)
        except MemoryError:
            raised += 1
        else:
            memory.remove_mem_hooks()
            assert answer == ["new", "-y", "-y"]
        finally:
            memory.remove_mem_hooks()
    assert raised > 0


def test_values_that_other_threads_change_never_break_the_interpreter() -> None:
    redactor = Redactor(KEY, KNOWN)
    value: dict[str, Any] = {"a": [["x"], {"n": 1}], "n": {}}
    stop = threading.Event()

    def change() -> None:
        chance = random.Random(1)
        while not stop.is_set():
            value["a"] = [str(chance.random())] * chance.randrange(50)
            value["n"].clear()
            value["n"].update({f"n{chance.randrange(100)}": [1] * chance.randrange(5) for _ in range(20)})

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(3000):
            assert msgspec.msgpack.decode(redactor.keep(value, "").data)
    finally:
        stop.set()
        thread.join()
