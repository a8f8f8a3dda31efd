"""Who signed what: keys, the checkpoint log, and checkpoints that were kept elsewhere."""

import pytest
from tests.crash.damage import Files, disk_of, files_of
from tests.verify.stores import Store, Writer, make_store, verify

from custody.errors import InvalidInput
from custody.journal.checkpoint import Signer, Verifier, parse_log, parse_verifiers, sign_note
from custody.journal.disk_memory import MemoryDisk

LOG, PUBLIC, PRIVATE = "checkpoints/log", "keys/checkpoint.pub", "keys/checkpoint.key"


@pytest.fixture(scope="module")
def store() -> Store:
    return make_store()


def what(files: Files, anchors: list[bytes] | None = None, **wanted: object) -> list[str]:
    return [fault.what for fault in verify(files, anchors, **wanted).faults]


def log_of(files: Files, count: int) -> bytes:
    """The first notes of the log."""
    notes = parse_log(files[LOG]).notes
    return b"\n".join(note.data for note in notes[:count])


def resigned(files: Files, seed: int) -> Files:
    """The whole log signed by another key of the same name."""
    notes = parse_log(files[LOG]).notes
    signer = Signer(notes[0].checkpoint.origin, bytes([seed]) * 32)
    return {**files, LOG: b"\n".join(sign_note(note.checkpoint, [signer]).data for note in notes)}


def without(files: Files, *paths: str) -> Files:
    return {path: data for path, data in files.items() if path not in paths}


# -- the store alone ----------------------------------------------------------------------------------------


def test_an_older_log_has_lost_checkpoints(store: Store) -> None:
    """The writers' own records say how many they saw, and the place of the newest how many there were."""
    for count in range(1, 5):
        found = what({**store.files, LOG: log_of(store.files, count)})
        assert any(sentence.endswith(f"and only {count} are there") for sentence in found), count


def test_a_missing_log_is_found(store: Store) -> None:
    found = what(without(store.files, LOG))
    assert "a key is on the record, and there is no checkpoint" in found
    assert "no checkpoint covers any record" in found


def test_a_missing_public_key_is_something_missing(store: Store) -> None:
    report = verify(without(store.files, PUBLIC))
    assert (report.exit_code, report.fault_count) == (2, 0)
    assert [problem.file for problem in report.problems] == [PUBLIC]


def test_a_copy_without_the_private_key_is_intact(store: Store) -> None:
    report = verify(without(store.files, PRIVATE))
    assert report.ok
    assert "cannot sign" in next(note.what for note in report.notes if note.file == PRIVATE)


def test_checkpoints_of_another_key_do_not_count(store: Store) -> None:
    found = what(resigned(store.files, 7))
    assert len([sentence for sentence in found if "no key that is on the record" in sentence]) == len(
        parse_log(store.files[LOG]).notes
    )


def test_one_checkpoint_of_another_key_is_named(store: Store) -> None:
    notes = parse_log(store.files[LOG]).notes
    for number in range(len(notes)):
        other = Signer(notes[0].checkpoint.origin, bytes(32))
        changed = [*notes]
        changed[number] = sign_note(notes[number].checkpoint, [other])
        report = verify({**store.files, LOG: b"\n".join(note.data for note in changed)})
        assert any(
            fault.file == LOG and fault.what.startswith(f"checkpoint {number + 1}: it is signed by")
            for fault in report.faults
        )


def test_checkpoints_swapped_doubled_or_left_out_are_found(store: Store) -> None:
    notes = [note.data for note in parse_log(store.files[LOG]).notes]
    for at in range(len(notes) - 1):
        swapped = [*notes[:at], notes[at + 1], notes[at], *notes[at + 2 :]]
        doubled = [*notes[: at + 1], notes[at], *notes[at + 1 :]]
        removed = [*notes[:at], *notes[at + 1 :]]
        for changed in (swapped, doubled, removed):
            report = verify({**store.files, LOG: b"\n".join(changed)})
            assert any(fault.file == LOG for fault in report.faults)


def test_a_replaced_key_signs_no_more(store: Store) -> None:
    """The old private key was taken: what it signs after the rotation is not believed."""
    disk = MemoryDisk()
    writer = Writer(disk)
    writer.run(1)
    writer.seal()
    old = Signer.parse((disk.read_all(PRIVATE) or b"").decode().split("\n")[0])
    writer.sealer.rotate_key(wait_seconds=20)
    writer.run(1)
    writer.seal()
    writer.close()
    files = files_of(disk)
    notes = parse_log(files[LOG]).notes
    forged = [*notes[:-1], sign_note(notes[-1].checkpoint, [old])]
    found = what({**files, LOG: b"\n".join(note.data for note in forged)})
    assert any("had been replaced before" in sentence for sentence in found)


def test_an_interrupted_checkpoint_is_a_note_at_every_length() -> None:
    record = make_unseen()
    assert verify(record).ok
    last = parse_log(record[LOG]).notes[-1]
    begin = len(record[LOG]) - len(last.data)
    for length in range(begin, len(record[LOG])):
        report = verify({**record, LOG: record[LOG][:length]})
        assert [fault.what for fault in report.faults if fault.file == LOG] == [], length


def make_unseen() -> Files:
    """A store whose last checkpoint no writer has seen."""
    disk = MemoryDisk()
    writer = Writer(disk)
    writer.run(1)
    writer.seal()
    writer.run(1)
    writer.seal()
    writer.close()
    return without(files_of(disk), "checkpoints/place")


def test_records_without_any_checkpoint_are_not_called_intact() -> None:
    disk = MemoryDisk()
    writer = Writer(disk)
    writer.run(2)
    writer.close()
    assert what(files_of(disk)) == ["no checkpoint covers any record"]


def test_an_empty_store_is_intact() -> None:
    report = verify({})
    assert (report.ok, report.verdict) == (True, "Intact: there are no records.")


# -- a key given --------------------------------------------------------------------------------------------


def keys_of(files: Files) -> list[Verifier]:
    return parse_verifiers(files[PUBLIC].decode())


def test_with_the_newest_key_given_all_is_signed_under_it(store: Store) -> None:
    report = verify(store.files, public_keys=keys_of(store.files)[-1:])
    assert report.ok
    assert all(shard.signed == shard.records for shard in report.shards)


def test_with_only_the_replaced_key_given_the_newest_checkpoints_do_not_count(store: Store) -> None:
    report = verify(store.files, public_keys=keys_of(store.files)[:1])
    assert any("no key that is given" in fault.what for fault in report.faults)
    assert report.shards[0].signed < report.shards[0].records


def test_a_store_replaced_as_a_whole_is_shown_by_a_key_or_an_anchor(store: Store) -> None:
    """Records, log and keys made anew by somebody: intact in itself."""
    other = make_store()
    assert verify(other.files).ok
    assert any(
        "no key that is given" in sentence for sentence in what(other.files, public_keys=keys_of(store.files))
    )
    with pytest.raises(InvalidInput, match="another store"):
        verify(other.files, store.anchors)


# -- anchors ------------------------------------------------------------------------------------------------


def test_each_anchor_is_part_of_the_store(store: Store) -> None:
    for anchor in store.anchors:
        report = verify(store.files, [anchor])
        assert report.ok
        assert report.anchors == 1
    assert verify(store.files, [b"\n".join(store.anchors)]).anchors == len(store.anchors)


def test_a_tail_cut_with_its_seals_is_shown_by_an_anchor() -> None:
    """An older copy of the whole store, put in its place: nothing in it can know."""
    disk = MemoryDisk()
    writer = Writer(disk)
    writer.run(2)
    writer.seal()
    writer.close()
    before = files_of(disk)
    writer = Writer(disk)
    writer.run(2)
    anchor = writer.seal()
    writer.close()
    assert verify(before).ok
    report = verify(before, [anchor])
    assert report.exit_code == 1
    found = [fault.what for fault in report.faults]
    assert any("and the log has only 1" in sentence for sentence in found)
    assert any(
        "vouches for" in sentence and fault.shard == 1 for fault in report.faults for sentence in [fault.what]
    )


def test_a_history_rewritten_with_the_stores_own_key_is_shown_by_an_anchor() -> None:
    disk = MemoryDisk()
    writer = Writer(disk)
    writer.seal()
    writer.close()
    begun = files_of(disk)
    anchors: list[bytes] = []
    ends: list[Files] = []
    for result in ("what happened", "what somebody wishes had"):
        again = disk_of(begun)
        writer = Writer(again)
        writer.run(3, result=result)
        anchors.append(writer.seal())
        writer.close()
        ends.append(files_of(again))
    assert verify(ends[1]).ok
    found = what(ends[1], [anchors[0]])
    assert any("not the one that was kept elsewhere" in sentence for sentence in found)
    assert any("are not those the anchor" in sentence for sentence in found)


def test_what_is_no_anchor_is_refused(store: Store) -> None:
    for data in (b"", b"not a checkpoint\n", store.anchors[0][:-20], store.anchors[0] + b"\nmore\n"):
        with pytest.raises(InvalidInput):
            verify(store.files, [data])


def test_a_changed_anchor_is_never_believed(store: Store) -> None:
    anchor = store.anchors[-1]
    for offset in range(0, len(anchor), 3):
        changed = bytearray(anchor)
        changed[offset] ^= 0x01
        try:
            report = verify(store.files, [bytes(changed)])
        except InvalidInput:
            continue
        assert report.exit_code == 1 or report.anchors == 0, offset
