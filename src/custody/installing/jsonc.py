"""JSON as people keep settings in it, with comments and trailing commas, and where in the text each part is.

Owns the grammar (RFC 8259, `//` and `/* */`, a comma at an end) and the places. Changes nothing: that is
`json_edits`. Used by `hooks` and `servers`.
"""

import functools
import json
import re
from typing import Any, Literal

from msgspec import Struct

from custody.errors import InvalidInput

DEPTH_MAX = 200
"""Of objects and lists in one another; settings have some five, and each level is a call of ours."""

TEXTS_KEPT = 4
"""Of which the last parts are known still: the same text is asked for its hooks, its servers, our own."""

BOM = "\ufeff"

_TRIVIA = re.compile(r"[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*+"')
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}

Kind = Literal["object", "list", "scalar"]


def _no_json(constant: str) -> None:
    raise ValueError(constant)


_STRICT = json.JSONDecoder(parse_constant=_no_json)


class NotJson(InvalidInput):
    """The text is not JSON.

    `details` has `line` and `column`, counted from 1.
    """


class Node:
    """A value and where it stands. What is in an object or a list is looked at when somebody asks: settings
    may hold megabytes of history that nobody edits."""

    __slots__ = ("_children", "_text", "end", "kind", "scalar", "start")

    def __init__(
        self, kind: Kind, text: str, start: int, end: int, scalar: Any, children: "list[Child] | None"
    ) -> None:
        self.kind: Kind = kind
        self.start = start
        self.end = end
        self.scalar = scalar
        """Of a scalar, as Python has it."""
        self._text = text
        self._children = children

    @property
    def children(self) -> "list[Child]":
        if self._children is None:
            self._children = _Reader(self._text).children_of(self.kind, self.start, DEPTH_MAX)[0]
        return self._children

    @property
    def value(self) -> Any:
        """All of it, as `json.loads` would give it."""
        if self.kind == "scalar":
            return self.scalar
        if self._children is None:
            return self._strict()
        if self.kind == "list":
            return [child.node.value for child in self.children]
        return {child.key: child.node.value for child in self.children}

    def _strict(self) -> Any:
        """Of a value that is JSON without comments."""
        try:
            return _STRICT.raw_decode(self._text, self.start)[0]
        except RecursionError:
            raise _Reader(self._text).error("this is too many levels deep", self.start) from None

    def child(self, key: str) -> "Node | None":
        """The member of that name of an object; the last, where there are several, as readers have it."""
        found = [child.node for child in self.children if child.key == key]
        return found[-1] if found else None


class Child(Struct):
    """A member of an object, or an item of a list."""

    start: int
    """Where its key begins, or the item."""
    node: Node
    key: str = ""
    comma: int | None = None
    """Where the comma behind it stands, if there is one."""


@functools.lru_cache(maxsize=TEXTS_KEPT)
def parse(text: str) -> Node:
    """The one value of a text. Raises NotJson."""
    reader = _Reader(text)
    at = reader.skip(len(BOM) if text.startswith(BOM) else 0)
    node = reader.value(at, DEPTH_MAX)
    end = reader.skip(node.end)
    if end < len(text):
        raise reader.error("there is something behind the end", end)
    return node


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column of a position, from 1."""
    before = text[:at]
    return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1


def end_of_trivia(text: str, at: int, *, within_line: bool = False) -> int:
    """Behind the blanks and comments that begin here; `within_line`: behind the last comment that begins
    before this line ends."""
    end = at
    while found := _TRIVIA.match(text, at):
        if within_line and found[0].isspace() and "\n" in found[0]:
            break
        at = found.end()
        if not within_line or not found[0].isspace():
            end = at
            if within_line and "\n" in found[0]:  # the comment has several lines: what follows is another
                break
    return end


def ends_in_line_comment(text: str, at: int) -> bool:
    """Whether the last comment of those that begin here, one after the other, is one with `//`."""
    line = False
    while found := _TRIVIA.match(text, at):
        at = found.end()
        line = line if found[0].isspace() else found[0].startswith("//")
    return line


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text

    def error(self, what: str, at: int) -> NotJson:
        line, column = place(self._text, at)
        return NotJson(f"Line {line}, column {column}: {what}.", line=line, column=column)

    def skip(self, at: int) -> int:
        at = end_of_trivia(self._text, at)
        if self._text.startswith("/*", at):
            raise self.error("this comment has no end", at)
        return at

    def value(self, at: int, depth: int) -> Node:
        text = self._text
        if not depth:
            raise self.error(f"this is more than {DEPTH_MAX} levels deep", at)
        first = text[at : at + 1]
        if first in ("{", "["):
            kind: Kind = "object" if first == "{" else "list"
            end = self._end_of_json(at)
            if end is not None:
                return Node(kind, text, at, end, None, None)
            children, end = self.children_of(kind, at, depth)
            return Node(kind, text, at, end, None, children)
        if first == '"':
            value, end = self._string(at)
            return Node("scalar", text, at, end, value, [])
        if number := _NUMBER.match(text, at):
            return Node("scalar", text, at, number.end(), _number(number[0]), [])
        for word, value in _WORDS.items():
            if text.startswith(word, at):
                return Node("scalar", text, at, at + len(word), value, [])
        raise self.error("a value is missing" if first else "the text ends too early", at)

    def _end_of_json(self, at: int) -> int | None:
        """Where a value ends that is JSON without comments; None for any other, and for what is no JSON."""
        try:
            return _STRICT.raw_decode(self._text, at)[1]
        except (ValueError, RecursionError):
            return None

    def _string(self, at: int) -> tuple[str, int]:
        found = _STRING.match(self._text, at)
        try:
            return json.loads(found[0] if found else ""), found.end() if found else at
        except ValueError:
            raise self.error("this text in quotes is not well formed", at) from None

    def children_of(self, kind: Kind, opened: int, depth: int) -> "tuple[list[Child], int]":
        """What is in an object or a list, and where it ends."""
        text = self._text
        children: list[Child] = []
        closing = "}" if kind == "object" else "]"
        at = self.skip(opened + 1)
        while not text.startswith(closing, at):
            if at >= len(text):
                raise self.error(f"this has no {closing}", opened)
            child = self._child(kind, at, depth)
            children.append(child)
            at = self.skip(child.node.end)
            if text.startswith(",", at):
                child.comma = at
                at = self.skip(at + 1)
            elif not text.startswith(closing, at):
                raise self.error(f"a comma or {closing} is missing before this", min(at, len(text)))
        return children, at + 1

    def _child(self, kind: Kind, at: int, depth: int) -> Child:
        if kind == "list":
            return Child(at, self.value(at, depth - 1))
        if not self._text.startswith('"', at):
            raise self.error("a name in double quotes is missing", at)
        key, end = self._string(at)
        colon = self.skip(end)
        if not self._text.startswith(":", colon):
            raise self.error("a colon is missing", colon)
        return Child(at, self.value(self.skip(colon + 1), depth - 1), key)


def _number(said: str) -> int | float:
    if said.lstrip("-").isdigit():
        try:
            return int(said)
        except ValueError:  # more digits than Python turns into one
            return float("inf")
    return float(said)


def items_of(node: Node | None) -> list[Node]:
    """The items of a list; none of anything else."""
    return [child.node for child in node.children] if node is not None and node.kind == "list" else []
