"""A WebSocket connection as a pair of text streams for `serve_peer`.

Owns what is particular to a socket: text frames only, a token shown with the upgrade, and the codes a
connection is closed with. Knows nothing of what is said. Used by `app`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from custody.calls.runtime import Runtime
from custody.rpc.access import ANYBODY, NOT_YET, Access
from custody.rpc.peer import Peer
from custody.rpc.serve import Take, serve_peer
from custody.rpc.service import Service

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

NORMAL, GOING_AWAY, NO_BINARY, POLICY_VIOLATION = 1000, 1001, 1003, 1008  # RFC 6455, 7.4.1

REASON_BYTES_MAX = 123
"""RFC 6455, 5.5: what a close frame holds beside its code."""

CLOSE_SECONDS_MAX = 0.5
"""A peer that takes nothing does not take the close frame either."""

NOT_HELD = "its token is no longer good"
STOPS = "the daemon stops"
ONLY_TEXT = "text frames only"


async def serve_websocket(
    runtime: Runtime,
    service: Service,
    *,
    door: str,
    address: str,
    access: Access | None,
    receive: Receive,
    send: Send,
    at_once: Callable[[Take], None] | None = None,
) -> None:
    """Accept the connection and serve it until it is over. `access`: whom its upgrade's token admits;
    `at_once`: where the server can offer texts as they come."""
    if access is None:
        access = NOT_YET if service.doorkeeper.auth_enabled else ANYBODY
    peer = Peer(door=door, address=address, access=access)
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    streams = _Streams(peer, receive, send)
    serving = asyncio.create_task(
        serve_peer(streams.receive_text, streams.send_text, peer, runtime, at_once=at_once)
    )
    try:
        await asyncio.wait({serving})
    except asyncio.CancelledError:
        peer.close(STOPS)
        await asyncio.wait({serving})  # what the peer had under way is ended and on the record
        raise
    await streams.close()
    serving.result()  # whatever went wrong is for the log


def end_stale(service: Service) -> None:
    """End every connection whose token is no longer good."""
    for peer in list(service.peers.values()):
        if not service.doorkeeper.holds(peer.access):
            peer.close(NOT_HELD)


class _Streams:
    """One connection's frames as texts."""

    def __init__(self, peer: Peer, receive: Receive, send: Send) -> None:
        self._peer = peer
        self._receive = receive
        self._send = send
        self._binary = False
        self._over = False

    async def receive_text(self) -> str | None:
        if self._over:
            return None
        message = await self._receive()
        if message["type"] != "websocket.receive":
            self._over = True
            return None
        text = message.get("text")
        if text is None:
            self._binary = self._over = True
        return text

    async def send_text(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    async def close(self) -> None:
        """Say why; nobody may be there any more to hear it."""
        code, reason = self._why()
        told = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
        closing = {"type": "websocket.close", "code": code, "reason": told}
        with contextlib.suppress(OSError, RuntimeError):  # uvicorn's, where the other side was first
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._send(closing)

    def _why(self) -> tuple[int, str]:
        if self._binary:
            return NO_BINARY, ONLY_TEXT
        why = self._peer.why or ""
        if why == STOPS:
            return GOING_AWAY, why
        return (POLICY_VIOLATION, why) if why and not self._over else (NORMAL, why)
