"""What the caller may do to a command while it runs: signals, its end, the keyboard and size of its terminal.

Made by the caller and handed to `Launchers.run`, which binds it to the command. What is done before the
command runs waits for it; what is done after it has ended is forgotten.
"""

import contextlib
import termios
from collections.abc import Callable

from custody.sandbox.command import TerminalSize
from custody.sandbox.running import Running


class Control:
    """One command's controls; good for one run."""

    def __init__(self) -> None:
        self.on_drained: Callable[[], None] | None = None
        """Called when all input that was written has been taken."""
        self.on_early_signal: Callable[[], None] | None = None
        """Called when a signal comes before there is a command to have it."""
        self._cancelled = False
        self._cancel: Callable[[], None] | None = None
        self._running: Running | None = None
        self._signals: list[int] = []
        self._input = bytearray()

    @property
    def input_pending_bytes(self) -> int:
        """Written and not yet taken by the terminal."""
        return len(self._input)

    def cancel(self) -> None:
        """End the command's whole tree; how it ended will say so."""
        self._cancelled = True
        if self._cancel is not None:
            self._cancel()

    def send_signal(self, signum: int) -> None:
        """To the command's process group."""
        self._signals.append(signum)
        self._act()
        if self._running is None and self.on_early_signal is not None:
            self.on_early_signal()

    def write(self, data: bytes) -> None:
        """What is typed, for a command under a terminal."""
        self._input += data
        self._act()

    def resize(self, size: TerminalSize) -> None:
        """The terminal's new size; its foreground programs get SIGWINCH."""
        if self._running is not None and self._running.terminal is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetwinsize(self._running.terminal, (size.rows, size.columns))

    def bind(self, running: Running, cancel: Callable[[], None]) -> None:
        """`cancel` is what ends it."""
        self._running, self._cancel = running, cancel
        self._act()
        if self._cancelled:
            cancel()

    def unbind(self) -> None:
        self._running = self._cancel = None

    def _act(self) -> None:
        if self._running is None:
            return
        for signum in self._signals:
            self._running.send_signal(signum)
        self._signals.clear()
        if self._input:
            self._running.write_terminal(self._input, self._act)
            if not self._input and self.on_drained is not None:
                self.on_drained()
