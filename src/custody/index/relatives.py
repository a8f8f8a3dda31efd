"""Questions about runs among themselves: parents and children, the last of each kind, those gone quiet.

Owns how far a chain of runs is followed: a parent is what a caller said it was, so that two runs can be
each other's. Used by `index`, inside one transaction of it.
"""

from typing import Any

from msgspec import Struct

from custody.errors import InvalidInput
from custody.index.asking import run_conditions
from custody.index.database import SQL, Database
from custody.index.fold import RUNNING
from custody.index.lookup import Lookup
from custody.index.query import RunFilter
from custody.index.reading import Places, Reader, RunSums
from custody.records import Run, rfc3339

RUNS_MAX = 1_000
"""Runs of one answer: each is read from the journal and held in memory, as on a page."""

LAST_OF = ("agent", "name")


class SilentRun(Struct, frozen=True, kw_only=True):
    """A run that has not ended and of which nothing has been recorded for a while."""

    run: Run
    last_sign_at: str
    """When a call, step or event of it, or its start, was last recorded."""
    silent_us: int
    running_calls: int
    """Calls that have not ended; one of them may simply take long."""


class Quiet(Struct, frozen=True):
    """A run that may be silent: `records` holds places whose times the index does not know."""

    row: int
    last_us: int
    running_calls: int
    records: list[tuple[int, int, int]]


def children(database: Database, text: str, *, recursive: bool) -> tuple[list[int], bool]:
    """Rows of the runs started from a run, the first started first; with `recursive` generation by
    generation. And whether those are all. Raises NotFound or Ambiguous."""
    start = Lookup(database).run(text).id
    seen, found, generation = {start}, list[int](), [start]
    while generation:
        after: list[bytes] = []
        for parent_id in generation:
            rows: list[Any] = database.rows("child_runs", parent_id, RUNS_MAX + 2)
            for row, run_id in rows:
                if run_id in seen:
                    continue
                if len(found) == RUNS_MAX:
                    return found, False
                seen.add(run_id)
                found.append(row)
                after.append(run_id)
        generation = after if recursive else []
    return found, True


def ancestors(database: Database, text: str) -> tuple[list[int], bool]:
    """Rows of the run's parent, its parent and so on, up to one whose parent is not in this store. And
    whether those are all. Raises NotFound or Ambiguous."""
    run_id = Lookup(database).run(text).id
    seen, found = {run_id}, list[int]()
    while True:
        parent: Any = database.row("parent_run", run_id)
        if parent is None or parent[1] in seen:
            return found, True
        if len(found) == RUNS_MAX:
            return found, False
        row, run_id = parent
        seen.add(run_id)
        found.append(row)


def last_runs(database: Database, by: str, filter: RunFilter) -> tuple[list[int], bool]:
    """Rows of the last run of each agent or name, the latest first, and whether those are all. Raises as
    `runs`."""
    if by not in LAST_OF:
        raise InvalidInput(
            f"There is no last run by {by!r}.", hint=f"One of: {', '.join(LAST_OF)}.", field="by"
        )
    conditions = run_conditions(database, _without_text(filter))
    if conditions.nothing:
        return [], True
    sql = SQL["last_runs"].format(by=by, where=conditions.where())
    rows = database.query(sql, conditions.values | {"limit": RUNS_MAX + 1})
    return [row for (row,) in rows[:RUNS_MAX]], len(rows) <= RUNS_MAX


def quiet_runs(
    database: Database, now_us: int, silent_us: int, filter: RunFilter
) -> tuple[list[Quiet], bool]:
    """Runs that have not ended and of which the index knows nothing since then. Raises as `runs`."""
    if silent_us < 0:
        raise InvalidInput(f"A run is silent for a time, not for {silent_us} µs.", field="silent_us")
    before_us = max(0, now_us - silent_us)
    if filter.running is False or filter.outcome not in (None, RUNNING):
        return [], True
    conditions = run_conditions(database, _without_text(filter))
    if conditions.nothing:
        return [], True
    conditions.add("outcome", 0)
    values = conditions.values | {"before_us": before_us, "limit": RUNS_MAX + 1}
    rows = database.query(SQL["quiet_runs"].format(where=conditions.where("outcome")), values)
    quiet = [Quiet(row, last_us, running, _unread(database, row)) for row, last_us, running in rows]
    return quiet[:RUNS_MAX], len(rows) <= RUNS_MAX


def silent_runs(
    reader: Reader, found: list[tuple[Quiet, tuple[Places, RunSums]]], now_us: int, silent_us: int
) -> list[SilentRun]:
    """Those of them that were silent, the longest first."""
    silent: list[tuple[int, SilentRun]] = []
    for quiet, of_run in found:
        last_us = max([quiet.last_us, *(reader.at_us(place) for place in quiet.records)])
        if now_us - last_us >= silent_us:
            run = SilentRun(
                run=reader.run(*of_run),
                last_sign_at=rfc3339(last_us),
                silent_us=now_us - last_us,
                running_calls=quiet.running_calls,
            )
            silent.append((last_us, run))
    return [run for _, run in sorted(silent, key=lambda one: one[0])]


def _unread(database: Database, row: int) -> list[tuple[int, int, int]]:
    """Where running calls were answered, or started after they had been asked for."""
    rows: list[Any] = database.rows("later_records", row)
    return [place for found in rows for place in (found[:3], found[3:6]) if place[0] is not None]


def _without_text(filter: RunFilter) -> RunFilter:
    if filter.text is not None:
        raise InvalidInput("This question cannot be asked by text.", hint="Leave the text out.", field="text")
    return filter
