"""Fixtures of the tests of `files`: folders held open, small file systems, and work as an ordinary user."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.conftest import Mounted
from tests.sandbox.commands import eventually

NOBODY = 65534
_T = TypeVar("_T")


@pytest.fixture
def folder_fd(tmp_path: Path) -> Iterator[int]:
    """The test's own folder."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@contextmanager
def leaving_nothing_open() -> Iterator[None]:
    """At its end every descriptor is one that was there before.

    What others in this process have open, they may close meanwhile; what they open, they do not keep.
    """
    before = _descriptors()
    yield
    eventually(lambda: _descriptors() <= before)


def _descriptors() -> set[tuple[str, str]]:
    """Number and target of each."""
    found: set[tuple[str, str]] = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def as_ordinary_user(work: Callable[[], _T]) -> _T:
    """What `work` returns when an ordinary user does it: for root, in a thread that has given that up.

    Such a user owns nothing of root's and may not go through its folders; what `work` needs is held open.
    """
    if os.geteuid() != 0:
        return work()
    answers: list[Any] = []

    def run() -> None:
        libc = ctypes.CDLL(None)
        groups = (ctypes.c_int * 1)(NOBODY)
        assert libc.syscall(SETGROUPS[os.uname().machine], 1, groups) == 0  # of this thread alone
        libc.setfsgid(NOBODY)
        libc.setfsuid(NOBODY)
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
        assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0
        try:
            answers.append((True, work()))
        except BaseException as error:
            answers.append((False, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    succeeded, answer = answers[0]
    if not succeeded:
        raise answer
    return answer


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user of the machine may enter, as those of pytest may not."""
    folder = Path(os.path.realpath(tempfile.mkdtemp()))
    folder.chmod(0o755)
    yield folder
    for below in folder.iterdir():
        below.chmod(0o700)
    shutil.rmtree(folder)


SETGROUPS = {"x86_64": 116, "aarch64": 159}
CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3"""


def give_to_ordinary_user(*paths: Path) -> None:
    """Have `as_ordinary_user` own these."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@pytest.fixture
def lenient(tmp_path: Path, mounted: Mounted) -> Path:
    """A folder of a file system that tells no case."""
    ways = [
        (["mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8"], "ext4", 16),
        (["mkfs.vfat"], "vfat", 16),
        (["mkfs.xfs", "-q", "-n", "version=ci"], "xfs", 320),
    ]
    missing: list[str] = []
    for command, kind, megabytes in ways:
        if shutil.which(command[0]) is None:
            missing.append(command[0])
            continue
        image = tmp_path / f"{kind}.image"
        with image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        subprocess.run([*command, str(image)], check=True, capture_output=True)
        try:
            place = mounted(kind, "loop", image)
        except pytest.skip.Exception as refusal:
            missing.append(f"{kind} ({refusal.msg})")
            continue
        folder = place / "folder"
        folder.mkdir()
        if kind == "ext4":
            subprocess.run(["chattr", "+F", str(folder)], check=True)
        return folder
    pytest.skip(f"no file system that tells no case: missing {', '.join(missing)}")
