"""The entries of an undo file as they are encoded: msgpack arrays, paths as the bytes they are.

Owns the format and the way there and back. Used by `log`.
"""

import os
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from custody.files.reach import Target
from custody.files.state import State

Place = tuple[bytes, bytes]
"""Root and relative path of a target."""


class PackedState(Struct, frozen=True, array_like=True):
    """A `State`, with what may not be UTF-8 as bytes."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    sha256: bytes | None
    target: bytes | None
    xattrs: dict[bytes, bytes]
    device: int
    inode: int
    names: int


class Begun(Struct, frozen=True, array_like=True, tag="begun"):
    """The first entry."""

    roots: tuple[bytes, ...]


class FolderBefore(Struct, frozen=True, array_like=True, tag="folder"):
    """When a folder that holds something to be changed had last been changed."""

    place: Place
    mtime_ns: int
    wanted_ns: int | None
    """What it shall be in the end; None: it takes its course."""


class Staging(Struct, frozen=True, array_like=True, tag="staging"):
    """A temporary file that is about to be made for entry `number`."""

    number: int
    place: Place


class Again(Struct, frozen=True, array_like=True, tag="again"):
    """The file changed while it was read: what was kept of it so far does not count."""


class Before(Struct, frozen=True, array_like=True, tag="before"):
    """What stands at a path. The content frames since the last entry that took any are its old content."""

    number: int
    place: Place
    state: PackedState
    kept: bool
    twin: Place | None
    """Another name of the same file."""


class Addition(Struct, frozen=True, array_like=True, tag="addition"):
    """The content frames before it are what will be written behind the part of a file that stays."""

    number: int


class Intent(Struct, frozen=True, array_like=True, tag="intent"):
    """What is going to stand at the path of entry `number`."""

    number: int
    after: PackedState
    keep_bytes: int | None
    """The first so many bytes stay and the rest is rewritten in place; None: another file is put there."""
    keep_sha256: bytes | None
    """Of those bytes."""
    exact: bool
    """Attributes and times of `after` are given to it, in the end."""


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """From here on paths are changed."""

    at_ns: int


class Tick(Struct, frozen=True, array_like=True, tag="tick"):
    """It is still at it."""

    at_ns: int


class Left(Struct, frozen=True, array_like=True, tag="left"):
    """What stands at the path of entry `number` now, where an intent could not say it, or there was none."""

    number: int
    after: PackedState


class Done(Struct, frozen=True, array_like=True, tag="done"):
    """All is in place."""

    folders: tuple[int | None, ...]
    """The folders' times of change now, in the order of their entries; None: not known."""


AnyEntry = Begun | FolderBefore | Staging | Again | Before | Addition | Intent | Ready | Tick | Left | Done

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(AnyEntry).decode


def pack_paths(paths: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(map(os.fsencode, paths))


def unpack_paths(paths: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(map(os.fsdecode, paths))


def pack_target(target: Target) -> Place:
    return os.fsencode(target.root), os.fsencode(target.relative)


def unpack_target(place: Place) -> Target:
    return Target(os.fsdecode(place[0]), os.fsdecode(place[1]))


def pack_state(state: State) -> PackedState:
    return PackedState(
        kind=state.kind,
        mode=state.mode,
        uid=state.uid,
        gid=state.gid,
        mtime_ns=state.mtime_ns,
        size=state.size,
        sha256=state.sha256,
        target=None if state.target is None else os.fsencode(state.target),
        xattrs={os.fsencode(name): value for name, value in state.xattrs.items()},
        device=state.device,
        inode=state.inode,
        names=state.names,
    )


def unpack_state(packed: PackedState) -> State:
    assert packed.kind in ("absent", "file", "directory", "link", "other"), "only a State is ever packed"
    return State(
        kind=packed.kind,
        mode=packed.mode,
        uid=packed.uid,
        gid=packed.gid,
        mtime_ns=packed.mtime_ns,
        size=packed.size,
        sha256=packed.sha256,
        target=None if packed.target is None else os.fsdecode(packed.target),
        xattrs={os.fsdecode(name): value for name, value in packed.xattrs.items()},
        device=packed.device,
        inode=packed.inode,
        names=packed.names,
    )
