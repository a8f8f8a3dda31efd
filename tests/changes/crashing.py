"""A process that dies at a chosen line of the code under test, as by `kill -9`: nothing is cleaned up."""

import os
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import custody

_PACKAGE = custody.__path__[0]
UNDER_TEST = tuple(f"{_PACKAGE}/{part}" for part in ("changes/", "files/", "journal/disk"))

KILLED = 77
ENDED = 0


def die_at(line: int, work: Callable[[], Any]) -> int:
    """Do `work` in a forked process that dies before the n-th line it runs: KILLED; else it ENDED."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.settrace(_Countdown(line).trace)
            work()
            sys.settrace(None)
            code = ENDED
        except BaseException:
            sys.settrace(None)
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines_of(work: Callable[[], Any]) -> int:
    """How many lines of the code under test `work` runs."""
    countdown = _Countdown(1 << 60)
    sys.settrace(countdown.trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return (1 << 60) - countdown.left


class _Countdown:
    def __init__(self, lines: int) -> None:
        self.left = lines

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(UNDER_TEST) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.left -= 1
            if self.left <= 0:
                os._exit(KILLED)
        return self._line
