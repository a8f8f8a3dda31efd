"""The journal's only way to a file system: what it needs of one, and the real one.

Owns every system call that touches the store's journal, blobs and keys: open, put, sync, lock, rename.
Refuses to know what the bytes mean. `disk_memory` and `disk_faulty` are the other implementations; all
pass `tests/journal/test_disk_contract.py`. Paths are relative to the store's folder and use `/`.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable
from typing import Protocol

from custody.errors import StoreReadOnly, StoreUnusable
from custody.journal.disk_lock import RealLock, held, locked_elsewhere, try_lock


class File(Protocol):
    """One open file of the store."""

    def put(self, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`, into the page cache only. The real file keeps the GIL.

        Raises OSError; a short write is continued, or raised as the error that stopped it.
        """
        ...

    def read(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes; fewer at the end of the file."""
        ...

    def sync(self) -> None:
        """Make everything put so far durable (fdatasync). Never retried on the same file after an error."""
        ...

    def punch(self, offset: int, count: int) -> None:
        """Give zeroed bytes back to the file system, as far as it can take them; they still read as zeros."""
        ...

    def size_bytes(self) -> int: ...

    def close(self) -> None: ...


class Lock(Protocol):
    """An exclusive hold on a path, lost when its process dies. Not inherited by a forked child."""

    def release(self) -> None: ...


class Disk(Protocol):
    """The folder of one store."""

    description: str
    """For messages: the folder's path, or `:memory:`."""

    def make_folder(self, path: str) -> None:
        """Create it and its parents (0700) unless they exist, durably."""
        ...

    def names(self, path: str) -> list[str]:
        """Sorted names in a folder; empty when there is no such folder."""
        ...

    def open(self, path: str, *, create: bool = False, write: bool = True) -> File:
        """`create` makes a new file (0600) and fails with FileExistsError if there is one."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Atomically give `path` this content: temporary file, sync, rename, folder sync."""
        ...

    def read_all(self, path: str) -> bytes | None:
        """A small file's content; None when there is none."""
        ...

    def remove(self, path: str) -> None: ...

    def rename(self, path: str, new_path: str) -> None:
        """Give a file another name, taking the place of what has it. Durable with a sync of the folder."""
        ...

    def sync_folder(self, path: str) -> None:
        """Make names created or removed in a folder durable."""
        ...

    def lock(self, path: str) -> Lock | None:
        """Take the lock at `path` (created when missing) if nobody holds it, in this process or another."""
        ...

    def locked(self, path: str) -> bool:
        """Whether somebody, this process included, holds the lock at `path`."""
        ...

    def free_bytes(self) -> tuple[int, int]:
        """Free and total bytes of the file system the store is on."""
        ...


# -- the real one -------------------------------------------------------------------------------------

FILE_MODE = 0o600
FOLDER_MODE = 0o700
PUT_WITH_GIL_BYTES_MAX = 256 * 1024
"""Above this a put gives up the GIL: the copy then takes longer than winning the GIL back is worth."""

TEMPORARY_PREFIX = ".new-"
"""Names `replace` uses until its rename; `names` does not show them."""

BLOCK_BYTES = 4096
"""What file systems give back; one with other blocks keeps what does not fit."""

KEEP_SIZE, PUNCH_HOLE = 1, 2  # of fallocate(2)

NETWORK_FILESYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.glusterfs", "lustre", "afs",
    "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "beegfs", "gpfs",
})  # fmt: skip
"""File system types on which locks or syncs may mean less than they say."""

_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW

# os.pwrite gives up the GIL, and winning it back beside one busy thread costs 5 ms; PyDLL keeps it.
_pwrite = ctypes.PyDLL(None, use_errno=True).pwrite
_pwrite.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_longlong)
_pwrite.restype = ctypes.c_ssize_t

_sync_data = os.fdatasync if hasattr(os, "fdatasync") else os.fsync


class RealFile:
    """A `File` on a file descriptor."""

    __slots__ = ("_descriptor", "_path", "_sync_error")

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._sync_error: OSError | None = None

    def put(self, data: bytes, offset: int) -> None:
        wanted = len(data)
        if wanted > PUT_WITH_GIL_BYTES_MAX:
            return self._put_large(data, offset)
        done = _pwrite(self._descriptor, data, wanted, offset)
        while done != wanted:
            if done > 0:
                data, offset, wanted = data[done:], offset + done, wanted - done
            elif done == 0:
                raise OSError(errno.EIO, "nothing was written", self._path)
            elif (code := ctypes.get_errno()) != errno.EINTR:
                raise OSError(code, os.strerror(code), self._path)
            done = _pwrite(self._descriptor, data, wanted, offset)

    def _put_large(self, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self._descriptor, rest, offset)
            if done == 0:
                raise OSError(errno.EIO, "nothing was written", self._path)
            rest, offset = rest[done:], offset + done

    def read(self, count: int, offset: int) -> bytes:
        data = os.pread(self._descriptor, count, offset)
        while len(data) < count:
            more = os.pread(self._descriptor, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def sync(self) -> None:
        # The kernel tells of a failed write-back once and then marks the pages clean, so a second
        # fdatasync would succeed over bytes that never reached the disk.
        if self._sync_error is not None:
            raise OSError(self._sync_error.errno, "an earlier sync of this file failed", self._path)
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "the file is closed", self._path)
        try:
            _sync_data(self._descriptor)
            if os.fstat(self._descriptor).st_nlink == 0:
                raise OSError(errno.ESTALE, "the file has been deleted", self._path)
        except OSError as error:
            self._sync_error = error
            raise

    def punch(self, offset: int, count: int) -> None:
        first = -(-offset // BLOCK_BYTES) * BLOCK_BYTES
        last = (offset + count) // BLOCK_BYTES * BLOCK_BYTES
        if first < last:
            _punch(self._descriptor, first, last - first)

    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        # The number is forgotten first: the kernel may give it to another file at once.
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _punch(descriptor: int, offset: int, count: int) -> None:
    """Where there is a fallocate(2) and the file system can do it: a hole saves room and is no promise."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)
    if fallocate is not None:
        size = ctypes.c_longlong
        fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, size(offset), size(count))


def _create(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, FILE_MODE)
    os.fchmod(descriptor, FILE_MODE)  # whatever the umask took away
    return descriptor


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_NAME_ANOTHER = "Name another folder with --store or CUSTODY_STORE."
_ASK_OWNER = "Ask its owner for access, or name another folder with --store or CUSTODY_STORE."


def _unusable(path: str, what: str, hint: str) -> StoreUnusable:
    return StoreUnusable(f"The store {path} {what}.", hint=hint, path=path)


def _filesystem_type(path: str) -> str | None:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return mount_type(path, file)
    except OSError:
        return None


def mount_type(path: str, mounts: Iterable[str]) -> str | None:
    """The type of the file system a path is on; `mounts` are lines of proc(5) mountinfo."""
    longest, kind = -1, None
    for fields in map(str.split, mounts):
        point = _unescape_octal(fields[4]).rstrip("/")
        # Of several mounts on one point the last one listed covers the others.
        if f"{path}/".startswith(f"{point}/") and len(point) >= longest:
            longest, kind = len(point), fields[fields.index("-") + 1]
    return kind


def _unescape_octal(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


class RealDisk:
    """A store's folder on a file system.

    `create` makes the folder (0700) when it is missing and refuses one that cannot be written; without
    it a folder that can only be read will do. Raises StoreUnusable, with a hint, for anything else.

    A path is either a lock or a file, never both: see `open`.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self._root: str = os.path.abspath(os.fspath(path))
        self.description = self._root
        self._durable_folders: set[str] = set()
        try:
            if create:
                self._make(self._root)
            status = os.stat(self._root)
        except FileNotFoundError:
            raise _unusable(self._root, "does not exist", "Create it with `custody init`.") from None
        except (FileExistsError, NotADirectoryError):
            raise _unusable(self._root, "is not a folder", _NAME_ANOTHER) from None
        except OSError as error:
            raise _unusable(self._root, f"cannot be used: {error.strerror}", _NAME_ANOTHER) from error
        if not stat.S_ISDIR(status.st_mode):
            raise _unusable(self._root, "is not a folder", _NAME_ANOTHER)
        self._check_access(create)

    def _check_access(self, create: bool) -> None:
        if not os.access(self._root, os.R_OK | os.X_OK):
            raise _unusable(self._root, "cannot be read by this user", _ASK_OWNER)
        self.writable = os.access(self._root, os.W_OK)
        if create and not self.writable:
            raise StoreReadOnly(
                f"The store {self._root} cannot be written by this user.", hint=_ASK_OWNER, path=self._root
            )

    def network_filesystem(self) -> str | None:
        """The type of the network file system the store is on; None for a local one or an unknown one."""
        kind = _filesystem_type(os.path.realpath(self._root))
        return kind if kind in NETWORK_FILESYSTEMS else None

    def make_folder(self, path: str) -> None:
        self._make(self._full(path))

    def _make(self, full: str) -> None:
        if full in self._durable_folders:
            return
        parent = os.path.dirname(full)
        if not os.path.isdir(full):
            if full != self._root:
                self._make(parent)
            elif not os.path.isdir(parent):
                self._make_above(parent)
            try:
                os.mkdir(full, FOLDER_MODE)
                os.chmod(full, FOLDER_MODE)
            except FileExistsError:
                if not os.path.isdir(full):
                    raise
        # Also when it was there: whoever made it may not have come to this sync yet.
        try:
            _sync_folder(parent)
        except PermissionError:
            if full != self._root:  # the folder around the store is not ours to demand
                raise
        self._durable_folders.add(full)

    def _make_above(self, full: str) -> None:
        """The folders above the store are not ours: made with the usual mode."""
        parent = os.path.dirname(full)
        if not os.path.isdir(parent):
            self._make_above(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(full)
        _sync_folder(parent)

    def names(self, path: str) -> list[str]:
        try:
            found = os.listdir(self._full(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if not name.startswith(TEMPORARY_PREFIX))

    def open(self, path: str, *, create: bool = False, write: bool = True) -> RealFile:
        """Refused (EBUSY) for a lock this process holds: closing the file would drop the lock."""
        full = self._full(path)
        self._refuse_held(full)
        if create:
            return RealFile(_create(full), full)
        return RealFile(os.open(full, (os.O_RDWR if write else os.O_RDONLY) | _OPEN_FLAGS), full)

    def replace(self, path: str, data: bytes) -> None:
        full = self._full(path)
        self._refuse_held(full)
        folder, name = os.path.split(full)
        temporary = f"{folder}/{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{name}"
        file = RealFile(_create(temporary), temporary)
        try:
            try:
                file.put(data, 0)
                file.sync()
            finally:
                file.close()
            os.rename(temporary, full)
        except BaseException:
            os.unlink(temporary)
            raise
        _sync_folder(folder)

    def read_all(self, path: str) -> bytes | None:
        full = self._full(path)
        self._refuse_held(full)
        try:
            file = RealFile(os.open(full, os.O_RDONLY | _OPEN_FLAGS), full)
        except FileNotFoundError:
            return None
        try:
            return file.read(file.size_bytes(), 0)
        finally:
            file.close()

    def remove(self, path: str) -> None:
        os.unlink(self._full(path))

    def rename(self, path: str, new_path: str) -> None:
        os.rename(self._full(path), self._full(new_path))

    def sync_folder(self, path: str) -> None:
        _sync_folder(self._full(path))

    def lock(self, path: str) -> RealLock | None:
        full = self._full(path)
        with held.mutex:
            while True:
                if held.find(full) is not None:
                    return None
                flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | _OPEN_FLAGS  # whatever has that name
                descriptor = os.open(full, flags, FILE_MODE)
                try:
                    answer = try_lock(descriptor, full)
                except BaseException:
                    os.close(descriptor)
                    raise
                if isinstance(answer, RealLock):
                    return answer
                os.close(descriptor)
                if answer == "held":
                    return None

    def locked(self, path: str) -> bool:
        full = self._full(path)
        with held.mutex:
            if held.find(full) is not None:
                return True
            try:
                descriptor = os.open(full, os.O_RDONLY | _OPEN_FLAGS)
            except FileNotFoundError:
                return False
            try:
                return locked_elsewhere(descriptor)
            finally:
                os.close(descriptor)

    def free_bytes(self) -> tuple[int, int]:
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def _full(self, path: str) -> str:
        assert not path.startswith("/") and ".." not in path.split("/"), path
        return f"{self._root}/{path}" if path else self._root

    def _refuse_held(self, full: str) -> None:
        if held.find(full) is not None:
            raise OSError(errno.EBUSY, "this process holds it as a lock", full)
