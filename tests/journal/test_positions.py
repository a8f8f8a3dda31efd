"""Shared runs: one order of positions over all processes, whatever dies when."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from custody.errors import NotRecorded
from custody.journal import Journal, Receipt
from custody.journal.disk import Disk, RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.journal.positions import position_in
from custody.records import Kind, Redacted, Step, encode_leaf

OpenJournal = Callable[..., Journal]
RUN = bytes(range(16))


def taker(journal: Journal, run_id: bytes = RUN) -> Callable[[int], Receipt]:
    def append(position: int) -> Receipt:
        leaf = Step(step_id=b"12345678", run_id=run_id, at_us=1, payload_digest=b"", position=position)
        return journal.append(Kind.STEP, encode_leaf(leaf), Redacted(b""))

    return append


def take(journal: Journal, run_id: bytes = RUN) -> Receipt:
    return journal.positions(run_id).take(taker(journal, run_id))


def still_open(run_id: bytes) -> bool:
    return True


def positions(journal: Journal, run_id: bytes = RUN) -> list[int]:
    found = (position_in(run_id, stored) for stored in journal.follow())
    return sorted(position for position in found if position is not None)


def test_positions_count_from_zero_in_every_run(disk: Disk, open_journal: OpenJournal) -> None:
    journal, other_run = open_journal(disk), bytes(16)
    assert not journal.shared_exists(RUN)
    journal.create_shared(RUN)
    journal.create_shared(other_run)
    assert journal.shared_exists(RUN)
    for _ in range(5):
        take(journal)
    take(journal, other_run)
    assert positions(journal) == [0, 1, 2, 3, 4]
    assert positions(journal, other_run) == [0]


def test_threads_and_journals_share_one_order(disk: Disk, open_journal: OpenJournal) -> None:
    journals = [open_journal(disk), open_journal(disk)]
    journals[0].create_shared(RUN)
    threads = [
        threading.Thread(target=lambda journal=journal: [take(journal) for _ in range(10)])
        for journal in journals * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert positions(journals[0]) == list(range(40))


def test_a_position_whose_record_was_refused_is_given_out_again(
    disk: Disk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk)
    journal.create_shared(RUN)
    take(journal)

    def refuse(position: int) -> Receipt:
        raise NotRecorded

    with pytest.raises(NotRecorded):
        journal.positions(RUN).take(refuse)
    take(journal)
    assert positions(journal) == [0, 1]


def test_a_writer_that_dies_behind_its_record_has_used_its_position(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk)
    journal.create_shared(RUN)
    take(journal)
    disk.inject(Fault(operation="put", at=2, within="shared/"))
    with pytest.raises(NotRecorded):
        take(journal)
    take(journal)
    assert positions(journal) == [0, 1, 2]


def test_a_writer_that_dies_before_its_record_has_not(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk)
    journal.create_shared(RUN)
    disk.inject(Fault(operation="put", at=1, within="shared/"))
    with pytest.raises(NotRecorded):
        take(journal)
    take(journal)
    assert positions(journal) == [0]


def test_after_a_reboot_positions_are_counted_on_the_record(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    disk = RealDisk(tmp_path)
    journal = open_journal(disk, boot_id="first")
    journal.create_shared(RUN)
    counter = tmp_path / "journal/shared" / RUN.hex()
    take(journal)
    rolled_back = counter.read_bytes()
    for _ in range(4):
        take(journal)
    journal.close()
    for content in (rolled_back, b"", rolled_back[:20]):
        counter.write_bytes(content)
        again = open_journal(disk, boot_id="second")
        take(again)
        again.close()
    assert positions(journal) == list(range(8))


def test_a_named_run_is_made_once(disk: Disk, open_journal: OpenJournal) -> None:
    journals = [open_journal(disk), open_journal(disk)]
    made: list[bytes] = []
    answers: list[tuple[bytes, bool]] = []

    def create() -> bytes:
        made.append(bytes([len(made)]) * 16)
        return made[-1]

    threads = [
        threading.Thread(
            target=lambda journal=journal: answers.append(journal.named_run("nightly", create, still_open))
        )
        for journal in journals * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [bytes(16)]
    assert sorted(answers) == [(bytes(16), False)] * 5 + [(bytes(16), True)]
    assert journals[0].named_run("another", create, still_open) == (b"\1" * 16, True)


def test_a_name_whose_run_has_finished_stands_for_a_new_one(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    assert journal.named_run("nightly", lambda: RUN, still_open) == (RUN, True)
    assert journal.named_run("nightly", lambda: bytes(16), lambda run_id: run_id != RUN) == (bytes(16), True)
    assert journal.named_run("nightly", lambda: RUN, still_open) == (bytes(16), False)


def test_a_named_run_whose_start_failed_is_made_by_the_next(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)

    def refuse() -> bytes:
        raise NotRecorded

    with pytest.raises(NotRecorded):
        journal.named_run("nightly", refuse, still_open)
    assert journal.named_run("nightly", lambda: RUN, still_open) == (RUN, True)


TAKER = """
import os, sys
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.records import Kind, Redacted, Step, encode_leaf
run, count, die_at = bytes(range(16)), int(sys.argv[2]), int(sys.argv[3])
disk = RealDisk(sys.argv[1])
journal = Journal(disk)
puts = 0
real_open = disk.open
def open_counted(path, **how):
    file = real_open(path, **how)
    if "shared/" in path:
        file = Counted(file)
    return file
def step():
    global puts
    puts += 1
    if puts == die_at:
        os.kill(os.getpid(), 9)
class Counted:
    def __init__(self, file): self.file = file
    def put(self, data, offset):
        step()
        self.file.put(data, offset)
        step()
    def close(self): self.file.close()
disk.open = open_counted
def append(position):
    leaf = Step(step_id=os.urandom(8), run_id=run, at_us=1, payload_digest=b"", position=position)
    return journal.append(Kind.STEP, encode_leaf(leaf), Redacted(b""))
sys.stdin.readline()
for _ in range(count):
    journal.positions(run).take(append)
journal.close()
"""


def start_taker(path: Path, count: int, die_at: int = 0) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, str(path), str(count), str(die_at)], stdin=subprocess.PIPE, text=True
    )


def test_eight_processes_with_25_calls_each_number_them_0_to_199(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    journal = open_journal(RealDisk(tmp_path))
    journal.create_shared(RUN)
    takers = [start_taker(tmp_path, 25) for _ in range(8)]
    for process in takers:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in takers:
        process.communicate(timeout=60)
    assert [process.returncode for process in takers] == [0] * 8
    assert positions(journal) == list(range(200))


def test_a_process_killed_between_any_two_steps_leaves_no_gap_and_no_double(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    journal = open_journal(RealDisk(tmp_path))
    journal.create_shared(RUN)
    takers = [start_taker(tmp_path, 3, die_at) for die_at in range(1, 9)]
    for process in takers:
        process.communicate("go\n", timeout=60)
        assert process.returncode == -9
        take(journal)
    found = positions(journal)
    assert found == list(range(len(found)))
    # A take has four steps, and its record stands between the second and the third.
    assert len(found) == 8 + sum((die_at + 1) // 4 for die_at in range(1, 9))
