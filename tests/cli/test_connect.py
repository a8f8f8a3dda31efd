"""`custody init`, `doctor`, `demo`."""

import os
import subprocess
import tomllib

import pytest
from tests.cli.conftest import Program, Ran

from custody.cli.init import settings_text
from custody.host import BreakerThresholds
from custody.settings import load_settings


def test_init_makes_store_and_settings_and_says_what_next(custody):
    custody.settings.unlink()
    ran = custody("init", SHELL="/bin/zsh")
    assert (ran.code, ran.err) == (0, "")
    assert f"Made the store {custody.store}" in ran.out
    assert f"Wrote the settings {custody.settings}" in ran.out
    assert f"Wrote the policy {custody.settings.with_name('policy.toml')}" in ran.out
    assert 'eval "$(_CUSTODY_COMPLETE=zsh_source custody)"' in ran.out
    assert custody("runs").code == 0


def test_init_again_changes_nothing(custody):
    custody("init")
    custody.settings.write_text("[calls]\ntimeout_seconds = 5\n")
    ran = custody("init", "--json")
    assert ran.code == 0
    assert (ran.json["store_made"], ran.json["settings_made"]) == (False, False)
    assert custody.settings.read_text() == "[calls]\ntimeout_seconds = 5\n"


def test_every_line_of_the_settings_file_is_a_setting_there_is(custody):
    """Commented lines show defaults and examples: they must be accepted when somebody uncomments them."""
    text = settings_text()
    lines = [line.removeprefix("# ") if " = " in line or "[[" in line else line for line in text.splitlines()]
    tomllib.loads("\n".join(lines))
    for content in (text, "\n".join(lines)):
        custody.settings.write_text(content)
        settings = load_settings(cwd=str(custody.work), environ=custody.environment)
        assert settings.file.breaker == BreakerThresholds()
        assert settings.file.calls.timeout_seconds == 30
    assert settings.policy_layers == (), "what may happen is said in a file of its own"


def test_doctor_says_how_everything_stands(custody):
    custody("exec", "--", "true")
    ran = custody("doctor", "--json")
    names = [finding["name"] for finding in ran.json["findings"]]
    assert {
        "custody",
        "python",
        "sqlite",
        "store",
        "writable",
        "format",
        "free space",
        "shards",
        "levels",
    } <= set(names)
    assert any(name.startswith("breaker: ") for name in names)
    assert ran.code == (0 if ran.json["healthy"] else 1)
    values = {finding["name"]: finding["value"] for finding in ran.json["findings"]}
    offered = ["confined", "transaction"] if values["confined"]["offered"] else []
    assert values["levels"] == ["none", "process", *offered]
    text = custody("doctor").out
    assert all(name in text for name in names)


def test_doctor_is_well_before_there_is_a_store(custody):
    findings = {finding["name"]: finding for finding in custody("doctor", "--json").json["findings"]}
    assert findings["store"]["state"] == "note"
    assert not custody.store.exists()


def test_doctor_exits_1_when_something_is_wrong(custody):
    custody.store.write_text("")
    ran = custody("doctor")
    assert ran.code == 1
    assert "✗ store" in ran.out
    assert "is not a folder" in ran.out


PATIENT = """
from custody.cli import demo, demo_commands
demo.DEADLINE_SECONDS = 6.0
demo_commands.WAIT_SECONDS = 60.0
"""
"""On a machine with much else to do: a command that is to overrun has begun by then all that it begins."""


def demonstrated(custody: Program, *options: str) -> Ran:
    done = subprocess.run(
        custody.altered(PATIENT, "demo", *options),
        env={**custody.environment, "TMPDIR": str(custody.folder)}, cwd=custody.work,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.long
def test_the_demos_claims_hold(custody):
    ran = demonstrated(custody)
    assert ran.code == 0, ran.out + ran.err
    assert "✗" not in ran.out
    assert ran.out.count("✓") >= 15
    assert "byte for byte as before" in ran.out
    assert "refused at once, by nobody" in ran.out
    assert 'with mode = "shadow" the same call runs' in ran.out
    assert "custody skills verify names the file" in ran.out
    assert "--retry heat ends it: 2 completed, 1 skipped" in ran.out
    shown = ran.out[ran.out.index("What is on the record") :]
    assert "unittest" in shown
    commands = [line.split()[1:] for line in shown.splitlines() if line.startswith("  custody ")]
    assert [command[0] for command in commands] == ["runs", "show", "changes", "exec"]
    assert custody(*commands[1]).code == 0
    changes = custody(*commands[2])
    assert changes.code == 0
    assert "/workspace/docs/  folder" in changes.out
    assert "All of it was undone since." in changes.err


@pytest.mark.long
def test_the_demo_in_json_lists_its_claims(custody):
    store = custody.folder / "demo-store"
    ran = demonstrated(custody, "--json", "--store", str(store))
    assert ran.code == 0
    assert ran.json["held"] is True
    assert all(claim["held"] for claim in ran.json["claims"])
    assert os.path.samefile(ran.json["store"], store)
