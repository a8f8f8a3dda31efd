"""One terminal asks, another answers: whatever happens in between, a yes is a person's, and used once."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
from tests.calls.desk import Desk
from tests.cli.conftest import CALM, RUN_SECONDS_MAX, Program, Ran, eventually
from tests.cli.test_approvals import until

pytestmark = pytest.mark.long

ASKS = """
[policy]
[[policy.rules]]
name = "ask-exec"
decision = "ask"
tool = "exec"
reason = "Commands are looked at."
[policy.approvals]
wait_seconds = %s
"""
PATIENT = 60
IMPATIENT = 0.2

OWN_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"

Asking = Callable[..., "subprocess.Popen[bytes]"]
Made = Callable[..., Ran]


@pytest.fixture
def desk(custody: Program) -> Iterator[Desk]:
    """Somebody who looks at the record."""
    custody.settings.write_text(CALM + ASKS % PATIENT)
    desk = Desk(os.fspath(custody.store))
    yield desk
    desk.close()


@pytest.fixture
def follower(custody: Program, desk: Desk) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """`custody approvals -f` in a terminal of its own, and that terminal."""
    master, slave = pty.openpty()
    process = custody.start("approvals", "-f", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    eventually(desk.journal.approver_listens)
    yield process, master
    os.close(master)


@pytest.fixture
def ask(custody: Program) -> Asking:
    """A command somebody else wants, without a terminal."""

    def begin(*command: str) -> "subprocess.Popen[bytes]":
        return custody.start(
            "exec", "--", *command,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return begin


@pytest.fixture
def made(custody: Program) -> Made:
    """The same, once it has ended."""

    def make(*command: str, options: Sequence[str] = ()) -> Ran:
        return custody("exec", *options, "--", *command)

    return make


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=RUN_SECONDS_MAX)
    return process.returncode, out.decode(), err.decode()


def waited(ran: Ran) -> str:
    """The call of a command nobody answered while it waited."""
    found = re.search(r"waiting for a person, call ([0-9a-f]{8}); repeat the same call", ran.err)
    assert (ran.code, ran.out) == (125, "") and found is not None, ran
    return found[1]


def passed(ran: Ran) -> bool:
    return (ran.code, ran.out) == (0, "done\n")


def asked(terminal: int) -> str:
    """The call that the follower shows next, as it says how to answer it."""
    found = re.findall(rb"custody approve ([0-9a-f]{8}) ", until(terminal, b"custody deny"))
    return found[-1].decode()  # what stands before may be words of the command


def test_a_denied_command_does_not_run_and_says_why(custody, desk, follower, ask):
    marker = custody.work / "marker"
    command = ask("touch", str(marker))
    call = asked(follower[1])

    assert custody.at_terminal("deny", call, "--reason", "not on a Friday", columns=80)

    code, out, err = ended(command)
    assert (code, out, marker.exists()) == (125, "", False)
    assert "not on a Friday" in err
    assert (custody("approvals", "--json").json["items"], custody("verify").code) == ([], 0)


def test_a_yes_that_comes_after_the_wait_lets_the_same_command_pass_once(custody, desk, follower, made):
    custody.settings.write_text(CALM + ASKS % IMPATIENT)
    call = waited(made("echo", "done"))
    assert asked(follower[1]) == call

    assert "made again" in custody.at_terminal("approve", call, columns=80, typed="y\n")

    assert waited(made("echo", "done", "more")) != call, "another argument is another question"
    assert passed(made("echo", "done"))
    assert waited(made("echo", "done")) != call, "it is used"
    assert custody("verify").code == 0


def test_whoever_dies_while_answering_has_answered_nothing(custody, desk, follower, ask, made):
    command = ask("echo", "done")
    call = asked(follower[1])
    master, slave = pty.openpty()
    dying = custody.start("approve", call, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    until(master, b"?")
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    follower[0].send_signal(signal.SIGKILL)
    follower[0].wait()
    os.close(master)

    assert command.poll() is None
    assert [one["waiting"] for one in custody("approvals", "--json").json["items"]] == [True]
    custody.at_terminal("approve", call, columns=80, typed="y\n")
    assert ended(command)[:2] == (0, "done\n")

    alone = made("echo", "done")
    assert alone.code == 125 and "nobody is there to answer" in alone.err, "whoever listened is gone"
    assert custody("verify").code == 0


def test_a_command_that_approves_its_own_question_is_refused_and_it_is_recorded(custody, desk, follower, ask):
    """An agent's command at a terminal of its own, that has left its session and emptied its environment."""
    waiting = ask("echo", "done")
    call = asked(follower[1])
    answering = ["setsid", "-w", *custody.command("approve", call, "--yes")]
    agent = ask("env", "-u", "CUSTODY_CALL", sys.executable, "-c", OWN_TERMINAL, *answering)
    custody.at_terminal("approve", asked(follower[1]), columns=80, typed="y\n")

    code, out, err = ended(agent)
    assert code == 3 and "Only a person answers" in out + err
    assert desk.index.questions.one(call).answer is None
    (refused,) = [event.data for event in desk.index.events().items if event.name == "approval.refused"]
    assert (refused["what"], refused["why"]) == ("approve", "agent")
    custody.at_terminal("deny", call, columns=80)
    assert ended(waiting)[0] == 125


def test_a_caller_that_is_killed_while_it_waits_leaves_a_question_whose_yes_is_used_once(
    custody, desk, follower, ask, made
):
    killed = ask("echo", "done")
    call = asked(follower[1])
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    custody.at_terminal("approve", call, columns=80, typed="y\n")

    assert passed(made("echo", "done"))
    assert desk.index.questions.one(call).used_by is not None
    outcome = custody("show", call, "--json").json["outcome"]
    assert (outcome, custody("verify").code) == ("rejected", 0)


def test_a_question_nobody_answered_in_time_is_closed_and_asked_anew(custody, desk, follower, made):
    custody.settings.write_text(CALM + ASKS % IMPATIENT + "open_hours = 0.0002\n")
    first = waited(made("echo", "done"))
    eventually(lambda: not custody("approvals", "--json").json["items"])

    assert "was open until" in custody.at_terminal("approve", first, columns=80, typed="y\n", code=3)
    assert waited(made("echo", "done")) != first


def test_a_yes_is_worth_nothing_in_another_session_or_under_another_policy(custody, desk, follower, made):
    custody.settings.write_text(CALM + ASKS % IMPATIENT)
    ours, theirs = ("--session", "ours"), ("--session", "theirs")
    call = waited(made("echo", "done", options=ours))
    custody.at_terminal("approve", call, columns=80, typed="y\n")

    waited(made("echo", "done", options=theirs))
    waited(made("echo", "done"))
    custody.settings.write_text(CALM + ASKS % IMPATIENT + "open_hours = 7\n")
    waited(made("echo", "done", options=ours))
    custody.settings.write_text(CALM + ASKS % IMPATIENT)
    assert passed(made("echo", "done", options=ours))


def test_a_grant_of_one_terminal_lets_calls_of_another_pass_until_it_is_revoked(
    custody, desk, follower, ask, made
):
    custody.settings.write_text(CALM + ASKS % IMPATIENT)
    call = waited(made("echo", "done"))
    custody.at_terminal("approve", call, "--max", "3", columns=80, typed="y\n")

    both = [ask("echo", "done"), ask("echo", "done")]
    assert [ended(each)[:2] for each in both] == [(0, "done\n")] * 2
    custody.at_terminal("approvals", "revoke", call, columns=80, typed="y\n")
    waited(made("echo", "done"))
    assert custody("verify").code == 0
