"""Whatever fails while a skill is installed, replaced or removed: it is there with its lock, or all is as
before.

Every operation on a file fails in its turn: once, from then on, or by a kill before or after it. After a kill
the next look at the root takes back or finishes what was begun, and may be killed itself.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import Struct
from tests.skills.installing import (
    FaultyOperations,
    Killed,
    hidden,
    is_sound,
    judged,
    make_skill,
    seen,
    shelf_of,
    skill_text,
)

from custody.errors import ToolError
from custody.skills.file_operations import FileOperations
from custody.skills.install import place, recover, remove

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Change(Struct, frozen=True):
    """One change of a root, and how the root stands before it."""

    prepare: Callable[[Path], None]
    do: Callable[[Path, FileOperations], None]


def put(name: str, body: str = "Do it.", *, replace: bool = False) -> Callable[[Path, FileOperations], None]:
    def do(root: Path, operations: FileOperations) -> None:
        folder = root.parent / f"source {body}"
        if name.endswith(".md"):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(skill_text(name, body), encoding="utf-8")
        elif not (folder / name).exists():
            make_skill(folder, name, body)
        skill = judged(folder / name, shelf_of(root))
        place(skill, os.fspath(root), replace=replace, operations=operations)

    return do


def nothing(root: Path) -> None:
    """There is no root yet."""


def another(root: Path) -> None:
    put("notes.md")(root, FileOperations())


def the_old(root: Path) -> None:
    another(root)
    put("pdf", "the old way")(root, FileOperations())


def the_old_changed(root: Path) -> None:
    the_old(root)
    (root / "pdf" / "SKILL.md").write_text("spoiled", encoding="utf-8")


def by_hand(root: Path) -> None:
    another(root)
    make_skill(root, "pdf")


def take_away(root: Path, operations: FileOperations) -> None:
    remove(os.fspath(root), "pdf", operations=operations)


CHANGES = {
    "the first install": Change(nothing, put("pdf")),
    "a further install": Change(another, put("pdf")),
    "a single file": Change(nothing, put("notes.md")),
    "a replacement": Change(the_old, put("pdf", "the new way", replace=True)),
    "a repair": Change(the_old_changed, put("pdf", "the old way", replace=True)),
    "an adoption": Change(by_hand, put("pdf")),
    "a removal": Change(the_old, take_away),
}


QUICK = ("the first install", "a replacement", "a removal")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.long, id=name.replace(" ", "_"))
        for name in CHANGES
    ]
)
def change(request: pytest.FixtureRequest) -> Change:
    return CHANGES[request.param]


class Trials:
    """One change, over and over, from the same beginning."""

    def __init__(self, change: Change, folder: Path) -> None:
        self.change = change
        self._folder = folder
        self._count = 0
        self._beginning = folder / "beginning"
        self._beginning.mkdir()
        change.prepare(self._beginning / "skills")
        root = self.fresh()
        self.before = seen(root)
        operations = FaultyOperations()
        change.do(root, operations)
        assert hidden(root) == []
        assert is_sound(root)
        self.after = seen(root)
        assert self.after != self.before
        self.operations = operations.count

    def fresh(self) -> Path:
        self._count += 1
        place = self._folder / str(self._count)
        shutil.copytree(self._beginning, place)
        return place / "skills"

    def each(self) -> Iterator[tuple[int, Path]]:
        for number in range(1, self.operations + 1):
            yield number, self.fresh()


@pytest.fixture
def trials(change: Change, tmp_path: Path) -> Trials:
    return Trials(change, tmp_path)


def test_an_operation_that_fails_once_leaves_the_old_or_the_new(trials: Trials):
    for number, root in trials.each():
        operations = FaultyOperations(lambda count, at=number: FULL if count == at else None)
        with suppress(ToolError):
            trials.change.do(root, operations)
        assert seen(root) in (trials.before, trials.after), f"operation {number}"
        assert seen(root) == trials.before or is_sound(root), f"operation {number}"
        recover(os.fspath(root))
        assert hidden(root) == [], f"operation {number}"


@pytest.mark.long
def test_a_disk_that_fails_from_some_operation_on_is_put_right_by_the_next_look(trials: Trials):
    for number, root in trials.each():
        operations = FaultyOperations(lambda count, at=number: FULL if count >= at else None)
        with suppress(ToolError):
            trials.change.do(root, operations)
        recover(os.fspath(root))
        assert seen(root) in (trials.before, trials.after), f"operation {number}"
        assert seen(root) == trials.before or is_sound(root), f"operation {number}"
        assert hidden(root) == [], f"operation {number}"


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.long)], ids=["before", "after"])
def test_a_kill_at_any_operation_is_put_right_by_the_next_look(trials: Trials, late: bool):
    outcomes: list[bool] = []
    for number, root in trials.each():
        kill = FaultyOperations(lambda count, at=number: Killed() if count >= at else None, late=late)
        with pytest.raises(Killed):
            trials.change.do(root, kill)
        recover(os.fspath(root))
        outcomes.append(seen(root) == trials.after)
        assert outcomes[-1] or seen(root) == trials.before, f"operation {number}"
        assert seen(root) == trials.before or is_sound(root), f"operation {number}"
        assert hidden(root) == [], f"operation {number}"
    assert outcomes == sorted(outcomes), "from some operation on it counts, and never again does not"


@pytest.mark.long
def test_the_look_that_puts_it_right_may_be_killed_itself(trials: Trials):
    for number, root in trials.each():
        first = FaultyOperations(lambda count, at=number: Killed() if count >= at else None)
        with pytest.raises(Killed):
            trials.change.do(root, first)
        for again in range(1, 30):
            second = FaultyOperations(lambda count, at=again: Killed() if count >= at else None, late=True)
            try:
                recover(os.fspath(root), operations=second)
            except Killed:
                continue
            break
        recover(os.fspath(root))
        assert seen(root) in (trials.before, trials.after), f"operation {number}"
        assert seen(root) == trials.before or is_sound(root), f"operation {number}"
        assert hidden(root) == [], f"operation {number}"


@pytest.mark.long
def test_the_next_install_puts_it_right_before_it_begins(tmp_path: Path):
    trials = Trials(CHANGES["a replacement"], tmp_path)
    for number, root in trials.each():
        kill = FaultyOperations(lambda count, at=number: Killed() if count >= at else None)
        with pytest.raises(Killed):
            trials.change.do(root, kill)
        trials.change.do(root, FileOperations())
        assert seen(root) == trials.after
        assert hidden(root) == []
