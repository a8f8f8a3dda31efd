"""Trees to change, what is to be seen of one, and what may be done to one. For tests of changes."""

import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from custody.changes import (
    UndoStore,
    Wanted,
    appended_at,
    carry_out,
    file_at,
    folder_at,
    link_at,
    missing_folders,
    mode_at,
    nothing_at,
    tree_removed,
)
from custody.files.reach import Target
from custody.files.state import State, look
from custody.records import Change

NAMES = ("a", "b.txt", "c", "d", "ü", "e..f")
KINDS = "write write edits create create_deep delete tree link mode inside append mixed".split()
DEPTH_MAX = 3
ENTRIES_MAX = 100_000
A_TIME_NS = 1_600_000_000_123_456_789


def seen(root: Path) -> dict[str, tuple[Any, ...]]:
    """All that a tree shows, path by path: content, mode, owner, links, times, attributes, names of a
    file."""
    shown: dict[str, tuple[Any, ...]] = {}
    first: dict[int, str] = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = os.lstat(path)
        relative = path.relative_to(root).as_posix()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes(), first.setdefault(status.st_ino, relative)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        shown[relative] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in attributes(path)),
            content,
        )
    return shown


def attributes(path: Path) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def keeps_attributes(folder: Path) -> bool:
    """Whether the file system has extended attributes for users."""
    probe = folder / "probe"
    probe.write_bytes(b"")
    try:
        os.setxattr(probe, "user.custody", b"x")
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


def age(root: Path, chance: random.Random) -> None:
    """Give everything a time of its own, long ago."""
    for path in (*root.rglob("*"), root):
        at_ns = A_TIME_NS + chance.randrange(10**15)
        os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)


def grow(root: Path, chance: random.Random, *, with_attributes: bool) -> None:
    """A random tree with files, folders, links, hard links, modes and attributes, of which nothing is new."""
    root.mkdir(exist_ok=True)
    folders = [root]
    files: list[Path] = []
    for _ in range(chance.randrange(4, 14)):
        folder = chance.choice(folders)
        path = folder / chance.choice(NAMES)
        if os.path.lexists(path):
            continue
        kind = chance.choice(("file", "file", "file", "folder", "folder", "link", "name"))
        if kind == "folder" and len(path.relative_to(root).parts) < DEPTH_MAX:
            path.mkdir()
            path.chmod(chance.choice((0o755, 0o700, 0o1777)))
            folders.append(path)
        elif kind == "link":
            path.symlink_to(chance.choice(NAMES))
        elif kind == "name" and files:
            os.link(chance.choice(files), path)
        else:
            path.write_bytes(some_bytes(chance))
            path.chmod(chance.choice((0o644, 0o600, 0o755, 0o4711)))
            files.append(path)
            if with_attributes and chance.random() < 0.4:
                os.setxattr(path, "user.colour", some_bytes(chance)[:50])
    age(root, chance)


def some_bytes(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 20, 300, 5000)))


def target(root: Path, path: Path) -> Target:
    return Target(os.fspath(root), path.relative_to(root).as_posix())


def standing(root: Path, path: Path) -> State:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return look(fd, path.name)
    finally:
        os.close(fd)


# -- what may be done -------------------------------------------------------------------------------------


def paths_of(root: Path, kind: str) -> list[Path]:
    tests: dict[str, Callable[[Path], bool]] = {
        "file": lambda path: path.is_file() and not path.is_symlink(),
        "folder": lambda path: path.is_dir() and not path.is_symlink(),
        "link": Path.is_symlink,
    }
    return [path for path in sorted(root.rglob("*")) if tests[kind](path)]


def some_change(root: Path, chance: random.Random) -> list[Wanted]:
    """Something an agent may do in one call."""
    kind = chance.choice(KINDS)
    files, folders = paths_of(root, "file"), paths_of(root, "folder")
    content = some_bytes(chance)
    if kind == "write" and files:
        return [file_at(target(root, chance.choice(files)), content)]
    if kind == "edits" and files:
        some = chance.sample(files, min(len(files), 3))
        return [file_at(target(root, path), some_bytes(chance)) for path in some]
    if kind == "create_deep":
        path = chance.choice([root, *folders]) / f"new{chance.randrange(9)}" / "deeper" / "x"
        if not os.path.lexists(path.parent.parent):
            return [*missing_folders(target(root, path)), file_at(target(root, path), content)]
    if kind == "delete" and files:
        return [nothing_at(target(root, path)) for path in chance.sample(files, min(len(files), 2))]
    if kind == "tree" and folders:
        return tree_removed(target(root, chance.choice(folders)), entries_max=ENTRIES_MAX, depth_max=99)
    if kind == "link" and (links := [*paths_of(root, "link"), *files]):
        return [link_at(target(root, chance.choice(links)), chance.choice(NAMES))]
    if kind == "mode" and (some := [*files, *folders]):
        path = chance.choice(some)
        mode = chance.choice((0o700, 0o755, 0o711) if path.is_dir() else (0o600, 0o755, 0o444))
        return [mode_at(target(root, path), standing(root, path), mode)]
    if kind == "inside" and folders:
        folder = chance.choice(folders)
        path = folder / f"new{chance.randrange(10**6)}"
        return [
            mode_at(target(root, folder), standing(root, folder), chance.choice((0o700, 0o755))),
            file_at(target(root, path), content),
        ]
    if kind == "append" and files:
        path = chance.choice(files)
        return [appended_at(target(root, path), standing(root, path), content)]
    if kind == "mixed" and len(files) > 1:
        return list(_mixed(root, files, folders, chance))
    return [_created(root, folders, chance)]


def _mixed(root: Path, files: list[Path], folders: list[Path], chance: random.Random) -> Iterator[Wanted]:
    """One file goes, one is written, a folder and a file in it come."""
    gone, written = chance.sample(files, 2)
    yield nothing_at(target(root, gone))
    yield file_at(target(root, written), some_bytes(chance))
    folder = chance.choice([root, *folders]) / f"new{chance.randrange(99)}"
    if not os.path.lexists(folder):
        yield folder_at(target(root, folder))
        yield file_at(target(root, folder / "x"), some_bytes(chance))


def _created(root: Path, folders: list[Path], chance: random.Random) -> Wanted:
    folder = chance.choice([root, *folders])
    while True:
        path = folder / f"new{chance.randrange(10**6)}"
        if not os.path.lexists(path):
            return file_at(target(root, path), some_bytes(chance), mode=chance.choice((0o666, 0o777)))


def act(undo: UndoStore, call_id: bytes, root: Path, wanted: list[Wanted]) -> tuple[Change, ...]:
    return carry_out(undo, call_id, wanted, roots=(os.fspath(root),))


def call(number: int) -> bytes:
    return number.to_bytes(8, "big")


def temporaries(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".custody-*")]
