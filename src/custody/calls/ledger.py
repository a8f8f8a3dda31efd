"""Records, from an event loop: what may wait goes through a thread.

Owns the choice between appending where the caller is (a page-cache
copy of microseconds) and a thread (a blob, a shared run, no room). Used by `execute` and `run`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from custody.calls.numbering import Numbering
from custody.errors import NotRecorded, StoreClosed
from custody.journal import Receipt
from custody.recorder import Draft, Recorder

RECORDER_THREADS = 4  # appends that wait, wait for the same disk: more would only queue there


class Ledger:
    """The recorder for coroutines."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._closed = False
        self._executor = ThreadPoolExecutor(RECORDER_THREADS, thread_name_prefix="custody-recorder")

    async def append(self, draft: Draft, *, closes: bool = False) -> Receipt:
        """Append a record that takes no position. Raises NotRecorded."""
        receipt = self.recorder.append_at_once(draft, closes=closes)
        if receipt is None:
            receipt = await self._in_thread(self.recorder.append, draft, closes=closes)
        return receipt

    async def append_first(
        self, numbering: Numbering | None, draft_at: Callable[[int | None], Draft], *, opens: bool
    ) -> tuple[int | None, Receipt]:
        """Append the first record of a call, numbered in its run. Raises NotRecorded."""
        if numbering is None:
            draft = draft_at(None)
            receipt = self.recorder.append_at_once(draft, opens=opens)
            if receipt is None:
                receipt = await self._in_thread(self.recorder.append, draft, opens=opens)
            return None, receipt
        if numbering.shared:
            return await self._in_thread(
                self.recorder.append_in_shared_run, numbering.run_id, draft_at, opens=opens
            )
        if numbering.guarded.acquire(blocking=False):
            try:
                appended = self._number(numbering, draft_at, opens, may_wait=False)
            finally:
                numbering.guarded.release()
            if appended is not None:
                return appended
        return await self._in_thread(self._number_waiting, numbering, draft_at, opens)

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
        self._closed = True
        self._executor.shutdown(wait=True)

    def _number_waiting(
        self, numbering: Numbering, draft_at: Callable[[int | None], Draft], opens: bool
    ) -> tuple[int | None, Receipt] | None:
        with numbering.guarded:
            return self._number(numbering, draft_at, opens, may_wait=True)

    def _number(
        self, numbering: Numbering, draft_at: Callable[[int | None], Draft], opens: bool, *, may_wait: bool
    ) -> tuple[int | None, Receipt] | None:
        """Take the next position and append; None where that would have to wait and may not."""
        position, receipt = numbering.take(), None
        try:
            append = self.recorder.append if may_wait else self.recorder.append_at_once
            receipt = append(draft_at(position), opens=opens)
        finally:
            if receipt is None:
                numbering.give_back(position)
        return None if receipt is None else (position, receipt)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Raises StoreClosed."""
        if self._closed:
            raise StoreClosed
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: function(*arguments, **named)
        )
