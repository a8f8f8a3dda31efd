"""States kept of what something else is about to change: git, a command.

Owns the looking before and after. Knows nothing of what changes the paths. Used by the tools that start
programs.
"""

import itertools
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from custody.changes import entries
from custody.changes.folders import Folders, folder_of, within
from custody.changes.log import UndoSet
from custody.changes.store import UndoStore
from custody.changes.told import attributes_of, change_of
from custody.changes.twins import Names
from custody.changes.wanted import Content
from custody.changes.writing import UndoWriter
from custody.errors import ToolError
from custody.files.reach import Target
from custody.files.state import ABSENT, State, look, same, version_of
from custody.files.walking import TooMany, kind_of, walk
from custody.records import Change

TIME_GRAIN_NS = 20_000_000
"""File systems note times in steps of up to 10 ms: who writes twice in one step shows it once."""


class _Kept(NamedTuple):
    """A path that is watched."""

    number: int
    target: Target
    before: State
    undoable: bool
    after: State | None
    """None: to be looked at."""
    kept_ns: int
    """When it was kept, by the wall clock."""


class _Tree(NamedTuple):
    """A folder in which new paths are noticed."""

    target: Target
    entries_max: int
    depth_max: int
    skip: Callable[[str], bool] | None


class Observed:
    """One call's watch over paths: keep what may change, let it change, then `settle`.

    Nothing is written before the first path is kept. Not for several threads at once.
    """

    def __init__(
        self,
        undo: UndoStore,
        call_id: bytes,
        *,
        roots: tuple[str, ...],
        owner: tuple[int, int] | None = None,
    ) -> None:
        """`owner`: the process that changes the paths, and when it started, where that outlives this watch;
        `leave` it then, and whoever hears of the end asks `settle_left`."""
        self._owner = owner
        self._undo = undo
        self._call_id = call_id
        self._roots = roots
        self._writer: UndoWriter | None = None
        self._is_ready = False
        self._numbers = itertools.count()
        self._kept: dict[str, _Kept] = {}
        self._trees: list[_Tree] = []
        self._folders: dict[str, Target] = {}

    # -- before -------------------------------------------------------------------------------------------

    def keep(self, target: Target) -> State:
        """Keep what stands there now, content included. Raises ToolError beyond the bound of a call, OSError.

        A file that may not be read is watched, and what becomes of it cannot be taken back.
        """
        known = self._kept.get(target.path)
        if known is not None:
            return known.before
        with Folders() as folders:
            state = self._keep(target, folders, Names(folders))
        self._open().flush()
        return state

    def keep_tree(
        self,
        target: Target,
        *,
        entries_max: int,
        depth_max: int,
        skip: Callable[[str], bool] | None = None,
    ) -> None:
        """Keep everything beneath a folder, and notice at the end what is new there.

        `skip`: relative path (a folder's ends in `/`) -> whether it is left out. Raises TooMany, ToolError,
        OSError.
        """
        self._trees.append(_Tree(target, entries_max, depth_max, skip))
        with Folders() as folders:
            folder_fd, names = folders.at(target), Names(folders)
            for found in walk(folder_fd, entries_max=entries_max, depth_max=depth_max, skip=skip):
                path = within(target, found.relative)
                if path.path not in self._kept:
                    self._keep(path, folders, names)
        self._open().flush()

    def ready(self) -> None:
        """What was kept is durable; whatever changes the paths may start. Raises ToolError."""
        self._open().ready()
        self._is_ready = True

    def note(self, target: Target, before: State, after: State, content: Content | None = None) -> None:
        """A change that was seen otherwise. Without the old `content` of a file it cannot be taken back."""
        content_stayed = before.kind == after.kind == "file" and _same_content(before, after)
        if content_stayed:  # its attributes are all there is to give back
            before, after = (msgspec.structs.replace(one, sha256=None) for one in (before, after))
        elif before.kind == "file" and content is not None:
            for chunk in content():
                self._open().content(chunk)
        undoable = before.kind != "other" and (before.kind != "file" or content_stayed or content is not None)
        self._write(target, before, undoable=undoable, after=after)
        self._open().flush()

    def _keep(self, target: Target, folders: Folders, names: Names) -> State:
        writer = self._open()
        try:
            folder_fd, name = folders.of(target)
        except (FileNotFoundError, NotADirectoryError):
            return self._write(target, ABSENT, undoable=True)
        self._note_folder(target, folder_fd)
        try:
            state = look(folder_fd, name, sink=writer.content)
        except PermissionError:
            state = look(folder_fd, name, digest=False)
            return self._write(target, state, undoable=False)
        except BaseException:
            writer.write(entries.Again())
            raise
        twin = names.other(target, state, but=(target.path,))
        return self._write(target, state, undoable=state.kind != "other", twin=twin)

    def _note_folder(self, target: Target, folder_fd: int) -> None:
        folder = folder_of(target)
        if folder.path not in self._folders and folder.path not in self._kept:
            self._folders[folder.path] = folder
            mtime_ns = os.fstat(folder_fd).st_mtime_ns
            self._open().write(entries.FolderBefore(entries.pack_target(folder), mtime_ns, None))

    def _write(
        self,
        target: Target,
        before: State,
        *,
        undoable: bool,
        after: State | None = None,
        twin: Target | None = None,
    ) -> State:
        number = next(self._numbers)
        self._kept[target.path] = _Kept(number, target, before, undoable, after, time.time_ns())
        self._open().write(
            entries.Before(
                number,
                entries.pack_target(target),
                entries.pack_state(before),
                undoable,
                None if twin is None else entries.pack_target(twin),
            )
        )
        return before

    def _open(self) -> UndoWriter:
        if self._writer is None:
            self._writer = self._undo.begin(
                self._call_id, roots=self._roots, observed=True, owner=self._owner
            )
        return self._writer

    # -- after --------------------------------------------------------------------------------------------

    def settle(self) -> tuple[Change, ...]:
        """Look again and say what changed. Nothing is kept where nothing changed. Raises OSError,
        ToolError."""
        if self._writer is None:
            return ()
        with Folders() as folders:
            self._find_new(folders)
            changed = [
                (kept, after) for kept in self._kept.values() if (after := _after(kept, folders)) is not None
            ]
            times = [_mtime_ns(folder, folders) for folder in self._folders.values()]
        if not changed:
            self._writer.abandon()
            return ()
        if not self._is_ready:
            self.ready()
        self._writer.done([(kept.number, after) for kept, after in changed], times)
        return _with_renames(changed)

    def abandon(self) -> None:
        """Forget it: nothing was changed."""
        if self._writer is not None:
            self._writer.abandon()

    def leave(self) -> None:
        """The watch goes on without us, as long as its owner lives."""
        if self._writer is not None:
            self._writer.leave_unfinished()

    def _find_new(self, folders: Folders) -> None:
        for tree in self._trees:
            try:
                folder_fd = folders.at(tree.target)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it has gone with all that was in it
            entries_found = walk(
                folder_fd, entries_max=tree.entries_max, depth_max=tree.depth_max, skip=tree.skip
            )
            with suppress(TooMany):  # what is beyond the bounds by now is not told
                for found in entries_found:
                    path = within(tree.target, found.relative)
                    if path.path not in self._kept:
                        self._write(path, ABSENT, undoable=True)


def settle_left(undo: UndoStore, call_id: bytes) -> tuple[Change, ...]:
    """Look again at what a watch kept that was left, and say what changed: once. Raises UndoGone, ToolError,
    OSError."""
    undo_set = undo.read(call_id)
    if undo_set is None or undo_set.done:
        return ()
    changed: list[tuple[_Kept, State]] = []
    with Folders() as folders:
        for entry in undo_set.entries:
            kept = _Kept(entry.number, entry.target, entry.before, entry.kept, None, undo_set.at_us * 1000)
            after = _after(kept, folders)
            if after is not None:
                changed.append((kept, after))
        times = [_mtime_ns(one.folder, folders) for one in undo_set.folders]
    if not changed:
        undo.forget((call_id, undo_set.part))
        return ()
    undo.go_on(undo_set).done([(kept.number, after) for kept, after in changed], times)
    return _with_renames(changed)


def settled(undo_set: UndoSet) -> list[tuple[int, State]]:
    """What stands at the paths that a dead process watched, where that is not what stood there."""
    found: list[tuple[int, State]] = []
    with Folders() as folders:
        for entry in undo_set.entries:
            kept = _Kept(entry.number, entry.target, entry.before, entry.kept, None, undo_set.at_us * 1000)
            after = _after(kept, folders)
            if after is not None:
                found.append((entry.number, after))
    return found


def _after(kept: _Kept, folders: Folders) -> State | None:
    """What stands at a watched path now; None where that is what stood there."""
    if kept.after is not None:
        return kept.after
    before = kept.before
    try:
        folder_fd, name = folders.of(kept.target)
        if before.kind == "file" and _untouched(kept, os.stat(name, dir_fd=folder_fd, follow_symlinks=False)):
            return None
        now = _look(folder_fd, name, digest=before.kind != "file" or before.sha256 is not None)
    except (FileNotFoundError, NotADirectoryError):
        now = ABSENT
    unchanged = same(before, now) and attributes_of(before) == attributes_of(now)
    return None if unchanged else now


def _look(folder_fd: int, name: str, *, digest: bool) -> State:
    """What stands there; without its content where that may not be read, or is still being written."""
    try:
        return look(folder_fd, name, digest=digest)
    except (PermissionError, ToolError):
        return look(folder_fd, name, digest=False)


def _untouched(kept: _Kept, status: os.stat_result) -> bool:
    """By what costs no reading: whoever writes to a file changes its time, or its inode."""
    before = kept.before
    return (
        before.mtime_ns + TIME_GRAIN_NS < kept.kept_ns
        and kind_of(status.st_mode) == "file"
        and (before.inode, before.size, before.mtime_ns)
        == (status.st_ino, status.st_size, status.st_mtime_ns)
        and (before.mode, before.uid, before.gid)
        == (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    )


def _same_content(before: State, after: State) -> bool:
    if before.sha256 is None or after.sha256 is None:
        return (before.inode, before.size, before.mtime_ns) == (after.inode, after.size, after.mtime_ns)
    return before.sha256 == after.sha256


def _mtime_ns(folder: Target, folders: Folders) -> int | None:
    try:
        return os.fstat(folders.at(folder)).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def _with_renames(changed: list[tuple[_Kept, State]]) -> tuple[Change, ...]:
    """The changes; a file that went from one path to another is one."""
    gone = {
        (kept.before.device, kept.before.inode): kept
        for kept, after in changed
        if kept.before.kind == "file" and after.kind == "absent"
    }
    sources: dict[str, _Kept] = {}
    for kept, after in changed:
        source = gone.get((after.device, after.inode))
        if source is not None and kept.before.kind == "absent" and same(source.before, after):
            sources[kept.target.path] = gone.pop((after.device, after.inode))
    moved = {source.target.path for source in sources.values()}
    changes: list[Change] = []
    for kept, after in changed:
        change = change_of(kept.target, kept.before, after, undoable=kept.undoable)
        if change is None or kept.target.path in moved:
            continue
        source = sources.get(kept.target.path)
        if source is not None:
            change = msgspec.structs.replace(
                change,
                change="renamed",
                renamed_from=source.target.path,
                before=version_of(source.before),
                undoable=source.undoable,
            )
        changes.append(change)
    return tuple(changes)
