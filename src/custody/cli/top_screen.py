"""A terminal that shows frames and gives keys, and is left as it was found.

Owns the terminal's mode, its second screen, and the signals that end, stop or resize the program. Knows
nothing of what is shown. Used by `top`.
"""

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Generator, Sequence
from types import FrameType
from typing import Any, Literal, Self

from custody.cli.invocation import Interrupted

Key = Literal["up", "down", "quit", "yes", "no", "resize", "other"]

KEYS: dict[bytes, Key] = {
    b"q": "quit",
    b"Q": "quit",
    b"\x03": "quit",
    b"\x04": "quit",
    b"y": "yes",
    b"n": "no",
    b"k": "up",
    b"j": "down",
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
}
KEY_BYTES_MAX = 64
SINGLE = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
ENDING = (signal.SIGTERM, signal.SIGHUP)

LAST_WORDS_SECONDS = 0.5
"""A terminal that takes nothing (Ctrl-S, a line that is down) is waited for so long at the end."""


class Screen:
    """Standard output's second screen and the keys of standard input, from `with` to its end."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, emoji=False, markup=False)
        self._keys = os.isatty(0)
        self._mode: list[Any] | None = None
        self._woken, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers: dict[int, Any] = {}
        self._wakeup_before = -1
        self._shown = False
        self._gone = False
        """Nobody is there any more to see anything."""

    # -- entering and leaving ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for number in ENDING:
            self._handlers[number] = signal.signal(number, _end)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nobody has it ignored
            self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, _end)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _wake)
        try:
            self._show()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _hold_signals()
        self._hide()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._woken)
        os.close(self._wakes)

    @contextlib.contextmanager
    def aside(self) -> Generator[None]:
        """The terminal as it was found, for a question; what was typed before is no answer to it."""
        self._hide()
        try:
            yield
        finally:
            self._show()

    def _show(self) -> None:
        if self._keys:
            self._mode = termios.tcgetattr(0)
            mode = termios.tcgetattr(0)
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(0, termios.TCSAFLUSH, mode)
        self._shown = True
        self._write("\x1b[?1049h\x1b[?25l\x1b[2J")

    def _hide(self) -> None:
        if not self._shown:
            return
        self._shown = False
        with contextlib.suppress(OSError):
            if select.select([], [1], [], LAST_WORDS_SECONDS)[1]:
                self._write("\x1b[?25h\x1b[?1049l")
        if self._mode is not None:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(0, termios.TCSANOW, self._mode)  # anything else waits until all was taken
                termios.tcflush(0, termios.TCIFLUSH)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, and on `fg` it goes on here."""
        shown = self._shown
        self._hide()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)
        if shown:
            self._show()

    # -- frames and keys --------------------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            columns, lines = os.get_terminal_size(1)
        except OSError:
            columns, lines = 0, 0
        return columns or 80, lines or 24

    def draw(self, lines: Sequence[Sequence[tuple[str, str]]]) -> None:
        """Show these lines and nothing else. Each is cleared before it is written: behind a full line the
        clearing takes its last character away."""
        text = "\r\n".join("\x1b[K" + self._styled(line) for line in lines)
        below = "\r\n\x1b[J" if len(lines) < self.size[1] else ""
        self._write(f"\x1b[H{text}{below}\x1b[?25l")

    def _styled(self, line: Sequence[tuple[str, str]]) -> str:
        from rich.text import Text

        with self.console.capture() as captured:
            self.console.print(
                Text.assemble(*(part for part in line), no_wrap=True, overflow="ignore"),
                end="",
                soft_wrap=True,
            )
        return captured.get()

    def key(self, seconds: float) -> Key | None:
        """The next key, or `resize`, within so long; None where nothing came."""
        until = time.monotonic() + seconds
        while not self._gone:
            waited = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._woken, *([0] if self._keys else [])], [], [], waited)
            if self._woken in ready:
                os.read(self._woken, 4096)
                return "resize"
            if not ready:
                return None
            try:
                typed = os.read(0, KEY_BYTES_MAX)
            except OSError:  # the terminal is gone
                return "quit"
            return _key_of(typed) if typed else "quit"
        return "quit"

    def _write(self, text: str) -> None:
        """Past Python's buffer: a handler of a signal writes too, and may have come in the middle of one."""
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        try:
            while data:
                try:
                    data = data[os.write(1, data) :]
                except BlockingIOError:  # somebody else who has this terminal open does not wait for it
                    select.select([], [1], [])
        except OSError:  # whoever looked has gone
            self._gone = True


def _key_of(typed: bytes) -> Key:
    """Of what came at once. A key that is held down is one of its kind, and `q` ends also behind others;
    anything else of more than one key may be a paste, and no part of it is an answer."""
    keys: list[Key] = [KEYS.get(part, "other") for part in SINGLE.findall(typed)]
    if len(keys) == 1 or (keys[0] in ("up", "down") and len(set(keys)) == 1):
        return keys[0]
    return "quit" if keys[-1] == "quit" else "other"


def _end(number: int, _frame: FrameType | None) -> None:
    """The first one ends it. One that comes while the terminal is given back would leave it as it is."""
    _hold_signals()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted(number)


def _hold_signals() -> None:
    """By a handler: one that has come already and finds none would be complained about."""
    for number in (*ENDING, signal.SIGINT, signal.SIGTSTP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _wake)


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Its being handled is what wakes whoever waits for a key."""
