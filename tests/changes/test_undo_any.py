"""Whatever is done to whatever tree, taking it back gives back the tree."""

import random
from pathlib import Path

import pytest
from tests.changes.trees import act, call, grow, keeps_attributes, seen, some_change, temporaries

from custody.changes import UndoStore, undo_call
from custody.journal import MemoryDisk

SEEDS = range(60)
MORE_SEEDS = range(1000, 2500)


def judge(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    root = folder / f"tree{seed}"
    grow(root, chance, with_attributes=keeps_attributes(folder))
    undo = UndoStore(MemoryDisk())
    shown = [seen(root)]
    for number in range(chance.randrange(1, 7)):
        act(undo, call(number), root, some_change(root, chance))
        shown.append(seen(root))
        assert temporaries(root) == []
    steps = len(shown) - 1
    for number in reversed(range(steps)):
        undone = undo_call(undo, call(number), call(100 + number))
        assert not undone.plan.conflicts
        assert seen(root) == shown[number]
    # Taking back is a call like any other.
    for number in range(steps):
        undo_call(undo, call(100 + number), call(200 + number))
        assert seen(root) == shown[number + 1]
    for number in reversed(range(steps)):
        undo_call(undo, call(200 + number), call(300 + number))
    assert seen(root) == shown[0]
    assert temporaries(root) == []
    assert undo.unfinished() == []


@pytest.mark.parametrize("seed", SEEDS)
def test_any_calls_are_taken_back_and_that_again(tmp_path: Path, seed: int):
    judge(tmp_path, seed)


@pytest.mark.long
def test_very_many_calls_are_taken_back_and_that_again(tmp_path: Path):
    for seed in MORE_SEEDS:
        judge(tmp_path, seed)
