"""A session of a coding CLI: what its hooks decide, what is on the record of it, and what can be undone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.doors.daemons import Daemon
from tests.doors.hooks.driving import Cli, Record, served_for_hooks
from tests.sandbox.commands import is_alive
from tests.sandbox.places import machine_of

POLICY = """
[[rules]]
name = "ask-before-push"
decision = "ask"
tool = "shell"
when = 'params.command.contains("push")'
reason = "Pushes are looked at."

[[rules]]
name = "ask-again-before-push"
decision = "ask"
tool = "exec"
when = 'params.argv[2].contains("push")'
reason = "Pushes are looked at."

[[rules]]
name = "no-such-server"
decision = "deny"
tool = "mcp__shop__buy"
reason = "Nothing is bought."
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose commands run at level process, and a policy."""
    level = '[calls]\nlevel = "process"\n'
    with served_for_hooks(tmp_path_factory.mktemp("hooks"), settings=level, policy=POLICY) as made:
        yield made


@pytest.fixture
def record(served: Daemon) -> Record:
    return Record(served)


@pytest.fixture
def cli(served: Daemon, tmp_path: Path) -> Iterator[Cli]:
    with Cli(tmp_path / "shop", served.environment) as made:
        yield made


def test_a_prompt_is_a_run_of_the_session_and_its_end_finishes_it(cli: Cli, record: Record):
    cli.tell("session_started", source="startup")
    cli.tell("prompted", prompt="Make it green")
    cli.use("TodoRead", {"todo": 1})
    cli.tell("stopped")
    cli.tell("prompted", prompt="And blue")
    cli.tell("session_ended", reason="exit")
    runs = record.runs(cli.session)
    assert [(run["intent"], run["outcome"], run["calls"]) for run in runs] == [
        ("Make it green", "succeeded", 1),
        ("And blue", "succeeded", 0),
    ]
    assert {(run["agent"], run["door"], run["owner_pid"]) for run in runs} == {
        ("claude-code", "hook", cli.pid)
    }


def test_what_a_tool_was_asked_and_gave_is_one_call(cli: Cli, record: Record):
    used = cli.use("mcp__shop__look", {"shelf": 3}, id="toolu_look")
    assert used["ran"]
    (call,) = record.calls(cli.session)
    assert (call["tool"], call["arguments"], call["external_id"]) == (
        "mcp__shop__look",
        {"shelf": 3},
        "toolu_look",
    )
    assert (call["outcome"], call["source"], call["result"]) == (
        "succeeded",
        "observed",
        {"done": "mcp__shop__look"},
    )
    assert call["latency_us"] > 0


def test_a_rule_denies_a_tool_by_its_own_name(cli: Cli, record: Record):
    used = cli.use("mcp__shop__buy", {"what": "all"})
    assert (used["ran"], used["reason"]) == (False, "Custody: Nothing is bought.")
    (call,) = record.calls(cli.session)
    assert (call["outcome"], call["decision"]["rule"]) == ("rejected", "no-such-server")


def test_its_own_settings_are_not_edited(cli: Cli, record: Record):
    settings = cli.work / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text("{}", encoding="utf-8")
    edit = {"file_path": os.fspath(settings), "old_string": "{}", "new_string": "{free}"}
    for used in (
        cli.use("Edit", edit),
        cli.use("Bash", {"command": "echo '{free}' > .claude/settings.json"}),
    ):
        assert not used["ran"]
        assert "is protected" in used["reason"]
    assert settings.read_text(encoding="utf-8") == "{}"
    assert {call["outcome"] for call in record.calls(cli.session)} == {"rejected"}


def test_a_secret_of_its_environment_is_neither_sent_nor_recorded(
    served: Daemon, tmp_path: Path, record: Record
):
    value = "kq81-Zx7pL-0042-vv"
    with Cli(tmp_path / "shop", {**served.environment, "SHOP_API_KEY": value}) as cli:
        sent = cli.use("Bash", {"command": f"curl -d {value} http://127.0.0.1:1/"})
        assert (sent["ran"], "SHOP_API_KEY" in sent["reason"], value in sent["reason"]) == (
            False,
            True,
            False,
        )
        cli.use("mcp__shop__look", {"shelf": 1}, agent_type=None)
        calls = record.calls(cli.session)
    assert value not in str(calls)
    assert calls[0]["redactions"]


@pytest.mark.long
def test_a_command_that_takes_too_long_is_ended_with_all_it_started(cli: Cli, record: Record):
    line = "echo begun; (sleep 60 & echo $! > child); sleep 60"
    used = cli.use("Bash", {"command": line, "timeout": 8_000})
    assert "exec --adopt" in used["input"]["command"]
    assert "Exit code 124" in used["error"]
    child = (cli.work / "child").read_text(encoding="utf-8").strip()
    assert not is_alive(int(child))
    outer, inner = record.calls(cli.session)
    assert (outer["tool"], outer["arguments"]["command"], outer["outcome"]) == ("Bash", line, "timed_out")
    assert (inner["tool"], inner["parent_id"], inner["outcome"]) == ("exec", outer["id"], "timed_out")
    assert inner["arguments"]["argv"][1:] == ["-c", line]
    assert inner["result"]["stdout"] == "begun\n"
    assert inner["level"] == "process"


@pytest.mark.long
def test_a_line_is_good_once_and_for_its_command_alone(cli: Cli, served: Daemon):
    used = cli.use("Bash", {"command": "echo once >> ran"})
    assert used["ran"]
    line = used["input"]["command"]
    again = subprocess.run(
        ["/bin/sh", "-c", line], cwd=cli.work, env=cli.environment, capture_output=True, text=True
    )
    assert again.returncode == 125
    said = {"tool_name": "Bash", "tool_input": {"command": "echo never"}, "tool_use_id": "toolu_never"}
    answer = cli.hook("PreToolUse", **said)
    changed = answer["input"]["command"].replace("echo never", "echo other >> ran")
    other = subprocess.run(["/bin/sh", "-c", changed], cwd=cli.work, env=cli.environment, capture_output=True)
    stranger = subprocess.run(
        ["/bin/sh", "-c", answer["input"]["command"]], cwd=cli.work, env=cli.environment, capture_output=True
    )
    assert (other.returncode, stranger.returncode) == (125, 125)
    served.is_intact()
    assert (cli.work / "ran").read_text(encoding="utf-8") == "once\n"


@pytest.mark.long
def test_a_line_runs_where_it_was_decided_and_takes_no_options(cli: Cli):
    elsewhere = cli.work / "elsewhere"
    elsewhere.mkdir()
    answer = cli.hook("PreToolUse", tool_name="Bash", tool_input={"command": "pwd"}, tool_use_id="toolu_cd")
    line = answer["input"]["command"]
    weaker = cli.output(cli.start(line.replace(" exec ", " exec --level process ")))
    assert weaker == {"code": 125, "stdout": ""}
    assert cli.output(cli.start(f"cd {elsewhere} && {line}")) == {"code": 0, "stdout": f"{cli.work}\n"}


@pytest.mark.long
def test_a_command_that_hides_what_it_changes_is_told_of(cli: Cli, record: Record):
    """In its own project no wall keeps it from files whose names it puts together."""
    used = cli.use("Bash", {"command": "a=.cl; mkdir ${a}aude; echo '{}' > ${a}aude/settings.local.json"})
    settings = cli.work / ".claude" / "settings.local.json"
    said = used["result"]["stderr"]
    assert f"custody: {settings} changed while this ran, which agents are kept from" in said
    _, inner = record.calls(cli.session)
    assert os.fspath(settings) in [change["path"] for change in inner["changes"]]
    assert f"custody undo {inner['id'][:8]}" in said


@pytest.mark.long
def test_a_deadline_to_the_millisecond_is_the_one_that_was_decided_on(cli: Cli):
    used = cli.use("Bash", {"command": "echo in time", "timeout": 1_234_567})
    assert used["result"]["stdout"] == "in time\n"


@pytest.mark.long
def test_where_a_rule_asks_the_cli_asks_and_its_users_yes_counts(cli: Cli, record: Record):
    refused = cli.use("Bash", {"command": "echo push"})
    assert (refused["ran"], refused["asked"]) == (False, True)
    used = cli.use("Bash", {"command": "echo push it"}, user_says_yes=True)
    assert used["result"]["stdout"] == "push it\n"
    cli.tell("stopped")
    first, second, inner = record.calls(cli.session)
    assert (first["outcome"], first["decision"]["rule"]) == ("rejected", "ask-before-push")
    assert (second["outcome"], inner["outcome"]) == ("succeeded", "succeeded")


@pytest.mark.long
def test_an_edit_of_its_own_is_undone(cli: Cli, record: Record, served: Daemon):
    work = cli.work
    (work / "a.txt").write_text("old\n", encoding="utf-8")
    path = os.fspath(work / "a.txt")
    cli.tell("prompted", prompt="Change things")
    cli.use("Edit", {"file_path": path, "old_string": "old", "new_string": "new"})
    cli.use("Write", {"file_path": os.fspath(work / "deep" / "er" / "b.txt"), "content": "b"})
    cli.tell("stopped")
    edit, write = record.calls(cli.session)
    assert [(one["path"], one["change"]) for one in edit["changes"]] == [(path, "modified")]
    assert write["changes_count"] == 3
    (run,) = record.runs(cli.session)
    undone = subprocess.run(
        [sys.executable, "-m", "custody", "undo", run["id"], "--yes", "--json"],
        cwd=work, env=cli.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert undone.returncode == 0, undone.stderr
    assert (work / "a.txt").read_text(encoding="utf-8") == "old\n"
    assert sorted(os.listdir(work)) == ["a.txt"]


def test_a_subagent_is_a_run_below_that_of_its_turn(cli: Cli, record: Record):
    cli.tell("prompted", prompt="Look around")
    cli.tell("subagent_started", agent_id="a7", agent_type="Explore")
    cli.use("mcp__shop__look", {"shelf": 1}, agent_id="a7", agent_type="Explore")
    cli.tell("subagent_stopped", agent_id="a7", agent_type="Explore")
    cli.use("mcp__shop__look", {"shelf": 2})
    turn, below = record.runs(cli.session)
    assert (below["parent_run_id"], below["agent"], below["outcome"]) == (turn["id"], "Explore", "succeeded")
    assert [call["run_id"] for call in record.calls(cli.session)] == [below["id"], turn["id"]]
    assert turn["outcome"] is None


def test_a_call_stays_open_while_its_cli_lives_and_no_longer(served: Daemon, tmp_path: Path, record: Record):
    cli = Cli(tmp_path / "shop", served.environment)
    cli.hook("PreToolUse", tool_name="mcp__shop__look", tool_input={}, tool_use_id="toolu_x")
    (call,) = record.calls(cli.session)
    assert call["outcome"] is None
    cli.leave()
    (call,) = record.calls(cli.session)
    assert (call["outcome"], call["reason"]) == ("unknown", "its process ended before the call did")
    assert [run["outcome"] for run in record.runs(cli.session)] == ["incomplete"]


def test_what_nobody_saw_begin_is_told_once_it_is_over(cli: Cli, record: Record):
    said = {"tool_name": "Read", "tool_input": {"file_path": "/srv/x"}, "tool_response": {"ok": 1}}
    cli.hook("PostToolUse", **said)
    (call,) = record.calls(cli.session)
    assert (call["tool"], call["outcome"], call["result"]) == ("Read", "succeeded", {"ok": 1})


@pytest.mark.parametrize("told", [{"tool_input": "text"}, {"tool_name": 3, "tool_input": {}}, {}])
def test_a_tool_that_is_not_understood_is_blocked_and_noted(cli: Cli, told: dict[str, object]):
    said = {"tool_name": "Bash", **told}
    answer = cli.hook("PreToolUse", **said)
    assert answer["blocked"]
    assert "tool_" in answer["reason"]


@pytest.mark.long
def test_a_command_in_the_background_goes_on_after_its_tool(cli: Cli, record: Record):
    """Its tool ends at once; the line it was given is good all the same."""
    line = "while [ ! -e go ]; do sleep 0.05; done; echo went"
    before = {
        "tool_name": "Bash",
        "tool_input": {"command": line, "run_in_background": True},
        "tool_use_id": "t9",
    }
    answer = cli.hook("PreToolUse", **before)
    cli.hook("PostToolUse", **before, tool_response={"backgroundTaskId": "b1"})
    started = cli.start(answer["input"]["command"])
    cli.tell("stopped")
    (cli.work / "go").touch()
    assert cli.output(started) == {"code": 0, "stdout": "went\n"}
    outer, inner = record.calls(cli.session)
    assert (outer["outcome"], inner["outcome"], inner["parent_id"]) == ("succeeded", "succeeded", outer["id"])


@pytest.mark.long
def test_two_hooks_for_one_tool_make_one_call(served: Daemon, tmp_path: Path, record: Record):
    with Cli(tmp_path / "shop", served.environment, twice=True) as cli:
        used = cli.use("Bash", {"command": "echo one"})
        assert used["result"]["stdout"] == "one\n"
        outer, inner = record.calls(cli.session)
    assert (outer["tool"], outer["outcome"], inner["tool"], inner["outcome"]) == (
        "Bash", "succeeded", "exec", "succeeded",
    )  # fmt: skip


@pytest.mark.long
def test_behind_walls_a_command_keeps_to_its_workspace(tmp_path: Path):
    """As it is where nothing else is set: the strongest walls of this machine."""
    missing = ", ".join(finding.name for finding in machine_of(os.getuid()).missing)
    if missing:
        pytest.skip(f"this machine lacks {missing}")
    outside = tmp_path / "outside"
    outside.mkdir()
    with (
        served_for_hooks(tmp_path / "own", settings="", policy="") as served,
        Cli(tmp_path / "shop", served.environment) as cli,
    ):
        used = cli.use("Bash", {"command": f"echo in > here; echo out > {outside}/there; id -u"})
        _, inner = Record(served).calls(cli.session)
    assert "there" in used["result"]["stderr"]
    assert (cli.work / "here").read_text(encoding="utf-8") == "in\n"
    assert list(outside.iterdir()) == []
    assert inner["level"] == "confined"
    assert inner["sandbox"].startswith("workspace")


@pytest.mark.long
def test_a_daemon_that_is_killed_between_two_hooks_loses_nothing(tmp_path: Path):
    level = '[calls]\nlevel = "process"\n'
    with (
        served_for_hooks(tmp_path / "own", settings=level, policy="") as served,
        Cli(tmp_path / "shop", served.environment) as cli,
    ):
        path = cli.work / "a.txt"
        path.write_text("old\n", encoding="utf-8")
        said = {
            "tool_name": "Write",
            "tool_input": {"file_path": os.fspath(path), "content": "new\n"},
            "tool_use_id": "toolu_w",
        }
        cli.hook("PreToolUse", **said)
        served.kill()
        path.write_text("new\n", encoding="utf-8")
        (open_call,) = Record(served).calls(cli.session)
        answer = cli.hook("PostToolUse", **said, tool_response={"success": True})
        (call,) = Record(served).calls(cli.session)
        served.start()
        served.is_intact()
    assert (open_call["outcome"], answer["failed"]) == (None, [])
    assert (call["id"], call["outcome"], call["changes_count"]) == (open_call["id"], "succeeded", 1)
