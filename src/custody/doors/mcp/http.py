"""MCP over streamable HTTP: a mount of the daemon's door, behind its checks of Host, Origin and token.

Owns which client a request is of (the older versions have sessions, the newest has none), the end of
sessions, and that both end with their token. The transport is the SDK's. Used by `mount`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.context import CallNext, HandlerResult
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from msgspec import structs

from custody.doors.mcp.caller import Backing, Caller
from custody.doors.mcp.results import MESSAGE_BYTES_MAX
from custody.doors.mcp.server import Request, build_server
from custody.rpc.access import Access

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

SESSIONS_MAX = 1_024
"""As many as connections: each holds a task and a peer's state."""

IDLE_SECONDS = 30 * 60.0
"""A session nobody asked anything of for so long is over; its run is finished."""

LAST_ANSWER_SECONDS = 0.5
"""For an answer that was on its way when its client was sent away."""

OF_SCOPE = "custody.mcp.caller"
"""Where a request carries whose it is."""

SESSION_OVER = "the session is over"
NO_SESSION = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}'


class McpOverHttp:
    """The server of one daemon."""

    def __init__(self, backing: Backing) -> None:
        self._backing = structs.replace(backing, message_bytes_max=MESSAGE_BYTES_MAX)
        self._sessions: dict[str, Caller] = {}
        """By the id that the SDK gives a session."""
        self._ending: set[asyncio.Task[None]] = set()
        self._left: set[Caller] = set()
        """Without a session, and with a call that waits for its client to come again."""
        server = build_server(self._caller_of)
        server.middleware.append(self._greeted)
        self._manager = StreamableHTTPSessionManager(
            server,
            # the daemon's door has looked at Host and Origin
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            session_idle_timeout=IDLE_SECONDS,
            max_request_body_size=backing.service.limits.frame_bytes_max,
            max_sessions=SESSIONS_MAX,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Requests are answered meanwhile; at the end every session is over and on the record."""
        async with self._manager.run():
            yield
        for session in list(self._sessions):
            self._end(session)
        for caller in self._left:
            caller.peer.close(SESSION_OVER)
        if self._ending:
            await asyncio.wait(self._ending)

    async def __call__(self, scope: Any, receive: Receive, send: Send, access: Access) -> None:
        session = _session_of(scope)
        caller = None if session is None else self._sessions.get(session)
        if caller is not None and (caller.peer.access != access or caller.peer.closing.is_set()):
            await _not_found(send)  # to anybody but whoever began it, it is not there
            return
        newcomer = caller is None
        caller = caller or Caller(self._backing, access, address=_address(scope), lasting=False)
        try:
            await self._serve({**scope, OF_SCOPE: caller}, receive, send, caller)
        finally:
            if newcomer and not caller.lasting and not self._leaves(caller):
                await caller.close(SESSION_OVER)

    async def _serve(self, scope: Any, receive: Receive, send: Send, caller: Caller) -> None:
        """Until it is answered, or whoever asked is sent away: a stream may be open for ever."""
        serving = asyncio.ensure_future(self._manager.handle_request(scope, receive, send))
        closing = asyncio.create_task(caller.peer.closing.wait())
        try:
            await asyncio.wait({serving, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                await caller.close(caller.peer.why or SESSION_OVER)
                await asyncio.wait({serving}, timeout=LAST_ANSWER_SECONDS)
        finally:
            closing.cancel()
            if not serving.done():
                serving.cancel()
                while not serving.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({serving})
        if not serving.cancelled():
            serving.result()

    # -- sessions ---------------------------------------------------------------------------------------

    async def _caller_of(self, request: Request) -> Caller:
        assert request.request is not None, "over HTTP there always is one"
        return request.request.scope[OF_SCOPE]

    async def _greeted(self, ctx: Request, call_next: CallNext) -> HandlerResult:
        """Around every request: with its greeting a session begins, and its calls get a run."""
        result = await call_next(ctx)
        # The SDK has no public way from a request to what ends with its session.
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
        session = connection.session_id
        if ctx.method == "initialize" and session is not None:
            caller = self._sessions[session] = await self._caller_of(ctx)
            caller.lasts()
            connection.exit_stack.callback(self._end, session)
        return result

    def _end(self, session: str) -> None:
        """In a task of its own: the SDK waits a few seconds for it, and a call may take longer to end."""
        caller = self._sessions.pop(session, None)
        if caller is not None:
            self._beside(caller.close(SESSION_OVER))

    def _leaves(self, caller: Caller) -> bool:
        """Whether a call of a request that is answered goes on; then it has its end when that has."""
        if not caller.kept or caller.peer.closing.is_set():
            return False
        self._left.add(caller)
        self._beside(self._close_later(caller))
        return True

    async def _close_later(self, caller: Caller) -> None:
        closing = asyncio.create_task(caller.peer.closing.wait())
        try:
            while caller.kept and not closing.done():
                await asyncio.wait({closing, *caller.kept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            self._left.discard(caller)
            await caller.close(caller.peer.why or SESSION_OVER)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _session_of(scope: Any) -> str | None:
    name = MCP_SESSION_ID_HEADER.encode("ascii")
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _address(scope: Any) -> str:
    client = scope.get("client")
    return "unix" if not client or client[1] is None else f"{client[0]}:{client[1]}"


async def _not_found(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(NO_SESSION))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": NO_SESSION})
