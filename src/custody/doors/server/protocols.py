"""uvicorn's two protocols with the bounds it leaves open: half a request, a reader that stands still, and
messages in countless pieces.

Owns how long a connection may say nothing of use and how many there are. Knows nothing of what is said. Used
by `listening`. The WebSocket side is the sans-I/O one: `send` waits while the socket takes nothing, and
reading stops while messages wait to be taken, so that neither side's queue grows.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

HEAD_SECONDS_MAX = 10.0
"""From the connection, or the first byte, to the end of a request's head: a client that is there sends it in
one packet."""

STALLED_SECONDS_MAX = 10.0
"""What a closed connection still has to send is thrown away after so long: its reader stands still."""

QUEUED_MAX = 16
QUEUED_BYTES_MAX = 16 * 1024
"""Messages that may wait to be taken while more is read, and how large each of them may be."""

FRAGMENTS_MAX = 1_024
"""Of one message. Empty ones add nothing to its size and would be kept without end."""


AT_ONCE = "custody.at_once"
"""The extension of a connection's scope by which an application takes texts as they come, past the queue."""


def _whole(status: bytes, code: bytes, message: bytes) -> bytes:
    """An answer for a connection that is closed with it."""
    body = b'{"error":{"code":"%s","message":"%s","hint":null}}\n' % (code, message)
    return (
        b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)
    )


TOO_MANY = _whole(b"503 Service Unavailable", b"too_many_connections", b"Too many connections.")
MALFORMED = _whole(b"400 Bad Request", b"malformed_request", b"This is no HTTP request.")


class Occupancy:
    """How many connections there are, over all listeners."""

    def __init__(
        self,
        connections_max: int,
        *,
        head_seconds_max: float = HEAD_SECONDS_MAX,
        stalled_seconds_max: float = STALLED_SECONDS_MAX,
    ) -> None:
        self.connections_max = connections_max
        self.head_seconds_max = head_seconds_max
        self.stalled_seconds_max = stalled_seconds_max
        self.connections: set[asyncio.BaseTransport] = set()
        self.refused = 0
        """So many found no room."""
        self.dropped = 0
        """So many were closed because they said nothing of use, or took nothing."""

    def enter(self, transport: asyncio.BaseTransport) -> bool:
        if len(self.connections) >= self.connections_max:
            self.refused += 1
            return False
        self.connections.add(transport)
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        self.connections.discard(transport)

    def drop(self, transport: asyncio.WriteTransport) -> None:
        """Close it; what its reader does not take in time is thrown away."""
        if transport in self.connections:
            self.dropped += 1
        transport.close()
        asyncio.get_running_loop().call_later(self.stalled_seconds_max, transport.abort)


def protocols_for(occupancy: Occupancy) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """The HTTP and the WebSocket protocol of listeners that share these bounds."""

    class Http(BoundedHttp):
        room = occupancy

    class WebSocket(BoundedWebSocket):
        room = occupancy

    return Http, WebSocket


class BoundedHttp(H11Protocol):
    """HTTP/1.1; a request's head has to be there in time."""

    room: Occupancy
    _late: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._inner = self.app
        self.app = cast("Any", self._until_answered)

    async def _until_answered(self, scope: Any, receive: Any, send: Any) -> None:
        """A reply that was given up leaves a reader that stands still."""
        try:
            await self._inner(scope, receive, send)
        finally:
            if self._answering():
                self.loop.call_later(self.room.stalled_seconds_max, self.transport.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        if self.room.enter(transport):
            self._expect_head()
        else:
            self.transport.write(TOO_MANY)
            self.room.drop(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.transport.get_protocol() is not self or self._answering():
            self._head_is_there()
        elif self._late is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered as every other mistake, where it is still time to."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(MALFORMED)
        self.room.drop(self.transport)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.room.drop(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self.room.leave(self.transport)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.room.drop(self.transport)

    def _answering(self) -> bool:
        cycle = cast("Any", self.cycle)  # None before the first request, whatever its type says
        return cycle is not None and not cycle.response_complete

    def _expect_head(self) -> None:
        self._late = self.loop.call_later(self.room.head_seconds_max, self.room.drop, self.transport)

    def _head_is_there(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """WebSocket; a message has so many pieces, and a connection that is over does not linger."""

    room: Occupancy
    _take: Callable[[str], bool] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.leave(self.transport)
        super().connection_lost(exc)

    def offer_to(self, take: Callable[[str], bool]) -> None:
        """From here on a text that none waits before is offered to `take` first."""
        self._take = take

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        if len(self.frames) >= FRAGMENTS_MAX:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if not self._taken_at_once():
            self._let_wait()

    def _taken_at_once(self) -> bool:
        if self._take is None or self.curr_msg_data_type != "text" or not self.queue.empty():
            return False
        try:
            text = b"".join(self.frames).decode()
        except UnicodeDecodeError:
            return False
        if self.close_sent or not self._take(text):
            return False
        self.frames = []
        return True

    def _let_wait(self) -> None:
        """Small messages may queue a little: to stop reading after each and to begin again is two system
        calls, a seventh of what a short request takes."""
        may_wait = self.queue.qsize() < QUEUED_MAX and sum(map(len, self.frames)) <= QUEUED_BYTES_MAX
        if not may_wait or self.read_paused:
            super().send_receive_event_to_app()
            return
        self.read_paused = True  # as it is told, it does not pause
        super().send_receive_event_to_app()
        self.read_paused = False

    async def run_asgi(self) -> None:
        cast("Any", self.scope)["extensions"][AT_ONCE] = self.offer_to
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(self.room.stalled_seconds_max, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()  # which waits for a reader that is not there
        self.loop.call_later(self.room.stalled_seconds_max, self.transport.abort)


def bounds_of(frame_bytes_max: int) -> dict[str, Any]:
    """The settings of uvicorn that are bounds."""
    return {
        "ws_max_size": frame_bytes_max,
        "ws_ping_interval": 30.0,  # with the next: 90 s without a sign of life end a connection
        "ws_ping_timeout": 60.0,
        "ws_per_message_deflate": False,  # a small message may inflate to any size; and it costs time
        "h11_max_incomplete_event_size": 32 * 1024,  # a request's head
        "timeout_keep_alive": 15,
        "backlog": 1_024,
    }
