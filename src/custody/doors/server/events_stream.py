"""`GET /events`: records as they are written, as server-sent events.

Owns the stream: where a reader stands, what it hears while nothing happens, and when it is given up. Nothing
is queued for a reader: each page is read from the journal when the page before has been taken, so one that is
slow, or was away, is caught up from the disk. Each event's id is the cursor behind it. Used by `http`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from custody.doors.server.checks import Refusal
from custody.doors.server.questions import (
    Asking,
    CursorText,
    Read,
    Text,
    decode_cursor,
    encode_cursor,
    parsed,
    query_pairs,
    read_records,
)
from custody.doors.server.replies import SAFETY, Receive, Refused, Send
from custody.errors import CorruptJournal, CustodyError
from custody.journal import Cursor
from custody.rpc.access import Access, Doorkeeper

EVENT_STREAM = b"text/event-stream; charset=utf-8"

STREAMS_MAX = 64  # each looks into the journal four times a second
PAGE_RECORDS = 500
PAGE_BYTES_MAX = 256 * 1024
POLL_SECONDS = 0.25  # how late a reader may hear of a record, as with `custody tail`
HEARTBEAT_SECONDS = 15.0  # proxies give up on a silent connection after 60
SEND_SECONDS_MAX = 60.0
"""A reader that takes nothing for so long is let go; it comes back with its cursor."""

FULL = Refusal(503, "busy", f"There are {STREAMS_MAX} streams already.", "Use GET /records from a cursor.")


class EventsQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """From where, and of what kind. Without a cursor the stream begins with what comes next; with `start`,
    at the beginning. A `Last-Event-ID` goes before `cursor`."""

    cursor: CursorText | None = None
    kind: Literal[
        "run_started", "run_finished", "call_asked", "call_answered", "call_started", "call_finished",
        "step", "event",
    ] | None = None  # fmt: skip
    name: Text | None = None


class MakeAsking(Protocol):
    def __call__(self, access: Access, query: Any) -> Asking: ...


class EventStreams:
    """The streams there are."""

    def __init__(self, make_asking: MakeAsking, doorkeeper: Doorkeeper) -> None:
        self._make_asking = make_asking
        self._doorkeeper = doorkeeper
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="custody-events")
        self._stopping = asyncio.Event()
        self.open = 0
        self.sent = 0
        """Records, to all of them."""

    def stop(self) -> None:
        """Every stream ends by itself; its reader has a cursor to come back with."""
        self._stopping.set()
        self._thread.shutdown(wait=False)

    async def serve(
        self, scope: Any, receive: Receive, send: Send, headers: Mapping[bytes, bytes], access: Access
    ) -> None:
        """Stream until either side has enough. Raises CustodyError, Refused before that."""
        query: EventsQuery = parsed(EventsQuery, query_pairs(scope["query_string"]))
        asking = self._make_asking(access, query)
        asking.everything()
        last = headers.get(b"last-event-id")
        text = query.cursor if last is None else last.decode("latin-1")
        cursor = decode_cursor(text)
        if scope["method"] == "HEAD":  # a stream has no length that could be told
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": b""})
            return
        if self.open >= STREAMS_MAX:
            raise Refused(FULL)
        self.open += 1
        try:
            if text is None:
                cursor = await self._in_thread(asking.index.caught_up_to)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await self._stream(asking, cursor, receive, send)
        finally:
            self.open -= 1

    async def _stream(self, asking: Asking, cursor: Cursor | None, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_until_gone(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            sending = asyncio.create_task(self._send_records(asking, cursor, send))
            await asyncio.wait({gone, stopping, sending}, return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await sending
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            stopping.cancel()

    async def _send_records(self, asking: Asking, cursor: Cursor | None, send: Send) -> None:
        loop = asyncio.get_running_loop()
        await _put(send, b"retry: 1000\n\n")
        spoke = loop.time()
        damage: str | None = None
        while self._doorkeeper.holds(asking.access):
            try:
                read = await self._in_thread(_page, asking, cursor)
            except CorruptJournal as error:
                read = Read([], cursor or Cursor(), more=False)
                if damage != error.message:
                    damage = error.message
                    await _put(send, _event("damage", {"message": damage}))
            except CustodyError as error:
                await _put(send, _event("error", {"message": error.message}))
                return
            cursor = read.cursor
            if read.items:
                await _put(send, b"".join(_event("record", item, at) for at, item in read.items))
                self.sent += len(read.items)
                spoke = loop.time()
            elif loop.time() - spoke >= HEARTBEAT_SECONDS:
                await _put(send, b": nothing new\n\n")
                spoke = loop.time()
            if not read.more:
                await asyncio.sleep(POLL_SECONDS)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


_HEADERS = [
    (b"content-type", EVENT_STREAM),
    *SAFETY,
    (b"x-accel-buffering", b"no"),  # nginx would hold events back until it has a buffer full
]


def _page(asking: Asking, cursor: Cursor | None) -> Read:
    query: EventsQuery = asking.query
    return read_records(asking, cursor, query.kind, query.name, PAGE_RECORDS, PAGE_BYTES_MAX)


async def _put(send: Send, data: bytes) -> None:
    """Waits while the reader is slow. Raises TimeoutError for one that stands still."""
    async with asyncio.timeout(SEND_SECONDS_MAX):
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _event(kind: str, data: Any, cursor: Cursor | None = None) -> bytes:
    """JSON has no line ends of its own, so one `data` line holds it."""
    identity = b"" if cursor is None else b"id: %s\n" % encode_cursor(cursor).encode()
    said = msgspec.json.encode(data, enc_hook=repr)
    return b"%sevent: %s\ndata: %s\n\n" % (identity, kind.encode(), said)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
