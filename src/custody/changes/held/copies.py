"""A copy of a root that a command sees in its place, where there can be no overlay.

Owns the making of the copy, with everything that belongs to a file, and how it is told afterwards what the
command changed in it. Knows nothing of how a command comes to see it. Used by `holding`.
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from custody.changes.folders import Folders, within
from custody.changes.held.found import NOTHING, Below, Found, too_large, too_many
from custody.errors import CannotHold, ToolError
from custody.files.putting import apply_attributes, link_again, make_folder, make_link, stage_file
from custody.files.reach import Target
from custody.files.spelling import PATH_BYTES_MAX
from custody.files.state import ABSENT, CHUNK_BYTES, State, look
from custody.files.walking import kind_of

PRIVATE_MODE = 0o700
"""Of a folder of the copy until all that belongs in it is there."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Copied(NamedTuple):
    """One path, in the root and in the copy, when the command began."""

    state: State
    ctime_ns: int
    made: State
    """As the copy came to be: an owner may not be ours to give."""
    made_ctime_ns: int


class Copy:
    """The copy of one root. `make`, then the command runs, then `read`."""

    def __init__(self, root: str, copy: str) -> None:
        self._root = Target(root, "")
        self._copy = Target(copy, "")
        self._root_state = ABSENT
        self._copied: dict[str, _Copied] = {}
        self._first: dict[int, str] = {}
        """Inode in the root of a file with several names -> the first of them."""
        self.left_out: set[str] = set()
        """Devices, FIFOs and sockets: the command does not see them."""

    # -- before -------------------------------------------------------------------------------------------

    def make(self, *, entries_max: int, bytes_max: int, stop: Callable[[], bool]) -> tuple[int, int]:
        """Copy everything; how much may be copied still. Raises CannotHold, ToolError if asked to stop,
        OSError; half a copy is then left for whoever removes it."""
        os.mkdir(self._copy.path, PRIVATE_MODE)
        with Folders() as folders:
            self._root_state = look(folders.at(self._root), ".", digest=False)
            seen: list[tuple[str, State, int]] = []
            ahead = deque([""])
            while ahead:
                folder = ahead.popleft()
                for name in _names(folders.at(_at(self._root, folder))):
                    if stop():
                        raise ToolError("It was asked to end while a root was copied. Nothing was run.")
                    relative = f"{folder}/{name}" if folder else name
                    _check_length(relative)
                    if len(seen) >= entries_max:
                        raise too_many(entries_max)
                    state, ctime_ns = self._look(folders, relative)
                    bytes_max -= self._copy_one(folders, relative, state, bytes_max)
                    if state.kind not in ("absent", "other"):
                        seen.append((relative, state, ctime_ns))
                    if state.kind == "directory":
                        ahead.append(relative)
            self._finish_folders(folders, seen)
            for relative, state, ctime_ns in seen:
                self._note(folders, relative, state, ctime_ns)
        return entries_max - len(seen), bytes_max

    def _look(self, folders: Folders, relative: str) -> tuple[State, int]:
        folder_fd, name = folders.of(within(self._root, relative))
        try:
            ctime_ns = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ctime_ns
        except FileNotFoundError:
            return look(folder_fd, name, digest=False), 0
        return look(folder_fd, name, digest=False), ctime_ns

    def _copy_one(self, folders: Folders, relative: str, state: State, bytes_max: int) -> int:
        """The bytes of content it took."""
        folder_fd, name = folders.of(within(self._copy, relative))
        if state.kind == "other":
            self.left_out.add(relative)
        elif state.kind == "directory":
            make_folder(folder_fd, name, PRIVATE_MODE)
        elif state.kind == "link":
            assert state.target is not None, "a link says where it points to"
            make_link(folder_fd, name, state.target)
            apply_attributes(folder_fd, name, state, times=True)
        elif state.kind == "file":
            first = self._first.setdefault(state.inode, relative) if state.names > 1 else relative
            if first != relative:
                first_fd, first_name = folders.of(within(self._copy, first))
                link_again(first_fd, first_name, folder_fd, name)
                return 0
            if state.size > bytes_max:
                raise too_large(state.size, bytes_max)
            content = self._content(folders, relative, state.size)
            stage_file(
                folder_fd,
                content,
                mode=state.mode,
                like=state,
                mtime_ns=state.mtime_ns,
                name=name,
                synced=False,
            )
            return state.size
        return 0

    def _content(self, folders: Folders, relative: str, size: int) -> Iterator[bytes]:
        """No more than it had when it was looked at: what grows without end is not followed."""
        folder_fd, name = folders.of(within(self._root, relative))
        fd = os.open(name, _FILE, dir_fd=folder_fd)
        try:
            while size > 0 and (chunk := os.read(fd, min(CHUNK_BYTES, size))):
                size -= len(chunk)
                yield chunk
        finally:
            os.close(fd)

    def _finish_folders(self, folders: Folders, seen: list[tuple[str, State, int]]) -> None:
        """Modes and times of folders, when nothing comes into them any more: the deepest first."""
        for relative, state, _ in reversed(seen):
            if state.kind == "directory":
                folder_fd, name = folders.of(within(self._copy, relative))
                apply_attributes(folder_fd, name, state, times=True)

    def _note(self, folders: Folders, relative: str, state: State, ctime_ns: int) -> None:
        folder_fd, name = folders.of(within(self._copy, relative))
        made = look(folder_fd, name, digest=False)
        made_ctime_ns = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ctime_ns
        self._copied[relative] = _Copied(state, ctime_ns, made, made_ctime_ns)

    # -- after --------------------------------------------------------------------------------------------

    def read(self, found: Found) -> None:
        """Tell `found` of every path that is another. Raises CannotHold, ToolError, OSError."""
        there: set[str] = set()
        ahead = deque([""])
        self._read_root(found)
        while ahead:
            folder = ahead.popleft()
            for name in _names(found.folders.at(_at(self._copy, folder))):
                relative = f"{folder}/{name}" if folder else name
                found.visit(relative)
                there.add(relative)
                if self._name(found, relative) == "directory":
                    ahead.append(relative)
        for relative in sorted(self._copied.keys() - there):
            if not self._stays(relative):
                found.visit(relative)
                found.gone(within(self._root, relative), self._below(found, relative))
        for relative in sorted(self.left_out - there):
            folder = relative.rpartition("/")[0]
            if folder and folder not in there and not self._stays(relative):  # it went with its folder
                found.gone(within(self._root, relative), self._below(found, relative))

    def _read_root(self, found: Found) -> None:
        status = os.stat(self._copy.path, follow_symlinks=False)
        found.readable(self._copy, status)
        now = look(found.folders.at(self._copy), ".", digest=False)
        now = msgspec.structs.replace(now, mode=stat.S_IMODE(status.st_mode))
        found.folder(self._root, Below(self._root_state, 0, False), now)

    def _name(self, found: Found, relative: str) -> str:
        target, copy = within(self._root, relative), within(self._copy, relative)
        folder_fd, name = found.folders.of(copy)
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        kind, known = kind_of(status.st_mode), self._copied.get(relative)
        if known is not None and kind == "file" and _is_untouched(known, status):
            return kind
        if kind == "other" or relative in self.left_out:
            found.leave_out(target)
            self.left_out.add(relative)
            return "other"
        if kind == "directory":
            found.readable(copy, status)
            now = msgspec.structs.replace(
                look(folder_fd, name, digest=False), mode=stat.S_IMODE(status.st_mode)
            )
            found.folder(target, self._below(found, relative), _as_in_root(now, known))
        else:
            found.leaf(target, self._below(found, relative), copy, lambda now: _as_in_root(now, known))
        return kind

    def _below(self, found: Found, relative: str) -> Below:
        """What stands in the root now; it should be what was copied."""
        known, now = self._copied.get(relative), found.below(within(self._root, relative))
        if known is None:
            return now._replace(disturbed=now is not NOTHING and relative not in self.left_out)
        return Below(known.state, known.ctime_ns, now.ctime_ns != known.ctime_ns)

    def _stays(self, relative: str) -> bool:
        """Whether something that is left out stands where a folder above it was: nothing goes there."""
        return any(above in self.left_out for above in _above(relative))


def _is_untouched(known: _Copied, status: os.stat_result) -> bool:
    """By what no command can set back."""
    return (status.st_ino, status.st_ctime_ns) == (known.made.inode, known.made_ctime_ns)


def _as_in_root(now: State, known: _Copied | None) -> State:
    """What the command left in the copy, where that is not what the copy was from the start."""
    if known is None or now.kind != known.state.kind:
        return now
    made, state = known.made, known.state
    same_owner = (now.uid, now.gid) == (made.uid, made.gid)
    return msgspec.structs.replace(
        now,
        uid=state.uid if same_owner else now.uid,
        gid=state.gid if same_owner else now.gid,
        mode=state.mode if now.mode == made.mode else now.mode,
        xattrs=state.xattrs if now.xattrs == made.xattrs else now.xattrs,
        mtime_ns=state.mtime_ns if now.mtime_ns == made.mtime_ns else now.mtime_ns,
    )


def _above(relative: str) -> Iterator[str]:
    while "/" in relative:
        relative = relative.rpartition("/")[0]
        yield relative


def _at(root: Target, relative: str) -> Target:
    return within(root, relative) if relative else root


def _names(folder_fd: int) -> list[str]:
    fd = os.open(".", _FOLDER, dir_fd=folder_fd)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _check_length(relative: str) -> None:
    if len(relative) * 3 > PATH_BYTES_MAX and len(os.fsencode(relative)) > PATH_BYTES_MAX:
        raise CannotHold(
            f"A path in the root has more than {PATH_BYTES_MAX} bytes: it cannot be copied. Nothing was run.",
            hint="Name a narrower root, or run it at the level confined.",
            limit="files",
        )
