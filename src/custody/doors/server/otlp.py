"""`POST /v1/traces`: programs that are instrumented for OpenTelemetry tell what they did.

Owns what OTLP says of HTTP: the encodings of a body, its bounds, the answers in the sender's own form, and
when a sender is told to come again. What becomes of spans is `bridges.otel.received`'s. Used by the daemon,
which mounts it; nothing of it is loaded before the first request.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from custody.calls.runtime import Runtime
from custody.doors.server.checks import Refusal, headers_of
from custody.doors.server.replies import Receive, Reply, Send
from custody.errors import CustodyError, NotRecorded, StoreError
from custody.rpc.access import Access

if TYPE_CHECKING:
    from custody.bridges.otel.received import Received, Receiver
    from custody.bridges.otel.wire import Encoding
    from custody.index import Index

log = logging.getLogger("custody")

PATH = "/v1/traces"

BODY_SECONDS_MAX = 30.0
WAITING_MAX = 32
WAITING_BYTES_MAX = 64 * 1024**2
"""Bodies that wait for the one thread that takes them; more senders are told to come again."""

QUIET_LOOK_SECONDS = 15.0
"""Between two looks for runs whose root span does not come."""

WRONG = frozenset({400, 408, 413, 415})
"""Refusals that are the sender's doing, and stand on the record."""

REFUSALS_TOLD_MAX = 10
"""One by one between two looks; further ones are counted."""

RETRY_SECONDS = {429: 1, 503: 5}
STATUSES = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    408: 4,
    413: 8,
    415: 3,
    421: 3,
    429: 8,
    501: 12,
    503: 14,
}
"""HTTP -> google.rpc.Code; anything else is 13, internal."""

ONLY_POST = Refusal(405, "method_not_allowed", f"{PATH} takes POST.")
ONLY_READS = Refusal(403, "denied", "An auditor reads, and puts nothing on the record.")
NO_ENCODING = Refusal(
    415, "unknown_encoding", "Spans come as application/x-protobuf or application/json, plain or in gzip."
)
TOO_MANY = Refusal(429, "busy", "Too many spans wait to be taken.", "Send them again in a moment.")
TOO_SLOW = Refusal(408, "too_slow", "The body did not come in time.")
NOT_INSTALLED = Refusal(
    501,
    "not_installed",
    "Spans in protobuf need packages that are not installed.",
    "pip install 'custody-runtime[otel]', or send JSON.",
)
MISTAKE = Refusal(500, "internal_error", "Something went wrong; the daemon's log says what.")
NOTHING_UNDERSTOOD = "None of these spans tells of an agent, a model or a tool"


class Counts(Struct):
    """What has come since the start, for `/metrics`."""

    requests: Counter[int] = field(default_factory=Counter)
    """HTTP status -> answers."""
    bytes: int = 0
    """Of bodies, as they were sent: packed where they were."""
    recorded: int = 0
    known: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Kind -> spans that stand for no record."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Why -> spans that cannot be taken."""

    def take(self, received: "Received") -> None:
        self.recorded += received.recorded
        self.known += received.known
        self.left_out.update(received.left_out)
        self.rejected.update(received.rejected)


class _No(Exception):
    """The request is answered with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class OtlpMount:
    """Answers what comes to its path. `close` it before its runtime."""

    def __init__(self, runtime: Runtime, *, open_index: "Callable[[], Index] | None" = None) -> None:
        """`open_index` gives an index for this alone: others then never wait for it."""
        self.counts = Counts()
        self._runtime = runtime
        self._open_index = open_index
        self._index: Index | None = None
        self._receiver: Receiver | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="custody-otlp")
        self._waiting = 0
        self._waiting_bytes = 0
        self._looking: asyncio.Task[None] | None = None
        self._refusals = 0
        """Since the last look."""
        self._closed = False

    async def __call__(self, scope: Any, receive: Receive, send: Send, access: Access) -> None:
        """Answer one request of somebody who has been admitted."""
        headers = headers_of(scope)
        try:
            reply = await self._answered(scope, receive, headers, access)
        except _No as error:
            reply = await self._refused(error.refusal, headers)
        except (NotRecorded, StoreError) as error:
            reply = self.refused(Refusal(503, "not_recorded", error.message, error.hint), headers)
        except CustodyError as error:
            refusal = Refusal(_status(error), "bad_request", error.message, error.hint)
            reply = await self._refused(refusal, headers)
        except ConnectionResetError:
            return
        except Exception:
            log.exception("Spans could not be taken")
            reply = self.refused(MISTAKE, headers)
        await reply.send(send)

    def refused(self, refusal: Refusal, headers: Mapping[bytes, bytes]) -> Reply:
        """A no in the sender's own form: a google.rpc.Status in the encoding it has sent."""
        from custody.bridges.otel import wire

        self.counts.requests[refusal.status] += 1
        encoding = _encoding(headers) or "json"
        said = refusal.message if refusal.hint is None else f"{refusal.message} {refusal.hint}"
        more: list[tuple[bytes, bytes]] = [(b"connection", b"close")] if refusal.status in (408, 413) else []
        if refusal.status in RETRY_SECONDS:
            more.append((b"retry-after", b"%d" % RETRY_SECONDS[refusal.status]))
        if refusal.status == 401:
            more.append((b"www-authenticate", b'Bearer realm="custody"'))
        if refusal.status == 405:
            more.append((b"allow", b"POST, OPTIONS"))
        if refusal.status == 415:
            more.append((b"accept-encoding", b"gzip"))
        body = wire.status(encoding, STATUSES.get(refusal.status, 13), said)
        return Reply(refusal.status, body, _content_type(encoding), tuple(more))

    async def _refused(self, refusal: Refusal, headers: Mapping[bytes, bytes]) -> Reply:
        """What somebody sent who may send is on the record, also where it could not be read."""
        if refusal.status in WRONG:
            self._refusals += 1
            if self._refusals <= REFUSALS_TOLD_MAX:
                await self._tell_refused({"code": refusal.code, "reason": refusal.message, "count": 1})
        return self.refused(refusal, headers)

    async def _tell_further_ones(self) -> None:
        further, self._refusals = self._refusals - REFUSALS_TOLD_MAX, 0
        if further > 0:
            await self._tell_refused({"code": None, "reason": "further ones", "count": further})

    async def _tell_refused(self, data: dict[str, Any]) -> None:
        try:
            await self._in_thread(self._runtime.ledger.recorder.event, "trace.refused", data)
        except (_No, CustodyError) as error:
            log.warning("Spans that were refused could not be recorded: %s", error)

    async def _answered(
        self, scope: Any, receive: Receive, headers: Mapping[bytes, bytes], access: Access
    ) -> Reply:
        from custody.bridges.otel import wire

        if scope["method"] != "POST":
            raise _No(ONLY_POST)
        if access.role == "auditor":
            raise _No(ONLY_READS)
        encoding = _encoding(headers)
        packed = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding is None or packed not in (b"identity", b"gzip", b""):
            raise _No(NO_ENCODING)
        if encoding == "protobuf" and not _has_protobuf():
            raise _No(NOT_INSTALLED)
        if self._waiting >= WAITING_MAX:
            raise _No(TOO_MANY)
        self._waiting += 1
        held = _Held(self)
        try:
            body = await self._body(receive, headers, held, wire.BODY_BYTES_MAX)
            received = await self._in_thread(self._take, body, encoding, packed == b"gzip", access.agent)
        finally:
            self._waiting -= 1
            self._waiting_bytes -= held.count
        self.counts.take(received)
        self.counts.requests[200] += 1
        return Reply(200, _response(encoding, received), _content_type(encoding))

    async def _body(
        self, receive: Receive, headers: Mapping[bytes, bytes], held: "_Held", bytes_max: int
    ) -> bytes:
        too_large = Refusal(
            413, "too_large", f"A body has at most {bytes_max:,} bytes.", "Send fewer at once."
        )
        stated = headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > bytes_max:
            raise _No(too_large)
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ConnectionResetError
                    piece = message.get("body", b"")
                    self.counts.bytes += len(piece)
                    held.take(len(piece))
                    body += piece
                    if len(body) > bytes_max:
                        raise _No(too_large)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _No(TOO_SLOW) from None
        return bytes(body)

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return self._waiting

    def hold(self, count: int) -> None:
        """Raises _No where there is no room for so many more bytes."""
        if self._waiting_bytes + count > WAITING_BYTES_MAX:
            raise _No(TOO_MANY)
        self._waiting_bytes += count

    # -- the thread that takes them ---------------------------------------------------------------------

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._closed:
            raise _No(Refusal(503, "draining", "The daemon is about to stop."))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _take(self, body: bytes, encoding: "Encoding", packed: bool, agent: str | None) -> "Received":
        from custody.bridges.otel import wire

        request = wire.parsed(wire.inflated(body) if packed else body, encoding)
        return self._receiving().receive(request, agent)

    def _receiving(self) -> "Receiver":
        if self._receiver is None:
            from custody.bridges.otel.received import Receiver

            self._receiver = Receiver(self._runtime.recording, self._own_index)
        return self._receiver

    def _own_index(self) -> "Index":
        if self._index is None:
            self._index = self._runtime.index if self._open_index is None else self._open_index()
        return self._index

    async def _look(self) -> None:
        """Close runs whose root span does not come, as long as the daemon is there."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(QUIET_LOOK_SECONDS)
            await self._tell_further_ones()
            with contextlib.suppress(NotRecorded, StoreError):  # whoever opens the store next does it
                await loop.run_in_executor(self._thread, self._receiving().close_quiet)

    async def close(self) -> None:
        """Take what is under way, and close the runs that wait for their root; once."""
        if self._closed:
            return
        await self._tell_further_ones()
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        await asyncio.to_thread(self._thread.shutdown)
        if self._receiver is not None:
            with contextlib.suppress(NotRecorded, StoreError):
                await asyncio.to_thread(self._receiver.close)
        if self._open_index is not None and self._index is not None:
            self._index.close()


class _Held:
    """The bytes one request keeps while it waits."""

    def __init__(self, mount: OtlpMount) -> None:
        self._mount = mount
        self.count = 0

    def take(self, count: int) -> None:
        self._mount.hold(count)
        self.count += count


def _response(encoding: "Encoding", received: "Received") -> bytes:
    """Empty where all was taken. What is no span of ours is no fault: it is told where there was nothing
    else, as then the sender was probably meant for another collector."""
    from custody.bridges.otel import wire

    rejected = sum(received.rejected.values())
    said = ""
    if rejected:
        said = f"Rejected: {wire.counted(received.rejected.items())}."
    elif received.left_out and not received.recorded and not received.known:
        said = f"{NOTHING_UNDERSTOOD}: {wire.counted(received.left_out.items())}."
    return wire.response(encoding, rejected, said)


def _encoding(headers: Mapping[bytes, bytes]) -> "Encoding | None":
    from custody.bridges.otel.wire import CONTENT_TYPES

    said = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return CONTENT_TYPES.get(said.decode("latin-1"))


def _content_type(encoding: "Encoding") -> bytes:
    return b"application/json" if encoding == "json" else b"application/x-protobuf"


def _has_protobuf() -> bool:
    try:
        return find_spec("opentelemetry.proto") is not None
    except ModuleNotFoundError:
        return False


def _status(error: CustodyError) -> int:
    from custody.bridges.otel.wire import TooLarge

    return 413 if isinstance(error, TooLarge) else 400
