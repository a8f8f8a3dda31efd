"""How the paths of one change come to what is wanted there: each by one step, in an order that works.

Owns the steps: what is staged beside its place, what goes, what comes, and that nothing is replaced that is
not what was kept. Knows nothing of undo data. Used by `apply` (forward) and `putback` (back).
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from custody.changes.folders import Folders, folder_of
from custody.changes.told import Conflict, attributes_of
from custody.changes.wanted import Wanted
from custody.errors import ToolError, UndoConflict
from custody.files.putting import (
    apply_attributes,
    keep_flags,
    link_again,
    make_folder,
    make_link,
    put_in_place,
    remove,
    rewrite_tail,
    stage_file,
    sync_entry,
    sync_file_system,
    sync_folder,
)
from custody.files.reach import Target
from custody.files.state import ABSENT, State, look, same, version_of
from custody.files.walking import kind_of

SYNCED_ALONE_MAX = 32
"""Files or folders synced one by one; above this the whole file system is, once: that is a commit of its
journal instead of one each."""

PRIVATE_FOLDER_MODE = 0o700
"""Of a folder until all that belongs in it is there and it gets its own."""

Coming = Literal["put", "folder", "extend", "attributes"]
"""A file or link is put in place; a folder is made; a file's end is rewritten; mode and such are set."""


class Step:
    """One path on its way from `was` to what is wanted."""

    __slots__ = ("after", "comes", "goes", "made", "number", "staged", "target", "temporary", "wanted", "was")

    def __init__(self, number: int, wanted: Wanted, was: State) -> None:
        self.number = number
        self.wanted = wanted
        self.target = wanted.target
        self.was = was
        self.goes = _goes(was, wanted)
        """What is there is removed, not replaced."""
        self.comes = _comes(was, wanted)
        """How what is wanted gets there."""
        self.after: State = ABSENT
        """What will stand there; exact for what is staged."""
        self.temporary: Target | None = None
        """Where something is staged, going forward or back."""
        self.staged = False
        self.made: tuple[int, int] | None = None
        """Device and inode of the folder that was made."""

    @property
    def renames(self) -> bool:
        """Whether the folder it stands in changes."""
        return self.goes or self.comes in ("put", "folder")

    def check(self) -> None:
        """Raises ToolError for what cannot be done."""
        kind, path = self.wanted.state.kind, self.target.path
        if kind == "other":
            raise ToolError(f"{path}: a device, a FIFO or a socket cannot be made.")
        if self.comes in ("attributes", "extend") and self.was.kind != kind:
            standing = "nothing" if self.was.kind == "absent" else f"a {self.was.kind}"
            raise ToolError(f"{path}: there is {standing} and no {kind}.")
        if self.wanted.keep_bytes is not None and self.was.size < self.wanted.keep_bytes:
            raise ToolError(f"{path} is shorter than {self.wanted.keep_bytes} bytes.")

    def attributes(self) -> State:
        """Mode, owner and extended attributes that are wanted of what stays in place."""
        if self.wanted.exact:
            return self.wanted.state
        return msgspec.structs.replace(self.was, mode=self.wanted.state.mode)


def _goes(was: State, wanted: Wanted) -> bool:
    if was.kind == "absent":
        return False
    kind = wanted.state.kind
    return kind == "absent" or (kind == "directory") != (was.kind == "directory")


def _comes(was: State, wanted: Wanted) -> Coming | None:
    if wanted.state.kind == "absent":
        return None
    if wanted.state.kind == "directory":
        return "attributes" if was.kind == "directory" else "folder"
    if wanted.keep_bytes is not None:
        return "extend"
    if wanted.state.kind == "file" and wanted.content is None and wanted.twin is None:
        return "attributes"
    return "put"


class Placing:
    """The steps of one change, and the folders they are taken in."""

    def __init__(self, steps: Sequence[Step], folders: Folders) -> None:
        self._steps = steps
        self._folders = folders
        self._by_path = {step.target.path: step for step in steps}
        self._alone = sum(step.comes == "put" for step in steps) <= SYNCED_ALONE_MAX

    # -- before anything changes --------------------------------------------------------------------------

    def is_there(self, folder: Target) -> bool:
        """Whether it is a folder before the change."""
        step = self._by_path.get(folder.path)
        return step is None or step.was.kind == "directory"

    def staging_folder(self, step: Step) -> Target:
        """The folder of the path, or the nearest above that is there before the change."""
        folder = folder_of(step.target)
        while not self.is_there(folder):
            folder = folder_of(folder)
        return folder

    def staged_in_order(self) -> Iterator[Step]:
        """Steps to be staged: names of a file that is wanted as well come after it."""
        putting = [step for step in self._steps if step.comes == "put"]
        yield from (step for step in putting if step.wanted.twin is None)
        yield from (step for step in putting if step.wanted.twin is not None)

    def stage(self, step: Step, folders: Folders, watch: Callable[[], None]) -> None:
        """Make what is wanted under its temporary name. `watch` is called at each chunk, and may raise.

        Without a twin from any thread that has `folders` of its own."""
        assert step.temporary is not None, "its name is written down before"
        folder_fd, name = folders.of(step.temporary)
        if step.wanted.state.kind == "link":
            self._stage_link(step, folder_fd, name)
        elif not self._stage_twin(step, folder_fd, name):
            self._stage_content(step, folder_fd, name, watch)

    def _stage_link(self, step: Step, folder_fd: int, name: str) -> None:
        state = step.wanted.state
        assert state.target is not None, "a link says where it points to"
        make_link(folder_fd, name, state.target)
        step.staged = True
        if step.wanted.exact:
            apply_attributes(folder_fd, name, state, times=True)
        step.after = look(folder_fd, name)

    def _stage_content(self, step: Step, folder_fd: int, name: str, watch: Callable[[], None]) -> None:
        wanted, digest = step.wanted, hashlib.sha256()
        assert wanted.content is not None, "a file is put in place with its content"
        like = wanted.state if wanted.exact else step.was if step.was.kind == "file" else None

        def chunks() -> Iterator[bytes]:
            assert wanted.content is not None, "a file is put in place with its content"
            for chunk in wanted.content():
                watch()
                digest.update(chunk)
                yield chunk
            if wanted.state.sha256 not in (None, digest.digest()):
                raise ToolError(f"What was kept of {wanted.target.path} is not what stood there.")

        mtime_ns = wanted.state.mtime_ns if wanted.exact else None
        stage_file(
            folder_fd,
            chunks(),
            mode=wanted.state.mode,
            like=like,
            mtime_ns=mtime_ns,
            name=name,
            synced=self._alone,
        )
        step.staged = True
        step.after = msgspec.structs.replace(look(folder_fd, name, digest=False), sha256=digest.digest())

    def _stage_twin(self, step: Step, folder_fd: int, name: str) -> bool:
        """Whether it could be made another name of a file that is, or will be, what is wanted here."""
        twin = step.wanted.twin
        if twin is None:
            return False
        other = self._by_path.get(twin.path)
        staged = other is not None and other.staged and other.temporary is not None
        try:
            twin_fd, twin_name = self._folders.of(
                other.temporary if staged and other and other.temporary else twin
            )
            link_again(twin_fd, twin_name, folder_fd, name)
        except OSError:  # it has gone, or the file system or the user may not: a file of its own then
            return False
        step.staged = True
        step.after = look(folder_fd, name)
        if _is_that_file(step.after, step.wanted.state):
            return True
        remove(folder_fd, name, "file")
        step.staged = False
        return False

    def sync_staged(self) -> None:
        """Have on the disk what was not synced when it was staged."""
        if not self._alone:
            staged = (step.temporary for step in self._steps if step.staged)
            self._sync_file_systems({folder_of(temporary) for temporary in staged if temporary is not None})

    def unstage(self) -> None:
        """Remove every temporary file that was made."""
        for step in self._steps:
            if step.staged and step.temporary is not None:
                folder_fd, name = self._folders.of(step.temporary)
                remove(folder_fd, name, "file")
                step.staged = False

    # -- the change ---------------------------------------------------------------------------------------

    def actions(self, *, late: bool = False) -> Iterator[tuple[Step, Callable[[Step], None]]]:
        """Every step and how it is taken: what goes from the deepest, then what comes from the top.

        `late`: a file is staged only right before it is put in place.
        """
        for step in sorted((step for step in self._steps if step.goes), key=_depth, reverse=True):
            yield step, self._remove
        for step in sorted((step for step in self._steps if step.comes == "folder"), key=_depth):
            yield step, self._make_folder
        for step in self.staged_in_order():
            yield step, self._stage_and_put if late else self._put
        for step in self._steps:
            if step.comes == "extend":
                yield step, self._extend
        for step in sorted(filter(_sets_attributes, self._steps), key=_depth, reverse=True):
            yield step, self._set_attributes

    def _remove(self, step: Step) -> None:
        folder_fd, name = self._unchanged(step)
        assert step.was.kind != "absent", "only what is there goes"
        if step.was.kind == "directory":
            self._folders.forget(step.target)
        remove(folder_fd, name, step.was.kind)

    def _make_folder(self, step: Step) -> None:
        folder_fd, name = self._folders.of(step.target)
        make_folder(folder_fd, name, PRIVATE_FOLDER_MODE if step.wanted.exact else step.wanted.state.mode)
        made = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        step.made = made.st_dev, made.st_ino

    def _stage_and_put(self, step: Step) -> None:
        self._alone = True
        self.stage(step, self._folders, _nothing)
        self._put(step)

    def _put(self, step: Step) -> None:
        """The new file takes the place of the old one, at once."""
        assert step.temporary is not None, "it was staged"
        folder_fd, name = self._folders.of(step.target) if step.goes else self._unchanged(step)
        staged_fd, temporary = self._folders.of(step.temporary)
        over = step.was.kind != "absent" and not step.goes
        if over and (step.was.device, step.was.inode) == (step.after.device, step.after.inode):
            remove(staged_fd, temporary, "file")  # a rename onto another name of the same file does nothing
            return
        if over and step.was.kind == step.after.kind == "file" and step.wanted.twin is None:
            keep_flags(folder_fd, name, staged_fd, temporary)
        try:
            put_in_place(folder_fd, temporary, name, from_folder_fd=staged_fd, over=over)
        except FileExistsError:
            raise changed_meanwhile(step.target) from None
        step.staged = False

    def _extend(self, step: Step) -> None:
        wanted = step.wanted
        assert wanted.keep_bytes is not None and wanted.content is not None, "it has an end to write"
        folder_fd, name = self._unchanged(step)
        size = step.was.size
        if not rewrite_tail(folder_fd, name, step.was, wanted.keep_bytes, wanted.content(), size=size):
            raise changed_meanwhile(step.target)

    def _set_attributes(self, step: Step) -> None:
        """Only of what was kept or made: where others may write, another file could have its name by now, and
        be given away."""
        folder_fd, name = (
            self._unchanged(step) if step.comes == "attributes" else self._folders.of(step.target)
        )
        only = step.made or (step.was.device, step.was.inode)
        apply_attributes(folder_fd, name, step.attributes(), times=step.wanted.exact, only=only)

    def _unchanged(self, step: Step) -> tuple[int, str]:
        """The place of a step, where still stands what was kept. Raises UndoConflict."""
        folder_fd, name = self._folders.of(step.target)
        try:
            status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            if step.was.kind != "absent":
                raise changed_meanwhile(step.target) from None
        else:
            if not _is_still(status, step.was):
                raise changed_meanwhile(step.target)
        return folder_fd, name

    # -- after it -------------------------------------------------------------------------------------------

    def look_again(self, step: Step) -> State:
        """What stands there now. What was read when it was staged or kept is not read again."""
        folder_fd, name = self._folders.of(step.target)
        state = look(folder_fd, name, digest=False)
        known = state.size == step.after.size  # else somebody else has added to it, too
        return msgspec.structs.replace(state, sha256=step.after.sha256 if known else None)

    def sync(self) -> None:
        """Have every name on the disk that came or went, and what was given other attributes."""
        touched = {folder_of(step.target) for step in self._steps if step.renames}
        touched |= {
            folder_of(step.temporary) for step in self._steps if step.comes == "put" and step.temporary
        }
        gone = {step.target.path for step in self._steps if step.wanted.state.kind != "directory"}
        standing = [folder for folder in touched if folder.path not in gone]
        changed = [step for step in self._steps if _sets_attributes(step)]
        if len(standing) + len(changed) > SYNCED_ALONE_MAX:
            return self._sync_file_systems([*standing, *(folder_of(step.target) for step in changed)])
        for folder in standing:
            sync_folder(self._folders.at(folder))
        for step in changed:
            sync_entry(*self._folders.of(step.target))

    def _sync_file_systems(self, folders: Iterable[Target]) -> None:
        devices: set[int] = set()
        for folder in folders:
            folder_fd = self._folders.at(folder)
            device = os.fstat(folder_fd).st_dev
            if device not in devices:
                devices.add(device)
                sync_file_system(folder_fd)


def _is_that_file(found: State, wanted: State) -> bool:
    """Whether another name is still one of the file that was, or of what was brought back in its place."""
    return (
        same(found, wanted)
        and found.mtime_ns == wanted.mtime_ns
        and attributes_of(found) == attributes_of(wanted)
    )


def changed_meanwhile(
    target: Target, expected: State | None = None, found: State | None = None
) -> UndoConflict:
    """The error for a path that is not what was kept, or read, a moment ago."""
    words = f"{target.path} was changed by somebody else at the same time; nothing was changed."
    conflict = Conflict(
        path=target.path,
        expected=None if expected is None else version_of(expected),
        found=None if found is None else version_of(found),
        words=words,
    )
    return UndoConflict(words, conflicts=(conflict,))


def _is_still(status: os.stat_result, was: State) -> bool:
    if was.kind != kind_of(status.st_mode) or (was.device, was.inode) != (status.st_dev, status.st_ino):
        return False
    if was.kind != "file" or was.names > 1:  # another name may have been changed in the same call
        return True
    return (was.size, was.mtime_ns, was.mode) == (
        status.st_size,
        status.st_mtime_ns,
        stat.S_IMODE(status.st_mode),
    )


def _sets_attributes(step: Step) -> bool:
    return step.comes == "attributes" or (step.comes in ("folder", "extend") and step.wanted.exact)


def _nothing() -> None:
    pass


def _depth(step: Step) -> int:
    return step.target.path.count("/")
