"""What models and tools were used: tokens, money, steps and calls, added up by one of a few things.

Owns by what can be added up, and how an unknown stays unknown in a sum. Used by `index`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from custody.errors import InvalidInput
from custody.index.asking import scope_conditions, step_totals
from custody.index.database import SQL, Database
from custody.index.query import OF_STEPS, Scope, check_limit

By = Literal["agent", "tool", "model", "day", "run", "caller", "session"]


class UsageGroup(Struct, frozen=True, kw_only=True):
    """What was used by one agent, tool, … . Tokens and cost are the sums of what is known: None when there
    are steps and none of them said, 0 when there are none."""

    key: str | None
    """Its name; a run's id; a day as 2026-05-01, in UTC. None: those that name none."""
    calls: int
    """Running and rejected ones included."""
    steps: int
    input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    cost_nano_usd: int | None
    steps_without_tokens: int
    """Steps that said nothing of input or of output tokens."""
    steps_without_cost: int


class UsageReport(Struct, frozen=True, kw_only=True):
    """Usage by one thing, the dearest group first."""

    by: str
    groups: list[UsageGroup]
    total: UsageGroup
    """Each step and call once. By tool the groups may come to more."""
    complete: bool
    """False: there are more groups than were asked for."""


class _Key(NamedTuple):
    """How the rows of one group are told: expressions over a step or call `c`, and what they need."""

    of_step: str
    of_call: str
    step_join: str = ""
    call_join: str = ""


_KEYS: dict[str, _Key] = {
    "agent": _Key("coalesce(c.agent, r.agent)", "c.agent"),
    "caller": _Key("r.caller", "c.caller"),
    "session": _Key("r.session", "c.session"),
    "day": _Key("c.at_us / 86400000000", "c.at_us / 86400000000"),
    "run": _Key("r.id", "r.id", call_join="LEFT JOIN runs r ON r.row = c.run"),
    "model": _Key(
        "coalesce(c.model, c.requested_model)",
        "coalesce(s.model, s.requested_model)",
        call_join="LEFT JOIN steps s ON s.id = c.step_id",
    ),
    "tool": _Key(
        "asked.tool",
        "c.tool",
        step_join="LEFT JOIN (SELECT DISTINCT step_id, tool FROM calls"
        " WHERE step_id IS NOT NULL AND tool IS NOT NULL) asked ON asked.step_id = c.id",
    ),
}
_EVERYTHING = _Key("NULL", "NULL")
_DAY_ONE = datetime(1970, 1, 1, tzinfo=UTC)


def usage(database: Database, by: str, scope: Scope, limit: int) -> UsageReport:
    """The tokens of a tool are those of the steps that asked for it: a step that asked for two tools counts
    for both, one that asked for none for None. Of a run are its own steps, not its children's."""
    key = _KEYS.get(by)
    if key is None:
        raise InvalidInput(f"Nothing is added up by {by!r}.", hint=f"One of: {', '.join(_KEYS)}.", field="by")
    check_limit(limit)
    rows = _grouped(database, key, scope, limit + 1)
    (total,) = _grouped(database, _EVERYTHING, scope, 1) or [(None, *NOTHING)]
    groups = [_group(_shown(database, by, row[0]), row) for row in rows[:limit]]
    return UsageReport(
        by=by,
        groups=sorted(groups, key=_dearest_first),
        total=_group(None, total),
        complete=len(rows) <= limit,
    )


NOTHING = (0, None, None, None, None, None, None, 0, 0, 0)
"""The sums over no rows."""


def _grouped(database: Database, key: _Key, scope: Scope, limit: int) -> list[Any]:
    conditions = scope_conditions(database, scope)
    if conditions.nothing:
        return []
    driving = conditions.driving()
    sql = SQL["usage"].format(
        step_key=key.of_step,
        call_key=key.of_call,
        step_join=key.step_join,
        call_join=key.call_join,
        step_where=conditions.where("run" if driving == "run" else None, OF_STEPS),
        call_where=conditions.where(driving),
    )
    return database.query(sql, conditions.values | {"limit": limit})


def _shown(database: Database, by: str, key: Any) -> str | None:
    if key is None:
        return None
    if by == "run":
        return key.hex()
    if by == "day":
        return (_DAY_ONE + timedelta(days=key)).strftime("%Y-%m-%d") if key < DAYS_MAX else None
    return database.word(key)


DAYS_MAX = 2_900_000
"""Beyond the year 9900 a clock was wrong, and Python has no name for the day."""


def _dearest_first(group: UsageGroup) -> Any:
    """As the statement sorts; equal ones by name, where it has only the numbers of names."""
    tokens = (group.input_tokens or 0) + (group.output_tokens or 0)
    cost = -1 if group.cost_nano_usd is None else group.cost_nano_usd
    return (-cost, -tokens, -group.steps, -group.calls, group.key or "")


def _group(key: str | None, row: Any) -> UsageGroup:
    sums: Any = step_totals(row[1:10])
    return UsageGroup(key=key, calls=row[10], **sums)
