"""Records, from an event loop: what may wait goes through a thread.

Owns the numbering of a run's calls and the choice between appending where the caller is (a page-cache
copy of microseconds) and a thread (a blob, a shared run, no room). Used by `execute` and `run`.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from custody.errors import NotRecorded
from custody.journal import Receipt
from custody.recorder import Draft, Recorder

RECORDER_THREADS = 4  # appends that wait, wait for the same disk: more would only queue there


class Numbering:
    """Positions of one run: 0, 1, 2 … in the order of the first records of its calls."""

    def __init__(self, run_id: bytes, *, shared: bool) -> None:
        self.run_id = run_id
        self.shared = shared
        self.next_position = 0
        self.lock = threading.Lock()
        """Held while a position is taken and its record appended: a record that cannot be kept uses no
        position."""


class Ledger:
    """The recorder for coroutines."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._executor = ThreadPoolExecutor(RECORDER_THREADS, thread_name_prefix="custody-recorder")

    async def append(self, draft: Draft, *, closes: bool = False) -> Receipt:
        """Append a record that takes no position. Raises NotRecorded."""
        if not self.recorder.may_wait(draft):
            return self.recorder.append(draft, closes=closes)
        return await self._in_thread(self.recorder.append, draft, closes=closes)

    async def append_first(
        self, numbering: Numbering | None, draft_at: Callable[[int | None], Draft], *, opens: bool
    ) -> tuple[int | None, Receipt]:
        """Append the first record of a call, numbered in its run. Raises NotRecorded."""
        if numbering is None:
            draft = draft_at(None)
            if not self.recorder.may_wait(draft):
                return None, self.recorder.append(draft, opens=opens)
            return None, await self._in_thread(self.recorder.append, draft, opens=opens)
        if numbering.shared:
            return await self._in_thread(
                self.recorder.append_in_shared_run, numbering.run_id, draft_at, opens=opens
            )
        if numbering.lock.acquire(blocking=False):
            try:
                draft = draft_at(numbering.next_position)
                if not self.recorder.may_wait(draft):
                    return self._number(numbering, draft, opens)
            finally:
                numbering.lock.release()
        return await self._in_thread(self._append_numbered, numbering, draft_at, opens)

    async def append_terminal(self, draft: Draft, without_payload: Callable[[], Draft]) -> Draft:
        """Append a call's terminal record; where its payload finds no room, the record alone.

        Returns the one that is on the record. Raises NotRecorded.
        """
        try:
            await self.append(draft, closes=True)
        except NotRecorded:
            if not draft.blobs:
                raise
            draft = without_payload()
            await self.append(draft, closes=True)
        return draft

    def close(self) -> None:
        self._executor.shutdown(wait=True)

    def _append_numbered(
        self, numbering: Numbering, draft_at: Callable[[int | None], Draft], opens: bool
    ) -> tuple[int, Receipt]:
        with numbering.lock:
            return self._number(numbering, draft_at(numbering.next_position), opens)

    def _number(self, numbering: Numbering, draft: Draft, opens: bool) -> tuple[int, Receipt]:
        receipt = self.recorder.append(draft, opens=opens)
        position = numbering.next_position
        numbering.next_position += 1
        return position, receipt

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: function(*arguments, **named)
        )
