"""`events.*`: what this connection did, from its own bounded log.

Owns the shapes on the wire. The journal, asked by other methods, has everything of every connection.
"""

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct

from custody.rpc.event_log import Entry, LogStats
from custody.rpc.method import method
from custody.rpc.peer import Peer

ENTRIES_PER_ANSWER_MAX = 1_000
"""An answer is one frame, held whole; ask on with `until`."""


class EventsParams(Struct, frozen=True, kw_only=True):
    """Nothing."""


class EventsQueryParams(Struct, frozen=True, kw_only=True):
    """Which entries; what is left out admits all."""

    kinds: list[str] | None = None
    action_id: str | None = None
    proposal_id: str | None = None
    since: datetime | None = None
    """Inclusive; without an offset it is UTC."""
    until: datetime | None = None
    """Exclusive."""
    data_matches: dict[str, str] | None = None
    """Names and texts that the data has, all of them."""
    limit: Annotated[int, Meta(ge=0)] | None = None


class EventsFound(Struct, frozen=True, kw_only=True):
    """Entries, newest first."""

    count: int
    events: list[Entry]


@method("events.count")
async def events_count(peer: Peer, params: EventsParams) -> int:
    """How many entries the connection's log holds."""
    del params
    return len(peer.session.events)


@method("events.query")
async def events_query(peer: Peer, params: EventsQueryParams) -> EventsFound:
    """Entries of the connection's log, newest first."""
    limit = ENTRIES_PER_ANSWER_MAX if params.limit is None else min(params.limit, ENTRIES_PER_ANSWER_MAX)
    events = peer.session.events.query(
        kinds=None if params.kinds is None else frozenset(params.kinds),
        action_id=params.action_id,
        proposal_id=params.proposal_id,
        since=_microseconds(params.since),
        until=_microseconds(params.until),
        data_matches=params.data_matches,
        limit=limit,
    )
    return EventsFound(count=len(events), events=events)


@method("events.stats")
async def events_stats(peer: Peer, params: EventsParams) -> LogStats:
    """How full the connection's log is, and how much it has dropped."""
    del params
    return peer.session.events.stats()


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000_000)


METHODS = (events_count, events_query, events_stats)
