"""Where the records of a call or a run stand in the journal, for whoever takes them out of it as they are.

Owns which records belong to one. Used by `index`, inside one transaction of it.
"""

from typing import Any

from custody.index.asking import places_of_call, places_of_run
from custody.index.database import Database
from custody.index.fold import Place
from custody.index.lookup import Lookup


def of_call(database: Database, call_id: str) -> list[Place]:
    """Of all its records, and of the events that are about it. Raises NotFound."""
    found = Lookup(database).call(call_id)
    places, _ = places_of_call(database, found.row)
    own = dict.fromkeys((places.first, places.answered, places.started, places.finished))
    events: list[Any] = database.rows("call_events", found.id)
    return [*(place for place in own if place is not None), *events]


def of_run(database: Database, run_id: str) -> list[Place]:
    """Of its start and end, its steps, and the events that are about it and no call. Raises NotFound."""
    found = Lookup(database).run(run_id)
    places, _ = places_of_run(database, found.row)
    steps: list[Any] = [row[:3] for row in database.rows("run_steps", found.id)]
    events: list[Any] = database.rows("own_events_of_run", found.row)
    return [*(place for place in (places.first, places.finished) if place is not None), *steps, *events]


def of_event(database: Database, event_id: bytes) -> Place | None:
    """None where there is no such event."""
    place: Any = database.row("event_by_id", event_id)
    return place
