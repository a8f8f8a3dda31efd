"""What the launcher process does: take a command, watch it, end its tree, answer.

Owns the deadline, the phases of ending a tree, the reaping and the measuring. It refuses to know what is run
and what becomes of the output: descriptors arrive with the request and go straight to the command.

The process is single-threaded, has a session of its own and is the subreaper of everything below it, so "this
process has no children" means "the tree is gone". Its life is bound to its socket and to the process that
started it. With a plan for walls it is pid 1 of a pid namespace, which leaves it the socket (see `confine`).
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import os
import select
import struct
import time
from _socket import (  # `socket` itself would cost a fifth of the launcher's start
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOL_SOCKET,
    socket,
)

# The program knows no package `custody`, so its parts name each other.
from . import kernel, messages
from .messages import CANCELLED, DEADLINE, DISK, FILES, NO_LIMIT, Reply, Request
from .spawn import Refused, start
from .tree import Tree, children_of, read, stat_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself brings `enum`: a third of the launcher's start

SETTLE_SECONDS = 0.2
"""What is still there when the command has ended gets so long to end by itself: the last process of a
pipeline may be about to write its output."""
ORPHANED_GRACE_SECONDS = 0.2  # from SIGTERM to SIGKILL when nobody waits for the result any more
SWEEP_SECONDS = 0.01  # between two sweeps of SIGKILL: forks race with a sweep, the next one gets those
KILL_SECONDS = 5.0  # then what is left is in uninterruptible sleep, or another user's, and is reported
POLL_SECONDS_MAX = 86_400.0  # poll(2) takes 24 days at most; a later deadline is looked at again
TERM_SWEEPS_MAX = 5  # each finds what was forked during the one before

MEMORY_MARGIN_BYTES = 1024 * 1024
"""The kernel counts resident pages per processor and roughly; a peak this close to the launcher's own is just
that."""

# Of the launcher only: SIGKILL and the closing of its socket end it, nothing a stray signal does.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# What Python itself ignores, and no program expects to inherit so.
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)

RUNNING, SETTLING, TERMINATING, KILLING = range(4)


class Call:
    """One command from its start until nothing of its tree is left: what became of it, and what it used."""

    def __init__(self, pid: int, started_ns: int, request: Request) -> None:
        self.pid = pid
        self.started_ns = started_ns
        self.grace_seconds = request.grace_seconds
        self.phase = RUNNING
        self.until: float | None = None  # when the phase is over, by time.monotonic
        if request.deadline_seconds is not None:
            self.until = started_ns / 1e9 + request.deadline_seconds
        self.give_up = 0.0
        self.limit = NO_LIMIT
        self.status: int | None = None
        self.tree = Tree()
        found = stat_of(pid)
        self.start_ticks = found.start_ticks if found is not None else 0
        self.reaped = 0
        self.user_seconds = self.system_seconds = 0.0
        self.memory_peak_bytes = 0
        self.switches = [0, 0]
        self.io: list[int] | None = None

    def reap(self) -> bool:
        """Take up what has ended; False when there are no children, so no tree, any more."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if ended is None:
                return True
            io = _io_of(ended.si_pid)  # to be had of a zombie, gone once it is reaped
            if io is not None:
                self.io = io if self.io is None else [a + b for a, b in zip(self.io, io, strict=True)]
            _, status, used = os.wait4(ended.si_pid, 0)
            self.reaped += 1
            if ended.si_pid == self.pid:
                self.status = status
            self.user_seconds += used.ru_utime
            self.system_seconds += used.ru_stime
            self.memory_peak_bytes = max(self.memory_peak_bytes, used.ru_maxrss * 1024)
            self.switches[0] += used.ru_nvcsw
            self.switches[1] += used.ru_nivcsw

    def reply(self, own_peak_bytes: int, left: int) -> Reply:
        """What there is to say, `left` processes being still there."""
        known = self.memory_peak_bytes > own_peak_bytes + MEMORY_MARGIN_BYTES
        read, written = self.io or (-1, -1)
        seen = max(self.reaped, len(self.tree.signalled)) - 1  # without the command itself
        return Reply(
            kind=messages.ENDED,
            limit=self.limit,
            worn=self.phase == KILLING,
            status=self.status if self.status is not None else signal.SIGKILL,
            pid=-1 if os.getpid() == 1 else self.pid,  # of its own pid namespace, it says nothing outside
            start_ticks=self.start_ticks,
            started_ns=self.started_ns,
            ended_ns=time.monotonic_ns(),
            user_us=round(self.user_seconds * 1e6),
            system_us=round(self.system_seconds * 1e6),
            memory_peak_bytes=self.memory_peak_bytes if known else -1,
            read_bytes=read,
            write_bytes=written,
            switches_voluntary=self.switches[0],
            switches_involuntary=self.switches[1],
            descendants_seen=max(seen, 0),
            tree_killed=len(self.tree.signalled),
            tree_left=left,
        )


def _io_of(pid: int) -> list[int] | None:
    """Bytes read from and written to storage, by the process and the children it waited for."""
    try:
        lines = read(f"/proc/{pid}/io").split()
        return [int(lines[lines.index(b"read_bytes:") + 1]), int(lines[lines.index(b"write_bytes:") + 1])]
    except (OSError, ValueError):
        return None


def _full() -> int:
    """Why a command may have failed that has folders in memory of its own: one takes no more."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = [line.split() for line in file]
    for fields in mounts:
        if fields[fields.index(b"-", 6) + 1] != b"tmpfs":
            continue
        try:
            found = os.statvfs(fields[4])
        except OSError:  # covered by another
            continue
        if found.f_flag & os.ST_RDONLY:
            continue
        if found.f_blocks and not found.f_bavail:
            return DISK
        if found.f_files and not found.f_favail:
            return FILES
    return NO_LIMIT


def _own_peak_bytes() -> int:
    """What a child's peak begins with: it counts this process's memory until execve."""
    lines = read("/proc/self/status").split()
    return int(lines[lines.index(b"VmHWM:") + 1]) * 1024


# -- the process --------------------------------------------------------------------------------------


class Launcher:
    """The process's one loop."""

    def __init__(
        self, channel: socket, parent: int | None, cgroup: str | None, *, is_for_one: bool = False
    ) -> None:
        """`parent` is None within walls: it cannot be seen from there, and another process watches it.
        `is_for_one`: it ends by itself when its first command has."""
        self._channel = channel
        self._parent = parent
        self._cgroup = cgroup
        self._is_for_one = is_for_one
        self._alone = False  # nobody waits for a result: the socket is closed, or the parent gone
        self._own_peak_bytes = _own_peak_bytes()
        inherited = {number for number in _IGNORED if signal.getsignal(number) is signal.SIG_IGN}
        self._signals_default: list[int] = [*set(_IGNORED) - inherited, *_PYTHON_IGNORES]
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        self._wakeup, writing = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _wake)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._poll = select.poll()
        self._bonds = [channel.fileno()]
        if parent is not None:
            self._bonds.append(os.pidfd_open(parent))
            if os.getppid() != parent:  # it ended before the pidfd was opened, which may be of another then
                self._alone = True
        for descriptor in (*self._bonds, self._wakeup):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> None:
        """One command after the other, until nobody is there."""
        while not self._alone:
            self._wait(None, None)
        folder = self._cgroup
        if folder and os.getppid() != self._parent and self._leave_cgroup():  # else the parent does it
            try:
                os.rmdir(folder)
            except OSError:  # something is left in it
                pass

    def _run(self, request: Request) -> None:
        started_ns = time.monotonic_ns()
        refused: Reply | None = None
        pid = 0
        try:
            pid = start(request, self._signals_default)
        except Refused as refusal:
            refused = Reply(kind=messages.STAGES[refusal.stage], status=refusal.errno)
        for descriptor in request.descriptors:
            os.close(descriptor)
        self._answer(refused or self._accompany(Call(pid, started_ns, request)))
        if self._is_for_one:
            self._be_alone()

    def _accompany(self, call: Call) -> Reply:
        left = self._watch(call)
        if self._parent is None and call.status and call.limit == NO_LIMIT:
            call.limit = _full()
        if call.memory_peak_bytes > self._own_peak_bytes:  # mostly it is not, and that needs no second look
            self._own_peak_bytes = _own_peak_bytes()
        return call.reply(self._own_peak_bytes, left)

    def _watch(self, call: Call) -> int:
        """Until nothing of the tree is left; the number of children that cannot be ended."""
        while call.reap():
            now = time.monotonic()
            if call.phase == RUNNING and call.status is not None:
                call.phase, call.until = SETTLING, now + SETTLE_SECONDS
            if self._alone and call.phase < TERMINATING:
                call.grace_seconds = ORPHANED_GRACE_SECONDS
                self._terminate(call)
            elif call.until is not None and now >= call.until:
                if call.phase == RUNNING:
                    call.limit = DEADLINE
                if call.phase < TERMINATING:
                    self._terminate(call)
                elif call.phase == TERMINATING or now < call.give_up:
                    self._kill(call, now)
                else:
                    return sum(1 for _ in children_of(os.getpid()))
            self._wait(call, call.until)
        return 0

    def _terminate(self, call: Call) -> None:
        call.phase = TERMINATING
        for _ in range(TERM_SWEEPS_MAX):
            if not call.tree.sweep(signal.SIGTERM):
                break
        call.until = time.monotonic() + call.grace_seconds

    def _kill(self, call: Call, now: float) -> None:
        if call.phase != KILLING:
            call.phase, call.give_up = KILLING, now + KILL_SECONDS
            if self._parent is None:
                self._kill_namespace(call.tree)
            else:
                self._kill_cgroup(call.tree)
        call.tree.sweep(signal.SIGKILL)
        call.until = time.monotonic() + SWEEP_SECONDS

    def _kill_cgroup(self, tree: Tree) -> None:
        """All at once, which no fork outruns; the sweeps find what had moved elsewhere."""
        folder = self._cgroup
        if not self._leave_cgroup():
            return
        try:
            with open(f"{folder}/cgroup.procs", "rb") as file:
                for pid in map(int, file.read().split()):
                    if (found := stat_of(pid)) is not None:
                        tree.signalled.add((pid, found.start_ticks))
            _write(f"{folder}/cgroup.kill", b"1")
        except OSError:  # removed by hand, perhaps
            pass

    def _kill_namespace(self, tree: Tree) -> None:
        """As pid 1: all others at once, which no fork outruns."""
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid != os.getpid() and (found := stat_of(pid)) is not None and not found.dead:
                tree.signalled.add((pid, found.start_ticks))
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _leave_cgroup(self) -> bool:
        if self._cgroup is None:
            return False
        folder, self._cgroup = self._cgroup, None
        try:
            _write(os.path.join(os.path.dirname(folder), "cgroup.procs"), b"0")
        except OSError:
            return False
        return True

    def _wait(self, call: Call | None, until: float | None) -> None:
        """Until something happens or the time has come; take what messages there are."""
        timeout = None
        if until is not None:
            timeout = min(max(0.0, until - time.monotonic()), POLL_SECONDS_MAX) * 1000 + 0.5
        for descriptor, _ in self._poll.poll(timeout):
            if descriptor == self._wakeup:
                self._drain_wakeup()
            elif descriptor == self._channel.fileno():
                self._receive(call)
            else:
                self._be_alone()

    def _drain_wakeup(self) -> None:
        try:
            os.read(self._wakeup, 4096)
        except BlockingIOError:  # a command came and went between the poll and this
            pass

    def _be_alone(self) -> None:
        if not self._alone:
            self._alone = True
            for descriptor in self._bonds:  # they would be ready for ever
                self._poll.unregister(descriptor)

    def _receive(self, call: Call | None) -> None:
        try:
            message, ancillary, _, _ = self._channel.recvmsg(
                messages.MESSAGE_BYTES_MAX + 1, CMSG_SPACE(messages.DESCRIPTORS_MAX * 4), MSG_CMSG_CLOEXEC
            )
        except OSError:
            message, ancillary = b"", []
        if not message:
            self._be_alone()
            return
        descriptors = received(ancillary)
        kind, body = message[:1], message[1:]
        if kind in (messages.RUN, messages.RUN_LONG):
            assert call is None, "one command at a time"
            if kind == messages.RUN_LONG:
                memory = descriptors.pop(0)
                with open(memory, "rb") as file:
                    file.seek(0)
                    body = file.read()
            self._run(Request(body, descriptors))
        elif call is None or call.status is not None:
            pass  # it came too late
        elif kind == messages.SIGNAL:
            try:
                os.killpg(call.pid, body[0])  # its leader is not reaped, so the number is its own
            except (ProcessLookupError, PermissionError):
                pass
        elif kind == messages.CANCEL and call.phase == RUNNING:
            call.limit = CANCELLED
            self._terminate(call)

    def _answer(self, reply: Reply) -> None:
        if self._alone:
            return
        try:
            self._channel.send(reply.pack())
        except OSError:
            self._be_alone()


def _wake(signum: int, frame: object) -> None:
    """SIGCHLD needs a handler for its byte to be written to the wakeup pipe."""


def received(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            found += struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
    return found


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)


def main(arguments: list[str]) -> None:
    """Arguments: the socket's descriptor, the parent's pid, `1` for no_new_privs, the cgroup or nothing, the
    descriptor of the plan for its walls or -1."""
    descriptor, parent, no_new_privs, cgroup, plan = arguments
    os.set_inheritable(int(descriptor), False)
    if cgroup:
        try:
            _write(f"{cgroup}/cgroup.procs", b"0")
        except OSError:  # not ours to move in: sweeps do without
            cgroup = ""
    begin(int(descriptor), int(parent), no_new_privs=no_new_privs == "1", cgroup=cgroup, plan=int(plan))


def begin(channel: int, parent: int, *, no_new_privs: bool, cgroup: str, plan: int) -> NoReturn:
    """Be a launcher, in this cgroup if there is one. `plan` is a descriptor, or -1."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if no_new_privs:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    bond: int | None = parent
    is_for_one = False
    if plan != -1:
        from . import confine

        is_for_one = confine.enter(plan, channel, parent)
        bond, cgroup = None, ""  # both are of the world outside
    Launcher(socket(fileno=channel), bond, cgroup or None, is_for_one=is_for_one).serve()
    os._exit(0)
