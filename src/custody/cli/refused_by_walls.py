"""What the walls of a call kept from its command, as `show` tells a person: paths and hosts, and what would
allow each.

Owns that section, and where on the record it is found. Only people are told, as with what loosens a policy:
a command can write such lines itself to learn what there is. Which path was meant is for
`sandbox.walls.refused` to say. Used by `show` alone.
"""

import functools
from typing import TYPE_CHECKING, Any

from custody.records import Call

if TYPE_CHECKING:
    from custody.sandbox.walls import Sandbox
    from custody.stores import View

WANTED = {"read": "to read", "write": "to change", "execute": "to run", "unknown": None}
"""What a command wanted of a path, in words."""

TEXT_CHARACTERS_MAX = 1024**2
"""Looked through of what a command wrote; it ends with why it failed."""


def print_refused(view: "View", call: Call) -> None:
    """A table of what was refused; nothing where that cannot be told."""
    from custody.calls.descent import descent
    from custody.cli.render import flexible, heading, table

    if call.sandbox is None:
        return
    rows = [*_paths(view, call), *_hosts(call)]
    if rows and descent() is None:
        heading("Refused by its sandbox")
        table(["what", "wanted", flexible("what would allow it")], rows)


def _paths(view: "View", call: Call) -> list[list[str | None]]:
    from custody.sandbox.walls.refused import refused_paths

    sandbox, roots = _sandbox(call.sandbox), _roots(view, call)
    if call.outcome != "failed" or sandbox is None or roots is None:
        return []
    found = refused_paths(_written(call), sandbox, roots)
    return [[one.path, WANTED[one.wanted], one.allow] for one in found]


def _hosts(call: Call) -> list[list[str | None]]:
    hosts: dict[str, dict[str, Any]] = _result(call).get("refused_hosts") or {}
    return [[host, "to reach", _allowing(why)] for host, why in hosts.items()]


def _allowing(why: dict[str, Any]) -> str | None:
    """What would allow a host; where nothing would, why not."""
    return why.get("allow") or why.get("reason")


def _written(call: Call) -> str:
    """Its standard error; at a terminal that is one with its output."""
    result = _result(call)
    text: Any = result.get("stderr") or result.get("stdout")
    return text[-TEXT_CHARACTERS_MAX:] if isinstance(text, str) else ""


def _result(call: Call) -> dict[str, Any]:
    result: Any = call.result
    return result if isinstance(result, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _sandbox(name: str | None) -> "Sandbox | None":
    """The one of that name; one that narrows others has all of theirs. None for one made in a program."""
    from custody.sandbox.walls import NAMED, narrowed

    parts = (name or "").split("+")
    if not all(part in NAMED for part in parts):
        return None
    return functools.reduce(narrowed, (NAMED[part] for part in parts))


def _roots(view: "View", call: Call) -> list[str] | None:
    """Those its command worked in, as its start says; None once that is purged."""
    for place in view.index.call_records(call.id, refresh=False):
        record = view.index.describe(view.journal.read(*place))
        if record["kind"] == "call_started":
            payload: dict[str, Any] = record["payload"] or {}
            said: dict[str, Any] = payload.get("sandbox") or {}
            roots: list[str] | None = said.get("roots")
            return roots
    return None
