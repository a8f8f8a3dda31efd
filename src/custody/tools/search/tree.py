"""What lies below a folder, in one order and bounded, without what is hidden or ignored.

Owns the way through the tree for the tools that show it: the nearest first, names in order, so that the same
tree always gives the same answer and a bound cuts what is deepest. Every folder is opened beneath the one it
began with and without following links; names are read, and nothing else. Refuses to know what is done with
what it finds. Used by `file_list` and `file_search`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from msgspec import Struct

from custody.errors import ToolError
from custody.files import Opened, Reach
from custody.files.beneath import open_beneath
from custody.records import EntryKind
from custody.tools.search.gitignore import Ignoring, rules_above
from custody.tools.search.wildmatch import PATTERN_BYTES_MAX

NAMES_MAX = 500_000
"""Looked at on one way: a second or two. A tree that has more is asked about in parts."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


CHOOSING: dict[str, Any] = {
    "glob": {
        "type": "string",
        "minLength": 1,
        "maxLength": PATTERN_BYTES_MAX,
        "description": "Only what matches: *.py by name at any depth, src/**/*.{js,ts} by path.",
    },
    "hidden": {"type": "boolean", "description": "Names that begin with a dot too. (true)"},
    "ignored": {"type": "boolean", "description": "What git ignores too, and .git. (false)"},
}
"""The arguments, as a JSON Schema has them, that choose what of a tree is seen."""


class Wanted(Struct, frozen=True, kw_only=True):
    """Which part of a tree is to be seen."""

    depth_max: int
    """1: what is in the folder itself."""
    hidden: bool
    """Whether names that begin with a dot are."""
    ignored: bool
    """Whether what git would ignore is, `.git` among it."""
    glob: Any = None
    """From `wildmatch.glob_of`; None: everything. Folders that it does not match are gone through too."""


class Seen(NamedTuple):
    """What stands in a folder of the tree."""

    relative: str
    """From the folder it began in; bytes that are not UTF-8 as lone surrogates (PEP 383)."""
    name: str
    kind: EntryKind
    folder_fd: int
    """The folder it is in; good until the next one is asked for."""


class LeftOut:
    """What a way through a tree did not show, by reason."""

    def __init__(self) -> None:
        self.hidden = 0
        self.ignored = 0
        self.protected = 0
        """Folders that may not be listed."""
        self.unreadable = 0
        """Folders that could not be opened or read."""
        self.too_many = False
        """Whether it ended at NAMES_MAX."""

    def said(self) -> dict[str, int]:
        """For a result."""
        return {
            "hidden": self.hidden,
            "ignored": self.ignored,
            "protected": self.protected,
            "unreadable": self.unreadable,
        }


class Way:
    """One way through the tree below an open folder: iterate over it once."""

    def __init__(self, opened: Opened, reach: Reach, wanted: Wanted, stop: Callable[[], bool]) -> None:
        self.left_out = LeftOut()
        """Filled on the way."""
        self._opened = opened
        self._reach = reach
        self._wanted = wanted
        self._stop = stop
        self._names_left = NAMES_MAX
        self._pending: deque[_Folder] = deque()

    def __iter__(self) -> Iterator[Seen]:
        """Raises OSError where the folder it begins in cannot be read, ToolError once `stop` says so."""
        above = Ignoring() if self._wanted.ignored else rules_above(self._opened.path, self._reach.roots)
        self._pending.append(_Folder("", 1, above))
        while self._pending:
            if self._stop():
                raise ToolError("The way through the tree was stopped.")
            if self.left_out.too_many:
                return
            yield from self._inside(self._pending.popleft())

    def _inside(self, folder: "_Folder") -> Iterator[Seen]:
        fd = -1
        try:
            fd = open_beneath(self._opened.fd, folder.relative, _FOLDER, links=False)
            names = self._names_in(fd)
        except OSError:
            if not folder.relative:
                raise
            self.left_out.unreadable += 1
        else:
            yield from self._among(names, folder, fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def _names_in(self, fd: int) -> dict[str, EntryKind]:
        names: dict[str, EntryKind] = {}
        with os.scandir(fd) as entries:
            for entry in entries:
                if self._names_left == 0:
                    self.left_out.too_many = True
                    break
                self._names_left -= 1
                names[entry.name] = _kind(entry)
        return names

    def _among(self, names: dict[str, EntryKind], folder: "_Folder", fd: int) -> Iterator[Seen]:
        wanted, glob = self._wanted, self._wanted.glob
        rules = folder.rules if wanted.ignored else folder.rules.inside(fd, folder.relative, names)
        for name in sorted(names):
            kind = names[name]
            relative = f"{folder.relative}/{name}" if folder.relative else name
            if not wanted.hidden and name.startswith("."):
                self.left_out.hidden += 1
            elif not wanted.ignored and rules.ignores(relative, kind == "directory"):
                self.left_out.ignored += 1
            else:
                if glob is None or glob.fullmatch(os.fsencode(relative)) is not None:
                    yield Seen(relative, name, kind, fd)
                if kind == "directory" and folder.depth < wanted.depth_max:
                    self._enter_later(_Folder(relative, folder.depth + 1, rules))

    def _enter_later(self, folder: "_Folder") -> None:
        path = os.path.join(self._opened.path, folder.relative)
        if self._reach.protected.refusal(path, write=False) is None:
            self._pending.append(folder)
        else:
            self.left_out.protected += 1


class _Folder(NamedTuple):
    """A folder that is still to be entered."""

    relative: str
    depth: int
    rules: Ignoring
    """In force above it."""


def _kind(entry: "os.DirEntry[str]") -> EntryKind:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"
