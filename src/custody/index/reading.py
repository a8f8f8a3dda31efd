"""Rows read as what they stand for: calls, runs, steps and events, with their records from the journal.

Owns how several records become one `Call` or `Run`, and how stored values are shown. Knows nothing of SQL.
Used by `index`.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from custody.errors import CorruptJournal
from custody.index.fold import Place
from custody.journal import Journal, Stored
from custody.records import (
    Call,
    CallAnswered,
    CallAsked,
    CallFinished,
    CallStarted,
    Event,
    Kind,
    Leaf,
    Request,
    Run,
    RunFinished,
    RunStarted,
    Step,
    Totals,
    decode_leaf,
    decode_payload,
    rfc3339,
)
from custody.redaction import plain


class StepView(Struct, frozen=True, kw_only=True):
    """A step as every door shows it."""

    id: str
    run_id: str
    position: int | None
    iteration: int | None
    model: str | None
    at: str
    payload: dict[str, Any] | None
    """`text` and what else was said of it; None once purged."""
    shard: int
    sequence: int


class EventView(Struct, frozen=True, kw_only=True):
    """An event as every door shows it."""

    id: str
    name: str
    at: str
    run_id: str | None
    call_id: str | None
    data: Any
    shard: int
    sequence: int


class Session(Struct, frozen=True, kw_only=True):
    """Runs and calls that belong together."""

    id: str
    runs: int
    calls: int
    first_at: str
    last_at: str
    agents: list[str]


class OpenCall(Struct, frozen=True, kw_only=True):
    """A call that has not ended: it runs, waits for an answer, or its process died."""

    call_id: bytes
    shard: int
    """Of its latest record, *started* where there is one: who holds this shard is running the call."""
    sequence: int
    run_id: bytes | None
    started: bool
    """False: asked, and not yet allowed to start."""
    tool: str
    asked_at_us: int
    started_monotonic_ns: int | None
    pid: int
    owner_pid: int | None
    owner_start_ticks: int | None


class OpenRun(Struct, frozen=True, kw_only=True):
    """A run that has not ended."""

    run_id: bytes
    shard: int
    sequence: int
    owner_pid: int
    owner_start_ticks: int | None
    shared: bool


class Places(Struct, frozen=True):
    """Where the records of a call or run are."""

    first: Place
    answered: Place | None = None
    started: Place | None = None
    finished: Place | None = None


class Inherited(Struct, frozen=True):
    """What the index knows of a call that its own records may leave to its run."""

    agent: str | None
    caller: str | None
    session_id: str | None
    workspace: str | None


L = TypeVar("L", bound=Leaf)

_kind: Callable[[Any], Any] = type
"""An exact type, so that the branches on it leave the value's own type alone."""


class Reader:
    """Reads records back."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def leaf(self, place: Place, leaf_type: type[L]) -> tuple[L, Stored]:
        stored = self._journal.read(*place)
        leaf = decode_leaf(stored.kind, stored.leaf)
        assert isinstance(leaf, leaf_type), f"the index has {leaf_type.__name__} at {place}"
        return leaf, stored

    def payload(self, stored: Stored) -> dict[str, Any]:
        """Name -> value as JSON can show it; empty once purged, None for a blob that is gone."""
        kept = decode_payload(stored.payload)
        if kept is None:
            return {}
        if "sample" in kept:
            return {"data": _sample(kept["sample"])}
        return {name: plain(self._whole(value)) for name, value in kept.items()}

    def _whole(self, value: Any) -> Any:
        """The value itself where the payload holds only its digest."""
        kind = _kind(value)
        if kind is not dict or "$blob" not in value:
            return value
        try:
            data = self._journal.get_blob(bytes.fromhex(value["$blob"]))
        except CorruptJournal:
            # One unreadable file must not hide the rest of the call, nor of the list it stands in.
            value["damaged"] = True
            return value
        return None if data is None else msgspec.msgpack.decode(data)

    # -- calls ----------------------------------------------------------------------------------------

    def call(self, places: Places, inherited: Inherited) -> Call:
        first, stored = self._first(places.first)
        request = first.request
        assert request is not None, "the first record of a call has its request"
        payload = self.payload(stored)
        started = self._started(places, first)
        answered = None if places.answered is None else self.leaf(places.answered, CallAnswered)[0]
        finished, ending = self._finished(places, first, payload)
        withheld = payload.get("environment_withheld")
        leaves = {id(leaf): leaf for leaf in (first, started, finished) if leaf is not None}
        return Call(
            **_asked(first.call_id, request, stored),
            **_executed(started),
            **_ended(finished),
            agent=inherited.agent,
            caller=inherited.caller,
            session_id=inherited.session_id,
            workspace=inherited.workspace,
            arguments=payload.get("arguments"),
            decision=request.decision if answered is None else answered.decision,
            result=ending.get("result"),
            error=ending.get("error"),
            host_before=None,
            host_after=None,
            redactions=tuple(hit for leaf in leaves.values() for hit in leaf.redactions),
            cwd=payload.get("cwd"),
            environment_withheld=None if withheld is None else tuple(withheld),
        )

    def samples(self, places: Places) -> tuple[bytes | None, bytes | None]:
        """Ids of the events that describe the machine before and after."""
        first, _ = self._first(places.first)
        started, (finished, _) = self._started(places, first), self._finished(places, first, {})
        return started and started.host_before, finished and finished.host_after

    def open_call(self, places: Places, run_id: bytes | None) -> OpenCall:
        first, stored = self._first(places.first)
        request = first.request
        assert request is not None, "the first record of a call has its request"
        started = self._started(places, first)
        if places.started not in (None, places.first):
            stored = self._journal.read(*places.started)
        return OpenCall(
            call_id=first.call_id,
            shard=stored.shard,
            sequence=stored.sequence,
            run_id=run_id,
            started=started is not None,
            tool=request.tool,
            asked_at_us=request.asked_at_us,
            started_monotonic_ns=started and started.monotonic_ns,
            pid=request.pid,
            owner_pid=request.owner_pid,
            owner_start_ticks=request.owner_start_ticks,
        )

    def _first(self, place: Place) -> tuple[CallAsked | CallStarted | CallFinished, Stored]:
        stored = self._journal.read(*place)
        leaf = decode_leaf(stored.kind, stored.leaf)
        assert isinstance(leaf, CallAsked | CallStarted | CallFinished), "only these open a call"
        return leaf, stored

    def _started(self, places: Places, first: Leaf) -> CallStarted | None:
        if places.started is None:
            return None
        if places.started == places.first and isinstance(first, CallStarted):
            return first
        return self.leaf(places.started, CallStarted)[0]

    def _finished(
        self, places: Places, first: Leaf, payload: dict[str, Any]
    ) -> tuple[CallFinished | None, dict[str, Any]]:
        """The terminal record and its payload; `payload` is the first record's, which it may be too."""
        if places.finished is None:
            return None, {}
        if places.finished == places.first and isinstance(first, CallFinished):
            return first, payload
        leaf, stored = self.leaf(places.finished, CallFinished)
        return leaf, self.payload(stored)

    # -- runs, steps, events --------------------------------------------------------------------------

    def run(self, places: Places, calls_by_outcome: dict[str, int]) -> Run:
        first, stored = self.leaf(places.first, RunStarted)
        payload = self.payload(stored)
        finished: RunFinished | None = None
        output: Any = None
        if places.finished is not None:
            finished, end = self.leaf(places.finished, RunFinished)
            output = self.payload(end).get("output")
        return Run(
            id=first.run_id.hex(),
            name=first.name,
            session_id=first.session_id,
            parent_run_id=_hex(first.parent_run_id),
            agent=first.agent,
            caller=first.caller,
            client=first.client,
            channel=first.channel,
            user=first.user,
            host=first.host,
            workspace=first.workspace,
            door=first.door,
            shared=first.shared,
            external_id=first.external_id,
            intent=payload.get("intent"),
            outcome_description=payload.get("outcome_description"),
            inputs=payload.get("inputs"),
            labels=payload.get("labels"),
            outcome=None if finished is None else finished.outcome,
            reason=finished and finished.reason,
            passed=None if finished is None else finished.passed,
            output=output,
            started_at=rfc3339(first.at_us),
            finished_at=None if finished is None else rfc3339(finished.at_us),
            duration_us=None if finished is None else finished.at_us - first.at_us,
            calls=sum(calls_by_outcome.values()),
            calls_by_outcome=calls_by_outcome,
            steps=0,
            totals=Totals() if finished is None or finished.totals is None else finished.totals,
            stated_totals=None,
            owner_pid=first.owner_pid or None,
            shard=stored.shard,
            sequence=stored.sequence,
        )

    def open_run(self, place: Place) -> OpenRun:
        leaf, stored = self.leaf(place, RunStarted)
        return OpenRun(
            run_id=leaf.run_id,
            shard=stored.shard,
            sequence=stored.sequence,
            owner_pid=leaf.owner_pid,
            owner_start_ticks=leaf.owner_start_ticks,
            shared=leaf.shared,
        )

    def step(self, place: Place) -> StepView:
        leaf, stored = self.leaf(place, Step)
        return StepView(
            id=leaf.step_id.hex(),
            run_id=leaf.run_id.hex(),
            position=leaf.position,
            iteration=leaf.iteration,
            model=leaf.model,
            at=rfc3339(leaf.at_us),
            payload=self.payload(stored) or None,
            shard=stored.shard,
            sequence=stored.sequence,
        )

    def event(self, place: Place) -> EventView:
        leaf, stored = self.leaf(place, Event)
        return EventView(
            id=leaf.event_id.hex(),
            name=leaf.name,
            at=rfc3339(leaf.at_us),
            run_id=_hex(leaf.run_id),
            call_id=_hex(leaf.call_id),
            data=self.payload(stored).get("data") if leaf.data is None else plain(leaf.data),
            shard=stored.shard,
            sequence=stored.sequence,
        )

    def describe(self, stored: Stored) -> dict[str, Any]:
        """One record as JSON can show it: its kind, place, leaf and payload."""
        leaf = decode_leaf(stored.kind, stored.leaf)
        return {
            "kind": Kind(stored.kind).name.lower(),
            "shard": stored.shard,
            "sequence": stored.sequence,
            **_shown(leaf),
            "payload": self.payload(stored) or None,
        }


def _sample(values: list[Any]) -> dict[str, Any]:
    """A sample of the machine, which is recorded as an array, with its names."""
    from custody.host import sample_data  # few questions want one, and it takes a while to load

    return sample_data(values)


def _shown(value: Struct) -> dict[str, Any]:
    """A leaf's fields: bytes in hex, times spelled out."""
    shown: dict[str, Any] = {}
    for name in value.__struct_fields__:
        field: Any = getattr(value, name)
        if name.endswith("at_us"):
            shown[name.removesuffix("_us")] = rfc3339(field)
        elif isinstance(field, bytes):
            shown[name] = field.hex()
        elif isinstance(field, Struct):
            shown[name] = _shown(field)
        elif _kind(field) is tuple:
            shown[name] = _shown_all(field)
        else:
            shown[name] = plain(field)
    return shown


def _shown_all(values: Iterable[Struct]) -> list[dict[str, Any]]:
    return [_shown(value) for value in values]


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _asked(call_id: bytes, request: Request, stored: Stored) -> dict[str, Any]:
    return {
        "id": call_id.hex(),
        "run_id": _hex(request.run_id),
        "position": request.position,
        "parent_id": _hex(request.parent_id),
        "step_id": _hex(request.step_id),
        "external_id": request.external_id,
        "tool": request.tool,
        "effect": request.effect,
        "level": request.level,
        "dry_run": request.dry_run,
        "asked_at": rfc3339(request.asked_at_us),
        "decide_us": request.decide_us,
        "door": request.door,
        "pid": request.pid,
        "thread_id": request.thread_id,
        "shard": stored.shard,
        "sequence": stored.sequence,
    }


def _executed(started: CallStarted | None) -> dict[str, Any]:
    return {
        "started_at": None if started is None else rfc3339(started.at_us),
        "monotonic_start_ns": started and started.monotonic_ns,
        "queue_us": started and started.queue_us,
    }


_RUNNING: dict[str, Any] = {
    "source": "executed",
    **dict.fromkeys((
        "outcome", "reason", "passed", "exit_code", "signal", "limit_hit", "finished_at", "monotonic_end_ns",
        "latency_us", "record_us", "usage", "changes", "child_pid", "child_start_ticks",
    )),
}  # fmt: skip


def _ended(finished: CallFinished | None) -> dict[str, Any]:
    if finished is None:
        return _RUNNING
    return {
        "source": finished.source,
        "outcome": finished.outcome,
        "reason": finished.reason,
        "passed": finished.passed,
        "exit_code": finished.exit_code,
        "signal": finished.signal,
        "limit_hit": finished.limit_hit,
        "finished_at": rfc3339(finished.at_us),
        "monotonic_end_ns": finished.monotonic_ns,
        "latency_us": finished.latency_us,
        "record_us": finished.record_us,
        "usage": finished.usage,
        "changes": finished.changes,
        "child_pid": finished.child_pid,
        "child_start_ticks": finished.child_start_ticks,
    }
