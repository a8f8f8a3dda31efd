"""Descriptors on an event loop: lines that come in, bytes that go out, and no thread for either.

Owns that nobody waits in a read or a write, and what is bounded: the length of a line, and what waits for a
reader that takes nothing. What lines say is not looked at. Used by `session` for the client, by `child` for a
server.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable

from custody.doors.proxy.messages import Lines, TooLong

LINE_BYTES_MAX = 64 * 1024**2
"""Of one message: it is held whole, and recorded. A result of 50 MB is one."""

READ_BYTES = 256 * 1024

PENDING_BYTES_MAX = 128 * 1024**2
"""Of what waits for a reader: two of the longest lines. Whoever takes no more than that is gone."""

WRITE_BYTES = 1024**2
"""At once: others have their turn meanwhile."""

STALLED_SECONDS = 5.0
"""Whoever writes here has gone, and what it left is not taken: after so long it is passed over."""

OnLine = Callable[[bytes | TooLong], None]


class Inlet:
    """Lines of a descriptor, which is closed at the end. `start` it on the loop."""

    def __init__(
        self, descriptor: int, on_line: OnLine, on_end: Callable[[], None],
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:  # fmt: skip
        self._stalled_seconds = stalled_seconds
        self._stalled: asyncio.TimerHandle | None = None
        self._descriptor = descriptor
        self._on_line = on_line
        self._on_end = on_end
        self._lines = Lines(LINE_BYTES_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._polled = True
        self._reading = False
        self._may_read = threading.Event()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            self._loop.add_reader(self._descriptor, self._read)
        except PermissionError:  # a file: it is always readable, and nobody can wait for it
            self._polled = False
            threading.Thread(target=self._read_in_thread, daemon=True, name="custody-proxy").start()
        self._reading = True
        self._may_read.set()

    def pause(self) -> None:
        """Leave whoever writes waiting."""
        if self._reading and self._loop is not None:
            self._reading = False
            self._may_read.clear()
            if self._polled:
                self._loop.remove_reader(self._descriptor)
                self._stalled = self._loop.call_later(self._stalled_seconds, self._look)

    def _look(self) -> None:
        """An end is not read while nothing is."""
        if self._loop is None or self._reading:
            return
        poll = select.poll()
        poll.register(self._descriptor, select.POLLRDHUP)
        if poll.poll(0):  # POLLHUP and POLLERR come without being asked for
            self.stop()
            self._on_end()
        else:
            self._stalled = self._loop.call_later(self._stalled_seconds, self._look)

    def resume(self) -> None:
        if not self._reading and self._loop is not None:
            self._reading = True
            self._may_read.set()
            self._heed_no_end()
            if self._polled:
                self._loop.add_reader(self._descriptor, self._read)

    def stop(self) -> None:
        """No line comes any more, nor an end."""
        self.pause()
        self._heed_no_end()
        self._loop = None

    def _heed_no_end(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._take(data)

    def _read_in_thread(self) -> None:
        loop = self._loop
        data = b" "
        while data and loop is not None:
            self._may_read.wait()
            data = os.read(self._descriptor, READ_BYTES)
            taken = threading.Event()
            try:
                loop.call_soon_threadsafe(lambda data=data, taken=taken: (self._take(data), taken.set()))
            except RuntimeError:  # the loop is over
                return
            taken.wait()

    def _take(self, data: bytes) -> None:
        if self._loop is None:
            return
        if data:
            for line in self._lines.take(data):
                self._on_line(line)
            return
        for line in self._lines.take(b"\n"):  # its end never came: whoever reads it sees whether it is whole
            self._on_line(line)
        self.stop()
        self._on_end()


class Outlet:
    """Bytes into a descriptor, as its reader takes them."""

    def __init__(
        self, descriptor: int, on_gone: Callable[[], None], on_room: Callable[[], None] = lambda: None
    ) -> None:
        """`on_gone` is called once, when nobody reads there any more, or takes too little; `on_room` when all
        that waited has been taken."""
        self._descriptor, self._socket = _without_waiting(descriptor)
        self._on_gone = on_gone
        self._on_room = on_room
        self._pending: deque[bytes | bytearray] = deque()
        """Large lines as they were given, small ones gathered: each alone takes more than it says."""
        self._written = 0
        """Of the first of them."""
        self.pending_bytes = 0
        """What waits for its reader."""
        self._waiting = False
        """Whether the loop tells when there is room."""
        self._gone = False
        self._emptied: asyncio.Future[None] | None = None

    def write(self, line: bytes) -> None:
        """A line, with its end. What cannot be written now waits."""
        if self._gone:
            return
        last = self._pending[-1] if len(self._pending) > 1 else None  # (the first is being written)
        if len(line) > READ_BYTES:
            self._pending += (line, b"\n")
        elif isinstance(last, bytearray) and len(last) < READ_BYTES:
            last += line + b"\n"
        else:
            self._pending.append(bytearray(line + b"\n") if self._pending else line + b"\n")
        self.pending_bytes += len(line) + 1
        if self._waiting:
            if self.pending_bytes > PENDING_BYTES_MAX:
                self._leave()
            return
        self._push()
        if self._pending and not self._gone:
            self._waiting = True
            asyncio.get_running_loop().add_writer(self._descriptor, self._push_more)

    async def drained(self, seconds: float) -> None:
        """Wait until its reader has what waits for it, or so long."""
        if self._pending and not self._gone:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._emptied}, timeout=seconds)

    def close(self) -> None:
        """Whoever reads there hears the end. What still waits is dropped."""
        self._stop()
        self._gone = True
        self._pending.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if self._socket is not None:
                self._socket.close()

    def _push_more(self) -> None:
        self._push()
        if not self._pending:
            self._stop()
            if self._emptied is not None and not self._emptied.done():
                self._emptied.set_result(None)
            self._on_room()

    def _push(self) -> None:
        """As much as is taken now."""
        try:
            while self._pending and not self._gone:
                part = self._pending[0]
                with memoryview(part)[self._written : self._written + WRITE_BYTES] as some:
                    written = self._write_some(some)
                self.pending_bytes -= written
                self._written += written
                if self._written == len(part):
                    self._pending.popleft()
                    self._written = 0
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._leave()

    def _write_some(self, part: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(part, socket.MSG_DONTWAIT)
        return os.write(self._descriptor, part)

    def _leave(self) -> None:
        self._stop()
        self._pending.clear()
        self.pending_bytes = 0
        if not self._gone:
            self._gone = True
            asyncio.get_running_loop().call_soon(self._on_gone)

    def _stop(self) -> None:
        if self._waiting:
            self._waiting = False
            asyncio.get_running_loop().remove_writer(self._descriptor)


def _without_waiting(descriptor: int) -> tuple[int, socket.socket | None]:
    """A descriptor of ours for the same, in which no write waits. The one that was handed down stays as it
    is: who else has it may rely on waiting."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        return own, socket.socket(fileno=os.dup(own))
    if stat.S_ISFIFO(kind):
        with contextlib.suppress(PermissionError):  # a pipe of another user's is written to as it is
            again = f"/proc/self/fd/{descriptor}"
            return os.open(again, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), None
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3), None  # a file, a terminal: they take it


class ClientStreams:
    """Standard input and output, taken from the process until `give_back`: whatever is printed meanwhile goes
    to standard error."""

    def __init__(self) -> None:
        self.input = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        self.output = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def give_back(self) -> None:
        """Standard output is the process's again, for a last message."""
        os.dup2(self.output, 1)
