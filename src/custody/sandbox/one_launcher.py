"""One launcher process, as the runtime has it: it is started, given one command after the other, and reaped.

Owns the process, its socket, its cgroup and, where its network is `listed`, the way out. Which commands it
may serve, how many of its kind there are and when it ends is for `process` to say; what runs on it is
`running`'s.
"""

import asyncio
import contextlib
import os
import select
import socket
import subprocess
from collections.abc import Callable

from custody.errors import SandboxError
from custody.sandbox.cgroup import Cgroup
from custody.sandbox.confined import Key, Shared, Walls
from custody.sandbox.launcher import messages
from custody.sandbox.outlet import Outlet, listener_of
from custody.sandbox.running import Running, memory_file
from custody.sandbox.template import Forked, Template, ended

_PROGRAM = os.path.join(os.path.dirname(__file__), "launcher", "program.py")
_LAST_WORDS_BYTES = 2000


class OneLauncher:
    """Our end of one launcher process."""

    def __init__(
        self,
        python: str,
        key: Key,
        plan: bytes | None,
        cgroup: Cgroup | None,
        on_idle_end: Callable[["OneLauncher"], None],
        template: Template | None = None,
    ) -> None:
        """Forked of the template where there is one that is ready, else started anew."""
        self.key = key
        self.is_fresh = True
        """It has finished no command yet; only now may it refuse to be walled in."""
        self.is_last = False
        """It serves no command after this one."""
        self._on_idle_end = on_idle_end
        self.idle_since = 0.0
        self.cgroup = cgroup
        self._running: Running | None = None
        sandbox = key.sandbox if isinstance(key, Walls) else None
        is_listed = sandbox is not None and sandbox.network == "listed"
        self._outlet = None if sandbox is None or not is_listed else Outlet(sandbox.hosts)
        self._awaits_listener = is_listed
        """Its first message brings the listener. Later ones bring nothing: a command may have come to control
        it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[bool] | None = None
        """Whether all walls are up, where that is waited for."""
        self._over = asyncio.Event()
        """Nobody has the other end of the channel any more."""
        self.channel, theirs = _channel()
        self.last_words = ""
        """What it wrote to its standard error, if it ended by itself."""
        self._errors = os.memfd_create("custody-launcher")
        self._readable = select.epoll()
        """The streams of its command: in the loop once and for all, which costs less than two changes of the
        loop for each stream."""
        try:
            self.process = self._start(python, theirs, plan, template)
        except OSError as error:
            self.close()
            theirs.close()
            raise SandboxError(f"No launcher process can be started: {error}.") from error

    def _start(
        self, python: str, theirs: socket.socket, plan: bytes | None, template: Template | None
    ) -> "subprocess.Popen[bytes] | Forked":
        plan_file = None if plan is None else memory_file(plan)
        no_new_privs = isinstance(self.key, Shared) and self.key.no_new_privs
        cgroup = self.cgroup.path if self.cgroup else ""
        try:
            if template is not None:
                forked = template.fork(
                    theirs.fileno(), self._errors, plan_file, no_new_privs=no_new_privs, cgroup=cgroup
                )
                if forked is not None:
                    return forked
                if template.is_lost:
                    # It may have forked one before, and two must not have one channel: that one's closes now.
                    self.channel.close()
                    theirs.close()
                    self.channel, theirs = _channel()
            arguments = (
                theirs.fileno(),
                os.getpid(),
                int(no_new_privs),
                cgroup,
                -1 if plan_file is None else plan_file,
            )
            return subprocess.Popen(
                [python, "-I", "-S", _PROGRAM, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},  # no secret of the host's is in it, and no call's token
                pass_fds=[theirs.fileno(), *([] if plan_file is None else [plan_file])],
                start_new_session=True,
            )
        finally:
            theirs.close()
            if plan_file is not None:
                os.close(plan_file)

    @property
    def pid(self) -> int:
        return self.process.pid

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take notice of what it says, and of its end."""
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self.channel.fileno(), self._receive)
            loop.add_reader(self._readable.fileno(), self._read)

    def show(self, views: bytes) -> None:
        """Tell one that waits for them of its views; `ready` says what came of it."""
        assert self._loop is not None, "it is watched while it waits"
        self._ready = self._loop.create_future()
        try:
            self.channel.send(views)
        except OSError:  # it is gone
            self._answer(False)

    async def ready(self, seconds: float) -> bool:
        """Whether it is behind all walls. If not, it has begun nothing, and never will."""
        assert self._loop is not None and self._ready is not None, "it has been shown its views"
        bound = self._loop.call_later(seconds, self._answer, False)
        try:
            is_ready = await self._ready
            self.is_fresh = not is_ready
            return is_ready
        finally:
            bound.cancel()
            self._ready = None

    def _answer(self, is_ready: bool) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(is_ready)

    def run(self, running: Running, loop: asyncio.AbstractEventLoop) -> bool:
        """Hand it a command; False when the process is gone, and nothing has begun."""
        self.watch(loop)
        self._running = running
        if running.send(self.channel, self._readable):
            if self._outlet is not None:
                self._outlet.begin(running.connected)
            return True
        self._running = None
        return False

    async def release(self) -> bool:
        """The command has ended, and so do its connections. Whether there may be another."""
        is_over = self._outlet is None or await self._outlet.end()
        self._running = None
        self.is_fresh = False
        return is_over and not (isinstance(self.key, Walls) and self.key.views)

    def kill(self) -> None:
        """The launcher itself, when it does not answer."""
        self.process.kill()

    def _read(self) -> None:
        for descriptor, _ in self._readable.poll(0):
            if self._running is not None:
                self._running.read(descriptor)

    def _receive(self) -> None:
        try:
            message = self._next()
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            assert self._loop is not None, "messages are read on a loop"
            self._loop.remove_reader(self.channel.fileno())
            self.last_words = _tail(self._errors)
            self._over.set()
            if self._ready is not None:
                self._answer(False)
            elif self._running is not None:
                self._running.answered(b"")
            else:
                self._on_idle_end(self)
        elif self._ready is not None:
            self._answer(message == messages.READY)
        elif self._running is not None:
            self._running.answered(message)

    def _next(self) -> bytes:
        """A reply; empty when the other end is closed."""
        if not self._awaits_listener:
            return self.channel.recv(messages.REPLY.size)
        taken = socket.recv_fds(self.channel, messages.REPLY.size, 1, socket.MSG_CMSG_CLOEXEC)
        message, descriptors = taken[0], taken[1]
        self._awaits_listener = False
        listener = listener_of(descriptors)
        if listener is not None and self._outlet is not None:
            self._outlet.opened(listener)
        return self._next() if message == messages.LISTENER else message

    def close(self) -> None:
        """Close our end: it ends what it may be running, and itself."""
        self._over.set()
        self._answer(False)
        if self.channel.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self.channel.fileno())
                self._loop.remove_reader(self._readable.fileno())
            self.last_words = self.last_words or _tail(self._errors)
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        self.channel.close()
        self._readable.close()
        os.close(self._errors)

    async def left(self) -> None:
        """Have it end, and wait until nothing runs behind its walls any more. The process outside of them has
        the channel open until it has taken up pid 1, of which the kernel says so when all others are gone.
        It is still to be reaped: its mounts may take it a moment longer."""
        with contextlib.suppress(OSError):  # it is gone
            self.channel.shutdown(socket.SHUT_WR)
        ways = [asyncio.ensure_future(self._over.wait()), asyncio.ensure_future(ended(self.pid))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)

    async def reap(self) -> None:
        """Wait until the process has ended, and take it up."""
        if self.process.returncode is None:  # else its number may be another's
            await ended(self.pid)
        self.process.poll()
        if self._outlet is not None:
            await self._outlet.close()
        if self.cgroup is not None:
            await self.cgroup.end()

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self.process.returncode = 0  # else its finaliser would warn of a process still running
        if self._outlet is not None:
            self._outlet.forget()
        if self.channel.fileno() >= 0:
            self._close_descriptors()


def _channel() -> tuple[socket.socket, socket.socket]:
    """Our end, and the launcher's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES))
    return data.decode(errors="replace").strip()
