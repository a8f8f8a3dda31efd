"""A run from its first call to its last event, in one list.

Owns the order of what has a position and what has only a time, and what is shown of each. Used by `index`.
"""

from typing import Any

from msgspec import Struct

from custody.errors import InvalidInput
from custody.index.asking import places_of_call
from custody.index.database import SQL, Database
from custody.index.lookup import Lookup
from custody.index.preview import preview
from custody.index.query import Key, check_limit, decode_cursor, encode_cursor
from custody.index.reading import Reader
from custody.index.views import EventView, StepView
from custody.records import Call, Tokens


class TimelineEntry(Struct, frozen=True, kw_only=True):
    """A call, step or event of a run."""

    kind: str
    """`call`, `step` or `event`."""
    id: str
    position: int | None
    at: str
    """When a call was asked for, a step was over, an event happened."""
    name: str | None
    """The tool, the model (as asked for, if it did not answer), the event's name."""
    agent: str | None
    step_id: str | None
    """The step that asked for this call."""
    parent_id: str | None
    """The call in which this call or step was made, or which this event is about."""
    outcome: str | None
    """Of a call; None while it runs."""
    latency_us: int | None
    """Of a call its execution, of a step the model's time."""
    tokens: Tokens | None
    cost_nano_usd: int | None
    arguments: str | None
    """The beginning of a call's arguments, or of what a step asked for."""
    arguments_cut_characters: int
    preview: str | None
    """The beginning of a call's result or error, of a step's text, of an event's data."""
    preview_cut_characters: int
    step: StepView | None = None
    """All of a step."""
    changes_count: int | None = None
    """How much a call changed in files; None where its tool does not tell."""


class Line(Struct, frozen=True):
    """Where the records of an entry are."""

    kind: str
    found: Any


def lines(database: Database, run: str, limit: int, cursor: str | None) -> tuple[list[Line], str | None]:
    """One page, and the cursor after it. Raises NotFound, Ambiguous or InvalidInput."""
    check_limit(limit)
    found = Lookup(database).run(run)
    begin = 0
    if cursor is not None:
        key = decode_cursor(cursor, "timeline", "oldest")
        if key.id != found.id or key.at_us < 0:
            raise InvalidInput("This cursor belongs to another run.", hint="Begin without a cursor.")
        begin = key.at_us
    rows: list[Any] = database.query(SQL["timeline"], {"run": found.row, "limit": limit + 1, "begin": begin})
    after = encode_cursor(Key("timeline", "oldest", begin + limit, found.id)) if len(rows) > limit else None
    return [Line(kind, _found(database, kind, row)) for kind, row in rows[:limit]], after


def _found(database: Database, kind: str, row: int) -> Any:
    return places_of_call(database, row) if kind == "call" else database.row(f"{kind}_by_row", row)


def entry(reader: Reader, line: Line) -> TimelineEntry:
    if line.kind == "call":
        return _of_call(reader.call(*line.found))
    if line.kind == "step":
        return _of_step(reader.step(line.found[:3], line.found[3]))
    return _of_event(reader.event(line.found))


def _of_call(call: Call) -> TimelineEntry:
    asked, said = preview(call.arguments), preview(call.result if call.error is None else call.error)
    if said.text is None and call.reason:
        said = preview(call.reason)
    return TimelineEntry(
        kind="call",
        id=call.id,
        position=call.position,
        at=call.asked_at,
        name=call.tool,
        agent=call.agent,
        step_id=call.step_id,
        parent_id=call.parent_id,
        outcome=call.outcome,
        latency_us=call.latency_us,
        tokens=None,
        cost_nano_usd=None,
        arguments=asked.text,
        arguments_cut_characters=asked.cut_characters,
        preview=said.text,
        preview_cut_characters=said.cut_characters,
        changes_count=call.changes_count,
    )


def _of_step(step: StepView) -> TimelineEntry:
    asked, said = preview(step.calls or None), preview(step.text)
    return TimelineEntry(
        kind="step",
        id=step.id,
        position=step.position,
        at=step.at,
        name=step.requested_model if step.model is None else step.model,
        agent=step.agent,
        step_id=None,
        parent_id=step.parent_id,
        outcome=None,
        latency_us=step.model_us,
        tokens=step.tokens,
        cost_nano_usd=step.cost_nano_usd,
        arguments=asked.text,
        arguments_cut_characters=asked.cut_characters,
        preview=said.text,
        preview_cut_characters=said.cut_characters,
        step=step,
    )


def _of_event(event: EventView) -> TimelineEntry:
    said = preview(event.data)
    return TimelineEntry(
        kind="event",
        id=event.id,
        position=None,
        at=event.at,
        name=event.name,
        agent=None,
        step_id=None,
        parent_id=event.call_id,
        outcome=None,
        latency_us=None,
        tokens=None,
        cost_nano_usd=None,
        arguments=None,
        arguments_cut_characters=0,
        preview=said.text,
        preview_cut_characters=said.cut_characters,
    )
