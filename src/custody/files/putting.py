"""How a path is changed: every writing system call of file work, each relative to a folder that is held open.

Owns the temporary files, the attributes a file is given and the order in which they are. Knows nothing of
which path may be changed (`reach`) or of how a change is kept and taken back. Used by `changes`.

What an ordinary user may not do is left: an owner that is not ours stays ours (the set-user-id and
set-group-id bits go then, as cp(1) drops them), and attributes of the system that it does not let us set
(`security.`, `trusted.`, `system.`) are not set. Attributes of users (`user.`) are set or the work fails.
"""

import ctypes
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress

from custody.errors import ToolError
from custody.files.state import State, xattrs_of
from custody.files.walking import kind_of
from custody.records import EntryKind

TEMPORARY_PREFIX = ".custody-"
"""How the name of every temporary file begins."""

_RANDOM_BYTES = 8
LOCK_WAIT_SECONDS = 2.0
"""For the end of a file to be rewritten by somebody else, with a sync on a busy disk."""

_NAME_TRIES_MAX = 8
"""Two random names of 64 bits that are equal are a broken source of randomness."""

_RENAME_NOREPLACE = 1

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_syncfs = _libc.syncfs
_syncfs.argtypes = [ctypes.c_int]

KEPT_FLAGS = 0x01 | 0x02 | 0x04 | 0x08 | 0x40 | 0x80
"""Of the flags of a file (FS_IOC_GETFLAGS) those its owner may set at any time: s, u, c, S, d and A of
chattr(1). A file that may only be added to, or not changed at all, is never replaced."""

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS where a long has 8 bytes, on x86-64 and arm64; elsewhere they fail."""

_OF_USERS = "user."
_NOT_OURS_TO_SET = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL)


def temporary_name() -> str:
    """A name for something that is to be put in place, or is about to go."""
    return TEMPORARY_PREFIX + os.urandom(_RANDOM_BYTES).hex()


def stage_file(
    folder_fd: int,
    chunks: Iterable[bytes],
    *,
    mode: int,
    like: State | None,
    mtime_ns: int | None = None,
    name: str | None = None,
    synced: bool = True,
) -> str:
    """The name of a new temporary file in the folder, on the disk with its content and attributes.

    `mode`: of a file that is new, less the umask as for any new file. `like`: whose owner, mode (exactly) and
    extended attributes it gets instead. `mtime_ns`: None is now. `name`: a `temporary_name` that the caller
    has written down before. `synced`: False leaves the disk to a later `sync_file_system`. Whatever goes
    wrong, nothing is left behind. Raises OSError, and what `chunks` raises.
    """
    name, fd = _create(folder_fd, mode if like is None else mode & 0o600, name)
    try:
        try:
            for chunk in chunks:
                _write(fd, chunk)
            if like is not None:
                _give(fd, os.fstat(fd), like)
            if mtime_ns is not None:
                _set_mtime(fd, mtime_ns)
            if synced:
                os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with suppress(OSError):  # what went wrong is the error to tell; a file system that is gone cannot
            os.unlink(name, dir_fd=folder_fd)
        raise
    return name


def _create(folder_fd: int, mode: int, name: str | None) -> tuple[str, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    if name is not None:
        return name, os.open(name, flags, mode, dir_fd=folder_fd)
    for _ in range(_NAME_TRIES_MAX):
        name = temporary_name()
        try:
            return name, os.open(name, flags, mode, dir_fd=folder_fd)
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "no free name for a temporary file")


def _write(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]


def put_in_place(
    folder_fd: int, temporary: str, name: str, *, from_folder_fd: int | None = None, over: bool = True
) -> None:
    """Let `temporary` have the name `name`, at once; what stood there goes.

    `from_folder_fd`: the folder it was staged in, where that is another one of the same file system. Without
    `over` FileExistsError is raised where something stands there.
    """
    staged_fd = folder_fd if from_folder_fd is None else from_folder_fd
    if over or not _rename_to_nothing(staged_fd, temporary, folder_fd, name):
        os.rename(temporary, name, src_dir_fd=staged_fd, dst_dir_fd=folder_fd)


def _rename_to_nothing(staged_fd: int, temporary: str, folder_fd: int, name: str) -> bool:
    """Whether it was done; False where the file system has no such call and nothing stands there."""
    names = os.fsencode(temporary), os.fsencode(name)
    code = errno.ENOSYS
    if _renameat2 is not None:
        if _renameat2(staged_fd, names[0], folder_fd, names[1], _RENAME_NOREPLACE) == 0:
            return True
        code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), name)
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def rewrite_tail(
    folder_fd: int, name: str, state: State, keep_bytes: int, chunks: Iterable[bytes], *, size: int
) -> bool:
    """Let `chunks` follow the first `keep_bytes` of a file, in place: its other names and readers see it.

    What stands behind them goes. False, and nothing is done, where it is another file than `state` by now or
    is not `size` bytes long. Where nothing goes, what somebody else adds in the same moment stays, before
    ours or behind it. On the disk when this returns. Raises OSError.
    """
    appends = os.O_APPEND if size == keep_bytes else 0
    flags = os.O_WRONLY | appends | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(name, flags, dir_fd=folder_fd)
    try:
        _lock_if_free(fd)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino, status.st_size) != (state.device, state.inode, size):
            return False
        if size > keep_bytes:
            os.ftruncate(fd, keep_bytes)
        os.lseek(fd, keep_bytes, os.SEEK_SET)
        for chunk in chunks:
            _write(fd, chunk)
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _lock_if_free(fd: int) -> None:
    """Keep others who rewrite an end out until the file is closed; a program that holds its file locked is
    not waited for longer than one of them would take."""
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while time.monotonic() < until:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:  # a file system without locks
            return None


def make_folder(folder_fd: int, name: str, mode: int) -> None:
    """A new folder; `mode` less the umask. Raises FileExistsError."""
    os.mkdir(name, mode, dir_fd=folder_fd)


def make_link(folder_fd: int, name: str, target: str) -> None:
    """A new symbolic link. Raises FileExistsError."""
    os.symlink(target, name, dir_fd=folder_fd)


def link_again(from_folder_fd: int, existing: str, folder_fd: int, name: str) -> None:
    """A further name for the file (or link) `existing`. Raises FileExistsError."""
    os.link(existing, name, src_dir_fd=from_folder_fd, dst_dir_fd=folder_fd, follow_symlinks=False)


def remove(folder_fd: int, name: str, kind: EntryKind) -> None:
    """Remove a file, a link, something else, or an empty folder."""
    if kind == "directory":
        os.rmdir(name, dir_fd=folder_fd)
    else:
        os.unlink(name, dir_fd=folder_fd)


def apply_attributes(
    folder_fd: int, name: str, state: State, *, times: bool, only: tuple[int, int] | None = None
) -> None:
    """Give `name` the owner, mode and extended attributes of `state`, and its time of change if `times`.

    `only`: the device and inode it is to have; who may write to the folder could have given its name to
    another file, which would be given away. Raises ToolError where something else stands there by now,
    OSError.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        status = os.fstat(fd)
        if kind_of(status.st_mode) != state.kind:
            raise ToolError(f"{name} is a {kind_of(status.st_mode)} by now and no {state.kind}.")
        if only not in (None, (status.st_dev, status.st_ino)):
            raise ToolError(f"{name} is another {state.kind} by now.")
        _give(fd, status, state)
        if times:
            _set_mtime(fd, state.mtime_ns)
    finally:
        os.close(fd)


def _give(fd: int, status: os.stat_result, state: State) -> None:
    """Owner, attributes of users, mode, attributes of the system: each may undo what comes before it."""
    path = f"/proc/self/fd/{fd}"
    mode = state.mode
    if not _give_owner(path, status, state):
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    now = xattrs_of(fd)
    wanted = {name: value for name, value in state.xattrs.items() if now.get(name) != value}
    unwanted = now.keys() - state.xattrs.keys()
    if state.kind != "link" and any(name.startswith(_OF_USERS) for name in (*wanted, *unwanted)):
        os.chmod(path, (mode | stat.S_IRUSR | stat.S_IWUSR) & 0o777)  # the owner has to be able to write
    for name in unwanted:
        _change_attribute(name, os.removexattr, path, name)
    for name in [name for name in wanted if name.startswith(_OF_USERS)]:
        os.setxattr(path, name, wanted.pop(name))
    if state.kind != "link":  # the mode of a link is always 0777
        os.chmod(path, mode)
    for name, value in wanted.items():
        _change_attribute(name, os.setxattr, path, name, value)


def _give_owner(path: str, status: os.stat_result, state: State) -> bool:
    """Whether the owner and the group are those of the state now."""
    if (status.st_uid, status.st_gid) == (state.uid, state.gid):
        return True
    if _chown(path, state.uid, state.gid):
        return True
    if status.st_gid != state.gid:
        _chown(path, -1, state.gid)  # ours to give where we belong to it
    return False


def _chown(path: str, uid: int, gid: int) -> bool:
    """Whether it was allowed, and the owner is one that this user namespace and file system know."""
    try:
        os.chown(path, uid, gid)
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_SET:
            raise
        return False
    return True


def _change_attribute(name: str, change: Callable[..., None], *arguments: object) -> None:
    try:
        change(*arguments)
    except OSError as error:
        if name.startswith(_OF_USERS) or error.errno not in _NOT_OURS_TO_SET:
            raise


def keep_flags(from_folder_fd: int, name: str, to_folder_fd: int, other: str) -> None:
    """Give the file `other` the flags (chattr) that `name` has, of those in KEPT_FLAGS. A file system that
    has none, or does not let us, gives none."""
    both = _flags_of(from_folder_fd, name), _flags_of(to_folder_fd, other)
    with suppress(OSError), both[0] as (_, old), both[1] as (fd, new):
        wanted = (new & ~KEPT_FLAGS) | (old & KEPT_FLAGS)
        if wanted != new:
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", wanted))


@contextmanager
def _flags_of(folder_fd: int, name: str) -> Generator[tuple[int, int]]:
    """A descriptor of a file, and its flags. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder_fd)
    try:
        (found,) = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(struct.calcsize("l"))))
        yield fd, found
    finally:
        os.close(fd)


def _set_mtime(fd: int, mtime_ns: int) -> None:
    os.utime(f"/proc/self/fd/{fd}", ns=(os.fstat(fd).st_atime_ns, mtime_ns))


def set_folder_mtime(folder_fd: int, mtime_ns: int) -> None:
    """Let the folder have changed at that time; a folder that is not ours keeps the time it has."""
    with suppress(PermissionError):
        _set_mtime(folder_fd, mtime_ns)


def sync_folder(folder_fd: int) -> None:
    """Have the folder's names on the disk.

    A folder that may not be read cannot be synced alone; the system syncs everything then. A file system that
    cannot sync folders is not asked to.
    """
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder_fd)
    except PermissionError:
        os.sync()
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def sync_entry(folder_fd: int, name: str) -> None:
    """Have the attributes of a file or folder on the disk. What may not be opened is left to the system."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder_fd)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def sync_file_system(folder_fd: int) -> None:
    """Have everything of the folder's file system on the disk: for many files at once. Raises OSError."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        if _syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(fd)


def free_bytes(folder_fd: int) -> int:
    """What an ordinary user may still write to the folder's file system."""
    status = os.fstatvfs(folder_fd)
    return status.f_bavail * status.f_frsize
