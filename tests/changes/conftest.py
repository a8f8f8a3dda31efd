"""A tree to change, and a store of undo data in memory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.changes import UndoStore
from custody.files.reach import Target
from custody.journal import MemoryDisk


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a file system: these tests sync all the time."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="custody-test-", dir="/dev/shm"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def root(folder: Path) -> Path:
    made = folder / "root"
    made.mkdir()
    return made


@pytest.fixture
def undo() -> UndoStore:
    return UndoStore(MemoryDisk())


class Place:
    """Short ways to say what is where in a tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.roots = (os.fspath(root),)

    def at(self, relative: str) -> Target:
        return Target(os.fspath(self.root), relative)

    def make(self, relative: str, content: bytes = b"old", mode: int = 0o644) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path


@pytest.fixture
def place(root: Path) -> Place:
    return Place(root)
