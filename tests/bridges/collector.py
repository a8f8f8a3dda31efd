"""A collector that takes OTLP over HTTP or gRPC, decodes it, and answers as it is told to."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

WAIT_SECONDS_MAX = 60.0  # a test that hangs fails instead
SILENT_SECONDS = 300.0  # whoever waits for a silent one does not end in time


def plain(value: Any) -> Any:
    """An AnyValue as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


def attributes(of: Any) -> dict[str, Any]:
    return {item.key: plain(item.value) for item in of}


class Collector:
    """What arrived, and what is to be answered: one answer for each request, then always yes."""

    protocol = "?"

    def __init__(self) -> None:
        self.answers: list[Any] = []
        """`"silent"`, `"trickling"` (a byte at a time), `("partial", rejected, words)`, or a status: a number
        for HTTP, or a list of one and headers; a code for gRPC."""
        self.metrics_answers: list[Any] = []
        self.requests: list[Any] = []
        """Every request for spans that was accepted, decoded."""
        self.metrics_requests: list[Any] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.asked = 0
        """Requests of any kind, whatever was answered."""
        self.changed = threading.Condition()
        self.released = threading.Event()

    # -- what a test asks -------------------------------------------------------------------------

    @property
    def spans(self) -> list[Any]:
        return [span for _, span in self._each()]

    def by_name(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def points(self, name: str) -> list[Any]:
        found: list[Any] = []
        for request in self.metrics_requests:
            for metric in (m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics):
                if metric.name == name:
                    found += (metric.histogram if metric.HasField("histogram") else metric.sum).data_points
        return found

    def total(self, name: str, **wanted: Any) -> float:
        """What a counter, or the count of a histogram, adds up to."""
        return sum(
            point.count if hasattr(point, "bucket_counts") else point.as_int
            for point in self.points(name)
            if all(attributes(point.attributes).get(key) == value for key, value in wanted.items())
        )

    def wait_for(self, condition: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_SECONDS_MAX), "it did not become true in time"

    def _each(self) -> Iterator[tuple[Any, Any]]:
        for request in list(self.requests):
            for whole in request.resource_spans:
                for scoped in whole.scope_spans:
                    for span in scoped.spans:
                        yield whole, span

    # -- what it does -----------------------------------------------------------------------------

    def take(self, signal: str, data: bytes, headers: dict[str, str]) -> Any:
        """Keep what is accepted; returns the answer to give."""
        with self.changed:
            self.asked += 1
            self.raw.append(data)
            self.headers.append(headers)
            script = self.answers if signal == "traces" else self.metrics_answers
            answer = script.pop(0) if script else "yes"
            if answer == "yes" or isinstance(answer, tuple):
                if signal == "traces":
                    self.requests.append(trace_service.ExportTraceServiceRequest.FromString(data))
                else:
                    self.metrics_requests.append(metrics_service.ExportMetricsServiceRequest.FromString(data))
            self.changed.notify_all()
        if answer == "silent":
            self.released.wait(SILENT_SECONDS)
        return answer

    def response(self, signal: str, answer: Any) -> Any:
        _, rejected, words = answer if isinstance(answer, tuple) else ("", 0, "")
        if signal == "traces":
            made = trace_service.ExportTraceServiceResponse()
            if rejected or words:
                made.partial_success.rejected_spans = rejected
                made.partial_success.error_message = words
            return made
        made = metrics_service.ExportMetricsServiceResponse()
        if rejected or words:
            made.partial_success.rejected_data_points = rejected
            made.partial_success.error_message = words
        return made

    def up(self) -> None:
        """Begin to listen: until then its port refuses connections."""
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class HttpCollector(Collector):
    protocol = "http"
    _scheme = "http"

    def __init__(self) -> None:
        super().__init__()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                signal = self.path.rpartition("/")[2]
                answer = collector.take(signal, data, dict(self.headers))
                if answer == "silent":
                    self.close_connection = True
                    return
                if answer == "trickling":
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
                        while not collector.released.wait(0.02):
                            self.wfile.write(b"x")
                    return
                status, extra = answer if isinstance(answer, list) else (answer, {})
                body = b""
                if not isinstance(status, int):
                    status, body = 200, collector.response(signal, answer).SerializeToString()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **extra}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.server_bind()
        self._thread: threading.Thread | None = None

    def up(self) -> None:
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def use_tls(self, certificate: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # a client that does not trust us hangs up
        self._scheme = "https"

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.released.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(WAIT_SECONDS_MAX)
        self._server.server_close()


class GrpcCollector(Collector):
    protocol = "grpc"

    def __init__(self) -> None:
        super().__init__()
        # Holds the port and does not listen, so that connections are refused until `up`.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self._port = self._held.getsockname()[1]
        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_grpc.add_TraceServiceServicer_to_server(_Service(self, "traces"), self._server)
        metrics_grpc.add_MetricsServiceServicer_to_server(_Service(self, "metrics"), self._server)

    def up(self) -> None:
        assert self._server.add_insecure_port(f"127.0.0.1:{self._port}") == self._port
        self._server.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        self.released.set()
        self._server.stop(0).wait(WAIT_SECONDS_MAX)
        self._held.close()


class _Service:
    def __init__(self, collector: Collector, signal: str) -> None:
        self._collector = collector
        self._signal = signal

    def Export(self, request: Any, context: Any) -> Any:
        headers = dict(context.invocation_metadata())
        answer = self._collector.take(self._signal, request.SerializeToString(), headers)
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as the test wants it")
        return self._collector.response(self._signal, answer)


@contextlib.contextmanager
def collecting(kind: type[Collector], *, up: bool = True) -> Iterator[Collector]:
    collector = kind()
    try:
        if up:
            collector.up()
        yield collector
    finally:
        collector.close()
