"""What a dead process left open is closed: calls become unknown, survivors are ended, runs incomplete.

Owns the judgement whether an open call's writer is dead (its shard's lock is free, or the shard has been
leased anew since) and what is recorded of it. Changes to files that it was in the middle of are taken back
where that is exactly possible (`changes.recover`). Runs when a store is opened; never re-runs anything.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from custody.errors import CustodyError
from custody.index import Index, OpenCall, OpenRun
from custody.journal import Journal, ShardState
from custody.recorder import Draft, Recorder
from custody.records import CallFinished, Decision, RunFinished, changes_said, now_us

if TYPE_CHECKING:
    from custody.changes import HeldStore, UndoStore
    from custody.records import Change, Settled


class Recovered(Struct, frozen=True):
    """What recovery closed; ids in hex."""

    calls_unknown: tuple[str, ...] = ()
    calls_rejected: tuple[str, ...] = ()
    runs_incomplete: tuple[str, ...] = ()
    processes_ended: tuple[int, ...] = ()
    processes_reported: tuple[int, ...] = ()
    changes_taken_back: tuple[str, ...] = ()


def recover(
    journal: Journal,
    index: Index,
    make_recorder: Callable[[], Recorder],
    open_undo: "Callable[[], UndoStore]",
    open_held: "Callable[[], HeldStore]",
) -> Recovered:
    """Close what dead writers left open. Only one process at a time does it; others go on at once."""
    if not any(_left_open(journal, index)):
        return Recovered()
    lock = journal.recovery_lock()
    if lock is None:
        return Recovered()
    try:
        # Asked anew, as another process may have closed it before we had the lock; and then once more, as
        # a writer seen gone by now may have finished its call between the index and the look at its shard.
        calls, runs = _left_open(journal, index)
        open_calls = {call.call_id for call in index.open_calls()}
        open_runs = {run.run_id for run in index.open_runs(refresh=False)}
        for call in calls:
            journal.adoptions.take(call.call_id)  # nobody is left who may run its command
        return _close(
            [call for call in calls if call.call_id in open_calls],
            [run for run in runs if run.run_id in open_runs],
            make_recorder(),
            _Files(open_undo, open_held, index),
        )
    finally:
        lock.release()


def _left_open(journal: Journal, index: Index) -> tuple[list[OpenCall], list[OpenRun]]:
    """Open calls and runs that nobody is left to finish."""
    index.refresh()
    states = {state.shard: state for state in journal.shards()}
    return (
        [call for call in index.open_calls(refresh=False) if _orphaned(call, states)],
        [run for run in index.open_runs(refresh=False) if _orphaned(run, states)],
    )


def _orphaned(open_one: OpenCall | OpenRun, states: dict[int, ShardState]) -> bool:
    """Whether nobody is left who could finish it. A shared run, and a call that somebody else runs than its
    writer, live and die with the process they name."""
    if isinstance(open_one, OpenRun):
        named = open_one.shared
    else:
        named = open_one.owner_pid not in (None, open_one.pid)
    alive = _alive(open_one.owner_pid, open_one.owner_start_ticks)
    if alive and (named or open_one.owner_pid != os.getpid()):
        return False
    state = states.get(open_one.shard)
    if state is None or state.holder == "free" or named:
        return True
    return open_one.sequence < state.lease_sequence


def _close(
    calls: list[OpenCall],
    runs: list[OpenRun],
    recorder: Recorder,
    files: "_Files",
) -> Recovered:
    ended: list[int] = []
    reported: list[int] = []
    for call in calls:
        if call.started:
            _end_survivors(call, recorder, ended, reported)
    # Before the calls are closed: should this fail, whoever opens the store next tries again.
    started = [call.call_id for call in calls if call.started]
    taken_back = files.take_back(recorder, started) if started else ()
    for call in calls:
        recorder.append(_end_of(call, recorder, files), closes=True)
    for run in runs:
        # A shared run lives with the process it names, which may well have ended in good order.
        reason = "its owner ended" if run.shared else "killed"
        recorder.append(
            recorder.draft(
                RunFinished, {}, run_id=run.run_id, at_us=now_us(), outcome="incomplete", reason=reason
            ),
            closes=True,
        )
    return Recovered(
        tuple(call.call_id.hex() for call in calls if call.started),
        tuple(call.call_id.hex() for call in calls if not call.started),
        tuple(run.run_id.hex() for run in runs),
        tuple(ended),
        tuple(reported),
        taken_back,
    )


def _end_of(call: OpenCall, recorder: Recorder, files: "_Files") -> Draft:
    """One that was only asked about never ran; its question stays open for the next call like it. Where a
    person had answered, that stays what was decided."""
    reason, decision = "its process ended before the call did", None
    if not call.started and call.answered:
        reason = "its process ended before the call started"
    elif not call.started:
        reason = "its process ended before anybody answered"
        decision = Decision("deny", "nobody", reason)
    held, settles, settled = files.left_by(call) if call.started else (None, None, None)
    changes = None if held is None else held.changes
    return recorder.draft(
        CallFinished,
        {} if changes is None else {"changes": changes_said(changes)},
        call_id=call.call_id,
        at_us=now_us(),
        outcome="unknown" if call.started else "rejected",
        reason=reason,
        decision=decision,
        changes=None if changes is None else len(changes),
        held=None if changes is None else len(changes),
        held_digest=None if held is None else held.digest,
        settles=settles,
        settled=settled,
    )


class _Left(NamedTuple):
    """What is held of a dead call, and the digest of its manifest; None where that is damaged."""

    changes: "tuple[Change, ...]"
    digest: bytes | None


class _Files:
    """What dead calls were at with files, and with changes that are held."""

    def __init__(
        self, open_undo: "Callable[[], UndoStore]", open_held: "Callable[[], HeldStore]", index: Index
    ) -> None:
        self._open_undo = open_undo
        self._open_held = open_held
        self._index = index

    def take_back(self, recorder: Recorder, started: list[bytes]) -> tuple[str, ...]:
        """Undo what calls of dead processes were in the middle of changing; ids of those calls."""
        from custody.changes import recover_changes  # only where something crashed

        found = recover_changes(self._open_undo(), _alive, calls=started)
        for one in found:
            data = {"restored": one.restored, "left": list(one.left), "sealed": one.sealed}
            recorder.event("recovery.restored", data, call_id=one.call_id)
        self._open_held().recover(_alive, self._is_done)
        return tuple(one.call_id.hex() for one in found if one.restored)

    def left_by(self, call: OpenCall) -> "tuple[_Left | None, bytes | None, Settled | None]":
        """What is held of it; or which held changes it had committed or discarded before it died."""
        if call.tool in ("commit", "discard"):
            return (None, *self._settled_by(call))
        try:
            held = self._open_held().read(call.call_id)
        except CustodyError:  # damaged: it can be discarded, and nothing can be told of it
            return _Left((), None), None, None
        # Nobody has said its digest before: from here on it is this.
        return (None if held is None else _Left(held.changes, held.manifest_digest)), None, None

    def _settled_by(self, call: OpenCall) -> "tuple[bytes | None, Settled | None]":
        made = self._index.call(call.call_id.hex(), details=False, refresh=False)
        try:
            meant = bytes.fromhex(self._index.call(made.arguments["call"], details=False, refresh=False).id)
            if made.dry_run or self._open_held().read(meant) is not None:
                return None, None
        except (CustodyError, KeyError, TypeError):  # nobody knows which were meant
            return None, None
        if call.tool == "discard":
            return meant, "discarded"
        return (meant, "committed") if self._is_done(call.call_id) else (None, None)

    def _is_done(self, call_id: bytes) -> bool:
        undo_set = self._open_undo().read(call_id)
        return undo_set is not None and undo_set.done


def _end_survivors(call: OpenCall, recorder: Recorder, ended: list[int], reported: list[int]) -> None:
    """End what provably belongs to the call; say what only may."""
    from custody.sandbox import end_survivors

    gone, left = end_survivors(call.call_id.hex())
    for name, found in (("recovery.reaped", gone), ("recovery.reported", left)):
        if found:
            data: dict[str, Any] = {"processes": [survivor.pid for survivor in found]}
            recorder.event(name, data, leaf_data=True, call_id=call.call_id, run_id=call.run_id)
    ended.extend(survivor.pid for survivor in gone)
    reported.extend(survivor.pid for survivor in left)


def _alive(pid: int | None, ticks: int | None) -> bool:
    """Whether the very process (not a later one of the same number) still runs."""
    if not pid or ticks is None:
        return False
    from custody.sandbox import start_ticks  # seldom asked, and looking loads nothing else of it

    return start_ticks(pid) == ticks
