"""Counts and latencies of calls, by tool.

Used by `index`.
"""

from msgspec import Struct

from custody.index.database import SQL, Database, Row
from custody.index.query import Conditions


class ToolStats(Struct, frozen=True, kw_only=True):
    """What calls of one tool came to. Latencies are of executions alone, by nearest rank; None for none."""

    tool: str
    calls: int
    by_outcome: dict[str, int]
    latency_total_us: int
    latency_p50_us: int | None
    latency_p95_us: int | None
    latency_p99_us: int | None


class Stats(Struct, frozen=True, kw_only=True):
    """What the calls that fulfil a filter came to."""

    calls: int
    by_outcome: dict[str, int]
    tools: list[ToolStats]
    """The most called first."""


def gather(database: Database, conditions: Conditions, match: str | None) -> Stats:
    """`match` is a full-text query."""
    if match is not None:
        conditions.add_other("text", text=match)
    counts, latencies = ([], []) if conditions.nothing else _read(database, conditions)
    ranks = {row[0]: row[1:] for row in latencies}
    by_tool: dict[int, dict[str, int]] = {}
    totals: dict[int, int] = {}
    for tool, outcome, count, total_us in counts:
        by_tool.setdefault(tool, {})[database.word(outcome) or ""] = count
        totals[tool] = totals.get(tool, 0) + total_us
    tools: list[ToolStats] = []
    overall: dict[str, int] = {}
    for tool, by_outcome in by_tool.items():
        p50, p95, p99 = ranks.get(tool, (None, None, None))
        tools.append(
            ToolStats(
                tool=database.word(tool) or "",
                calls=sum(by_outcome.values()),
                by_outcome=by_outcome,
                latency_total_us=totals[tool],
                latency_p50_us=p50,
                latency_p95_us=p95,
                latency_p99_us=p99,
            )
        )
        for outcome, count in by_outcome.items():
            overall[outcome] = overall.get(outcome, 0) + count
    tools.sort(key=lambda one: (-one.calls, one.tool))
    return Stats(calls=sum(overall.values()), by_outcome=overall, tools=tools)


def _read(database: Database, conditions: Conditions) -> tuple[list[Row], list[Row]]:
    driving = next(iter(field for field in ("run", "session") if field in conditions.equal), None)
    where = conditions.where(driving)
    return (
        database.query(SQL["stats"].format(where=where), conditions.values),
        database.query(SQL["latencies"].format(where=where), conditions.values),
    )
