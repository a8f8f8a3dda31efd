"""One HTTP request and its answer, over one connection to an address that was decided before.

Owns the connection: TLS with certificates checked, the bounds on what is read, and the counts of what went
each way. What a head and a chunk look like is `egress.http1`'s to say. It looks up no name and uses no proxy,
and nothing of it outlives the exchange. Used by `tool`.

Certificates are checked against the system's, or what SSL_CERT_FILE and SSL_CERT_DIR name.
"""

import asyncio
import functools
import os
import ssl
from collections.abc import Callable

from msgspec import Struct

from custody.errors import ToolError
from custody.sandbox.egress.http1 import (
    Framing,
    Malformed,
    Response,
    chunk_bytes,
    head_bytes,
    parse_response,
    response_framing,
)
from custody.sandbox.egress.rules import Destination
from custody.tools.http_fetch.body import Body, Coding
from custody.tools.http_fetch.request import Request

CONNECT_SECONDS = 10.0
"""To one address, TLS included; some of those a name leads to may be dead, and the next is tried."""

HEAD_BYTES_MAX = 64 * 1024  # of an answer's status and headers; servers send a few hundred
INTERIM_ANSWERS_MAX = 16  # 1xx, each a promise of the one that counts (RFC 9110, section 15.2)
TRAILERS_MAX = 100

READ_BYTES = 64 * 1024  # at once; between two readings others are served
CHUNKS_MAX = 10_000
"""Of one body, each of which costs the same however small it is: as many as one of `BYTES_DEFAULT` has in
chunks of 105 bytes."""

_CODINGS: dict[str, Coding] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}

Fields = tuple[tuple[str, str], ...]

WantsBody = Callable[[int, str | None], bool]
"""Whether the body is to be read, by the answer's status and its Location."""


class Answer(Struct, frozen=True, kw_only=True):
    """What came back."""

    status: int
    reason: str
    headers: Fields
    """In the order they came, names in lower case."""
    body: Body
    """Empty where it was not asked for."""
    bytes_out: int
    """Of HTTP; what TLS adds is not counted."""
    bytes_in: int

    def header(self, name: str) -> str | None:
        return _first(self.headers, name)


class Connection(Struct, frozen=True):
    """Where it leads, and its two directions."""

    address: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        """At once, whatever is under way."""
        self.writer.transport.abort()


async def connected(request: Request, destination: Destination) -> Connection:
    """To the first of the addresses that answers. Raises ToolError."""
    tls = server_name = None
    if request.url.scheme == "https":
        paths = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        tls = await asyncio.to_thread(_tls, *paths)
        server_name = destination.host
    last = len(destination.addresses) - 1
    for place, address in enumerate(destination.addresses):
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                streams = await asyncio.open_connection(
                    address, destination.port, limit=HEAD_BYTES_MAX, ssl=tls, server_hostname=server_name
                )
            return Connection(address, *streams)
        except OSError as error:  # a timeout is one, and so is what TLS finds
            if place == last or isinstance(error, ssl.SSLError):
                raise ToolError(f"{request.url.place} cannot be reached: {_in_words(error)}.") from error
    raise AssertionError("a destination has an address")


@functools.cache
def _tls(*_paths: str | None) -> ssl.SSLContext:
    """Made once for each set of certificates: the system's are some hundred, and reading them takes tens of
    milliseconds, in which nobody else would be served."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); SSL_CERT_FILE may name others"
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} s"
    known = isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno
    return (os.strerror(known) if known else str(error)) or type(error).__name__


# -- the exchange -----------------------------------------------------------------------------------------


async def exchange(
    request: Request, host: str, connection: Connection, bytes_max: int, wants_body: WantsBody
) -> Answer:
    """Send the request to `host` at the other end, and wait for the answer. Raises ToolError."""
    outgoing = head_bytes(f"{request.method} {request.url.target} HTTP/1.1", request.fields(host))
    outgoing += request.body or b""
    incoming = _Incoming(connection.reader)
    writer = connection.writer
    try:
        writer.write(outgoing)  # it is in memory already; a server may answer before it has it all
        response = await _final(incoming)
        headers = tuple((name.lower(), _text(value)) for name, value in response.headers)
        body = Body(0, None, None)
        if wants_body(response.status, _first(headers, "location")):
            body = await _body(incoming, response_framing(response, request.method), headers, bytes_max)
    except Malformed as error:
        raise ToolError(f"{request.url.place} does not answer as HTTP asks: {error}") from None
    except OSError as error:
        raise ToolError(f"{request.url.place} ended the connection: {_in_words(error)}.") from error
    return Answer(
        status=response.status,
        reason=_text(response.reason),
        headers=headers,
        body=body,
        bytes_out=len(outgoing) - writer.transport.get_write_buffer_size(),
        bytes_in=incoming.bytes_in,
    )


async def _final(incoming: "_Incoming") -> Response:
    """The answer that counts. Raises Malformed, OSError."""
    for _ in range(INTERIM_ANSWERS_MAX):
        response = parse_response(await incoming.head())
        if response.status >= 200:
            return response
        if response.status == 101:
            raise Malformed("It changes to a protocol nobody asked for.")
    raise Malformed("It gives one interim answer after the other.")


async def _body(incoming: "_Incoming", framing: Framing, headers: Fields, bytes_max: int) -> Body:
    """As far as its bound. Raises Malformed, OSError, ToolError."""
    coding = _CODINGS.get((_first(headers, "content-encoding") or "").lower())
    body = Body(bytes_max, coding, framing.length if framing.kind == "length" else None)
    incoming.begin_body(framing)
    while piece := await incoming.piece():
        if not body.feed(piece):
            return body
        await asyncio.sleep(0)  # what has arrived already is read without waiting
    body.finish()
    return body


class _Incoming:
    """What is read from a connection. Every method raises Malformed and OSError."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._kind = "none"
        self._left = 0
        """Bytes of the body, or of one chunk of it, that are still to come."""
        self._chunks = 0
        self.bytes_in = 0

    async def head(self) -> bytes:
        """Up to and including the empty line."""
        return await self._until(b"\r\n\r\n", "head")

    def begin_body(self, framing: Framing) -> None:
        self._kind, self._left = framing.kind, framing.length

    async def piece(self) -> bytes:
        """The next of the body; nothing where it has ended."""
        if self._kind == "end":
            return await self._some(READ_BYTES)
        if self._kind == "chunked" and not self._left:
            await self._begin_chunk()
        if not self._left:
            return b""
        piece = await self._some(min(self._left, READ_BYTES))
        if not piece:
            raise Malformed(f"It ended {self._left} bytes too early.")
        self._left -= len(piece)
        if self._kind == "chunked" and not self._left and await self._until(b"\r\n", "line") != b"\r\n":
            raise Malformed("A chunk does not end where it should.")
        return piece

    async def _begin_chunk(self) -> None:
        self._chunks += 1
        if self._chunks > CHUNKS_MAX:
            raise Malformed(f"Its body comes in more than {CHUNKS_MAX} pieces.")
        self._left = chunk_bytes(await self._until(b"\r\n", "line"))
        if not self._left:
            await self._trailers()

    async def _trailers(self) -> None:
        for _ in range(TRAILERS_MAX):
            if await self._until(b"\r\n", "line") == b"\r\n":
                return
        raise Malformed(f"More than {TRAILERS_MAX} headers follow its body.")

    async def _some(self, most: int) -> bytes:
        piece = await self._reader.read(most)
        self.bytes_in += len(piece)
        return piece

    async def _until(self, end: bytes, what: str) -> bytes:
        try:
            found = await self._reader.readuntil(end)
        except asyncio.LimitOverrunError:
            raise Malformed(f"Its {what} is too long: {HEAD_BYTES_MAX} bytes are the most.") from None
        except asyncio.IncompleteReadError as error:
            raise Malformed(
                f"It ended within a {what}." if error.partial else "It ended without an answer."
            ) from None
        self.bytes_in += len(found)
        return found


def _first(headers: Fields, name: str) -> str | None:
    return next((value for found, value in headers if found == name), None)


def _text(value: str) -> str:
    """What `http1` read as Latin-1 is UTF-8 where it can be; servers write that into Location."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value
