"""Questions: what can be asked of the index, and each turned into SQL.

Owns the filters, the cursors of a page and the closed table of conditions a `WHERE` is made from; nothing a
caller says becomes SQL text. Knows nothing of where rows are or how they are shown. Used by `index`; the
filters by every door.
"""

import base64
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput
from custody.records import EFFECTS, OUTCOMES, RUN_OUTCOMES

LIMIT_MAX = 1_000
"""Items of one page: each is read from the journal and held in memory."""

Order = Literal["newest", "oldest"]


class CallFilter(Struct, frozen=True, kw_only=True):
    """Which calls. None asks for nothing; fields are joined by *and*; names match exactly."""

    run: str | None = None
    """An id, the beginning of one, or a run's name."""
    session: str | None = None
    workspace: str | None = None
    agent: str | None = None
    caller: str | None = None
    tool: str | None = None
    outcome: str | None = None
    """One of `records.OUTCOMES`, or `running`."""
    effect: str | None = None
    since_us: int | None = None
    """Asked for at or after."""
    until_us: int | None = None
    """Asked for before."""
    parent: str | None = None
    """Id, or its beginning, of the call in which they were made."""
    top_level: bool = False
    """Only calls made in no other."""
    external_id: str | None = None
    proposal_id: str | None = None
    action_id: str | None = None
    attempt: int | None = None
    connection: str | None = None
    """Id of the connection they were asked for over."""
    text: str | None = None
    """Every word, and every phrase in double quotes, must occur."""
    door: str | None = None
    dry_run: bool | None = None
    held: bool = False
    """Only calls whose changes are held."""
    order: Order = "newest"


class RunFilter(Struct, frozen=True, kw_only=True):
    """Which runs. As `CallFilter`."""

    running: bool | None = None
    name: str | None = None
    agent: str | None = None
    caller: str | None = None
    channel: str | None = None
    session: str | None = None
    workspace: str | None = None
    outcome: str | None = None
    """One of `records.RUN_OUTCOMES`, or `running`."""
    reason: str | None = None
    """Why it ended so, word for word: `budget_exceeded`, `killed`, …"""
    since_us: int | None = None
    until_us: int | None = None
    parent: str | None = None
    """Id, or its beginning, or name, of the run they were started from."""
    top_level: bool = False
    external_id: str | None = None
    text: str | None = None
    order: Order = "newest"


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events. As `CallFilter`."""

    name: str | None = None
    run: str | None = None
    call: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    order: Order = "newest"


class Scope(Struct, frozen=True, kw_only=True):
    """Whose, and when: for questions about calls and steps alike. As `CallFilter`."""

    run: str | None = None
    session: str | None = None
    workspace: str | None = None
    agent: str | None = None
    caller: str | None = None
    since_us: int | None = None
    until_us: int | None = None


F = TypeVar("F", CallFilter, RunFilter, EventFilter)


def narrowed(filter: F, fields: Mapping[str, Any]) -> F:
    """The filter with more fields set. Raises InvalidInput for one it does not have."""
    if not fields:
        return filter
    unknown = ", ".join(sorted(set(fields) - set(filter.__struct_fields__)))
    if unknown:
        known = ", ".join(filter.__struct_fields__)
        raise InvalidInput(f"{type(filter).__name__} has no {unknown}.", hint=f"It has: {known}.")
    return msgspec.structs.replace(filter, **fields)


T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """Some items of a list, and the cursor that gives those after them; None at the end."""

    items: list[T]
    next: str | None = None


class Bounded(Struct, Generic[T], frozen=True):
    """An answer whose work has a bound."""

    items: list[T]
    complete: bool
    """False: the bound was reached; there may be more."""


# -- conditions ---------------------------------------------------------------------------------------

EQUAL: dict[str, str] = {
    "run": "c.run = :run",
    "session": "c.session = :session",
    "workspace": "c.workspace = :workspace",
    "agent": "c.agent = :agent",
    "caller": "c.caller = :caller",
    "channel": "c.channel = :channel",
    "tool": "c.tool = :tool",
    "outcome": "c.outcome = :outcome",
    "reason": "c.reason = :reason",
    "effect": "c.effect = :effect",
    "door": "c.door = :door",
    "dry_run": "c.dry_run = :dry_run",
    "parent": "c.parent_id = :parent",
    "external_id": "c.external_id = :external_id",
    "proposal_id": "c.proposal_id = :proposal_id",
    "action_id": "c.action_id = :action_id",
    "attempt": "c.attempt = :attempt",
    "connection": "c.connection = :connection",
    "name": "c.name = :name",
    "event": "c.name = :event",
    "call": "c.call_id = :call",
}
"""Field -> its condition. A condition is written `+c.field` where its index must not be taken."""

OF_STEPS: dict[str, str] = {
    "run": "c.run = :run",
    "session": "r.session = :session",
    "workspace": "r.workspace = :workspace",
    "agent": "coalesce(c.agent, r.agent) = :agent",
    "caller": "r.caller = :caller",
}
"""The same of a step `c` and its run `r`, which says of whom it is."""

OTHER: dict[str, str] = {
    "visible": "c.at_us > 0",
    "since_us": "c.at_us >= :since_us",
    "until_us": "c.at_us < :until_us",
    "top_level": "c.parent_id IS NULL",
    "held": "EXISTS (SELECT 1 FROM held h WHERE h.call_id = c.id AND h.settled_by IS NULL)",
    "over": "c.outcome <> 0",
    "text": "c.row IN (SELECT rowid FROM call_text WHERE call_text MATCH :text)",
    "before": "c.at_us <= :at_us AND (c.at_us, c.id) < (:at_us, :id)",
    "after": "c.at_us >= :at_us AND (c.at_us, c.id) > (:at_us, :id)",
}

INDEXED = tuple(
    "external_id proposal_id run parent call name connection session action_id agent workspace event tool"
    " outcome".split()
)
"""Fields with an index that gives rows in order of time; in doubt the first is taken."""


class Conditions:
    """The terms of one question and their values."""

    def __init__(self) -> None:
        self.equal: dict[str, Any] = {}
        self.other: list[str] = ["visible"]
        self.values: dict[str, Any] = {}
        self.nothing = False
        """Something is asked for that no row has."""

    def add(self, field: str, value: Any) -> None:
        self.equal[field] = value
        self.values[field] = value

    def add_other(self, name: str, **values: Any) -> None:
        self.other.append(name)
        self.values |= values

    def driving(self) -> str | None:
        """The field by whose index what fulfils them is best found, where all of it is wanted."""
        return next((field for field in ("run", "session") if field in self.equal), None)

    def where(self, driving: str | None = None, equal: Mapping[str, str] = EQUAL) -> str:
        """Of the conditions an index could serve, only `driving` (and outcome beside tool) may use one.

        Left to itself SQLite takes any of them, as it does not know how often a value occurs.
        """
        served = ("tool", "outcome") if driving == "tool" else (driving,)
        terms = [equal[field] if field in served else f"+{equal[field]}" for field in self.equal]
        return " AND ".join([*terms, *(OTHER[name] for name in self.other)])


def check_outcome(outcome: str | None, *, of_run: bool) -> None:
    """Raises InvalidInput for a word that is no outcome."""
    known = ("running", *(RUN_OUTCOMES if of_run else OUTCOMES))
    if outcome is not None and outcome not in known:
        raise InvalidInput(
            f"{outcome!r} is no outcome.", hint=f"One of: {', '.join(known)}.", field="outcome"
        )


def check_effect(effect: str | None) -> None:
    """Raises InvalidInput for a word that is no effect."""
    if effect is not None and effect not in EFFECTS:
        raise InvalidInput(f"{effect!r} is no effect.", hint=f"One of: {', '.join(EFFECTS)}.", field="effect")


def check_attempt(attempt: int) -> int:
    """Raises InvalidInput for a number no attempt can have."""
    if not 1 <= attempt < 2**63:
        raise InvalidInput(f"Attempts are counted from 1; there is none {attempt}.", field="attempt")
    return attempt


def check_limit(limit: int) -> int:
    """Raises InvalidInput for a number of items no page can have."""
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInput(f"A page has 1 to {LIMIT_MAX} items, not {limit}.", field="limit")
    return limit


# -- cursors ------------------------------------------------------------------------------------------


class Key(Struct, frozen=True, array_like=True):
    """Where a page ended. Nothing in it depends on how rows are stored, so it outlives a rebuilt index."""

    of: str
    order: Order
    at_us: int
    id: bytes


_keys = msgspec.msgpack.Decoder(Key)
_encoder = msgspec.msgpack.Encoder()


def encode_cursor(key: Key) -> str:
    return base64.urlsafe_b64encode(_encoder.encode(key)).rstrip(b"=").decode()


def decode_cursor(cursor: str, of: str, order: Order) -> Key:
    """Raises InvalidInput for anything but a cursor that this list gave in this order."""
    try:
        key = _keys.decode(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not -(2**63) <= key.at_us < 2**63:
            raise ValueError(key.at_us)
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidInput(
            f"{cursor[:80]!r} is no cursor.",
            hint="Pass back `next` of the page before as it is, or nothing.",
            field="cursor",
        ) from error
    if (key.of, key.order) != (of, order):
        raise InvalidInput(
            f"This cursor belongs to a list of {key.of}, {key.order} first.",
            hint=f"This is a list of {of}, {order} first; begin without a cursor.",
            field="cursor",
        )
    return key
