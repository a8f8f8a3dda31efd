"""A search finds what has every word, names before texts, and always in the same order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidInput
from custody.skills.search import QUERY_CHARACTERS_MAX, Hit, preview, search
from custody.skills.skill import Skill


def skill(name: str, description: str = "", **metadata: Any) -> Skill:
    return Skill(
        name=name,
        description=description,
        kind="folder",
        root="/skills",
        path=name,
        file=f"/skills/{name}/SKILL.md",
        digest="sha256:" + "0" * 64,
        files=("SKILL.md",),
        metadata=metadata,
        locked=False,
    )


TEXTS = {"charts": "Draws a pie from a table."}
SKILLS = [
    skill("pdf-forms", "Fill in forms.", tags=["acrobat"]),
    skill("docx", "Turns text into a PDF.", metadata={"keywords": "word, office"}),
    skill("charts", "Diagrams of every kind."),
    skill("café", "Crème brûlée."),
]


def found(query: str, limit: int = 10) -> list[str]:
    return [hit.skill.name for hit in search(SKILLS, query, limit, lambda one: TEXTS.get(one.name, ""))]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("pdf", ["pdf-forms", "docx"]),
        ("PDF", ["pdf-forms", "docx"]),
        ("acrobat", ["pdf-forms"]),
        ("office", ["docx"]),
        ("pie table", ["charts"]),
        ("pie pdf", []),
        ("brulee", ["café"]),
        ("form", ["pdf-forms"]),
        ("nothing", []),
    ],
)
def test_every_word_has_to_be_somewhere(query: str, names: list[str]):
    assert found(query) == names


def test_a_whole_word_is_worth_more_than_a_part_of_one():
    hits = search([skill("rotated"), skill("rotate")], "rotate", 10, lambda _: "")
    assert [hit.skill.name for hit in hits] == ["rotate", "rotated"]
    assert hits[0].score > hits[1].score


def test_equals_come_by_name_and_no_more_than_asked_for():
    same = [skill(name, "the same") for name in ("c", "a", "b")]
    assert [hit.skill.name for hit in search(same, "same", 2, lambda _: "")] == ["a", "b"]


def test_the_text_is_read_only_where_the_rest_does_not_do():
    asked: list[str] = []
    search(SKILLS, "pdf", 10, lambda one: asked.append(one.name) or "")
    assert asked == ["charts", "café"]


@pytest.mark.parametrize(
    "query", ["", "  ", "- _ !", "x" * (QUERY_CHARACTERS_MAX + 1)], ids=["none", "blank", "no word", "long"]
)
def test_a_query_without_a_word_or_without_an_end_is_refused(query: str):
    with pytest.raises(InvalidInput):
        found(query)


def test_a_limit_below_one_is_refused():
    with pytest.raises(InvalidInput):
        found("pdf", 0)


@given(st.text(max_size=40), st.lists(st.sampled_from(SKILLS), max_size=6))
def test_any_query_is_refused_or_answered_in_one_order(query: str, skills: list[Skill]):
    def ask(order: list[Skill]) -> list[Hit] | None:
        try:
            return search(order, query, 10, lambda one: TEXTS.get(one.name, ""))
        except InvalidInput:
            return None

    assert ask(skills) == ask(skills[::-1])


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 20))
def test_a_preview_is_a_beginning_and_valid_text(text: str, characters_max: int):
    shown = preview(text, characters_max)
    assert text.startswith(shown)
    assert len(shown) == min(len(text), characters_max)
    assert shown.encode().decode() == shown
