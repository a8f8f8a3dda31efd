"""Installing on a disk that fills up, under real kills, and from several processes at once."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.skills.installing import hidden, is_sound, judged, locked, make_skill, seen, shelf_of

from custody.errors import ToolError
from custody.skills.install import place, recover, remove
from custody.skills.lock import read_lock
from custody.skills.transaction import WRITER_LOCK

pytestmark = pytest.mark.long

KILLS = 25
KILLS_MAX = 40 * KILLS
"""Until each version was met where it was killed."""

WAIT_SECONDS = 30

INSTALLS = """
import itertools, os, sys
from custody.skills import Root, Shelf
from custody.skills.install import judge, place
from custody.skills.skill import Source
from custody.skills.staging import Fetched

root, *sources = sys.argv[1:]
shelf = Shelf(roots=(Root(path=root, kind="given"),), install_root=root, trust_file=root + ".trust.json")
skills = [
    judge(Fetched(path=source, kind="folder", natural_name=os.path.basename(source),
                  source=Source(kind="local", location="somewhere")), shelf, 0)
    for source in sources
]
print("ready", flush=True)
for skill in itertools.cycle(skills) if sys.stdin.readline().strip() == "for ever" else skills:
    place(skill, root, replace=True)
    print("placed", flush=True)
"""


def installing(root: Path, *sources: Path, how: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", INSTALLS, os.fspath(root), *map(os.fspath, sources)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write(f"{how}\n")
    child.stdin.flush()
    return child


def test_whenever_it_is_killed_one_version_stands_with_its_lock(tmp_path: Path):
    root = tmp_path / "skills"
    versions = [make_skill(tmp_path / str(each), "pdf", f"version {each}", extra="x") for each in range(2)]
    place(judged(make_skill(tmp_path, "word"), shelf_of(root)), os.fspath(root))
    moments = random.Random(7)
    met: set[str] = set()
    kills = 0
    while kills < KILLS or len(met) < 2:
        assert kills < KILLS_MAX, "one version alone was ever met"
        child = installing(root, *versions, how="for ever")
        assert child.stdout is not None
        for _ in range(kills % 3):  # so far it gets on a busy machine as well
            assert child.stdout.readline() == "placed\n"
        try:
            child.wait(moments.random() / 25)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        kills += 1
        assert child.wait(WAIT_SECONDS) == -signal.SIGKILL
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            stream.close()
        recover(os.fspath(root))
        assert hidden(root) in ([], [WRITER_LOCK])
        assert is_sound(root)
        assert "word" in locked(root)
        met |= {digest for path, digest in locked(root).items() if path == "pdf"}


def test_processes_that_install_at_once_lose_nothing(tmp_path: Path):
    root = tmp_path / "skills"
    root.mkdir()
    sources = [[make_skill(tmp_path / f"{a}{b}", f"skill-{a}{b}") for b in "abcde"] for a in "abc"]
    children = [installing(root, *each, how="once") for each in sources]
    for child in children:
        child.communicate(timeout=WAIT_SECONDS)
        assert child.returncode == 0
    assert len(locked(root)) == 15
    assert is_sound(root)
    assert hidden(root) == []


def test_a_disk_that_is_full_at_any_step_leaves_what_there_was(tmp_path: Path, mounted: Callable[..., Path]):
    disk = mounted("tmpfs", "size=256k")
    root = disk / "skills"
    old = make_skill(tmp_path / "old", "pdf", "the old way")
    new = judged(make_skill(tmp_path / "new", "pdf", "x" * 20_000, more="y" * 20_000), shelf_of(root))
    place(judged(old, shelf_of(root)), os.fspath(root))
    before = seen(root)
    room = os.statvfs(disk)
    for blocks in range(40):
        filler = disk / "filler"
        filler.write_bytes(b"")
        free = os.statvfs(disk).f_bavail - blocks
        if free > 0:
            filler.write_bytes(bytes(free * room.f_frsize))
        try:
            place(new, os.fspath(root), replace=True)
        except ToolError as error:
            assert "No space left" in str(error)  # noqa: PT017 - with enough room it is right not to raise
            assert seen(root) == before
            assert hidden(root) == []
            continue
        assert locked(root) == {"pdf": new.tree.digest}
        break
    else:
        pytest.fail("it never had enough room")
    assert blocks > 5
    assert is_sound(root)


def test_a_removal_that_cannot_be_kept_on_a_full_disk_leaves_what_there_was(
    tmp_path: Path, mounted: Callable[..., Path]
):
    disk = mounted("tmpfs", "size=256k")
    root = disk / "skills"
    for name in ("pdf", "word"):
        place(judged(make_skill(tmp_path / name, name), shelf_of(root)), os.fspath(root))
    before = seen(root)
    (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    with pytest.raises(ToolError, match="No space left"):
        remove(os.fspath(root), "pdf")
    assert seen(root) == before
    (disk / "filler").unlink()
    remove(os.fspath(root), "pdf")
    assert list(locked(root)) == ["word"]
    assert read_lock(os.fspath(root)) is not None
