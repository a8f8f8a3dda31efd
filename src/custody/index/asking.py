"""Filters put in the terms of the tables, and rows turned into places in the journal.

Owns what each field of a filter means: words become their numbers, ids their bytes. Used by `index`, inside
one transaction of it.
"""

import re
from typing import Any

from custody.errors import InvalidInput
from custody.index.database import Database
from custody.index.fold import RUNNING, Place
from custody.index.lookup import Lookup
from custody.index.query import (
    CallFilter,
    Conditions,
    EventFilter,
    Key,
    Order,
    RunFilter,
    Scope,
    check_attempt,
    check_effect,
    check_limit,
    check_outcome,
    decode_cursor,
    encode_cursor,
)
from custody.index.reading import Inherited, Places, RunSums
from custody.index.search import Hit, Search
from custody.index.text import match_expression
from custody.index.views import Session
from custody.records import CALL_ID_BYTES, RUN_ID_BYTES, Totals, rfc3339

TIME_US_MAX = 2**62
"""Beyond any clock; SQLite's integers end at twice that."""

GAPS_MAX = 100
"""Records of gaps looked at for one run: each stands for a time in which the store could not be written."""

REFUSALS_MAX = 1_000
"""Records of refusals read for one run: a process leaves two of them, and one for each child it refused."""

CALL_WORDS = ("session", "workspace", "agent", "caller", "tool", "outcome", "effect", "door", "connection")
SCOPE_WORDS = ("session", "workspace", "agent", "caller")
RUN_WORDS = ("channel", "reason", "session", "workspace", "agent", "caller", "outcome")


def call_conditions(database: Database, filter: CallFilter) -> Conditions:
    check_outcome(filter.outcome, of_run=False)
    check_effect(filter.effect)
    conditions = Conditions()
    _add_words(database, conditions, filter, CALL_WORDS)
    _add_times(conditions, filter.since_us, filter.until_us)
    _add_run(database, conditions, filter.run)
    _add_texts(conditions, filter, ("external_id", "proposal_id", "action_id"))
    if filter.attempt is not None:
        conditions.add("attempt", check_attempt(filter.attempt))
    if filter.parent is not None:
        conditions.add("parent", _id(Lookup(database).call, filter.parent, CALL_ID_BYTES))
    if filter.top_level:
        conditions.add_other("top_level")
    if filter.dry_run is not None:
        conditions.add("dry_run", int(filter.dry_run))
    if filter.held:
        conditions.add_other("held")
    return conditions


def run_conditions(database: Database, filter: RunFilter) -> Conditions:
    check_outcome(filter.outcome, of_run=True)
    conditions = Conditions()
    _add_words(database, conditions, filter, RUN_WORDS)
    _add_times(conditions, filter.since_us, filter.until_us)
    if filter.running is True:
        conditions.nothing = filter.outcome not in (None, "running")
        conditions.add("outcome", 0)
    elif filter.running is False:
        conditions.add_other("over")
    _add_texts(conditions, filter, ("name", "external_id"))
    if filter.parent is not None:
        conditions.add("parent", _id(Lookup(database).run, filter.parent, RUN_ID_BYTES))
    if filter.top_level:
        conditions.add_other("top_level")
    return conditions


def event_conditions(database: Database, filter: EventFilter) -> Conditions:
    conditions = Conditions()
    if filter.name is not None:
        conditions.add("event", database.word_id(_storable(filter.name)))
    _add_times(conditions, filter.since_us, filter.until_us)
    _add_run(database, conditions, filter.run)
    if filter.call is not None:
        conditions.add("call", _id(Lookup(database).call, filter.call, CALL_ID_BYTES))
    return conditions


def scope_conditions(database: Database, scope: Scope) -> Conditions:
    """Of calls, and with the terms `OF_STEPS` of steps."""
    conditions = Conditions()
    _add_words(database, conditions, scope, SCOPE_WORDS)
    _add_times(conditions, scope.since_us, scope.until_us)
    _add_run(database, conditions, scope.run)
    return conditions


def page_of(
    database: Database,
    of: str,
    conditions: Conditions,
    order: Order,
    limit: int,
    cursor: str | None,
    text: str | None,
) -> tuple[list[Hit], str | None]:
    """The hits of one page, and the cursor after them. Raises InvalidInput."""
    check_limit(limit)
    if order not in ("newest", "oldest"):
        raise InvalidInput(f"{order!r} is no order.", hint="One of: newest, oldest.", field="order")
    after = None if cursor is None else decode_cursor(cursor, of, order)
    match = text_match(conditions, text)
    hits = Search(database).page(of, conditions, order, limit + 1, after, match)
    if len(hits) <= limit:
        return hits, None
    last = hits[limit - 1]
    return hits[:limit], encode_cursor(Key(of, order, last.at_us, last.id))


def text_match(conditions: Conditions, text: str | None) -> str | None:
    """The full-text query for what was typed. Blank text asks for nothing, and `?!` is found nowhere."""
    if text is None or not text.strip():
        return None
    match = match_expression(text)
    conditions.nothing = conditions.nothing or match is None
    return match


def places_of_call(database: Database, row: int) -> tuple[Places, Inherited]:
    found: Any = database.row("call_by_row", row)
    places = Places(found[4:7], *(optional_place(found[at : at + 3]) for at in (7, 10, 13)))
    return places, Inherited(*found[:4], *found[16:18])


def places_of_run(database: Database, row: int) -> tuple[Places, RunSums]:
    """And what its calls and steps add up to."""
    found: Any = database.row("run_by_row", row)
    counts: list[Any] = database.rows("call_count_by_outcome", row)
    by_outcome: dict[str, int] = {word: count for word, count, _ in counts}
    sums: Any = step_totals(database.row("step_sums", row))
    totals = Totals(
        calls=sum(begun for _, _, begun in counts),
        calls_by_outcome={word: count for word, count in by_outcome.items() if word != RUNNING},
        **sums,
    )
    refusals: list[Any] = database.rows("run_events", row, database.word_id("run.refused"), REFUSALS_MAX)
    gaps: list[Any] = database.rows("events_since", database.word_id("journal.gap"), found[0], GAPS_MAX)
    places = Places(found[1:4], finished=optional_place(found[4:7]))
    return places, RunSums(by_outcome, totals, refusals, gaps)


def parts_of_run(
    database: Database, statement: str, run_id: bytes, after_position: int | None, limit: int
) -> list[Any]:
    """Rows of `run_calls` or `run_steps`: all of them, or one page behind a position. Raises InvalidInput."""
    if after_position is None:
        return database.rows(statement, run_id)
    check_limit(limit)
    position = max(-1, min(after_position, TIME_US_MAX))
    return database.rows(f"{statement}_after", run_id, position, limit)


def step_totals(sums: Any) -> dict[str, int | None]:
    """The fields of `Totals` that are sums over steps. SQLite's sum over nothing known is NULL: that is 0
    before the first step."""
    steps: int = sums[0]
    known = [0 if not steps and value is None else value for value in sums[1:7]]
    return {
        "steps": steps,
        "input_tokens": known[0],
        "output_tokens": known[1],
        "reasoning_tokens": known[2],
        "cache_read_tokens": known[3],
        "cache_write_tokens": known[4],
        "cost_nano_usd": known[5],
        "steps_without_tokens": sums[7] or 0,
        "steps_without_cost": sums[8] or 0,
    }


def places_of_open_call(found: tuple[Any, ...]) -> Places:
    started, answered = optional_place(found[5:8]), optional_place(found[8:11])
    return Places(found[2:5], started=started, answered=answered)


def optional_place(found: tuple[Any, ...]) -> Place | None:
    return None if found[0] is None else (found[0], found[1], found[2])


def session_of(database: Database, number: int, name: str, first_us: int, last_us: int) -> Session:
    counts: Any = database.row("session_counts", number)
    agents: list[Any] = database.rows("session_agents", number)
    return Session(
        id=name,
        runs=counts[0],
        calls=counts[1],
        first_at=rfc3339(first_us),
        last_at=rfc3339(last_us),
        agents=[row[0] for row in agents],
    )


def _add_words(
    database: Database,
    conditions: Conditions,
    filter: CallFilter | RunFilter | Scope,
    fields: tuple[str, ...],
) -> None:
    for field in fields:
        word: str | None = getattr(filter, field)
        if word is not None:
            number = database.word_id(_storable(word))
            conditions.add(field, number)
            conditions.nothing = conditions.nothing or number == -1


def _add_texts(conditions: Conditions, filter: CallFilter | RunFilter, fields: tuple[str, ...]) -> None:
    for field in fields:
        text: str | None = getattr(filter, field)
        if text is not None:
            conditions.add(field, _storable(text))


def _add_times(conditions: Conditions, since_us: int | None, until_us: int | None) -> None:
    for name, at_us in (("since_us", since_us), ("until_us", until_us)):
        if at_us is not None:
            conditions.add_other(name, **{name: max(-TIME_US_MAX, min(at_us, TIME_US_MAX))})


def _add_run(database: Database, conditions: Conditions, text: str | None) -> None:
    if text is not None:
        run_id = _id(Lookup(database).run, text, RUN_ID_BYTES)
        conditions.add("run", database.one("run_row", run_id))
        conditions.nothing = conditions.nothing or conditions.equal["run"] is None


def _id(look_up: Any, text: str, id_bytes: int) -> bytes:
    """A whole id stands for itself, also one whose first record is elsewhere."""
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * id_bytes}}}", text):
        return bytes.fromhex(text)
    found: bytes = look_up(text).id
    return found


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
