"""Traces and lists of runs as they are asked for, and subscriptions that follow a run live.

Owns the subscriptions: each is a place in a trace and one task that reads on from there when something of the
run was recorded, and sends as fast as it is taken. Nothing is queued, so nothing can be lost or grow. What is
read, and in which order, is `traces`. Usable without any peer. Used by the methods.
"""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from msgspec import UNSET, Struct, UnsetType

from custody.errors import CustodyError, InvalidInput, NotFound, PeerLost, StoreClosed
from custody.records import Run
from custody.rpc.live import Known, LiveRuns, no_such_run
from custody.rpc.trace_records import Status, TraceRecord, status_of, wire_id
from custody.rpc.traces import Mark, Page, Read, Trace

log = logging.getLogger("custody")

SUBSCRIPTIONS_MAX = 64
"""Of one connection: each reads the index whenever its run goes on."""

RECORDS_MAX = 100_000
"""In one answer without pages, where its bytes allow so many; `more` says when there are further ones."""

PAGE_RECORDS = 256
PAGE_BYTES = 256 * 1024
"""Read at once by a subscription, as what is read is held until it is sent: of both the smaller."""

POLL_SECONDS = 0.25
"""How soon a subscription hears of what another process recorded in the run."""

POLL_HERE_SECONDS = 1.0
"""The same where whoever records tells us: in case one forgets to."""

RUNS_MAX = 1_000
"""In one list without pages, the newest."""


class TraceAnswer(Struct, frozen=True, kw_only=True):
    """Records of a run's trace. `cursor` is the offset behind the last of them."""

    run_id: str
    agent_id: str | None
    records: list[TraceRecord]
    cursor: int
    more: bool | UnsetType = UNSET
    """There are further records by now; absent when there are none."""


class TraceNotFound(Struct, frozen=True, kw_only=True):
    """There is no such run, or it is somebody else's."""

    run_id: str
    not_found: bool = True


class Subscribed(Struct, frozen=True, kw_only=True):
    """The turns so far; those after them are pushed as `runs.trace.event`. `cursor` counts them."""

    run_id: str
    agent_id: str | None
    turns_so_far: list[TraceRecord]
    cursor: int
    status: Status


class TraceEvent(Struct, frozen=True, kw_only=True):
    """One record of a run that is followed. `cursor` counts turns; the end does not advance it."""

    run_id: str
    agent_id: str | None
    record: TraceRecord
    cursor: int
    status: Status


Listen = Callable[[TraceEvent], Awaitable[None]]
"""Takes one record, and waits while its listener is slow. May raise PeerLost."""


class RunSummary(Struct, frozen=True, kw_only=True):
    """One run of a list."""

    run_id: str
    agent_id: str | None
    intent: str | None
    started_at: str
    ended_at: str | UnsetType = UNSET
    status: Status
    turn_count: int


class RunList(Struct, frozen=True, kw_only=True):
    """An agent's runs, newest first. `cursor` gives those after them; null at the end."""

    agent_id: str
    runs: list[RunSummary]
    cursor: str | None = None


async def read_trace(
    runs: LiveRuns,
    run_id: str,
    *,
    whose: Collection[str] | None,
    cursor: int = 0,
    limit: int = RECORDS_MAX,
) -> TraceAnswer | TraceNotFound:
    """Records of the trace from an offset on, as many as `limit` and the bound on their bytes allow."""
    known = await runs.find(run_id, whose)
    if known is None:
        return TraceNotFound(run_id=run_id)

    def read(trace: Trace) -> Page:
        return trace.page(trace.seek(cursor) if cursor else Mark(), limit)

    page = await _read(runs, known, read)
    if page is None:
        return TraceNotFound(run_id=run_id)
    return TraceAnswer(
        run_id=run_id,
        agent_id=known.agent,
        records=page.records,
        cursor=page.mark.records,
        more=page.more or UNSET,
    )


async def list_runs(
    runs: LiveRuns,
    agent: str,
    *,
    whose: Collection[str] | None,
    cursor: str | None = None,
    limit: int = RUNS_MAX,
) -> RunList:
    """An agent's runs; an empty list where it has none, or is somebody else. Raises InvalidInput."""
    if whose is not None and agent not in whose:
        return RunList(agent_id=agent, runs=[])
    index, recorded = runs.runtime.index, runs.as_recorded(agent)
    page = await runs.in_thread(lambda: index.runs(agent=recorded, limit=limit, cursor=cursor))
    return RunList(agent_id=agent, runs=[_summary(run) for run in page.items], cursor=page.next)


def _summary(run: Run) -> RunSummary:
    return RunSummary(
        run_id=wire_id(run),
        agent_id=run.agent,
        intent=run.intent,
        started_at=run.started_at,
        ended_at=run.finished_at or UNSET,
        status=status_of(run.outcome),
        turn_count=run.calls,
    )


async def _read(runs: LiveRuns, known: Known, read: Callable[[Trace], Page]) -> Page | None:
    try:
        return await runs.in_thread(read, Trace(runs.runtime.index, known.run_id))
    except NotFound:  # its start was lost with the power, or is not on the record yet
        return None


class Subscription:
    """One run followed by one listener. Begins where its snapshot ended."""

    def __init__(
        self, runs: LiveRuns, known: Known, name: str, trace: Trace, mark: Mark, listen: Listen
    ) -> None:
        """`name` is what the listener calls the run."""
        self._runs = runs
        self._known = known
        self._name = name
        self._trace = trace
        self._mark = mark
        self._listen = listen
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._warned = False
        if known.live is not None:
            known.live.watchers.add(self._woken)

    def start(self) -> None:
        """From here on what follows the snapshot is sent; once, and not after the end."""
        if self._task is None and not self._closed:
            self._task = self._runs.spawn(self._follow())

    def close(self) -> None:
        """Nothing more is sent."""
        self._leave()
        if self._task is not None:
            self._task.cancel()

    def _leave(self) -> None:
        self._closed = True
        if self._known.live is not None:
            self._known.live.watchers.discard(self._woken)

    @property
    def done(self) -> bool:
        return self._closed or (self._task is not None and self._task.done())

    async def finished(self) -> None:
        """Wait until the run's end was sent, or nobody listens any more."""
        if self._task is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.wait({self._task})

    async def _follow(self) -> None:
        live = self._known.live
        try:
            while not self._mark.over:
                self._woken.clear()
                told = live is not None and not live.handle.numbering.shared
                page = await self._next_page(not told or live is None or live.over)
                for read in page:
                    await self._listen(self._event(read))
                    self._mark = read.mark
                if not page:
                    await self._wait(POLL_HERE_SECONDS if told else POLL_SECONDS)
        except (PeerLost, StoreClosed):
            pass
        finally:
            self._leave()

    async def _next_page(self, may_be_over: bool) -> list[Read]:
        def read() -> Page:
            return self._trace.page(self._mark, PAGE_RECORDS, bytes_max=PAGE_BYTES, may_be_over=may_be_over)

        try:
            page = await self._runs.in_thread(read)
        except StoreClosed:
            raise
        except CustodyError as error:  # a busy index, a damaged record: it is asked again
            if not self._warned:
                log.warning("Run %s cannot be followed for now: %s", self._name, error)
            self._warned = True
            return []
        self._warned = False
        return page.read

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _event(self, read: Read) -> TraceEvent:
        return TraceEvent(
            run_id=self._name,
            agent_id=self._known.agent,
            record=read.record,
            cursor=read.mark.turns,
            status=read.status,
        )


class Subscriptions:
    """Those of every connection; `subscriptions_of` has them."""

    def __init__(self) -> None:
        self._of: dict[str, dict[bytes, Subscription]] = {}

    async def subscribe(
        self,
        runs: LiveRuns,
        run_id: str,
        *,
        whose: Collection[str] | None,
        connection: str,
        listen: Listen,
        cursor: int = 0,
        limit: int = RECORDS_MAX,
    ) -> tuple[Subscribed, Subscription]:
        """The turns so far, and the subscription that goes on from the last of them once it is started.

        `cursor` is a number of turns to begin behind. A run that the connection follows already is followed
        anew. Raises NotFound, and InvalidInput for one subscription too many.
        """
        known = await runs.find(run_id, whose)
        if known is None:
            raise no_such_run()
        trace = Trace(runs.runtime.index, known.run_id)

        def snapshot() -> Page:
            return trace.page(trace.seek(cursor + 1), limit, with_end=False)

        page = await runs.in_thread(snapshot)
        mine = self._of.setdefault(connection, {})
        self._forget_done(mine)
        if known.run_id not in mine and len(mine) >= SUBSCRIPTIONS_MAX:
            raise InvalidInput(f"A connection follows at most {SUBSCRIPTIONS_MAX} runs.")
        self._close(mine.pop(known.run_id, None))
        subscription = mine[known.run_id] = Subscription(runs, known, run_id, trace, page.mark, listen)
        subscribed = Subscribed(
            run_id=run_id,
            agent_id=known.agent,
            turns_so_far=page.records,
            cursor=page.mark.turns,
            status=trace.status,
        )
        return subscribed, subscription

    async def unsubscribe(
        self, runs: LiveRuns, run_id: str, *, whose: Collection[str] | None, connection: str
    ) -> bool:
        """Whether the connection followed the run."""
        known = await runs.find(run_id, whose)
        mine = self._of.get(connection, {})
        self._forget_done(mine)
        subscription = None if known is None else mine.pop(known.run_id, None)
        self._close(subscription)
        return subscription is not None

    def departed(self, connection: str) -> None:
        for subscription in self._of.pop(connection, {}).values():
            subscription.close()

    def _forget_done(self, mine: dict[bytes, Subscription]) -> None:
        for run_id in [run_id for run_id, one in mine.items() if one.done]:
            del mine[run_id]

    def _close(self, subscription: Subscription | None) -> None:
        if subscription is not None:
            subscription.close()


_subscriptions: "weakref.WeakKeyDictionary[LiveRuns, Subscriptions]" = weakref.WeakKeyDictionary()


def subscriptions_of(runs: LiveRuns) -> Subscriptions:
    """Those that follow runs here, made when somebody first does."""
    found = _subscriptions.get(runs)
    if found is None:
        found = _subscriptions[runs] = Subscriptions()
        runs.departing.append(found.departed)
    return found
