"""What happens once a host may be reached: bytes go both ways, or one request there and its answer back.

Owns half-closed connections, those on which nothing moves any more, and how a request is written anew for the
host and its answer for the command. Each request has a connection of its own to the host, so that nothing a
host sends is ever taken for the answer to a later request. Knows nothing of rules. Used by `proxy`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from custody.sandbox.egress.http1 import (
    Framing,
    Header,
    Malformed,
    Request,
    Response,
    Target,
    framing_headers,
    head_bytes,
    parse_response,
    passed_on,
    request_framing,
    response_framing,
    tokens,
)
from custody.sandbox.egress.link import Link

REFUSED_HEADER = "X-Custody-Refused"
"""The proxy's own word: a host that says it too is not heard."""
INFORMATIONAL_MAX = 16
"""Answers of 1xx before the one that counts: 100, a few hints."""
_REFUSED = REFUSED_HEADER.lower()
HALF_CLOSED_SECONDS = 60.0
"""For a tunnel of which one side has ended, and nothing moves: most hosts end at once."""


class Stalled(Exception):
    """Nothing moved for as long as is waited."""


async def tunnel(client: Link, upstream: Link, idle_seconds: float) -> None:
    """Bytes both ways until both sides have ended. Raises OSError, and Stalled."""
    pumps = {asyncio.ensure_future(_pump(client, upstream)), asyncio.ensure_future(_pump(upstream, client))}
    await _settle(pumps, set(), (client, upstream), idle_seconds, min(idle_seconds, HALF_CLOSED_SECONDS))


async def _pump(source: Link, sink: Link) -> None:
    async for piece in source.rest():
        await sink.send(piece)
    sink.end()


async def _settle(
    needed: set[asyncio.Task[Any]],
    others: set[asyncio.Task[Any]],
    links: tuple[Link, Link],
    idle_seconds: float,
    last_seconds: float,
) -> None:
    """Until all that is needed is done, or one of them all fails, or nothing moves; the rest is cancelled.

    `last_seconds` takes the place of `idle_seconds` once one of them is done.
    """
    pending, whole = needed | others, len(needed | others)
    began = time.monotonic()
    try:
        while pending & needed:
            bound = idle_seconds if len(pending) == whole else last_seconds
            left = bound - (time.monotonic() - max(began, *(link.moved_at for link in links)))
            if left <= 0:
                raise Stalled(f"nothing moved for {bound:g} s")
            done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
    finally:
        for one in pending:
            one.cancel()
        if pending:
            await asyncio.wait(pending)
        for one in needed | others:  # the first failure is raised; asyncio would complain of the others
            if not one.cancelled():
                one.exception()


# -- one request ----------------------------------------------------------------------------------------


async def exchange(
    client: Link, upstream: Link, request: Request, target: Target, idle_seconds: float
) -> bool:
    """Pass the request on and its answer back; whether another may follow on the client's connection.

    Raises OSError, Malformed and Stalled; what the client has of an answer by then is incomplete.
    """
    sending = asyncio.ensure_future(_send_request(client, upstream, request, target))
    answering = asyncio.ensure_future(_pass_answer(client, upstream, request))
    # The answer alone counts: a host may give it without reading all of the request.
    await _settle({answering}, {sending}, (client, upstream), idle_seconds, idle_seconds)
    return answering.result() and not sending.cancelled() and sending.result()


async def _send_request(client: Link, upstream: Link, request: Request, target: Target) -> bool:
    """Whether the host took all of it. Raises what is wrong with the client: OSError, Malformed."""
    framing = request_framing(request)
    headers = passed_on(request.headers, "host", "content-length")
    if request.minor == 0:  # it would not know what to do with an answer of 100
        headers = [header for header in headers if header[0].lower() != "expect"]
    head = head_bytes(
        f"{request.method} {target.path} HTTP/1.1",
        [("Host", _host(target)), *headers, *framing_headers(framing), ("Connection", "close")],
    )
    try:
        await upstream.send(head)
    except OSError:
        return False
    async for piece in _encoded(client, framing, framing):
        try:
            await upstream.send(piece)
        except OSError:
            return False
    return True


def _host(target: Target) -> str:
    """As the URL says, whatever `Host` said."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == 80 else f"{host}:{target.port}"


async def _pass_answer(client: Link, upstream: Link, request: Request) -> bool:
    """Whether the client may go on with its connection. Raises Malformed for a host's answer with 502."""
    try:
        response = await _final(client, upstream, request)
        framing = response_framing(response, request.method)
        shown = framing
        if framing.kind == "chunked" and request.minor == 0:
            shown = Framing("end")
        keep = shown.kind != "end" and _keeps(request)
        await client.send(
            head_bytes(
                f"HTTP/1.1 {response.status} {response.reason}", _answer_headers(response, shown, keep=keep)
            )
        )
        async for piece in _encoded(upstream, framing, shown):
            await client.send(piece)
    except Malformed as error:
        raise Malformed(str(error), 502) from None
    return keep


async def _final(client: Link, upstream: Link, request: Request) -> Response:
    """The answer that counts; those before it are passed on."""
    for _ in range(INFORMATIONAL_MAX):
        head = await upstream.head()
        if head is None:
            raise Malformed("The host ended the connection without an answer.")
        response = parse_response(head)
        if response.status >= 200:
            return response
        if response.status == 101:
            raise Malformed("The host changes to a protocol nobody asked for.")
        if request.minor == 1:
            first = f"HTTP/1.1 {response.status} {response.reason}"
            await client.send(head_bytes(first, passed_on(response.headers, "content-length", _REFUSED)))
    raise Malformed("The host gives no final answer.")


def _keeps(request: Request) -> bool:
    wishes = tokens(request.headers, "connection") | tokens(request.headers, "proxy-connection")
    return request.minor == 1 and "close" not in wishes


def _answer_headers(response: Response, shown: Framing, *, keep: bool) -> list[Header]:
    """The length stays where there is no body for it to be the length of: answers to HEAD, and 304."""
    without = (_REFUSED,) if shown.kind == "none" else (_REFUSED, "content-length")
    headers = passed_on(response.headers, *without)
    return [*headers, *framing_headers(shown), *(() if keep else (("Connection", "close"),))]


async def _encoded(source: Link, framing: Framing, shown: Framing) -> AsyncIterator[bytes]:
    """A body as it is to be sent on."""
    chunked = shown.kind == "chunked"
    async for piece in source.body(framing):
        yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
    if chunked:
        yield b"0\r\n\r\n"
