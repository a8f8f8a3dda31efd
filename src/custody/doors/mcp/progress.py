"""Progress of a request: what came last is told, a few times a second, to a client that asked for it.

Owns the pace. Knows nothing of what progresses; `acts` tells bytes of output, `plans` actions that ended.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

INTERVAL_SECONDS = 0.1
"""Ten times a second is as often as somebody looks."""

Tell = Callable[[float, float | None, str | None], Awaitable[None]]


class Progress:
    """Of one request."""

    def __init__(self, tell: Tell | None = None) -> None:
        """`tell` sends progress, total and a message; None: nobody asked for it."""
        self._tell = tell
        self._newest: tuple[float, float | None, str | None] | None = None
        self._told: float | None = None
        self._changed = asyncio.Event()
        self._sending = asyncio.Lock()

    @property
    def wanted(self) -> bool:
        return self._tell is not None

    def note(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """It came so far. What does not go up is not told: the protocol wants it so."""
        if self._tell is not None and (self._told is None or progress > self._told):
            self._newest = (progress, total, message)
            self._changed.set()

    @asynccontextmanager
    async def telling(self) -> AsyncGenerator[None]:
        """Meanwhile what is noted is told; at the end the last of it."""
        if self._tell is None:
            yield
            return
        telling = asyncio.create_task(self._keep_telling(self._tell))
        try:
            yield
        finally:
            async with self._sending:  # what is on its way arrives: it may be the last
                telling.cancel()
            await asyncio.wait({telling})
            if not telling.cancelled():
                telling.exception()  # nobody was there to be told
        await self._tell_newest(self._tell)

    async def _keep_telling(self, tell: Tell) -> None:
        while True:
            await self._changed.wait()
            await self._tell_newest(tell)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _tell_newest(self, tell: Tell) -> None:
        async with self._sending:
            self._changed.clear()
            newest, self._newest = self._newest, None
            if newest is not None:
                self._told = newest[0]
                await tell(*newest)
