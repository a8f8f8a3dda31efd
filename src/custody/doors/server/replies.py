"""What HTTP answers with: JSON, and one shape for every refusal.

Owns the bytes of a reply and what is said of an error; knows no path. Used by `app` and `http`.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.doors.server.checks import Refusal
from custody.errors import (
    CorruptJournal,
    CustodyError,
    Denied,
    NotFound,
    NotRecorded,
    StoreError,
    UsageError,
)

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

JSON = b"application/json"

SAFETY = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of every reply: what is recorded is nobody's to keep, and no browser is to run it."""

STATUSES: tuple[tuple[type[CustodyError], int], ...] = (
    (NotFound, 404),
    (UsageError, 400),
    (Denied, 403),
    (CorruptJournal, 500),
    (NotRecorded, 503),
    (StoreError, 503),
)
"""The first that fits; anything else is 500."""


class Refused(Exception):
    """The request is answered with `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Reply(Struct, frozen=True):
    """An answer as a whole."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def start(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            *SAFETY,
            *self.headers,
        ]

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.start()})
        await send({"type": "http.response.body", "body": self.body})

    async def over_websocket(self, send: Send) -> None:
        """Instead of the upgrade."""
        await send({"type": "websocket.http.response.start", "status": self.status, "headers": self.start()})
        await send({"type": "websocket.http.response.body", "body": self.body})


def json_reply(value: Any, status: int = 200) -> Reply:
    """`value` is plain data that UTF-8 can hold."""
    return Reply(status, msgspec.json.encode(value, enc_hook=repr) + b"\n")


def refusal_reply(refusal: Refusal, headers: Mapping[bytes, bytes] | None = None) -> Reply:
    said = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
    more = dict(headers or {})
    if refusal.status == 401:
        more[b"www-authenticate"] = b'Bearer realm="custody"'
    if refusal.status in (429, 503):
        more.setdefault(b"retry-after", b"1")
    return Reply(refusal.status, json_reply({"error": said}).body, JSON, tuple(more.items()))


def refusal_of(error: CustodyError | Refused) -> Refusal:
    """An error as it is told over HTTP."""
    if isinstance(error, Refused):
        return error.refusal
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    return Refusal(status, _snake(type(error).__name__), error.message, error.hint)


def _snake(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")
