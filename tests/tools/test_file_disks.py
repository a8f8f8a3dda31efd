"""Disks that are full, fill up, cannot be written, or on which one is not welcome: the old file stays."""

import os
import subprocess
import sys

import pytest
from tests.settings_for_tests import NEVER_SHORT
from tests.tools.trees import Place, message, succeeded, tree

from custody.changes import UndoStore, carry_out, file_at
from custody.files import Target
from custody.journal import MemoryDisk


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.tools.trees import Place

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Place(Path(sys.argv[1])).open() as runtime:
    content = "new" * 1_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    replaced = runtime.call("file_write", {"path": "file", "content": content})
    added = runtime.call("file_write", {"path": "log", "content": content, "append": True})
    made = runtime.call("file_write", {"path": "a/b/new", "content": content})
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(*(call.outcome for call in (replaced, added, made)))
"""


def test_a_write_that_breaks_off_in_the_middle_leaves_everything_as_it_was(place):
    """RLIMIT_FSIZE: real writes that come half the way and then fail with EFBIG."""
    (place.work / "file").write_text("old")
    (place.work / "log").write_text("old")
    before = tree(place.work)
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, place.work.parent, os.getcwd()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    assert tree(place.work) == before
    assert "succeeded" not in said.stdout


@pytest.fixture
def small_disk(mounted):
    return mounted("tmpfs", "size=3m")


def test_where_there_is_no_room_the_refusal_says_how_much_there_is(place, small_disk):
    (small_disk / "file").write_text("old")
    before = tree(small_disk)
    with place.open(roots=[os.fspath(small_disk)]) as runtime:
        path = os.fspath(small_disk / "file")
        for arguments in (
            {"path": path, "content": "x" * 4_000_000},
            {"path": path, "content": "x" * 4_000_000, "append": True},
            {"path": f"{path}2", "content": "x" * 4_000_000},
        ):
            said = message(runtime.call("file_write", arguments))
            assert "no room" in said and "4000000" in said
            assert message(runtime.call("file_write", arguments, dry_run=True)) == said
        assert tree(small_disk) == before
        succeeded(runtime.call("file_write", {"path": path, "content": "x" * 1_000_000}))


def test_a_disk_that_fills_up_during_the_write_leaves_the_old_file(place, small_disk):
    (small_disk / "file").write_text("old")
    before = tree(small_disk)
    ballast = small_disk / "ballast"

    def content():
        yield b"new" * 100_000
        with ballast.open("wb") as file:
            file.write(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
        yield b"new" * 100_000

    undo = UndoStore(MemoryDisk())
    with pytest.raises(OSError, match="No space left"):
        carry_out(undo, b"12345678", [file_at(Target(os.fspath(small_disk), "file"), content)], roots=())
    ballast.unlink()
    after = tree(small_disk)
    assert after.pop(b".")["mode"] == before.pop(b".")["mode"]
    assert after == before
    assert list(undo.call_ids()) == []


def test_on_a_disk_that_cannot_be_written_the_write_fails_and_says_so(place, small_disk):
    (small_disk / "file").write_text("old")
    before = tree(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", os.fspath(small_disk)], check=True)
    with place.open(roots=[os.fspath(small_disk)]) as runtime:
        for name in ("file", "new", "a/b"):
            call = runtime.call("file_write", {"path": os.fspath(small_disk / name), "content": "x"})
            assert "Read-only file system" in message(call)
    assert tree(small_disk) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(place):
    (place.work / "closed").mkdir(mode=0o555)
    with place.open() as runtime:
        said = message(runtime.call("file_write", {"path": "closed/a", "content": "x"}))
    assert "Permission denied" in said and "closed" in said


def test_old_content_beyond_what_is_kept_of_a_call_is_refused_with_the_setting(place, monkeypatch, tmp_path):
    settings = tmp_path / "config" / "custody" / "custody.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(NEVER_SHORT + "\n[undo]\ncall_bytes_max = 1000\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    (place.work / "large").write_text("x" * 1001)
    before = tree(place.work)
    with place.open() as runtime:
        call = runtime.call("file_write", {"path": "large", "content": "y"})
        assert "call_bytes_max" in message(call) and "1000" in message(call)
        assert runtime.call("file_write", {"path": "large", "content": "y"}, dry_run=True).outcome == "failed"
        assert tree(place.work) == before
        succeeded(runtime.call("file_write", {"path": "large", "content": "y", "append": True}))
