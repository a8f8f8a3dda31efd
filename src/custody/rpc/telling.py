"""What a client tells of its own work, made records in the order in which it was told.

Owns the spelling of what is told, and the answer to each. Runs in a thread: each record may wait for a disk.
Used by `methods.calls`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from custody.calls import stated
from custody.calls.asked import inside
from custody.calls.told import ToldCall, ToldEnd, tell_step
from custody.errors import CustodyError, Denied, InvalidInput
from custody.records import OWN_EVENTS, Decision, Outcome, document, now_us
from custody.rpc.part_ids import id_of
from custody.rpc.parts import OPEN_CALLS_MAX, Part
from custody.rpc.spoken import heard

AGE_US_MAX = 24 * 3600 * 1_000_000
"""How long ago what is told may have been: longer than any client keeps it."""

GAP_BYTES_MAX = 16 * 1024  # of what a client says it dropped


class Entry(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Something told."""

    n: int
    """Number of it in its part, rising; what bears no new one is recorded already."""
    at: int = 0
    """When it was, in microseconds on the client's own clock; see `now` of the request."""
    marked: bool = False
    """Marks stand in it for what is not JSON."""
    parent_id: str | None = None
    """The call in which it was made."""


class CallStarted(Entry, frozen=True, kw_only=True, tag="call_started"):
    """The client begins a call that it runs itself."""

    tool: str
    arguments: Any = None
    effect: str = "unknown"
    external_id: str | None = None
    step_id: str | None = None
    agent: str | None = None
    dry_run: bool = False
    durable: bool = False
    guard: bool = False


class CallRejected(CallStarted, frozen=True, kw_only=True, tag="call_rejected"):
    """A call never ran, as somebody said no."""

    reason: str = ""
    rule: str | None = None


class CallFinished(Entry, frozen=True, kw_only=True, tag="call_finished"):
    """A told call is over."""

    call: int
    """Number of its start."""
    result: Any = None
    passed: bool | None = None
    cached: bool = False
    latency_us: int = 0
    outcome: Literal["failed", "timed_out", "cancelled", "rejected"] | None = None
    """None: what the result says of itself."""
    reason: str | None = None
    error: dict[str, Any] | None = None


class Step(Entry, frozen=True, kw_only=True, tag="step"):
    """A model turn; `said` has what `RunRecord.step` takes."""

    said: dict[str, Any]


class EventSaid(Entry, frozen=True, kw_only=True, tag="event"):
    """Something else worth keeping: a name that begins with `app.`, or `run.error`."""

    name: str
    data: Any = None


class Gap(Entry, frozen=True, kw_only=True, tag="gap"):
    """What the client could not tell, counted."""

    data: dict[str, Any]


AnyEntry = CallStarted | CallRejected | CallFinished | Step | EventSaid | Gap


class Teller(Struct, frozen=True, kw_only=True):
    """Records what one connection tells in one part."""

    part: Part
    door: str
    connection: str
    agent: str | None
    """The agent its token binds it to; None: it says itself who made a call."""
    denied: Callable[[str, Any], Decision | None]
    """What the connection's own guards say of a call that is guarded."""
    now: int
    """On the client's clock, when it sent this."""

    def tell(self, entries: list[AnyEntry]) -> list[dict[str, Any]]:
        """The answer to each, in order. Raises for none."""
        return [self._answer(entry) for entry in entries]

    def _answer(self, entry: AnyEntry) -> dict[str, Any]:
        try:
            if not isinstance(entry, Gap) and not self.part.is_new(entry.n):
                return {"id": id_of(self.part.id, entry.n).hex(), "again": True}
            with inside(stated.call_id(entry.parent_id)):
                return self._record(entry)
        except CustodyError as error:
            return {"error": self._said(error)}

    def _said(self, error: CustodyError) -> dict[str, Any]:
        clean = self.part.handle.recording.recorder.clean_text
        said: dict[str, Any] = {
            "error": type(error).__name__,
            "message": clean(error.message, "error")[0],
        }
        if error.hint is not None:
            said["hint"] = clean(error.hint, "error")[0]
        decision = error.details.get("decision")
        if isinstance(error, Denied) and isinstance(decision, Decision):
            said["decision"] = document(decision)
            said["decision"]["reason"] = clean(decision.reason, "decision")[0]
            said["call_id"] = error.details.get("call_id")
        return said

    def _record(self, entry: AnyEntry) -> dict[str, Any]:
        handle = self.part.handle
        match entry:
            case CallRejected():
                call = self._call(entry)
                call.reject(entry.reason, rule=entry.rule)
                return {"id": call.id, "position": call.position}
            case CallStarted():
                return self._start(entry)
            case CallFinished():
                return self._finish(entry)
            case Step():
                step, turn = tell_step(
                    handle, id_of(self.part.id, entry.n), self._step_said(entry), self._age_us(entry.at)
                )
                cost = turn.fields["cost_nano_usd"]
                return {"id": step.id, "position": step.position, "cost_nano_usd": cost}
            case EventSaid():
                self._event(entry)
                return {}
            case Gap():
                self._gap(entry)
                return {}

    # -- calls ------------------------------------------------------------------------------------------

    def _call(self, entry: CallStarted) -> ToldCall:
        arguments = heard(entry.arguments, marked=entry.marked)
        return ToldCall(
            self.part.handle,
            entry.tool,
            arguments,
            call_id=id_of(self.part.id, entry.n),
            asked_at_us=self._at_us(entry.at),
            door=self.door,
            connection=self.connection,
            denied=self.denied(entry.tool, arguments) if entry.guard else None,
            effect=entry.effect,
            external_id=entry.external_id,
            step_id=stated.call_id(entry.step_id),
            parent_id=stated.call_id(entry.parent_id),
            durable=entry.durable,
            dry_run=entry.dry_run,
            agent=self.agent or entry.agent,
            guard=entry.guard,
            on_error="raise",
        )

    def _start(self, entry: CallStarted) -> dict[str, Any]:
        if len(self.part.open) >= OPEN_CALLS_MAX:
            raise InvalidInput(f"{OPEN_CALLS_MAX} told calls of this part have not ended.")
        call = self._call(entry)
        call.open()
        self.part.open[entry.n] = call
        return {"id": call.id, "position": call.position}

    def _finish(self, entry: CallFinished) -> dict[str, Any]:
        call = self.part.open.pop(entry.call, None)
        if call is None:
            raise InvalidInput("No call was begun under this number.", field="call")
        outcome: Outcome | None = entry.outcome
        call.end(
            ToldEnd(
                at_us=self._at_us(entry.at),
                latency_us=max(0, min(entry.latency_us, AGE_US_MAX)),
                result=heard(entry.result, marked=entry.marked),
                passed=entry.passed,
                cached=entry.cached,
                outcome=outcome,
                reason=stated.name(entry.reason),
                error=_error(entry),
            )
        )
        return {"id": call.id, "position": call.position}

    # -- the rest ---------------------------------------------------------------------------------------

    def _step_said(self, entry: Step) -> dict[str, Any]:
        said: Any = heard(entry.said, marked=entry.marked)
        return {**said, "agent": self.agent or said.get("agent")}

    def _event(self, entry: EventSaid) -> None:
        said: Any = heard(entry.data, marked=entry.marked)
        data: dict[str, Any] = dict(said) if isinstance(said, Mapping) else {"data": said}  # pyright: ignore[reportUnknownArgumentType]
        if entry.name == "run.error":
            message = data.pop("message", "")
            self.part.handle.error(message, **data)
        elif entry.name.startswith(OWN_EVENTS):
            self.part.handle.event(entry.name, **data)
        else:
            raise InvalidInput("A client's own events begin with app.", field="name")

    def _gap(self, entry: Gap) -> None:
        if len(msgspec.json.encode(entry.data)) > GAP_BYTES_MAX:
            raise InvalidInput("A gap is a few counts.", field="data")
        count = entry.data.get("count")
        if type(count) is not int or not 0 < count < 2**53:
            raise InvalidInput("A gap has a count.", field="data.count")
        handle = self.part.handle
        data = {
            "count": count,
            "by_kind": _counts(entry.data.get("by_kind")),
            "by_run": {handle.id: count},
            "causes": _counts(entry.data.get("causes")),
            "since_us": _moment(entry.data.get("since_us")),
            "until_us": _moment(entry.data.get("until_us")),
            "connection": self.connection,
        }
        recorder = handle.recording.recorder
        recorder.append(recorder.draft_event("journal.gap", data, leaf_data=True, run_id=handle.run_id))

    def _at_us(self, at: int) -> int:
        """When that was on our clock: clocks of two machines differ, how long ago it was does not."""
        return now_us() - self._age_us(at)

    def _age_us(self, at: int) -> int:
        return max(0, min(self.now - at, AGE_US_MAX))


def _error(entry: CallFinished) -> dict[str, Any] | None:
    said: dict[str, Any] | None = heard(entry.error, marked=entry.marked)
    if not said:
        return None
    return {"type": stated.name(said.get("type")) or "ToolError", "message": said.get("message")}


def _counts(said: Any) -> dict[str, int]:
    counts = cast("dict[Any, Any]", said) if type(said) is dict else {}
    return {name: count for name, count in counts.items() if type(name) is str and type(count) is int}


def _moment(said: Any) -> int:
    return said if type(said) is int and 0 <= said < 2**53 else now_us()
