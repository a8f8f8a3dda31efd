"""Power, disk and process fail at any moment: what was signed is there afterwards."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.checkpoints.conftest import Writer, events_of, judge, log_of
from tests.crash.simulated_disk import CRASH_MODES, SimulatedDisk
from tests.how_many import todays_seeds

import custody
from custody.errors import CustodyError
from custody.journal import RealDisk

SOURCE = Path(custody.__path__[0]).parent


class PowerLoss:
    """A workload on a simulated disk, at each of whose operations the power may fail."""

    def __init__(self, seed: int, look_chance: float, fail_chance: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self.look_chance, self.fail_chance = look_chance, fail_chance
        self.acknowledged = 0
        self.states = 0
        self.wrong: list[str] = []
        self.looking = False
        self.disk = SimulatedDisk(self.look)

    def run(self, rounds: int) -> list[str]:
        writer = Writer(self.disk)
        for _ in range(rounds):
            with contextlib.suppress(CustodyError, OSError):
                writer.write(self.chance.randrange(12))
                if self.chance.random() < 0.1:
                    writer.sealer.rotate_key()
                else:
                    writer.sealer.seal(all_shards=self.chance.random() < 0.2)
                self.acknowledged = len(log_of(self.disk).notes)
            if self.chance.random() < 0.3:
                writer.close()
                writer = Writer(self.disk)
        writer.close()
        return self.wrong

    def look(self, operation: str, path: str) -> None:
        if self.looking or len(self.wrong) > 5:
            return
        if operation == "sync" and self.chance.random() < self.fail_chance:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        if self.chance.random() > self.look_chance:
            return
        self.looking = True
        try:
            for mode in CRASH_MODES:
                self.states += 1
                self.judge_state(self.disk.after_power_loss(mode, self.chance), f"{operation} {path}, {mode}")
        finally:
            self.looking = False

    def judge_state(self, disk: SimulatedDisk, where: str) -> None:
        wrong = judge(disk)
        after = Writer(disk)
        try:
            after.write(2)
            after.sealer.seal(all_shards=True)
        except (CustodyError, OSError) as error:
            wrong.append(f"nothing can be signed afterwards: {error}")
        wrong += [f"shard {shard} is refused: {what}" for shard, what in after.sealer.refused.items()]
        after.close()
        notes = log_of(disk).notes
        if len(notes) <= self.acknowledged:
            wrong.append(f"{len(notes)} checkpoints are left of {self.acknowledged}")
        seen = [event.get("checkpoints") or 0 for event in events_of(disk, "writer.opened")]
        if max(seen, default=0) > len(notes):
            wrong.append(f"a writer saw {max(seen)} checkpoints, {len(notes)} are there")
        wrong += judge(disk)
        self.wrong += [f"{where}: {what}" for what in wrong]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_what_was_signed_is_there_whenever_the_power_fails(seed: int):
    lane = PowerLoss(seed, look_chance=0.12)
    assert lane.run(16) == []
    assert lane.states > 30
    assert lane.acknowledged > 5


@pytest.mark.parametrize("seed", [4, *(pytest.param(seed, marks=pytest.mark.long) for seed in (5, 6))])
def test_what_was_signed_is_there_when_syncs_failed_before_the_power_did(seed: int):
    lane = PowerLoss(seed, look_chance=0.1, fail_chance=0.1)
    assert lane.run(16) == []
    assert lane.states > 20


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_what_was_signed_is_there_in_thousands_of_crash_states():
    states = 0
    for seed in todays_seeds(100, 10):
        lane = PowerLoss(seed, look_chance=0.2, fail_chance=0.05 * (seed % 2))
        assert lane.run(30) == [], f"seed {seed}"
        states += lane.states
    assert states > 750


KILLED = """
import sys
from tests.checkpoints.conftest import PATIENCE_SECONDS, Writer
from custody.journal import RealDisk

writer = Writer(RealDisk(sys.argv[1]))
while True:
    writer.write(7)
    note = writer.sealer.seal(wait_seconds=PATIENCE_SECONDS)
    print(note.checkpoint.size, writer.journal.shard_number, flush=True)
"""


def kill_once(store: Path, chance: random.Random, count: int) -> int:
    """Run writers that sign as fast as they can, and kill them; the highest checkpoint one told of."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parents[2])])}
    command = [sys.executable, "-c", KILLED, str(store)]
    writers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(count)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() != ""
        time.sleep(chance.random() * 0.08)
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
    told = 0
    for writer in writers:
        assert writer.stdout is not None
        told = max([told, *(int(line.split()[0]) for line in writer.stdout if line.count(" ") == 1)])
        writer.stdout.close()
        writer.wait()
    return told


@pytest.mark.parametrize("writers", [1, 2])
def test_what_was_signed_is_there_after_kills_of_those_who_sign(tmp_path: Path, writers: int):
    chance = random.Random(writers)
    told = 0
    for _ in range(4):
        told = max(told, kill_once(tmp_path / "store", chance, writers))
        disk = RealDisk(tmp_path / "store")
        assert len(log_of(disk).notes) >= told
        assert judge(disk) == []
    after = Writer(disk)
    after.write()
    after.sealer.seal(all_shards=True)
    assert after.sealer.refused == {}
    after.close()
    assert judge(disk) == []
    assert len(events_of(disk, "key.created")) == 1
