"""The crash lanes as functions, so that both the clean journal and its seeded bugs go through the same ones.

A lane returns what it found wrong, as sentences; an empty list is a pass.
"""

import contextlib
import errno
import random
from dataclasses import dataclass, field

from tests.crash.oracle import Oracle
from tests.crash.roots import judge_roots
from tests.crash.simulated_disk import CRASH_MODES, SimulatedDisk

from custody.errors import CustodyError
from custody.journal import Journal, JournalSettings, Stored
from custody.journal.disk import Disk

WAIT_SECONDS = 20.0
"""No wait of the lanes may end by this bound: reaching it is a hang."""


def tiny_settings(
    segment_bytes: int = 8 * 1024, *, flush_seconds: float = 3600, spares_max: int = 2
) -> JournalSettings:
    """Segments that hold a handful of records, so that a short workload rolls over often."""
    return JournalSettings(
        first_segment_bytes=segment_bytes,
        segment_bytes_max=segment_bytes,
        commit_leaves=4,
        flush_seconds=flush_seconds,
        refusal_reserve_bytes=0,
        spares_max=spares_max,
        fill_pause_seconds=0.0,
    )


def read_all(disk: Disk) -> list[Stored]:
    journal = Journal(disk, settings=tiny_settings())
    try:
        return list(journal.follow())
    finally:
        journal.close()


@dataclass
class PowerLoss:
    """Lane 1: at every disk operation of a workload the power may fail."""

    seed: int
    steps: int = 40
    look_chance: float = 0.3
    states_max: int = 100_000
    disk_class: type[SimulatedDisk] = SimulatedDisk
    flush_seconds: float = 3600
    spares_max: int = 0
    """With neither a flush nor a helper that fills spares, a seed gives the same states each time."""
    go_on_chance: float = 0.3
    """How often a recovered journal is written again."""
    look_in_recovery_chance: float = 0.1
    oracle: Oracle = field(default_factory=Oracle)
    states: int = 0
    operations: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        self.chance = random.Random(self.seed)
        self.looking = random.Random(self.seed + 1)
        self.disk = self.disk_class(self.look)
        journal = self.open_journal(self.disk)
        try:
            for _ in range(self.steps):
                journal = self.step(journal)
        finally:
            journal.close()
        self.look("end", "")
        return self.wrong

    def open_journal(self, disk: Disk) -> Journal:
        settings = tiny_settings(flush_seconds=self.flush_seconds, spares_max=self.spares_max)
        return Journal(disk, settings=settings)

    def step(self, journal: Journal) -> Journal:
        waiting = [self.oracle.issue(journal, self.chance) for _ in range(1 + self.chance.randrange(6))]
        what = self.chance.random()
        if what < 0.5:
            # A durable receipt stands for all before it in its shard as well.
            until = self.chance.randrange(len(waiting)) + 1
            waiting[until - 1][1].wait_durable(WAIT_SECONDS)
            for record, receipt in waiting[:until]:
                self.oracle.acknowledge(record, receipt)
        elif what < 0.7:
            journal.sync()
            for record, receipt in waiting:
                self.oracle.acknowledge(record, receipt)
        elif what < 0.8:
            journal.close()
            for record, receipt in waiting:
                self.oracle.acknowledge(record, receipt)
            journal = self.open_journal(self.disk)
        elif what < 0.9:
            journal = self.die(journal)
        return journal

    def die(self, journal: Journal) -> Journal:
        """The process is killed: its page cache stays, its locks go. Another one goes on."""
        old, self.disk = self.disk, self.disk.after_process_death()
        old.on_operation = _dead
        self.disk.on_operation = self.look
        with contextlib.suppress(CustodyError):
            journal.close()  # ends its threads; nothing it does reaches the disk any more
        return self.open_journal(self.disk)

    # -- a power loss ---------------------------------------------------------------------------------

    def look(self, operation: str, path: str) -> None:
        self.operations += 1
        if self.looking.random() > self.look_chance or self.states >= self.states_max or len(self.wrong) > 20:
            return
        durable_count = len(self.oracle.durable)
        for mode in CRASH_MODES:
            self.states += 1
            image = self.disk.after_power_loss(mode, self.looking)
            recovery = Recovery(image, self.oracle, durable_count, self.looking, self.look_in_recovery_chance)
            found = recovery.run(go_on=self.looking.random() < self.go_on_chance)
            self.states += recovery.states
            self.wrong += [f"{mode} before {operation} {path}: {sentence}" for sentence in found]


def _dead(operation: str, path: str) -> None:
    raise OSError(errno.EIO, "the process is dead", path)


@dataclass
class Recovery:
    """Open what a crash left, judge it, go on writing, lose power again at any operation, judge that."""

    image: SimulatedDisk
    oracle: Oracle
    durable_count: int
    chance: random.Random
    look_chance: float = 0.1
    wrong: list[str] = field(default_factory=list)
    later: Oracle = field(default_factory=Oracle)
    states: int = 0

    def run(self, *, go_on: bool) -> list[str]:
        try:
            self.found = read_all(self.image)
            self.wrong = self.oracle.judge(self.found, self.durable_count)
            self.wrong += judge_roots(self.image, self.found, self.chance)
            if go_on and not self.wrong:
                self.go_on()
        except CustodyError as error:
            self.wrong.append(f"recovery failed: {type(error).__name__}: {error}")
        return self.wrong

    def go_on(self) -> None:
        """A new writer can append; its records and the old ones survive the next power loss."""
        self.image.on_operation = self.look
        journal = Journal(self.image, settings=tiny_settings(spares_max=0))
        try:
            for _ in range(3):
                _, receipt = self.later.issue(journal, self.chance)
            receipt.wait_durable(WAIT_SECONDS)
            again = self.image.after_power_loss(self.chance.choice(CRASH_MODES), self.chance)
        finally:
            journal.close()
        found_again = read_all(again)
        self.wrong += judge_roots(again, found_again, self.chance)
        mine = [stored.leaf for stored in found_again if stored.leaf in self.later.by_leaf]
        if mine != [record.leaf for record in self.later.issued]:
            self.wrong.append("what a new writer appended durably is not there after a second power loss")
        after = {(stored.shard, stored.sequence): stored for stored in found_again}
        for stored in self.found:
            twin = after.get((stored.shard, stored.sequence))
            if twin is None or (twin.leaf, twin.payload) != (stored.leaf, stored.payload):
                self.wrong.append(f"record {stored.sequence} was recovered once, but not twice")

    def look(self, operation: str, path: str) -> None:
        """The power fails while the shard is being recovered, or just after."""
        if self.chance.random() > self.look_chance or len(self.wrong) > 5:
            return
        mode = self.chance.choice(CRASH_MODES)
        self.states += 1
        try:
            found = read_all(self.image.after_power_loss(mode, self.chance))
            wrong = self.oracle.judge(found, self.durable_count, self.later.by_leaf)
        except CustodyError as error:
            wrong = [f"recovery failed: {type(error).__name__}: {error}"]
        self.wrong += [f"{mode} during recovery, before {operation} {path}: {found}" for found in wrong]
