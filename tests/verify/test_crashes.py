"""What a power loss or a kill leaves is as it may be: no fault where nothing was lost that was promised."""

import contextlib
import random
from dataclasses import dataclass, field

import pytest
from tests.crash.simulated_disk import CRASH_MODES, SimulatedDisk
from tests.how_many import todays_seeds
from tests.verify.stores import Writer

from custody.errors import CustodyError
from custody.journal import boot_id
from custody.journal.disk import Disk
from custody.verify import Report, Wanted, verify_store

NOT_SEALED = {
    "no checkpoint covers any record",
    "a key is on the record, and there is no checkpoint",
}
"""A first writer that dies before its first checkpoint: verification fails until the next one makes it."""


def verified(disk: Disk, boot: str) -> Report:
    return verify_store(disk, root=None, wanted=Wanted(), boot_id=boot)


@dataclass
class Crashes:
    """A workload, at whose operations the power may fail or the process die."""

    seed: int
    look_chance: float
    wrong: list[str] = field(default_factory=list)
    states: int = 0

    def run(self) -> list[str]:
        self.chance = random.Random(self.seed)
        self.disk = SimulatedDisk(self.look)
        for _ in range(3):
            writer = Writer(self.disk, 4096)
            for _ in range(2):
                writer.run(self.chance.randrange(1, 4))
                if self.chance.random() < 0.6:
                    writer.sync()
                if self.chance.random() < 0.5:
                    writer.seal()
            if self.chance.random() < 0.5:
                writer.close()
            else:
                self.die(writer)
        return self.wrong

    def die(self, writer: Writer) -> None:
        old, self.disk = self.disk, self.disk.after_process_death()
        old.on_operation = _dead
        self.disk.on_operation = self.look
        with contextlib.suppress(CustodyError):
            writer.close()

    def look(self, operation: str, path: str) -> None:
        if self.chance.random() > self.look_chance or len(self.wrong) > 5:
            return
        for mode in CRASH_MODES:
            image = self.disk.after_power_loss(mode, self.chance)
            self.judge(f"power lost ({mode}) before {operation} {path}", image, "another boot")
        self.judge(f"killed before {operation} {path}", self.disk.after_process_death(), boot_id())

    def judge(self, what: str, image: SimulatedDisk, boot: str) -> None:
        self.states += 1
        self.note(what, verified(image, boot))
        if self.chance.random() < 0.3:
            try:
                writer = Writer(image)
                writer.run(1)
                writer.seal()
                writer.close()
            except CustodyError as error:
                self.wrong.append(f"{what}: the next writer failed: {error}")
                return
            report = verified(image, boot)
            self.note(f"{what}, and a writer after that", report)
            if any(shard.signed != shard.records for shard in report.shards):
                self.wrong.append(f"{what}: not all is signed after that: {report.shards}")

    def note(self, what: str, report: Report) -> None:
        found = [fault for fault in report.faults if fault.what not in NOT_SEALED]
        if report.problem_count and not all(p.file == "keys/checkpoint.pub" for p in report.problems):
            self.wrong.append(f"{what}: {report.problems}")
        self.wrong += [f"{what}: {fault}" for fault in found]


def _dead(operation: str, path: str) -> None:
    raise OSError(5, "the process is dead", path)


@pytest.mark.parametrize("seed", range(3))
def test_a_crash_leaves_no_fault(seed: int) -> None:
    crashes = Crashes(seed, look_chance=0.15)
    assert crashes.run() == []
    assert crashes.states > 40


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(5))
def test_a_crash_at_any_operation_leaves_no_fault(number: int) -> None:
    crashes = Crashes(todays_seeds(10, 5)[number], look_chance=1.0)
    assert crashes.run() == []
