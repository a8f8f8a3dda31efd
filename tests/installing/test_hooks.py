"""Hooks in a CLI's settings: put in once, taken out to the byte, whatever else stands there."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.installing.texts import SETTINGS, Text

from custody.installing.hooks import (
    CLAUDE_CODE,
    CODEX,
    GEMINI,
    HookForm,
    HookLine,
    Unexpected,
    events_hooked,
    with_hooks,
    without_hooks,
)
from custody.installing.jsonc import parse

FORMS = st.sampled_from([CLAUDE_CODE, CODEX, GEMINI])


def lines(version: str = "") -> list[HookLine]:
    command = f"/bin/sh -c 'python -I -S /opt/{version}/custody/doors/hooks/client.py claude-code \"x\"'"
    return [
        HookLine(event=event, of_tools="Tool" in event, command=command, timeout_seconds=60)
        for event in ("PreToolUse", "PostToolUse", "Stop")
    ]


@settings(max_examples=50)
@given(SETTINGS, FORMS)
def test_what_was_put_in_comes_out_to_the_byte(text: Text, form: HookForm):
    edited = with_hooks(text[0], form, lines())
    assert set(events_hooked(edited)) == {"PreToolUse", "PostToolUse", "Stop"}
    assert with_hooks(edited, form, lines()) == edited, "a second time adds nothing"
    back = without_hooks(edited, text[0])
    assert parse(back).value == text[1]
    if without_nothing(text[1].get("hooks", {"one": [1]})) and text[1]:
        assert back == text[0]


def without_nothing(hooks: dict[str, Any]) -> bool:
    """Blanks between brackets with nothing in them are not told apart; the copy beside the file has them."""
    return bool(hooks) and all(hooks.values())


@settings(max_examples=50)
@given(SETTINGS, FORMS)
def test_what_people_wrote_stays_with_all_their_comments(text: Text, form: HookForm):
    edited = with_hooks(text[0], form, lines())
    rest = iter(edited)
    assert all(character in rest for character in text[0] if not character.isspace())
    value = parse(edited).value
    assert {name: part for name, part in value.items() if name != "hooks"} == {
        name: part for name, part in text[1].items() if name != "hooks"
    }
    for event, groups in text[1].get("hooks", {}).items():
        assert value["hooks"][event][: len(groups)] == groups, "theirs come first"


@settings(max_examples=30)
@given(SETTINGS, st.dictionaries(st.sampled_from(["x", "y"]), st.integers(), min_size=1))
def test_edits_around_ours_stay_when_ours_go(text: Text, more: dict[str, int]):
    from custody.installing.json_edits import added, apply

    edited = with_hooks(text[0], CLAUDE_CODE, lines())
    edited = apply(edited, added(edited, parse(edited), list(more.items())))
    assert parse(without_hooks(edited, text[0])).value == text[1] | more


def test_a_hook_somebody_put_beside_ours_stays():
    text = with_hooks('{"a": 1}', CLAUDE_CODE, lines())
    theirs = text.replace('"hooks": [{', '"hooks": [{"type": "command", "command": "theirs"}, {', 1)
    left = parse(without_hooks(theirs, '{"a": 1}')).value
    assert left["hooks"] == {
        "PreToolUse": [{"matcher": "*", "hooks": [{"type": "command", "command": "theirs"}]}]
    }


def test_an_older_line_of_ours_becomes_the_new_one():
    old = with_hooks("{}", GEMINI, lines("1.0"))
    new = with_hooks(old, GEMINI, lines("2.0"))
    assert new == old.replace("/opt/1.0/", "/opt/2.0/")
    assert without_hooks(new, None) == "{}"


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('"timeout": 60', '"timeout": 1'),
        ('"timeout": 60', '"timeout": 60, "async": true'),
        ('"timeout": 60', '"async": true'),
        ('"matcher": "*"', '"matcher": "Bash"'),
    ],
)
def test_a_hook_of_ours_that_was_weakened_is_made_whole_again(was: str, becomes: str):
    text = with_hooks('{"a": 1}', CLAUDE_CODE, lines())
    assert with_hooks(text.replace(was, becomes), CLAUDE_CODE, lines()) == text


def test_a_hook_of_ours_that_others_have_narrowed_gets_a_place_of_its_own():
    """Theirs stays where it is, for the tools they want."""
    text = with_hooks('{"a": 1}', CLAUDE_CODE, lines())
    theirs = text.replace('"hooks": [{', '"hooks": [{"type": "command", "command": "theirs"}, {', 1)
    narrowed = theirs.replace('"matcher": "*"', '"matcher": "Read"')
    whole = with_hooks(narrowed, CLAUDE_CODE, lines())
    own = parse(text).value["hooks"]["PreToolUse"]
    assert parse(whole).value["hooks"]["PreToolUse"] == [
        {"matcher": "Read", "hooks": [{"type": "command", "command": "theirs"}]},
        *own,
    ]
    assert with_hooks(whole, CLAUDE_CODE, lines()) == whole


def test_what_a_newer_version_says_beside_its_command_is_put_in_and_goes_with_it():
    old = with_hooks('{"a": 1}', CLAUDE_CODE, lines())
    more = [msgspec.structs.replace(line, more={"onFailure": "block"}) for line in lines("2.0")]
    new = with_hooks(old, CLAUDE_CODE, more)
    assert parse(new).value == parse(with_hooks('{"a": 1}', CLAUDE_CODE, more)).value
    assert with_hooks(new, CLAUDE_CODE, more) == new
    assert without_hooks(new, None) == '{"a": 1}'


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[]", "Line 1, column 1"),
        ('{\n "hooks": []}', "Line 2, column 11"),
        ('{"hooks": {"Stop": {}}}', "column 20"),
    ],
)
def test_something_else_where_hooks_belong_is_told_with_its_place(text: str, place: str):
    with pytest.raises(Unexpected, match=place):
        with_hooks(text, CLAUDE_CODE, lines())


@pytest.mark.parametrize("text", ["", "\n", "{}", '{"hooks": {}}', '{"hooks": {"Stop": []}}'])
def test_what_was_empty_before_stays_and_what_was_not_there_goes(text: str):
    assert parse(without_hooks(with_hooks(text, CODEX, lines()), text)).value == (
        parse(text).value if text.strip() else {}
    )
