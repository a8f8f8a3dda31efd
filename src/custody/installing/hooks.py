"""Custody's hooks in the settings of a coding CLI, put in and taken out.

Owns the shape of each CLI's settings, and how our own entries are known. Refuses to know which events there
are and what a hook answers: that is `doors.hooks`'. What each CLI's hooks can do is in
docs/reference/hooks.md. Used by `plans`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from custody.errors import InvalidInput
from custody.installing.json_edits import Edit, added, apply, new_document, removed, replaced
from custody.installing.jsonc import Node, items_of, parse, place

HOOKS = "hooks"
NAME = "custody"  # of our hooks, where hooks have names
OURS = "/custody/doors/hooks/client.py"
"""What every command line of ours has in it, whichever version or interpreter wrote it."""


class HookLine(Struct, frozen=True, kw_only=True):
    """One hook to be put in."""

    event: str
    """The CLI's own name."""
    of_tools: bool
    """Whether a matcher says for which tools; ours is for every tool."""
    command: str
    timeout_seconds: int
    more: Mapping[str, str] = {}
    """What else stands beside the command."""


class HookForm(Struct, frozen=True, kw_only=True):
    """How one CLI has hooks in its settings, as looked up on 2026-11-22."""

    every_tool: str
    """The matcher that all tools match."""
    per_second: int
    """What one second is in its `timeout`."""
    named: bool = False
    """Whether a hook has a `name`."""


CLAUDE_CODE = HookForm(every_tool="*", per_second=1)
CODEX = HookForm(every_tool="*", per_second=1)
GEMINI = HookForm(every_tool=".*", per_second=1000, named=True)


class Unexpected(InvalidInput):
    """The settings have something else where hooks belong."""


def with_hooks(text: str, form: HookForm, lines: Sequence[HookLine]) -> str:
    """The settings with these hooks; one that is there already stays, and an older one of ours for the same
    event becomes this one. Raises NotJson, Unexpected."""
    whole = {line.event: [_group(form, line)] for line in lines}
    if not text.strip():
        return text + new_document({HOOKS: whole})
    root = parse(text)
    _must_be(text, root, "object", "the whole")
    hooks = root.child(HOOKS)
    if hooks is None:
        return apply(text, added(text, root, [(HOOKS, whole)]))
    _must_be(text, hooks, "object", HOOKS)
    edits: list[Edit] = []
    missing: list[tuple[str, Any]] = []
    for line in lines:
        groups = hooks.child(line.event)
        if groups is None:
            missing.append((line.event, whole[line.event]))
            continue
        _must_be(text, groups, "list", f"{HOOKS}.{line.event}")
        edits += _made_whole(text, form, line, groups)
    if missing:
        edits += added(text, hooks, missing)
    return apply(text, edits)


def without_hooks(text: str, original: str | None) -> str:
    """The settings without our hooks. An object or a list that is empty then stays where the settings had it
    before (`original`; None: nobody knows) and goes otherwise. Raises NotJson."""
    if not text.strip():
        return text
    root = parse(text)
    hooks = root.child(HOOKS)
    if hooks is None or hooks.kind != "object":
        return text
    before = _hooks_before(original)
    edits: list[Edit] = []
    gone: list[int] = []
    for number, member in enumerate(hooks.children):
        found, empty = _taken_out(text, member.node)
        if empty and found and (before is None or member.key not in before):
            gone.append(number)
        else:
            edits += found
    if gone and len(gone) == len(hooks.children) and before is None:
        at = next(number for number, member in enumerate(root.children) if member.node is hooks)
        return apply(text, removed(text, root, [at]))
    return apply(text, edits + removed(text, hooks, gone))


def events_hooked(text: str) -> dict[str, set[str]]:
    """Event -> the lines of ours it runs. Raises NotJson."""
    root = parse(text) if text.strip() else None
    hooks = None if root is None else root.child(HOOKS)
    found: dict[str, set[str]] = {}
    for member in hooks.children if hooks is not None and hooks.kind == "object" else ():
        lines = {hook.value["command"] for _, _, hook in _ours(member.node)}
        if lines:
            found[member.key] = lines
    return found


def is_ours(command: object) -> bool:
    """Whether a hook's command line is one that was installed."""
    return isinstance(command, str) and OURS in command


def _group(form: HookForm, line: HookLine) -> dict[str, Any]:
    hook: dict[str, Any] = {"name": NAME} if form.named else {}
    hook |= {"type": "command", "command": line.command, "timeout": line.timeout_seconds * form.per_second}
    matcher = {"matcher": form.every_tool} if line.of_tools else {}
    return {**matcher, HOOKS: [{**hook, **line.more}]}


def _made_whole(text: str, form: HookForm, line: HookLine, groups: Node) -> list[Edit]:
    """Edits after which one hook of ours, for every tool, is among those of an event."""
    edits: list[Edit] = []
    ours = _ours(groups)
    narrowed = {number for number, _, _ in ours if _is_narrowed(form, line, items_of(groups)[number])}
    for number, _, hook in ours:
        if number not in narrowed:
            edits += _brought_up(text, form, line, items_of(groups)[number], hook)
    for number in sorted(narrowed):  # others' hooks stand there too: theirs stay as they are
        beside = items_of(groups)[number].child(HOOKS)
        assert beside is not None, "a hook of ours stands in it"
        edits += removed(text, beside, [hook for group, hook, _ in ours if group == number])
    if all(number in narrowed for number, _, _ in ours):
        edits += added(text, groups, [("", _group(form, line))])
    return edits


def _is_narrowed(form: HookForm, line: HookLine, group: Node) -> bool:
    """Whether a group with others' hooks is for some tools alone."""
    matcher = group.child("matcher")
    if matcher is None or len(items_of(group.child(HOOKS))) == 1:
        return False
    return matcher.value not in (("", "*", form.every_tool) if not line.of_tools else (form.every_tool,))


def _brought_up(text: str, form: HookForm, line: HookLine, group: Node, hook: Node) -> list[Edit]:
    """Edits that make a hook of ours exactly the one that is wanted now: a shorter time, or a matcher for
    some tools, would let the others pass."""
    whole = _group(form, line)
    wanted: dict[str, Any] = whole[HOOKS][0]
    there = {name: node for name in wanted if (node := hook.child(name)) is not None}
    edits = [replaced(text, there[name], wanted[name]) for name in there if there[name].value != wanted[name]]
    strange = [number for number, child in enumerate(hook.children) if child.key not in wanted]
    missing = [(name, wanted[name]) for name in wanted if name not in there]
    if missing and strange:
        edits = [replaced(text, hook, wanted)]
    elif missing:
        edits += added(text, hook, missing)
    else:
        edits += removed(text, hook, strange)
    matcher = group.child("matcher")
    alone = len(items_of(group.child(HOOKS))) == 1
    if matcher is not None and alone and line.of_tools and matcher.value != whole["matcher"]:
        edits.append(replaced(text, matcher, whole["matcher"]))
    return edits


def _ours(groups: Node) -> list[tuple[int, int, Node]]:
    """Numbers of the group and the hook, and the hook, of each hook of ours."""
    return [
        (group_number, hook_number, hook)
        for group_number, group in enumerate(items_of(groups))
        for hook_number, hook in enumerate(items_of(group.child(HOOKS)))
        if (command := hook.child("command")) is not None and is_ours(command.scalar)
    ]


def _taken_out(text: str, groups: Node) -> tuple[list[Edit], bool]:
    """Edits that take our hooks out of an event's, and whether none is left."""
    ours = _ours(groups)
    by_group = {group for group, _, _ in ours}
    whole: list[int] = []
    edits: list[Edit] = []
    for number in sorted(by_group):
        group = groups.children[number].node
        hooks = group.child(HOOKS)
        assert hooks is not None, "a hook of ours stands in it"
        mine = [hook for in_group, hook, _ in ours if in_group == number]
        if len(mine) == len(hooks.children):
            whole.append(number)
        else:
            edits += removed(text, hooks, mine)
    return edits + removed(text, groups, whole), len(whole) == len(groups.children)


def _hooks_before(original: str | None) -> Sequence[str] | None:
    """The events the settings had before; None where they had no hooks at all, or nobody knows."""
    hooks = parse(original).child(HOOKS) if original is not None and original.strip() else None
    return None if hooks is None else [member.key for member in hooks.children]


def _must_be(text: str, node: Node, kind: str, what: str) -> None:
    if node.kind != kind:
        line, column = place(text, node.start)
        raise Unexpected(
            f"Line {line}, column {column}: {what} is not {'an' if kind[0] in 'aeiou' else 'a'} {kind}."
        )
