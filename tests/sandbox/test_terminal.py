"""Under a terminal a command behaves as at one, and ours is as it was when it has ended."""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import textwrap
import time
from collections.abc import Iterator

import pytest
from tests.sandbox.commands import WAIT_SECONDS, command, deadlines, run_one, run_with, shell

from custody.errors import CommandNotFound, UsageError
from custody.sandbox import Control, Launchers, TerminalSize
from custody.sandbox.terminal import Terminal, terminal_size


def test_the_command_has_a_controlling_terminal_of_the_given_size() -> None:
    program = """
        import os, sys
        size = os.get_terminal_size()
        print(*map(os.isatty, (0, 1, 2)), size.lines, size.columns, os.tcgetpgrp(0) == os.getpid())
        print(os.open("/dev/tty", os.O_RDWR) > 2, file=sys.stderr)
    """
    wanted = command(sys.executable, "-c", textwrap.dedent(program), terminal=TerminalSize(33, 101))
    finished = run_one(wanted)
    assert finished.stdout.data.decode().splitlines() == [
        "True True True 33 101 True",
        "True",
    ]
    assert finished.stderr.data == b""


def test_all_that_a_command_wrote_to_its_terminal_is_there() -> None:
    async def body(pool: Launchers) -> None:
        for _ in range(20):
            finished = await pool.run(command("seq", "20000", terminal=TerminalSize()))
            assert finished.stdout.data == b"".join(b"%d\r\n" % number for number in range(1, 20001))

    run_with(body)


def test_nothing_is_lost_when_the_reader_is_slow() -> None:
    def dawdle(name: str, data: bytes) -> None:
        time.sleep(0.002)

    async def body(pool: Launchers) -> None:
        for _ in range(5):
            finished = await pool.run(command("seq", "20000", terminal=TerminalSize()), on_output=dawdle)
            assert finished.stdout.data.endswith(b"\r\n20000\r\n")

    run_with(body)


def test_a_key_that_stops_a_command_does_not_stop_it() -> None:
    async def body(pool: Launchers) -> None:
        control = Control()
        text = "echo ready; read a; echo got $a"
        finished = await pool.run(
            shell(text, terminal=TerminalSize()),
            control=control,
            on_output=lambda name, data: control.write(b"\x1ahello\n") if b"ready" in data else None,
        )
        assert finished.stdout.data.endswith(b"got hello\r\n")

    run_with(body)


def test_what_is_typed_arrives_and_interrupts() -> None:
    async def body(pool: Launchers) -> None:
        control = Control()
        control.write(b"early\n")  # kept until there is a terminal
        finished = await pool.run(shell("read a; echo got $a", terminal=TerminalSize()), control=control)
        assert finished.stdout.data == b"early\r\ngot early\r\n"

        control = Control()
        finished = await pool.run(
            shell("echo ready; exec sleep 300", terminal=TerminalSize()),
            control=control,
            on_output=lambda name, data: control.write(b"\x03") if b"ready" in data else None,
        )
        assert finished.signal == signal.SIGINT

    run_with(body)


def test_more_input_than_a_terminal_takes_waits() -> None:
    async def body(pool: Launchers) -> None:
        control, drained = Control(), asyncio.Event()
        control.on_drained = drained.set
        control.write(b"x" * 1000 + b"\n")
        for _ in range(200):
            control.write(b"y" * 1000 + b"\n")
        control.write(b"\x04")
        text = "stty -echo; sleep 0.2; echo; wc -c"  # what was typed until then has been echoed
        finished = await pool.run(shell(text, terminal=TerminalSize()), control=control)
        assert drained.is_set()
        assert finished.stdout.data.split()[-1] == b"%d" % (201 * 1001)

    run_with(body)


def test_a_resize_is_told_to_the_command() -> None:
    async def body(pool: Launchers) -> None:
        control = Control()
        text = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
        finished = await pool.run(
            shell(text, terminal=TerminalSize(10, 20)),
            control=control,
            on_output=lambda name, data: control.resize(TerminalSize(44, 55)),
        )
        assert finished.stdout.data == b"ready\r\n44 55\r\n"

    run_with(body)


def test_a_terminal_goes_with_nothing_else_for_input() -> None:
    with pytest.raises(UsageError):
        run_one(command("cat", stdin=b"text", terminal=TerminalSize()))
    with pytest.raises(CommandNotFound):
        run_one(command("no-such-command-anywhere", terminal=TerminalSize()))


def test_a_deadline_holds_under_a_terminal() -> None:
    text = "trap '' TERM HUP; echo deaf; while :; do sleep 300; done"
    for seconds in deadlines(0.2):
        wanted = shell(text, terminal=TerminalSize(), deadline_seconds=seconds, grace_seconds=0.2)
        finished = run_one(wanted)
        if finished.stdout.data == b"deaf\r\n":
            break
    assert (finished.signal, finished.limit_hit) == (signal.SIGKILL, "deadline")


# -- our own terminal --------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: the person's, and ours."""
    person, ours = os.openpty()
    yield person, ours
    for descriptor in (person, ours):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def read_until(descriptor: int, text: bytes) -> bytes:
    """What comes until `text` has come."""
    seen, end = b"", time.monotonic() + WAIT_SECONDS
    os.set_blocking(descriptor, False)
    while text not in seen:
        assert time.monotonic() < end, f"only {seen!r} came"
        try:
            seen += os.read(descriptor, 65536)
        except BlockingIOError:
            time.sleep(0.005)
    return seen


def test_our_terminal_is_raw_for_the_time_and_restored(pair: tuple[int, int]) -> None:
    person, ours = pair
    termios.tcsetwinsize(ours, (12, 34))
    before = termios.tcgetattr(ours)
    seen = []

    async def body(pool: Launchers) -> None:
        control = Control()
        assert os.isatty(ours)
        async with Terminal(control, input_descriptor=ours, output_descriptor=ours) as terminal:
            seen.append(termios.tcgetattr(ours))
            os.write(person, b"hello\r")
            wanted = shell("stty size; read a; echo got $a", terminal=terminal_size(ours))
            await pool.run(wanted, control=control, on_output=terminal.show)

    run_with(body)
    assert sorted(read_until(person, b"got hello").split()) == [b"12", b"34", b"got", b"hello", b"hello"]
    assert seen[0][3] & (termios.ICANON | termios.ECHO | termios.ISIG) == 0
    assert termios.tcgetattr(ours) == before


def test_our_terminal_is_restored_after_an_error_and_handlers_too(pair: tuple[int, int]) -> None:
    _, ours = pair
    before = termios.tcgetattr(ours)
    handlers = {number: signal.getsignal(number) for number in signal.Signals}

    async def main() -> None:
        async with Terminal(Control(), input_descriptor=ours, output_descriptor=ours):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    assert termios.tcgetattr(ours) == before
    assert handlers == {number: signal.getsignal(number) for number in signal.Signals}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH])
def test_signals_to_us_reach_the_command(pair: tuple[int, int], number: signal.Signals) -> None:
    """In a process of its own: signals are process-wide."""
    person, ours = pair
    before = termios.tcgetattr(ours)
    program = """
        import asyncio, os, sys
        from custody.sandbox import Command, Control, Launchers
        from custody.sandbox.terminal import Terminal, terminal_size
        text = "for name in TERM HUP WINCH; do trap \\"echo SIG$name; exit\\" $name; done; "
        text += "echo ready; while :; do sleep 0.01; done"
        async def main():
            pool, control = Launchers(), Control()
            wanted = Command(argv=("sh", "-c", text), cwd="/", environment={"PATH": os.environ["PATH"]},
                             terminal=terminal_size(0))
            async with Terminal(control) as terminal:
                await pool.run(wanted, control=control, on_output=terminal.show)
            await pool.close()
        asyncio.run(main())
    """
    actions = [(os.POSIX_SPAWN_DUP2, ours, there) for there in (0, 1, 2)]
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    pid = os.posix_spawn(sys.executable, argv, dict(os.environ), file_actions=actions)
    read_until(person, b"ready")
    if number == signal.SIGWINCH:
        termios.tcsetwinsize(ours, (50, 50))
    os.kill(pid, number)
    read_until(person, number.name.encode())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert termios.tcgetattr(ours) == before
