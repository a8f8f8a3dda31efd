"""When checkpoints are made beside a program, and that nothing about them disturbs it."""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints.conftest import (
    PATIENCE_SECONDS,
    SETTINGS,
    MakeWriter,
    Writer,
    events_of,
    judge,
    leaves_of,
    log_of,
)
from tests.sandbox.commands import deadlines, is_alive

from custody.checkpoints import background as sealing_beside
from custody.checkpoints import destinations as delivery
from custody.checkpoints.background import CLOSE_LOCK_SECONDS, BackgroundSealing, Due, is_recent
from custody.checkpoints.destinations import Destinations
from custody.journal import Disk, MemoryDisk, RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk

NEVER = 3600.0
BUSY_SECONDS = 20.0  # what a machine that is busy with other tests may add
FLUSHING = replace(SETTINGS, flush_seconds=0.001)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way at the end has time, however busy the machine is."""
    monkeypatch.setattr(sealing_beside, "STOP_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(sealing_beside, "CLOSE_LOCK_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(delivery, "COMMAND_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(Destinations.stop, "__defaults__", (PATIENCE_SECONDS,))


def background(writer: Writer, *files: str, **due: Any) -> BackgroundSealing:
    destinations = Destinations(writer.disk, files, ())
    return BackgroundSealing(writer.disk, writer.journal, writer.say, Due(**due), destinations)


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not what():
        assert time.monotonic() < end, "it did not happen"
        pause.wait(0.005)


def said_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """By Custody: what else of this process logs, while it cleans up, is about another test."""
    return [record.message for record in caplog.records if record.name == "custody"]


def test_so_many_records_are_signed_without_waiting_for_the_time(writer_on: MakeWriter):
    writer = writer_on(MemoryDisk(), settings=FLUSHING)
    sealing = background(writer, records=50, seconds=NEVER)
    writer.write(60)
    until(lambda: bool(log_of(writer.disk).notes))
    sealing.stop()
    writer.journal.close()
    assert judge(writer.disk) == []


def test_after_so_much_time_the_few_there_are_are_signed(writer_on: MakeWriter):
    writer = writer_on(MemoryDisk(), settings=FLUSHING)
    sealing = background(writer, records=1_000_000, seconds=0.05)
    made = 0
    for _ in range(2):
        writer.write(3)
        last = writer.journal.last_sequence(1)
        until(lambda last=last: signed(writer) >= last)
        assert len(log_of(writer.disk).notes) > made
        made = len(log_of(writer.disk).notes)
    sealing.stop()


def signed(writer: Writer) -> int:
    """Up to which record of the first shard."""
    notes = log_of(writer.disk).notes
    return notes[-1].checkpoint.heads[1].size if notes else 0


def test_with_nothing_new_there_is_no_thread_and_no_checkpoint(writer_on: MakeWriter):
    writer = writer_on(MemoryDisk(), settings=FLUSHING)
    before = set(threading.enumerate())
    sealing = background(writer, records=1, seconds=0.001)
    assert set(threading.enumerate()) <= before
    sealing.stop()
    assert log_of(writer.disk).notes == []
    assert writer.said == []


def test_what_the_last_writer_left_is_signed_although_nothing_is_recorded(writer_on: MakeWriter):
    disk = MemoryDisk()
    before = writer_on(disk)
    before.write(5)
    before.journal.close()
    writer = writer_on(disk)
    writer.journal.lease()
    sealing = background(writer, seconds=0.01)
    until(lambda: bool(log_of(disk).notes))
    sealing.stop()
    writer.journal.close()
    assert judge(disk) == []


def test_at_the_close_the_rest_is_signed(writer_on: MakeWriter):
    writer = writer_on(MemoryDisk())
    sealing = background(writer, seconds=NEVER)
    writer.write(30)
    sealing.stop()
    writer.journal.close()
    assert log_of(writer.disk).notes[-1].checkpoint.heads[1].size == len(leaves_of(writer.disk)[1])


def test_a_thousand_commands_one_after_the_other_leave_one_checkpoint(tmp_path: Path, writer_on: MakeWriter):
    disk = RealDisk(tmp_path / "store")
    for _ in range(30):
        writer = writer_on(disk)
        sealing = background(writer, seconds=NEVER, always_at_close=False)
        writer.write(3)
        sealing.stop()
        writer.journal.close()
    assert len(log_of(disk).notes) == 1
    after = writer_on(disk)
    after.write()
    after.seal()
    assert judge(disk) == []


def test_a_checkpoint_of_the_future_is_not_taken_for_a_recent_one(writer_on: MakeWriter):
    writer = writer_on(MemoryDisk())
    writer.write()
    writer.seal()
    note = log_of(writer.disk).notes[0]
    later = replace_time(note, "2999-01-01T00:00:00.000000Z")
    assert is_recent(note, 3600)
    assert not is_recent(note, 0)
    assert not is_recent(later, 3600)
    assert not is_recent(None, 3600)


def replace_time(note: Any, moment: str) -> Any:
    import msgspec

    return msgspec.structs.replace(note, checkpoint=msgspec.structs.replace(note.checkpoint, time=moment))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_on_which_nothing_can_be_signed_does_not_disturb_recording(
    code: int, tmp_path: Path, writer_on: MakeWriter, caplog: pytest.LogCaptureFixture
):
    disk = FaultyDisk(RealDisk(tmp_path / "store"))
    writer = writer_on(disk, settings=FLUSHING)
    sealing = background(writer, records=5, seconds=0.01)
    disk.inject(Fault(within="checkpoint", times=None, error=code))
    with caplog.at_level(logging.WARNING, "custody"):
        for _ in range(20):
            writer.write(5)
            writer.journal.sync()
        until(lambda: sealing.failures >= 1)
        writer.write(5)
        disk.heal()
        sealing.stop()
    writer.journal.close()
    assert said_in(caplog) == [f"No checkpoint can be made, recording goes on: {os.strerror(code)}"]
    assert judge(disk) == []
    assert log_of(disk).notes[-1].checkpoint.heads[1].size == len(leaves_of(disk)[1])


def test_a_key_that_is_gone_is_said_once_and_recording_goes_on(
    writer_on: MakeWriter, caplog: pytest.LogCaptureFixture
):
    disk = MemoryDisk()
    writer = writer_on(disk)
    writer.write()
    writer.seal()
    writer.journal.close()
    disk.remove("keys/checkpoint.key")
    after = writer_on(disk, settings=FLUSHING)
    sealing = background(after, records=1, seconds=0.001)
    with caplog.at_level(logging.WARNING, "custody"):
        for _ in range(5):
            after.write()
            after.journal.sync()
        sealing.stop()
    assert sealing.failures >= 1
    [said] = said_in(caplog)
    assert "The key that signs checkpoints is gone" in said
    assert len(leaves_of(disk)[1]) >= 5


def test_another_process_that_signs_all_the_time_does_not_hold_up_the_close(
    writer_on: MakeWriter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sealing_beside, "CLOSE_LOCK_SECONDS", CLOSE_LOCK_SECONDS)
    disk = MemoryDisk()
    disk.make_folder("checkpoints")
    lock = disk.lock("checkpoints/lock")
    assert lock is not None
    writer = writer_on(disk, settings=FLUSHING)
    sealing = background(writer, records=1, seconds=0.001)
    writer.write(5)
    began = time.monotonic()
    sealing.stop()  # whoever waits for the right to sign waits for ever
    assert time.monotonic() - began < CLOSE_LOCK_SECONDS + BUSY_SECONDS
    assert log_of(disk).notes == []
    lock.release()


def test_a_forked_child_signs_its_own_shard_and_the_parent_is_undisturbed(
    tmp_path: Path, writer_on: MakeWriter
):
    disk = RealDisk(tmp_path / "store")
    writer = writer_on(disk, settings=FLUSHING)
    sealing = background(writer, records=10, seconds=NEVER)
    writer.write(20)
    until(lambda: bool(log_of(disk).notes))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            writer.write(15)
            until(lambda: 2 in log_of(disk).notes[-1].checkpoint.heads)
            sealing.stop()
            writer.journal.close()
            code = 0
        finally:
            os._exit(code)
    writer.write(20)
    assert os.waitpid(child, 0)[1] == 0
    sealing.stop()
    writer.journal.close()
    assert judge(disk) == []
    sizes = {shard: head.size for shard, head in log_of(disk).notes[-1].checkpoint.heads.items()}
    assert sizes == {shard: len(leaves) for shard, leaves in leaves_of(disk).items()}


# -- places besides the store ---------------------------------------------------------------------------


def delivering(disk: Disk, files: list[str], commands: list[list[str]]) -> Destinations:
    return Destinations(disk, files, commands)


def test_each_checkpoint_is_added_to_the_files_that_are_named(tmp_path: Path, writer_on: MakeWriter):
    kept = tmp_path / "kept.log"
    writer = writer_on(RealDisk(tmp_path / "store"))
    sealing = background(writer, str(kept), seconds=NEVER, records=5)
    for _ in range(3):
        writer.write(6)
        writer.journal.sync()
        until(lambda: sealing.sealer.made == len(log_of(writer.disk).notes))
    sealing.stop()
    assert kept.read_bytes() == writer.disk.read_all("checkpoints/log")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_command_gets_the_note_on_its_standard_input(tmp_path: Path, writer_on: MakeWriter):
    writer = writer_on(RealDisk(tmp_path / "store"))
    writer.write()
    note = writer.sealer.seal()
    assert note is not None
    target = tmp_path / "got"
    destinations = delivering(writer.disk, [], [["sh", "-c", f"cat > {target}"]])
    destinations.offer(note)
    destinations.stop(PATIENCE_SECONDS)
    assert target.read_bytes() == note.data
    assert destinations.unsaid() is None
    assert destinations.have(note)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["false"], "exit code 1"),
        (["custody-no-such-command"], "custody-no-such-command"),
        (["sh", "-c", "kill -9 $$"], "signal 9"),
    ],
)
def test_a_command_that_fails_is_counted_and_said_once(
    command: list[str], why: str, tmp_path: Path, writer_on: MakeWriter, caplog: pytest.LogCaptureFixture
):
    writer = writer_on(RealDisk(tmp_path / "store"))
    destinations = delivering(writer.disk, [], [command])
    with caplog.at_level(logging.WARNING, "custody"):
        for _ in range(2):
            writer.write()
            note = writer.sealer.seal()
            assert note is not None
            destinations.offer(note)
        destinations.stop(PATIENCE_SECONDS)
    assert len(said_in(caplog)) == 1
    said = destinations.unsaid()
    assert said is not None
    assert said["undelivered"][0]["count"] == 2
    assert why in said["undelivered"][0]["error"].lower()
    assert said["undelivered"][0]["to"] == f"command 1: {command[0]}"
    assert destinations.unsaid() is None


def test_a_command_that_hangs_holds_up_nobody_and_its_tree_is_ended_with_it(
    tmp_path: Path, writer_on: MakeWriter, monkeypatch: pytest.MonkeyPatch
):
    gate, mark = tmp_path / "gate", tmp_path / "pid"
    os.mkfifo(gate)
    writer = writer_on(RealDisk(tmp_path / "store"))
    writer.write()
    note = writer.sealer.seal()
    assert note is not None
    destinations = delivering(writer.disk, [], [["cat", str(gate)]])
    destinations.offer(note)
    gate.write_bytes(b"")  # until now it hung
    destinations.stop(PATIENCE_SECONDS)
    assert destinations.have(note)

    for seconds in deadlines(1.0):
        monkeypatch.setattr(delivery, "COMMAND_SECONDS", seconds)
        destinations = delivering(writer.disk, [], [["sh", "-c", f"sleep 600 & echo $! > {mark}; wait"]])
        destinations.offer(note)
        destinations.stop(seconds + PATIENCE_SECONDS)
        said = destinations.unsaid()
        assert said is not None
        assert said["undelivered"][0]["error"] == f"ended after {seconds:g} s"
        if mark.exists() and mark.read_text().endswith("\n"):
            break
    child = int(mark.read_text())
    until(lambda: not is_alive(child))


def test_what_did_not_arrive_is_on_the_record_and_asks_for_no_checkpoint_of_its_own(
    tmp_path: Path, writer_on: MakeWriter
):
    disk = RealDisk(tmp_path / "store")
    writer = writer_on(disk, settings=FLUSHING)
    missing = str(tmp_path / "missing" / "kept.log")
    sealing = background(writer, missing, seconds=0.02)
    writer.write()
    until(lambda: sealing.destinations.arrivals.get(missing) is not None)
    made = sealing.sealer.made
    threading.Event().wait(0.2)  # ten times as long as a checkpoint would take
    assert sealing.sealer.made == made
    writer.write()
    until(lambda: bool(events_of(disk, "checkpoint.undelivered")))
    sealing.stop()
    [first, *_] = events_of(disk, "checkpoint.undelivered")
    assert first["undelivered"][0]["to"] == missing
    assert judge(disk) == []


def test_more_than_can_wait_gives_way_to_the_newest_and_is_counted(tmp_path: Path, writer_on: MakeWriter):
    from custody.checkpoints.destinations import WAITING_MAX

    writer = writer_on(RealDisk(tmp_path / "store"))
    gate, kept = tmp_path / "gate", tmp_path / "kept"
    os.mkfifo(gate)
    writer.write()
    note = writer.sealer.seal()
    assert note is not None
    destinations = delivering(writer.disk, [], [["sh", "-c", f"read line < {gate}; cat >> {kept}"]])
    beyond = 5
    keeper = os.open(gate, os.O_RDWR)
    try:
        for _ in range(1 + WAITING_MAX + beyond):  # one is on its way, and so many may wait
            destinations.offer(note)
        destinations.stop(0.1)
        said = destinations.unsaid()
        assert said is not None
        assert said["undelivered"][0]["count"] == 1 + WAITING_MAX + beyond
        os.write(keeper, b"open\n")
        destinations.stop()  # the one on its way ends in this test, and not in another one's log
    finally:
        os.close(keeper)
