"""What is to be told to the daemon of work that the program does itself: in order, and without waiting.

Owns the queue, its bounds, the numbers of what is told (a second sending is known by its number), and the
count of what had to be dropped, which the daemon is told of when it is back. Knows nothing of what is said.
Used by `run` and `observed`.
"""

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from custody.calls.drops import Drops, cause_of
from custody.client.link import Link
from custody.client.part import Part
from custody.client.refusals import from_wire
from custody.errors import CustodyError, NotRecorded
from custody.records import Kind
from custody.rpc.spoken import size_bytes

log = logging.getLogger("custody")

QUEUE_ITEMS_MAX = 10_000
QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""While the daemon is away. Past either bound what is offered is dropped, so that memory does not fail."""

BATCH_ITEMS_MAX = 64
BATCH_BYTES_MAX = 1024 * 1024
"""Told in one request: enough that the way there and back is shared, and soon recorded."""

ITEM_BYTES_MAX = 8 * 1024 * 1024
"""The daemon takes no larger frame than twice that; the payload of a larger item is left out, and marked."""

SETTLE_SECONDS = 15.0
"""How long whoever wants to know waits: longer than the daemon may be away."""

LOOK_SECONDS = 1.0  # for whoever looks at a number that the daemon knows

CLOSE_SECONDS = 10.0  # what is queued at the end gets so long

QUIET_SECONDS = 10.0  # what has been said in the log is not said again for so long

Settled = Callable[[dict[str, Any]], None]


class Item:
    """One thing to be told."""

    __slots__ = ("_settled", "body", "finishes", "future", "kind", "number", "part", "size_bytes")

    def __init__(
        self,
        part: Part,
        kind: Kind,
        body: dict[str, Any],
        settled: Settled | None = None,
        *,
        finishes: bool = False,
    ) -> None:
        """`settled` is called with the daemon's answer, in the link's thread."""
        self.part = part
        self.kind = kind
        self.body = body
        self.finishes = finishes
        self.number = 0
        """Of this item in its part; 0 until it is in the queue."""
        self.size_bytes = 0
        self.future: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        self._settled = settled

    def settle(self, answer: dict[str, Any]) -> None:
        if self._settled is not None:
            self._settled(answer)
        self.future.set_result(answer)

    def fail(self, error: CustodyError) -> None:
        self.future.set_exception(error)

    def wait(self, seconds: float = SETTLE_SECONDS) -> dict[str, Any]:
        """Raises what became of it, and NotRecorded: at once in the link's thread, where a finalizer ends
        what somebody forgot."""
        if self.part.link.here:
            raise _late()
        try:
            return self.future.result(seconds)
        except TimeoutError:
            raise _late() from None

    def settle_soon(self) -> None:
        """Wait until it is settled, however it is, or for as long as nobody is disturbed."""
        concurrent.futures.wait([self.future], LOOK_SECONDS)

    async def over(self, seconds: float = SETTLE_SECONDS) -> dict[str, Any]:
        """From any event loop. Raises as `wait`."""
        try:
            async with asyncio.timeout(seconds):
                await self.settled()
        except TimeoutError:
            raise _late() from None
        return self.future.result()

    async def settled(self) -> None:
        """However it was. From any event loop."""
        loop, settled = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: object) -> None:
            with suppress(RuntimeError):  # that loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(settled.set)

        self.future.add_done_callback(tell)
        await settled.wait()


def _late() -> NotRecorded:
    return NotRecorded("The daemon has not said that it is recorded.")


def _leave_out_payload(item: Item) -> None:
    """The record says of each part how large it was."""
    for name in item.body.keys() & set(_PAYLOAD):
        mark = {"$type": "too_large", "bytes": size_bytes(item.body[name])}
        item.body[name] = {"data": mark} if name in ("said", "data") else mark
        item.body[f"{name}_marked" if f"{name}_marked" in item.body else "marked"] = True
    item.size_bytes = size_bytes(item.body)


_PAYLOAD = ("arguments", "data", "error", "output", "result", "said", "totals")
"""Parts of what is told that a program may make as large as it likes."""


class Outbox:
    """The queue of one link. Items may be offered from any thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.RLock()  # whoever holds it may be interrupted by a finalizer that records
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._sending: tuple[Item, ...] = ()
        self._drops: Drops | None = None
        self._said_at = -QUIET_SECONDS
        self._wake = asyncio.Event()
        self._awake = False
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # -- from any thread ------------------------------------------------------------------------------

    def offer(self, item: Item) -> bool:
        """Queue it; False where it is dropped, which is counted and said in the log."""
        if self._link.closed:  # in a forked child its lock may be held by a thread that is not there
            item.fail(NotRecorded("The link is closed."))
            return False
        item.size_bytes = size_bytes(item.body)
        if item.size_bytes > ITEM_BYTES_MAX:
            _leave_out_payload(item)
        with self._lock:
            full = len(self._queue) >= QUEUE_ITEMS_MAX or self._bytes + item.size_bytes > QUEUE_BYTES_MAX
            if not full and not self._closed:
                item.part.number += 1
                item.body["n"] = item.number = item.part.number
                self._queue.append(item)
                self._bytes += item.size_bytes
            wake, self._awake = not self._awake, True
        if not item.number:
            self._drop(item, NotRecorded("Too much waits for the daemon." if full else "The link is closed."))
            return False
        if wake:
            self._link.soon(self._wake.set)
        return True

    def last(self, part: Part) -> Item | None:
        """The newest item of a part that is not settled: with it, all before it are."""
        with self._lock:
            for item in (*reversed(self._queue), *reversed(self._sending)):
                if item.part is part and not item.future.done():
                    return item
        return None

    def _drop(self, item: Item, error: CustodyError) -> None:
        with self._lock:
            fresh = self._drops or Drops()
            drops = self._drops = self._drops or fresh
            drops.add(item.kind, item.part.run_id or None, cause_of(error))
            now = time.monotonic()
            quiet, self._said_at = now - self._said_at < QUIET_SECONDS, now
        if not quiet:
            log.warning("What a program did itself is not recorded: %s", error.message)
        item.fail(error)

    # -- in the link's thread -------------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Send what is queued, within its bound; what is left is dropped and counted in the log."""
        await self.flushed(CLOSE_SECONDS)
        with self._lock:
            self._closed = True
            left = [*self._sending, *self._queue]
            self._queue.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for item in left:
            if not item.future.done():
                self._drop(item, NotRecorded("The link was closed before the daemon was back."))
        if self._drops is not None:
            log.warning("%d records of a program's own work were not kept.", self._drops.count)

    async def flushed(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until nothing is queued, for so long."""
        if self._newest() is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (item := self._newest()) is not None:
                    await item.settled()

    def _newest(self) -> Item | None:
        with self._lock:
            newest = self._queue[-1] if self._queue else (self._sending[-1] if self._sending else None)
        return None if newest is None or newest.future.done() else newest

    async def _work(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                if not self._queue:  # a finalizer of this thread may have offered something meanwhile
                    await self._wake.wait()
                continue
            await self._send(batch)
            with self._lock:
                self._sending = ()

    def _take(self) -> tuple[Item, ...]:
        """The first items that are of one part, within the bounds of a batch."""
        taken: list[Item] = []
        with self._lock:
            total = 0
            while self._queue and len(taken) < BATCH_ITEMS_MAX:
                item = self._queue[0]
                total += item.size_bytes
                if taken and (item.part is not taken[0].part or total > BATCH_BYTES_MAX or item.finishes):
                    break
                taken.append(self._queue.popleft())
                self._bytes -= item.size_bytes
                if item.finishes:
                    break
            self._sending = tuple(taken)
            if not taken:
                self._awake = False
                self._wake.clear()
        return self._sending

    async def _send(self, batch: tuple[Item, ...]) -> None:
        part = batch[0].part
        try:
            await part.begin(patient=True)
            if batch[0].finishes:
                answer = await self._link.ask(
                    "runs.finish", {**batch[0].body, "part": part.id}, patient=True, act=True
                )
                answers = [answer]
            else:
                entries = [item.body for item in batch]
                answers = await self._link.ask(
                    "runs.record",
                    lambda: {"part": part.id, "now": time.monotonic_ns() // 1000, "entries": entries},
                    patient=True,
                    act=True,
                )
        except CustodyError as error:
            part.lose(error)
            for item in batch:
                self._drop(item, error)
            return
        for item, answer in zip(batch, cast("list[dict[str, Any]]", answers), strict=True):
            self._settle(item, answer)
        if self._drops is not None:
            await self._report(part)

    def _settle(self, item: Item, answer: dict[str, Any]) -> None:
        refusal = cast("dict[str, Any] | None", answer.get("error"))
        if refusal is None:
            item.settle(answer)
            return
        error = from_wire(refusal.get("error"), str(refusal.get("message")), refusal, NotRecorded)
        if isinstance(error, NotRecorded):
            self._drop(item, error)
        else:  # a guard's no is on the record
            item.part.lose(error)
            item.fail(error)

    async def _report(self, part: Part) -> None:
        """Tell the daemon what it was not told."""
        with self._lock:
            drops, self._drops = self._drops, None
        if drops is None:
            return
        entry = {"kind": "gap", "n": 0, "at": 0, "data": drops.data()}
        try:
            said = {"part": part.id, "now": 0, "entries": [entry]}
            (answer,) = await self._link.act("runs.record", said)
            kept = answer.get("error") is None
        except CustodyError:
            kept = False
        if not kept:
            with self._lock:
                if self._drops is not None:
                    drops.absorb(self._drops)
                self._drops = drops
