"""Questions are seen and answered at the command line, by people and by nobody else."""

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.calls.desk import Desk
from tests.cli.conftest import CALM, RUN_SECONDS_MAX, Program, eventually


@pytest.fixture
def desk(custody: Program) -> Iterator[Desk]:
    """A writer of the store who asks."""
    desk = Desk(os.fspath(custody.store))
    yield desk
    desk.close()


@pytest.fixture
def operator(custody: Program) -> str:
    """A token with which questions may be answered."""
    return custody("token", "create", "kim", "--role", "operator").out.strip()


def refusals(desk: Desk) -> list[dict[str, object]]:
    return [event.data for event in desk.index.events().items if event.name == "approval.refused"]


def test_what_is_open_is_listed_and_what_is_answered_is_not(custody, desk, operator):
    first, second = desk.question("rm x"), desk.question("rm y")
    desk.end(second)

    listed = custody("approvals", "--json").json["items"]
    assert [(one["call_id"], one["waiting"]) for one in listed] == [
        (first.call_id.hex(), True),
        (second.call_id.hex(), False),
    ]
    table = custody("approvals").out
    assert "ask-before-rm" in table and '{"line":"rm x"}' in table and first.call_id.hex()[:8] in table

    custody("deny", first.call_id.hex()[:6], "--token", operator)
    assert [one["call_id"] for one in custody("approvals", "--json").json["items"]] == [second.call_id.hex()]


def test_an_operators_token_answers_where_there_is_no_terminal(custody, desk, operator):
    question, other = desk.question(), desk.question("rm y")

    ran = custody("approve", question.call_id.hex()[:8], CUSTODY_TOKEN=operator)
    assert (ran.code, ran.err) == (0, "") and "goes on" in ran.out
    ran = custody("deny", other.call_id.hex(), "--reason", "not today", "--json", "--token", operator)
    assert (ran.json["verdict"], ran.json["person"], ran.json["reason"]) == (
        "deny", "operator kim", "not today",
    )  # fmt: skip
    yes, no = (desk.index.questions.one(one.call_id.hex()).answer for one in (question, other))
    assert (yes.decision.verdict, yes.person) == ("allow", "operator kim")
    assert (no.decision.verdict, no.decision.by, no.decision.reason) == ("deny", "person", "not today")


def test_nobody_answers_without_a_terminal_or_an_operators_token(custody, desk):
    question = desk.question()
    agent = custody("token", "create", "ada", "--agent", "ada").out.strip()
    call = question.call_id.hex()

    ran = custody("approve", call, "--yes")
    assert (ran.code, ran.out) == (3, "") and "at a terminal" in ran.err and "--role operator" in ran.err
    assert custody("approve", call, "--token", agent).code == 3
    assert custody("deny", call, "--token", "nobody's").code == 3
    assert desk.index.questions.one(call).answer is None
    assert refusals(desk) == [
        {"what": "deny", "why": "token"},
        {"what": "approve", "why": "token", "token": "ada"},
        {"what": "approve", "why": "terminal"},
    ]


def test_a_command_of_a_recorded_call_answers_nothing_even_with_a_token(custody, desk, operator):
    question = desk.question()
    command = custody.command("approve", question.call_id.hex(), "--yes", "--token", operator)

    ran = custody("exec", "--", *command)

    assert ran.code == 3 and "Only a person answers" in ran.err
    assert desk.index.questions.one(question.call_id.hex()).answer is None
    (made,) = [call for call in desk.index.calls().items if call.tool == "exec"]
    assert refusals(desk) == [{"what": "approve", "why": "agent", "by_call": made.id}]


def test_what_cannot_be_answered_is_said_and_recorded(custody, desk, operator):
    answered, used = desk.question(), desk.question("rm y")
    expired = desk.question("rm z", hours=-1)
    desk.say(answered)
    desk.say(used)
    desk.end(used)
    assert desk.use(desk.again("rm y"))

    said = [
        (ran.code, ran.err)
        for call in ("ffff", answered.call_id.hex(), used.call_id.hex(), expired.call_id.hex())
        for ran in [custody("approve", call, "--token", operator)]
    ]

    assert [code for code, _ in said] == [2, 3, 3, 3]
    words = ("Nobody was asked", "before", "has used it", "was open until")
    assert all(word in text for (_, text), word in zip(said, words, strict=True))
    assert [one["why"] for one in refusals(desk)] == ["expired", "used", "answered", "not_found"]


@pytest.mark.long
def test_a_grant_is_given_listed_and_revoked(custody, desk, operator):
    question = desk.question()
    call = question.call_id.hex()

    ran = custody("approve", call, "--for", "2h", "--max", "3", "--token", operator)
    assert ran.code == 0 and f"custody approvals revoke {call[:8]}" in ran.out
    (grant,) = custody("approvals", "grants", "--json").json["items"]
    assert (grant["call_id"], grant["calls_max"], grant["by"]) == (call, 3, "operator kim")
    assert "0 of 3" in custody("approvals", "grants").out
    assert custody("approvals", "revoke", call[:8]).code == 3, "whoever may not answer revokes nothing"
    assert custody("approvals", "revoke", call[:8], "--token", operator).code == 0
    assert custody("approvals", "grants", "--json").json["items"] == []
    assert "revoked by operator kim" in custody("approvals", "grants", "--all").out


@pytest.mark.long
def test_a_grant_has_its_bounds(custody, desk, operator):
    question = desk.question(standing=False)
    call = question.call_id.hex()

    assert custody("approve", call, "--for", "0", "--token", operator).code == 2
    assert custody("approve", call, "--for", "30d", "--token", operator).code == 2
    assert custody("approve", call, "--max", "2", "--token", operator).code == 3, "this one by one alone"
    assert desk.index.questions.one(call).answer is None


@pytest.mark.long
def test_a_person_sees_all_that_is_bound_before_saying_yes(custody, desk):
    call = desk.question("echo \x1b[2J\n" + "a" * 70 + "; rm -rf x").call_id.hex()

    out = custody.at_terminal("approve", call[:8], columns=80, typed="y\n")

    assert "| echo \\x1b[2J" in out and "| " + "a" * 70 + "; rm -rf x" in out
    assert "in: /w" in out and "session: s" in out and "rule ask-before-rm: it removes files" in out
    assert "Allowed" in out
    answer = desk.index.questions.one(call).answer
    assert answer.decision.verdict == "allow" and answer.person


@pytest.mark.long
def test_nobody_is_asked_for_a_yes_that_cannot_be_given(custody, desk):
    question = desk.question()
    desk.say(question)

    out = custody.at_terminal("approve", question.call_id.hex(), columns=80, typed="n\n", code=3)

    assert "before; that stands" in out and "Allow exactly this" not in out


@pytest.mark.long
def test_a_person_may_leave_it(custody, desk):
    call = desk.question().call_id.hex()

    assert "still open" in custody.at_terminal("approve", call[:8], columns=80, typed="n\n", code=1)
    assert desk.index.questions.one(call).answer is None


@pytest.mark.long
def test_who_follows_is_somebody_who_listens_and_sees_each_question(custody, desk):
    master, slave = pty.openpty()
    process = custody.start("approvals", "-f", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    eventually(desk.journal.approver_listens)
    question = desk.question()

    shown = until(master, b"custody approve")
    process.terminate()
    process.wait(RUN_SECONDS_MAX)
    os.close(master)

    assert b"ada asks: shell (write), call " + question.call_id.hex()[:8].encode() in shown
    assert not desk.journal.approver_listens(), "the kernel drops what a process held"


@pytest.mark.long
def test_who_may_not_answer_may_look_and_no_call_waits_for_them(custody, desk):
    process = custody.start("approvals", "-f", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    desk.question()

    assert b'"tool":"shell"' in process.stdout.readline()
    assert not desk.journal.approver_listens()
    process.terminate()
    _, err = process.communicate(timeout=RUN_SECONDS_MAX)
    assert b"no call waits for you" in err


# -- the prompt -------------------------------------------------------------------------------------------

PROMPTED = """
import asyncio
from custody.calls.questions import Question
from custody.cli.prompting import terminal_prompt
from custody.sandbox import Control
from custody.sandbox.terminal import Terminal

async def main():
    control = Control()
    async with Terminal(control) as terminal:
        prompt = terminal_prompt(terminal.aside)
        for number in range(8):
            question = Question(
                call_id=bytes(8), tool="exec", effect="write", summary="", reason="it matters", rule="r",
                digest="", session_id=None, agent=None, run_id=None, asked_at_us=0, open_until_us=1,
                standing_allowed=number != 2, shown={"argv": ["git", "push"]},
            )
            said = await prompt(question)
            standing = None if said.standing is None else said.standing.calls_max
            print(f"<{said.verdict} {said.reason!r} {standing} {said.by}>", flush=True)
        print("type", flush=True)
        while not control.input_pending_bytes:
            await asyncio.sleep(0)
        print(f"<the command gets {bytes(control._input)}>", flush=True)

asyncio.run(main())
"""
AGAIN = b"eason for a no: "
ANSWERS = (
    (AGAIN, b"y\n"),
    (AGAIN, b"a\n"),
    (AGAIN, b"always\n"), (AGAIN, b"no\n"),  # there is no always for this one
    (AGAIN, b"r\n"), (b"Why not? ", b"because of that\n"),
    (AGAIN, b"half\x03"),
    (AGAIN, b"\x04"),
    (AGAIN, b"\n"),
    (AGAIN, b"?\n"), (AGAIN, b"YES\n"),
)  # fmt: skip
"""What is waited for, and what is typed then."""


def test_a_question_at_the_terminal_has_four_answers_and_silence_is_none_of_them(custody):
    master, slave = pty.openpty()
    os.write(master, b"y\n")  # typed before anything was asked
    process = subprocess.Popen(
        [sys.executable, "-c", PROMPTED],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=custody.work,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    for end, typed in ANSWERS:
        shown += until(master, end)
        os.write(master, typed)
    shown += until(master, b"type")
    os.write(master, b"z")
    shown += until(master, b"gets b'z'>")
    os.close(master)
    process.wait(RUN_SECONDS_MAX)

    said = [line for line in shown.decode().replace("\r", "").split("\n") if line.startswith("<")]
    assert said == [
        "<allow '' None person>",
        "<allow '' 20 person>",
        "<deny '' None person>",
        "<deny 'because of that' None person>",
        "<deny '' None person>",
        "<deny '' None person>",
        "<deny '' None person>",
        "<allow '' None person>",
        "<the command gets b'z'>",
    ]
    assert b"git push" in shown and b"rule r: it matters" in shown


ASKING = """
[policy]
[[policy.rules]]
name = "ask-exec"
decision = "ask"
tool = "exec"
reason = "Commands are looked at."
"""


def at_a_terminal(custody, *arguments: str, typed: bytes) -> tuple[int, str]:
    """The program at a terminal where somebody answers the one question it has."""
    master, slave = pty.openpty()
    process = custody.start(*arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown = until(master, AGAIN)
    os.write(master, typed)
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # nobody has the terminal open any more
            break
        shown += data
    os.close(master)
    return process.wait(RUN_SECONDS_MAX), shown.decode().replace("\r", "")


@pytest.mark.long
def test_a_command_that_asks_is_let_pass_at_its_own_terminal(custody):
    custody.settings.write_text(CALM + ASKING)

    code, shown = at_a_terminal(custody, "exec", "--", "echo", "out", "there", typed=b"y\n")

    assert code == 0 and shown.endswith("eason for a no: y\nout there\n")
    assert "  echo out there\n" in shown and "rule ask-exec: Commands are looked at." in shown


@pytest.mark.long
def test_a_command_refused_at_its_own_terminal_does_not_run(custody):
    custody.settings.write_text(CALM + ASKING)
    marker = custody.work / "marker"

    code, shown = at_a_terminal(custody, "exec", "--", "touch", str(marker), typed=b"\x03")

    assert (code, marker.exists()) == (125, False)
    assert "refused by a person" in shown


@pytest.mark.long
def test_a_command_at_a_terminal_of_its_own_is_still_nobody_to_ask(custody):
    """Or an agent could make itself a terminal, and answer itself."""
    custody.settings.write_text(CALM + ASKING)
    inner = custody.command("exec", "--", "echo", "inner")

    code, shown = at_a_terminal(custody, "exec", "--", *inner, typed=b"y\n")

    assert code == 125 and "nobody is there to answer" in shown and shown.count("Allow it?") == 1


@pytest.mark.long
def test_two_terminals_one_asks_and_the_other_answers(custody):
    custody.settings.write_text(CALM + ASKING)
    custody("init")
    master, slave = pty.openpty()
    custody.start("approvals", "-f", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    desk = Desk(os.fspath(custody.store))
    eventually(desk.journal.approver_listens)
    desk.close()
    command = custody.start("exec", "--", "echo", "done", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    call = re.search(rb"custody approve ([0-9a-f]{8})", until(master, b"custody deny"))[1].decode()
    custody.at_terminal("approve", call, columns=80, typed="y\n")

    assert command.communicate(timeout=RUN_SECONDS_MAX)[0] == b"done\n"
    os.close(master)


def until(descriptor: int, end: bytes) -> bytes:
    """What comes until this does; what comes behind it is left to who reads next."""
    data = b""
    while not data.endswith(end):
        assert select.select([descriptor], [], [], RUN_SECONDS_MAX)[0], data
        try:
            data += os.read(descriptor, 1)
        except OSError:
            raise AssertionError(data) from None
    return data
