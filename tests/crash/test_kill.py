"""Lane 3: writers are killed at random moments; nothing they had a receipt for is missing.

A reader keeps its cursor from kill to kill. It may be given records once more, as `Followed` says; in the
end it has what one has that reads the store from its beginning.
"""

import contextlib
import errno
import itertools
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.crash import worker
from tests.crash.lanes import WAIT_SECONDS, read_all, tiny_settings
from tests.crash.oracle import Followed, is_own_event
from tests.crash.simulated_disk import CRASH_MODES, KilledInPut, SimulatedDisk

import custody
from custody.errors import CustodyError
from custody.journal import Cursor, Journal, Receipt, Stored
from custody.journal.disk import Disk, RealDisk
from custody.records import Kind, Redacted

MODES = ("one_thread", "threads", "tasks")
SOURCE = Path(custody.__path__[0]).parent

Name = tuple[str, int]
"""Token and number of a record."""


@dataclass
class Witness:
    """What the writers told of, and a reader that looks for it after each kill."""

    told: dict[Name, tuple[int, int]] = field(default_factory=dict)
    """Shard and sequence."""
    found: dict[Name, tuple[int, int]] = field(default_factory=dict)
    written: int = 0
    durable: int = 0
    followed: dict[int, Followed] = field(default_factory=lambda: defaultdict(Followed))
    cursor: Cursor | None = None

    def note(self, what: bytes, name: Name, place: tuple[int, int]) -> None:
        assert self.told.setdefault(name, place) == place
        self.written += what == b"W"
        self.durable += what == b"D"

    def read(self, disk: Disk) -> None:
        """Judge what is there behind the cursor; nobody writes meanwhile."""
        journal = Journal(disk)
        following = journal.follow(self.cursor)
        self.take(following)
        self.cursor = following.cursor
        journal.close()
        assert not any(followed.expected for followed in self.followed.values())
        lost = {name: place for name, place in self.told.items() if self.found.get(name) != place}
        assert lost == {}

    def take(self, records: Iterable[Stored]) -> None:
        for stored in records:
            self.followed[stored.shard].take(stored)
            if not stored.leaf.startswith(worker.TAG):
                assert is_own_event(stored)
                continue
            name = worker.parse_leaf(stored.leaf)
            assert (stored.leaf, stored.payload) == worker.make_record(*name)
            place = (stored.shard, stored.sequence)
            assert self.found.setdefault(name, place) == place

    @property
    def steps_back(self) -> int:
        return sum(followed.steps_back for followed in self.followed.values())

    def read_again(self, disk: Disk) -> None:
        """From the beginning: each record once, and the same as before."""
        again = Witness(told=self.told)
        again.read(disk)
        assert again.steps_back == 0
        assert again.found == self.found
        for shard, followed in self.followed.items():
            assert again.followed[shard].records == followed.records


@dataclass
class KillLane:
    store: Path
    chance: random.Random
    witness: Witness = field(default_factory=Witness)
    kills: int = 0
    shards_in_use: int = 1

    def round(self, writers: int) -> None:
        """Start writers on the one store, kill each after a random number of receipts, judge."""
        started = [self.start(f"{self.kills + number:04d}") for number in range(writers)]
        streams = [(token, self.read_and_kill(process)) for token, process in started]
        for token, stream in streams:
            self.note(token, stream)
        self.kills += writers
        self.shards_in_use = max(self.shards_in_use, writers)

    def start(self, token: str) -> tuple[str, "subprocess.Popen[bytes]"]:
        environment = {**os.environ, "PYTHONPATH": f"{SOURCE}"}
        program = [sys.executable, worker.__file__, str(self.store), token, self.chance.choice(MODES)]
        return token, subprocess.Popen(program, stdout=subprocess.PIPE, env=environment, bufsize=0)

    def read_and_kill(self, process: "subprocess.Popen[bytes]") -> bytes:
        assert process.stdout is not None
        enough = self.chance.randrange(1, 200) * worker.TOLD.size
        stream = b""
        while len(stream) < enough:
            more = process.stdout.read(4096)
            assert more, f"the writer ended by itself with {process.wait()}"
            stream += more
        for _ in range(self.chance.randrange(20_000)):
            pass  # so that the kill does not always follow a receipt at the same distance
        process.kill()
        while more := process.stdout.read(65536):
            stream += more
        process.stdout.close()
        process.wait(30)
        return stream

    def note(self, token: str, stream: bytes) -> None:
        assert len(stream) % worker.TOLD.size == 0
        for what, number, shard, sequence in worker.TOLD.iter_unpack(stream):
            self.witness.note(what, (token, number), (shard, sequence))

    def run(self, kills: int) -> None:
        disk = RealDisk(self.store)
        while self.kills < kills:
            self.round(1 if self.chance.random() < 0.6 else 2)
            self.witness.read(disk)
        assert len(Journal(disk).shards()) <= self.shards_in_use
        self.witness.read_again(RealDisk(self.store, create=False))


@dataclass
class TornPutLane:
    """Writers on a simulated disk, each killed in the middle of a put, also of one that repairs a tail."""

    seed: int
    witness: Witness = field(default_factory=Witness)
    durable: dict[Name, tuple[int, int]] = field(default_factory=dict)
    power_losses: int = 0

    def run(self, kills: int) -> None:
        self.chance = random.Random(self.seed)
        self.disk = SimulatedDisk()
        for kill in range(kills):
            self.puts_left = self.chance.choice((3, 12, 60))
            self.dead = False
            self.disk.on_operation = self.operation
            self.write(f"{kill:04d}")
            self.disk = self.disk.after_process_death()
            self.witness.read(self.disk)
        self.witness.read_again(self.disk)

    def operation(self, operation: str, path: str) -> None:
        if self.dead:
            raise OSError(errno.EIO, "the process is dead", path)
        if self.chance.random() < 0.01:
            self.look()
        if operation == "put":
            self.puts_left -= 1
            if self.chance.random() * self.puts_left < 1:
                self.dead = True
                raise KilledInPut(self.chance.random(), path)

    def write(self, token: str) -> None:
        journal = Journal(self.disk, settings=tiny_settings(32 * 1024, spares_max=0))
        with contextlib.suppress(CustodyError):
            for number in itertools.count():
                leaf, payload = worker.make_record(token, number)
                receipt = journal.append(Kind.EVENT, leaf, Redacted(payload))
                self.note(b"W", (token, number), receipt)
                if self.chance.random() < 0.2:
                    receipt.wait_durable(WAIT_SECONDS)
                    self.note(b"D", (token, number), receipt)
        with contextlib.suppress(CustodyError):
            journal.close()  # ends its threads; nothing it does reaches the disk any more

    def note(self, what: bytes, name: Name, receipt: Receipt) -> None:
        place = (receipt.shard, receipt.sequence)
        self.witness.note(what, name, place)
        if what == b"D":
            self.durable[name] = place

    def look(self) -> None:
        """If the power failed now, what is durable would be there."""
        self.power_losses += 1
        for mode in CRASH_MODES:
            there = Witness()
            there.take(read_all(self.disk.after_power_loss(mode, self.chance)))
            assert there.steps_back == 0
            assert self.durable.items() <= there.found.items()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_a_writer_killed_in_the_middle_of_a_put_loses_nothing_it_had_a_receipt_for(seed: int) -> None:
    lane = TornPutLane(seed)
    lane.run(kills=120)
    assert lane.witness.steps_back > 5
    assert lane.power_losses > 5
    assert lane.durable


def test_five_killed_writers_lose_nothing_they_had_a_receipt_for(tmp_path: Path) -> None:
    lane = KillLane(tmp_path / "store", random.Random(1))
    lane.run(kills=5)
    assert lane.witness.durable > 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_killed_writers_lose_nothing_they_had_a_receipt_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = KillLane(tmp_path / "store", random.Random(2))
    lane.run(kills=200)
    witness = lane.witness
    with capsys.disabled():
        sys.stdout.write(
            f"\n{lane.kills} kills, {witness.written} written and {witness.durable} durable receipts, 0 lost,"
            f" {witness.steps_back} steps back\n"
        )
    assert witness.written + witness.durable >= 10_000
