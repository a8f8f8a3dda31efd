"""Appending, reopening, rolling over, room, leases and forks, through the journal's one face."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from custody.errors import CorruptJournal, NotRecorded, StoreClosed, StoreTooNew
from custody.journal import Journal, JournalSettings, Receipt, Stored, frames
from custody.journal.disk import Disk, RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk, MemoryFile
from custody.journal.frames import Commit, decode_commit
from custody.journal.segments import SegmentCache, SegmentReader
from custody.journal.tree import Frontier, leaf_hash
from custody.records import Event, Kind, Redacted, RunFinished, decode_leaf, encode_leaf

OpenJournal = Callable[..., Journal]

EMPTY = Redacted(b"")

WAIT_SECONDS = 30


class Interrupted(MemoryDisk):
    """Ctrl-C comes in the middle of the next put into a segment, once it is told to."""

    armed = False

    def open(self, path: str, *, create: bool = False, write: bool = True) -> MemoryFile:
        file = super().open(path, create=create, write=write)
        whole_put = file.put

        def put_then_interrupt(data: bytes, offset: int) -> None:
            whole_put(data, offset)
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt

        file.put = put_then_interrupt  # type: ignore[method-assign]
        return file


def put(journal: Journal, number: int, size: int = 200, **room: int) -> tuple[int, int]:
    receipt = journal.append(Kind.STEP, b"leaf %d" % number, Redacted(bytes([number % 256]) * size), **room)
    return receipt.shard, receipt.sequence


def put_at_once(journal: Journal, size: int) -> Receipt | None:
    return journal.append_at_once(Kind.STEP, b"leaf", Redacted(bytes(size)))


def leaves(journal: Journal, shard: int = 1) -> list[bytes]:
    return [stored.leaf for stored in journal.follow() if stored.shard == shard and stored.kind != Kind.EVENT]


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"leaf %d" % number for number in range(start, start + count)]


def segments(disk: Disk, shard: int = 1) -> list[str]:
    return [name for name in disk.names(f"journal/{shard:04d}") if name.endswith(".seg")]


def commits(disk: Disk, shard: int = 1) -> list[tuple[Stored, Commit]]:
    """The commit frames that count, in order."""
    found: list[tuple[Stored, Commit]] = []
    for segment in SegmentCache(disk).segments(shard):
        if segment.counts:
            assert segment.first is not None
            frames = SegmentReader(disk, segment).frames(64, segment.first.sequence, segment.limit)
            found += [(stored, commit) for stored in frames if (commit := decode_commit(stored)) is not None]
    return found


# -- appending and reopening ----------------------------------------------------------------------------


def test_records_come_back_in_order_with_what_they_held(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    assert [put(journal, number) for number in range(30)] == [(1, number + 1) for number in range(30)]
    found = list(journal.follow())
    assert [stored.sequence for stored in found] == list(range(1, 31))
    assert [stored.leaf for stored in found] == numbered(30)
    assert [stored.payload for stored in found] == [bytes([number]) * 200 for number in range(30)]
    assert {stored.kind for stored in found} == {Kind.STEP}
    assert len(segments(disk)) > 1


def test_a_journal_goes_on_where_the_last_one_was_closed(disk: Disk, open_journal: OpenJournal) -> None:
    for number in range(40):
        journal = open_journal(disk)
        put(journal, number)
        journal.close()
    reader = open_journal(disk)
    assert leaves(reader) == numbered(40)
    assert [state.shard for state in reader.shards()] == [1]


def test_opening_for_reading_writes_nothing(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    assert list(journal.follow()) == []
    assert journal.shards() == []
    journal.sync()
    journal.close()
    assert disk.names("") == []


def test_a_record_is_read_by_its_place(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    for number in range(20):
        put(journal, number)
    for stored in journal.follow():
        assert journal.read(stored.shard, stored.segment, stored.offset) == stored
    with pytest.raises(CorruptJournal):
        journal.read(1, 1, 72)


def test_a_closed_journal_takes_no_record(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    put(journal, 0)
    journal.close()
    journal.close()
    with pytest.raises(StoreClosed):
        put(journal, 1)
    never_opened = open_journal(disk)
    never_opened.close()
    with pytest.raises(StoreClosed):
        put(never_opened, 1)


def test_a_record_that_fits_no_frame_is_the_callers_error(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    with pytest.raises(ValueError, match="blob"):
        put(journal, 0, frames.FRAME_BYTES_MAX)
    assert put(journal, 1, 100_000) == (1, 1)
    assert leaves(journal) == numbered(1, 1)


def test_a_later_format_is_refused_and_left_alone(
    disk: Disk, open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(frames, "FORMAT_VERSION", frames.FORMAT_VERSION + 1)
        journal = open_journal(disk)
        put(journal, 0)
        journal.close()
    before = disk.read_all("journal/0001/00000001.seg")
    with pytest.raises(StoreTooNew):
        put(open_journal(disk), 1)
    with pytest.raises(StoreTooNew):
        list(open_journal(disk).follow())
    assert disk.read_all("journal/0001/00000001.seg") == before


def test_threads_append_without_a_gap(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk, flush_seconds=0.001)
    taken: list[int] = []

    def work(start: int) -> None:
        taken.extend(put(journal, number)[1] for number in range(start, start + 50))

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 201))
    assert len(set(leaves(journal))) == 200


# -- the tree -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("close_every", [1000, 7])
def test_commit_frames_hold_the_tree_over_all_records(
    disk: Disk, open_journal: OpenJournal, close_every: int
) -> None:
    journal = open_journal(disk)
    for number in range(60):
        put(journal, number)
        if number % close_every == close_every - 1:
            journal.close()
            journal = open_journal(disk)
    journal.close()
    frontier, sizes, previous = Frontier(), [], b""
    everything = iter(list(open_journal(disk).follow()))
    for stored, commit in commits(disk):
        while frontier.size < commit.size:
            frontier.add(leaf_hash(next(everything).leaf))
        assert commit.size == stored.sequence - 1
        assert commit.root == frontier.root()
        assert commit.previous == previous
        assert (commit.frontier is not None) == (stored.offset == 64)
        sizes.append(commit.size)
        previous = frames.sha256(stored.leaf)
    assert sizes[-1] == 60
    assert all(later - earlier <= 4 for earlier, later in pairwise(sizes))


def test_opening_a_shard_seals_what_its_last_writer_left_open(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    disk = RealDisk(tmp_path)
    write_and_die(tmp_path, 3)
    assert commits(disk)[-1][1].size == 0
    open_journal(disk).lease()
    assert commits(disk)[-1][1].size == 3


# -- sizes ----------------------------------------------------------------------------------------------


def test_a_store_with_one_record_is_far_below_a_mebibyte(tmp_path: Path) -> None:
    journal = Journal(RealDisk(tmp_path))
    put(journal, 0)
    journal.close()
    assert total_bytes(tmp_path) < 300 * 1024


@pytest.mark.timeout(900)  # thousands of syncs, of a disk that others may keep busy
def test_a_thousand_short_writers_leave_one_small_shard(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    for number in range(1000):
        journal = Journal(disk)
        for _ in range(4):
            put(journal, number, 250)
        journal.close()
    assert os.listdir(tmp_path / "journal") == ["0001"]
    assert total_bytes(tmp_path) < 2.2 * 1024 * 1024
    assert len(leaves(Journal(disk))) == 4000


def test_a_small_call_costs_few_bytes_beside_its_payload(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk, first_segment_bytes=1 << 20, segment_bytes_max=1 << 20, commit_leaves=64)
    for number in range(1000):
        put(journal, number, 300)
    found = list(journal.follow())
    overhead = found[-1].end - 64 - sum(len(stored.leaf) + len(stored.payload) for stored in found)
    assert overhead / len(found) < 40


def test_segments_grow_and_spares_are_gone_after_close(tmp_path: Path) -> None:
    journal = Journal(RealDisk(tmp_path), settings=JournalSettings(fill_pause_seconds=0.0))
    for number in range(3000):
        put(journal, number, 1000)
    journal.close()
    sizes = [path.stat().st_size for path in sorted((tmp_path / "journal/0001").glob("*.seg"))]
    assert sizes == sorted(sizes)
    assert sizes[0] == 256 * 1024
    assert len(sizes) <= 6
    reader = Journal(RealDisk(tmp_path))
    assert list(reader.follow())[-1].segment == len(sizes)


def total_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# -- room -----------------------------------------------------------------------------------------------


def full_disk(disk: FaultyDisk) -> None:
    """No new segment can be made from now on."""
    disk.inject(Fault(operation="create", error=errno.ENOSPC, times=None))


def fill(journal: Journal, **room: int) -> int:
    """Append until refused; how many there were."""
    for number in range(10_000):
        try:
            put(journal, number, **room)
        except NotRecorded:
            return number
    raise AssertionError("a full disk never refused")


def test_what_was_set_aside_for_a_terminal_record_is_there_on_a_full_disk(
    open_journal: OpenJournal,
) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk, segment_bytes_max=4096)
    full_disk_after_lease(journal, disk)
    started = [put(journal, number, reserve=600) for number in range(2)]
    fill(journal)
    assert [put(journal, 50 + number, 500, reserved=600) for number in range(2)]
    assert len(started) == 2
    with pytest.raises(NotRecorded):
        put(journal, 99)


def full_disk_after_lease(journal: Journal, disk: FaultyDisk) -> None:
    journal.lease()
    full_disk(disk)


def test_refusals_can_be_recorded_on_a_full_disk(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk, segment_bytes_max=4096, refusal_reserve_bytes=1024)
    full_disk_after_lease(journal, disk)
    count = fill(journal)
    for number in range(3):
        journal.append(Kind.CALL_FINISHED, b"refused %d" % number, EMPTY, essential=True)
    with pytest.raises(NotRecorded):
        put(journal, count)
    assert leaves(journal) == [*numbered(count), b"refused 0", b"refused 1", b"refused 2"]


def test_records_go_on_once_there_is_room_again(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk, segment_bytes_max=4096)
    full_disk_after_lease(journal, disk)
    count = fill(journal)
    disk.heal()
    put(journal, count)
    assert leaves(journal) == numbered(count + 1)


def test_room_that_is_given_back_can_be_used(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk, segment_bytes_max=4096)
    full_disk_after_lease(journal, disk)
    put(journal, 0, reserve=1500)
    fill(journal)
    journal.release(1500)
    put(journal, 1, 1000)


def test_a_record_is_put_at_once_only_where_that_cannot_wait(open_journal: OpenJournal) -> None:
    journal = open_journal(MemoryDisk(), first_segment_bytes=64 * 1024, segment_bytes_max=64 * 1024)
    assert put_at_once(journal, 500) is None, "a shard has to be leased first"
    journal.lease()
    assert put_at_once(journal, 500) is not None
    assert put_at_once(journal, 100 * 1024) is None
    journal.close()
    with pytest.raises(StoreClosed):
        put_at_once(journal, 500)


def test_what_hangs_while_a_segment_is_made_holds_up_nobody_who_does_not_wait(
    open_journal: OpenJournal,
) -> None:
    """The writer that needs the next segment waits for it; the others are told that they would wait."""
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(
        disk,
        first_segment_bytes=32 * 1024,
        segment_bytes_max=32 * 1024,
        spares_max=0,
        refusal_reserve_bytes=0,
    )
    journal.lease()
    disk.inject(Fault(operation="sync", error=None, stall_seconds=600, times=None))
    kept = 0
    while put_at_once(journal, 1000) is not None:
        kept += 1
    waiting = threading.Thread(target=put, args=(journal, 99, 1000), daemon=True)
    waiting.start()
    assert disk.wait_for_hits(1, WAIT_SECONDS), "the segment is being made"
    assert put_at_once(journal, 1000) is None
    assert put_at_once(journal, 1) is not None, "what there is room for is put meanwhile"
    disk.heal()
    waiting.join(WAIT_SECONDS)
    assert len(leaves(journal)) == kept + 2


def test_a_writer_that_waits_goes_on_when_another_took_the_segment_made_for_it(
    open_journal: OpenJournal,
) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk, first_segment_bytes=16 * 1024, segment_bytes_max=16 * 1024, spares_max=0)
    journal.lease()
    threads = [
        threading.Thread(target=lambda: [put(journal, number, 4000) for number in range(25)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert len(leaves(journal)) == 100


# -- a put that fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("put_bytes", [0, 10, 40, 150])
def test_a_record_whose_put_fails_is_kept_in_another_segment(
    open_journal: OpenJournal, put_bytes: int
) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk)
    put(journal, 0)
    disk.inject(Fault(operation="put", error=errno.EIO, put_bytes=put_bytes, within=".seg"))
    put(journal, 1)
    put(journal, 2)
    assert leaves(journal) == numbered(3)
    assert segments(disk) == ["00000001.seg", "00000002.seg"]
    journal.close()
    assert leaves(open_journal(disk)) == numbered(3)


def test_a_record_that_no_segment_takes_is_refused_and_leaves_no_trace(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk)
    put(journal, 0)
    disk.inject(
        Fault(operation="put", error=errno.ENOSPC, put_bytes=50, within=".seg"),
        Fault(operation="create", error=errno.ENOSPC, times=None),
    )
    with pytest.raises(NotRecorded):
        put(journal, 1)
    put(journal, 2)
    assert leaves(journal) == [b"leaf 0", b"leaf 2"]
    assert segments(disk) == ["00000001.seg"]


def test_an_interrupt_in_the_middle_of_a_put_loses_and_doubles_nothing(open_journal: OpenJournal) -> None:
    disk = Interrupted()
    journal = open_journal(disk)
    put(journal, 0)
    disk.armed = True
    with pytest.raises(KeyboardInterrupt):
        put(journal, 1)
    put(journal, 2)
    journal.sync()
    found = list(journal.follow())
    assert [stored.sequence for stored in found] == [1, 2, 3]
    assert leaves(journal) == [b"leaf 0", b"leaf 2"]


def test_a_lease_that_fails_leaves_the_shard_free(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk(), Fault(operation="put", error=errno.EIO, at=2))
    journal = open_journal(disk)
    with pytest.raises(NotRecorded):
        put(journal, 0)
    put(journal, 0)
    assert [(state.shard, state.holder) for state in journal.shards()] == [(1, "ours")]


# -- leases ---------------------------------------------------------------------------------------------


def test_two_journals_on_one_store_write_to_different_shards(disk: Disk, open_journal: OpenJournal) -> None:
    one, two = open_journal(disk), open_journal(disk)
    assert put(one, 0) == (1, 1)
    assert put(two, 1) == (2, 1)
    assert [stored.leaf for stored in one.follow()] == numbered(2)
    assert [(state.shard, state.holder) for state in one.shards()] == [(1, "ours"), (2, "held")]
    one.close()
    third = open_journal(disk)
    assert put(third, 2) == (1, 2)


def test_shards_tell_a_closed_writer_from_one_that_died(tmp_path: Path, open_journal: OpenJournal) -> None:
    disk = RealDisk(tmp_path)
    journal = open_journal(disk)
    for number in range(3):
        put(journal, number)
    journal.close()
    (state,) = journal.shards()
    assert (state.holder, state.clean, state.lease_sequence) == ("free", True, 1)
    write_and_die(tmp_path, 2)
    (state,) = open_journal(disk).shards()
    assert (state.holder, state.clean, state.lease_sequence) == ("free", False, 4)
    third = open_journal(disk)
    third.lease()
    (state,) = third.shards()
    assert (state.holder, state.clean, state.lease_sequence) == ("ours", False, 6)
    third.close()
    fourth = open_journal(disk)
    fourth.lease()
    assert [(state.holder, state.clean) for state in fourth.shards()] == [("ours", True)]


def test_a_clean_mark_that_the_frames_belie_is_not_believed(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    disk = RealDisk(tmp_path)
    journal = open_journal(disk)
    put(journal, 0)
    journal.close()
    mark = (tmp_path / "journal/0001/lease").read_bytes()
    write_and_die(tmp_path, 2)
    (tmp_path / "journal/0001/lease").write_bytes(mark)
    reader = open_journal(disk)
    assert [state.clean for state in reader.shards()] == [False]
    put(reader, 1)
    assert len(list(reader.follow())) == 4


def test_a_torn_lease_file_is_taken_for_none(tmp_path: Path, open_journal: OpenJournal) -> None:
    disk = RealDisk(tmp_path)
    journal = open_journal(disk)
    put(journal, 0)
    journal.close()
    lease = tmp_path / "journal/0001/lease"
    lease.write_bytes(lease.read_bytes()[:100])
    reader = open_journal(disk)
    assert [(state.clean, state.lease_sequence) for state in reader.shards()] == [(False, 1)]
    put(reader, 1)
    assert leaves(reader) == numbered(2)


DYING_WRITER = """
import os, sys
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.records import Kind, Redacted
journal = Journal(RealDisk(sys.argv[1]), settings=JournalSettings(flush_seconds=3600.0))
for number in range(int(sys.argv[2])):
    journal.append(Kind.STEP, b"dying %d" % number, Redacted(b"p" * 50))
os.kill(os.getpid(), 9)
"""


def write_and_die(path: Path, count: int) -> None:
    """Another process writes records and is killed before it syncs or closes."""
    done = subprocess.run([sys.executable, "-c", DYING_WRITER, str(path), str(count)], timeout=60)
    assert done.returncode == -9


def test_what_a_killed_process_wrote_is_there_and_made_durable(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    write_and_die(tmp_path, 5)
    disk = FaultyDisk(RealDisk(tmp_path))
    journal = open_journal(disk)
    journal.lease()
    assert ("sync", "journal/0001/00000001.seg") in disk.operations
    put(journal, 0)
    assert leaves(journal) == [*(b"dying %d" % number for number in range(5)), b"leaf 0"]


WRITER = """
import sys
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.records import Kind, Redacted
journal = Journal(RealDisk(sys.argv[1]), settings=JournalSettings(first_segment_bytes=4096))
sys.stdin.readline()
for number in range(300):
    receipt = journal.append(Kind.STEP, b"%s %d" % (sys.argv[2].encode(), number), Redacted(b"p" * 100))
receipt.wait_durable()
print(receipt.shard, flush=True)
sys.stdin.readline()
journal.close()
"""


def test_processes_write_one_store_at_once_each_in_a_shard_of_its_own(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    shards = [int(writer.stdout.readline()) for writer in writers if writer.stdout]
    reader = open_journal(RealDisk(tmp_path))
    assert sorted(shards) == [1, 2]
    assert {state.holder for state in reader.shards()} == {"held"}
    for writer in writers:
        writer.communicate("close\n", timeout=30)
    assert {(state.holder, state.clean) for state in reader.shards()} == {("free", True)}
    for name, shard in zip("ab", shards, strict=True):
        assert leaves(reader, shard) == [b"%s %d" % (name.encode(), number) for number in range(300)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_writes_to_a_shard_of_its_own(tmp_path: Path, open_journal: OpenJournal) -> None:
    journal = open_journal(RealDisk(tmp_path), flush_seconds=0.001)
    before = journal.append(Kind.STEP, b"leaf 0", EMPTY)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            receipt = journal.append(Kind.STEP, b"child", EMPTY)
            receipt.wait_durable()
            try:
                before.wait_durable()
            except NotRecorded:
                code = 0 if receipt.shard == 2 else 2
            if before.is_durable:
                code = 0
            journal.close()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert put(journal, 1) == (1, 2)
    journal.sync()
    assert leaves(journal) == numbered(2)
    assert leaves(journal, 2) == [b"child"]
    assert [(state.holder, state.clean) for state in journal.shards()] == [("ours", True), ("free", True)]


# -- damage ---------------------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_and_the_cut_is_on_the_record(tmp_path: Path, open_journal: OpenJournal) -> None:
    write_and_die(tmp_path, 5)
    path = tmp_path / "journal/0001/00000001.seg"
    last = list(open_journal(RealDisk(tmp_path)).follow())[-2]
    damage(path, last.offset + 10)
    journal = open_journal(RealDisk(tmp_path))
    assert leaves(journal) == [b"dying 0", b"dying 1", b"dying 2"]
    put(journal, 0)
    *kept, event, new = list(journal.follow())
    assert [stored.leaf for stored in kept] == [b"dying 0", b"dying 1", b"dying 2"]
    assert new.leaf == b"leaf 0"
    told = decode_leaf(Kind.EVENT, event.leaf)
    assert isinstance(told, Event) and told.name == "journal.repaired"
    data = told.data
    assert data is not None
    assert (data["shard"], data["segment"], data["offset"], data["frames"]) == (1, 1, last.offset, 1)
    assert data["bytes"] > 80


def test_damage_to_a_record_that_was_durable_is_named_and_nothing_is_cut(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    journal = open_journal(RealDisk(tmp_path))
    for number in range(6):
        put(journal, number)
        journal.sync()
    third = list(journal.follow())[2]
    journal.close()
    path = tmp_path / "journal/0001" / f"{third.segment:08d}.seg"
    damage(path, third.offset + 33)
    (tmp_path / "journal/0001/lease").unlink()
    before = path.read_bytes()
    place = {"shard": 1, "segment": third.segment, "offset": third.offset, "sequence": 3}
    for attempt in (
        lambda: put(open_journal(RealDisk(tmp_path)), 9),
        lambda: leaves(open_journal(RealDisk(tmp_path))),
    ):
        with pytest.raises(CorruptJournal) as caught:
            attempt()
        assert caught.value.details == place
    assert path.read_bytes() == before


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    path.write_bytes(data)


# -- against a model ------------------------------------------------------------------------------------


class JournalMachine(RuleBasedStateMachine):
    """One store, one writer after another, faults now and then; the model is a list of leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = FaultyDisk(MemoryDisk())
        self.journal = self.open()
        self.model: list[bytes] = []
        self.number = 0

    def open(self) -> Journal:
        small = JournalSettings(
            first_segment_bytes=4096, segment_bytes_max=8192, commit_leaves=3, refusal_reserve_bytes=256,
            fill_pause_seconds=0.0, flush_seconds=3600.0,
        )  # fmt: skip
        return Journal(self.disk, settings=small)

    @rule(size=st.sampled_from([0, 1, 100, 900, 3000]))
    def append(self, size: int) -> None:
        leaf = b"leaf %d" % self.number
        self.number += 1
        try:
            self.journal.append(Kind.STEP, leaf, Redacted(b"p" * size))
        except NotRecorded:
            assert self.disk.hit_count
        else:
            self.model.append(leaf)

    @rule()
    def sync(self) -> None:
        try:
            self.journal.sync()
        except NotRecorded:
            assert self.disk.hit_count

    @rule()
    def reopen(self) -> None:
        self.disk.heal()
        self.journal.close()
        self.journal = self.open()

    @rule(
        operation=st.sampled_from(["put", "sync", "create", "sync_folder", "remove"]),
        at=st.integers(1, 4),
        times=st.sampled_from([1, 2, None]),
        put_bytes=st.sampled_from([0, 20, 100]),
    )
    @precondition(lambda self: self.model)
    def fail(self, operation: str, at: int, times: int | None, put_bytes: int) -> None:
        self.disk.heal()
        self.disk.inject(
            Fault(operation=operation, at=at, times=times, put_bytes=put_bytes, within=".seg")  # type: ignore[arg-type]
        )

    @rule()
    def heal(self) -> None:
        self.disk.heal()

    @invariant()
    def everything_written_can_be_read(self) -> None:
        found = list(Journal(self.disk).follow())
        assert [stored.sequence for stored in found] == list(range(1, len(found) + 1))
        assert [stored.leaf for stored in found if stored.kind == Kind.STEP] == self.model

    def teardown(self) -> None:
        self.disk.heal()
        self.journal.close()
        assert leaves(Journal(self.disk)) == self.model


JournalMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestJournalMachine = JournalMachine.TestCase


def test_what_is_hashed_of_a_record_says_what_kind_it_is() -> None:
    ended = RunFinished(run_id=b"r" * 16, at_us=1, payload_digest=b"", outcome="succeeded")
    with pytest.raises(msgspec.ValidationError):
        decode_leaf(Kind.RUN_STARTED, encode_leaf(ended))
