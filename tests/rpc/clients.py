"""A client of the wire, written with nothing but json, and the ways to connect one.

    async def scenario() -> None:
        async with opened_runtime() as runtime, door("memory", runtime) as connect:
            async with connect() as client:
                client.tools["echo"] = echo                      # async (parameters, request) -> result
                await client.call("tools.register", [{"name": "echo"}])
    asyncio.run(scenario())

`connected(transport, runtime)` is the same for one client alone.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect, unix_connect

from custody.calls.runtime import Runtime
from custody.compose import open_runtime
from custody.rpc.access import Doorkeeper
from custody.rpc.description import Table
from custody.rpc.live import LiveRuns
from custody.rpc.peer import Peer
from custody.rpc.serve import paired, serve_peer
from custody.rpc.service import Limits, Service
from custody.rpc.table import TABLE
from custody.settings import load_settings
from custody.skills import Shelf

WAIT_SECONDS = 60.0
"""Far above what anything here takes; a test that waits so long has failed."""

SOCKETS = ("websocket", "unix")
"""Transports beside `memory`."""

ClientTool = Callable[[dict[str, Any], dict[str, Any]], Awaitable[Any]]
Connect = Callable[..., AbstractAsyncContextManager["Client"]]


class Failure(Exception):
    """The answer was an error; raised by a client's tool, it is what the tool answers."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


class Client:
    """One connection. Answers `tools.execute` with the coroutines in `tools`."""

    peer: Peer
    """The other side; only in memory."""
    service: Service
    """What serves it."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[str | None]],
        send: Callable[[str], Awaitable[None]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._receive = receive
        self.send_text = send
        self.close = close
        self.tools: dict[str, ClientTool] = {}
        self.executed: list[dict[str, Any]] = []
        """Params of every `tools.execute`, in order."""
        self.told: list[dict[str, Any]] = []
        """Every notification, in order."""
        self.strays: list[dict[str, Any]] = []
        """Answers without an id, and those to nothing that was asked here."""
        self._changed = asyncio.Condition()
        self._waiting: dict[Any, asyncio.Future[dict[str, Any]]] = {}
        self._minted = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._reads = asyncio.Event()
        self._reads.set()
        self._reader = asyncio.create_task(self._read())
        self.closed = asyncio.Event()

    # -- asking ---------------------------------------------------------------------------------------

    async def call(self, method: str, params: Any = None) -> Any:
        """The result. Raises Failure."""
        answer = await self.ask(method, params)
        if "error" in answer:
            error = answer["error"]
            raise Failure(error["code"], error["message"], error.get("data"))
        return answer["result"]

    async def ask(self, method: str, params: Any = None) -> dict[str, Any]:
        """The whole answer."""
        return await self.answer_to(await self.begin(method, params))

    async def begin(self, method: str, params: Any = None, *, identity: Any = None) -> Any:
        """Send a request and give its id; `answer_to` waits for it."""
        if identity is None:
            self._minted += 1
            identity = self._minted
        self._waiting[identity] = asyncio.get_running_loop().create_future()
        frame = {"jsonrpc": "2.0", "id": identity, "method": method}
        await self.send(frame if params is None else {**frame, "params": params})
        return identity

    async def submit(self, tool: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
        """What became of a proposal of one tool call."""
        result = await self.call("proposal.submit", proposal(tool, parameters, **more))
        return result["results"][0]

    async def offer(self, **tools: ClientTool) -> None:
        """Register tools, run by these coroutines."""
        self.tools.update(tools)
        assert await self.call("tools.register", [{"name": name} for name in tools]) == len(tools)

    async def answer_to(self, identity: Any) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._waiting[identity]

    def is_answered(self, identity: Any) -> bool:
        return self._waiting[identity].done()

    async def send(self, frame: Any) -> None:
        await self.send_text(json.dumps(frame))

    async def until_call(self, method: str, params: Any, expected: Any) -> None:
        """Ask until that is the result."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.call(method, params) != expected:
                pass

    def stop_reading(self) -> None:
        """Take no frame any more, until `go_on_reading`."""
        self._reads.clear()

    def go_on_reading(self) -> None:
        self._reads.set()

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait until that holds; it is looked at after each frame."""
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(holds)

    # -- what comes -----------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            await self._reads.wait()
            try:
                text = await self._receive()
            except Exception:
                text = None
            if text is None:
                break
            self.take(text)
            async with self._changed:
                self._changed.notify_all()
        self.closed.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("closed before the answer"))
                answer.exception()
        async with self._changed:
            self._changed.notify_all()

    def take(self, text: str) -> None:
        """A frame came."""
        frame: dict[str, Any] = json.loads(text)
        if "method" in frame and "id" in frame:
            self.executed.append(frame["params"])
            task = asyncio.create_task(self._execute(frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif "method" in frame:
            self.told.append(frame)
        else:
            waiting = self._waiting.get(frame["id"])
            if waiting is None or waiting.done():
                self.strays.append(frame)
            else:
                waiting.set_result(frame)

    async def _execute(self, frame: dict[str, Any]) -> None:
        said = frame["params"]
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": frame["id"]}
        try:
            tool = self.tools[said["tool"]]
            answer["result"] = await tool(said["parameters"], said)
        except Failure as error:
            answer["error"] = {"code": error.code, "message": error.message, "data": error.data}
        except Exception as error:
            answer["error"] = {"code": -32000, "message": f"{type(error).__name__}: {error}"}
        with suppress(Exception):
            await self.send(answer)

    async def ended(self) -> None:
        """Close, and end what still runs here."""
        await self.close()
        for task in (*self._tasks, self._reader):
            task.cancel()
        await asyncio.gather(*self._tasks, self._reader, return_exceptions=True)


def proposal(tool: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    """Params of `proposal.submit` for one tool call; `more` are members of the action."""
    action: dict[str, Any] = {
        "id": "a",
        "type": "tool_call",
        "tool": tool,
        "parameters": parameters or {},
        **more,
    }
    return {"proposal": {"actions": [action]}}


def put_forward(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """All that is to come within that time on this loop is due now, so that nobody waits for it, and nothing
    that is to happen before has to be quick."""
    loop = asyncio.get_running_loop()
    time = loop.time
    patch.setattr(loop, "time", lambda: time() + seconds)


# -- ways to connect ----------------------------------------------------------------------------------


@asynccontextmanager
async def opened_runtime(store: str = ":memory:", **options: Any) -> AsyncGenerator[Runtime]:
    """A runtime as the daemon has it."""
    runtime = await open_runtime(load_settings(store=store), door="server", **options)
    try:
        yield runtime
    finally:
        await runtime.close()


@asynccontextmanager
async def door(
    transport: str,
    runtime: Runtime,
    *,
    doorkeeper: Doorkeeper | None = None,
    limits: Limits | None = None,
    table: Table = TABLE,
    live: LiveRuns | None = None,
    shelf: Shelf | None = None,
) -> AsyncGenerator[Connect]:
    """A served runtime; gives what connects clients to it. Another `table` only in memory."""
    service = Service(runtime, doorkeeper=doorkeeper, limits=limits, live=live, shelf=shelf)
    if transport == "memory":
        yield lambda: _in_memory(runtime, service, table)
        return
    from tests.doors.serving import serving  # which opens runtimes as this module does

    assert table is TABLE, "a door serves the whole table"
    async with serving(runtime, service=service) as served:
        yield lambda: _over_a_socket(service, served.address, served.path if transport == "unix" else None)


@asynccontextmanager
async def _in_memory(runtime: Runtime, service: Service, table: Table) -> AsyncGenerator[Client]:
    ours, theirs = paired()
    peer = Peer(door="memory", address="here")
    serving = asyncio.create_task(
        serve_peer(theirs.receive, theirs.send, peer, runtime, table=table, at_once=theirs.offer_to)
    )

    def close_end(_: object) -> None:
        theirs.close()

    serving.add_done_callback(close_end)

    async def close() -> None:
        ours.close()

    client = Client(ours.receive, ours.send, close)
    client.peer, client.service = peer, service
    try:
        yield client
    finally:
        await client.ended()
        async with asyncio.timeout(WAIT_SECONDS):
            await serving


@asynccontextmanager
async def _over_a_socket(service: Service, url: str, path: str | None) -> AsyncGenerator[Client]:
    options: dict[str, Any] = {"compression": None, "max_size": None}
    opening = connect(url, **options) if path is None else unix_connect(path, "ws://localhost/", **options)
    async with opening as socket:

        async def receive() -> str | None:
            text = await socket.recv()
            assert isinstance(text, str), "binary frames are never sent"
            return text

        async def send(text: str) -> None:
            await socket.send(text)

        async def close() -> None:
            await socket.close()

        client = Client(receive, send, close)
        client.service = service
        try:
            yield client
        finally:
            await client.ended()


@asynccontextmanager
async def connected(
    transport: str,
    runtime: Runtime,
    *,
    doorkeeper: Doorkeeper | None = None,
    limits: Limits | None = None,
    table: Table = TABLE,
    shelf: Shelf | None = None,
) -> AsyncGenerator[Client]:
    """A served runtime and one client of it."""
    opened = door(transport, runtime, doorkeeper=doorkeeper, limits=limits, table=table, shelf=shelf)
    async with opened as connect, connect() as client:
        yield client
