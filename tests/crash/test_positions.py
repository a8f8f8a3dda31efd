"""Positions of a shared run: whoever dies and whenever, none is taken twice and none is skipped."""

import errno
import random
from dataclasses import replace

import pytest
from tests.crash.lanes import CRASH_MODES, tiny_settings
from tests.crash.simulated_disk import SimulatedDisk

from custody.errors import CustodyError
from custody.journal import Journal, Receipt
from custody.journal.disk import Disk
from custody.journal.positions import position_in
from custody.records import Kind, Redacted, Step, encode_leaf

RUN_ID = b"shared run, 16 b"


def open_journal(disk: Disk, boot: int) -> Journal:
    return Journal(disk, settings=replace(tiny_settings(spares_max=0), boot_id=f"boot-{boot}"))


def take_until_it_dies(disk: SimulatedDisk, boot: int, chance: random.Random) -> list[int]:
    """Positions that were acknowledged as durable before the process died at some operation."""
    left = chance.randrange(1, 60)

    def count_down(operation: str, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EIO, "the process is dead", path)

    durable: list[int] = []
    disk.on_operation = count_down
    journal = open_journal(disk, boot)

    def append(position: int) -> Receipt:
        leaf = encode_leaf(Step(chance.randbytes(8), RUN_ID, 0, b"", position=position))
        return journal.append(Kind.STEP, leaf, Redacted(chance.randbytes(100)))

    try:
        for turn in range(40):
            receipt = journal.positions(RUN_ID).take(append)
            if turn % 3 == 0:
                receipt.wait_durable()
                durable = positions_of(disk, boot)
    except CustodyError:
        pass
    finally:
        try:
            journal.close()
        except CustodyError:
            pass
    return durable


def positions_of(disk: Disk, boot: int) -> list[int]:
    found = [position_in(RUN_ID, stored) for stored in open_journal(disk, boot).follow()]
    return [position for position in found if position is not None]


@pytest.mark.parametrize("seed", range(3))
def test_positions_are_contiguous_whenever_a_process_dies_or_the_power_fails(seed: int) -> None:
    chance = random.Random(seed)
    disk, boot = SimulatedDisk(), 0
    open_journal(disk, boot).create_shared(RUN_ID)
    most = 0
    for _ in range(16):
        durable = take_until_it_dies(disk, boot, chance)
        if chance.random() < 0.5:
            disk = disk.after_process_death()
        else:
            disk = disk.after_power_loss(chance.choice(CRASH_MODES), chance)
            boot += 1
        positions = positions_of(disk, boot)
        assert positions == list(range(len(positions)))
        assert positions[: len(durable)] == durable
        most = max(most, len(positions))
    assert most > 30
