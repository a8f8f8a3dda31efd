"""The questions of the index, asked of a daemon.

Owns how each is sent and its answer read; what they mean is `index.Index`'s. Safe for threads; its methods
wait. Used as `runtime.index`, and by `custody tail --url`.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec
from msgspec import Struct

from custody.client.link import Link
from custody.client.reading import read
from custody.errors import UsageError
from custody.index import (
    Bounded,
    CallFilter,
    EventFilter,
    EventView,
    Page,
    RunFilter,
    Scope,
    Session,
    Stats,
    StepView,
    ToolStats,
)
from custody.index.query import narrowed
from custody.records import Call, Run

if TYPE_CHECKING:
    from custody.index import FailurePattern, Loops, SilentRun, SqlAnswer, TimelineEntry, UsageReport

T = TypeVar("T")
PART_MAX = 1_000  # calls or steps of a run in one answer


class RemoteIndex:
    """`runtime.index` over a link. Every answer is of the whole record: there is nothing to refresh here."""

    damage = None
    """What is damaged the daemon's own tools say: `custody verify` where it runs."""

    def __init__(self, link: Link, told: Callable[[], Awaitable[None]]) -> None:
        """`told` waits until what the program has told is recorded: a reader sees its own writes."""
        self._link = link
        self._told = told

    def _ask(self, method: str, **params: Any) -> Any:
        return self._link.wait(self._asking(f"audit.{method}", params))

    async def _asking(self, method: str, params: dict[str, Any]) -> Any:
        await self._told()
        return await self._link.ask(method, params)

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
        """As `Index.calls`; Denied for an agent that asks for what is not its own."""
        given = narrowed(filter, fields)
        return _page(Call, self._ask("calls", **_said(given), limit=limit, cursor=cursor))

    def runs(
        self,
        filter: RunFilter = RunFilter(),  # noqa: B008
        limit: int = 50,
        cursor: str | None = None,
        *,
        refresh: bool = True,
        **fields: Any,
    ) -> Page[Run]:
        """As `Index.runs`; Denied for an agent that asks for what is not its own."""
        given = narrowed(filter, fields)
        return _page(Run, self._ask("runs", **_said(given), limit=limit, cursor=cursor))

    def events(
        self,
        filter: EventFilter = EventFilter(),  # noqa: B008
        limit: int = 50,
        cursor: str | None = None,
        *,
        refresh: bool = True,
        **fields: Any,
    ) -> Page[EventView]:
        """As `Index.events`."""
        given = narrowed(filter, fields)
        return _page(EventView, self._ask("events", **_said(given), limit=limit, cursor=cursor))

    def sessions(self, limit: int = 50, cursor: str | None = None, *, refresh: bool = True) -> Page[Session]:
        """As `Index.sessions`."""
        return _page(Session, self._ask("sessions", limit=limit, cursor=cursor))

    # -- one ------------------------------------------------------------------------------------------

    def call(self, id_prefix: str, *, details: bool = True, refresh: bool = True) -> Call:
        """As `Index.call`."""
        return read(Call, self._ask("call", id=id_prefix, details=details))

    def run(self, text: str, *, refresh: bool = True) -> Run:
        """As `Index.run`."""
        return read(Run, self._ask("run", id=text))

    def step(self, id_prefix: str, *, refresh: bool = True) -> StepView:
        """As `Index.step`."""
        return read(StepView, self._ask("step", id=id_prefix))

    def find(self, text: str, *, refresh: bool = True) -> Run | Call | StepView:
        """As `Index.find`."""
        found = self._ask("find", id=text)
        kinds: dict[str, type[Any]] = {"run": Run, "call": Call, "step": StepView}
        return read(kinds[found["kind"]], found["found"])

    # -- a run's parts --------------------------------------------------------------------------------

    def run_calls(self, run_id: bytes, *, details: bool = False, refresh: bool = True) -> list[Call]:
        """As `Index.run_calls`."""
        return [read(Call, one) for one in self._part("run_calls", run_id, details=details)]

    def run_steps(self, run_id: bytes, *, refresh: bool = True) -> list[StepView]:
        """As `Index.run_steps`."""
        return [read(StepView, one) for one in self._part("run_steps", run_id)]

    def _part(self, method: str, run_id: bytes, **params: Any) -> list[Any]:
        found: list[Any] = []
        after: str | None = "-1"
        while after is not None:
            page = self._ask(method, run=run_id.hex(), after_position=int(after), limit=PART_MAX, **params)
            found += page["items"]
            after = page["next"]
        return found

    def timeline(
        self, run: str, limit: int = 1_000, cursor: str | None = None, *, refresh: bool = True
    ) -> "Page[TimelineEntry]":
        """As `Index.timeline`."""
        from custody.index import TimelineEntry

        return _page(TimelineEntry, self._ask("timeline", run=run, limit=limit, cursor=cursor))

    # -- questions over many --------------------------------------------------------------------------

    def stats(self, filter: CallFilter = CallFilter(), *, refresh: bool = True) -> Stats:  # noqa: B008
        """As `Index.stats`."""
        return read(Stats, self._ask("stats", **_said(filter)))

    def tool_rates(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008
        calls_min: int = 1,
        *,
        refresh: bool = True,
    ) -> list[ToolStats]:
        """As `Index.tool_rates`."""
        found = self._ask("tool_rates", **_said(filter), calls_min=calls_min)
        return [read(ToolStats, one) for one in found]

    def usage(
        self,
        by: str = "agent",
        scope: Scope = Scope(),  # noqa: B008
        limit: int = 100,
        *,
        refresh: bool = True,
    ) -> "UsageReport":
        """As `Index.usage`."""
        from custody.index import UsageReport

        return read(UsageReport, self._ask("usage", **_said(scope), by=by, limit=limit))

    def slowest(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008
        limit: int = 20,
        *,
        refresh: bool = True,
    ) -> list[Call]:
        """As `Index.slowest`."""
        return [read(Call, one) for one in self._ask("slowest", **_said(filter), limit=limit)]

    def failure_patterns(
        self,
        filter: CallFilter = CallFilter(),  # noqa: B008
        count_min: int = 2,
        limit: int = 20,
        *,
        refresh: bool = True,
    ) -> "Bounded[FailurePattern]":
        """As `Index.failure_patterns`."""
        from custody.index import FailurePattern

        found = self._ask("failure_patterns", **_said(filter), count_min=count_min, limit=limit)
        return _bounded(FailurePattern, found)

    def loops(
        self,
        scope: Scope = Scope(),  # noqa: B008
        repeats_min: int = 3,
        limit: int = 100,
        *,
        refresh: bool = True,
    ) -> "Loops":
        """As `Index.loops`."""
        from custody.index import Loops

        return read(Loops, self._ask("loops", **_said(scope), repeats_min=repeats_min, limit=limit))

    # -- runs among themselves ------------------------------------------------------------------------

    def children(self, run: str, *, recursive: bool = False, refresh: bool = True) -> Bounded[Run]:
        """As `Index.children`."""
        return _bounded(Run, self._ask("children", run=run, recursive=recursive))

    def ancestors(self, run: str, *, refresh: bool = True) -> Bounded[Run]:
        """As `Index.ancestors`."""
        return _bounded(Run, self._ask("ancestors", run=run))

    def last_runs(
        self,
        by: str = "agent",
        filter: RunFilter = RunFilter(),  # noqa: B008
        *,
        refresh: bool = True,
    ) -> Bounded[Run]:
        """As `Index.last_runs`."""
        return _bounded(Run, self._ask("last_runs", **_said(filter), by=by))

    def silent_runs(
        self,
        silent_us: int,
        filter: RunFilter = RunFilter(),  # noqa: B008
        *,
        refresh: bool = True,
    ) -> "Bounded[SilentRun]":
        """As `Index.silent_runs`."""
        from custody.index import SilentRun

        return _bounded(SilentRun, self._ask("silent_runs", **_said(filter), silent_us=silent_us))

    def sql(
        self,
        query: str,
        parameters: Any = (),
        limit: int = 1_000,
        *,
        seconds: float = 10.0,
        refresh: bool = True,
    ) -> "SqlAnswer":
        """As `Index.sql`; for operators and auditors."""
        from custody.index import SqlAnswer

        given: Any = parameters
        if not isinstance(given, dict):
            given = list(given)
        return read(SqlAnswer, self._ask("sql", query=query, parameters=given, limit=limit, seconds=seconds))

    # -- the records themselves -----------------------------------------------------------------------

    def records(
        self, cursor: dict[int, Any], limit: int = 500, *, wait_seconds: float = 0.0
    ) -> tuple[list[dict[str, Any]], dict[int, Any]]:
        """Those behind a cursor, and where to go on. Waits for the next one if there is none, for so long;
        if the connection breaks meanwhile, for as long as it is broken."""
        params = {"cursor": cursor, "limit": limit, "wait_seconds": wait_seconds}
        found = self._link.wait(self._link.ask("audit.records", params, patient=True))
        return found["records"], msgspec.convert(found["cursor"], dict[int, Any], strict=False)

    # -- what only the daemon itself can do -------------------------------------------------------------

    def refresh(self, progress: object = None) -> None:
        """The daemon does that before every answer."""

    def close(self) -> None:
        """The link is closed with the runtime."""

    def _at_the_daemon(self, *_: object, **__: object) -> NoReturn:
        raise UsageError("That is done where the store is.", hint="Open the store's folder there.")

    rebuild = forget = describe = call_records = run_records = event_record = _at_the_daemon
    open_calls = open_runs = max_position = caught_up_to = first_unfinished = _at_the_daemon


def _said(filter: Struct) -> dict[str, Any]:
    """What is asked for; what is not need not be sent."""
    fields = {name: getattr(filter, name) for name in filter.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def _page(kind: type[T], found: Any) -> Page[T]:
    return Page([read(kind, one) for one in found["items"]], found["next"])


def _bounded(kind: type[T], found: Any) -> Bounded[T]:
    return Bounded([read(kind, one) for one in found["items"]], found["complete"])
