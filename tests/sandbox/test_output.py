"""What is kept of a stream is its head and tail, cut between characters, the rest counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.sandbox.output import Capture, Output


def captured(chunks: list[bytes], head: int, tail: int) -> Output:
    capture = Capture(head, tail)
    for chunk in chunks:
        capture.add(chunk)
    return capture.output()


@given(st.lists(st.binary(max_size=40)), st.integers(0, 50), st.integers(0, 50))
def test_every_byte_is_kept_or_counted(chunks: list[bytes], head: int, tail: int) -> None:
    whole = b"".join(chunks)
    output = captured(chunks, head, tail)
    kept_head, kept_tail = output.data[: output.head_bytes], output.data[output.head_bytes :]
    assert output.total_bytes == len(whole)
    assert output.dropped_bytes == len(whole) - len(output.data)
    assert whole.startswith(kept_head)
    assert whole.endswith(kept_tail)
    assert max(0, len(whole) - head - tail) <= output.dropped_bytes <= max(0, len(whole) - head - tail) + 6
    if len(whole) <= head + tail:
        assert output.data == whole


@given(st.text(), st.integers(0, 30), st.integers(0, 30), st.integers(1, 7))
def test_text_is_never_cut_inside_a_character(text: str, head: int, tail: int, size: int) -> None:
    data = text.encode("utf-8", "ignore")
    output = captured([data[start : start + size] for start in range(0, len(data), size)], head, tail)
    if output.dropped_bytes:
        output.data[: output.head_bytes].decode()
        output.data[output.head_bytes :].decode()
    else:
        assert output.data == data


@pytest.mark.parametrize("size", [1, 10, 1000, 100_000])
def test_memory_stays_bounded(size: int) -> None:
    capture = Capture(1000, 1000)
    for _ in range(200_000 // size):
        capture.add(b"x" * size)
    assert sum(map(len, (capture._head, capture._tail))) <= 3000
