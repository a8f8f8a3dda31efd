"""Records that must not disturb who offers them: kept at once where that is a matter of microseconds, else
by a thread; dropped, counted and reported where the store cannot take them.

Owns the bound on the delay, the queue behind a slow disk, the count of what was dropped and the gap record
that says so once the store is back. Knows nothing of what records mean. Used by `run` and `observe`; the
guarded way of a call uses `ledger`, where a record that cannot be kept stops the call.

A finalizer or a signal handler may offer a record at any moment, also while this very thread holds the lock
here or puts another record: what was looked at before a call may have changed after it.
"""

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from custody.calls.drops import CAUSES_MAX, Drops, cause_of
from custody.errors import NotRecorded
from custody.journal import Receipt
from custody.recorder import Draft, Recorder
from custody.records import Kind

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

QUIET_SECONDS = 10.0
"""What has been said in the log is not said again while it goes on, and for so long after."""

CLOSE_SECONDS = 10.0  # what is queued at the end gets so long to reach the disk

EXIT_SECONDS = 1.0  # the same for a program that just ends

THREAD_END_SECONDS = 1.0  # it ends at once, unless it hangs in the disk: then it is left to end with that

Write = Callable[[], Receipt]
Dropped = Callable[[], bool]
"""Called, from any thread, when a record is dropped. True: it will be offered again, so it is no gap."""


class Offer:
    """A record on its way through the queue."""

    __slots__ = (
        "_future", "dropped", "essential", "kind", "over", "receipt", "run_id", "size_bytes", "write",
    )  # fmt: skip

    def __init__(
        self,
        write: Write | None,
        kind: Kind,
        size_bytes: int,
        run_id: bytes | None,
        dropped: Dropped,
        essential: bool,
    ) -> None:
        self.write = write
        """None once it is over: whoever still holds the offer does not hold the record's payload."""
        self.kind = kind
        self.size_bytes = size_bytes
        self.run_id = run_id
        self.dropped = dropped
        self.essential = essential
        """Room was set aside for it: tried also while the store takes nothing else."""
        self.receipt: Receipt | None = None
        self.over = False
        """Written, which the receipt says, or dropped."""
        self._future: concurrent.futures.Future[Receipt | None] | None = None

    def future(self) -> "concurrent.futures.Future[Receipt | None]":
        """For one who waits: what it became. Only then is there one, for a queue may be long."""
        future = self._future
        if future is None:
            future = self._future = concurrent.futures.Future()
        if self.over:
            self._tell(future)
        return future

    def settle(self, receipt: Receipt | None) -> None:
        self.write, self.receipt = None, receipt
        self.over = True
        if self._future is not None:
            self._tell(self._future)
            self._future = None

    def _tell(self, future: "concurrent.futures.Future[Receipt | None]") -> None:
        try:
            future.set_result(self.receipt)
        except concurrent.futures.InvalidStateError:
            pass  # of the two threads that come here at a time, the other has told


class Backlog:
    """Keeps records for one runtime. Safe for threads; a forked child begins with an empty queue."""

    def __init__(self, recorder: Recorder, *, delay_seconds: float = DELAY_SECONDS) -> None:
        self.recorder = recorder
        self.delay_seconds = delay_seconds
        self._begin()
        _backlogs.add(self)

    def _begin(self) -> None:
        self._mutex = threading.RLock()
        self._work = threading.Condition(self._mutex)
        self._empty = threading.Condition(self._mutex)
        self._room = threading.Condition(self._mutex)
        self._queue: deque[Offer] = deque()
        self._queued_bytes = 0
        self._drops: Drops | None = None
        self._try_again_at = 0.0
        self._failing = ""
        """Why the store takes nothing, while records are dropped."""
        self._thread: threading.Thread | None = None
        self._stands_still = False
        """Somebody has waited in vain for room in the queue, and nothing has been written since."""
        self._stalled = False
        """Somebody has waited in vain since the queue was last empty: nobody waits again."""
        self._said: dict[str, float] = {}
        self._reporting = threading.Lock()
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
        closes: Callable[[], bool] | None = None,
        anew: Callable[[], Draft] | None = None,
        essential: bool = False,
    ) -> Receipt | Offer | None:
        """Put the draft on the record: the receipt if that is done, an offer if it is queued, None if it was
        dropped. Raises nothing.

        `closes` says, when it is written, whether room was set aside for it; `anew` makes the draft once more
        where it had to wait; an `essential` one is tried while nothing else is. A draft whose large values
        find no room is written without them.
        """
        recorder = self.recorder
        if not self._queue and self._drops is None:
            try:
                reserved = closes is not None and closes()
                receipt = recorder.append_at_once(draft, opens=opens, closes=reserved)
            except Exception as error:
                self.drop(draft.kind, run_id, cause_of(error), dropped)
                return None
            if receipt is not None:
                return receipt
        size_bytes = _size_bytes(draft)
        if draft.blobs and self._queued_bytes + size_bytes > QUEUE_BYTES_MAX:
            draft = recorder.without_blobs(draft)
            size_bytes = _size_bytes(draft)

        def write() -> Receipt:
            reserved = closes is not None and closes()
            current = draft if anew is None else anew()
            try:
                return recorder.append(current, opens=opens, closes=reserved)
            except (NotRecorded, OSError):
                if not current.blobs:
                    raise
                return recorder.append(recorder.without_blobs(current), opens=opens, closes=reserved)

        essential = essential or (closes is not None and closes())
        return self.offer(Offer(write, draft.kind, size_bytes, run_id, dropped, essential))

    def offer(self, offer: Offer) -> Offer | None:
        """Queue a record, or drop it; what is queued may be dropped later."""
        with self._mutex:
            if self._is_full(offer):
                self._wait_for_room(offer)
            refusal = self._refusal(offer)
            if refusal is None:
                self._queue.append(offer)
                self._queued_bytes += offer.size_bytes
                self._work.notify()
        if refusal is not None:
            self.drop(offer.kind, offer.run_id, refusal, offer.dropped)
            return None
        self._start()
        return None if offer.over and offer.receipt is None else offer

    def wait(self, offer: Receipt | Offer | None, wait_seconds: float | None = None) -> Receipt | None:
        """The receipt, if it comes within the delay. Code on an event loop never waits, nor does what holds
        up a record that was begun before."""
        if not isinstance(offer, Offer):
            return offer
        if running_loop() is not None or not self.recorder.can_append():
            return offer.receipt
        if wait_seconds is None:
            wait_seconds = 0.0 if self._stalled else self.delay_seconds
        try:
            return offer.future().result(wait_seconds)
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
            except Exception as error:
                self._say_not_durable(error)

    async def settle_durable(self, stored: Receipt | Offer | None) -> None:
        """The same on an event loop, within the delay."""
        try:
            async with asyncio.timeout(self.delay_seconds):
                receipt = await self.settled(stored)
                if receipt is not None:
                    await receipt.durable()
        except Exception as error:
            self._say_not_durable(error)

    def _say_not_durable(self, error: Exception) -> None:
        slow = isinstance(error, TimeoutError | concurrent.futures.TimeoutError)
        cause = "the disk is slow" if slow else cause_of(error)
        with self._mutex:
            first = self._is_news(f"not durable: {cause}")
        if first:
            log.warning("A record is written, and not yet durable: %s.", cause)

    def _is_news(self, words: str) -> bool:
        """Whether this has not been said for a while: a store that is nearly full comes and goes. Called with
        the mutex."""
        now = time.monotonic()
        if len(self._said) >= CAUSES_MAX and words not in self._said:
            return False
        last = self._said.get(words)
        self._said[words] = now
        return last is None or now - last > QUIET_SECONDS

    async def settled(self, stored: Receipt | Offer | None) -> Receipt | None:
        """The receipt, once the record has been written; None once it has been dropped."""
        if not isinstance(stored, Offer):
            return stored
        return await asyncio.shield(asyncio.wrap_future(stored.future()))

    def _refusal(self, offer: Offer) -> str | None:
        """Why it is not even queued. What is essential always is: there is no more of it than calls and runs
        that are open."""
        if self._closed:
            return "The store has been closed."
        if offer.essential:
            return None
        if self._is_full(offer):
            return "The store's disk is too slow: the queue is full."
        if self._drops is not None and time.monotonic() < self._try_again_at:
            return self._failing
        return None

    def _is_full(self, offer: Offer) -> bool:
        """Whether the queue has no room for it."""
        if offer.essential:
            return False
        return (
            len(self._queue) >= QUEUE_RECORDS_MAX or self._queued_bytes + offer.size_bytes > QUEUE_BYTES_MAX
        )

    def _wait_for_room(self, offer: Offer) -> None:
        """A disk that is slow slows down who outruns it; one that stands still does so once. Called with the
        mutex, which it gives up meanwhile."""
        if self._closed or self._stands_still or running_loop() is not None:
            return
        wanted = self._room.wait_for(lambda: self._closed or not self._is_full(offer), self.delay_seconds)
        self._stands_still = not wanted

    # -- the thread -----------------------------------------------------------------------------------

    def _start(self) -> None:
        """See to it that somebody works the queue off. Called without the mutex: a thread that starts may be
        the one that a finalizer interrupts."""
        if self._thread is not None or self._closed:
            return
        thread = threading.Thread(target=self._run, name="custody-backlog", daemon=True)
        with self._mutex:
            if self._thread is not None or self._closed:
                return  # a finalizer has done it, or another thread
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or the machine has no thread left
            self._drop_queued("There is no thread to write with.")

    def _drop_queued(self, cause: str) -> None:
        with self._mutex:
            self._thread = None
            stranded = list(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
        for offer in stranded:
            self._count(offer.kind, offer.run_id, cause, offer.dropped)
            offer.settle(None)

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._queue:
                    self._stalled = False
                    self._empty.notify_all()
                if not self._queue:
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
        receipt, cause = None, ""
        began = time.monotonic()
        if self._report() or offer.essential:
            assert offer.write is not None, "it is written once"
            try:
                receipt = offer.write()
            except Exception as error:
                cause = cause_of(error)
        if receipt is None:
            self.drop(offer.kind, offer.run_id, cause or self._failing, offer.dropped)
            ended = time.monotonic()
            self._try_again_at = ended + min(RETRY_SECONDS, RETRY_SHARE * (ended - began))
        with self._mutex:
            self._queue.popleft()
            self._queued_bytes -= offer.size_bytes
            self._stands_still = False
            self._room.notify()
        offer.settle(receipt)

    # -- what is dropped ------------------------------------------------------------------------------

    def drop(self, kind: Kind, run_id: bytes | None, cause: str, dropped: Dropped) -> None:
        """Count a record that cannot be kept, and see to it that a gap record says so."""
        self._count(kind, run_id, cause, dropped)
        self._start()

    def _count(self, kind: Kind, run_id: bytes | None, cause: str, dropped: Dropped) -> None:
        again = dropped()
        with self._mutex:
            self._failing = cause
            fresh = self._drops or Drops()
            drops = self._drops = self._drops or fresh
            if not again:
                drops.add(kind, run_id, cause)
            first = self._is_news(cause)
        if first:
            log.warning("Records are dropped and counted, the agent goes on: %s", cause)

    def _report(self, wait_seconds: float = -1) -> bool:
        """Put on the record what was dropped; False while that is not possible either."""
        if self._drops is None:
            return True
        if not self._reporting.acquire(timeout=wait_seconds):
            return False
        try:
            return self._report_alone()
        finally:
            self._reporting.release()

    def _report_alone(self) -> bool:
        with self._mutex:
            drops = self._drops
            if drops is None:
                return True
            if drops.count:
                self._drops = Drops()  # what is dropped meanwhile is the next gap's
        if drops.count:
            try:
                self.recorder.append(self._gap(drops))
            except Exception:
                with self._mutex:
                    if self._drops is not None:
                        drops.absorb(self._drops)
                    self._drops = drops
                return False
            with self._mutex:
                first = self._is_news("back")
            if first:
                log.warning("The store can be written. A gap record says that %d were dropped.", drops.count)
        with self._mutex:
            if self._drops is not None and not self._drops.count:
                self._drops = None
        return True

    def _gap(self, drops: Drops) -> Draft:
        return self.recorder.draft_event("journal.gap", drops.data(), leaf_data=True, run_id=drops.only_run())

    # -- the end --------------------------------------------------------------------------------------

    def drain(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait until what was offered has been written or dropped, and report a gap; whether all came."""
        deadline = time.monotonic() + seconds
        with self._mutex:
            while self._queue and (left := deadline - time.monotonic()) > 0:
                self._empty.wait(left)
            empty = not self._queue
        return empty and self._report(max(0.0, deadline - time.monotonic()))

    def close(self) -> Draft | None:
        """Nothing is taken any more. Returns the gap record that could not be written, for whoever opens the
        store next; what is dropped from now on is in none."""
        self.drain()
        with self._mutex:
            self._closed = True
            self._work.notify()
            drops, thread = self._drops, self._thread
        if thread is not None and thread.is_alive():
            thread.join(THREAD_END_SECONDS)
        return self._gap(drops) if drops is not None and drops.count else None


def _size_bytes(draft: Draft) -> int:
    return draft.frame_bytes + sum(map(len, draft.blobs))


_backlogs: "weakref.WeakSet[Backlog]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for backlog in list(_backlogs):
        backlog.after_fork_in_child()


def _drain_at_exit() -> None:
    """A program ends without closing its store: what is queued is written, by threads that still run."""
    for backlog in list(_backlogs):
        backlog.drain(EXIT_SECONDS)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_drain_at_exit)
