"""The walls around a launcher: it carries out a plan and goes on as pid 1 of a pid namespace of its own.

Owns the order in which walls are put up, and what becomes of the process that started pid 1: it waits, takes
the watch over the parent, and ends when pid 1 does. What a plan says is decided by `walls`; here it is done
to the letter or not at all. A wall that cannot be had ends the launcher before it takes any command, with
one line on standard error, `WALL: ERRNO WORDS`, and the exit code REFUSED. The wall is named as in the plan.

Used by the launcher's service.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import errno
import fcntl
import os
import resource  # also for `spawn`: within the walls the library may be out of reach
import select
import stat
import struct
from _socket import (
    AF_INET,
    SCM_RIGHTS,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    sethostname,
    socket,
)

from . import kernel, messages, user_namespace
from .mounts import (
    attach,
    attach_proc,
    covering_mounts,
    hide_terminals,
    kept_mounts,
    make_read_only,
    overlays,
    write_files,
)
from .plan import Plan, Refused, Wall

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from .later import Later
else:
    import _signal as signal  # `signal` itself brings `enum`: a third of the launcher's start

REFUSED = 71  # EX_OSERR of sysexits.h
ORPHANED_SECONDS = 1.0
"""When the parent is gone the socket closes and pid 1 ends the command, with a grace a little below this."""

_LANDLOCK_FILE_RIGHTS = 0x1C007
"""Execute, write and read a file, truncate, device ioctl, resolve a socket: the kernel takes no others for
what is no folder."""
_SIOCSIFFLAGS = 0x8914
_INTERFACE_UP = 0x1
_LISTENER = ("127.0.0.1", 3128)  # what programs are told their proxy is
_LISTENER_BACKLOG = 128  # connections a command opens in one burst
_PLAN_BYTES_MAX = 16 * 1024 * 1024  # thousands of rules are less than one


def enter(plan_descriptor: int, channel: int, parent: int) -> bool:
    """Put up all walls. Returns in pid 1 only, with no descriptors but the standard ones and `channel`:
    whether the launcher is for a single command."""
    try:
        with Wall("plan"):
            plan = Plan(os.pread(plan_descriptor, _PLAN_BYTES_MAX, 0))
            _close_all_but(channel)  # the plan too
        later = _leave_the_machine(plan, channel)
        with Wall("namespaces"):
            kernel.unshare(kernel.CLONE_NEWPID)
            living, outside = os.pipe()  # reads as ended when the process outside is gone
            pid = os.fork()
        if pid:
            _close_all_but(channel, outside)
            _accompany(pid, parent, channel)
        os.close(outside)
        _confine(plan, living, later)
        os.close(living)
        if later is not None:
            later.ready()
    except Refused as refusal:
        os.write(2, f"{refusal.line}\n".encode())
        os._exit(REFUSED)
    return later is not None


def _close_all_but(*kept: int) -> None:
    first = 3
    for descriptor in (*sorted(kept), os.sysconf("SC_OPEN_MAX")):
        os.closerange(first, descriptor)
        first = descriptor + 1


# -- outside: what needs the machine's processes, or its folders as they are --------------------------


def _leave_the_machine(plan: Plan, channel: int) -> Later | None:
    """The overlays that are not made yet, where the plan says so."""
    if plan.user_namespace:
        with Wall("user_namespace"):
            user_namespace.enter_own()
    with Wall("namespaces"):
        kernel.unshare(plan.namespaces & ~kernel.CLONE_NEWPID)
        kernel.make_mounts_private()
    if plan.hostname is not None:
        with Wall("hostname"):
            sethostname(plan.hostname)
    if plan.loopback:
        with Wall("loopback"):
            any_socket = socket(AF_INET, SOCK_DGRAM)
            fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _INTERFACE_UP))
            any_socket.close()
    if plan.listener:
        with Wall("listener"):
            _hand_out_listener(channel)
    return _arrange_mounts(plan, channel)


def _arrange_mounts(plan: Plan, channel: int) -> Later | None:
    later: Later | None = None
    fresh: set[int] = set()
    mappings = user_namespace.Mappings(plan.uid, plan.gid)
    with Wall("keep"):
        mounts = kept_mounts(plan, mappings)
    with Wall("overlay"):
        if plan.later:
            from .later import Later  # most launchers have no overlays

            later = Later(plan, channel)
            mounts = later.put_off(mounts, fresh)
        else:
            mounts += overlays(plan)
    with Wall("cover"):
        mounts += covering_mounts(plan, mappings)
    mappings.close()
    attach(mounts, plan, fresh)
    with Wall("files"):
        write_files(plan, fresh)
    return later


def _hand_out_listener(channel: int) -> None:
    """It belongs to the network namespace for good; who has it answers connections made in there."""
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    listener.bind(_LISTENER)
    listener.listen(_LISTENER_BACKLOG)
    parent = socket(fileno=channel)
    try:
        handed = [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", listener.fileno()))]
        parent.sendmsg([messages.LISTENER], handed)
    finally:
        parent.detach()
    listener.close()


def _accompany(pid: int, parent: int, channel: int) -> NoReturn:
    """Until pid 1 has ended. What this process is killed by kills pid 1, and so everything.

    It has the socket open until then: where that reads as ended, nothing runs behind these walls any more.
    What is left of them, its own memory and the mounts, takes the kernel a few milliseconds longer.
    """
    code = REFUSED
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        first, bond = os.pidfd_open(pid), os.pidfd_open(parent)
        poll = select.poll()
        poll.register(first, select.POLLIN)
        poll.register(bond, select.POLLIN)
        # Where it ended before the pidfd was opened, that may be of another.
        if os.getppid() != parent or all(descriptor != first for descriptor, _ in poll.poll()):
            poll.unregister(bond)
            if not poll.poll(ORPHANED_SECONDS * 1000):
                signal.pidfd_send_signal(first, signal.SIGKILL)
        # The kernel says that pid 1 has ended when all others of its namespace have.
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(channel)
        code = ended if ended >= 0 else 128 - ended
    finally:
        os._exit(code)


# -- inside: pid 1 ------------------------------------------------------------------------------------


def _confine(plan: Plan, living: int, later: Later | None) -> None:
    with Wall("namespaces"):
        _end_with(living)
    with Wall("proc"):
        attach_proc()
    with Wall("terminals"):
        hide_terminals()
    with Wall("read_only"):
        for path in plan.read_only:
            make_read_only(path)
    with Wall("limits"):
        for number, value in plan.limits:
            _limit(number, value)
    with Wall("no_new_privs"):
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    with Wall("capabilities"):
        kernel.drop_bounding_set()
    _restrict_files(plan, later)
    with Wall("uid"):
        _change_identity(plan)
    with Wall("capabilities"):
        kernel.drop_capabilities()
    with Wall("namespaces"):
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # else a command of the same uid could read this memory
        _end_with(living)  # a change of identity forgets it
    with Wall("seccomp"):
        kernel.load_filter(plan.filter)


def _end_with(living: int) -> None:
    """Bind this process's life to that of the one outside."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_blocking(living, False)
    try:
        os.read(living, 1)
    except BlockingIOError:
        return
    raise ProcessLookupError(errno.ESRCH, "outside")


def _limit(number: int, value: int) -> None:
    _, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY:
        value = hard if value == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))


def _restrict_files(plan: Plan, later: Later | None) -> None:
    """All but what overlays show is allowed before they are there, as it takes its time. A rule holds for the
    folder that it was taken on, and not for what is mounted over that."""
    inside: list[tuple[str, int]] = []
    with Wall("landlock"):
        ruleset = kernel.landlock_ruleset(plan.landlock["fs"], plan.landlock["net"], plan.landlock["scoped"])
        for port, rights in plan.ports:
            kernel.landlock_allow_port(ruleset, rights, port)
        for path, rights in plan.rules:
            if later is not None and later.covers(path):
                inside.append((path, rights))
            else:
                _allow(ruleset, path, rights)
    if later is not None:
        with Wall("namespaces"):
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # it may wait for long
        later.put_up()
    with Wall("landlock"):
        for path, rights in inside:
            _allow(ruleset, path, rights)
        kernel.landlock_restrict(ruleset)
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = kernel.open_path(path)
    except kernel.CallFailed as error:
        # What is a link, or beyond one, is granted by the rule for where it leads, or not at all.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return
        raise
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _LANDLOCK_FILE_RIGHTS
    if rights:
        kernel.landlock_allow_path(ruleset, rights, descriptor)
    os.close(descriptor)


def _change_identity(plan: Plan) -> None:
    if not plan.user_namespace:  # there the groups are this user's own, and cannot be left
        os.setgroups([])
    if plan.gid is not None:
        os.setresgid(plan.gid, plan.gid, plan.gid)
    if plan.uid is not None:
        os.setresuid(plan.uid, plan.uid, plan.uid)
