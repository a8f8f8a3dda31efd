"""Going through a tree of folders that are held open, entry by entry.

Owns the order (an entry before what is below it), the bounds and what happens when they are met. Follows no
link and keeps no list: a folder of a hundred thousand files takes no more memory than one of ten. Knows
nothing of roots or of what is ignored. Used by the tools that list, search and delete, and by `changes`.
"""

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from custody.errors import ToolError
from custody.records import EntryKind

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class TooMany(ToolError):
    """There are more entries than the walk may visit.

    `details` has `entries_max`. What came before was yielded.
    """


class TooDeep(TooMany):
    """A folder lies deeper than the walk may go.

    `details` has `depth_max` and `relative`, the folder that was yielded and not entered.
    """


class Entry(NamedTuple):
    """What stands in a folder of the tree."""

    relative: str
    """From the folder the walk began in; bytes that are not UTF-8 as lone surrogates (PEP 383)."""
    kind: EntryKind
    stat: os.stat_result
    """Of itself, not of what a link points to."""


def kind_of(mode: int) -> EntryKind:
    """The kind in `st_mode`."""
    match stat.S_IFMT(mode):
        case stat.S_IFREG:
            return "file"
        case stat.S_IFDIR:
            return "directory"
        case stat.S_IFLNK:
            return "link"
        case _:
            return "other"


def walk(
    folder_fd: int,
    *,
    entries_max: int,
    depth_max: int,
    skip: Callable[[str], bool] | None = None,
    on_error: Callable[[str, OSError], None] | None = None,
) -> Iterator[Entry]:
    """Every entry below the folder, each before what is below it, in no other order.

    `skip` is asked with each relative path, a folder's ending in `/`; what it says yes to is left out, with
    what is below it. An entry that vanishes meanwhile is left out. `on_error` is told of a folder that cannot
    be read, which is then left at that; without it OSError is raised. Entries of the folder have depth 1.
    Raises TooMany after `entries_max` entries where there is one more, TooDeep for a folder that would be
    entered at a depth beyond `depth_max`. Two descriptors are held for each depth.
    """
    levels: list[_Level] = []
    left = entries_max
    try:
        levels.append(_Level(os.open(".", _FOLDER, dir_fd=folder_fd), ""))
        while levels:
            entry = levels[-1].next(skip)
            if entry is None:
                levels.pop().close()
                continue
            if left == 0:
                raise TooMany(f"There are more than {entries_max} entries.", entries_max=entries_max)
            left -= 1
            yield entry
            if entry.kind == "directory":
                if len(levels) >= depth_max:
                    raise TooDeep(
                        f"{entry.relative} is a folder {depth_max} levels deep, where the walk ends.",
                        depth_max=depth_max,
                        relative=entry.relative,
                    )
                _enter(levels, entry, on_error)
    finally:
        for level in levels:
            level.close()


def _enter(levels: "list[_Level]", entry: Entry, on_error: Callable[[str, OSError], None] | None) -> None:
    name = entry.relative.rpartition("/")[2]
    try:
        fd = os.open(name, _FOLDER, dir_fd=levels[-1].fd)
    except (FileNotFoundError, NotADirectoryError):  # it vanished, or another thing has its name by now
        return
    except OSError as error:
        if on_error is None:
            raise
        on_error(entry.relative, error)
        return
    levels.append(_Level(fd, f"{entry.relative}/"))


class _Level:
    """A folder in which the walk stands."""

    def __init__(self, fd: int, prefix: str) -> None:
        self.fd = fd
        self._prefix = prefix
        try:
            self._names = os.scandir(fd)
        except BaseException:
            os.close(fd)
            raise

    def next(self, skip: Callable[[str], bool] | None) -> Entry | None:
        for found in self._names:
            relative = self._prefix + found.name
            if skip is not None and skip(relative + "/" if found.is_dir(follow_symlinks=False) else relative):
                continue
            try:
                status = found.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            return Entry(relative, kind_of(status.st_mode), status)
        return None

    def close(self) -> None:
        self._names.close()
        os.close(self.fd)
