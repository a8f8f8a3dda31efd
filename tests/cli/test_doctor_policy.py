"""What `custody doctor` says of the policy: each file that holds, those that cannot be used, and a pause."""

from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_policy import PROJECT, Typed

RULES = '[[rules]]\nname = "no-shell"\ndecision = "deny"\ntool = "shell"\n'


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def of_the_policy(typed: Typed) -> dict[str, dict[str, Any]]:
    found = typed("doctor", "--json").json["findings"]
    return {one["name"]: one for one in found if one["name"].startswith(("policy", "pause"))}


def test_without_a_file_the_built_in_default_holds(typed: Typed):
    (finding,) = of_the_policy(typed).values()
    assert (finding["state"], finding["value"]) == ("ok", None)
    assert "built-in default holds" in finding["text"]


def test_each_file_is_told_with_its_mode_its_rules_and_whether_it_is_trusted(typed: Typed):
    place = typed.file(".custody/policy/git.toml", 'mode = "shadow"\n' + PROJECT)
    alone = of_the_policy(typed)
    assert set(alone) == {"policy: project", "policy: builtin"}
    typed.policy(RULES + RULES.replace("no-shell", "no-bash"))
    found = of_the_policy(typed)
    assert set(found) == {"policy: user", "policy: project"}
    assert found["policy: user"] == {
        "name": "policy: user",
        "state": "ok",
        "value": {
            "kind": "user",
            "path": str(typed.config / "policy.toml"),
            "mode": "enforce",
            "rules": 2,
            "trusted": None,
        },
        "text": f"{typed.config / 'policy.toml'}, 2 rules, enforced",
        "hint": None,
    }
    project = found["policy: project"]
    assert (project["state"], project["value"]["trusted"]) == ("note", False)
    assert project["text"] == f"{typed.work / place}, 1 rule, in shadow, not trusted"
    assert "blocks nothing" in project["hint"] and "custody policy trust" in project["hint"]


def test_a_file_that_cannot_be_used_is_told_beside_those_that_hold(typed: Typed):
    typed.policy(RULES)
    typed.file(".custody/policy/git.toml", "[[rules]]\nnmae = 1\n")
    ran = typed("doctor", "--json")
    found = {one["name"]: one for one in ran.json["findings"]}
    assert (ran.code, found["policy"]["state"]) == (1, "wrong")
    assert "git.toml" in found["policy"]["text"] and "no call begins here" in found["policy"]["hint"]
    assert found["policy: user"]["state"] == "ok"


def test_a_pause_is_told(typed: Typed, monkeypatch: pytest.MonkeyPatch):
    typed.token(monkeypatch)
    assert of_the_policy(typed)["pause"]["value"] is None
    assert typed("pause", "--for", "30m", "--reason", "a drill").code == 0
    finding = of_the_policy(typed)["pause"]
    assert (finding["state"], finding["value"]["reason"]) == ("note", "a drill")
    assert "by operator ada: a drill" in finding["text"]
