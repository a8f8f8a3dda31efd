"""Where each key of a TOML text stands, for sentences that name line and column.

Owns reading the outline of a TOML text: headers, keys, and where each value begins. Refuses to know what the
values are: `tomllib` reads those, and only a text it has accepted comes here, so nothing is checked twice.
Used by `policy.document`.
"""

import re
from bisect import bisect_right

Path = tuple[str | int, ...]
"""Of a value in a document: names of keys, and indices of lists and of arrays of tables."""

KEY_PARTS_MAX = 32
"""Of one dotted key or header: reading them takes `tomllib` the square of their number."""

_STRING = (
    r'"""(?:\\.|[^\\]|\\\Z)*?(?:"{3,5}|\Z)'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"(?:\\[^\n]|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
)  # three quotes end a text, and up to two more may belong to it; one that never ends takes what is left, so
#    that no text takes the square of its length
_STRING_OR_COMMENT = re.compile(_STRING + r"|#[^\n]*", re.DOTALL)
_MANY_PARTS = re.compile(rf"[\w-](?:[ \t]*\.[ \t]*[\w-]+){{{KEY_PARTS_MAX}}}")
_BRACKET = re.compile(r"[\[\]{}]")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r'[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_SCALAR = re.compile(_STRING + r"|[^,\]}#\n]+", re.DOTALL)


def long_key(text: str) -> int | None:
    """The offset of the first key of more than KEY_PARTS_MAX parts, in any text, TOML or not."""
    words = _STRING_OR_COMMENT.sub(_blanked, text)
    found = _MANY_PARTS.search(words)
    return None if found is None else found.start()


def deepest(text: str) -> int:
    """The offset of the bracket or brace with the most others around it."""
    depth = most = found = 0
    for bracket in _BRACKET.finditer(_STRING_OR_COMMENT.sub(_blanked, text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > most:
            most, found = depth, bracket.start()
    return found


def _blanked(match: re.Match[str]) -> str:
    """As long as it was, so that offsets stay; a quoted key still counts as a part."""
    text = match[0]
    return (" " if text[0] == "#" else "_") * len(text)


class Lines:
    """Line and column of an offset of a text, both from 1; a column counts characters."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(newline.end() for newline in re.finditer("\n", text))]

    def place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


class Places:
    """Of every key and list element of one TOML text."""

    def __init__(self, text: str) -> None:
        self._lines = Lines(text)
        self._text = text
        self._keys: dict[Path, int] = {}
        self._values: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}  # of each array of tables, so far
        self._outline()

    def key(self, path: Path) -> tuple[int, int]:
        """Of the key, or of the nearest table around it that stands in the text."""
        while path and path not in self._keys:
            path = path[:-1]
        return self._lines.place(self._keys.get(path, 0))

    def value(self, path: Path) -> tuple[int, int]:
        """Of what follows the key's equals sign, else of the key."""
        found = self._values.get(path)
        return self.key(path) if found is None else self._lines.place(found)

    def within(self, path: Path, line: int, column: int) -> tuple[int, int] | None:
        """Of a character of a text value, its line and column in there from 1; None where escapes make it
        uncertain."""
        start = self._values.get(path)
        if start is None:
            return None
        written = self._written(start)
        if written[0] == '"' and "\\" in written:
            return None
        start += 3 if written[:3] in ('"""', "'''") else 1
        if self._text.startswith(("\n", "\r\n"), start):
            line += 1  # TOML drops a newline right behind three quotes
        for _ in range(line - 1):
            start = self._text.index("\n", start) + 1
        return self._lines.place(start + column - 1)

    # -- reading ------------------------------------------------------------------------------------------

    def _outline(self) -> None:
        table: Path = ()
        at = self._after_blank(0)
        while at < len(self._text):
            if self._text.startswith("[[", at):
                table, at = self._header(at, 2)
            elif self._text[at] == "[":
                table, at = self._header(at, 1)
            else:
                at = self._pair(at, table)
            at = self._after_blank(at)

    def _header(self, at: int, brackets: int) -> tuple[Path, int]:
        start = at
        parts, at = self._dotted(self._after_blank(at + brackets))
        path: Path = ()
        for index, (part, _) in enumerate(parts):
            path = (*path, part)
            if brackets == 2 and index == len(parts) - 1:
                self._keys.setdefault(path, start)
                self._lengths[path] = self._lengths.get(path, 0) + 1
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
            self._keys.setdefault(path, start)
        return path, self._after_blank(at) + brackets

    def _pair(self, at: int, table: Path) -> int:
        parts, at = self._dotted(at)
        for part, offset in parts:
            table = (*table, part)
            self._keys.setdefault(table, offset)
        equals = _EQUALS.match(self._text, at)
        assert equals is not None, "the text was accepted as TOML, where a value follows each key"
        self._values[table] = equals.end()
        return self._value(equals.end(), table)

    def _dotted(self, at: int) -> tuple[list[tuple[str, int]], int]:
        parts: list[tuple[str, int]] = []
        while True:
            key = _KEY.match(self._text, at)
            assert key is not None, "the text was accepted as TOML, where keys are bare or quoted"
            parts.append((_name(key[0]), at))
            dot = _DOT.match(self._text, key.end())
            if dot is None:
                return parts, key.end()
            at = dot.end()

    def _value(self, at: int, path: Path) -> int:
        opening = self._text[at]
        if opening == "[":
            return self._list(at, path)
        if opening == "{":
            return self._inline_table(at, path)
        return at + len(self._written(at))

    def _written(self, at: int) -> str:
        """A value that is neither list nor table, as it stands in the text."""
        scalar = _SCALAR.match(self._text, at)
        assert scalar is not None, "the text was accepted as TOML, where no value is empty"
        return scalar[0]

    def _list(self, at: int, path: Path) -> int:
        at = self._after_blank(at + 1)
        index = 0
        while self._text[at] != "]":
            element = (*path, index)
            self._keys[element] = self._values[element] = at
            at = self._after_comma(self._value(at, element))
            index += 1
        return at + 1

    def _inline_table(self, at: int, path: Path) -> int:
        at = self._after_blank(at + 1)
        while self._text[at] != "}":
            at = self._after_comma(self._pair(at, path))
        return at + 1

    def _after_comma(self, at: int) -> int:
        at = self._after_blank(at)
        return self._after_blank(at + 1) if self._text[at] == "," else at

    def _after_blank(self, at: int) -> int:
        blank = _BLANK.match(self._text, at)
        assert blank is not None, "it matches nothing as well"
        return blank.end()


def _name(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    if key[0] != '"':
        return key
    import tomllib

    (name,) = tomllib.loads(f"{key} = 0")
    return name
