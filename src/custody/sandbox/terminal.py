"""Our own terminal, while a command runs under one of its own.

Owns raw mode and its undoing, the copying of keys and output, and what a resize means. It changes what is
process-wide (the terminal's mode, signal handlers), so it is for a program that is nothing but the command's
front: used by `custody exec`.
"""

import asyncio
import atexit
import contextlib
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Generator
from types import TracebackType
from typing import Any

from custody.sandbox.command import TerminalSize
from custody.sandbox.control import Control

INPUT_BYTES_MAX = 64 * 1024  # typed ahead of a command that does not read; a paste waits in our terminal then
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_END_OF_FILE = b"\x04"  # what a terminal takes for the end of its input

Handler = Any  # what signal.getsignal returns: a callable, a constant or None


def terminal_size(descriptor: int) -> TerminalSize:
    """As the terminal says; 24 by 80 when it does not."""
    with contextlib.suppress(termios.error, OSError):
        rows, columns = termios.tcgetwinsize(descriptor)
        if rows > 0 and columns > 0:
            return TerminalSize(rows, columns)
    return TerminalSize()


class Terminal:
    """Our terminal in raw mode, from entering until leaving, whatever happens in between.

    Keys go to `control`, so do sizes and the signals that ask us to end; `show` puts the command's output on
    the screen and is meant as `on_output`. Used as an `async with` around `Launchers.run`, whose command has
    `terminal_size(...)` as its terminal.
    """

    def __init__(self, control: Control, *, input_descriptor: int = 0, output_descriptor: int = 1) -> None:
        self._control = control
        self._input = input_descriptor
        self._output = output_descriptor
        self._mode: list[Any] | None = None
        self._handlers: dict[int, Handler] = {}
        self._reading = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> "Terminal":
        self._loop = asyncio.get_running_loop()
        self._mode = termios.tcgetattr(self._input)
        atexit.register(self._restore)
        try:
            tty.setraw(self._input, termios.TCSANOW)
            self._take_signals()
            self._control.on_drained = self._resume
            self._resume()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def show(self, stream: str, data: bytes) -> None:
        """Write to our terminal; all of it, even where the descriptor does not block."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._output, view) :]
            except BlockingIOError:
                select.select([], [self._output], [])

    @contextlib.contextmanager
    def aside(self) -> Generator[None]:
        """The terminal as it was, for whoever asks its user something: no key of the answer is typed on."""
        self._pause()
        self._control.on_drained = None
        if self._mode is not None:
            termios.tcsetattr(self._input, termios.TCSANOW, self._mode)
        try:
            yield
        finally:
            if self._mode is not None:
                with contextlib.suppress(termios.error):  # the terminal is gone
                    tty.setraw(self._input, termios.TCSANOW)
                self._control.on_drained = self._resume
                self._resume()

    # -- keys ---------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if not self._reading and self._loop is not None:
            self._reading = True
            self._loop.add_reader(self._input, self._type)

    def _pause(self) -> None:
        if self._reading and self._loop is not None:
            self._reading = False
            self._loop.remove_reader(self._input)

    def _type(self) -> None:
        try:
            keys = os.read(self._input, INPUT_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:  # the terminal is gone: SIGHUP tells the rest
            keys = b""
        self._control.write(keys or _END_OF_FILE)
        if not keys:
            self._pause()
            self._control.on_drained = None
        elif self._control.input_pending_bytes >= INPUT_BYTES_MAX:
            self._pause()

    # -- signals ------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # signals belong to the main thread's owner
        assert self._loop is not None, "entered"
        for number in _FORWARDED:
            self._take(number, self._control.send_signal, number)
        self._take(signal.SIGWINCH, self._resize)
        self._take(signal.SIGCONT, self._continue)

    def _take(self, number: int, callback: Any, *arguments: Any) -> None:
        assert self._loop is not None, "entered"
        self._handlers[number] = signal.getsignal(number)
        self._loop.add_signal_handler(number, callback, *arguments)

    def _resize(self) -> None:
        self._control.resize(terminal_size(self._input))

    def _continue(self) -> None:
        """We were stopped, and the shell has set its own mode meanwhile."""
        with contextlib.suppress(termios.error):
            tty.setraw(self._input, termios.TCSANOW)
        self._resize()

    # -- the end ------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        try:
            self._pause()
            self._control.on_drained = None
            for number, handler in self._handlers.items():
                assert self._loop is not None, "entered"
                self._loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._handlers.clear()
        finally:
            self._restore()

    def _restore(self) -> None:
        atexit.unregister(self._restore)
        if self._mode is not None:
            mode, self._mode = self._mode, None
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._input, termios.TCSANOW, mode)
