"""Taking a call's changes back.

Owns the judgement whether a path is still as the call left it, and what is lost where it is not. Taking back
is itself carried out as a change, under the id of the call that does it, and so can be taken back. Used by
the `undo` tool and the command line.
"""

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping

from msgspec import Struct

from custody.changes.apply import carry_out, never
from custody.changes.back import look_at, wanted_back
from custody.changes.folders import Folders, folder_of, within
from custody.changes.log import Entry, UndoSet
from custody.changes.store import UndoStore
from custody.changes.told import Conflict, stands
from custody.changes.twins import Twins
from custody.changes.wanted import Wanted, missing_folders
from custody.errors import ToolError, UndoConflict
from custody.files.reach import Target
from custody.files.state import ABSENT, State, version_of
from custody.records import Change

NAMED_MAX = 3
"""Paths that a message names; all are in its details."""


class UndoPlan(Struct, frozen=True, kw_only=True):
    """What taking back would do."""

    wanted: tuple[Wanted, ...]
    expected: dict[str, State]
    """Absolute path -> what the judgement rests on."""
    folder_times: dict[Target, int]
    conflicts: tuple[Conflict, ...]
    """Not empty: it needs force."""
    lost: tuple[str, ...]
    """What cannot be brought back, or is lost by force, a sentence each. Not empty: it needs force."""
    as_before: tuple[str, ...]
    """Paths that the call changed, and that somebody else has made what they were before."""
    roots: tuple[str, ...]


class Undone(Struct, frozen=True, kw_only=True):
    """What taking back did. `plan` is the sum, should the call have changed things several times."""

    plan: UndoPlan
    changes: tuple[Change, ...]


def undo_call(
    undo: UndoStore,
    call_id: bytes,
    undoing_id: bytes,
    *,
    force: bool = False,
    stop: Callable[[], bool] = never,
) -> Undone:
    """Take back what the call `call_id` changed, as the call `undoing_id`.

    What a call changed one after the other is taken back from the last on. Raises UndoGone when nothing is
    kept; UndoConflict (its details have `conflicts`, `lost` and `changes`, what was taken back before) when a
    path has changed since or not all can be brought back, and not `force`; what `carry_out` raises.
    """
    plans: list[UndoPlan] = []
    changes: list[Change] = []
    for undo_set in _newest_first(undo, call_id):
        plan = plan_undo(undo_set, force=force)
        if (plan.conflicts or plan.lost) and not force:
            raise _refused(plan, tuple(changes))
        plans.append(plan)
        changes += carry_out(
            undo,
            undoing_id,
            plan.wanted,
            roots=plan.roots,
            stop=stop,
            expected=plan.expected,
            folder_times=plan.folder_times,
        )
    return Undone(plan=_sum(plans), changes=tuple(changes))


def plan_call(
    undo: UndoStore,
    call_id: bytes,
    *,
    force: bool = False,
    standing: MutableMapping[str, State] | None = None,
) -> UndoPlan:
    """What `undo_call` would do, without doing it. Raises UndoGone.

    `standing` takes what would then stand at each path: the plan of the call before it goes on from there.
    """
    standing = {} if standing is None else standing
    plans: list[UndoPlan] = []
    for undo_set in _newest_first(undo, call_id):
        plans.append(plan_undo(undo_set, force=force, standing=standing))
        standing.update((wanted.target.path, wanted.state) for wanted in plans[-1].wanted)
    return _sum(plans)


def _newest_first(undo: UndoStore, call_id: bytes) -> Iterator[UndoSet]:
    """What a call changed one after the other, from the last on. Raises UndoGone where there is nothing."""
    found = False
    for part in reversed(range(undo.parts(call_id))):
        undo_set = undo.read(call_id, part)
        if undo_set is not None:
            found = True
            yield undo_set
    if not found:
        raise undo.gone(call_id)


def plan_undo(
    undo_set: UndoSet, *, force: bool = False, standing: Mapping[str, State] | None = None
) -> UndoPlan:
    """Look at every path of one change. With `force` also what conflicts is wanted back, where that can be.

    `standing`: absolute path -> what shall be taken to stand there, instead of looking. Raises ToolError for
    a change that has not come to its end.
    """
    if not undo_set.ready or (undo_set.observed and not undo_set.done):
        raise ToolError(
            f"Call {undo_set.call_id.hex()} has not come to its end; there is nothing to take back yet."
        )
    with Folders() as folders:
        planning = _Planning(undo_set, folders, force, standing or {})
        for entry in undo_set.entries:
            planning.consider(entry)
        return planning.plan()


class _Planning:
    """The judgement over one change, path by path."""

    def __init__(
        self, undo_set: UndoSet, folders: Folders, force: bool, standing: Mapping[str, State]
    ) -> None:
        self._set = undo_set
        self._folders = folders
        self._force = force
        self._standing = standing
        self._twins = Twins(folders)
        self._wanted: dict[str, Wanted] = {}
        self._expected: dict[str, State] = {}
        self._conflicts: list[Conflict] = []
        self._lost: list[str] = []
        self._as_before: list[str] = []
        self._brought = {entry.target.path for entry in undo_set.entries if entry.before.kind == "directory"}
        self._made_by_call = {
            entry.target.path for entry in undo_set.entries if entry.before.kind == "absent"
        }

    def consider(self, entry: Entry) -> None:
        """One path: it is as the call left it, as it was before, or neither."""
        now = self._now(entry)
        if self._as_left(entry, now):
            self._take_back(entry, now)
        elif not stands(entry.before, now):
            self._conflict(entry, now)
        else:
            self._as_before.append(entry.target.path)

    def plan(self) -> UndoPlan:
        return UndoPlan(
            wanted=tuple(self._wanted.values()),
            expected=self._expected,
            folder_times=self._folder_times(),
            conflicts=tuple(self._conflicts),
            lost=tuple(self._lost),
            as_before=tuple(self._as_before),
            roots=self._set.roots,
        )

    def _now(self, entry: Entry) -> State:
        told = self._standing.get(entry.target.path)
        if told is not None:
            return told
        try:
            return look_at(entry.target, self._folders, entry.before, entry.after)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT

    def _as_left(self, entry: Entry, now: State) -> bool:
        after = entry.after
        assert after is not None, "it has come to its end"
        if not self._set.done and after.kind == now.kind == "directory":
            return True  # nobody came to write down which mode it got
        if after.kind == "file" and after.sha256 is None and entry.before.kind != "file":
            # Its content was not read, and would go: it must be that file, and not have been written to.
            found, left = (now.inode, now.size, now.mtime_ns), (after.inode, after.size, after.mtime_ns)
            return found == left and stands(after, now)
        return stands(after, now)

    def _take_back(self, entry: Entry, now: State) -> None:
        path = entry.target.path
        if not entry.kept:
            self._lost.append(f"{path} cannot be brought back: what stood there was not kept.")
        elif (
            now.kind == "directory" and entry.before.kind != "directory" and (more := self._others_in(entry))
        ):
            words = f"it holds {_some(more)}, which the call did not make"
            self._refuse(entry, now, words, f"{path} stays: {words}.")
        elif self._has_folder(entry, now):
            self._want(entry, now)

    def _conflict(self, entry: Entry, now: State) -> None:
        words = f"the call left {_words(entry.after)}, now there is {_words(now)}"
        path = entry.target.path
        if not entry.kept:
            self._refuse(entry, now, words, f"{path} cannot be brought back: what stood there was not kept.")
        elif now.kind == "directory" and entry.before.kind != "directory":
            self._refuse(entry, now, words, f"{path} stays as it is now: a folder.")
        elif entry.keep_bytes is not None:
            self._refuse(entry, now, words, f"{path} stays as it is now: only its old end was kept.")
        elif now.kind == "absent":
            self._refuse(entry, now, words, None)
        else:
            self._refuse(entry, now, words, f"{path} loses what stands there now: {_words(now)}.")
        if self._force and self._can_be_forced(entry, now) and self._has_folder(entry, now):
            self._want(entry, now)

    def _can_be_forced(self, entry: Entry, now: State) -> bool:
        a_folder_now = now.kind == "directory" and entry.before.kind != "directory"
        return entry.kept and not a_folder_now and entry.keep_bytes is None

    def _refuse(self, entry: Entry, now: State, words: str, lost: str | None) -> None:
        self._conflicts.append(
            Conflict(
                path=entry.target.path,
                expected=None if entry.after is None else version_of(entry.after),
                found=version_of(now),
                words=f"{entry.target.path}: {words}.",
            )
        )
        if lost is not None:
            self._lost.append(lost)

    def _has_folder(self, entry: Entry, now: State) -> bool:
        """Whether the path's folder is there, or comes with it; with force it does."""
        if entry.before.kind == "absent" or entry.target.path in self._standing:
            return True
        folder = folder_of(entry.target)
        if folder.path in self._brought:
            return True
        try:
            self._folders.at(folder)
        except (FileNotFoundError, NotADirectoryError):
            if not self._force:
                self._refuse(entry, now, f"its folder {folder.path} is gone", None)
                return False
            for missing in missing_folders(entry.target):
                self._wanted.setdefault(missing.target.path, missing)
        return True

    def _others_in(self, entry: Entry) -> list[str]:
        """Names in a folder the call made that are none of its own."""
        try:
            names = self._folders.names(entry.target)
        except FileNotFoundError:  # it is only taken to stand there
            return []
        return sorted(name for name in names if not self._goes_with(within(entry.target, name).path))

    def _goes_with(self, path: str) -> bool:
        """Whether the call made what stands there, or it is taken to be gone."""
        told = self._standing.get(path)
        return path in self._made_by_call or (told is not None and told.kind == "absent")

    def _want(self, entry: Entry, now: State) -> None:
        path = entry.target.path
        self._wanted[path] = wanted_back(self._set, entry, self._twins.of(entry))
        self._expected[path] = now

    def _folder_times(self) -> dict[Target, int]:
        """Of the folders whose time is still the one the call left."""
        times: dict[Target, int] = {}
        for one in self._set.folders:
            try:
                now_ns = os.fstat(self._folders.at(one.folder)).st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                continue
            if now_ns == one.after_ns:
                times[one.folder] = one.before_ns
        return times


def _sum(plans: list[UndoPlan]) -> UndoPlan:
    """Several plans, one after the other."""
    return UndoPlan(
        wanted=tuple(wanted for plan in plans for wanted in plan.wanted),
        expected={path: state for plan in reversed(plans) for path, state in plan.expected.items()},
        folder_times={folder: time for plan in plans for folder, time in plan.folder_times.items()},
        conflicts=tuple(conflict for plan in plans for conflict in plan.conflicts),
        lost=tuple(sentence for plan in plans for sentence in plan.lost),
        as_before=tuple(path for plan in plans for path in plan.as_before),
        roots=plans[0].roots,
    )


def _refused(plan: UndoPlan, changes: tuple[Change, ...]) -> UndoConflict:
    sentences = [conflict.words for conflict in plan.conflicts] or list(plan.lost)
    more = f" And {len(sentences) - NAMED_MAX} more." if len(sentences) > NAMED_MAX else ""
    return UndoConflict(
        f"Not taken back. {' '.join(sentences[:NAMED_MAX])}{more}",
        hint="With force it is taken back as far as that can be done.",
        conflicts=plan.conflicts,
        lost=plan.lost,
        changes=changes,
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def _words(state: State | None) -> str:
    """A state, so that two of them can be told apart in a sentence."""
    if state is None or state.kind == "absent":
        return "nothing"
    if state.kind == "link":
        return f"a link to {state.target}"
    mode = f"mode {state.mode:04o}"
    if state.kind == "file" and state.sha256 is not None:
        return f"a file of {state.size:,} bytes ({mode}, sha256 {state.sha256.hex()[:12]}…)"
    return f"a {state.kind} ({mode})" if state.kind != "other" else "a device, FIFO or socket"
