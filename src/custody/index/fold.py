"""Records folded into rows: what the journal says of each run and call, whatever the order it is read in.

Owns the rules by which several records of one call become one row. Each record fills a slot (first,
answered, started, finished), and of two that want the same slot the earlier wins; so any order of shards
and any division into batches gives the same rows. Does no I/O: what is stored already is asked of a
`Known`, rows are taken away by `index`. Knows nothing of SQL.
"""

from collections.abc import Callable
from typing import Any, Protocol

from custody.index.error_pattern import error_pattern
from custody.records import (
    CallAnswered,
    CallAsked,
    CallFinished,
    CallStarted,
    Event,
    Leaf,
    Request,
    RunFinished,
    RunStarted,
    Step,
)

Place = tuple[int, int, int]
"""Shard, segment and offset of a record. Within a shard a later record has a higher place."""

RUNNING = "running"

TIME_US_END = 2**62
"""What is no time of any question: SQLite's integers end soon after."""

AGENT, CALLER, SESSION, WORKSPACE = 1, 2, 4, 8
"""Bits of `CallRow.inherits`: the call does not say it itself, its run does."""


class RunRow:
    """A run as far as it is known. `at_us` is None until its start has been seen."""

    __slots__ = (
        "agent", "at_us", "caller", "changed", "channel", "external_id", "finished", "finished_at_us",
        "first", "id", "name", "new", "outcome", "parent_id", "passed", "reason", "retold", "row", "session",
        "text_finished", "text_first", "workspace",
    )  # fmt: skip

    def __init__(self, row: int, run_id: bytes, *, new: bool) -> None:
        self.row = row
        self.id = run_id
        self.new = new
        self.changed = new
        self.retold = False
        """Its start was seen (again) in this batch: calls stored earlier may have to inherit."""
        self.name: str | None = None
        self.agent: str | None = None
        self.caller: str | None = None
        self.channel: str | None = None
        self.session: str | None = None
        self.workspace: str | None = None
        self.parent_id: bytes | None = None
        self.external_id: str | None = None
        self.outcome = RUNNING
        self.reason: str | None = None
        self.passed: bool | None = None
        self.at_us: int | None = None
        self.finished_at_us: int | None = None
        self.first: Place | None = None
        self.finished: Place | None = None
        self.text_first: str | None = None
        self.text_finished: str | None = None


class CallRow:
    """A call as far as it is known. `at_us` is None until the record with its request has been seen."""

    __slots__ = (
        "action_id", "agent", "answered", "at_us", "attempt", "caller", "changed", "connection", "door",
        "dry_run", "effect", "error", "external_id", "finished", "finished_at_us", "first", "id",
        "inherits", "latency_us", "new", "outcome", "parent_id", "passed", "position", "proposal_id",
        "row", "run", "session", "started", "step_id", "text_finished", "text_first", "tool", "workspace",
    )  # fmt: skip

    def __init__(self, row: int, call_id: bytes, *, new: bool) -> None:
        self.row = row
        self.id = call_id
        self.new = new
        self.changed = new
        self.run: RunRow | None = None
        self.position: int | None = None
        self.tool: str | None = None
        self.effect: str | None = None
        self.door: str | None = None
        self.agent: str | None = None
        self.caller: str | None = None
        self.session: str | None = None
        self.workspace: str | None = None
        self.inherits = 0
        self.parent_id: bytes | None = None
        self.step_id: bytes | None = None
        self.external_id: str | None = None
        self.proposal_id: str | None = None
        self.action_id: str | None = None
        self.attempt: int | None = None
        self.connection: str | None = None
        self.dry_run: bool | None = None
        self.outcome = RUNNING
        self.passed: bool | None = None
        self.error: str | None = None
        self.at_us: int | None = None
        self.finished_at_us: int | None = None
        self.latency_us: int | None = None
        self.first: Place | None = None
        self.answered: Place | None = None
        self.started: Place | None = None
        self.finished: Place | None = None
        self.text_first: str | None = None
        self.text_finished: str | None = None


class StepRow:
    """One model turn."""

    __slots__ = ("leaf", "place", "run")

    def __init__(self, leaf: Step, run: RunRow, place: Place) -> None:
        self.leaf = leaf
        self.run = run
        self.place = place


class EventRow:
    """One event."""

    __slots__ = ("at_us", "call_id", "id", "name", "place", "run")

    def __init__(self, leaf: Event, run: RunRow | None, place: Place) -> None:
        self.id = leaf.event_id
        self.name = leaf.name
        self.run = run
        self.call_id = leaf.call_id
        self.at_us = leaf.at_us
        self.place = place


class QuestionRow:
    """What a person is asked about a call."""

    __slots__ = ("at_us", "call_id", "digest", "open_until_us", "place")

    def __init__(self, leaf: CallAsked, digest: bytes, open_until_us: int, place: Place) -> None:
        self.call_id = leaf.call_id
        self.digest = digest
        self.at_us = leaf.request.asked_at_us
        self.open_until_us = open_until_us
        self.place = place


HELD_EXPIRED = "held.expired"

BY_NO_CALL = b""
"""What settled changes whose time was over."""


class HeldRow:
    """Changes that a call left held; `settled_by` where a call has committed or discarded them, or none had
    to."""

    __slots__ = ("call_id", "settled", "settled_by")

    def __init__(self, call_id: bytes, settled: str | None = None, settled_by: bytes | None = None) -> None:
        self.call_id = call_id
        self.settled = settled
        self.settled_by = settled_by


class Known(Protocol):
    """The rows stored so far; new ones get the next free number."""

    def run(self, run_id: bytes) -> RunRow: ...

    def call(self, call_id: bytes) -> CallRow: ...


class Said(Protocol):
    """What the payload of the record being folded says, worked out only if it is wanted."""

    def text(self) -> str:
        """All that can be searched for."""
        ...

    def error(self) -> Any:
        """Type and message of what went wrong."""
        ...


def text_of_first(leaf: Leaf, said: Said) -> str:
    """What can be searched for of the record that opens a run or call."""
    if isinstance(leaf, RunStarted):
        return f"{leaf.name} {said.text()}" if leaf.name else said.text()
    if isinstance(leaf, CallFinished):
        # Its payload is said by `text_of_finished`.
        return leaf.request.tool if leaf.request else ""
    assert isinstance(leaf, CallAsked | CallStarted) and leaf.request, "only these open a call"
    return f"{leaf.request.tool} {said.text()}"


def text_of_finished(leaf: Leaf, said: Said) -> str:
    """What can be searched for of the record that ends one."""
    assert isinstance(leaf, RunFinished | CallFinished), "only these end something"
    return f"{leaf.reason} {said.text()}" if leaf.reason else said.text()


class Fold:
    """The rows that one batch of records makes or changes."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.runs: dict[bytes, RunRow] = {}
        self.calls: dict[bytes, CallRow] = {}
        self.steps: list[StepRow] = []
        self.events: list[EventRow] = []
        self.questions: list[QuestionRow] = []
        self.held: list[HeldRow] = []
        self._apply: dict[type[Any], Callable[[Any, Place, Said], None]] = {
            RunStarted: self._run_started,
            RunFinished: self._run_finished,
            CallAsked: self._call_asked,
            CallAnswered: self._call_answered,
            CallStarted: self._call_started,
            CallFinished: self._call_finished,
            Step: self._step,
            Event: self._event,
        }

    def add(self, leaf: Leaf, place: Place, said: Said) -> None:
        self._apply[type(leaf)](leaf, place, said)

    def run(self, run_id: bytes) -> RunRow:
        found = self.runs.get(run_id)
        if found is None:
            found = self.runs[run_id] = self._known.run(run_id)
        return found

    def call(self, call_id: bytes) -> CallRow:
        found = self.calls.get(call_id)
        if found is None:
            found = self.calls[call_id] = self._known.call(call_id)
        return found

    def _run_started(self, leaf: RunStarted, place: Place, said: Said) -> None:
        run = self.run(leaf.run_id)
        if run.first is not None and (run.at_us or 0, run.first) <= (leaf.at_us, place):
            return
        run.changed = run.retold = True
        run.first, run.at_us = place, leaf.at_us
        run.name, run.channel, run.parent_id = leaf.name, leaf.channel, leaf.parent_run_id
        run.external_id = leaf.external_id
        run.agent, run.caller = leaf.agent, leaf.caller
        run.session, run.workspace = leaf.session_id, leaf.workspace
        run.text_first = text_of_first(leaf, said)

    def _run_finished(self, leaf: RunFinished, place: Place, said: Said) -> None:
        run = self.run(leaf.run_id)
        if run.finished is not None and (run.finished_at_us or 0, run.finished) <= (leaf.at_us, place):
            return
        run.changed = True
        run.finished, run.finished_at_us = place, leaf.at_us
        run.outcome, run.reason, run.passed = leaf.outcome, leaf.reason, leaf.passed
        run.text_finished = text_of_finished(leaf, said)

    def _call_asked(self, leaf: CallAsked, place: Place, said: Said) -> None:
        self._requested(self.call(leaf.call_id), leaf, leaf.request, place, said)
        if leaf.digest is not None and 0 <= (leaf.open_until_us or 0) < TIME_US_END:
            self.questions.append(QuestionRow(leaf, leaf.digest, leaf.open_until_us or 0, place))

    def _call_answered(self, leaf: CallAnswered, place: Place, said: Said) -> None:
        call = self.call(leaf.call_id)
        if call.answered is None or place < call.answered:
            call.answered, call.changed = place, True

    def _call_started(self, leaf: CallStarted, place: Place, said: Said) -> None:
        call = self.call(leaf.call_id)
        if call.started is None or place < call.started:
            call.started, call.changed = place, True
        if leaf.request is not None:
            self._requested(call, leaf, leaf.request, place, said)

    def _call_finished(self, leaf: CallFinished, place: Place, said: Said) -> None:
        call = self.call(leaf.call_id)
        if call.finished is None or (leaf.at_us, place) < (call.finished_at_us or 0, call.finished):
            call.changed = True
            call.finished, call.finished_at_us = place, leaf.at_us
            call.outcome, call.latency_us, call.passed = leaf.outcome, leaf.latency_us, leaf.passed
            went_wrong = leaf.outcome not in ("succeeded", "rejected")
            call.error = error_pattern(said.error(), leaf.reason) if went_wrong else None
            call.text_finished = text_of_finished(leaf, said)
        if leaf.held is not None:
            self.held.append(HeldRow(leaf.call_id))
        if leaf.settles is not None and leaf.settled is not None:
            self.held.append(HeldRow(leaf.settles, leaf.settled, leaf.call_id))
        if leaf.request is not None:
            self._requested(call, leaf, leaf.request, place, said)

    def _requested(self, call: CallRow, leaf: Leaf, request: Request, place: Place, said: Said) -> None:
        if call.first is not None and (call.at_us or 0, call.first) <= (request.asked_at_us, place):
            return
        call.changed = True
        call.first, call.at_us = place, request.asked_at_us
        call.run = None if request.run_id is None else self.run(request.run_id)
        call.position, call.tool, call.effect = request.position, request.tool, request.effect
        call.door, call.dry_run = request.door, request.dry_run
        call.parent_id, call.step_id = request.parent_id, request.step_id
        call.external_id, call.connection = request.external_id, request.connection
        call.proposal_id, call.action_id = request.proposal_id, request.action_id
        call.attempt = request.attempt
        call.agent, call.caller = request.agent, request.caller
        call.session, call.workspace = request.session_id, request.workspace
        call.inherits = (
            (AGENT if request.agent is None else 0)
            | (CALLER if request.caller is None else 0)
            | (SESSION if request.session_id is None else 0)
            | (WORKSPACE if request.workspace is None else 0)
        )
        call.text_first = text_of_first(leaf, said)

    def _step(self, leaf: Step, place: Place, said: Said) -> None:
        self.steps.append(StepRow(leaf, self.run(leaf.run_id), place))

    def _event(self, leaf: Event, place: Place, said: Said) -> None:
        if leaf.name == HELD_EXPIRED and leaf.call_id is not None:
            self.held.append(HeldRow(leaf.call_id, "discarded", BY_NO_CALL))
        run = None if leaf.run_id is None else self.run(leaf.run_id)
        self.events.append(EventRow(leaf, run, place))

    def inherit(self) -> None:
        """Give each call of the batch what it leaves to its run to say."""
        for call in self.calls.values():
            bits, run = call.inherits, call.run
            if run is None or not bits:
                continue
            if bits & AGENT:
                call.agent = run.agent
            if bits & CALLER:
                call.caller = run.caller
            if bits & SESSION:
                call.session = run.session
            if bits & WORKSPACE:
                call.workspace = run.workspace
