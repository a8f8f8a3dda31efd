"""Deadlines of one connection: many at a time, and one timer for all of them.

Owns the timer. It is set for the earliest deadline and left alone when that is met, as nearly all are: to set
one for each and take it back, as `asyncio.timeout` does, is a twentieth of what a short request takes. Used
by `peer`, by `serve` for its requests and by `callbacks` for what the peer is asked.
"""

import asyncio
import math
import time
from contextvars import Context
from types import TracebackType


class Deadlines:
    """Those that something in flight has still to meet."""

    def __init__(self) -> None:
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def within(self, seconds: float | None) -> "Deadline":
        """`with deadlines.within(5): …` cancels what it waits for after so long and raises TimeoutError, as
        `asyncio.timeout` does. None: never, unless it is told to."""
        return Deadline(self, math.inf if seconds is None else time.monotonic() + seconds)

    def add(self, deadline: "Deadline") -> None:
        self._open.add(deadline)
        if deadline.at < self._timer_at:
            self._set(deadline.at)

    def discard(self, deadline: "Deadline") -> bool:
        """Whether it was still open."""
        if deadline not in self._open:
            return False
        self._open.remove(deadline)
        return True

    def close(self) -> None:
        """None is looked at any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _set(self, at: float) -> None:
        self.close()
        seconds, loop = max(0.0, at - time.monotonic()), asyncio.get_running_loop()
        self._timer_at, self._timer = at, loop.call_later(seconds, self._look, context=Context())

    def _look(self) -> None:
        now = time.monotonic()
        for deadline in [deadline for deadline in self._open if deadline.at <= now]:
            deadline.expire()
        self.close()
        earliest = min((deadline.at for deadline in self._open), default=math.inf)
        if earliest < math.inf:
            self._set(earliest)


class Deadline:
    """One of them, from entering it to leaving it."""

    __slots__ = ("_all", "_cancelling", "_task", "at", "expired")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self._all = deadlines
        self.at = at
        """On time.monotonic()'s clock."""
        self.expired = False

    def __enter__(self) -> "Deadline":
        task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        self._task, self._cancelling = task, task.cancelling()
        self._all.add(self)
        return self

    def expire(self) -> None:
        """Now. Once it has been left, this does nothing."""
        if self._all.discard(self):
            self.expired = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._all.discard(self)
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
