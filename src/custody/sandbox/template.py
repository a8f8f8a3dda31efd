"""Our end of the template: the process of which launchers are forked, so that no other has to be started.

Owns the template's process and what is asked of it. It only makes launchers sooner: where there is none, or
it does not answer, `fork` says so, and the caller starts a launcher the long way. Knows nothing of what a
launcher is asked. Used by `process` and `one_launcher`.
"""

import asyncio
import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess

from custody.sandbox.launcher import messages

ANSWER_SECONDS = 1.0
"""For a fork, which takes a millisecond or two. Beyond it the template hangs (somebody may have stopped it)
and is given up. The event loop waits so long, at most as often as there may be templates."""
END_SECONDS = 5.0  # what was killed ends within milliseconds; a bound for one we may not kill any more

TEMPLATES_MAX = 3  # in one runtime: where they are lost again and again, something is against them

_PASSING = (-errno.EAGAIN, -errno.ENOMEM)  # too many processes, too little memory: perhaps not the next time

_RIGHTS = (
    *(b"Umask", b"Uid", b"Gid", b"Groups", b"SigIgn", b"Cap", b"NoNewPrivs", b"Seccomp", b"Speculation"),
    *(b"Cpus_allowed", b"Mems_allowed"),
)
_FILES = ("limits", "cgroup", "oom_score_adj", "loginuid", "personality", "attr/current")
_NAMESPACES = ("pid", "pid_for_children", "mnt", "net", "ipc", "uts", "user", "cgroup", "time_for_children")
_CONTENT_BYTES_MAX = 65536

_PROGRAM = os.path.join(os.path.dirname(__file__), "launcher", "program.py")


class Forked:
    """A launcher's process that a template forked: a child of ours, as if we had."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Take it up if it has ended; its exit code, or the negative signal."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody took it up already
                self.returncode = 0
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """End it; nothing where it has ended, as its number may be another's then."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Template:
    """One template's process. Raises OSError when it cannot be started."""

    def __init__(self, python: str) -> None:
        self.rights = rights()
        self._is_ready = False
        self.is_lost = False
        """It will fork nothing any more."""
        self._strays: list[Forked] = []
        """Launchers that it forked when it had been given up already."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [python, "-I", "-S", _PROGRAM, "template", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},  # no secret of the host's is in it
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            self._control.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(
        self, channel: int, errors: int, plan: int | None, *, no_new_privs: bool, cgroup: str
    ) -> Forked | None:
        """A launcher at these descriptors; None where none can be had from here, or not yet. Takes a
        millisecond or two."""
        if not self._is_like_us():  # it may still do what we may not any more
            self.close()
        if not self.is_ready:
            return None
        body = messages.FORK.pack(no_new_privs, plan is not None) + os.fsencode(cgroup)
        passed = [channel, errors, *([] if plan is None else [plan])]
        rights = struct.pack(f"{len(passed)}i", *passed)
        try:
            handed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            self._control.sendmsg([body], handed, socket.MSG_NOSIGNAL)
        except OSError:
            self.close()
            return None
        answer = self._answer(ANSWER_SECONDS)
        if answer is not None and answer > 0:
            return Forked(answer)
        if answer not in _PASSING:  # where it cannot fork once, it hardly will
            self.close()
        return None

    @property
    def is_ready(self) -> bool:
        """It has loaded all there is, and may be asked."""
        if not self._is_ready and not self.is_lost:
            self._is_ready = self._answer(0) == 0
        return self._is_ready and not self.is_lost

    def _answer(self, seconds: float) -> int | None:
        """None when there is none yet, or will be none: then the socket is closed."""
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        if not poll.poll(seconds * 1000):
            return None
        try:
            message = self._control.recv(messages.FORKED.size)
            return messages.FORKED.unpack(message)[0]
        except (OSError, struct.error):
            self.close()
            self._control.close()
            return None

    def _is_like_us(self) -> bool:
        try:
            return self.rights == rights()
        except OSError:
            return False

    def close(self) -> None:
        """Give it up: it ends, and the launchers it forked go on. What is left of it is for `poll`."""
        if self.is_lost:
            return
        self.is_lost = True
        with contextlib.suppress(OSError):  # it ends by this, but for one that hangs
            self._control.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):  # we may have become a user who may not
            self._process.kill()

    def poll(self) -> bool:
        """Take up what has ended of one that was given up; whether nothing is left. It may have been about to
        fork, and the launcher tells its number all the same: that is ended too."""
        while self._control.fileno() >= 0 and (pid := self._answer(0)) is not None:
            if pid > 0:
                self._strays.append(Forked(pid))
                self._strays[-1].kill()
        return not self._there() and self._control.fileno() < 0

    def _there(self) -> "list[subprocess.Popen[bytes] | Forked]":
        return [process for process in (self._process, *self._strays) if process.poll() is None]

    async def end(self) -> None:
        """Give it up; when this returns nothing of it is left."""
        self.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended(), END_SECONDS)
        self._control.close()

    async def _ended(self) -> None:
        while not self.poll():
            if self._control.fileno() >= 0:
                await _readable(self._control.fileno())
            else:
                for process in self._there():
                    await ended(process.pid)

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self._process.returncode = 0  # else its finaliser would warn of a process still running
        with contextlib.suppress(OSError):
            self._control.close()


class Templates:
    """The template of one runtime: there from when it is of use, and again where it was lost."""

    def __init__(self, python: str) -> None:
        self._python = python
        self._template: Template | None = None
        self._lost: list[Template] = []
        self._left = TEMPLATES_MAX
        self._is_first = True

    def get(self) -> Template | None:
        """For the next launcher. There is none for the first: a single command is not made to pay for what it
        has no use for."""
        self._lost = [template for template in self._lost if not template.poll()]
        if self._template is not None and self._template.is_lost:
            self._lost.append(self._template)
            self._template = None
        if self._template is None and self._left and not self._is_first:
            self._left -= 1
            with contextlib.suppress(OSError):
                self._template = Template(self._python)
        self._is_first = False
        return self._template

    def ready(self) -> Template | None:
        """The one a launcher can be forked of at once."""
        return self._template if self._template is not None and self._template.is_ready else None

    async def close(self) -> None:
        """End it; when this returns nothing of it is left."""
        templates, self._template, self._lost = [*self._lost, self._template], None, []
        self._left = 0
        for template in filter(None, templates):
            await template.end()

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        for template in filter(None, (*self._lost, self._template)):
            template.forget()


async def ended(pid: int) -> None:
    """Wait until a child has ended, without taking it up."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # somebody took it up already
        return
    try:
        await _readable(descriptor)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def rights() -> tuple[object, ...]:
    """What a process that is started now may do, and where it would be. Raises OSError where that cannot be
    told, and where it would be in another pid namespace than ours: it would tell us numbers of others."""
    own = "/proc/thread-self"
    lines = [line for line in (_content(f"{own}/status") or b"").splitlines() if line.startswith(_RIGHTS)]
    places = [_target(f"{own}/ns/{name}") for name in _NAMESPACES]
    if not lines or places[0] is None or places[0] != places[1]:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    files = [_content(f"{own}/{name}") for name in _FILES]
    priority = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getparam(0)
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        mount = _content(f"{own}/fdinfo/{root}")  # a link to it would say `/` of any
    finally:
        os.close(root)
    return lines, places, files, priority, mount


def _content(path: str) -> bytes | None:
    """None where there is no such file here."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _CONTENT_BYTES_MAX)
    except OSError:  # of some, as no security module is there to answer
        return None
    finally:
        os.close(descriptor)


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
