"""Spans over HTTP into a daemon's store, as an exporter sends them: how many a second, durable and indexed.

Batches of 512 spans of calls with arguments and results, in protobuf, to `custody serve`. The figure is that
of the whole way: a request is answered when its records are durable. Beside it the reading of the protobuf
alone, and the processor time of the daemon.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from harness import Measurement, arguments, report, scratch, settle

SPANS_PER_SECOND_MIN = 5_000
SPANS_AT_ONCE = 512  # what the SDK sends at once
SETTINGS = "[breaker]\ncpu_pressure_percent_max = 100\n"

CALL = {
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "search",
    "gen_ai.tool.type": "function",
    "gen_ai.tool.call.id": "call_8XjY2",
    "gen_ai.tool.call.arguments": '{"path": "src/shop/basket.py", "needle": "total", "limit": 20}',
    "gen_ai.tool.call.result": '{"matches": ["src/shop/basket.py:41", "src/shop/basket.py:97"]}',
}


def text(name: str, value: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=value))


def batch(number: int) -> bytes:
    """One run of an agent that made calls: its root comes last."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.append(text("service.name", "shop"))
    spans = of_resource.scope_spans.add().spans
    trace_id, root, began_ns = os.urandom(16), os.urandom(8), time.time_ns() - 10**10
    for index in range(SPANS_AT_ONCE):
        is_root = index == SPANS_AT_ONCE - 1
        named = {"gen_ai.operation.name": "invoke_agent"} if is_root else CALL
        spans.add(
            trace_id=trace_id,
            span_id=root if is_root else os.urandom(8),
            parent_span_id=b"" if is_root else root,
            name=f"batch {number}",
            start_time_unix_nano=began_ns + (0 if is_root else index * 1_000_000),
            end_time_unix_nano=began_ns + (10**9 if is_root else index * 1_000_000 + 500_000),
            attributes=[text(name, value) for name, value in named.items()],
        )
    return request.SerializeToString()


@contextmanager
def serving(folder: Path) -> Generator[tuple[int, str]]:
    """The daemon's pid, and its host and port."""
    (folder / "custody.toml").write_text(SETTINGS, encoding="utf-8")
    options = ["--no-auth", "--no-socket", "--json", "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "custody", "serve", "--store", str(folder / "store"), *options]
    environment = {**os.environ, "CUSTODY_CONFIG": str(folder / "custody.toml")}
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert daemon.stdout is not None
    try:
        said = json.loads(daemon.stdout.readline())
        address = next(address for address in said["addresses"] if address.startswith("ws"))
        yield daemon.pid, address.removeprefix("ws://")
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        daemon.stdout.close()


def processor_seconds(pid: int) -> float:
    """What the daemon has used of the processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sent(address: str, bodies: list[bytes]) -> float:
    """Spans a second of one sender that waits for each answer, as an exporter does."""
    connection = http.client.HTTPConnection(address, timeout=60)
    headers = {"Content-Type": "application/x-protobuf"}
    start = time.perf_counter()
    for body in bodies:
        connection.request("POST", "/v1/traces", body, headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    seconds = time.perf_counter() - start
    connection.close()
    return len(bodies) * SPANS_AT_ONCE / seconds


def read_alone(bodies: list[bytes]) -> float:
    """Spans a second of reading the protobuf into what `received` takes."""
    from custody.bridges.otel.wire import parsed

    start = time.perf_counter()
    for body in bodies:
        assert len(parsed(body, "protobuf").spans) == SPANS_AT_ONCE
    return len(bodies) * SPANS_AT_ONCE / (time.perf_counter() - start)


def main() -> None:
    options = arguments(__doc__, batches=(200, "batches of 512 spans"))
    count = max(5, options.batches // 10) if options.quick else options.batches
    bodies = [batch(number) for number in range(count)]
    with scratch() as folder, serving(folder) as (pid, address):
        sent(address, [batch(-1)])  # what the first request loads
        settle()
        before = processor_seconds(pid)
        first = sent(address, bodies)
        used = processor_seconds(pid) - before
        again = sent(address, bodies)
    measurement = Measurement(
        row=24,
        what="OpenTelemetry spans into a daemon, over HTTP, durable, one sender",
        value=first,
        unit="spans/s",
        target=f"at least {SPANS_PER_SECOND_MIN:,} spans/s",
        limit=SPANS_PER_SECOND_MIN,
        better="more",
    )
    details = {
        "spans": count * SPANS_AT_ONCE,
        "processor time of the daemon, µs a span": used * 1e6 / (count * SPANS_AT_ONCE),
        "the same again, spans/s": again,
        "reading alone, spans/s": read_alone(bodies),
    }
    for name, value in details.items():
        print(f"  {name}: {value:,.0f}")
    report("otlp_in", [measurement], details, quick=options.quick)


if __name__ == "__main__":
    main()
