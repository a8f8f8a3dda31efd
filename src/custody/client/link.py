"""The link to a daemon: one connection at a time, and another one when it breaks.

Owns the thread in which the client talks, the greeting of each new connection, and what may be asked again
once it is back: questions are, acts never. Knows nothing of runs or records. Used by `runtime` and by the
command line.
"""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from msgspec import Struct

from custody import __version__
from custody.client.address import Address
from custody.client.refusals import lost, refused, unreachable
from custody.client.wire import OPEN_SECONDS, ConnectionLost, Wire, connect
from custody.client.work import LoopThread, Work
from custody.errors import CustodyError, Denied, StoreClosed, UsageError
from custody.rpc import jsonrpc
from custody.rpc.errors import RemoteError

T = TypeVar("T")
log = logging.getLogger("custody")

WIRE_VERSION = 3

FEATURES = ("runs.resume.v1", "runs.cancel.v1")
"""With the first, the daemon keeps a run for its client for ten seconds after the connection breaks."""

CONNECT_SECONDS = 10.0
"""How long a request waits for a connection that is broken: as long as the daemon keeps a run."""

BACK_OFF_FIRST_SECONDS, BACK_OFF_MAX_SECONDS = 0.05, 2.0
"""Between two tries; doubled, and shortened by up to half at random, so that a thousand clients do not come
back at once."""

BUSY_FIRST_SECONDS, BUSY_MAX_SECONDS = 0.02, 10.0
"""A daemon that has too much to do is asked again; by then, if it still has, that is the answer."""

THREAD_END_SECONDS = 5.0  # the thread ends at once; this bounds a wait that should not happen


class Who(Struct, frozen=True, kw_only=True):
    """Who the client says it is."""

    token: str | None = None
    agent: str | None = None


class Link:
    """A way to a daemon. Connected once, it is connected again whenever that breaks, until it is closed."""

    def __init__(self, address: Address, who: Who, *, wait_seconds: float = CONNECT_SECONDS) -> None:
        """`wait_seconds` is how long a request waits for a connection that is broken."""
        self.wait_seconds = wait_seconds
        self.address = address
        self._who = who
        self._pid = os.getpid()
        self.on_request: Callable[[str, Any], Awaitable[Any]] = _unknown
        """Answers what the daemon asks; raises RemoteError for an error."""
        self.on_told: Callable[[str, Any], None] = _nothing
        self.on_connected: list[Callable[[Wire], Awaitable[None]]] = []
        """What a new connection needs before anything else is asked over it."""
        self.on_back: list[Callable[[], None]] = []
        """Called once it has all of that."""
        self._wire: Wire | None = None
        self._problem: object = "it was never connected"
        self._connected = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = LoopThread("custody-client")

    # -- from any thread ------------------------------------------------------------------------------

    def work(self, coroutine: Coroutine[Any, Any, T]) -> Work[T]:
        """Have it run in the link's thread. Raises StoreClosed."""
        if self._closed or self._thread.loop.is_closed():
            coroutine.close()
            raise StoreClosed("The connection to the daemon has been closed.")
        if self._pid != os.getpid():
            coroutine.close()
            raise UsageError(
                "A forked child cannot use its parent's connection.", hint="Open the URL again in the child."
            )
        return Work(self._thread.loop, coroutine)

    @property
    def here(self) -> bool:
        """Whether this is the link's thread: what waits for the daemon in it waits for itself."""
        return self._thread.here

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have it run there and wait for it. An interrupt of the wait cancels it. Raises StoreClosed."""
        if self.here:
            coroutine.close()
            raise UsageError(
                "A coroutine that the client runs as a tool cannot wait for the client itself.",
                hint="Make the tool a plain function, or open the URL with `async with`.",
            )
        return self.work(coroutine).wait()

    def soon(self, callback: Callable[[], None]) -> None:
        """Have it called there; nothing happens once the link is closed, or in a forked child."""
        if self._pid != os.getpid():
            return
        try:
            self._thread.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass

    @property
    def closed(self) -> bool:
        """Also in a forked child, which has no part in it."""
        return self._closed or self._pid != os.getpid()

    def end(self) -> None:
        """End the thread, after `closing`. From another thread than its own."""
        if not self.closed:
            self._closed = True
            self._thread.close(THREAD_END_SECONDS)

    # -- in its own thread ----------------------------------------------------------------------------

    async def ask(
        self, method: str, params: Any, *, patient: bool = False, act: bool = False
    ) -> Any:  # fmt: skip
        """A question, or what may be said twice: asked again if the connection breaks meanwhile. `params`
        may be a function that makes them anew each time.

        A `patient` one waits for a connection until the link is closed. Raises what the daemon raised; where
        it cannot be reached StoreUnusable, or NotRecorded if it is an `act`.
        """
        while True:
            wire = await self._ready(None if patient else self.wait_seconds, act=act)
            try:
                return await self._request(wire, method, params() if callable(params) else params)
            except ConnectionLost:
                continue

    async def act(self, method: str, params: Any) -> Any:
        """What may not happen twice. Raises NotRecorded where it was not sent, OutcomeUnknown where nobody
        knows, and what the daemon raised."""
        wire = await self._ready(self.wait_seconds, act=True)
        try:
            return await self._request(wire, method, params)
        except ConnectionLost:
            raise lost(self.address.url) from None

    async def tell(self, method: str, params: Any) -> None:
        """What is only of use over the connection there is. Raises nothing of the connection."""
        wire = self._wire
        if wire is None or wire.over:
            return
        try:
            await wire.request(method, params)
        except (ConnectionLost, RemoteError) as error:
            log.debug("%s: %s", method, error)

    async def _request(self, wire: Wire, method: str, params: Any) -> Any:
        pause = BUSY_FIRST_SECONDS
        while True:
            try:
                return await wire.request(method, params)
            except RemoteError as error:
                if error.code != jsonrpc.BUSY or pause > BUSY_MAX_SECONDS:
                    raise refused(error) from None
            await asyncio.sleep(pause)  # it has done nothing of it
            pause *= 2

    async def _ready(self, seconds: float | None, *, act: bool) -> Wire:
        wire = self._wire
        if wire is not None and not wire.over:
            return wire
        self._connected.clear()  # it may be over before anybody was told
        try:
            async with asyncio.timeout(seconds):
                await self._connected.wait()
        except TimeoutError:
            raise unreachable(self.address.url, self._problem, act=act) from None
        assert self._wire is not None, "it is connected"
        return self._wire

    async def connect_first(self) -> None:
        """Raises StoreUnusable where nobody answers, Denied where the token is refused."""
        if self.address.open_to_readers:
            log.warning("What is sent to %s can be read on its way; wss:// cannot.", self.address.url)
        try:
            wire = await self._connect()
        except (OSError, ConnectionLost, TimeoutError) as error:
            raise unreachable(self.address.url, _said(error), act=False) from error
        self._keeping = asyncio.create_task(self._keep(wire))

    async def _keep(self, wire: Wire | None) -> None:
        """Stay connected: with this connection, then with others."""
        pause = BACK_OFF_FIRST_SECONDS
        while True:
            if wire is not None:
                pause = BACK_OFF_FIRST_SECONDS
                await self._until_over()
                log.info("The connection to %s broke; connecting again.", self.address.url)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, BACK_OFF_MAX_SECONDS)
            try:
                wire = await self._connect()
            except (OSError, ConnectionLost, CustodyError) as error:
                wire, self._problem = None, _said(error)

    async def _until_over(self) -> None:
        listening = self._listening
        assert listening is not None, "it is connected"
        await asyncio.wait({listening})
        self._connected.clear()
        self._wire, self._problem = None, "the connection broke"

    _listening: asyncio.Task[None] | None = None

    async def _connect(self) -> Wire:
        """A connection over which anything may be asked."""
        wire = await connect(self.address, self.on_request, self.on_told)
        listening = asyncio.create_task(wire.listen())
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._greet(wire)
                for prepare in self.on_connected:
                    await prepare(wire)
        except BaseException:
            await wire.close()
            await asyncio.wait({listening})
            raise
        self._wire, self._listening = wire, listening
        self._connected.set()
        for callback in self.on_back:
            callback()
        return wire

    async def _greet(self, wire: Wire) -> None:
        """Say who we are and which wire we speak. Raises Denied, UsageError."""
        said: dict[str, Any] = {"token": self._who.token or ""}
        if self._who.agent is not None:
            said["agent_id"] = self._who.agent
        try:
            await wire.request("session.auth", said)
        except RemoteError as error:
            raise Denied(
                f"The daemon at {self.address.url} refuses the token: {error.message}.",
                hint="`custody serve` says where its token lies; give it as token= or in CUSTODY_TOKEN.",
            ) from None
        try:
            await wire.request(
                "server.handshake",
                {
                    "protocol_version": WIRE_VERSION,
                    "client_version": __version__,
                    "required_capabilities": [],
                    "optional_capabilities": FEATURES,
                },
            )
        except RemoteError as error:
            raise refused(error) from None

    async def closing(self) -> None:
        """End the connection and whatever is done here."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        if self._wire is not None:
            await self._wire.close()
        if self._listening is not None:
            await asyncio.wait({self._listening})
        mine = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not mine]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=THREAD_END_SECONDS)


async def _unknown(method: str, params: Any) -> Any:
    raise RemoteError(jsonrpc.METHOD_NOT_FOUND, f"unknown method: {method}")


def _nothing(method: str, params: Any) -> None:
    pass


def _said(error: BaseException) -> str:
    if isinstance(error, CustodyError):
        return error.message.rstrip(".")
    if isinstance(error, ConnectionLost):
        return "it hung up"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
