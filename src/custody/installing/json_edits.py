"""Edits of a JSON text in place: what is put in can be taken out again to the same bytes, whatever a person
changed around it meanwhile.

Owns where blanks and commas go. What is put in stands behind all that is there, behind a comment on the same
line; so to take a part out is to take the blanks before it, and one comma, with it. Knows nothing of what is
put in. Used by `hooks` and `servers`.
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from custody.installing.jsonc import Child, Node, end_of_trivia, ends_in_line_comment

INDENT = "  "  # where the text has none to go by

_BLANKS = " \t\r\n"


class Edit(Struct, frozen=True):
    """What stands instead of a part of a text."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits, none of which overlap; those at one place in the order given."""
    out: list[str] = []
    at = 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        assert edit.start >= at, "edits do not overlap"
        out += [text[at : edit.start], edit.text]
        at = edit.end
    return "".join([*out, text[at:]])


def added(text: str, node: Node, parts: Sequence[tuple[str, Any]]) -> list[Edit]:
    """Edits that put (key, value) pairs at the end of an object, or values (their key unused) of a list."""
    one_line = node.children and "\n" not in text[node.start : node.end]
    deep = _indent_of_parts(text, node)
    before = " " if one_line else _newline(text) + deep
    shown = [_part(text, node, key, value, None if one_line else deep) for key, value in parts]
    new = before + f",{before}".join(shown)
    if not node.children:
        return _added_to_nothing(text, node, new)
    last = node.children[-1]
    if last.comma is not None:
        at = end_of_trivia(text, last.comma + 1, within_line=True)
        return [Edit(at, at, new + ",")]
    at = end_of_trivia(text, last.node.end, within_line=True)
    return [Edit(last.node.end, last.node.end, ","), Edit(at, at, new)]


def _added_to_nothing(text: str, node: Node, new: str) -> list[Edit]:
    inside = text[node.start + 1 : node.end - 1]
    if not inside.strip(_BLANKS) and "\n" not in inside:
        return [Edit(node.start + 1, node.end - 1, new + _newline(text) + _indent_at(text, node.start))]
    at = end_of_trivia(text, node.start + 1, within_line=True)
    return [Edit(at, at, new)]


def removed(text: str, node: Node, indexes: Iterable[int]) -> list[Edit]:
    """Edits that take those children out of an object or a list."""
    gone = sorted(set(indexes))
    children = node.children
    edits = [Edit(_start_of(text, node, i, gone), children[i].node.end, "") for i in gone]
    commas = [comma for i in gone if (comma := children[i].comma) is not None]
    kept = [i for i in range(len(children)) if i not in gone]
    if kept and gone and gone[-1] == len(children) - 1 and children[-1].comma is None:
        comma = children[kept[-1]].comma
        commas += [] if comma is None else [comma]
    edits += [Edit(comma, comma + 1, "") for comma in commas]
    if not kept and gone:
        edits += _closed_up(text, node, edits)
    return edits


def _start_of(text: str, node: Node, index: int, gone: Sequence[int]) -> int:
    """Where what goes with a child begins: with the blanks before it, unless they end a `//` comment and no
    other line break that stays follows."""
    child = node.children[index]
    start = child.start
    while text[start - 1] in _BLANKS:
        start -= 1
    before = node.children[index - 1] if index else None
    behind = node.start + 1 if before is None else _behind(before)
    if not ends_in_line_comment(text, behind):
        return start
    return start if _line_ends(text, node, index, gone) else child.start


def _line_ends(text: str, node: Node, index: int, gone: Sequence[int]) -> bool:
    """Whether a line break that stays is all that follows a child, and those behind it that go with it."""
    last = index
    while last + 1 in gone:
        last += 1
    run = node.children[index : last + 1]
    gaps = [text[child.node.end : child.comma or child.node.end] for child in run]
    gaps += [text[_behind(child) : after.start] for child, after in itertools.pairwise(run)]
    follows = text[_behind(run[-1]) :].lstrip(" \t")[:1]
    return follows in ("\n", "\r") and not "".join(gaps).strip(_BLANKS)


def _behind(child: Child) -> int:
    return child.node.end if child.comma is None else child.comma + 1


def _closed_up(text: str, node: Node, edits: Sequence[Edit]) -> list[Edit]:
    """Without the blanks that nothing stands between any more."""
    inside = [edit for edit in edits if node.start < edit.start]
    left = apply(text[: node.end - 1], inside)[node.start + 1 :]
    if left.strip(_BLANKS):
        return []
    return [Edit(_behind(node.children[-1]), node.end - 1, "")]


def replaced(text: str, node: Node, value: Any) -> Edit:
    """The edit that puts another value in the place of one, on as many lines."""
    one_line = "\n" not in text[node.start : node.end]
    return Edit(node.start, node.end, _json(text, value, None if one_line else _indent_at(text, node.start)))


def put_first(text: str, node: Node, values: Sequence[str]) -> list[Edit]:
    """Edits that put texts before all that a list has, on the line of its bracket."""
    new = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
    return [Edit(node.start + 1, node.start + 1, new + ("," if node.children else ""))] if values else []


def first_taken(text: str, node: Node, count: int) -> list[Edit]:
    """Edits that take the first so many items of a list out."""
    last = node.children[count - 1]
    end = last.node.end if last.comma is None else last.comma + 1
    return [Edit(node.children[0].start, end, "")]


def new_document(value: Any) -> str:
    """The text of a file that holds nothing else."""
    return json.dumps(value, indent=len(INDENT), ensure_ascii=False) + "\n"


def _part(text: str, node: Node, key: str, value: Any, deep: str | None) -> str:
    name = f"{json.dumps(key, ensure_ascii=False)}: " if node.kind == "object" else ""
    return name + _json(text, value, deep)


def _json(text: str, value: Any, deep: str | None) -> str:
    """On lines of its own below an indentation, or on one line."""
    if deep is None:
        return json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return (_newline(text) + deep).join(lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _indent_at(text: str, at: int) -> str:
    """The blanks that the line of a position begins with."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _indent_of_parts(text: str, node: Node) -> str:
    """How far in the children of an object or a list stand."""
    if node.children:
        start = node.children[-1].start
        if not text[text.rfind("\n", 0, start) + 1 : start].strip(" \t"):
            return _indent_at(text, start)
    return _indent_at(text, node.start) + _unit(text)


def _unit(text: str) -> str:
    """What one more level is set in by: the least that any line of the text is."""
    found = re.findall(r"^([ \t]+)[^\s/*]", text, re.MULTILINE)
    return min(found, key=len) if found else INDENT
