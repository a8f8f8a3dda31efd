"""What people are asked, and what became of it: the records of each question, found by its digest.

The tables only say where to look. Whether there was a yes, whether it was used, and what a grant allows, is
read from the records each time, so that a table that was meddled with opens nothing. Knows nothing of who
may answer. Used by `calls` and by every door that shows questions.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from custody.errors import Ambiguous, NotFound
from custody.index.database import Database
from custody.index.lookup import CANDIDATES_MAX, id_range
from custody.index.reading import Reader
from custody.records import CALL_ID_BYTES, CallAnswered, CallAsked, CallFinished, Event, Request

OPEN_MAX = 1_000
"""Questions looked at for a list: nobody answers more in the hours they stay open."""

ALIKE_MAX = 200
"""Answered questions of one digest that are looked at, the latest first: of one that is asked over and over
within the hours it stays open."""

EVENTS_MAX = 2_000
"""Records of what became of one yes: more than the largest grant has."""

USED, GRANTED, REVOKED, GRANT_USED = NAMES = (
    "answer.used", "grant.created", "grant.revoked", "grant.used",
)  # fmt: skip


class GrantView(Struct, frozen=True, kw_only=True):
    """What a person allows more than once, and what is left of it."""

    call_id: bytes
    """The call about which was asked; a grant is named by it."""
    digest: bytes
    tool: str
    session_id: str | None
    agent: str | None
    by: str | None
    at_us: int
    until_us: int
    calls_max: int
    used_by: tuple[bytes, ...] = ()
    """The calls it let pass."""
    revoked_at_us: int | None = None
    revoked_by: str | None = None

    def is_good(self, now_us: int) -> bool:
        """Whether it lets one more call pass."""
        in_time = self.at_us <= now_us < self.until_us
        return in_time and self.revoked_at_us is None and len(self.used_by) < self.calls_max


class QuestionView(Struct, frozen=True, kw_only=True):
    """A question as the records have it, and what became of it."""

    call_id: bytes
    request: Request
    """Its decision is the ask: which rule, and why."""
    digest: bytes
    open_until_us: int
    standing: bool
    """Whether it can be allowed for more than one call."""
    run_id: bytes | None
    session_id: str | None
    agent: str | None
    caller: str | None
    started: bool
    ended_at_us: int | None
    """When the call ended: nobody waits for the answer any more, the next call that asks the same has it."""
    answer: CallAnswered | None
    used_by: bytes | None
    """The call that a yes let pass."""
    grant: GrantView | None

    @property
    def at_us(self) -> int:
        return self.request.asked_at_us

    @property
    def allowed(self) -> bool:
        return self.answer is not None and self.answer.decision.verdict == "allow"

    def is_good(self, now_us: int) -> bool:
        """Whether there is a yes to it that lets one call pass."""
        spent = self.used_by is not None or self.started
        return self.allowed and not spent and self.in_time(now_us)

    def in_time(self, now_us: int) -> bool:
        return self.at_us <= now_us < self.open_until_us


A = TypeVar("A")


class Ask(Protocol):
    """Puts a question to an index that is brought up to date before, if so wanted."""

    def __call__(self, ask: Callable[[Database], A], *, refresh: bool = False) -> A: ...


class _Found(Struct, frozen=True):
    """Where the records of one question are, from one transaction."""

    row: Any
    events: list[Any]


class Questions:
    """The questions of one store. Safe for threads; may wait."""

    def __init__(self, ask: Ask, reader: Reader) -> None:
        self._ask = ask
        self._reader = reader

    def one(self, id_prefix: str, *, refresh: bool = True) -> QuestionView:
        """Raises NotFound or Ambiguous."""
        return self._view(self._ask(lambda database: _found_by(database, id_prefix), refresh=refresh))

    def not_answered(self, now_us: int, *, refresh: bool = True) -> list[QuestionView]:
        """Those that can still be answered and were not, the oldest first."""

        def ask(database: Database) -> list[_Found]:
            return [_found(database, row[0]) for row in database.rows("open_questions", now_us, OPEN_MAX)]

        views = [self._view(found) for found in self._ask(ask, refresh=refresh)]
        return [view for view in views if view.in_time(now_us)]

    def answered(
        self, digest: bytes, session_id: str | None, now_us: int, *, refresh: bool = True
    ) -> list[QuestionView]:
        """Those that asked exactly this in this session, whose time is not over; the latest first."""

        def ask(database: Database) -> list[_Found]:
            rows = database.rows("answered_questions", digest, _word(database, session_id), now_us, ALIKE_MAX)
            return [_found(database, row[0]) for row in rows]

        views = [self._view(found) for found in self._ask(ask, refresh=refresh)]
        return [view for view in views if view.digest == digest and view.session_id == session_id]

    def granted(
        self, digest: bytes, session_id: str | None, now_us: int, *, refresh: bool = True
    ) -> list[GrantView]:
        """The grants for exactly this in this session that let one more call pass; the latest first."""

        def ask(database: Database) -> list[_Found]:
            session, name = _word(database, session_id), database.word_id(GRANTED)
            rows = database.rows("granted_questions", digest, session, name, ALIKE_MAX)
            return [_found(database, row[0]) for row in rows]

        grants = [self._view(found).grant for found in self._ask(ask, refresh=refresh)]
        return [
            grant
            for grant in grants
            if grant is not None
            and (grant.digest, grant.session_id) == (digest, session_id)
            and grant.is_good(now_us)
        ]

    def grants(self, *, refresh: bool = True) -> list[GrantView]:
        """Every grant, whatever is left of it; the latest first."""

        def ask(database: Database) -> list[_Found]:
            rows = database.rows("grants", database.word_id(GRANTED), OPEN_MAX)
            return [_found(database, row[0]) for row in rows]

        grants = [self._view(found).grant for found in self._ask(ask, refresh=refresh)]
        return [grant for grant in grants if grant is not None]

    def shown(self, call_id: bytes) -> dict[str, Any]:
        """What was put on the record with the question, secrets replaced; empty once purged."""
        found = self._ask(lambda database: _found(database, call_id))
        return self._reader.said(found.row[1:4])

    # -- inside ---------------------------------------------------------------------------------------

    def _view(self, found: _Found) -> QuestionView:
        row = found.row
        asked, _ = self._reader.leaf(row[1:4], CallAsked)
        assert asked.digest is not None and asked.open_until_us is not None, "else it makes no row"
        answer = None if row[4] is None else self._reader.leaf(row[4:7], CallAnswered)[0]
        ended = None if row[7] is None else self._reader.leaf(row[7:10], CallFinished)[0]
        events = [self._reader.leaf(place, Event)[0] for place in found.events]
        return QuestionView(
            call_id=asked.call_id,
            request=asked.request,
            digest=asked.digest,
            open_until_us=asked.open_until_us,
            standing=asked.standing,
            agent=row[11],
            caller=row[12],
            session_id=row[13],
            run_id=row[14],
            started=bool(row[10]),
            ended_at_us=None if ended is None else ended.at_us,
            answer=answer,
            used_by=next((user for event in events if (user := _user(event, USED))), None),
            grant=_grant(asked, events),
        )


def _found_by(database: Database, prefix: str) -> _Found:
    wanted = id_range(prefix, CALL_ID_BYTES)
    rows = [] if wanted is None else database.rows("questions_from", *wanted, CANDIDATES_MAX + 1)
    if len(rows) == 1:
        return _found(database, rows[0][0])
    shown = prefix[:80]
    if not rows:
        raise NotFound(
            f"Nobody was asked about a call whose id begins with {shown!r}.",
            hint="`custody approvals` lists the questions that are open.",
        )
    ids = [row[0].hex() for row in rows[:CANDIDATES_MAX]]
    raise Ambiguous(
        f"Questions about several calls begin with {shown!r}: {', '.join(ids)}.", hint="Give more of the id."
    )


def _found(database: Database, call_id: bytes) -> _Found:
    row = database.row("question", call_id)
    assert row is not None, "it was found in this transaction"
    names = [database.word_id(name) for name in NAMES]
    return _Found(row, database.rows("named_events_of_call", call_id, *names, EVENTS_MAX))


def _word(database: Database, word: str | None) -> int | None:
    return None if word is None else database.word_id(word)


class _Created(Struct, frozen=True):
    """What `grant.created` says."""

    digest: str
    tool: str
    until_us: int
    max: int
    session_id: str | None = None
    agent: str | None = None
    by: str | None = None


def _user(event: Event, name: str) -> bytes | None:
    """The call an event says was let pass."""
    if event.name != name:
        return None
    user: Any = (event.data or {}).get("by_call")
    try:
        return bytes.fromhex(user)
    except (TypeError, ValueError):
        return event.event_id  # whatever it was used for: used it is


def _grant(asked: CallAsked, events: list[Event]) -> GrantView | None:
    """Of the events about one question: the first of each kind counts."""
    made = next((event for event in events if event.name == GRANTED), None)
    if made is None:
        return None
    try:
        said = msgspec.convert(made.data, _Created)
        digest = bytes.fromhex(said.digest)
    except (msgspec.ValidationError, ValueError):
        return None
    if digest != asked.digest or not asked.standing:
        return None
    revoked = next((event for event in events if event.name == REVOKED), None)
    revoked_by: Any = None if revoked is None else (revoked.data or {}).get("by")
    users = dict.fromkeys(user for event in events if (user := _user(event, GRANT_USED)))
    return GrantView(
        call_id=asked.call_id,
        digest=digest,
        tool=said.tool,
        session_id=said.session_id,
        agent=said.agent,
        by=said.by,
        at_us=made.at_us,
        until_us=said.until_us,
        calls_max=said.max,
        used_by=tuple(users),
        revoked_at_us=None if revoked is None else revoked.at_us,
        revoked_by=revoked_by if isinstance(revoked_by, str) else None,
    )
