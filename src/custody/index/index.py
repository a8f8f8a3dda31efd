"""How to find it: the answers to every question about the journal.

Owns the index of one store as its users see it: a thin face, one method a question. It is brought up to the
journal's end before each answer, so a reader sees its own writes; `upkeep` sees to that. Knows nothing of
why something is asked. Used by `calls` (recovery, approvals) and by every door.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from custody.errors import CorruptJournal
from custody.index import places
from custody.index.asking import (
    call_conditions,
    event_conditions,
    page_of,
    parts_of_run,
    places_of_call,
    places_of_open_call,
    places_of_run,
    run_conditions,
    session_of,
    text_match,
)
from custody.index.catch_up import Progress
from custody.index.database import Database
from custody.index.fold import Place
from custody.index.known_ids import KnownIds
from custody.index.lookup import Lookup
from custody.index.query import (
    LIMIT_MAX,
    Bounded,
    CallFilter,
    EventFilter,
    Key,
    Page,
    RunFilter,
    Scope,
    check_limit,
    decode_cursor,
    encode_cursor,
    narrowed,
)
from custody.index.questions import Questions
from custody.index.reading import Inherited, Places, Reader, RunSums
from custody.index.search import ROW_MAX
from custody.index.stats import Stats, ToolStats, by_rate, gather, slowest
from custody.index.upkeep import Upkeep
from custody.index.views import EventView, OpenCall, OpenRun, Session, StepView
from custody.journal import Cursor, Journal, Stored
from custody.records import Call, Run
from custody.records import now_us as clock_us

if TYPE_CHECKING:
    from custody.index.loops import Loops
    from custody.index.patterns import FailurePattern
    from custody.index.relatives import SilentRun
    from custody.index.sql import Parameters, SqlAnswer
    from custody.index.timeline import TimelineEntry
    from custody.index.usage import UsageReport

Wanted = tuple[Places, Inherited]


class Index:
    """The index of one store. Safe for threads; its methods wait, so they have no place on an event loop."""

    def __init__(self, path: str | None, journal: Journal) -> None:
        """`path` of index.db; None keeps it in memory, as for a store in memory. Opens nothing yet."""
        self._reader = Reader(journal)
        self._upkeep = Upkeep(path, journal)
        self._answer = self._upkeep.answer
        self.questions = Questions(self._answer, self._reader)
        self.known = KnownIds(self._answer, self._reader)

    @property
    def damage(self) -> CorruptJournal | None:
        """What the last catching up found damaged in the journal: answers lack what lies behind it."""
        return self._upkeep.damage

    @property
    def kept(self) -> bool:
        """False where the file cannot be written: each process then fills an index of its own in memory."""
        return self._upkeep.kept

    def close(self) -> None:
        """May be used again afterwards: the next question opens it."""
        self._upkeep.close()

    def refresh(self, progress: Progress | None = None) -> None:
        """Catch up with the journal. Raises CorruptJournal once all that can be read is folded; questions do
        not, they are answered from that."""
        self._answer(lambda _: None, refresh=True, progress=progress)
        if self.damage is not None:
            raise self.damage

    def rebuild(self, progress: Progress | None = None) -> None:
        """Forget everything and fold the whole journal again. Raises as `refresh`."""
        self._upkeep.rebuild(progress)
        if self.damage is not None:
            raise self.damage

    def forget(self) -> bool:
        """Leave no byte in the file of what the journal held so far; the next question fills it again.

        False where another process stands in the way, or the file cannot be written.
        """
        return self._upkeep.forget()

    # -- lists ----------------------------------------------------------------------------------------

    def calls(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008 - frozen
        limit: int = 50,
        cursor: str | None = None,
        *,
        refresh: bool = True,
        **fields: Any,
    ) -> Page[Call]:
        """`fields` are more of the filter's: `calls(tool="exec")`.

        Raises InvalidInput, and NotFound or Ambiguous for `run` and `parent`.
        """
        given = narrowed(filter, fields)

        def ask(database: Database) -> tuple[list[Wanted], str | None]:
            conditions = call_conditions(database, given)
            hits, after = page_of(database, "calls", conditions, given.order, limit, cursor, given.text)
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
        **fields: Any,
    ) -> Page[Run]:
        """`fields` are more of the filter's: `runs(caller="ada")`.

        Raises InvalidInput, and NotFound or Ambiguous for `parent`.
        """
        given = narrowed(filter, fields)

        def ask(database: Database) -> tuple[list[tuple[Places, RunSums]], str | None]:
            conditions = run_conditions(database, given)
            hits, after = page_of(database, "runs", conditions, given.order, limit, cursor, given.text)
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
        **fields: Any,
    ) -> Page[EventView]:
        """`fields` are more of the filter's: `events(name="run.error")`.

        Raises InvalidInput, and NotFound or Ambiguous for `run` and `call`.
        """
        given = narrowed(filter, fields)

        def ask(database: Database) -> tuple[list[Any], str | None]:
            conditions = event_conditions(database, given)
            hits, after = page_of(database, "events", conditions, given.order, limit, cursor, None)
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

    def call(self, id_prefix: str, *, details: bool = True, refresh: bool = True) -> Call:
        """With the samples of the machine before and after as `details`. Raises NotFound or Ambiguous."""
        wanted = self._answer(
            lambda database: places_of_call(database, Lookup(database).call(id_prefix).row), refresh=refresh
        )
        return self._detailed(*wanted) if details else self._reader.call(*wanted)

    def run(self, text: str, *, by_name: bool = True, refresh: bool = True) -> Run:
        """By id, its beginning, and unless told otherwise by name (the newest of that name) or `latest`.
        Raises NotFound or Ambiguous."""
        wanted = self._answer(
            lambda database: places_of_run(database, Lookup(database, by_name=by_name).run(text).row),
            refresh=refresh,
        )
        return self._reader.run(*wanted)

    def step(self, id_prefix: str, *, refresh: bool = True) -> StepView:
        """Raises NotFound or Ambiguous."""
        place: Any = self._answer(
            lambda database: database.row("step_by_row", Lookup(database).step(id_prefix).row),
            refresh=refresh,
        )
        return self._reader.step(place[:3], place[3])

    def find(self, text: str, *, by_name: bool = True, refresh: bool = True) -> Run | Call | StepView:
        """Whatever `text` is the id, its beginning or the name of. Raises NotFound or Ambiguous."""
        found = self._answer(lambda database: Lookup(database, by_name=by_name).any(text), refresh=refresh)
        one = {"runs": self.run, "calls": self.call, "steps": self.step}[found.of]
        return one(found.id.hex(), refresh=False)

    # -- a run's parts --------------------------------------------------------------------------------

    def run_calls(
        self,
        run_id: bytes,
        *,
        after_position: int | None = None,
        limit: int = LIMIT_MAX,
        details: bool = False,
        refresh: bool = True,
    ) -> list[Call]:
        """Every call of a run by position; with `after_position` (-1 begins) the next `limit` that have one
        behind it. `details` adds the samples of the machine. Raises InvalidInput."""
        wanted = self._answer(
            lambda database: [
                places_of_call(database, row)
                for (row,) in parts_of_run(database, "run_calls", run_id, after_position, limit)
            ],
            refresh=refresh,
        )
        return [self._detailed(*one) if details else self._reader.call(*one) for one in wanted]

    def run_steps(
        self,
        run_id: bytes,
        *,
        after_position: int | None = None,
        limit: int = LIMIT_MAX,
        refresh: bool = True,
    ) -> list[StepView]:
        """The steps of a run, as `run_calls` its calls."""
        places = self._answer(
            lambda database: parts_of_run(database, "run_steps", run_id, after_position, limit),
            refresh=refresh,
        )
        return [self._reader.step(place[:3], place[3]) for place in places]

    def first_unfinished(self, run_id: bytes, *, refresh: bool = True) -> int | None:
        """The lowest position of a run's calls that have not ended; None when all of them have."""
        return self._answer(lambda database: database.one("first_unfinished", run_id), refresh=refresh)

    def max_position(self, run_id: bytes, *, refresh: bool = True) -> int:
        """The last position taken in a run by a call or step; -1 when there is none."""
        found: Any = self._answer(lambda database: database.one("max_position", run_id), refresh=refresh)
        return -1 if found is None else found

    # -- what is not over -----------------------------------------------------------------------------

    def open_calls(self, *, refresh: bool = True) -> list[OpenCall]:
        """Calls that have no terminal record, the oldest first."""
        rows = self._answer(lambda database: database.rows("open_calls"), refresh=refresh)
        return [self._reader.open_call(places_of_open_call(row), row[1]) for row in rows]

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

    # -- questions over many ----------------------------------------------------------------------------

    def tool_rates(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008
        calls_min: int = 1,
        *,
        refresh: bool = True,
    ) -> list[ToolStats]:
        """The tools of `stats` with so many calls, those that succeed least first. Raises as `calls`."""
        return by_rate(self.stats(filter, refresh=refresh).tools, calls_min)

    def usage(
        self,
        by: str = "agent",
        scope: Scope = Scope(),  # noqa: B008
        limit: int = 100,
        *,
        refresh: bool = True,
    ) -> "UsageReport":
        """Tokens, cost, steps and calls by `agent tool model day run caller session`, the dearest first.

        A tool has the tokens of the steps that asked for it: a step that asked for two counts for both.
        Raises InvalidInput, and NotFound or Ambiguous for `run`.
        """
        from custody.index.usage import usage

        return self._answer(lambda database: usage(database, by, scope, limit), refresh=refresh)

    def slowest(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008
        limit: int = 20,
        *,
        refresh: bool = True,
    ) -> list[Call]:
        """The calls whose execution took longest. Raises as `calls`."""

        def ask(database: Database) -> list[Wanted]:
            return [places_of_call(database, row) for row in slowest(database, filter, limit)]

        return [self._reader.call(*one) for one in self._answer(ask, refresh=refresh)]

    def failure_patterns(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008
        count_min: int = 2,
        limit: int = 20,
        *,
        refresh: bool = True,
    ) -> "Bounded[FailurePattern]":
        """Failures of one tool that are alike but for numbers, ids, paths and quoted texts, the most frequent
        first. Raises as `calls`."""
        from custody.index.patterns import alike, failure_pattern

        found, complete = self._answer(
            lambda database: alike(database, filter, count_min, limit), refresh=refresh
        )
        return Bounded([failure_pattern(self._reader, one) for one in found], complete)

    def loops(
        self,
        scope: Scope = Scope(),  # noqa: B008
        repeats_min: int = 3,
        limit: int = 100,
        *,
        refresh: bool = True,
    ) -> "Loops":
        """Where a run called one tool with equal arguments again and again, no other tool's call in between.

        `scope` says in which runs to look: those with such calls in it. Raises as `usage`.
        """
        from custody.index.loops import loops, stretches

        found = self._answer(lambda database: stretches(database, scope, repeats_min), refresh=refresh)
        return loops(self._reader, found, repeats_min, limit)

    # -- runs among themselves --------------------------------------------------------------------------

    def children(self, run: str, *, recursive: bool = False, refresh: bool = True) -> Bounded[Run]:
        """The runs started from a run, theirs as well if `recursive`. Raises NotFound or Ambiguous."""
        from custody.index.relatives import children

        return self._runs_of(lambda database: children(database, run, recursive=recursive), refresh)

    def ancestors(self, run: str, *, refresh: bool = True) -> Bounded[Run]:
        """The run's parent, its parent, and so on. Raises NotFound or Ambiguous."""
        from custody.index.relatives import ancestors

        return self._runs_of(lambda database: ancestors(database, run), refresh)

    def last_runs(
        self,
        by: str = "agent",
        filter: RunFilter = RunFilter(),  # noqa: B008
        *,
        refresh: bool = True,
    ) -> Bounded[Run]:
        """The last run of each agent, or `by` each name, the latest first. Raises as `runs`."""
        from custody.index.relatives import last_runs

        return self._runs_of(lambda database: last_runs(database, by, filter), refresh)

    def silent_runs(
        self,
        silent_us: int,
        filter: RunFilter = RunFilter(),  # noqa: B008
        *,
        now_us: int | None = None,
        refresh: bool = True,
    ) -> "Bounded[SilentRun]":
        """Runs that have not ended, and nothing was recorded of them for so long; the longest first.
        Raises as `runs`."""
        from custody.index.relatives import quiet_runs, silent_runs

        now_us = clock_us() if now_us is None else now_us

        def ask(database: Database) -> Any:
            found, complete = quiet_runs(database, now_us, silent_us, filter)
            return [(quiet, places_of_run(database, quiet.row)) for quiet in found], complete

        found, complete = self._answer(ask, refresh=refresh)
        return Bounded(silent_runs(self._reader, found, now_us, silent_us), complete)

    def timeline(
        self, run: str, limit: int = 1_000, cursor: str | None = None, *, refresh: bool = True
    ) -> "Page[TimelineEntry]":
        """Every call, step and event of a run: by position, and by time what has none. Raises NotFound,
        Ambiguous or InvalidInput."""
        from custody.index.timeline import entry, lines

        found, after = self._answer(lambda database: lines(database, run, limit, cursor), refresh=refresh)
        return Page([entry(self._reader, line) for line in found], after)

    def sql(
        self,
        query: str,
        parameters: "Parameters" = (),
        limit: int = 1_000,
        *,
        seconds: float = 10.0,
        refresh: bool = True,
    ) -> "SqlAnswer":
        """Run one statement that reads the views `runs calls steps events`, whose columns stand in
        docs/reference/sql-views.md. Raises InvalidInput, also for one that takes too long."""
        from custody.index.sql import Views, check_bounds

        check_bounds(limit, seconds)
        views = self._answer(lambda database: Views(database, self._reader), refresh=refresh)
        with contextlib.closing(views):
            return views.answer(query, parameters, limit, seconds)

    def caught_up_to(self, *, refresh: bool = True) -> Cursor:
        """The place in the journal behind the last record that answers speak of."""
        return self._answer(
            lambda database: Cursor(
                {row[0]: (row[1], row[2], row[3]) for row in database.rows("watermarks")}
            ),
            refresh=refresh,
        )

    def describe(self, stored: Stored) -> dict[str, Any]:
        """One record of the journal as JSON can show it."""
        return self._reader.describe(stored)

    # -- the records themselves -------------------------------------------------------------------------

    def call_records(self, call_id: str, *, refresh: bool = True) -> list[Place]:
        """Where a call's records are, and those of events about it: shard, segment and offset. Raises
        NotFound or Ambiguous."""
        return self._answer(lambda database: places.of_call(database, call_id), refresh=refresh)

    def run_records(self, run_id: str, *, refresh: bool = True) -> list[Place]:
        """Where a run's own records are: its start and end, its steps and events, not its calls. Raises as
        `call_records`."""
        return self._answer(lambda database: places.of_run(database, run_id), refresh=refresh)

    def event_record(self, event_id: bytes, *, refresh: bool = True) -> Place | None:
        """Where an event's record is."""
        return self._answer(lambda database: places.of_event(database, event_id), refresh=refresh)

    # -- inside ---------------------------------------------------------------------------------------

    def _runs_of(self, find: Callable[[Database], tuple[list[int], bool]], refresh: bool) -> Bounded[Run]:
        def ask(database: Database) -> tuple[list[tuple[Places, RunSums]], bool]:
            rows, complete = find(database)
            return [places_of_run(database, row) for row in rows], complete

        wanted, complete = self._answer(ask, refresh=refresh)
        return Bounded([self._reader.run(*one) for one in wanted], complete)

    def _detailed(self, places: Places, inherited: Inherited) -> Call:
        call = self._reader.call(places, inherited)
        before, after = self._reader.samples(places)
        return msgspec.structs.replace(call, host_before=self._sample(before), host_after=self._sample(after))

    def _sample(self, event_id: bytes | None) -> dict[str, Any] | None:
        if event_id is None:
            return None
        place: Any = self._answer(lambda database: database.row("event_by_id", event_id))
        return None if place is None else self._reader.event(place).data
