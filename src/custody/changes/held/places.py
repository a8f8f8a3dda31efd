"""Which roots a command's changes can be held of, and the folders in which they are.

Owns the refusals and their words, and what is made for each root before a command runs. Knows nothing of what
a command does. Used by `store` and `holding`.
"""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from custody.changes.held.manifest import Kind, uppers_in
from custody.errors import CannotHold, HeldBusy
from custody.files.beneath import open_exactly
from custody.files.putting import apply_attributes
from custody.files.spelling import shown
from custody.files.state import State, look

PRIVATE_MODE = 0o700

_MOUNTS = "/proc/self/mountinfo"
_OCTAL = re.compile(rb"\\([0-7]{3})")


def outermost(roots: Iterable[str]) -> tuple[str, ...]:
    """The roots that lie in no other, sorted: what is held of one is held of all beneath it."""
    roots = set(roots)
    return tuple(sorted(root for root in roots if not any(lies_in(root, o) for o in roots if o != root)))


def lies_in(path: str, folder: str) -> bool:
    """Whether it is the folder itself or lies beneath, by their spelling."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def overlap(roots: Sequence[str], others: Sequence[str]) -> str | None:
    """The first root that is, holds or lies in one of the others."""
    return next(
        (root for root in roots for other in others if lies_in(root, other) or lies_in(other, root)), None
    )


def check_roots(roots: Sequence[str], store: str) -> None:
    """Raises CannotHold where one is no folder, has mounts in it, holds the folder `store` or lies there."""
    mounts = [] if not roots else mount_points()
    for root in roots:
        if not os.path.isdir(root) or os.path.realpath(root) != root:
            raise CannotHold(
                f"{shown(root)} is no folder, or reached by a link.", hint="Name the folder itself."
            )
        if lies_in(store, root) or lies_in(root, store):
            raise CannotHold(
                f"{shown(root)} holds Custody's own store, where what is held would lie.",
                hint="Name a narrower root, or another store with --store.",
            )
        beneath = [point for point in mounts if point != root and lies_in(point, root)]
        if beneath:
            raise CannotHold(
                f"Another file system is mounted in {shown(root)}, at {shown(beneath[0])}: "
                "what a command changes there cannot be held.",
                hint="Name narrower roots, or run it at the level confined.",
            )


def check_free(roots: Sequence[str], in_use: Iterable[tuple[bytes, Sequence[str]]]) -> None:
    """Raises HeldBusy where another call is at work in a root."""
    for call_id, others in in_use:
        root = overlap(roots, others)
        if root is not None:
            raise HeldBusy(
                f"Call {call_id.hex()} is at work in {shown(root)}, and only one transaction may be.",
                hint="Try again when it has ended.",
                call_id=call_id.hex(),
            )


def make_uppers(folder: str, roots: Sequence[str]) -> None:
    """An empty layer for each root, looking like it, and the folder beside it that the kernel wants."""
    for upper, root in zip(uppers_in(folder, "overlay", len(roots)), roots, strict=True):
        above = os.path.dirname(upper)
        os.mkdir(above, PRIVATE_MODE)
        os.mkdir(upper, PRIVATE_MODE)
        os.mkdir(work_of(upper), PRIVATE_MODE)
        look_alike(upper, root)


def work_of(upper: str) -> str:
    """The kernel's own folder beside an upper one."""
    return f"{os.path.dirname(upper)}/work"


def look_alike(upper: str, root: str) -> None:
    """Owner, mode, attributes and time of the root: what the command sees of it is this folder."""
    state = state_of_root(root)
    above, name = os.path.split(upper)
    fd = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        apply_attributes(fd, name, state, times=True)
    finally:
        os.close(fd)


def state_of_root(root: str) -> State:
    """Of a root itself, which no folder above it is asked for."""
    fd = open_exactly(root, os.O_PATH | os.O_DIRECTORY)
    try:
        return look(fd, ".", digest=False)
    finally:
        os.close(fd)


def sources(folder: str, kind: Kind, roots: Sequence[str]) -> list[tuple[str, str]]:
    """Root and where what it holds lies, for each."""
    return list(zip(roots, uppers_in(folder, kind, len(roots)), strict=True))


def mount_points() -> list[str]:
    """Of this process's mounts; none where there is no proc(5)."""
    with suppress(OSError), open(_MOUNTS, "rb") as file:
        return [os.fsdecode(_OCTAL.sub(_character, line.split()[4])) for line in file]
    return []


def _character(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])
