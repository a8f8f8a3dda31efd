"""The proxy through which a confined command reaches the hosts its sandbox lists.

Owns the listener that was made inside the command's network namespace, the bounds on what one command may
hold open, what a refusal says, and the account of every connection. Decides nothing itself (`rules`) and sees
nothing of what is encrypted. It runs on the event loop of whoever starts it; nobody is ever kept waiting for
a person: a host that is not listed is refused at once.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Literal
from weakref import WeakSet

from msgspec import Struct, structs

from custody.sandbox.egress.forwarding import REFUSED_HEADER, Stalled, exchange, tunnel
from custody.sandbox.egress.http1 import (
    Malformed,
    Request,
    Target,
    head_bytes,
    parse_request,
    request_framing,
    target_of,
)
from custody.sandbox.egress.link import Link
from custody.sandbox.egress.rules import (
    Allowed,
    Destination,
    LookUps,
    Refused,
    Resolve,
    Unresolved,
    decide,
    spelling,
)

NO_DESCRIPTOR_SECONDS = 0.1
"""How long accepting rests when this process may open nothing more."""
DESCRIPTORS_PER_CONNECTION = 4
"""Of the limit of open files. A connection takes two of them, here and to the host; as many are left for the
rest of the program, whose journal and launchers need them too."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PHRASES = {
    400: "Bad Request",
    403: "Refused by Custody",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

log = logging.getLogger("custody")

_CLOSED = "the proxy was closed"
_serving_in_all: WeakSet[asyncio.Task[None]] = WeakSet()
"""The connections of all proxies of this process, which share its descriptors; weak, for loops that were
closed with some open."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What one proxy puts up with."""

    connections: int = 256
    """Open at once, and fewer where descriptors are short; package managers open some dozens."""
    head_seconds: float = 15.0
    """From the first wait to the end of a head, on a new connection."""
    next_seconds: float = 60.0
    """The same, for a further request on a connection."""
    connect_seconds: float = 10.0
    """To a host, all its addresses together."""
    idle_seconds: float = 900.0
    """Without a byte either way. Long polls and debuggers are quiet for minutes."""


class Connection(Struct, frozen=True, kw_only=True):
    """What became of one tunnel, or of one request in plain HTTP."""

    host: str
    """As it was asked for; empty where that could not be read."""
    port: int
    address: str | None = None
    """What was connected to."""
    verdict: Literal["allowed", "refused"]
    reason: str | None = None
    """Why it was refused."""
    hint: str | None = None
    """What would allow it."""
    bytes_in: int = 0
    """From the host. Of a tunnel what was in it; else heads too."""
    bytes_out: int = 0
    """To the host."""
    started_us: int
    ended_us: int
    error: str | None = None
    """What ended it too early."""


class Proxy:
    """Serves one listener until it is closed; the listener is its own from then on."""

    def __init__(
        self,
        listener: socket.socket,
        allowed: Allowed,
        on_connection: Callable[[Connection], None],
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 -- frozen
        resolve: Resolve | None = None,
    ) -> None:
        """`on_connection` is called on the loop, at the end of each connection, and must not wait. Names are
        looked up by the machine's resolver, or by `resolve`."""
        listener.setblocking(False)
        self._listener = listener
        self._allowed = allowed
        self._on_connection = on_connection
        self._bounds = bounds
        self._look_ups = LookUps()
        self._resolve = resolve or self._look_ups
        self._serving: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept, on the running loop."""
        assert self._loop is None, "a proxy is started once"
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """End every connection at once, each with its account, and the listener."""
        if self._resting is not None:
            self._resting.cancel()
        if self._loop is not None and self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
        self._look_ups.close()
        serving = set(self._serving)
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)
        self._listener.close()

    # -- accepting --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """One connection; the loop comes back for the next, and to others in between."""
        assert self._loop is not None, "only a started proxy accepts"
        try:
            taken, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._loop.remove_reader(self._listener)
                self._resting = self._loop.call_later(NO_DESCRIPTOR_SECONDS, self._accept_again)
            return  # else nobody is there after all
        no_room = self._no_room()
        if no_room is not None:
            self._turn_away(taken, no_room)
            return
        taken.setblocking(False)
        task = self._loop.create_task(self._serve(taken))
        self._serving.add(task)
        _serving_in_all.add(task)
        task.add_done_callback(functools.partial(self._served, taken))

    def _accept_again(self) -> None:
        assert self._loop is not None, "only a started proxy rests"
        self._loop.add_reader(self._listener, self._accept)

    def _served(self, taken: socket.socket, task: asyncio.Task[None]) -> None:
        """Also of a task that was cancelled before it began, and so has closed nothing."""
        self._serving.discard(task)
        _serving_in_all.discard(task)
        taken.close()
        failed = None if task.cancelled() else task.exception()
        if failed is not None:
            log.error("A connection of a command ended by a fault of the proxy", exc_info=failed)

    def _no_room(self) -> str | None:
        """Why not one more. No proxy may have more than are left for the others."""
        has = len(self._serving)
        if has >= self._bounds.connections:
            return f"{has} connections are open already."
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        left = limit // DESCRIPTORS_PER_CONNECTION - len(_serving_in_all)
        if limit == resource.RLIM_INFINITY or has < left:
            return None
        return (
            f"{has} connections are open already, and {len(_serving_in_all)} of all commands: there is room "
            f"for no more in the limit of open files, {limit} (ulimit -n)."
        )

    def _turn_away(self, taken: socket.socket, reason: str) -> None:
        """Without waiting for what is asked: that is what there is no room for."""
        self._tell(_Account().refused(reason, None))
        with taken, contextlib.suppress(OSError):
            taken.setblocking(False)
            taken.send(_answer(503, reason))
            taken.shutdown(socket.SHUT_WR)

    def _tell(self, connection: Connection) -> None:
        try:
            self._on_connection(connection)
        except Exception:  # one account that is lost must not end the proxy
            log.exception("A connection to %s could not be told", connection.host)

    # -- one connection ---------------------------------------------------------------------------------

    async def _serve(self, taken: socket.socket) -> None:
        client = await Link.of(taken)
        try:
            seconds = self._bounds.head_seconds
            while await self._one(client, seconds):
                seconds = self._bounds.next_seconds
            await client.linger()
            client.close()
        except OSError:
            pass  # the command has hung up; what it asked for has its account
        finally:
            client.reset()

    async def _one(self, client: Link, seconds: float) -> bool:
        """One request; whether another may follow."""
        account = _Account()
        try:
            request = await self._request(client, seconds)
            if request is None:
                return False
            target = target_of(request)
            destination = await self._decided(account, target)
        except Malformed as error:
            self._tell(account.refused(str(error), None))
            answer = _answer(error.status, str(error))
        except Unresolved as error:
            self._tell(account.ended(error.reason))
            answer = _answer(502, str(error))
        except Refused as error:
            self._tell(account.refused(error.reason, error.hint))
            answer = _answer(403, str(error))
        else:
            return await self._pass(client, request, target, destination, account)
        await client.send(answer)
        return False

    async def _decided(self, account: "_Account", target: Target) -> Destination:
        account.host, account.port = target.host, target.port
        try:
            return await decide(self._allowed, target.host, target.port, resolve=self._resolve)
        except asyncio.CancelledError:  # while a listed name is looked up, which tells somebody something
            self._tell(account.ended(_CLOSED))
            raise

    async def _request(self, client: Link, seconds: float) -> Request | None:
        """None where no further one comes."""
        before = client.bytes_in
        try:
            async with asyncio.timeout(seconds):
                head = await client.head()
        except TimeoutError:
            if client.bytes_in == before:
                return None
            raise Malformed(f"The head did not end within {seconds:g} s.", 408) from None
        if head is None:
            return None
        request = parse_request(head)
        request_framing(request)  # what is malformed is refused before anybody is connected to
        return request

    async def _pass(
        self, client: Link, request: Request, target: Target, destination: Destination, account: "_Account"
    ) -> bool:
        """To a host that is allowed; whatever happens, the account of it is told."""
        answered, status, error = client.bytes_out, 502, _CLOSED
        try:
            upstream = account.upstream = await self._connected(destination, account)
            target = structs.replace(target, host=destination.host)
            keep = await self._carry(client, upstream, request, target)
            upstream.close()
            error = None
            return keep
        except OSError as failed:
            error = os.strerror(failed.errno) if failed.errno else str(failed)
        except Stalled as failed:
            status, error = 504, str(failed)
        except Malformed as failed:
            status, error = failed.status, str(failed)
        finally:
            self._tell(account.ended(error))
            if account.upstream is not None:
                account.upstream.reset()
        if client.bytes_out > answered:
            client.reset()
        else:
            await client.send(_answer(status, f"{spelling(destination.host, destination.port)}: {error}"))
        return False

    async def _connected(self, destination: Destination, account: "_Account") -> Link:
        try:
            upstream, account.address = await Link.to(destination, self._bounds.connect_seconds)
        except TimeoutError:
            raise Stalled(f"no connection within {self._bounds.connect_seconds:g} s") from None
        return upstream

    async def _carry(self, client: Link, upstream: Link, request: Request, target: Target) -> bool:
        if target.path is not None:
            return await exchange(client, upstream, request, target, self._bounds.idle_seconds)
        await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await tunnel(client, upstream, self._bounds.idle_seconds)
        return False


class _Account:
    """What is known so far of one tunnel or request."""

    def __init__(self) -> None:
        self.host, self.port = "", 0
        self.address: str | None = None
        self.upstream: Link | None = None
        self._started_us = _now_us()

    def refused(self, reason: str, hint: str | None) -> Connection:
        return Connection(
            host=self.host,
            port=self.port,
            verdict="refused",
            reason=reason,
            hint=hint,
            started_us=self._started_us,
            ended_us=_now_us(),
        )

    def ended(self, error: str | None) -> Connection:
        return Connection(
            host=self.host,
            port=self.port,
            address=self.address,
            verdict="allowed",
            bytes_in=0 if self.upstream is None else self.upstream.bytes_in,
            bytes_out=0 if self.upstream is None else self.upstream.bytes_out,
            started_us=self._started_us,
            ended_us=_now_us(),
            error=error,
        )


def _now_us() -> int:
    return time.time_ns() // 1000


def _answer(status: int, words: str) -> bytes:
    """An answer of the proxy's own. Many a client shows only the first line, some only the body."""
    line = "".join(letter if " " <= letter <= "~" else "?" for letter in words)
    body = line.encode() + b"\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")]
    if status == 403:
        headers.append((REFUSED_HEADER, line))
    return head_bytes(f"HTTP/1.1 {status} {_PHRASES[status]}: {line}", headers) + body
