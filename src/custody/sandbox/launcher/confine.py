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
import marshal
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

from . import kernel, messages, private, user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import TracebackType
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself brings `enum`: a third of the launcher's start

VERSION = 4
REFUSED = 71  # EX_OSERR of sysexits.h
ORPHANED_SECONDS = 1.0
"""When the parent is gone the socket closes and pid 1 ends the command, with a grace a little below this."""

_NAMESPACES_LEAST = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC
_NAMESPACES_MOST = _NAMESPACES_LEAST | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS
_OVERFLOW_ID = 65534  # the owner of all that cannot be mapped, and of what other programs left to "nobody"
_COVER_ATTRIBUTES = kernel.MOUNT_NO_SETUID | kernel.MOUNT_NO_DEVICES
_PROC_ATTRIBUTES = _COVER_ATTRIBUTES | kernel.MOUNT_NO_EXECUTE
_TERMINALS_ATTRIBUTES = kernel.MOUNT_NO_SETUID | kernel.MOUNT_NO_EXECUTE
_LANDLOCK_FILE_RIGHTS = 0x1C007
"""Execute, write and read a file, truncate, device ioctl, resolve a socket: the kernel takes no others for
what is no folder."""
_SIOCSIFFLAGS = 0x8914
_INTERFACE_UP = 0x1
_LISTENER = ("127.0.0.1", 3128)  # what programs are told their proxy is
_LISTENER_BACKLOG = 128  # connections a command opens in one burst
_PLAN_BYTES_MAX = 16 * 1024 * 1024  # thousands of rules are less than one


class Plan:
    """What is to be done, as it arrives."""

    def __init__(self, body: bytes) -> None:
        fields = marshal.loads(body)
        self.user_namespace: bool = fields["user_namespace"]
        self.namespaces: int = fields["namespaces"]
        self.loopback: bool = fields["loopback"]
        self.listener: bool = fields["listener"]
        self.overlay: list[tuple[str, str, str]] = [
            (root, upper, work) for root, upper, work in fields["overlay"]
        ]
        self.keep: list[tuple[str, str, str]] = [(source, to, how) for source, to, how in fields["keep"]]
        self.cover: list[tuple[str, str]] = [(target, options) for target, options in fields["cover"]]
        self.private: list[str] = fields["private"]
        self.kept: str = fields["kept"]
        self.files: list[tuple[str, bytes]] = [(path, content) for path, content in fields["files"]]
        self.read_only: list[str] = fields["read_only"]
        self.landlock: dict[str, int] = fields["landlock"]
        self.rules: list[tuple[str, int]] = fields["landlock"]["rules"]
        self.ports: list[tuple[int, int]] = fields["landlock"]["ports"]
        self.uid: int | None = fields["uid"]
        self.gid: int | None = fields["gid"]
        self.filter: bytes = fields["seccomp"]
        self.limits: list[tuple[int, int]] = fields["limits"]
        self.hostname: str | None = fields["hostname"]
        self._check(fields["version"], fields["proc"])

    def _check(self, version: int, proc: bool) -> None:
        """That it is a plan this launcher understands whole, and no less than it stands for."""
        missing = _NAMESPACES_LEAST & ~self.namespaces
        unknown = self.namespaces & ~_NAMESPACES_MOST
        # Without a proc of its own pid 1 would take the machine's processes for those it started.
        if version != VERSION or missing or unknown or not proc:
            raise ValueError("namespaces")
        if _OVERFLOW_ID in (self.uid, self.gid):
            raise ValueError("uid")
        if self.hostname is not None and not self.namespaces & kernel.CLONE_NEWUTS:
            raise ValueError("hostname")  # it would be the machine's
        if self.loopback and not self.namespaces & kernel.CLONE_NEWNET:
            raise ValueError("loopback")
        if self.listener and not self.loopback:
            raise ValueError("listener")
        targets = [target for _, target, _ in self.keep] + [root for root, _, _ in self.overlay]
        for target in (*targets, *(target for target, _ in self.cover)):
            if not target.startswith("/") or target == "/" or os.path.normpath(target) != target:
                raise ValueError("target")


class Refused(Exception):
    """A wall that cannot be put up."""

    def __init__(self, wall: str, error: Exception) -> None:
        number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
        call = f" in {error.call}" if isinstance(error, kernel.CallFailed) else ""
        self.line = f"{wall}: {number} {os.strerror(number)}{call}"


class Wall:
    """What is done within it belongs to one wall: any error there is a `Refused` that names it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, Refused):
            raise Refused(self._name, error) from error


def enter(plan_descriptor: int, channel: int, parent: int) -> None:
    """Put up all walls. Returns in pid 1 only, with no descriptors but the standard ones and `channel`."""
    try:
        with Wall("plan"):
            plan = Plan(os.pread(plan_descriptor, _PLAN_BYTES_MAX, 0))
            os.closerange(3, channel)  # the plan too
            os.closerange(channel + 1, os.sysconf("SC_OPEN_MAX"))
        _leave_the_machine(plan, channel)
        with Wall("namespaces"):
            kernel.unshare(kernel.CLONE_NEWPID)
            living, outside = os.pipe()  # reads as ended when the process outside is gone
            pid = os.fork()
        if pid:
            os.close(channel)
            os.close(living)
            _accompany(pid, parent)
        os.close(outside)
        _confine(plan, living)
        os.close(living)
    except Refused as refusal:
        os.write(2, f"{refusal.line}\n".encode())
        os._exit(REFUSED)


# -- outside: what needs the machine's processes, or its folders as they are --------------------------


def _leave_the_machine(plan: Plan, channel: int) -> None:
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
    mappings = user_namespace.Mappings(plan.uid, plan.gid)
    with Wall("keep"):
        mounts = _kept_mounts(plan, mappings)
    with Wall("overlay"):
        mounts += _overlays(plan)
    with Wall("cover"):
        mask = os.umask(0)
        mounts += _covering_mounts(plan, mappings)
        os.umask(mask)
    mappings.close()
    _attach(mounts, plan)


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


class _Mount:
    """A mount that is attached nowhere yet."""

    def __init__(self, wall: str, target: str, descriptor: int, *, fresh: bool = False) -> None:
        """`fresh`: nobody else can see it, so what is missing in it may be made there."""
        self.wall = wall
        self.target = target
        self.descriptor = descriptor
        self.fresh = fresh

    def order(self) -> tuple[list[str], bool]:
        """What lies above comes first; in one place what covers comes before what is kept."""
        return self.target.split("/"), self.wall != "cover"


def _kept_mounts(plan: Plan, mappings: user_namespace.Mappings) -> list[_Mount]:
    found: list[_Mount] = []
    for source, target, how in plan.keep:
        folder = kernel.open_path(source)
        mount = kernel.clone_mount(folder)
        if how == "idmap":
            kernel.restrict_mount(mount, _COVER_ATTRIBUTES, mappings.of(os.fstat(folder)))
        elif how in ("rw", "ro"):
            kernel.restrict_mount(mount, _COVER_ATTRIBUTES | kernel.MOUNT_READ_ONLY * (how == "ro"))
        else:
            raise ValueError(how)
        os.close(folder)
        found.append(_Mount("keep", target, mount))
    return found


def _overlays(plan: Plan) -> list[_Mount]:
    if not plan.overlay:
        return []
    from .overlay import new_overlay  # most launchers have none

    user = None if plan.uid is None or plan.gid is None else (plan.uid, plan.gid)
    own = plan.user_namespace
    return [
        _Mount("overlay", root, new_overlay(root, upper, work, _COVER_ATTRIBUTES, user, own=own))
        for root, upper, work in plan.overlay
    ]


def _covering_mounts(plan: Plan, mappings: user_namespace.Mappings) -> list[_Mount]:
    found: list[_Mount] = []
    mapped = None if plan.uid is None else mappings.of
    for target, options in plan.cover:
        pairs = [(name, value) for name, _, value in (option.partition("=") for option in options.split(","))]
        mount = None
        if target in plan.private:
            mode, wanted = int(dict(pairs)["mode"], 8), _beneath(target, plan)
            mount = private.shared_mount(plan.kept, target, mode, wanted, mapped)
        is_own = mount is None
        if mount is None:
            mount = kernel.new_mount("tmpfs", _COVER_ATTRIBUTES, pairs)
        found.append(_Mount("cover", target, mount, fresh=is_own))
    return found


def _beneath(target: str, plan: Plan) -> list[tuple[str, bytes | None]]:
    """What has to be in a covered place: places for mounts, and files with their content; None: a folder."""
    wanted: list[tuple[str, bytes | None]] = [
        *((to, None if os.path.isdir(source) else b"") for source, to, _ in plan.keep),
        *((covered, None) for covered, _ in plan.cover),
        *plan.files,
    ]
    return [(path, content) for path, content in wanted if _covered_by(path, plan) == target]


def _covered_by(path: str, plan: Plan) -> str:
    above = (target for target, _ in plan.cover if path.startswith(f"{target}/"))
    return max(above, key=len, default="")


def _attach(mounts: list[_Mount], plan: Plan) -> None:
    fresh: set[int] = set()  # devices
    mask = os.umask(0o022)
    for mount in sorted(mounts, key=_Mount.order):
        with Wall(mount.wall):
            found = os.fstat(mount.descriptor)
            place = _place(mount.target, stat.S_ISDIR(found.st_mode), fresh, plan)
            kernel.attach_mount(mount.descriptor, place)
            os.close(place)
            os.close(mount.descriptor)
            if mount.fresh:
                fresh.add(found.st_dev)
    in_memory = [mount.target for mount in mounts if mount.fresh]
    with Wall("files"):
        for path, content in plan.files:
            if _covered_by(path, plan) not in in_memory:
                continue  # there it is since the run's first command, and that command's to change
            place = _place(path, False, fresh, plan)
            file = os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_CLOEXEC)
            os.write(file, content)  # in memory, and a few lines
            os.close(file)
            os.close(place)
    os.umask(mask)


def _place(target: str, is_folder: bool, fresh: set[int], plan: Plan) -> int:
    """Where a mount goes. What is missing is made, on a fresh file system only."""
    place = os.open("/", os.O_PATH | os.O_CLOEXEC)
    names = target.split("/")[1:]
    for position, name in enumerate(names):
        above = place
        try:
            place = kernel.open_path(name, above)
        except kernel.CallFailed as error:
            if error.errno != errno.ENOENT or os.fstat(above).st_dev not in fresh:
                raise
            if is_folder or position < len(names) - 1:
                os.mkdir(name, 0o755, dir_fd=above)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=above))
            owner = (-1 if plan.uid is None else plan.uid, -1 if plan.gid is None else plan.gid)
            os.chown(name, *owner, dir_fd=above, follow_symlinks=False)
            place = kernel.open_path(name, above)
        os.close(above)
    return place


def _accompany(pid: int, parent: int) -> NoReturn:
    """Until pid 1 has ended. What this process is killed by kills pid 1, and so everything."""
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
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        code = ended if ended >= 0 else 128 - ended
    finally:
        os._exit(code)


# -- inside: pid 1 ------------------------------------------------------------------------------------


def _confine(plan: Plan, living: int) -> None:
    with Wall("namespaces"):
        _end_with(living)
    with Wall("proc"):
        proc = kernel.new_mount("proc", _PROC_ATTRIBUTES, [])
        _put(proc, kernel.open_path("/proc"))
    with Wall("terminals"):
        _hide_terminals()
    with Wall("read_only"):
        for path in plan.read_only:
            _make_read_only(path)
    with Wall("limits"):
        for number, value in plan.limits:
            _limit(number, value)
    with Wall("no_new_privs"):
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    with Wall("landlock"):
        _restrict_files(plan)
    with Wall("capabilities"):
        kernel.drop_bounding_set()
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


def _put(mount: int, place: int) -> None:
    kernel.attach_mount(mount, place)
    os.close(mount)
    os.close(place)


def _hide_terminals() -> None:
    """A command could read what its user types at another one. /dev/ptmx makes new ones in what is mounted
    beside it; a terminal that is handed to a command stays its own."""
    try:
        place = kernel.open_path("/dev/pts")
    except kernel.CallFailed as error:
        if error.errno == errno.ENOENT:  # nor are there any terminals then
            return
        raise
    options = [("ptmxmode", "0666"), ("mode", "0620")]
    _put(kernel.new_mount("devpts", _TERMINALS_ATTRIBUTES, options), place)


def _make_read_only(path: str) -> None:
    try:
        place = kernel.open_path(path)
    except kernel.CallFailed as error:
        if error.errno == errno.ENOENT:
            return
        raise
    mount = kernel.clone_mount(place)
    kernel.restrict_mount(mount, kernel.MOUNT_READ_ONLY)
    _put(mount, place)


def _limit(number: int, value: int) -> None:
    _, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY:
        value = hard if value == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))


def _restrict_files(plan: Plan) -> None:
    ruleset = kernel.landlock_ruleset(plan.landlock["fs"], plan.landlock["net"], plan.landlock["scoped"])
    for path, rights in plan.rules:
        try:
            descriptor = kernel.open_path(path)
        except kernel.CallFailed as error:
            # What is a link, or beyond one, is granted by the rule for where it leads, or not at all.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                continue
            raise
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _LANDLOCK_FILE_RIGHTS
        if rights:
            kernel.landlock_allow_path(ruleset, rights, descriptor)
        os.close(descriptor)
    for port, rights in plan.ports:
        kernel.landlock_allow_port(ruleset, rights, port)
    kernel.landlock_restrict(ruleset)
    os.close(ruleset)


def _change_identity(plan: Plan) -> None:
    if not plan.user_namespace:  # there the groups are this user's own, and cannot be left
        os.setgroups([])
    if plan.gid is not None:
        os.setresgid(plan.gid, plan.gid, plan.gid)
    if plan.uid is not None:
        os.setresuid(plan.uid, plan.uid, plan.uid)
