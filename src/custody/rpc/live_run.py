"""One run that is worked on here: who works on it, what is in flight in it, and whether it is over.

Owns its own state and nothing else; `live` has all of them, and ends them.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from custody.calls.handle import RunHandle
from custody.errors import RunClosed


class Work:
    """Something in flight in a run."""

    def __init__(self, action_id: str | None, cancel: Callable[[], object] | None) -> None:
        self.action_id = action_id
        self.request_id: str | None = None
        """Of the callback it waits for, where that is known."""
        self.cancel = cancel


class LiveRun:
    """A run that is worked on here, or one that a peer asked for and finds over."""

    def __init__(self, handle: RunHandle, *, agent: str, key: str | None = None) -> None:
        self.handle = handle
        self.agent = agent
        """As its peer calls it."""
        self.id = key or handle.id
        """What the run is called on the wire: the key it was started with, else its own id."""
        self.ending = False
        """Somebody is ending it, or tried to in vain: nothing more begins in it."""
        self.ended = asyncio.Event()
        self.narrated = 0
        """Records told afterwards, those being written included."""
        self.in_doubt = False
        """Its start is written, and was not durable when that was asked for."""
        self.last_connection: str | None = None
        self.grace: asyncio.TimerHandle | None = None
        self.attached: dict[str, bool] = {}
        """Connections that work on it; whether each can go on with it over another one."""
        self.watchers: set[asyncio.Event] = set()
        """Set whenever something of it was recorded."""
        self._work: dict[Work, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def over(self) -> bool:
        """Whether nothing may begin in it any more."""
        return self.ending or self.handle.outcome is not None

    @property
    def owner(self) -> str | None:
        """The connection that works on it, the last to come where there are several; None: nobody does."""
        return next(reversed(self.attached), None)

    @property
    def in_flight(self) -> list[Work]:
        return list(self._work)

    @contextmanager
    def working(
        self, action_id: str | None = None, cancel: Callable[[], object] | None = None
    ) -> Generator[Work]:
        """Something is in flight in the run until this is left. `cancel` is called once if it is to end;
        without one it is waited for. Raises RunClosed."""
        if self.over:
            raise closed(self.id)
        work = Work(action_id, cancel)
        self._work[work] = None
        self._idle.clear()
        try:
            yield work
        finally:
            del self._work[work]
            if not self._work:
                self._idle.set()

    async def stop(self, seconds: float) -> bool:
        """Tell what is in flight to end and wait for it; False where something had not by then."""
        for work in self.in_flight:
            if work.cancel is not None:
                work.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return self._idle.is_set()

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()


def closed(run_id: str) -> RunClosed:
    return RunClosed("The run has ended, or is being ended.", run_id=run_id)
