"""Spans of programs that know nothing of Custody, as their SDKs would send them, in both encodings."""

import asyncio
import base64
import json
import os
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from custody.bridges.otel.received import Received, Receiver
from custody.bridges.otel.wire import parsed
from custody.calls.runtime import Runtime
from custody.compose import open_runtime
from custody.journal.disk import Disk
from custody.settings import load_settings

OK, ERROR = 1, 2


def gen_ai(operation: str, **named: Any) -> dict[str, Any]:
    return {"gen_ai.operation.name": operation} | {f"gen_ai.{name}": value for name, value in named.items()}


def tool(name: str, **named: Any) -> dict[str, Any]:
    return gen_ai("execute_tool", **{"tool.name": name}, **named)


def any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))
    if isinstance(value, dict):
        return AnyValue(kvlist_value=KeyValueList(values=pairs(value)))
    return AnyValue() if value is None else AnyValue(string_value=value)


def pairs(named: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=name, value=any_value(value)) for name, value in named.items()]


class Trace:
    """The spans of one trace, each with a name of its own in the test."""

    def __init__(self, began_ns: int | None = None) -> None:
        self.id = os.urandom(16)
        self.began_ns = began_ns or time.time_ns() - 60 * 10**9
        self.ids: dict[str, bytes] = {}
        self.spans: list[Span] = []

    def span_id(self, name: str) -> bytes:
        return self.ids.setdefault(name, os.urandom(8))

    def span(
        self,
        name: str,
        attributes: Mapping[str, Any],
        *,
        under: str | None = None,
        at_ms: int = 0,
        ms: int = 1,
        status: int = 0,
        message: str = "",
        called: str | None = None,
        raised: tuple[str, str] | None = None,
        flags: int = 0,
    ) -> Span:
        start = self.began_ns + at_ms * 1_000_000
        made = Span(
            trace_id=self.id,
            span_id=self.span_id(name),
            parent_span_id=b"" if under is None else self.span_id(under),
            name=called or name,
            start_time_unix_nano=start,
            end_time_unix_nano=start + ms * 1_000_000,
            attributes=pairs(attributes),
            flags=flags,
        )
        made.status.code, made.status.message = status, message
        if raised is not None:
            said = pairs({"exception.type": raised[0], "exception.message": raised[1]})
            made.events.append(Span.Event(name="exception", attributes=said))
        self.spans.append(made)
        return made


def request_of(spans: Iterable[Span], resource: Mapping[str, Any] | None = None) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.extend(pairs({"service.name": "shop"} if resource is None else resource))
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = "shop.agents"
    of_scope.spans.extend(spans)
    return request


def as_json(request: ExportTraceServiceRequest) -> bytes:
    """As OTLP has it: ids in hex, where protobuf's own JSON has base64."""

    def hexed(value: Any) -> Any:
        if isinstance(value, list):
            return [hexed(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: base64.b64decode(item).hex()
            if name in ("traceId", "spanId", "parentSpanId")
            else hexed(item)
            for name, item in value.items()
        }

    return json.dumps(hexed(MessageToDict(request, use_integers_for_enums=True))).encode()


class Told:
    """A store that spans are told to."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.now = 0.0
        self.receiver = Receiver(runtime.recording, lambda: runtime.index, clock=lambda: self.now)

    def tell(self, *spans: Span, agent: str | None = None, **resource: Any) -> Received:
        body = request_of(spans, resource or None).SerializeToString()
        return self.receiver.receive(parsed(body, "protobuf"), agent)

    @property
    def run(self) -> Any:
        """The only one."""
        (run,) = self.runtime.index.runs().items
        return run

    def calls(self) -> dict[str, Any]:
        return {call.tool: call for call in self.runtime.index.run_calls(bytes.fromhex(self.run.id))}

    def steps(self) -> list[Any]:
        return self.runtime.index.run_steps(bytes.fromhex(self.run.id))


@contextmanager
def receiving(store: str = ":memory:", disk: Disk | None = None) -> Generator[Told]:
    loop = asyncio.new_event_loop()
    runtime = loop.run_until_complete(open_runtime(load_settings(store=store), door="server", disk=disk))
    try:
        yield Told(runtime)
    finally:
        loop.run_until_complete(runtime.close())
        loop.close()
