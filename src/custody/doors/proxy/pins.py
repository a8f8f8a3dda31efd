"""What each tool of a server said of itself when it was first listed: a description that changes later asks.

Owns the pins, a fold over three events: a tool is pinned when it is first seen, another description is told
as changed, and counts once a person trusts it. Where a call of a changed tool is made, a person is asked.
Used by `session` and the command.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from custody.calls.guards import Proposal
from custody.doors.proxy.lists import digest_of, folded
from custody.index import Index
from custody.records import Decision

PINNED, CHANGED, TRUSTED = "mcp.tools_pinned", "mcp.tool_changed", "mcp.tools_trusted"

PAGE_EVENTS = 500
TOOLS_OF_EVENT_MAX = 50
"""Pins of one event: they are kept in its leaf, which is small."""

DIGITS = 8
"""Of a digest, in a sentence."""


class Changed(Struct, frozen=True):
    """A tool that says something else of itself than was trusted."""

    tool: str
    was: str
    now: str


class Pins:
    """Of one server, by the name a person gave it."""

    def __init__(self, server: str, known: Mapping[str, str]) -> None:
        self.server = server
        self._known = dict(known)
        self._folded = {folded(name): name for name in known}
        self._other: dict[str, str] = {}
        """What a tool has said of itself in this session that is not trusted. It stays, whatever it says
        later: a model may have read it."""

    def look(self, tools: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[dict[str, str], list[Changed]]:
        """Which of the tools of a list, `by_name`, are seen for the first time, with their digests, and which
        have changed since they were last seen here. The first are to be `pinned` once they are on the
        record."""
        first: dict[str, str] = {}
        changed: list[Changed] = []
        for name, same in tools.items():
            digest, was = digest_of(*same), self._known.get(name)
            if was is None:
                first[name] = digest
            elif digest not in (was, self._other.get(name)):
                self._other[name] = digest
                changed.append(Changed(name, was, digest))
        return first, changed

    def pinned(self, first: Mapping[str, str]) -> None:
        self._known.update(first)
        self._folded |= {folded(name): name for name in first}

    def meant(self, tool: str) -> str | None:
        """The tool that a lenient server may take this name for, which nobody has listed."""
        return None if tool in self._known else self._folded.get(folded(tool))

    def objection(self, tool: str) -> str | None:
        """Why a call of it is asked about; None where its description is the one that is trusted."""
        now, was = self._other.get(tool), self._known.get(tool)
        if now is None or was is None:
            return None
        return (
            f"The server {self.server!r} describes the tool {tool!r} otherwise than when it was first used "
            f"({was[:DIGITS]} then, {now[:DIGITS]} now); custody proxy --name {self.server} --trust shows it."
        )


def guard_of(pins: Pins, tool: str) -> Any:
    """A guard of one call: of a changed tool a person is asked, and one is called as it is listed."""

    def description(proposal: Proposal) -> Decision | None:
        del proposal
        meant = pins.meant(tool)
        if meant is not None:
            return Decision("deny", "schema", f"The server lists this tool as {meant!r}.")
        objection = pins.objection(tool)
        return None if objection is None else Decision("ask", "rule", objection, rule="description")

    return description


def said_of_pins(server: str, tools: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    """What the record says of them, a leaf's worth at a time."""
    names = list(tools)
    for start in range(0, len(names), TOOLS_OF_EVENT_MAX):
        part = names[start : start + TOOLS_OF_EVENT_MAX]
        yield {"server": server, "tools": {name: tools[name] for name in part}}


# -- the fold -----------------------------------------------------------------------------------------------


def known_pins(index: Index, server: str) -> dict[str, str]:
    """By tool, the description that is trusted: the last a person trusted, else the first that was seen.
    Waits. Raises StoreError."""
    known: dict[str, str] = {}
    for said in _told(index, PINNED, server):
        for name, digest in _digests(said).items():
            known.setdefault(name, digest)
    for said in _told(index, TRUSTED, server):
        known.update(_digests(said))
    return known


def waiting_changes(index: Index, server: str) -> dict[str, Mapping[str, Any]]:
    """By tool, the last change that is told and not trusted. Waits. Raises StoreError."""
    known = known_pins(index, server)
    told = {str(said.get("tool")): said for said in _told(index, CHANGED, server)}
    return {tool: said for tool, said in told.items() if said.get("now") != known.get(tool)}


def _told(index: Index, name: str, server: str) -> list[Mapping[str, Any]]:
    """What these events of a server say, the oldest first."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    cursor: str | None = None
    refresh = True
    while True:
        page = index.events(name=name, limit=PAGE_EVENTS, cursor=cursor, refresh=refresh)
        for event in page.items:
            data: Any = event.data
            said: Mapping[str, Any] = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
            if said.get("server") == server:
                found.append((event.at, said))
        cursor, refresh = page.next, False
        if cursor is None:
            return [said for _, said in sorted(found, key=lambda one: one[0])]


def _digests(said: Mapping[str, Any]) -> dict[str, str]:
    tools: Any = said.get("tools")
    return cast("dict[str, str]", tools) if isinstance(tools, dict) else {}
