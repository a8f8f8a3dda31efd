"""`custody pause`: begun by a person for a while, shown, and ended."""

from datetime import datetime
from pathlib import Path

import pytest
from tests.cli.conftest import Program
from tests.cli.test_policy import Typed

import custody


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def test_a_pause_is_begun_shown_and_ended(typed: Typed, monkeypatch: pytest.MonkeyPatch):
    assert typed("pause").out == "The policy is not paused.\n", "there is no store yet"
    typed.token(monkeypatch)
    assert typed("pause", "--json").json == {"paused": False, "pause": None}
    begun = typed("pause", "--for", "30m", "--reason", "a drill", "--json")
    assert (begun.code, begun.json["paused"]) == (0, True)
    pause = begun.json["pause"]
    assert (pause["reason"], pause["person"]) == ("a drill", "operator ada")
    length = datetime.fromisoformat(pause["until"]) - datetime.fromisoformat(pause["since"])
    assert length.total_seconds() == 1800
    assert typed("pause", "--json").json == begun.json
    assert typed("policy", "show", "--json").json["pause"] == pause
    assert "by operator ada: a drill." in typed("pause").out
    ended = typed("pause", "--end", "--json")
    assert (ended.code, ended.json) == (0, {"paused": False, "pause": pause})
    assert typed("pause", "--end").out == "The policy is not paused.\n"


def test_nobody_but_a_person_pauses_and_the_refusal_is_recorded(typed: Typed):
    with custody.open(str(typed.store)):
        pass
    for wanted in (["--for", "1m", "--reason", "why not"], ["--end"]):
        ran = typed("pause", *wanted, "--json")
        assert (ran.code, ran.json["error"]["type"]) == (3, "AnswerRefused")
    assert [data["what"] for data in typed.events("approval.refused")] == ["pause --end", "pause"]
    assert typed.events("policy.paused") == []


def test_a_policy_can_forbid_to_be_paused(typed: Typed, monkeypatch: pytest.MonkeyPatch):
    typed.token(monkeypatch)
    typed.policy("[approvals]\nmay_pause = false\n")
    ran = typed("pause", "--for", "1m", "--reason", "why not")
    assert ran.code == 3
    assert "may not be paused" in ran.err
    assert "It may not be paused." in typed("policy", "show").out
    assert typed.events("policy.paused") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--for", "30m"],
        ["--reason", "x"],
        ["--for", "9h", "--reason", "x"],
        ["--for", "0", "--reason", "x"],
        ["--for", "soon", "--reason", "x"],
        ["--for", "1m", "--reason", " "],
        ["--end", "--reason", "x"],
    ],
    ids=" ".join,
)
def test_what_is_no_pause_is_exit_2(typed: Typed, arguments: list[str]):
    assert typed("pause", *arguments, "--json").code == 2


@pytest.mark.long
def test_whoever_sits_at_a_terminal_may_and_a_command_on_the_record_may_not(custody: Program):
    custody("init")
    assert "The policy is paused until" in custody.at_terminal(
        "pause", "--for", "1h", "--reason", "a drill", columns=120
    )
    command = custody.command("pause", "--end")
    environment = {name: custody.environment[name] for name in ("CUSTODY_STORE", "XDG_CONFIG_HOME")}
    named = [f"{name}={value}" for name, value in environment.items()]
    refused = custody.at_terminal("exec", "--", "env", *named, *command, columns=120, code=3)
    assert "Only a person decides" in refused
    assert custody("pause", "--json").json["paused"] is True
