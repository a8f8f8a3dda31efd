"""A bare JSON-RPC echo on the daemon's WebSocket stack, and the client that talks to both.

The peer of `daemon`: uvicorn with the same WebSocket protocol, msgspec, and nothing else. `echo` answers
with its params; `callback` first asks its client as `tools.execute` does, and answers with what that said.
Run as a program it serves, and prints its port.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import uvicorn
import websockets

encode, decode = msgspec.json.encode, msgspec.json.decode


class Client:
    """One connection of whoever measures, as plain as can be: no task but the caller's."""

    def __init__(self, socket: websockets.ClientConnection, run: Callable[[Any], Any]) -> None:
        self._socket = socket
        self._run = run
        self._minted = 0
        self.unasked: list[Any] = []

    @classmethod
    async def connect(cls, url: str, run: Callable[[Any], Any] = lambda params: params) -> "Client":
        """`run` gives the result of each callback."""
        return cls(await websockets.connect(url, compression=None, max_size=None, proxy=None), run)

    async def request(self, method: str, params: Any) -> Any:
        """The result; callbacks that come meanwhile are answered."""
        self._minted += 1
        frame = {"jsonrpc": "2.0", "id": self._minted, "method": method, "params": params}
        await self._socket.send(encode(frame), text=True)
        while True:
            said = decode(await self._socket.recv())
            if "method" not in said:
                if "error" in said:
                    raise RuntimeError(said["error"])
                return said["result"]
            if said["method"] == "tools.execute":
                answer = {"jsonrpc": "2.0", "id": said["id"], "result": self._run(said["params"])}
                await self._socket.send(encode(answer), text=True)
            else:
                self.unasked.append(said)

    async def heard(self) -> Any:
        """The next notification."""
        return decode(await self._socket.recv())

    async def close(self) -> None:
        await self._socket.close()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The application."""
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    minted = 0
    while (message := await receive())["type"] == "websocket.receive":
        request = decode(message["text"])
        result = request["params"]
        if request["method"] == "callback":
            minted += 1
            asked = {"jsonrpc": "2.0", "id": f"cb-{minted}", "method": "tools.execute", "params": result}
            await send({"type": "websocket.send", "text": encode(asked).decode()})
            result = decode((await receive())["text"])["result"]
        answer = {"jsonrpc": "2.0", "id": request["id"], "result": result}
        await send({"type": "websocket.send", "text": encode(answer).decode()})


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(
        echo,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=30.0,
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
