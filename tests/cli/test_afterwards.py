"""What becomes of a command's changes, as it is said with the command, in the settings, or by a rule."""

import os
import subprocess
import sys

import pytest
from tests.cli.conftest import Program
from tests.sandbox.places import machine_of


@pytest.fixture(autouse=True)
def walls():
    missing = "; ".join(finding.why for finding in machine_of(os.getuid()).missing)
    if missing:
        pytest.skip(f"`transaction` is not offered here: {missing}")


@pytest.fixture
def custody(custody: Program) -> Program:
    (custody.work / "old").write_text("old\n")
    return custody


def run(custody: Program, *options: str, line: str = "echo x > new; rm old", code: int = 0):
    """What the call of a command became, and what was said of it."""
    ran = custody("exec", *options, "--", "sh", "-c", line)
    assert ran.code == code, ran.err
    (call, *_) = custody("calls", "--tool", "exec", "--limit", "1", "--json").json["items"]
    return call, ran.err


def standing(custody: Program) -> list[str]:
    return sorted(os.listdir(custody.work))


def settings(custody: Program, text: str) -> None:
    with custody.settings.open("a") as file:
        file.write(f"{text}\n")


def policy(custody: Program, text: str) -> None:
    (custody.settings.parent / "policy.toml").write_text(text)


def settling(custody: Program, call) -> tuple[str, str]:
    """The call that made of the changes what became of them: its tool and outcome."""
    (made,) = (one for one in custody("calls", "--json").json["items"] if one["parent_id"] == call["id"])
    assert (made["arguments"], made["run_id"]) == ({"call": call["id"]}, call["run_id"])
    return made["tool"], made["outcome"]


# -- as it is said with the command ---------------------------------------------------------------------


def test_commit_puts_them_in_place_by_a_call_that_can_be_undone(custody):
    call, said = run(custody, "--afterwards", "commit")
    assert (call["level"], call["held"]) == ("transaction", "committed")
    assert f"changes committed: 2, by call {call['settled_by'][:8]}" in said
    assert (settling(custody, call), standing(custody)) == (("commit", "succeeded"), ["new"])
    assert custody("undo", call["id"]).code == 0
    assert standing(custody) == ["old"]


@pytest.mark.parametrize(("exit_code", "held", "left"), [(0, "committed", ["new"]), (3, "held", ["old"])])
def test_commit_if_passed_looks_at_the_exit_code(custody, exit_code, held, left):
    line = f"echo x > new; rm old; exit {exit_code}"
    call, said = run(custody, "--afterwards", "commit_if_passed", line=line, code=exit_code)
    assert (call["exit_code"], call["held"], standing(custody)) == (exit_code, held, left)
    assert f"changes {held}: 2" in said


def test_commit_also_counts_what_a_command_left_that_failed(custody):
    call, _ = run(custody, "--afterwards", "commit", line="echo x > new; exit 3", code=3)
    assert (call["outcome"], call["held"], standing(custody)) == ("failed", "committed", ["new", "old"])


def test_discard_drops_them_and_nothing_is_held(custody):
    call, said = run(custody, "--afterwards", "discard")
    assert (call["held"], standing(custody)) == ("discarded", ["old"])
    assert "changes discarded: 2, by call" in said
    assert settling(custody, call) == ("discard", "succeeded")
    assert custody("calls", "--held", "--json").json["items"] == []


@pytest.mark.long
def test_ask_without_anybody_there_leaves_them_held_and_the_question_on_the_record(custody):
    call, said = run(custody, "--afterwards", "ask")
    assert (call["held"], standing(custody)) == ("held", ["old"])
    assert f"custody commit {call['id'][:8]} puts them in place" in said
    assert settling(custody, call) == ("commit", "rejected")
    assert custody("commit", call["id"]).code == 0
    assert standing(custody) == ["new"]


@pytest.mark.long
@pytest.mark.parametrize("with_policy", [True, False], ids=["with a policy", "without a policy"])
@pytest.mark.parametrize(("typed", "held", "left"), [("y", "committed", ["new"]), ("n", "held", ["old"])])
def test_ask_at_a_terminal_says_what_changed_and_does_as_the_person_says(
    custody, typed, held, left, with_policy
):
    if with_policy:
        policy(custody, 'default = "allow"\n')
    line = ("exec", "--afterwards", "ask", "--", "sh", "-c", "echo x > new; rm old")
    code, shown = answering(custody, line, typed)
    assert code == 0
    assert "1 created, 1 deleted" in shown and "--diff` shows what" in shown
    (call,) = custody("calls", "--tool", "exec", "--json").json["items"]
    assert (call["held"], standing(custody)) == (held, left)


def answering(custody: Program, arguments: tuple[str, ...], typed: str) -> tuple[int, str]:
    """The exit code and what a terminal showed at which somebody answers the question once it is there."""
    import pty

    master, slave = pty.openpty()
    process = custody.start(*arguments, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown, answered = b"", False
    try:
        while data := os.read(master, 65536):
            shown += data
            if not answered and b"Allow it?" in shown and shown.endswith(b": "):
                os.write(master, typed.encode() + b"\n")
                answered = True
    except OSError:  # nobody writes to it any more
        pass
    os.close(master)
    return process.wait(20), shown.decode()


def test_a_command_that_changes_nothing_has_nothing_to_settle(custody):
    call, _ = run(custody, "--afterwards", "commit", line="cat old")
    assert (call["level"], call["held"], call["settled_by"]) == ("transaction", None, None)
    assert len(custody("calls", "--json").json["items"]) == 1


def test_a_dry_run_runs_on_the_view_tells_what_would_be_and_drops_it(custody):
    for options in (("--level", "transaction"), ("--afterwards", "commit")):
        call, said = run(custody, *options, "--dry-run", line="cat old; echo x > new; rm old; mkdir d")
        assert (call["dry_run"], call["held"], call["changes"]) == (True, None, None)
        assert {(one["change"], os.path.basename(one["path"])) for one in call["result"]["would_change"]} == {
            ("created", "new"), ("deleted", "old"), ("created", "d"),
        }  # fmt: skip
        assert f"would be created: {custody.work}/new" in said and "would be deleted: " in said
        assert standing(custody) == ["old"]
    assert custody("calls", "--held", "--json").json["items"] == []
    assert custody("commit", call["id"]).code == 1
    assert "would change nothing" in run(custody, "--afterwards", "hold", "--dry-run", line="true")[1]


def test_what_contradicts_itself_is_refused_and_nothing_runs(custody):
    for options in (
        ("--level", "process", "--afterwards", "commit"),
        ("--level", "confined", "--afterwards", "commit"),
        ("--level", "transaction", "--sandbox", "read_only"),
        ("--afterwards", "keep"),
    ):
        ran = custody("exec", *options, "--", "touch", "new")
        assert (ran.code, ran.out) == (125, ""), options
    assert standing(custody) == ["old"]


# -- as the settings say --------------------------------------------------------------------------------


@pytest.mark.long
def test_the_settings_say_what_becomes_of_what_a_person_types_as_a_transaction(custody):
    settings(custody, '[calls]\nafterwards = "commit_if_passed"')
    assert run(custody, "--level", "transaction", line="touch one")[0]["held"] == "committed"
    assert (
        run(custody, "--level", "transaction", "--afterwards", "hold", line="touch two")[0]["held"] == "held"
    )
    assert run(custody, line="touch three")[0]["level"] == "process"
    assert standing(custody) == ["old", "one", "three"]


@pytest.mark.long
def test_the_settings_make_a_transaction_of_every_command_of_an_agent_which_cannot_choose_less(custody):
    settings(custody, '[calls]\nlevel = "transaction"')
    with custody.recording() as runtime:
        calls = [
            runtime.call("shell", {"command": "touch one"}),
            runtime.call("exec", {"argv": ["touch", "two"]}, level="process"),
            runtime.call("shell", {"command": "touch three"}, level="confined"),
            runtime.call("shell", {"command": "touch four"}, afterwards="commit"),
            runtime.call("shell", {"command": "touch five"}, afterwards="discard"),
        ]
    assert [call.level for call in calls] == ["transaction"] * 5
    assert [call.held for call in calls] == ["held"] * 4 + ["discarded"]
    assert standing(custody) == ["old"]


@pytest.mark.long
def test_an_agents_command_that_types_the_program_is_an_agent_too(custody):
    settings(custody, '[calls]\nlevel = "transaction"')
    inner = custody.command("exec", "--afterwards", "commit", "--", "touch", "new")
    call, _ = run(custody, line=" ".join(f"'{word}'" for word in inner))
    assert call["level"] == "transaction"
    assert (call["held"], standing(custody)) == ("held", ["old"])


# -- as a rule says -------------------------------------------------------------------------------------

RULE = """
default = "allow"
[[rules]]
name = "builds"
decision = "allow"
tool = "exec"
"""


@pytest.mark.long
def test_a_rule_makes_a_transaction_of_what_a_person_types_without_a_word(custody):
    policy(custody, RULE + 'level = "transaction"\n')
    call, said = run(custody)
    assert (call["level"], call["sandbox"], call["held"]) == ("transaction", "workspace", "held")
    assert "custody commit" in said
    assert custody("commit", "--yes").code == 0
    assert standing(custody) == ["new"]


@pytest.mark.long
def test_a_rule_commits_what_nobody_has_said_anything_of_and_keeps_less_careful_words_from_counting(custody):
    policy(custody, RULE + 'level = "transaction"\nafterwards = "discard"\n')
    assert run(custody, "--afterwards", "commit")[0]["held"] == "discarded"
    policy(custody, RULE + 'level = "transaction"\nafterwards = "commit"\n')
    assert run(custody, "--afterwards", "hold", line="touch one")[0]["held"] == "held"
    assert standing(custody) == ["old"]
    assert run(custody, line="touch two")[0]["held"] == "committed"
    assert standing(custody) == ["old", "two"]


@pytest.mark.long
def test_a_rule_narrows_the_sandbox_and_a_transaction_that_has_nothing_to_hold_then_is_refused(custody):
    policy(custody, RULE + 'sandbox = "read_only"\n')
    call, _ = run(custody, line="echo x > new", code=2)
    assert (call["level"], call["sandbox"], standing(custody)) == ("confined", "read_only", ["old"])
    ran = custody("exec", "--level", "transaction", "--", "touch", "new")
    assert ran.code == 125 and "there is nothing to hold" in ran.err
    assert standing(custody) == ["old"]


LESS = """
import os, subprocess, sys
for name in ("mnt", "net", "pid", "user"):
    with open(f"/proc/sys/user/max_{name}_namespaces", "w") as file:
        file.write("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.long
def test_a_level_a_rule_demands_and_the_machine_lacks_is_a_refusal_that_names_what_is_missing(custody):
    """In a user namespace that may make no others: its bounds are its own, no other process's."""
    policy(custody, RULE + 'level = "transaction"\n')
    less = ["unshare", "--user", "--map-root-user", sys.executable, "-I", "-S", "-c", LESS]
    if subprocess.run([*less, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine makes no user namespace with bounds of its own")
    done = subprocess.run(
        [*less, *custody.command("exec", "--", "touch", "new")],
        cwd=custody.work,
        env=custody.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 125
    assert "The policy demands the level transaction" in done.stderr
    assert "this machine lacks" in done.stderr and "custody doctor" in done.stderr
    assert standing(custody) == ["old"]
