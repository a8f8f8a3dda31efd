"""A terminal that shows frames and gives keys, and is left as it was found.

Owns the terminal's mode, its second screen, and the signals that end, stop or resize the program. Knows
nothing of what is shown. Used by `top`.
"""

import contextlib
import os
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
ENDING = (signal.SIGTERM, signal.SIGHUP)


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

    # -- entering and leaving ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for number in ENDING:
            self._handlers[number] = signal.signal(number, _end)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _wake)
        try:
            self._show()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
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
        _write("\x1b[?1049h\x1b[?25l\x1b[2J")

    def _hide(self) -> None:
        if not self._shown:
            return
        self._shown = False
        _write("\x1b[?25h\x1b[?1049l")
        if self._mode is not None:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(0, termios.TCSAFLUSH, self._mode)

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
        """Show these lines and nothing else."""
        text = "\x1b[K\r\n".join(self._styled(line) for line in lines)
        _write(f"\x1b[H{text}\x1b[K\x1b[J")

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
        while True:
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
            return KEYS.get(typed, "other") if typed else "quit"


def _end(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Its being handled is what wakes whoever waits for a key."""


def _write(text: str) -> None:
    """Past Python's buffer: a handler of a signal writes too, and may have come in the middle of a write."""
    data = text.encode(sys.stdout.encoding or "utf-8", "replace")
    with contextlib.suppress(OSError):  # whoever looked has gone
        while data:
            data = data[os.write(1, data) :]
