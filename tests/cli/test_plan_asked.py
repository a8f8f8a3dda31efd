"""Whoever sits at the terminal a plan is run at is asked: about an action that a rule asks about, and about
one that began in an earlier run and nobody knows how it ended."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest
from tests.cli.conftest import CALM, RUN_SECONDS_MAX, Program, eventually
from tests.cli.test_approvals import ASKING, at_a_terminal, until
from tests.plans.stepped import in_a_store, of, plan, step, stepped
from tests.plans.test_stepping_failures import Behaviour, act

from custody.cli.plan_deciding import decided, question_about
from custody.index import EventFilter

PLAN = {
    "id": "two",
    "actions": [
        {"id": "look", "tool": "file_list", "arguments": {"path": "."}},
        {"id": "make", "depends_on": ["look"], "tool": "exec", "arguments": {"argv": ["touch", "made"]}},
    ],
}


@pytest.mark.long
@pytest.mark.parametrize(("typed", "code", "made"), [(b"y\n", 0, True), (b"n\n", 3, False)])
def test_a_plan_waits_for_the_answer_and_goes_on_with_it(custody, typed, code, made):
    custody.settings.write_text(CALM + ASKING)
    (custody.work / "plan.json").write_text(json.dumps(PLAN))

    ended, shown = at_a_terminal(custody, "plan", "run", "plan.json", typed=typed)

    assert (ended, os.path.exists(custody.work / "made")) == (code, made)
    assert "  touch made\n" in shown and "rule ask-exec: Commands are looked at." in shown


# -- what nobody knows the end of -------------------------------------------------------------------------

END = b"[s]top: "

CHOOSING = """
import asyncio, contextlib
from custody.cli.plan_deciding import ASK, WORDS
from custody.cli.prompting import terminal_choice
from custody.index import Index
from custody.journal import Journal, MemoryDisk

async def main():
    journal = Journal(MemoryDisk())
    choice = terminal_choice(contextlib.nullcontext, lambda: Index(None, journal))
    for _ in range(8):
        print(f"<{await choice(['what it is about'], ASK, WORDS)}>", flush=True)

asyncio.run(main())
"""
SAID = (
    ((b"r\n",), "retry"),
    ((b"DONE\n",), "done"),
    ((b"s\n",), "stop"),
    ((b"\n",), "None"),
    ((b"half\x03",), "None"),
    ((b"\x04",), "None"),
    ((b"?\n", b"d\n"), "done"),
    ((b"yes\n", b"y\n", b"ok\n"), "None"),
)
"""What is typed at one question, each behind the words that ask, and what it means."""


@pytest.mark.long
def test_only_a_clear_word_decides_and_everything_else_stops(custody: Program):
    master, slave = pty.openpty()
    os.write(master, b"r\n")  # typed before anything was asked
    process = subprocess.Popen(
        [sys.executable, "-c", CHOOSING],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=custody.work,
    )  # fmt: skip
    os.close(slave)
    for lines, meant in SAID:
        for line in lines:
            assert b"what it is about" in (shown := until(master, END)) or line is not lines[0], shown
            os.write(master, line)
        until(master, f"<{meant}>".encode())
    os.close(master)
    process.wait(RUN_SECONDS_MAX)


def test_what_is_asked_has_the_call_as_it_is_on_the_record_and_without_a_terminal_nobody_is_asked():
    behaviour = Behaviour()
    behaviour.lost = {"hunter\x1b[2J"}
    read = plan(act("a"), step("b", "a", tool="act", arguments={"text": "hunter\x1b[2J"}))

    async def work(runtime: Any) -> None:
        await stepped(runtime, read)
        still = await stepped(runtime, read)
        assert await decided(still, contextlib.nullcontext, lambda: runtime.index) is None
        call = await asyncio.to_thread(runtime.index.call, of(still, "b").call_ids[-1])
        first, *lines = question_about("b", call)
        assert first == f"Action b began, and nobody knows how it ended: act, call {call.id[:8]}"
        assert lines[0] == "  text: hunter\\x1b[2J"
        assert lines[1].startswith("  began: 2") and lines[2].startswith(f"  custody show {call.id[:8]}")

    in_a_store(work, behaviour.tool())


def test_a_person_who_was_asked_is_on_the_record_with_what_was_decided():
    behaviour = Behaviour()
    behaviour.lost = {"b"}
    read = plan(act("a"), act("b", "a"))

    async def work(runtime: Any) -> None:
        await stepped(runtime, read)
        last = await stepped(runtime, read, done=["b"], caller="ada", person="kim")
        (said,) = runtime.index.events(EventFilter(name="plan.decided")).items
        assert said.data == {"action_id": "b", "as": "done", "who": "ada", "person": "kim"}
        assert said.run_id == last.run_id, "though nothing was left to be begun"
        assert (await stepped(runtime, read)).state == "complete"

    in_a_store(work, behaviour.tool())


CUT = "test -e begun || { touch begun; sleep 60; }; echo x >> again"


def killed(custody: Program) -> None:
    """A plan of three whose second action has begun when its program is killed."""
    sh = {"tool": "shell", "arguments": {"command": "echo x >> first"}}
    actions = [
        {"id": "first", **sh},
        {"id": "second", "depends_on": ["first"], "tool": "shell", "arguments": {"command": CUT}},
        {"id": "third", "depends_on": ["second"], **sh},
    ]
    (custody.work / "p.json").write_text(json.dumps({"id": "p", "actions": actions}))
    process = custody.start("plan", "run", "p.json", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually((custody.work / "begun").exists)
    process.send_signal(signal.SIGKILL)
    process.wait(RUN_SECONDS_MAX)


def run_at_a_terminal(custody: Program, *arguments: str, typed: bytes) -> tuple[int, str]:
    """The exit code, and all that the terminal shows; somebody types as soon as they are asked."""
    master, slave = pty.openpty()
    process = custody.start(
        "plan", "run", "p.json", *arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    shown = b""
    if typed:
        shown += until(master, END)
        os.write(master, typed)
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:  # nobody has the terminal open any more
            break
    os.close(master)
    return process.wait(RUN_SECONDS_MAX), shown.decode().replace("\r", "")


@pytest.mark.long
@pytest.mark.parametrize(
    ("typed", "code", "first", "again", "meant"),
    [
        (b"r\n", 0, "x\nx\n", True, "retry"),
        (b"d\n", 0, "x\nx\n", False, "done"),
        (b"\n", 6, "x\n", False, None),
        (b"\x03", 6, "x\n", False, None),
    ],
    ids=["again", "done", "silence", "Ctrl-C"],
)
def test_who_goes_on_with_a_killed_plan_is_asked_what_became_of_the_action(
    custody: Program, typed: bytes, code: int, first: str, again: bool, meant: str | None
):
    killed(custody)

    ended, shown = run_at_a_terminal(custody, typed=typed)

    assert ended == code, shown
    assert "Action second began, and nobody knows how it ended: shell, call " in shown
    assert f"  command: {CUT}\n" in shown and "  began: 2" in shown
    assert (custody.work / "first").read_text() == first
    assert (custody.work / "again").exists() is again
    assert ("--done second" in shown) is (meant is None), "what to type is said where it stays stopped"
    with custody.recording() as runtime:
        said = [event.data for event in runtime.index.events(name="plan.decided").items]
    assert [(one["action_id"], one["as"]) for one in said] == ([("second", meant)] if meant else [])
    assert all(one["person"] for one in said)


@pytest.mark.long
def test_json_and_what_was_decided_on_the_command_line_ask_nobody(custody: Program):
    killed(custody)
    code, shown = run_at_a_terminal(custody, "--json", typed=b"")
    assert code == 6 and END.decode() not in shown
    assert json.loads(shown)["state"] == "blocked"
    code, shown = run_at_a_terminal(custody, "--done", "second", typed=b"")
    assert code == 0 and END.decode() not in shown
