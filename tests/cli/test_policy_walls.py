"""The commands about policies, where a policy demands walls; each command as it is typed."""

from pathlib import Path

import pytest
from tests.cli.test_policy import Typed

POLICY = """\
[[rules]]
name = "builds"
decision = "allow"
tool = "exec"
when = 'params.argv[0] == "make"'
level = "transaction"
sandbox = "network"
afterwards = "commit_if_passed"

[walls]
level = "confined"
sandbox = "workspace"
"""

CASES = """\
[[cases]]
tool = "exec"
params = { argv = ["make"] }
expect = "allow"
level = "transaction"
sandbox = "network"
afterwards = "commit_if_passed"

[[cases]]
tool = "exec"
params = { argv = ["ls"] }
expect = "allow"
level = "confined"
sandbox = "workspace"
"""


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def test_what_is_demanded_of_a_call_is_explained_with_the_rule_that_does(typed: Typed):
    typed.policy(POLICY)
    ran = typed("policy", "explain", "--tool", "exec", "--args", '{"argv": ["make"]}')
    place = typed.config / "policy.toml"
    demanded = "at least transaction, never more than network, its changes are committed when it ends with 0"
    assert ran.out.splitlines()[1:5] == [
        f"Walls: {demanded}, else held.",
        f"level: the rule builds ({place}:1)",
        f"sandbox: the rule builds ({place}:1)",
        f"afterwards: the rule builds ({place}:1)",
    ]
    ran = typed("policy", "explain", "--tool", "exec", "--args", '{"argv": ["ls"]}', "--json")
    assert ran.json["verdict"] == "allow"
    assert ran.json["walls"]["level"] == "confined"
    assert ran.json["walls"]["sandboxes"] == ["workspace"]
    assert ran.json["walls"]["rules"] == [[str(place), None, None]]


def test_of_a_tool_that_starts_no_process_it_is_said_that_no_walls_are_around_it(typed: Typed):
    typed.policy(POLICY.replace('tool = "exec"', 'tool = ["exec", "file_read"]'))
    ran = typed("policy", "explain", "--tool", "file_read", "--args", '{"path": "a"}', "--json")
    assert ran.json["walls"] is None
    assert ran.json["notes"] == [
        "file_read starts no process, so no walls are around it; its roots hold anyway."
    ]


def test_in_shadow_the_walls_that_would_be_are_told(typed: Typed):
    typed.policy(f'mode = "shadow"\n{POLICY}')
    ran = typed("policy", "explain", "--tool", "exec", "--args", '{"argv": ["ls"]}', "--json")
    assert (ran.json["verdict"], ran.json["walls"]) == ("allow", None)
    assert ran.json["notes"] == [
        "With the files in shadow its walls would be: at least confined, never more than workspace."
    ]


def test_the_walls_of_rules_and_files_are_shown(typed: Typed):
    typed.policy(POLICY)
    ran = typed("policy", "show")
    assert (
        "; at least transaction, never more than network, its changes are committed when it ends" in ran.out
    )
    assert "Around every command, where no rule of the same file says otherwise" in ran.out
    assert "at least confined, never more than workspace\n" in ran.out
    shown = typed("policy", "show", "--json").json
    (file,) = [layer for layer in shown["layers"] if layer["kind"] == "user"]
    assert file["walls"] == {"level": "confined", "sandbox": "workspace", "afterwards": None}
    assert shown["rules"][0]["walls"]["afterwards"] == "commit_if_passed"


def test_walls_alone_are_a_policy_and_leave_the_built_in_rules_in_force(typed: Typed):
    typed.policy('[walls]\nlevel = "confined"\n')
    shown = typed("policy", "show", "--json").json
    assert [layer["kind"] for layer in shown["layers"]] == ["user", "builtin"]
    assert [rule["layer"] for rule in shown["rules"]] == ["builtin"] * 3


def test_cases_expect_walls_and_say_how_they_differ(typed: Typed):
    typed.file("policy.toml", POLICY)
    typed.file("cases.toml", CASES)
    assert typed("policy", "test", "policy.toml", "cases.toml").code == 0
    typed.file("cases.toml", CASES.replace('"confined"', '"transaction"').replace('"network"', '"open"'))
    ran = typed("policy", "test", "policy.toml", "cases.toml", "--json")
    assert ran.code == 1
    assert [(one["level"], one["sandbox"], one["why"]) for one in ran.json["items"]] == [
        ("transaction", "network", "the sandbox is network, not open"),
        ("confined", "workspace", "the level is confined, not transaction"),
    ]


def test_check_finds_walls_in_a_rule_that_denies(typed: Typed):
    typed.file("policy.toml", POLICY.replace('"allow"', '"deny"'))
    ran = typed("policy", "check", "policy.toml")
    assert ran.code == 1
    assert "policy.toml:6:9: error: level stands in a rule that denies, expected it beside allow" in ran.out


def test_replay_says_that_walls_are_no_part_of_its_answer(typed: Typed):
    typed.file("policy.toml", POLICY)
    assert typed("exec", "--", "true").code == 0
    ran = typed("policy", "replay", "policy.toml", "--json")
    assert (ran.json["calls"], ran.json["changed"]) == (1, 0)
    assert ran.json["notes"][-1].startswith("It demands walls as well.")


def test_before_a_project_is_trusted_a_person_is_told_what_it_would_commit(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
):
    typed.file(".custody/policy/builds.toml", '[walls]\nlevel = "transaction"\nafterwards = "commit"\n')
    explain = ("policy", "explain", "--tool", "exec", "--args", '{"argv": ["ls"]}', "--json")
    assert typed(*explain).json["walls"]["afterwards"] is None
    typed.token(monkeypatch)
    trusted = typed("policy", "trust", "--yes", "--json").json["items"]
    assert [one["widens"] for one in trusted] == [
        ["commit what a command of level transaction changed ([walls])"]
    ]
    assert typed(*explain).json["walls"]["afterwards"] == "commit"
