"""What a command changed beneath a root it saw through an overlay, read from the layer that took it.

Owns the format of that layer: a whiteout is a character device 0:0, a folder that hides the one below has
the attribute `opaque` = `y`. Knows nothing of mounts. Used by `holding`.

Which attributes are the kernel's depends on who mounted: `trusted.overlay.` for root, `user.overlay.` in the
namespace of an ordinary user. The other kind is the command's own to set and says nothing.
"""

import os
import stat
from collections import deque

import msgspec

from custody.changes.folders import within
from custody.changes.held.found import NOTHING, Below, Found, unreadable
from custody.errors import CannotHold
from custody.files.reach import Target
from custody.files.spelling import shown
from custody.files.state import State, look
from custody.files.walking import kind_of

ESCAPED = "overlay."
"""Behind the prefix: an attribute of the command's own that has the name of one of the kernel's."""


def own_prefix() -> str:
    """How the names of the kernel's own attributes begin in a layer of ours."""
    return "trusted.overlay." if os.geteuid() == 0 else "user.overlay."


class Upper:
    """The layer of one root."""

    def __init__(self, root: str, upper: str, found: Found) -> None:
        self._root = Target(root, "")
        self._upper = Target(upper, "")
        self._found = found
        self._prefix = own_prefix()
        self._ahead: deque[tuple[str, bool, bool]] = deque()
        """Folders to go through: relative path, whether one stands in the root, whether it shows through."""

    def read(self) -> None:
        """Tell `found` of every path that is another. Raises CannotHold, ToolError, OSError."""
        status = os.stat(self._upper.path, follow_symlinks=False)
        self._found.readable(self._upper, status)
        self._found.folder(self._root, self._root_below(), self._cleaned(self._look(self._upper, status)))
        self._ahead.append(("", True, True))
        while self._ahead:
            self._folder(*self._ahead.popleft())

    def _root_below(self) -> Below:
        fd = self._found.folders.at(self._root)
        return Below(look(fd, ".", digest=False), os.fstat(fd).st_ctime_ns, False)

    def _folder(self, relative: str, stands: bool, shows: bool) -> None:
        names = self._listed(within(self._upper, relative) if relative else self._upper)
        for name, status in names:
            self._name(f"{relative}/{name}" if relative else name, status, stands, shows)
        if stands and not shows:  # what is not there again has gone
            folder = within(self._root, relative) if relative else self._root
            again = {name for name, _ in names}
            for name, _ in self._listed(folder):
                if name not in again:
                    self._found.visit(f"{relative}/{name}")
                    self._gone(within(folder, name))

    def _name(self, relative: str, status: os.stat_result, stands: bool, shows: bool) -> None:
        found = self._found
        found.visit(relative)
        target, upper = within(self._root, relative), within(self._upper, relative)
        below = found.below(target) if stands else NOTHING
        kind = kind_of(status.st_mode)
        if kind == "other":
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != 0:
                found.leave_out(target)
            elif below is not NOTHING:
                self._gone(target)
        elif kind == "directory":
            found.readable(upper, status)
            after = self._look(upper, status)
            found.folder(target, below, self._cleaned(after))
            is_folder = below.state.kind == "directory"
            self._ahead.append((relative, is_folder, is_folder and shows and not self._is_opaque(after)))
        else:
            if below.state.kind == "directory":
                self._gone_beneath(target)
            found.leaf(target, below, upper, self._cleaned)

    def _gone(self, target: Target) -> None:
        below = self._found.below(target)
        self._found.gone(target, below)
        if below.state.kind == "directory":
            self._gone_beneath(target)

    def _gone_beneath(self, folder: Target) -> None:
        """All that stood in a folder of the root."""
        ahead = [folder]
        while ahead:
            folder = ahead.pop()
            for name, status in self._listed(folder):
                target = within(folder, name)
                self._found.visit(target.relative)
                self._found.gone(target, self._found.below(target))
                if stat.S_ISDIR(status.st_mode):
                    ahead.append(target)

    def _listed(self, folder: Target) -> list[tuple[str, os.stat_result]]:
        """What stands in a folder, sorted."""
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            fd = os.open(".", flags, dir_fd=self._found.folders.at(folder))
        except PermissionError as error:
            unreadable(folder, error)
        try:
            with os.scandir(fd) as names:
                return sorted((one.name, one.stat(follow_symlinks=False)) for one in names)
        finally:
            os.close(fd)

    def _look(self, upper: Target, status: os.stat_result) -> State:
        """A folder of the layer, with the mode the command gave it."""
        if upper.relative:
            folder_fd, name = self._found.folders.of(upper)
        else:
            folder_fd, name = self._found.folders.at(upper), "."
        state = look(folder_fd, name, digest=False)
        if self._prefix + "redirect" in state.xattrs:
            raise CannotHold(
                f"{shown(upper.relative)} was moved in a way that is not understood. Nothing is held.",
                hint="Overlays are mounted without redirects: report how this came about.",
            )
        return msgspec.structs.replace(state, mode=stat.S_IMODE(status.st_mode))

    def _cleaned(self, state: State) -> State:
        """With the extended attributes as the command saw them."""
        xattrs: dict[str, bytes] = {}
        for name, value in state.xattrs.items():
            if not name.startswith(self._prefix):
                xattrs[name] = value
            elif name.startswith(self._prefix + ESCAPED):
                xattrs[self._prefix + name.removeprefix(self._prefix + ESCAPED)] = value
        return msgspec.structs.replace(state, xattrs=xattrs)

    def _is_opaque(self, folder: State) -> bool:
        return folder.xattrs.get(self._prefix + "opaque") == b"y"
