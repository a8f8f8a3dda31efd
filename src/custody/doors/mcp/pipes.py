"""The process's standard input and output as the protocol's own: lines in, lines out, and nothing else there.

Owns the descriptors (whatever is printed meanwhile goes to standard error), the bound of a line, and what
becomes of a client that reads nothing. Knows nothing of what a line says. Used by `stdio`; imports little, so
that the descriptors are taken before anything can print.
"""

import asyncio
import fcntl
import os
import queue
import threading
from collections.abc import Callable

LINE_BYTES_MAX = 16 * 1024**2
"""Of one message, as of a frame of the daemon: it is held whole."""

READ_BYTES = 64 * 1024

WRITE_SECONDS_MAX = 30.0
"""A client that takes nothing for so long is gone in all but name."""


class TooLong(Exception):
    """A line was longer than it may be; it has been passed over."""


class Pipes:
    """Standard input and output, taken from the process until `give_back`."""

    def __init__(self) -> None:
        self._in = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        self._out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._lines: asyncio.Queue[bytes | TooLong | None] = asyncio.Queue(1)
        self._writes: queue.SimpleQueue[tuple[bytes, Callable[[OSError | None], None]]] = queue.SimpleQueue()
        self._turn = asyncio.Lock()
        self._broken = False

    def give_back(self) -> None:
        """Standard output is the process's again, for a last message. A thread may still wait for a line:
        its descriptor stays open."""
        os.dup2(self._out, 1)

    def start(self) -> None:
        """Read and write in threads that end with the process: either may wait for the client for ever."""
        loop = asyncio.get_running_loop()
        for work in (self._read, self._write):
            threading.Thread(target=work, args=(loop,), daemon=True, name="custody-mcp").start()

    # -- in -------------------------------------------------------------------------------------------

    async def line(self) -> bytes | TooLong | None:
        """The next line without its end; None once there are no more."""
        return await self._lines.get()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: it waits for each line to be taken, so a flood waits in the pipe."""
        rest = bytearray()
        too_long = False
        while True:
            try:
                data = os.read(self._in, READ_BYTES)
            except OSError:
                data = b""
            *lines, last = data.split(b"\n")
            for line in lines:
                whole: bytes | TooLong = bytes(rest + line)
                if too_long or len(whole) > LINE_BYTES_MAX:
                    whole = TooLong(f"A message has at most {LINE_BYTES_MAX:,} bytes.")
                rest, too_long = bytearray(), False
                if not self._hand_over(loop, whole):
                    return
            rest += last
            if len(rest) > LINE_BYTES_MAX:
                rest, too_long = bytearray(), True
            if not data:
                if rest:  # its end never came: whoever reads it sees whether it is whole
                    self._hand_over(loop, bytes(rest))
                self._hand_over(loop, None)
                return

    def _hand_over(self, loop: asyncio.AbstractEventLoop, line: bytes | TooLong | None) -> bool:
        putting = self._lines.put(line)
        try:
            asyncio.run_coroutine_threadsafe(putting, loop).result()
        except Exception:  # the loop is over
            putting.close()
            return False
        return True

    # -- out ------------------------------------------------------------------------------------------

    async def write(self, line: bytes) -> None:
        """One line. Raises BrokenPipeError once the client is gone, or has taken nothing for too long."""
        async with self._turn:
            if self._broken:
                raise BrokenPipeError
            loop = asyncio.get_running_loop()
            written: asyncio.Future[None] = loop.create_future()

            def done(error: OSError | None) -> None:
                if not written.done():
                    written.set_result(None) if error is None else written.set_exception(error)

            self._writes.put((line + b"\n", done))
            try:
                async with asyncio.timeout(WRITE_SECONDS_MAX):
                    await asyncio.shield(written)
            except asyncio.CancelledError:
                raise  # the thread writes the line whole all the same
            except (OSError, TimeoutError):
                self._broken = True
                raise BrokenPipeError from None

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread."""
        while True:
            data, done = self._writes.get()
            failed: OSError | None = None
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._out, view) :]
            except OSError as error:
                failed = error
            try:
                loop.call_soon_threadsafe(done, failed)
            except RuntimeError:  # the loop is over
                return
