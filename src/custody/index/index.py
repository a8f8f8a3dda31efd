"""How to find it: the answers to every question about the journal.

Owns the index of one store as its users see it: it is brought up to the journal's end before each answer,
so a reader sees its own writes, and it heals itself: a damaged, outdated or deleted file is filled again,
and where none can be kept the index is in memory. Knows nothing of why something is asked. Used by `calls`
(recovery, approvals) and by every door.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import apsw
import msgspec

from custody.errors import CorruptJournal, StoreError
from custody.index.asking import (
    call_conditions,
    event_conditions,
    optional_place,
    page_of,
    places_of_call,
    places_of_run,
    run_conditions,
    session_of,
    text_match,
)
from custody.index.catch_up import CatchUp, Progress
from custody.index.database import DAMAGE, UNWRITABLE, Database
from custody.index.lookup import Lookup
from custody.index.query import (
    CallFilter,
    EventFilter,
    Key,
    Page,
    RunFilter,
    check_limit,
    decode_cursor,
    encode_cursor,
)
from custody.index.reading import (
    EventView,
    Inherited,
    OpenCall,
    OpenRun,
    Places,
    Reader,
    Session,
    StepView,
)
from custody.index.search import ROW_MAX
from custody.index.stats import Stats, gather
from custody.journal import Journal, Stored
from custody.records import Call, Run

ATTEMPTS_MAX = 100
"""Times a question is put: again whenever another process has begun to fill the index anew meanwhile."""

FAULTS_MAX = 4
"""Errors of SQLite that one question outlives. Damage is healed after the first; while another process
heals, tables can be missing once more."""

A = TypeVar("A")
Wanted = tuple[Places, Inherited]


class Index:
    """The index of one store. Safe for threads; its methods wait, so they have no place on an event loop."""

    def __init__(self, path: str | None, journal: Journal) -> None:
        """`path` of index.db; None keeps it in memory, as for a store in memory. Opens nothing yet."""
        self._path = path
        self._journal = journal
        self._reader = Reader(journal)
        self._mutex = threading.RLock()
        self._database: Database | None = None
        self._catch_up: CatchUp | None = None
        self._process = os.getpid()
        self._left_behind: list[Database] = []
        self.damage: CorruptJournal | None = None
        """What the last catching up found damaged in the journal: answers lack what lies behind it."""
        self.kept = path is not None
        """False where the file cannot be written: each process then fills an index of its own in memory."""

    def close(self) -> None:
        """May be used again afterwards: the next question opens it."""
        with self._mutex:
            if self._database is not None and self._process == os.getpid():
                self._database.close()
            self._database = None

    def refresh(self, progress: Progress | None = None) -> None:
        """Catch up with the journal. Raises CorruptJournal once all that can be read is folded; questions do
        not, they are answered from that."""
        self._answer(lambda _: None, refresh=True, progress=progress)
        if self.damage is not None:
            raise self.damage

    def rebuild(self, progress: Progress | None = None) -> None:
        """Forget everything and fold the whole journal again."""
        with self._mutex:
            self._answer(lambda _: None)
            try:
                self._opened()[1].start_again()
            except apsw.Error as error:
                self._overcome(error, 0)
            self.refresh(progress)

    # -- lists ----------------------------------------------------------------------------------------

    def calls(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008 - frozen
        limit: int = 50,
        cursor: str | None = None,
        *,
        refresh: bool = True,
    ) -> Page[Call]:
        """Raises InvalidInput, and NotFound or Ambiguous for `run` and `parent`."""

        def ask(database: Database) -> tuple[list[Wanted], str | None]:
            conditions = call_conditions(database, filter)
            hits, after = page_of(database, "calls", conditions, filter.order, limit, cursor, filter.text)
            return [places_of_call(database, hit.row) for hit in hits], after

        wanted, after = self._answer(ask, refresh=refresh)
        return Page([self._reader.call(*one) for one in wanted], after)

    def runs(
        self,
        filter: RunFilter = RunFilter(),  # noqa: B008
        limit: int = 50,
        cursor: str | None = None,
        *,
        refresh: bool = True,
    ) -> Page[Run]:
        """Raises InvalidInput, and NotFound or Ambiguous for `parent`."""

        def ask(database: Database) -> tuple[list[tuple[Places, dict[str, int]]], str | None]:
            conditions = run_conditions(database, filter)
            hits, after = page_of(database, "runs", conditions, filter.order, limit, cursor, filter.text)
            return [places_of_run(database, hit.row) for hit in hits], after

        wanted, after = self._answer(ask, refresh=refresh)
        return Page([self._reader.run(*one) for one in wanted], after)

    def events(
        self,
        filter: EventFilter = EventFilter(),  # noqa: B008
        limit: int = 50,
        cursor: str | None = None,
        *,
        refresh: bool = True,
    ) -> Page[EventView]:
        """Raises InvalidInput, and NotFound or Ambiguous for `run` and `call`."""

        def ask(database: Database) -> tuple[list[Any], str | None]:
            conditions = event_conditions(database, filter)
            hits, after = page_of(database, "events", conditions, filter.order, limit, cursor, None)
            return [database.row("event_by_row", hit.row) for hit in hits], after

        places, after = self._answer(ask, refresh=refresh)
        return Page([self._reader.event(place) for place in places], after)

    def sessions(self, limit: int = 50, cursor: str | None = None, *, refresh: bool = True) -> Page[Session]:
        """The last used first. Raises InvalidInput."""
        check_limit(limit)
        after = None if cursor is None else decode_cursor(cursor, "sessions", "newest")
        at_us, name = (ROW_MAX, "") if after is None else (after.at_us, after.id.decode("utf-8", "replace"))

        def ask(database: Database) -> tuple[list[Session], str | None]:
            rows = database.rows("sessions", at_us, name, limit + 1)
            found = [session_of(database, *row) for row in rows[:limit]]
            if len(rows) <= limit:
                return found, None
            _, last_name, _, last_us = rows[limit - 1]
            return found, encode_cursor(Key("sessions", "newest", last_us, last_name.encode()))

        return Page(*self._answer(ask, refresh=refresh))

    # -- one ------------------------------------------------------------------------------------------

    def call(self, id_prefix: str, *, refresh: bool = True) -> Call:
        """With the samples of the machine before and after. Raises NotFound or Ambiguous."""
        wanted = self._answer(
            lambda database: places_of_call(database, Lookup(database).call(id_prefix).row), refresh=refresh
        )
        return self._detailed(*wanted)

    def run(self, text: str, *, refresh: bool = True) -> Run:
        """By id, its beginning, name (the newest of that name) or `latest`. Raises NotFound or Ambiguous."""
        wanted = self._answer(
            lambda database: places_of_run(database, Lookup(database).run(text).row), refresh=refresh
        )
        return self._reader.run(*wanted)

    def find(self, text: str, *, refresh: bool = True) -> Run | Call:
        """Whatever `text` is the id, its beginning or the name of. Raises NotFound or Ambiguous."""
        found = self._answer(lambda database: Lookup(database).any(text), refresh=refresh)
        one = self.run if found.of == "runs" else self.call
        return one(found.id.hex(), refresh=False)

    # -- a run's parts --------------------------------------------------------------------------------

    def run_calls(self, run_id: bytes, *, details: bool = False, refresh: bool = True) -> list[Call]:
        """Every call of a run by position. `details` adds the samples of the machine."""
        wanted = self._answer(
            lambda database: [places_of_call(database, row) for (row,) in database.rows("run_calls", run_id)],
            refresh=refresh,
        )
        return [self._detailed(*one) if details else self._reader.call(*one) for one in wanted]

    def run_steps(self, run_id: bytes, *, refresh: bool = True) -> list[StepView]:
        """Every step of a run by position."""
        places: list[Any] = self._answer(lambda database: database.rows("run_steps", run_id), refresh=refresh)
        return [self._reader.step(place) for place in places]

    def max_position(self, run_id: bytes, *, refresh: bool = True) -> int:
        """The last position taken in a run by a call or step; -1 when there is none."""
        found: Any = self._answer(lambda database: database.one("max_position", run_id), refresh=refresh)
        return -1 if found is None else found

    # -- what is not over -----------------------------------------------------------------------------

    def open_calls(self, *, refresh: bool = True) -> list[OpenCall]:
        """Calls that have no terminal record, the oldest first."""
        rows = self._answer(lambda database: database.rows("open_calls"), refresh=refresh)
        places = [(Places(row[2:5], started=optional_place(row[5:8])), row[1]) for row in rows]
        return [self._reader.open_call(*one) for one in places]

    def open_runs(self, *, refresh: bool = True) -> list[OpenRun]:
        """Runs that have no terminal record, the oldest first."""
        rows = self._answer(lambda database: database.rows("open_runs"), refresh=refresh)
        return [self._reader.open_run(row[1:4]) for row in rows]

    def stats(self, filter: CallFilter = CallFilter(), *, refresh: bool = True) -> Stats:  # noqa: B008
        """Counts and latencies of the calls that fulfil a filter. Raises as `calls`."""

        def ask(database: Database) -> Stats:
            conditions = call_conditions(database, filter)
            return gather(database, conditions, text_match(conditions, filter.text))

        return self._answer(ask, refresh=refresh)

    def describe(self, stored: Stored) -> dict[str, Any]:
        """One record of the journal as JSON can show it."""
        return self._reader.describe(stored)

    # -- inside ---------------------------------------------------------------------------------------

    def _detailed(self, places: Places, inherited: Inherited) -> Call:
        call = self._reader.call(places, inherited)
        before, after = self._reader.samples(places)
        return msgspec.structs.replace(call, host_before=self._sample(before), host_after=self._sample(after))

    def _sample(self, event_id: bytes | None) -> dict[str, Any] | None:
        if event_id is None:
            return None
        place: Any = self._answer(lambda database: database.row("event_by_id", event_id))
        return None if place is None else self._reader.event(place).data

    def _answer(
        self, ask: Callable[[Database], A], *, refresh: bool = False, progress: Progress | None = None
    ) -> A:
        """Put a question to an index that is up to date, whatever state its file is in."""
        with self._mutex:
            faults = 0
            for _ in range(ATTEMPTS_MAX):
                try:
                    database, catch_up = self._opened()
                    if refresh:
                        self.damage = catch_up.run(progress)
                    with database.reading() as made:
                        if made and (not refresh or catch_up.holds()):
                            return ask(database)
                    refresh = True
                except apsw.BusyError as error:
                    raise StoreError(
                        "The index is busy: another process has been filling it for a minute.",
                        hint="Try again when it is done.",
                    ) from error
                except apsw.Error as error:
                    self._overcome(error, faults)
                    faults += 1
            raise StoreError("Other processes make the index anew, again and again.")

    def _overcome(self, error: apsw.Error, faults: int) -> None:
        """Make the index usable again, or raise the error."""
        if isinstance(error, DAMAGE) and faults == 0 and self._database is not None:
            self._heal(self._database)
        elif isinstance(error, (*DAMAGE, *UNWRITABLE)):
            self._reopen(in_memory=faults > 0, because=error)
        elif faults == FAULTS_MAX:
            # Short of that: tables that another process is making anew.
            raise error

    def _opened(self) -> tuple[Database, CatchUp]:
        if self._process != os.getpid():
            # SQLite must not touch in a forked child what its parent opened, not even to close it.
            if self._database is not None:
                self._left_behind.append(self._database)
            self._process, self._database = os.getpid(), None
        if self._database is None or self._catch_up is None:
            self._database = Database(self._path if self.kept else None)
            self._catch_up = CatchUp(self._database, self._journal)
        return self._database, self._catch_up

    def _heal(self, database: Database) -> None:
        try:
            database.reset()
        except apsw.Error as error:
            self._reopen(in_memory=True, because=error)

    def _reopen(self, *, in_memory: bool, because: Exception | None) -> None:
        if in_memory and not self.kept:
            raise StoreError(f"The index cannot be kept in memory: {because}.") from because
        if self._database is not None:
            with contextlib.suppress(apsw.Error):
                self._database.close()
        self._database = None
        self.kept = self.kept and not in_memory
