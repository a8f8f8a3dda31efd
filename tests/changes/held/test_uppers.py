"""The layer of an overlay as the kernel leaves it, and as it might look: made by hand, without a mount."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.changes.held.conftest import CALL, Case
from tests.changes.trees import seen

from custody.changes import HeldSet
from custody.changes.held.uppers import own_prefix
from custody.errors import CannotHold


def whiteout(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("a whiteout can be made by hand only by root")


def set_own(path: Path, name: str, value: bytes) -> None:
    os.setxattr(path, own_prefix() + name, value)


def held_of(case: Case, fill: Callable[[Path], None]) -> HeldSet:
    holding = case.store.begin(CALL, [os.fspath(case.root)])
    fill(Path(holding.views[0].upper))
    return holding.settle()


def tree(case: Case) -> None:
    for path in ("d/e/f", "d/g", "h"):
        case.make(path)


def test_the_layer_looks_like_its_root_and_nobody_else_comes_there(case: Case):
    case.root.chmod(0o751)
    os.setxattr(case.root, "user.colour", b"red")
    os.utime(case.root, ns=(7, 7))
    view = case.store.begin(CALL, [os.fspath(case.root)]).views[0]
    assert seen(Path(view.upper)) == seen(case.root)
    assert os.path.dirname(view.upper) == os.path.dirname(view.work)
    for folder in (case.folder, case.folder / CALL.hex(), Path(view.upper).parent):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_whiteout_of_a_folder_takes_all_beneath_it(case: Case):
    tree(case)
    held = held_of(case, lambda upper: whiteout(upper / "d"))
    assert case.told(held) == dict.fromkeys(("d", "d/e", "d/e/f", "d/g"), "deleted")
    case.commit()
    assert os.listdir(case.root) == ["h"]


def test_a_whiteout_of_nothing_is_nothing(case: Case):
    assert held_of(case, lambda upper: whiteout(upper / "gone")).entries == ()


def test_an_opaque_folder_hides_what_is_beneath_it_and_beneath_its_folders(case: Case):
    tree(case)

    def fill(upper: Path) -> None:
        (upper / "d" / "e").mkdir(parents=True)
        set_own(upper / "d", "opaque", b"y")
        (upper / "d" / "e" / "new").write_bytes(b"new")

    told = case.told(held_of(case, fill))
    assert told == {"d/e/f": "deleted", "d/g": "deleted", "d/e/new": "created"}


@pytest.mark.parametrize("name", ["opaque", "origin", "impure", "upper"])
def test_attributes_of_the_kernel_are_no_change(case: Case, name: str):
    tree(case)

    def fill(upper: Path) -> None:
        (upper / "d").mkdir()
        set_own(upper / "d", name, b"x")

    assert held_of(case, fill).changes == ()


def test_an_attribute_a_command_gave_is_its_own_whatever_its_name(case: Case):
    """Behind root's overlay it may call one as those of an ordinary user's are called; behind his it is
    escaped by the kernel."""
    tree(case)
    name = "user.overlay.opaque" if own_prefix() == "trusted.overlay." else "user.overlay.overlay.opaque"

    def fill(upper: Path) -> None:
        (upper / "d").mkdir()
        os.setxattr(upper / "d", name, b"y")

    held = held_of(case, fill)
    assert case.told(held) == {"d": "mode"}
    assert held.entries[0].after.xattrs == {"user.overlay.opaque": b"y"}


def test_a_folder_moved_by_reference_is_not_guessed_at(case: Case):
    tree(case)

    def fill(upper: Path) -> None:
        (upper / "moved").mkdir()
        set_own(upper / "moved", "redirect", b"d")

    with pytest.raises(CannotHold, match="moved"):
        held_of(case, fill)
    assert case.store.calls() == []


def test_a_link_to_a_file_that_stays_makes_one_file_of_both(case: Case):
    tree(case)
    source = case.root / "h"

    def fill(upper: Path) -> None:
        (upper / "h").write_bytes(b"old")
        (upper / "h").chmod(0o644)
        os.utime(upper / "h", ns=(0, os.stat(source).st_mtime_ns))
        os.link(upper / "h", upper / "again")

    assert case.told(held_of(case, fill)) == {"again": "created"}
    case.commit()
    assert os.path.samefile(source, case.root / "again")


def test_names_of_a_file_that_is_written_to_part_and_that_is_said(case: Case, overlays: None):
    tree(case)
    os.link(case.root / "h", case.root / "other")
    held = case.hold(lambda: (case.root / "h").write_bytes(b"new"))
    assert len(held.warnings) == 1 and "other names" in held.warnings[0]
    case.commit()
    assert (case.root / "other").read_bytes() == b"old"


def test_a_root_that_was_shut_keeps_its_mode_and_that_is_said(case: Case):
    case.root.chmod(0o755)

    def fill(upper: Path) -> None:
        (upper / "f").write_bytes(b"f")
        upper.chmod(0o500)

    held = held_of(case, fill)
    assert case.told(held) == {"f": "created"}
    assert "stay as they are" in held.warnings[0]
    case.commit()
    assert stat.S_IMODE(os.stat(case.root).st_mode) == 0o755
