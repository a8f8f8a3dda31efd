"""The daemon's door as one ASGI application with its listeners: each request is checked, admitted, handed on.

Owns the order of those steps and the life of the door: start, drain, end. Knows nothing of frames or of the
questions HTTP can ask. Used by `custody serve`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from custody.calls.runtime import Runtime
from custody.doors.server.checks import Callers, Refusal, bearer, headers_of
from custody.doors.server.events_stream import EventStreams
from custody.doors.server.http import DRAINING, WEBSOCKET_PATHS, HttpDoor, Mounted
from custody.doors.server.listening import Listener, Listening
from custody.doors.server.protocols import AT_ONCE, HEAD_SECONDS_MAX, STALLED_SECONDS_MAX, Occupancy
from custody.doors.server.replies import refusal_reply
from custody.doors.server.websocket import STOPS, Receive, Send, end_stale, serve_websocket
from custody.rpc.access import ANYBODY, NOT_YET, Access
from custody.rpc.service import Service

if TYPE_CHECKING:
    from custody.index import Index

log = logging.getLogger("custody")

TOKENS_SECONDS = 1.0
"""How soon a connection hears that its token was revoked."""

WRONG_TOKEN = Refusal(
    401, "token_refused", "That token admits nobody.", "It may have been revoked or renewed."
)
NO_PATH = Refusal(404, "not_found", "There is nothing there.", "The WebSocket is at /.")


class DoorBounds(Struct, frozen=True, kw_only=True):
    """What the door holds at most."""

    connections_max: int = 1_024
    """HTTP and WebSocket together; each takes a file descriptor and some 100 KB."""
    requests_per_second: float = 200.0
    """Over HTTP, of one token: each may read a page of the journal."""
    tokens_seconds: float = TOKENS_SECONDS
    head_seconds_max: float = HEAD_SECONDS_MAX
    stalled_seconds_max: float = STALLED_SECONDS_MAX


class ServerDoor:
    """The door of one service. `start` it, and `close` it before its runtime."""

    def __init__(
        self,
        runtime: Runtime,
        service: Service,
        *,
        open_index: "Callable[[], Index] | None" = None,
        writable: Callable[[], bool] = lambda: True,
        callers: Callers | None = None,
        bounds: DoorBounds | None = None,
        mounts: Mapping[str, Mounted] | None = None,
    ) -> None:
        """`open_index` gives an index for HTTP's questions alone: those of peers then never wait for them.
        `writable` says, on a thread, whether the store can be written. `mounts` are applications by their
        exact path, behind the same checks."""
        bounds = bounds or DoorBounds()
        self._runtime = runtime
        self._service = service
        self._callers = callers or Callers()
        self.occupancy = Occupancy(
            bounds.connections_max,
            head_seconds_max=bounds.head_seconds_max,
            stalled_seconds_max=bounds.stalled_seconds_max,
        )
        self._listening = Listening(self, self.occupancy, service.limits.frame_bytes_max)
        self._http = HttpDoor(
            runtime, service, self.occupancy, open_index, writable, bounds.requests_per_second, mounts or {}
        )
        self._tokens_seconds = bounds.tokens_seconds
        self._watch: asyncio.Task[None] | None = None

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    @property
    def streams(self) -> EventStreams:
        return self._http.streams

    @property
    def addresses(self) -> list[str]:
        """Where it listens: `ws://127.0.0.1:9100`, `unix:///run/user/1000/custody/serve.sock`."""
        return list(self._listening.addresses)

    @property
    def under_way(self) -> int:
        """Requests being worked on."""
        return self._service.under_way

    # -- its life -------------------------------------------------------------------------------------------

    async def start(self, *listeners: Listener) -> None:
        """Listen at all of them, or at none. Raises UsageError, StoreUnusable."""
        await self._listening.start(*listeners)
        self._watch = asyncio.create_task(self._watch_tokens())

    async def close(self, drain_seconds: float = 0.0) -> bool:
        """Let nobody in, let what is under way end within the bound, and end the rest; False where some of
        it had to be. A second close does nothing."""
        self._listening.stop_accepting()
        self._service.draining = True
        drained = await self._service.drain(drain_seconds)
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        self._service.close_peers(STOPS)
        self._http.stop()
        await self._listening.close()
        await self._http.close()
        return drained

    async def _watch_tokens(self) -> None:
        while True:
            await asyncio.sleep(self._tokens_seconds)
            end_stale(self._service)

    # -- one connection or request --------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        headers = headers_of(scope)
        over_tcp = bool(scope.get("server")) and scope["server"][1] is not None
        refusal = self._callers.refuse(headers, by_name=over_tcp)
        access: Access | None = None
        if refusal is None:
            access, refusal = self._admit(headers)
        if scope["type"] == "http":
            await self._http(scope, receive, send, access or NOT_YET, refusal, self._callers)
            return
        if refusal is None:
            refusal = self._refuse_websocket(scope)
        if refusal is not None:
            await receive()
            await refusal_reply(refusal).over_websocket(send)
            return
        try:
            await serve_websocket(
                self._runtime,
                self._service,
                door=self._runtime.settings.door,
                address=_address(scope),
                access=access,
                receive=receive,
                send=send,
                at_once=scope.get("extensions", {}).get(AT_ONCE),
            )
        except Exception:
            log.exception("A connection ended in an error")

    def _admit(self, headers: dict[bytes, bytes]) -> tuple[Access | None, Refusal | None]:
        """Whom the request's token stands for; None where it shows none."""
        token, doorkeeper = bearer(headers), self._service.doorkeeper
        if token is None:
            return None if doorkeeper.auth_enabled else ANYBODY, None
        access = doorkeeper.admit_host(token) or doorkeeper.admit(token)
        return access, None if access is not None else WRONG_TOKEN

    def _refuse_websocket(self, scope: Any) -> Refusal | None:
        if scope["path"] not in WEBSOCKET_PATHS:
            return NO_PATH
        return DRAINING if self._service.draining else None


def _address(scope: Any) -> str:
    client = scope.get("client")
    return "unix" if not client or client[1] is None else f"{client[0]}:{client[1]}"
