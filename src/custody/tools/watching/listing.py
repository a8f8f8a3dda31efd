"""What stands in folders at one moment, and what differs between two such moments.

Owns the bounded listing of whole trees, breadth first, and the reading of two of them: what was created,
changed, deleted or renamed in between. Reads no content, keeps nothing, knows no calls. Used by `watch`.
It is loaded for every command that is run, and so imports next to nothing.
"""

import os
import stat
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from custody.records import ChangeKind, EntryKind

ENTRIES_MAX = 20_000
"""Of all folders together: some 70 ms, and 5 MB while the command runs. Repositories of an agent's size have
a tenth of it; what lies deepest is left out first."""
FOLDER_ENTRIES_MAX = ENTRIES_MAX // 2
"""Of one folder: a folder full of data does not keep all the others from being looked into."""
CPU_SECONDS_MAX = 0.1  # of one listing, so that it also holds on a slower machine
WALL_SECONDS_MAX = 1.0  # of one listing: a disk or server that has to be waited for

LEFT_OUT = frozenset(
    {"node_modules", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".gradle"}
)
"""Folders that package managers and type checkers fill: as many entries as a hundred repositories, which
nobody reads one by one. The folder itself is told, not what is in it."""
LEFT_OUT_OF_GIT = frozenset({"objects", "logs", "lfs"})
"""Of a `.git`: HEAD, refs, index, config and hooks tell what happened; these hold the same again."""

_LOOK_AT_CLOCK = 256  # entries between two looks, which cost as much as listing one
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_FACTS = struct.Struct("=QQQIIIqqQ")
"""Twenty thousand tuples of nine numbers would take four times the room, and longer to compare."""


class Entry(NamedTuple):
    """What stood at a path."""

    device: int
    inode: int
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    names: int
    target: str | None
    """Of a symbolic link."""

    @property
    def kind(self) -> EntryKind:
        match stat.S_IFMT(self.mode):
            case stat.S_IFREG:
                return "file"
            case stat.S_IFDIR:
                return "directory"
            case stat.S_IFLNK:
                return "link"
            case _:
                return "other"

    @property
    def identity(self) -> tuple[int, int]:
        return self.device, self.inode


class Difference(NamedTuple):
    """What became of one path between two listings."""

    path: str
    change: ChangeKind
    before: Entry | None
    after: Entry | None
    renamed_from: str | None = None


class Listing:
    """What stood in some folders: those whose path is in `folders`, each completely."""

    def __init__(self, roots: Iterable[str]) -> None:
        self.roots = tuple(roots)
        self.folders: dict[str, dict[str, bytes]] = {}
        """Absolute path -> name -> facts, packed; read with `entry`."""
        self.beyond: list[str] = []
        """Folders that were not looked into: the bounds were met, or they cannot be read."""
        self.entries = 0

    def entry(self, folder: str, name: str) -> Entry:
        packed = self.folders[folder][name]
        target = os.fsdecode(packed[_FACTS.size :]) if len(packed) > _FACTS.size else None
        return Entry._make((*_FACTS.unpack_from(packed), target))

    def holds_folder(self, folder: str) -> bool | None:
        """Whether there was such a folder; None where that is not known."""
        if folder in self.folders:
            return True
        if folder in self.roots:
            return None if folder in self.beyond else False
        parent, _, name = folder.rpartition("/")
        parent = parent or "/"
        if parent not in self.folders:
            return self.holds_folder(parent) and None
        return name in self.folders[parent] and self.entry(parent, name).kind == "directory" and None


def list_folders(
    roots: Iterable[str],
    *,
    entries_max: int = ENTRIES_MAX,
    cpu_seconds: float = CPU_SECONDS_MAX,
    wall_seconds: float = WALL_SECONDS_MAX,
) -> Listing:
    """List one tree after another, in each the folders nearest to its root first.

    Roots are absolute and hold no links. A folder where another file system begins is not entered, nor is one
    of LEFT_OUT.
    """
    listing = Listing(roots)
    bounds = _Bounds(entries_max, cpu_seconds, wall_seconds)
    for root in listing.roots:
        queue: deque[tuple[str, int, int]] = deque([(root, 0, 0)])
        while queue:
            folder, device, inode = queue.popleft()
            if folder in listing.folders:  # a root beneath another was listed before
                continue
            if bounds.hold():
                queue.extend(_look_into(folder, (device, inode), listing, bounds))
            else:
                listing.beyond += [folder, *(waiting for waiting, _, _ in queue)]
                break
    return listing


def _look_into(
    folder: str, identity: tuple[int, int], listing: Listing, bounds: "_Bounds"
) -> list[tuple[str, int, int]]:
    """Add one folder to the listing; the folders in it, with device and inode."""
    below: list[tuple[str, int, int]] = []
    try:
        fd = os.open(folder, _FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return below
    except OSError:
        listing.beyond.append(folder)
        return below
    try:
        status = os.fstat(fd)
        if identity[1] and (status.st_dev, status.st_ino) != identity:
            return below  # replaced since its parent was listed; a link above may have led anywhere
        entries = _list(fd, folder.rstrip("/"), status.st_dev, bounds, below)
    except OSError:
        entries = None
    finally:
        os.close(fd)
    if entries is None:
        listing.beyond.append(folder)
        return []
    listing.folders[folder] = entries
    listing.entries += len(entries)
    return below


class _Bounds:
    """What is left of a listing's entries and times. What a folder beyond them took is gone too."""

    def __init__(self, entries_max: int, cpu_seconds: float, wall_seconds: float) -> None:
        self.entries_left = entries_max
        self._cpu_until = time.thread_time() + cpu_seconds
        self._wall_until = time.monotonic() + wall_seconds

    def hold(self) -> bool:
        return (
            self.entries_left > 0
            and time.thread_time() < self._cpu_until
            and time.monotonic() < self._wall_until
        )


def _list(
    fd: int, prefix: str, device: int, bounds: _Bounds, below: list[tuple[str, int, int]]
) -> dict[str, bytes] | None:
    """The entries of one folder, and in `below` the folders to look into; None beyond the bounds."""
    pack, entries = _FACTS.pack, dict[str, bytes]()
    in_git = _in_git(prefix)
    limit = min(bounds.entries_left, FOLDER_ENTRIES_MAX)
    with os.scandir(fd) as found:
        for item in found:
            if len(entries) >= limit or (not len(entries) % _LOOK_AT_CLOCK and not bounds.hold()):
                bounds.entries_left -= len(entries)
                return None
            name = item.name
            try:
                status = item.stat(follow_symlinks=False)
            except OSError:  # it vanished
                continue
            mode = status.st_mode
            entries[name] = pack(
                status.st_dev, status.st_ino, status.st_size, mode, status.st_uid, status.st_gid,
                status.st_mtime_ns, status.st_ctime_ns, status.st_nlink,
            )  # fmt: skip
            kind = mode & 0o170000
            if kind == stat.S_IFDIR:
                left_out = name in LEFT_OUT or (in_git and name in LEFT_OUT_OF_GIT)
                if not left_out and status.st_dev == device:
                    below.append((f"{prefix}/{name}", status.st_dev, status.st_ino))
            elif kind == stat.S_IFLNK:
                entries[name] += _target(name, fd)
    bounds.entries_left -= len(entries)
    return entries


def _target(name: str, fd: int) -> bytes:
    try:
        return os.fsencode(os.readlink(name, dir_fd=fd))
    except OSError:  # it vanished
        return b""


def _in_git(folder: str) -> bool:
    """Whether the folder is a `.git`, or that of a submodule beneath one."""
    _, found, below = f"{folder}/".rpartition("/.git/")
    return bool(found) and (not below or (below.startswith("modules/") and "/refs/" not in below))


# -- what differs ---------------------------------------------------------------------------------------


def differences(before: Listing, after: Listing) -> list[Difference]:
    """What became of every path that both listings can speak of, by path."""
    removed: dict[str, Entry] = {}
    added: dict[str, Entry] = {}
    found: list[Difference] = []
    for folder, old in before.folders.items():
        new = after.folders.get(folder)
        if new == old or (new is None and after.holds_folder(folder) is None):
            continue
        new = new or {}
        for name in old.keys() - new.keys():
            removed[_join(folder, name)] = before.entry(folder, name)
        for name in new.keys() - old.keys():
            added[_join(folder, name)] = after.entry(folder, name)
        for name in old.keys() & new.keys():
            if old[name] != new[name]:
                found.extend(
                    _changed(_join(folder, name), before.entry(folder, name), after.entry(folder, name))
                )
    for folder, new in after.folders.items():
        if folder not in before.folders and before.holds_folder(folder) is False:
            added.update((_join(folder, name), after.entry(folder, name)) for name in new)
    origins = _renamed(removed, added, before, after)
    for path, entry in added.items():
        origin = origins.get(path)
        if origin is None:
            found.append(Difference(path, "created", None, entry))
        else:
            found.append(Difference(path, "renamed", removed.pop(origin), entry, origin))
    found += [Difference(path, "deleted", entry, None) for path, entry in removed.items()]
    return sorted(found)


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def _changed(path: str, old: Entry, new: Entry) -> Iterator[Difference]:
    """What became of a path that was there and is there."""
    kind = new.kind
    if old.kind != kind:
        yield Difference(path, "modified", old, new)
    elif kind == "link":
        if old.target != new.target:
            yield Difference(path, "link", old, new)
        elif (old.uid, old.gid) != (new.uid, new.gid):
            yield Difference(path, "mode", old, new)
    elif kind != "directory" and _content(old) != _content(new):
        yield Difference(path, "modified", old, new)
    elif (old.mode, old.uid, old.gid) != (new.mode, new.uid, new.gid) or (
        # Another hard link changes the ctime as well; without one something of the file itself was set.
        kind == "file" and old.ctime_ns != new.ctime_ns and old.names == new.names
    ):
        yield Difference(path, "mode", old, new)


def _content(entry: Entry) -> tuple[int, ...]:
    """What a write, or another file in its place, changes."""
    if entry.kind == "file":
        return *entry.identity, entry.size, entry.mtime_ns
    return entry.identity


def _renamed(
    removed: Mapping[str, Entry], added: Mapping[str, Entry], before: Listing, after: Listing
) -> dict[str, str]:
    """New path -> old path of what is the same file or folder at another place.

    An inode number alone proves nothing: the file system gives that of a deleted file to the next one.
    """
    places = {entry.identity: path for path, entry in sorted(removed.items(), reverse=True)}
    origins: dict[str, str] = {}
    for path, entry in sorted(added.items()):
        origin = places.get(entry.identity)
        if origin is None:
            continue
        old = removed[origin]
        if old.kind != entry.kind or old.target != entry.target:
            continue
        if (old.mtime_ns, old.size) == (entry.mtime_ns, entry.size) or (
            entry.kind == "directory" and _share_an_entry(origin, path, before, after)
        ):
            origins[path] = origin
            del places[entry.identity]
    return origins


def _share_an_entry(old: str, new: str, before: Listing, after: Listing) -> bool:
    """Whether something in the folder came along."""
    was, now = before.folders.get(old, {}), after.folders.get(new, {})
    return any(
        before.entry(old, name).identity == after.entry(new, name).identity
        for name in was.keys() & now.keys()
    )
