"""One TCP connection, of a command or to a host: heads and bodies read from it, bytes written and counted.

Owns the bounds on what is read at once and on how much waits to be written. Knows nothing of rules. Used by
`proxy` and `forwarding`.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator

from custody.sandbox.egress.http1 import Framing, Malformed, chunk_bytes
from custody.sandbox.egress.rules import Destination

PIECE_BYTES = 65_536  # what a socket's buffer holds by default; twice that waits in memory either way
HEAD_BYTES_MAX = 65_536  # servers take 8 to 64 KiB
HEADERS_MAX = 256
CHUNK_LINE_BYTES_MAX = 4_096  # a number and extensions that nobody uses
ATTEMPTS_MAX = 4
"""Addresses of one host that are tried: both kinds, and one that is down of each."""
LINGER_SECONDS = 1.0
LINGER_BYTES_MAX = 1 << 20
"""What is read and dropped before closing: to close with bytes unread would take back what was answered."""
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: what is not sent yet is dropped, and the other side is told by a reset."""


class Link:
    """Both ways of a connection. Every method may raise OSError."""

    def __init__(
        self, reader: "_Reader", transport: asyncio.WriteTransport, protocol: asyncio.StreamReaderProtocol
    ) -> None:
        self._reader = reader
        transport.set_write_buffer_limits(high=0)
        self._writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        self.bytes_out = 0

    @property
    def bytes_in(self) -> int:
        return self._reader.bytes_in

    @property
    def moved_at(self) -> float:
        """When the last byte came in or went out, on the clock of `time.monotonic`."""
        return self._reader.moved_at

    @classmethod
    async def of(cls, taken: socket.socket) -> "Link":
        """Of a connection that was accepted."""
        reader, protocol = _reading()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, taken)
        return cls(reader, transport, protocol)

    @classmethod
    async def to(cls, destination: Destination, seconds: float) -> tuple["Link", str]:
        """To the first address that answers, and which one that is; `seconds` is for all of them."""
        failed: OSError = OSError("there is no address")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            for address in destination.addresses[:ATTEMPTS_MAX]:
                reader, protocol = _reading()
                try:
                    async with asyncio.timeout(seconds / min(2, len(destination.addresses))):
                        transport, _ = await loop.create_connection(
                            lambda protocol=protocol: protocol, address, destination.port
                        )
                except OSError as error:  # TimeoutError is one
                    failed = error
                    continue
                return cls(reader, transport, protocol), address
        raise failed

    # -- reading ----------------------------------------------------------------------------------------

    async def head(self) -> bytes | None:
        """Up to and including the empty line; None where the other side has ended before it began one.

        Raises Malformed.
        """
        head, lines = bytearray(), 0
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                if not head and not error.partial:
                    return None
                raise Malformed("The connection ended within a head.") from None
            except asyncio.LimitOverrunError:
                raise Malformed("The head is too long.", 431) from None
            head += line
            lines += 1
            if len(head) > HEAD_BYTES_MAX or lines > HEADERS_MAX:
                raise Malformed("The head is too long.", 431)
            if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                raise Malformed("A line does not end as lines of HTTP do.")
            if line == b"\r\n":
                if lines == 1:
                    raise Malformed("The head is empty.")
                return bytes(head)

    async def body(self, framing: Framing) -> AsyncIterator[bytes]:
        """What a body holds, in pieces; trailers are read and dropped. Raises Malformed, also where it ends
        too early."""
        if framing.kind == "length":
            async for piece in self._exactly(framing.length):
                yield piece
        elif framing.kind == "end":
            async for piece in self.rest():
                yield piece
        elif framing.kind == "chunked":
            while length := chunk_bytes(await self._line()):
                async for piece in self._exactly(length):
                    yield piece
                if await self._line() != b"\r\n":
                    raise Malformed("A chunk does not end where it should.")
                # Those that have arrived already are read without waiting: tens of thousands, of a byte each.
                await asyncio.sleep(0)
            for _ in range(HEADERS_MAX):
                if await self._line() == b"\r\n":
                    return
            raise Malformed("There are too many trailers.")

    async def rest(self) -> AsyncIterator[bytes]:
        """All that comes until the other side ends."""
        while piece := await self._reader.read(PIECE_BYTES):
            yield piece

    async def _exactly(self, length: int) -> AsyncIterator[bytes]:
        while length:
            piece = await self._reader.read(min(PIECE_BYTES, length))
            if not piece:
                raise Malformed("The connection ended within a body.")
            length -= len(piece)
            yield piece

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            raise Malformed("The connection ended within a body.") from None
        except asyncio.LimitOverrunError:
            raise Malformed("A line within a body is too long.") from None
        if len(line) > CHUNK_LINE_BYTES_MAX or not line.endswith(b"\r\n"):
            raise Malformed("A line within a body cannot be read.")
        return line

    # -- writing ----------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Returns when the system has taken all of it, so that nobody is sent more than they take."""
        self._writer.write(data)
        self.bytes_out += len(data)
        await self._writer.drain()
        self._reader.moved_at = time.monotonic()

    def end(self) -> None:
        """No more from here; what the other side sends still comes in."""
        if not self._writer.is_closing():
            with contextlib.suppress(OSError):  # the other side is gone already
                self._writer.write_eof()

    async def linger(self) -> None:
        """Let the other side read what it was sent before it is closed to it."""
        self.end()
        dropped = 0
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LINGER_SECONDS):
                async for piece in self.rest():
                    dropped += len(piece)
                    if dropped > LINGER_BYTES_MAX:
                        return

    def close(self) -> None:
        """What was sent still arrives: the system has it."""
        self._writer.close()

    def reset(self) -> None:
        """At once, and so that the other side sees that something is missing. Nothing where it is closed."""
        if not self._writer.is_closing():
            taken = self._writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._writer.transport.abort()


class _Reader(asyncio.StreamReader):
    """Counts what comes in."""

    bytes_in = 0
    moved_at = 0.0

    def feed_data(self, data: bytes) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] -- never else
        self.bytes_in += len(data)
        self.moved_at = time.monotonic()
        super().feed_data(data)


def _reading() -> tuple[_Reader, asyncio.StreamReaderProtocol]:
    loop = asyncio.get_running_loop()
    reader = _Reader(limit=PIECE_BYTES, loop=loop)
    reader.moved_at = time.monotonic()
    return reader, asyncio.StreamReaderProtocol(reader, loop=loop)
