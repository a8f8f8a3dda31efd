"""What a hook is told and what it answers, for each CLI, without any process."""

import json
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from custody.doors.hooks import client
from custody.doors.hooks.dialects import DIALECTS
from custody.doors.hooks.event import BLOCKS, Answer, HookUnclear, read, speak, speak_failure
from custody.doors.hooks.lines import hook_command, hook_lines
from custody.doors.hooks.secrets import Secrets
from custody.doors.hooks.told import Told
from custody.doors.hooks.tools import command_seconds, use_of

BEFORE = {"claude-code": "PreToolUse", "codex": "PreToolUse", "gemini": "BeforeTool"}
CLIS = sorted(DIALECTS)


def document(cli: str, **more: Any) -> dict[str, Any]:
    """As the CLIs' documentation shows one."""
    return {
        "session_id": "abc123",
        "transcript_path": "/srv/t.jsonl",
        "cwd": "/srv/shop",
        "hook_event_name": BEFORE[cli],
        "tool_name": "Bash",
        "tool_input": {"command": "make test", "description": "Tests", "timeout": 120_000},
        "tool_use_id": "toolu_01",
        **more,
    }


@pytest.mark.parametrize("cli", CLIS)
def test_a_tool_is_told_with_its_arguments_and_where(cli: str):
    event = read(DIALECTS[cli], document(cli, agent_id="a1", agent_type="Explore"), BEFORE[cli])
    assert (event.kind, event.session, event.cwd, event.tool) == ("before", "abc123", "/srv/shop", "Bash")
    assert event.arguments["command"] == "make test"
    assert (event.external_id, event.agent_id, event.agent_type) == ("toolu_01", "a1", "Explore")


@pytest.mark.parametrize("cli", CLIS)
@pytest.mark.parametrize("missing", ["session_id", "tool_name", "tool_input", "cwd"])
def test_a_tool_is_not_understood_without_what_has_to_be_there(cli: str, missing: str):
    told = document(cli)
    del told[missing]
    with pytest.raises(HookUnclear, match=missing):
        read(DIALECTS[cli], told, BEFORE[cli])


@pytest.mark.parametrize("wrong", [[], "text", None, 3])
def test_what_is_no_object_is_not_understood(wrong: Any):
    with pytest.raises(HookUnclear):
        read(DIALECTS["claude-code"], wrong, "PreToolUse")


def test_a_hook_told_of_another_event_than_it_is_called_for_does_not_understand():
    with pytest.raises(HookUnclear, match="PostToolUse"):
        read(DIALECTS["claude-code"], document("claude-code", hook_event_name="PostToolUse"), "PreToolUse")


_JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(cli=some.sampled_from(CLIS), more=some.dictionaries(some.text(max_size=30), _JSON, max_size=6))
def test_fields_nobody_knows_change_nothing(cli: str, more: dict[str, Any]):
    known = {*document(cli), "agent_id", "agent_type", "is_interrupt", *DIALECTS[cli].details}
    told = {name: value for name, value in more.items() if name not in known} | document(cli)
    assert read(DIALECTS[cli], told, BEFORE[cli]) == read(DIALECTS[cli], document(cli), BEFORE[cli])


@given(
    cli=some.sampled_from(CLIS),
    told=_JSON,
    event=some.sampled_from(["PreToolUse", "Stop", "BeforeTool", "New"]),
)
def test_any_document_is_read_or_not_understood(cli: str, told: Any, event: str):
    session: Any = None
    try:
        session = read(DIALECTS[cli], told, event).session
    except HookUnclear as error:
        session = error.message
    assert isinstance(session, str) and session


@given(
    cli=some.sampled_from(CLIS),
    verdict=some.sampled_from(["allow", "deny", "ask"]),
    reason=some.text(max_size=3_000),
    changed=some.none() | some.just({"command": "custody exec -- make"}),
)
def test_a_no_blocks_whatever_its_words_and_a_yes_never_skips_a_question(
    cli: str, verdict: Any, reason: str, changed: dict[str, Any] | None
):
    event = read(DIALECTS[cli], document(cli), BEFORE[cli])
    spoken = speak(DIALECTS[cli], event, Answer(verdict=verdict, reason=reason, arguments=changed))
    said: dict[str, Any] = json.loads(spoken.out) if spoken.out else {}
    own: dict[str, Any] = said.get("hookSpecificOutput", {})
    asks = verdict == "ask" and DIALECTS[cli].asks
    blocked = "deny" in (own.get("permissionDecision"), said.get("decision"))
    assert blocked == (verdict == "deny" or (verdict == "ask" and not asks))
    assert (own.get("permissionDecision") == "ask") == asks
    if blocked:
        assert (own.get("permissionDecisionReason") or said["reason"]).strip()
        assert "updatedInput" not in own and "tool_input" not in own
    if cli == "claude-code":  # an `allow` of a hook skips the CLI's own question
        assert own.get("permissionDecision") != "allow"
    if cli == "codex" and own.get("permissionDecision") == "allow":  # it refuses each without the other
        assert own["updatedInput"] == changed


@pytest.mark.parametrize("cli", CLIS)
def test_a_prompt_that_is_refused_is_blocked(cli: str):
    name = next(name for name, kind in DIALECTS[cli].events.items() if kind == "prompted")
    told = {"session_id": "s", "cwd": "/srv", "hook_event_name": name, "prompt": "Do it"}
    event = read(DIALECTS[cli], told, name)
    spoken = speak(DIALECTS[cli], event, Answer(verdict="deny", reason="no"))
    assert (spoken.exit_code, spoken.err) == (2, "Custody: no\n")


def test_failure_blocks_tools_and_prompts_and_keeps_no_agent_going():
    codes = {kind: speak_failure(kind, "x").exit_code for kind in DIALECTS["claude-code"].events.values()}
    assert {kind for kind, code in codes.items() if code == 2} == BLOCKS
    assert all(code != 0 for code in codes.values())


def test_the_client_blocks_the_same_events_as_the_tables():
    blocking = {name for one in DIALECTS.values() for name, kind in one.events.items() if kind in BLOCKS}
    assert blocking == client.BLOCKING


def test_what_the_client_hands_over_is_what_is_read():
    options = {"store": "/srv/store", "rewrite": "yes", "cli": "codex", "event": "PreToolUse"}
    request = json.loads(client.make_request(options, b"{}"))
    assert set(request) == set(Told.__struct_fields__)


@pytest.mark.parametrize("cli", CLIS)
def test_every_line_is_one_word_of_sh_and_names_the_event(cli: str):
    for line in hook_lines(cli, store="/srv/a store"):
        words = shlex.split(line.command)
        assert words[:2] == ["/bin/sh", "-c"] and len(words) == 3
        assert words[2].split(";")[0].endswith(f"{cli} {line.event}")
    assert hook_command(cli, BEFORE[cli], rewrite=False).count("--no-rewrite") == 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({}, 119.0),
        ({"timeout": 2_000}, 1.0),
        ({"timeout": 600_000}, 599.0),
        ({"timeout": 1_000}, 0.5),
        ({"timeout": 1}, 0.1),
    ],
)
def test_a_command_ends_before_its_cli_would_end_it(said: dict[str, Any], seconds: float):
    told = document("claude-code", tool_input={"command": "make", **said})
    event = read(DIALECTS["claude-code"], told, "PreToolUse")
    assert command_seconds(event) == pytest.approx(seconds)


def test_a_patch_names_every_file_it_changes():
    patch = "*** Update File: a.py\n@@\n-x\n+y\n*** Move to: b.py\n*** Delete File: c d.py\n*** End Patch"
    told = document("codex", tool_name="apply_patch", tool_input={"command": patch})
    assert use_of(read(DIALECTS["codex"], told, "PreToolUse")).writes == ("a.py", "b.py", "c d.py")


@given(
    value=some.text("abcdefgh0123456789", min_size=12, max_size=30).filter(lambda one: len(set(one)) > 3),
    around=_JSON,
)
def test_no_value_of_a_secret_is_left_in_what_is_recorded(value: str, around: Any):
    secrets = Secrets({"DEPLOY_TOKEN": f"x{value}Y"})
    told = {"command": f"curl -H 'x: x{value}Y' https://a", "more": [around, {"deep": f"=x{value}Y"}]}
    assert secrets.found_in(told) == ["DEPLOY_TOKEN"]
    clean, redactions = secrets.replaced(told, "arguments")
    assert f"x{value}Y" not in json.dumps(clean)
    assert sum(one.count for one in redactions) == 2


@given(some.dictionaries(some.text(max_size=5), some.text() | some.integers() | some.booleans(), max_size=5))
def test_the_clients_own_json_is_json(value: dict[str, Any]):
    spelt = client.spelt({"x": value})
    assert json.loads(spelt) == {"x": value}
    assert client.understood(spelt) == {"x": value}


@pytest.mark.parametrize("text", ["", "{", "{} {}", "[1,", "nul"])
def test_the_client_reads_nothing_else(text: str):
    with pytest.raises((ValueError, StopIteration)):
        client.understood(text.encode())
