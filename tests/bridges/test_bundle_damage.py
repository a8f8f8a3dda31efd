"""Bundles that somebody changed, cut short or made up: each is found, and what is wrong is named."""

import base64
import gzip
import json
import os
import random
import tarfile

import pytest
from tests.bridges.bundles import (
    Opened,
    faults_of,
    files_of,
    header,
    packed,
    record_some,
    records_of,
    repacked,
    resigned,
    resummed,
    run_verify,
    with_records,
    zipped,
)

from custody.bridges.bundle import verify
from custody.errors import InvalidInput
from custody.journal.checkpoint import Signature, Signer

FLIPS = 150
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
STRANGER = Signer("custody-store/" + "ab" * 16, b"s" * 32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("bundles") / "store"
    record_some(store)
    return store


@pytest.fixture(scope="module")
def opened(store):
    opened = Opened(store)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def bundle(opened):
    return opened.bundle()[0]


@pytest.fixture(scope="module")
def packed_by_zstd(opened):
    return opened.bundle(zstd=True)[0]


@pytest.fixture
def files(bundle):
    return files_of(bundle)


@pytest.fixture
def signer(opened):
    return opened.signer


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def is_found(bundle: bytes) -> bool:
    try:
        return faults_of(bundle) != []
    except InvalidInput:
        return True


# -- by chance ----------------------------------------------------------------------------------------


def test_the_same_files_packed_again_hold(files):
    assert faults_of(repacked(files)) == []


def test_any_flipped_byte_is_found(bundle):
    chance = random.Random("bundle")

    assert [place for place in range(len(bundle))
            if not is_found(flipped(bundle, place, chance.randrange(8)))] == []  # fmt: skip


def test_any_byte_flipped_before_it_was_packed_is_found(files):
    chance = random.Random("tar")
    tar = gzip.decompress(repacked(files))
    places = [*range(512), *(chance.randrange(len(tar)) for _ in range(FLIPS))]

    assert [place for place in places
            if not is_found(zipped(flipped(tar, place, chance.randrange(8))))] == []  # fmt: skip


def test_any_flipped_byte_of_one_packed_with_zstd_is_found(packed_by_zstd):
    chance = random.Random("zstd")
    size = len(packed_by_zstd)
    places = [*range(16), *range(size - 8, size), *(chance.randrange(size) for _ in range(FLIPS))]

    unseen = [place for place in places if not is_found(flipped(packed_by_zstd, place, chance.randrange(8)))]

    assert unseen == []


def test_any_byte_flipped_within_a_file_is_found(files):
    chance = random.Random("files")
    for name, data in files.items():
        for _ in range(6):
            changed = {**files, name: flipped(data, chance.randrange(len(data)), chance.randrange(8))}
            assert faults_of(repacked(changed)) != [], name
            if name != "SHA256SUMS":
                assert faults_of(repacked(resummed(changed))) != [], name


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_one_cut_short_anywhere_is_found(bundle, packed_by_zstd, kind):
    whole = bundle if kind == "gzip" else packed_by_zstd
    for count in [*range(0, len(whole), len(whole) // 60), len(whole) - 1]:
        assert is_found(whole[:count]), count


def test_a_cut_is_named_and_exits_1(tmp_path, bundle):
    code, said = run_verify(tmp_path, bundle[: len(bundle) // 2])

    assert code == 1
    assert "cut short" in said


def test_one_cut_short_before_it_was_packed_is_found(files):
    tar = gzip.decompress(repacked(files))
    for count in range(0, len(tar), len(tar) // 60):
        assert is_found(zipped(tar[:count])), count
        assert is_found(tar[:count]), count
    assert is_found(zipped(tar + bytes(512)))
    assert is_found(zipped(tar + b"x"))


def test_an_unpacked_one_is_checked_as_well(tmp_path, bundle):
    assert run_verify(tmp_path, gzip.decompress(bundle))[0] == 0


def test_what_follows_the_end_is_found(bundle, packed_by_zstd):
    assert is_found(bundle + b"more")
    assert is_found(bundle + bundle)
    assert is_found(packed_by_zstd + b"more")


# -- an archive that is none of ours ------------------------------------------------------------------


def with_member(files, head: bytes, data: bytes = b"") -> bytes:
    members = [(header(name, len(content)), content) for name, content in sorted(files.items())]
    return packed([*members, (head, data)])


@pytest.mark.parametrize(
    "name",
    ["../evil", "blobs/../../evil", "/etc/passwd", "witnesses/../x.witness.json", "..", "x", "verify.py/x",
     "witnesses/a/b.witness.json", "witnesses\\x.witness.json", "blobs/" + "A" * 64],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, files, name):
    code, said = run_verify(tmp_path, with_member(files, header(name, 1), b"x"))

    assert code == 1
    assert repr(name) in said
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                                  tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE,
                                  tarfile.GNUTYPE_LONGNAME])  # fmt: skip
def test_what_is_no_plain_file_is_refused(files, kind):
    name = "blobs/" + "0" * 64
    found = faults_of(with_member(files, header(name, 0, type=kind, linkname="/etc/passwd")))

    assert any("is not a plain file" in fault for fault in found)


def test_a_file_that_is_there_twice_is_refused(files):
    found = faults_of(with_member(files, header("README.md", 1), b"x"))

    assert found == ["README.md is there twice"]


def test_one_that_unpacks_to_more_than_there_may_be_is_refused_unread(tmp_path, files, monkeypatch):
    huge = faults_of(with_member(files, header("blobs/" + "0" * 64, 1 << 32)))
    assert len(huge) == 1
    assert "at most" in huge[0]

    monkeypatch.setattr(verify, "BYTES_MAX", 10_000)
    assert "at most" in faults_of(repacked(files))[0]
    monkeypatch.undo()
    monkeypatch.setattr(verify, "MEMBERS_MAX", 5)
    assert "more than 5 files" in faults_of(repacked(files))[0]


def test_a_missing_file_is_named(files):
    for name in ("BUNDLE", "SHA256SUMS", "checkpoint", "key.pub", "records.jsonl", "verify.py", "README.md"):
        found = faults_of(repacked({other: data for other, data in files.items() if other != name}))
        assert found == [f"there is no {name}"]


@pytest.mark.parametrize("data", [b"", b"no archive at all", bytes(2048), b"\x1f\x8b\x08\x00"])
def test_what_is_no_bundle_is_refused_by_both(tmp_path, data):
    assert is_found(data)
    assert run_verify(tmp_path, data)[0] in (1, 2)


def test_what_cannot_be_opened_exits_2(tmp_path, bundle):
    assert run_verify(tmp_path, bundle, "--key", os.fspath(tmp_path / "nowhere"))[0] == 2
    assert run_verify(tmp_path, bundle, "--kay", "x")[0] == 2


# -- signatures ---------------------------------------------------------------------------------------


def test_files_that_fit_a_list_nobody_signed_are_found(files):
    name = next(name for name in files if name.startswith("witnesses/"))
    changed = {**files, name: files[name].replace(b'"tool"', b'"loot"')}

    assert f"{name} was changed after the bundle was made" in faults_of(repacked(changed))
    assert "SHA256SUMS is not the one that was signed" in faults_of(repacked(resummed(changed)))


def test_another_key_is_found_by_whoever_knows_the_stores(opened, files, signer):
    trusted = tuple(opened.evidence.verifiers())
    theirs = resigned({**files, "key.pub": STRANGER.verifier.line.encode()}, STRANGER)
    both = {**files, "key.pub": files["key.pub"] + STRANGER.verifier.line.encode()}

    assert faults_of(repacked(theirs), trusted) == ["BUNDLE is not signed by a key that is known here"]
    assert faults_of(repacked(theirs)) == ["checkpoint is not signed by a key that is known here"]
    assert faults_of(repacked(resigned(both, STRANGER)), trusted) != []
    assert faults_of(repacked(resigned(both, STRANGER))) == ["BUNDLE and checkpoint are not of one store"]
    assert faults_of(repacked(files), trusted) == []


def test_no_key_that_counts_is_none_and_not_the_one_that_came_with_it(tmp_path, files):
    (tmp_path / "empty").write_text("")

    assert faults_of(repacked(files), ()) == ["BUNDLE is not signed by a key that is known here"]
    assert run_verify(tmp_path, repacked(files), "--key", os.fspath(tmp_path / "empty"))[0] == 1


def test_a_note_changed_after_it_was_signed_is_found(files, signer):
    older = files["checkpoint"].replace(b"time 2", b"time 1")

    assert faults_of(repacked(resigned({**files, "checkpoint": older}, signer))) == [
        "the signature of checkpoint is wrong: it was changed after that"
    ]


def test_a_signature_has_one_spelling(files):
    """Nobody signs for how it is written, so no other way is accepted."""
    note = files["BUNDLE"]
    *_, last = note.removesuffix(b"=\n")
    place = BASE64.index(last)
    assert note.endswith(b"=\n") and place % 4 == 0
    spellings = [note[:-3] + BASE64[place + more : place + more + 1] + b"=\n" for more in (1, 2, 3)]
    spellings += [note[:-1] + end for end in (b"", b"\x0b", b"\r\n", b"\n\n", b"\n ")]

    for spelt in spellings:
        assert faults_of(repacked({**files, "BUNDLE": spelt})) != [], spelt


# -- what even the key's owner cannot make up ---------------------------------------------------------


def forged(files, signer, change) -> list[str]:
    return faults_of(repacked(resigned(with_records(files, change), signer)))


def test_a_proof_of_another_record_is_found_and_the_record_named(files, signer):
    def swap(records):
        records[3]["path"], records[4]["path"] = records[4]["path"], records[3]["path"]

    found = forged(files, signer, swap)
    record = records_of(files)[3]

    name = f"record {record['sequence']} of shard {record['shard']}"
    assert f"{name} is not the one that was signed: its proof leads to another root" in found


@pytest.mark.parametrize("path", [[], ["AA=="], ["A" * 43 + "="] * 70])
def test_a_proof_that_is_none_is_found(files, signer, path):
    def change(records):
        records[2]["path"] = path

    assert any("is not the one that was signed" in fault for fault in forged(files, signer, change))


def test_a_changed_leaf_or_payload_is_found(files, signer):
    def flip(name):
        def change(records):
            data = base64.b64decode(records[5][name])
            records[5][name] = base64.b64encode(flipped(data, len(data) - 1, 0)).decode()

        return change

    assert any("is not the one that was signed" in fault for fault in forged(files, signer, flip("leaf")))
    assert any(
        "is not the one it was recorded with" in fault for fault in forged(files, signer, flip("payload"))
    )


def test_records_swapped_removed_doubled_or_moved_are_found(files, signer):
    def later(records):
        records[-1]["sequence"] += 1000

    assert forged(files, signer, lambda records: records.reverse()) != []
    assert forged(files, signer, lambda records: records.pop(4)) != []
    assert forged(files, signer, lambda records: records.insert(4, records[4])) != []
    assert any("lies behind what the checkpoint signs" in fault for fault in forged(files, signer, later))


def test_a_payload_said_to_be_purged_is_counted(files, signer):
    def hide(records):
        records[5]["payload"] = None

    assert "there are 1 payloads_purged and 0 were signed for" in forged(files, signer, hide)


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"null", b"{}", b'{"shard": "x", "sequence": 1}', b"[" * 100_000]
)
def test_a_line_that_is_no_record_is_found(files, signer, line):
    changed = {**files, "records.jsonl": files["records.jsonl"] + line + b"\n"}

    assert faults_of(repacked(resigned(changed, signer))) != []


def test_a_witness_that_says_another_thing_is_found_field_by_field(files, signer):
    name = next(name for name in files if "_odd_" in name)
    witness = json.loads(files[name])
    for field, value in witness.items():
        other = {**witness, field: "something else" if value is None else None}
        found = faults_of(repacked(resigned({**files, name: json.dumps(other).encode()}, signer)))
        assert found, field
        if field not in ("id", "run_id"):
            assert found == [f"{name} is not what its records say: {field}"]


def test_a_witness_may_lack_only_what_its_records_leave_unsaid(files, signer):
    """An earlier version, which did not know the field, made it."""
    name = next(name for name in files if "_odd_" in name)
    witness = json.loads(files[name])
    for field, value in witness.items():
        other = {said: one for said, one in witness.items() if said != field}
        found = faults_of(repacked(resigned({**files, name: json.dumps(other).encode()}, signer)))
        assert (found == []) == (value is None), field


def test_a_witness_too_many_or_too_few_is_found(files, signer):
    name = next(name for name in files if "_odd_" in name)
    other = name.replace("_odd_", "_even_")
    less = {known: data for known, data in files.items() if known != name}

    assert any("has records and no witness" in fault for fault in faults_of(repacked(resigned(less, signer))))
    more = faults_of(repacked(resigned({**files, other: files[name]}, signer)))
    assert any("has no records here" in fault for fault in more)


def test_a_blob_replaced_missing_or_too_many_is_found(files, signer):
    name = next(name for name in files if name.startswith("blobs/"))
    less = {known: data for known, data in files.items() if known != name}
    another = "blobs/0" + name[7:]

    replaced = faults_of(repacked(resigned({**files, name: b"\xc0"}, signer)))
    assert f"{name} has another content than its name says" in replaced
    assert any("blobs_gone" in fault for fault in faults_of(repacked(resigned(less, signer))))
    more = faults_of(repacked(resigned({**files, another: files[name]}, signer)))
    assert f"{another} belongs to no record" in more


def test_counts_that_do_not_fit_are_found(files, signer):
    assert faults_of(repacked(resigned(files, signer, calls=5))) == [
        "there are 6 calls and 5 were signed for"
    ]


@pytest.mark.parametrize("said", ["[]", "{}", '{"faults": ""}', "null", "[" * 50_000, '{"calls": "x"}'])
def test_facts_that_are_none_are_a_fault_and_no_crash(files, signer, said):
    text = f"custody-bundle/1\n{said}\n".encode()
    note = text + b"\n" + Signature(signer.name, signer.key_hash, signer.sign(text)).line()

    assert faults_of(repacked({**files, "BUNDLE": note})) != []


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff", b'{"id": []}'])
def test_a_witness_that_is_none_is_a_fault_and_no_crash(files, signer, data):
    name = next(name for name in files if "_odd_" in name)

    assert faults_of(repacked(resigned({**files, name: data}, signer))) != []


def test_what_a_hostile_bundle_says_cannot_steer_the_terminal(tmp_path, files):
    evil = Signer("custody-store/\x1b]0;x\x07", b"s" * 32)
    _, _, rest = files["checkpoint"].partition(b"\n")
    text = evil.name.encode() + b"\n" + rest.partition(b"\n\n")[0] + b"\n"
    note = text + b"\n" + Signature(evil.name, evil.key_hash, evil.sign(text)).line()
    forged = {**files, "checkpoint": note, "key.pub": evil.verifier.line.encode()}

    code, said = run_verify(tmp_path, repacked(resigned(forged, evil)))

    assert code == 0, said
    assert "as signed by custody-store/?]0;x?" in said
