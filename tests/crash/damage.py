"""Lane 6: a small log, damaged in one place, and what reading it may answer."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.crash.lanes import WAIT_SECONDS, tiny_settings
from tests.crash.oracle import TAG, Oracle

from custody.errors import CorruptJournal
from custody.journal import Journal, Stored
from custody.journal.disk import Disk
from custody.journal.disk_memory import MemoryDisk

Files = dict[str, bytes]
Open = Callable[[Disk], Journal]


def open_tiny(disk: Disk) -> Journal:
    return Journal(disk, settings=tiny_settings(2048))


@dataclass
class Log:
    """A log's files and its records as they were before any damage."""

    files: Files
    records: list[Stored]
    durable: int
    """So many were durable, which the log itself tells: none of those may be missing without a word."""

    def segments(self) -> list[str]:
        return sorted(path for path in self.files if path.endswith(".seg"))

    def frame_at(self, path: str, offset: int) -> Stored | None:
        """The record whose frame this byte belongs to, its padding left out."""
        for stored in self.records:
            end = stored.offset + 32 + len(stored.leaf) + len(stored.payload)
            if path == segment_path(stored) and stored.offset <= offset < end:
                return stored
        return None


def segment_path(stored: Stored) -> str:
    return f"journal/{stored.shard:04d}/{stored.segment:08d}.seg"


def make_log(*, closed: bool, records: int = 14, open_journal: Open = open_tiny) -> Log:
    """Over several segments; when not closed, the last three records were never synced."""
    disk, oracle, chance = MemoryDisk(), Oracle(), random.Random(7)
    journal = open_journal(disk)
    for number in range(records):
        payload_bytes = chance.choice((0, 30, 300, 1200))
        _, receipt = oracle.issue(journal, chance, payload_bytes=payload_bytes)
        if number < records - 3:
            receipt.wait_durable(WAIT_SECONDS)
    if closed:
        journal.close()
    files = files_of(disk)
    journal.close()
    found = read(disk_of(files))
    assert isinstance(found, list)
    assert oracle.judge(found) == []
    return Log(files, found, records if closed else records - 3)


def files_of(disk: MemoryDisk, folder: str = "") -> Files:
    found: Files = {}
    for name in disk.names(folder):
        path = f"{folder}/{name}" if folder else name
        content = disk.read_all(path)
        found |= files_of(disk, path) if content is None else {path: content}
    return found


def disk_of(files: Files) -> MemoryDisk:
    disk = MemoryDisk()
    for path, content in files.items():
        if "/" in path:
            disk.make_folder(path.rpartition("/")[0])
        disk.open(path, create=True).put(content, 0)
    return disk


def read(disk: Disk, open_journal: Open = open_tiny) -> list[Stored] | CorruptJournal:
    journal = open_journal(disk)
    try:
        return list(journal.follow())
    except CorruptJournal as error:
        return error
    finally:
        journal.close()


def lease(disk: Disk, open_journal: Open = open_tiny) -> list[Stored] | CorruptJournal:
    """As a writer opens it: what is cut is cut, and then it is read."""
    journal = open_journal(disk)
    try:
        journal.lease()
        return list(journal.follow())
    except CorruptJournal as error:
        return error
    finally:
        journal.close()


# -- judgement ----------------------------------------------------------------------------------------


def content(records: list[Stored]) -> list[tuple[int, int, int, bytes, bytes]]:
    return [(stored.shard, stored.sequence, stored.kind, stored.leaf, stored.payload) for stored in records]


def judge(log: Log, answer: list[Stored] | CorruptJournal, damaged: Stored | None) -> str | None:
    """What is wrong with the answer of a reader; None when nothing is."""
    if isinstance(answer, CorruptJournal):
        return judge_name(answer, damaged)
    theirs = [stored for stored in answer if stored.leaf.startswith(TAG)]
    whole = content(log.records)
    if content(theirs) != whole[: len(theirs)]:
        return "other records are accepted"
    if len(theirs) < log.durable:
        return "durable records are missing without a word"
    if damaged is not None and log.durable < damaged.sequence != len(theirs) + 1:
        return f"the damage is at {damaged.sequence}, {len(theirs)} records are read"
    if [stored.sequence for stored in answer] != list(range(1, len(answer) + 1)):
        return "sequences are not contiguous"
    return None


def judge_name(error: CorruptJournal, damaged: Stored | None) -> str | None:
    details = error.details
    if not {"shard", "segment", "offset", "sequence"} <= details.keys():
        return f"the place is not named: {details}"
    if damaged is None:
        return None
    place = (details["shard"], details["segment"], details["offset"], details["sequence"])
    named = (damaged.shard, damaged.segment, damaged.offset, damaged.sequence)
    return None if place == named else f"named {place}, damaged is {named}"


# -- damages ------------------------------------------------------------------------------------------


def flips(log: Log, step: int, bits: tuple[int, ...]) -> Iterator[tuple[str, Files, Stored | None]]:
    """Every byte that is in use when `step` is 1; else headers and leaves, and every so many bytes."""
    for path in log.segments():
        for offset in range(len(log.files[path])):
            frame = log.frame_at(path, offset)
            inner = frame is not None and offset - frame.offset < 32 + len(frame.leaf)
            if offset % step and not (inner and step < 100 and offset % 3 == 0):
                continue
            for bit in bits:
                data = bytearray(log.files[path])
                data[offset] ^= bit
                yield f"{path} {offset} ^{bit}", {**log.files, path: bytes(data)}, frame


def truncations(log: Log, step: int) -> Iterator[tuple[str, Files]]:
    for path in log.segments():
        for length in range(0, len(log.files[path]), step):
            yield f"{path} cut to {length}", {**log.files, path: log.files[path][:length]}


def frame_moves(log: Log) -> Iterator[tuple[str, Files]]:
    """Neighbouring frames of a segment swapped, one written over the other, one taken out."""
    for first, second in pairwise(log.records):
        if first.segment != second.segment or first.shard != second.shard:
            continue
        path = segment_path(first)
        data = log.files[path]
        start, middle = first.offset, second.offset
        end = second.end
        one, two = data[start:middle], data[middle:end]
        for what, between in (("swapped", two + one), ("doubled", one + one + two), ("deleted", two)):
            moved = (data[:start] + between + data[end:])[: len(data)]
            moved += bytes(len(data) - len(moved))
            yield f"{path} {what} at {start}", {**log.files, path: moved}
        over = data[:middle] + one + data[middle + len(one) :]
        yield f"{path} overwritten at {middle}", {**log.files, path: over}


def segment_moves(log: Log) -> Iterator[tuple[str, Files]]:
    paths = log.segments()
    for one, two in pairwise(paths):
        yield f"{one} and {two} swapped", {**log.files, one: log.files[two], two: log.files[one]}
        yield f"{one} copied over {two}", {**log.files, two: log.files[one]}
        yield f"{one} removed", {path: data for path, data in log.files.items() if path != one}
