import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.implementations import with_each  # noqa: F401 - every test here holds for both

from custody.errors import StoreTooNew
from custody.journal import frames
from custody.journal.frames import (
    FORMAT_VERSION,
    HEADER_BYTES,
    PURGED_AGAIN,
    PURGED_MARK,
    Decoder,
    SegmentHeader,
    Stored,
    decode_segment_header,
    encode_frame_in_python,
    encode_segment_header,
    is_purged,
    is_zeroed,
    mark_place,
    purged_payload,
)

SEGMENT = SegmentHeader(3, 7, 65536, bytes(range(16)))
OTHER = SegmentHeader(3, 7, 65536, bytes(range(1, 17)))


def frame(leaf: bytes = b"leaf", payload: bytes = b"a salted payload", sequence: int = 9) -> bytes:
    return frames.encode_frame(SEGMENT.crc_seed, sequence, 4, 8, leaf, payload)


def decode(data: bytes, segment: SegmentHeader = SEGMENT) -> Stored | None:
    return Decoder(segment).decode(data, 0, 64)


@given(leaf=st.binary(max_size=300), payload=st.binary(max_size=300), sequence=st.integers(1, 2**63))
def test_a_frame_comes_back_as_it_was_written(leaf: bytes, payload: bytes, sequence: int) -> None:
    data = frame(leaf, payload, sequence)
    assert len(data) % 8 == 0
    assert len(data) == frames.frame_bytes(len(leaf), len(payload))
    assert decode(data) == Stored(3, 7, 64, sequence, 8, leaf, payload, 64 + len(data), 4)


def test_any_flipped_bit_of_a_frame_is_noticed() -> None:
    data = frame()
    used = HEADER_BYTES + len(b"leaf") + len(b"a salted payload")
    for position in range(used):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            assert decode(bytes(damaged)) is None


def test_a_frame_cut_anywhere_is_no_frame() -> None:
    data = frame()
    used = HEADER_BYTES + len(b"leaf") + len(b"a salted payload")
    assert [length for length in range(used) if decode(data[:length])] == []


def test_a_frame_of_another_segment_is_no_frame() -> None:
    assert decode(frame(), OTHER) is None


def test_a_purged_payload_leaves_the_leaf_to_be_read() -> None:
    payload = bytes(range(1, 101))
    data = frame(payload=payload).replace(payload, purged_payload(len(payload)))
    stored = decode(data)
    assert stored is not None
    assert (stored.leaf, stored.payload, stored.purged, stored.end) == (b"leaf", b"", True, 64 + len(data))


@pytest.mark.parametrize("offset", range(500, 530))
def test_the_mark_of_a_purge_lies_in_one_sector_wherever_the_payload_begins(offset: int) -> None:
    first = offset + mark_place(offset)
    assert first // 512 == (first + len(PURGED_MARK) - 1) // 512
    payload = bytes(range(1, 101))
    marked = bytearray(payload)
    marked[mark_place(offset) : mark_place(offset) + len(PURGED_MARK)] = PURGED_MARK
    assert is_purged(bytes(marked)) and not is_zeroed(bytes(marked))
    assert not is_purged(payload)
    whole = purged_payload(100, offset)
    assert is_purged(whole) and is_zeroed(whole) and len(whole) == 100


def test_a_record_written_again_after_its_purge_is_still_purged() -> None:
    stored = decode(frame(payload=PURGED_AGAIN))
    assert stored is not None
    assert (stored.purged, stored.payload) == (True, b"")


def test_a_payload_that_never_reached_the_disk_is_not_taken_for_a_purged_one() -> None:
    payload = bytes(range(1, 101))
    assert decode(frame(payload=payload).replace(payload, bytes(len(payload)))) is None


def test_a_search_finds_the_first_frame_behind_rubbish() -> None:
    data = bytes(64) + b"\x01rubbish" * 5 + frame() + frame(sequence=10)
    found = Decoder(SEGMENT).search(data, 640)
    assert found is not None
    assert (found.offset, found.sequence) == (640 + 64 + 40, 9)
    assert Decoder(SEGMENT).search(bytes(4096), 0) is None


def test_a_segment_header_comes_back_and_a_damaged_one_does_not() -> None:
    header = SegmentHeader(1, 2, 4096, b"i" * 16, b"p" * 16)
    data = encode_segment_header(header)
    assert len(data) == frames.SEGMENT_HEADER_BYTES
    assert decode_segment_header(data) == header
    for position in range(len(data)):
        assert (
            decode_segment_header(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            is None
        )


def test_a_later_format_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FORMAT_VERSION", FORMAT_VERSION + 1)
    monkeypatch.setattr(frames, "encode_frame", encode_frame_in_python)
    header, data = encode_segment_header(SEGMENT), frame()
    monkeypatch.undo()
    with pytest.raises(StoreTooNew, match="format 2"):
        decode_segment_header(header)
    with pytest.raises(StoreTooNew, match="version 2"):
        decode(data)


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 5000, 70000])
def test_a_digest_in_pieces_is_the_digest(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert frames.sha256(data[:size]) == hashlib.sha256(data[:size]).digest()
    assert frames.sha256(data[: size // 3], data[size // 3 : size]) == frames.sha256(data[:size])
