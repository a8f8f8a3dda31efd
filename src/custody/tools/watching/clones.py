"""Old content of files, kept without copying it, while a command may change them.

Owns one unnamed file into which the content of many is cloned (FICLONERANGE): on a copy-on-write file system
(btrfs, XFS) both share their blocks until one is written to. It takes one descriptor however many files there
are, and a crash leaves nothing to clean up. Knows nothing of what is kept in the end. Used by `watch`.
"""

import contextlib
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from custody.tools.watching.listing import Entry

FILES_MAX = 2_000  # some 25 µs each, and less than a block of memory
FILE_BYTES_MAX = 64 * 1024**2  # what is larger is data, not what an agent edits
BYTES_MAX = 4 * 1024**3  # their blocks stay taken for as long as the command runs, even if it deletes them
SECONDS_MAX = 0.2  # a clone waits for what of the file is not on the disk yet
XATTR_BYTES_MAX = 4 * 1024  # of one file; ACLs and labels take some hundred
CHUNK_BYTES = 1024**2

_FICLONERANGE = 0x4020940D  # _IOW(0x94, 13, struct file_clone_range), linux/fs.h
_RANGE = struct.Struct("=qQQQ")  # source, its offset, length, offset here
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class CannotClone(Exception):
    """The file system does not share blocks between files."""


class Clone(NamedTuple):
    """Where a file's old content is, and its extended attributes."""

    offset: int
    cloned_bytes: int
    tail: bytes
    """What is left of the last block: cloning that too takes ten times as long as reading it."""
    xattrs: dict[str, bytes]


class Clones:
    """Clones of files of one file system; `close` gives their room back."""

    def __init__(self, folder: str) -> None:
        """In a folder of that file system, where nothing of it is seen. Raises CannotClone."""
        try:
            self._fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:  # read-only, or without unnamed files
            raise CannotClone from error
        self._end = 0
        self._of: dict[str, Clone] = {}
        try:
            # A hole from here to the end: a range that ended with the file would have to be filled up first.
            os.lseek(self._fd, BYTES_MAX, os.SEEK_SET)
            os.write(self._fd, b"\0")
            self._block_bytes = os.fstatvfs(self._fd).f_bsize
            self._device = os.fstat(self._fd).st_dev
            self._clone_range(self._fd, self._block_bytes, at=self._block_bytes)
        except OSError as error:
            self.close()
            raise CannotClone from error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def take(self, files: Mapping[str, Entry]) -> None:
        """Clone the files within the bounds, in their order; what cannot be cloned is left out."""
        until = time.monotonic() + SECONDS_MAX
        for path, entry in files.items():
            if len(self._of) >= FILES_MAX or time.monotonic() > until:
                return
            if entry.size <= min(FILE_BYTES_MAX, BYTES_MAX - self._end) and entry.device == self._device:
                with contextlib.suppress(OSError):
                    self._clone(path, entry)

    def _clone(self, path: str, entry: Entry) -> None:
        fd = os.open(path, _READ)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode) or (before.st_dev, before.st_ino) != entry.identity:
                return  # replaced since it was listed
            cloned_bytes = before.st_size // self._block_bytes * self._block_bytes
            if cloned_bytes:
                self._clone_range(fd, cloned_bytes, at=self._end)
            tail = os.pread(fd, self._block_bytes, cloned_bytes)
            after = os.fstat(fd)
            if (
                (before.st_size, before.st_mtime_ns)
                == (after.st_size, after.st_mtime_ns)
                == (
                    cloned_bytes + len(tail),
                    entry.mtime_ns,
                )
            ):
                self._of[path] = Clone(self._end, cloned_bytes, tail, _xattrs(fd))
                self._end += cloned_bytes
        finally:
            os.close(fd)

    def _clone_range(self, fd: int, length: int, *, at: int) -> None:
        fcntl.ioctl(self._fd, _FICLONERANGE, _RANGE.pack(fd, 0, length, at))

    def get(self, path: str) -> Clone | None:
        return self._of.get(path)

    def content(self, clone: Clone) -> Iterator[bytes]:
        """The old content, in chunks. Raises OSError."""
        at, end = clone.offset, clone.offset + clone.cloned_bytes
        while at < end:
            chunk = os.pread(self._fd, min(CHUNK_BYTES, end - at), at)
            if not chunk:
                raise OSError(f"{end - at} bytes of a clone are missing")
            at += len(chunk)
            yield chunk
        if clone.tail:
            yield clone.tail


def _xattrs(fd: int) -> dict[str, bytes]:
    """The extended attributes, as far as they can be read and are not too large to hold for every file."""
    try:
        found = {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError:
        return {}
    return found if sum(map(len, found.values())) <= XATTR_BYTES_MAX else {}
