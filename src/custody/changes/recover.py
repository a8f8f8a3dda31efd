"""What a dead process left half changed is put back, or found complete.

Owns that decision. Whether a process is alive it asks. Used when a store is opened.
"""

import os
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from custody.changes.folders import Folders
from custody.changes.log import Entry, FolderTimes, UndoSet
from custody.changes.observed import settled
from custody.changes.putback import judge, put_back, remove_staged
from custody.changes.store import Part, UndoStore
from custody.changes.told import attributes_of, stands
from custody.errors import CustodyError, UndoGone
from custody.files.putting import apply_attributes, set_folder_mtime
from custody.files.state import State, look

LAST_WORD_NS = 2_000_000_000
"""A process says that it is at it before each step, and at most every half second: what is changed so long
after its last word was changed by somebody else."""


class RolledBack(Struct, frozen=True, kw_only=True):
    """What became of one call's half-done changes."""

    call_id: bytes
    restored: int
    """Paths that were put back."""
    left: tuple[str, ...]
    """Absolute paths that are neither as they were nor as they should have become: not touched."""
    sealed: bool
    """All was in place, or something else did the changing: left as it stands, and can be taken back."""
    words: str | None = None
    """Why nothing could be done."""


def recover_changes(
    undo: UndoStore, alive: Callable[[int, int], bool], *, calls: Iterable[bytes] = ()
) -> list[RolledBack]:
    """End every change whose process is gone. `alive(pid, start_ticks)` says whether one is still there.

    `calls`: further calls known never to have finished: the mark of an unfinished change may go with the
    power. Nothing is done while another process is at it. Raises OSError where the store cannot be used.
    """
    parts = {*undo.unfinished(), *((call, part) for call in calls for part in range(undo.parts(call)))}
    if not parts:
        return []
    lock = undo.only_one()
    if lock is None:
        return []
    try:
        ended: list[RolledBack] = []
        dead: list[UndoSet] = []
        for part in sorted(parts):
            _read(undo, part, alive, dead, ended)
        # What was begun last is put back first: it stands on what the others did.
        dead.sort(key=lambda one: (one.at_us, one.part), reverse=True)
        return ended + [_end(undo, undo_set) for undo_set in dead]
    finally:
        lock.release()


def _read(
    undo: UndoStore,
    part: Part,
    alive: Callable[[int, int], bool],
    dead: list[UndoSet],
    ended: list[RolledBack],
) -> None:
    """Sort one unfinished change: still going on, through but for its mark, unreadable, or to be ended."""
    try:
        undo_set = undo.read(*part)
    except UndoGone as error:
        undo.close(part)
        ended.append(RolledBack(call_id=part[0], restored=0, left=(), sealed=False, words=str(error)))
        return
    if undo_set is None or undo_set.done:
        undo.close(part)
    elif not alive(undo_set.pid, undo_set.start_ticks):
        dead.append(undo_set)


def _end(undo: UndoStore, undo_set: UndoSet) -> RolledBack:
    call_id, part = undo_set.call_id, (undo_set.call_id, undo_set.part)
    try:
        if undo_set.observed:
            return _seal(undo, undo_set, settled(undo_set), [])
        if undo_set.ready and (complete := _complete(undo_set)) is not None:
            return _seal(undo, undo_set, *complete)
        put = put_back(undo_set, until_ns=undo_set.last_word_ns + LAST_WORD_NS)
        if put.left:
            undo.close(part)  # what was kept stays: a person may want to look
        else:
            undo.forget(part)
        return RolledBack(call_id=call_id, restored=put.restored, left=put.left, sealed=False)
    except (CustodyError, OSError) as error:  # tried again at the next open
        return RolledBack(call_id=call_id, restored=0, left=(), sealed=False, words=str(error))


def _complete(undo_set: UndoSet) -> tuple[list[tuple[int, State]], list[int | None]] | None:
    """What stands at every path and the times of folders, if that is what should; None if a path is missing.

    Times and attributes come last and are given again: they may not have been, or not have reached the disk.
    """
    with Folders() as folders:
        judged = [(entry, *judge(undo_set, entry, folders)) for entry in undo_set.entries]
        if not all(verdict == "after" or _is_as_wanted(entry, now) for entry, verdict, now in judged):
            return None
        remove_staged(undo_set, folders)
        after: list[tuple[int, State]] = []
        for entry, _, now in sorted(judged, key=lambda one: one[0].target.path.count("/"), reverse=True):
            assert entry.after is not None, "what was ready said what it was about to do"
            if entry.exact and now.kind in ("file", "directory"):
                folder_fd, name = folders.of(entry.target)
                only = now.device, now.inode
                apply_attributes(folder_fd, name, entry.after, times=True, only=only)
                now = msgspec.structs.replace(look(folder_fd, name, digest=False), sha256=now.sha256)
            after.append((entry.number, now))
        until_ns = undo_set.last_word_ns + LAST_WORD_NS
        return after, [_folder_time(one, folders, until_ns) for one in undo_set.folders]


def _is_as_wanted(entry: Entry, now: State) -> bool:
    """Also where that is what stood there before, and nothing had to be put in its place."""
    after = entry.after
    assert after is not None, "what was ready said what it was about to do"
    return entry.staging is None and stands(after, now) and attributes_of(now) == attributes_of(after)


def _folder_time(one: FolderTimes, folders: Folders, until_ns: int) -> int | None:
    """The time the change left in a folder; None where it is somebody else's."""
    try:
        folder_fd = folders.at(one.folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if os.fstat(folder_fd).st_mtime_ns > until_ns:
        return None
    if one.wanted_ns is not None:
        set_folder_mtime(folder_fd, one.wanted_ns)
    return os.fstat(folder_fd).st_mtime_ns


def _seal(
    undo: UndoStore, undo_set: UndoSet, after: list[tuple[int, State]], folders: list[int | None]
) -> RolledBack:
    if after:
        writer = undo.go_on(undo_set)
        try:
            if not undo_set.ready:
                writer.ready()
            writer.done(after, folders)
        except BaseException:
            writer.leave_unfinished()
            raise
    else:
        undo.forget((undo_set.call_id, undo_set.part))  # nothing was changed
    return RolledBack(call_id=undo_set.call_id, restored=0, left=(), sealed=True)
