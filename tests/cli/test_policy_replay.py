"""`custody policy replay`: what would change under another file is shown, and nothing is run or written."""

import time
from pathlib import Path

import pytest
from tests.calls import made_again
from tests.calls.week import Week, made_up
from tests.cli.conftest import Program

STRICTER = """
[[rules]]
name = "no shell"
tool = "shell"
decision = "deny"

[[rules]]
name = "ask before a push"
tool = "git"
decision = "ask"
when = 'params.argv[0] == "push"'
"""


@pytest.fixture
def file(custody: Program) -> Path:
    """A file, and a store with a few calls of a week in it."""
    Week(str(custody.store), made_up(120, holes=0.2)).close()
    path = custody.work / "stricter.toml"
    path.write_text(STRICTER)
    return path


def test_the_table_says_what_would_change_and_what_cannot_be_told(custody: Program, file: Path):
    shown = custody("policy", "replay", str(file), "--limit", "3")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].split() == ["calls", "was", "would", "be", "tool", "rule", "why", "example"]
    assert any("refused" in line and "no shell" in line for line in lines)
    assert any("undecidable" in line and "ask before a push" in line for line in lines)
    assert lines[-1].startswith("120 calls: ")
    assert "more lines; --limit shows them" in shown.err


@pytest.mark.long
def test_the_document_adds_up_and_can_be_narrowed(custody: Program, file: Path):
    whole = custody("policy", "replay", str(file), "--json").json
    assert whole["calls"] == 120
    assert whole["changed"] + whole["unchanged"] + whole["undecidable"] == 120
    assert {change["rule"] for change in whole["changes"]} >= {"no shell", "ask before a push"}
    of_bob = custody("policy", "replay", str(file), "--agent", "bob", "--json").json
    assert 0 < of_bob["calls"] < 120
    run = custody("policy", "replay", str(file), "--run", "run 1", "--json").json
    assert 0 < run["calls"] < 120
    later = custody("policy", "replay", str(file), "--since", "2035-01-01", "--json").json
    assert later["calls"] == 0


@pytest.mark.long
def test_what_cannot_be_done_is_said_with_what_to_do(custody: Program, file: Path):
    bad = custody.work / "bad.toml"
    bad.write_text('[[rules]]\nname = "x"\ndesicion = "deny"\n')
    refused = custody("policy", "replay", str(bad))
    assert refused.code == 2
    assert "bad.toml:3:1: " in refused.err
    assert custody("policy", "replay", str(custody.work / "none.toml")).code == 2
    neither = custody("policy", "replay")
    assert neither.code == 2
    assert "--shadow" in neither.err
    assert custody("policy", "replay", str(file), "--run", "ffff").code != 0


@pytest.mark.long
def test_nothing_is_run_and_nothing_written(custody: Program, file: Path):
    custody("policy", "replay", str(file))  # fills the index
    before = {path: path.read_bytes() for path in custody.store.rglob("*.seg")}
    assert custody("policy", "replay", str(file)).code == 0
    assert {path: path.read_bytes() for path in custody.store.rglob("*.seg")} == before


@pytest.mark.long
def test_what_was_said_in_shadow_is_counted_by_rule(custody: Program):
    (custody.settings.parent / "policy.toml").write_text('mode = "shadow"\n' + STRICTER)
    for _ in range(3):
        assert custody("exec", "--", "true").code == 0
        assert custody("call", "shell", "--args", '{"command": "true"}').code == 0
    said = custody("policy", "replay", "--shadow", "--json").json["items"]
    assert [(line["rule"], line["tool"], line["verdict"], line["calls"]) for line in said] == [
        ("no shell", "shell", "deny", 3)
    ]
    assert "no shell" in custody("policy", "replay", "--shadow").out


@pytest.mark.long
def test_a_week_of_fifty_thousand_calls_is_refused_where_the_table_says(custody: Program):
    calls = made_up(50_000, seed=9, holes=0.03)
    Week(str(custody.store), calls).close()
    path = custody.work / "stricter.toml"
    path.write_text(made_again.STRICTER)
    custody("runs")  # fills the index, which is not what is looked at here
    began = time.monotonic()
    found = custody("policy", "replay", str(path), "--json").json
    assert time.monotonic() - began < 45, "an idle machine takes two and a half"
    assert found["calls"] == 50_000
    assert found["undecidable"] > 100
    live = made_again.Live(made_again.layer_of(made_again.STRICTER))
    refused = sum(live.make(made) == "deny" for made in calls if made.was != "unreached")
    said = found["by_verdict"]["refused"] - sum(made.was == "unreached" for made in calls)
    assert said > 1_000
    assert said <= refused <= said + found["undecidable"]
