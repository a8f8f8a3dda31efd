"""Rows read as what they stand for: calls, runs, steps and events, with their records from the journal.

Owns how several records become one `Call` or `Run`, and how stored values are shown. Knows nothing of SQL.
Used by `index`.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from custody.errors import CorruptJournal
from custody.index.call_fields import asked, changes_of, decision_of, ended, executed, hex_of, prompt_of
from custody.index.fold import Place
from custody.index.views import EventView, OpenCall, OpenRun, StepView
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
    Settled,
    Step,
    Totals,
    decode_leaf,
    decode_payload,
    rfc3339,
)
from custody.redaction import plain


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
    settled: Settled | None = None
    settled_by: bytes | None = None


class RunSums(Struct, frozen=True):
    """What the records of a run add up to."""

    calls_by_outcome: dict[str, int]
    """Those that run included."""
    totals: Totals
    """Without what was refused or dropped."""
    refusals: list[Place]
    """Records of what was offered after the end, or should not have been."""
    gaps: list[Place]
    """Records of gaps that may say so."""


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

    def raw(self, place: Place) -> dict[str, Any] | None:
        """A record's payload as it is stored, blobs by their digests; None once purged."""
        return decode_payload(self._journal.read(*place).payload)

    def said(self, place: Place) -> dict[str, Any]:
        """A record's payload as `payload`."""
        return self.payload(self._journal.read(*place))

    def at_us(self, place: Place) -> int:
        """When a call was answered or started."""
        stored = self._journal.read(*place)
        leaf = decode_leaf(stored.kind, stored.leaf)
        assert isinstance(leaf, CallAnswered | CallStarted), "only these come between a call's first and last"
        return leaf.at_us

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
            **asked(first.call_id, request, stored),
            **executed(started, finished),
            **ended(finished),
            agent=inherited.agent,
            caller=inherited.caller,
            session_id=inherited.session_id,
            workspace=inherited.workspace,
            arguments=payload.get("arguments"),
            prompt=prompt_of(payload),
            decision=decision_of(request, answered, finished),
            result=ending.get("result"),
            error=ending.get("error"),
            changes=changes_of(ending.get("changes")),
            host_before=None,
            host_after=None,
            redactions=tuple(hit for leaf in leaves.values() for hit in leaf.redactions),
            cwd=payload.get("cwd"),
            environment_withheld=None if withheld is None else tuple(withheld),
            sandbox=self._sandbox(places, request, payload),
            held=None if finished is None or finished.held is None else inherited.settled or "held",
            settled_by=hex_of(inherited.settled_by or None),
            held_digest=None if finished is None else hex_of(finished.held_digest),
        )

    def _sandbox(self, places: Places, request: Request, payload: dict[str, Any]) -> str | None:
        """It is said by whichever record says that the call starts: behind a question that is its second."""
        if request.level not in ("confined", "transaction") or places.started is None:
            return None
        if places.started != places.first:
            payload = self.payload(self._journal.read(*places.started))
        said: dict[str, Any] = payload.get("sandbox") or {}
        return _text(said.get("name"))

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
            answered=places.answered is not None,
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

    def run(self, places: Places, sums: RunSums) -> Run:
        first, stored = self.leaf(places.first, RunStarted)
        payload = self.payload(stored)
        finished: RunFinished | None = None
        ending: dict[str, Any] = {}
        if places.finished is not None:
            finished, end = self.leaf(places.finished, RunFinished)
            ending = self.payload(end)
        totals = finished and finished.totals
        if totals is None:
            totals = self._added_up(first.run_id, sums)
        refused = max(totals.refused, sum(map(self._refused, sums.refusals)))
        return Run(
            id=first.run_id.hex(),
            name=first.name,
            session_id=first.session_id,
            parent_run_id=hex_of(first.parent_run_id),
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
            intent=_text(payload.get("intent")),
            outcome_description=payload.get("outcome_description"),
            inputs=payload.get("inputs"),
            labels=payload.get("labels"),
            outcome=None if finished is None else finished.outcome,
            reason=finished and finished.reason,
            passed=None if finished is None else finished.passed,
            output=ending.get("output"),
            started_at=rfc3339(first.at_us),
            finished_at=None if finished is None else rfc3339(finished.at_us),
            duration_us=None if finished is None else finished.at_us - first.at_us,
            calls=sum(sums.calls_by_outcome.values()),
            calls_by_outcome=sums.calls_by_outcome,
            steps=sums.totals.steps,
            totals=msgspec.structs.replace(totals, refused=refused) if refused else totals,
            stated_totals=ending.get("stated_totals"),
            owner_pid=first.owner_pid or None,
            shard=stored.shard,
            sequence=stored.sequence,
        )

    def _added_up(self, run_id: bytes, sums: RunSums) -> Totals:
        dropped = 0
        for place in sums.gaps:
            by_run: Any = (self.leaf(place, Event)[0].data or {}).get("by_run")
            count: Any = by_run.get(run_id.hex()) if _kind(by_run) is dict else None
            dropped += count if isinstance(count, int) else 0
        return msgspec.structs.replace(sums.totals, dropped=dropped) if dropped else sums.totals

    def _refused(self, place: Place) -> int:
        """How much was offered after the end, by one record of it. A child refused before is none of it."""
        said: Any = self.event(place).data
        if _kind(said) is not dict:
            return 1
        count: Any = said.get("count", 1)
        return count if isinstance(count, int) and "reason" not in said else 0

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

    def step(self, place: Place, run_agent: str | None) -> StepView:
        leaf, stored = self.leaf(place, Step)
        payload = self.payload(stored)
        return StepView(
            id=leaf.step_id.hex(),
            run_id=leaf.run_id.hex(),
            position=leaf.position,
            iteration=leaf.iteration,
            at=rfc3339(leaf.at_us),
            agent=run_agent if leaf.agent is None else leaf.agent,
            parent_id=hex_of(leaf.parent_id),
            external_id=leaf.external_id,
            model=leaf.model,
            requested_model=leaf.requested_model,
            responded=leaf.responded,
            finish_reason=leaf.finish_reason,
            text=payload.get("text"),
            text_bytes=leaf.text_bytes,
            text_cut_bytes=leaf.text_cut_bytes,
            text_withheld=leaf.text_withheld,
            requested=leaf.requested,
            calls=payload.get("calls"),
            data=payload.get("data"),
            tokens=leaf.tokens,
            cost_nano_usd=leaf.cost_nano_usd,
            prices=leaf.prices,
            since_previous_us=leaf.since_previous_us,
            model_us=leaf.model_us,
            unusable=leaf.unusable,
            redactions=leaf.redactions,
            shard=stored.shard,
            sequence=stored.sequence,
        )

    def event(self, place: Place) -> EventView:
        leaf, stored = self.leaf(place, Event)
        return EventView(
            id=leaf.event_id.hex(),
            name=leaf.name,
            at=rfc3339(leaf.at_us),
            run_id=hex_of(leaf.run_id),
            call_id=hex_of(leaf.call_id),
            data=self._event_data(leaf, stored),
            shard=stored.shard,
            sequence=stored.sequence,
        )

    def _event_data(self, leaf: Event, stored: Stored) -> Any:
        """What an event says: in its payload, in its leaf, or some of it in each."""
        said: Any = self.payload(stored).get("data")
        if leaf.data is None:
            return said
        kept: Any = plain(leaf.data)
        return {**said, **kept} if _kind(said) is dict else kept

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


def _shown_all(values: Iterable[Any]) -> list[Any]:
    return [_shown(value) if isinstance(value, Struct) else value for value in values]


def _text(value: Any) -> str | None:
    """What is shown as text, also where something else was said: as JSON then."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
