"""A name is judged before anything is written, and every name that passes is safe wherever it is used."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidInput
from custody.skills.names import NAME_CHARACTERS_MAX, check_name, look_alike, name_fault, skeleton


@pytest.mark.parametrize(
    "name", ["pdf", "PDF-tools", "v1.2", "a", "9lives", "a_b", "x" * 64, "console", "auxiliary"]
)
def test_an_ordinary_name_is_allowed(name: str):
    check_name(name)


REFUSED = {
    "": "empty",
    "../../x": "path",
    "..": "path",
    ".": "path",
    "a..b": "path",
    "/etc/passwd": "path",
    "a/b": "path",
    "a\\b": "path",
    "a\0b": "path",
    "x" * 300: "300 characters",
    "x" * 65: "65 characters",
    "schön": "ASCII",
    "\u0440df": "ASCII",
    "a b": "ASCII",
    "a\nb": "ASCII",
    "a\n": "ASCII",
    "٣": "ASCII",
    ".hidden": "begin",
    "-rf": "begin",
    "_x": "begin",
    "pdf.": "dot",
    "CON": "device",
    "nul.txt": "device",
    "com1": "device",
    "Lpt9.tar.gz": "device",
    "skills.lock.json": "reserved",
    "SKILL": "reserved",
    "SKILL.md": "reserved",
    "notes.MD": "reserved",
    "SKILL.sig": "reserved",
}


@pytest.mark.parametrize(
    ("name", "says"), REFUSED.items(), ids=[f"case{number}" for number in range(len(REFUSED))]
)
def test_a_name_that_could_mean_something_else_is_refused_with_a_sentence(name: str, says: str):
    with pytest.raises(InvalidInput) as refused:
        check_name(name)
    assert says in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 200
    assert refused.value.hint


@given(st.text(max_size=70) | st.text("aA0.-_/\\\0 conNUL", max_size=70))
def test_every_accepted_name_is_one_component_and_means_itself(name: str):
    if name_fault(name) is None:
        path = os.path.join("/root", name)
        assert Path(os.path.normpath(path)).parent == Path("/root")
        assert Path(path).name == name
        assert name.isascii()
        assert len(f"{name}.md.sig".encode()) <= 255
        assert len(name) <= NAME_CHARACTERS_MAX
        assert not name.startswith((".", "-"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pdf", "PDF"),
        ("pdf-tools", "pdf_tools"),
        ("pdf.tools", "pdf-tools"),
        ("google", "g00gle"),
        ("tool", "too1"),
        ("list", "1ist"),
        ("slide", "sllde"),
        ("s3", "53"),
        ("modern", "rnodern"),
        ("web", "vveb"),
    ],
)
def test_names_that_are_taken_for_one_another_are_look_alikes(one: str, other: str):
    assert skeleton(one) == skeleton(other)
    assert look_alike(one, ["something", other]) == other
    assert look_alike(other, [one]) == one


def test_a_name_is_no_look_alike_of_itself_or_of_another_word():
    assert look_alike("pdf", ["pdf", "pdfs", "docx"]) is None
