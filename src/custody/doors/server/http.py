"""The HTTP side of the door: paths, threads, limits.

Owns routing, what is answered without a token, and how many questions are worked on at once. What can be
asked is in `questions`; the stream of records in `events_stream`. Used by `app`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from starlette.routing import Match, Route

from custody.bridges.boundary import Boundaries
from custody.calls.runtime import Runtime
from custody.doors.server.checks import Callers, Refusal, headers_of
from custody.doors.server.events_stream import EventStreams
from custody.doors.server.metrics import Metrics
from custody.doors.server.openapi import openapi_document
from custody.doors.server.protocols import Occupancy
from custody.doors.server.questions import QUESTIONS, Asking, Question, parsed, query_pairs
from custody.doors.server.replies import (
    Receive,
    Refused,
    Reply,
    Send,
    json_reply,
    refusal_of,
    refusal_reply,
)
from custody.errors import CustodyError
from custody.rpc.access import Access
from custody.rpc.service import Service

if TYPE_CHECKING:
    from custody.index import Index

log = logging.getLogger("custody")

THREADS = 2
"""The index answers one question at a time; the second thread reads the journal meanwhile."""

WAITING_MAX = 64
"""Questions that wait for a thread; more are told to come again."""

BODY_BYTES_MAX = 64 * 1024  # of a notice
BODY_SECONDS_MAX = 10.0

PUBLIC = frozenset({"/health", "/ready", "/openapi.json"})
"""Answered to anybody who may connect at all: what watches over a daemon needs no token."""

PATHS: tuple[tuple[str, str], ...] = (
    ("/health", "GET"),
    ("/ready", "GET"),
    ("/metrics", "GET"),
    ("/openapi.json", "GET"),
    ("/boundary", "POST"),
    ("/events", "GET"),
    *((question.path, "GET") for question in QUESTIONS),
)

WEBSOCKET_PATHS = ("/", "/rpc")

NO_TOKEN = Refusal(
    401,
    "token_required",
    "This needs a token.",
    "Send it: Authorization: Bearer TOKEN. In the store keys/host.token sees everything, "
    "keys/serve.token with ?agent=NAME what is that agent's.",
)
ONLY_METHODS = Refusal(403, "denied", "That token is for some methods of the WebSocket alone.")
UPGRADE = Refusal(
    426, "websocket", "This is the WebSocket: JSON-RPC.", "GET /openapi.json lists what HTTP answers."
)
NO_PATH = Refusal(404, "not_found", "There is nothing there.", "GET /openapi.json lists what is.")
ONLY_READS = Refusal(403, "denied", "An auditor reads, and puts nothing on the record.")
DRAINING = Refusal(503, "draining", "The daemon is about to stop.")
TOO_OFTEN = Refusal(429, "too_often", "Too many requests.", "Wait a moment.")
TOO_MANY = Refusal(503, "busy", "Too many questions are waiting.", "Wait a moment.")
TOO_LARGE = Refusal(413, "too_large", f"A body has at most {BODY_BYTES_MAX} bytes.")
TOO_SLOW = Refusal(408, "too_slow", "The body did not come in time.")
MISTAKE = Refusal(500, "internal_error", "Something went wrong; the daemon's log says what.")

Endpoint = Callable[["_Request"], Any]

Mounted = Callable[[Any, Receive, Send, Access], Awaitable[None]]
"""Another protocol's application at a path of this door: it is asked only by whom a token admits."""


@runtime_checkable
class OwnRefusals(Protocol):
    """A mounted application whose senders understand a no in their own form alone."""

    def refused(self, refusal: Refusal, headers: Mapping[bytes, bytes]) -> Reply: ...


class _Request:
    """One request on its way to an endpoint."""

    def __init__(self, scope: Any, receive: Receive, send: Send, access: Access) -> None:
        self.scope, self.receive, self.send, self.access = scope, receive, send, access
        self.headers = headers_of(scope)
        self.id: str = ""


class Buckets:
    """How often each token may ask: so many at once, and as many again each second."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> bool:
        """`name` is of a token that is known, so there are not many."""
        now = self._clock()
        left, at = self._left.get(name, (self._per_second, now))
        left = min(self._per_second, left + (now - at) * self._per_second)
        self._left[name] = max(left - 1, 0.0) if left >= 1 else left, now
        return left >= 1


class HttpDoor:
    """Everything but the WebSocket."""

    def __init__(
        self,
        runtime: Runtime,
        service: Service,
        occupancy: Occupancy,
        open_index: "Callable[[], Index] | None",
        writable: Callable[[], bool],
        requests_per_second: float,
        mounts: Mapping[str, Mounted],
    ) -> None:
        self._runtime = runtime
        self._service = service
        self._open_index = open_index
        self._writable = writable
        self._index: Index | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="custody-http")
        self._waiting = 0
        self._boundaries = Boundaries(runtime.ledger.recorder.event)
        self._buckets = Buckets(requests_per_second)
        self.streams = EventStreams(self._asking, service.doorkeeper)
        self._metrics = Metrics(service, occupancy, self.streams, mounts.values())
        self._mounts = mounts
        self._routes = self._make_routes()

    def stop(self) -> None:
        """End the streams: nothing else goes on by itself."""
        self.streams.stop()

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        if self._open_index is not None and self._index is not None:
            self._index.close()

    async def __call__(
        self,
        scope: Any,
        receive: Receive,
        send: Send,
        access: Access,
        refusal: Refusal | None,
        callers: Callers,
    ) -> None:
        request = _Request(scope, receive, callers.shared_with(scope, send), access)
        try:
            reply = self._no(request, refusal) if refusal is not None else await self._answered(request)
            if reply is not None:
                await reply.send(request.send)
        except (CustodyError, Refused) as error:
            await self._no(request, refusal_of(error)).send(request.send)
        except OSError:
            pass  # the other side went away
        except Exception:
            log.exception("A request ended in an error: %s", scope["path"][:200])
            await refusal_reply(MISTAKE).send(request.send)

    async def _answered(self, request: _Request) -> Reply | None:
        """None where the endpoint has answered by itself."""
        path, method = request.scope["path"], request.scope["method"]
        found = [(route, *route.matches(request.scope)) for route in self._routes]
        matching = [(route, match, more) for route, match, more in found if match is not Match.NONE]
        allowed = sorted({name for route, _, _ in matching for name in route.methods or ()} | {"OPTIONS"})
        allow = {b"allow": ", ".join(allowed).encode()}
        if method == "OPTIONS" and (matching or path in self._mounts):
            return Reply(204, b"", headers=tuple(allow.items()))
        if path in WEBSOCKET_PATHS:
            return refusal_reply(UPGRADE, {b"upgrade": b"websocket", b"connection": b"upgrade"})
        refusal = None if path in PUBLIC else self._refused(request.access)
        if refusal is not None:
            return self._no(request, refusal)
        if path in self._mounts:
            return await self._mounted(request, self._mounts[path])
        if not matching:
            return refusal_reply(NO_PATH)
        whole = [(route, more) for route, match, more in matching if match is Match.FULL]
        if not whole:
            wrong = Refusal(405, "method_not_allowed", f"{path[:200]} takes {', '.join(allowed)}.")
            return refusal_reply(wrong, allow)
        route, more = whole[0]
        request.id = more["path_params"].get("id", "")
        return await route.endpoint(request)

    async def _mounted(self, request: _Request, mounted: Mounted) -> Reply | None:
        if self._service.draining:
            return self._no(request, DRAINING)
        await mounted(request.scope, request.receive, request.send, request.access)
        return None

    def _no(self, request: _Request, refusal: Refusal) -> Reply:
        mounted = self._mounts.get(request.scope["path"])
        if isinstance(mounted, OwnRefusals):
            return mounted.refused(refusal, request.headers)
        return refusal_reply(refusal)

    def _refused(self, access: Access) -> Refusal | None:
        """Why somebody is answered nothing."""
        if access.role is None:
            return NO_TOKEN
        if access.methods is not None:
            return ONLY_METHODS
        return None if self._buckets.take(access.name or "") else TOO_OFTEN

    def _make_routes(self) -> list[Route]:
        endpoints: dict[str, Endpoint] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics_text,
            "/openapi.json": self._openapi,
            "/boundary": self._boundary,
            "/events": self._events,
            **{question.path: self._question(question) for question in QUESTIONS},
        }
        return [Route(path, endpoints[path], methods=[method]) for path, method in PATHS]

    # -- endpoints ------------------------------------------------------------------------------------

    async def _health(self, request: _Request) -> Reply:
        del request
        return json_reply({"status": "alive"})

    async def _ready(self, request: _Request) -> Reply:
        del request
        if self._service.draining:
            return refusal_reply(DRAINING)
        if not await self._in_thread(self._writable):
            return refusal_reply(
                Refusal(503, "store_not_writable", "Nothing can be recorded, so nothing would run.")
            )
        return json_reply({"status": "ready"})

    async def _metrics_text(self, request: _Request) -> Reply:
        del request
        body, content_type = await self._in_thread(self._metrics.text)
        return Reply(200, body, content_type)

    async def _openapi(self, request: _Request) -> Reply:
        del request
        return json_reply(openapi_document())

    async def _boundary(self, request: _Request) -> Reply:
        if request.access.role == "auditor":
            return refusal_reply(ONLY_READS)
        body = await self._body(request)
        if isinstance(body, Refusal):
            return refusal_reply(body, {b"connection": b"close"})
        answer = await self._in_thread(self._boundaries.receive, body)
        return json_reply(answer.body, answer.status)

    async def _body(self, request: _Request) -> bytes | Refusal:
        stated = request.headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > BODY_BYTES_MAX:
            return TOO_LARGE
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                more = True
                while more:
                    message = await request.receive()
                    if message["type"] != "http.request":
                        raise ConnectionResetError
                    body += message.get("body", b"")
                    if len(body) > BODY_BYTES_MAX:
                        return TOO_LARGE
                    more = message.get("more_body", False)
        except TimeoutError:
            return TOO_SLOW
        return bytes(body)

    async def _events(self, request: _Request) -> Reply | None:
        await self.streams.serve(
            request.scope, request.receive, request.send, request.headers, request.access
        )
        return None

    def _question(self, question: Question) -> Endpoint:
        async def endpoint(request: _Request) -> Reply:
            query = parsed(question.query, query_pairs(request.scope["query_string"]))
            return await self._in_thread(self._asked, question, request, query)

        return endpoint

    def _asked(self, question: Question, request: _Request, query: Any) -> Reply:
        return json_reply(question.answer(self._asking(request.access, query, request.id)))

    # -- threads --------------------------------------------------------------------------------------

    def _asking(self, access: Access, query: Any, identifier: str = "") -> Asking:
        if self._index is None:
            self._index = self._runtime.index if self._open_index is None else self._open_index()
        return Asking(self._index, self._runtime.journal, access, query, identifier)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._waiting >= WAITING_MAX:
            raise Refused(TOO_MANY)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._waiting -= 1
