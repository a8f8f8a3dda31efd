"""One connection to a daemon: requests and their answers, both ways.

Owns the matching of answers to what was asked, and the socket. Knows nothing of reconnecting (`link` does)
nor of what methods mean. Used by `link`.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from custody.client.address import Address
from custody.errors import InvalidInput, UsageError
from custody.rpc import jsonrpc
from custody.rpc.errors import RemoteError, remote_error

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

OPEN_SECONDS = 10.0  # for the connection and its greeting; a daemon that is there answers in milliseconds

CLOSE_SECONDS = 2.0  # for the closing handshake: nothing depends on it

PING_SECONDS = 20.0
"""A connection that is half open is found out after two of these."""

FRAME_BYTES_MAX = 16 * 1024 * 1024
"""The daemon takes no larger frame, and hangs up on whoever sends one."""

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""A page of a thousand calls with their results. More than this was not sent by a daemon."""

SERVED_MAX = 64
"""Requests of the daemon worked on at once: it makes no more calls at a time by itself."""

Serve = Callable[[str, Any], Awaitable[Any]]
Tell = Callable[[str, Any], None]


class ConnectionLost(Exception):
    """The connection is gone; no answer will come."""


class Wire:
    """One connection, from its first frame to its last. Lives on one event loop."""

    def __init__(self, socket: "ClientConnection", serve: Serve, tell: Tell) -> None:
        """`serve` answers a request of the daemon, raising RemoteError for an error; `tell` hears what it
        only tells."""
        self._socket = socket
        self._serve = serve
        self._tell = tell
        self._ids = map(str, itertools.count(1))
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self.over = False

    async def request(self, method: str, params: Any) -> Any:
        """The decoded result. Raises RemoteError, ConnectionLost, InvalidInput for what is too large."""
        if self.over:
            raise ConnectionLost
        identity = next(self._ids)
        frame = jsonrpc.request(identity, method, params)
        if len(frame) > FRAME_BYTES_MAX:
            raise InvalidInput(
                f"The request is {len(frame):,} bytes; a daemon takes {FRAME_BYTES_MAX:,}.",
                hint="Hand over a file's path, not its content.",
            )
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[identity] = answer
        try:
            await self._send(frame)
            return msgspec.json.decode(await answer or b"null")
        finally:
            self._waiting.pop(identity, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # also where the frame itself could not be sent

    async def _send(self, frame: str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await self._socket.send(frame)
        except ConnectionClosed:
            self.over = True  # before `listen` has heard of it
            raise ConnectionLost from None

    async def listen(self) -> None:
        """Take what comes until the connection is over. Raises nothing."""
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                frame = await self._socket.recv()
                if isinstance(frame, str):
                    await self._take(jsonrpc.parse(frame))
        except ConnectionClosed:
            pass
        finally:
            self._end()

    async def _take(self, frame: jsonrpc.Frame) -> None:
        if isinstance(frame, jsonrpc.Response):
            answer = self._waiting.get(frame.id) if isinstance(frame.id, str) else None
            if answer is None or answer.done():
                return
            if frame.error is not None:
                answer.set_exception(remote_error(frame.error))
            else:
                answer.set_result(frame.result)
        elif isinstance(frame, jsonrpc.Notification):
            self._tell(frame.method, _params(frame.params))
        elif isinstance(frame, jsonrpc.Request):
            if len(self._serving) >= SERVED_MAX:
                await self._send(jsonrpc.failure(frame.id, jsonrpc.BUSY, "too many requests at once"))
                return
            task = asyncio.create_task(self._answer(frame))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _answer(self, frame: jsonrpc.Request) -> None:
        try:
            said = jsonrpc.success(frame.id, await self._serve(frame.method, _params(frame.params)))
        except RemoteError as error:
            said = jsonrpc.failure(frame.id, error.code, error.message, error.data)
        except Exception as error:
            said = jsonrpc.failure(frame.id, jsonrpc.INTERNAL, type(error).__name__)
        if len(said) > FRAME_BYTES_MAX:
            said = jsonrpc.failure(
                frame.id, jsonrpc.TOOL_FAILED, f"the result is larger than {FRAME_BYTES_MAX:,} bytes"
            )
        try:
            await self._send(said)
        except ConnectionLost:
            pass  # the daemon records that no answer came

    def _end(self) -> None:
        self.over = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionLost())
        for task in self._serving:
            task.cancel()

    async def close(self) -> None:
        await self._socket.close()


def _params(params: bytes) -> Any:
    return msgspec.json.decode(params) if params else {}


async def connect(address: Address, serve: Serve, tell: Tell) -> Wire:
    """Raises OSError where nobody listens, TimeoutError, UsageError where the library is missing."""
    try:
        from websockets.asyncio.client import connect as connect_socket
        from websockets.asyncio.client import unix_connect
        from websockets.exceptions import WebSocketException
    except ImportError:
        raise UsageError(
            "Speaking to a daemon needs a WebSocket library.", hint="pip install 'custody-runtime[serve]'"
        ) from None
    options: dict[str, Any] = {
        "compression": None,  # what is sent is small, and is read at once
        "max_size": ANSWER_BYTES_MAX,
        "open_timeout": OPEN_SECONDS,
        "close_timeout": CLOSE_SECONDS,
        "ping_interval": PING_SECONDS,
        "ping_timeout": PING_SECONDS,
        "user_agent_header": None,
    }
    try:
        if address.path is not None:
            socket = await unix_connect(address.path, **options)
        elif address.local:
            socket = await connect_socket(address.url, proxy=None, **options)
        else:
            socket = await connect_socket(address.url, **options)
    except WebSocketException as error:
        raise OSError(f"it does not speak WebSocket here: {error}") from error
    return Wire(socket, serve, tell)
