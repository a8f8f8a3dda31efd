"""Somebody swaps folders, files and links on the way of a path while it is opened: nobody gets outside.

A process of its own swaps as fast as it can. Every file outside the root says so, and so does every file
inside; whoever opens tells by what it reads where it got. A plain open(2) gets out in the same harness.
"""

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.files.test_beneath import needs_openat2

from custody.errors import PathRefused
from custody.files import Reach, beneath, load_protected

QUICK_TRIES = 3_000
PLAIN_TRIES = 10_000  # a plain open gets out now and then alone
LONG_TRIES = 100_000
SEEN_WITHIN_SECONDS = 60.0
"""The swapper is a process of its own, which others may keep from working while this one opens."""

PATHS = ("folder/file", "swapped", "moving/sub/../../swapped", "folder/../folder/file")

SWAPPER = r"""
import ctypes, itertools, os, sys
root, outside = sys.argv[1:]
exchange = ctypes.CDLL(None, use_errno=True).renameat2
exchange.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
fd = os.open(root, os.O_RDONLY)
def swap(a, b):
    if exchange(fd, a, fd, b, 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")
print("ready", flush=True)
parent = os.getppid()
for count in itertools.count():
    which = b"012"[count % 3 : count % 3 + 1]
    swap(b"folder", b"folder" + which)
    swap(b"swapped", b"swapped" + which)
    if count % 2:
        os.rename(root + "/moving/sub", outside + "/sub")
    else:
        try:
            os.rename(outside + "/sub", root + "/moving/sub")
        except FileNotFoundError:
            pass
    if os.getppid() != parent:
        break
"""

Opener = Callable[[str], int]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root in which everything is being swapped."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "folder").mkdir(parents=True)
    (root / "moving/sub").mkdir(parents=True)
    outside.mkdir()
    for inside in (root / "folder/file", root / "swapped"):
        inside.write_text("inside")
    for out in (outside / "file", tmp_path / "swapped", tmp_path / "file"):
        out.write_text("outside")
    for number, target in enumerate(("../outside", str(outside), "moving/../../outside")):
        (root / f"folder{number}").symlink_to(target)
        (root / f"swapped{number}").symlink_to(f"{target}/file")
    swapper = subprocess.Popen(
        [sys.executable, "-I", "-c", SWAPPER, str(root), str(outside)], stdout=subprocess.PIPE
    )
    assert swapper.stdout is not None
    try:
        assert swapper.stdout.readline() == b"ready\n"
        yield root
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.wait()
        swapper.stdout.close()


def opener(way: str, root: Path) -> Opener:
    if way == "reach":
        reach = Reach(str(root), (str(root),), load_protected([]))
        return lambda path: reach.open(path).fd
    if way == "plain":
        return lambda path: os.open(f"{root}/{path}", os.O_RDONLY)
    function = beneath.by_kernel if way == "by the kernel" else beneath.by_walk

    def opened(path: str) -> int:
        fd = os.open(root, os.O_PATH)
        try:
            return function(fd, path, os.O_RDONLY, links=True)
        finally:
            os.close(fd)

    return opened


def reached(open_path: Opener, tries: int, *, at_least: Mapping[str, int]) -> Counter[str]:
    """How often an open got where; at least so many tries, more until each answer has come so often."""
    answers: Counter[str] = Counter()
    until = time.monotonic() + SEEN_WITHIN_SECONDS
    for count in itertools.count():
        if count >= tries and (
            all(answers[answer] >= often for answer, often in at_least.items()) or time.monotonic() > until
        ):
            break
        try:
            fd = open_path(PATHS[count % len(PATHS)])
        except (OSError, PathRefused):
            answers["refused"] += 1
            continue
        try:
            answers[os.read(fd, 16).decode()] += 1
        finally:
            os.close(fd)
    return answers


SWAPPED = {"inside": 1, "refused": 1}
"""What comes up once the swapper was seen at work."""

WAYS = [pytest.param("by the kernel", marks=needs_openat2), "by a walk", "reach"]


@pytest.mark.parametrize("way", WAYS)
def test_nobody_gets_out_while_the_way_is_swapped(root: Path, way: str):
    answers = reached(opener(way, root), QUICK_TRIES, at_least=SWAPPED)
    assert answers["outside"] == 0
    assert answers["inside"] > 0
    assert answers["refused"] > 0


def test_a_plain_open_gets_out_in_the_same_harness(root: Path):
    assert reached(opener("plain", root), PLAIN_TRIES, at_least={"outside": 1})["outside"] > 0


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_nobody_gets_out_in_a_hundred_thousand_tries(root: Path, way: str):
    answers = reached(opener(way, root), LONG_TRIES, at_least=SWAPPED)
    assert answers["outside"] == 0
    assert answers["inside"] > 0
    assert answers["refused"] > 0


@pytest.mark.long
def test_a_plain_open_gets_out_many_times_in_a_hundred_thousand_tries(root: Path):
    many = LONG_TRIES // 100
    assert reached(opener("plain", root), LONG_TRIES, at_least={"outside": many + 1})["outside"] > many
