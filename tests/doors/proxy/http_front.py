"""For the conformance suite, which speaks HTTP: each session of its client becomes a process on standard
input and output, whose command stands in the arguments. It adds nothing to messages but the stream they
come on.
"""

import asyncio
import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

LINE_BYTES_MAX = 2**24
SECONDS_MAX = 20.0


class Piped:
    """One process, and the streams of HTTP that wait for what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.streams: dict[Any, asyncio.Queue[bytes]] = {}
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            queue = self.streams.get(said.get("id")) if "method" not in said else None
            if queue is None and self.streams:
                queue = list(self.streams.values())[-1]  # the newest: the suite asks one thing at a time
            if queue is not None:
                queue.put_nowait(line)

    async def send(self, body: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(body.replace(b"\n", b" ") + b"\n")
        await self._process.stdin.drain()

    async def answered(self, identity: Any) -> AsyncIterator[bytes]:
        queue = self.streams[identity]
        try:
            while True:
                line = await asyncio.wait_for(queue.get(), SECONDS_MAX)
                yield b"event: message\ndata: " + line.rstrip(b"\n") + b"\n\n"
                said = json.loads(line)
                if "method" not in said and said.get("id") == identity:
                    return
        finally:
            del self.streams[identity]


class Front:
    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._sessions: dict[str, Piped] = {}
        self._starting = asyncio.Lock()

    async def _piped(self, session: str) -> Piped:
        async with self._starting:
            return self._sessions.get(session) or await self._started(session)

    async def _started(self, session: str) -> Piped:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        piped = self._sessions[session] = Piped(process)
        return piped

    async def post(self, request: Request) -> Response:
        body = await request.body()
        said = json.loads(body)
        session = request.headers.get("mcp-session-id", "")
        if said.get("method") == "initialize":
            session = uuid.uuid4().hex
        piped = await self._piped(session)
        if "id" not in said or "method" not in said:
            await piped.send(body)
            return Response(status_code=202)
        piped.streams[said["id"]] = asyncio.Queue()
        await piped.send(body)
        headers = {"mcp-session-id": session} if session else {}
        return StreamingResponse(piped.answered(said["id"]), media_type="text/event-stream", headers=headers)


async def _no_stream(request: Request) -> Response:
    del request
    return Response(status_code=405)


def main() -> None:
    front = Front(sys.argv[1:])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    routes = [
        Route("/mcp", front.post, methods=["POST"]),
        Route("/mcp", _no_stream, methods=["GET", "DELETE"]),
    ]
    uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error")).run([listener])


if __name__ == "__main__":
    main()
