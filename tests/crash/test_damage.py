"""Lane 6: bytes flipped, lengths cut, frames and segments moved: named, or a tail; never accepted."""

import random
from collections.abc import Callable, Iterator

import pytest
from tests.crash.damage import (
    Files,
    Log,
    disk_of,
    files_of,
    flips,
    frame_moves,
    judge,
    lease,
    make_log,
    open_tiny,
    read,
    segment_moves,
    segment_path,
    truncations,
)
from tests.crash.lanes import WAIT_SECONDS
from tests.crash.oracle import Oracle

from custody.errors import CorruptJournal
from custody.journal import Stored
from custody.journal.disk import Disk
from custody.journal.disk_memory import MemoryDisk
from custody.records import Redacted

Reader = Callable[[Disk], "list[Stored] | CorruptJournal"]


@pytest.fixture(scope="module", params=[True, False], ids=["closed", "not closed"])
def log(request: pytest.FixtureRequest) -> Log:
    return make_log(closed=request.param)


def judge_all(log: Log, reader: Reader, damages: Iterator[tuple[str, Files, Stored | None]]) -> list[str]:
    wrong: list[str] = []
    for what, files, damaged in damages:
        found = judge(log, reader(disk_of(files)), damaged)
        if found is not None:
            wrong.append(f"{what}: {found}")
    return wrong


def unplaced(damages: Iterator[tuple[str, Files]]) -> Iterator[tuple[str, Files, Stored | None]]:
    return ((what, files, None) for what, files in damages)


@pytest.mark.parametrize("reader", [read, lease])
def test_an_undamaged_log_reads_as_it_was_written(log: Log, reader: Reader) -> None:
    assert judge(log, reader(disk_of(log.files)), None) is None


@pytest.mark.parametrize("reader", [read, lease])
def test_a_flipped_bit_is_named_or_a_tail(log: Log, reader: Reader) -> None:
    assert judge_all(log, reader, flips(log, 211, (0x10,))) == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("reader", [read, lease])
def test_any_flipped_byte_is_named_or_a_tail(log: Log, reader: Reader) -> None:
    assert judge_all(log, reader, flips(log, 1, (0x01, 0x80))) == []


@pytest.mark.parametrize("reader", [read, lease])
def test_a_cut_segment_is_named_or_a_tail(log: Log, reader: Reader) -> None:
    assert judge_all(log, reader, unplaced(truncations(log, 97))) == []


@pytest.mark.parametrize("reader", [read, lease])
def test_frames_that_were_moved_are_named(log: Log, reader: Reader) -> None:
    damages = list(frame_moves(log))
    assert damages
    assert judge_all(log, reader, unplaced(iter(damages))) == []


@pytest.mark.parametrize("reader", [read, lease])
def test_segments_that_were_moved_are_named(log: Log, reader: Reader) -> None:
    damages = list(segment_moves(log))
    assert damages
    assert judge_all(log, reader, unplaced(iter(damages))) == []


def test_a_torn_record_is_not_taken_for_a_purged_one() -> None:
    """Its header and leaf reached the disk, the sectors of its payload did not: they are zero there."""
    disk, oracle, chance = MemoryDisk(), Oracle(), random.Random(3)
    journal = open_tiny(disk)
    first, receipt = oracle.issue(journal, chance)
    receipt.wait_durable(WAIT_SECONDS)
    oracle.issue(journal, chance, payload_bytes=600)
    files = files_of(disk)
    torn = read(disk_of(files))
    journal.close()
    assert isinstance(torn, list)
    stored = torn[-1]
    path, start = segment_path(stored), stored.offset + 32 + len(stored.leaf)
    stop = start + len(stored.payload)
    data = files[path][:start] + bytes(len(stored.payload)) + files[path][stop:]
    answer = lease(disk_of({**files, path: data}))
    assert isinstance(answer, list)
    assert [found.leaf for found in answer if found.leaf in oracle.by_leaf] == [first.leaf]


def test_a_damaged_blob_is_never_given_out() -> None:
    disk = MemoryDisk()
    journal = open_tiny(disk)
    data = bytes(range(256)) * 20
    digest = journal.put_blob(Redacted(data))
    journal.close()
    files = files_of(disk)
    (path,) = (path for path in files if digest.hex()[4:] in path)
    for offset in range(len(files[path])):
        for damaged in (files[path][:offset], flip(files[path], offset)):
            journal = open_tiny(disk_of({**files, path: damaged}))
            try:
                assert journal.get_blob(digest) == data
            except CorruptJournal:
                pass
            finally:
                journal.close()


def flip(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 0x40
    return bytes(changed)
