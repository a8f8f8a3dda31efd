"""What cannot be held, or not be committed any more: refused in words, nothing changed and nothing lost."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.changes.held.conftest import CALL, COMMIT, Case
from tests.changes.held.overlays import as_user, in_child, seeing, why_no_overlays
from tests.changes.trees import seen
from tests.conftest import Mounted

from custody.changes import HeldStore, recover_changes
from custody.errors import CannotHold, HeldBusy, NothingHeld, ToolError, UndoConflict

OTHER = bytes.fromhex("00000000000000d1")


def gone(pid: int, start_ticks: int) -> bool:
    return False


def write(case: Case, relative: str, content: bytes = b"new") -> Callable[[], object]:
    return lambda: (case.root / relative).write_bytes(content)


# -- somebody else changed it -----------------------------------------------------------------------------


def touch_meanwhile(case: Case) -> None:
    (case.root / "f").write_bytes(b"theirs")


def touch_with_the_same_size_and_time(case: Case) -> None:
    status = os.stat(case.root / "f")
    (case.root / "f").write_bytes(b"0ld")
    os.utime(case.root / "f", ns=(status.st_atime_ns, status.st_mtime_ns))


def chmod_meanwhile(case: Case) -> None:
    (case.root / "f").chmod(0o600)


def remove_meanwhile(case: Case) -> None:
    (case.root / "f").unlink()


def make_meanwhile(case: Case) -> None:
    (case.root / "new").write_bytes(b"theirs")


def add_to_what_goes(case: Case) -> None:
    (case.root / "d" / "theirs").write_bytes(b"theirs")


def do_some(case: Case) -> Callable[[], None]:
    def work() -> None:
        (case.root / "f").write_bytes(b"longer")
        (case.root / "new").write_bytes(b"new")
        shutil.rmtree(case.root / "d")

    return work


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (touch_meanwhile, "f"),
        (touch_with_the_same_size_and_time, "f"),
        (chmod_meanwhile, "f"),
        (remove_meanwhile, "f"),
        (make_meanwhile, "new"),
        (add_to_what_goes, "d"),
    ],
)
def test_what_somebody_changed_since_is_a_conflict_and_all_stays_held(
    case: Case, kind: str, change: Callable[[Case], None], path: str
):
    case.make("f")
    case.make("d/in")
    held = case.hold(do_some(case), kind=kind)
    change(case)
    before = seen(case.root)
    with pytest.raises(UndoConflict) as refused:
        case.commit()
    assert [one.path for one in refused.value.details["conflicts"]] == [os.fspath(case.root / path)]
    assert "still held" in refused.value.message
    assert seen(case.root) == before
    assert case.store.read(CALL) == held
    assert case.undo.read(COMMIT) is None
    assert case.store.discard(CALL) == held


def test_what_was_written_anew_with_the_content_that_was_read_is_no_conflict(case: Case, kind: str):
    case.make("f")
    case.hold(write(case, "f", b"new"), kind=kind)
    os.replace(shutil.copy2(case.root / "f", case.root / "g"), case.root / "f")
    case.commit()
    assert (case.root / "f").read_bytes() == b"new"


def test_what_somebody_changed_while_the_command_ran_is_said_at_once_and_refused(case: Case, kind: str):
    case.make("f")
    holding = case.store.begin(CALL, [os.fspath(case.root)], kind=kind)
    seeing(holding.views, write(case, "f"))
    while os.stat(case.root / "f").st_ctime_ns <= os.stat(case.folder / CALL.hex() / "begun").st_ctime_ns:
        (case.root / "f").write_bytes(b"theirs")
    held = holding.settle()
    assert held.warnings == (
        f"{case.root}/f: changed by somebody else while the command ran: a commit refuses.",
    )
    with pytest.raises(UndoConflict):
        case.commit()
    assert (case.root / "f").read_bytes() == b"theirs"


# -- who is at work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("roots", [["root"], ["root/in"], ["."], ["root/in", "elsewhere"]])
def test_one_transaction_at_a_time_is_in_a_root_and_around_it(folder: Path, case: Case, roots: list[str]):
    (case.root / "in").mkdir()
    (folder / "elsewhere").mkdir()
    case.store = HeldStore(lambda: f"{folder}-held")
    try:
        holding = case.store.begin(CALL, [os.fspath(case.root)])
        others = [os.path.normpath(folder / root) for root in roots]
        with pytest.raises(HeldBusy, match=CALL.hex()) as refused:
            case.store.begin(OTHER, others)
        assert refused.value.details["call_id"] == CALL.hex()
        with pytest.raises(AssertionError, match="HeldBusy"):  # also of another process
            in_child(lambda: HeldStore(lambda: f"{folder}-held").begin(OTHER, others).abandon())
        case.store.begin(OTHER, [os.fspath(folder / "elsewhere")]).abandon()
        holding.abandon()
        case.store.begin(OTHER, others).abandon()
    finally:
        shutil.rmtree(f"{folder}-held")


def test_a_root_of_a_dead_process_is_free_and_nothing_of_it_is_held(case: Case):
    def begin_and_die() -> None:
        case.store.begin(CALL, [os.fspath(case.root)])

    in_child(begin_and_die)
    assert case.store.calls() == []
    case.store.begin(OTHER, [os.fspath(case.root)]).abandon()
    assert [(one.call_id, one.committed) for one in case.store.recover(gone, gone_commit)] == [(CALL, False)]
    assert os.listdir(case.folder) == ["lock"]


def gone_commit(call_id: bytes) -> bool:
    return False


def test_nothing_is_committed_into_a_root_in_which_a_command_works(case: Case, overlays: None):
    case.hold(write(case, "f"))
    holding = case.store.begin(OTHER, [os.fspath(case.root)])
    with pytest.raises(HeldBusy, match=OTHER.hex()):
        case.commit()
    assert case.store.calls() == [CALL]
    holding.abandon()
    case.commit()
    assert (case.root / "f").read_bytes() == b"new"


def test_of_several_who_commit_and_discard_at_once_one_wins_and_the_others_are_told(
    case: Case, overlays: None
):
    for number in range(8):
        (case.root / "f").unlink(missing_ok=True)
        case.hold(write(case, "f"))
        won: list[str] = []
        told: list[ToolError] = []

        def try_it(what: str, number: int, won: list[str] = won, told: list[ToolError] = told) -> None:
            try:
                if what == "commit":
                    case.store.commit(case.undo, number.to_bytes(8, "big"), CALL)
                else:
                    case.store.discard(CALL)
                won.append(what)
            except (HeldBusy, NothingHeld) as error:
                told.append(error)

        threads = [
            threading.Thread(target=try_it, args=(what, 1 + 4 * number + at))
            for at, what in enumerate(("commit", "discard", "commit"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(told)) == (1, 2)
        assert (case.root / "f").exists() == (won == ["commit"])
        assert case.store.calls() == []


def test_what_is_not_held_is_neither_committed_nor_discarded(case: Case):
    for act in (case.commit, lambda: case.store.discard(CALL)):
        with pytest.raises(NothingHeld, match=CALL.hex()):
            act()
    holding = case.store.begin(CALL, [os.fspath(case.root)])
    for act in (case.commit, lambda: case.store.discard(CALL)):
        with pytest.raises(HeldBusy, match="in use"):
            act()
    holding.abandon()
    assert case.store.read(CALL) is None
    assert os.listdir(case.folder) == ["lock"]


# -- what cannot be held ----------------------------------------------------------------------------------


def test_a_root_that_holds_the_store_or_lies_in_it_is_refused(folder: Path, case: Case):
    case.folder.mkdir(parents=True)
    for root in (folder, case.folder):
        with pytest.raises(CannotHold, match="store"):
            case.store.begin(CALL, [os.fspath(root)])


def test_a_root_in_which_something_is_mounted_is_refused(case: Case, mounted: Mounted, tmp_path: Path):
    place = mounted("tmpfs", "size=64k")
    with pytest.raises(CannotHold, match=place.name):
        case.store.begin(CALL, [os.fspath(tmp_path)])
    case.store.begin(CALL, [os.fspath(place)]).abandon()


@pytest.mark.parametrize("root", ["missing", "link", "file"])
def test_a_root_that_is_no_folder_is_refused(folder: Path, case: Case, root: str):
    (folder / "link").symlink_to(case.root)
    (folder / "file").write_bytes(b"")
    with pytest.raises(CannotHold, match=root):
        case.store.begin(CALL, [os.fspath(folder / root)])


def many(case: Case) -> None:
    for number in range(30):
        (case.root / f"n{number}").write_bytes(b"")


def large(case: Case) -> None:
    with (case.root / "sparse").open("wb") as file:
        file.truncate(1 << 40)


def deep(case: Case) -> None:
    os.chdir(case.root)
    for _ in range(30):
        os.mkdir("d" * 150)
        os.chdir("d" * 150)


@pytest.mark.parametrize(("work", "limit"), [(many, "files"), (large, "disk"), (deep, "files")])
def test_what_is_beyond_a_bound_is_not_held_and_nothing_of_it_is_left(
    folder: Path, kind: str, work: Callable[[Case], None], limit: str
):
    case = Case(folder, entries_max=20 if work is many else 10_000, bytes_max=1000)
    with pytest.raises(CannotHold, match="Nothing is held") as refused:
        case.hold(lambda: work(case), kind=kind)
    assert refused.value.details["limit"] == limit
    assert refused.value.hint
    assert os.listdir(case.root) == []
    assert case.store.calls() == [] and os.listdir(case.folder) == ["lock"]


def test_a_deletion_of_more_than_the_bound_is_not_half_held(folder: Path, kind: str):
    for number in range(30):
        (folder / "root" / "d" / f"e{number}").mkdir(parents=True)
    case = Case(folder, entries_max=40 if kind == "copy" else 20)
    if kind == "copy":
        assert len(case.hold(lambda: shutil.rmtree(case.root / "d"), kind=kind).changes) == 31
        return
    with pytest.raises(CannotHold):
        case.hold(lambda: shutil.rmtree(case.root / "d"), kind=kind)
    assert len(os.listdir(case.root / "d")) == 30


@pytest.mark.parametrize(("files", "limit"), [({"large": 11}, "disk"), (dict.fromkeys("abcd", 0), "files")])
def test_a_root_too_large_is_not_copied(folder: Path, files: dict[str, int], limit: str):
    case = Case(folder, entries_max=3, bytes_max=10)
    for name, size in files.items():
        case.make(name, b"x" * size)
    with pytest.raises(CannotHold) as refused:
        case.store.begin(CALL, [os.fspath(case.root)], kind="copy")
    assert refused.value.details["limit"] == limit
    assert os.listdir(case.folder) == ["lock"]


def test_a_holding_begun_with_overlays_goes_on_with_copies(case: Case, overlays: None):
    case.make("f")
    holding = case.store.begin(CALL, [os.fspath(case.root)])
    assert [view.kind for view in holding.views] == ["overlay"]
    holding.as_copies()
    assert [view.kind for view in holding.views] == ["copy"]
    seeing(holding.views, write(case, "f"))
    assert case.told(holding.settle()) == {"f": "modified"}


def test_who_is_asked_to_end_holds_nothing(case: Case, overlays: None):
    case.make("f")
    with pytest.raises(ToolError, match="asked to end"):
        case.store.begin(CALL, [os.fspath(case.root)], kind="copy", stop=lambda: True)
    holding = case.store.begin(CALL, [os.fspath(case.root)])
    seeing(holding.views, write(case, "f"))
    with pytest.raises(ToolError, match="asked to end"):
        holding.settle(lambda: True)
    assert os.listdir(case.folder) == ["lock"]
    case.hold(write(case, "f"))
    with pytest.raises(ToolError, match="asked to end"):
        case.store.commit(case.undo, COMMIT, CALL, stop=lambda: True)
    assert case.store.calls() == [CALL] and (case.root / "f").read_bytes() == b"old"


def test_held_content_that_was_damaged_is_not_committed(case: Case, overlays: None):
    case.make("f")
    case.hold(write(case, "f"))
    (case.folder / CALL.hex() / "0" / "upper" / "f").write_bytes(b"bad")
    with pytest.raises(ToolError):
        case.commit()
    assert (case.root / "f").read_bytes() == b"old"
    (case.folder / CALL.hex() / "manifest").write_bytes(b"bad")
    with pytest.raises(NothingHeld, match="cannot be read"):
        case.commit()
    assert "cannot be read" in case.store.discard(CALL).warnings[0]
    assert os.listdir(case.folder) == ["lock"]


# -- an ordinary user -------------------------------------------------------------------------------------


def test_what_an_ordinary_user_shut_is_held_with_the_modes_he_gave(folder: Path):
    def shut() -> str | None:
        if (why := why_no_overlays(os.fspath(folder))) is not None:
            return why
        case = Case(folder)

        def work() -> None:
            (case.root / "d" / "e").mkdir(parents=True)
            (case.root / "d" / "e" / "f").write_bytes(b"f")
            for path, mode in (("d/e/f", 0), ("d/e", 0o100), ("d", 0)):
                (case.root / path).chmod(mode)

        held = case.hold(work)
        modes = {os.path.basename(one.path): one.after.mode for one in held.changes if one.after}
        assert modes == {"d": "0000", "e": "0100", "f": "0000"}
        case.commit()
        assert os.stat(case.root / "d").st_mode & 0o7777 == 0
        (case.root / "d").chmod(0o700)
        (case.root / "d" / "e").chmod(0o700)
        assert os.stat(case.root / "d" / "e" / "f").st_mode & 0o7777 == 0
        return None

    if (why := as_user(shut, folder)) is not None:
        pytest.skip(f"an ordinary user can make no namespace with an overlay here: {why}")


def test_recovery_of_changes_leaves_what_is_held_alone(case: Case, overlays: None):
    held = case.hold(write(case, "f"))
    assert recover_changes(case.undo, gone) == []
    assert case.store.recover(gone, gone_commit) == []
    assert case.store.read(CALL) == held
    assert case.undo.call_ids() == set()


def test_a_tree_of_any_depth_and_mode_is_removed(case: Case):
    holding = case.store.begin(CALL, [os.fspath(case.root)])
    upper = holding.views[0].upper
    script = "import os\nfor n in range(1200): os.mkdir('d' * 5); os.chdir('d' * 5)"
    subprocess.run(["python3", "-c", script], cwd=upper, check=True)
    os.chmod(f"{upper}/ddddd", 0)
    holding.abandon()
    assert os.listdir(case.folder) == ["lock"]
