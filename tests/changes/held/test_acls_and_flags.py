"""Access control lists and flags of files (chattr): what becomes of them when held changes are committed."""

import array
import fcntl
import os
import struct
from pathlib import Path

import pytest
from tests.changes.held.conftest import COMMIT, Case

from custody.changes import undo_call

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 0x10, 0x20
NOBODY = 0xFFFFFFFF
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602
NODUMP, NOATIME = 0x40, 0x80


def acl(perm: int, uid: int = 70_002, *, others: int = 4) -> bytes:
    """Read and write for the owner, `perm` for a user beside, read for the group."""
    entries = [(USER_OBJ, 6, NOBODY), (USER, perm, uid), (GROUP_OBJ, 4, NOBODY), (MASK, 6, NOBODY)]
    entries.append((OTHER, others, NOBODY))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def list_of(path: Path, name: str = ACCESS) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return None


def flags_of(path: Path) -> int:
    with open(path, "rb") as file:
        found = array.array("l", [0])
        fcntl.ioctl(file, GET_FLAGS, found)
        return found[0] & (NODUMP | NOATIME)


def set_flags(path: Path, flags: int) -> None:
    with open(path, "rb") as file:
        fcntl.ioctl(file, SET_FLAGS, array.array("l", [flags]))


@pytest.fixture
def case(case: Case) -> Case:
    probe = case.make("probe")
    try:
        os.setxattr(probe, ACCESS, acl(6))
    except OSError as error:
        pytest.skip(f"this file system keeps no access control lists: {error.strerror}")
    probe.unlink()
    return case


def test_a_list_that_a_command_gives_is_told_committed_and_undone(case, kind):
    path = case.make("file")
    mode = path.stat().st_mode
    held = case.hold(lambda: os.setxattr(path, ACCESS, acl(6)), kind=kind)
    assert case.told(held) == {"file": "mode"} and list_of(path) is None
    case.commit()
    assert list_of(path) == acl(6)
    undo_call(case.undo, COMMIT, b"\1" * 8)
    assert (list_of(path), path.stat().st_mode) == (None, mode)


def test_a_file_whose_content_changes_keeps_its_list(case, kind):
    path = case.make("file")
    os.setxattr(path, ACCESS, acl(6))
    case.hold(lambda: path.write_bytes(b"new content"), kind=kind)
    case.commit()
    assert (path.read_bytes(), list_of(path)) == (b"new content", acl(6))


def test_a_new_file_has_the_list_that_the_command_saw_whatever_its_folder_hands_down(case, kind):
    folder = case.root / "folder"
    folder.mkdir()
    os.setxattr(folder, DEFAULT, acl(6))

    def work():
        for name in ("inherits", "without"):
            (folder / name).write_text("x")
        os.removexattr(folder / "without", ACCESS)
        (folder / "deep").mkdir()
        return [list_of(folder / "inherits"), list_of(folder / "deep", DEFAULT)]

    case.hold(work, kind=kind)
    seen = case.shown
    assert seen[1] == acl(6) and seen[0] is not None
    case.commit()
    assert [list_of(folder / "inherits"), list_of(folder / "deep", DEFAULT)] == seen
    assert list_of(folder / "without") is None


def test_flags_of_a_file_whose_content_changes_are_kept(case, kind):
    path, plain = case.make("file"), case.make("plain")
    try:
        set_flags(path, NODUMP | NOATIME)
    except OSError as error:
        pytest.skip(f"this file system keeps no flags: {error.strerror}")

    def work():
        path.write_bytes(b"new content")
        plain.write_bytes(b"new content")

    case.hold(work, kind=kind)
    case.commit()
    assert (flags_of(path), flags_of(plain)) == (NODUMP | NOATIME, 0)
    undo_call(case.undo, COMMIT, b"\1" * 8)
    assert (path.read_bytes(), flags_of(path)) == (b"old", NODUMP | NOATIME)
