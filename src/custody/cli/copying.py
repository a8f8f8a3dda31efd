"""A command joined to our own descriptors: its output goes on to ours, our signals go on to it.

Used by `exec` when it stands in for the command.
"""

import asyncio
import os
import select
import signal
from types import FrameType
from typing import Literal

from custody.sandbox import Control

DESCRIPTORS = {"stdout": 1, "stderr": 2}

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What a shell or a supervisor sends to a command; without it the last three would end Custody itself."""

CLOSED_PIPE: tuple[tuple[float, int], ...] = (
    (0, signal.SIGPIPE),
    (0.5, signal.SIGTERM),
    (2.5, signal.SIGKILL),
)
"""Seconds after the reader of our output has gone -> what the command gets. A shell's pipeline would have
sent SIGPIPE; a program that ignores it would have had an error from write(), which we cannot give it."""


class _Stalled(Exception):
    """Nobody reads, and the person wants to leave."""


class Copier:
    """Writes the command's output on while it is captured, and forwards signals."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.lost: OSError | None = None
        """Why some of the command's output did not reach ours, unless its reader has left."""
        self._closed: set[int] = set()
        self._writing: int | None = None
        self._signals = 0

    def listen(self) -> None:
        """Forward signals from now on.

        Python's own handlers, not the event loop's: they also run while a write to a slow reader blocks it.
        """
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup the command ignores it as well
                signal.signal(number, self._forward)

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Write everything before returning: a slow reader slows the command, as without Custody."""
        descriptor = DESCRIPTORS[stream]
        if descriptor in self._closed:
            return
        rest = memoryview(data)
        self._writing = descriptor
        try:
            while rest:
                rest = rest[_write_some(descriptor, rest) :]
        except BrokenPipeError:
            self._closed.add(descriptor)
            self._end_gradually()
        except _Stalled:
            self._closed.add(descriptor)
        except OSError as error:
            self._closed.add(descriptor)
            self.lost = error
        finally:
            self._writing = None

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._control.send_signal(number)
        # The first signal may make the command say something; whoever sends a second does not want to wait
        # for a reader that takes nothing.
        if self._signals > 1 and self._writing is not None and not _takes(self._writing):
            raise _Stalled

    def _end_gradually(self) -> None:
        loop = asyncio.get_running_loop()
        for seconds, number in CLOSED_PIPE:
            loop.call_later(seconds, self._control.send_signal, number)


def _write_some(descriptor: int, data: memoryview) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:  # whoever shares our output has made it so
        select.select([], [descriptor], [])
        return 0


def _takes(descriptor: int) -> bool:
    return bool(select.select([], [descriptor], [], 0)[1])
