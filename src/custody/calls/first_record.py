"""A run's *started* record, offered until the store has taken it.

Owns the promise that nothing of a run is lost for want of its beginning: the record is offered again after
the store has been away, and a guarded call waits for it. Used by `run`.
"""

import asyncio
from collections import deque
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
        self._stored: Receipt | Offer | None = None
        self.waiting: deque[Draft] = deque()
        """The record, while the store has not taken it and it is not queued. Of several that come at a time,
        from other threads or from a finalizer in this one, one gets it."""

    def offer(self) -> None:
        """Offer it, unless that has been done or the store is away. Raises nothing."""
        backlog, over = self._recording.backlog, self._is_over()
        draft = self._taken() if backlog.healthy or over else None
        if draft is None:
            return

        def dropped() -> bool:
            if self._is_over():
                self._recording.unfinished.append(draft)
            else:
                self.waiting.append(draft)
            return True

        self._stored = backlog.submit(draft, run_id=self._run_id, dropped=dropped, opens=True, essential=over)

    async def on_record(self) -> None:
        """Return once it is written: no act without a record, and no record without its run.

        Raises NotRecorded.
        """
        if isinstance(self._stored, Offer):
            self._stored = await self._recording.backlog.settled(self._stored)
        draft = self._taken()
        if draft is None:
            return
        try:
            await asyncio.to_thread(self._recording.recorder.append, draft, opens=True)
        except BaseException:
            self.waiting.append(draft)
            raise

    def _taken(self) -> Draft | None:
        try:
            return self.waiting.popleft()
        except IndexError:
            return None

    def after_fork_in_child(self) -> None:
        """It is the parent's to offer."""
        self.waiting.clear()
        self._stored = None
