"""`kill -9` at any step while what was held is written down, committed, discarded or taken back."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.changes.crashing import ENDED, KILLED, die_after
from tests.changes.held.conftest import CALL, COMMIT, Case
from tests.changes.trees import A_TIME_NS, seen, temporaries

from custody.changes import HeldSet, Holding, recover_changes, undo_call

UNDO = bytes.fromhex("00000000000000c3")


def gone(pid: int, start_ticks: int) -> bool:
    return False


class Killed(Case):
    """A tree in which a command does each thing there is to do. It works in the copy itself: what is killed
    here is not the command."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("written", "moded", "gone", "d/e/f", "d/g", "moves"):
            self.make(name, b"old " + name.encode())
        (self.root / "link").symlink_to("gone")
        for path in (*self.root.rglob("*"), self.root):
            os.utime(path, ns=(A_TIME_NS, A_TIME_NS), follow_symlinks=False)
        self.old = seen(self.root)

    def begin(self) -> Holding:
        holding = self.store.begin(CALL, [os.fspath(self.root)], kind="copy")
        copy = Path(holding.views[0].upper)
        (copy / "written").write_bytes(b"new")
        (copy / "moded").chmod(0o600)
        (copy / "gone").unlink()
        shutil.rmtree(copy / "d")
        (copy / "new" / "in").mkdir(parents=True)
        (copy / "moves").rename(copy / "new" / "moved")
        os.link(copy / "new" / "moved", copy / "new" / "again")
        (copy / "link").unlink()
        (copy / "link").symlink_to("written")
        self.new = seen(copy)
        return holding

    def recover(self) -> None:
        assert all(one.words is None and not one.left for one in recover_changes(self.undo, gone))
        self.store.recover(gone, self.is_in_place)

    def is_in_place(self, call_id: bytes) -> bool:
        undo_set = self.undo.read(call_id)
        return undo_set is not None and undo_set.done

    def check_clean(self) -> None:
        assert temporaries(self.root) == []
        assert self.undo.unfinished() == []
        standing = set(os.listdir(self.folder)) if self.folder.exists() else set()
        assert standing - {"lock"} == {one.hex() for one in self.store.calls()}


def commit(case: Killed) -> None:
    case.commit()


def check_commit(case: Killed, held: HeldSet, when: str) -> None:
    now = seen(case.root)
    if case.store.read(CALL) is not None:
        assert now == case.old, when
        assert not case.is_in_place(COMMIT)
        case.commit()
    assert seen(case.root) == case.new, when
    undo_call(case.undo, COMMIT, UNDO)
    assert seen(case.root) == case.old, when


def discard(case: Killed) -> None:
    case.store.discard(CALL)


def check_discard(case: Killed, held: HeldSet, when: str) -> None:
    assert seen(case.root) == case.old
    assert case.store.read(CALL) in (held, None), when
    if case.store.read(CALL) is not None:
        case.commit()
        assert seen(case.root) == case.new, when


def undo_commit(case: Killed) -> None:
    undo_call(case.undo, COMMIT, UNDO)


def check_undo(case: Killed, held: HeldSet, when: str) -> None:
    assert seen(case.root) == (case.old if case.is_in_place(UNDO) else case.new), when


def killed_after_each_call(
    folder: Path,
    act: Callable[[Killed], Any],
    check: Callable[[Killed, HeldSet, str], None],
    first: int,
    step: int,
    *,
    before: Callable[[Killed], Any] = lambda case: None,
) -> int:
    """How often `act` was killed, each time after a later call that may have changed a file. The recovery is
    killed as well, now and then."""
    for deaths, calls in enumerate(range(first, 1 << 30, step)):
        place = folder / f"killed{calls}"
        place.mkdir()
        case = Killed(place)
        held = case.begin().settle()
        before(case)
        died = die_after(calls, lambda case=case: act(case))
        assert died in (KILLED, ENDED)
        if calls % 3 == 0:
            die_after(calls % 97, case.recover)
        case.recover()
        case.check_clean()
        check(case, held, f"after {calls} calls")
        shutil.rmtree(place)
        if died == ENDED:
            return deaths
    raise AssertionError("it never came to its end")


def settle(case: Killed) -> None:
    case.begin().settle()


def killed_in_settling(folder: Path, first: int, step: int) -> int:
    for deaths, calls in enumerate(range(first, 1 << 30, step)):
        place = folder / f"killed{calls}"
        place.mkdir()
        case = Killed(place)
        died = die_after(calls, lambda case=case: settle(case))
        case.recover()
        case.check_clean()
        assert seen(case.root) == case.old
        held = case.store.read(CALL)
        if held is not None:
            assert len(held.changes) == 12
            case.commit()
            assert (case.root / "new" / "moved").read_bytes() == b"old moves"
        shutil.rmtree(place)
        if died == ENDED:
            return deaths
    raise AssertionError("it never came to its end")


def test_a_commit_killed_anywhere_is_done_or_still_held(folder: Path):
    assert killed_after_each_call(folder, commit, check_commit, 7, 200) > 5


@pytest.mark.long
def test_a_discard_killed_anywhere_is_done_or_all_is_still_held(folder: Path):
    assert killed_after_each_call(folder, discard, check_discard, 1, 25) > 3


@pytest.mark.long
def test_taking_a_commit_back_killed_anywhere_is_done_or_not(folder: Path):
    assert killed_after_each_call(folder, undo_commit, check_undo, 11, 200, before=commit) > 5


@pytest.mark.long
def test_settling_killed_anywhere_holds_all_or_nothing(folder: Path):
    assert killed_in_settling(folder, 5, 150) > 5


@pytest.mark.long
@pytest.mark.parametrize("first", range(1, 9))
def test_a_commit_killed_at_any_step_is_done_or_still_held(folder: Path, first: int):
    assert killed_after_each_call(folder, commit, check_commit, first, 8) > 100


@pytest.mark.long
def test_a_discard_killed_at_any_step_is_done_or_all_is_still_held(folder: Path):
    assert killed_after_each_call(folder, discard, check_discard, 1, 1) > 60


@pytest.mark.long
@pytest.mark.parametrize("first", [1, 20])
def test_taking_a_commit_back_killed_at_many_steps_is_done_or_not(folder: Path, first: int):
    assert killed_after_each_call(folder, undo_commit, check_undo, first, 41, before=commit) > 20


@pytest.mark.long
@pytest.mark.parametrize("first", range(1, 9, 2))
def test_settling_killed_at_any_step_holds_all_or_nothing(folder: Path, first: int):
    assert killed_in_settling(folder, first, 8) > 100
