"""A small store that has every structure, changed in one place: found, and the place named."""

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from tests.crash.damage import Files
from tests.how_many import todays_part
from tests.verify.stores import Store, make_store, verify

from custody.journal.frames import Decoder, decode_segment_header
from custody.verify import Finding


@pytest.fixture(scope="module")
def store() -> Store:
    return make_store()


class Layout:
    """Where the frames of a store's segments are."""

    def __init__(self, files: Files) -> None:
        self.frames: dict[str, list[tuple[int, int]]] = {}
        for path, data in files.items():
            if path.endswith(".seg"):
                header = decode_segment_header(data)
                assert header is not None
                decoder, offset = Decoder(header), 64
                found = self.frames[path] = [(0, 64)]
                while stored := decoder.search(data[offset:], offset):
                    found.append((stored.offset, stored.end))
                    offset = stored.end

    def around(self, path: str, offset: int) -> tuple[int, int]:
        """The frame, or the free space, that a byte belongs to."""
        end = 0
        for start, stop in self.frames[path]:
            if start <= offset < stop:
                return start, stop
            end = stop
        return end, 1 << 40


def left_behind(store: Store) -> list[tuple[str, int, int]]:
    """Bytes that provably carry nothing: records that were put again elsewhere after a failed sync or a torn
    put. Nothing reads them, and a power loss may have changed any of them."""
    report = verify(store.files)
    return [
        (note.file, note.offset, note.offset + (int(note.what.split()[0].replace(",", "")) + 7 & ~7))
        for note in report.notes
        if note.file is not None and note.offset is not None and "left when" in note.what
    ]


def carries_nothing(path: str, offset: int, left: list[tuple[str, int, int]]) -> bool:
    return any(path == file and start <= offset < stop for file, start, stop in left)


def names(finding: Finding, path: str, offset: int, layout: Layout) -> bool:
    if finding.file != path:
        return False
    if not path.endswith(".seg"):
        return True
    if finding.offset is None:
        return False
    start, stop = layout.around(path, offset)
    return start <= finding.offset < stop


def missed(store: Store, layout: Layout, path: str, offset: int, bits: int) -> str | None:
    """What is wrong with the answer to one changed byte."""
    data = bytearray(store.files[path])
    data[offset] ^= bits
    report = verify({**store.files, path: bytes(data)})
    found = [*report.faults, *report.problems]
    if report.exit_code == 0:
        return f"{path} {offset} ^{bits:#x}: not found ({[note.what for note in report.notes]})"
    if not any(names(finding, path, offset, layout) for finding in found):
        return f"{path} {offset} ^{bits:#x}: found at {[(f.file, f.offset, f.what) for f in found]}"
    return None


def test_an_unchanged_store_is_intact(store: Store) -> None:
    report = verify(store.files, store.anchors)
    assert (report.faults, report.problems, report.exit_code) == ([], [], 0)
    assert [(shard.records == shard.signed == shard.anchored) for shard in report.shards] == [True, True]
    assert report.blobs == 1
    assert len(report.keys) == 2


def offsets(data: bytes, step: int, seed: str) -> Iterator[int]:
    """Every byte when `step` is 1, else one of so many."""
    chance = random.Random(seed)
    for start in range(0, len(data), step):
        yield min(len(data) - 1, start + chance.randrange(step))


SHARES = 8
"""Every byte takes minutes: within three days each had its turn."""


def judge(store: Store, step: int, bits: tuple[int, ...], share: int | None = None) -> list[str]:
    """Of every byte, or of one of `SHARES` parts of them."""
    layout, left = Layout(store.files), left_behind(store)
    wrong: list[str] = []
    for path, data in store.files.items():
        near = 1 if step == 1 or len(data) < 400 else step
        for number, offset in enumerate(offsets(data, near, path)):
            if share not in (None, number % SHARES) or carries_nothing(path, offset, left):
                continue
            for bit in bits:
                found = missed(store, layout, path, offset, bit)
                if found is not None:
                    wrong.append(found)
    return wrong


def test_a_changed_byte_is_found_and_its_place_named(store: Store) -> None:
    assert judge(store, 397, (0x10,)) == []


@pytest.mark.long
@pytest.mark.parametrize("part", range(3))
def test_any_changed_byte_is_found_and_its_place_named(store: Store, part: int) -> None:
    share = todays_part(part, SHARES)
    assert judge(store, 1, (0x01,), share) + judge(store, 3, (0x80,), share) == []


# -- records and segments moved ---------------------------------------------------------------------------


def frames_moved(files: Files, layout: Layout) -> Iterator[tuple[str, str, int, Files]]:
    """Neighbouring frames of a segment swapped, one doubled, one taken out, one put over the next."""
    for path, frames in layout.frames.items():
        data = files[path]
        for (start, middle), (behind, end) in pairwise(frames[1:]):
            if middle != behind:
                continue
            one, two = data[start:middle], data[middle:end]
            changes = {"swapped": two + one, "doubled": one + one + two, "removed": two}
            for what, between in changes.items():
                moved = (data[:start] + between + data[end:])[: len(data)].ljust(len(data), b"\0")
                yield what, path, start, {**files, path: moved}
            over = data[:middle] + one + data[middle + len(one) :]
            yield "overwritten", path, middle, {**files, path: over}


def test_records_that_were_moved_are_found(store: Store) -> None:
    layout, left = Layout(store.files), left_behind(store)
    wrong: list[str] = []
    judged = 0
    for what, path, offset, files in frames_moved(store.files, layout):
        if carries_nothing(path, offset, left):
            continue
        judged += 1
        report = verify(files)
        shard = int(path.split("/")[1])
        if report.exit_code != 1 or not any(fault.shard == shard for fault in report.faults):
            wrong.append(
                f"{what} at {offset} of {path}: {[(f.file, f.offset, f.what) for f in report.faults]}"
            )
    assert wrong == []
    assert judged > 200


def test_segments_that_were_moved_are_found(store: Store) -> None:
    paths = [path for path in store.files if path.endswith(".seg")]
    for one, two in pairwise(sorted(paths)):
        files = store.files
        swapped = {**files, one: files[two], two: files[one]}
        copied = {**files, two: files[one]}
        removed = {path: data for path, data in files.items() if path != one}
        for changed in (swapped, copied, removed):
            assert verify(changed).exit_code == 1, (one, two)


def test_a_segment_cut_anywhere_is_found(store: Store) -> None:
    for path, data in store.files.items():
        if path.endswith(".seg"):
            for length in range(0, len(data), 211):
                report = verify({**store.files, path: data[:length]})
                assert report.exit_code == 1, (path, length)
                assert any(fault.file is not None and path[:12] in fault.file for fault in report.faults)


def test_the_end_of_every_shard_zeroed_is_found(store: Store) -> None:
    """As if the last records had never been: each cut at a frame's edge gives a shorter, valid shard."""
    layout = Layout(store.files)
    for path in ("journal/0001/00000004.seg", "journal/0002/00000002.seg"):
        for start, _ in layout.frames[path][1:]:
            data = store.files[path][:start].ljust(len(store.files[path]), b"\0")
            report = verify({**store.files, path: data})
            assert report.exit_code == 1, (path, start)


def test_stale_bytes_behind_the_end_are_found(store: Store) -> None:
    """Frames of the same segment, and of another, as a recycled file would have them."""
    layout = Layout(store.files)
    last = "journal/0001/00000004.seg"
    end = layout.frames[last][-1][1]
    for source in layout.frames:
        for start, stop in layout.frames[source][1:3]:
            stale = store.files[source][start:stop]
            data = store.files[last]
            report = verify({**store.files, last: data[:end] + stale + data[end + len(stale) :]})
            assert [fault.file for fault in report.faults] == [last], source
            assert report.faults[0].offset == end or report.faults[0].offset == end + _zeros_before(stale)


def _zeros_before(data: bytes) -> int:
    return len(data) - len(data.lstrip(b"\0"))


def test_a_whole_shard_removed_is_found(store: Store) -> None:
    files = {path: data for path, data in store.files.items() if not path.startswith("journal/0002/")}
    report = verify(files)
    assert [fault.what for fault in report.faults if fault.shard == 2] == ["the whole shard is missing"]


# -- blobs --------------------------------------------------------------------------------------------------


def blob_of(store: Store) -> str:
    (path,) = (path for path in store.files if path.startswith("blobs/"))
    return path


def test_a_missing_blob_names_the_record_that_needs_it(store: Store) -> None:
    files = {path: data for path, data in store.files.items() if path != blob_of(store)}
    (fault,) = verify(files).faults
    assert "is missing" in fault.what
    assert (fault.shard, fault.sequence, bool(fault.call_id)) == (1, 22, True)


def test_a_blob_replaced_by_another_is_found(store: Store) -> None:
    import zstandard

    other = zstandard.ZstdCompressor().compress(b"something else")
    (fault,) = verify({**store.files, blob_of(store): other}).faults
    assert (fault.file, fault.what) == (
        blob_of(store),
        "the blob has 14 bytes, and the record says 43202",
    ) or ("not what its name says" in fault.what)


def test_a_blob_nobody_needs_is_a_note(store: Store) -> None:
    import hashlib

    import zstandard

    name = hashlib.sha256(b"alone").hexdigest()
    files = {**store.files, f"blobs/{name[:2]}/{name}": zstandard.ZstdCompressor().compress(b"alone")}
    report = verify(files)
    assert report.ok
    assert "1 blobs that no record refers to" in [note.what for note in report.notes]


# -- payloads -----------------------------------------------------------------------------------------------


def test_a_payload_erased_without_a_tombstone_is_found(store: Store) -> None:
    """Zeroed as a purge does it, by somebody who did not put it on the record."""
    from custody.journal.frames import purged_payload

    path = "journal/0001/00000001.seg"
    layout = Layout(store.files)
    for start, stop in layout.frames[path][2:]:
        leaf, payload = (
            int.from_bytes(store.files[path][start + at : start + at + 4], "little") for at in (16, 20)
        )
        begin = start + 32 + leaf
        data = store.files[path]
        erased = data[:begin] + purged_payload(payload, begin) + data[begin + payload :]
        if payload < 9 or data == erased or start >= 3728:
            continue
        (fault,) = verify({**store.files, path: erased}).faults
        assert "no tombstone" in fault.what
        assert (fault.file, fault.offset) == (path, start), stop


def test_files_that_do_not_belong_are_named(store: Store) -> None:
    report = verify({**store.files, "journal/0001/notes.txt": b"mine", "extra": b"?"})
    assert report.ok
    assert {"extra", "journal/0001/notes.txt"} <= {note.file for note in report.notes}
