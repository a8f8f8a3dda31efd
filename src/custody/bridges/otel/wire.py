"""OTLP as it arrives: a request of spans in protobuf or JSON, read into one shape; and what it is answered.

Owns both encodings, the bounds of a request, and which spans cannot be any (no id, no times). Knows nothing
of what a span means: `told_spans` does. The protobuf messages are those of `opentelemetry-proto`, loaded with
the first request in protobuf. Used by `received` and by the door.

Source: the OTLP specification (opentelemetry.io/docs/specs/otlp, read 2026-11-22). Its JSON has ids in
hex, enumerations as numbers, 64-bit numbers as text or number, and names in lowerCamelCase alone.
"""

import base64
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from custody.bridges.otel.parts import PARTS_MAX, count_parts
from custody.errors import UsageError
from custody.records import CALL_ID_BYTES, RUN_ID_BYTES, now_us

Encoding = Literal["protobuf", "json"]

CONTENT_TYPES: dict[str, Encoding] = {"application/x-protobuf": "protobuf", "application/json": "json"}
BODY_BYTES_MAX = 20 * 1024**2  # compressed or not: what the specification recommends
SPANS_MAX = 20_000  # of one request; what a collector sends at once is 8,192
ATTRIBUTES_MAX = 1_000  # of one span; the rest is counted
EVENTS_MAX = 128  # of one span that are looked at for an exception: the default of the SDKs
DEPTH_MAX = 64  # of one attribute's value
FUTURE_US_MAX = 24 * 3600 * 1_000_000  # by which another machine's clock may be ahead

LASTS_US_MAX = 31 * 24 * 3600 * 1_000_000
"""Of one span. A clock that was not set makes one of fifty years, which would spoil every sum it enters."""

MEMBERS_MAX = 1_000  # of a gzip: a sender makes one, and an empty one costs more to open than to send
UNPACKED_AT_ONCE = 64 * 1024

REMOTE_PARENT = 0x300
"""Span flags: it is known of the parent whether it is remote, and it is."""

STATUS_OK, STATUS_ERROR = 1, 2
UINT32_MAX = 2**32 - 1  # what protobuf has for a count


class BadRequest(UsageError):
    """The body is no request of spans."""


class TooLarge(UsageError):
    """The request has more than can be taken at once."""


class Span(Struct, kw_only=True):
    """One span as it was told. Times are microseconds since 1970 UTC."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    remote_parent: bool
    name: str
    started_us: int
    ended_us: int
    attributes: dict[str, Any]
    attributes_left_out: int
    """By the sender, and by us because there were too many."""
    status: int
    status_message: str
    exception: tuple[str | None, str | None]
    """Type and message of the last one among its events."""
    resource: dict[str, Any]
    scope: str


class Request(Struct, frozen=True):
    """The spans of one request, and those that cannot be any: why, and how many."""

    spans: list[Span]
    rejected: dict[str, int]


def inflated(body: bytes) -> bytes:
    """A gzip body, within the bound. Raises BadRequest, TooLarge."""
    made, members = bytearray(), 0
    member = None
    for start in range(0, len(body), UNPACKED_AT_ONCE):  # all at once, each member would copy all behind it
        left = body[start : start + UNPACKED_AT_ONCE]
        while left:
            if member is None:
                member, members = zlib.decompressobj(wbits=31), members + 1
            if members > MEMBERS_MAX:
                raise TooLarge(f"The body's gzip has more than {MEMBERS_MAX:,} members.")
            try:
                made += member.decompress(left, BODY_BYTES_MAX + 1 - len(made))
            except zlib.error as error:
                raise BadRequest(f"The body is no gzip: {error}.") from error
            if len(made) > BODY_BYTES_MAX:
                raise TooLarge(f"The body has more than {BODY_BYTES_MAX:,} bytes once it is unpacked.")
            left, member = (member.unused_data, None) if member.eof else (b"", member)
    if member is not None:
        raise BadRequest("The body ends in the middle of its gzip.")
    return bytes(made)


def parsed(body: bytes, encoding: Encoding) -> Request:
    """Raises BadRequest, TooLarge."""
    return _checked(_from_json(body) if encoding == "json" else _from_protobuf(body))


def _checked(spans: Iterator[Span | str]) -> Request:
    kept: list[Span] = []
    rejected: dict[str, int] = {}
    latest_us = now_us() + FUTURE_US_MAX
    for count, span in enumerate(spans):
        if count >= SPANS_MAX:
            raise TooLarge(f"The request has more than {SPANS_MAX:,} spans.", hint="Send fewer at once.")
        why = span if isinstance(span, str) else _fault(span, latest_us)
        if why is None and not isinstance(span, str):
            kept.append(span)
        else:
            rejected[str(why)] = rejected.get(str(why), 0) + 1
    return Request(kept, rejected)


def _fault(span: Span, latest_us: int) -> str | None:
    if len(span.trace_id) != RUN_ID_BYTES or not any(span.trace_id):
        return "no trace id"
    if len(span.span_id) != CALL_ID_BYTES or not any(span.span_id):
        return "no span id"
    if span.parent_id is not None and len(span.parent_id) != CALL_ID_BYTES:
        return "a parent id of another length"
    if not 0 < span.started_us <= span.ended_us:
        return "no start, or an end before it"
    if span.ended_us > latest_us:
        return "times in the future"
    return "longer than a month" if span.ended_us - span.started_us > LASTS_US_MAX else None


def _parent(span_id: bytes) -> bytes | None:
    """An id of zeros is none: some SDKs say so of a root."""
    return span_id if any(span_id) else None


# -- protobuf -----------------------------------------------------------------------------------------


def _from_protobuf(body: bytes) -> Iterator[Span | str]:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    _bound_parts(count_parts(body))
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise BadRequest("The body is no ExportTraceServiceRequest in protobuf.") from error
    for of_resource in request.resource_spans:
        resource: dict[str, Any] | None = None
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                if resource is None:
                    resource = _attributes(of_resource.resource.attributes)[0]
                yield _of_protobuf(span, resource, of_scope.scope.name)


def _bound_parts(count: int) -> None:
    if count > PARTS_MAX:
        raise TooLarge(
            f"The request has more than {PARTS_MAX:,} attributes, values and other parts.",
            hint="Send fewer at once.",
        )


def _of_protobuf(span: Any, resource: dict[str, Any], scope: str) -> Span:
    attributes, left_out = _attributes(span.attributes)
    exception: tuple[str | None, str | None] = (None, None)
    for event in span.events[-EVENTS_MAX:] if len(span.events) else ():
        if event.name == "exception":
            exception = _exception(_attributes(event.attributes)[0])
    return Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=_parent(span.parent_span_id),
        remote_parent=span.flags & REMOTE_PARENT == REMOTE_PARENT,
        name=span.name,
        started_us=span.start_time_unix_nano // 1000,
        ended_us=span.end_time_unix_nano // 1000,
        attributes=attributes,
        attributes_left_out=left_out + span.dropped_attributes_count,
        status=span.status.code,
        status_message=span.status.message,
        exception=exception,
        resource=resource,
        scope=scope,
    )


def _attributes(pairs: Any) -> tuple[dict[str, Any], int]:
    """Names and plain values, and how many there were too many."""
    kept = pairs if len(pairs) <= ATTRIBUTES_MAX else pairs[:ATTRIBUTES_MAX]
    return {pair.key: _value(pair.value) for pair in kept}, len(pairs) - len(kept)


def _value(value: Any) -> Any:
    """Protobuf itself refuses what is nested deeper than a hundred messages."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind)


# -- JSON ---------------------------------------------------------------------------------------------


class _TooDeep(Exception):
    """A value is nested deeper than is read."""


class _Camel(Struct, rename="camel", gc=False):
    """What is not known is passed over, as the specification wants it. None of them holds itself."""


Whole = int | str | None


class _Any(_Camel):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: Whole = None
    double_value: float | str | None = None
    array_value: "_Array | None" = None
    kvlist_value: "_Pairs | None" = None
    bytes_value: str | None = None


class _Array(_Camel):
    values: list[_Any] | None = None


class _Pair(_Camel):
    key: str = ""
    value: _Any | None = None


class _Pairs(_Camel):
    values: list[_Pair] | None = None


class _Event(_Camel):
    name: str = ""
    attributes: list[_Pair] | None = None


class _Status(_Camel):
    code: Whole = 0
    message: str | None = None


class _Span(_Camel):
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str | None = None
    flags: Whole = 0
    name: str | None = None
    start_time_unix_nano: Whole = 0
    end_time_unix_nano: Whole = 0
    attributes: list[_Pair] | None = None
    dropped_attributes_count: Whole = 0
    events: list[_Event] | None = None
    status: _Status | None = None


class _Scope(_Camel):
    name: str | None = None


class _ScopeSpans(_Camel):
    scope: _Scope | None = None
    spans: list[_Span] | None = None


class _Resource(_Camel):
    attributes: list[_Pair] | None = None


class _ResourceSpans(_Camel):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] | None = None


class _Body(_Camel):
    resource_spans: list[_ResourceSpans] | None = field(default=None)


_decoder = msgspec.json.Decoder(_Body)


def _from_json(body: bytes) -> Iterator[Span | str]:
    _bound_parts(body.count(b"{"))  # those in texts too: what is told has fewer even so
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is no ExportTraceServiceRequest in JSON: {error}.") from error
    except RecursionError as error:
        raise BadRequest("The body is nested too deep.") from error
    for of_resource in request.resource_spans or ():
        resource: dict[str, Any] | None = None
        for of_scope in of_resource.scope_spans or ():
            scope = (of_scope.scope or _Scope()).name or ""
            for span in of_scope.spans or ():
                try:
                    if resource is None:
                        resource = _pairs((of_resource.resource or _Resource()).attributes)[0]
                    yield _of_json(span, resource, scope)
                except _TooDeep:
                    yield "a value nested too deep"
                except (ValueError, OverflowError):
                    yield "an id or a number that is none"


def _of_json(span: _Span, resource: dict[str, Any], scope: str) -> Span:
    attributes, left_out = _pairs(span.attributes)
    exception: tuple[str | None, str | None] = (None, None)
    for event in (span.events or [])[-EVENTS_MAX:]:
        if event.name == "exception":
            exception = _exception(_pairs(event.attributes)[0])
    status = span.status or _Status()
    return Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_id=_parent(bytes.fromhex(span.parent_span_id or "")),
        remote_parent=int(span.flags or 0) & REMOTE_PARENT == REMOTE_PARENT,
        name=span.name or "",
        started_us=int(span.start_time_unix_nano or 0) // 1000,
        ended_us=int(span.end_time_unix_nano or 0) // 1000,
        attributes=attributes,
        attributes_left_out=left_out + min(max(int(span.dropped_attributes_count or 0), 0), UINT32_MAX),
        status=int(status.code or 0),
        status_message=status.message or "",
        exception=exception,
        resource=resource,
        scope=scope,
    )


def _pairs(pairs: list[_Pair] | None) -> tuple[dict[str, Any], int]:
    kept = (pairs or [])[:ATTRIBUTES_MAX]
    return {pair.key: _plain(pair.value, 0) for pair in kept}, len(pairs or ()) - len(kept)


def _plain(value: _Any | None, depth: int) -> Any:
    if value is None:
        return None
    if depth > DEPTH_MAX:
        raise _TooDeep
    if value.array_value is not None:
        return [_plain(item, depth + 1) for item in value.array_value.values or ()]
    if value.kvlist_value is not None:
        return {pair.key: _plain(pair.value, depth + 1) for pair in value.kvlist_value.values or ()}
    if value.int_value is not None:
        return int(value.int_value)
    if value.double_value is not None:
        return float(value.double_value)
    for said in (value.string_value, value.bool_value, value.bytes_value):
        if said is not None:
            return said
    return None


def _exception(attributes: dict[str, Any]) -> tuple[str | None, str | None]:
    kind, message = attributes.get("exception.type"), attributes.get("exception.message")
    return None if kind is None else str(kind), None if message is None else str(message)


# -- what it is answered ------------------------------------------------------------------------------


def response(encoding: Encoding, rejected: int = 0, said: str = "") -> bytes:
    """An ExportTraceServiceResponse: empty where all was taken and there is nothing to say."""
    if encoding == "json":
        partial = {"rejectedSpans": str(rejected), "errorMessage": said}
        return msgspec.json.encode({"partialSuccess": partial} if rejected or said else {})
    if not rejected and not said:
        return b""
    partial = (_number(1, rejected) if rejected else b"") + _text(2, said)
    return _bytes(1, partial)


def status(encoding: Encoding, code: int, said: str) -> bytes:
    """A google.rpc.Status: what a request that failed is answered with."""
    if encoding == "json":
        return msgspec.json.encode({"code": code, "message": said})
    return _number(1, code) + _text(2, said)


def counted(counts: Iterable[tuple[str, int]]) -> str:
    """`3 no span id, 1 times in the future`"""
    return ", ".join(f"{count:,} {why}" for why, count in counts)


def _number(tag: int, value: int) -> bytes:
    return _varint(tag << 3) + _varint(value)


def _text(tag: int, text: str) -> bytes:
    return _bytes(tag, text.encode("utf-8", "replace"))


def _bytes(tag: int, data: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
