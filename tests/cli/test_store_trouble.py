"""A store that cannot be used: a sentence with what to do, the right exit code, nothing run, nothing lost."""

import os
import struct
import subprocess
from pathlib import Path

import pytest
from google_crc32c import extend

SEGMENT_HEADER_BYTES = struct.calcsize("<8sHHIIQ16s16sI")


def first_segment(store: Path) -> Path:
    return next(iter(sorted(store.glob("journal/*/*.seg"))))


def make_newer(segment: Path) -> None:
    """Rewrite a segment's header as a later format would have it, checksum included."""
    data = bytearray(segment.read_bytes())
    struct.pack_into("<H", data, 8, 99)
    body = bytes(data[: SEGMENT_HEADER_BYTES - 4])
    struct.pack_into("<I", data, SEGMENT_HEADER_BYTES - 4, extend(0, body))
    segment.write_bytes(data)


def test_a_store_of_a_newer_format_is_refused_and_left_alone(custody):
    custody("exec", "--", "true")
    segment = first_segment(custody.store)
    make_newer(segment)
    before = segment.read_bytes()
    marker = custody.work / "marker"
    ran = custody("exec", "--", "touch", str(marker))
    assert ran.code == 125
    assert "format 99" in ran.err
    assert custody("exec", "--json", "--", "touch", str(marker)).json["error"]["type"] == "StoreTooNew"
    assert not marker.exists()
    (custody.store / "index.db").unlink(missing_ok=True)
    assert custody("runs").code == 2
    assert segment.read_bytes() == before


def test_damage_before_the_end_is_named_after_what_can_still_be_shown(custody):
    for number in range(3):
        custody("exec", "--", "echo", f"word-{number}")
    segment = first_segment(custody.store)
    data = bytearray(segment.read_bytes())
    at = data.index(b"word-1")
    data[at] ^= 0xFF
    segment.write_bytes(data)
    for file in custody.store.glob("index.db*"):
        file.unlink()
    ran = custody("calls")
    assert ran.code == 1
    assert "word-0" in ran.out
    assert "word-2" not in ran.out
    assert "custody: The journal is damaged" in ran.err
    assert "shard 1" in ran.err
    assert "Traceback" not in ran.err


def test_a_folder_that_is_no_store_yet_becomes_one_when_it_is_written(custody):
    custody.store.mkdir()
    ran = custody("runs")
    assert (ran.code, ran.out, ran.err) == (0, "", "custody: no runs.\n")
    assert custody("exec", "--", "true").code == 0


def test_below_a_file_there_is_no_store(custody):
    (custody.folder / "file").write_text("")
    ran = custody("exec", "--store", str(custody.folder / "file" / "store"), "--", "true")
    assert ran.code == 125
    assert "is not a folder" in ran.err
    assert "--store" in ran.err


def readonly(folder: Path) -> bool:
    """Whether a folder can be mounted over itself read-only here, in a mount namespace of its own."""
    probe = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    return subprocess.run(["unshare", "-m", "sh", "-c", probe], capture_output=True).returncode == 0


def test_a_store_that_can_only_be_read_is_read_and_runs_nothing(custody):
    call = custody("exec", "--json", "--", "true").json
    if not readonly(custody.store):
        pytest.skip("this machine does not let the test mount a folder read-only")
    store, marker = custody.store, custody.work / "marker"

    def inside(*arguments: str) -> subprocess.CompletedProcess[str]:
        mount = f'mount --bind {store} {store} && mount -o remount,bind,ro {store} && exec "$@"'
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, "sh", *custody.command(*arguments)],
            capture_output=True, text=True, cwd=custody.work, env=custody.environment, timeout=60,
        )  # fmt: skip

    shown = inside("show", call["id"])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert call["id"] in shown.stdout
    ran = inside("exec", "--", "touch", str(marker))
    assert ran.returncode == 125
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("custody: ")
    assert inside("exec", "--json", "--", "touch", str(marker)).returncode in (2, 5)
    assert not marker.exists()
    assert inside("doctor").returncode == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said_so(custody):
    custody.store.mkdir(mode=0o500)
    ran = custody("exec", "--", "true")
    assert ran.code == 125
    assert "cannot be written by this user" in ran.err


def test_on_a_full_disk_nothing_runs_and_the_exit_code_is_5(custody):
    tiny = custody.folder / "tiny"
    tiny.mkdir()
    mount = f'mount -t tmpfs -o size=64k tmpfs {tiny} && exec "$@"'
    probe = subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("this machine does not let the test mount a small file system")
    marker = custody.work / "marker"
    command = ["unshare", "-m", "sh", "-c", mount, "sh"]
    for json, code in (("--json", 5), ("--dry-run", 125)):
        arguments = ("exec", "--store", str(tiny / "store"), json, "--", "touch", str(marker))
        ran = subprocess.run(
            [*command, *custody.command(*arguments)],
            capture_output=True, text=True, cwd=custody.work, env=custody.environment, timeout=60,
        )  # fmt: skip
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr
    assert not marker.exists()
