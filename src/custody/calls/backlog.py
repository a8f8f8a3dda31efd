"""Records that must not disturb who offers them: kept at once where that is a matter of microseconds, else
by a thread; dropped, counted and reported where the store cannot take them.

Owns the bound on the delay, the queue behind a slow disk, the count of what was dropped and the gap record
that says so once the store is back. Knows nothing of what records mean. Used by `run` and `observe`; the
guarded way of a call uses `ledger`, where a record that cannot be kept stops the call.
"""

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from custody.errors import CustodyError, NotRecorded
from custody.journal import Receipt
from custody.recorder import Draft, Recorder
from custody.records import Kind, now_us

running_loop = asyncio._get_running_loop  # pyright: ignore[reportPrivateUsage] - asked at every record
log = logging.getLogger("custody")

DELAY_SECONDS = 0.1
"""How long a record that meets a slow disk may hold up who offers it, unless a setting says otherwise."""

QUEUE_RECORDS_MAX = 10_000
QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""Behind a disk that hangs. Past either bound records are dropped, so that memory is not the next to fail."""

RETRY_SECONDS = 0.25
"""Between two tries to report a gap while nothing else is recorded."""

RETRY_SHARE = 10
"""While the store cannot be written, trying takes at most one part in so many of the agent's time."""

GAP_RUNS_MAX = 100
"""Runs named in one gap record; the counts are of all."""

CLOSE_SECONDS = 10.0  # what is queued at the end gets so long to reach the disk

Write = Callable[[], Receipt]
Dropped = Callable[[], bool]
"""Called, from any thread, when a record is dropped. True: it will be offered again, so it is no gap."""


class Drops:
    """What was dropped since the store was last written."""

    def __init__(self) -> None:
        self.since_us = now_us()
        self.count = 0
        self.by_kind: dict[str, int] = {}
        self.by_run: dict[str, int] = {}
        self.causes: dict[str, int] = {}

    def add(self, kind: Kind, run_id: bytes | None, cause: str) -> None:
        self.count += 1
        name = kind.name.lower()
        self.by_kind[name] = self.by_kind.get(name, 0) + 1
        self.causes[cause] = self.causes.get(cause, 0) + 1
        run = "" if run_id is None else run_id.hex()
        if run in self.by_run or len(self.by_run) < GAP_RUNS_MAX:
            self.by_run[run] = self.by_run.get(run, 0) + 1

    def absorb(self, later: "Drops") -> None:
        self.count += later.count
        for mine, theirs in (
            (self.by_kind, later.by_kind), (self.by_run, later.by_run), (self.causes, later.causes)
        ):  # fmt: skip
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count

    def only_run(self) -> bytes | None:
        """The run all of it belongs to, so that its record is found there."""
        (run,) = self.by_run if len(self.by_run) == 1 else ("",)
        return bytes.fromhex(run) if self.by_run.get(run) == self.count and run else None

    def data(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "by_kind": self.by_kind,
            "by_run": {run: count for run, count in self.by_run.items() if run},
            "causes": self.causes,
            "since_us": self.since_us,
            "until_us": now_us(),
        }


class Offer:
    """A record on its way through the queue."""

    __slots__ = ("done", "dropped", "essential", "kind", "run_id", "size_bytes", "write")

    def __init__(
        self,
        write: Write,
        kind: Kind,
        size_bytes: int,
        run_id: bytes | None,
        dropped: Dropped,
        essential: bool,
    ) -> None:
        self.write = write
        self.kind = kind
        self.size_bytes = size_bytes
        self.run_id = run_id
        self.dropped = dropped
        self.essential = essential
        """Room was set aside for it: tried also while the store takes nothing else."""
        self.done: concurrent.futures.Future[Receipt | None] = concurrent.futures.Future()


class Backlog:
    """Keeps records for one runtime. Safe for threads; a forked child begins with an empty queue."""

    def __init__(self, recorder: Recorder, *, delay_seconds: float = DELAY_SECONDS) -> None:
        self.recorder = recorder
        self.delay_seconds = delay_seconds
        self._begin()
        _backlogs.add(self)

    def _begin(self) -> None:
        self._mutex = threading.Lock()
        self._work = threading.Condition(self._mutex)
        self._empty = threading.Condition(self._mutex)
        self._queue: deque[Offer] = deque()
        self._queued_bytes = 0
        self._drops: Drops | None = None
        self._try_again_at = 0.0
        self._thread: threading.Thread | None = None
        self._stalled = False
        """Somebody has waited in vain since the queue was last empty: nobody waits again."""
        self._said: set[str] = set()
        self._closed = False

    def after_fork_in_child(self) -> None:
        """What is queued, and what was dropped, is the parent's to write and to report."""
        self._begin()

    # -- offering -------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether nothing has been dropped since the store was last written."""
        return self._drops is None

    def submit(
        self,
        draft: Draft,
        *,
        run_id: bytes | None,
        dropped: Dropped,
        opens: bool = False,
        closes: bool = False,
    ) -> Receipt | Offer | None:
        """Put the draft on the record: the receipt if that is done, an offer if it is queued, None if it was
        dropped. Raises nothing."""
        recorder = self.recorder
        if not self._queue and self._drops is None and not recorder.may_wait(draft):
            try:
                return recorder.append(draft, opens=opens, closes=closes)
            except Exception as error:
                self._drop(draft.kind, run_id, error, dropped)
                return None
        size_bytes = draft.frame_bytes + sum(map(len, draft.blobs))
        return self.offer(
            Offer(
                lambda: recorder.append(draft, opens=opens, closes=closes),
                draft.kind, size_bytes, run_id, dropped, essential=closes,
            )
        )  # fmt: skip

    def offer(self, offer: Offer) -> Offer | None:
        """Queue a record, or drop it. Its `done` gets the receipt, or None if it is dropped later."""
        with self._mutex:
            refusal = self._refusal(offer) or self._start()
            if refusal is None:
                self._queue.append(offer)
                self._queued_bytes += offer.size_bytes
                self._work.notify()
        if refusal is not None:
            self._drop(offer.kind, offer.run_id, refusal, offer.dropped)
            return None
        return offer

    def wait(self, offer: Receipt | Offer | None, wait_seconds: float | None = None) -> Receipt | None:
        """The receipt, if it comes within the delay. Code on an event loop never waits."""
        if not isinstance(offer, Offer):
            return offer
        if running_loop() is not None:
            return offer.done.result() if offer.done.done() else None
        if wait_seconds is None:
            wait_seconds = 0.0 if self._stalled else self.delay_seconds
        try:
            return offer.done.result(wait_seconds)
        except concurrent.futures.TimeoutError:
            self._stalled = True
            return None

    def wait_durable(self, stored: Receipt | Offer | None, *, strict: bool) -> None:
        """Wait until a record survives a power loss: as long as it takes if `strict`, else within the delay.
        Raises NotRecorded if `strict`."""
        deadline = time.monotonic() + self.delay_seconds
        receipt = self.wait(stored)
        if strict:
            assert receipt is not None, "a strict record is written where it is offered, or raises"
            receipt.wait_durable()
        elif receipt is not None and running_loop() is None:
            try:
                receipt.wait_durable(max(0.0, deadline - time.monotonic()))
            except (TimeoutError, concurrent.futures.TimeoutError, NotRecorded) as error:
                log.warning("A record is written, and not yet durable: %s", error or "the disk is slow")

    async def settle_durable(self, stored: Receipt | Offer | None) -> None:
        """The same on an event loop, within the delay."""
        try:
            async with asyncio.timeout(self.delay_seconds):
                receipt = await self.settled(stored)
                if receipt is not None:
                    await receipt.durable()
        except (TimeoutError, NotRecorded) as error:
            log.warning("A record is written, and not yet durable: %s", error or "the disk is slow")

    async def settled(self, stored: Receipt | Offer | None) -> Receipt | None:
        """The receipt, once the record has been written; None once it has been dropped."""
        if not isinstance(stored, Offer):
            return stored
        return await asyncio.shield(asyncio.wrap_future(stored.done))

    def _refusal(self, offer: Offer) -> Exception | None:
        """Why it is not even queued."""
        if self._closed:
            return CustodyError("The store has been closed.")
        if len(self._queue) >= QUEUE_RECORDS_MAX or self._queued_bytes + offer.size_bytes > QUEUE_BYTES_MAX:
            return CustodyError("The store's disk is too slow: the queue is full.")
        if self._drops is not None and not offer.essential and time.monotonic() < self._try_again_at:
            return CustodyError("The store could not be written, and is tried again in a moment.")
        return None

    # -- the thread -----------------------------------------------------------------------------------

    def _start(self) -> Exception | None:
        """See to it that somebody works the queue off. Called with the mutex."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="custody-backlog", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # the interpreter is ending
                self._thread = None
                return error
        return None

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._queue:
                    self._stalled = False
                    self._empty.notify_all()
                    if self._drops is None or self._closed:
                        self._thread = None
                        return
                    self._work.wait(RETRY_SECONDS)
                offer = self._queue[0] if self._queue else None
            if offer is None:
                self._report()
            else:
                self._write(offer)

    def _write(self, offer: Offer) -> None:
        """Write what is first in the queue, and only then take it out: until then all others queue up."""
        receipt: Receipt | None = None
        began = time.monotonic()
        try:
            if not self._report() and not offer.essential:
                raise CustodyError("The store could not be written, and still cannot.")
            receipt = offer.write()
        except Exception as error:
            self._drop(offer.kind, offer.run_id, error, offer.dropped)
            ended = time.monotonic()
            self._try_again_at = ended + min(RETRY_SECONDS, RETRY_SHARE * (ended - began))
        with self._mutex:
            self._queue.popleft()
            self._queued_bytes -= offer.size_bytes
        offer.done.set_result(receipt)

    # -- what is dropped ------------------------------------------------------------------------------

    def _drop(self, kind: Kind, run_id: bytes | None, error: Exception, dropped: Dropped) -> None:
        again, cause = dropped(), str(error)
        with self._mutex:
            if self._drops is None:
                self._drops = Drops()
            if not again:
                self._drops.add(kind, run_id, cause)
            first = cause not in self._said
            self._said.add(cause)
            self._start()
        if first:
            log.warning("Records are dropped and counted, the agent goes on: %s", cause)

    def _report(self) -> bool:
        """Put on the record what was dropped; False while that is not possible either."""
        with self._mutex:
            drops = self._drops
            if drops is None:
                return True
            if drops.count:
                self._drops = Drops()  # what is dropped meanwhile is the next gap's
        if drops.count:
            try:
                self.recorder.event("journal.gap", drops.data(), leaf_data=True, run_id=drops.only_run())
            except Exception:
                with self._mutex:
                    if self._drops is not None:
                        drops.absorb(self._drops)
                    self._drops = drops
                return False
            log.warning("The store is back. %d records were dropped; a gap record says so.", drops.count)
        with self._mutex:
            if self._drops is not None and not self._drops.count:
                self._drops = None
                self._said.clear()
        return True

    # -- the end --------------------------------------------------------------------------------------

    def drain(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait until what was offered has been written or dropped, and report a gap; whether all came."""
        deadline = time.monotonic() + seconds
        with self._mutex:
            while self._queue and (left := deadline - time.monotonic()) > 0:
                self._empty.wait(left)
            empty = not self._queue
        return empty and self._report()

    def close(self) -> None:
        """Nothing is taken any more. What is dropped from now on is in no gap record."""
        self.drain()
        with self._mutex:
            self._closed = True
            self._work.notify()


_backlogs: "weakref.WeakSet[Backlog]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for backlog in list(_backlogs):
        backlog.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
