"""Skills to install, the roots they go to, and operations that fail or are the last before a kill.

Used by the tests of installing.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from custody.files import Reach, load_protected
from custody.skills import Root, Shelf, Trust, verify_root
from custody.skills.file_operations import FileOperations
from custody.skills.install import judge
from custody.skills.lock import read_lock
from custody.skills.skill import Source
from custody.skills.sources.folder import fetch_file, fetch_folder
from custody.skills.sources.wanted import wanted
from custody.skills.staging import Fetched, Staged, Staging

NOW_US = 1_700_000_000_000_000


def skill_text(name: str, body: str = "Do it.") -> str:
    return f"---\nname: {name}\ndescription: What {name} is for.\n---\n{body}\n"


def make_skill(folder: Path, name: str = "pdf", body: str = "Do it.", **files: str) -> Path:
    """A folder skill with a script that can be run, and further files."""
    skill = folder / name
    (skill / "scripts").mkdir(parents=True)
    (skill / "SKILL.md").write_text(skill_text(name, body), encoding="utf-8")
    script = skill / "scripts" / "run"
    script.write_text("#!/bin/sh\necho ran\n", encoding="utf-8")
    script.chmod(0o755)
    for path, text in files.items():
        (skill / path).parent.mkdir(parents=True, exist_ok=True)
        (skill / path).write_text(text, encoding="utf-8")
    return skill


def shelf_of(*roots: Path, **more: Any) -> Shelf:
    return Shelf(
        roots=tuple(Root(path=os.fspath(root), kind="given") for root in roots),
        install_root=os.fspath(roots[0]),
        trust_file=f"{roots[0]}.trust.json",
        **more,
    )


@contextmanager
def staged(source: Path, shelf: Shelf, **asked: Any) -> Iterator[Staged]:
    """A folder or a single file, looked at and ready to be put in place."""
    folder = os.fspath(source.parent)
    reach = Reach(folder, (os.path.realpath(folder),), load_protected(own=()))
    with closing(Staging()) as staging:
        meant = wanted({"source": os.fspath(source)})
        if meant.form == "file":
            fetched = fetch_file(meant, reach, staging, shelf.bounds)
        else:
            fetched = fetch_folder(meant, reach, staging, shelf.bounds, lambda _: False)
        yield judge(fetched, shelf, NOW_US, **asked)


def judged(source: Path, shelf: Shelf, **asked: Any) -> Staged:
    """The same without the staging folder, for tests of what comes after it."""
    fetched = Fetched(
        path=os.fspath(source),
        kind="file" if source.suffix == ".md" else "folder",
        natural_name=source.name.removesuffix(".md"),
        source=Source(kind="local", location="somewhere"),
    )
    return judge(fetched, shelf, NOW_US, **asked)


def seen(root: Path) -> dict[str, tuple[int, bytes] | None]:
    """Everything in a root that a reader looks at: mode and content of each file, None for a folder."""
    found: dict[str, tuple[int, bytes] | None] = {}
    if not root.exists():
        return found
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0].startswith("."):
            continue
        found[relative.as_posix()] = (path.stat().st_mode, path.read_bytes()) if path.is_file() else None
    return found


def hidden(root: Path) -> list[str]:
    """What an install left behind."""
    return sorted(path.name for path in root.iterdir() if path.name.startswith(".")) if root.exists() else []


def set_aside(root: Path, into: Path) -> None:
    """Move away what other tests have installed, each root to a folder of its own."""
    if root.exists():
        root.rename(Path(tempfile.mkdtemp(dir=into)) / root.name)


def is_sound(root: Path) -> bool:
    """Whether everything in the root is what its lock says."""
    shelf = shelf_of(root)
    return verify_root(shelf.roots[0], shelf, Trust(path=shelf.trust_file), NOW_US).ok


def locked(root: Path) -> dict[str, str]:
    """The digests in the lock, by path."""
    lock = read_lock(os.fspath(root))
    return {} if lock is None else {path: entry.digest for path, entry in lock.entries.items()}


class Killed(BaseException):
    """The process is no more: nothing after it does anything."""


Fault = Callable[[int], BaseException | None]
"""Given the number of an operation, from 1 on: what it ends with, or None."""


class FaultyOperations(FileOperations):
    """Operations of which some fail. `late`: a failing one is done all the same, and then fails."""

    def __init__(self, fault: Fault = lambda _: None, *, late: bool = False) -> None:
        self.count = 0
        self.done: list[str] = []
        self._fault = fault
        self._late = late

    def _meet(self, operation: str, act: Callable[[], None]) -> None:
        self.count += 1
        error = self._fault(self.count)
        if error is None or self._late:
            act()
            self.done.append(operation)
        if error is not None:
            raise error

    def make_folder(self, folder_fd: int, name: str) -> None:
        self._meet("make_folder", lambda: super(FaultyOperations, self).make_folder(folder_fd, name))

    def write_file(self, folder_fd: int, name: str, chunks: Any, *, mode: int) -> None:
        self._meet(
            "write_file",
            lambda: super(FaultyOperations, self).write_file(folder_fd, name, chunks, mode=mode),
        )

    def rename(self, folder_fd: int, name: str, new_name: str, *, over: bool = False) -> None:
        self._meet(
            "rename", lambda: super(FaultyOperations, self).rename(folder_fd, name, new_name, over=over)
        )

    def remove(self, folder_fd: int, name: str, kind: Any) -> None:
        self._meet("remove", lambda: super(FaultyOperations, self).remove(folder_fd, name, kind))

    def sync_folder(self, folder_fd: int) -> None:
        self._meet("sync_folder", lambda: super(FaultyOperations, self).sync_folder(folder_fd))
