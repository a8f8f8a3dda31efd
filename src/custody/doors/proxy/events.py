"""A stream of server-sent events, as HTML's standard has it: which messages its bytes make up.

Owns the grammar and its bounds. What a message says is not looked at. Pure. Used by `remote`.
"""

from msgspec import Struct

from custody.doors.proxy.messages import Lines, TooLong

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(Struct, kw_only=True):
    """One event. `data` is None where it is longer than it may be, and is not kept."""

    name: str = "message"
    data: bytes | None = b""
    id: str | None = None
    """Under which the stream is gone on with."""
    retry_seconds: float | None = None


class Events:
    """Events out of chunks."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lines = Lines(bytes_max)
        self._now = Event()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._begun = False
        self._after_return = False
        """The last chunk ended in a carriage return: a line feed belongs to it."""

    def take(self, chunk: bytes) -> list[Event]:
        """The events that end in a chunk."""
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r") or (self._after_return and not chunk)
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return [event for line in self._lines.take(chunk) if (event := self._line(line)) is not None]

    def _line(self, line: bytes | TooLong) -> Event | None:
        if isinstance(line, TooLong):
            self._now.data = None
            return None
        if not self._begun:
            self._begun = True
            line = line.removeprefix(BYTE_ORDER_MARK)
        if not line:
            return self._ended()
        name, _, value = line.partition(b":")
        self._field(name, value.removeprefix(b" "))
        return None

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._bytes_max:
                self._now.data = None
                self._data.clear()
            else:
                self._data.append(value)
        elif name == b"event":
            self._now.name = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._now.id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._now.retry_seconds = int(value) / 1000

    def _ended(self) -> Event:
        event, data = self._now, b"\n".join(self._data)
        event.data = None if event.data is None else data
        self._now, self._data_bytes = Event(), 0
        self._data.clear()
        return event
