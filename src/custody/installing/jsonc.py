"""JSON as people keep settings in it, with comments and trailing commas, and where in the text each part is.

Owns the grammar (RFC 8259, `//` and `/* */`, a comma at an end) and the places. Changes nothing: that is
`json_edits`. Used by `hooks` and `servers`.
"""

import json
import re
from typing import Any, Literal

from msgspec import Struct

from custody.errors import InvalidInput

DEPTH_MAX = 200
"""Of objects and lists in one another; settings have some five, and each level is a call of ours."""

BOM = "\ufeff"

_TRIVIA = re.compile(r"[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*+"')
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}

Kind = Literal["object", "list", "scalar"]


class NotJson(InvalidInput):
    """The text is not JSON.

    `details` has `line` and `column`, counted from 1.
    """


class Node(Struct):
    """A value and where it stands."""

    kind: Kind
    start: int
    end: int = 0
    scalar: Any = None
    """Of a scalar, as Python has it."""
    children: "list[Child]" = []

    @property
    def value(self) -> Any:
        """All of it, as `json.loads` would give it."""
        if self.kind == "scalar":
            return self.scalar
        if self.kind == "list":
            return [child.node.value for child in self.children]
        return {child.key: child.node.value for child in self.children}

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
            return self._container(at, depth)
        if first == '"':
            value, end = self._string(at)
            return Node("scalar", at, end, value)
        if number := _NUMBER.match(text, at):
            return Node("scalar", at, number.end(), _number(number[0]))
        for word, value in _WORDS.items():
            if text.startswith(word, at):
                return Node("scalar", at, at + len(word), value)
        raise self.error("a value is missing" if first else "the text ends too early", at)

    def _string(self, at: int) -> tuple[str, int]:
        found = _STRING.match(self._text, at)
        try:
            return json.loads(found[0] if found else ""), found.end() if found else at
        except ValueError:
            raise self.error("this text in quotes is not well formed", at) from None

    def _container(self, at: int, depth: int) -> Node:
        text = self._text
        node = Node("object" if text[at] == "{" else "list", at, children=[])
        closing = "}" if node.kind == "object" else "]"
        opened, at = at, self.skip(at + 1)
        while not text.startswith(closing, at):
            if at >= len(text):
                raise self.error(f"this has no {closing}", opened)
            child = self._child(node.kind, at, depth)
            node.children.append(child)
            at = self.skip(child.node.end)
            if text.startswith(",", at):
                child.comma = at
                at = self.skip(at + 1)
            elif not text.startswith(closing, at):
                raise self.error(f"a comma or {closing} is missing before this", min(at, len(text)))
        node.end = at + 1
        return node

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
