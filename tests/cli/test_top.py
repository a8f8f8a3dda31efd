"""`custody top` at a real terminal: what it shows, what its keys do, and how it leaves the terminal."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.calls.desk import Desk
from tests.cli.conftest import RUN_SECONDS_MAX, Program, eventually

from custody.cli.top import SETTLED_SECONDS
from custody.cli.top_frame import frame
from custody.cli.top_look import Look, Looker
from custody.settings import load_settings
from custody.stores import open_view

HOME, SECOND_SCREEN, FIRST_SCREEN = "\x1b[H", "\x1b[?1049h", "\x1b[?1049l"
END = "\x1b[?25l"  # of a frame
STYLE = re.compile(r"\x1b\[[\d;]*m")
OTHER = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


@pytest.fixture
def desk(custody: Program) -> Iterator[Desk]:
    """A writer of the store who asks."""
    desk = Desk(os.fspath(custody.store))
    yield desk
    desk.close()


class Terminal:
    """One on which somebody watches."""

    def __init__(
        self, custody: Program, command: Sequence[str], *, columns: int = 100, lines: int = 30, **more: str
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            command,
            cwd=custody.work, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            env={**custody.environment, "TERM": "xterm-256color", "PYTHONUTF8": "1", **more},
        )  # fmt: skip
        self.output = ""
        self.log = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        """What has come, at least something of it; all of it from the beginning."""
        assert select.select([self.master], [], [], RUN_SECONDS_MAX)[0], self.output
        self._take()
        return self.output

    def _take(self) -> None:
        data = self._decoder.decode(os.read(self.master, 65536))
        self.output += data
        self.log += data

    def frame(self) -> list[str]:
        """The last whole frame's lines, without styles."""
        whole = self.output.split(HOME)
        text = whole[-1] if END in whole[-1] else whole[-2] if len(whole) > 2 else ""
        return [line.rstrip() for line in OTHER.sub("", STYLE.sub("", text)).split("\r\n")]

    def until(self, text: str) -> str:
        """The frame, once it has this in it, and every frame before it is forgotten."""
        self.output = HOME.join(self.output.split(HOME)[-1:])
        while text not in "\n".join(self.frame()):
            self.read()
        return "\n".join(self.frame())

    def until_said(self, text: str) -> None:
        while text not in self.output:
            self.read()

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def press(self, key: str, said: str) -> None:
        """A key that answers the question that is shown, and what it says then. Pressed once, when it counts:
        a second one on its way would be an answer to whatever is asked next."""
        counts_at = time.monotonic() + SETTLED_SECONDS
        while (left := counts_at - time.monotonic()) > 0:
            if select.select([self.master], [], [], left)[0]:
                self._take()
        self.output = ""
        self.type(key)
        self.until_said(said)

    def ended(self) -> int:
        """Its exit code, once all it said has been read."""
        while self.process.poll() is None:
            if select.select([self.master], [], [], 0.02)[0]:
                self._take()
        while select.select([self.master], [], [], 0)[0]:
            self._take()
        return self.process.returncode

    def is_as_before(self) -> bool:
        shown, hidden = self.log.rfind(SECOND_SCREEN), self.log.rfind(FIRST_SCREEN)
        return termios.tcgetattr(self.slave) == self.before and -1 < shown < hidden

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(RUN_SECONDS_MAX)
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def watching(custody: Program, *before: str, change: str = "", **options: Any) -> Iterator[Terminal]:
    """`before` is a command that starts it, `change` what is changed in it."""
    words = ("top", "--interval", "100ms")
    command = custody.altered(change, *words) if change else custody.command(*words)
    terminal = Terminal(custody, [*before, *command], **options)
    try:
        yield terminal
    finally:
        terminal.close()


# -- one look -------------------------------------------------------------------------------------------


def test_one_frame_for_a_script(custody: Program, desk: Desk):
    with custody.recording() as runtime, runtime.run("tidy the shelf", agent="ada") as run:
        with run.observe("search", {"q": "shoes"}) as call:
            call.result = [1]
        question = desk.question("rm -r shelf")
        ran = custody("top", "--once")
    assert (ran.code, "\x1b" in ran.out) == (0, False)
    assert "1 question" in ran.out and question.call_id.hex()[:8] in ran.out
    assert "tidy the shelf" in ran.out and 'search {"q":"shoes"}' in ran.out
    assert re.search(r"\d+ records  2 shards, 2 being written  0 lost in a day", ran.out)


def test_without_a_terminal_there_is_one_frame(custody: Program, desk: Desk):
    desk.question()
    ran = custody("top")
    assert (ran.code, ran.out.count("1 question")) == (0, 1)


def test_json_is_one_document(custody: Program, desk: Desk):
    question = desk.question()
    said = custody("top", "--json").json
    assert set(said) == {"at", "store", "daemon", "questions", "runs", "calls", "pressure", "recorder"}
    assert [one["call_id"] for one in said["questions"]] == [question.call_id.hex()]
    assert (said["daemon"], said["recorder"]["lost_last_day"]) == (None, 0)
    assert said["recorder"]["records_per_second"] is None
    assert {reading["name"] for reading in said["pressure"]["readings"]} >= {"memory", "disk_free_bytes"}


@pytest.mark.parametrize("interval", ["0", "none", "2d"])
def test_an_interval_has_bounds(custody: Program, desk: Desk, interval: str):
    desk.question()
    ran = custody("top", "--interval", interval, "--json")
    assert (ran.code, ran.json["error"]["type"]) == (2, "UsageError")


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """A store with more than a screen shows, some of it wide and some of it steering terminals."""
    store = os.fspath(tmp_path_factory.mktemp("look") / "store")
    desk = Desk(store)
    for number in range(12):
        desk.question(f"rm {number} 写作 \x1b[31m {'x' * 200}")
    with open_view(load_settings(store=store)) as view:
        found = Looker(load_settings(store=store), view).look()
    desk.close()
    return found


@settings(deadline=None, max_examples=40)
@given(width=st.integers(1, 200), height=st.integers(1, 80), chosen=st.integers(0, 11))
def test_a_frame_fits_every_terminal(look: Look, width: int, height: int, chosen: int):
    selected = look.questions[chosen].call_id
    lines = frame(look, width, height, selected=selected, notes=["a note", "y yes   n no"])
    assert len(lines) <= height
    for line in lines:
        text = "".join(part for part, _ in line)
        assert cell_len(text) <= width
        assert "\x1b" not in text
    if height >= 24 and width >= 20:
        shown = ["".join(part for part, _ in line) for line in lines]
        assert any(text.startswith("▸") and selected[:8] in text for text in shown)
        assert any("not shown" in text or len(text) >= width - 12 for text in shown)


# -- watching -------------------------------------------------------------------------------------------


def test_what_happens_meanwhile_is_shown_and_q_leaves_the_terminal_as_it_was(custody: Program, desk: Desk):
    with watching(custody) as terminal:
        assert "no question is open" in terminal.until("q quit")
        question = desk.question("rm -r shelf")
        assert "▸" in terminal.until(question.call_id.hex()[:8])
        assert "y yes" in terminal.until("waits")
        assert desk.journal.approver_listens()
        terminal.type("q")
        assert (terminal.ended(), terminal.is_as_before()) == (0, True)
    assert not desk.journal.approver_listens()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_the_terminal_as_it_was(custody: Program, desk: Desk, number: int, code: int):
    desk.question()
    with watching(custody) as terminal:
        terminal.until("1 question")
        terminal.process.send_signal(number)
        assert (terminal.ended(), terminal.is_as_before()) == (code, True)


DEFECT = """
from custody.cli.top_screen import Screen
with Screen() as screen:
    screen.draw([[("drawn", "bold")]])
    screen.key(60)
    raise RuntimeError("a defect")
"""


def test_a_defect_leaves_the_terminal_as_it_was(custody: Program):
    terminal = Terminal(custody, [sys.executable, "-c", DEFECT])
    terminal.until("drawn")
    assert termios.tcgetattr(terminal.slave) != terminal.before
    terminal.type("x")
    assert (terminal.ended(), terminal.is_as_before()) == (1, True)
    assert "RuntimeError: a defect" in terminal.log.partition(FIRST_SCREEN)[2]
    terminal.close()


def test_it_follows_the_size_of_its_terminal_down_to_forty_columns(custody: Program, desk: Desk):
    desk.question("x" * 300)
    with watching(custody, columns=120) as terminal:
        terminal.until("1 question")
        terminal.resize(40, 20)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        terminal.until("…")

        def is_narrow_and_whole(shown: list[str]) -> bool:
            """With the question that is chosen: what has been read so far may be half of a frame."""
            return max(map(cell_len, shown)) <= 40 and any(line.startswith("▸") for line in shown)

        while not is_narrow_and_whole(shown := terminal.frame()):
            terminal.read()
        assert len(shown) <= 20
        terminal.type("q")
        assert terminal.ended() == 0


def test_no_color_is_no_color(custody: Program, desk: Desk):
    desk.question()
    with watching(custody, NO_COLOR="1") as terminal:
        terminal.until("1 question")
        terminal.type("q")
        terminal.ended()
        assert not re.search(r"\x1b\[(3|4|9|10)\d[;m]", terminal.output)


AS_A_SHELL = """
import subprocess, sys
job = subprocess.Popen(sys.argv[1:], process_group=0)
print("job", job.pid, flush=True)
sys.exit(job.wait())
"""
"""Starts it in a process group of its own, as a shell does that can stop it."""


def test_ctrl_z_gives_the_terminal_back_and_fg_goes_on(custody: Program, desk: Desk):
    desk.question()
    with watching(custody, sys.executable, "-c", AS_A_SHELL) as terminal:
        while not re.search(r"job \d+\r\n", terminal.output):
            terminal.read()
        terminal.until_said("1 question")
        found = re.search(r"job (\d+)\r\n", terminal.output)
        assert found is not None
        pid = int(found[1])
        os.kill(pid, signal.SIGTSTP)
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T"))
        terminal.until_said(FIRST_SCREEN)
        assert termios.tcgetattr(terminal.slave) == terminal.before
        terminal.output = ""
        os.kill(pid, signal.SIGCONT)
        terminal.until_said("1 question")
        terminal.type("q")
        assert (terminal.ended(), terminal.is_as_before()) == (0, True)


# -- answering ------------------------------------------------------------------------------------------


def answer_to(desk: Desk, question: Any) -> Any:
    return desk.index.questions.one(question.call_id.hex()).answer


def test_y_shows_all_of_the_question_and_a_clear_yes_allows_it(custody: Program, desk: Desk):
    long = "rm " + " ".join(f"file-{number}" for number in range(60))
    question = desk.question(long)
    with watching(custody, columns=60) as terminal:
        terminal.until(question.call_id.hex()[:8])
        terminal.press("y", "[y/N]")
        assert long in terminal.output.replace("\r\n", "")
        assert answer_to(desk, question) is None
        terminal.type("y\n")
        terminal.until("Allowed: call")
        given = answer_to(desk, question)
        assert (given.decision.verdict, given.decision.by) == ("allow", "person")
        terminal.type("q")
        assert (terminal.ended(), terminal.is_as_before()) == (0, True)


def test_whatever_is_no_clear_yes_answers_nothing(custody: Program, desk: Desk):
    question = desk.question()
    with watching(custody) as terminal:
        terminal.until(question.call_id.hex()[:8])
        terminal.press("y", "[y/N]")
        terminal.type("\n")
        terminal.until("is still open")
        assert answer_to(desk, question) is None
        terminal.type("q")
        terminal.ended()


def test_n_denies_the_one_that_is_chosen(custody: Program, desk: Desk):
    first, second = desk.question("rm first"), desk.question("rm second")
    with watching(custody) as terminal:
        terminal.until("2 questions")
        terminal.type("j")
        terminal.until(f"▸ {second.call_id.hex()[:8]}")
        terminal.press("n", "Denied: call")
        assert answer_to(desk, second).decision.verdict == "deny"
        assert answer_to(desk, first) is None
        terminal.type("q")
        terminal.ended()


def test_a_key_typed_for_a_question_that_is_gone_does_not_answer_the_next(custody: Program, desk: Desk):
    first, second = desk.question("rm first"), desk.question("rm second")
    patient = "from custody.cli import top\ntop.SETTLED_SECONDS = 300.0"  # however late the key comes
    with watching(custody, change=patient) as terminal:
        terminal.until("2 questions")
        desk.say(first, "deny")
        terminal.until(f"▸ {second.call_id.hex()[:8]}")
        terminal.type("n")
        terminal.until("press again")
        assert answer_to(desk, second) is None
        terminal.type("q")
        terminal.ended()


@pytest.mark.long
def test_nobody_answers_from_inside_a_recorded_call(custody: Program, desk: Desk):
    question = desk.question()
    with watching(custody, *custody.command("exec", "--"), columns=300) as terminal:
        terminal.until("Only a person answers")
        assert not desk.journal.approver_listens()
        terminal.press("n", "Type it in a terminal that no recorded call")
        assert answer_to(desk, question) is None
        refused = [event.data for event in desk.index.events(name="approval.refused").items]
        assert [(data["what"], data["why"]) for data in refused] == [("deny", "agent")]
        terminal.type("q")
        assert terminal.ended() == 0
