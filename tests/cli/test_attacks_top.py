"""`custody top` where things go wrong: terminals of any size or of none, signals in bad moments, a store that
goes, and keys that must never answer what nobody has seen."""

import os
import pty
import select
import shutil
import signal
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from tests.bridges.spans_told import Trace, receiving
from tests.calls.desk import Desk
from tests.cli.conftest import Program, eventually
from tests.cli.test_top import FIRST_SCREEN, HOME, SECOND_SCREEN, Terminal, answer_to, watching

from custody.cli.top_frame import frame, shows_chosen
from custody.cli.top_look import RUNS_MAX, Look, Looker
from custody.index.database import Database
from custody.settings import load_settings
from custody.stores import open_view

WRITE = {"x86_64": 1, "aarch64": 64}.get(os.uname().machine)
"""The number of the system call."""

SYSCALL = Path("/proc/self/syscall")


@pytest.fixture
def desk(custody: Program) -> Iterator[Desk]:
    desk = Desk(os.fspath(custody.store))
    yield desk
    desk.close()


def quits(terminal: Terminal) -> bool:
    terminal.type("q")
    return terminal.ended() == 0 and terminal.is_as_before()


# -- sizes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Questions whose words try to steer the terminal."""
    store = os.fspath(tmp_path_factory.mktemp("look") / "store")
    desk = Desk(store)
    for text in ("\x1b[2J\x07", "\u202eexe.txt", "a\nb\r\x00", "写" * 90, "\u200b\u2066x", "e\u0301" * 50):
        desk.question(f"rm {text}")
    with open_view(load_settings(store=store)) as view:
        found = Looker(load_settings(store=store), view).look()
    desk.close()
    return found


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (2, 2), (5, 3), (20, 5), (40, 3), (80, 10), (500, 200), (1, 200), (500, 1)]
)
def test_no_size_makes_a_line_too_long_or_lets_a_word_steer_the_terminal(look: Look, width: int, height: int):
    lines = frame(look, width, height, selected=look.questions[-1].call_id, notes=["trouble", "note", "keys"])
    assert len(lines) <= height
    for line in lines:
        text = "".join(part for part, _ in line)
        assert cell_len(text) <= width
        assert text.isprintable()


@pytest.mark.parametrize("chosen", [0, 3, 5])
@pytest.mark.parametrize(("width", "height"), [(30, 3), (30, 5), (40, 8), (80, 6)])
def test_the_chosen_question_is_the_last_thing_to_be_left_out(
    look: Look, width: int, height: int, chosen: int
):
    selected = look.questions[chosen].call_id
    assert shows_chosen(frame(look, width, height, selected=selected, notes=["keys"]), selected)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 24), (80, 1), (80, 2)])
def test_a_frame_without_room_for_it_does_not_count_as_seen(look: Look, width: int, height: int):
    selected = look.questions[0].call_id
    assert not shows_chosen(frame(look, width, height, selected=selected, notes=["keys"]), selected)
    assert not shows_chosen(frame(look, 80, 24, selected=look.questions[1].call_id), selected)


@pytest.mark.parametrize("key", ["n", "y"])
def test_no_key_answers_a_question_that_is_not_on_the_screen(custody: Program, desk: Desk, key: str):
    question = desk.question("rm -r shelf")
    with watching(custody, columns=90, lines=2) as terminal:
        terminal.until("q quit")
        terminal.type(key)
        terminal.until_said("no room to show that question")
        assert answer_to(desk, question) is None
        terminal.resize(90, 20)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        terminal.until("rm -r shelf")
        terminal.press("n", "Denied: call")
        assert quits(terminal)


def test_a_storm_of_sizes_leaves_a_frame_of_the_last(custody: Program, desk: Desk):
    desk.question("x" * 300)
    with watching(custody) as terminal:
        terminal.until("1 question")
        for number in range(60):
            terminal.resize(1 + number * 37 % 190, 1 + number * 13 % 70)
            os.killpg(terminal.process.pid, signal.SIGWINCH)
            if select.select([terminal.master], [], [], 0)[0]:
                terminal.read()
        terminal.resize(44, 12)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        while not (max(map(cell_len, shown := terminal.frame())) == 44 and len(shown) == 12):
            terminal.read()
        assert quits(terminal)


def test_a_line_as_wide_as_the_terminal_keeps_its_last_character(custody: Program, desk: Desk):
    """Behind a full line the cursor is still on the last character, and to clear from there takes it."""
    desk.question("x" * 300)
    with watching(custody, columns=60) as terminal:
        terminal.until("1 question")
        before = terminal.log.split("\x1b[K")[:-1]
        assert before
        assert all(text.endswith((HOME, "\n")) for text in before)
        assert quits(terminal)


def held_up(terminal: Terminal) -> None:
    """Returns once it waits in a write that its terminal does not take."""
    place = Path(f"/proc/{terminal.process.pid}/syscall")
    eventually(lambda: place.read_text().startswith(f"{WRITE} 0x1 "))


# -- ends ---------------------------------------------------------------------------------------------------


def test_many_signals_at_once_leave_the_terminal_as_it_was(custody: Program, desk: Desk):
    desk.question()
    with watching(custody) as terminal:
        terminal.until("1 question")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGINT) * 4:
            if terminal.process.poll() is None:
                terminal.process.send_signal(number)
        assert terminal.ended() in (0, 129, 130, 143, -1, -2, -15)
        assert terminal.is_as_before()


@pytest.mark.skipif(
    WRITE is None or not SYSCALL.exists(), reason="/proc does not say here which system call a process is in"
)
def test_a_terminal_that_takes_nothing_does_not_keep_it_from_ending(custody: Program, desk: Desk):
    """Somebody has pressed Ctrl-S, or the line is down; the mode is given back all the same."""
    desk.question()
    with watching(custody, columns=200, lines=60) as terminal:
        terminal.until("1 question")
        termios.tcflow(terminal.slave, termios.TCOOFF)
        held_up(terminal)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(20) == 143
        termios.tcflow(terminal.slave, termios.TCOON)
        assert termios.tcgetattr(terminal.slave) == terminal.before


def test_a_terminal_that_is_closed_ends_it(custody: Program, desk: Desk):
    """Also where no hang-up is sent: it is not the terminal of its session."""
    desk.question()
    terminal = Terminal(custody, custody.command("top", "--interval", "100ms"))
    terminal.until("1 question")
    os.close(terminal.slave)
    os.close(terminal.master)
    assert terminal.process.wait(20) == 0
    terminal.master, terminal.slave = pty.openpty()
    terminal.close()


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_can_nothing_gets_one_frame(custody: Program, desk: Desk, term: str):
    desk.question()
    terminal = Terminal(custody, custody.command("top"), TERM=term)
    assert terminal.ended() == 0
    assert "1 question" in terminal.log
    assert "\x1b[" not in terminal.log.replace("\x1b[0m", "") or term != "dumb"
    assert FIRST_SCREEN not in terminal.log
    terminal.close()


def test_several_keys_at_once_answer_nothing(custody: Program, desk: Desk):
    """What is pasted was typed for something else."""
    question = desk.question()
    with watching(custody) as terminal:
        terminal.until("1 question")
        for keys in ("nnnn", "\x1b[200~n\x1b[201~", "yn", "ny\n"):
            terminal.type(keys)
        terminal.type("jjj" + "q")
        assert (terminal.ended(), terminal.is_as_before()) == (0, True)
        assert answer_to(desk, question) is None


# -- a store that goes, or is much --------------------------------------------------------------------------


def test_a_store_that_is_moved_away_is_said_to_be_gone_until_it_is_back(custody: Program, desk: Desk):
    desk.question("rm one")
    with watching(custody, columns=200) as terminal:
        terminal.until("rm one")
        elsewhere = custody.folder / "elsewhere"
        custody.store.rename(elsewhere)
        said = terminal.until("is not there any more")
        assert "As of " in said
        assert "rm one" in said
        elsewhere.rename(custody.store)
        terminal.until("1 question")
        while "not there" in "\n".join(terminal.frame()):
            terminal.read()
        assert quits(terminal)


def test_a_store_that_became_something_else_ends_nothing(custody: Program, desk: Desk):
    desk.question("rm one")
    with watching(custody, columns=200) as terminal:
        terminal.until("rm one")
        desk.close()
        gone = custody.folder / "gone"
        custody.store.rename(gone)  # at once: whoever watches may make a file in it meanwhile
        custody.store.write_bytes(b"")
        shutil.rmtree(gone)
        terminal.until("is not there any more")
        terminal.press("n", SECOND_SCREEN)
        assert quits(terminal)


def test_a_thousand_open_runs_are_counted_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each was once read for the count: ten thousand took a second, and keys waited for it."""
    query, read = Database.query, list[int]()

    def counted(self: Database, *asked: Any) -> Any:
        rows = query(self, *asked)
        read.append(len(rows))
        return rows

    store = os.fspath(tmp_path / "store")
    with receiving(store) as told:
        traces = [Trace() for _ in range(1_000)]
        for trace in traces:
            trace.span("call", {"gen_ai.operation.name": "execute_tool"}, under="root")
        told.tell(*(span for trace in traces for span in trace.spans))
        with open_view(load_settings(store=store)) as view:
            looker = Looker(load_settings(store=store), view)
            looker.look()
            monkeypatch.setattr(Database, "query", counted)
            found = looker.look()
    assert (found.runs.running, len(found.runs.items)) == (1_000, RUNS_MAX)
    assert RUNS_MAX <= sum(read) < 1_000


def test_ctrl_c_at_the_question_answers_nothing_and_ends_it(custody: Program, desk: Desk):
    question = desk.question()
    with watching(custody) as terminal:
        terminal.until("1 question")
        terminal.press("y", "[y/N]")
        terminal.process.send_signal(signal.SIGINT)
        assert (terminal.ended(), terminal.is_as_before()) == (0, True)
        assert "nothing was answered" in terminal.log
        assert answer_to(desk, question) is None


def test_a_signal_in_the_middle_of_the_question_gives_the_terminal_back(custody: Program, desk: Desk):
    question = desk.question()
    with watching(custody) as terminal:
        terminal.until("1 question")
        terminal.press("y", "[y/N]")
        terminal.process.send_signal(signal.SIGTERM)
        assert (terminal.ended(), terminal.is_as_before()) == (143, True)
        assert answer_to(desk, question) is None
