"""Lane 5: one fault at the n-th operation of a short workload, and what must hold whatever it was."""

import errno
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.crash.lanes import WAIT_SECONDS, read_all, tiny_settings
from tests.crash.oracle import Issue, Oracle
from tests.crash.simulated_disk import SimulatedDisk

from custody.errors import CustodyError, NotRecorded
from custody.journal import Journal, Receipt
from custody.journal.disk import Disk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.records import Redacted

BELOW = ("put", "sync", "create", "rename", "remove", "make_folder", "sync_folder")
"""Operations that fail inside the simulated disk: a sync that fails there loses what it covered."""


@dataclass
class FaultLane:
    """Run once; `wrong` then says what did not hold. Without a fault it counts the operations."""

    fault: Fault | None = None
    open_journal: Callable[[Disk], Journal] = lambda disk: Journal(disk, settings=tiny_settings())
    killed: bool = False
    """The process is killed while the fault lasts; otherwise it closes its journal when that is over."""
    seed: int = 1
    oracle: Oracle = field(default_factory=Oracle)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0

    def run(self) -> list[str]:
        self.simulated = SimulatedDisk()
        self.above = FaultyDisk(self.simulated)
        self.below = FaultyDisk(MemoryDisk())  # counts and fails for the hook; holds nothing
        self.simulated.on_operation = self.below.check
        if self.fault is not None:
            inside = self.fault.operation in BELOW and not self.fault.put_bytes
            (self.below if inside else self.above).inject(self.fault)
        self.bounded("the workload", self.work)
        if self.killed:
            dead, self.simulated = self.simulated, self.simulated.after_process_death()
            dead.on_operation = _dead
        self.above.heal()
        self.below.heal()
        if self.journal is not None:
            self.bounded("a close after the fault", self.journal.close, may_refuse=True)
        if not self.wrong:
            self.bounded("going on", self.go_on)
        return self.wrong

    def bounded(self, what: str, act: Callable[[], None], *, may_refuse: bool = False) -> None:
        """Do it in a thread: it has to end, and with an error of Custody's or none."""

        def guarded() -> None:
            try:
                act()
            except NotRecorded:
                if not may_refuse:
                    self.wrong.append(f"{what} was refused")
            except BaseException as error:
                self.wrong.append(f"{what} raised {type(error).__name__}: {error}")

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        thread.join(WAIT_SECONDS)
        if thread.is_alive():
            self.wrong.append(f"{what} hangs")

    # -- while it fails -------------------------------------------------------------------------------

    def work(self) -> None:
        self.journal: Journal | None = None
        chance = random.Random(self.seed)
        try:
            self.journal = self.open_journal(self.above)
        except CustodyError:
            return
        for step in range(14):
            waiting = [issued for _ in range(1 + step % 3) if (issued := self.issue(chance)) is not None]
            if step % 5 == 4:
                self.allowed(self.journal.sync, waiting)
            elif step % 3 != 2 and waiting:
                receipt = waiting[-1][1]
                self.allowed(lambda receipt=receipt: receipt.wait_durable(WAIT_SECONDS), waiting)
            if step == 7:
                self.allowed(lambda: self.blob(chance), [])

    def issue(self, chance: random.Random) -> tuple[Issue, Receipt] | None:
        assert self.journal is not None
        try:
            return self.oracle.issue(self.journal, chance)
        except NotRecorded:
            self.refused += 1
            return None

    def blob(self, chance: random.Random) -> None:
        assert self.journal is not None
        self.journal.put_blob(Redacted(chance.randbytes(3000)))

    def allowed(self, act: Callable[[], object], waiting: list[tuple[Issue, Receipt]]) -> None:
        """What it makes durable is acknowledged; NotRecorded is the one error there may be."""
        try:
            act()
        except NotRecorded:
            self.refused += 1
            return
        for record, receipt in waiting:
            self.oracle.acknowledge(record, receipt)

    # -- afterwards -----------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Whatever failed: nothing acknowledged is lost, and the journal can be written again."""
        none = random.Random(self.seed)
        self.wrong += [f"after a power loss, {found}" for found in self.judge_power_loss(none)]
        dead = self.simulated.after_process_death()
        found = read_all(dead)
        self.wrong += self.oracle.judge(found)
        places = {(stored.shard, stored.sequence) for stored in found}
        self.wrong += [
            f"written record {place} is lost"
            for place in self.oracle.place_of.values()
            if place not in places
        ]
        self.simulated = dead
        journal = self.open_journal(dead)
        try:
            record, receipt = self.oracle.issue(journal, none)
            receipt.wait_durable(WAIT_SECONDS)
            self.oracle.acknowledge(record, receipt)
        finally:
            journal.close()
        self.wrong += [f"after going on and a power loss, {found}" for found in self.judge_power_loss(none)]

    def judge_power_loss(self, chance: random.Random) -> list[str]:
        return self.oracle.judge(read_all(self.simulated.after_power_loss("none", chance)))


def _dead(operation: str, path: str) -> None:
    raise OSError(errno.EIO, "the process is dead", path)
