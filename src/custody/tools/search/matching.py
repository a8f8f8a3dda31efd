"""A pattern over the lines of a text: what matches, where, and what stands around it.

Owns the meaning of a pattern: RE2's, over one line at a time, in UTF-8. RE2 needs time in proportion to the
text, whatever the pattern; Python's `re` can need years over one that somebody else wrote, and is never
asked. Pure; knows no files. Used by `file_search`.
"""

import re
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from custody.tools.text import HEAD_BYTES, Encoding, encoding_of

LINE_CHARACTERS_MAX = 1_000
"""Of a line in a result. Longer ones are data or were written by a program; of those the part around the
match is shown."""

LINE_LEAD_CHARACTERS = 200  # of a line that is cut, before the match


_EDGE = re.compile(r"[\s\"'`,;<>(){}\[\]\u2e80-\U0010ffff]")
"""Where words end in lines that programs wrote, which have few blanks."""


class Line(Struct, frozen=True):
    """A line that matches."""

    number: int
    """Counted from 1."""
    column: int
    """Of its first match, in characters, counted from 1."""
    text: str
    cut_characters: int
    """How many of it are not in `text`."""
    before: tuple[str, ...]
    after: tuple[str, ...]


def pattern_of(text: str, *, literal: bool, case_sensitive: bool) -> Any:
    """The compiled pattern, for `matching_lines`. Raises ValueError, in words for the caller."""
    import re2  # pyright: ignore[reportMissingTypeStubs]

    library: Any = re2
    if names_line_break(text, literal=literal):
        raise ValueError(
            "The search goes line by line: a pattern cannot hold a line break. Search for one line."
        )
    options: Any = library.Options()
    options.literal = literal
    options.case_sensitive = case_sensitive
    options.never_nl = True
    options.log_errors = False
    try:
        compiled = library.compile(text.encode(), options=options)
        return compiled if literal else library.compile(b"(?m)" + text.encode(), options=options)
    except UnicodeEncodeError:
        raise ValueError("The pattern is no text that UTF-8 can hold.") from None
    except library.error as error:
        detail: Any = error.args[0] if error.args else error
        shown = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        kind = shown.partition(": ")[
            0
        ]  # behind it stands a part of the pattern, and reasons are kept for ever
        raise ValueError(
            f"The pattern is no regular expression of RE2 ({kind}). RE2 has no back-references and no "
            "look-around; `literal` searches for the text as it is."
        ) from None


def names_line_break(text: str, *, literal: bool) -> bool:
    """Whether the pattern asks for a line feed, as itself or as the escape for it."""
    if "\n" in text or literal:
        return "\n" in text
    escaped = False
    for character in text:
        if escaped and character == "n":
            return True
        escaped = character == "\\" and not escaped
    return False


def as_text(data: bytes) -> tuple[bytes, Encoding | None]:
    """The file's content as it is searched, in UTF-8 with plain line feeds; with None where it is no text.

    UTF-16 is recognised by its mark alone. What is neither is searched as it stands, byte by byte where it is
    not UTF-8: only what is ASCII is found in it.
    """
    encoding = encoding_of(data[:HEAD_BYTES])
    if encoding is not None:
        if encoding.name.startswith("utf-16"):
            if encoding.mark_bytes:
                data = data[encoding.mark_bytes :].decode(encoding.name, "replace").encode()
            else:
                encoding = None
        else:
            data = data[encoding.mark_bytes :]
    return data.replace(b"\r\n", b"\n"), encoding


def occurs(data: bytes, pattern: Any) -> bool:
    """Whether any line matches."""
    return next(_places(data, pattern), None) is not None


def matching_lines(data: bytes, encoding: Encoding, pattern: Any, context_lines: int) -> Iterator[Line]:
    """The lines that match, in order. `data` and `encoding` are from `as_text`."""
    codec = "latin-1" if encoding.name == "latin-1" else "utf-8"
    number = 1
    counted = 0
    for place, begin, end in _places(data, pattern):
        number += data.count(b"\n", counted, begin)
        counted = begin
        lead = data[begin:place].decode(codec, "replace")
        text = data[begin:end].decode(codec, "replace")
        yield Line(
            number,
            len(lead) + 1,
            *_cut(text, len(lead)),
            tuple(_shortened(line, codec) for line in _lines_before(data, begin, context_lines)),
            tuple(_shortened(line, codec) for line in _lines_after(data, end, context_lines)),
        )


def _places(data: bytes, pattern: Any) -> Iterator[tuple[int, int, int]]:
    """Where each line's first match begins, and where that line begins and ends."""
    place = 0
    while place <= len(data):
        found = pattern.search(data, place)
        if found is None:
            return
        start: int = found.start()
        begin = data.rfind(b"\n", 0, start) + 1
        if begin == len(data):  # behind the last line feed there is no line
            return
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        yield start, begin, end
        place = end + 1


def _cut(text: str, lead: int) -> tuple[str, int]:
    if len(text) <= LINE_CHARACTERS_MAX:
        return text, 0
    begin = min(max(0, lead - LINE_LEAD_CHARACTERS), len(text) - LINE_CHARACTERS_MAX)
    if begin > 0:
        begin = next((edge.end() for edge in _EDGE.finditer(text, begin, lead)), begin)
    shown = _to_an_edge(text[begin : begin + LINE_CHARACTERS_MAX + 1], lead - begin)
    return shown, len(text) - len(shown)


def _to_an_edge(text: str, lead: int = 0) -> str:
    """Ending with a whole word, so that it holds no half of a secret; a single word that is longer is shown
    around its match, as it is most of the line."""
    if len(text) <= LINE_CHARACTERS_MAX:
        return text
    ends = [edge.start() for edge in _EDGE.finditer(text, lead)]
    return text[: ends[-1] if ends else LINE_CHARACTERS_MAX]


def _shortened(line: bytes, codec: str) -> str:
    return _to_an_edge(
        line[: 4 * LINE_CHARACTERS_MAX + 4].decode(codec, "replace")[: LINE_CHARACTERS_MAX + 1]
    )


def _lines_before(data: bytes, begin: int, count: int) -> list[bytes]:
    lines: list[bytes] = []
    while begin > 0 and len(lines) < count:
        start = data.rfind(b"\n", 0, begin - 1) + 1
        lines.insert(0, data[start : begin - 1])
        begin = start
    return lines


def _lines_after(data: bytes, end: int, count: int) -> list[bytes]:
    lines: list[bytes] = []
    while end + 1 < len(data) and len(lines) < count:
        stop = data.find(b"\n", end + 1)
        stop = len(data) if stop < 0 else stop
        lines.append(data[end + 1 : stop])
        end = stop
    return lines
