"""Group commit: who waits for the disk, and for whom.

Owns the waiting: leader and followers among threads, one batch per event loop, the background flush. The
sync in flight is the window; there is no timer. Knows nothing of segments: `sync_once` makes everything
written durable and says up to which sequence. Used by `shard`; callers see it through `Receipt`.
"""

from __future__ import annotations  # who only reads loads no asyncio

import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from custody.errors import NotRecorded

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

EXECUTOR_THREADS = 4
"""One batch per event loop is on its way at a time; more loops than this in one process share."""

RETRY_SECONDS = 0.5
"""Between two tries of the background flush while the store cannot be written."""


class _Waiter:
    """A thread that waits for the sync in flight."""

    __slots__ = ("error", "leads", "sequence", "woken")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.woken = threading.Lock()
        self.woken.acquire()
        self.leads = False
        self.error: NotRecorded | None = None


class _Batch:
    """The tasks of one event loop that wait for the next sync."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.running = False


class GroupCommit:
    """Makes written records durable, many with one sync.

    `durable` is the last sequence known durable. `idle` is true while the background flush sleeps until
    it is told of a record: whoever writes calls `wake` then.
    """

    def __init__(
        self, sync_once: Callable[[], int], written: Callable[[], int], durable: int, flush_seconds: float
    ) -> None:
        """`sync_once` returns the sequence up to which all is durable, or raises NotRecorded."""
        self.durable = durable
        self.idle = True
        self.told: Callable[[int], None] | None = None
        """Called with `durable` after each sync, by who led it."""
        self.rests: Callable[[], None] | None = None
        """Called by the background flush when everything is durable and it goes to sleep."""
        self._sync_once = sync_once
        self._written = written
        self._flush_seconds = flush_seconds
        self._mutex = threading.RLock()  # whoever holds it may be interrupted by a finalizer that records
        self._busy = False
        self._waiters: list[_Waiter] = []
        self._batches: dict[asyncio.AbstractEventLoop, _Batch] = {}
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        self._flusher: threading.Thread | None = None
        self._dirty = threading.Event()
        self._closed = threading.Event()
        self._lost = False

    # -- threads ----------------------------------------------------------------------------------------

    def wait(self, sequence: int, timeout_seconds: float | None = None) -> None:
        """Return when `sequence` is durable. Raises NotRecorded, or TimeoutError."""
        if sequence <= self.durable:
            return
        if self._lost:
            raise _lost()
        if timeout_seconds is not None:
            # A leader cannot leave its sync, so somebody else leads for who is in a hurry.
            self._submit(lambda: self.wait(sequence)).result(timeout_seconds)
            return
        with self._mutex:
            if sequence <= self.durable:
                return
            if self._busy:
                waiter = _Waiter(sequence)
                self._waiters.append(waiter)
            else:
                self._busy = True
                waiter = None
        if waiter is not None:
            self._follow(waiter)
            if waiter.error is not None:
                raise _again(waiter.error)
            if not waiter.leads:
                return
        self._lead()

    def _follow(self, waiter: _Waiter) -> None:
        try:
            waiter.woken.acquire()
        except BaseException:
            # Interrupted (Ctrl-C): nobody may wait for this thread to lead.
            with self._mutex:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            if waiter.leads:
                self._pass_on(None)
            raise

    def _lead(self) -> None:
        """Sync once, wake whom it served, and hand the lead to the first whom it did not."""
        error: NotRecorded | None = None
        try:
            self.durable = max(self.durable, self._sync_once())
            if self.told is not None:
                self.told(self.durable)
        except NotRecorded as raised:
            error = raised
            raise
        finally:
            self._pass_on(error)

    def _pass_on(self, error: NotRecorded | None) -> None:
        with self._mutex:
            if not self._waiters:
                self._busy = False
                return
            if error is not None:
                woken, self._waiters = self._waiters, []
            else:
                woken = [waiter for waiter in self._waiters if waiter.sequence <= self.durable]
                self._waiters = [waiter for waiter in self._waiters if waiter.sequence > self.durable]
            leader = self._waiters.pop(0) if self._waiters else None
            self._busy = leader is not None
            if leader is not None:
                leader.leads = True
        for waiter in woken:
            waiter.error = error
            waiter.woken.release()
        if leader is not None:
            leader.woken.release()

    # -- asyncio ----------------------------------------------------------------------------------------

    async def wait_async(self, sequence: int) -> None:
        """As `wait`, for a task: one executor hop serves all tasks of the loop that wait by then."""
        if sequence <= self.durable:
            return
        if self._lost:
            raise _lost()
        import asyncio

        loop = asyncio.get_running_loop()
        batch = self._batches.get(loop)
        if batch is None:
            batch = self._batches[loop] = _Batch()
        future = loop.create_future()
        batch.waiting.append(future)
        if not batch.running:
            batch.running = True
            # Not at once: tasks that are ready to run may append first and join.
            loop.call_soon(self._start_batch, loop, batch)
        await future

    def _start_batch(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        futures, batch.waiting = batch.waiting, []
        try:
            self._submit(lambda: self._run_batch(loop, batch, futures))
        except NotRecorded as error:
            self._end_batch(loop, batch, futures, error)

    def _run_batch(
        self, loop: asyncio.AbstractEventLoop, batch: _Batch, futures: list[asyncio.Future[None]]
    ) -> None:
        error: Exception | None = None
        try:
            self.wait(self._written())
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(self._end_batch, loop, batch, futures, error)
        except RuntimeError:
            pass  # the loop was closed: nobody waits any more

    def _end_batch(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: _Batch,
        futures: list[asyncio.Future[None]],
        error: Exception | None,
    ) -> None:
        for future in futures:
            if future.done():
                continue  # its task was cancelled
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(_again(error))
        if batch.waiting:
            self._start_batch(loop, batch)
        else:
            batch.running = False
            self._batches.pop(loop, None)

    def _submit(self, work: Callable[[], None]) -> concurrent.futures.Future[None]:
        with self._mutex:
            if self._closed.is_set():
                raise NotRecorded("The store was closed before the record was durable.")
            if self._executor is None:
                import concurrent.futures

                self._executor = concurrent.futures.ThreadPoolExecutor(EXECUTOR_THREADS, "custody-commit")
            return self._executor.submit(work)

    # -- the background flush ---------------------------------------------------------------------------

    def wake(self) -> None:
        """Tell the background flush that something was written."""
        with self._mutex:
            if not self.idle or self._closed.is_set():
                return
            self.idle = False
            self._dirty.set()
            is_first = self._flusher is None
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush, name="custody-flush", daemon=True)
            flusher = self._flusher
        if is_first:  # without the mutex: it may record as it starts
            try:
                flusher.start()
            except RuntimeError:
                self._flusher = None  # the interpreter is ending; what is written stays written

    def _flush(self) -> None:
        while not self._closed.is_set():
            self._dirty.wait()
            self._dirty.clear()
            pause = self._flush_seconds
            while not self._closed.wait(pause):
                if self._written() > self.durable:
                    try:
                        self.wait(self._written())
                        pause = self._flush_seconds
                    except NotRecorded:
                        pause = RETRY_SECONDS
                        continue
                # In this order: a record written meanwhile is seen here, or its writer sees `idle`.
                self.idle = True
                if self._written() <= self.durable or not self._resume():
                    if self.rests is not None:
                        self.rests()
                    break

    def _resume(self) -> bool:
        """Take `idle` back; False when a writer has done so and set `_dirty`."""
        with self._mutex:
            resumed, self.idle = self.idle, False
            return resumed

    # -- the end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the threads. What is not durable by now is not waited for."""
        with self._mutex:
            self._closed.set()
            executor, self._executor = self._executor, None
        self._dirty.set()
        flusher = self._flusher
        if flusher is not None and flusher.is_alive() and flusher is not threading.current_thread():
            flusher.join()
        if executor is not None:
            executor.shutdown(wait=True)

    def lose(self) -> None:
        """In a forked child: the threads and the locks are the parent's."""
        self._lost = True


def _lost() -> NotRecorded:
    return NotRecorded("The record was written by the parent process, which alone can sync it.")


def _again(error: Exception) -> Exception:
    """A fresh exception for each waiter, so that their tracebacks stay apart."""
    if not isinstance(error, NotRecorded):
        return error
    fresh = NotRecorded(error.message, hint=error.hint, **error.details)
    fresh.__cause__ = error.__cause__
    return fresh


def not_recorded(error: OSError) -> NotRecorded:
    return NotRecorded(
        f"The record cannot be kept, so nothing was run: {error.strerror or error}.",
        hint="Make room in the store or repair its disk, then try again.",
        error=error.errno,
    )


class Receipt(Struct, eq=False, gc=False):
    """The record is written: it survives the death of this process. It can be asked for more."""

    shard: int
    sequence: int
    _commit: GroupCommit

    def __repr__(self) -> str:
        return f"Receipt(shard={self.shard}, sequence={self.sequence}, durable={self.is_durable})"

    @property
    def is_durable(self) -> bool:
        """Whether the record survives a power loss."""
        return self._commit.durable >= self.sequence

    def wait_durable(self, timeout_seconds: float | None = None) -> None:
        """For threads; never on an event loop. Raises NotRecorded, or TimeoutError."""
        self._commit.wait(self.sequence, timeout_seconds)

    def durable(self) -> Coroutine[Any, Any, None]:
        """For tasks: await it. Raises NotRecorded."""
        return self._commit.wait_async(self.sequence)
