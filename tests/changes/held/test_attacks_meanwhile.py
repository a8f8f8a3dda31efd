"""What somebody does to a root or to the store between the end of a command and the commit of its changes."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.changes.held.conftest import CALL, COMMIT, Case
from tests.changes.held.overlays import as_user
from tests.changes.trees import seen, temporaries
from tests.conftest import Mounted

from custody.changes import HeldStore, UndoStore, undo_call
from custody.errors import CustodyError, HeldBusy, NothingHeld, ToolError, UndoConflict, UndoGone
from custody.journal import RealDisk

OTHER = bytes.fromhex("00000000000000d1")
STRANGER = 70_005


def refused_paths(case: Case) -> list[str]:
    """The paths that stand in the way of a commit; it changes nothing, and everything stays held."""
    before = seen(case.root)
    held = case.store.read(CALL)
    with pytest.raises(UndoConflict) as refused:
        case.commit()
    assert seen(case.root) == before
    assert held is not None and case.store.read(CALL) == held
    assert case.undo.read(COMMIT) is None
    assert refused.value.hint
    return [one.path for one in refused.value.details["conflicts"]]


# -- the root is another ------------------------------------------------------------------------------------


def link_instead(case: Case, place: Path, elsewhere: Path) -> None:
    place.rename(case.root.parent / "moved")
    place.symlink_to(elsewhere)


def link_above_instead(case: Case, place: Path, elsewhere: Path) -> None:
    place.parent.rename(case.root.parent / "moved")
    place.parent.symlink_to(elsewhere.parent)


def file_instead(case: Case, place: Path, elsewhere: Path) -> None:
    shutil.rmtree(place)
    place.write_bytes(b"")


def nothing_instead(case: Case, place: Path, elsewhere: Path) -> None:
    shutil.rmtree(place)


@pytest.mark.parametrize("instead", [link_instead, link_above_instead, file_instead, nothing_instead])
def test_nothing_is_written_where_another_thing_stands_in_the_place_of_a_folder(
    case: Case, folder: Path, kind: str, instead: Callable[[Case, Path, Path], None]
):
    case.make("d/e/f")
    elsewhere = folder / "elsewhere" / "e"
    elsewhere.mkdir(parents=True)
    made = case.root / "d" / "e" / "new"
    case.hold(lambda: made.write_bytes(b"new"), kind=kind)
    instead(case, made.parent, elsewhere)
    assert refused_paths(case) == [os.fspath(made)]
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("instead", [link_instead, file_instead, nothing_instead])
def test_nothing_is_written_where_another_thing_stands_in_the_place_of_the_root(
    case: Case, folder: Path, kind: str, instead: Callable[[Case, Path, Path], None]
):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    case.hold(lambda: (case.root / "new").write_bytes(b"new"), kind=kind)
    instead(case, case.root, elsewhere)
    with pytest.raises(UndoConflict) as refused:
        case.commit()
    assert [one.path for one in refused.value.details["conflicts"]] == [os.fspath(case.root)]
    assert os.listdir(elsewhere) == []
    assert case.store.calls() == [CALL]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes to folders of others")
@pytest.mark.parametrize("where", [".", "d"])
def test_nothing_new_is_put_into_a_folder_of_somebody_else_that_has_the_name_of_the_commands(
    case: Case, folder: Path, kind: str, where: str
):
    case.make("d/f")
    for path in (case.root, *case.root.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    theirs = case.root / where
    case.hold(lambda: (theirs / "new").write_bytes(b"new"), kind=kind)
    theirs.rename(folder / "away")
    theirs.mkdir(0o700)
    assert refused_paths(case) == [os.fspath(theirs / "new")]
    os.chown(theirs, STRANGER, STRANGER)
    case.commit()
    assert (theirs / "new").read_bytes() == b"new"


def test_a_folder_that_went_and_is_made_by_the_set_itself_is_no_obstacle(case: Case, kind: str):
    case.hold(lambda: (case.root / "made" / "in").mkdir(parents=True), kind=kind)
    case.commit()
    assert (case.root / "made" / "in").is_dir()


def test_nothing_is_written_to_what_was_mounted_in_the_root_since(
    case: Case, mounted: Mounted, tmp_path: Path, overlays: None
):
    case.root = tmp_path
    place = tmp_path / "mounted0"
    place.mkdir()
    (tmp_path / "beside").write_bytes(b"old")

    def work() -> None:
        (place / "new").write_bytes(b"new")
        (tmp_path / "beside").write_bytes(b"new")

    case.hold(work)
    place.rmdir()
    mounted("tmpfs", "size=64k")
    assert refused_paths(case) == [os.fspath(place)]
    assert os.listdir(place) == []


def test_what_was_mounted_in_the_root_apart_from_what_changed_is_no_obstacle(
    case: Case, mounted: Mounted, tmp_path: Path, overlays: None
):
    case.root = tmp_path
    case.hold(lambda: (tmp_path / "new").write_bytes(b"new"))
    mounted("tmpfs", "size=64k")
    case.commit()
    assert (tmp_path / "new").read_bytes() == b"new"


# -- the system says no in the middle -----------------------------------------------------------------------


def change_three(case: Case) -> Callable[[], None]:
    for name in ("a", "b/in", "c"):
        case.make(name)

    def work() -> None:
        (case.root / "a").write_bytes(b"new")
        (case.root / "b" / "in").unlink()
        (case.root / "b" / "made").mkdir()
        (case.root / "c").write_bytes(b"new" * 40_000)

    return work


def kept_from(case: Case) -> ToolError:
    """Why a commit could not be made; nothing of it is in place and everything stays held."""
    before = seen(case.root)
    with pytest.raises(ToolError) as refused:
        case.commit()
    assert seen(case.root) == before
    assert temporaries(case.root) == []
    assert case.store.calls() == [CALL]
    assert refused.value.hint
    return refused.value


@pytest.mark.parametrize("name", ["a", "b/in", "b", "c", "."])
def test_what_may_not_be_changed_leaves_everything_as_it_was(case: Case, kind: str, name: str):
    case.hold(change_three(case), kind=kind)
    fixed = case.root / name
    if os.geteuid() != 0 or subprocess.run(["chattr", "+i", fixed], capture_output=True).returncode:
        pytest.skip("chattr is missing, or this file system has no immutable files")
    try:
        assert "Operation not permitted" in kept_from(case).message
    finally:
        subprocess.run(["chattr", "-i", fixed], check=True)
    case.commit()
    assert (case.root / "a").read_bytes() == b"new"


def test_a_full_disk_leaves_everything_as_it_was(folder: Path, mounted: Mounted, overlays: None):
    case = Case(folder)
    case.root = mounted("tmpfs", "size=256k")
    work = change_three(case)
    case.hold(work)
    (case.root / "filler").write_bytes(b"x" * 150_000)
    error = kept_from(case)
    assert "No space left" in error.message and "held still" in error.message
    (case.root / "filler").unlink()
    case.commit()
    assert len((case.root / "c").read_bytes()) == 120_000


def test_a_root_that_became_read_only_stays_as_it_was(folder: Path, mounted: Mounted, overlays: None):
    case = Case(folder)
    case.root = mounted("tmpfs", "size=1m")
    case.hold(change_three(case))
    subprocess.run(["mount", "-o", "remount,ro", case.root], check=True)
    assert "Read-only" in kept_from(case).message
    subprocess.run(["mount", "-o", "remount,rw", case.root], check=True)
    case.commit()


def test_a_root_that_is_closed_to_us_by_now_stays_as_it_was(folder: Path):
    def commit_without_permission() -> None:
        case = Case(folder)
        case.hold(change_three(case), kind="overlay")
        case.root.chmod(0o500)
        assert "Permission denied" in kept_from(case).message
        case.root.chmod(0o700)
        case.commit()

    from tests.changes.held.overlays import why_no_overlays

    def by_the_user() -> str | None:
        if (why := why_no_overlays(os.fspath(folder))) is not None:
            return why
        commit_without_permission()
        return None

    if (why := as_user(by_the_user, folder)) is not None:
        pytest.skip(f"an ordinary user can make no namespace with an overlay here: {why}")


# -- the store is another -----------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_a_manifest_of_which_any_byte_is_another_is_not_committed(
    case: Case, overlays: None, data: st.DataObject
):
    if case.store.read(CALL) is None:
        case.make("f")
        case.hold(lambda: (case.root / "f").write_bytes(b"new"))
    manifest = case.folder / CALL.hex() / "manifest"
    written = bytearray(manifest.read_bytes())
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] ^= data.draw(st.integers(1, 255))
    whole = manifest.read_bytes()
    manifest.write_bytes(written)
    with pytest.raises(NothingHeld, match="cannot be read"):
        case.commit()
    assert (case.root / "f").read_bytes() == b"old"
    manifest.write_bytes(whole)


@pytest.mark.parametrize("other", [b"evil", b"new and more", b""])
def test_held_content_that_is_another_by_now_is_not_committed(case: Case, kind: str, other: bytes):
    case.make("f")
    held = case.hold(lambda: (case.root / "f").write_bytes(b"new!"), kind=kind)
    (Path(held.uppers[0]) / "f").write_bytes(other)
    assert "not what stood there" in kept_from_damage(case)


def test_a_link_in_the_place_of_held_content_is_not_followed(case: Case, folder: Path, kind: str):
    case.make("d/f")
    secret = folder / "secret"
    secret.write_bytes(b"new!")
    held = case.hold(lambda: (case.root / "d" / "f").write_bytes(b"new!"), kind=kind)
    upper = Path(held.uppers[0])
    (upper / "d" / "f").unlink()
    (upper / "d" / "f").symlink_to(secret)
    kept_from_damage(case)
    shutil.rmtree(upper / "d")
    (folder / "f").write_bytes(b"new!")
    (upper / "d").symlink_to(folder)
    kept_from_damage(case)


def kept_from_damage(case: Case) -> str:
    before = seen(case.root)
    with pytest.raises(CustodyError) as refused:
        case.commit()
    assert seen(case.root) == before and temporaries(case.root) == []
    return refused.value.message


def test_of_a_store_and_its_copy_only_one_commits(case: Case, folder: Path, kind: str):
    case.make("f")
    case.hold(change_three(case), kind=kind)
    subprocess.run(["cp", "-a", folder / "store", folder / "copied"], check=True)
    copied = HeldStore(lambda: os.fspath(folder / "copied" / "undo" / "held"))
    case.commit()
    after = seen(case.root)
    with pytest.raises(UndoConflict):
        copied.commit(UndoStore(RealDisk(folder / "copied")), COMMIT, CALL)
    assert seen(case.root) == after
    assert copied.calls() == [CALL]


# -- somebody else acts at once -----------------------------------------------------------------------------


def at_once(*works: Callable[[], Any]) -> list[str]:
    """What each said, or the error it met, done in processes of their own that begin together."""
    reading, writing = os.pipe()
    answers: list[int] = []
    pids: list[int] = []
    for work in works:
        mine, theirs = os.pipe()
        pids.append(os.fork())
        if pids[-1] == 0:
            said = "nothing"
            try:
                os.close(writing)
                os.read(reading, 1)
                said = str(work())
            except BaseException as error:
                said = type(error).__name__
            finally:
                os.write(theirs, said.encode())
                os._exit(0)
        os.close(theirs)
        answers.append(mine)
    os.close(reading)
    os.close(writing)  # they begin
    heard: list[str] = []
    for answer in answers:
        with open(answer, "rb") as file:
            heard.append(file.read().decode())
    for pid in pids:
        os.waitpid(pid, 0)
    return heard


def test_of_processes_that_commit_and_discard_at_once_one_wins_and_nothing_is_half_done(
    case: Case, folder: Path, overlays: None
):
    work = change_three(case)
    before = seen(case.root)
    for round_number in range(6):
        case.hold(work)
        shown = {"commit": b"new", "discard": b"old"}

        def commit(by: int) -> str:
            store = HeldStore(lambda: os.fspath(case.folder))
            store.commit(UndoStore(RealDisk(folder / "store")), bytes([*[by] * 7, round_number]), CALL)  # noqa: B023 - done in this round
            return "commit"

        def discard() -> str:
            HeldStore(lambda: os.fspath(case.folder)).discard(CALL)
            return "discard"

        said = at_once(lambda: commit(1), discard, lambda: commit(2))
        won = [one for one in said if one in shown]
        assert len(won) == 1 and set(said) - set(shown) <= {"HeldBusy", "NothingHeld"}, said
        assert (case.root / "a").read_bytes() == shown[won[0]]
        assert case.store.calls() == []
        if won == ["commit"]:
            by = bytes([*[1 + said.index("commit") // 2] * 7, round_number])
            undo_call(case.undo, by, bytes([9] * 7 + [round_number]))
            assert seen(case.root) == before


def test_nothing_is_committed_to_a_root_in_which_another_transaction_is(case: Case, overlays: None):
    case.hold(change_three(case))
    holding = case.store.begin(OTHER, [os.fspath(case.root / "b")])
    before = seen(case.root)
    with pytest.raises(HeldBusy) as refused:
        case.commit()
    assert refused.value.details["call_id"] == OTHER.hex()
    assert seen(case.root) == before
    holding.abandon()
    case.commit()


def test_an_undo_after_a_discard_has_nothing_to_undo_and_one_done_twice_changes_nothing_more(
    case: Case, kind: str
):
    work = change_three(case)
    before = seen(case.root)
    case.hold(work, kind=kind)
    case.store.discard(CALL)
    with pytest.raises(UndoGone):
        undo_call(case.undo, CALL, bytes(8))
    assert seen(case.root) == before
    case.hold(work, kind=kind)
    case.commit()
    after = seen(case.root)
    undo_call(case.undo, COMMIT, bytes(8))
    assert seen(case.root) == before
    undo_call(case.undo, COMMIT, bytes([1] * 8))  # finds everything as it should be
    assert seen(case.root) == before
    undo_call(case.undo, bytes(8), bytes([2] * 8))
    assert seen(case.root) == after


def test_a_later_change_keeps_an_undo_from_taking_anything_back(case: Case, kind: str):
    case.hold(change_three(case), kind=kind)
    case.commit()
    (case.root / "b" / "made" / "theirs").write_bytes(b"theirs")
    after = seen(case.root)
    with pytest.raises(UndoConflict):
        undo_call(case.undo, COMMIT, bytes(8))
    assert seen(case.root) == after


def test_the_folder_of_what_is_held_is_ours_alone_whatever_the_mask(case: Case, overlays: None):
    mask = os.umask(0)
    try:
        case.hold(change_three(case))
    finally:
        os.umask(mask)
    for place in (case.folder, case.folder / CALL.hex()):
        assert stat.S_IMODE(os.stat(place).st_mode) == 0o700
