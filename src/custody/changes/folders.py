"""Folders held open, so that a thousand files in one of them open it once.

Owns how a target's folder is opened: beneath its root, and through no link. Used wherever `changes` touches a
path.
"""

import errno
import os
from collections import OrderedDict
from types import TracebackType
from typing import Self

from custody.files.beneath import open_beneath, open_exactly
from custody.files.reach import Target

HELD_MAX = 64
"""A small part of the 1,024 descriptors that a process usually has."""

_FLAGS = os.O_PATH | os.O_DIRECTORY


class Folders:
    """Descriptors of folders (O_PATH), for the length of a `with` block. Not for several threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], int] = OrderedDict()

    def of(self, target: Target) -> tuple[int, str]:
        """The folder a target stands in, and its name there. Good until the next but one call. Raises
        OSError."""
        folder, _, name = target.relative.rpartition("/")
        assert name, "a root is not changed as a whole"
        return self._open(target.root, folder), name

    def at(self, folder: Target) -> int:
        """A target that is a folder itself. Raises OSError."""
        return self._open(folder.root, folder.relative)

    def names(self, folder: Target) -> list[str]:
        """What stands in a folder, which is no root. Raises OSError."""
        above, name = self.of(folder)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def forget(self, folder: Target) -> None:
        """It has been removed: what gets its name is another."""
        fd = self._held.pop((folder.root, folder.relative), None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, root: str, relative: str) -> int:
        key = (root, relative)
        fd = self._held.get(key)
        if fd is not None:
            self._held.move_to_end(key)
            return fd
        try:
            fd = (
                open_beneath(self._open(root, ""), relative, _FLAGS, links=False)
                if relative
                else open_exactly(root, _FLAGS)
            )
        except OSError as error:
            if error.errno == errno.ELOOP and relative:  # a link has its place: there is no such folder
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), relative) from error
            raise
        self._held[key] = fd
        if len(self._held) > HELD_MAX:
            os.close(self._held.popitem(last=False)[1])
        return fd


def folder_of(target: Target) -> Target:
    """The folder a target stands in."""
    return Target(target.root, target.relative.rpartition("/")[0])


def beside(target: Target, name: str) -> Target:
    """Another name in the same folder."""
    folder = target.relative.rpartition("/")[0]
    return Target(target.root, f"{folder}/{name}" if folder else name)


def within(folder: Target, name: str) -> Target:
    """A name (or relative path) in a folder."""
    return Target(folder.root, f"{folder.relative}/{name}" if folder.relative else name)
