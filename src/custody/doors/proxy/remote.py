"""A server that is somewhere else: its lines over streamable HTTP, in the versions with sessions and without.

Owns the requests, the streams that answer them, the session, and the headers that repeat what a message says
(the message decides, never a header). Needs the extra `[mcp]` for its HTTP client. What a line says beyond
that is not looked at. Used by `custody proxy --url`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from mcp.shared.inbound import (
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from msgspec import Struct

from custody import __version__
from custody.doors.proxy.events import Event, Events
from custody.doors.proxy.lists import tools_in
from custody.doors.proxy.messages import (
    CONNECTION_CLOSED,
    Id,
    Message,
    NoMessage,
    TooLong,
    error,
    read,
    value_of,
)
from custody.doors.proxy.relay import CANCELLED, META, TOOLS_CALL, TOOLS_LIST
from custody.doors.proxy.streams import LINE_BYTES_MAX, OnLine
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection

log = logging.getLogger("custody")

CONNECT_SECONDS = 30.0
"""To connect. An answer may take as long as its call."""

NOTICE_SECONDS = 10.0
"""For what has no answer: the next one waits for it."""
NOTICES_MAX = 64
"""On their way: a client that sends more is left waiting."""

RETRY_SECONDS = 1.0
"""Before a stream is opened again, where the server does not say."""
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.1, 30.0
"""Whatever it says."""
RETRIES_MAX = 3
"""In a row, without a word in between."""

LEAVE_SECONDS = 2.0
"""To tell a server that its session is over."""

REFUSAL_BYTES_MAX = 1024**2
"""Of the body that explains a status."""

EVENTS = "text/event-stream"
JSON = "application/json"

OnLost = Callable[[Id, str], None]


class _Stream(Struct, kw_only=True):
    """How far a stream of events has come, over several connections."""

    last: str | None = None
    """The event after which it is gone on with."""
    wait_seconds: float = RETRY_SECONDS
    tries: int = 0
    answered: bool = False


class RemoteServer:
    """One server at one address."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """`headers` are sent with every request, and to no other origin. On an event loop. Raises
        UsageError."""
        self._url = url
        self._http = aiohttp.ClientSession(
            # Compressed, a few bytes would be any number of them.
            headers={"accept-encoding": "identity", "user-agent": f"custody-proxy/{__version__}", **headers},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),  # `relay` bounds the requests that are open
            auto_decompress=False,
            proxy=_way_out(url),  # by `trust_env` it would be looked up in a thread, for each request
        )
        self._on_line: OnLine = lambda line: None
        self._on_lost: OnLost = lambda identity, why: None
        self._on_room: Callable[[], None] = lambda: None
        self._session: str | None = None
        self._version: str | None = None
        """Of a session, as its server said; requests of the newest version each say their own."""
        self._modern = False
        self._posts: dict[Id, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._headers_of: dict[str, Mapping[tuple[str, ...], str]] = {}
        """By tool, which of its arguments a header repeats."""
        self.on_connection: Callable[[Connection], None] = lambda connection: None  # it runs elsewhere
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def full(self) -> bool:
        return len(self._others) >= NOTICES_MAX

    def start(self, on_line: OnLine, on_room: Callable[[], None], on_lost: OnLost) -> None:
        self._on_line, self._on_room, self._on_lost = on_line, on_room, on_lost

    def send(self, line: bytes) -> None:
        """Each message is a request of HTTP; answers come as lines."""
        message = read(line)
        if message.method == CANCELLED:
            # In the newest version the end of its stream is what tells a server.
            post = self._posts.get(message.said.get("requestId", ""))
            if post is not None:
                post.cancel()
            if self._modern:
                return
        task = asyncio.create_task(self._post(message, line))
        if message.is_request and message.id is not None:
            self._posts[message.id] = task
            task.add_done_callback(lambda task, identity=message.id: self._posted(identity, task))
        else:
            self._others.add(task)
            task.add_done_callback(self._noticed)

    def _posted(self, identity: Id, task: "asyncio.Task[None]") -> None:
        if self._posts.get(identity) is task:
            del self._posts[identity]

    def _noticed(self, task: "asyncio.Task[None]") -> None:
        was_full = self.full
        self._others.discard(task)
        if was_full:
            self._on_room()

    async def close(self) -> None:
        """Leave it. A second close does nothing."""
        tasks = {*self._posts.values(), *self._others}
        tasks |= set() if self._listener is None else {self._listener}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE_SECONDS)
        if self._session is not None:
            with suppress(aiohttp.ClientError, OSError, ValueError):  # a TimeoutError is an OSError
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._http.delete(self._url, headers=self._common(), allow_redirects=False)
        await self._http.close()
        if not self.ended.done():
            self.ended.set_result("it was left")

    # -- one message --------------------------------------------------------------------------------------

    async def _post(self, message: Message, line: bytes) -> None:
        """Whatever happens, a request has an answer or is lost."""
        try:
            if message.is_request:
                await self._exchange(message, line)
            else:
                async with self._turn, asyncio.timeout(NOTICE_SECONDS):  # in their order
                    await self._exchange(message, line)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as wrong:
            self._answer_for(message, f"The server cannot be reached: {wrong or type(wrong).__name__}.")
        except (aiohttp.ClientError, OSError, ValueError) as wrong:
            self._lose(message, f"The connection to the server broke: {wrong or type(wrong).__name__}.")
        except Exception as wrong:  # a defect of ours, or of the library: nobody may wait for ever
            log.exception("A message could not be exchanged with an MCP server")
            self._lose(message, f"The proxy failed on this message: {type(wrong).__name__}.")

    def _answer_for(self, message: Message, why: str) -> None:
        if message.is_request:
            self._on_line(error(message.id, CONNECTION_CLOSED, why))

    def _lose(self, message: Message, why: str) -> None:
        """Does nothing where it has been answered."""
        if message.is_request and message.id is not None:
            self._on_lost(message.id, why)

    async def _exchange(self, message: Message, line: bytes) -> None:
        headers = self._headers(message)
        async with self._http.post(self._url, data=line, headers=headers, allow_redirects=False) as response:
            if message.method == "initialize":
                self._session = response.headers.get("mcp-session-id")
            if response.status >= 300:
                await self._refused(message, response)
            elif not message.is_request:
                if message.method == "notifications/initialized" and self._session is not None:
                    self._listen()
            elif _kind(response) == EVENTS:
                await self._streamed(message, response)
            elif _kind(response) == JSON:
                self._said(message, await _body(response, LINE_BYTES_MAX))
                self._lose(message, "The server answered with a message that is no answer to it.")
            else:
                kind = _kind(response) or "nothing"
                self._answer_for(message, f"The server answered with {kind}, and no message.")

    async def _refused(self, message: Message, response: aiohttp.ClientResponse) -> None:
        """An error of the protocol may come with a status of its own."""
        if not message.is_request:
            return
        if _kind(response) == JSON:
            body = await _body(response, REFUSAL_BYTES_MAX)
            said = _read(b"" if body is None else _one_line(body))
            if said is not None and said.error is not None:
                if said.id == message.id:
                    self._said(message, body)
                    return
                told = cast("dict[str, Any]", said.error) if isinstance(said.error, dict) else {}
                code, words = told.get("code"), told.get("message")
                if said.id is None and isinstance(code, int) and isinstance(words, str):
                    self._on_line(error(message.id, code, words))
                    return
        self._answer_for(message, f"The server answered with status {response.status}{self._hint(response)}.")

    def _hint(self, response: aiohttp.ClientResponse) -> str:
        if response.status in (401, 403):
            return "; --header gives what authorizes"
        if response.status == 404 and self._session is not None:
            return ": it may have forgotten the session; begin a new one"
        if 300 <= response.status < 400:
            return ", to somewhere else; where a server has moved, --url has to say so"
        return ""

    def _said(self, asked: Message, body: bytes | None) -> None:
        """A message of the server, on one line; None: it was too long."""
        line = TooLong(asked.id) if body is None else _one_line(body)
        if not isinstance(line, TooLong) and asked.method in ("initialize", TOOLS_LIST):
            said = _read(line)
            if said is not None and said.is_answer and said.id == asked.id and said.result is not None:
                with suppress(NoMessage, ValueError, TypeError, AttributeError, LookupError, RecursionError):
                    self._note(asked, said)
        self._on_line(line)

    def _note(self, asked: Message, said: Message) -> None:
        """What later requests have to repeat in headers."""
        if asked.method == "initialize":
            result: Any = value_of(said.result)
            version: Any = cast("dict[str, Any]", result).get("protocolVersion")
            self._version = version if isinstance(version, str) else None
        else:
            for tool in tools_in(value_of(said.result)):
                schema = tool.get("inputSchema")
                found = {} if find_invalid_x_mcp_header(schema) else x_mcp_header_map(schema)
                self._headers_of[tool["name"]] = found

    # -- streams ------------------------------------------------------------------------------------------

    async def _streamed(self, message: Message, response: aiohttp.ClientResponse) -> None:
        """Until the request has its answer; a stream that breaks off is gone on with, where it can be."""
        stream = _Stream()
        await self._follow(message, response, stream)
        while not stream.answered and stream.last is not None and stream.tries < RETRIES_MAX:
            stream.tries += 1
            await asyncio.sleep(min(max(stream.wait_seconds, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX))
            async with self._resumed(stream.last) as further:
                if further.status != 200 or _kind(further) != EVENTS:
                    break
                await self._follow(message, further, stream)
        self._lose(message, "The server ended the stream without an answer.")

    async def _follow(self, message: Message, response: aiohttp.ClientResponse, stream: "_Stream") -> None:
        """One response, to its end or to the answer."""
        async for event in _events(response):
            stream.last = event.id or stream.last
            if event.retry_seconds is not None:
                stream.wait_seconds = event.retry_seconds
            if event.name != "message" or event.data == b"":
                continue
            stream.tries = 0
            self._said(message, event.data)
            if message.is_request and (event.data is None or _answers(event.data, message.id)):
                stream.answered = True
                return

    def _resumed(self, last: str | None) -> Any:
        headers = {**self._common(), "accept": EVENTS, **({} if last is None else {"last-event-id": last})}
        return self._http.get(self._url, headers=headers, allow_redirects=False)

    def _listen(self) -> None:
        """What a server says of its own accord, in the versions with sessions."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listening())

    async def _listening(self) -> None:
        stream, nothing = _Stream(), Message(method="")
        while stream.tries < RETRIES_MAX:
            stream.tries += 1
            try:
                async with self._resumed(stream.last) as response:
                    if response.status != 200 or _kind(response) != EVENTS:
                        return  # it says nothing of its own accord
                    await self._follow(nothing, response, stream)
            except (aiohttp.ClientError, OSError, ValueError) as wrong:
                log.debug("The stream of an MCP server broke: %s", wrong)
            await asyncio.sleep(min(max(stream.wait_seconds, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX))

    # -- headers ------------------------------------------------------------------------------------------

    def _common(self) -> dict[str, str]:
        said = {"mcp-session-id": self._session, "mcp-protocol-version": self._version}
        return {name: value for name, value in said.items() if value is not None}

    def _headers(self, message: Message) -> dict[str, str]:
        headers = {
            "content-type": JSON,
            "accept": f"{JSON}, {EVENTS}",
            **({} if message.method == "initialize" else self._common()),
        }
        said = message.said
        meta: Any = said.get("_meta")
        version: Any = meta.get(f"{META}protocolVersion") if isinstance(meta, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self._modern = isinstance(version, str)
        if not isinstance(version, str) or message.method is None:
            return headers
        headers |= {"mcp-protocol-version": version, "mcp-method": message.method}
        named = said.get(NAME_BEARING_METHODS.get(message.method, ""))
        if isinstance(named, str):
            headers["mcp-name"] = encode_header_value(named)
        if message.method == TOOLS_CALL and isinstance(named, str):
            given: Any = said.get("arguments")
            arguments = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
            headers |= mcp_param_headers(self._headers_of.get(named, {}), arguments)
        return headers


def _way_out(url: str) -> str | None:
    """The HTTP proxy that the environment names for an address: `https_proxy`, `http_proxy`, `no_proxy`.
    Raises UsageError for one of another kind."""
    parts = urlsplit(url)
    way = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    if not way:
        return None
    kind, apart, _ = way.rpartition("://")
    if kind not in ("", "http"):
        raise UsageError(
            f"{parts.scheme}_proxy names a proxy of kind {kind}, and only HTTP is spoken to one.",
            hint=f"Name an http:// one, or say no_proxy={parts.hostname}.",
        )
    return way if apart else f"http://{way}"


def _kind(response: aiohttp.ClientResponse) -> str:
    """Of its body. One that is packed up although nobody asked for that is read as none."""
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed not in ("", "identity"):
        return f"{packed[:32]} that was not asked for"
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()[:100]


async def _body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes | None:
    """None where it is longer than it may be."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            return None
    return b"".join(parts)


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[Event]:
    events = Events(LINE_BYTES_MAX)
    try:
        async for part in response.content.iter_any():
            for event in events.take(part):
                yield event
    except (aiohttp.ClientError, OSError):
        return  # it broke off


def _read(line: bytes) -> Message | None:
    try:
        return read(line)
    except NoMessage:
        return None


def _answers(data: bytes, identity: Id | None) -> bool:
    said = _read(_one_line(data))
    return said is not None and said.is_answer and said.id == identity


def _one_line(body: bytes) -> bytes:
    """The same JSON: in it the end of a line is a blank."""
    if b"\r" in body or b"\n" in body:
        return body.replace(b"\r", b" ").replace(b"\n", b" ")
    return body
