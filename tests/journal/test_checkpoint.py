"""Notes and keys as Go's note package and C2SP have them, and what is none."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.how_many import as_many

from custody.errors import MalformedKey, MalformedNote
from custody.journal.checkpoint import (
    NOTE_BYTES_MAX,
    Head,
    Note,
    Signer,
    Verifier,
    next_checkpoint,
    parse_log,
    parse_note,
    parse_verifiers,
    sign_note,
    split_note,
    statement_of,
)
from custody.journal.tree import Frontier

GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = (
    b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6"
    "RyyBwJnAM=\n".encode()
)

NAME = "custody-store/00112233445566778899aabbccddeeff"
OURS = Signer(NAME, bytes(range(32)))
OTHER = Signer(NAME, bytes(32))


def note_of(size: int = 1, heads: dict[int, Head] | None = None, *signers: Signer) -> Note:
    log = Frontier()
    for number in range(size - 1):
        log.add_leaf(b"%d" % number)
    heads = {1: Head(4711, bytes(32)), 2: Head(12, b"\x01" * 32)} if heads is None else heads
    return sign_note(next_checkpoint(NAME, log, 1_795_272_300_000_000, heads), signers or (OURS,))


def log_of(count: int) -> bytes:
    log, notes = Frontier(), []
    for number in range(count):
        checkpoint = next_checkpoint(NAME, log, 1_795_272_300_000_000 + number, {1: Head(number, bytes(32))})
        notes.append(sign_note(checkpoint, [OURS]).data)
    return b"\n".join(notes)


# -- against Go -----------------------------------------------------------------------------------------


def test_a_note_and_a_key_of_gos_note_package_are_read_and_checked():
    verifier, (text, signatures) = Verifier.parse(GO_VERIFIER), split_note(GO_NOTE)
    assert (text, verifier.key_id, verifier.line) == (GO_TEXT, "c74f20a3", GO_VERIFIER)
    assert [signature.name for signature in signatures] == ["PeterNeumann"]
    assert signatures[0].key_hash == verifier.key_hash
    assert verifier.verify(text, signatures[0].signature)
    assert not verifier.verify(text + b"!", signatures[0].signature)


def test_what_we_sign_with_gos_key_is_what_go_signs():
    signer = Signer.parse(GO_SIGNER)
    assert (signer.line, signer.verifier.line) == (GO_SIGNER, GO_VERIFIER)
    assert signer.sign(GO_TEXT) == split_note(GO_NOTE)[1][0].signature


# -- ours -----------------------------------------------------------------------------------------------


def test_a_checkpoint_reads_as_it_is_documented():
    assert (
        note_of()
        .data.decode()
        .startswith(
            f"{NAME}\n1\n"
            "xlz914eAP6EwauX18aZWAx6vo2VUaGU/+XZBafr7ZAM=\n"
            "time 2026-11-21T14:45:00.000000Z\n"
            "shard 1 4711 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
            "shard 2 12 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n"
            f"\n— {NAME} "
        )
    )


def test_a_checkpoint_comes_back_as_it_was_made():
    note = note_of(9, {3: Head(7, bytes(32)), 1: Head(0, bytes(32))})
    again = parse_note(note.data)
    assert again == note
    assert list(again.checkpoint.heads) == [1, 3]
    assert again.checkpoint.statement == statement_of(again.checkpoint.time, again.checkpoint.heads)
    assert again.signed_by([OURS.verifier]) == [OURS.verifier]


def test_each_checkpoint_commits_to_all_before_it():
    log = Frontier()
    for note in parse_log(log_of(5)).notes:
        log.add_leaf(note.checkpoint.statement)
        assert (note.checkpoint.size, note.checkpoint.root) == (log.size, log.root())


def test_lines_of_a_later_version_are_kept_and_signed():
    note = note_of()
    text = note.text + b"weather fine\n"
    later = text + b"\n" + b"".join(signature.line() for signature in note.signatures)
    read = parse_note(later)
    assert (read.checkpoint.others, read.checkpoint.text) == (("weather fine",), text)
    assert read.signed_by([OURS.verifier]) == []


def test_a_signature_of_another_key_is_none_of_ours_and_a_bad_one_spoils_the_note():
    note = note_of(1, None, OURS, OTHER)
    assert note.signed_by([OURS.verifier, OTHER.verifier]) == [OURS.verifier, OTHER.verifier]
    assert note.signed_by([Signer(NAME, b"\x07" * 32).verifier]) == []
    first, second = note.signatures
    forged = Note(note.checkpoint, note.text, (first, type(second)(NAME, second.key_hash, bytes(64))))
    assert forged.signed_by([OURS.verifier]) == [OURS.verifier]
    assert forged.signed_by([OURS.verifier, OTHER.verifier]) == []


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (NAME, "custody-store/00112233445566778899AABBCCDDEEFF"),
        (NAME, "example.com/log"),
        ("\n1\n", "\n01\n"),
        ("\n1\n", "\n0\n"),
        ("\n1\n", "\n-1\n"),
        ("\n1\n", "\n" + "9" * 5000 + "\n"),
        ("time 2026", "time 26"),
        ("time 2026-11-21T14:45:00.000000Z\n", ""),
        ("shard 1 4711", "shard 1 04711"),
        ("shard 1 4711", "shard 0 4711"),
        ("shard 1 4711", "shard 3 4711"),
        ("shard 2 12", "shard 1 12"),
        ("shard 2 12", "time 12"),
        ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF="),
        ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AQEB"),
        ("\n\n—", "\n—"),
        ("\n\n—", "\n\n\n—"),
        ("— custody", "- custody"),
        ("shard 2", "shard\t2"),
        ("shard 2", "shard\r2"),
        ("=\n— ", "=\n"),
    ],
)
def test_what_is_not_spelled_as_it_must_be_is_no_checkpoint(was: str, becomes: str):
    data = note_of().data
    assert was.encode() in data or was.startswith("=")
    changed = data.replace(was.encode(), becomes.encode(), 1)
    if changed == data:
        return
    with pytest.raises(MalformedNote):
        parse_note(changed)


def test_no_flipped_byte_of_a_note_goes_unseen():
    data = note_of().data
    for place in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[place] ^= mask
            try:
                note = parse_note(bytes(changed))
            except MalformedNote:
                continue
            assert note.signed_by([OURS.verifier]) == [], place


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"\n\n", b"\xff\xfe\n\n\xff\n", b"a\n\n" + b"\n" * 10, bytes(NOTE_BYTES_MAX + 1)],
    ids=["nothing", "a line", "two", "no text", "lines", "too much"],
)
def test_what_is_no_note_at_all_is_refused(data: bytes):
    with pytest.raises(MalformedNote):
        parse_note(data)


def test_a_note_with_a_hundred_and_one_signatures_is_refused():
    note = note_of()
    with pytest.raises(MalformedNote, match="at most 100 signatures"):
        parse_note(note.text + b"\n" + note.signatures[0].line() * 101)


@given(st.binary(max_size=400))
@settings(max_examples=as_many(200), deadline=None)
def test_any_bytes_are_a_note_or_refused(data: bytes):
    try:
        note = parse_note(data)
    except MalformedNote:
        return
    assert note.data == data


# -- the log --------------------------------------------------------------------------------------------


def test_a_log_is_its_notes_with_an_empty_line_between_them():
    log = parse_log(log_of(3))
    assert [note.checkpoint.size for note in log.notes] == [1, 2, 3]
    assert b"\n".join(note.data for note in log.notes) == log_of(3)
    assert [log_of(3)[offset : offset + len(NAME)] for offset in log.offsets] == [NAME.encode()] * 3
    assert (log.end, log.torn) == (len(log_of(3)), b"")
    assert parse_log(b"").notes == []


def test_wherever_a_log_was_cut_its_whole_notes_are_read_and_the_rest_is_its_torn_tail():
    data = log_of(3)
    ends = [len(log_of(count)) for count in range(4)]
    for cut in range(len(data) + 1):
        log = parse_log(data[:cut])
        assert len(log.notes) == sum(end <= cut for end in ends[1:]), cut
        assert log.end == max(end for end in ends if end <= cut)
        assert log.torn == data[log.end : cut]


def test_a_tail_of_zeros_is_torn():
    data, chance = log_of(3), random.Random(1)
    end = len(log_of(2))
    for _ in range(50):
        torn = bytearray(data)
        start = chance.randrange(end, len(data))
        torn[start : chance.randrange(start + 1, len(data) + 1)] = bytes(len(data))
        log = parse_log(bytes(torn[: len(data)]))
        assert len(log.notes) == 2
        assert log.end == end


def test_a_note_that_cannot_be_read_before_others_is_named_with_its_place():
    data = log_of(3)
    second = parse_log(data).offsets[1]
    with pytest.raises(MalformedNote, match="Checkpoint 2 of the log") as caught:
        parse_log(data[:second] + b"X" + data[second + 1 :])
    assert caught.value.details == {"number": 2, "offset": second}


# -- keys -----------------------------------------------------------------------------------------------


def test_a_key_comes_back_from_its_line():
    assert Signer.parse(OURS.line) == OURS
    assert Verifier.parse(OURS.verifier.line) == OURS.verifier
    assert parse_verifiers(f"{OURS.verifier.line}\n\n{OTHER.verifier.line}\n") == [
        OURS.verifier,
        OTHER.verifier,
    ]
    assert OURS.line.startswith(f"PRIVATE+KEY+{NAME}+{OURS.verifier.key_id}+")


def test_a_private_key_is_not_shown_by_accident():
    assert OURS.seed.hex() not in repr(OURS)
    assert repr(OURS.seed) not in repr(OURS)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "PeterNeumann",
        GO_VERIFIER.replace("c74f20a3", "c74f20a4"),
        GO_VERIFIER.replace("Peter", "Paul"),
        GO_VERIFIER.replace("ARpc", "Arpc"),
        GO_VERIFIER[:-4],
        GO_VERIFIER.replace("Neumann", " Neumann"),
        GO_SIGNER,
    ],
)
def test_what_is_no_public_key_is_refused(line: str):
    with pytest.raises(MalformedKey):
        Verifier.parse(line)


@pytest.mark.parametrize("line", ["", GO_VERIFIER, GO_SIGNER.replace("c74f20a3", "00000000"), GO_SIGNER[:-2]])
def test_what_is_no_private_key_is_refused(line: str):
    with pytest.raises(MalformedKey):
        Signer.parse(line)


def test_a_public_key_that_is_no_point_of_the_curve_verifies_nothing():
    assert not Verifier(NAME, b"\x02" + bytes(31)).verify(b"text", bytes(64))
    assert not OURS.verifier.verify(b"text", b"short")
