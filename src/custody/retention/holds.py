"""Runs that are held: nothing they said is purged until they are released.

Owns the two events and what they add up to. A hold waits for a purge that is under way, so that it never
comes to stand beside the purge it was meant to prevent. Used by the command line.
"""

import time
from typing import Any

from msgspec import Struct

from custody.errors import PurgeRefused
from custody.index import Index
from custody.journal import Journal
from custody.journal.disk import Lock
from custody.recorder import Recorder
from custody.retention.survey import HELD, RELEASED

LOCK_WAIT_SECONDS = 10.0
"""A small purge is over by then; who waits for a large one would rather be told."""
LOCK_PAUSE_SECONDS = 0.02

PAGE_EVENTS = 1_000


class Hold(Struct, frozen=True, kw_only=True):
    """A run that is held."""

    run_id: str
    reason: str | None
    held_at: str


def hold_run(journal: Journal, recorder: Recorder, run_id: bytes, reason: str | None) -> None:
    """Durably. Raises NotRecorded, PurgeRefused."""
    _state(journal, recorder, HELD, run_id, reason)


def release_run(journal: Journal, recorder: Recorder, run_id: bytes, reason: str | None) -> None:
    """Durably. Raises NotRecorded, PurgeRefused."""
    _state(journal, recorder, RELEASED, run_id, reason)


def held_runs(index: Index) -> list[Hold]:
    """The last held first."""
    latest: dict[str, tuple[str, bool, Hold]] = {}
    for name in (RELEASED, HELD):
        cursor: str | None = None
        while True:
            page = index.events(name=name, limit=PAGE_EVENTS, cursor=cursor)
            for event in page.items:
                assert event.run_id is not None, "both are of a run"
                data: dict[str, Any] = event.data or {}
                reason = data.get("reason")
                hold = Hold(run_id=event.run_id, reason=reason, held_at=event.at)
                said = (event.at, name == HELD, hold)
                known = latest.get(event.run_id)
                if known is None or said[:2] > known[:2]:
                    latest[event.run_id] = said
            cursor = page.next
            if cursor is None:
                break
    held = [hold for _, holds, hold in latest.values() if holds]
    return sorted(held, key=lambda hold: hold.held_at, reverse=True)


def purge_lock(journal: Journal) -> Lock:
    """The right to purge, waited for. Raises PurgeRefused."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while (lock := journal.purging.lock()) is None:
        if time.monotonic() > deadline:
            raise PurgeRefused("Another process is purging this store.", hint="Try again when it is done.")
        time.sleep(LOCK_PAUSE_SECONDS)
    return lock


def _state(journal: Journal, recorder: Recorder, name: str, run_id: bytes, reason: str | None) -> None:
    lock = purge_lock(journal)
    try:
        data = {"run_id": run_id.hex(), "reason": reason}
        recorder.event(name, data, leaf_data=True, essential=True, run_id=run_id).wait_durable()
    finally:
        lock.release()
