"""Work on another thread's event loop, and the wait for it from anywhere.

Owns the crossing between the program's threads and the one that talks to the daemon: a wait that is cut
short cancels the work and hears how it ended. Used by `link` and both faces.
"""

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

END_SECONDS = 10.0
"""How long whoever interrupts a wait is kept until the work has ended: a call is on the record by then."""


class Work(Generic[T]):
    """A coroutine on its way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        """Raises RuntimeError where the loop is closed."""
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(self._start, coroutine, context=contextvars.Context())
        except RuntimeError:
            coroutine.close()
            raise

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self._future.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())

    def cancel(self) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> T:
        """From any thread but the loop's. An interrupt of the wait cancels the work."""
        try:
            return self._future.result()
        except BaseException:
            if not self._future.done():
                self.cancel()
                concurrent.futures.wait([self._future], END_SECONDS)
            raise

    def wait_for(self, seconds: float) -> T:
        """The same, and no longer than that. Raises TimeoutError."""
        return self._future.result(seconds)

    async def over(self) -> T:
        """From another event loop. If the caller is cancelled, the work has ended before it hears."""
        future = asyncio.wrap_future(self._future)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                self.cancel()
                deadline = asyncio.get_running_loop().time() + END_SECONDS
                while not future.done() and asyncio.get_running_loop().time() < deadline:
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait({future}, timeout=END_SECONDS)
            if future.done() and not future.cancelled():
                future.exception()
            raise


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether this is that thread: then nothing may wait for it."""
        return threading.current_thread() is self._thread

    def close(self, seconds: float) -> None:
        """From another thread, once everything on it has ended."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self.loop.close()
