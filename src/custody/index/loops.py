"""Agents that go round in circles: the same tool with the same arguments, again and again.

Owns what counts as the same and how much is looked at. The digests of payloads are salted, so the arguments
themselves are compared, and only those of calls that stand in a row of one tool. Used by `index`.
"""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput
from custody.index.asking import scope_conditions
from custody.index.database import SQL, Database
from custody.index.fold import Place
from custody.index.preview import preview
from custody.index.query import Scope, check_limit
from custody.index.reading import Reader
from custody.records import rfc3339

RUNS_MAX = 1_000
"""Runs looked at, the latest first: an alarm is about what goes on now."""

CALLS_MAX = 20_000
"""Calls whose arguments are read and compared: about a second."""

REPEATS_MIN = 2
"""Fewer are no repetition."""


class Loop(Struct, frozen=True, kw_only=True):
    """Calls of one run, one after the other, of one tool with equal arguments."""

    run_id: str
    tool: str
    repeats: int
    first_position: int | None
    last_position: int | None
    first_at: str
    last_at: str
    first_call_id: str
    last_call_id: str
    by_outcome: dict[str, int]
    arguments: str | None
    """Of all of them."""
    arguments_cut_characters: int


class Loops(Struct, frozen=True, kw_only=True):
    """What was found, and how far it was looked."""

    items: list[Loop]
    complete: bool
    """False: there are more runs, calls or loops than the bounds let be looked at."""
    runs_searched: int
    calls_compared: int


class Turn(Struct, frozen=True):
    """A call in its run."""

    id: bytes
    tool: str
    position: int | None
    at_us: int
    outcome: str
    place: Place


class Stretch(Struct, frozen=True):
    """Calls of one run and tool with no other tool's in between."""

    run_id: bytes
    turns: list[Turn]


def stretches(database: Database, scope: Scope, repeats_min: int) -> tuple[list[Stretch], int, bool]:
    """Where to look, in how many runs, and whether those are all."""
    if not REPEATS_MIN <= repeats_min < 2**63:
        raise InvalidInput(
            f"A loop has at least {REPEATS_MIN} repeats, not {repeats_min}.", field="repeats_min"
        )
    conditions = scope_conditions(database, scope)
    if conditions.nothing:
        return [], 0, True
    sql = SQL["runs_repeating"].format(where=conditions.where(conditions.driving()))
    values = conditions.values | {"repeats_min": repeats_min, "limit": RUNS_MAX + 1}
    rows: list[Any] = database.query(sql, values)
    found: list[Stretch] = []
    for row, run_id in rows[:RUNS_MAX]:
        turns = _turns(database, row)
        for _, group in itertools.groupby(turns, lambda turn: turn.tool):
            stretch = Stretch(run_id, list(group))
            if len(stretch.turns) >= repeats_min:
                found.append(stretch)
    return found, min(len(rows), RUNS_MAX), len(rows) <= RUNS_MAX


def _turns(database: Database, run_row: int) -> Iterator[Turn]:
    rows: list[Any] = database.rows("turns", run_row)
    word = database.word
    for call_id, tool, position, at_us, outcome, *place in rows:
        yield Turn(call_id, word(tool) or "", position, at_us, word(outcome) or "", tuple(place))


def loops(reader: Reader, found: tuple[list[Stretch], int, bool], repeats_min: int, limit: int) -> Loops:
    """Compare the arguments of the calls in each stretch; the longest loops first."""
    check_limit(limit)
    where, runs, complete = found
    items: list[Loop] = []
    compared = 0
    for stretch in where:
        if compared + len(stretch.turns) > CALLS_MAX:
            complete = False
            stretch = Stretch(stretch.run_id, stretch.turns[: CALLS_MAX - compared])
        compared += len(stretch.turns)
        items += _loops_of(reader, stretch, repeats_min)
        if not complete and compared == CALLS_MAX:
            break
    items.sort(key=lambda loop: -loop.repeats)
    return Loops(
        items=items[:limit],
        complete=complete and len(items) <= limit,
        runs_searched=runs,
        calls_compared=compared,
    )


def _loops_of(reader: Reader, stretch: Stretch, repeats_min: int) -> Iterator[Loop]:
    said = [(turn, _digest(reader.raw(turn.place))) for turn in stretch.turns]
    for digest, group in itertools.groupby(said, lambda one: one[1]):
        turns = [turn for turn, _ in group]
        if digest is not None and len(turns) >= repeats_min:
            yield _loop(reader, stretch.run_id, turns)


def _loop(reader: Reader, run_id: bytes, turns: list[Turn]) -> Loop:
    first, last = turns[0], turns[-1]
    shown = preview(reader.said(first.place).get("arguments"))
    by_outcome: dict[str, int] = {}
    for turn in turns:
        by_outcome[turn.outcome] = by_outcome.get(turn.outcome, 0) + 1
    return Loop(
        run_id=run_id.hex(),
        tool=first.tool,
        repeats=len(turns),
        first_position=first.position,
        last_position=last.position,
        first_at=rfc3339(first.at_us),
        last_at=rfc3339(last.at_us),
        first_call_id=first.id.hex(),
        last_call_id=last.id.hex(),
        by_outcome=by_outcome,
        arguments=shown.text,
        arguments_cut_characters=shown.cut_characters,
    )


def _digest(payload: dict[str, Any] | None) -> bytes | None:
    """Equal for equal arguments, whatever the order of names in them; None where they are not known: purged,
    or kept out of the record by the tool's setting."""
    if payload is None:
        return None
    arguments = payload.get("arguments")
    if isinstance(arguments, dict) and not _WITHHELD.isdisjoint(cast("dict[str, Any]", arguments)):
        return None
    try:
        data = msgspec.msgpack.encode(arguments, order="sorted")
    except TypeError:
        data = msgspec.msgpack.encode(arguments)  # names that are not texts have no order
    return hashlib.sha256(data).digest()


_WITHHELD = frozenset({"$omitted", "$digest"})
"""What stands for a value that is not kept; the digest is salted."""
