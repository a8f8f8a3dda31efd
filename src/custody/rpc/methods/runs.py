"""`runs.*`: runs are started, told of, followed and ended.

Owns who a caller is to a run: which agent starts one, whose runs a peer may read, write and end. What is done
is `live` and its neighbours, and works the same without a peer.
"""

import asyncio
import re
from collections.abc import Collection
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from custody.errors import InvalidInput
from custody.rpc.access import Role
from custody.rpc.errors import invalid_params
from custody.rpc.following import (
    RECORDS_MAX,
    RUNS_MAX,
    RunList,
    Subscribed,
    TraceAnswer,
    TraceEvent,
    TraceNotFound,
    list_runs,
    read_trace,
    subscriptions_of,
)
from custody.rpc.live import Resumed, no_such_run
from custody.rpc.live_run import closed
from custody.rpc.method import method
from custody.rpc.narration import (
    ModelTurn,
    RecordedModelTurn,
    RecordedTurns,
    record_model_turn,
    record_turns,
)
from custody.rpc.peer import Peer
from custody.rpc.run_bounds import check_output
from custody.rpc.run_cancel import CancelReceipt, cancel_run
from custody.rpc.run_outcomes import told_of

AGENTS_MAX = 256
"""Agents one connection may speak for: it may read the runs of each."""

PAGE_MAX = 500
"""Of a page, as in the reference."""

PAGES = "runs.pagination.v1"
RESUMES = "runs.resume.v1"

ACTING: tuple[Role, ...] = ("agent", "operator", "host")
ENDS_ANY: frozenset[Role] = frozenset({"operator", "host"})

_NO_LETTERS = re.compile(r"[^\w]+|_+")


def _readable(peer: Peer) -> Collection[str] | None:
    """The agents whose runs it may read; None: everybody's."""
    return None if peer.access.reads_everything else peer.agents


# -- start and end ------------------------------------------------------------------------------------


class StartParams(Struct, frozen=True, kw_only=True):
    """A new run, or with a key that was used the one it was used for."""

    intent: str | None = None
    agent_id: str | None = None
    agent_name: str | None = None
    outcome_description: str | None = None
    idempotency_key: str | None = None
    shared: bool = False
    """Other processes may join it by its id."""
    parent: str | None = None
    session: str | None = None
    labels: dict[str, str] | None = None


class StartResult(Struct, frozen=True, kw_only=True):
    run_id: str
    agent_id: str


@method("runs.start", roles=ACTING)
async def runs_start(peer: Peer, params: StartParams) -> StartResult:
    """Start a run: from here on it is this connection's current run."""
    agent = _agent(peer, params)
    live = await peer.service.live.start(
        params.intent,
        agent=agent,
        key=params.idempotency_key,
        outcome_description=params.outcome_description,
        connection=peer.connection,
        resumable=RESUMES in peer.features,
        shared=params.shared,
        parent=params.parent,
        session=params.session,
        labels=params.labels,
    )
    peer.agents.add(agent)
    peer.run = live
    peer.session.log("run_started", run_id=live.id, agent_id=agent)
    return StartResult(run_id=live.id, agent_id=agent)


def _agent(peer: Peer, params: StartParams) -> str:
    """A bound identity beats the parameter. Raises RpcError where nobody says who it is."""
    agent = peer.agent or params.agent_id
    if not agent and params.agent_name is not None:
        slug = _NO_LETTERS.sub("-", params.agent_name.lower()).strip("-")
        if not slug:
            raise invalid_params("agent_name has no letter and no digit", "agent_name")
        agent = f"name:{slug}"
    if not agent:
        raise invalid_params("agent_id is missing, and nothing else says whose run it is", "agent_id")
    if agent not in peer.agents and len(peer.agents) >= AGENTS_MAX:
        raise invalid_params(f"one connection speaks for at most {AGENTS_MAX} agents", "agent_id")
    return agent


class CompleteParams(Struct, frozen=True, kw_only=True):
    run_id: str
    outcome: Any = None
    """A word, or an object with its `status`; kept whole."""


class Completed(Struct, frozen=True, kw_only=True):
    run_id: str
    ok: Literal[True] = True


@method("runs.complete", roles=ACTING)
async def runs_complete(peer: Peer, params: CompleteParams) -> Completed:
    """End a run; what is in flight in it is ended first. Answered when the end is durable."""
    check_output(params.outcome)
    live = peer.service.live
    known = await live.find(params.run_id, peer.agents)
    if known is None:
        raise no_such_run()
    if known.live is None:
        raise closed(params.run_id)
    told = told_of(params.outcome)
    await live.end(known.live, told.outcome, output=params.outcome, reason=told.reason, passed=told.passed)
    peer.session.log("run_completed", run_id=known.id, outcome=told.outcome)
    return Completed(run_id=params.run_id)


class CancelParams(Struct, frozen=True, kw_only=True):
    run_id: str
    idempotency_key: str
    reason: str


@method("runs.cancel", roles=ACTING)
async def runs_cancel(peer: Peer, params: CancelParams) -> CancelReceipt:
    """End a run as cancelled, and what is in flight in it; the same key and reason give the same receipt."""
    any_of_them = peer.access.role in ENDS_ANY
    peer.session.log("run_cancellation_requested", run_id=params.run_id)
    receipt = await cancel_run(
        peer.service.live,
        params.run_id,
        params.idempotency_key,
        params.reason,
        whose=None if any_of_them else peer.agents,
        principal=peer.access.role if any_of_them else None,
    )
    peer.session.log("run_cancellation_result", run_id=params.run_id, status=receipt.status)
    return receipt


class ResumeParams(Struct, frozen=True, kw_only=True):
    run_id: str


@method("runs.resume", roles=ACTING)
async def runs_resume(peer: Peer, params: ResumeParams) -> Resumed:
    """Go on with a run whose connection is gone; it becomes this connection's current run."""
    live, resumed = await peer.service.live.resume(
        params.run_id, whose=peer.agents, connection=peer.connection, resumable=RESUMES in peer.features
    )
    peer.run = live
    return resumed


# -- reading ------------------------------------------------------------------------------------------


class ListParams(Struct, frozen=True, kw_only=True):
    agent_id: str
    cursor: str | int | UnsetType | None = UNSET
    limit: Any = None


@method("runs.list")
async def runs_list(peer: Peer, params: ListParams) -> RunList:
    """The runs of an agent, newest first; of another's the list is empty."""
    cursor, limit = None, RUNS_MAX
    if PAGES in peer.features:
        limit = _limit(params.cursor, params.limit)
        cursor = params.cursor if isinstance(params.cursor, str) and params.cursor else None
    return await list_runs(
        peer.service.live, params.agent_id, whose=_readable(peer), cursor=cursor, limit=limit
    )


class TraceParams(Struct, frozen=True, kw_only=True):
    run_id: str
    cursor: int | str | UnsetType | None = UNSET
    """How many records, of a subscription how many turns, to leave out."""
    limit: Any = None


@method("runs.get_trace")
async def runs_get_trace(peer: Peer, params: TraceParams) -> TraceAnswer | TraceNotFound:
    """The records of a run in order; `not_found` for one that is not there or is somebody else's."""
    paged = PAGES in peer.features
    live, cursor = peer.service.live, _offset(params.cursor)
    limit = _limit(params.cursor, params.limit) if paged else RECORDS_MAX
    async with live.alone(("traces", peer.connection)):  # whoever asks for many holds up no other's
        return await read_trace(live, params.run_id, whose=_readable(peer), cursor=cursor, limit=limit)


@method("runs.subscribe")
async def runs_subscribe(peer: Peer, params: TraceParams) -> Subscribed:
    """The turns of a run so far, and from then on each further one as `runs.trace.event`."""
    paged = PAGES in peer.features

    async def listen(event: TraceEvent) -> None:
        await peer.notify("runs.trace.event", event)

    subscribed, subscription = await subscriptions_of(peer.service.live).subscribe(
        peer.service.live,
        params.run_id,
        whose=_readable(peer),
        connection=peer.connection,
        listen=listen,
        cursor=_offset(params.cursor) if paged else 0,
        limit=_limit(params.cursor, params.limit) if paged else RECORDS_MAX,
    )
    # Each request is worked on in a task of its own, which ends when its answer is sent: events come after.
    task = asyncio.current_task()
    assert task is not None, "a method is awaited in a task"
    task.add_done_callback(lambda _: subscription.start())
    return subscribed


class UnsubscribeParams(Struct, frozen=True, kw_only=True):
    run_id: str


class Unsubscribed(Struct, frozen=True, kw_only=True):
    run_id: str
    removed: bool


@method("runs.unsubscribe")
async def runs_unsubscribe(peer: Peer, params: UnsubscribeParams) -> Unsubscribed:
    """Follow a run no longer."""
    live = peer.service.live
    removed = await subscriptions_of(live).unsubscribe(
        live, params.run_id, whose=_readable(peer), connection=peer.connection
    )
    return Unsubscribed(run_id=params.run_id, removed=removed)


def _offset(cursor: int | str | UnsetType | None) -> int:
    if cursor is None or cursor is UNSET or cursor == "":
        return 0
    if isinstance(cursor, str):
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
            raise invalid_params("cursor is no offset", "cursor")
        return int(cursor)
    if not 0 <= cursor < 2**53:
        raise invalid_params("cursor is no offset", "cursor")
    return cursor


def _limit(cursor: object, limit: Any) -> int:
    """Where pages were negotiated both have to be given."""
    if cursor is UNSET:
        raise invalid_params("cursor is missing, and pages were negotiated", "cursor")
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= PAGE_MAX:
        raise InvalidInput(f"limit is a number from 1 to {PAGE_MAX}.", field="limit")
    return limit


# -- telling ------------------------------------------------------------------------------------------


class RecordTurnsParams(Struct, frozen=True, kw_only=True):
    run_id: str
    turns: Any = None
    """1 to 256 turns as in a trace; an `index` is ignored, whatever it is."""


@method("runs.record_turns", roles=ACTING)
async def runs_record_turns(peer: Peer, params: RecordTurnsParams) -> RecordedTurns:
    """Record what was done outside of proposals; answered when it is durable."""
    return await record_turns(
        peer.service.live, params.run_id, params.turns, whose=peer.agents, connection=peer.connection
    )


class RecordModelTurnParams(ModelTurn, frozen=True, kw_only=True):
    run_id: str


@method("runs.record_model_turn", roles=ACTING)
async def runs_record_model_turn(peer: Peer, params: RecordModelTurnParams) -> RecordedModelTurn:
    """Record one turn of a model; answered when it is durable."""
    return await record_model_turn(peer.service.live, params.run_id, params, whose=peer.agents)


METHODS = (
    runs_start,
    runs_complete,
    runs_cancel,
    runs_resume,
    runs_list,
    runs_get_trace,
    runs_subscribe,
    runs_unsubscribe,
    runs_record_turns,
    runs_record_model_turn,
)
