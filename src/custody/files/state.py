"""What stands at a path: kind, content, permissions, owner, times, attributes.

Owns the looking and the comparison of what was seen. Changes nothing, keeps nothing. Used by `putting`, which
gives a file the attributes of another, by `changes`, which compares before with after, and by the tools.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from custody.errors import ToolError
from custody.files.walking import kind_of
from custody.records import Version

CHUNK_BYTES = 1024 * 1024
"""Read at once: large enough that system calls do not count, small enough to hold."""

READS_MAX = 3
"""A file that changes while it is read is read again; one that changes each time is being written to."""

SYSTEM_XATTRS = frozenset(
    {"security.selinux", "security.SMACK64", "security.ima", "security.evm", "security.apparmor"}
)
"""Labels and measurements that the system makes itself for each file; neither kept nor given back."""


class State(Struct, frozen=True, array_like=True):
    """What stands at a path, or that nothing does."""

    kind: Literal["absent", "file", "directory", "link", "other"]
    mode: int = 0
    """Permission bits, with set-user-id, set-group-id and sticky."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    """Of a file, in bytes."""
    sha256: bytes | None = None
    """Of a file's content, 32 bytes; None where it was not read."""
    target: str | None = None
    """Where a symbolic link points to, as it is written there."""
    xattrs: dict[str, bytes] = {}
    """Without the system's own (SYSTEM_XATTRS)."""
    device: int = 0
    inode: int = 0
    names: int = 1
    """Hard links."""


ABSENT = State("absent")


def look(
    folder_fd: int, name: str, *, digest: bool = True, sink: Callable[[bytes], None] | None = None
) -> State:
    """What `name` in the folder is; a link is itself, not what it points to.

    `digest`: read a file's content and hash it; `sink` then gets it too, in chunks of at most CHUNK_BYTES. An
    empty chunk says that the file changed and is read again from its start: forget what came before. Raises
    ToolError for a file that changes each time it is read, OSError for what cannot be looked at.
    """
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    except FileNotFoundError:
        return ABSENT
    try:
        return _look(fd, name, digest, sink)
    finally:
        os.close(fd)


def _look(fd: int, name: str, digest: bool, sink: Callable[[bytes], None] | None) -> State:
    """Of what an O_PATH descriptor stands for."""
    status = os.fstat(fd)
    kind = kind_of(status.st_mode)
    sha256 = None
    if kind == "file" and digest:
        status, sha256 = _read(fd, name, sink)
    return State(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        sha256=sha256,
        target=os.readlink("", dir_fd=fd) if kind == "link" else None,
        xattrs=xattrs_of(fd),
        device=status.st_dev,
        inode=status.st_ino,
        names=status.st_nlink,
    )


def _read(path_fd: int, name: str, sink: Callable[[bytes], None] | None) -> tuple[os.stat_result, bytes]:
    """The status and the digest of a file that stayed the same while it was read."""
    try:
        fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    try:
        for attempt in range(READS_MAX):
            if attempt and sink is not None:
                sink(b"")
            before = os.fstat(fd)
            digest = _hash(fd, before.st_size, sink)
            after = os.fstat(fd)
            if digest is not None and _unmoved(before, after):
                return after, digest
    finally:
        os.close(fd)
    raise ToolError(
        f"{name} changed each of {READS_MAX} times it was read.",
        hint="Something is writing to it; try again when that is done.",
    )


def _unmoved(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _hash(fd: int, size: int, sink: Callable[[bytes], None] | None) -> bytes | None:
    """The digest of the first `size` bytes; None where there are fewer or more."""
    digest = hashlib.sha256()
    at = 0
    while at <= size:
        chunk = os.pread(fd, min(CHUNK_BYTES, size - at + 1), at)  # one more: a file that grew shows
        if not chunk:
            break
        at += len(chunk)
        if at > size:
            return None
        digest.update(chunk)
        if sink is not None:
            sink(chunk)
    return digest.digest() if at == size else None


def xattrs_of(fd: int) -> dict[str, bytes]:
    """The extended attributes of what a descriptor (O_PATH too) stands for, without the system's own."""
    path = f"/proc/self/fd/{fd}"
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            return {}
        raise
    found: dict[str, bytes] = {}
    for name in names:
        if name in SYSTEM_XATTRS:
            continue
        try:
            found[name] = os.getxattr(path, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES):
                raise
    return found


def same(a: State, b: State) -> bool:
    """Whether kind, content, permission bits and target are equal; times, owner and inode do not count."""
    if a.kind != b.kind:
        return False
    if a.kind == "link":
        return a.target == b.target
    return a.kind == "absent" or (a.mode, a.size, a.sha256) == (b.mode, b.size, b.sha256)


def version_of(state: State) -> Version | None:
    """The same in the words of a record; None where there was nothing."""
    if state.kind == "absent":
        return None
    return Version(
        bytes=state.size if state.kind == "file" else None,
        sha256=None if state.sha256 is None else state.sha256.hex(),
        mode=f"{state.mode:04o}",
        target=state.target,
    )
