"""A run's trace: its calls and model turns in order of position, between its start and its end.

Owns the order and the pages. A turn is shown once it and everything before it in the run has ended; when the
run has ended, what is left is shown first, then the end. Whoever asks for a trace and whoever follows one
reads here, always from the index and so from the journal: there is no copy that could differ. A call or step
without a position (a forked child that could not be given a share in the count) has no place in a trace.

Everything here waits, so it belongs on a thread. Used by `live` and `subscriptions`.
"""

from typing import Any

import msgspec
from msgspec import Struct

from custody.index import Index, StepView
from custody.records import Call, Run
from custody.rpc.trace_records import (
    Status,
    TraceRecord,
    ended_record,
    model_turn_record,
    started_record,
    status_of,
    turn_record,
)

PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Of the records in one answer or one page of a subscription, unless the first alone is larger."""

CHUNK_FIRST = 8
CHUNK_MAX = 256
"""Calls read at once: few at first, as each may be large, and more while they turn out small."""

_encode = msgspec.json.Encoder().encode


class Mark(Struct, frozen=True):
    """How far a trace has been read."""

    records: int = 0
    """All of them."""
    position: int = -1
    """Of the last call or step."""
    over: bool = False
    """Its end has been read: nothing more will come."""

    @property
    def turns(self) -> int:
        """Records between the start and the end."""
        return max(0, self.records - (2 if self.over else 1))


class Read(Struct, frozen=True):
    """A record, and how far the trace has been read with it."""

    record: TraceRecord
    mark: Mark
    status: Status


class Page(Struct, frozen=True):
    """Some records of a trace."""

    read: list[Read]
    mark: Mark
    more: bool
    """There are further records by now."""

    @property
    def records(self) -> list[TraceRecord]:
        return [one.record for one in self.read]


class Trace:
    """The trace of one run."""

    def __init__(self, index: Index, run_id: bytes) -> None:
        self._index = index
        self._run_id = run_id
        self._run: Run | None = None

    def run(self) -> Run:
        """As it stands now. Raises NotFound."""
        self._run = self._index.run(self._run_id.hex())
        return self._run

    @property
    def status(self) -> Status:
        """Of the run as it was when it was last read."""
        assert self._run is not None, "it was read before"
        return status_of(self._run.outcome)

    def seek(self, records: int) -> Mark:
        """The place behind so many records, or behind the last one there is. Raises NotFound."""
        run = self.run()
        turns = max(0, records - 1)
        held = run.calls + run.steps
        if run.outcome is None or self._index.max_position(self._run_id, refresh=False) + 1 == held:
            if run.outcome is not None and turns > held:
                return Mark(held + 2, held - 1, over=True)
            return Mark(records, turns - 1)
        mark = Mark()  # positions are missing: the records have to be counted
        while mark.records < records and not mark.over:
            before, mark = mark, self.page(mark, records - mark.records).mark
            if mark == before:
                break
        return mark

    def page(
        self, mark: Mark, limit: int, *, bytes_max: int = PAGE_BYTES_MAX, may_be_over: bool = True,
        with_end: bool = True,
    ) -> Page:  # fmt: skip
        """Up to `limit` records behind the mark, of up to so many bytes.

        `may_be_over` False is the word of whoever works on the run that it is open, which saves asking;
        `with_end` False leaves the run's end for the next page. Raises NotFound.
        """
        # In this order: what is read after a run was found ended is all there is of it.
        run = self.run() if may_be_over or self._run is None else self._run
        return _Reading(self._index, run, mark, limit, bytes_max, with_end).page()


class _Reading:
    """One page in the making."""

    def __init__(
        self, index: Index, run: Run, mark: Mark, limit: int, bytes_max: int, with_end: bool
    ) -> None:
        self._index = index
        self._run = run
        self._mark = mark
        self._limit = limit
        self._bytes_left = bytes_max
        self._with_end = with_end
        self._read: list[Read] = []

    def page(self) -> Page:
        if self._mark.over:
            return Page([], self._mark, more=False)
        more = self._fill()
        return Page(self._read, self._mark, more)

    def _fill(self) -> bool:
        """Whether it was the page that ended, and not the trace."""
        if self._mark.records == 0:
            if self._full():
                return True
            self._add(started_record(self._run), -1, "in_progress")
        chunk, ended = CHUNK_FIRST, self._run.outcome is not None
        while True:
            turns = self._turns(chunk)
            for turn in turns:
                if not ended and not self._is_next(turn):
                    return False
                if self._full():
                    return True
                assert turn.position is not None, "turns are asked for by position"
                record = turn_record(turn) if isinstance(turn, Call) else model_turn_record(turn)
                self._add(record, turn.position, "in_progress")
            if not turns:
                break
            chunk = min(2 * chunk, CHUNK_MAX)
        if not ended or not self._with_end:
            return ended
        if self._full():
            return True
        self._add(ended_record(self._run), self._mark.position, status_of(self._run.outcome), over=True)
        return False

    def _turns(self, count: int) -> list[Call | StepView]:
        """The next calls and steps by position."""
        run_id, after = bytes.fromhex(self._run.id), self._mark.position
        calls = self._index.run_calls(run_id, after_position=after, limit=count)
        steps = self._index.run_steps(run_id, after_position=after, limit=count, refresh=False)
        turns: list[Call | StepView] = [*calls, *steps]
        turns.sort(key=_position)
        return turns[:count]

    def _is_next(self, turn: Call | StepView) -> bool:
        """Whether nothing of an open run that comes before it can still come."""
        ended = isinstance(turn, StepView) or turn.outcome is not None
        return ended and turn.position == self._mark.position + 1

    def _full(self) -> bool:
        return len(self._read) >= self._limit or (self._bytes_left <= 0 and bool(self._read))

    def _add(self, record: TraceRecord, position: int, status: Status, *, over: bool = False) -> None:
        self._mark = Mark(self._mark.records + 1, position, over)
        self._bytes_left -= len(_encode(record))
        self._read.append(Read(record, self._mark, status))


def _position(turn: Any) -> int:
    return turn.position
