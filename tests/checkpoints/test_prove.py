"""Proofs: made from a store, checked without it, and of nothing else than they say."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.checkpoints.conftest import MakeWriter, Writer, leaves_of, log_of
from tests.checkpoints.test_sealer import flip_leaf

from custody.checkpoints import InclusionProof, Prover, check_proof, parse_proof, read_verifiers
from custody.checkpoints.tiles import TILE_LEAVES, Tiles
from custody.errors import CheckpointRefused, InvalidInput
from custody.journal import Disk, JournalSettings, MemoryDisk, RealDisk, Stored
from custody.journal.checkpoint import Head, Note, Signer, sign_note
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.journal.proofs import Hashes, consistency_path, inclusion_path
from custody.journal.tree import Frontier, leaf_hash
from custody.records import Event, encode_leaf, kind_of

ROOMY = JournalSettings(flush_seconds=3600.0, spares_max=0)


@pytest.fixture
def writer(writer_on: MakeWriter) -> Writer:
    return writer_on(MemoryDisk(), settings=ROOMY)


def records_of(writer: Writer) -> list[Stored]:
    return list(writer.journal.follow())


def proof_of(writer: Writer, *sequences: int) -> dict[str, Any]:
    """As whoever is handed the document has it."""
    note = log_of(writer.disk).notes[-1]
    chosen = [stored for stored in records_of(writer) if stored.sequence in sequences]
    with Prover(writer.disk, writer.journal, note) as prover:
        return msgspec.json.decode(msgspec.json.encode(prover.inclusion("a run", chosen)))


# -- records --------------------------------------------------------------------------------------------


def test_every_record_under_a_checkpoint_can_be_proved(writer: Writer):
    writer.write(700)
    head = writer.seal()
    document = proof_of(writer, *range(1, head.size + 1))
    assert len(document["records"]) == head.size
    assert check_proof(document) == []
    assert check_proof(document, read_verifiers(writer.disk)) == []
    first = document["records"][0]
    assert (first["index"], first["size"], first["view"]["name"]) == (0, head.size, "writer.opened")


def test_a_proof_grows_with_the_store_and_the_older_one_still_holds(writer: Writer):
    writer.write(10)
    writer.seal()
    older = proof_of(writer, 5)
    writer.write(600)
    writer.seal()
    newer = proof_of(writer, 5)
    assert check_proof(older) == check_proof(newer) == []
    assert len(newer["records"][0]["path"]) > len(older["records"][0]["path"])


def test_a_record_that_is_not_signed_yet_is_not_proved(writer: Writer):
    writer.write(3)
    head = writer.seal()
    writer.write(3)
    with pytest.raises(CheckpointRefused, match="not under a checkpoint yet"):
        proof_of(writer, head.size + 1)


def test_of_records_that_were_changed_since_nothing_is_proved(writer: Writer):
    writer.write(30)
    writer.seal()
    flip_leaf(writer.disk, 9)
    with pytest.raises(CheckpointRefused, match="not those that were signed"):
        proof_of(writer, 20)


def swap_records(proof: dict[str, Any]) -> None:
    proof["records"][0]["leaf"], proof["records"][1]["leaf"] = (
        proof["records"][1]["leaf"],
        proof["records"][0]["leaf"],
    )


def of_record(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(proof: dict[str, Any]) -> None:
        proof["records"][0][name] = value

    return change


def in_path(proof: dict[str, Any]) -> None:
    proof["records"][0]["path"][0] = proof["records"][0]["path"][1]


def in_view(proof: dict[str, Any]) -> None:
    proof["records"][0]["view"]["name"] = "app.forged"


def in_note(was: str, becomes: str, proof: dict[str, Any]) -> None:
    assert was in proof["checkpoint"]
    proof["checkpoint"] = proof["checkpoint"].replace(was, becomes)


def no_records(proof: dict[str, Any]) -> None:
    proof["records"] = []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (swap_records, "another record"),
        (of_record("sequence", 8), "sequence minus one"),
        (of_record("index", 8), "sequence minus one"),
        (of_record("shard", 2), "another head"),
        (of_record("size", 40), "another head"),
        (of_record("kind", "call_finished"), "another kind"),
        (of_record("leaf", ""), "another record"),
        (in_path, "another record"),
        (in_view, "not what its leaf says"),
        (no_records, "of no record"),
        (functools.partial(in_note, "shard 1 42", "shard 1 41"), "not signed"),
        (functools.partial(in_note, "time 2", "time 3"), "not signed"),
        (functools.partial(in_note, "shard 1", "shard one"), "cannot be read"),
    ],
)
def test_a_changed_proof_is_found_out(writer: Writer, change: Callable[[dict[str, Any]], None], says: str):
    writer.write(39)
    assert writer.seal().size == 42 - 1
    writer.write(1)
    assert writer.seal().size == 42
    document = proof_of(writer, 7, 30)
    change(document)
    faults = check_proof(document)
    assert faults
    assert any(says in fault for fault in faults), faults


def test_a_proof_signed_by_somebody_else_is_found_out_by_who_has_the_key(writer: Writer):
    writer.write(5)
    writer.seal()
    document = proof_of(writer, 3)
    note = log_of(writer.disk).notes[-1]
    stranger = Signer(note.checkpoint.origin, bytes(32))
    document["checkpoint"] = sign_note(note.checkpoint, [stranger]).data.decode()
    document["keys"] = [stranger.verifier.line]
    assert check_proof(document) == []  # it fits together; who signed it, nobody was asked
    assert check_proof(document, read_verifiers(writer.disk)) == [
        "The checkpoint is not signed by any key that was given."
    ]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"form":"custody-inclusion/1"}', b'{"form":1}', b"[" * 100_000]
)
def test_what_is_no_proof_is_refused(data: bytes):
    with pytest.raises(InvalidInput, match="not a proof"):
        parse_proof(data)


def test_a_proof_with_something_that_is_not_base64_is_refused(writer: Writer):
    writer.write(5)
    writer.seal()
    document = proof_of(writer, 3)
    document["records"][0]["root"] = "never"
    with pytest.raises(InvalidInput, match="base64"):
        check_proof(document)


def test_a_leaf_is_of_one_kind_alone(writer: Writer):
    leaf = encode_leaf(Event(event_id=b"12345678", name="app.x", at_us=1, payload_digest=bytes(32)))
    assert kind_of(leaf) == 8
    assert kind_of(b"\x00") is None
    assert kind_of(b"\xff\xff") is None


# -- what was signed before -----------------------------------------------------------------------------


def consistency(writer: Writer, old: Note) -> tuple[list[str], list[str]]:
    """What the making says is wrong, and what the checking does."""
    with Prover(writer.disk, writer.journal, log_of(writer.disk).notes[-1]) as prover:
        made = prover.consistency(old)
    return list(made.faults), check_proof(msgspec.json.encode(made.proof))


def test_each_checkpoint_goes_on_from_each_earlier_one(writer: Writer):
    for count in (1, 30, 300, 3):
        writer.write(count)
        writer.seal()
    for note in log_of(writer.disk).notes:
        assert consistency(writer, note) == ([], [])


def test_with_two_writers_both_shards_are_proved(writer_on: MakeWriter):
    disk = MemoryDisk()
    first, second = writer_on(disk), writer_on(disk)
    for writer in (first, second, first, second):
        writer.write(20)
        writer.seal()
    assert [consistency(first, note) for note in log_of(disk).notes] == [([], [])] * 4


def test_a_checkpoint_of_another_store_is_refused(writer_on: MakeWriter):
    here, there = writer_on(MemoryDisk()), writer_on(MemoryDisk())
    for writer in (here, there):
        writer.write()
        writer.seal()
    with pytest.raises(CheckpointRefused, match="another store"):
        consistency(here, log_of(there.disk).notes[0])


def test_a_store_whose_end_was_cut_and_signed_again_does_not_go_on(tmp_path: Path, writer_on: MakeWriter):
    """Whoever has disk and key can sign anything, except what goes on from a checkpoint kept elsewhere."""
    disk = RealDisk(tmp_path / "store")
    writer = writer_on(disk)
    writer.write(10)
    writer.seal()
    writer.write(10)
    writer.seal()
    kept = log_of(disk).notes[-1]
    notes = log_of(disk).notes[:1]
    disk.replace("checkpoints/log", notes[0].data)
    disk.remove("checkpoints/place")
    again = writer_on(disk)
    again.write(3)
    again.seal()
    made, checked = consistency(again, kept)
    assert any("is not the older one" in fault for fault in made), made
    assert any("does not commit to the older one" in fault for fault in checked), checked


# -- tiles ----------------------------------------------------------------------------------------------


class Trees:
    """A shard's leaves, and the same in memory."""

    def __init__(self, writer: Writer) -> None:
        self.leaves = leaves_of(writer.disk)[1]
        self.hashes = Hashes([leaf_hash(leaf) for leaf in self.leaves])

    def head(self, size: int) -> Head:
        return Head(size, self.hashes(0, size))


@pytest.mark.parametrize("count", [2, 255, 256, 257, 1000])
def test_tiles_give_the_paths_of_the_tree(writer: Writer, count: int):
    writer.write(count - 1)
    writer.journal.sync()
    trees = Trees(writer)
    with Tiles(writer.disk, writer.journal, 1) as tiles:
        for size in sorted({1, count // 3 or 1, count - 1 or 1, count}):
            tiles.prepare(trees.head(size))
            for index in {0, size // 2, size - 1}:
                assert tiles.inclusion_path(index, size) == inclusion_path(index, size, trees.hashes)
            assert tiles.consistency_path(size // 2, size) == consistency_path(size // 2, size, trees.hashes)


def test_tiles_that_were_damaged_or_cut_are_built_again(writer: Writer):
    writer.write(3 * TILE_LEAVES)
    writer.journal.sync()
    trees = Trees(writer)
    head = trees.head(len(trees.leaves))
    with Tiles(writer.disk, writer.journal, 1) as tiles:
        tiles.prepare(head)
    for name in writer.disk.names("checkpoints/tiles/0001"):
        for content in (b"", b"\x01" * 100_000):
            writer.disk.replace(f"checkpoints/tiles/0001/{name}", content)
            with Tiles(writer.disk, writer.journal, 1) as tiles:
                tiles.prepare(head)
                assert tiles.inclusion_path(5, head.size) == inclusion_path(5, head.size, trees.hashes)


def test_progress_is_told_while_tiles_are_built(writer: Writer):
    writer.write(9000)
    writer.journal.sync()
    trees = Trees(writer)
    told: list[int] = []
    with Tiles(writer.disk, writer.journal, 1) as tiles:
        tiles.prepare(trees.head(len(trees.leaves)), told.append)
    assert told == [4096, 8192]


def test_what_was_dropped_is_stood_for_by_the_roots_that_are_left(writer: Writer):
    writer.write(1200)
    writer.journal.sync()
    trees = Trees(writer)
    size = len(trees.leaves)

    class Shortened:
        """A journal whose first records are gone."""

        def follow(self, cursor: object, *, only_shard: int) -> list[Stored]:
            return [stored for stored in writer.journal.follow() if stored.sequence > gone]

    for gone in (1, 100, 256, 700, 1024, size - 1):
        before = Frontier()
        for leaf in trees.leaves[:gone]:
            before.add_leaf(leaf)
        with Tiles(MemoryDisk(), Shortened(), 1, before) as tiles:  # type: ignore[arg-type]
            tiles.prepare(trees.head(size))
            for index in {gone, (gone + size) // 2, size - 1}:
                if index < size:
                    assert tiles.inclusion_path(index, size) == inclusion_path(index, size, trees.hashes)
            assert tiles.consistency_path(gone, size) == consistency_path(gone, size, trees.hashes)
            if gone > 1:
                with pytest.raises(KeyError):
                    tiles.inclusion_path(0, size)


def test_a_store_that_cannot_be_written_is_proved_from_all_the_same(tmp_path: Path, writer_on: MakeWriter):
    real = RealDisk(tmp_path / "store")
    writer = writer_on(real)
    writer.write(20)
    writer.seal()
    disk: Disk = FaultyDisk(real, *(Fault(operation=what, times=None, error=30)
                                    for what in ("put", "create", "make_folder", "lock")))  # fmt: skip
    note = log_of(real).notes[-1]
    chosen = [stored for stored in writer.journal.follow() if stored.sequence == 4]
    with Prover(disk, writer.journal, note) as prover:
        proof = prover.inclusion("a run", chosen)
    assert isinstance(proof, InclusionProof)
    assert check_proof(proof) == []
    assert not (tmp_path / "store/checkpoints/tiles").exists()
