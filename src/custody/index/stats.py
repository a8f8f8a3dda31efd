"""Counts and latencies of calls, by tool.

Used by `index`.
"""

from msgspec import Struct

from custody.index.asking import call_conditions, text_match
from custody.index.database import SQL, Database, Row
from custody.index.query import CallFilter, Conditions, check_limit

RAN_AND_ENDED = ("succeeded", "failed", "timed_out", "cancelled")
"""Outcomes that a rate of success is of. Rejected calls never ran; of running and unknown ones nobody knows
how they end."""


class ToolStats(Struct, frozen=True, kw_only=True):
    """What calls of one tool came to. Latencies are of executions alone, by nearest rank; None for none."""

    tool: str
    calls: int
    by_outcome: dict[str, int]
    success_rate: float | None
    """Succeeded, of those that ran and ended otherwise than unknown; None for none."""
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
                success_rate=success_rate(by_outcome),
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


def success_rate(by_outcome: dict[str, int]) -> float | None:
    ended = sum(by_outcome.get(outcome, 0) for outcome in RAN_AND_ENDED)
    return by_outcome.get("succeeded", 0) / ended if ended else None


def by_rate(tools: list[ToolStats], calls_min: int) -> list[ToolStats]:
    """Tools with so many calls, those that succeed least first; without a rate last."""
    frequent = [tool for tool in tools if tool.calls >= calls_min]
    return sorted(
        frequent,
        key=lambda one: (2.0 if one.success_rate is None else one.success_rate, -one.calls, one.tool),
    )


def slowest(database: Database, filter: CallFilter, limit: int) -> list[int]:
    """Rows of the calls that took longest."""
    check_limit(limit)
    conditions = call_conditions(database, filter)
    match = text_match(conditions, filter.text)
    if match is not None:
        conditions.add_other("text", text=match)
    if conditions.nothing:
        return []
    sql = SQL["slowest"].format(where=conditions.where(conditions.driving()))
    return [row for (row,) in database.query(sql, conditions.values | {"limit": limit})]


def _read(database: Database, conditions: Conditions) -> tuple[list[Row], list[Row]]:
    where = conditions.where(conditions.driving())
    return (
        database.query(SQL["stats"].format(where=where), conditions.values),
        database.query(SQL["latencies"].format(where=where), conditions.values),
    )
