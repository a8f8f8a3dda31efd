"""Runs, steps and calls as spans, with the ids they have on the record.

Owns the ids (a run's is its trace's, a call's or step's its span's; the rest is derived from them), who is
whose parent, and the bounds of an attribute. Reads the index and nothing else; the same record always gives
the same span. Used by `exporter`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from custody import __version__
from custody.bridges.otel import mapping
from custody.bridges.otel.mapping import Row
from custody.errors import CorruptJournal, NotFound
from custody.index import Index
from custody.records import Call, Run, Step

TEXT_BYTES_MAX = 4 * 1024  # of one attribute that is not content: a reason, a name
CONTENT_BYTES_MAX = 64 * 1024  # of one attribute of content: what common back ends take, and three of them
ITEMS_MAX = 64  # of one list or mapping, so that labels cannot make a span without end
ANCESTORS_MAX = 64  # calls within calls; deeper than any agent nests, and a bound for a damaged chain
REMEMBERED_MAX = 4096  # calls and runs whose place in the tree is kept at hand

SAMPLED_AND_LOCAL = 0x101
"""Span flags: sampled, and it is known that the parent is not remote."""

INT64 = range(-(1 << 63), 1 << 63)


class Turn(Struct, frozen=True, kw_only=True):
    """A step with what its run knows: what the rows of `mapping.STEP` read."""

    step: Step
    payload: dict[str, Any]
    agent: str | None
    session_id: str | None
    shard: int
    sequence: int

    @property
    def requested_model(self) -> str | None:
        return self.step.requested_model or self.step.model

    @property
    def cost_usd(self) -> float | None:
        cost = self.step.cost_nano_usd
        return None if cost is None else cost / 1e9


class Family(Struct, frozen=True):
    """What a call says of where it belongs."""

    run_id: str | None
    parent_id: str | None


class Place(Struct, frozen=True):
    """Where a span stands in the tree."""

    trace_id: bytes
    parent_id: bytes = b""
    linked: tuple[bytes, bytes] | None = None
    """Trace and span of a parent call that belongs to another trace."""


def resource_of(service_name: str) -> Resource:
    return Resource(attributes=[key_value("service.name", service_name)])


def scope() -> InstrumentationScope:
    return InstrumentationScope(name=mapping.SCOPE_NAME, version=__version__)


# -- ids ----------------------------------------------------------------------------------------------


def run_span_id(run_id: bytes) -> bytes:
    """The span of a run in its own trace."""
    return _derived(run_id, 8)


def lone_trace_id(call_id: bytes) -> bytes:
    """The trace of a call that belongs to no run."""
    return _derived(call_id, 16)


def _derived(identifier: bytes, count: int) -> bytes:
    """The first bytes of its SHA-256; an id of zeros would be no id."""
    derived = hashlib.sha256(identifier).digest()[:count]
    return derived if any(derived) else b"\x01" * count


# -- the tree -----------------------------------------------------------------------------------------


class Tree:
    """Who is whose parent, asked of the index and remembered for a while."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._calls: OrderedDict[str, Family | None] = OrderedDict()
        self._runs: OrderedDict[str, tuple[str | None, str | None]] = OrderedDict()

    def remember(self, call: Call) -> None:
        _keep(self._calls, call.id, Family(call.run_id, call.parent_id))

    def of_call(self, call: Call) -> Place:
        self.remember(call)
        trace_id = self._trace_of(call.id)
        around = bytes.fromhex(call.step_id) if call.step_id else b""
        return self._below(trace_id, call.parent_id, around or self._run_span(call.run_id))

    def of_step(self, step: Step) -> Place:
        parent_id = None if step.parent_id is None else step.parent_id.hex()
        return self._below(step.run_id, parent_id, run_span_id(step.run_id))

    def agent_and_session(self, run_id: bytes) -> tuple[str | None, str | None]:
        """What a step leaves to its run; unknown when the start of the run is lost."""
        text = run_id.hex()
        known = self._runs.get(text)
        if known is None:
            try:
                run = self._index.run(text, refresh=False)
                known = run.agent, run.session_id
            except (NotFound, CorruptJournal):
                known = None, None
            _keep(self._runs, text, known)
        return known

    def _below(self, trace_id: bytes, parent_id: str | None, around: bytes) -> Place:
        if parent_id is None or self._family(parent_id) is None:
            return Place(trace_id, around)
        parent_trace = self._trace_of(parent_id)
        if parent_trace == trace_id:
            return Place(trace_id, bytes.fromhex(parent_id))
        return Place(trace_id, around, (parent_trace, bytes.fromhex(parent_id)))

    def _trace_of(self, call_id: str) -> bytes:
        """The run's, else that of the call it was made in, else its own."""
        for _ in range(ANCESTORS_MAX):
            family = self._family(call_id)
            if family is not None and family.run_id is not None:
                return bytes.fromhex(family.run_id)
            if family is None or family.parent_id is None or self._family(family.parent_id) is None:
                break
            call_id = family.parent_id
        return lone_trace_id(bytes.fromhex(call_id))

    def _family(self, call_id: str) -> Family | None:
        """None for a call that is not in this store: its parent may have been in another one."""
        if call_id not in self._calls:
            try:
                self.remember(self._index.call(call_id, details=False, refresh=False))
            except (NotFound, CorruptJournal):
                _keep(self._calls, call_id, None)
        return self._calls[call_id]

    @staticmethod
    def _run_span(run_id: str | None) -> bytes:
        return b"" if run_id is None else run_span_id(bytes.fromhex(run_id))


def _keep(remembered: OrderedDict[str, Any], key: str, value: Any) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > REMEMBERED_MAX:
        remembered.popitem(last=False)


# -- spans --------------------------------------------------------------------------------------------


class SpanMaker:
    """Makes spans of what is on the record."""

    def __init__(self, index: Index, *, content: bool) -> None:
        self.tree = Tree(index)
        self._content = content

    def of_call(self, call: Call) -> Span:
        end_ns = _ns(call.finished_at)
        start_ns = _ns(call.started_at or call.asked_at)
        if call.latency_us is not None:
            start_ns = end_ns - call.latency_us * 1000  # the span is the execution; waits are attributes
        place = self.tree.of_call(call)
        wrong = mapping.call_error(call)
        span = Span(
            trace_id=place.trace_id,
            span_id=bytes.fromhex(call.id),
            parent_span_id=place.parent_id,
            name=f"{mapping.CALL_OPERATION} {_cut(call.tool, TEXT_BYTES_MAX)[0]}",
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=min(start_ns, end_ns),
            end_time_unix_nano=end_ns,
            flags=SAMPLED_AND_LOCAL,
        )
        if place.linked is not None:
            _link(span, *place.linked, "parent_call")
        return self._filled(span, mapping.CALL, call, wrong, mapping.call_reason(call))

    def of_run(self, run: Run) -> Span:
        run_id = bytes.fromhex(run.id)
        operation = mapping.RUN_OPERATION
        name = operation if run.agent is None else f"{operation} {_cut(run.agent, TEXT_BYTES_MAX)[0]}"
        end_ns = _ns(run.finished_at)
        span = Span(
            trace_id=run_id,
            span_id=run_span_id(run_id),
            name=name,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=min(_ns(run.started_at), end_ns),
            end_time_unix_nano=end_ns,
            flags=SAMPLED_AND_LOCAL,
        )
        if run.parent_run_id is not None:
            parent = bytes.fromhex(run.parent_run_id)
            _link(span, parent, run_span_id(parent), "parent_run")
        return self._filled(span, mapping.RUN, run, mapping.run_error(run), run.reason)

    def of_turn(self, turn: Turn) -> Span:
        step = turn.step
        place = self.tree.of_step(step)
        model = turn.requested_model
        operation = mapping.STEP_OPERATION
        span = Span(
            trace_id=place.trace_id,
            span_id=step.step_id,
            parent_span_id=place.parent_id,
            name=operation if model is None else f"{operation} {_cut(model, TEXT_BYTES_MAX)[0]}",
            kind=Span.SPAN_KIND_CLIENT,
            start_time_unix_nano=(step.at_us - (step.model_us or 0)) * 1000,
            end_time_unix_nano=step.at_us * 1000,
            flags=SAMPLED_AND_LOCAL,
        )
        if place.linked is not None:
            _link(span, *place.linked, "parent_call")
        return self._filled(span, mapping.STEP, turn, mapping.step_error(turn), None)

    def _filled(
        self, span: Span, rows: Iterable[Row], exported: Any, wrong: str | None, why: str | None
    ) -> Span:
        cut_bytes = dropped = 0
        for row in rows:
            if row.content and not self._content:
                continue
            for name, value in _items(row, exported):
                if value is None:
                    continue
                made, cut, left_out = _any_value(value, content=row.content)
                span.attributes.append(KeyValue(key=name, value=made))
                cut_bytes += cut
                dropped += left_out
            dropped += _items_dropped(row, exported)
        if cut_bytes:
            span.attributes.append(key_value(mapping.CUT_BYTES, cut_bytes))
        span.dropped_attributes_count = dropped
        if wrong is not None:
            said = "" if why is None else _cut(why, TEXT_BYTES_MAX)[0]
            span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=said))
        return span


def _items(row: Row, exported: Any) -> Iterator[tuple[str, Any]]:
    """The attributes a row makes: one, or one for each item of a mapping."""
    value = row.value(exported)
    if not row.name.endswith(".*"):
        yield row.name, value
        return
    named = cast("Mapping[str, Any]", value or {})
    for name in list(named)[:ITEMS_MAX]:
        yield row.name[:-1] + name, named[name]


def _items_dropped(row: Row, exported: Any) -> int:
    return max(0, len(row.value(exported) or ()) - ITEMS_MAX) if row.name.endswith(".*") else 0


def _link(span: Span, trace_id: bytes, span_id: bytes, role: str) -> None:
    attributes = [key_value(mapping.LINK_ROLE, role)]
    span.links.append(
        Span.Link(trace_id=trace_id, span_id=span_id, attributes=attributes, flags=SAMPLED_AND_LOCAL)
    )


# -- values -------------------------------------------------------------------------------------------


def key_value(name: str, value: Any) -> KeyValue:
    return KeyValue(key=name, value=_any_value(value)[0])


def _any_value(value: Any, *, content: bool = False) -> tuple[AnyValue, int, int]:
    """The value as OTLP has it, how many bytes of it were cut, how many items left out.

    Content is always text, as JSON unless it is text already: back ends differ in what else they take.
    """
    if content:
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        kept, cut_bytes = _cut(text, CONTENT_BYTES_MAX)
        return AnyValue(string_value=kept), cut_bytes, 0
    if isinstance(value, bool):
        return AnyValue(bool_value=value), 0, 0
    if isinstance(value, int) and value in INT64:
        return AnyValue(int_value=value), 0, 0
    if isinstance(value, float):
        return AnyValue(double_value=value), 0, 0
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        parts = [_any_value(item) for item in items[:ITEMS_MAX]]
        made = AnyValue(array_value=ArrayValue(values=[part[0] for part in parts]))
        return made, sum(part[1] for part in parts), max(0, len(items) - ITEMS_MAX)
    kept, cut_bytes = _cut(str(value), TEXT_BYTES_MAX)
    return AnyValue(string_value=kept), cut_bytes, 0


def _cut(text: str, bytes_max: int) -> tuple[str, int]:
    """The text, cut between characters where it is too long, and how many bytes were cut."""
    data = text.encode()
    if len(data) <= bytes_max:
        return text, 0
    kept = data[:bytes_max].decode(errors="ignore")
    return kept, len(data) - len(kept.encode())


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _ns(moment: str | None) -> int:
    """Nanoseconds since 1970 UTC of a read model's time."""
    assert moment is not None, "what is exported has ended"
    return (datetime.fromisoformat(moment) - _EPOCH) // _MICROSECOND * 1000
