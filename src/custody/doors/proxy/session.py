"""One client and one server, and what is between them: lines are relayed as they come, a tool call once it is
checked and on the record.

Owns the life of a session (whoever goes first ends it, and everything is on the record then), and who does
what `relay` says is to be done. How a tool call is made is `calling`'s, what is told beside `telling`'s. Used
by `custody proxy`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from custody.calls.handle import RunHandle
from custody.calls.runtime import Runtime
from custody.calls.uncut import until_done
from custody.doors.proxy.calling import Calling, Options
from custody.doors.proxy.listing import Listing
from custody.doors.proxy.messages import (
    CONNECTION_CLOSED,
    ENDS_KEPT_BYTES,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Id,
    TooLong,
    error,
    id_of_ends,
    one_line,
)
from custody.doors.proxy.relay import (
    Begin,
    Ended,
    Faulty,
    GivenUp,
    GoesOn,
    Heard,
    Listed,
    Lost,
    Passed,
    Relay,
    Step,
    ToClient,
    Told,
    ToServer,
    Waits,
)
from custody.doors.proxy.streams import LINE_BYTES_MAX, Inlet, OnLine, Outlet
from custody.doors.proxy.telling import Telling
from custody.errors import NotRecorded

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection

log = logging.getLogger("custody")

DRAIN_SECONDS = 2.0
"""How long a client has to take its last answers."""

END_SECONDS = 30.0
"""How long calls have to end once the client is gone: each has bounds of its own."""


class Server(Protocol):
    """What lines go to, and come from."""

    ended: "asyncio.Future[str]"
    """How it ended, in words."""
    on_connection: "Callable[[Connection], None]"
    """Told of what it reached, and was refused, where it is walled in and hosts are listed; set before it is
    begun."""

    @property
    def full(self) -> bool:
        """Whether it takes less than it is sent."""
        ...

    def start(self, on_line: OnLine, on_room: Callable[[], None], on_lost: Callable[[Id, str], None]) -> None:
        """Begin. `on_lost` is told of a request that the server has had, and that nobody will answer."""
        ...

    def send(self, line: bytes) -> None: ...

    async def close(self) -> None: ...


class Session:
    """One session: `serve` it."""

    def __init__(
        self,
        options: Options,
        server: Server,
        output: int,
        open_runtime: Callable[[], Awaitable[Runtime]],
    ) -> None:
        self._options = options
        self._server = server
        self._relay = Relay()
        self._client = Outlet(output, self._client_gone)
        self._open_runtime = open_runtime
        self._opening: asyncio.Task[Runtime] | None = None
        self._beginning: asyncio.Task[RunHandle] | None = None
        self._inlet: Inlet | None = None
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._telling = Telling(self.recording, options.name)
        self._listing = Listing(options, self.recording, self._telling)
        self._calling = Calling(
            options, self._relay, self._listing, self.recording,
            to_client=self._client.write, to_server=self._to_server,
        )  # fmt: skip

    # -- its life -----------------------------------------------------------------------------------------

    async def serve(self, input_: int, stop: asyncio.Event) -> str:
        """Until one of the two is gone, or `stop` is set; gives why. Raises what opening the store raises,
        once the client has been told."""
        self._opening = asyncio.ensure_future(self._open_runtime())
        self._inlet = Inlet(input_, self.from_client, self._client_gone)
        stopping = asyncio.create_task(self._until(stop))
        self._server.on_connection = self._telling.connection
        self._server.start(self.from_server, self._inlet.resume, self._lost)
        self._inlet.start()
        self._server.ended.add_done_callback(lambda ended: self._server_gone(ended.result()))
        try:
            return await self._over
        finally:
            stopping.cancel()
            self._inlet.stop()
            await self._close()

    async def _until(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end("the proxy was stopped")

    async def _close(self) -> None:
        await self._calling.close(END_SECONDS)
        await self._listing.close()
        await self._server.close()
        await self._telling.finish()
        if self._beginning is not None:
            await until_done(self._beginning)
            if self._beginning.exception() is None:
                await self._finish(self._beginning.result())
        assert self._opening is not None, "it is served"
        await until_done(self._opening)
        await self._client.drained(DRAIN_SECONDS)
        self._client.close()
        self._opening.result()

    async def _finish(self, run: RunHandle) -> None:
        try:
            await run.finish("succeeded", reason=self._over.result())
        except NotRecorded:
            pass  # it is closed as incomplete when the store is next opened

    def _end(self, why: str) -> None:
        if not self._over.done():
            self._over.set_result(why)

    def _client_gone(self) -> None:
        self._end("the client closed the session")

    def _server_gone(self, how: str) -> None:
        """What it had is answered for it; and so is all that the client asks later."""
        if self._over.done():
            return  # it was told to go
        why = f"The server {self._options.name!r} is gone: {how.removesuffix('.')}."
        self._telling.event("mcp.server_gone", {"ended": how})
        self._calling.server_gone(why)
        self._do(self._relay.server_gone(CONNECTION_CLOSED, why))

    # -- the record ---------------------------------------------------------------------------------------

    async def recording(self) -> tuple[Runtime, RunHandle]:
        """The runtime, and the run of this session, which begins when it is first asked for. Raises
        CustodyError."""
        if self._beginning is None:
            self._beginning = asyncio.create_task(self._begin())
        run = self._beginning.result() if self._beginning.done() else await asyncio.shield(self._beginning)
        assert self._opening is not None, "the run has begun"
        return self._opening.result(), run

    async def _begin(self) -> RunHandle:
        assert self._opening is not None, "it is served"
        runtime = await asyncio.shield(self._opening)
        client = self._relay.client
        said = f"{client.name} {client.version}".strip() or "a client without a name"
        run = runtime.run(
            f"MCP session of {said} with {self._options.name}",
            agent=self._options.agent or client.name or None,
            client=said,
            inputs={"server": self._options.name, "where": self._options.where},
            on_error="raise",
        )
        await run.start()
        return run

    # -- lines --------------------------------------------------------------------------------------------

    def from_client(self, line: bytes | TooLong) -> None:
        """A line of the client has come."""
        if isinstance(line, TooLong):
            why = f"A message has at most {LINE_BYTES_MAX:,} bytes."
            self._telling.fault(False, why)
            self._client.write(error(line.id, INVALID_REQUEST, why))
        elif line.strip():
            try:
                self._do(self._relay.from_client(one_line(line)))
            except Exception as wrong:  # a defect of ours: the line is not handed on, and that is said
                log.exception("A line of an MCP client could not be worked on")
                self._telling.fault(False, f"it could not be worked on: {type(wrong).__name__}")
                identity = id_of_ends(line[:ENDS_KEPT_BYTES], line[-ENDS_KEPT_BYTES:])
                self._client.write(error(identity, INTERNAL_ERROR, "The proxy failed on this message."))

    def from_server(self, line: bytes | TooLong) -> None:
        """A line of the server has come."""
        if isinstance(line, TooLong):
            why = f"A message of the server had more than {LINE_BYTES_MAX:,} bytes; it is left out."
            self._telling.fault(True, why)
            if line.id is not None:  # in its place, as the client waits for it
                self._do(self._relay.from_server(error(line.id, CONNECTION_CLOSED, why)))
        elif line.strip():
            try:
                # As for a server: a client may end a line where this one has not ended.
                self._do(self._relay.from_server(one_line(line)))
            except Exception as wrong:
                log.exception("A line of an MCP server could not be worked on")
                self._telling.fault(True, f"it could not be worked on: {type(wrong).__name__}")

    def _lost(self, identity: Id, why: str) -> None:
        self._do(self._relay.lost(identity, CONNECTION_CLOSED, why))

    def _to_server(self, line: bytes) -> None:
        self._server.send(line)
        if self._server.full and self._inlet is not None:
            self._inlet.pause()

    def _do(self, steps: list[Step]) -> None:
        for step in steps:
            match step:
                case ToServer(line):
                    self._to_server(line)
                case ToClient(line):
                    self._client.write(line)
                case Passed(request, by_server, answer):
                    self._telling.passed(request, by_server, answer)
                case Faulty(by_server, reason):
                    self._telling.fault(by_server, reason)
                case Listed(request, message, line):
                    self._listing.listed(request, message, line, self._client.write)
                case _:
                    self._do_call(step)

    def _do_call(self, step: Step) -> None:
        calling = self._calling
        match step:
            case Begin(call):
                calling.begin(call)
            case Ended(call, message, line):
                calling.ended(call, message, line)
            case Waits(call):
                calling.waits(call)
            case GoesOn(call):
                calling.goes_on(call)
            case Told(call, responses):
                calling.told(call, responses)
            case GivenUp(call):
                calling.given_up(call)
            case Heard(identity, message):
                calling.heard(identity, message)
            case Lost(call, why):
                calling.lost(call, why)
            case _:
                raise AssertionError(f"{type(step).__name__} is no step of a call")
