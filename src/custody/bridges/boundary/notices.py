"""Telling the start and the end of each call, off its caller's path.

Owns the queue, the thread that works it off, and the count of what nobody took. A caller leaves a few words
and goes on; with no room left for them they are counted instead. A start and an end say nothing of what a
call was asked or what it gave. Used by `compose`; `calls` tells it of calls.
"""

import functools
import itertools
import json
import logging
import os
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import Any

from custody.bridges.boundary.delivery import Delivery
from custody.bridges.boundary.listener import Listener
from custody.calls.notices import Ending
from custody.errors import CustodyError
from custody.recorder import Recorder
from custody.records import rfc3339

log = logging.getLogger("custody")

UNDELIVERED = "boundary.undelivered"

QUEUE_NOTICES_MAX = 4096
"""About one megabyte; a listener that is further behind tells nobody what happens now."""
CLOSE_SECONDS = 0.05  # a store is closed no later than this for a listener's sake
CAUSES_MAX = 16  # kinds of failure that are told apart; a listener that answers at random makes no more
NAME_CHARACTERS_MAX = 256  # of a tool's or an error's name: a notice fits one read of any listener

QUEUE_FULL = "the queue was full"
LEFT_AT_CLOSE = "it was still queued when the store was closed"
OTHERS = "other"


class BoundaryNotices:
    """Tells one listener of the calls of one runtime. `close` it before the store."""

    def __init__(self, listener: Listener, recorder: Recorder) -> None:
        self._listener = listener
        self._recorder = recorder
        self._shorten = functools.lru_cache(maxsize=1024)(self._clean)
        self._platform = f"{os.uname().sysname} {os.uname().machine}"
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        """As new; in a forked child too, where what is queued is the parent's to tell."""
        self._pid = os.getpid()
        self._delivery = Delivery(self._listener)
        self._queue: SimpleQueue[tuple[str, bytes, str, int, Ending | None] | None] = SimpleQueue()
        self._numbers = itertools.count()
        self._counting = threading.RLock()  # whoever holds it may be interrupted by a finalizer that records
        self._thread: threading.Thread | None = None
        self._closed = self._final = False
        self._delivered = 0
        self._causes: dict[str, int] = {}
        self._said: set[str] = set()

    def after_fork_in_child(self) -> None:
        self._delivery.drop()
        self._begin()

    # -- told by calls, on their path -----------------------------------------------------------------

    def started(self, call_id: bytes, tool: str, at_us: int) -> None:
        self._put(("start", call_id, tool, at_us, None))

    def ended(self, ending: Ending) -> None:
        self._put(("end", ending.call_id, ending.tool, ending.at_us, ending))

    def _put(self, notice: tuple[str, bytes, str, int, Ending | None]) -> None:
        if self._closed:
            return
        next(self._numbers)  # counts in one step, which `+= 1` does not
        if self._queue.qsize() >= QUEUE_NOTICES_MAX:
            self._count(QUEUE_FULL)
            return
        self._queue.put(notice)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="custody-boundary", daemon=True)
        with self._counting:
            if self._thread is not None:
                return  # a finalizer has done it, or another thread
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or the machine has no thread left: the next tries
            self._thread = None

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        queue, delivery = self._queue, self._delivery
        while (notice := queue.get()) is not None:
            try:
                cause = delivery.post(self._body(*notice))
            except Exception as error:  # a fault of ours costs a notice and no more
                cause = type(error).__name__
            self._count(cause)
            self._say_news()

    def _body(self, event: str, call_id: bytes, tool: str, at_us: int, ending: Ending | None) -> bytes:
        """The three fields by which listeners pair notices come first: some look for them in the text."""
        said: dict[str, Any] = {
            "pid": self._pid,
            "sig": call_id.hex(),
            "event": event,
            "call_id": call_id.hex(),
            "tool": self._shorten(tool),
            "timestamp": rfc3339(at_us),
            "platform": self._platform,
            "child_pid": None if ending is None else ending.child_pid,
        }
        if ending is not None:
            elapsed_us, kind, outcome = ending.latency_us, ending.error_class, ending.outcome
            said["elapsed_ms"] = None if elapsed_us is None else elapsed_us / 1000
            said["success"] = None if outcome == "unknown" else outcome == "succeeded"
            said["outcome"] = outcome
            said["error_class"] = None if kind is None else self._shorten(kind)
        return json.dumps(said).encode("ascii")

    def _clean(self, name: str) -> str:
        """A name as others may have it: callers choose it, so it can be long, odd, or a secret."""
        clean, _ = self._recorder.clean_text(name.encode(errors="backslashreplace").decode(), "tool")
        return clean if len(clean) <= NAME_CHARACTERS_MAX else clean[: NAME_CHARACTERS_MAX - 1] + "…"

    # -- the count ------------------------------------------------------------------------------------

    @property
    def delivered(self) -> int:
        """Notices that the listener took."""
        return self._delivered

    @property
    def undelivered(self) -> int:
        """Notices that it did not, so far; after the close of all."""
        with self._counting:
            return sum(self._causes.values())

    def _count(self, cause: str | None) -> None:
        with self._counting:
            if self._final:
                return  # the close has counted it
            if cause is None:
                self._delivered += 1
            else:
                cause = cause if cause in self._causes or len(self._causes) < CAUSES_MAX else OTHERS
                self._causes[cause] = self._causes.get(cause, 0) + 1

    def _say_news(self) -> None:
        with self._counting:
            news = [cause for cause in self._causes if cause not in self._said]
            self._said.update(news)
        for cause in news:
            log.warning(
                "A boundary notice did not reach %s: %s. Such ones are counted, calls go on.",
                self._listener.shown,
                cause,
            )

    # -- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Deliver what can be within `CLOSE_SECONDS`, and record how many were not. Raises nothing."""
        with self._counting:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        with self._counting:
            self._final = True
            left = next(self._numbers) - self._delivered - sum(self._causes.values())
            if left > 0:
                self._causes[LEFT_AT_CLOSE] = left
        self._delivery.abort()
        self._empty()
        self._say_news()
        if self._causes:
            self._record()

    def _empty(self) -> None:
        """Whatever is queued has been counted; the thread, if it is still there, finds its end."""
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            self._queue.put(None)

    def _record(self) -> None:
        data = {
            "listener": self._listener.shown,
            "delivered": self._delivered,
            "undelivered": self.undelivered,
            "causes": dict(self._causes),
        }
        try:
            self._recorder.event(UNDELIVERED, data, leaf_data=True)
        except (CustodyError, OSError) as error:
            log.warning("How many boundary notices were not delivered could not be recorded: %s", error)


_living: "weakref.WeakSet[BoundaryNotices]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for notices in list(_living):
        notices.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
