"""What a command changed, made into changes that can be told and, where that is possible, taken back.

Owns which old states can be had after the fact: of what was created, there was nothing; what was renamed is
what it was; what was cloned beforehand is kept; the rest is gone, and its change says so. Used by `watch`,
and loaded only where a command has changed something.
"""

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from custody.changes import Observed, UndoStore
from custody.errors import CustodyError
from custody.files import ABSENT, TEMPORARY_PREFIX, Protected, State, Target, parent_of, version_of
from custody.records import Change, Version
from custody.tools.standing import standing
from custody.tools.watching.clones import Clones
from custody.tools.watching.listing import Difference, Entry, Listing

READ_BYTES_MAX = 256 * 1024**2
"""Of the changed files of one command: a quarter of a second. What comes after is told without a digest, and
cannot be taken back."""
READ_SECONDS_MAX = 2.0  # of the same; a build may leave thousands of files
CHUNK_BYTES = 1024**2

Content = Callable[[], Iterator[bytes]]

_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{16}}")
_EMPTY = hashlib.sha256().digest()


class Place(NamedTuple):
    """Where a command was watched."""

    roots: tuple[str, ...]
    protected: Protected
    before: Listing
    after: Listing
    clones: Clones | None


class _Seen(NamedTuple):
    """One difference, with what could be found out about it."""

    difference: Difference
    target: Target
    before: State
    after: State
    content: Content | None
    undoable: bool


def settle(
    found: Sequence[Difference], place: Place, undo: Callable[[], UndoStore], call_id: bytes
) -> tuple[Change, ...]:
    """The changes, with the old states kept where there are any."""
    seen = _Looking(found, place).all()
    kept = _keep(seen, place.roots, undo, call_id) if any(one.undoable for one in seen) else set[str]()
    return tuple(_change(one, place.protected, undoable=one.target.path in kept) for one in seen)


def _keep(
    seen: Sequence[_Seen], roots: tuple[str, ...], undo: Callable[[], UndoStore], call_id: bytes
) -> set[str]:
    """Paths whose old state is kept now. Where nothing can be kept the changes are still told."""
    observed = None
    kept: set[str] = set()
    try:
        store = undo()
        bytes_left = store.call_bytes_max
        observed = Observed(store, call_id, roots=roots)
        for one in seen:
            fits = one.content is None or one.before.size <= bytes_left
            if one.undoable and fits:
                bytes_left -= 0 if one.content is None else one.before.size
                kept.add(one.target.path)
                _note(one, observed, roots)
            elif one.difference.change in ("modified", "deleted"):  # so that undoing says what is lost
                observed.note(one.target, one.before, one.after)
        observed.settle()
    except (CustodyError, OSError):
        if observed is not None:
            observed.abandon()
        return set()
    return kept


def _note(one: _Seen, observed: Observed, roots: tuple[str, ...]) -> None:
    if one.difference.renamed_from is None:
        observed.note(one.target, one.before, one.after, one.content)
    else:
        observed.note(_target(one.difference.renamed_from, roots), one.before, ABSENT, one.content)
        observed.note(one.target, ABSENT, one.after)


def _change(one: _Seen, protected: Protected, *, undoable: bool) -> Change:
    difference = one.difference
    secret = protected.refusal(difference.path, write=False) is not None

    def version(state: State) -> Version | None:
        said = version_of(state)
        # The digest of a short secret is as good as the secret to who can guess.
        return msgspec.structs.replace(said, sha256=None) if secret and said is not None else said

    return Change(
        path=difference.path,
        change=difference.change,
        kind=(difference.after or difference.before or _nothing()).kind,
        before=version(one.before),
        after=version(one.after),
        renamed_from=difference.renamed_from,
        undoable=undoable,
    )


def _nothing() -> Entry:
    raise AssertionError("a difference has a before or an after")


class _Looking:
    """Finds out what can be known of each difference, within the bounds of reading."""

    def __init__(self, found: Sequence[Difference], place: Place) -> None:
        self._found = [one for one in found if not _TEMPORARY.fullmatch(os.path.basename(one.path))]
        self._place = place
        self._bytes_left = READ_BYTES_MAX
        self._until = time.monotonic() + READ_SECONDS_MAX
        self._unknown = self._unknown_folders()
        self._places = {
            (*one.after.identity, one.after.size, one.after.mtime_ns): one.path
            for one in self._found
            if one.after is not None
        }

    def all(self) -> list[_Seen]:
        return [self._seen(one) for one in self._found]

    def _unknown_folders(self) -> set[str]:
        """New folders in which something is that was not listed: they cannot be removed again."""
        new = {
            one.path for one in self._found if one.change in ("created", "renamed") and _is_folder(one.after)
        }
        unknown: set[str] = set()
        for path in new:
            if path not in self._place.after.folders:
                while (above := os.path.dirname(path)) in new:
                    path = above
                unknown.add(path)
        return unknown

    def _seen(self, one: Difference) -> _Seen:
        target = _target(one.path, self._place.roots)
        after = ABSENT if one.after is None else self._state_now(one.after, target)
        if one.before is None:
            return _Seen(one, target, ABSENT, after, None, self._removable(one, after))
        before, content = self._before(one, one.before, target, after)
        undoable = _known(after) and (before.kind != "file" or content is not None)
        if one.change == "renamed":
            undoable = undoable and self._removable(one, after)
        elif one.change == "mode":
            undoable = _known(after) and _attributes(before) != _attributes(after)
        elif one.change == "deleted" and before.kind == "directory":
            undoable = one.path in self._place.before.folders
        return _Seen(one, target, before, after, content, undoable)

    def _removable(self, one: Difference, after: State) -> bool:
        """Whether what is new can be removed again, and nothing else with it."""
        if not _known(after) or after.kind == "other":
            return False
        return not any(f"{one.path}/".startswith(f"{folder}/") for folder in self._unknown)

    def _before(
        self, one: Difference, entry: Entry, target: Target, after: State
    ) -> tuple[State, Content | None]:
        """What stood there, and its content where that can still be had."""
        state = _state(entry)
        if one.change in ("renamed", "mode"):
            same = msgspec.structs.replace(state, sha256=after.sha256, xattrs=after.xattrs)
            moved = one.change == "renamed" and after.sha256 is not None
            return same, _reader(target) if moved else None
        if state.kind != "file":
            return state, None
        if not entry.size:
            return msgspec.structs.replace(state, sha256=_EMPTY), lambda: iter(())
        return self._from_clone(one.path, entry, state) or self._elsewhere(entry, state)

    def _from_clone(self, path: str, entry: Entry, state: State) -> tuple[State, Content] | None:
        clones = self._place.clones
        clone = None if clones is None else clones.get(path)
        if clones is None or clone is None or not self._may_read(entry.size):
            return None
        digest = hashlib.sha256()
        try:
            for chunk in clones.content(clone):
                digest.update(chunk)
        except OSError:
            return None
        kept = msgspec.structs.replace(state, sha256=digest.digest(), xattrs=clone.xattrs)
        return kept, lambda: clones.content(clone)

    def _elsewhere(self, entry: Entry, state: State) -> tuple[State, Content | None]:
        """A deleted or replaced file that now stands at another path, in place of what was there."""
        path = self._places.get((*entry.identity, entry.size, entry.mtime_ns))
        if path is None:
            return state, None
        target = _target(path, self._place.roots)
        now = self._looked_at(target, entry.size)
        if now is None or now.sha256 is None:
            return state, None
        same = msgspec.structs.replace(state, sha256=now.sha256, xattrs=now.xattrs)
        return same, _reader(target)

    def _state_now(self, entry: Entry, target: Target) -> State:
        """What stands there now; of a file beyond the bounds, or gone again, what the listing says."""
        if entry.kind == "other":
            return _state(entry)
        found = self._looked_at(target, entry.size if entry.kind == "file" else 0)
        return found if found is not None and found.kind == entry.kind else _state(entry)

    def _looked_at(self, target: Target, size: int) -> State | None:
        if not self._may_read(size):
            return None
        try:
            return standing(target, digest=True)
        except (CustodyError, OSError):
            return None

    def _may_read(self, size: int) -> bool:
        if size > self._bytes_left or time.monotonic() > self._until:
            return False
        self._bytes_left -= size
        return True


def _known(state: State) -> bool:
    """Whether it can be told later that nobody has changed it."""
    return state.kind != "file" or state.sha256 is not None


def _attributes(state: State) -> tuple[int, int, int]:
    """Where these are the same, only the ctime says that something was done."""
    return state.mode, state.uid, state.gid


def _is_folder(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == "directory"


def _state(entry: Entry) -> State:
    return State(
        kind=entry.kind,
        mode=stat.S_IMODE(entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        size=entry.size if entry.kind == "file" else 0,
        target=entry.target,
        device=entry.device,
        inode=entry.inode,
        names=entry.names,
    )


def _target(path: str, roots: Sequence[str]) -> Target:
    root = min((root for root in roots if f"{path}/".startswith(f"{root.rstrip('/')}/")), key=len)
    return Target(root, path[len(root.rstrip("/")) + 1 :])


def _reader(target: Target) -> Content:
    """The content of a file as it is now, which is what it was."""

    def read() -> Iterator[bytes]:
        with parent_of(target) as (folder, name):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            while chunk := os.read(fd, CHUNK_BYTES):
                yield chunk
        finally:
            os.close(fd)

    return read
