"""Who may write to a root swaps names while a commit is at work: nothing but what was kept is given away."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.changes.held.conftest import CALL, COMMIT, Case
from tests.changes.trees import seen

from custody.changes import UndoStore
from custody.errors import UndoConflict
from custody.journal import RealDisk


class Watched(RealDisk):
    """Tells when undo data is on the disk: from then on a commit changes the tree."""

    act: Callable[[], None] | None = None

    def open(self, path: str, **options: Any) -> Any:
        file = super().open(path, **options)
        return _File(file, self) if path == f"undo/{COMMIT.hex()}" else file


class _File:
    def __init__(self, file: Any, disk: Watched) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def sync(self) -> None:
        self._file.sync()
        act, self._disk.act = self._disk.act, None
        if act is not None:
            act()


def swap_file(case: Case, secret: Path) -> None:
    (case.root / "changed").unlink()
    os.link(secret, case.root / "changed")


def swap_folder(case: Case, secret: Path) -> None:
    (case.root / "folder").rename(case.root / "away")
    (case.root / "private").rename(case.root / "folder")


@pytest.mark.parametrize("swap", [swap_file, swap_folder])
def test_what_has_the_name_of_a_changed_file_by_now_gets_neither_its_mode_nor_its_owner(
    case: Case, folder: Path, kind: str, swap: Callable[[Case, Path], None]
):
    secret = folder / "secret"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)
    case.make("changed")
    (case.root / "folder").mkdir()
    (case.root / "private").mkdir(0o700)

    def work() -> None:
        (case.root / "changed").chmod(0o777)
        (case.root / "folder").chmod(0o777)

    case.hold(work, kind=kind)
    disk = Watched(folder / "store")
    disk.act = lambda: swap(case, secret)
    before = seen(folder / "secret"), (case.root / "private").stat().st_ino
    with pytest.raises(UndoConflict):
        case.store.commit(UndoStore(disk), COMMIT, CALL)
    assert seen(folder / "secret") == before[0]
    private = next(path for path in case.root.iterdir() if path.stat().st_ino == before[1])
    assert private.stat().st_mode & 0o7777 == 0o700
