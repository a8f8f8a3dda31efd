"""What stands at a path, told in full; a file is told as it was at one moment, or not at all."""

import errno
import hashlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from tests.files.conftest import as_ordinary_user, give_to_ordinary_user, leaving_nothing_open

from custody.errors import ToolError
from custody.files import ABSENT, State, look, same, version_of
from custody.files.state import CHUNK_BYTES, READS_MAX
from custody.records import Version


def test_a_file_is_told_with_content_mode_owner_times_and_attributes(tmp_path: Path, folder_fd: int):
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    path.chmod(0o640)
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    set_or_skip(path, "user.note", b"kept")
    status = path.stat()
    assert look(folder_fd, "file") == State(
        "file",
        mode=0o640,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=1_700_000_000_123_456_789,
        size=5,
        sha256=hashlib.sha256(b"hello").digest(),
        xattrs={"user.note": b"kept"},
        device=status.st_dev,
        inode=status.st_ino,
        names=1,
    )


def test_what_is_not_there_is_absent(folder_fd: int):
    assert look(folder_fd, "nothing") == ABSENT


def test_a_link_is_told_as_itself(tmp_path: Path, folder_fd: int):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "dangling").symlink_to(os.fsdecode(b"/nowhere/caf\xe9"))
    told = look(folder_fd, "link")
    assert (told.kind, told.target, told.sha256, told.size) == ("link", "secret", None, 0)
    assert look(folder_fd, "dangling").target == "/nowhere/caf\udce9"


def test_attributes_of_a_link_are_its_own(tmp_path: Path, folder_fd: int):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    set_or_skip(tmp_path / "file", "user.note", b"of the file")
    assert look(folder_fd, "link").xattrs == {}
    set_or_skip(tmp_path / "link", "trusted.note", b"of the link")
    assert look(folder_fd, "link").xattrs == {"trusted.note": b"of the link"}


def test_a_folder_a_pipe_and_a_socket_are_told_without_being_opened(tmp_path: Path, folder_fd: int):
    (tmp_path / "folder").mkdir(mode=0o750)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{folder_fd}/socket")  # the address of a socket is short
    assert [look(folder_fd, name).kind for name in ("folder", "pipe", "socket")] == [
        "directory",
        "other",
        "other",
    ]
    assert look(folder_fd, "folder").mode == 0o750


def test_a_large_file_comes_in_bounded_chunks(tmp_path: Path, folder_fd: int):
    data = os.urandom(3 * CHUNK_BYTES + 5)
    (tmp_path / "large").write_bytes(data)
    chunks: list[bytes] = []
    told = look(folder_fd, "large", sink=chunks.append)
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert told.sha256 == hashlib.sha256(data).digest()


def test_content_is_not_read_where_nobody_asks(tmp_path: Path, folder_fd: int):
    (tmp_path / "file").write_bytes(b"hello")
    told = look(folder_fd, "file", digest=False)
    assert (told.size, told.sha256) == (5, None)


def test_a_file_that_grows_while_it_is_read_is_read_again(tmp_path: Path, folder_fd: int):
    path = tmp_path / "growing"
    path.write_bytes(b"a" * 10)
    chunks: list[bytes] = []

    def grow_once(chunk: bytes) -> None:
        if not chunks:
            with path.open("ab") as file:
                file.write(b"b" * 10)
        chunks.append(chunk)

    told = look(folder_fd, "growing", sink=grow_once)
    again = chunks.index(b"")  # forget what came before
    assert b"".join(chunks[again:]) == path.read_bytes()
    assert (told.size, told.sha256) == (20, hashlib.sha256(path.read_bytes()).digest())


def test_a_file_that_changes_each_time_it_is_read_is_told_so(tmp_path: Path, folder_fd: int):
    path = tmp_path / "growing"
    path.write_bytes(b"a")
    reads: list[bytes] = []

    def grow(chunk: bytes) -> None:
        reads.append(chunk)
        if chunk:
            with path.open("ab") as file:
                file.write(b"b")

    with pytest.raises(ToolError, match="changed each of 3 times"):
        look(folder_fd, "growing", sink=grow)
    assert reads.count(b"") == READS_MAX - 1


def test_a_file_that_shrinks_while_it_is_read_is_read_again(tmp_path: Path, folder_fd: int):
    path = tmp_path / "shrinking"
    path.write_bytes(b"a" * (CHUNK_BYTES + 10))

    def cut(chunk: bytes) -> None:
        if len(chunk) == CHUNK_BYTES:
            os.truncate(path, 4)

    assert look(folder_fd, "shrinking", sink=cut).sha256 == hashlib.sha256(b"aaaa").digest()


def test_a_file_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path, folder_fd: int):
    path = tmp_path / "closed"
    path.write_bytes(b"x")
    path.chmod(0)
    tmp_path.chmod(0o755)
    with pytest.raises(PermissionError) as caught:
        as_ordinary_user(lambda: look(folder_fd, "closed"))
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, "closed")
    assert as_ordinary_user(lambda: look(folder_fd, "closed", digest=False)).size == 1


def test_two_states_are_the_same_whatever_their_times_and_owners():
    file = State("file", mode=0o644, size=1, sha256=b"a" * 32, mtime_ns=1, uid=1, inode=1)
    assert same(file, State("file", mode=0o644, size=1, sha256=b"a" * 32, mtime_ns=2, uid=2, inode=2))
    assert not same(file, State("file", mode=0o600, size=1, sha256=b"a" * 32))
    assert not same(file, State("file", mode=0o644, size=1, sha256=b"b" * 32))
    assert not same(file, ABSENT)
    assert same(ABSENT, State("absent"))
    assert same(State("directory", mode=0o755, mtime_ns=1), State("directory", mode=0o755))
    assert same(State("link", target="a", mode=0o777), State("link", target="a"))
    assert not same(State("link", target="a"), State("link", target="b"))


def test_a_state_has_words_for_the_record():
    assert version_of(ABSENT) is None
    assert version_of(State("file", mode=0o4644, size=3, sha256=b"\1" * 32)) == Version(
        bytes=3, sha256="01" * 32, mode="4644"
    )
    assert version_of(State("directory", mode=0o755)) == Version(mode="0755")
    assert version_of(State("link", mode=0o777, target="there")) == Version(mode="0777", target="there")


def test_looking_leaves_nothing_open(tmp_path: Path, folder_fd: int):
    give_to_ordinary_user(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    with leaving_nothing_open():
        for name in ("file", "link", "nothing"):
            look(folder_fd, name)
        with pytest.raises(ZeroDivisionError):
            look(folder_fd, "file", sink=lambda chunk: 1 // 0)  # pyright: ignore[reportArgumentType]


def set_or_skip(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as error:
        kind = subprocess.run(["stat", "-f", "-c", "%T", str(path.parent)], capture_output=True, text=True)
        pytest.skip(f"{name} cannot be set on {kind.stdout.strip()} by this user: {error.strerror}")
