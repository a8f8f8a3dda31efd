"""Every change an install makes to a root: one small class, each operation beneath a folder held open.

Owns nothing but the list of what there is to go wrong. Its other implementation is in the tests, where each
operation fails in its turn, or is the last one before a kill. Used by `install` alone.
"""

import errno
import os
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from custody.files import putting
from custody.records import EntryKind

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

DEPTH_MAX = 128
"""Folders one in another that are removed: each holds a descriptor. What lies deeper is left and told of."""


class FileOperations:
    """The real ones. All names are single components; no link is followed. Each raises OSError."""

    def make_folder(self, folder_fd: int, name: str) -> None:
        """A new folder, with the mode any new one has."""
        putting.make_folder(folder_fd, name, 0o777)

    def write_file(self, folder_fd: int, name: str, chunks: Iterable[bytes], *, mode: int) -> None:
        """A new file, on the disk when this returns; `mode` less the umask. A failure leaves nothing."""
        putting.stage_file(folder_fd, chunks, mode=mode, like=None, name=name)

    def rename(self, folder_fd: int, name: str, new_name: str, *, over: bool = False) -> None:
        """Another name within the folder; raises FileExistsError where it is taken and not `over`."""
        putting.put_in_place(folder_fd, name, new_name, over=over)

    def remove(self, folder_fd: int, name: str, kind: EntryKind) -> None:
        """One file, link or empty folder."""
        putting.remove(folder_fd, name, kind)

    def sync_folder(self, folder_fd: int) -> None:
        """Have the names in the folder on the disk."""
        putting.sync_folder(folder_fd)


@contextmanager
def opened_folder(folder_fd: int, name: str) -> Generator[int]:
    """A folder beneath another, not through a link."""
    fd = os.open(name, _FOLDER, dir_fd=folder_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def stands(folder_fd: int, name: str) -> bool:
    """Whether anything has that name, a link that leads nowhere included."""
    try:
        os.lstat(name, dir_fd=folder_fd)
    except FileNotFoundError:
        return False
    return True


def remove_all(operations: FileOperations, folder_fd: int, name: str, depth: int = 1) -> None:
    """Remove what has that name, with what is below it; nothing there is fine. Raises OSError."""
    try:
        status = os.lstat(name, dir_fd=folder_fd)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        operations.remove(folder_fd, name, "file")
        return
    if depth > DEPTH_MAX:
        raise OSError(errno.ELOOP, f"it lies more than {DEPTH_MAX} folders deep", name)
    with opened_folder(folder_fd, name) as fd:
        for inner in sorted(os.listdir(fd)):
            remove_all(operations, fd, inner, depth + 1)
    operations.remove(folder_fd, name, "directory")
