"""Held changes whose time is over: discarded, and never without a record of it.

Owns when that is so, what is recorded, and that it is recorded first. How a set lies in the store and goes is
`changes`'. Used by whoever opens a store to write, and by the keeper.
"""

from collections.abc import Callable
from typing import Protocol

from custody.errors import HeldBusy, NotFound, NothingHeld
from custody.index import Index
from custody.recorder import Recorder
from custody.retention.holds import held_runs

EXPIRED = "held.expired"

DAY_NS = 24 * 3600 * 1_000_000_000


class HeldSets(Protocol):
    """Where they are."""

    def older_than(self, before_ns: int) -> list[bytes]: ...

    def discard(self, call_id: bytes, *, first: Callable[[], None]) -> object: ...


def discard_expired(
    held: HeldSets,
    days_max: float,
    now_ns: int,
    open_index: Callable[[], Index],
    make_recorder: Callable[[], Recorder],
) -> list[bytes]:
    """Discard what has been held for longer than `days_max` (0: nothing is), and say which calls' it was.

    Nothing of a run that is held itself goes; what somebody is at work on goes the next time. Raises OSError,
    NotRecorded: what was not recorded is held still.
    """
    over = held.older_than(now_ns - round(days_max * DAY_NS)) if days_max else []
    if not over:
        return []
    index, recorder = open_index(), make_recorder()
    try:
        kept = {hold.run_id for hold in held_runs(index)}
        return [call_id for call_id in over if _discarded(call_id, held, index, recorder, days_max, kept)]
    finally:
        index.close()


def _discarded(
    call_id: bytes, held: HeldSets, index: Index, recorder: Recorder, days_max: float, kept: set[str]
) -> bool:
    try:
        call = index.call(call_id.hex(), details=False)
    except NotFound:  # its record was lost with the machine, or dropped
        call = None
    if call is not None and call.run_id in kept:
        return False

    def record() -> None:
        if call is not None and call.held != "held":
            return  # recorded by a process that was then killed
        data = {"call": call_id.hex(), "days_max": days_max}
        if call is not None:
            data |= {"changes": call.changes_count, "digest": call.held_digest}
        recorder.event(EXPIRED, data, leaf_data=True, call_id=call_id).wait_durable()

    try:
        held.discard(call_id, first=record)
    except (HeldBusy, NothingHeld):
        return False
    return True
