"""What is held, put in place: everything at once, where nothing of it was changed meanwhile.

Owns that judgement and what `carry_out` is asked for; how it is done safely is `apply`'s. Knows nothing of
where sets are kept. Used by `store`.
"""

import os
from collections.abc import Callable, Iterator

import msgspec

from custody.changes.apply import carry_out
from custody.changes.folders import Folders, folder_of, within
from custody.changes.held.found import on_one_line, some_of
from custody.changes.held.manifest import HeldEntry, HeldSet, with_renames
from custody.changes.held.places import lies_in, mount_points
from custody.changes.store import UndoStore
from custody.changes.told import Conflict, attributes_of
from custody.changes.wanted import Wanted
from custody.errors import ToolError, UndoConflict
from custody.files.putting import TEMPORARY_PREFIX
from custody.files.reach import Target
from custody.files.state import ABSENT, State, look, same, version_of
from custody.records import Change

NAMED_MAX = 3
"""Paths that a message names; all are in its details."""


def put_in_place(
    undo: UndoStore, commit_id: bytes, held: HeldSet, stop: Callable[[], bool]
) -> tuple[Change, ...]:
    """Make every path what the command made it, all or none. Raises UndoConflict, ToolError."""
    try:
        with Folders() as folders:
            checking = _Checking(held, folders, stop)
            checking.roots()
            wanted = [checking.wanted(entry) for entry in held.entries]
            times = checking.times()
        if checking.conflicts:
            raise refused(checking.conflicts)
        changes = carry_out(
            undo,
            commit_id,
            wanted,
            roots=held.roots,
            stop=stop,
            expected={entry.target.path: entry.before for entry in held.entries},
            folder_times=times,
        )
    except OSError as error:
        raise _kept_from(error) from error
    return with_renames(sorted(changes, key=lambda change: change.path))


class _Checking:
    """Each path as it stands now, held against what was seen when the command had ended."""

    def __init__(self, held: HeldSet, folders: Folders, stop: Callable[[], bool]) -> None:
        self.conflicts: list[Conflict] = []
        self._held = held
        self._folders = folders
        self._stop = stop
        self._known = {entry.target.path: entry.after.kind for entry in held.entries}
        self._faults: dict[Target, str | None] = {}

    def roots(self) -> None:
        """Raises UndoConflict where a root is not the folder that it was: nothing beneath it can be told."""
        mounts, changed = mount_points(), list[Conflict]()
        for root in self._held.roots:
            try:
                self._folders.at(Target(root, ""))
            except OSError as error:
                why = f"is no folder any more, or is reached by a link ({error.strerror})"
                changed.append(_of_place(root, why))
            for place in mounts:
                inside = place != root and lies_in(place, root)
                if inside and any(lies_in(path, place) for path in self._known):
                    changed.append(_of_place(place, "is another file system by now, mounted there since"))
        if changed:
            raise refused(changed)

    def wanted(self, entry: HeldEntry) -> Wanted:
        """What is wanted at its path; a conflict is noted."""
        if self._stop():
            raise ToolError("It was asked to end before anything was changed.")
        after, now = entry.after, self._check(entry)
        if (
            after.kind == now.kind and not entry.content
        ):  # it stays that file or folder, with other attributes
            after = msgspec.structs.replace(after, device=now.device, inode=now.inode)
        return Wanted(
            target=entry.target,
            state=after,
            content=self._held.content(entry.target) if entry.content else None,
            exact=True,
            twin=entry.twin,
        )

    def times(self) -> dict[Target, int]:
        """Of the folders nobody else changed meanwhile: theirs take their course."""
        times: dict[Target, int] = {}
        for one in self._held.times:
            try:
                mtime_ns = os.fstat(self._folders.at(one.folder)).st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                continue
            if mtime_ns == one.before_ns:
                times[one.folder] = one.after_ns
        return times

    def _check(self, entry: HeldEntry) -> State:
        """What stands there now; a conflict is noted where that is not what stood there."""
        now, ctime_ns = self._look(entry)
        if entry.disturbed:
            self._refuse(entry, now, "was changed by somebody else while the command ran")
        elif ctime_ns != entry.ctime_ns and not _is_same(entry, now):
            self._refuse(entry, now, "was changed by somebody else since the command ended")
        elif now.kind == "absent" and (fault := self._fault_of(folder_of(entry.target))) is not None:
            self._refuse(entry, now, f"was made in a folder that {fault}")
        elif now.kind == "directory" and entry.after.kind != "directory":
            more = sorted(self._others_in(entry.target))
            if more:
                self._refuse(entry, now, f"holds {some_of(more)}, which the command has not seen")
        return now

    def _look(self, entry: HeldEntry) -> tuple[State, int]:
        """With its digest, where it was touched since and the one before is known."""
        try:
            folder_fd, name = self._folders.of(entry.target)
            ctime_ns = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ctime_ns
            digest = ctime_ns != entry.ctime_ns and entry.before.sha256 is not None
            return look(folder_fd, name, digest=digest), ctime_ns
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT, 0

    def _fault_of(self, folder: Target) -> str | None:
        """Why nothing new is put into a folder; None where it is the command's own, or still that folder."""
        if self._known.get(folder.path) == "directory":
            return None
        if folder not in self._faults:
            self._faults[folder] = self._look_for_fault(folder)
        return self._faults[folder]

    def _look_for_fault(self, folder: Target) -> str | None:
        try:
            now = os.fstat(self._folders.at(folder))
        except (FileNotFoundError, NotADirectoryError):
            return "is gone by now, or is none any more"
        if os.geteuid() != 0:
            return None
        # Who may write around it could have put another's folder in its place, which only root can write to.
        upper = self._held.uppers[self._held.roots.index(folder.root)]
        then = os.fstat(self._folders.at(Target(upper, folder.relative)))
        return None if (now.st_uid, now.st_gid) == (then.st_uid, then.st_gid) else "is somebody else's by now"

    def _others_in(self, folder: Target) -> Iterator[str]:
        for name in self._folders.names(folder):
            if within(folder, name).path not in self._known:
                yield name

    def _refuse(self, entry: HeldEntry, now: State, words: str) -> None:
        path = entry.target.path
        self.conflicts.append(
            Conflict(
                path=path,
                expected=version_of(entry.before),
                found=version_of(now),
                words=f"{on_one_line(path)} {words}.",
            )
        )


def refused(conflicts: list[Conflict]) -> UndoConflict:
    """Nothing of a set is put in place where one path of it was changed meanwhile."""
    sentences = [conflict.words for conflict in conflicts]
    more = f" And {len(sentences) - NAMED_MAX:,} more." if len(sentences) > NAMED_MAX else ""
    return UndoConflict(
        f"Not committed, and still held. {' '.join(sentences[:NAMED_MAX])}{more}",
        hint="Look at what is held, take over by hand what you want of it, then discard it.",
        conflicts=tuple(conflicts),
    )


def _of_place(place: str, words: str) -> Conflict:
    return Conflict(path=place, expected=None, found=None, words=f"{on_one_line(place)} {words}.")


def _kept_from(error: OSError) -> ToolError:
    """What the system did not let us do: everything is as it was."""
    names = [os.fsdecode(name) for name in (error.filename2, error.filename) if name is not None]
    at = next((f" at {on_one_line(name)}" for name in names if not name.startswith(TEMPORARY_PREFIX)), "")
    return ToolError(
        f"It cannot be put in place: {error.strerror or error}{at}. Nothing was changed, it is held still.",
        hint="See to it that the files and folders may be written (a read-only file system, an immutable "
        "attribute, a full disk), then commit it again.",
        errno=error.errno,
    )


def _is_same(entry: HeldEntry, now: State) -> bool:
    """Whether what was touched is still what it was: a file only where its content is known."""
    before = entry.before
    if before.kind == "file" and before.sha256 is None:
        return False
    return same(before, now) and attributes_of(before) == attributes_of(now)
