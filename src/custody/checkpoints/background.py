"""When a checkpoint is due, beside a program that has other things to do.

Owns the thread that signs, from the first durable record on, and what becomes of a checkpoint that cannot be
made: recording goes on, the failure is counted and said once for each cause, and it is tried again. Used by
`compose` for every runtime.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable

from msgspec import Struct

from custody.checkpoints.destinations import Destinations
from custody.checkpoints.log import newest_note
from custody.checkpoints.sealer import Record, Sealer
from custody.errors import CustodyError, NotRecorded
from custody.journal import Disk, Journal
from custody.journal.checkpoint import Note
from custody.records import now_us, rfc3339

RETRY_SECONDS = 0.25
"""Another process signs for some milliseconds at a time."""

RETRY_SECONDS_MAX = 60.0
"""Between tries while nothing can be signed: a full disk, a key that is gone."""

CLOSE_LOCK_SECONDS = 1.0
"""At the close: beyond this the next writer, or `custody checkpoint`, signs what is left."""

STOP_SECONDS = 5.0
"""For a checkpoint in the making when the store is closed: a sync of a slow disk."""

log = logging.getLogger("custody")


class Due(Struct, frozen=True, kw_only=True):
    """When a checkpoint is made."""

    records: int = 10_000
    seconds: float = 10.0
    always_at_close: bool = True
    """Else, at the close, only when the newest one is older than `seconds`: a thousand commands one after
    the other leave a few checkpoints."""


class BackgroundSealing:
    """Signs a journal's durable records until it is stopped."""

    def __init__(
        self, disk: Disk, journal: Journal, record: Record, due: Due, destinations: Destinations
    ) -> None:
        """Begins at once; the thread begins with the first record that is durable, or with what the last
        writer left where a checkpoint at the close is not enough."""
        self.sealer = Sealer(disk, journal, record)
        self.destinations = destinations
        self.failures = 0
        """Checkpoints that could not be made."""
        self._disk = disk
        self._journal = journal
        self._record = record
        self._due = due
        self._said: set[str] = set()
        self._forget()
        _all.add(self)
        journal.tell_of_durable(self._durable)
        if due.always_at_close and journal.durable_sequence:
            self._durable(journal.durable_sequence)

    def _forget(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._some = threading.Event()
        """Something durable is not signed."""
        self._enough = threading.Event()
        """So much that it is not to wait any longer; or the end."""
        self._stopping = False
        self._failing = False
        self._told = 0
        """The last durable sequence we heard of."""
        self._seen = 0
        """Up to which one the last checkpoint was made."""

    def after_fork_in_child(self) -> None:
        """The thread is the parent's, and so is its shard."""
        self._forget()
        self.sealer.forget()
        self.destinations.forget()

    def _durable(self, sequence: int) -> None:
        """Told by whoever synced; quick, and never raises."""
        self._told = sequence
        if sequence - self._seen >= self._due.records and not self._failing:
            self._enough.set()
        if not self._some.is_set():
            self._some.set()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stopping:
                thread = threading.Thread(target=self._run, name="custody-seal", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError:
                    pass  # the interpreter is ending; the next writer signs what is left

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = self._due.seconds
        while not self._stopping:
            self._some.wait()
            self._enough.wait(pause)
            if self._stopping:
                return
            # In this order: what becomes durable from here on is seen by the next round.
            self._some.clear()
            self._enough.clear()
            if self._told <= self._seen:
                continue  # what we heard of was our own sync
            outcome = self._seal(0.0)
            self._failing = outcome == "failed"
            if outcome == "done":
                pause = self._due.seconds
                continue
            self._some.set()
            pause = RETRY_SECONDS if outcome == "busy" else min(max(pause, 1.0) * 2, RETRY_SECONDS_MAX)

    def _seal(self, wait_seconds: float) -> str:
        """`done`, `busy` when another process signs, or `failed`."""
        made = self.sealer.made
        try:
            self._say_undelivered()
            note = self.sealer.seal(wait_seconds=wait_seconds)
        except (CustodyError, OSError) as error:
            self._failed(error)
            return "failed"
        except Exception as error:  # a defect here must not end the signing, nor the program
            log.exception("A checkpoint could not be made.")
            self._failed(error)
            return "failed"
        if note is None:
            return "busy"
        self._seen = self.sealer.looked
        self._say_refused()
        if self.sealer.made != made:
            self.destinations.offer(note)
        return "done"

    def _say_undelivered(self) -> None:
        """On the record before other records are signed, so that it asks for no checkpoint of its own."""
        data = self.destinations.unsaid()
        if data is not None:
            self._record("checkpoint.undelivered", data)

    def _say_refused(self) -> None:
        for shard, wrong in self.sealer.refused.items():
            self._say(f"Shard {shard} is not signed any further: {wrong}. `custody verify` says more.")

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        said = error.strerror if isinstance(error, OSError) else str(error)
        self._say(f"No checkpoint can be made, recording goes on: {said}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning(text)

    # -- the end ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """One more checkpoint of what has none, then the deliveries. Before the journal is closed."""
        with self._starting:
            self._stopping = True
            thread = self._thread
        self._enough.set()
        self._some.set()
        if thread is not None:
            thread.join(STOP_SECONDS)
        if thread is None or not thread.is_alive():
            if self._due_at_close():
                self._seal(CLOSE_LOCK_SECONDS)
            self.destinations.stop()
            try:
                self._say_undelivered()
            except NotRecorded as error:
                self._failed(error)

    def _due_at_close(self) -> bool:
        if self._journal.shard_number is None:
            return False
        if self._due.always_at_close:
            return True
        try:
            return not is_recent(newest_note(self._disk), self._due.seconds)
        except (CustodyError, OSError):
            return True  # then it is said what is wrong


def is_recent(note: Note | None, seconds: float) -> bool:
    """Whether a checkpoint was made within so many seconds, and not in the future."""
    if note is None:
        return False
    now = now_us()
    # RFC 3339 in one zone with all digits sorts as the times do.
    return rfc3339(now - round(seconds * 1e6)) <= note.checkpoint.time <= rfc3339(now)


_all: "weakref.WeakSet[BackgroundSealing]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for sealing in list(_all):
        sealing.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def start_sealing(
    disk: Disk,
    journal: Journal,
    record: Record,
    due: Due,
    files: Iterable[str] = (),
    commands: Iterable[Iterable[str]] = (),
) -> Callable[[], None]:
    """Sign from here on; gives what stops it."""
    destinations = Destinations(disk, tuple(files), tuple(tuple(command) for command in commands))
    return BackgroundSealing(disk, journal, record, due, destinations).stop
