"""Failures that are alike: one tool, one pattern of error.

Owns how they are grouped and which of them is shown. Used by `index`.
"""

from typing import Any

from msgspec import Struct

from custody.errors import InvalidInput
from custody.index.asking import call_conditions, places_of_call, text_match
from custody.index.database import SQL, Database
from custody.index.preview import preview
from custody.index.query import CallFilter, check_limit
from custody.index.reading import Inherited, Places, Reader
from custody.records import rfc3339


class FailurePattern(Struct, frozen=True, kw_only=True):
    """Calls of one tool that went wrong in one way."""

    tool: str
    pattern: str
    """Type and message, with numbers, ids, quoted texts and paths replaced by what they are."""
    count: int
    by_outcome: dict[str, int]
    first_at: str
    last_at: str
    example_id: str
    """The last of them."""
    example_message: str | None
    """What it really said; None once purged."""
    example_cut_characters: int


class Alike(Struct, frozen=True):
    """A pattern as the index has it."""

    tool: str
    pattern: str
    count: int
    by_outcome: dict[str, int]
    first_us: int
    last_us: int
    example: tuple[Places, Inherited]


def alike(database: Database, filter: CallFilter, count_min: int, limit: int) -> tuple[list[Alike], bool]:
    """The most frequent first, and whether those are all."""
    check_limit(limit)
    if not 1 <= count_min < 2**63:
        raise InvalidInput(f"A pattern is of at least 1 failure, not {count_min}.", field="count_min")
    conditions = call_conditions(database, filter)
    match = text_match(conditions, filter.text)
    if match is not None:
        conditions.add_other("text", text=match)
    if conditions.nothing:
        return [], True
    where = conditions.where(conditions.driving())
    values = conditions.values | {"count_min": count_min, "limit": limit + 1}
    rows: list[Any] = database.query(SQL["failure_patterns"].format(where=where), values)
    found: list[Alike] = []
    for tool, error, count, first_us, last_us in rows[:limit]:
        of_it = conditions.values | {"this_tool": tool, "this_error": error}
        ((row,),) = database.query(SQL["last_failure"].format(where=where), of_it)
        outcomes: list[Any] = database.query(SQL["failure_outcomes"].format(where=where), of_it)
        found.append(
            Alike(
                database.word(tool) or "",
                database.word(error) or "",
                count,
                {database.word(outcome) or "": times for outcome, times in outcomes},
                first_us,
                last_us,
                places_of_call(database, row),
            )
        )
    return found, len(rows) <= limit


def failure_pattern(reader: Reader, alike: Alike) -> FailurePattern:
    call = reader.call(*alike.example)
    message = None if call.error is None else call.error.get("message")
    shown = preview(call.reason if message is None else message)
    return FailurePattern(
        tool=alike.tool,
        pattern=alike.pattern,
        count=alike.count,
        by_outcome=alike.by_outcome,
        first_at=rfc3339(alike.first_us),
        last_at=rfc3339(alike.last_us),
        example_id=call.id,
        example_message=shown.text,
        example_cut_characters=shown.cut_characters,
    )
