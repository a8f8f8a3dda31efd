"""One MCP client: whom it speaks for, the run its calls belong to, and what is worked on for it.

Owns the beginning and the end of that run and the end of the work. To the rest of Custody a client is a peer
like any other, so what it may see and call is decided where that is decided for peers. Knows nothing of
messages. Made by the transports, `stdio` and `http`; used by everything that answers.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import anyio
from msgspec import Struct

from custody.calls.handle import RunHandle
from custody.calls.uncut import until_done
from custody.errors import CustodyError, PeerLost
from custody.rpc.access import Access
from custody.rpc.errors import RpcError
from custody.rpc.jsonrpc import BUSY
from custody.rpc.peer import Peer
from custody.rpc.service import Service
from custody.rpc.table import TABLE

log = logging.getLogger("custody")

DOOR = "mcp"

END_SECONDS = 30.0
"""As for any peer that is gone: each call has bounds of its own, this says when to stop waiting for one that
has none."""

NAME_CHARACTERS_MAX = 256
"""Of what a client calls itself: it goes into every record."""

T = TypeVar("T")


class AskDaemon(Protocol):
    """Puts a question of the daemon's own wire to a daemon elsewhere."""

    async def __call__(self, method: str, params: dict[str, Any], *, agent: str | None, once: bool) -> Any:
        """`agent` is who asks, where the token there does not say; `once`: it may not be asked twice."""
        ...


class Backing(Struct, frozen=True, kw_only=True):
    """What the server has behind it."""

    service: Service
    """With the runtime, the skills, and what clients share."""
    is_daemon: bool = False
    """Whether it outlives its clients, so that an agent may be left to work."""
    message_bytes_max: int | None = None
    """Of one answer; None: clients take any."""
    daemon: AskDaemon | None = None
    """A daemon elsewhere, where one was named."""
    training: tuple[str, ...] = ()
    """The command of a trainer; empty: there is none."""
    only: frozenset[str] | None = None
    """Names of the tools that are offered; None: all."""
    asks: bool = True
    """Whether questions of its calls are put to a client that may answer them."""


class Caller:
    """One client. `close` it when it is gone."""

    def __init__(
        self, backing: Backing, access: Access, *, address: str = "", agent: str | None = None, lasting: bool
    ) -> None:
        """`agent` is who it is, where its token does not say; else it is what the client calls itself.
        `lasting`: it sends many requests, so its calls get a run; otherwise each stands alone."""
        self.backing = backing
        self.service = backing.service
        self.runtime = backing.service.runtime
        self.lasting = lasting
        self.kept: set[asyncio.Task[Any]] = set()
        """What goes on while no request of it is here."""
        self.peer = Peer(door=DOOR, address=address, access=access)
        self.peer.join(self.service, TABLE, _no_frames)
        self.service.counters.connections += 1
        self.service.peers[self.peer.connection] = self.peer
        self._client = "a client without a name"
        self._beginning: asyncio.Task[RunHandle] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        if agent is not None:
            self._claim(agent)

    def lasts(self) -> None:
        """It sends more than one request: its calls get a run, and it ends when it is told to."""
        self.lasting = True
        self._watch = asyncio.create_task(self._until_closing())

    async def _until_closing(self) -> None:
        await self.peer.closing.wait()
        await self.close(self.peer.why or "it was closed")

    def introduce(self, name: str, version: str) -> None:
        """What the client says of itself; said again it changes nothing."""
        if name:
            self._client = f"{name} {version}".strip()[:NAME_CHARACTERS_MAX]
            if self.peer.agent is None:
                self._claim(name)

    def _claim(self, agent: str) -> None:
        self.peer.claimed = agent[:NAME_CHARACTERS_MAX]
        self.peer.agents.add(self.peer.claimed)

    # -- its run --------------------------------------------------------------------------------------

    async def run(self) -> RunHandle | None:
        """The run its calls belong to, begun with the first; None where each stands alone.

        Raises NotRecorded.
        """
        if not self.lasting:
            return None
        failed = (
            self._beginning is not None and self._beginning.done() and self._beginning.exception() is not None
        )
        if self._beginning is None or failed:
            self._beginning = asyncio.create_task(self._begin())
        return await asyncio.shield(self._beginning)

    async def _begin(self) -> RunHandle:
        handle = self.runtime.run(
            f"MCP session of {self._client}",
            agent=self.peer.agent,
            client=self._client,
            on_error="raise",
        )
        await handle.start()
        return handle

    # -- its work -------------------------------------------------------------------------------------

    async def work(self, doing: Coroutine[Any, Any, T]) -> T:
        """Do something for it, to its end: cancelled meanwhile, it is ended and recorded before anybody
        hears. Raises RpcError where too much is under way, and what the work raises."""
        task = self._begun(doing)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if task.done() and (asking is None or not asking.cancelling()):
                raise PeerLost(f"It was ended: {self.peer.why or 'the connection is closed'}.") from None
            task.cancel()
            with anyio.CancelScope(shield=True):  # else it is cancelled anew in every turn of the loop
                await until_done(task)
            raise

    def keep(self, doing: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Do something for it that goes on when its request is answered. Raises RpcError."""
        task = self._begun(doing)
        self.kept.add(task)
        task.add_done_callback(self.kept.discard)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may not come again
        return task

    def _begun(self, doing: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        tasks, most = self.peer.tasks, self.service.limits.in_flight_max
        if len(tasks) >= most:
            doing.close()
            raise RpcError(BUSY, f"busy: {most} requests of this client are under way")
        task: asyncio.Task[Any] = asyncio.create_task(doing)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def close(self, why: str) -> None:
        """End what is under way, then its run. A second close does nothing."""
        if self._closed:
            return
        self._closed = True
        peer = self.peer
        peer.close(why)
        await self._end_work()
        peer.end()
        peer.deadlines.close()
        self.service.live.departed(peer.connection)
        self.service.peers.pop(peer.connection, None)
        await self._finish(why)

    async def _end_work(self) -> None:
        tasks = set(self.peer.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=END_SECONDS)
            if left:
                log.error("%d requests of an MCP client have not ended; they are left behind.", len(left))

    async def _finish(self, why: str) -> None:
        if self._beginning is None:
            return
        await until_done(self._beginning)
        if self._beginning.cancelled() or self._beginning.exception() is not None:
            return
        try:
            await self._beginning.result().finish("succeeded", reason=why)
        except CustodyError as error:  # it is closed as incomplete when the store is next opened
            log.warning("The end of an MCP session could not be recorded: %s", error)


async def _no_frames(text: str) -> None:
    """Nothing of the daemon's own wire is sent to an MCP client."""
    del text
    raise PeerLost
