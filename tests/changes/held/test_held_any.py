"""Any command, in any tree: what is committed is what it saw, and taking that back gives the first tree."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.changes.held.conftest import COMMIT, Case
from tests.changes.held.overlays import as_user, why_no_overlays
from tests.changes.trees import NAMES, grow, keeps_attributes, paths_of, seen, some_bytes, temporaries

from custody.changes import undo_call

QUICK, LONG = 6, 120


def do_something(root: Path, chance: random.Random) -> None:
    """One thing a command may do in a tree."""
    files, folders, links = (paths_of(root, kind) for kind in ("file", "folder", "link"))
    anything, somewhere = [*files, *folders, *links], chance.choice([root, *folders])
    new = somewhere / f"new{chance.randrange(99)}"
    acts: list[Callable[[], object]] = []
    if not os.path.lexists(new):
        acts += [lambda: new.write_bytes(some_bytes(chance)), new.mkdir, lambda: new.symlink_to("a")]
        if files:
            acts.append(lambda: os.link(chance.choice(files), new))
        if anything and (moved := chance.choice(anything)) not in (somewhere, *somewhere.parents):
            acts.append(lambda: shutil.move(moved, new))
    if files:
        one = chance.choice(files)
        acts += [
            lambda: one.write_bytes(some_bytes(chance)),
            lambda: one.open("ab").write(b"more"),
            lambda: os.truncate(one, 1),
            lambda: one.chmod(chance.choice((0o600, 0o755, 0o444))),
            lambda: os.utime(one, ns=(1, chance.randrange(10**18))),
            lambda: (one.unlink(), one.mkdir(), (one / "in").write_bytes(b"in")),
            lambda: (new.with_name("t").write_bytes(b"replaced"), os.replace(new.with_name("t"), one)),
        ]
        if keeps_attributes(root.parent):
            acts.append(lambda: os.setxattr(one, "user.colour", some_bytes(chance)[:50]))
    if folders:
        folder = chance.choice(folders)
        acts += [
            lambda: shutil.rmtree(folder),
            lambda: (shutil.rmtree(folder), folder.mkdir(), (folder / NAMES[0]).write_bytes(b"again")),
            lambda: (shutil.rmtree(folder), folder.symlink_to("b.txt")),
            lambda: folder.chmod(chance.choice((0o700, 0o711, 0o1777))),
        ]
    if anything:
        acts.append(lambda: _remove(chance.choice(anything)))
    chance.choice(acts)()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def one_name_each(root: Path) -> None:
    """A command behind an overlay that writes to one of several names parts it from the others."""
    for path in paths_of(root, "file"):
        if os.stat(path).st_nlink > 1:
            path.unlink()


def without_inodes(tree: dict) -> dict:
    """Behind an overlay the names of one file may have different numbers."""
    return {
        path: (*one[:-1], one[-1][0] if isinstance(one[-1], tuple) else one[-1]) for path, one in tree.items()
    }


def runs_as_nobody_else(root: Path) -> None:
    """What a command wrote, moved or linked to does not run as its owner any more."""
    for path in paths_of(root, "file"):
        path.chmod(path.stat().st_mode & 0o1777)


def committed_and_taken_back(folder: Path, kind: str, seed: int) -> None:
    chance = random.Random(seed)
    case = Case(folder)
    grow(case.root, chance, with_attributes=keeps_attributes(folder))
    runs_as_nobody_else(case.root)
    if kind == "overlay":
        one_name_each(case.root)
    before = seen(case.root)

    def work() -> dict:
        for _ in range(chance.randrange(1, 7)):
            do_something(case.root, chance)
        return seen(case.root)

    held = case.hold(work, kind=kind)
    assert seen(case.root) == before
    if held.entries:
        assert case.store.read(held.call_id) == held
        case.commit()
        if kind == "copy":
            assert seen(case.root) == case.shown
        else:
            assert without_inodes(seen(case.root)) == without_inodes(case.shown)
        undo_call(case.undo, COMMIT, bytes(8))
    else:  # a folder's time is no change of its own
        assert {path: one[-1] for path, one in case.shown.items()} == {
            p: one[-1] for p, one in before.items()
        }
    assert seen(case.root) == before
    assert temporaries(case.root) == []
    assert os.listdir(case.folder) == ["lock"]


def tried(folder: Path, kind: str, seed: int) -> None:
    place = folder / f"{kind}{seed}"
    place.mkdir()
    try:
        committed_and_taken_back(place, kind, seed)
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("seed", range(QUICK))
def test_a_commit_is_what_the_command_saw_and_an_undo_what_was(folder: Path, kind: str, seed: int):
    tried(folder, kind, seed)


@pytest.mark.long
def test_any_commit_is_what_the_command_saw_and_an_undo_what_was(folder: Path, kind: str):
    @settings(max_examples=LONG)
    @given(st.integers(0, 2**32))
    def any_seed(seed: int) -> None:
        tried(folder, kind, seed)

    any_seed()


@pytest.mark.parametrize("kind", ["overlay", "copy"])
def test_it_is_so_for_an_ordinary_user(folder: Path, kind: str):
    def several() -> str | None:
        why = why_no_overlays(os.fspath(folder))
        if why is None:
            for seed in range(1000, 1000 + QUICK // 2):
                tried(folder, kind, seed)
        return why

    if (why := as_user(several, folder)) is not None:
        pytest.skip(f"an ordinary user can make no namespace with an overlay here: {why}")
