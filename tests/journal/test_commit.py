"""Receipts, group commit, the background flush, and syncs that fail."""

import asyncio
import errno
import threading
import time
from collections.abc import Callable

import pytest

from custody.errors import NotRecorded
from custody.journal import Journal, Receipt
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.records import Event, Kind, Redacted, decode_leaf

OpenJournal = Callable[..., Journal]
WAIT_SECONDS = 20.0


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(MemoryDisk())


def put(journal: Journal, number: int, size: int = 100) -> Receipt:
    return journal.append(Kind.STEP, b"leaf %d" % number, Redacted(b"p" * size))


def put_at_once(journal: Journal, size: int) -> Receipt | None:
    return journal.append_at_once(Kind.STEP, b"leaf", Redacted(b"p" * size))


def leaves(journal: Journal) -> list[bytes]:
    return [stored.leaf for stored in journal.follow() if stored.kind == Kind.STEP]


def events(journal: Journal) -> list[Event]:
    found = [
        decode_leaf(stored.kind, stored.leaf) for stored in journal.follow() if stored.kind == Kind.EVENT
    ]
    return [event for event in found if isinstance(event, Event)]


def syncs(disk: FaultyDisk) -> list[str]:
    return [path for operation, path in disk.operations if operation == "sync"]


def segment(index: int) -> str:
    return f"journal/0001/{index:08d}.seg"


def test_a_receipt_is_written_first_and_durable_after_a_sync(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk)
    receipts = [put(journal, number) for number in range(3)]
    assert not any(receipt.is_durable for receipt in receipts)
    before = len(syncs(disk))
    receipts[1].wait_durable()
    assert all(receipt.is_durable for receipt in receipts)
    receipts[2].wait_durable()
    journal.sync()
    assert len(syncs(disk)) == before + 1


def test_the_background_flush_makes_records_durable_before_long(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk, flush_seconds=0.001)
    for number in range(3):
        receipt = put(journal, number)
        deadline = time.monotonic() + WAIT_SECONDS
        while not receipt.is_durable:
            assert time.monotonic() < deadline
            threading.Event().wait(0.001)
    assert not disk.hit_count


def test_threads_that_wait_during_a_sync_share_the_next_one(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk)
    journal.lease()
    disk.inject(Fault(operation="sync", error=None, stall_seconds=WAIT_SECONDS))
    before = len(syncs(disk))
    first = threading.Thread(target=lambda: put(journal, 0).wait_durable())
    first.start()
    assert disk.wait_for_hits(1, WAIT_SECONDS)
    receipts = [put(journal, number) for number in range(1, 9)]
    done: list[int] = []
    followers = [
        threading.Thread(target=lambda receipt=receipt: (receipt.wait_durable(), done.append(1)))
        for receipt in receipts
    ]
    for follower in followers:
        follower.start()
    assert not done
    disk.heal()
    for thread in (first, *followers):
        thread.join(WAIT_SECONDS)
    assert len(done) == 8
    assert 2 <= len(syncs(disk)) - before <= 3


def test_a_wait_with_a_bound_ends_while_the_disk_stalls(disk: FaultyDisk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    receipt = put(journal, 0)
    disk.inject(Fault(operation="sync", error=None, stall_seconds=WAIT_SECONDS))
    with pytest.raises(TimeoutError):
        receipt.wait_durable(0.01)
    assert not receipt.is_durable
    disk.heal()
    receipt.wait_durable(WAIT_SECONDS)


def test_tasks_of_one_loop_share_a_sync(disk: FaultyDisk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    journal.lease()
    before = len(syncs(disk))

    async def work() -> list[bool]:
        receipts = [put(journal, number) for number in range(10)]
        await asyncio.gather(*(receipt.durable() for receipt in receipts))
        await receipts[0].durable()
        return [receipt.is_durable for receipt in receipts]

    assert asyncio.run(work()) == [True] * 10
    assert len(syncs(disk)) == before + 1


def test_a_task_that_is_cancelled_takes_nobody_with_it(disk: FaultyDisk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    journal.lease()

    async def work() -> tuple[bool, bool]:
        disk.inject(Fault(operation="sync", error=None, stall_seconds=WAIT_SECONDS))
        one, two = (asyncio.ensure_future(put(journal, number).durable()) for number in range(2))
        assert await asyncio.to_thread(disk.wait_for_hits, 1, WAIT_SECONDS)
        one.cancel()
        await asyncio.wait([one])
        disk.heal()
        await two
        return one.cancelled(), two.done()

    assert asyncio.run(work()) == (True, True)


def test_an_event_loop_runs_on_while_the_disk_stalls(disk: FaultyDisk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk, first_segment_bytes=1 << 18, segment_bytes_max=1 << 18)
    journal.lease()

    async def work() -> int:
        disk.inject(Fault(operation="sync", error=None, stall_seconds=WAIT_SECONDS))
        waiting = [asyncio.ensure_future(put(journal, number).durable()) for number in range(64)]
        assert await asyncio.to_thread(disk.wait_for_hits, 1, WAIT_SECONDS)
        turns = 0
        while turns < 100:  # each turn is one more that the loop was free for
            await asyncio.sleep(0)
            turns += 1
            put(journal, 64 + turns)
        assert not any(future.done() for future in waiting)
        disk.heal()
        await asyncio.gather(*waiting)
        return turns

    assert asyncio.run(work()) == 100


def test_loops_in_several_threads_wait_beside_each_other(disk: FaultyDisk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)

    async def work(start: int) -> None:
        for number in range(start, start + 20):
            await put(journal, number).durable()

    threads = [
        threading.Thread(target=lambda start=start: asyncio.run(work(start))) for start in (0, 100, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert len(set(leaves(journal))) == 60


def test_at_a_roll_over_the_old_segment_is_synced_before_the_new(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk)
    put(journal, 0).wait_durable()
    before = len(disk.operations)
    receipts = [put(journal, number, 1500) for number in range(1, 5)]
    receipts[-1].wait_durable()
    # A spare that the helper makes meanwhile is synced at any moment, and holds nothing.
    used = (segment(1), segment(2))
    data = [path for operation, path in disk.operations[before:] if operation == "sync" and path in used]
    assert list(journal.follow())[-1].segment == 2
    assert data[-2:] == [segment(1), segment(2)]


def test_a_failed_sync_poisons_the_segment_and_the_records_go_on_in_another(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk)
    put(journal, 0).wait_durable()
    receipts = [put(journal, number) for number in range(1, 4)]
    disk.inject(Fault(operation="sync", error=errno.EIO, within=segment(1)))
    before = len(disk.operations)
    receipts[2].wait_durable()
    assert all(receipt.is_durable for receipt in receipts)
    touched = disk.operations[before:]
    assert touched.count(("sync", segment(1))) == 1
    assert ("put", segment(1)) not in touched
    found = list(journal.follow())
    assert [stored.sequence for stored in found] == [1, 2, 3, 4, 5]
    assert [stored.segment for stored in found] == [1, 2, 2, 2, 2]
    assert leaves(journal) == [b"leaf 0", b"leaf 1", b"leaf 2", b"leaf 3"]
    (event,) = events(journal)
    assert event.name == "journal.poisoned"
    assert event.data is not None
    assert (event.data["shard"], event.data["segment"], event.data["sequence"]) == (1, 1, 2)
    put(journal, 4).wait_durable()
    assert ("sync", segment(1)) not in disk.operations[before + touched.index(("sync", segment(1))) + 1 :]


def test_when_no_segment_can_be_synced_everybody_is_told(disk: FaultyDisk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    receipts = [put(journal, number) for number in range(4)]
    disk.inject(Fault(operation="sync", error=errno.EIO, times=None))
    told: list[int] = []

    def wait(receipt: Receipt) -> None:
        try:
            receipt.wait_durable()
        except NotRecorded:
            told.append(receipt.sequence)

    threads = [threading.Thread(target=wait, args=(receipt,)) for receipt in receipts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sorted(told) == [1, 2, 3, 4]
    with pytest.raises(NotRecorded):
        asyncio.run(receipts[0].durable())
    with pytest.raises(NotRecorded):
        put(journal, 9)
    assert put_at_once(journal, 100) is None


def test_a_disk_that_recovers_gets_what_was_written_before(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk)
    receipt = put(journal, 0)
    disk.inject(Fault(operation="sync", error=errno.EIO, times=None))
    with pytest.raises(NotRecorded):
        receipt.wait_durable()
    disk.heal()
    put(journal, 1).wait_durable()
    assert receipt.is_durable
    assert leaves(journal) == [b"leaf 0", b"leaf 1"]
    assert [event.name for event in events(journal)] == ["journal.poisoned"]


def test_unsynced_records_are_bounded_and_the_next_writer_waits(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(
        disk, unsynced_bytes_max=5000, first_segment_bytes=1 << 16, segment_bytes_max=1 << 16
    )
    receipts = [put(journal, number, 1000) for number in range(4)]
    assert not receipts[-1].is_durable
    assert put_at_once(journal, 1000) is None
    assert put(journal, 4, 1000).is_durable


def test_close_makes_everything_durable_and_ends_every_thread(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    before = set(threading.enumerate())
    journal = open_journal(disk, flush_seconds=0.001)
    receipt = put(journal, 0)
    asyncio.run(receipt.durable())
    last = put(journal, 1)
    journal.close()
    assert last.is_durable
    last.wait_durable()
    assert set(threading.enumerate()) <= before


def test_a_close_that_cannot_sync_says_so_and_still_frees_the_shard(
    disk: FaultyDisk, open_journal: OpenJournal
) -> None:
    journal = open_journal(disk)
    receipt = put(journal, 0)
    disk.inject(Fault(operation="sync", error=errno.EIO, times=None))
    with pytest.raises(NotRecorded):
        journal.close()
    disk.heal()
    assert [(state.holder, state.clean) for state in journal.shards()] == [("free", False)]
    with pytest.raises(NotRecorded, match="closed"):
        receipt.wait_durable()
