"""What each row of the index must say, worked out from records alone.

Owns the sums by which millions of rows are compared without being held: each row, made from records here and
read from the file there, adds or takes away a keyed number; what does not come to zero in the end differs.
Rows are made as the index makes them: of two records that want the same place in a row the earlier wins.
Knows nothing of SQL. Used by `index`.
"""

import secrets
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from custody.records import (
    CallAnswered,
    CallAsked,
    CallFinished,
    CallStarted,
    Event,
    Kind,
    Leaf,
    Request,
    RunFinished,
    RunStarted,
    Step,
    Tokens,
)

BUCKETS = 4096
"""Of a million rows one bucket has some 250, which are then compared one by one."""

AMOUNT_MAX = 2**44
"""What a step counts beyond this the index takes as unknown."""

NOWHERE = (None, None, None)
NO_WORD = -2
"""Stands for a word that the index does not have."""

STARTED = int(Kind.CALL_STARTED)
FINISHED = int(Kind.CALL_FINISHED)

Row = tuple[Any, ...]
Take = Callable[[Any, int, int, int, int], None]
"""Told of each record: leaf, kind, segment, offset, sequence."""

Place = tuple[int, int, int]

_encode = msgspec.msgpack.Encoder().encode
_NOTHING_SAID = Tokens()
_REQUESTED: Row = (None,) * 18


class CallParts(Struct):
    """The records of one call so far."""

    first: tuple[tuple[int, Place], Row] | None = None
    """When it was asked and where, and what it says."""
    answered: Place | None = None
    started: Place | None = None
    finished: tuple[tuple[int, Place], Row] | None = None

    def row(self, tag: int, call_id: bytes) -> Row:
        requested, at_us = _REQUESTED, None
        if self.first is not None:
            (at_us, _), requested = self.first
        outcome, elapsed, latency, passed, finished = 0, None, None, None, NOWHERE
        if self.finished is not None:
            (finished_at, finished), (outcome, latency, passed) = self.finished
            elapsed = finished_at - (at_us or 0)
        return (
            tag, call_id, *requested, outcome, at_us, elapsed, latency, passed,
            *(self.first[0][1] if self.first is not None else NOWHERE), *(self.answered or NOWHERE),
            *(self.started or NOWHERE), *finished,
        )  # fmt: skip


class RunParts(Struct):
    """The records of one run so far."""

    first: tuple[tuple[int, Place], Row] | None = None
    finished: tuple[tuple[int, Place], Row] | None = None

    def row(self, tag: int, run_id: bytes) -> Row:
        said: Row = (None,) * 8
        at_us = elapsed = None
        ended: Row = (0, None, None)
        first: Row = NOWHERE
        finished: Row = NOWHERE
        if self.first is not None:
            (at_us, first), said = self.first
        if self.finished is not None:
            (finished_at, finished), ended = self.finished
            elapsed = finished_at - (at_us or 0)
        return (tag + 1, run_id, *said, at_us, elapsed, *ended, *first, *finished)


class Sums:
    """Rows added up: all of them, or by groups of ids."""

    def __init__(self) -> None:
        self.total = 0
        self.buckets = [0] * BUCKETS

    def add(self, row: Row) -> None:
        """A row as the records say it."""
        self.total += hash(_encode(row))

    def take_away(self, rows: Iterable[Row]) -> None:
        """Rows as the index has them."""
        self.total -= sum(map(hash, map(_encode, rows)))

    def add_grouped(self, row: Row) -> None:
        self.buckets[bucket_of(row[1])] += hash(_encode(row))

    def take_away_grouped(self, row: Row) -> None:
        self.buckets[bucket_of(row[1])] -= hash(_encode(row))

    def differing(self) -> set[int]:
        return {number for number, total in enumerate(self.buckets) if total}


def bucket_of(id: Any) -> int:
    """Whatever stands there for an id."""
    if not isinstance(id, bytes):
        return 0
    return (id[0] << 4 | id[1] >> 4) if len(id) > 1 else 0


class Words(dict[str | None, int | None]):
    """The number of each word that the index has."""

    def __missing__(self, word: str | None) -> int:
        return NO_WORD


def new_tag() -> int:
    """A secret number that every row begins with, so that nobody can make rows whose numbers add up."""
    return secrets.randbits(58) << 2


class RowMaker:
    """Makes rows of records and hands each on when it is whole."""

    def __init__(self, tag: int, words: Words, made: Callable[[Row], None], *, patient: bool = False) -> None:
        """`patient` waits with every row for all records."""
        self._tag = tag
        self._words = words
        self._made = made
        self._patient = patient
        self._waiting: dict[bytes, tuple[CallStarted, Place]] = {}
        """Calls of which one record is known, as most are until they finish."""
        self._calls: dict[bytes, CallParts] = {}
        self._runs: dict[bytes, RunParts] = {}

    def taker(self, shard: int, limit: int) -> Take:
        """What takes the records of one shard up to `limit`."""
        waiting, calls, take, row, made = self._waiting, self._calls, self.take, self._row, self._made

        def take_quickly(leaf: Any, kind: int, segment: int, offset: int, sequence: int) -> None:
            if sequence >= limit:
                return
            if kind == FINISHED and leaf.request is None:
                started = waiting.get(leaf.call_id)
                if started is not None and started[1][0] == shard:
                    del waiting[leaf.call_id]
                    made(row(started[0], started[1], leaf, (shard, segment, offset)))
                    return
            elif kind == STARTED and leaf.request is not None:
                call_id = leaf.call_id
                if call_id not in calls and call_id not in waiting:
                    waiting[call_id] = leaf, (shard, segment, offset)
                    return
            take(leaf, (shard, segment, offset))

        return take_quickly

    def take(self, leaf: Leaf, place: Place) -> None:
        """One record, of whichever kind and in whichever order."""
        _TAKE[type(leaf)](self, leaf, place)

    def finish(self) -> None:
        """Hand on what is still waiting for an end."""
        for call_id in list(self._waiting):
            self._call(call_id)
        for call_id, call in self._calls.items():
            self._made(call.row(self._tag, call_id))
        for run_id, run in self._runs.items():
            self._made(run.row(self._tag, run_id))
        self._calls.clear()
        self._runs.clear()

    def _row(self, started: CallStarted, begun: Place, leaf: CallFinished, ended: Place) -> Row:
        """Of a call that has these two records alone: the same as `CallParts.row`, in a third of the time."""
        word, request = self._words, started.request
        assert request is not None, "only such a record waits"
        agent, caller, session = request.agent, request.caller, request.session_id
        workspace, asked_at_us, passed = request.workspace, request.asked_at_us, leaf.passed
        return (
            self._tag, leaf.call_id, request.run_id, request.position, word[request.tool],
            word[request.effect], word[request.door], word[agent], word[caller], word[session],
            word[workspace],
            (agent is None) | (caller is None) << 1 | (session is None) << 2 | (workspace is None) << 3,
            request.parent_id, request.external_id, 1 if request.dry_run else 0, request.step_id,
            request.proposal_id, request.action_id, request.attempt, word[request.connection],
            word[leaf.outcome], asked_at_us, leaf.at_us - asked_at_us, leaf.latency_us,
            None if passed is None else int(passed), *begun, None, None, None, *begun, *ended,
        )  # fmt: skip

    # -- calls --------------------------------------------------------------------------------------------

    def _call(self, call_id: bytes) -> CallParts:
        parts = self._calls.get(call_id)
        if parts is None:
            parts = self._calls[call_id] = CallParts()
            waiting = self._waiting.pop(call_id, None)
            if waiting is not None:
                self._started(*waiting)
        return parts

    def _requested(self, parts: CallParts, request: Request, place: Place) -> None:
        order = (request.asked_at_us, place)
        if parts.first is not None and parts.first[0] <= order:
            return
        word = self._words
        agent, caller, session = word[request.agent], word[request.caller], word[request.session_id]
        workspace = word[request.workspace]
        inherits = (agent is None) | (caller is None) << 1 | (session is None) << 2 | (workspace is None) << 3
        parts.first = order, (
            request.run_id, request.position, word[request.tool], word[request.effect], word[request.door],
            agent, caller, session, workspace, inherits, request.parent_id, request.external_id,
            int(request.dry_run), request.step_id, request.proposal_id, request.action_id, request.attempt,
            word[request.connection],
        )  # fmt: skip

    def _asked(self, leaf: CallAsked, place: Place) -> None:
        self._requested(self._call(leaf.call_id), leaf.request, place)

    def _answered(self, leaf: CallAnswered, place: Place) -> None:
        parts = self._call(leaf.call_id)
        if parts.answered is None or place < parts.answered:
            parts.answered = place

    def _started(self, leaf: CallStarted, place: Place) -> None:
        parts = self._call(leaf.call_id)
        if parts.started is None or place < parts.started:
            parts.started = place
        if leaf.request is not None:
            self._requested(parts, leaf.request, place)

    def _finished(self, leaf: CallFinished, place: Place) -> None:
        parts = self._call(leaf.call_id)
        order = (leaf.at_us, place)
        if parts.finished is None or order < parts.finished[0]:
            parts.finished = order, (self._words[leaf.outcome], leaf.latency_us, _flag(leaf.passed))
        if leaf.request is not None:
            self._requested(parts, leaf.request, place)
        if not self._patient and parts.first is not None and parts.first[0][1][0] == place[0]:
            # Whole, unless another shard has more of it: then its bucket is looked at row by row.
            del self._calls[leaf.call_id]
            self._made(parts.row(self._tag, leaf.call_id))

    # -- runs ---------------------------------------------------------------------------------------------

    def _run(self, run_id: bytes) -> RunParts:
        parts = self._runs.get(run_id)
        if parts is None:
            parts = self._runs[run_id] = RunParts()
        return parts

    def _run_started(self, leaf: RunStarted, place: Place) -> None:
        parts, word = self._run(leaf.run_id), self._words
        order = (leaf.at_us, place)
        if parts.first is None or order < parts.first[0]:
            parts.first = order, (
                leaf.name, word[leaf.agent], word[leaf.caller], word[leaf.channel], word[leaf.session_id],
                word[leaf.workspace], leaf.parent_run_id, leaf.external_id,
            )  # fmt: skip

    def _run_finished(self, leaf: RunFinished, place: Place) -> None:
        parts = self._run(leaf.run_id)
        order = (leaf.at_us, place)
        if parts.finished is None or order < parts.finished[0]:
            parts.finished = order, (self._words[leaf.outcome], self._words[leaf.reason], _flag(leaf.passed))
        if not self._patient and parts.first is not None and parts.first[0][1][0] == place[0]:
            del self._runs[leaf.run_id]
            self._made(parts.row(self._tag, leaf.run_id))

    # -- steps and events ---------------------------------------------------------------------------------

    def _step(self, leaf: Step, place: Place) -> None:
        word, tokens = self._words, leaf.tokens or _NOTHING_SAID
        self._made((
            self._tag + 2, leaf.step_id, leaf.run_id, leaf.position, leaf.iteration, word[leaf.agent],
            word[leaf.model], word[leaf.requested_model], word[leaf.finish_reason], int(leaf.responded),
            leaf.parent_id, leaf.external_id, _amount(leaf.since_previous_us), _amount(leaf.model_us),
            _amount(tokens.input), _amount(tokens.output), _amount(tokens.reasoning),
            _amount(tokens.cache_read), _amount(tokens.cache_write), _amount(leaf.cost_nano_usd),
            leaf.at_us, *place,
        ))  # fmt: skip

    def _event(self, leaf: Event, place: Place) -> None:
        self._made(
            (
                self._tag + 3,
                leaf.event_id,
                self._words[leaf.name],
                leaf.run_id,
                leaf.call_id,
                leaf.at_us,
                *place,
            )
        )


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _amount(count: int | None) -> int | None:
    return count if count is None or -AMOUNT_MAX <= count <= AMOUNT_MAX else None


_TAKE: dict[type[Any], Callable[[RowMaker, Any, Place], None]] = {
    CallAsked: RowMaker._asked,  # pyright: ignore[reportPrivateUsage]
    CallAnswered: RowMaker._answered,  # pyright: ignore[reportPrivateUsage]
    CallStarted: RowMaker._started,  # pyright: ignore[reportPrivateUsage]
    CallFinished: RowMaker._finished,  # pyright: ignore[reportPrivateUsage]
    RunStarted: RowMaker._run_started,  # pyright: ignore[reportPrivateUsage]
    RunFinished: RowMaker._run_finished,  # pyright: ignore[reportPrivateUsage]
    Step: RowMaker._step,  # pyright: ignore[reportPrivateUsage]
    Event: RowMaker._event,  # pyright: ignore[reportPrivateUsage]
}

CALL_COLUMNS = (
    "run", "position", "tool", "effect", "door", "agent", "caller", "session", "workspace", "inherits",
    "parent_id", "external_id", "dry_run", "step_id", "proposal_id", "action_id", "attempt", "connection",
    "outcome", "at_us", "elapsed_us", "latency_us", "passed",
    *(f"{slot}_{part}" for slot in ("first", "answered", "started", "finished")
                for part in ("shard", "segment", "offset")),
)  # fmt: skip
RUN_COLUMNS = (
    "name", "agent", "caller", "channel", "session", "workspace", "parent_id", "external_id", "at_us",
    "elapsed_us", "outcome", "reason", "passed", *(f"{slot}_{part}" for slot in ("first", "finished")
                                     for part in ("shard", "segment", "offset")),
)  # fmt: skip
STEP_COLUMNS = (
    "run", "position", "iteration", "agent", "model", "requested_model", "finish_reason", "responded",
    "parent_id", "external_id", "since_previous_us", "model_us", "input_tokens", "output_tokens",
    "reasoning_tokens", "cache_read_tokens", "cache_write_tokens", "cost_nano_usd", "at_us", "shard",
    "segment", "offset",
)  # fmt: skip
EVENT_COLUMNS = ("name", "run", "call_id", "at_us", "shard", "segment", "offset")
TABLES = (
    ("call", CALL_COLUMNS),
    ("run", RUN_COLUMNS),
    ("step", STEP_COLUMNS),
    ("event", EVENT_COLUMNS),
)
"""By the last two bits of a row's first value: what it is called, and the names of what follows the id."""
