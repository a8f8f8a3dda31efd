"""Samples of the machine, taken at most once a second while calls run, and put on the record.

Owns when a sample is due. A call names the sample before it and the one after it; calls in the same
second share one.
"""

import asyncio
import time
from typing import Any

from msgspec import Struct

from custody.calls.ledger import Ledger
from custody.errors import NotRecorded
from custody.host import HostSample, Sampler
from custody.records import CALL_ID_BYTES, Event, now_us

SAMPLE_SECONDS = 1.0


class Sampled(Struct, frozen=True):
    """One sample, what the record says of it, and the id of its event."""

    sample: HostSample | None = None
    data: dict[str, Any] | None = None
    event_id: bytes | None = None
    """None for a sample that could not be recorded: it guards all the same."""


class Samples:
    """The newest sample."""

    def __init__(self, sampler: Sampler, ledger: Ledger) -> None:
        self._sampler = sampler
        self._ledger = ledger
        self._due_at = 0.0
        self._newest = Sampled()
        self._lock = asyncio.Lock()

    async def newest(self) -> Sampled:
        """A sample of the last second."""
        if time.monotonic() < self._due_at:
            return self._newest
        async with self._lock:
            if time.monotonic() >= self._due_at:
                self._newest = await self._take()
                self._due_at = time.monotonic() + SAMPLE_SECONDS
        return self._newest

    async def _take(self) -> Sampled:
        sample = await asyncio.to_thread(self._sampler.sample)
        data = sample.to_data()
        recorder = self._ledger.recorder
        event_id = recorder.ids.take(CALL_ID_BYTES)
        draft = recorder.draft(
            Event, {"sample": sample.to_values()}, event_id=event_id, name="host.sampled", at_us=now_us()
        )
        try:
            await self._ledger.append(draft)
        except NotRecorded:
            return Sampled(sample, data)
        return Sampled(sample, data, event_id)
