"""`audit.*`: the questions of the index, and the records themselves from a cursor on.

Owns their shapes. The questions and their filters are `index`'s, who may see what of the answers is
`sight`'s.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct, structs

from custody.bridges.objects import speakable
from custody.errors import Denied, InvalidInput
from custody.index import CallFilter, EventFilter, Index, Page, RunFilter, Scope, StepView
from custody.journal import Cursor
from custody.records import Call, Run
from custody.redaction import plain
from custody.rpc.access import READ_EVERYTHING, Role
from custody.rpc.identity import is_mine
from custody.rpc.method import method
from custody.rpc.peer import Peer
from custody.rpc.sight import (
    ANSWER_BYTES_MAX,
    PART_MAX,
    apart,
    ask,
    checked,
    filter_of,
    items,
    narrowed,
    own,
    own_call,
    own_run,
    own_step,
    said,
)

EVERYTHING: tuple[Role, ...] = ("operator", "auditor", "host")
"""Roles that may ask what is not about one agent."""

assert set(EVERYTHING) == READ_EVERYTHING, "two lists of the same roles"

RECORDS_MAX = 1_000
WAIT_SECONDS_MAX = 30.0
"""How long a reader of records may wait for the next one; then it asks again."""

POLL_SECONDS = 0.2  # how late it may hear of one

SQL_SECONDS_MAX = 10.0


class CallsParams(CallFilter, frozen=True, kw_only=True):
    """Which calls."""

    limit: int = 50
    cursor: str | None = None


class RunsParams(RunFilter, frozen=True, kw_only=True):
    """Which runs."""

    limit: int = 50
    cursor: str | None = None


class EventsParams(EventFilter, frozen=True, kw_only=True):
    """Which events."""

    limit: int = 50
    cursor: str | None = None


class PageParams(Struct, frozen=True, kw_only=True):
    """A page of a list."""

    limit: int = 50
    cursor: str | None = None


class Items(Struct, frozen=True, kw_only=True):
    """A page, and the cursor that gives what comes after it; null at the end."""

    items: list[Any]
    next: str | None


class Found(Struct, frozen=True, kw_only=True):
    """What was found within a bound of work; complete is false where that was reached."""

    items: list[Any]
    complete: bool


@method("audit.calls")
async def audit_calls(peer: Peer, params: CallsParams) -> Items:
    """Calls that fulfil a filter, the newest first."""
    given = await narrowed(peer, filter_of(CallFilter, params))
    return await _page(peer, lambda index: index.calls(given, params.limit, params.cursor))


@method("audit.runs")
async def audit_runs(peer: Peer, params: RunsParams) -> Items:
    """Runs that fulfil a filter, the newest first."""
    given = await narrowed(peer, filter_of(RunFilter, params))
    return await _page(peer, lambda index: index.runs(given, params.limit, params.cursor))


@method("audit.events")
async def audit_events(peer: Peer, params: EventsParams) -> Items:
    """Events that fulfil a filter, the newest first; an agent names one of its runs."""
    given = filter_of(EventFilter, params)
    if not peer.access.reads_everything:
        if given.run is None:
            raise Denied("An agent may ask for the events of one of its runs.", hint="Name the run.")
        given = structs.replace(
            given,
            run=(await own_run(peer, given.run)).id,
            call=None if given.call is None else (await own_call(peer, given.call)).id,
        )
    return await _page(peer, lambda index: index.events(given, params.limit, params.cursor))


@method("audit.sessions", roles=EVERYTHING)
async def audit_sessions(peer: Peer, params: PageParams) -> Items:
    """Sessions, the last used first."""
    return await _page(peer, lambda index: index.sessions(params.limit, params.cursor))


async def _page(peer: Peer, question: Callable[[Index], Page[Any]]) -> Items:
    def read(index: Index) -> Items:
        page = question(index)
        return Items(items=items(page.items), next=page.next)

    return await ask(peer, read)


# -- one --------------------------------------------------------------------------------------------------


class CallParams(Struct, frozen=True, kw_only=True):
    """By id or its beginning."""

    id: str
    details: bool = True
    """With the samples of the machine before and after."""


class IdParams(Struct, frozen=True, kw_only=True):
    """By id or its beginning; of a run also by name, or `latest`."""

    id: str


@method("audit.call")
async def audit_call(peer: Peer, params: CallParams) -> dict[str, Any]:
    """One call."""
    return said(await own_call(peer, params.id, details=params.details))


@method("audit.run")
async def audit_run(peer: Peer, params: IdParams) -> dict[str, Any]:
    """One run."""
    return said(await own_run(peer, params.id))


@method("audit.step")
async def audit_step(peer: Peer, params: IdParams) -> dict[str, Any]:
    """One step."""
    return said(await own_step(peer, params.id))


class FoundOne(Struct, frozen=True, kw_only=True):
    """What an id is of."""

    kind: str
    """`run`, `call` or `step`."""
    found: dict[str, Any]


@method("audit.find")
async def audit_find(peer: Peer, params: IdParams) -> FoundOne:
    """The run, call or step that has this id, beginning of one, or name."""
    found = await own(peer, params.id)
    kind = {Run: "run", Call: "call", StepView: "step"}[type(found)]
    return FoundOne(kind=kind, found=said(found))


# -- a run's parts ----------------------------------------------------------------------------------------


class PartParams(Struct, frozen=True, kw_only=True):
    """Calls or steps of a run by position, behind one."""

    run: str
    after_position: int = -1
    limit: int = PART_MAX
    details: bool = False


@method("audit.run_calls")
async def audit_run_calls(peer: Peer, params: PartParams) -> Items:
    """Calls of a run by position."""
    run_id = bytes.fromhex((await own_run(peer, params.run)).id)
    after, limit = params.after_position, checked(params.limit)

    def read(index: Index) -> Items:
        calls = index.run_calls(run_id, details=params.details, after_position=after, limit=limit)
        return _part(calls, limit)

    return await ask(peer, read)


@method("audit.run_steps")
async def audit_run_steps(peer: Peer, params: PartParams) -> Items:
    """Steps of a run by position."""
    run_id = bytes.fromhex((await own_run(peer, params.run)).id)
    after, limit = params.after_position, checked(params.limit)
    return await ask(
        peer, lambda index: _part(index.run_steps(run_id, after_position=after, limit=limit), limit)
    )


def _part(found: list[Any], limit: int) -> Items:
    """`next` is the position to go on behind."""
    more = len(found) == limit and found[-1].position is not None
    return Items(items=items(found), next=str(found[-1].position) if more else None)


class TimelineParams(Struct, frozen=True, kw_only=True):
    """Of which run."""

    run: str
    limit: int = PART_MAX
    cursor: str | None = None


@method("audit.timeline")
async def audit_timeline(peer: Peer, params: TimelineParams) -> Items:
    """Every call, step and event of a run in order."""
    run = await own_run(peer, params.run)
    return await _page(peer, lambda index: index.timeline(run.id, params.limit, params.cursor))


# -- questions over many ----------------------------------------------------------------------------------


class RatesParams(CallFilter, frozen=True, kw_only=True):
    """Which calls, and how many of a tool there have to be."""

    calls_min: int = 1


class SlowestParams(CallFilter, frozen=True, kw_only=True):
    """Which calls."""

    limit: int = 20


class PatternsParams(CallFilter, frozen=True, kw_only=True):
    """Which failures, and how many alike."""

    count_min: int = 2
    limit: int = 20


class UsageParams(Scope, frozen=True, kw_only=True):
    """Whose, and when."""

    by: str = "agent"
    """`agent tool model day run caller session`."""
    limit: int = 100


class LoopsParams(Scope, frozen=True, kw_only=True):
    """Whose, and when."""

    repeats_min: int = 3
    limit: int = 100


class RunOnlyParams(Struct, frozen=True, kw_only=True):
    """Which run."""

    run: str


class ChildrenParams(RunOnlyParams, frozen=True, kw_only=True):
    """Of which run, and theirs as well if recursive."""

    recursive: bool = False


class LastRunsParams(RunFilter, frozen=True, kw_only=True):
    """Which runs."""

    by: str = "agent"
    """Or `name`."""


class SilentParams(RunFilter, frozen=True, kw_only=True):
    """Which runs, and for how long nothing was recorded of them."""

    silent_us: int


@method("audit.stats")
async def audit_stats(peer: Peer, params: CallFilter) -> dict[str, Any]:
    """Counts and latencies of calls, by tool."""
    given = await narrowed(peer, params)
    return said(await ask(peer, lambda index: index.stats(given)))


@method("audit.tool_rates")
async def audit_tool_rates(peer: Peer, params: RatesParams) -> list[Any]:
    """Tools, those that succeed least first."""
    given = await narrowed(peer, filter_of(CallFilter, params))
    return items(await ask(peer, lambda index: index.tool_rates(given, params.calls_min)))


@method("audit.usage")
async def audit_usage(peer: Peer, params: UsageParams) -> dict[str, Any]:
    """Tokens, cost, steps and calls, added up; the dearest first."""
    given = await narrowed(peer, filter_of(Scope, params))
    return said(await ask(peer, lambda index: index.usage(params.by, given, params.limit)))


@method("audit.slowest")
async def audit_slowest(peer: Peer, params: SlowestParams) -> list[Any]:
    """Calls whose execution took longest."""
    given = await narrowed(peer, filter_of(CallFilter, params))
    return items(await ask(peer, lambda index: index.slowest(given, params.limit)))


@method("audit.failure_patterns")
async def audit_failure_patterns(peer: Peer, params: PatternsParams) -> Found:
    """Failures that are alike, the most frequent first."""
    given = await narrowed(peer, filter_of(CallFilter, params))
    found = await ask(peer, lambda index: index.failure_patterns(given, params.count_min, params.limit))
    return Found(items=items(found.items), complete=found.complete)


@method("audit.loops")
async def audit_loops(peer: Peer, params: LoopsParams) -> dict[str, Any]:
    """Where a run called one tool with equal arguments again and again."""
    given = await narrowed(peer, filter_of(Scope, params))
    return said(await ask(peer, lambda index: index.loops(given, params.repeats_min, params.limit)))


@method("audit.children")
async def audit_children(peer: Peer, params: ChildrenParams) -> Found:
    """Runs started from a run."""
    run = await own_run(peer, params.run)
    return await _runs(peer, lambda index: index.children(run.id, recursive=params.recursive))


@method("audit.ancestors")
async def audit_ancestors(peer: Peer, params: RunOnlyParams) -> Found:
    """A run's parent, its parent, and so on."""
    run = await own_run(peer, params.run)
    return await _runs(peer, lambda index: index.ancestors(run.id))


@method("audit.last_runs")
async def audit_last_runs(peer: Peer, params: LastRunsParams) -> Found:
    """The last run of each agent, or of each name."""
    given = await narrowed(peer, filter_of(RunFilter, params))
    return await _runs(peer, lambda index: index.last_runs(params.by, given))


@method("audit.silent_runs")
async def audit_silent_runs(peer: Peer, params: SilentParams) -> Found:
    """Open runs of which nothing has been recorded for a while."""
    given = await narrowed(peer, filter_of(RunFilter, params))
    found = await ask(peer, lambda index: index.silent_runs(params.silent_us, given))
    return Found(items=items(found.items), complete=found.complete)


async def _runs(peer: Peer, question: Callable[[Index], Any]) -> Found:
    """Of a run's relatives only those the peer may see."""
    found = await ask(peer, question)
    seen = [run for run in found.items if peer.access.reads_everything or is_mine(peer, run.agent)]
    return Found(items=items(seen), complete=found.complete)


# -- SQL and records --------------------------------------------------------------------------------------


class SqlParams(Struct, frozen=True, kw_only=True):
    """One statement that reads the views `runs calls steps events`."""

    query: str
    parameters: list[Any] | dict[str, Any] = []
    limit: int = 1_000
    seconds: float = SQL_SECONDS_MAX


@method("audit.sql", roles=EVERYTHING)
async def audit_sql(peer: Peer, params: SqlParams) -> dict[str, Any]:
    """Rows of a statement over the views of the record."""
    seconds = min(params.seconds, SQL_SECONDS_MAX)
    answer = await ask(
        peer, lambda index: index.sql(params.query, params.parameters, params.limit, seconds=seconds)
    )
    return said(answer)


class RecordsParams(Struct, frozen=True, kw_only=True):
    """Behind which cursor; none: from the first record on."""

    cursor: dict[int, tuple[int, int, int]] = {}
    """Segment, offset and sequence of the next record, by shard."""
    limit: int = 500
    wait_seconds: float = 0.0
    """How long to wait where there is none yet."""


class Records(Struct, frozen=True, kw_only=True):
    """Records as they stand, and where to go on."""

    records: list[Any]
    cursor: dict[int, tuple[int, int, int]]


@method("audit.records", roles=EVERYTHING)
async def audit_records(peer: Peer, params: RecordsParams) -> Records:
    """The records themselves behind a cursor, as `custody tail --json` shows them."""
    if not 0 < params.limit <= RECORDS_MAX:
        raise InvalidInput(f"limit is 1 to {RECORDS_MAX}.", field="limit")
    deadline = time.monotonic() + max(0.0, min(params.wait_seconds, WAIT_SECONDS_MAX))
    while True:
        records, cursor = await apart(peer, partial(_follow, peer, Cursor(params.cursor), params.limit))
        if records or time.monotonic() >= deadline or peer.service.draining:
            return Records(records=records, cursor=dict(cursor.places))
        await asyncio.sleep(POLL_SECONDS)


def _follow(peer: Peer, cursor: Cursor, limit: int) -> tuple[list[Any], Cursor]:
    """In a thread. Within the bounds of an answer, and at least one where there is one."""
    runtime = peer.service.runtime
    following = runtime.journal.follow(cursor)
    records: list[Any] = []
    size_bytes = 0
    for stored in following:
        record = msgspec.json.encode(speakable(plain(runtime.index.describe(stored))))
        size_bytes += len(record)
        if records and size_bytes > ANSWER_BYTES_MAX:
            break
        records.append(msgspec.Raw(record))
        cursor = cursor.after(stored)
        if len(records) == limit:
            break
    else:
        return records, following.cursor
    return records, cursor


METHODS = (
    audit_calls, audit_runs, audit_events, audit_sessions, audit_call, audit_run, audit_step, audit_find,
    audit_run_calls, audit_run_steps, audit_timeline, audit_stats, audit_tool_rates, audit_usage,
    audit_slowest, audit_failure_patterns, audit_loops, audit_children, audit_ancestors,
    audit_last_runs, audit_silent_runs, audit_sql, audit_records,
)  # fmt: skip
