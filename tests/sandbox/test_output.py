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
    assert output.dropped_bytes >= max(0, len(whole) - head - tail)
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


def test_what_is_dropped_leaves_no_half_of_a_word_behind() -> None:
    """Wherever a token stands around the end of the head or the start of the tail."""
    token, line = b"xoxb-1234567890-abcdefghij", b"an ordinary line of a log\n"
    halves = [token[at : at + 6] for at in range(len(token) - 5)]
    for inside in range(-1, len(token) + 2):
        at_head = (line * 1000)[: 9_000 - inside] + b" " + token + b" " + line * 1000
        at_tail = line * 1000 + b" " + token + b" " + (line * 1000)[: 9_000 - inside]
        for whole in (at_head, at_tail):
            output = captured([whole[: 9_000 - 3], whole[9_000 - 3 : 9_001], whole[9_001:]], 9_000, 9_000)
            kept = output.data.replace(token, b"")
            assert not any(half in kept for half in halves), inside
            assert output.dropped_bytes == len(whole) - len(output.data)
            assert output.dropped_bytes <= len(whole) - 18_000 + 2 * len(line) + 2 * len(token)


@pytest.mark.parametrize(
    "value", [b"correct horse battery staple", b"line one\nline two = x\n\nline four", b"k" * 6_000]
)
def test_no_half_of_a_value_that_is_whole_or_not_there_is_left(value: bytes) -> None:
    """Values with blanks, with lines, and longer than what is dropped at an edge anyway."""
    filler = b"some other words " * 5_000
    for inside in [*range(1, 30), len(value) // 2, len(value) - 1]:
        kept = min(inside, len(value) - 1)
        at_head = filler[: 20_000 - kept] + value + filler
        at_tail = filler + value + filler[: 20_000 - kept]
        for whole in (at_head, at_tail):
            capture = Capture(20_000, 20_000, lambda: [b"another value", value])
            capture.add(whole)
            output = capture.output()
            assert output.dropped_bytes == len(whole) - len(output.data)
            assert len(output.data) > 40_000 - 2 * 4_096 - 200 - len(value)
            left = output.data.replace(value, b"")
            assert not [at for at in range(0, len(value) - 6, 3) if value[at : at + 6] in left], inside


def test_a_value_that_stands_whole_before_a_cut_stays() -> None:
    capture = Capture(100, 100, lambda: [b"correct horse"])
    capture.add(b"a correct horse\n" + b"x" * 300 + b"\ncorrect horse\n")
    assert capture.output().data == b"a correct horse\ncorrect horse\n"
