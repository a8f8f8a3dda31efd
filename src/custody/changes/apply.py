"""The way of a change: stage, keep, write down, and only then put in place.

Owns the order of these steps and what happens when one of them fails. Read `carry_out` first. How a path
comes to what is wanted lies in `placing`, what is written down in `entries`. Used by the tools that change
files and by `undo`.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from custody.changes import entries
from custody.changes.folders import Folders, folder_of, within
from custody.changes.log import UndoSet
from custody.changes.placing import Placing, Step, changed_meanwhile
from custody.changes.putback import PutBack, put_back
from custody.changes.store import UndoStore
from custody.changes.tails import Beginning
from custody.changes.told import attributes_of, change_of
from custody.changes.twins import Names
from custody.changes.wanted import Wanted
from custody.changes.writing import UndoWriter, too_much
from custody.errors import CustodyError, ToolError, UndoConflict
from custody.files.putting import set_folder_mtime, temporary_name
from custody.files.reach import Target
from custody.files.state import ABSENT, State, look, same
from custody.records import Change

STAGED_IN_TURN_MAX = 64
"""Files staged one after the other; for more, threads are worth their start."""
STAGING_THREADS = min(4, os.cpu_count() or 1)
STAGING_WATCH_SECONDS = 0.05
"""How long an order to stop waits at most while they work."""


def never() -> bool:
    """Nobody asks for an end."""
    return False


def carry_out(
    undo: UndoStore,
    call_id: bytes,
    wanted: Sequence[Wanted],
    *,
    roots: tuple[str, ...],
    stop: Callable[[], bool] = never,
    expected: Mapping[str, State] | None = None,
    folder_times: Mapping[Target, int] | None = None,
) -> tuple[Change, ...]:
    """Make every path what is wanted there, all or none, keeping what stood there; says what changed.

    `stop` is asked until nothing is changed yet; from then on it goes through. `expected`: absolute path ->
    the state that must still stand there when it is kept, else UndoConflict and nothing is changed.
    `folder_times`: folder -> mtime in nanoseconds it shall have in the end. Raises
    UndoConflict, ToolError (too much to keep, asked to stop, no room for undo data), OSError; the tree is
    then as it was.
    """
    with Folders() as folders:
        change = _Change(wanted, folders, stop, expected or {}, folder_times or {})
        if not change.steps:
            return ()
        change.refuse_too_much(undo.call_bytes_max)
        writer = undo.begin(call_id, roots=roots)
        try:
            change.stage(writer)
            change.keep(writer)
            change.write_down(writer)
        except BaseException:
            if change.unstage():
                writer.abandon()
            else:
                writer.leave_unfinished()
            raise
        # Everything is on the disk, old and new. From here on it goes through, or is put back.
        try:
            change.put_in_place(writer)
        except BaseException as error:
            _put_back(undo, writer, change, error)
            raise
        return change.finish(writer)


class _Change:
    """One change on its way."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        folders: Folders,
        stop: Callable[[], bool],
        expected: Mapping[str, State],
        folder_times: Mapping[Target, int],
    ) -> None:
        self._folders = folders
        self._stop = stop
        self._expected = expected
        self._folder_times = folder_times
        self._paths = {one.target.path: one for one in wanted}
        if len(self._paths) < len(wanted):
            raise ToolError("One change names each path once.")
        steps = [Step(number, one, self._survey(one)) for number, one in enumerate(wanted)]
        self.steps = [step for step in steps if step.goes or step.comes is not None]
        for step in self.steps:
            step.check()
        self._placing = Placing(self.steps, folders)
        self._begun: set[int] = set()
        """Steps that have changed something, or were about to."""
        self._times_before: dict[Target, int] = {}
        """Of folders that hold something that comes or goes, or shall have another time."""
        self._times_staged: dict[Target, int] = {}
        """Of the same, after what was last staged there."""
        self._shared: set[Target] = set()
        """Those in which somebody else changed something meanwhile: their times take their course."""
        self._beginnings: dict[int, Beginning] = {}
        """Of files of which only the end changes."""
        self._plan_staging()

    # -- looking ------------------------------------------------------------------------------------------

    def _survey(self, wanted: Wanted) -> State:
        """What stands there, without its content."""
        try:
            folder_fd, name = self._folders.of(wanted.target)
        except (FileNotFoundError, NotADirectoryError):
            above = self._paths.get(folder_of(wanted.target).path)
            if above is None or above.state.kind != "directory":
                raise
            return ABSENT  # its folder is still to be made
        return look(folder_fd, name, digest=False)

    def _plan_staging(self) -> None:
        """Where temporary files will lie, and when the folders that change had last been changed."""
        for step in self.steps:
            touched: list[Target] = []
            if step.comes == "put":
                touched.append(self._placing.staging_folder(step))
            elif step.goes and step.was.kind in ("file", "link"):
                touched.append(folder_of(step.target))  # for what is put back, should this fail
            if touched:
                step.temporary = within(touched[0], temporary_name())
            if step.renames:
                touched.append(folder_of(step.target))
            for folder in touched:
                self._note_time(folder)
        for folder in self._folder_times:
            self._note_time(folder)

    def _note_time(self, folder: Target) -> None:
        if folder not in self._times_before and self._placing.is_there(folder):
            self._times_before[folder] = self._mtime_ns(folder)

    def _mtime_ns(self, folder: Target) -> int:
        return os.fstat(self._folders.at(folder)).st_mtime_ns

    def refuse_too_much(self, bytes_max: int) -> None:
        """Raises ToolError before anything is written where it is known by now."""
        content_bytes = sum(
            step.was.size - (step.wanted.keep_bytes or 0) for step in self.steps if _keeps(step)
        )
        if content_bytes > bytes_max:
            raise too_much(content_bytes, bytes_max)

    # -- before anything changes --------------------------------------------------------------------------

    def stage(self, writer: UndoWriter) -> None:
        """Make every new file beside its place, and have it on the disk."""
        for folder, mtime_ns in self._times_before.items():
            wanted_ns = self._folder_times.get(folder)
            writer.write(entries.FolderBefore(entries.pack_target(folder), mtime_ns, wanted_ns))
        for step in self.steps:
            if step.temporary is not None:
                writer.write(entries.Staging(step.number, entries.pack_target(step.temporary)))
        writer.flush()  # a temporary file is written down before it is there
        steps = list(self._placing.staged_in_order())
        groups = self._apart(steps)
        if len(steps) > STAGED_IN_TURN_MAX and len(groups) > 1:
            self._stage_at_once(groups, writer)
            steps = [step for step in steps if step.wanted.twin is not None]  # each to one that is there now
        for step in steps:
            self._watch(writer)
            self._stage(step, self._folders, lambda: self._watch(writer))
        self._placing.sync_staged()

    def _stage(self, step: Step, folders: Folders, watch: Callable[[], None]) -> None:
        try:
            self._placing.stage(step, folders, watch)
        finally:
            folder = self._placing.staging_folder(step)
            if folder in self._times_before:
                with suppress(OSError):
                    self._times_staged[folder] = os.fstat(folders.at(folder)).st_mtime_ns

    def _apart(self, steps: Sequence[Step]) -> list[list[Step]]:
        """Steps that need no other to be staged, those of one folder together: no two threads work in one."""
        groups: dict[Target, list[Step]] = {}
        for step in steps:
            if step.wanted.twin is None:
                groups.setdefault(self._placing.staging_folder(step), []).append(step)
        return list(groups.values())

    def _stage_at_once(self, groups: Sequence[Sequence[Step]], writer: UndoWriter) -> None:
        """In threads: making a file is the file system's work, and takes long where many have just gone."""
        halted = threading.Event()

        def watch() -> None:
            if halted.is_set():
                raise ToolError("Another file could not be staged.")

        def work(group: Sequence[Step]) -> None:
            with Folders() as folders:
                for step in group:
                    watch()
                    self._stage(step, folders, watch)

        pool = ThreadPoolExecutor(STAGING_THREADS)
        try:
            waiting = {pool.submit(work, group) for group in groups}
            while waiting:
                ended, waiting = wait(waiting, STAGING_WATCH_SECONDS, FIRST_COMPLETED)
                for one in ended:
                    one.result()
                self._watch(writer)
        finally:
            halted.set()
            pool.shutdown(cancel_futures=True)

    def keep(self, writer: UndoWriter) -> None:
        """Write down what stands at every path, with the content that would be lost."""
        names = Names(self._folders)
        for step in self.steps:
            self._watch(writer)
            surveyed, step.was = step.was, self._look(step, writer)
            if _identity(surveyed) != _identity(step.was):
                raise changed_meanwhile(step.target, surveyed, step.was)
            expected = self._expected.get(step.target.path)
            if expected is not None and not _stands(expected, step.was):
                raise changed_meanwhile(step.target, expected, step.was)
            twin = names.other(step.target, step.was, but=self._paths) if _keeps(step) else None
            writer.write(
                entries.Before(
                    step.number,
                    entries.pack_target(step.target),
                    entries.pack_state(step.was),
                    step.was.kind != "other",
                    None if twin is None else entries.pack_target(twin),
                )
            )

    def _look(self, step: Step, writer: UndoWriter) -> State:
        """What stands there, read if its content will be lost, or is expected to be something."""
        try:
            folder_fd, name = self._folders.of(step.target)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        if not _keeps(step):
            expected = self._expected.get(step.target.path)
            return look(folder_fd, name, digest=expected is not None and expected.sha256 is not None)

        def sink(chunk: bytes) -> None:
            self._watch(writer)
            writer.content(chunk)

        if step.wanted.keep_bytes is None:
            return look(folder_fd, name, sink=sink)
        beginning = self._beginnings[step.number] = Beginning(step.wanted.keep_bytes, sink)
        state = look(folder_fd, name, sink=beginning.take)
        if state.size != step.was.size:  # somebody else has added to it, or taken away
            raise changed_meanwhile(step.target, step.was, state)
        return state

    def write_down(self, writer: UndoWriter) -> None:
        """Say what will stand at every path, and have all that was written on the disk."""
        for step in self.steps:
            beginning, wanted = self._beginnings.get(step.number), step.wanted
            if beginning is not None:
                assert wanted.content is not None, "it has an end to write"
                like = wanted.state if wanted.exact else step.was
                step.after = beginning.with_end(like, wanted.content(), writer.content)
                writer.write(entries.Addition(step.number))
            elif step.comes == "folder":
                step.after = wanted.state
            elif step.comes == "attributes":
                step.after = step.attributes()
            writer.write(
                entries.Intent(
                    step.number,
                    entries.pack_state(step.after),
                    None if beginning is None else wanted.keep_bytes,
                    None if beginning is None else beginning.sha256,
                    wanted.exact,
                )
            )
        self._watch(writer)
        writer.ready()

    def _watch(self, writer: UndoWriter) -> None:
        if self._stop():
            raise ToolError("It was asked to end before anything was changed.")
        writer.tick()

    def unstage(self) -> bool:
        """Leave no temporary file, and the folders as if there had been none; whether that could be done."""
        try:
            self._note_shared()
            self._placing.unstage()
            for folder in self._times_staged.keys() - self._shared:
                before_ns = self._times_before[folder]
                if self._mtime_ns(folder) != before_ns:
                    set_folder_mtime(self._folders.at(folder), before_ns)
        except OSError:
            return False
        return True

    # -- the change ---------------------------------------------------------------------------------------

    def put_in_place(self, writer: UndoWriter) -> None:
        """Take every step, and have the names on the disk."""
        self._note_shared()
        for step, take in self._placing.actions():
            with suppress(ToolError):  # the word matters less than what it is about
                writer.tick()
            first = step.number not in self._begun
            self._begun.add(step.number)
            try:
                take(step)
            except UndoConflict:
                if first:  # it refused to begin
                    self._begun.discard(step.number)
                raise
        for folder in self._times_before.keys() - self._shared:
            mtime_ns = self._folder_times.get(folder)
            if mtime_ns is not None:
                set_folder_mtime(self._folders.at(folder), mtime_ns)
        self._placing.sync()

    def _note_shared(self) -> None:
        for folder, before_ns in self._times_before.items():
            if self._mtime_ns(folder) != self._times_staged.get(folder, before_ns):
                self._shared.add(folder)

    def finish(self, writer: UndoWriter) -> tuple[Change, ...]:
        """Say that all is in place. What cannot be said any more recovery finds out."""
        after = [(step.number, self._look_again(step)) for step in self.steps if step.comes != "put"]
        times = [self._time_after(folder) for folder in self._times_before]
        try:
            writer.done([(number, state) for number, state in after if state is not None], times)
        except (CustodyError, OSError):
            writer.leave_unfinished()
        changes = (
            change_of(step.target, step.was, step.after, undoable=_undoable(step)) for step in self.steps
        )
        return tuple(change for change in changes if change is not None)

    def _look_again(self, step: Step) -> State | None:
        """What stands there now, where that could not be said before; None where it is another thing."""
        if step.comes is not None:
            with suppress(OSError, CustodyError):
                state = self._placing.look_again(step)
                if state.kind == step.after.kind:
                    step.after = state
                    return state
        return None

    def _time_after(self, folder: Target) -> int | None:
        try:
            return None if folder in self._shared else self._mtime_ns(folder)
        except OSError:
            return None

    def put_back(self, undo_set: UndoSet) -> PutBack:
        """What was done so far, after a failure in the middle of it."""
        return put_back(undo_set, until_ns=time.time_ns(), begun=self._begun, shared=self._shared)


def _put_back(undo: UndoStore, writer: UndoWriter, change: _Change, error: BaseException) -> None:
    """After a failure in the middle: everything as it was, or as much of it as can be."""
    try:
        undo_set = undo.read(writer.call_id, writer.part)
        assert undo_set is not None, "its writer is still open, so nobody removes it"
        put = change.put_back(undo_set)
    except (CustodyError, OSError) as worse:
        writer.leave_unfinished()
        raise ToolError(f"{error} And it could not be put back yet: {worse}") from error
    if not put.left:
        return writer.abandon()
    writer.keep()
    raise ToolError(f"{error} And these could not be put back: {', '.join(put.left)}.") from error


def _keeps(step: Step) -> bool:
    """Whether old content would be lost."""
    return step.was.kind == "file" and (step.goes or step.comes in ("put", "extend"))


def _undoable(step: Step) -> bool:
    return step.was.kind != "other"


def _identity(state: State) -> tuple[Any, ...]:
    return state.kind, state.device, state.inode, state.target, attributes_of(state)


def _stands(expected: State, found: State) -> bool:
    """Whether it is what was seen before; without a digest, the same file that was not written to."""
    if expected.kind == "file" == found.kind and expected.sha256 is None:
        return (expected.device, expected.inode, expected.size, expected.mtime_ns, expected.mode) == (
            found.device, found.inode, found.size, found.mtime_ns, found.mode,
        )  # fmt: skip
    return same(expected, found)
