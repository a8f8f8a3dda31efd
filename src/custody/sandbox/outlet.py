"""The way out of one launcher whose network is `listed`: a proxy for the command that runs, and for it alone.

Owns the listener that the launcher made inside its own network, and what is kept of a command's connections.
A proxy serves one command, so what it tells is that command's; between two commands nobody listens. Which
hosts may be reached, and how bytes pass, is `egress`'s. Used by `one_launcher`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection, Proxy

CONNECTIONS_KEPT_MAX = 1000  # each is an event on the call; an install of many packages makes some hundreds
PROXY_CLOSE_SECONDS = 5.0
"""It ends every connection at once; beyond this it hangs, and its launcher serves no other command."""


class Connections:
    """Those of one command: the first of them, and how many more there were."""

    def __init__(self) -> None:
        self.kept: list[Connection] = []
        self.dropped = 0

    def add(self, connection: "Connection") -> None:
        """One has ended."""
        if len(self.kept) < CONNECTIONS_KEPT_MAX:
            self.kept.append(connection)
        else:
            self.dropped += 1


class Outlet:
    """One launcher's. On the event loop of its launcher."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._hosts = hosts
        self._listener: socket.socket | None = None
        self._served: socket.socket | None = None
        """The same, for the proxy that is there: it closes what it is given."""
        self._proxy: Proxy | None = None
        self._on_connection: Callable[[Connection], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the listener is watched; None while it is not, or the proxy does."""

    def begin(self, on_connection: "Callable[[Connection], None]") -> None:
        """A command runs; what it connects to is told, each connection at its end."""
        self._on_connection = on_connection
        self._watch()

    def opened(self, listener: socket.socket) -> None:
        """The launcher has made the listener, before its first command began."""
        listener.setblocking(False)
        self._listener = listener
        self._watch()

    def _watch(self) -> None:
        """Most commands connect to nothing, and need no proxy."""
        if self._listener is not None and self._on_connection is not None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._listener, self._start)

    def _start(self) -> None:
        """Somebody is at the listener; the proxy accepts, and takes it over."""
        self._unwatch()
        if self._listener is not None and self._on_connection is not None:
            from custody.sandbox.egress.proxy import Proxy
            from custody.sandbox.egress.rules import Allowed

            self._served = self._listener.dup()
            self._proxy = Proxy(self._served, Allowed(hosts=self._hosts), self._on_connection)
            self._proxy.start()

    def _unwatch(self) -> None:
        if self._loop is not None and self._listener is not None:
            self._loop.remove_reader(self._listener)
        self._loop = None

    async def end(self) -> bool:
        """The command has ended: so do its connections, all of which have been told then. Whether the next
        command may use it."""
        self._unwatch()
        proxy, self._proxy, self._on_connection = self._proxy, None, None
        if proxy is not None:
            closing = asyncio.ensure_future(proxy.close())
            done, _ = await asyncio.wait([closing], timeout=PROXY_CLOSE_SECONDS)
            if not done or closing.cancelled() or closing.exception() is not None:
                closing.cancel()
                return False
            if self._served is not None:
                self._served.close()
        self._forget_waiting()
        return True

    def _forget_waiting(self) -> None:
        """Nobody is left at the other end of what has not been accepted; the next command's it is not."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                while True:
                    self._listener.accept()[0].close()

    async def close(self) -> None:
        """Its launcher ends."""
        await self.end()
        self.forget()

    def forget(self) -> None:
        """Close what is ours; in a forked child the parent goes on with it."""
        for one in (self._listener, self._served):
            if one is not None:
                one.close()
        self._listener = self._served = None


def listener_of(descriptors: list[int]) -> socket.socket | None:
    """What a launcher handed over, if it is a listening socket and nothing else."""
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if len(sockets) == 1 and sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return sockets[0]
    for one in sockets:
        one.close()
    return None
