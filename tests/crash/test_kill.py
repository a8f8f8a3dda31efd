"""Lane 3: writers are killed at random moments; nothing they had a receipt for is missing."""

import os
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.crash import worker
from tests.crash.oracle import is_own_event

import custody
from custody.journal import Journal, Stored
from custody.journal.disk import RealDisk

MODES = ("one_thread", "threads", "tasks")
SOURCE = Path(custody.__path__[0]).parent


@dataclass
class KillLane:
    store: Path
    chance: random.Random
    told: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Token and number -> shard and sequence."""
    found: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    written: int = 0
    durable: int = 0
    kills: int = 0
    last_sequence: dict[int, int] = field(default_factory=dict)
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
            assert self.told.setdefault((token, number), (shard, sequence)) == (shard, sequence)
            self.written += what == b"W"
            self.durable += what == b"D"

    def judge(self, records: Iterable[Stored]) -> None:
        for stored in records:
            assert stored.sequence == self.last_sequence.get(stored.shard, 0) + 1
            self.last_sequence[stored.shard] = stored.sequence
            if not stored.leaf.startswith(worker.TAG):
                assert is_own_event(stored)
                continue
            token, number = worker.parse_leaf(stored.leaf)
            assert (stored.leaf, stored.payload) == worker.make_record(token, number)
            assert (token, number) not in self.found
            self.found[token, number] = (stored.shard, stored.sequence)
        lost = {key: place for key, place in self.told.items() if self.found.get(key) != place}
        assert lost == {}

    def run(self, kills: int) -> None:
        journal = Journal(RealDisk(self.store))
        cursor = None
        while self.kills < kills:
            self.round(1 if self.chance.random() < 0.6 else 2)
            following = journal.follow(cursor)
            self.judge(following)
            cursor = following.cursor
        assert len(journal.shards()) <= self.shards_in_use
        journal.close()
        self.found, self.last_sequence = {}, {}
        again = Journal(RealDisk(self.store, create=False))
        self.judge(again.follow())
        again.close()


def test_ten_killed_writers_lose_nothing_they_had_a_receipt_for(tmp_path: Path) -> None:
    lane = KillLane(tmp_path / "store", random.Random(1))
    lane.run(kills=10)
    assert lane.durable > 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_killed_writers_lose_nothing_they_had_a_receipt_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = KillLane(tmp_path / "store", random.Random(2))
    lane.run(kills=200)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{lane.kills} kills, {lane.written} written and {lane.durable} durable receipts, 0 lost\n"
        )
    assert lane.written + lane.durable >= 10_000
