"""What is held of one call: every path the command changed, as it was and as it shall be, and where its new
content lies.

Owns the value and its bytes on the disk. Knows nothing of how it was found out or is carried out. Used by all
of `held`, and by whoever shows a change before it counts.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import Struct

from custody.changes.diff import TEXT_BYTES_MAX, unified
from custody.changes.entries import PackedState, pack_paths, pack_state, unpack_paths, unpack_state
from custody.changes.folders import Folders
from custody.changes.told import change_of
from custody.changes.wanted import Content
from custody.errors import NothingHeld
from custody.files.reach import Target
from custody.files.spelling import shown
from custody.files.state import CHUNK_BYTES, State
from custody.records import Change

VERSION = 2
DIGEST_BYTES = 32

Kind = Literal["overlay", "copy"]

Data = bytes
"""In a class that counts `bytes`."""


class HeldEntry(Struct, frozen=True, kw_only=True):
    """One path the command changed."""

    target: Target
    before: State
    """What stood there. Without a digest where nothing asked for one."""
    ctime_ns: int
    """Of what stood there: whatever is done to it later shows. 0 where nothing did."""
    after: State
    content: bool
    """Its new content is held, at the same relative path. False: it stays, with other attributes."""
    twin: Target | None = None
    """Another name of the same file."""
    disturbed: bool = False
    """Somebody else changed it while the command ran."""


class FolderTime(Struct, frozen=True, kw_only=True):
    """When a folder had last been changed, outside and in the command's eyes. Nanoseconds."""

    folder: Target
    before_ns: int
    after_ns: int


class HeldSet(Struct, frozen=True, kw_only=True):
    """What one command changed, and nobody has put in place yet."""

    call_id: bytes
    roots: tuple[str, ...]
    kind: Kind
    changes: tuple[Change, ...]
    """As they would be told of a call that made them; a rename is inferred from equal content."""
    bytes: int
    """Of held content."""
    warnings: tuple[str, ...]
    """What is not held, or will not be as the command saw it, a sentence each."""
    entries: tuple[HeldEntry, ...]
    times: tuple[FolderTime, ...]
    uppers: tuple[str, ...]
    """Where the content lies, for each root."""
    manifest_digest: Data = b""
    """SHA-256 of its manifest, to which whoever speaks of this set can be held."""

    def content(self, target: Target) -> Content:
        """The held content of a file, in chunks. Raises NothingHeld where it was committed or discarded."""
        upper = self.uppers[self.roots.index(target.root)]
        return lambda: _read(Target(upper, target.relative))

    def old_and_new(self, change: Change) -> tuple[Data | None, Data | None]:
        """What stands at the path now and what would, at most a byte more of each than is ever compared.

        Of a link it is where it points. None: no file or link.
        """
        by_path = {entry.target.path: entry for entry in self.entries}
        return self._old_and_new(by_path[change.renamed_from or change.path], by_path[change.path])

    def diffs(self) -> Iterator[tuple[Change, list[str] | None]]:
        """Every change with the lines of its unified diff; None where it is not text.

        A line in brackets says that what stood there was changed since, and a commit will refuse.
        """
        by_path = {entry.target.path: entry for entry in self.entries}
        for change in self.changes:
            source = by_path[change.renamed_from or change.path]
            old, new = self._old_and_new(source, by_path[change.path])
            lines = unified(old, new, shown(change.path))
            if lines is not None and source.before.kind != "directory" and is_another(source):
                lines.insert(0, f"({shown(source.target.path)}: it was changed since, by somebody else)")
            yield change, lines

    def _old_and_new(self, source: HeldEntry, entry: HeldEntry) -> tuple[Data | None, Data | None]:
        old = _some(source.before, source.target)
        if entry.after.kind == "file" and not entry.content:
            return old, old
        upper = self.uppers[self.roots.index(entry.target.root)]
        return old, _some(entry.after, Target(upper, entry.target.relative))


def held_set(
    call_id: bytes,
    kind: Kind,
    roots: Sequence[str],
    uppers: Sequence[str],
    *,
    entries: Iterable[HeldEntry],
    times: Iterable[FolderTime] = (),
    warnings: Iterable[str] = (),
    digest: bytes | None = None,
) -> HeldSet:
    """The set with what follows from its entries."""
    entries = tuple(sorted(entries, key=lambda entry: entry.target.path))
    told = (
        change_of(entry.target, entry.before, entry.after, undoable=entry.before.kind != "other")
        for entry in entries
    )
    held = HeldSet(
        call_id=call_id,
        roots=tuple(roots),
        kind=kind,
        changes=with_renames([change for change in told if change is not None]),
        bytes=sum(entry.after.size for entry in entries if entry.content and entry.twin is None),
        warnings=tuple(warnings),
        entries=entries,
        times=tuple(times),
        uppers=tuple(uppers),
    )
    return msgspec.structs.replace(held, manifest_digest=digest or pack(held)[:DIGEST_BYTES])


def with_renames(changes: Sequence[Change]) -> tuple[Change, ...]:
    """A file that went, and one with the same content that came, told as one that moved. Nobody saw it move:
    each is marked so. An empty file is like every other, and is told as it was found."""
    gone: dict[tuple[int, str], _Gone] = {}
    for change in changes:
        if change.change == "deleted" and change.kind == "file" and change.before is not None:
            version = change.before
            if version.bytes and version.sha256 is not None:
                gone.setdefault((version.bytes, version.sha256), _Gone()).add(change)
    moved: set[str] = set()
    told: list[Change] = []
    for change in changes:
        source = _source(change, gone)
        if source is not None:
            moved.add(source.path)
            change = msgspec.structs.replace(
                change,
                change="renamed",
                renamed_from=source.path,
                inferred=True,
                before=source.before,
                undoable=source.undoable and change.undoable,
            )
        told.append(change)
    return tuple(change for change in told if change.path not in moved or change.change != "deleted")


class _Gone:
    """Files of one content that went, each to be taken once. A command may move a hundred thousand of them,
    so nothing is looked for."""

    def __init__(self) -> None:
        self._all: deque[Change] = deque()
        self._by_name: dict[str, deque[Change]] = {}
        self._taken: set[str] = set()

    def add(self, change: Change) -> None:
        self._all.append(change)
        self._by_name.setdefault(os.path.basename(change.path), deque()).append(change)

    def take(self, name: str) -> Change | None:
        """One of that name if there is one, else the first."""
        for ahead in (self._by_name.get(name), self._all):
            while ahead:
                change = ahead.popleft()
                if change.path not in self._taken:
                    self._taken.add(change.path)
                    return change
        return None


def _source(change: Change, gone: dict[tuple[int, str], _Gone]) -> Change | None:
    """The file a new one was, of several the one with the same name."""
    after = change.after
    if change.change != "created" or change.kind != "file" or after is None:
        return None
    if not after.bytes or after.sha256 is None:
        return None
    sources = gone.get((after.bytes, after.sha256))
    return None if sources is None else sources.take(os.path.basename(change.path))


def _read(place: Target) -> Iterator[bytes]:
    try:
        with Folders() as folders:
            folder_fd, name = folders.of(place)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=folder_fd)
    except FileNotFoundError:
        raise NothingHeld("What was held has just been committed or discarded.") from None
    try:
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk
    finally:
        os.close(fd)


def _some(state: State, place: Target) -> bytes | None:
    """The beginning of what stands at a place now, where a file or link is expected there."""
    if state.kind == "link" and state.target is not None:
        return os.fsencode(state.target)
    if state.kind != "file":
        return None
    data = b""
    with suppress(OSError, NothingHeld):  # it went, or was never ours to read: shown as nothing
        for chunk in _read(place):
            data += chunk
            if len(data) > TEXT_BYTES_MAX:
                return data[: TEXT_BYTES_MAX + 1]
        return data
    return None


def is_another(entry: HeldEntry) -> bool:
    """Whether somebody touched what stood there, or put something where nothing was."""
    try:
        with Folders() as folders:
            folder_fd, name = folders.of(entry.target)
            ctime_ns = os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ctime_ns
    except OSError:
        ctime_ns = 0
    return entry.disturbed or ctime_ns != entry.ctime_ns


# -- on the disk ----------------------------------------------------------------------------------------


class _PackedEntry(Struct, frozen=True, array_like=True):
    root: int
    relative: bytes
    before: PackedState
    ctime_ns: int
    after: PackedState
    content: bool
    twin: bytes | None
    disturbed: bool


class _Packed(Struct, frozen=True, array_like=True):
    version: int
    kind: Kind
    roots: tuple[bytes, ...]
    entries: tuple[_PackedEntry, ...]
    times: tuple[tuple[int, bytes, int, int], ...]
    warnings: tuple[str, ...]


def pack(held: HeldSet) -> bytes:
    """Its SHA-256, then msgpack; paths as the bytes they are. A commit makes what the manifest says, so what
    is not what was written is none."""
    at = {root: number for number, root in enumerate(held.roots)}
    packed = msgspec.msgpack.encode(
        _Packed(
            version=VERSION,
            kind=held.kind,
            roots=pack_paths(held.roots),
            entries=tuple(
                _PackedEntry(
                    root=at[entry.target.root],
                    relative=os.fsencode(entry.target.relative),
                    before=pack_state(entry.before),
                    ctime_ns=entry.ctime_ns,
                    after=pack_state(entry.after),
                    content=entry.content,
                    twin=None if entry.twin is None else os.fsencode(entry.twin.relative),
                    disturbed=entry.disturbed,
                )
                for entry in held.entries
            ),
            times=tuple(
                (at[one.folder.root], os.fsencode(one.folder.relative), one.before_ns, one.after_ns)
                for one in held.times
            ),
            warnings=held.warnings,
        )
    )
    return hashlib.sha256(packed).digest() + packed


def unpack(data: bytes, call_id: bytes, folder: str) -> HeldSet:
    """`folder`: where the call's files lie. Raises NothingHeld for what this version did not write."""
    digest, data = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if digest != hashlib.sha256(data).digest():
        raise _unreadable(call_id, "it is not what was written")
    try:
        packed = msgspec.msgpack.decode(data, type=_Packed)
    except msgspec.DecodeError as error:
        raise _unreadable(call_id, str(error)) from error
    if packed.version != VERSION:
        raise _unreadable(call_id, f"it is of version {packed.version}")
    roots = unpack_paths(packed.roots)
    return held_set(
        call_id,
        packed.kind,
        roots,
        uppers_in(folder, packed.kind, len(roots)),
        entries=(_unpack_entry(entry, roots) for entry in packed.entries),
        times=(
            FolderTime(
                folder=Target(roots[root], os.fsdecode(relative)), before_ns=before_ns, after_ns=after_ns
            )
            for root, relative, before_ns, after_ns in packed.times
        ),
        warnings=packed.warnings,
        digest=digest,
    )


def uppers_in(folder: str, kind: Kind, count: int) -> tuple[str, ...]:
    """Where what the command changed lies, for each root of a call."""
    return tuple(f"{folder}/{number}/{'upper' if kind == 'overlay' else 'copy'}" for number in range(count))


def _unpack_entry(packed: _PackedEntry, roots: Sequence[str]) -> HeldEntry:
    root = roots[packed.root]
    return HeldEntry(
        target=Target(root, os.fsdecode(packed.relative)),
        before=unpack_state(packed.before),
        ctime_ns=packed.ctime_ns,
        after=unpack_state(packed.after),
        content=packed.content,
        twin=None if packed.twin is None else Target(root, os.fsdecode(packed.twin)),
        disturbed=packed.disturbed,
    )


def _unreadable(call_id: bytes, how: str) -> NothingHeld:
    return NothingHeld(
        f"What is held of call {call_id.hex()} cannot be read: {how}.",
        hint="`custody discard` removes it.",
        call_id=call_id.hex(),
    )
