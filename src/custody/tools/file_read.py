"""The built-in tool `file_read`: a file, or a part of it by bytes or by lines, as text or as base64.

Owns what a caller asks for, the bounds, and the words of the result. Which bytes are text is `text`'s to say;
what may be opened is `files`'. A small file whose content is in the page cache is read on the event loop, as
a thread would take longer than the reading; whatever would wait for a disk goes to a thread. Both ways differ
in where the bytes come from and in nothing else.
"""

import base64
import functools
import os
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from custody.cuts import beginning_of_stream, whole_words
from custody.errors import CustodyError, ToolError
from custody.files import Opened, Reach
from custody.records import Decision, Effect, Level
from custody.tools.roots import Scope
from custody.tools.text import (
    CHARACTER_BYTES_MAX,
    HEAD_BYTES,
    Encoding,
    EncodingName,
    decoded,
    encoding_of,
    lines_of,
    marked,
    whole_characters,
)
from custody.tools.threads import run_in_thread
from custody.tools.tool import Context, Ended, Keep
from custody.tools.unreadable import unreadable

BYTES_DEFAULT = 1024 * 1024  # more than a model reads at once, and most files whole
BYTES_MAX = 16 * 1024 * 1024  # of one call: it is held in memory, and the record of the call holds it too

INLINE_BYTES_MAX = 256 * 1024
"""Read on the event loop: as much as is copied, decoded and hashed in a third of a millisecond."""

SCANNED_BYTES_MAX = 1024 * 1024 * 1024
"""Gone through for a line's number: some seconds from a fast disk. Further on, a place in bytes is better."""

CHUNK_BYTES = 1024 * 1024
BYTE_ORDER_MARK = "\ufeff"


class FileRead:
    """Read a file."""

    name = "file_read"
    description = (
        "Read a file, whole or in part: by lines (start_line, end_line) or by bytes (offset_bytes, "
        "length_bytes). Text comes as text, anything else as base64. `truncated` says whether there is more "
        "of what was asked for; offset_bytes + bytes of the result is where it goes on."
    )
    effect: Effect = "read"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file, inside the allowed roots."},
            "start_line": {"type": "integer", "minimum": 1, "description": "First line, counted from 1."},
            "end_line": {"type": "integer", "minimum": 1, "description": "Last line, included."},
            "offset_bytes": {"type": "integer", "minimum": 0, "description": "First byte, counted from 0."},
            "length_bytes": {"type": "integer", "minimum": 1, "description": "Bytes from there on."},
            "bytes_max": {
                "type": "integer",
                "minimum": CHARACTER_BYTES_MAX,
                "maximum": BYTES_MAX,
                "description": f"Most bytes to return. ({BYTES_DEFAULT})",
            },
            "encoding": {
                "enum": ["auto", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "base64"],
                "description": "How to read the bytes; base64 gives them as they are. (auto)",
            },
            "parse": {"type": "boolean", "description": "Give the value of a JSON file too. (false)"},
        },
        "required": ["path"],
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        asked = msgspec.convert(arguments, Asked)
        if asked.by_lines and asked.by_bytes:
            return Decision(
                "deny", "schema", "Ask for a range of lines or for a range of bytes, not for both."
            )
        if asked.end_line is not None and asked.end_line < (asked.start_line or 1):
            return Decision("deny", "schema", "end_line lies before start_line.")
        return scope.reach.decision(asked.path, write=False)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        began = time.monotonic_ns()
        asked = msgspec.convert(arguments, Asked)
        part: Part | None = None
        error: BaseException | None = None
        try:
            part = read_cached(asked, context.scope.reach)
        except BlockingIOError:
            work = functools.partial(read_waiting, asked, context.scope.reach, lambda: context.cancelled)
            return _ended_with(await run_in_thread(work, context, self.name))
        except OSError as fault:
            error = unreadable(fault, asked.path)
        except CustodyError as fault:
            error = fault
        return _ended_with(Ended(started_ns=began, ended_ns=time.monotonic_ns(), result=part, error=error))


class Part(Struct, frozen=True):
    """What was read."""

    result: dict[str, Any]
    recorded: dict[str, Any] | None
    """What the record has of it: without words that the part has only half of, which may be half a secret.
    None: all."""


def _ended_with(ended: Ended) -> Ended:
    part = ended.result
    if not isinstance(part, Part):
        return ended
    return msgspec.structs.replace(ended, result=part.result, recorded=part.recorded)


class Asked(Struct, frozen=True):
    """The arguments of one call."""

    path: str
    start_line: int | None = None
    end_line: int | None = None
    offset_bytes: int | None = None
    length_bytes: int | None = None
    bytes_max: int = BYTES_DEFAULT
    encoding: Literal["auto", "base64", "utf-16"] | EncodingName = "auto"
    parse: bool = False

    @property
    def by_lines(self) -> bool:
        return self.start_line is not None or self.end_line is not None

    @property
    def by_bytes(self) -> bool:
        return self.offset_bytes is not None or self.length_bytes is not None


# -- where the bytes come from ------------------------------------------------------------------------


class _Source(Protocol):
    """The bytes of one file."""

    def at(self, place: int, count: int) -> bytes:
        """Those from `place` on: fewer than `count` only where the file ends."""
        ...

    def status(self) -> os.stat_result:
        """As it is after what was read so far."""
        ...


class _InMemory:
    def __init__(self, data: bytes, status: os.stat_result) -> None:
        self._data = data
        self._status = status

    def at(self, place: int, count: int) -> bytes:
        return self._data[place : place + count]

    def status(self) -> os.stat_result:
        return self._status


class _OnDisk:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def at(self, place: int, count: int) -> bytes:
        found = os.pread(self._fd, count, place)
        while found and len(found) < count:
            more = os.pread(self._fd, count - len(found), place + len(found))
            if not more:
                break
            found += more
        return found

    def status(self) -> os.stat_result:
        return os.fstat(self._fd)


def read_cached(asked: Asked, reach: Reach) -> Part:
    """The part, without ever waiting for a disk. Raises BlockingIOError where that cannot be promised."""
    with reach.open(asked.path, cached=True) as opened:
        size = opened.status.st_size
        if size > INLINE_BYTES_MAX:
            raise BlockingIOError
        buffer = bytearray(size + 1)  # one more shows a file that has grown
        try:
            read = os.preadv(opened.fd, (buffer,), 0, os.RWF_NOWAIT)
        except OSError as error:  # not in the page cache, or a file system that cannot tell
            raise BlockingIOError from error
        status = os.fstat(opened.fd)
        if read != size or _changed(opened.status, status):
            raise BlockingIOError
        del buffer[size:]
        return _read(asked, opened, _InMemory(bytes(buffer), status), _never)


def read_waiting(asked: Asked, reach: Reach, stop: Callable[[], bool]) -> Part:
    """The same, however long the disk takes. Raises CustodyError."""
    try:
        with reach.open(asked.path) as opened:
            return _read(asked, opened, _OnDisk(opened.fd), stop)
    except OSError as error:
        raise unreadable(error, asked.path) from error


def _never() -> bool:
    return False


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether the file was written to meanwhile."""
    return after.st_mtime_ns != before.st_mtime_ns or after.st_size != before.st_size


# -- what of it is returned -----------------------------------------------------------------------------


class _Span(Struct, frozen=True):
    """The part of the file that was asked for."""

    begin: int
    end: int | None
    """None: to the end of the file."""
    first_line: int | None
    total_lines: int | None = None


def _read(asked: Asked, opened: Opened, source: _Source, stop: Callable[[], bool]) -> Part:
    head = source.at(0, HEAD_BYTES)
    if asked.encoding == "auto":
        encoding = encoding_of(head)
    else:
        encoding = None if asked.encoding == "base64" else marked(asked.encoding, head)
    span = _span_of_lines(asked, opened, source, encoding, stop) if asked.by_lines else _span_of_bytes(asked)
    wanted_end, limit = span.end, span.begin + asked.bytes_max
    if wanted_end is not None and wanted_end < limit:
        limit = wanted_end
    base = max(0, span.begin - CHARACTER_BYTES_MAX)
    window = source.at(base, limit + CHARACTER_BYTES_MAX - base)
    after = source.status()
    changed = _changed(opened.status, after)
    total = max(after.st_size, base + len(window) if window else 0)  # files of /proc have no size
    if span.begin > base + len(window):
        raise ToolError(f"{opened.path} has {total} bytes; offset_bytes {span.begin} is behind its end.")
    begin, end = span.begin - base, min(limit - base, len(window))
    if encoding is not None and (begin > 0 or end < len(window)):
        begin, end = whole_characters(window, begin, end, encoding, base)
        if end < len(window) and wanted_end != end + base:  # our bound, where nobody asked for it to end
            end = begin + _ended_well(window[begin:end], encoding)
    data = window[begin:end]
    begin, end = begin + base, end + base
    whole = begin == 0 and end == total and not changed
    result = {
        "path": opened.path,
        "kind": "binary",
        "encoding": "base64",
        "content": "",
        "offset_bytes": begin,
        "bytes": len(data),
        "total_bytes": total,
        "truncated": end < (total if wanted_end is None else min(wanted_end, total)),
        "first_line": None,
        "last_line": None,
        "total_lines": None,
        "byte_order_mark": False,
        "undecodable": 0,
        "sha256": sha256(data).hexdigest() if whole else None,
        "changed_while_read": changed,
    }
    if encoding is None:
        result["content"] = base64.b64encode(data).decode()
        return Part(result, None)
    result = _as_text(result, asked, data, encoding, span, whole)
    return Part(result, _recorded(result, window[: begin - base], window[end - base :], encoding))


def _recorded(
    result: dict[str, Any], before: bytes, after: bytes, encoding: Encoding
) -> dict[str, Any] | None:
    """What the record has of a part, given what stands in the file on either side of it."""
    content: str = result["content"]
    last, next_one = decoded(before, encoding)[0][-1:], decoded(after, encoding)[0][:1]
    starts_inside = last not in ("", "\n", BYTE_ORDER_MARK)
    ends_inside = bool(next_one.strip()) and bool(content[-1:].strip())
    kept = whole_words(content, starts_inside=starts_inside, ends_inside=ends_inside)
    if kept == content:
        return None
    return {**result, "content": kept, "not_recorded_characters": len(content) - len(kept)}


def _ended_well(data: bytes, encoding: Encoding) -> int:
    """How much of a text to return where there is more: up to the end of a line, if one ends in it."""
    if encoding.name not in ("utf-8", "latin-1"):
        return len(data)
    return len(beginning_of_stream(data)) or len(data)


def _as_text(
    result: dict[str, Any], asked: Asked, data: bytes, encoding: Encoding, span: _Span, whole: bool
) -> dict[str, Any]:
    """What there is to say of it as text. It is JSON if it is called so, was read whole and can be parsed."""
    mark_bytes = encoding.mark_bytes
    text = data[max(0, mark_bytes - result["offset_bytes"]) :] if mark_bytes else data
    result["kind"], result["encoding"], result["byte_order_mark"] = "text", encoding.name, mark_bytes > 0
    result["content"], result["undecodable"] = decoded(text, encoding)
    if span.first_line is not None:
        count = lines_of(encoding).count_begun(data)
        if count:
            result["first_line"], result["last_line"] = span.first_line, span.first_line + count - 1
        result["total_lines"] = count if whole else span.total_lines
    if whole and result["path"][-5:].lower() == ".json":
        try:
            value = msgspec.json.decode(result["content"])
        except (ValueError, RecursionError):
            return result
        result["kind"] = "json"
        if asked.parse:
            result["value"] = value
    return result


def _span_of_bytes(asked: Asked) -> _Span:
    begin = asked.offset_bytes or 0
    end = None if asked.length_bytes is None else begin + asked.length_bytes
    return _Span(begin, end, None if begin else 1)


def _span_of_lines(
    asked: Asked, opened: Opened, source: _Source, encoding: Encoding | None, stop: Callable[[], bool]
) -> _Span:
    """Where the lines that were asked for stand. The file is gone through from its beginning."""
    if encoding is None:
        raise ToolError(
            f"{opened.path} is no text, so it has no lines; ask for bytes (offset_bytes, length_bytes), "
            "or name the encoding."
        )
    lines = lines_of(encoding)
    first, last = asked.start_line or 1, asked.end_line
    place = feeds = 0
    begin: int | None = 0 if first == 1 else None
    end: int | None = None
    chunk = source.at(0, CHUNK_BYTES)
    unended = False
    while chunk:
        found = lines.count(chunk)
        if begin is None and feeds + found >= first - 1:
            begin = place + lines.behind(chunk, first - 1 - feeds)
        if last is not None and end is None and feeds + found >= last:
            end = place + lines.behind(chunk, last - feeds)
        unended = not lines.have_ended(chunk)
        feeds += found
        place += len(chunk)
        enough = begin is not None and (end is not None or place - begin >= asked.bytes_max)
        if enough and max(place, opened.status.st_size) > INLINE_BYTES_MAX:  # of a small file all are counted
            return _Span(begin or 0, end, first)
        if begin is None and place >= SCANNED_BYTES_MAX:
            raise ToolError(
                f"Line {first} of {opened.path} is not within its first {SCANNED_BYTES_MAX} bytes; "
                "ask for bytes (offset_bytes) instead."
            )
        if stop():
            raise ToolError("The reading was stopped.")
        chunk = source.at(place, CHUNK_BYTES)
    total = feeds + unended
    if begin is None or first > max(total, 1):
        raise ToolError(f"{opened.path} has {total} lines; start_line {first} is behind its end.")
    return _Span(begin, end, first, total)
