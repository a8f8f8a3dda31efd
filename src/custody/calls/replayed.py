"""The table of a replay: what would become of recorded calls, gathered into lines that a person can read.

Owns the lines and their bound. Knows nothing of how a call is decided, nor of how a table is shown. Used by
`replay`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from custody.calls.history import RecordedCall, Was
from custody.policy import Layer

Now = Literal["allowed", "asked", "refused", "undecidable"]

EXAMPLES_MAX = 5
"""Ids of calls kept for each line of the table."""

CHANGES_MAX = 10_000
"""Lines of the table kept; a tool named anew in every call must not fill the memory."""


class Change(Struct, frozen=True, kw_only=True):
    """Calls of one tool for which one rule would change the same thing."""

    was: Was
    now: Now
    rule: str | None
    """None: a default, or that nothing is against it any more. Of a budget or loops, what it is called."""
    tool: str | None
    """None: of tools too many to be told apart."""
    why: str | None
    """What cannot be told, where it is undecidable."""
    calls: int
    examples: tuple[str, ...]
    """Ids of the first of them."""


class Replayed(Struct, frozen=True, kw_only=True):
    """What would become of the recorded calls."""

    source: str
    digest: str
    calls: int
    unchanged: int
    changed: int
    undecidable: int
    by_verdict: Mapping[str, int]
    """`allowed`, `asked`, `refused`, `undecidable` under this file, and what was before as `was_…`."""
    changes: tuple[Change, ...]
    """The most frequent first."""
    notes: tuple[str, ...]
    """What a reader of the table should know."""


class Decided(Struct, frozen=True, gc=False):
    """What would become of one call."""

    now: Now
    rule: str | None = None
    why: str | None = None


class Table:
    """The lines of the table as they grow."""

    def __init__(self) -> None:
        self.calls = 0
        self._changed = 0
        self._undecidable = 0
        self._by_verdict: dict[str, int] = {}
        self._lines: dict[tuple[Was, Now, str | None, str | None, str | None], list[Any]] = {}

    def add(self, call: RecordedCall, decided: Decided) -> None:
        self.calls += 1
        was: Was = "refused" if call.was == "unreached" else call.was
        for name in (decided.now, f"was_{was}"):
            self._by_verdict[name] = self._by_verdict.get(name, 0) + 1
        if decided.now == was:
            return
        if decided.now == "undecidable":
            self._undecidable += 1
        else:
            self._changed += 1
        rule = decided.rule if decided.now != "allowed" else call.request.decision.rule
        key = (was, decided.now, rule, call.request.tool, decided.why)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= CHANGES_MAX:
                key = (was, decided.now, rule, None, decided.why)
            line = self._lines.setdefault(key, [0, []])
        line[0] += 1
        if len(line[1]) < EXAMPLES_MAX:
            line[1].append(call.call_id.hex())

    def report(self, layer: Layer, notes: tuple[str, ...]) -> Replayed:
        changes = [
            Change(was=was, now=now, rule=rule, tool=tool, why=why, calls=calls, examples=tuple(examples))
            for (was, now, rule, tool, why), (calls, examples) in self._lines.items()
        ]
        changes.sort(key=lambda change: (-change.calls, change.rule or "", change.tool or ""))
        return Replayed(
            source=layer.source,
            digest=layer.digest,
            calls=self.calls,
            unchanged=self.calls - self._changed - self._undecidable,
            changed=self._changed,
            undecidable=self._undecidable,
            by_verdict=dict(sorted(self._by_verdict.items())),
            changes=tuple(changes),
            notes=notes,
        )
