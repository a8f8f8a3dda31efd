"""Putting back what a change that did not come to its end has done so far.

Owns the judgement whether a path is as it was, as it should have become, on its way between the two, or
somebody else's by now, which is left alone. May be interrupted at any point and done again. Used by `apply`
when a step fails and by `recover` when a process is gone.
"""

import os
from collections.abc import Container, Iterable
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import Struct

from custody.changes.back import look_at, wanted_back
from custody.changes.folders import Folders
from custody.changes.log import Entry, UndoSet
from custody.changes.placing import Placing, Step
from custody.changes.tails import is_torn
from custody.changes.told import attributes_of, stands
from custody.changes.twins import Twins
from custody.errors import CustodyError
from custody.files.putting import remove, set_folder_mtime
from custody.files.reach import Target
from custody.files.state import ABSENT, State

Verdict = Literal["before", "after", "between", "other"]


class PutBack(Struct, frozen=True, kw_only=True):
    """What was put back, and what was not."""

    restored: int
    left: tuple[str, ...]
    """Absolute paths."""


def put_back(
    undo_set: UndoSet, *, until_ns: int, begun: Container[int] | None = None, shared: Container[Target] = ()
) -> PutBack:
    """Make every path what it was before the call, where that is the call's own doing.

    `until_ns`: wall clock; a folder that was changed later has been by somebody else, and keeps its time.
    `begun`: numbers of the paths it came to; None: not known. `shared`: folders in which somebody else is
    known to have changed something. Raises OSError for what can be tried again.
    """
    with Folders() as folders:
        times = [one for one in _times_to_give_back(undo_set, folders, until_ns) if one[0] not in shared]
        remove_staged(undo_set, folders)
        left: list[str] = []
        entries = [entry for entry in undo_set.entries if begun is None or entry.number in begun]
        steps = _steps_back(undo_set, entries, folders, left) if undo_set.ready else []
        placing = Placing(steps, folders)
        failed: set[str] = set()
        for step, take in placing.actions(late=True):
            try:
                take(step)
            except (CustodyError, OSError):
                placing.unstage()
                failed.add(step.target.path)
        for folder, mtime_ns in times:
            with suppress(FileNotFoundError):
                set_folder_mtime(folders.at(folder), mtime_ns)
        placing.sync()
    return PutBack(restored=len(steps) - len(failed), left=(*left, *sorted(failed)))


def remove_staged(undo_set: UndoSet, folders: Folders) -> None:
    """Remove the temporary files of a change that is not at it any more."""
    for temporary in undo_set.staging:
        try:
            folder_fd, name = folders.of(temporary)
            remove(folder_fd, name, "file")
        except (FileNotFoundError, NotADirectoryError):
            continue  # it was put in place, or never made


def judge(undo_set: UndoSet, entry: Entry, folders: Folders) -> tuple[Verdict, State]:
    """What stands at a path, in the light of what the call was about to do there."""
    try:
        now = look_at(entry.target, folders, entry.before, entry.after)
    except (FileNotFoundError, NotADirectoryError):
        now = ABSENT  # its folder is missing
    return _verdict(undo_set, entry, now, folders), now


def _verdict(undo_set: UndoSet, entry: Entry, now: State, folders: Folders) -> Verdict:
    before, after = entry.before, entry.after
    assert after is not None, "only what was intended is judged"
    if stands(after, now) and now.inode == after.inode != before.inode:
        return "after"  # also where it was replaced by its like
    if stands(before, now):
        return "before"
    if stands(after, now) or now.kind == after.kind == "directory" != before.kind:
        return "after"  # a new folder's mode is not known beforehand, or comes last
    if now.kind == "directory" and "directory" in (before.kind, after.kind):
        return "between"  # its mode comes last
    if now.kind == "absent" and "absent" not in (before.kind, after.kind):
        folder_replaced = (before.kind == "directory") != (after.kind == "directory")
        return "between" if folder_replaced else "other"
    return "between" if is_torn(undo_set, entry, folders) else "other"


def _steps_back(undo_set: UndoSet, entries: Iterable[Entry], folders: Folders, left: list[str]) -> list[Step]:
    steps: list[Step] = []
    twins = Twins(folders)
    for entry in entries:
        verdict, now = judge(undo_set, entry, folders)
        if verdict == "other" or (verdict != "before" and not entry.kept):
            left.append(entry.target.path)
            continue
        wanted = wanted_back(undo_set, entry, twins.of(entry))
        if verdict == "before":
            if not _attributes_differ(entry, now):
                continue
            wanted = msgspec.structs.replace(wanted, content=None, keep_bytes=None, twin=None)
        step = Step(entry.number, wanted, now)
        step.temporary = entry.staging
        steps.append(step)
    return steps


def _attributes_differ(entry: Entry, now: State) -> bool:
    """Of what stayed in place: it may have got other attributes, or have lost its time, by then."""
    before = entry.before
    if before.kind not in ("file", "directory"):
        return False
    return (attributes_of(now), now.mtime_ns) != (attributes_of(before), before.mtime_ns)


def _times_to_give_back(undo_set: UndoSet, folders: Folders, until_ns: int) -> list[tuple[Target, int]]:
    times: list[tuple[Target, int]] = []
    for one in undo_set.folders:
        try:
            now_ns = os.fstat(folders.at(one.folder)).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            continue
        if now_ns <= until_ns:
            times.append((one.folder, one.before_ns))
    return times
