"""One command on one launcher, from this side: its descriptors, the pump of its output, its result.

Owns the pipes (or the terminal), what is sent to the launcher and how its answer is read. Knows nothing of
how launchers are kept. Used by `process`.
"""

import asyncio
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from custody.errors import (
    CommandNotExecutable,
    CommandNotFound,
    SandboxError,
    UsageError,
    WorkingDirectoryGone,
)
from custody.records import Usage
from custody.sandbox.cgroup import Cgroup, Used
from custody.sandbox.command import Command, Finished
from custody.sandbox.confined import confined_environment
from custody.sandbox.launcher import messages
from custody.sandbox.launcher.messages import Reply
from custody.sandbox.limits import limit_hit, own_limits
from custody.sandbox.outlet import Connections
from custody.sandbox.output import Capture, Output
from custody.sandbox.survivors import TOKEN_NAME

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection

StreamName = Literal["stdout", "stderr"]
OnOutput = Callable[[StreamName, bytes], None]

READ_FIRST_BYTES = 64 * 1024  # what a pipe holds at first, and more than most commands say
PIPE_BYTES = 1024 * 1024  # for those that say more; the most an ordinary user may ask for
DRAIN_BYTES_MAX = 4 * PIPE_BYTES
"""Read after the tree has ended. More can only come from a process that escaped with the descriptor."""

_NO_PROGRAM = frozenset(
    (errno.EACCES, errno.ENOEXEC, errno.ENOENT, errno.EISDIR, errno.ETXTBSY, errno.ELOOP, errno.ELIBBAD)
)


class _Stream:
    """Our end of one of the command's streams."""

    def __init__(self, name: StreamName, descriptor: int, command: Command) -> None:
        self.name: StreamName = name
        self.descriptor = descriptor
        self.is_open = True
        self.read_bytes = READ_FIRST_BYTES
        self.capture = Capture(command.keep_head_bytes, command.keep_tail_bytes, command.whole)


class Running:
    """One command."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: Command,
        on_output: OnOutput | None,
        group: Cgroup | None = None,
    ) -> None:
        """`group` is for its tree alone."""
        self.is_answered = False
        self.reply: Reply | None = None
        """The launcher's answer; None also when the launcher was lost."""
        self.fault: Exception | None = None
        """What `on_output` or `on_connection` raised; the command is cancelled then."""
        self.terminal: int | None = None
        """Our end of the command's terminal, if it has one."""
        self.grace_seconds = command.grace_seconds
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []
        self._command = command
        self._on_output = on_output
        self._group = group
        self._connections = Connections()
        self._streams: dict[int, _Stream] = {}  # by our descriptor
        self._readable: select.epoll | None = None
        self._channel: socket.socket | None = None
        self._handed: list[int] = []
        """Their ends. They stay open here too, so that no end of file wakes us: the answer tells the end."""
        try:
            self._message, self._descriptors = self._prepare()
        except OSError as error:
            self.close()
            raise SandboxError(f"The command's descriptors cannot be made: {error.strerror}.") from error
        except BaseException:
            self.close()
            raise

    # -- towards the launcher -----------------------------------------------------------------------------

    def send(self, channel: socket.socket, readable: select.epoll) -> bool:
        """Hand the command over; False when nobody is at the other end, and it has not begun then.

        Its streams are put into `readable`, whose owner calls `read` when there is something.
        """
        descriptors = struct.pack(f"{len(self._descriptors)}i", *self._descriptors)
        try:
            channel.sendmsg([self._message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        except OSError:
            return False
        self._channel = channel
        self._readable = readable
        for descriptor in self._streams:
            readable.register(descriptor, select.EPOLLIN)
        return True

    def cancel(self) -> None:
        """Have its tree ended; the answer comes when it has."""
        self._tell(messages.CANCEL)

    def send_signal(self, signum: int) -> None:
        """To its process group."""
        self._tell(messages.SIGNAL + bytes((signum,)))

    def _tell(self, message: bytes) -> None:
        if self._channel is not None and not self.is_answered:
            try:
                self._channel.send(message)
            except OSError:  # the launcher is gone, which is noticed elsewhere
                pass

    def write_terminal(self, data: bytearray, resume: Callable[[], None]) -> None:
        """Type as much of `data` as the terminal takes now, and take that out of it; `resume` is called when
        it takes more, until there is none left."""
        if self.terminal is None:
            data.clear()
            return
        try:
            if data:
                del data[: os.write(self.terminal, data)]
        except BlockingIOError:
            pass
        except OSError:  # nobody has the terminal open any more
            data.clear()
        if data:
            self._loop.add_writer(self.terminal, resume)
        else:
            self._loop.remove_writer(self.terminal)

    def _prepare(self) -> tuple[bytes, list[int]]:
        command = self._command
        descriptors: list[int] = []
        flags = 0
        if self._group is not None:
            flags = messages.HAS_GROUP
            descriptors.append(self._hand(self._group.entrance()))
        if command.terminal is not None:
            flags |= messages.HAS_TERMINAL
            descriptors.append(self._open_terminal(command.terminal.rows, command.terminal.columns))
        else:
            if command.stdin is not None:
                flags |= messages.HAS_STDIN
                descriptors.append(self._hand(memory_file(command.stdin)))
            elif command.stdin_fd is not None:
                flags |= messages.HAS_STDIN
                descriptors.append(command.stdin_fd)
            stdout = self._open_pipe("stdout")
            descriptors += [stdout, stdout if command.joined else self._open_pipe("stderr")]
        body = _request(command, flags)
        if len(body) < messages.MESSAGE_BYTES_MAX:
            return messages.RUN + body, descriptors
        return messages.RUN_LONG, [self._hand(memory_file(body)), *descriptors]

    def _open_pipe(self, name: StreamName) -> int:
        reading, writing = os.pipe()
        self._handed.append(writing)
        self._streams[reading] = _Stream(name, reading, self._command)
        os.set_blocking(reading, False)
        return writing

    def _open_terminal(self, rows: int, columns: int) -> int:
        master, slave = os.openpty()
        self._handed.append(slave)
        self._streams[master] = _Stream("stdout", master, self._command)
        self.terminal = master
        os.set_blocking(master, False)
        termios.tcsetwinsize(slave, (rows, columns))
        return slave

    def _hand(self, descriptor: int) -> int:
        self._handed.append(descriptor)
        return descriptor

    def _close_handed(self) -> None:
        for descriptor in self._handed:
            os.close(descriptor)
        self._handed.clear()

    # -- output -------------------------------------------------------------------------------------------

    def read(self, descriptor: int) -> None:
        """One of its streams has something."""
        self._read(self._streams[descriptor])

    def _read(self, stream: _Stream) -> int:
        """Take one chunk; its size, 0 when there is none now."""
        try:
            chunk = os.read(stream.descriptor, stream.read_bytes)
        except BlockingIOError:
            return 0
        except OSError:  # EIO: the terminal was hung up
            chunk = b""
        if not chunk:
            self._close_stream(stream)
            return 0
        if len(chunk) == stream.read_bytes == READ_FIRST_BYTES:
            stream.read_bytes = PIPE_BYTES
            _enlarge(stream.descriptor)
        stream.capture.add(chunk)
        if self._on_output is not None:
            try:
                self._on_output(stream.name, chunk)
            except Exception as error:
                self.fault = error
                self._on_output = None
                self.cancel()
        return len(chunk)

    def connected(self, connection: "Connection") -> None:
        """One of its connections has ended."""
        self._connections.add(connection)
        if self._command.on_connection is not None and self.fault is None:
            try:
                self._command.on_connection(connection)
            except Exception as error:
                self.fault = error
                self.cancel()

    def _drain(self) -> None:
        """Take what is in the pipes; nobody is left who would write more."""
        if self._readable is None or (self.terminal is None and not self._readable.poll(0)):
            return  # (what was written to a terminal is on its way still, and only a read waits for it)
        for stream in self._streams.values():
            left = DRAIN_BYTES_MAX
            while stream.is_open and left > 0 and (read := self._read(stream)):
                left -= read

    def _close_stream(self, stream: _Stream) -> None:
        if stream.is_open:
            stream.is_open = False
            if self._readable is not None:
                self._readable.unregister(stream.descriptor)
            if stream.descriptor == self.terminal:
                self.terminal = None
                self._loop.remove_writer(stream.descriptor)
            os.close(stream.descriptor)

    def close(self) -> None:
        self._close_handed()
        for stream in self._streams.values():
            self._close_stream(stream)

    # -- the answer ---------------------------------------------------------------------------------------

    def answered(self, message: bytes) -> None:
        """With the launcher's answer; empty when it was lost, as is one that says what no launcher does."""
        if self.is_answered:
            return
        self._drain()
        self.is_answered = True
        self.reply = Reply.unpack(message) if len(message) == messages.REPLY.size else None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def answer(self) -> Reply | None:
        """Wait for it."""
        if not self.is_answered:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self.reply

    def finished(self, reply: Reply) -> Finished:
        """The result; raises what stands for a start that failed, and what a listener raised."""
        if reply.kind != messages.ENDED:
            raise _error(self._command, reply)
        if self.fault is not None:
            raise self.fault
        outputs = {stream.name: stream.capture.output() for stream in self._streams.values()}
        stdout, stderr = outputs["stdout"], outputs.get("stderr", Capture(0, 0).output())
        code = os.waitstatus_to_exitcode(reply.status)
        used = Used() if self._group is None else self._group.used()
        return Finished(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            limit_hit=limit_hit(self._command, reply, used),
            stdout=stdout,
            stderr=stderr,
            usage=_usage(reply, used, stdout, stderr),
            child_pid=reply.pid if self._command.sandbox is None else None,
            child_start_ticks=reply.start_ticks if self._command.sandbox is None else None,
            started_monotonic_ns=reply.started_ns,
            ended_monotonic_ns=reply.ended_ns,
            tree_killed=reply.tree_killed,
            tree_left=reply.tree_left,
            connections=tuple(self._connections.kept),
            connections_dropped=self._connections.dropped,
        )


def _usage(reply: Reply, used: Used, stdout: Output, stderr: Output) -> Usage:
    """What its group counted, else what the launcher measured."""
    return Usage(
        wall_us=(reply.ended_ns - reply.started_ns) // 1000,
        user_us=_first(used.user_us, reply.user_us),
        system_us=_first(used.system_us, reply.system_us),
        memory_peak_bytes=_first(used.memory_peak_bytes, reply.memory_peak_bytes),
        read_bytes=_first(used.read_bytes, reply.read_bytes),
        write_bytes=_first(used.write_bytes, reply.write_bytes),
        context_switches_voluntary=reply.switches_voluntary,
        context_switches_involuntary=reply.switches_involuntary,
        descendants=reply.descendants_seen or None,
        stdout_bytes=stdout.total_bytes,
        stderr_bytes=stderr.total_bytes,
        stdout_dropped_bytes=stdout.dropped_bytes,
        stderr_dropped_bytes=stderr.dropped_bytes,
    )


def _first(counted: int | None, measured: int) -> int | None:
    if counted is not None:
        return counted
    return None if measured < 0 else measured


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:  # a terminal; or over the user's share (pipe-user-pages-soft), and slower
        pass


def memory_file(data: bytes) -> int:
    """A file in memory: no pump, so no deadlock with a command that does not read."""
    descriptor = os.memfd_create("custody")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _request(command: Command, flags: int) -> bytes:
    environment = command.environment if command.sandbox is None else confined_environment(command)
    if command.token:
        environment = {**environment, TOKEN_NAME: command.token}
    texts = [command.cwd, *command.argv, *map("=".join, environment.items())]
    text = "\0".join(texts)
    if not command.argv or text.count("\0") >= len(texts) or "=" in "".join(environment):
        raise UsageError("A command has a name, no NUL in it, and no = in the name of a variable.")
    if command.terminal is not None and (command.stdin is not None or command.stdin_fd is not None):
        raise UsageError("A command under a terminal reads from that, and has no other standard input.")
    return messages.pack_request(
        command.deadline_seconds,
        command.grace_seconds,
        [(_limit(name), value) for name, value in own_limits(command).items()],
        len(command.argv),
        len(environment),
        flags,
        os.fsencode(text),
    )


def _limit(name: str) -> int:
    number = getattr(resource, f"RLIMIT_{name.upper()}", None)
    if number is None:
        raise UsageError(f"There is no resource limit {name!r}.", hint="Names are those of setrlimit(2).")
    return number


def _error(command: Command, reply: Reply) -> SandboxError:
    name, number = command.argv[0], reply.status
    reason = os.strerror(number)
    if reply.kind == messages.STAGES["cwd"]:
        message = f"The working directory {command.cwd!r} cannot be entered: {reason}."
        return WorkingDirectoryGone(message, cwd=command.cwd, errno=number)
    if reply.kind == messages.STAGES["find"] and number == errno.ENOENT:
        return CommandNotFound(f"There is no command {name!r}.", command=name)
    if number in _NO_PROGRAM:
        hint = None
        if number == errno.ENOEXEC:
            hint = "If it is a script, begin it with a #! line or name its interpreter."
        elif number == errno.ENOENT:
            reason = "its interpreter is missing"
            hint = "Look at its #! line, or at the loader it was linked for."
        message = f"The command {name!r} cannot be executed: {reason}."
        return CommandNotExecutable(message, hint=hint, command=name, errno=number)
    if reply.kind == messages.STAGES["group"]:
        return SandboxError(
            f"{name!r} could not be put into the group that bounds it: {reason}.", errno=number
        )
    if number == errno.E2BIG:
        return SandboxError("The command line with its environment is too long.", errno=number)
    return SandboxError(f"The process for {name!r} could not be started: {reason}.", errno=number)
