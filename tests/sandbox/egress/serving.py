"""A proxy, and hosts behind it, on loopback: real sockets, whose ends the tests hold."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from custody.sandbox.egress import Allowed, Bounds, Connection, Proxy
from custody.sandbox.egress.rules import Resolve

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECONDS_MAX = 60.0
"""For what should take milliseconds: a test that hangs says so."""
INSTALL_SECONDS_MAX = 120.0
"""For a package manager, some seconds of whose work are its own; of a machine that does other things too."""


def run(coroutine: Coroutine[Any, Any, Any], seconds: float = SECONDS_MAX) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await coroutine

    return asyncio.run(bounded())


def listener(host: str = "127.0.0.1", backlog: int = 128) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind((host, 0))
    made.listen(backlog)
    return made


def port_of(bound: socket.socket) -> int:
    return bound.getsockname()[1]


class Proxied:
    """A proxy that runs, and what it told."""

    def __init__(self, listener: socket.socket, proxy: Proxy, told: asyncio.Queue[Connection]) -> None:
        self.listener = listener
        self.port = port_of(listener)
        self.proxy = proxy
        self.told = told

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        """All that is answered until the proxy ends the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def proxied(
    *hosts: str, bounds: Bounds | None = None, resolve: Resolve | None = None
) -> AsyncIterator[Proxied]:
    bound = listener()
    told: asyncio.Queue[Connection] = asyncio.Queue()
    proxy = Proxy(bound, Allowed(hosts), told.put_nowait, bounds=bounds or Bounds(), resolve=resolve)
    proxy.start()
    try:
        yield Proxied(bound, proxy, told)
    finally:
        await proxy.close()


@contextlib.asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[int]:
    """The port of a host that does `handler` with each connection."""

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handled, host, 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(answer: bytes, seen: list[bytes] | None = None) -> Handler:
    """Read a head, keep it, answer always the same."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(answer)
        await writer.drain()

    return handle


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What comes in, until it ends."""
    while piece := await reader.read(65_536):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
