"""What a skill says about itself is read as data, and a mistake in it is that skill's alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidSkill
from custody.skills.front_matter import (
    BODY_BYTES_MAX,
    DESCRIPTION_CHARACTERS_MAX,
    FRONT_MATTER_BYTES_MAX,
    decode,
    read_front_matter,
    split,
)


def refused(text: str) -> InvalidSkill:
    with pytest.raises(InvalidSkill) as error:
        read_front_matter(text)
    return error.value


def test_unknown_keys_are_kept():
    said = read_front_matter(
        "---\nname: pdf\ndescription: Fill in forms.\n"
        "allowed-tools: [Read, Bash]\nmetadata: {version: 1.2}\n---\nText"
    )
    assert said.metadata == {
        "name": "pdf",
        "description": "Fill in forms.",
        "allowed-tools": ["Read", "Bash"],
        "metadata": {"version": 1.2},
    }
    assert (said.name, said.description, said.description_cut) == ("pdf", "Fill in forms.", False)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff---\ndescription: d\n---\nbody\n",
        "---\r\ndescription: d\r\n---\r\nbody\n",
        "---  \ndescription: d\n--- \nbody\n",
    ],
    ids=["byte order mark", "carriage returns", "blanks behind the dashes"],
)
def test_front_matter_is_found_as_editors_write_it(text: str):
    assert read_front_matter(text).description == "d"
    assert split(text)[1] == "body\n"


def test_the_end_of_the_file_may_be_the_end_of_the_front_matter():
    assert read_front_matter("---\ndescription: d\n---").description == "d"


def test_a_line_of_dashes_in_the_text_is_text():
    assert split("---\ndescription: d\n---\none\n---\ntwo\n")[1] == "one\n---\ntwo\n"


def test_a_description_of_several_lines_becomes_one():
    assert (
        read_front_matter("---\ndescription: >\n  Fill in\n  forms.\n---\n").description == "Fill in forms."
    )


def test_a_long_description_is_cut_and_the_cut_is_told():
    said = read_front_matter(f"---\ndescription: {'é' * (DESCRIPTION_CHARACTERS_MAX + 1)}\n---\n")
    assert (len(said.description), said.description_cut) == (DESCRIPTION_CHARACTERS_MAX, True)


def test_a_text_without_front_matter_is_not_a_skill():
    assert refused("# Readme\n").details["kind"] == "not_a_skill"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("---\ndescription: d\n", "not closed"),
        ("---\n---\nbody", "empty"),
        ("---\n- a\n- b\n---\n", "not a mapping"),
        ("---\nname: x\n---\n", "no `description`"),
        ("---\ndescription: [a]\n---\n", "not a text"),
        ("---\ndescription: ' '\n---\n", "is empty"),
        ("---\na: &a [x, x]\nb: [*a, *a]\ndescription: d\n---\n", "anchor or alias"),
        ("---\ndescription: !!python/object/apply:os.system [id]\n---\n", "tag"),
        ("---\ndescription: d\ndescription: e\n---\n", "twice"),
        (f"---\ndescription: d\nx: {'y' * FRONT_MATTER_BYTES_MAX}\n---\n", "bytes"),
        (f"---\ndescription: d\n---\n{'y' * (BODY_BYTES_MAX + 1)}", "bytes"),
        ('---\ndescription: "\\ud800"\n---\n', "front matter"),
    ],
    ids=[
        "not closed",
        "empty",
        "list",
        "no description",
        "description is a list",
        "description is blank",
        "alias bomb",
        "tag",
        "key twice",
        "too long",
        "text too long",
        "half a surrogate pair",
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, says: str):
    error = refused(text)
    assert error.details["kind"] == "front_matter"
    assert says in error.message


def test_the_line_of_a_mistake_is_the_line_in_the_file():
    error = refused("---\nname: x\ndescription: &here open\n---\n")
    assert error.details["line"] == 3


def test_invalid_utf8_is_refused_with_its_place():
    with pytest.raises(InvalidSkill) as error:
        decode("---\ndescription: é".encode()[:-1])
    assert "byte 17" in error.value.message


def test_a_text_beyond_both_bounds_is_refused_before_it_is_decoded():
    with pytest.raises(InvalidSkill):
        decode(b"\xff" * (FRONT_MATTER_BYTES_MAX + BODY_BYTES_MAX + 1))


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda data: b"---\n" + data + b"\n---\n"))
def test_any_bytes_are_a_skill_or_refused_as_one(data: bytes):
    try:
        said = read_front_matter(decode(data))
    except InvalidSkill as error:
        assert error.message  # noqa: PT017
    else:
        assert said.description


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_follows_the_front_matter_is_given_as_it_stands(body: str):
    yaml, rest = split(f"---\ndescription: d\n---\n{body}")
    assert (yaml, rest) == ("description: d\n", body)
