"""A file is put in place whole, with the attributes of the one it replaces; what fails leaves no trace."""

import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.files.conftest import (
    NOBODY,
    Mounted,
    as_ordinary_user,
    give_to_ordinary_user,
    leaving_nothing_open,
)
from tests.files.test_state import set_or_skip

from custody.errors import ToolError
from custody.files import ABSENT, TEMPORARY_PREFIX, State, look, same
from custody.files.putting import (
    apply_attributes,
    free_bytes,
    link_again,
    make_folder,
    make_link,
    put_in_place,
    remove,
    set_folder_mtime,
    stage_file,
    sync_folder,
)

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone may give a file away")

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who)
    for tag, bits, who in [
        (0x01, 6, 2**32 - 1),
        (0x02, 4, NOBODY),
        (0x04, 4, 2**32 - 1),
        (0x10, 4, 2**32 - 1),
        (0x20, 0, 2**32 - 1),
    ]
)
"""user::rw-, user:nobody:r--, group::r--, mask::r--, other::---"""


def test_a_staged_file_is_hidden_whole_and_its_own(tmp_path: Path, folder_fd: int):
    name = stage_file(folder_fd, [b"one ", b"", b"two"], mode=0o640, like=None)
    assert name.startswith(TEMPORARY_PREFIX)
    assert len(name) == len(TEMPORARY_PREFIX) + 16
    assert (tmp_path / name).read_bytes() == b"one two"
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    put_in_place(folder_fd, name, "file")
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_gets_its_mode_less_the_umask(tmp_path: Path, folder_fd: int):
    (tmp_path / "usual").touch()
    name = stage_file(folder_fd, [b"x"], mode=0o666, like=None)
    assert (tmp_path / name).stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_gets_mode_attributes_and_time_of_the_one_it_replaces(tmp_path: Path, folder_fd: int):
    old = tmp_path / "old"
    old.write_text("old")
    set_or_skip(old, "user.note", b"kept")
    old.chmod(0o2750)
    before = look(folder_fd, "old")
    name = stage_file(folder_fd, [b"new"], mode=0o600, like=before, mtime_ns=1_234_567_891)
    after = look(folder_fd, name)
    assert (after.mode, after.uid, after.gid, after.xattrs) == (
        before.mode,
        before.uid,
        before.gid,
        before.xattrs,
    )
    assert after.mtime_ns == 1_234_567_891


@only_root
def test_root_keeps_the_owner_the_capabilities_and_the_access_list(tmp_path: Path, folder_fd: int):
    old = tmp_path / "old"
    old.write_text("old")
    os.chown(old, NOBODY, 1)
    old.chmod(0o4755)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
    set_or_skip(old, "security.capability", capability)
    set_or_skip(old, "trusted.note", b"of the system")
    before = look(folder_fd, "old")
    after = look(folder_fd, stage_file(folder_fd, [b"new"], mode=0, like=before))
    assert (after.uid, after.gid, after.mode) == (NOBODY, 1, 0o4755)
    assert (
        after.xattrs == before.xattrs == {"security.capability": capability, "trusted.note": b"of the system"}
    )


def test_an_access_list_is_kept_and_one_that_is_inherited_is_taken_away(tmp_path: Path, folder_fd: int):
    listed, plain = tmp_path / "listed", tmp_path / "plain"
    listed.touch()
    plain.touch(mode=0o600)
    set_or_skip(listed, "system.posix_acl_access", ACL)
    set_or_skip(tmp_path, "system.posix_acl_default", ACL)
    for path in (listed, plain):
        before = look(folder_fd, path.name)
        after = look(folder_fd, stage_file(folder_fd, [b"new"], mode=0o600, like=before))
        assert (after.mode, after.xattrs) == (before.mode, before.xattrs)


@only_root
def test_an_ordinary_user_keeps_what_can_be_kept_and_no_set_user_id(tmp_path: Path, folder_fd: int):
    """The file of somebody else in a folder of ours: the content and the mode are kept, the owner is us."""
    old = tmp_path / "old"
    old.write_text("old")
    set_or_skip(old, "user.note", b"kept")
    set_or_skip(old, "trusted.note", b"not for us")
    old.chmod(0o6755)
    give_to_ordinary_user(tmp_path)
    before = look(folder_fd, "old")
    name = as_ordinary_user(lambda: stage_file(folder_fd, [b"new"], mode=0o600, like=before))
    after = look(folder_fd, name)
    assert (after.uid, after.gid, after.mode) == (NOBODY, NOBODY, 0o755)
    assert after.xattrs == {"user.note": b"kept"}


def test_an_ordinary_user_gives_attributes_to_a_file_nobody_may_write(tmp_path: Path, folder_fd: int):
    old = tmp_path / "old"
    old.write_text("old")
    set_or_skip(old, "user.note", b"kept")
    old.chmod(0o444)
    give_to_ordinary_user(tmp_path, old)

    def replace_and_give_back() -> State:
        before = look(folder_fd, "old")
        put_in_place(folder_fd, stage_file(folder_fd, [b"new"], mode=0, like=before), "old")
        assert look(folder_fd, "old").xattrs == {"user.note": b"kept"}
        apply_attributes(
            folder_fd, "old", State("file", mode=0o400, uid=before.uid, gid=before.gid), times=False
        )
        return look(folder_fd, "old")

    after = as_ordinary_user(replace_and_give_back)
    assert (after.mode, after.xattrs) == (0o400, {})


class Broken(Exception):
    """What a source of content raises."""


@pytest.mark.parametrize("like", [None, State("file", mode=0o600)])
def test_a_source_that_fails_leaves_no_temporary_file(tmp_path: Path, folder_fd: int, like: State | None):
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise Broken

    with leaving_nothing_open(), pytest.raises(Broken):
        stage_file(folder_fd, chunks(), mode=0o600, like=like)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(mounted: Mounted):
    disk = mounted("tmpfs", "size=64k")
    (disk / "file").write_text("old")
    fd = os.open(disk, os.O_RDONLY)
    try:
        assert 0 < free_bytes(fd) <= 64 * 1024
        with pytest.raises(OSError, match="No space left"):
            stage_file(fd, [b"x" * 16 * 1024] * 8, mode=0o600, like=look(fd, "file"))
    finally:
        os.close(fd)
    assert os.listdir(disk) == ["file"]
    assert (disk / "file").read_text() == "old"


def test_a_read_only_file_system_is_an_error_and_changes_nothing(mounted: Mounted):
    disk = mounted("tmpfs", "ro")
    fd = os.open(disk, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Read-only file system"):
            stage_file(fd, [b"x"], mode=0o600, like=None)
    finally:
        os.close(fd)


def test_putting_in_place_replaces_a_link_and_not_what_it_points_to(tmp_path: Path, folder_fd: int):
    (tmp_path / "pointed").write_text("untouched")
    (tmp_path / "link").symlink_to("pointed")
    put_in_place(folder_fd, stage_file(folder_fd, [b"new"], mode=0o600, like=None), "link")
    assert (tmp_path / "pointed").read_text() == "untouched"
    assert not (tmp_path / "link").is_symlink()


def test_putting_where_nothing_stood_refuses_what_came_meanwhile(tmp_path: Path, folder_fd: int):
    put_in_place(folder_fd, stage_file(folder_fd, [b"one"], mode=0o600, like=None), "file", over=False)
    second = stage_file(folder_fd, [b"two"], mode=0o600, like=None)
    with pytest.raises(FileExistsError):
        put_in_place(folder_fd, second, "file", over=False)
    assert (tmp_path / "file").read_text() == "one"
    remove(folder_fd, second, "file")


def test_a_reader_sees_the_old_or_the_new_and_never_half(tmp_path: Path, folder_fd: int):
    versions = [bytes([number]) * 100_000 for number in range(20)]
    path = tmp_path / "file"
    path.write_bytes(versions[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions:
        put_in_place(folder_fd, stage_file(folder_fd, [version], mode=0o600, like=None), "file")
    done.set()
    reader.join()
    assert seen <= set(versions)


def test_folders_and_links_are_made_and_removed(tmp_path: Path, folder_fd: int):
    make_folder(folder_fd, "folder", 0o700)
    make_link(folder_fd, "link", "folder")
    (tmp_path / "folder/file").write_text("x")
    link_again(folder_fd, "link", folder_fd, "second")
    assert (tmp_path / "second").readlink() == Path("folder")
    with pytest.raises(FileExistsError):
        make_folder(folder_fd, "link", 0o700)
    with pytest.raises(FileExistsError):
        make_link(folder_fd, "folder", "x")
    with pytest.raises(OSError, match="Directory not empty"):
        remove(folder_fd, "folder", "directory")
    (tmp_path / "folder/file").unlink()
    for name, kind in [("folder", "directory"), ("link", "link"), ("second", "link")]:
        remove(folder_fd, name, kind)  # pyright: ignore[reportArgumentType]
    assert os.listdir(tmp_path) == []


def test_a_further_name_is_the_same_file(tmp_path: Path, folder_fd: int):
    (tmp_path / "one").write_text("x")
    (tmp_path / "folder").mkdir()
    below = os.open(tmp_path / "folder", os.O_RDONLY)
    link_again(folder_fd, "one", below, "two")
    os.close(below)
    assert (tmp_path / "one").samefile(tmp_path / "folder/two")
    assert look(folder_fd, "one").names == 2


def test_attributes_are_given_to_a_folder_and_to_a_link_itself(tmp_path: Path, folder_fd: int):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "folder").chmod(0o700)
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    apply_attributes(folder_fd, "link", State("link", mode=0o777, mtime_ns=5_000, **owner), times=True)
    assert (tmp_path / "folder").stat().st_mtime_ns != 5_000
    apply_attributes(
        folder_fd, "folder", State("directory", mode=0o2751, mtime_ns=7_001, **owner), times=True
    )
    told = look(folder_fd, "folder")
    assert (told.mode, told.mtime_ns) == (0o2751, 7_001)
    assert look(folder_fd, "link").mtime_ns == 5_000


def test_the_time_stays_where_it_is_not_to_be_given(tmp_path: Path, folder_fd: int):
    (tmp_path / "file").touch()
    before = look(folder_fd, "file")
    apply_attributes(folder_fd, "file", State("file", mode=0o600, mtime_ns=1), times=False)
    assert look(folder_fd, "file").mtime_ns == before.mtime_ns


def test_attributes_are_not_given_to_something_of_another_kind(tmp_path: Path, folder_fd: int):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "file").symlink_to("secret")
    with pytest.raises(ToolError, match="is a link by now"):
        apply_attributes(folder_fd, "file", State("file", mode=0o644), times=False)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_the_time_of_a_folder_is_given_back_also_where_it_is_held_without_reading(tmp_path: Path):
    fd = os.open(tmp_path, os.O_PATH)
    try:
        set_folder_mtime(fd, 1_000_000_007)
        sync_folder(fd)
    finally:
        os.close(fd)
    assert tmp_path.stat().st_mtime_ns == 1_000_000_007


@only_root
def test_the_time_of_a_folder_that_is_not_ours_is_left(tmp_path: Path, folder_fd: int):
    before = tmp_path.stat().st_mtime_ns
    as_ordinary_user(lambda: set_folder_mtime(folder_fd, 1))
    assert tmp_path.stat().st_mtime_ns == before


def test_a_folder_that_may_not_be_listed_is_synced_all_the_same(tmp_path: Path, folder_fd: int):
    give_to_ordinary_user(tmp_path)
    tmp_path.chmod(0o300)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        as_ordinary_user(lambda: sync_folder(fd))
    finally:
        os.close(fd)
        tmp_path.chmod(0o700)


def test_names_that_are_no_utf8_are_put_in_place(tmp_path: Path, folder_fd: int):
    name = os.fsdecode(b"caf\xe9")
    put_in_place(folder_fd, stage_file(folder_fd, [b"x"], mode=0o600, like=None), name)
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]


def test_what_is_staged_under_a_name_that_was_written_down_is_not_laid_over_another(
    tmp_path: Path, folder_fd: int
):
    (tmp_path / "taken").write_text("somebody's")
    with pytest.raises(FileExistsError):
        stage_file(folder_fd, [b"x"], mode=0o600, like=None, name="taken")
    assert (tmp_path / "taken").read_text() == "somebody's"


def test_a_file_without_attributes_of_users_is_staged_where_there_are_none(mounted: Mounted):
    disk = mounted("ramfs", "mode=700")
    fd = os.open(disk, os.O_RDONLY)
    try:
        name = stage_file(fd, [b"x"], mode=0o600, like=State("file", mode=0o640))
        assert stat.S_IMODE(os.stat(name, dir_fd=fd).st_mode) == 0o640
        with pytest.raises(OSError, match="not supported") as caught:
            stage_file(fd, [b"x"], mode=0o600, like=State("file", mode=0o640, xattrs={"user.note": b"x"}))
        assert caught.value.errno == errno.ENOTSUP
        assert os.listdir(disk) == [name]
        assert same(look(fd, "nothing"), ABSENT)
    finally:
        os.close(fd)
