"""What is kept of a stream: its head and its tail, with exact counts of the rest.

Owns the bounds, and the cut between characters and between lines: where something is dropped, the kept part
ends a little earlier, so that it holds no half of a secret. Knows nothing of where the bytes come from.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from custody.cuts import beginning_of_stream, end_of_stream, without_begun, without_ended

KEEP_HEAD_BYTES = 256 * 1024  # what a tool says first names its inputs: more than anyone reads
KEEP_TAIL_BYTES = 256 * 1024  # and what it says last is the result or the error

_CHARACTER_BYTES_MAX = 4  # of UTF-8


class Output(Struct, frozen=True):
    """One stream of a command."""

    data: bytes
    """Head and tail, joined; where something was dropped, both are cut between lines, or else words."""
    total_bytes: int
    """What the command wrote, as far as it was read."""
    dropped_bytes: int
    """Between head and tail, not kept."""
    head_bytes: int
    """How much of `data` is the head: where the gap is, if any."""


def nothing() -> Iterable[bytes]:
    """Values of which no part is kept without the rest, where nobody names any."""
    return ()


class Capture:
    """Takes a stream chunk by chunk and keeps its head and tail in bounded memory."""

    def __init__(
        self,
        keep_head_bytes: int,
        keep_tail_bytes: int,
        whole: Callable[[], Iterable[bytes]] = nothing,
    ) -> None:
        """`whole` gives values of which no part is kept without the rest; it is asked where something is
        dropped."""
        self._whole = whole
        self._keep_head_bytes = keep_head_bytes
        self._keep_tail_bytes = keep_tail_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._total_bytes = 0

    def add(self, chunk: bytes) -> None:
        self._total_bytes += len(chunk)
        room = self._keep_head_bytes - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        keep = self._keep_tail_bytes
        if not chunk or not keep:
            return
        if len(chunk) >= keep:
            self._tail[:] = memoryview(chunk)[-keep:]
            return
        self._tail += chunk
        if len(self._tail) > 2 * keep:  # trimmed only now and then, so that a byte is moved once at most
            del self._tail[:-keep]

    def output(self) -> Output:
        tail = bytes(self._tail[-self._keep_tail_bytes :]) if self._keep_tail_bytes else b""
        head = bytes(self._head)
        if len(head) + len(tail) < self._total_bytes:
            values = tuple(self._whole())
            head = _without_cut_end(beginning_of_stream(without_begun(head, values)))
            tail = _without_cut_start(end_of_stream(without_ended(tail, values)))
        return Output(head + tail, self._total_bytes, self._total_bytes - len(head) - len(tail), len(head))


def _without_cut_end(data: bytes) -> bytes:
    """Leave out the beginning of a character whose end is missing; other bytes stay as they are."""
    for back in range(1, min(_CHARACTER_BYTES_MAX, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        size = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return data[:-back] if size > back else data
    return data


def _without_cut_start(data: bytes) -> bytes:
    """Leave out the end of a character whose beginning is missing."""
    for start in range(min(_CHARACTER_BYTES_MAX, len(data))):
        if data[start] & 0xC0 != 0x80:
            return data[start:]
    return data if len(data) >= _CHARACTER_BYTES_MAX else b""
