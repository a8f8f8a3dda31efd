"""MCP over standard input and output: one client, one process, one run.

Owns the frames (a message a line; one that is none is answered with an error of JSON-RPC), and the order of
the end: the client goes, what is under way is ended and recorded, the run is finished. Used by `custody mcp`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import anyio
import mcp_types as types
import pydantic_core
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from msgspec import structs
from pydantic import ValidationError

from custody.calls.descent import descent
from custody.doors.mcp.caller import Backing, Caller
from custody.doors.mcp.offering import warn_of_hidden
from custody.doors.mcp.pipes import Pipes, TooLong
from custody.doors.mcp.server import Request, build_server
from custody.errors import CustodyError
from custody.rpc.access import Access

log = logging.getLogger("custody")

Messages = MemoryObjectSendStream[SessionMessage | Exception]

REFUSING_SECONDS = 1.0
"""How long a client whose store cannot be opened has to ask something, and so to be told why: many show what
is on standard error to nobody."""

CLIENT_GONE = "the client closed the session"
STOPPED = "the server was stopped"


async def serve_stdio(
    pipes: Pipes, open_backing: Callable[[], Awaitable[Backing]], stop: asyncio.Event, *, agent: str | None
) -> None:
    """Serve the client until it is gone, or `stop` is set. `open_backing` is begun at once and awaited by the
    first request that needs it: a client is greeted before the store is open.

    Raises what `open_backing` raises. Afterwards everything is on the record; the backing is the caller's to
    close.
    """
    opening = asyncio.ensure_future(_caller(open_backing, agent))

    async def caller_of(request: Request) -> Caller:
        del request
        try:
            return await asyncio.shield(opening)
        except CustodyError as error:
            hint = "" if error.hint is None else f" {error.hint}"
            raise MCPError(types.INTERNAL_ERROR, f"{error.message}{hint}") from None

    server = build_server(caller_of)
    serving = asyncio.create_task(_serve(server, pipes, stop))
    pipes.start()
    await asyncio.wait({opening, serving}, return_when=asyncio.FIRST_EXCEPTION)
    if opening.done() and opening.exception() is not None:
        await asyncio.wait({serving}, timeout=REFUSING_SECONDS)
        stop.set()
    try:
        await serving
    finally:
        await asyncio.wait({opening})
        if opening.exception() is None:
            await opening.result().close(STOPPED if stop.is_set() else CLIENT_GONE)
    opening.result()


async def _caller(open_backing: Callable[[], Awaitable[Backing]], agent: str | None) -> Caller:
    backing = await open_backing()
    if backing.asks and await asyncio.to_thread(descent) is not None:  # an agent would answer itself
        backing = structs.replace(backing, asks=False)
    warn_of_hidden(backing.service.runtime.tools)
    # It is the user's own process on the user's own store: it sees what `custody runs` would show.
    return Caller(backing, Access(role="operator"), address="stdio", agent=agent, lasting=True)


async def _serve(server: Any, pipes: Pipes, stop: asyncio.Event) -> None:
    incoming_send, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, outgoing_receive = anyio.create_memory_object_stream[SessionMessage](0)
    async with anyio.create_task_group() as group:
        group.start_soon(_read, pipes, incoming_send, stop)
        group.start_soon(_write, pipes, outgoing_receive, stop)
        await serve_dual_era_loop(
            server,
            incoming,
            outgoing,
            lifespan_state={},
            init_options=server.create_initialization_options(),
        )


async def _read(pipes: Pipes, incoming: Messages, stop: asyncio.Event) -> None:
    """Until there are no more lines, or it is to stop."""
    stopping = asyncio.create_task(stop.wait())
    try:
        async with incoming:
            while not stop.is_set():
                reading = asyncio.create_task(pipes.line())
                await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    reading.cancel()
                    return
                line = reading.result()
                if line is None:
                    return
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await _take(line, pipes, incoming)
    finally:
        stopping.cancel()


async def _take(line: bytes | TooLong, pipes: Pipes, incoming: Messages) -> None:
    if isinstance(line, bytes) and not line.strip():
        return
    try:
        message = parse(line)
    except NoMessage as wrong:
        with suppress(BrokenPipeError):  # the writer hears of it too
            await pipes.write(_encoded(wrong.answer))
    else:
        await incoming.send(SessionMessage(message))


async def _write(
    pipes: Pipes, outgoing: MemoryObjectReceiveStream[SessionMessage], stop: asyncio.Event
) -> None:
    """What is to be said after the client is gone goes nowhere."""
    gone = False
    async with outgoing:
        async for message in outgoing:
            if gone:
                continue
            try:
                await pipes.write(_encoded(message.message))
            except BrokenPipeError:
                gone = True
                stop.set()


class NoMessage(Exception):
    """A line is none. Not told by its answer alone: an error is a message too, and answers what a client was
    asked and cannot do."""

    def __init__(self, identity: int | str | None, code: int, message: str) -> None:
        super().__init__(message)
        self.answer = _error(identity, code, message)


def parse(line: bytes | TooLong) -> types.JSONRPCMessage:
    """The message in a line. Raises NoMessage."""
    if isinstance(line, TooLong):
        raise NoMessage(None, types.INVALID_REQUEST, str(line))
    try:
        said = pydantic_core.from_json(line, allow_inf_nan=False)
    except ValueError as error:  # no JSON, no UTF-8, nested without end
        raise NoMessage(None, types.PARSE_ERROR, f"Parse error: {error}") from None
    if not isinstance(said, dict):
        what = "a batch" if isinstance(said, list) else "no object"
        why = f"Invalid request: one object a line, and this is {what}"
        raise NoMessage(None, types.INVALID_REQUEST, why)
    named = cast("dict[str, Any]", said)
    identity = named.get("id")
    odd = "id" in named and (isinstance(identity, bool) or not isinstance(identity, int | str))
    if odd and ("method" in named or identity is not None):  # an error to what nobody could read has null
        raise NoMessage(None, types.INVALID_REQUEST, "Invalid request: id is an integer or a string")
    try:
        return types.jsonrpc_message_adapter.validate_python(named, by_name=False)
    except ValidationError:
        identity = cast("int | str | None", identity)
        why = "Invalid request: this is no message of JSON-RPC 2.0"
        raise NoMessage(identity, types.INVALID_REQUEST, why) from None


def _error(identity: int | str | None, code: int, message: str) -> types.JSONRPCError:
    return types.JSONRPCError(
        jsonrpc="2.0", id=identity, error=types.ErrorData(code=code, message=message[:500])
    )


def _encoded(message: types.JSONRPCMessage) -> bytes:
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except (ValueError, pydantic_core.PydanticSerializationError):
        log.exception("An answer could not be written")
        identity = getattr(message, "id", None)
        return _encoded(_error(identity, types.INTERNAL_ERROR, "The answer could not be written as JSON."))
