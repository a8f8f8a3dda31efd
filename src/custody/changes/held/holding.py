"""One call's changes while it is not settled what they are: the folders its command writes to in place of its
roots, and the reading of them afterwards.

Owns the order: made, seen by the command, read, written down. Half of it is none: whatever goes wrong on the
way removes all of it. Knows nothing of commands. Made by `store`.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from custody.changes.apply import never
from custody.changes.folders import Folders, folder_of
from custody.changes.held import places
from custody.changes.held.copies import Copy
from custody.changes.held.found import Found
from custody.changes.held.manifest import HeldSet, Kind, held_set, pack
from custody.changes.held.removal import remove_tree
from custody.changes.held.uppers import Upper
from custody.errors import CannotHold
from custody.files.putting import sync_entry, sync_file_system, sync_folder
from custody.files.reach import Target
from custody.files.spelling import shown
from custody.journal.disk import Disk, Lock

if TYPE_CHECKING:
    from custody.sandbox.walls.model import View  # loads nothing else of it where nobody has made one

MANIFEST = "manifest"
SYNCED_ALONE_MAX = 32
"""Files and folders synced one by one; above this the whole file system is, once."""


class Holding:
    """What a command is about to change. Ends with `settle` or `abandon`; not for several threads."""

    def __init__(
        self,
        disk: Disk,
        call_id: bytes,
        roots: Sequence[str],
        *,
        lock: Lock,
        begun_ns: int,
        entries_max: int,
        bytes_max: int,
    ) -> None:
        self.call_id = call_id
        self.roots = tuple(roots)
        self._disk = disk
        self._folder = f"{disk.description}/{call_id.hex()}"
        self._lock: Lock | None = lock
        self._begun_ns = begun_ns
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._kind: Kind = "overlay"
        self._copies: list[Copy] = []

    @property
    def views(self) -> "tuple[View, ...]":
        """What the command is to see in place of each root."""
        from custody.sandbox.walls.model import View

        if self._kind == "copy":
            return tuple(View(root, "copy", copy) for root, copy in self._sources())
        store = self._disk.description
        return tuple(
            View(root, "overlay", upper, places.work_of(upper), store) for root, upper in self._sources()
        )

    def _sources(self) -> list[tuple[str, str]]:
        return places.sources(self._folder, self._kind, self.roots)

    def make(self, kind: Kind, stop: Callable[[], bool]) -> None:
        """The folders the command writes to. Raises CannotHold, ToolError if asked to stop; it is then
        abandoned."""
        try:
            if kind == "overlay":
                places.make_uppers(self._folder, self.roots)
            else:
                self._copy(stop)
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise _unreadable(error, "Nothing was run.") from error
            raise

    def as_copies(self, stop: Callable[[], bool] = never) -> None:
        """Begin again with copies, where the command could not be given overlays. Raises as `make` does."""
        for number in range(len(self.roots)):
            remove_tree(f"{self._folder}/{number}")
        self.make("copy", stop)

    def settle(self, stop: Callable[[], bool] = never) -> HeldSet:
        """Find out what the command changed, and have it on the disk. Where that is nothing, nothing is kept.

        Raises CannotHold (a bound), ToolError if asked to stop; nothing is held then.
        """
        assert self._lock is not None, "it is settled or abandoned once"
        try:
            held = self._read(stop)
            if held.entries:
                self._sync(held)
                # With its name come those of what was just synced, which stands beside it; then all of it.
                self._disk.replace(f"{self.call_id.hex()}/{MANIFEST}", pack(held))
                self._disk.sync_folder("")
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise _unreadable(error, "Nothing is held.") from error
            raise
        if not held.entries:
            self.abandon()
            return held
        with suppress(OSError):  # what is only in the way goes with the rest in the end
            self._clear(held)
        self._release()
        return held

    def abandon(self) -> None:
        """Forget it. What cannot be removed now is when the store is next opened."""
        with suppress(OSError):
            remove_tree(self._folder)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _copy(self, stop: Callable[[], bool]) -> None:
        self._kind = "copy"
        entries_left, bytes_left = self._entries_max, self._bytes_max
        for root, place in places.sources(self._folder, "copy", self.roots):
            os.mkdir(os.path.dirname(place), places.PRIVATE_MODE)
            copy = Copy(root, place)
            entries_left, bytes_left = copy.make(entries_max=entries_left, bytes_max=bytes_left, stop=stop)
            places.look_alike(place, root)
            self._copies.append(copy)

    def _read(self, stop: Callable[[], bool]) -> HeldSet:
        found = Found(
            entries_max=self._entries_max, bytes_max=self._bytes_max, begun_ns=self._begun_ns, stop=stop
        )
        try:
            if self._kind == "copy":
                for copy in self._copies:
                    copy.read(found)
            else:
                for root, upper in places.sources(self._folder, "overlay", self.roots):
                    Upper(root, upper, found).read()
            entries = found.entries()
            return held_set(
                self.call_id,
                self._kind,
                self.roots,
                [upper for _, upper in places.sources(self._folder, self._kind, self.roots)],
                entries=entries,
                times=found.times(),
                warnings=found.warnings(),
            )
        finally:
            found.close()

    def _sync(self, held: HeldSet) -> None:
        """Have the content on the disk before anything says that it is held, and the folders in which it is:
        up to the one whose names are synced with the manifest's. Where there is none, the manifest is all."""
        uppers = dict(zip(held.roots, held.uppers, strict=True))
        files = {
            Target(uppers[entry.target.root], entry.target.relative)
            for entry in held.entries
            if entry.content
        }
        tops = {Target(file.root, "") for file in files}
        above = set(tops)
        for file in files:
            while (file := folder_of(file)) not in above:
                above.add(file)
        with Folders() as folders:
            if len(files) + len(above) > SYNCED_ALONE_MAX:
                return sync_file_system(folders.at(Target(held.uppers[0], "")))
            for file in files:
                sync_entry(*folders.of(file))
            for folder in above:
                sync_folder(folders.at(folder))
            for top in tops:
                sync_folder(folders.at(Target(os.path.dirname(top.root), "")))

    def _clear(self, held: HeldSet) -> None:
        """Of copies, remove what is as it was. The kernel's folder beside a layer goes with the rest: that is
        not worth the time of whoever waits now."""
        if held.kind == "overlay":
            return
        needed = {entry.target for entry in held.entries if entry.content}
        with Folders() as folders:
            for upper, root in zip(held.uppers, held.roots, strict=True):
                ahead = [""]
                while ahead:
                    folder_fd = folders.at(Target(upper, relative := ahead.pop()))
                    for name, is_folder in _listed(folder_fd):
                        path = f"{relative}/{name}" if relative else name
                        if is_folder:
                            ahead.append(path)
                        elif Target(root, path) not in needed:
                            os.unlink(name, dir_fd=folder_fd)


def _listed(folder_fd: int) -> list[tuple[str, bool]]:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        with os.scandir(fd) as names:
            return [(one.name, one.is_dir(follow_symlinks=False)) for one in names]
    finally:
        os.close(fd)


def _unreadable(error: OSError, so: str) -> CannotHold:
    what = "" if error.filename is None else f"{shown(os.fsdecode(error.filename))}: "
    return CannotHold(
        f"What a command changes cannot be held: {what}{error.strerror or error}. {so}",
        hint="Free some space where the store is." if error.errno in (28, 122) else None,
        errno=error.errno,
    )
