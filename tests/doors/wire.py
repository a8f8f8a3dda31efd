"""A peer written with nothing but a WebSocket library and JSON, as an agent in another language would be.

Used by the tests that look at the daemon from outside, and by the programs they start.
"""

import asyncio
import contextlib
import inspect
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from typing import Any

import websockets

ANSWER_SECONDS = 30.0  # for what takes milliseconds on a machine that is not overloaded


class Refused(Exception):
    """The daemon answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


class Fault(Exception):
    """What a tool of ours raises to be answered with an error."""

    def __init__(self, message: str, *, code: int = -32000, data: Any = None) -> None:
        super().__init__(message)
        self.error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = data


class Wire:
    """One connection. `tools` are run when the daemon asks; notifications are kept by method."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.tools: dict[str, Callable[[dict[str, Any]], Any]] = {}
        """Name -> what runs it, given the whole `tools.execute`; returns its result, or raises Fault."""
        self.asked: list[dict[str, Any]] = []
        """Every `tools.execute` that came."""
        self.unasked: list[dict[str, Any]] = []
        """Frames that are neither an answer to us nor a callback."""
        self.told: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self._answers: dict[Any, asyncio.Future[Any]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._minted = 0
        self._reads = asyncio.Event()
        self._reads.set()
        self._reading = asyncio.create_task(self._read())

    async def request(self, method: str, params: Any = None) -> Any:
        """The result; raises Refused."""
        return await asyncio.wait_for(await self.begin(method, params), ANSWER_SECONDS)

    async def begin(self, method: str, params: Any = None) -> "asyncio.Future[Any]":
        """Send a request and give what will be its result."""
        self._minted += 1
        answer = self._answers[self._minted] = asyncio.get_running_loop().create_future()
        await self.send({"jsonrpc": "2.0", "id": self._minted, "method": method, "params": params})
        return answer

    async def send(self, frame: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(frame))

    async def heard(self, method: str) -> Any:
        """The next notification of this method, or the next `tools.execute`."""
        return await asyncio.wait_for(self.told[method].get(), ANSWER_SECONDS)

    def pause(self) -> None:
        """Read nothing from the socket any more."""
        self._reads.clear()

    def resume(self) -> None:
        self._reads.set()

    async def close(self) -> None:
        self._reading.cancel()
        for task in self._working:
            task.cancel()
        await asyncio.gather(self._reading, *self._working, return_exceptions=True)
        await self.socket.close()

    async def _read(self) -> None:
        try:
            while True:
                await self._reads.wait()
                self._take(json.loads(await self.socket.recv()))
        except websockets.ConnectionClosed as error:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(error)

    def _take(self, frame: dict[str, Any]) -> None:
        assert frame["jsonrpc"] == "2.0"
        if frame.get("method") == "tools.execute":
            self.asked.append(frame["params"])
            self.told["tools.execute"].put_nowait(frame["params"])
            task = asyncio.create_task(self._run(frame))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        elif "method" in frame:
            self.unasked.append(frame)
            self.told[frame["method"]].put_nowait(frame["params"])
        elif frame.get("id") in self._answers:
            assert ("result" in frame) != ("error" in frame)
            answer = self._answers.pop(frame["id"])
            if answer.done():
                return
            if "error" in frame:
                answer.set_exception(Refused(frame["error"]))
            else:
                answer.set_result(frame["result"])
        else:
            self.unasked.append(frame)

    async def _run(self, frame: dict[str, Any]) -> None:
        call = frame["params"]
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": frame["id"]}
        try:
            result = self.tools[call["tool"]](call)
            answer["result"] = await result if inspect.isawaitable(result) else result
        except Fault as fault:
            answer["error"] = fault.error
        with contextlib.suppress(websockets.ConnectionClosed):
            await self.send(answer)


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncGenerator[Wire]:
    """A connection, closed at the end."""
    socket = await websockets.connect(
        url, max_size=None, compression=None, proxy=None, open_timeout=ANSWER_SECONDS, **options
    )
    wire = Wire(socket)
    try:
        yield wire
    finally:
        await wire.close()


def action(tool: str, parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_call", "tool": tool, "parameters": parameters or {}, **more}


async def submit(wire: Wire, *actions: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One proposal; its result."""
    return await wire.request("proposal.submit", {"proposal": {"actions": list(actions)}, **more})


async def trace(wire: Wire, run_id: str) -> list[dict[str, Any]]:
    """Every record of a run."""
    said = await wire.request("runs.get_trace", {"run_id": run_id})
    return said["records"]


def turns(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["record"] == "turn"]
