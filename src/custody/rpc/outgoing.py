"""What is sent to one peer: in order, bounded, and not for ever.

Owns the back-pressure: whoever sends waits while the peer is slow, and a peer that takes nothing for too long
is given up. Knows nothing of what the frames say. Used by `peer`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from custody.errors import PeerLost

Send = Callable[[str], Awaitable[None]]


class Outgoing:
    """The frames to one peer."""

    def __init__(
        self, send: Send, give_up: Callable[[str], None], *, bytes_max: int, seconds_max: float
    ) -> None:
        """`give_up` is told why, once, when the stream is broken or the peer takes nothing."""
        self._send = send
        self._give_up = give_up
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self._sending_since: float | None = None
        self._over = False
        self.waiting_bytes = 0
        """Of the frames whose senders wait."""
        self.frames = 0

    async def send(self, text: str) -> None:
        """Hand one frame over; waits while the peer is slow. Raises PeerLost."""
        while self.waiting_bytes and self.waiting_bytes + len(text) > self._bytes_max and not self._over:
            self._room.clear()
            await self._room.wait()
        self.waiting_bytes += len(text)
        try:
            async with self._turn:
                await self._hand_over(text)
        finally:
            self.waiting_bytes -= len(text)
            self._room.set()

    async def _hand_over(self, text: str) -> None:
        if self._over:
            raise PeerLost()
        self._sending_since = time.monotonic()
        if self._watch is None:
            self._look_again(self._seconds_max)
        try:
            await self._send(text)
        except Exception as error:  # each kind of stream has errors of its own for one that is gone
            self.end()
            self._give_up(f"nothing could be sent: {type(error).__name__}")
            raise PeerLost() from error
        finally:
            self._sending_since = None
        self.frames += 1

    def end(self) -> None:
        """Nothing is sent from here on; who waits gets PeerLost."""
        self._over = True
        self._room.set()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look_again(self, seconds: float) -> None:
        self._watch = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """One timer for all frames: setting one for each would cost more than sending it."""
        self._watch = None
        since = self._sending_since
        if since is None or self._over:
            return
        left = since + self._seconds_max - time.monotonic()
        if left > 0:
            self._look_again(left)
            return
        self.end()
        with suppress(Exception):
            self._give_up(f"it took nothing for {self._seconds_max:g} s")
