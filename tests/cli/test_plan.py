"""`custody plan`: plans are checked and drawn without anything being begun, and worked on as calls."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.conftest import RUN_SECONDS_MAX, Program, Ran, eventually

from custody.calls.call_settings import CallSettings
from custody.cli.plan_run import AT_ONCE, PARALLEL_MAX
from custody.plans.schedule import CONCURRENT_ACTIONS_MAX

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "release.plan.yaml"
HOSTILE = "\x1b[2J\u202eend"


def sh(action_id: str, script: str, *after: str, **more: Any) -> dict[str, Any]:
    return {
        "id": action_id,
        "depends_on": list(after),
        "tool": "exec",
        "arguments": {"argv": ["sh", "-c", script]},
        **more,
    }


def plan_of(*actions: dict[str, Any], plan_id: str = "p") -> str:
    return json.dumps({"id": plan_id, "actions": list(actions)})


def write(custody: Program, *actions: dict[str, Any]) -> str:
    (custody.work / "p.json").write_text(plan_of(*actions))
    return "p.json"


def recorded(custody: Program) -> tuple[list[Any], list[Any]]:
    """Runs and calls, the oldest first."""
    return tuple(custody(what, "--all", "--json").json["items"][::-1] for what in ("runs", "calls"))  # pyright: ignore[reportReturnType]


# -- check ------------------------------------------------------------------------------------------------


def test_a_sound_plan_passes_and_its_order_is_told(custody: Program):
    ran = custody("plan", "check", str(EXAMPLE))
    assert (ran.code, ran.err) == (0, "custody: this is an analysis: nothing was started.\n")
    assert re.search(r"^ready +notes$", ran.out, re.MULTILINE)
    assert re.search(
        r"^longest way +notes → (test|checksum) → publish → (withdraw|announce)$", ran.out, re.MULTILINE
    )

    said = custody("plan", "check", "-", "--json", stdin=EXAMPLE.read_text()).json
    assert (said["plan_id"], said["state"], said["ready"], said["valid"]) == (
        "release",
        "ready",
        ["notes"],
        True,
    )
    assert said["groups"][1] == ["test", "checksum"]


def test_all_faults_are_told_at_once_and_the_check_fails(custody: Program):
    plan = plan_of(
        {"id": "a", "depends_on": ["b"]},
        {"id": "b", "depends_on": ["a"]},
        {"id": "c", "depends_on": ["gone"]},
        {"id": "d", "tool": "no_such_tool"},
        {"id": "e", "depends_on": ["e"]},
    )
    ran = custody("plan", "check", "-", "--json", stdin=plan)
    assert ran.code == 1
    kinds = sorted(fault["kind"] for fault in ran.json["faults"])
    assert kinds == ["cycle", "missing_dependency", "self_dependency", "unknown_tool"]

    said = custody("plan", "check", "-", stdin=plan)
    assert said.code == 1
    for words in ("cycle: ", "missing dependency: ", "self dependency: ", "unknown tool: "):
        assert said.out.count(words) == 1, words
    assert custody("plan", "check", "-", "--tools", "no_such_tool", "--json", stdin=plan).json["faults"] == [
        fault for fault in ran.json["faults"] if fault["kind"] != "unknown_tool"
    ]
    assert custody("plan", "check", "-", "--tools", "*", stdin=plan_of({"id": "d", "tool": "any"})).code == 0


@pytest.mark.parametrize(
    ("actions", "state", "code"),
    [
        ([{"id": "a", "status": {"failed": "broke"}}, {"id": "b", "depends_on": ["a"]}], "blocked", 1),
        ([{"id": "a", "status": "completed"}, {"id": "b", "status": "in_progress"}], "running", 0),
        ([{"id": "a", "status": {"in_progress": {"waiting_for": "answer"}}}], "waiting", 0),
        ([{"id": "a", "status": "completed"}], "complete", 0),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_finished_fails_the_check(
    custody: Program, actions: Any, state: str, code: int
):
    ran = custody("plan", "check", "-", "--json", stdin=plan_of(*actions))
    assert (ran.code, ran.json["state"]) == (code, state)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.json", '{"id": "p",\n "actions": [}', "line 2, column 14"),
        ("p.yaml", "id: p\nactions: [\n", "line 3"),
        ("p.toml", 'id = "p"\nactions = [}\n', "line 2"),
        ("p.yaml", "id: &a p\nactions: *a\n", "anchor"),
        ("p.txt", "id: p", "ends in '.txt'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(custody: Program, name: str, text: str, words: str):
    (custody.work / name).write_text(text)
    ran = custody("plan", "check", name)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_a_file_that_is_not_there_is_said_to_be_so(custody: Program):
    ran = custody("plan", "check", "gone.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "gone.yaml cannot be read: No such file or directory." in ran.err
    for command in ("show", "run"):
        assert custody("plan", command, ".").code == 2
    assert custody("plan", "check", ".", "--json").json["error"]["type"] == "InvalidInput"


def test_looking_begins_nothing_records_nothing_and_needs_no_store(custody: Program):
    for command in (
        ["check"],
        ["show"],
        ["show", "--format", "mermaid"],
        ["run", "--dry-run"],
    ):
        ran = custody("plan", command[0], str(EXAMPLE), *command[1:])
        assert ran.code == 0, ran.err
    assert not custody.store.exists()
    assert list(custody.work.iterdir()) == []

    with custody.recording():
        pass
    for command in ("check", "show"):
        assert custody("plan", command, str(EXAMPLE)).code == 0
        assert "an analysis: nothing is begun" in " ".join(custody("plan", command, "--help").out.split())
    assert recorded(custody) == ([], [])


# -- show -------------------------------------------------------------------------------------------------


def test_a_plan_is_drawn_as_a_tree_in_a_pipe(custody: Program):
    ran = custody("plan", "show", str(EXAMPLE))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-7:] == [
        "▷ ready notes: write what is released",
        "├─ ○ pending test: see that there is a version in it",
        "│  └─ ↓ publish, below",
        "└─ ○ pending checksum: what others can compare it with",
        "   └─ ○ pending publish [after test]: only what has passed, with its checksum",
        "      ├─ ○ pending withdraw [if publish failed]: nothing half-made stays",
        "      └─ ○ pending announce",
    ]


def test_a_plan_is_drawn_within_the_width_of_a_terminal(custody: Program):
    file = write(
        custody,
        sh("build", "true", status={"failed": f"{'because of this and that ' * 5}{HOSTILE}"}),
        sh("ship", "true", "build", description="a long way off " * 9),
    )
    out = custody.at_terminal("plan", "show", file, columns=60, NO_COLOR="1")
    assert max(map(len, out.splitlines())) <= 60
    assert "✗ failed build\n" in out
    assert "└─ ○ pending ship: a long way off" in out
    assert HOSTILE not in out


def test_faults_do_not_keep_a_plan_from_being_drawn(custody: Program):
    ran = custody(
        "plan", "show", "-", stdin=plan_of({"id": "a", "depends_on": ["b"]}, {"id": "b", "depends_on": ["a"]})
    )
    assert ran.code == 0
    assert "○ pending a [after b]\n└─ ○ pending b\n   └─ ↑ a, above\n" in ran.out
    assert ran.err.startswith("custody: cycle: ")


# -- run --------------------------------------------------------------------------------------------------


def test_a_plan_is_worked_on_and_everything_of_it_is_on_the_record(custody: Program):
    shutil.copy(EXAMPLE, custody.work / "release.plan.yaml")
    ran = custody("plan", "run", "release.plan.yaml")
    assert (ran.code, ran.err) == (0, ""), ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "in progress notes"
    assert re.fullmatch(r"completed notes \(.+\)", lines[1])
    assert "skipped withdraw: Its condition if_failed 'publish' does not hold: 'publish' succeeded." in lines
    assert re.fullmatch(r"complete: 5 completed, 1 skipped of 6 \(run [0-9a-f]{8}\)", lines[-1])
    assert (custody.work / "dist" / "SHA256SUMS").read_text().endswith("  dist/notes.txt\n")

    (run,), calls = recorded(custody)
    assert (run["outcome"], run["intent"], run["name"]) == (
        "succeeded",
        "make a release of the notes",
        "plan release",
    )
    assert {(call["run_id"], call["proposal_id"]) for call in calls} == {(run["id"], "release")}
    assert sorted(call["action_id"] for call in calls) == ["announce", "checksum", "notes", "publish", "test"]

    shown = custody("plan", "show", "release.plan.yaml", "--run", "latest", "--json").json
    assert (shown["run_id"], shown["state"]) == (run["id"], "complete")
    statuses = {action["id"]: action["status"] for action in shown["actions"]}
    assert statuses == dict.fromkeys(statuses, "completed") | {"withdraw": "skipped"}
    drawn = custody("plan", "show", "release.plan.yaml", "--run", run["id"][:12]).out
    assert "✓ completed publish [after test]" in drawn


def test_a_run_of_another_plan_is_not_shown_as_one_of_this(custody: Program):
    file = write(custody, sh("a", "true"))
    assert custody("plan", "show", file, "--run", "latest").code == 2
    assert custody("plan", "run", file).code == 0
    ran = custody("plan", "show", str(EXAMPLE), "--run", recorded(custody)[0][0]["id"])
    assert (ran.code, ran.out) == (2, "")
    assert "is not of this plan" in ran.err


def test_json_is_one_document_with_what_became_of_each_action(custody: Program):
    file = write(
        custody,
        sh("a", "echo no >&2; exit 3"),
        sh("b", "true", "a"),
        sh("c", "true", condition={"if_failed": "a"}),
    )
    ran = custody("plan", "run", file, "--json")
    assert ran.code == 1
    said = ran.json
    assert said["state"] == "blocked"
    assert {one["id"]: (one["status"], one["outcome"]) for one in said["actions"]} == {
        "a": ("failed", "failed"), "b": ("pending", None), "c": ("completed", "succeeded"),
    }  # fmt: skip
    run = recorded(custody)[0][0]
    assert (run["id"], run["outcome"]) == (said["run_id"], "failed")


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (sh("a", "exit 9"), 1),
        ({"id": "a", "tool": "file_read", "arguments": {"path": "/etc/shadow"}}, 3),
        (sh("a", "sleep 60", timeout_s=0.05), 4),
    ],
    ids=["failed", "refused", "timed out"],
)
def test_the_exit_code_is_that_of_the_action_that_stopped_it(
    custody: Program, action: dict[str, Any], code: int
):
    ran = custody("plan", "run", write(custody, action))
    assert ran.code == code
    assert re.search(r"^failed a( \(.+\))?: .+call [0-9a-f]{12}", ran.out, re.MULTILINE)
    assert ran.err.startswith("custody: plan p: ")


def test_a_secret_in_what_a_tool_says_is_not_said_again(custody: Program):
    secret = "ghp_" + "q7Lw9ZtR2mXc5VbN8kJh3GfD6sAa0Y1eUoPi"
    actions = [{"id": "a", "tool": "file_read", "arguments": {"path": f"{secret}.txt"}}]
    for form in ([], ["--json"]):
        ran = custody("plan", "run", write(custody, *actions), *form, MY_TOKEN=secret)
        assert ran.code == 1
        assert "[redacted:" in ran.out
        assert secret not in ran.out + ran.err


def test_a_plan_with_faults_is_refused_with_all_of_them_and_nothing_is_begun(custody: Program):
    actions = [{"id": f"a{n}", "tool": "exec", "arguments": {"argv": "no list"}} for n in range(7)]
    ran = custody("plan", "run", write(custody, *actions, sh("ok", "touch begun")))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("custody: The plan has 7 faults, and nothing was begun:\n")
    assert all(f"Action 'a{n}'" in ran.err for n in range(7))
    assert recorded(custody) == ([], [])
    assert custody("plan", "run", "p.json", "--dry-run").err == ran.err
    assert custody("plan", "run", "-", stdin="{}").code == 2


def test_what_failed_is_done_again_when_somebody_says_so_and_nothing_else_is(custody: Program):
    file = write(custody, sh("a", "echo x >> a"), sh("b", "test -e there", "a"), sh("c", "true", "b"))
    assert custody("plan", "run", file, "--retry", "b").code == 2  # nothing was begun of it
    assert custody("plan", "run", file).err.endswith(
        "to go on: custody plan run p.json --retry b (do it again) or --done b (it is done).\n"
    )
    (custody.work / "there").touch()
    ran = custody("plan", "run", file, "--retry", "b")
    assert (ran.code, ran.err) == (0, "")
    assert (custody.work / "a").read_text() == "x\n"
    assert custody("plan", "run", file, "--done", "a").code == 2
    assert len(recorded(custody)[0]) == 2


def stopped_by(custody: Program, number: int) -> Ran:
    """A plan whose second action has begun, ended by a signal."""
    file = write(custody, sh("first", "echo x >> first"), sh("second", "touch begun; sleep 60", "first"))
    process = custody.start("plan", "run", file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    eventually((custody.work / "begun").exists)
    drawn = custody("plan", "show", file, "--run", "latest").out
    process.send_signal(number)
    _, said = process.communicate(timeout=RUN_SECONDS_MAX)
    return Ran(process.returncode, drawn, said.decode())


def test_an_interrupted_plan_says_how_to_go_on_and_does(custody: Program):
    stopped = stopped_by(custody, signal.SIGTERM)
    assert stopped.code == 128 + signal.SIGTERM
    assert stopped.err == (
        "custody: interrupted: custody plan run p.json goes on, and asks about what was cut short.\n"
    )
    assert "✓ completed first\n└─ ▶ in progress second\n" in stopped.out
    assert [run["outcome"] for run in recorded(custody)[0]] == ["cancelled"]

    ran = custody("plan", "run", "p.json")
    assert ran.code == 1
    assert "completed first (in an earlier run)" in ran.out
    assert "--retry second" in ran.err

    ran = custody("plan", "run", "p.json", "--done", "second", "--json")
    assert (ran.code, ran.json["state"]) == (0, "complete")
    assert (custody.work / "first").read_text() == "x\n"


@pytest.mark.long
def test_an_action_that_nobody_knows_the_end_of_stops_the_plan_until_somebody_decides(custody: Program):
    assert stopped_by(custody, signal.SIGKILL).code == -signal.SIGKILL
    ran = custody("plan", "run", "p.json")
    assert ran.code == 6
    assert "--done second" in ran.err
    assert "--retry second" in ran.err

    (custody.work / "begun").unlink()
    ran = custody("plan", "run", "p.json", "--done", "second")
    assert ran.code == 0
    assert not (custody.work / "begun").exists()
    assert (custody.work / "first").read_text() == "x\n"


def test_a_terminal_sees_a_table_and_in_the_end_what_became_of_each(custody: Program):
    file = write(custody, sh("first", "true"), sh("second", "exit 4", "first"))
    out = custody.at_terminal("plan", "run", file, columns=100, code=1, NO_COLOR="1")
    end = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    end = end[end.rindex("Action  ") :]
    assert re.search(r"^first +✓ completed +1 +\S+ \S+ +–", end, re.MULTILINE)
    assert re.search(r"^second +✗ failed +1 ", end, re.MULTILINE)
    assert "blocked: 1 completed, 1 failed of 2 (run " in end


@pytest.mark.long
def test_a_narrow_terminal_sees_how_each_action_stands_while_it_is_worked_on(custody: Program):
    file = write(custody, sh("first", "exit 4"), sh("second", "true", "first"))
    out = custody.at_terminal("plan", "run", file, columns=40, code=1, NO_COLOR="1")
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    lines = [line for line in drawn[: drawn.rindex("Action  ")].splitlines() if line.startswith("first")]
    assert lines
    assert all(re.match("first +(○ pending|▶ in progress|✗ failed) ", line) for line in lines)
    assert all(len(line) <= 40 for line in lines)


@pytest.mark.long
@pytest.mark.parametrize("begin", ["exit 4", "true"])
def test_a_plan_outlives_whoever_reads_of_it_and_its_exit_code_is_its_own(custody: Program, begin: str):
    go_on = f"while [ ! -e closed ]; do sleep 0.01; done; {begin}"
    file = write(custody, sh("first", go_on), sh("second", "touch done", "first"))
    process = custody.start("plan", "run", file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"in progress first\n"
    process.stdout.close()
    (custody.work / "closed").touch()
    said = process.stderr.read().decode()
    assert (process.wait(RUN_SECONDS_MAX), "Traceback" in said) == (1 if "4" in begin else 0, False), said
    assert (custody.work / "done").exists() is (begin == "true")
    assert ("--retry first" in said) is ("4" in begin)


@pytest.mark.long
def test_a_plan_whose_lines_nobody_can_write_says_so_and_is_worked_on(custody: Program):
    file = write(custody, sh("first", "true"), sh("second", "touch done", "first"))
    with open("/dev/full", "wb") as full:
        process = custody.start("plan", "run", file, stdout=full, stderr=subprocess.PIPE)
        said = process.communicate(timeout=RUN_SECONDS_MAX)[1].decode()
    assert (process.returncode, "Traceback" in said) == (1, False), said
    assert "could not be written: No space left on device" in said
    assert (custody.work / "done").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("custody plan check ", ["file,"]),
        ("custody plan run p.json --retry s", ["plain,second"]),
        ("custody plan run gone.json --done s", []),
    ],
    ids=["file", "action", "no-file"],
)
def test_files_and_actions_are_completed(custody: Program, words: str, completed: list[str]):
    write(custody, sh("first", "true"), sh("second", "true"))
    at = str(len(words.split(" ")) - 1)
    done = custody(_CUSTODY_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=at)
    assert done.out.split() == completed


def test_help_says_in_a_whole_line_what_each_command_does(custody: Program):
    commands = custody("plan", "--help").out.partition("Commands:\n")[2]
    assert commands and "..." not in commands


def test_help_says_what_is_so_without_loading_what_says_it():
    assert AT_ONCE == CONCURRENT_ACTIONS_MAX
    (parallel,) = [field for field in msgspec.structs.fields(CallSettings) if field.name == "parallel_calls"]
    assert parallel.default == PARALLEL_MAX


# -- the page ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_plan_and_the_python_of_the_page_work(custody: Program):
    page = (EXAMPLE.parents[1] / "docs" / "how-to" / "plans.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert custody("plan", "check", "-", stdin=written).code == 0
    assert custody("plan", "show", str(EXAMPLE)).out.split("\n\n", 1)[1] in page

    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=custody.environment,
        cwd=custody.work,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "ready\ncomplete\n"), done.stderr
