"""A server that is somewhere else: its lines over streamable HTTP, in the versions with sessions and without.

Owns the requests, the streams that answer them, the session, and the headers that repeat what a message says
(the message decides, never a header). Needs the extra `[mcp]` for its HTTP client. What a line says beyond
that is not looked at. Used by `custody proxy --url`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import httpx2
from mcp.shared.inbound import (
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)

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

CONNECT_SECONDS = 30.0
"""To connect, to write, to have a connection. An answer may take as long as its call."""

RETRY_SECONDS = 1.0
"""Before a stream is opened again, where the server does not say."""
RETRY_SECONDS_MAX = 30.0
RETRIES_MAX = 3
"""In a row, without a word in between."""

LEAVE_SECONDS = 2.0
"""To tell a server that its session is over."""

EVENTS = "text/event-stream"

OnLost = Callable[[Id, str], None]


class RemoteServer:
    """One server at one address."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """`headers` are sent with every request, and to no other origin."""
        self._url = url
        self._http = httpx2.AsyncClient(
            headers=dict(headers), timeout=httpx2.Timeout(CONNECT_SECONDS, read=None), follow_redirects=False
        )
        self._on_line: OnLine = lambda line: None
        self._on_lost: OnLost = lambda identity, why: None
        self._session: str | None = None
        self._version: str | None = None
        """Of a session, as its server said; requests of the newest version each say their own."""
        self._modern = False
        self._posts: dict[Id, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._headers_of: dict[str, Mapping[tuple[str, ...], str]] = {}
        """By tool, which of its arguments a header repeats."""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def full(self) -> bool:
        return False

    def start(self, on_line: OnLine, on_room: Callable[[], None], on_lost: OnLost) -> None:
        del on_room
        self._on_line, self._on_lost = on_line, on_lost

    def send(self, line: bytes) -> None:
        """Each message is a request of HTTP; answers come as lines."""
        message = read(line)
        if message.method == CANCELLED and self._modern:
            # In the newest version the end of its stream is what tells a server.
            post = self._posts.get(message.said.get("requestId", ""))
            if post is not None:
                post.cancel()
            return
        task = asyncio.create_task(self._post(message, line))
        if message.is_request and message.id is not None:
            self._posts[message.id] = task
            task.add_done_callback(lambda _, identity=message.id: self._posts.pop(identity, None))
        else:
            self._others.add(task)
            task.add_done_callback(self._others.discard)

    async def close(self) -> None:
        """Leave it. A second close does nothing."""
        tasks = {*self._posts.values(), *self._others}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE_SECONDS)
        if self._session is not None:
            with suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._http.delete(self._url, headers=self._common())
        await self._http.aclose()
        if not self.ended.done():
            self.ended.set_result("it was left")

    # -- one message --------------------------------------------------------------------------------------

    async def _post(self, message: Message, line: bytes) -> None:
        try:
            if message.is_request:
                await self._exchange(message, line)
            else:
                async with self._turn:  # in their order
                    await self._exchange(message, line)
        except httpx2.ConnectError as wrong:
            self._answer_for(message, f"The server cannot be reached: {wrong or type(wrong).__name__}.")
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.SSEError, NoMessage) as wrong:
            why = f"The connection to the server broke: {wrong or type(wrong).__name__}."
            if message.is_request and message.id is not None:
                self._on_lost(message.id, why)

    def _answer_for(self, message: Message, why: str) -> None:
        if message.is_request:
            self._on_line(error(message.id, CONNECTION_CLOSED, why))

    async def _exchange(self, message: Message, line: bytes) -> None:
        headers = self._headers(message)
        async with self._http.stream("POST", self._url, content=line, headers=headers) as response:
            if message.method == "initialize":
                self._session = response.headers.get("mcp-session-id")
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code >= 300:
                await self._refused(message, response, kind)
            elif not message.is_request:
                await response.aread()
                if message.method == "notifications/initialized" and self._session is not None:
                    self._listen()
            elif kind == EVENTS:
                await self._streamed(message, response)
            elif kind == "application/json":
                self._said(message, b"".join([part async for part in response.aiter_bytes()]))
            else:
                self._answer_for(message, f"The server answered with {kind or 'nothing'}, and no message.")

    async def _refused(self, message: Message, response: httpx2.Response, kind: str) -> None:
        """An error of the protocol may come with a status of its own."""
        body = await response.aread()
        if not message.is_request:
            return None
        if kind == "application/json":
            with suppress(NoMessage):
                said = read(_one_line(body))
                if said.error is not None and said.id is not None:
                    return self._said(message, body)
                if said.error is not None:
                    found: Any = said.error
                    told = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
                    code, words = told.get("code"), told.get("message")
                    if isinstance(code, int) and isinstance(words, str):
                        return self._on_line(error(message.id, code, words))
        hint = "; --header gives what authorizes" if response.status_code in (401, 403) else ""
        self._answer_for(message, f"The server answered with status {response.status_code}{hint}.")

    def _said(self, asked: Message, body: bytes) -> None:
        """A message of the server, on one line."""
        line = _one_line(body)
        with suppress(NoMessage):
            said = read(line)
            if said.is_answer and said.id == asked.id and said.result is not None:
                self._note(asked, said)
        self._on_line(TooLong(asked.id) if len(line) > LINE_BYTES_MAX else line)

    def _note(self, asked: Message, said: Message) -> None:
        """What later requests have to repeat in headers."""
        if asked.method == "initialize":
            result = value_of(said.result)
            self._version = result.get("protocolVersion") if isinstance(result, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        elif asked.method == TOOLS_LIST:
            for tool in tools_in(value_of(said.result)):
                schema = tool.get("inputSchema")
                found = {} if find_invalid_x_mcp_header(schema) else x_mcp_header_map(schema)
                self._headers_of[tool["name"]] = found

    # -- streams ------------------------------------------------------------------------------------------

    async def _streamed(self, message: Message, response: httpx2.Response) -> None:
        """Until the request has its answer; a stream that breaks off is gone on with, where it can be."""
        last, wait_seconds, tries = None, RETRY_SECONDS, 0
        stream = response
        while True:
            async for event in _events(stream):
                last = event.id or last
                wait_seconds = wait_seconds if event.retry is None else event.retry / 1000
                tries = 0
                if event.data:
                    self._said(message, event.data.encode())
                    if _answers(event.data.encode(), message.id):
                        return
            if last is None or tries >= RETRIES_MAX:
                break
            tries += 1
            await asyncio.sleep(min(wait_seconds, RETRY_SECONDS_MAX))
            headers = {**self._common(), "accept": EVENTS, "last-event-id": last}
            request = self._http.build_request("GET", self._url, headers=headers)
            stream = await self._http.send(request, stream=True)
        if message.id is not None:
            self._on_lost(message.id, "The server ended the stream without an answer.")

    def _listen(self) -> None:
        """What a server says of its own accord, in the versions with sessions."""
        task = asyncio.create_task(self._listening())
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _listening(self) -> None:
        last, wait_seconds, tries = None, RETRY_SECONDS, 0
        nothing = Message(method="")
        while tries < RETRIES_MAX:
            tries += 1
            headers = {
                **self._common(),
                "accept": EVENTS,
                **({} if last is None else {"last-event-id": last}),
            }
            with suppress(httpx2.HTTPError, httpx2.StreamError, httpx2.SSEError):
                async with self._http.stream("GET", self._url, headers=headers) as response:
                    if response.status_code != 200:
                        return  # it says nothing of its own accord
                    async for event in _events(response):
                        tries = 0
                        last = event.id or last
                        wait_seconds = wait_seconds if event.retry is None else event.retry / 1000
                        if event.data:
                            self._said(nothing, event.data.encode())
            await asyncio.sleep(min(wait_seconds, RETRY_SECONDS_MAX))

    # -- headers ------------------------------------------------------------------------------------------

    def _common(self) -> dict[str, str]:
        said = {"mcp-session-id": self._session, "mcp-protocol-version": self._version}
        return {name: value for name, value in said.items() if value is not None}

    def _headers(self, message: Message) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept": f"application/json, {EVENTS}",
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


async def _events(response: httpx2.Response) -> AsyncIterator[httpx2.ServerSentEvent]:
    try:
        async for event in httpx2.EventSource(response, max_event_size=LINE_BYTES_MAX):
            if event.event == "message":
                yield event
    except (httpx2.ReadError, httpx2.RemoteProtocolError):
        return  # it broke off


def _answers(data: bytes, identity: Id | None) -> bool:
    try:
        said = read(_one_line(data))
    except NoMessage:
        return False
    return said.is_answer and said.id == identity


def _one_line(body: bytes) -> bytes:
    """The same JSON: in it the end of a line is a blank."""
    return body.replace(b"\r", b" ").replace(b"\n", b" ")
