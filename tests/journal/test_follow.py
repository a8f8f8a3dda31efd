"""Cursors: what a reader sees, where it stands, and what makes it step back."""

import errno
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from custody.errors import CorruptJournal, NotRecorded
from custody.journal import Cursor, Journal, Stored
from custody.journal.disk import Disk, RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.disk_memory import MemoryDisk
from custody.records import Event, Kind, Redacted, decode_leaf

OpenJournal = Callable[..., Journal]


def put(journal: Journal, number: int, size: int = 200) -> None:
    journal.append(Kind.STEP, b"leaf %d" % number, Redacted(b"p" * size))


def read(journal: Journal, cursor: Cursor | None = None) -> tuple[list[Stored], Cursor]:
    following = journal.follow(cursor)
    return list(following), following.cursor


def sequences(found: list[Stored]) -> list[tuple[int, int]]:
    return [(stored.shard, stored.sequence) for stored in found]


def test_a_cursor_gives_each_record_once(disk: Disk, open_journal: OpenJournal) -> None:
    writer, other, reader = open_journal(disk), open_journal(disk), open_journal(disk)
    cursor, seen = None, []
    for number in range(60):
        put(writer, number)
        if number % 3 == 0:
            put(other, number)
        if number % 7 == 0:
            found, cursor = read(reader, cursor)
            seen += found
    found, cursor = read(reader, cursor)
    seen += found
    assert sorted(sequences(seen)) == [(1, n) for n in range(1, 61)] + [(2, n) for n in range(1, 21)]
    assert read(reader, cursor) == ([], cursor)


def test_a_reader_that_stops_anywhere_goes_on_from_there(disk: Disk, open_journal: OpenJournal) -> None:
    writer, other = open_journal(disk), open_journal(disk)
    for number in range(25):
        put(writer, number)
        put(other, number)
    everything, end = read(writer)
    for stop in range(len(everything)):
        following = writer.follow()
        for count, _ in enumerate(following):
            if count == stop:
                break
        assert sequences(read(writer, following.cursor)[0]) == sequences(everything[stop + 1 :])
        assert read(writer, following.cursor)[1] == end


def test_a_cursor_survives_as_text(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    for number in range(20):
        put(journal, number)
    _, cursor = read(journal)
    assert Cursor.from_json(cursor.to_json()) == cursor
    put(journal, 20)
    assert sequences(read(journal, Cursor.from_json(cursor.to_json()))[0]) == [(1, 21)]
    with pytest.raises(msgspec.ValidationError):
        Cursor.from_json('{"1": [1, 2]}')


def test_a_cursor_moves_by_one_record(disk: Disk, open_journal: OpenJournal) -> None:
    journal = open_journal(disk)
    for number in range(30):
        put(journal, number)
    cursor = Cursor()
    for stored in journal.follow():
        cursor = cursor.after(stored)
        assert sequences(read(journal, cursor)[0])[:1] == (
            [(1, stored.sequence + 1)] if stored.sequence < 30 else []
        )


def test_a_record_that_is_not_whole_is_not_there_yet(tmp_path: Path, open_journal: OpenJournal) -> None:
    journal = open_journal(RealDisk(tmp_path))
    for number in range(3):
        put(journal, number)
    last = list(journal.follow())[-1]
    path = tmp_path / "journal/0001/00000001.seg"
    whole = path.read_bytes()
    reader = open_journal(RealDisk(tmp_path))
    for length in (1, 4, 31, 32, 40, last.end - last.offset - 20):
        path.write_bytes(whole[: last.offset + length].ljust(len(whole), b"\0"))
        found, cursor = read(reader)
        assert sequences(found) == [(1, 1), (1, 2)]
    path.write_bytes(whole)
    assert sequences(read(reader, cursor)[0]) == [(1, 3)]


def test_records_written_again_after_a_failed_sync_come_once_more(open_journal: OpenJournal) -> None:
    disk = FaultyDisk(MemoryDisk())
    journal = open_journal(disk)
    put(journal, 0)
    journal.sync()
    put(journal, 1)
    put(journal, 2)
    before, cursor = read(journal)
    disk.inject(Fault(operation="sync", error=errno.EIO))
    journal.sync()
    after, cursor = read(journal, cursor)
    assert sequences(before) == [(1, 1), (1, 2), (1, 3)]
    assert sequences(after) == [(1, 2), (1, 3), (1, 4)]
    assert [stored.leaf for stored in after[:2]] == [stored.leaf for stored in before[1:]]
    assert read(journal, cursor)[0] == []


def test_records_before_a_put_that_a_kill_cut_short_come_once_more(open_journal: OpenJournal) -> None:
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    writer, reader = open_journal(disk), open_journal(memory)
    put(writer, 0)
    writer.sync()
    put(writer, 1)
    put(writer, 2)
    before, cursor = read(reader)
    disk.inject(Fault(operation="put", put_bytes=100), Fault(operation="any", at=2, times=None))
    with pytest.raises(NotRecorded):
        put(writer, 3)
    with pytest.raises(NotRecorded):
        writer.close()  # frees the shard, and leaves the disk as it is
    assert read(reader, cursor) == ([], cursor)
    put(open_journal(memory), 4)
    after, cursor = read(reader, cursor)
    assert sequences(before) == [(1, 1), (1, 2), (1, 3)]
    assert sequences(after) == [(1, 2), (1, 3), (1, 4), (1, 5)]
    assert [(stored.leaf, stored.payload) for stored in after[:2]] == [
        (stored.leaf, stored.payload) for stored in before[1:]
    ]
    repaired, last = decode_leaf(after[2].kind, after[2].leaf), after[3].leaf
    assert isinstance(repaired, Event)
    assert repaired.name == "journal.repaired"
    assert last == b"leaf 4"
    assert read(reader, cursor)[0] == []
    assert read(reader)[0] == before[:1] + after


def test_records_that_were_durable_and_are_gone_are_missed(tmp_path: Path, open_journal: OpenJournal) -> None:
    journal = open_journal(RealDisk(tmp_path))
    for number in range(4):
        put(journal, number)
    third = list(journal.follow())[2]
    journal.close()
    path = tmp_path / "journal/0001/00000001.seg"
    data = path.read_bytes()
    path.write_bytes(data[: third.offset].ljust(len(data), b"\0"))
    found: list[Stored] = []
    with pytest.raises(CorruptJournal) as caught:
        found.extend(open_journal(RealDisk(tmp_path)).follow())
    assert caught.value.details == {"shard": 1, "segment": 1, "offset": third.offset, "sequence": 3}


def test_damage_in_one_shard_keeps_nobody_from_reading_the_others(
    tmp_path: Path, open_journal: OpenJournal
) -> None:
    first, second = open_journal(RealDisk(tmp_path)), open_journal(RealDisk(tmp_path))
    for number in range(3):
        put(first, number)
        put(second, number)
    bad = next(iter(first.follow()))
    first.close()
    second.close()
    path = tmp_path / "journal/0001/00000001.seg"
    data = bytearray(path.read_bytes())
    data[bad.offset + 40] ^= 0xFF
    path.write_bytes(data)
    found: list[Stored] = []
    following = open_journal(RealDisk(tmp_path)).follow()
    with pytest.raises(CorruptJournal) as caught:
        found.extend(following)
    assert caught.value.details["shard"] == 1
    assert sequences(found) == [(2, 1), (2, 2), (2, 3)]
    assert following.cursor.places[2][2] == 4


def test_a_missing_segment_is_missed(tmp_path: Path, open_journal: OpenJournal) -> None:
    journal = open_journal(RealDisk(tmp_path))
    for number in range(60):
        put(journal, number)
    journal.close()
    paths = sorted((tmp_path / "journal/0001").glob("*.seg"))
    assert len(paths) >= 3
    for path in paths:
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(CorruptJournal):
            list(open_journal(RealDisk(tmp_path)).follow())
        path.write_bytes(data)
    assert len(list(open_journal(RealDisk(tmp_path)).follow())) == 60


def test_a_copy_of_frames_inside_a_payload_is_no_frame(tmp_path: Path, open_journal: OpenJournal) -> None:
    """A command that prints the journal puts believable frames into a payload."""
    journal = open_journal(RealDisk(tmp_path), first_segment_bytes=1 << 16, segment_bytes_max=1 << 16)
    for number in range(5):
        put(journal, number)
        journal.sync()
    path = tmp_path / "journal/0001/00000001.seg"
    copied = path.read_bytes()[:2000]
    journal.append(Kind.STEP, b"copy", Redacted(copied))
    last = list(journal.follow())[-1]
    data = bytearray(path.read_bytes())
    data[last.offset] ^= 1
    path.write_bytes(bytes(data))
    assert sequences(read(open_journal(RealDisk(tmp_path)))[0]) == [(1, number) for number in range(1, 6)]
