"""`kill -9` at any line of a change, of taking one back, and of the recovery from that."""

import pickle
import random
import shutil
from pathlib import Path

import pytest
from tests.changes.crashing import ENDED, KILLED, die_after, die_at
from tests.changes.trees import (
    act,
    age,
    call,
    grow,
    keeps_attributes,
    seen,
    some_change,
    standing,
    target,
    temporaries,
)
from tests.how_many import todays_part, todays_seeds

from custody.changes import (
    UndoStore,
    appended_at,
    file_at,
    folder_at,
    link_at,
    mode_at,
    nothing_at,
    recover_changes,
    tree_removed,
    undo_call,
)
from custody.journal import RealDisk

QUICK_DEATHS = 10
LONG_DEATHS = 300
LINES_MAX = 5000
"""What the longest of these sequences runs, and a little more: some processes live to their end."""


def gone(pid: int, start_ticks: int) -> bool:
    return False


class Case:
    """One tree, a sequence of calls on it, and what was seen of the tree before each."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.root = folder / f"tree{seed}"
        self.store = folder / f"store{seed}"
        self.told = folder / f"told{seed}"
        grow(self.root, self.chance, with_attributes=keeps_attributes(folder))
        self.calls = self.chance.randrange(1, 4)

    def undo(self) -> UndoStore:
        return UndoStore(RealDisk(self.store))

    def change(self) -> None:
        """What the process does until it dies."""
        undo = self.undo()
        for number in range(self.calls):
            wanted = some_change(self.root, self.chance)
            self.tell(number)
            act(undo, call(number), self.root, wanted)
        self.tell(self.calls)

    def take_back(self) -> None:
        undo = self.undo()
        for number in reversed(range(self.calls)):
            self.tell(100 + number)
            undo_call(undo, call(number), call(100 + number))
        self.tell(999)

    def tell(self, number: int) -> None:
        with self.told.open("ab") as file:
            pickle.dump((number, seen(self.root)), file)

    def all_told(self) -> list[tuple[int, dict]]:
        told: list[tuple[int, dict]] = []
        with self.told.open("rb") as file:
            while True:
                try:
                    told.append(pickle.load(file))
                except EOFError:
                    return told

    def recover(self) -> list:
        return recover_changes(self.undo(), gone)

    def check_recovered(self, first: dict) -> None:
        """The call in which the process died is as if it had not been made, or is whole."""
        undo = self.undo()
        assert undo.unfinished() == []
        assert temporaries(self.root) == []
        told = self.all_told()
        number, before = told[-1]
        whole = undo.read(call(number)) is not None
        if number not in (self.calls, 999) and not whole:
            assert seen(self.root) == before
        if number in range(100, 999) and whole:
            assert seen(self.root) == dict(told)[number - 100]
        for one in range(self.calls):  # the newest first: the last call was taken back first
            if undo.read(call(100 + one)) is not None:
                undo_call(undo, call(100 + one), call(200 + one))
        for one in reversed(range(self.calls)):
            if undo.read(call(one)) is not None:
                undo_call(undo, call(one), call(300 + one))
        assert seen(self.root) == first
        assert temporaries(self.root) == []


def killed_in_a_change(folder: Path, seed: int) -> bool:
    case = Case(folder, seed)
    first = seen(case.root)
    case.tell(0)
    died = die_at(case.chance.randrange(1, LINES_MAX), case.change)
    assert died in (KILLED, ENDED)
    while die_at(case.chance.randrange(1, 4000), case.recover) == KILLED and case.chance.random() < 0.7:
        pass
    recovered = case.recover()
    assert not any(one.left or one.words for one in recovered)
    case.check_recovered(first)
    return died == KILLED


def killed_in_taking_back(folder: Path, seed: int) -> bool:
    case = Case(folder, seed)
    first = seen(case.root)
    case.change()
    died = die_at(case.chance.randrange(1, LINES_MAX), case.take_back)
    assert died in (KILLED, ENDED)
    while die_at(case.chance.randrange(1, 4000), case.recover) == KILLED and case.chance.random() < 0.7:
        pass
    recovered = case.recover()
    assert not any(one.left or one.words for one in recovered)
    case.check_recovered(first)
    return died == KILLED


def everything(root: Path) -> None:
    """A tree in which the change below does each thing there is to do."""
    (root / "d" / "e").mkdir(parents=True)
    for name in ("written", "moded", "log", "gone", "d/e/f", "d/g"):
        (root / name).write_bytes(b"old " + name.encode())
    (root / "link").symlink_to("gone")
    age(root, random.Random(1))


def change_everything(root: Path, undo: UndoStore) -> None:
    wanted = [
        file_at(target(root, root / "written"), b"new"),
        mode_at(target(root, root / "moded"), standing(root, root / "moded"), 0o600),
        appended_at(target(root, root / "log"), standing(root, root / "log"), b"more"),
        nothing_at(target(root, root / "gone")),
        link_at(target(root, root / "link"), "written"),
        *tree_removed(target(root, root / "d"), entries_max=9, depth_max=9),
        folder_at(target(root, root / "new")),
        file_at(target(root, root / "new" / "f"), b"new"),
    ]
    act(undo, call(1), root, wanted)


def killed_after_each_call(folder: Path, first: int, step: int) -> int:
    """Taking one change back dies after a call that may have changed a file, and what is found then is the
    tree before or after it. Between two of these calls every line leaves the same."""
    root, store = folder / "root", folder / "store"
    for deaths, calls in enumerate(range(first, 1 << 30, step)):
        everything(root)
        old = seen(root)
        undo = UndoStore(RealDisk(store))
        change_everything(root, undo)
        new = seen(root)
        died = die_after(calls, lambda: undo_call(UndoStore(RealDisk(store)), call(1), call(2)))
        assert all(one.words is None and not one.left for one in recover_changes(undo, gone))
        assert seen(root) == (new if undo.read(call(2)) is None else old), f"after {calls} calls"
        assert temporaries(root) == []
        assert undo.unfinished() == []
        shutil.rmtree(root)
        shutil.rmtree(store)
        if died == ENDED:
            return deaths
    raise AssertionError("it never came to its end")


def test_taking_back_that_dies_anywhere_is_done_or_not_done(folder: Path):
    assert killed_after_each_call(folder, 1, 75) > 16


@pytest.mark.long
@pytest.mark.parametrize("part", range(3))
def test_taking_back_that_dies_at_any_line_is_done_or_not_done(folder: Path, part: int):
    assert killed_after_each_call(folder, 1 + todays_part(part, 8), 8) > 1500 // 8


@pytest.mark.parametrize("killed", [killed_in_a_change, killed_in_taking_back])
def test_a_process_killed_anywhere_leaves_a_whole_tree_that_can_be_taken_back(folder: Path, killed):
    deaths = sum(killed(folder, seed) for seed in range(QUICK_DEATHS))
    assert deaths > QUICK_DEATHS // 4


@pytest.mark.long
@pytest.mark.parametrize("killed", [killed_in_a_change, killed_in_taking_back])
def test_a_process_killed_at_hundreds_of_places_leaves_a_whole_tree(folder: Path, killed):
    deaths = sum(killed(folder, seed) for seed in todays_seeds(10_000, LONG_DEATHS))
    assert deaths > LONG_DEATHS // 4
