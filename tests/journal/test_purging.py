"""Payloads zeroed in place, as the journal alone sees it."""

from pathlib import Path

import pytest
from tests.journal.conftest import SMALL, OpenJournal

from custody.errors import CorruptJournal
from custody.journal import Journal
from custody.journal.disk import Disk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.journal.purging import Intent, Spot
from custody.records import Kind, Redacted

SALT = b"s" * 16


def append(journal: Journal, number: int, said: bytes = b"said") -> None:
    journal.append(Kind.EVENT, b"\xa4leaf%d" % number, Redacted(SALT + said))


def spots(journal: Journal, *sequences: int) -> list[Spot]:
    return [
        Spot(stored.segment, stored.offset, stored.sequence)
        for stored in journal.follow()
        if stored.sequence in sequences
    ]


def test_purged_records_keep_their_leaf_and_place(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    for number in range(1, 40):
        append(journal, number, b"walnut" * number)
    journal.sync()
    before = [(stored.sequence, stored.leaf) for stored in journal.follow()]
    assert journal.purging.purge(1, spots(journal, 3, 20)) == 2 * 16 + 6 * 23
    assert [(stored.sequence, stored.leaf) for stored in journal.follow()] == before
    assert [stored.sequence for stored in journal.follow() if stored.purged] == [3, 20]
    assert journal.purging.purge(1, spots(journal, 3, 20)) == 0


def test_a_spot_that_holds_another_record_is_refused(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    append(journal, 1)
    append(journal, 2)
    journal.sync()
    first, second = spots(journal, 1, 2)
    with pytest.raises(CorruptJournal):
        journal.purging.purge(1, [Spot(first.segment, first.offset, second.sequence)])
    assert not any(stored.purged for stored in journal.follow())


def test_a_purged_record_that_is_written_again_stays_purged(open_journal: OpenJournal) -> None:
    """A power loss took every claim that it is durable, and left a torn tail behind it."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    for number in range(1, 5):
        append(journal, number)
    journal.sync()
    journal.purging.purge(1, spots(journal, 2))
    *_, last = journal.follow()
    disk.locks.clear()
    disk.remove("journal/0001/lease")
    disk.open(f"journal/0001/{last.segment:08d}.seg").put(b"torn", last.end + 64)
    later = open_journal(disk)
    later.lease()
    found = list(later.follow())
    assert found[0].segment > last.segment
    assert [(stored.leaf, stored.purged) for stored in found[:4]] == [
        (b"\xa4leaf%d" % number, number == 2) for number in range(1, 5)
    ]


def test_what_begins_and_is_not_over_is_known_by_its_name(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    append(journal, 1)
    intent = Intent("0123456789abcdef", "purge", *journal.here())
    journal.purging.begin(intent)
    assert open_journal(disk).purging.begun() == [intent]
    journal.purging.end(intent)
    journal.purging.end(intent)
    assert journal.purging.begun() == []


def test_whole_blocks_of_a_purged_payload_are_given_back(tmp_path: Path) -> None:
    from custody.journal import JournalSettings
    from custody.journal.disk import RealDisk

    journal = Journal(RealDisk(tmp_path), settings=JournalSettings())
    append(journal, 1, b"x" * 100_000)
    journal.sync()
    (segment,) = (tmp_path / "journal" / "0001").glob("*.seg")
    blocks = segment.stat().st_blocks
    journal.purging.purge(1, spots(journal, 1))
    journal.close()
    if segment.stat().st_blocks == blocks:
        pytest.skip("this file system takes nothing back")
    assert segment.stat().st_blocks * 512 <= blocks * 512 - 90_000


def test_copies_that_a_failed_sync_left_are_zeroed_once_the_others_are_durable() -> None:
    faulty = FaultyDisk(MemoryDisk())
    journal = Journal(faulty, settings=SMALL)
    for number in range(1, 4):
        append(journal, number)
    journal.sync()
    for number in range(4, 6):
        append(journal, number, b"walnut")
    faulty.inject(Fault(operation="sync", within=".seg"))
    journal.sync()
    found = list(journal.follow())
    assert journal.purging.clear_dead(1, 3) == 0, "what ends the segment is not known to be durable"
    assert journal.purging.clear_dead(1, 5) > 2 * len(b"walnut")
    assert journal.purging.clear_dead(1, 5) == 0
    assert list(journal.follow()) == found
    segment = faulty.open("journal/0001/00000001.seg", write=False)
    assert b"walnut" not in segment.read(segment.size_bytes(), 0)
    journal.close()
