"""YAML that somebody else wrote: what it means, what is refused, and where the mistake stands."""

import itertools
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidInput
from custody.safe_yaml import DEPTH_MAX, NUMBER_CHARACTERS_MAX, load


def refusal(text: str | bytes, **said: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        load(text, **said)
    return refused.value


@pytest.fixture(params=["libyaml", "pure"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML is built without libyaml on some machines."""
    if request.param == "pure":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-17", -17),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-2.5E-1", -0.25),
    ],
)
def test_plain_words_of_json_mean_what_they_mean_there(word: str, value: Any) -> None:
    found = load(f"key: {word}\n")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


@pytest.mark.parametrize(
    "word",
    "yes no on off y True FALSE Null NULL 2026-01-31 2026-01-31T10:00:00Z 010 0x1f 0o17 1_000 12:30 .5 5. +1"
    " .inf .nan NaN 1.2.3".split(),
)
def test_every_other_word_is_the_text_that_stands_there(word: str) -> None:
    assert load(f"[{word}]") == [word]


def test_what_is_quoted_or_tagged_as_text_is_text_and_keys_always_are() -> None:
    assert load("""['1', "true", !!str 2, ! null, '']""") == ["1", "true", "2", "null", ""]
    assert load("a: |\n  1\nb: >\n  true\n") == {"a": "1\n", "b": "true\n"}
    assert load("1: a\ntrue: b\n2026-01-31: c\n'': d") == {"1": "a", "true": "b", "2026-01-31": "c", "": "d"}


def test_tags_of_yaml_itself_may_say_what_is_so_and_nothing_else() -> None:
    assert load("!!map {a: !!int 1, b: !!seq [!!float 1.5, !!bool true, !!null ~]}") == {
        "a": 1,
        "b": [1.5, True, None],
    }
    assert "tag" in str(refusal("!!int abc"))
    assert "tag" in str(refusal("!!set {a}"))
    assert "tag" in str(refusal("!!str [a]"))
    assert "tag" in str(refusal("!!int 1: a"))


@pytest.mark.parametrize(
    ("text", "said", "place"),
    [
        ("a: &name 1\nb: 2", "anchor or alias", (1, 4)),
        ("a: 1\nb: *name", "anchor or alias", (2, 4)),
        ("a: 1\nb: 2\na: 3", "the key 'a' twice", (3, 1)),
        ("a: 1\n--- \nb: 2", "second document", (2, 1)),
        ("a: !!python/object/apply:os.system [id]", "python/object", (1, 4)),
        ("%TAG ! tag:example.org,2000:\n---\na: 1", "declares tags", (1, 1)),
        ("<<: {a: 1}\nb: 2", "merges", (1, 1)),
        ("? [a, b]\n: 1", "as a key", (1, 3)),
        ("a: 'never closed\n", "cannot be read", (2, 1)),
        ("a:\n\tb: 1", "cannot be read", (2, 1)),
        ("a: 1\nb: \x01", "does not allow", (2, 4)),
        ("a: 1e999", "too large", (1, 4)),
        (f"a: {'1' * (NUMBER_CHARACTERS_MAX + 1)}", "characters", (1, 4)),
        ("- " * (DEPTH_MAX + 1) + "x", f"deeper than {DEPTH_MAX}", (1, 2 * DEPTH_MAX + 1)),
        ("[" * 100_000, f"deeper than {DEPTH_MAX}", (1, DEPTH_MAX + 1)),
    ],
    ids=lambda value: value[:20].replace("\x01", "control") if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("either_parser")
def test_what_is_refused_is_told_with_its_line_and_column(
    text: str, said: str, place: tuple[int, int]
) -> None:
    refused = refusal(text, what="The plan")
    assert said in str(refused)
    assert str(refused).startswith("The plan ")
    assert (refused.details["line"], refused.details["column"]) == place


@pytest.mark.usefixtures("either_parser")
def test_half_a_character_is_none_however_it_is_spelled() -> None:
    assert "cannot be read" in str(refusal('a: "\\ud800"'))
    assert "half a character" in str(refusal("a: \ud800"))
    assert load('a: "\\U0001F600"') == {"a": "\U0001f600"}


def test_an_alias_bomb_is_refused_before_it_is_built() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in itertools.pairwise("abcdefghi")]
    assert "anchor" in str(refusal("\n".join(lines)))


def test_a_text_that_is_too_long_or_no_text_is_refused_before_it_is_read() -> None:
    assert "20 is the most" in str(refusal("a: 1\n" * 5, bytes_max=20))
    assert load("a: 1\nb: 2", bytes_max=9) == {"a": 1, "b": 2}
    assert refusal(b"a: \xff").details["offset"] == 3


def test_lines_are_counted_from_where_the_text_begins() -> None:
    assert refusal("a: 1\na: 2", first_line=10).details["line"] == 11


def test_a_mark_at_the_beginning_and_nothing_at_all_are_no_mistakes() -> None:
    assert load("\ufeffa: 1") == {"a": 1}
    assert load("") is None
    assert load("# nothing but words\n") is None


numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufffe\uffff"))
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_is_read_as_json(value: Any) -> None:
    """But for its escapes of half characters, which YAML does not have."""
    text = json.dumps(value, ensure_ascii=False)
    assert load(text) == json.loads(text)
