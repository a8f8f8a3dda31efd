"""A run's *started* record, offered until the store has taken it.

Owns the promise that nothing of a run is lost for want of its beginning: the record is offered again after
the store has been away, and a guarded call waits for it. Used by `run`.
"""

import asyncio
import threading
from collections.abc import Callable

from custody.calls.backlog import Offer
from custody.calls.recording import Recording
from custody.journal import Receipt
from custody.recorder import Draft


class FirstRecord:
    """What is to be done about the first record of one run."""

    def __init__(self, recording: Recording, run_id: bytes, is_over: Callable[[], bool]) -> None:
        self._recording = recording
        self._run_id = run_id
        self._is_over = is_over
        """Whether the run has ended: then this is the last time, and what fails goes to the next open."""
        self._lock = threading.Lock()
        self._stored: Receipt | Offer | None = None
        self.waiting: Draft | None = None
        """The record, while the store has not taken it and it is not queued."""

    def offer(self) -> None:
        """Offer it, unless that has been done or the store is away. Raises nothing."""
        backlog, over = self._recording.backlog, self._is_over()
        with self._lock:  # of several threads one offers it
            draft = self.waiting
            if draft is None or not (backlog.healthy or over):
                return
            self.waiting = None

        def dropped() -> bool:
            if self._is_over():
                self._recording.unfinished.append(draft)
            else:
                self.waiting = draft
            return True

        self._stored = backlog.submit(draft, run_id=self._run_id, dropped=dropped, opens=True, essential=over)

    async def on_record(self) -> None:
        """Return once it is written: no act without a record, and no record without its run.

        Raises NotRecorded.
        """
        if isinstance(self._stored, Offer):
            self._stored = await self._recording.backlog.settled(self._stored)
        with self._lock:
            draft, self.waiting = self.waiting, None
        if draft is None:
            return
        try:
            await asyncio.to_thread(self._recording.recorder.append, draft, opens=True)
        except BaseException:
            self.waiting = draft
            raise

    def after_fork_in_child(self) -> None:
        """It is the parent's to offer."""
        self._lock = threading.Lock()
        self._stored = self.waiting = None
