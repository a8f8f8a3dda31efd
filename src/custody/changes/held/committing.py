"""What is held, put in place: everything at once, where nothing of it was changed meanwhile.

Owns that judgement and what `carry_out` is asked for; how it is done safely is `apply`'s. Knows nothing of
where sets are kept. Used by `store`.
"""

import os
from collections.abc import Callable, Iterator

import msgspec

from custody.changes.apply import carry_out
from custody.changes.folders import Folders, within
from custody.changes.held.manifest import HeldEntry, HeldSet, with_renames
from custody.changes.store import UndoStore
from custody.changes.told import Conflict, attributes_of
from custody.changes.wanted import Wanted
from custody.errors import ToolError, UndoConflict
from custody.files.reach import Target
from custody.files.spelling import shown
from custody.files.state import ABSENT, State, look, same, version_of
from custody.records import Change

NAMED_MAX = 3
"""Paths that a message names; all are in its details."""


def put_in_place(
    undo: UndoStore, commit_id: bytes, held: HeldSet, stop: Callable[[], bool]
) -> tuple[Change, ...]:
    """Make every path what the command made it, all or none. Raises UndoConflict, what `carry_out` raises."""
    with Folders() as folders:
        checking = _Checking(held, folders, stop)
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
    return with_renames(sorted(changes, key=lambda change: change.path))


class _Checking:
    """Each path as it stands now, held against what was seen when the command had ended."""

    def __init__(self, held: HeldSet, folders: Folders, stop: Callable[[], bool]) -> None:
        self.conflicts: list[Conflict] = []
        self._held = held
        self._folders = folders
        self._stop = stop
        self._known = {entry.target.path for entry in held.entries}

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
        elif now.kind == "directory" and entry.after.kind != "directory":
            more = sorted(self._others_in(entry.target))
            if more:
                self._refuse(entry, now, f"holds {_some(more)}, which the command has not seen")
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
                words=f"{shown(path)} {words}.",
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


def _is_same(entry: HeldEntry, now: State) -> bool:
    """Whether what was touched is still what it was: a file only where its content is known."""
    before = entry.before
    if before.kind == "file" and before.sha256 is None:
        return False
    return same(before, now) and attributes_of(before) == attributes_of(now)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX:,} more" if len(names) > NAMED_MAX else ""
    return ", ".join(map(shown, names[:NAMED_MAX])) + more
