"""How a request reaches a collector: OTLP over HTTP and over gRPC, one request at a time.

Owns every wait on the network and what each answer means. The exporters of OpenTelemetry's own SDK are not
used: they keep partial success to themselves and retry as long as they please. A sender tries once, within
a bound, and can be stopped from another thread. Used by `exporter`.
"""

import http.client
import socket
import ssl
import threading
from typing import Any, Literal, Protocol

from google.protobuf.message import DecodeError
from msgspec import Struct
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from custody.bridges.otel.destination import Destination

SEND_SECONDS = 10.0  # OpenTelemetry's default; a collector that accepts and never answers is let go then
ANSWER_BYTES_MAX = 64 * 1024  # an answer is some counts and one sentence
WORDS_MAX = 200  # characters of the collector's own words that are shown

Signal = Literal["traces", "metrics"]

HTTP_PATHS: dict[Signal, str] = {"traces": "/v1/traces", "metrics": "/v1/metrics"}
GRPC_METHODS: dict[Signal, str] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
RESPONSES: dict[Signal, type[ExportTraceServiceResponse] | type[ExportMetricsServiceResponse]] = {
    "traces": ExportTraceServiceResponse,
    "metrics": ExportMetricsServiceResponse,
}

Kind = Literal["accepted", "busy", "unreachable", "denied", "absent", "refused", "too_large"]


class Answer(Struct, frozen=True):
    """What became of one request."""

    kind: Kind
    """accepted; busy: it asks to be tried again; unreachable: nobody answered in time; denied: it does not
    take anything from us (a wrong header); absent: it does not know this signal; refused: what was sent is
    not acceptable and never will be; too_large: a smaller request may be."""
    words: str = ""
    rejected: int = 0
    """How many spans or points of an accepted request the collector would not keep."""
    retry_after_seconds: float | None = None


class Sender(Protocol):
    """One collector, spoken to by one thread."""

    def send(self, signal: Signal, request: bytes) -> Answer:
        """One attempt; raises nothing for what the network or the collector does."""
        ...

    def abort(self) -> None:
        """End a request that is under way, and all later ones. From any thread."""
        ...


def sender_of(destination: Destination, *, send_seconds: float = SEND_SECONDS) -> Sender:
    if destination.protocol == "http":
        return HttpSender(destination, send_seconds)
    return GrpcSender(destination, send_seconds)


def _scrubbed(destination: Destination, words: str) -> str:
    """A collector's words, short, on one line, and without the header values it may repeat."""
    for _, value in destination.headers:
        if value:
            words = words.replace(value, "[header]")
    words = " ".join(words.split())
    return words if len(words) <= WORDS_MAX else words[: WORDS_MAX - 1] + "…"


def _accepted(destination: Destination, signal: Signal, message: Any) -> Answer:
    partial = message.partial_success
    rejected = partial.rejected_spans if signal == "traces" else partial.rejected_data_points
    return Answer("accepted", _scrubbed(destination, partial.error_message), max(0, rejected))


# -- HTTP ---------------------------------------------------------------------------------------------

HTTP_KINDS: dict[int, Kind] = {
    400: "refused", 422: "refused", 413: "too_large",
    404: "absent", 405: "absent", 501: "absent",
    408: "busy", 429: "busy", 502: "busy", 503: "busy", 504: "busy",
}  # fmt: skip
"""Any other answer that is no success is `denied`: nothing is wrong with the data, so nothing is dropped."""


class HttpSender:
    """A connection for each request: nothing is ever sent into one that the other side has given up."""

    def __init__(self, destination: Destination, send_seconds: float) -> None:
        self._destination = destination
        self._send_seconds = send_seconds
        self._tls = ssl.create_default_context() if destination.secure else None
        self._mutex = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut_off = False
        self._aborted = False

    def send(self, signal: Signal, request: bytes) -> Answer:
        self._cut_off = False
        # A timeout of the socket bounds one read; this bounds all of them, were they one byte each.
        late = threading.Event()
        alarm = threading.Timer(self._send_seconds, self._give_up, (late,))
        alarm.daemon = True
        alarm.start()
        try:
            answer = self._exchange(signal, request, late)
        except TimeoutError:
            answer = Answer("unreachable", self._too_late())
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer = Answer("unreachable", _scrubbed(self._destination, str(error) or type(error).__name__))
        finally:
            alarm.cancel()
        if self._cut_off:
            # Half an answer may look like a whole one.
            return Answer("unreachable", "stopped" if self._aborted else self._too_late())
        return answer

    def abort(self) -> None:
        self._aborted = True
        self._hang_up()

    def _exchange(self, signal: Signal, request: bytes, late: threading.Event) -> Answer:
        connection = self._connection()
        try:
            connection.connect()
            with self._mutex:
                if self._aborted:
                    return Answer("unreachable", "stopped")
                if late.is_set():  # connecting took all the time, and nobody would end what follows
                    raise TimeoutError
                self._socket = connection.sock
            headers = {
                "Content-Type": "application/x-protobuf",
                "Connection": "close",
                "User-Agent": "custody",
                **dict(self._destination.headers),
            }
            connection.request("POST", self._destination.path + HTTP_PATHS[signal], request, headers)
            response = connection.getresponse()
            return self._answer(signal, response, response.read(ANSWER_BYTES_MAX))
        finally:
            with self._mutex:
                self._socket = None
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        to = self._destination
        if self._tls is not None:
            return http.client.HTTPSConnection(
                to.host, to.port, timeout=self._send_seconds, context=self._tls
            )
        return http.client.HTTPConnection(to.host, to.port, timeout=self._send_seconds)

    def _answer(self, signal: Signal, response: http.client.HTTPResponse, body: bytes) -> Answer:
        if 200 <= response.status < 300:
            if (response.headers.get("Content-Type") or "").startswith("text/html"):
                return Answer("denied", f"HTTP {response.status} with a web page, so it is no collector")
            message = RESPONSES[signal]()
            try:
                message.ParseFromString(body)
            except DecodeError:
                return Answer("accepted")  # in words that are not OTLP's, so no partial success either
            return _accepted(self._destination, signal, message)
        words = _scrubbed(self._destination, f"HTTP {response.status} {response.reason}")
        seconds = response.headers.get("Retry-After", "")
        return Answer(
            HTTP_KINDS.get(response.status, "denied"),
            words,
            retry_after_seconds=float(seconds) if seconds.isdecimal() else None,
        )

    def _too_late(self) -> str:
        return f"no answer within {self._send_seconds:g} s"

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        self._hang_up()

    def _hang_up(self) -> None:
        with self._mutex:
            if self._socket is not None:
                self._cut_off = True
                try:
                    # Not the TLS layer's own: that one waits for the other side, or forgets that it is TLS.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side was quicker


# -- gRPC ---------------------------------------------------------------------------------------------

GRPC_KINDS: dict[str, Kind] = {
    "INVALID_ARGUMENT": "refused",
    "UNIMPLEMENTED": "absent",
    "UNAVAILABLE": "unreachable", "DEADLINE_EXCEEDED": "unreachable",
    "RESOURCE_EXHAUSTED": "busy", "ABORTED": "busy", "CANCELLED": "busy", "OUT_OF_RANGE": "busy",
    "DATA_LOSS": "busy",
}  # fmt: skip

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # proxies come from the environment, which is read in one place only
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the pauses of an old one
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # a collector that is back is found soon; our pauses are longer
)


class GrpcSender:
    """One channel, made when it is first needed."""

    def __init__(self, destination: Destination, send_seconds: float) -> None:
        self._destination = destination
        self._send_seconds = send_seconds
        self._headers = tuple((name.lower(), value) for name, value in destination.headers)
        self._mutex = threading.Lock()
        self._channel: Any = None
        self._call: Any = None
        self._aborted = False

    def send(self, signal: Signal, request: bytes) -> Answer:
        import grpc  # pyright: ignore[reportMissingTypeStubs]  (it has none)

        errors: Any = grpc
        with self._mutex:
            if self._aborted:
                return Answer("unreachable", "stopped")
            self._channel = self._channel or self._open(errors)
            method = self._channel.unary_unary(
                GRPC_METHODS[signal],
                request_serializer=_as_it_is,
                response_deserializer=RESPONSES[signal].FromString,
            )
            call = self._call = method.future(request, timeout=self._send_seconds, metadata=self._headers)
        try:
            return _accepted(self._destination, signal, call.result())
        except errors.FutureCancelledError:
            return Answer("unreachable", "stopped")
        except errors.RpcError as error:
            return self._failed(error)
        finally:
            self._call = None

    def abort(self) -> None:
        with self._mutex:
            self._aborted = True
            if self._call is not None:
                self._call.cancel()
            if self._channel is not None:
                self._channel.close()

    def _open(self, grpc: Any) -> Any:
        to = self._destination
        address = f"[{to.host}]:{to.port}" if ":" in to.host else f"{to.host}:{to.port}"
        if to.secure:
            return grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=CHANNEL_OPTIONS)
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)

    def _failed(self, error: Any) -> Answer:
        name = error.code().name
        details = error.details() or ""
        kind = GRPC_KINDS.get(name, "denied")
        if name == "RESOURCE_EXHAUSTED" and "larger than max" in details:
            kind = "too_large"
        return Answer(kind, _scrubbed(self._destination, f"gRPC {name} {details}"))


def _as_it_is(request: bytes) -> bytes:
    return request
