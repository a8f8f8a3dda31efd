"""What is kept of the body of an answer: bounded, expanded, and shown as text where it is text.

Owns the bound on what comes out of a compressed body, however much that would be, the charsets that are
believed, and the counts of what was cut. Pure: knows no network. Used by `exchange` and `tool`.
"""

import asyncio
import base64
import codecs
import re
import zlib
from typing import Any, Literal

from custody.cuts import whole_words
from custody.errors import ToolError
from custody.tools.http_fetch.request import BYTES_MAX
from custody.tools.text import HEAD_BYTES, encoding_of

Coding = Literal["gzip", "deflate"]

CODED_BYTES_MAX = BYTES_MAX + 1024 * 1024
"""Of a compressed body as it arrives: what is more, and expands to less than that, is no content."""

MEMBERS_MAX = 1_000  # of one gzip body; programs write one, and each costs time and expands to nothing

GZIP_BEGINS = 0x1F  # RFC 1952, section 2.3.1
_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to be told

_CHARSET = re.compile(r";\s{0,8}charset\s{0,8}=\s{0,8}[\"']?([A-Za-z0-9_.:+-]{1,64})", re.IGNORECASE)

CHARSETS = frozenset({
    "ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "iso8859-1", "iso8859-2", "iso8859-3",
    "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-9", "iso8859-10", "iso8859-11",
    "iso8859-13", "iso8859-14", "iso8859-15", "iso8859-16", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254",
    "cp1255", "cp1256", "cp1257", "cp1258", "cp866", "cp874", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic",
    "big5", "big5hkscs", "gb2312", "gbk", "gb18030", "shift_jis", "cp932", "euc_jp", "iso2022_jp", "euc_kr",
    "cp949", "tis-620",
})  # fmt: skip
"""Names that Python gives the charsets of the web (WHATWG Encoding); others it knows are no charsets of
texts, or take quadratic time."""

_WIDE = ("utf-16", "utf-32")
_MARKS = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}

TEXT_PIECE_BYTES = 16 * 1024
"""What is decoded at once: a byte that is no text takes a microsecond, and others are served in between."""


class Body:
    """The body of one answer as far as its bound, fed with what arrives."""

    def __init__(self, bytes_max: int, coding: Coding | None, declared_bytes: int | None) -> None:
        self._bytes_max = bytes_max
        self.coding = coding
        self._declared_bytes = declared_bytes
        self._data = bytearray()
        self._received = 0
        self._stream: Any = None
        self._members = 0
        self.truncated = False

    def feed(self, data: bytes) -> bool:
        """Take more of it; whether still more is wanted. Raises ToolError for what cannot be expanded."""
        self._received += len(data)
        if self.coding is None:
            self._take(data)
        elif self._received > CODED_BYTES_MAX:
            raise ToolError(
                f"The answer is {self.coding} that has {CODED_BYTES_MAX} bytes and hardly any content."
            )
        else:
            self._expand(data)
        return not self.truncated

    def finish(self) -> None:
        """It has ended. Raises ToolError for a compressed body that has not."""
        if self._stream is not None:
            raise ToolError(f"The answer is {self.coding} that ends in the middle.")

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    @property
    def dropped_bytes(self) -> int | None:
        """How much of it is not in `data`; None where its end was not waited for and nobody told its size."""
        if not self.truncated:
            return 0
        if self.coding is not None or self._declared_bytes is None:
            return None
        return self._declared_bytes - len(self._data)

    def _take(self, data: bytes) -> None:
        room = self._bytes_max - len(self._data)
        self._data += data[:room]
        self.truncated = len(data) > room

    def _expand(self, data: bytes) -> None:
        while data and not self.truncated:
            stream = self._stream or self._begun(data)
            if stream is None:
                return
            room = self._bytes_max - len(self._data)
            try:
                self._take(stream.decompress(data, room + 1))
            except zlib.error:
                raise ToolError(f"The answer says it is {self.coding}, and cannot be expanded.") from None
            self._stream = None if stream.eof else stream
            data = stream.unused_data

    def _begun(self, data: bytes) -> Any:
        """What expands the stream that begins here; None: what follows the last one is no content."""
        if self._members and (self.coding == "deflate" or data[0] != GZIP_BEGINS):
            return None
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise ToolError(f"The answer is gzip in more than {MEMBERS_MAX} pieces.")
        return zlib.decompressobj(_GZIP if self.coding == "gzip" else _window(data[0]))


def _window(first: int) -> int:
    """What zlib is to expect of deflate: its own header begins so, and some servers leave it out."""
    return zlib.MAX_WBITS if first & 0x0F == 8 and first >> 4 <= 7 else -zlib.MAX_WBITS


# -- as a result --------------------------------------------------------------------------------------


async def shown(body: Body, content_type: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the result says of the body; and what the record does, where that is less: the last word of a
    text that was cut may be half a secret."""
    data = body.data
    name = _charset(content_type, data)
    said: dict[str, Any] = {"encoding": name or "base64"}
    if name is None:
        said["body"] = base64.b64encode(data).decode()
        return said | _counts(body, len(data)), None
    said["body"], said["undecodable"], left = await _text(data, name, ended=not body.truncated)
    said |= _counts(body, len(data) - left)
    if not body.truncated:
        return said, None
    kept = whole_words(said["body"], starts_inside=False, ends_inside=True)
    return said, {**said, "body": kept, "not_recorded_characters": len(said["body"]) - len(kept)}


def _counts(body: Body, shown_bytes: int) -> dict[str, Any]:
    dropped = body.dropped_bytes
    return {
        "body_bytes": shown_bytes,
        "body_dropped_bytes": None if dropped is None else dropped + len(body.data) - shown_bytes,
        "truncated": body.truncated,
    }


async def _text(data: bytes, name: str, *, ended: bool) -> tuple[str, int, int]:
    """The text, how many of its characters stand for bytes that are none, and how many bytes of a character
    that was cut are left out."""
    reader, counter = (codecs.getincrementaldecoder(name)(errors) for errors in ("replace", "ignore"))
    parts: list[str] = []
    faults = 0
    for at in range(0, max(1, len(data)), TEXT_PIECE_BYTES):
        piece = data[at : at + TEXT_PIECE_BYTES]
        is_last = ended and at + TEXT_PIECE_BYTES >= len(data)
        state = reader.getstate()
        part = reader.decode(piece, is_last)
        if "\ufffd" in part:  # some may have been sent as such
            counter.setstate(state)
            faults += part.count("\ufffd") - counter.decode(piece, is_last).count("\ufffd")
        parts.append(part)
        await asyncio.sleep(0)
    left = 0 if ended else len(reader.getstate()[0])
    return "".join(parts).removeprefix("\ufeff"), faults, left


def _charset(content_type: str, data: bytes) -> str | None:
    """The name of the encoding of a text, by what the server says or by its beginning; None: no text."""
    head = data[:HEAD_BYTES]
    found = _CHARSET.search(content_type)
    if found is not None:
        try:
            name = codecs.lookup(found[1]).name
        except LookupError:
            name = ""
        if name in CHARSETS and (b"\0" not in head or name.startswith(_WIDE)):
            # Without a mark Python reads none of it; browsers take it for little endian (WHATWG Encoding).
            return name if head.startswith(_MARKS.get(name, b"")) else f"{name}-le"
    detected = encoding_of(head)
    return None if detected is None else detected.name
