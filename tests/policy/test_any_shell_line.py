"""Whatever the text: a shell line is read to its end, quickly, and never raises."""

import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from custody.policy.facts import Facts
from custody.policy.shell import is_harmless, read_argv, read_shell

READ_SECONDS_MAX = 10.0
"""Of the worst line there is; a quiet machine takes a quarter of a second."""

PIECES = (
    *("ls", "cat a", "curl x", "rm", "a b", "> f", "2>&1", "< f", "&>", "<(", "$x", "x=", "PATH=", "#", "*"),
    *("$(", ")", "(", "`", "'", '"', "\\", "$'", "${x:-", "}", "$((", "))", "{", "[[ ", "]]", "\\\n", "~"),
    *(";", "&&", "||", "|", "&", "\n", ";;", "! ", "<<A\nA\n", "<<A", "A", "time ", "time"),
    *("if", "then", "fi", "for x in", "do", "done", "case x in", "a)", "esac", "env ", "sh -c ", "xargs "),
)
HARMLESS = ("ls -la", "cat a b", "git status", "echo 'x; y'", "grep -c 'a\"b' c", "wc -l < a", "date")
NOT_HARMLESS = (
    "curl x",
    "rm a",
    "./ls",
    "ls > a",
    "PATH=a ls",
    "sh",
    "echo $(curl x)",
    "$x",
    "find . -delete",
)
JOINTS = (" ; ", "\n", " && ", " || ", " | ", " & ", ";", "&&", "|")

lines = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
few = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(lines)
@example("\ud800")
@example("${" * 70)
@example("case" * 3)
def test_any_text_is_read(text: str) -> None:
    line = read_shell(text)
    is_harmless(line)
    dict(Facts("shell", "unknown", {"command": text}, cwd="/w", roots=["/w"]))


@few
@given(st.lists(lines, max_size=8))
def test_any_words_are_read(argv: list[str]) -> None:
    is_harmless(read_argv(argv))


@few
@given(
    st.lists(st.sampled_from(HARMLESS), max_size=4),
    st.sampled_from(NOT_HARMLESS),
    st.lists(st.sampled_from(HARMLESS), max_size=4),
    st.sampled_from(JOINTS),
)
def test_one_part_that_is_not_harmless_is_enough(
    before: list[str], part: str, after: list[str], joint: str
) -> None:
    assert not is_harmless(read_shell(joint.join([*before, part, *after])))
    assert is_harmless(read_shell(joint.join([*before, "ls", *after])))


@few
@given(lines, st.sampled_from(NOT_HARMLESS))
def test_what_is_read_first_never_makes_the_rest_harmless(text: str, part: str) -> None:
    """A text that leaves a quote or a bracket open may take the rest into itself, and is unclear then."""
    first = read_shell(text)
    if not first.unclear and "#" not in text and not text.endswith("\\"):
        assert not is_harmless(read_shell(f"{text}\n{part}"))


@few
@given(lines)
def test_a_line_inside_a_substitution_is_no_more_harmless_than_by_itself(text: str) -> None:
    if not is_harmless(read_shell(text)) and read_shell(text).programs:
        assert not is_harmless(read_shell(f"echo $({text}\n)"))


@st.composite
def quoted(draw: st.DrawFn) -> str:
    """`curl`, each letter in quotes of some kind or in none."""
    ways = st.sampled_from(["{}", "'{}'", '"{}"', "\\{}", "''{}", '{}""', "\\\n{}"])
    return "".join(draw(ways).format(letter) for letter in "curl")


@few
@given(quoted())
def test_however_its_name_is_quoted_a_program_is_the_same(spelling: str) -> None:
    assert [program.name for program in read_shell(f"ls; {spelling} x").programs] == ["ls", "curl"]


@pytest.mark.long
@pytest.mark.parametrize("piece", ["a;", "$(", "`", "${x:-", '"$(', "env ", "eval ", "case a in b) "])
def test_the_longest_line_is_read_quickly(piece: str) -> None:
    text = (piece * 65_536)[:65_536]
    began = time.thread_time()
    read_shell(text)
    assert time.thread_time() - began < READ_SECONDS_MAX


@pytest.mark.long
@settings(max_examples=2_500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines, st.sampled_from(NOT_HARMLESS))
def test_many_texts_are_read(text: str, part: str) -> None:
    first = read_shell(text)
    if not first.unclear and "#" not in text and not text.endswith("\\"):
        assert not is_harmless(read_shell(f"{text}\n{part}"))
    is_harmless(read_argv([text, part]))
