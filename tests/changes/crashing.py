"""A process that dies at a chosen line of the code under test, as by `kill -9`: nothing is cleaned up.

What two deaths leave differs only where something outside was called in between: nothing else changes a file.
Whoever wants every death there is counts such places (`die_after`), of which there are far fewer than lines.
"""

import os
import sys
import traceback
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

import custody

_PACKAGE = custody.__path__[0]
UNDER_TEST = tuple(f"{_PACKAGE}/{part}" for part in ("changes/", "files/", "journal/disk"))

PURE = {"builtins", "_thread", "time", "itertools", "_operator", "_functools", "_struct", "zlib", "_hashlib"}
"""Modules in C whose functions change no file. What is not among them counts as if it might."""

UNSEEN = {"ctypes", "mmap"}
"""Calls through these are shown to nobody: every line of a module that has them counts."""

KILLED = 77
ENDED = 0


def die_at(line: int, work: Callable[[], Any]) -> int:
    """Do `work` in a forked process that dies before the n-th line it runs: KILLED; else it ENDED."""
    return _forked(_Countdown(line), work)


def die_after(calls: int, work: Callable[[], Any]) -> int:
    """As `die_at`; only lines count before which something was called that may have changed a file."""
    return _forked(_CountdownOfCalls(calls), work)


def _forked(countdown: "_Countdown", work: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            countdown.begin()
            work()
            countdown.end()
            code = ENDED
        except BaseException:
            countdown.end()
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines_of(work: Callable[[], Any]) -> int:
    """How many lines of the code under test `work` runs."""
    countdown = _Countdown(1 << 60)
    countdown.begin()
    try:
        work()
    finally:
        countdown.end()
    return (1 << 60) - countdown.left


class _Countdown:
    def __init__(self, lines: int) -> None:
        self.left = lines

    def begin(self) -> None:
        sys.settrace(self.trace)

    def end(self) -> None:
        sys.settrace(None)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(UNDER_TEST) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.left -= 1
            if self.left <= 0:
                os._exit(KILLED)
        return self._line


class _CountdownOfCalls(_Countdown):
    _called = True  # so that it dies before the first line too

    def begin(self) -> None:
        sys.setprofile(self._profile)
        super().begin()

    def end(self) -> None:
        super().end()
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and not self._called:
            self._called = _may_change_a_file(argument)

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if self._called and event == "line":
            self._called = not UNSEEN.isdisjoint(frame.f_globals)
            super()._line(frame, event, argument)
        return self._line


def _may_change_a_file(function: Any) -> bool:
    """A function of a module, or the method of an object such as an open file."""
    owner = function.__self__
    module = owner.__name__ if isinstance(owner, ModuleType) else type(owner).__module__
    return module not in PURE
