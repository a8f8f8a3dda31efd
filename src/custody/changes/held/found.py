"""What a command changed, gathered path by path while its files are read, within bounds.

Owns the judgement of one path: is it another than what stands in the root, in what, and who are its other
names. Knows nothing of how the paths were found: `uppers` and `copies` do. Used by `holding`.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

import msgspec

from custody.changes.folders import Folders
from custody.changes.held.manifest import FolderTime, HeldEntry
from custody.changes.told import attributes_of
from custody.errors import CannotHold, ToolError
from custody.files.reach import Target
from custody.files.spelling import PATH_BYTES_MAX, shown
from custody.files.state import ABSENT, State, look

SET_IDS = stat.S_ISUID | stat.S_ISGID
CAPABILITIES = "security.capability"
"""The attribute of a program that runs with a part of root's rights."""
OLD_BYTES_READ_MAX = 64 * 1024**2
"""Of old content that is read although another size, or nothing, stands there now. It tells which file a new
one was, and that what was put back after a crash is still what it was: beyond it, that counts as changed."""

TOLD_BYTES_MAX = 64 * 1024**2
"""Of paths, extended attributes and what links say, which are held in memory and written to the manifest, the
record and the undo data: a hundred thousand paths of a build have a tenth of it."""

NAMED_MAX = 3
"""Paths that a warning names."""


class Below(NamedTuple):
    """What stands in the root at a path."""

    state: State
    """Without a digest."""
    ctime_ns: int
    disturbed: bool
    """Somebody else changed it while the command ran."""


NOTHING = Below(ABSENT, 0, False)


class Found:
    """What was found so far, until it is closed."""

    def __init__(self, *, entries_max: int, bytes_max: int, begun_ns: int, stop: Callable[[], bool]) -> None:
        self.folders = Folders()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._begun_ns = begun_ns
        self._stop = stop
        self._is_root = os.geteuid() == 0
        self._entries: dict[Target, HeldEntry] = {}
        self._times: list[FolderTime] = []
        self._visited = 0
        self._bytes = 0
        self._told_bytes = 0
        self._states: dict[tuple[str, int], State] = {}
        """Of files with several names: root and inode -> as read at the first of them."""
        self._names: dict[tuple[str, int], list[Target]] = {}
        self._left_out: list[Target] = []
        self._several_names: list[Target] = []
        self._privileged: list[Target] = []
        self._roots_changed: list[Target] = []
        self._old_bytes_left = OLD_BYTES_READ_MAX

    # -- for whoever finds ----------------------------------------------------------------------------------

    def visit(self, relative: str) -> None:
        """One more path is looked at. Raises CannotHold beyond the bounds, ToolError if asked to stop."""
        self._visited += 1
        if self._visited > self._entries_max:
            raise too_many(self._entries_max)
        if len(relative) * 3 > PATH_BYTES_MAX and len(os.fsencode(relative)) > PATH_BYTES_MAX:
            raise CannotHold(
                f"It made folders too deep to be held: a path has more than {PATH_BYTES_MAX} bytes. "
                "Nothing is held.",
                hint="Have the command use shorter paths.",
                limit="files",
            )
        self._watch()

    def below(self, target: Target) -> Below:
        """What stands in the root at a path."""
        try:
            folder_fd, name = self.folders.of(target)
            ctime_ns = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ctime_ns
            state = look(folder_fd, name, digest=False)
        except (FileNotFoundError, NotADirectoryError):
            return NOTHING
        if state.kind == "absent":
            return NOTHING
        return Below(state, ctime_ns, ctime_ns > self._begun_ns)

    def gone(self, target: Target, below: Below) -> None:
        """Nothing stands there any more."""
        self._add(target, below, ABSENT, content=False)

    def folder(self, target: Target, below: Below, after: State) -> None:
        """A folder stands there."""
        before = below.state
        if before.kind != "directory":
            return self._add(target, below, after, content=False)
        if attributes_of(before) != attributes_of(after):
            if target.relative:
                self._add(target, below, after, content=False)
            else:
                self._roots_changed.append(target)
        self._times.append(FolderTime(folder=target, before_ns=before.mtime_ns, after_ns=after.mtime_ns))

    def leaf(self, target: Target, below: Below, upper: Target, like: Callable[[State], State]) -> None:
        """A file or link stands there, held at `upper`; `like` makes of its state what it is to be."""
        after = like(self._read_new(target, upper))
        before = below.state
        if before.kind == after.kind == "file" and before.size == after.size:
            before = self._read_old(target, before)
        same = before.kind == after.kind and (before.sha256, before.target) == (after.sha256, after.target)
        if before.kind == after.kind == "file" and before.sha256 is None:
            same = False
        if not same and before.kind == after.kind == "file" and before.names > 1:
            self._several_names.append(target)
        plain = _without_privileges(after, before if same else ABSENT)
        if plain is not after:
            self._privileged.append(target)
            after = plain
        if after.names > 1 and after.kind == "file":
            self._names.setdefault((target.root, after.inode), []).append(target)
        if same and attributes_of(before) == attributes_of(after) and before.mtime_ns == after.mtime_ns:
            return
        content = after.kind == "file" and not same
        self._add(target, below._replace(state=before), after, content=content)

    def leave_out(self, target: Target) -> None:
        """A device, a FIFO or a socket, which nobody can put in place; what stands there stays."""
        self._left_out.append(target)

    def readable(self, upper: Target, status: os.stat_result) -> None:
        """Let us read what the command has shut; the mode it gave is told by `status`."""
        wanted = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR
        if self._is_root or stat.S_ISLNK(status.st_mode) or status.st_mode & wanted == wanted:
            return
        mode = stat.S_IMODE(status.st_mode) | wanted
        if upper.relative:
            folder_fd, name = self.folders.of(upper)
            os.chmod(name, mode, dir_fd=folder_fd)  # ours alone by now, and no link
        else:
            os.chmod(upper.path, mode)

    # -- what came of it ------------------------------------------------------------------------------------

    def entries(self) -> Iterable[HeldEntry]:
        self._join_names()
        self._part_names()
        self._read_what_goes()
        return self._entries.values()

    def times(self) -> list[FolderTime]:
        """Of the folders in which something changed, or which were given another time."""
        touched = {(target.root, os.path.dirname(target.relative)) for target in self._entries}
        return [
            one
            for one in self._times
            if one.before_ns != one.after_ns or (one.folder.root, one.folder.relative) in touched
        ]

    def warnings(self) -> list[str]:
        disturbed = [entry.target for entry in self._entries.values() if entry.disturbed]
        only_times = [entry for entry in self._entries.values() if _only_time(entry)]
        told = [
            (disturbed, "changed by somebody else while the command ran: a commit refuses"),
            (self._left_out, "a device, a FIFO or a socket: left out, what stands there stays"),
            (self._roots_changed, "a root, whose own mode, owner and attributes stay as they are"),
            (
                self._privileged,
                "will not run with rights of its own (set-user-id, set-group-id, capabilities): left out",
            ),
            (self._several_names, "a file with other names (hard links), which keep the old content"),
        ]
        sentences = [f"{some_of(_paths(targets))}: {words}." for targets, words in told if targets]
        if only_times:
            sentences.append(
                f"{some_of([entry.target.path for entry in only_times])}: only the time of change is another."
            )
        return sentences

    def close(self) -> None:
        self.folders.close()

    # -- reading --------------------------------------------------------------------------------------------

    def _read_new(self, target: Target, upper: Target) -> State:
        folder_fd, name = self.folders.of(upper)
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        key = (target.root, status.st_ino)
        if status.st_nlink > 1 and key in self._states:
            return self._states[key]
        if stat.S_ISREG(status.st_mode):
            self._bytes += status.st_size
            if self._bytes > self._bytes_max:
                raise too_large(self._bytes, self._bytes_max)
            self.readable(upper, status)
        state = look(folder_fd, name, sink=lambda _: self._watch())
        state = msgspec.structs.replace(state, mode=stat.S_IMODE(status.st_mode))
        if status.st_nlink > 1:
            self._states[key] = state
        return state

    def _read_old(self, target: Target, before: State) -> State:
        """With its digest, where it may be read and is still that file."""
        folder_fd, name = self.folders.of(target)
        try:
            state = look(folder_fd, name, sink=lambda _: self._watch())
        except OSError:
            return before
        same_file = (state.kind, state.inode, state.size, state.mtime_ns) == (
            before.kind, before.inode, before.size, before.mtime_ns,
        )  # fmt: skip
        return state if same_file else before

    def _read_what_goes(self) -> None:
        """As far as that is not too much to read; what a new file may have been comes first."""
        came = {
            entry.after.size
            for entry in self._entries.values()
            if entry.before.kind == "absent" and entry.after.kind == "file"
        }
        wanted = [
            entry
            for entry in self._entries.values()
            if entry.before.kind == "file" and entry.before.sha256 is None
        ]
        for entry in sorted(wanted, key=lambda entry: entry.before.size not in came):
            self._watch()
            if entry.before.size <= self._old_bytes_left:
                self._old_bytes_left -= entry.before.size
                with suppress(OSError, CannotHold):
                    before = self._read_old(entry.target, entry.before)
                    self._entries[entry.target] = msgspec.structs.replace(entry, before=before)

    def _join_names(self) -> None:
        """Names of one file are to be names of one file again: of one that stays, if there is one."""
        for names in self._names.values():
            if len(names) < 2:
                continue
            stays = next((name for name in names if name not in self._entries), None)
            first = names[0] if stays is None else stays
            for name in names:
                if name in self._entries:
                    twin = None if name == first else first
                    self._entries[name] = msgspec.structs.replace(
                        self._entries[name], content=True, twin=twin
                    )

    def _part_names(self) -> None:
        """Where one name of a file gets another content and another name only attributes, both are written:
        an undo joins names again that come together."""
        files: dict[tuple[int, int], list[HeldEntry]] = {}
        for entry in self._entries.values():
            if entry.before.kind == "file" and entry.before.names > 1:
                files.setdefault((entry.before.device, entry.before.inode), []).append(entry)
        for entries in files.values():
            if all(entry.after.kind == "file" and not entry.content for entry in entries):
                continue
            for entry in entries:
                if entry.after.kind == "file":
                    self._entries[entry.target] = msgspec.structs.replace(entry, content=True)

    def _add(self, target: Target, below: Below, after: State, *, content: bool) -> None:
        self._told_bytes += len(target.relative) + len(after.target or "")
        self._told_bytes += sum(len(name) + len(value) for name, value in after.xattrs.items())
        if self._told_bytes > TOLD_BYTES_MAX:
            raise too_much_told()
        self._entries[target] = HeldEntry(
            target=target,
            before=below.state,
            ctime_ns=below.ctime_ns,
            after=after,
            content=content,
            disturbed=below.disturbed,
        )

    def _watch(self) -> None:
        if self._stop():
            raise ToolError("It was asked to end while what the command changed was read. Nothing is held.")


def _without_privileges(after: State, before: State) -> State:
    """The file without what `before` had not: what a command wrote runs as nobody else, also where the file
    that it wrote to did, and a mapping kept the bits and the capabilities."""
    gained = after.mode & SET_IDS & ~before.mode
    xattrs = {
        name: value
        for name, value in after.xattrs.items()
        if name != CAPABILITIES or value == before.xattrs.get(name)
    }
    if not gained and len(xattrs) == len(after.xattrs):
        return after
    return msgspec.structs.replace(after, mode=after.mode & ~gained, xattrs=xattrs)


def too_many(entries_max: int) -> CannotHold:
    """The refusal of more paths than one transaction may change, or copy."""
    return CannotHold(
        f"There are more than {entries_max:,} files and folders to hold. Nothing is held.",
        hint="Name a narrower root, or run it at the level confined.",
        limit="files",
        entries_max=entries_max,
    )


def too_large(content_bytes: int, bytes_max: int) -> CannotHold:
    """The refusal of more content than one transaction may hold, or copy."""
    return CannotHold(
        f"There are more than {bytes_max / 1024**2:,.1f} MiB of content to hold. Nothing is held.",
        hint="Name a narrower root, or run it at the level confined.",
        limit="disk",
        bytes=content_bytes,
        bytes_max=bytes_max,
    )


def too_much_told() -> CannotHold:
    """The refusal of names and attributes that take more room than the files they belong to may."""
    return CannotHold(
        f"The names and attributes to hold are more than {TOLD_BYTES_MAX // 1024**2} MiB. Nothing is held.",
        hint="Have the command use shorter paths and smaller attributes.",
        limit="files",
    )


def unreadable(target: Target, error: OSError) -> NoReturn:
    """What cannot be looked at cannot be held: half of a change is none."""
    raise CannotHold(
        f"{shown(target.path)} cannot be read: {error.strerror}. Nothing is held.", errno=error.errno
    ) from error


def _only_time(entry: HeldEntry) -> bool:
    before, after = entry.before, entry.after
    return (
        (before.kind, before.sha256, before.target) == (after.kind, after.sha256, after.target)
        and before.kind in ("file", "link")
        and attributes_of(before) == attributes_of(after)
    )


def some_of(paths: Sequence[str]) -> str:
    """The first of them, and how many more there are. On one line, whatever their names: what a command calls
    its files must not look like words of ours."""
    more = f" and {len(paths) - NAMED_MAX:,} more" if len(paths) > NAMED_MAX else ""
    return ", ".join(map(on_one_line, paths[:NAMED_MAX])) + more


def on_one_line(path: str) -> str:
    """A path for a sentence, with what would break its line, or steer a terminal, escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in shown(path))


def _paths(targets: Iterable[Target]) -> list[str]:
    return [target.path for target in targets]
