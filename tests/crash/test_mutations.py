"""The lanes are worth something only if they find bugs: each of these, put in, is found by one."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from google_crc32c import extend
from tests.crash.damage import disk_of, flips, judge, make_log, read
from tests.crash.faults import FaultLane
from tests.crash.lanes import PowerLoss
from tests.crash.simulated_disk import SimulatedDisk

from custody.journal import Stored, frames, put, shard
from custody.journal.disk import File
from custody.journal.disk_faulty import Fault
from custody.journal.frames import Decoder
from custody.journal.shard import Shard
from custody.journal.spares import Fresh

Patch = Callable[[pytest.MonkeyPatch], None]


class NoFolderSync(SimulatedDisk):
    """As if the journal never called `sync_folder`."""

    def sync_folder(self, path: str) -> None:
        pass


def acknowledge_before_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shard, "_sync_once", Shard.written)


def acknowledge_across_a_roll_over(patch: pytest.MonkeyPatch) -> None:
    """Only the current segment is synced."""
    sync_written = Shard._sync_written

    def sync_current(self: Shard) -> int:
        with self._mutex:
            self._full = []
        return sync_written(self)

    patch.setattr(Shard, "_sync_written", sync_current)


def sync_again_after_a_failed_sync(patch: pytest.MonkeyPatch) -> None:
    sync_written = Shard._sync_written

    def sync_until_it_succeeds(self: Shard) -> int:
        try:
            return sync_written(self)
        except OSError:
            return sync_written(self)

    patch.setattr(Shard, "_sync_once", sync_until_it_succeeds)


def bring_into_use_before_sync(patch: pytest.MonkeyPatch) -> None:
    """A repaired shard's new segment counts before the records written again to it are on the disk."""
    begin = Shard._begin

    def begin_unsynced(self: Shard, fresh: Fresh, *rest: Any) -> int:
        return begin(self, Fresh(fresh.header, NeverSynced(fresh.file)), *rest)

    patch.setattr(Shard, "_begin", begin_unsynced)


class NeverSynced:
    def __init__(self, file: File) -> None:
        self.put, self.read, self.size_bytes, self.close = file.put, file.read, file.size_bytes, file.close

    def sync(self) -> None:
        pass


def verify_no_checksum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frames, "extend", lambda seed, data: 0)
    for module in (put, shard):
        patch.setattr(module, "encode_frame", frames.encode_frame_in_python)
    patch.setattr(shard, "put_frame", put.put_frame_in_python)


def accept_a_torn_tail(patch: pytest.MonkeyPatch) -> None:
    """A frame counts once its header and leaf are there, whatever became of its payload."""

    def decode(self: Decoder, data: bytes, start: int, offset: int) -> Stored | None:
        if start + frames.HEADER_BYTES > len(data):
            return None
        leaf_crc, _, sequence, leaf_bytes, payload_bytes, kind, _, _, unsynced = frames.HEADER.unpack_from(
            data, start
        )
        leaf_stop = start + frames.HEADER_BYTES + leaf_bytes
        stop = leaf_stop + payload_bytes
        if kind == 0 or stop > len(data) or extend(self._crc_seed, data[start + 4 : leaf_stop]) != leaf_crc:
            return None
        leaf, payload = data[start + frames.HEADER_BYTES : leaf_stop], data[leaf_stop:stop]
        end = offset + ((stop - start + 7) & ~7)
        return Stored(self._shard, self._index, offset, sequence, kind, leaf, payload, end, unsynced)

    patch.setattr(Decoder, "decode", decode)


def found_when_the_power_fails(disk_class: type[SimulatedDisk] = SimulatedDisk) -> list[str]:
    """Seeds in turn until one finds something."""
    for seed in range(12):
        lane = PowerLoss(seed, steps=20, look_chance=0.3, disk_class=disk_class)
        if wrong := lane.run():
            return wrong
    return []


def found_when_the_power_fails_again() -> list[str]:
    for seed in range(12):
        lane = PowerLoss(seed, steps=20, look_chance=0.2, go_on_chance=1, look_in_recovery_chance=0.6)
        if wrong := lane.run():
            return wrong
    return []


def found_when_a_sync_fails() -> list[str]:
    for at in range(1, 12):
        if wrong := FaultLane(Fault(operation="sync", at=at)).run():
            return wrong
    return []


def found_in_damage() -> list[str]:
    log = make_log(closed=True)
    return [
        wrong
        for _, files, damaged in flips(log, 401, (0x10,))
        if (wrong := judge(log, read(disk_of(files)), damaged)) is not None
    ]


@pytest.mark.parametrize(
    ("mutate", "lane", "finding"),
    [
        (acknowledge_before_sync, found_when_the_power_fails, "acknowledged record .* is lost"),
        (acknowledge_across_a_roll_over, found_when_the_power_fails, "is lost|durably is not there"),
        (sync_again_after_a_failed_sync, found_when_a_sync_fails, "is lost|CorruptJournal"),
        (bring_into_use_before_sync, found_when_the_power_fails_again, "during recovery.* is lost"),
        (verify_no_checksum, found_when_the_power_fails, "other bytes|StoreTooNew"),
        (verify_no_checksum, found_in_damage, "other records"),
        (accept_a_torn_tail, found_when_the_power_fails, "other bytes"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_seeded_bug_is_found(
    mutate: Patch, lane: Callable[[], list[str]], finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    wrong = lane()
    assert any(re.search(finding, sentence) for sentence in wrong), wrong


def test_a_journal_that_never_syncs_its_folder_is_found() -> None:
    wrong = found_when_the_power_fails(NoFolderSync)
    assert any("acknowledged record" in sentence for sentence in wrong)
