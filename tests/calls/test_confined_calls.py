"""A call at level `confined`: its command stays behind walls, and the record says which.

A real runtime and real walls, on a machine that gives them.
"""

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.settings_for_tests import NEVER_SHORT

import custody
from custody.blocking import BlockingRuntime
from custody.calls.answers import yes
from custody.cli.options import SANDBOXES
from custody.errors import UsageError
from custody.sandbox.walls import NAMED
from custody.sandbox.walls.machine import look_at_machine

SENTINEL = "as it was\n"


@functools.cache
def missing() -> str:
    return "; ".join(finding.why for finding in look_at_machine().missing)


@pytest.fixture(autouse=True)
def walls():
    if missing():
        pytest.skip(f"`confined` is not offered here: {missing()}")


@pytest.fixture
def runtime(work) -> Iterator[BlockingRuntime]:
    with custody.open(":memory:") as runtime:
        yield runtime


def sh(runtime, line: str, **options):
    return runtime.call("shell", {"command": line}, **{"level": "confined", **options})


def settings(tmp_path: Path, calls: str) -> None:
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(f"{NEVER_SHORT}\n[calls]\n{calls}\n", encoding="utf-8")


def test_it_writes_in_its_root_as_the_owner_and_not_outside_and_the_record_says_so(runtime, work, tmp_path):
    (tmp_path / "sentinel").write_text(SENTINEL)

    call = sh(
        runtime,
        "echo made > made; (echo changed > ../sentinel) 2>/dev/null; touch ../new 2>/dev/null; "
        "cat /proc/net/dev",
    )
    found = runtime.index.call(call.id)

    assert (work / "made").read_text() == "made\n"
    assert (work / "made").stat().st_uid == os.getuid()
    assert (tmp_path / "sentinel").read_text() == SENTINEL
    assert not (tmp_path / "new").exists()
    devices = [line.split(":")[0].strip() for line in call.result["stdout"].splitlines()[2:]]
    assert devices == ["lo"]
    assert (call.outcome, call.level, call.sandbox) == ("succeeded", "confined", "workspace")
    assert (found.level, found.sandbox) == ("confined", "workspace")
    assert [change.path for change in found.changes] == [str(work / "made")]


def test_what_the_record_says_of_the_walls_is_their_name_their_network_and_the_roots(runtime, work):
    call = sh(runtime, "true", sandbox="read_only")

    inner = runtime._runtime
    (place, *_) = runtime.index.call_records(call.id)
    started = runtime.index.describe(inner.journal.read(*place))
    said = started["payload"]["sandbox"]
    assert (said["name"], said["network"]) == ("read_only", "none")
    assert str(work) in said["roots"]


def test_read_only_reads_the_root_and_changes_nothing_there(runtime, work):
    (work / "sentinel").write_text(SENTINEL)

    call = runtime.call("shell", {"command": "cat sentinel; echo changed > sentinel"}, sandbox="read_only")

    assert call.outcome == "failed"
    assert call.result["stdout"] == SENTINEL
    assert (work / "sentinel").read_text() == SENTINEL
    assert (call.level, call.sandbox) == ("confined", "read_only")


def test_calls_of_one_run_share_their_private_folder_and_others_see_nothing_of_it(runtime):
    with runtime.run() as run:
        first = run.call("shell", {"command": "echo left > /tmp/left"}, level="confined")
        second = run.call("shell", {"command": "cat /tmp/left"}, level="confined")
    with runtime.run() as other:
        third = other.call("shell", {"command": "cat /tmp/left"}, level="confined")
    outside = sh(runtime, "ls -A /tmp")

    assert first.outcome == "succeeded"
    assert second.result["stdout"] == "left\n"
    assert third.exit_code == 1
    assert "left" not in outside.result["stdout"].split()


def test_what_a_run_has_left_behind_walls_ends_with_it(runtime):
    with runtime.run() as run:
        run.call("shell", {"command": "true"}, level="confined")
        before = walled(runtime)
    sh(runtime, "true")  # asked of the same loop, later

    assert before == 1
    assert walled(runtime) == 0


def walled(runtime) -> int:
    """Launchers with walls that wait for more of their run."""
    launchers = runtime._runtime._launchers
    return sum(hasattr(launcher.key, "sandbox") for launcher in launchers._idle.all())


def test_what_the_settings_say_is_the_least_that_an_agent_has(tmp_path, work):
    settings(tmp_path, 'level = "confined"\nsandbox = "read_only"')
    with custody.open(":memory:") as runtime:
        unsaid = runtime.call("shell", {"command": "touch new"})
        wider = runtime.call("shell", {"command": "touch new"}, sandbox="open")
        without = runtime.call("shell", {"command": "touch new"}, level="process")

    assert [call.level for call in (unsaid, wider, without)] == ["confined"] * 3
    assert [call.sandbox for call in (unsaid, without)] == ["read_only"] * 2
    assert NAMED["read_only"].network == "none"
    assert not (work / "new").exists()


def test_a_project_cannot_choose_the_level(tmp_path, work):
    (work / "custody.toml").write_text('[calls]\nlevel = "process"\n', encoding="utf-8")

    with pytest.raises(UsageError):
        custody.open(":memory:").__enter__()


def test_a_tool_that_starts_no_process_has_no_level_to_choose(runtime, work):
    (work / "notes").write_text("text")

    call = runtime.call("file_read", {"path": "notes"}, sandbox="workspace")

    assert (call.outcome, call.decision.by, call.level) == ("rejected", "schema", "none")
    assert call.reason == "file_read starts no process, so there is no level to choose."
    assert runtime.call("file_read", {"path": "notes"}).outcome == "succeeded"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sandbox": "s3cret"}, "read_only, workspace, network, open"),
        ({"level": "none"}, "process, confined, transaction"),
        ({"afterwards": "s3cret"}, "discard, hold, ask, commit_if_passed, commit"),
        ({"level": "confined", "afterwards": "commit"}, "this means transaction"),
        ({"level": "process", "sandbox": "open"}, "Leave one out"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_what_can(runtime, options, said):
    with pytest.raises(UsageError) as caught:
        runtime.call("shell", {"command": "true"}, **options)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("tool", ["exec", "shell", "git", "check_outcome"])
def test_what_runs_an_agents_words_is_confined_where_nobody_says_anything(runtime, work, tool):
    subprocess.run(["git", "init", "-q", work], check=True)
    arguments = {
        "exec": {"argv": ["true"]},
        "shell": {"command": "true"},
        "git": {"operation": "status"},
        "check_outcome": {"command": "true"},
    }
    call = runtime.call(tool, arguments[tool])

    assert (call.level, call.sandbox) == ("confined", "workspace")


def test_a_commit_is_signed_as_the_persons_own_and_no_token_of_theirs_is_seen(work, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        '[user]\n name = Ada L\n email = ada@example.com # hers\n[url "https://s3cret@example.com"]\n'
        " insteadOf = x\n[http]\n extraHeader = s3cret\n[core]\n editor = s3cret\n"
    )
    monkeypatch.setenv("HOME", str(home))
    with custody.open(":memory:") as runtime:
        call = runtime.call(
            "shell", {"command": "git init -q; git commit -q --allow-empty -m x; git log --format=%an,%ae"}
        )
        seen = runtime.call("shell", {"command": "cat ~/.gitconfig"})

    assert call.result["stdout"] == "Ada L,ada@example.com\n"
    assert "Ada L" in seen.result["stdout"] and "s3cret" not in seen.result["stdout"]


@pytest.mark.parametrize(
    "line",
    [
        "echo sentinel > .git/hooks/pre-commit",
        "git config core.fsmonitor sentinel",
        "mv .git elsewhere && git init -q && git config core.fsmonitor sentinel",
        "rm -rf .git/hooks/* && echo sentinel > .git/hooks/post-checkout",
    ],
)
def test_a_command_cannot_have_a_person_run_its_programs_by_git(runtime, work, line):
    subprocess.run(["git", "init", "-q", work], check=True)
    before = {path: path.read_bytes() for path in (work / ".git").rglob("*") if path.is_file()}

    call = runtime.call("shell", {"command": line})

    assert call.outcome == "failed"
    assert {path: path.read_bytes() for path in (work / ".git").rglob("*") if path.is_file()} == before
    assert runtime.call("shell", {"command": "git add . && git status"}).outcome == "succeeded"


@pytest.mark.parametrize("less", [{"level": "process"}, {"sandbox": "open"}, {"sandbox": "network"}])
def test_an_agent_that_asks_for_less_keeps_its_walls(runtime, work, tmp_path, less):
    call = runtime.call("shell", {"command": "echo x > ../out; cat /proc/net/dev"}, **less)

    assert (call.level, call.sandbox) == ("confined", "workspace")
    assert not (tmp_path / "out").exists()
    assert len([line for line in call.result["stdout"].splitlines() if ":" in line]) == 1, "its loopback"


def test_settings_can_let_agents_run_as_their_user(tmp_path, work):
    settings(tmp_path, 'level = "process"')
    with custody.open(":memory:") as runtime:
        call = runtime.call("exec", {"argv": ["true"]})
        walled = runtime.call("exec", {"argv": ["true"]}, sandbox="read_only")

    assert (call.level, call.sandbox) == ("process", None)
    assert (walled.level, walled.sandbox) == ("confined", "read_only")


def test_an_unknown_sandbox_in_the_settings_is_refused_with_the_four(tmp_path):
    settings(tmp_path, 'sandbox = "s3cret"')

    with pytest.raises(UsageError, match="read_only, workspace, network, open") as caught:
        custody.open(":memory:").__enter__()
    assert "s3cret" not in str(caught.value)


def test_walls_that_cannot_be_had_end_the_call_as_failed_with_what_to_do(runtime, tmp_path):
    beside = tmp_path / "beside"  # allowed as it lies in the temporary folder, which is private behind walls
    beside.mkdir()

    call = sh(runtime, "touch new", cwd=str(beside))

    assert (call.outcome, call.reason, call.level) == ("failed", "SandboxError", "confined")
    assert "Name it as a root" in call.error["message"]
    assert not (beside / "new").exists()


def test_behind_a_yes_the_record_names_the_walls_as_well(policy):
    policy("[approvals]\nwait_seconds = 20\n[[rules]]\nname = 'look'\ndecision = 'ask'\ntool = 'shell'\n")

    async def prompt(question):
        return yes(question, "kim")

    with custody.open(":memory:") as runtime:
        runtime._runtime.prompt = prompt
        call = sh(runtime, "true")
        found = runtime.index.call(call.id)

    assert (call.outcome, call.sandbox) == ("succeeded", "workspace")
    assert (found.level, found.sandbox) == ("confined", "workspace")


def test_the_command_line_offers_the_sandboxes_there_are():
    assert tuple(NAMED) == SANDBOXES


STEERING = (
    ".claude/settings.local.json",
    ".codex/hooks.json",
    ".mcp.json",
    "custody.toml",
    ".custody/policy/a.toml",
)


def test_what_steers_agents_is_not_theirs_to_change(runtime, work):
    for name in (*STEERING, "other/settings.json"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("")
    named = " ".join(STEERING)
    folders = ".claude .codex .custody"

    call = sh(
        runtime,
        f"for f in {named} other/settings.json; do (echo changed >$f) 2>&-; rm -f $f; done 2>&-; "
        f"for f in {folders} .mcp.json custody.toml; do mv $f moved; rm -rf $f; done 2>&-; "
        "touch .claude/hooks 2>&-; ls -A | sort | tr '\\n' ' '",
    )

    assert call.result["stdout"] == ".claude .codex .custody .mcp.json custody.toml other "
    assert {name: (work / name).read_text() for name in STEERING} == dict.fromkeys(STEERING, "")
    assert sorted(path.name for path in (work / ".claude").iterdir()) == ["settings.local.json"]
    assert not (work / "other" / "settings.json").exists()
