"""What could not be recorded: counted by kind, run and cause, as a gap record says it.

Owns the counts and their bounds. Used by `backlog`.
"""

from typing import Any

from custody.errors import CustodyError, NotRecorded
from custody.records import Kind, now_us

GAP_RUNS_MAX = 100
"""Runs named in one gap record; the counts are of all."""

CAUSES_MAX = 16
"""Told apart in one gap record, and in the log, until the store is back."""


class Drops:
    """What was dropped since the store was last written."""

    def __init__(self) -> None:
        self.since_us = now_us()
        self.count = 0
        self.by_kind: dict[str, int] = {}
        self.by_run: dict[str, int] = {}
        self.causes: dict[str, int] = {}

    def add(self, kind: Kind, run_id: bytes | None, cause: str) -> None:
        self.count += 1
        name = kind.name.lower()
        _count(self.by_kind, name, 1, len(Kind))
        _count(self.causes, cause, 1, CAUSES_MAX)
        _count(self.by_run, "" if run_id is None else run_id.hex(), 1, GAP_RUNS_MAX)

    def absorb(self, later: "Drops") -> None:
        self.count += later.count
        for mine, theirs, names_max in (
            (self.by_kind, later.by_kind, len(Kind)),
            (self.by_run, later.by_run, GAP_RUNS_MAX),
            (self.causes, later.causes, CAUSES_MAX),
        ):
            for name, count in theirs.items():
                _count(mine, name, count, names_max)

    def only_run(self) -> bytes | None:
        """The run all of it belongs to, so that its record is found there."""
        (run,) = self.by_run if len(self.by_run) == 1 else ("",)
        return bytes.fromhex(run) if self.by_run.get(run) == self.count and run else None

    def data(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "by_kind": self.by_kind,
            "by_run": {run: count for run, count in self.by_run.items() if run},
            "causes": self.causes,
            "since_us": self.since_us,
            "until_us": now_us(),
        }


def _count(counts: dict[str, int], name: str, more: int, names_max: int) -> None:
    if name in counts or len(counts) < names_max:
        counts.setdefault(name, 0)
        counts[name] += more


def cause_of(error: Exception) -> str:
    """Why a record was dropped, in words that repeat nothing of what was to be recorded."""
    if isinstance(error, NotRecorded) and isinstance(error.__cause__, OSError):
        return error.__cause__.strerror or "the disk failed"  # not that nothing was run: the agent goes on
    if isinstance(error, CustodyError):
        return error.message
    return type(error).__name__
