"""A root, a store beside it, and commands that see the root through a real overlay or as a copy."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.changes.held.overlays import seeing, why_no_overlays
from tests.changes.trees import keeps_attributes

from custody.changes import HeldSet, HeldStore, UndoStore
from custody.journal import RealDisk

CALL = bytes.fromhex("00000000000000c1")
COMMIT = bytes.fromhex("00000000000000c2")


class Case:
    """One root and one store."""

    def __init__(self, folder: Path, **bounds: int) -> None:
        self.root = folder / "root"
        self.root.mkdir(exist_ok=True)
        self.shown: Any = None
        self.folder = folder / "store" / "undo" / "held"
        self.store = HeldStore(lambda: os.fspath(self.folder), **bounds)
        self.undo = UndoStore(RealDisk(folder / "store"))

    def hold(self, work: Callable[[], Any], *, kind: Any = "overlay", call: bytes = CALL) -> HeldSet:
        """What is held of a command that works in the root; `shown` is what it returned."""
        holding = self.store.begin(call, [os.fspath(self.root)], kind=kind)
        self.shown = seeing(holding.views, work)
        return holding.settle()

    def commit(self) -> tuple[Any, ...]:
        return self.store.commit(self.undo, COMMIT, CALL)

    def make(self, relative: str, content: bytes = b"old", mode: int = 0o644) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def told(self, held: HeldSet) -> dict[str, str]:
        """Each path with the word of its change."""
        return {os.path.relpath(one.path, self.root): one.change for one in held.changes}


@pytest.fixture
def folder(folder: Path, tmp_path: Path) -> Path:
    """As for all tests of changes, but where files can have attributes of their own: not in the memory of
    kernels before 6.6."""
    return folder if keeps_attributes(folder) else tmp_path


@pytest.fixture
def case(folder: Path) -> Case:
    return Case(folder)


@pytest.fixture(params=["overlay", "copy"])
def kind(request: pytest.FixtureRequest, folder: Path) -> str:
    """How the command sees the root: both ways tell the same of what it does."""
    if (why := why_no_overlays(os.fspath(folder))) is not None:
        pytest.skip(f"a command can see no other root here: {why}")
    return request.param


@pytest.fixture
def overlays(folder: Path) -> None:
    if (why := why_no_overlays(os.fspath(folder))) is not None:
        pytest.skip(f"no overlay can be mounted here: {why}")
