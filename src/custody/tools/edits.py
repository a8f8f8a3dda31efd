"""Exact replacements in a text: each found as often as it says, or none of them is made.

Owns what an edit means for a file's bytes: the encoding, the byte order mark and the line endings that are
kept. Pure; knows no files. Used by `file_edit`.
"""

from collections.abc import Sequence

from msgspec import Struct

from custody.errors import ToolError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PLACES_NAMED_MAX = 10  # a message a person reads, not a list of matches


class Edit(Struct, frozen=True):
    """One replacement: `old`, which stands there exactly `count` times, becomes `new`."""

    old: str
    new: str
    count: int = 1


def check_text(content: bytes, path: str) -> None:
    """Raises ToolError for a file whose bytes are not UTF-8 text."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ToolError(f"{path} is UTF-16, by its byte order mark; only UTF-8 text can be edited.")
    if (place := content.find(b"\0")) >= 0:
        raise ToolError(f"{path} is not text: there is a NUL at byte {place}. Only UTF-8 text can be edited.")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise ToolError(
            f"{path} is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}. "
            "Only UTF-8 text can be edited."
        ) from None


def edited(content: bytes, edits: Sequence[Edit], path: str) -> bytes:
    """The file's bytes after every edit, one after another. `path` is for the message.

    A byte order mark stays where it is. In a file all of whose lines end in CR LF, a bare LF in `old` and
    `new` stands for CR LF, so that its endings stay of one kind. Raises ToolError at the first edit whose
    `old` stands there another number of times.
    """
    check_text(content, path)
    mark = BYTE_ORDER_MARK if content.startswith(BYTE_ORDER_MARK) else b""
    body = content[len(mark) :]
    crlf = 0 < body.count(b"\n") == body.count(b"\r\n")
    for number, edit in enumerate(edits, 1):
        old, new = _bytes_of(edit.old, crlf=crlf), _bytes_of(edit.new, crlf=crlf)
        found = body.count(old)
        if found != edit.count:
            raise ToolError(_mismatch(body, old, edit.count, found, number, len(edits), path))
        body = body.replace(old, new)
    return mark + body


def _bytes_of(text: str, *, crlf: bool) -> bytes:
    data = text.encode()
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") if crlf else data


def _mismatch(body: bytes, old: bytes, wanted: int, found: int, number: int, edits: int, path: str) -> str:
    which = "`old`" if edits == 1 else f"`old` of edit {number} of {edits}"
    after = " after the edits before it" if number > 1 else ""
    if found == 0:
        return f"{which} does not stand in {path}{after}; nothing was changed."
    lines = _lines_of(body, old)
    named = ", ".join(map(str, lines)) + (", …" if found > len(lines) else "")
    return (
        f"{which} stands {found} {_times(found)} in {path}{after}, not {wanted} "
        f"(line{'s' if found > 1 else ''} {named}); nothing was changed. "
        "Name more of what is around it, or the `count`."
    )


def _times(count: int) -> str:
    return "time" if count == 1 else "times"


def _lines_of(body: bytes, old: bytes) -> list[int]:
    """The line numbers, from 1, at which the first matches begin."""
    lines: list[int] = []
    line, searched, place = 1, 0, body.find(old)
    while place >= 0 and len(lines) < PLACES_NAMED_MAX:
        line += body.count(b"\n", searched, place)
        lines.append(line)
        searched, place = place, body.find(old, place + len(old))
    return lines
