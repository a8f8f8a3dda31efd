"""The files around the journal: what belongs to a store, what is left over, and small files with a checksum.

Owns the list of what a store holds. A file it does not know is named; so are permissions wider than the
owner's. Used by `verify`.
"""

import os
import re
import stat
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from custody.errors import StoreUnusable
from custody.journal.disk import Disk
from custody.verify.findings import Findings
from custody.verify.summed import read_summed

KNOWN = tuple(
    re.compile(pattern)
    for pattern in (
        r"journal/\d{4,}/(lock|lease|dropped|\d{8}\.seg)",
        r"journal/shared/([0-9a-f]{32}|name-[0-9a-f]{32}|lock-\d\d)",
        r"journal/cancel/[0-9a-f]{16}([0-9a-f]{16})?",
        r"journal/adopt/[0-9a-f]{16}",
        r"journal/purge/[0-9a-z-]+",
        r"journal/(kept|serving)",
        r"journal/(kept|[a-z]+\.lock)",
        r"journal/export-[^/]+\.lock",
        r"blobs/.*",  # `blobs` says what is none
        r"undo/.*",
        r"keys/(redaction\.key|checkpoint\.(key|pub)|undo|allowed\.json)(\.lock)?",
        r"keys/(serve\.token|host\.token|tokens\.json)",
        r"keys/[a-z]+\.lock",
        r"checkpoints/(log|lock|place|delivered)",
        r"checkpoints/tiles/.*",
        r"index\.db(-wal|-shm)?",
    )
)
LOCK = re.compile(r".*(/lock|\.lock|/lock-\d\d)")
COUNTER = re.compile(r"journal/shared/[0-9a-f]{32}")
PLACE = "checkpoints/place"
LOG_LOCK = "checkpoints/lock"
TEMPORARY = ".new-"
"""A file that was being replaced begins so; a dead process may have left it."""


class _Place(Struct):
    size: int = 0


def check_kinds(root: str) -> None:
    """A pipe or a device in the place of a file would be waited for. Raises StoreUnusable."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                raise StoreUnusable(
                    f"{path} is neither a file nor a folder.", hint="Take it away, and look who put it there."
                )


def check_files(disk: Disk, root: str | None, findings: Findings) -> None:
    """Name what is left over or can be read by others; `root` None for a store in memory."""
    for path in _files(disk, root):
        name = path.rpartition("/")[2]
        if name.startswith(TEMPORARY):
            findings.note("left over from an interrupted replacement", file=path)
        elif not any(pattern.fullmatch(path) for pattern in KNOWN):
            findings.note("is no file of a store", file=path)
        elif COUNTER.fullmatch(path):
            _check_summed(disk, path, findings, "a run's counter")
        elif path == PLACE:
            _check_summed(disk, path, findings, "the place of the newest checkpoint")
        elif LOCK.fullmatch(path):
            _check_lock(disk, path, root, findings)
    if root is not None:
        _check_permissions(root, findings)


def _files(disk: Disk, root: str | None) -> Iterator[str]:
    if root is not None:
        for folder, _, names in os.walk(root):
            below = os.path.relpath(folder, root)
            for name in sorted(names):
                yield name if below == "." else f"{below}/{name}"
        return
    yield from _names_below(disk, "")


def _names_below(disk: Disk, folder: str) -> Iterator[str]:
    for name in disk.names(folder):
        path = f"{folder}/{name}" if folder else name
        inside = list(_names_below(disk, path))
        yield from inside or [path]


def _check_summed(disk: Disk, path: str, findings: Findings, what: str) -> None:
    try:
        found = read_summed(disk.read_all(path) or b"")
    except OSError as error:
        findings.problem(f"cannot be read: {error.strerror or error}", file=path)
        return
    if found.text is not None or disk.locked(LOG_LOCK):
        return
    if found.torn:
        findings.note(f"{what} was torn by a power loss, or changed; it is made anew", file=path)
    else:
        findings.fault(f"{what} does not have its checksum", file=path, offset=0)


def noted_size(disk: Disk) -> int:
    """How many checkpoints there were when the last one was made, as far as it was noted; else 0."""
    try:
        text = read_summed(disk.read_all(PLACE) or b"").text
        return 0 if text is None else msgspec.json.decode(text, type=_Place).size
    except (OSError, msgspec.DecodeError):
        return 0


def _check_lock(disk: Disk, path: str, root: str | None, findings: Findings) -> None:
    """Locks are empty. They are not opened for that: closing one would drop this process's own lock."""
    if root is None:
        return
    try:
        if os.lstat(os.path.join(root, path)).st_size:
            findings.fault("a lock holds something", file=path, offset=0)
    except FileNotFoundError:
        pass


def _check_permissions(root: str, findings: Findings) -> None:
    """One note for all: what others may read or write, the first of it named."""
    wide: list[str] = []
    for folder, folders, names in os.walk(root):
        for name in ["", *folders, *names] if folder == root else [*folders, *names]:
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
                wide.append(os.path.relpath(path, root))
    if wide:
        what = f"{len(wide)} files or folders can be used by others than their owner"
        findings.note(what, file=wide[0])
