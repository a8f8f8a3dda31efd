"""What a checkpoint says, and what is not signed."""

import threading
from pathlib import Path

import pytest
from tests.checkpoints.conftest import PATIENCE_SECONDS, MakeWriter, events_of, judge, leaves_of, log_of

from custody.checkpoints import load_keys, newest_note, read_verifiers, seen_by_writer
from custody.errors import CheckpointRefused, MalformedKey, MalformedNote
from custody.journal import Disk, MemoryDisk, RealDisk
from custody.journal.checkpoint import Signer
from custody.journal.disk import Lock
from custody.journal.frames import extend


@pytest.fixture(params=["memory", "real"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else RealDisk(tmp_path / "store")


def flip_leaf(disk: Disk, number: int) -> None:
    """Change a leaf in place and make its frame believable again, as whoever can write the store would."""
    from custody.journal import Journal
    from custody.journal.frames import encode_frame
    from custody.journal.segments import SegmentCache, segment_path

    journal = Journal(disk)
    stored = next(stored for stored in journal.follow() if stored.sequence == number)
    journal.close()
    segment = SegmentCache(disk).segment(stored.shard, stored.segment)
    assert segment is not None
    leaf = stored.leaf.replace(b"app.number", b"app.another"[:10])
    assert leaf != stored.leaf
    frame = encode_frame(
        segment.header.crc_seed, stored.sequence, stored.unsynced, stored.kind, leaf, stored.payload
    )
    file = disk.open(segment_path(stored.shard, stored.segment))
    file.put(frame, stored.offset)
    file.close()


# -- what is signed -------------------------------------------------------------------------------------


def test_each_checkpoint_has_the_head_of_its_shard_and_goes_on_from_the_one_before(
    disk: Disk, writer_on: MakeWriter
):
    writer = writer_on(disk)
    for count in (1, 5, 90, 3):
        writer.write(count)
        writer.seal()
    assert judge(disk) == []
    notes = log_of(disk).notes
    assert [note.checkpoint.size for note in notes] == [1, 2, 3, 4]
    assert notes[-1].checkpoint.heads[1].size == len(leaves_of(disk)[1])
    assert all(note.signed_by(read_verifiers(disk)) for note in notes)


def test_with_nothing_new_no_checkpoint_is_made(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    writer.write()
    assert writer.seal() == writer.seal()
    assert len(log_of(disk).notes) == 1


def test_the_first_one_makes_a_private_key_and_puts_the_public_one_on_record(
    disk: Disk, writer_on: MakeWriter
):
    writer = writer_on(disk)
    writer.write()
    writer.seal()
    keys = load_keys(disk)
    assert keys is not None
    assert keys.verifiers == (keys.signer.verifier,)
    assert events_of(disk, "key.created") == [
        {"key": keys.signer.verifier.line, "key_id": keys.signer.verifier.key_id, "replaces": None}
    ]
    # The record of the key is under the first checkpoint already.
    assert log_of(disk).notes[0].checkpoint.heads[1].size == len(leaves_of(disk)[1])


def test_the_private_key_can_be_read_by_its_owner_alone(tmp_path: Path, writer_on: MakeWriter):
    writer_on(RealDisk(tmp_path / "store")).seal()
    assert (tmp_path / "store/keys/checkpoint.key").stat().st_mode & 0o777 == 0o600


def test_another_writers_shard_is_named_as_it_was_signed_last(disk: Disk, writer_on: MakeWriter):
    first, second = writer_on(disk), writer_on(disk)
    first.write(3)
    second.write(2)
    head = first.seal()
    first.write(7)
    second.seal()
    note = log_of(disk).notes[-1]
    assert list(note.checkpoint.heads) == [1, 2]
    assert note.checkpoint.heads[1] == head
    assert judge(disk) == []


def test_asked_for_all_it_signs_what_writers_that_are_gone_left(disk: Disk, writer_on: MakeWriter):
    writers = [writer_on(disk) for _ in range(3)]
    for count, writer in enumerate(writers, 1):
        writer.write(count * 30)
    for writer in writers:
        writer.journal.close()
    onlooker = writer_on(disk)
    onlooker.sealer.seal(all_shards=True)
    sizes = {shard: head.size for shard, head in log_of(disk).notes[-1].checkpoint.heads.items()}
    assert sizes == {shard: len(leaves) for shard, leaves in leaves_of(disk).items()}
    assert judge(disk) == []


def test_the_next_writer_signs_the_gap_its_last_one_left(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    writer.write(40)
    writer.seal()
    writer.write(200)
    writer.journal.close()
    after = writer_on(disk)
    after.write()
    assert after.seal().size == len(leaves_of(disk)[1])
    assert judge(disk) == []
    assert after.sealer.refused == {}


def test_without_the_view_of_where_it_stands_the_same_is_signed(disk: Disk, writer_on: MakeWriter):
    for _ in range(3):
        writer = writer_on(disk)
        writer.write(100)
        writer.seal()
        writer.write(50)
        writer.journal.close()
        disk.remove("checkpoints/place")
    assert judge(disk) == []
    assert len(log_of(disk).notes) == 3


def test_a_view_that_makes_no_sense_is_not_believed(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    writer.write(100)
    writer.seal()
    texts = (
        b'{"offset":-5,"size":1,"frontier":["AAAA"]}',
        b'{"offset":7,"size":1,"frontier":["AAAA"]}',
        b'{"offset":99999999,"size":4,"frontier":[]}',
        b'{"offset":0,"size":0,"frontier":[]}',
    )
    believable = [b"%08x %s" % (extend(0, text), text) for text in texts]
    for nonsense in (b"", b"\0" * 50, b"00000000 {}", b"not even this", *believable):
        disk.replace("checkpoints/place", nonsense)
        after = writer_on(disk)
        after.write()
        after.seal()
    assert judge(disk) == []
    assert len(log_of(disk).notes) == 9


def test_a_view_that_knows_another_log_stops_the_signing(disk: Disk, writer_on: MakeWriter):
    """It was written after a note was durable, so a log that has another one there was changed."""
    writer = writer_on(disk)
    for _ in range(2):
        writer.write()
        writer.seal()
    text = b'{"offset":0,"size":1,"frontier":["%s="]}' % (b"A" * 43)
    disk.replace("checkpoints/place", b"%08x %s" % (extend(0, text), text))
    after = writer_on(disk)
    after.write()
    with pytest.raises(CheckpointRefused, match="does not go on"):
        after.seal()


# -- who signs ------------------------------------------------------------------------------------------


def held(disk: Disk) -> Lock:
    lock = disk.lock("checkpoints/lock")
    assert lock is not None
    return lock


def test_whoever_does_not_get_the_right_to_sign_does_nothing(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    writer.write()
    disk.make_folder("checkpoints")
    lock = held(disk)
    assert writer.sealer.seal() is None
    assert writer.sealer.seal(wait_seconds=0.05) is None
    assert log_of(disk).notes == []
    lock.release()
    assert writer.seal().size > 0


def test_many_writers_that_sign_at_once_leave_one_log(tmp_path: Path, writer_on: MakeWriter):
    disk = RealDisk(tmp_path / "store")
    writers = [writer_on(disk) for _ in range(4)]

    def work(number: int) -> None:
        writer = writers[number]
        for _ in range(10):
            writer.write(1 + number)
            assert writer.sealer.seal(wait_seconds=PATIENCE_SECONDS) is not None

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert judge(disk) == []
    assert len(log_of(disk).notes) == 40
    assert len(events_of(disk, "key.created")) == 1
    sizes = {shard: head.size for shard, head in log_of(disk).notes[-1].checkpoint.heads.items()}
    assert sizes == {shard: len(leaves) for shard, leaves in leaves_of(disk).items()}


# -- what does not go on --------------------------------------------------------------------------------


def test_a_shard_whose_signed_records_were_changed_is_signed_no_further(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    writer.write(20)
    before = writer.seal()
    writer.write(5)
    writer.journal.close()
    disk.remove("checkpoints/place")
    flip_leaf(disk, 7)
    after = writer_on(disk)
    after.write()
    assert after.seal() == before
    assert list(after.sealer.refused) == [1]
    [said] = events_of(disk, "checkpoint.refused")
    assert (said["shard"], said["signed"]) == (1, {"size": before.size, "root": before.root.hex()})
    after.write()
    after.seal()
    assert len(events_of(disk, "checkpoint.refused")) == 1
    assert len(log_of(disk).notes) == 1


def test_a_shard_that_went_back_behind_its_signed_head_is_signed_no_further(
    tmp_path: Path, writer_on: MakeWriter
):
    disk, copy = RealDisk(tmp_path / "store"), tmp_path / "copy"
    writer = writer_on(disk)
    writer.write(10)
    writer.journal.close()
    (tmp_path / "store/journal").rename(copy)
    import shutil

    shutil.copytree(copy, tmp_path / "store/journal")
    again = writer_on(disk)
    again.write(10)
    signed = again.seal()
    again.journal.close()
    shutil.rmtree(tmp_path / "store/journal")
    copy.rename(tmp_path / "store/journal")
    after = writer_on(RealDisk(tmp_path / "store"))
    after.write()
    assert after.seal() == signed
    assert "records were signed" in after.sealer.refused[1]


def test_a_log_that_lost_checkpoints_is_not_gone_on_with(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    for _ in range(4):
        writer.write()
        writer.seal()
    whole = disk.read_all("checkpoints/log") or b""
    for cut in (log_of(disk).offsets[2] - 1, log_of(disk).offsets[3] + 30, 0):
        disk.replace("checkpoints/log", whole[:cut])
        for refusing in (writer, writer_on(disk)):
            refusing.write()
            with pytest.raises(CheckpointRefused, match="gone from"):
                refusing.seal()
        assert disk.read_all("checkpoints/log") == whole[:cut]
    disk.replace("checkpoints/log", whole)
    writer.seal()
    assert judge(disk) == []


def test_a_log_that_was_changed_is_not_gone_on_with(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    for _ in range(4):
        writer.write()
        writer.seal()
    whole = disk.read_all("checkpoints/log") or b""
    log = log_of(disk)
    pieces = [note.data for note in log.notes]
    forged = [
        b"\n".join((pieces[1], pieces[0], *pieces[2:])),
        b"\n".join((*pieces[:3], pieces[2])),
        whole.replace(b"shard 1", b"shard 2"),
        whole[: log.offsets[3]] + whole[log.offsets[3] :].replace(b"time 2", b"time 3"),
    ]
    disk.remove("checkpoints/place")  # which would have us read on from the newest one alone
    for data in forged:
        disk.replace("checkpoints/log", data)
        after = writer_on(disk)
        after.write()
        with pytest.raises((CheckpointRefused, MalformedNote)):
            after.seal()
        assert disk.read_all("checkpoints/log") == data


def test_a_newest_checkpoint_of_another_key_is_not_gone_on_with(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    writer.write()
    writer.seal()
    keys = load_keys(disk)
    assert keys is not None
    stranger = Signer(keys.signer.name, bytes(32))
    disk.replace("keys/checkpoint.pub", f"{stranger.verifier.line}\n".encode())
    writer.write()
    disk.replace("keys/checkpoint.key", f"{stranger.line}\n".encode())
    with pytest.raises(CheckpointRefused, match="not signed by any of its keys"):
        writer.seal()


# -- keys -----------------------------------------------------------------------------------------------


def test_a_new_key_replaces_the_old_one_and_both_sign_once(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    writer.write()
    writer.seal()
    old = read_verifiers(disk)[-1]
    note = writer.sealer.rotate_key()
    assert note is not None
    old_again, new = read_verifiers(disk)
    assert (old_again, new.name) == (old, old.name)
    assert note.signed_by([old]) and note.signed_by([new])
    assert events_of(disk, "key.created")[1] == {
        "key": new.line, "key_id": new.key_id, "replaces": old.key_id
    }  # fmt: skip
    writer.write()
    writer.seal()
    last = log_of(disk).notes[-1]
    assert last.signed_by([new]) and not last.signed_by([old])
    keys = load_keys(disk)
    assert keys is not None
    assert [signer.verifier for signer in keys.signers] == [new]
    assert judge(disk) == []


@pytest.mark.parametrize("left", ["everything else", "the log", "the record"])
def test_a_key_that_is_gone_is_not_replaced_unasked(disk: Disk, writer_on: MakeWriter, left: str):
    writer = writer_on(disk)
    writer.write()
    writer.seal()
    disk.remove("keys/checkpoint.key")
    if left != "everything else":
        disk.remove("keys/checkpoint.pub")
    if left == "the record":
        disk.remove("checkpoints/log")
        disk.remove("checkpoints/place")
    after = writer_on(disk)
    after.write()
    with pytest.raises(CheckpointRefused, match="is gone from"):
        after.seal()
    assert load_keys(disk) is None
    after.write()  # recording goes on
    name = events_of(disk, "key.created")[0]["key"].partition("+")[0]
    assert after.sealer.rotate_key() is not None
    assert judge(disk) == []
    if left != "the record":
        assert read_verifiers(disk)[-1].name == name


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"PRIVATE+KEY+x+00000000+AAAA\n", bytes(100)])
def test_a_key_that_cannot_be_read_is_an_error_and_never_replaced(
    disk: Disk, writer_on: MakeWriter, content: bytes
):
    writer = writer_on(disk)
    writer.write()
    writer.seal()
    disk.replace("keys/checkpoint.key", content)
    writer.write()
    with pytest.raises(MalformedKey, match=r"keys/checkpoint\.key does not hold keys"):
        writer.seal()
    assert disk.read_all("keys/checkpoint.key") == content


def test_a_death_between_the_steps_of_a_new_key_loses_nothing(disk: Disk, writer_on: MakeWriter):
    """The key is private first, then on the record, then public: whoever signs next takes the steps left."""
    writer = writer_on(disk)
    writer.write()
    writer.seal()
    keys = load_keys(disk)
    assert keys is not None
    new = Signer(keys.signer.name, b"\x05" * 32)
    disk.replace("keys/checkpoint.key", f"{new.line}\n{keys.signer.line}\n".encode())
    after = writer_on(disk)
    after.write()
    after.seal()
    assert read_verifiers(disk) == (keys.signer.verifier, new.verifier)
    assert events_of(disk, "key.created")[-1]["replaces"] == keys.signer.verifier.key_id
    note = log_of(disk).notes[-1]
    assert note.signed_by([keys.signer.verifier]) and note.signed_by([new.verifier])
    left = load_keys(disk)
    assert left is not None
    assert left.signers == (new,)


# -- what writers find ----------------------------------------------------------------------------------


def test_a_writer_finds_how_many_checkpoints_there_are(disk: Disk, writer_on: MakeWriter):
    unknown = {"checkpoints": None, "root": None}
    assert seen_by_writer(disk) == unknown
    writer = writer_on(disk)
    for _ in range(60):
        writer.write()
        writer.seal()
    root = log_of(disk).notes[-1].checkpoint.root.hex()
    assert seen_by_writer(disk) == {"checkpoints": 60, "root": root}
    whole = disk.read_all("checkpoints/log") or b""
    disk.replace("checkpoints/log", whole[:-20])
    assert seen_by_writer(disk)["checkpoints"] == 59
    disk.replace("checkpoints/log", b"")
    assert seen_by_writer(disk) == {"checkpoints": 0, "root": None}
    disk.replace("checkpoints/log", "something\n\n— that is none\n".encode())
    assert seen_by_writer(disk) == unknown


def test_the_newest_note_is_found_from_any_end_of_the_log(disk: Disk, writer_on: MakeWriter):
    writer = writer_on(disk)
    for _ in range(3):
        writer.write()
        writer.seal()
    log = log_of(disk)
    whole = disk.read_all("checkpoints/log") or b""
    for cut in range(0, len(whole) + 1, 7):
        disk.replace("checkpoints/log", whole[:cut])
        note = newest_note(disk)
        count = len([1 for offset, note_ in zip(log.offsets, log.notes, strict=True)
                     if offset + len(note_.data) <= cut])  # fmt: skip
        assert (note.checkpoint.size if note else 0) == count, cut
