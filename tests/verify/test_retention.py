"""After purges and drops: what is gone is what tombstones name, and what was signed before still holds."""

import random
from collections.abc import Iterator

import pytest
from tests.crash.damage import Files, files_of
from tests.crash.simulated_disk import CRASH_MODES, SimulatedDisk
from tests.verify.stores import Writer, verify

from custody.checkpoints import newest_note
from custody.index import Index
from custody.journal import boot_id
from custody.journal.disk_memory import MemoryDisk
from custody.records import now_us
from custody.retention import Means, Selection, carry_out, drop_segments, plan_drop, plan_purge
from custody.retention.holds import purge_lock
from custody.verify import Wanted, verify_store

DROPPED = "journal/0001/dropped"


class Kept(Writer):
    """Something is purged from its store."""

    def fill(self, first: int, last: int) -> None:
        """Runs of two calls, one every second."""
        for number in range(first, last):
            self.run(2, at_us=number * 1_000_000)
        self.sync()

    def means(self) -> Means:
        return Means(
            journal=self.journal,
            index=Index(None, self.journal),
            make_recorder=lambda: self.recorder,
            forget_undo=lambda calls: None,
            seal=self.signed,
        )

    def signed(self) -> dict[int, int]:
        self.seal()
        note = newest_note(self.disk)
        assert note is not None, "one was made"
        return {shard: head.size for shard, head in note.checkpoint.heads.items()}

    def purge(self, before_us: int) -> None:
        lock = purge_lock(self.journal)
        try:
            carry_out(self.means(), plan_purge(self.journal, Selection(before_us=before_us)))
        finally:
            lock.release()

    def files(self) -> Files:
        self.close()
        assert isinstance(self.disk, MemoryDisk)
        return files_of(self.disk)


@pytest.fixture
def store() -> Iterator[Kept]:
    store = Kept(MemoryDisk(), 8192)
    yield store
    store.close()


@pytest.fixture
def dropped(store: Kept) -> tuple[Files, list[bytes]]:
    """A store whose first segments are gone, and checkpoints from before and after."""
    store.fill(1, 20)
    anchors = [store.seal()]
    store.fill(20, 120)
    anchors.append(store.seal())
    drop_segments(store.means(), plan_drop(store.journal, now_us()), reason="too old")
    store.fill(120, 130)
    anchors.append(store.seal())
    return store.files(), anchors


def test_half_of_the_payloads_purged(store: Kept) -> None:
    store.fill(1, 60)
    anchor = store.seal()
    store.purge(30_000_000)
    report = verify(store.files(), [anchor])
    assert (report.faults, report.anchors) == ([], 1)
    (shard,) = report.shards
    assert shard.purged > 50
    assert shard.anchored == shard.signed
    assert any("purged payloads" in sentence for sentence in report.not_checked)


def test_dropped_segments_are_no_fault_and_it_says_from_where_it_can_check(
    dropped: tuple[Files, list[bytes]],
) -> None:
    files, anchors = dropped
    report = verify(files, anchors)
    assert (report.faults, report.problems) == ([], [])
    (shard,) = report.shards
    assert shard.first > 1
    assert shard.records == shard.signed == shard.anchored
    assert any("dropped whole" in sentence for sentence in report.not_checked)


def test_segments_removed_by_somebody_else_are_found(dropped: tuple[Files, list[bytes]]) -> None:
    files, _ = dropped
    first = min(path for path in files if path.endswith(".seg"))
    report = verify({path: data for path, data in files.items() if path != first})
    assert report.exit_code == 1
    assert any(fault.shard == 1 for fault in report.faults)


def test_what_says_where_a_shard_begins_may_not_be_changed_or_missing(
    dropped: tuple[Files, list[bytes]],
) -> None:
    files, _ = dropped
    assert verify({path: data for path, data in files.items() if path != DROPPED}).exit_code == 1
    for offset in range(0, len(files[DROPPED]), 7):
        data = bytearray(files[DROPPED])
        data[offset] ^= 0x01
        report = verify({**files, DROPPED: bytes(data)})
        assert any(fault.file == DROPPED for fault in report.faults), offset


def test_a_drop_that_no_tombstone_names_is_found(dropped: tuple[Files, list[bytes]]) -> None:
    """The file was made by somebody who knows the form, and is not what the record says."""
    import msgspec

    from custody.journal.frames import extend

    files, _ = dropped
    said = msgspec.json.decode(files[DROPPED].partition(b" ")[2])
    text = msgspec.json.encode({**said, "purge_id": "00" * 8})
    report = verify({**files, DROPPED: b"%08x %s\n" % (extend(0, text), text)})
    assert [fault.what for fault in report.faults] == ["segments were dropped, and no tombstone says so"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_a_crash_in_the_middle_of_a_purge_leaves_no_fault(seed: int) -> None:
    """Whatever reached the disk of it: what is half gone is a note until the next opening finishes it."""
    wrong: list[str] = []
    states = 0
    chance = random.Random(seed)

    def look(operation: str, path: str) -> None:
        nonlocal states
        if chance.random() > 0.3 or len(wrong) > 3:
            return
        images = [(mode, disk.after_power_loss(mode, chance), "another boot") for mode in CRASH_MODES]
        images.append(("killed", disk.after_process_death(), boot_id()))
        for what, image, boot in images:
            states += 1
            report = verify_store(image, root=None, wanted=Wanted({"anchor": anchor}), boot_id=boot)
            wrong.extend(f"{what} before {operation} {path}: {fault}" for fault in report.faults)

    disk = SimulatedDisk()
    store = Kept(disk, 8192)
    store.fill(1, 30)
    anchor = store.seal()
    disk.on_operation = look
    store.purge(15_000_000)
    disk.on_operation = None
    store.close()
    assert wrong == []
    assert states > 40
