"""A server that is a command: its lines in and out, its standard error passed on, its end.

Owns how it is ended: first it hears that nobody speaks to it any more, as the protocol has it, then its whole
tree is told to go. Processes are started by the sandbox, whose launcher ends the tree should this process
die. Used by `session`.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from custody.doors.proxy.messages import Lines, TooLong
from custody.doors.proxy.streams import LINE_BYTES_MAX, OnLine, Outlet
from custody.errors import SandboxError
from custody.sandbox import Command, Control, Finished, Launchers
from custody.sandbox.walls import Sandbox

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection  # a server without walls has none

LEAVE_SECONDS = 2.0
"""How long a server has to end by itself once its standard input is closed."""

ERRORS_BYTES_MAX = 1024**2
"""Of its standard error that waits for our reader: a client that shows it to nobody may not read it."""

NOT_HANDED_ON = frozenset({"CUSTODY_TOKEN", "CUSTODY_CALL"})
"""What says of us who we are; all else a client sets for its server."""


class Walls(Struct, frozen=True, kw_only=True):
    """What a server runs behind."""

    sandbox: Sandbox
    roots: tuple[str, ...]
    uids: tuple[int, int] | None = None
    """The users that servers of root run as: first and count."""


class ServerProcess:
    """One server. `start` it; it ends with `close`, or by itself."""

    def __init__(
        self, argv: Sequence[str], cwd: str, environment: Mapping[str, str], walls: Walls | None = None
    ) -> None:
        """Without walls it may do what we may."""
        self.argv = tuple(argv)
        self._walls = walls
        self.on_connection: Callable[[Connection], None] = lambda connection: None
        self._cwd = cwd
        self._environment = {name: value for name, value in environment.items() if name not in NOT_HANDED_ON}
        self._on_line: OnLine = lambda line: None
        self._on_room: Callable[[], None] = lambda: None
        self._lines = Lines(LINE_BYTES_MAX)
        self._launchers = Launchers()
        self._launchers.uids = None if walls is None else walls.uids
        self._control = Control()
        self._errors = Errors()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._stdin = reading
        self._input = Outlet(writing, self._unheard, self._has_room)
        os.close(writing)
        self._running: asyncio.Task[Finished] | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """How it ended, in words."""

    def start(self, on_line: OnLine, on_room: Callable[[], None], on_lost: object = None) -> None:
        """Begin; `on_line` gets each line it says."""
        del on_lost  # all that it has it loses at once
        self._on_line, self._on_room = on_line, on_room
        command = Command(
            argv=self.argv,
            cwd=self._cwd,
            environment=self._environment,
            stdin_fd=self._stdin,
            deadline_seconds=None,
            keep_head_bytes=0,
            keep_tail_bytes=0,
            sandbox=None if self._walls is None else self._walls.sandbox,
            roots=() if self._walls is None else self._walls.roots,
            on_connection=self.on_connection,
        )
        self._errors.start()
        self._running = asyncio.create_task(
            self._launchers.run(command, on_output=self._said, control=self._control)
        )
        self._running.add_done_callback(self._is_over)

    @property
    def full(self) -> bool:
        """Whether it takes less than it is sent."""
        return self._input.pending_bytes > 0

    def send(self, line: bytes) -> None:
        self._input.write(line)

    async def close(self) -> None:
        """End it, whatever it does. A second close does nothing."""
        self._input.close()
        if self._running is not None and not self._running.done():
            await asyncio.wait({self._running}, timeout=LEAVE_SECONDS)
            self._control.cancel()
            await asyncio.wait({self._running})
        await self._launchers.close()
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1
        self._errors.close()

    def _said(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stderr":
            self._errors.add(data)
            return
        for line in self._lines.take(data):
            self._on_line(line)

    def _is_over(self, running: "asyncio.Task[Finished]") -> None:
        for line in self._lines.take(b"\n"):
            if isinstance(line, TooLong) or line.strip():
                self._on_line(line)
        self.ended.set_result(_in_words(running))

    def _has_room(self) -> None:
        self._on_room()

    def _unheard(self) -> None:
        """It reads nothing: the pipe is held open on this side as well, so that is too much for it."""
        self._control.cancel()


def _in_words(running: "asyncio.Task[Finished]") -> str:
    if running.cancelled():
        return "it was given up"
    error = running.exception()
    if isinstance(error, SandboxError):
        return error.message
    if error is not None:
        return f"{type(error).__name__}: {error}"
    finished = running.result()
    if finished.signal is not None:
        return f"ended by signal {finished.signal}"
    return f"ended with exit code {finished.exit_code}"


class Errors:
    """What a server writes to its standard error, passed on to ours by a thread: our reader may take it at
    leisure, and what it does not take in time is counted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending = bytearray()
        self._dropped_bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._pass_on, daemon=True, name="custody-proxy-errors")

    def start(self) -> None:
        self._thread.start()

    def add(self, data: bytes) -> None:
        with self._changed:
            room = ERRORS_BYTES_MAX - len(self._pending)
            self._pending += data[: max(0, room)]
            self._dropped_bytes += max(0, len(data) - max(0, room))
            self._changed.notify()

    def close(self) -> None:
        """What is there is passed on, if our reader takes it soon."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _pass_on(self) -> None:
        while True:
            with self._changed:
                while not (self._pending or self._dropped_bytes or self._closed):
                    self._changed.wait()
                data, dropped = bytes(self._pending), self._dropped_bytes
                self._pending.clear()
                self._dropped_bytes = 0
            if dropped:
                data += f"\ncustody: {dropped:,} bytes of the server's errors are left out\n".encode()
            if not data:
                return
            with contextlib.suppress(OSError):
                while data:
                    data = data[os.write(2, data) :]
