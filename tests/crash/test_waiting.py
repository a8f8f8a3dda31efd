"""Lane 5, many at once: a sync that fails or stalls is everybody's who waits for it, and nobody hangs."""

import asyncio
import errno
import random
import threading

import pytest
from tests.crash.lanes import WAIT_SECONDS, read_all, tiny_settings
from tests.crash.oracle import Oracle, make_issue
from tests.crash.simulated_disk import SimulatedDisk

from custody.errors import NotRecorded
from custody.journal import Journal, Receipt
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.records import Kind, Redacted

SYNC_FAULTS = {
    "once": Fault(operation="sync", at=5, error=errno.EIO),
    "now and then": Fault(operation="sync", at=4, error=errno.EIO, times=3),
    "for good": Fault(operation="sync", at=6, error=errno.EIO, times=None),
}


class Waiting:
    """A journal whose syncs fail inside the simulated disk, and what callers were told."""

    def __init__(self, fault: Fault) -> None:
        self.simulated = SimulatedDisk()
        self.gate = FaultyDisk(MemoryDisk(), fault)
        self.simulated.on_operation = self.gate.check
        self.journal = Journal(self.simulated, settings=tiny_settings(flush_seconds=0.001))
        self.oracle = Oracle()
        self.mutex = threading.Lock()
        self.refused = 0
        self.errors: list[BaseException] = []

    def append(self, number: int) -> tuple[Receipt, bytes]:
        record = make_issue(number, random.Random(number))
        with self.mutex:  # so that the order of issue is known
            self.oracle.issued.append(record)
            self.oracle.by_leaf[record.leaf] = record
            receipt = self.journal.append(Kind.EVENT, record.leaf, Redacted(record.payload))
            self.oracle.place_of[record.leaf] = (receipt.shard, receipt.sequence)
        return receipt, record.leaf

    def refuse(self) -> None:
        with self.mutex:
            self.refused += 1

    def acknowledge(self, receipt: Receipt, leaf: bytes) -> None:
        with self.mutex:
            self.oracle.durable.append(((receipt.shard, receipt.sequence), leaf))

    def judge(self) -> list[str]:
        assert self.gate.hit_count > 0
        lost_power = self.simulated.after_power_loss("none", random.Random(1))
        self.gate.heal()
        self.journal.close()
        return self.oracle.judge(read_all(lost_power)) + self.oracle.judge(read_all(self.simulated))


@pytest.fixture(params=sorted(SYNC_FAULTS))
def waiting(request: pytest.FixtureRequest) -> Waiting:
    return Waiting(SYNC_FAULTS[request.param])


def test_threads_that_wait_for_a_failing_sync_all_learn_of_it(waiting: Waiting) -> None:
    def work(thread: int) -> None:
        try:
            for turn in range(6):
                try:
                    receipt, leaf = waiting.append(thread * 100 + turn)
                    receipt.wait_durable(None if turn % 2 else WAIT_SECONDS)
                    waiting.acknowledge(receipt, leaf)
                except NotRecorded:
                    waiting.refuse()
        except BaseException as error:
            waiting.errors.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert not any(thread.is_alive() for thread in threads), "somebody hangs"
    assert waiting.errors == []
    assert len(waiting.oracle.durable) + waiting.refused == 48
    assert waiting.judge() == []


def test_tasks_that_wait_for_a_failing_sync_all_learn_of_it(waiting: Waiting) -> None:
    async def task(number: int) -> None:
        for turn in range(4):
            try:
                receipt, leaf = await asyncio.to_thread(waiting.append, number * 100 + turn)
                await receipt.durable()
                waiting.acknowledge(receipt, leaf)
            except NotRecorded:
                waiting.refuse()

    async def everybody() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*(task(number) for number in range(12)))

    asyncio.run(everybody())
    assert len(waiting.oracle.durable) + waiting.refused == 48
    assert waiting.judge() == []


def test_a_stalled_sync_keeps_its_waiters_and_nobody_else() -> None:
    """While it lasts, who waits with a bound is told so, and records are written all the same."""
    disk = FaultyDisk(MemoryDisk())
    journal = Journal(disk, settings=tiny_settings(64 * 1024))
    oracle, chance = Oracle(), random.Random(1)
    oracle.issue(journal, chance)[1].wait_durable(WAIT_SECONDS)
    disk.inject(Fault(operation="sync", error=None, stall_seconds=600, times=None))
    _, stalled = oracle.issue(journal, chance)
    waiter = threading.Thread(target=stalled.wait_durable, daemon=True)
    waiter.start()
    assert disk.wait_for_hits(1, WAIT_SECONDS)
    _, receipt = oracle.issue(journal, chance)
    with pytest.raises(TimeoutError):
        receipt.wait_durable(0.01)
    assert not stalled.is_durable
    assert not receipt.is_durable
    disk.heal()
    waiter.join(WAIT_SECONDS)
    assert stalled.is_durable
    receipt.wait_durable(WAIT_SECONDS)
    journal.close()
    assert oracle.judge(read_all(disk)) == []


def test_a_stalled_sync_never_holds_up_an_event_loop() -> None:
    """64 tasks record while every sync stalls: the loop runs on; once let go, all are durable."""
    disk = FaultyDisk(MemoryDisk())
    journal = Journal(disk, settings=tiny_settings(1024 * 1024))
    journal.lease()
    oracle, chance = Oracle(), random.Random(1)
    disk.inject(Fault(operation="sync", error=None, stall_seconds=600, times=None))

    async def task(done: list[int]) -> None:
        _, receipt = oracle.issue(journal, chance)
        await receipt.durable()
        done.append(receipt.sequence)

    async def everybody() -> list[int]:
        done: list[int] = []
        tasks = [asyncio.create_task(task(done)) for _ in range(64)]
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(200):  # turns of the loop, none of which waits for the disk
                await asyncio.sleep(0)
            assert len(oracle.place_of) == 64
            assert done == []
            while len(done) < 64:
                disk.heal()
                await asyncio.sleep(0.001)
            await asyncio.gather(*tasks)
        return done

    assert len(asyncio.run(everybody())) == 64
    journal.close()
