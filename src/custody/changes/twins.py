"""Other names of files that have several (hard links), so that what is brought back is one file again.

Owns the search for them. A number (inode) tells that two names are one file only while the file stands; a
name that was noted tells it later, if the same content, time and attributes stand there. Used where states
are kept, and where they are brought back.
"""

from collections.abc import Container
from contextlib import suppress

from custody.changes.folders import Folders, folder_of, within
from custody.changes.log import Entry
from custody.errors import ToolError
from custody.files.putting import TEMPORARY_PREFIX
from custody.files.reach import Target
from custody.files.state import State
from custody.files.walking import walk

NAMES_SEARCHED_MAX = 10_000
DEPTH_SEARCHED_MAX = 32
"""Where other names are looked for: the file's folder and those around it, up to the root. A file whose other
names are not found is brought back as a file of its own."""


class Names:
    """The names found so far beneath a root; each folder is searched once."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._found: dict[int, list[Target]] = {}
        """Inode -> names of that file."""
        self._searched: set[Target] = set()
        self._names_left = NAMES_SEARCHED_MAX

    def other(self, target: Target, state: State, but: Container[str]) -> Target | None:
        """Another name of the file that stands, or stood, at a path; `but` none of these absolute paths."""
        if state.kind != "file" or state.names < 2:
            return None
        folder = folder_of(target)
        while (other := self._known(state.inode, but)) is None and self._names_left > 0:
            if folder in self._searched:
                break
            self._searched.add(folder)
            self._note_below(folder)
            folder = folder_of(folder)
        return other

    def _known(self, inode: int, but: Container[str]) -> Target | None:
        return next((name for name in self._found.get(inode, ()) if name.path not in but), None)

    def _note_below(self, folder: Target) -> None:
        with suppress(OSError, ToolError):  # it is gone, or there are too many names
            folder_fd = self._folders.at(folder)
            for found in walk(folder_fd, entries_max=self._names_left, depth_max=DEPTH_SEARCHED_MAX):
                self._names_left -= 1
                staged = found.relative.rpartition("/")[2].startswith(TEMPORARY_PREFIX)
                if found.kind == "file" and not staged:  # which soon has another name, or none
                    self._found.setdefault(found.stat.st_ino, []).append(within(folder, found.relative))


class Twins:
    """For the paths of one change that are brought back: the other name each is to be linked to."""

    def __init__(self, folders: Folders) -> None:
        self._names = Names(folders)
        self._brought: dict[tuple[int, int], Target] = {}

    def of(self, entry: Entry) -> Target | None:
        """None where what stood there had one name, or no other is found."""
        before = entry.before
        if before.kind != "file" or before.names < 2 or before.sha256 is None:
            return None
        first = self._brought.setdefault((before.device, before.inode), entry.target)
        if first != entry.target:
            return first
        return entry.twin or self._names.other(entry.target, before, but=(entry.target.path,))
