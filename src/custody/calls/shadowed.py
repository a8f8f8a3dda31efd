"""What policies in shadow would have refused or asked, as it was recorded, by rule and tool.

Owns the counting alone: the events were written when the calls were made, and nothing is decided again here.
Used by the command line.
"""

from collections.abc import Iterator
from typing import Any, cast

from msgspec import Struct

from custody.index import EventFilter, EventView, Index
from custody.records import Verdict

EVENT = "shadow.denied"

PAGE_EVENTS = 1_000
"""The index gives no larger page."""

EVENTS_MAX = 200_000
"""The newest so many are counted: more than a person runs a policy in shadow for."""


class Shadowed(Struct, kw_only=True):
    """Calls of one tool that one rule would have stopped."""

    rule: str | None
    """None: a default."""
    tool: str | None
    verdict: Verdict
    """`deny` or `ask`."""
    calls: int
    last_at: str
    example_id: str | None
    """The call it was last said of."""


def shadowed(
    index: Index, *, since_us: int | None = None, until_us: int | None = None, run: str | None = None
) -> tuple[Shadowed, ...]:
    """The most frequent first. Raises NotFound or Ambiguous for the run."""
    asked = EventFilter(name=EVENT, run=run, since_us=since_us, until_us=until_us)
    lines: dict[tuple[str | None, str | None, str], Shadowed] = {}
    for event in _events(index, asked):
        data = cast("dict[str, Any]", event.data) if isinstance(event.data, dict) else {}
        rule, tool, verdict = data.get("rule"), data.get("tool"), data.get("verdict", "deny")
        line = lines.get((rule, tool, verdict))
        if line is not None:
            line.calls += 1
            continue
        lines[rule, tool, verdict] = Shadowed(
            rule=rule, tool=tool, verdict=verdict, calls=1, last_at=event.at, example_id=event.call_id
        )
    return tuple(sorted(lines.values(), key=lambda line: (-line.calls, line.rule or "", line.tool or "")))


def _events(index: Index, asked: EventFilter) -> Iterator[EventView]:
    """Newest first."""
    cursor: str | None = None
    for _ in range(EVENTS_MAX // PAGE_EVENTS):
        page = index.events(asked, PAGE_EVENTS, cursor, refresh=cursor is None)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return
