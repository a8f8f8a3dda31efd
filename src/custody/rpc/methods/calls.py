"""`calls.*` and the `runs.*` of Custody's own clients: what a store in one's own process offers, over a wire.

Owns their shapes and whose run a caller may take part in. How a call is made is `calls.execute`'s, a run's
beginning and end `live`'s, what a client tells of its own work is recorded by `telling`.
"""

import asyncio
from contextlib import nullcontext, suppress
from typing import Any, Literal

from msgspec import Struct

from custody.bridges.objects import speakable
from custody.calls.asked import inside
from custody.calls.beginning import RunOptions
from custody.calls.guards import Proposal, decide
from custody.calls.handle import RunHandle
from custody.calls.run import current_run
from custody.calls.stated import call_id
from custody.errors import Ambiguous, CustodyError, InvalidInput, NotFound
from custody.records import Call, Decision, Run, document
from custody.redaction import plain
from custody.rpc.identity import agent_of, is_mine
from custody.rpc.live import no_such_run
from custody.rpc.live_run import LiveRun
from custody.rpc.method import ACTING, HANDLER_SECONDS, method
from custody.rpc.parts import Part, parts_of
from custody.rpc.peer import Peer
from custody.rpc.run_bounds import check_external_id
from custody.rpc.sight import nothing_here, own, own_run
from custody.rpc.spoken import heard, spoken
from custody.rpc.telling import AnyEntry, Teller

KEY_CHARACTERS_MAX = 64
"""Of the key of a call under way: kept for as long as that takes."""

ENTRIES_MAX = 256
"""Told in one request: they are recorded one after the other, in one thread."""

NAME_CHARACTERS_MAX = 256


# -- guarded calls --------------------------------------------------------------------------------------


class MakeParams(Struct, frozen=True, kw_only=True):
    """A call, as `Runtime.call` takes it."""

    tool: str
    arguments: dict[str, Any] | None = None
    marked: bool = False
    """Marks stand in the arguments for what is not JSON."""
    key: str | None = None
    """By which the caller may cancel it while it is under way."""
    part: str | None = None
    """Of `runs.begin`, `runs.join` or `runs.named`: the run it belongs to; none: it stands alone."""
    timeout: float | None = None
    """Seconds; 0: none."""
    level: Literal["process", "confined", "transaction"] | None = None
    sandbox: str | None = None
    """The walls of its command, by name; for agents never fewer than the settings say."""
    afterwards: Literal["discard", "hold", "ask", "commit_if_passed", "commit"] | None = None
    """What becomes of the changes of a transaction; for agents never less careful than the settings say."""
    dry_run: bool = False
    external_id: str | None = None
    agent: str | None = None
    caller: str | None = None
    session: str | None = None
    cwd: str | None = None
    parent_id: str | None = None
    """The call in which it is made."""
    as_recorded: bool = False
    """Whether arguments, result and error come back as the record has them, secrets replaced."""


def _make_seconds(params: MakeParams) -> float:
    """The call has a deadline of its own; whoever asked for none waits for as long as it takes."""
    return HANDLER_SECONDS + (params.timeout or 0.0) if params.timeout != 0 else 365 * 24 * 3600.0


@method("calls.make", roles=ACTING, seconds=_make_seconds)
async def calls_make(peer: Peer, params: MakeParams) -> dict[str, Any]:
    """Check, record, run, measure and record one call; the finished call, whatever its outcome."""
    parts = parts_of(peer.service)
    part = None if params.part is None else parts.of(peer, params.part)
    if params.key is not None and len(params.key) > KEY_CHARACTERS_MAX:
        raise InvalidInput(f"key has at most {KEY_CHARACTERS_MAX} characters.", field="key")
    under_way: list[asyncio.Task[Call]] = []
    try:
        with _in_flight(part, under_way):
            work = asyncio.create_task(_make(peer, params, part))
            under_way.append(work)
            with _known_as(peer, params.key, work):
                call = await _until_over(work)
    finally:
        if part is not None:
            peer.service.live.touched(part.live)
    return call_said(call)


async def _until_over(work: asyncio.Task[Call]) -> Call:
    """Whoever cancels the request cancels the call, which ends and is recorded first."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if work.done():
            raise CustodyError("The call was cancelled; the record says how far it came.") from None
        work.cancel()
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        raise


async def _make(peer: Peer, params: MakeParams, part: Part | None) -> Call:
    arguments = _mapping(heard(params.arguments or {}, marked=params.marked))
    with inside(call_id(params.parent_id)):
        return await peer.service.runtime.call(
            params.tool,
            arguments,
            timeout=params.timeout,
            level=params.level,
            sandbox=params.sandbox,
            afterwards=params.afterwards,
            dry_run=params.dry_run,
            run=None if part is None else part.handle,
            external_id=params.external_id,
            agent=peer.access.agent or params.agent or (peer.claimed if part is None else None),
            caller=params.caller,
            session=params.session,
            cwd=params.cwd,
            as_recorded=params.as_recorded,
            origin=peer.origin(),
        )


class _known_as:  # noqa: N801 - reads as what it does in a `with`
    """While this lasts the call can be cancelled by the client's key."""

    def __init__(self, peer: Peer, key: str | None, work: asyncio.Task[Call]) -> None:
        self._under_way = parts_of(peer.service).under_way
        self._key = None if key is None else (peer.connection, key)
        self._work = work

    def __enter__(self) -> None:
        if self._key is not None:
            self._under_way[self._key] = self._work

    def __exit__(self, *_: object) -> None:
        if self._key is not None:
            self._under_way.pop(self._key, None)


def _in_flight(part: Part | None, under_way: list[asyncio.Task[Call]]) -> Any:
    """So that the end of the run ends first what is under way. Raises RunClosed when it is entered."""
    if part is None or part.live is None:
        return nullcontext()
    return part.live.working(cancel=lambda: [work.cancel() for work in under_way])


def call_said(call: Call) -> dict[str, Any]:
    """A call as every door shows it. A tool of this process may have given what is no JSON."""
    said = document(call)
    for name in ("arguments", "result", "error"):
        said[name] = spoken(said[name]).value
    return speakable(plain(said))


class CancelParams(Struct, frozen=True, kw_only=True):
    """One of the two."""

    key: str | None = None
    """Of a call that this connection has under way."""
    target: str | None = None
    """Id, or its beginning, of a call or run."""


class Cancelled(Struct, frozen=True, kw_only=True):
    """Ids of the calls that were asked to end; of one named by its key there is none to tell."""

    asked: int
    ids: list[str]


@method("calls.cancel", roles=ACTING)
async def calls_cancel(peer: Peer, params: CancelParams) -> Cancelled:
    """Ask a call, or every call of a run, to end."""
    if params.key is not None:
        work = parts_of(peer.service).under_way.get((peer.connection, params.key))
        if work is not None:
            work.cancel()
        return Cancelled(asked=int(work is not None), ids=[])
    if not params.target:
        raise InvalidInput("Name a key or a target.", field="target")
    runtime = peer.service.runtime
    found = await _found(peer, params.target)
    ids = await runtime.cancel(found.id)
    return Cancelled(asked=len(ids), ids=ids)


async def _found(peer: Peer, target: str) -> Run | Call:
    """What may be cancelled; to anybody else it does not exist. Raises NotFound, Ambiguous."""
    found = await own(peer, target)
    if not isinstance(found, Run | Call):
        raise nothing_here()
    return found


# -- runs -----------------------------------------------------------------------------------------------


class BeginParams(Struct, frozen=True, kw_only=True):
    """A run, as `Runtime.run` takes it."""

    key: str
    """32 hexadecimal digits that nobody else can know: the run is begun once under them, and found again."""
    intent: str | None = None
    name: str | None = None
    shared: bool = False
    """Whether others may join it by its id."""
    parent: str | None = None
    """Id of the run it is started from."""
    child: bool = False
    """Whether that run hands its task on: not in a circle, and not without end."""
    agent: str | None = None
    caller: str | None = None
    session: str | None = None
    client: str | None = None
    channel: str | None = None
    user: str | None = None
    host: str | None = None
    workspace: str | None = None
    external_id: str | None = None
    outcome_description: str | None = None
    inputs: Any = None
    labels: dict[str, str] | None = None
    marked: bool = False
    """Marks stand in the inputs for what is not JSON."""

    def options(self, agent: str | None) -> RunOptions:
        said: dict[str, Any] = {
            name: value for name in _OPTIONS if (value := getattr(self, name)) is not None
        }
        if self.inputs is not None:
            said["inputs"] = heard(self.inputs, marked=self.marked)
        return RunOptions(**{**said, "agent": agent, "on_error": "raise"})  # pyright: ignore[reportArgumentType]


_OPTIONS = (
    "caller", "session", "client", "channel", "user", "host", "workspace", "external_id",
    "outcome_description", "labels",
)  # fmt: skip


class Begun(Struct, frozen=True, kw_only=True):
    """A client's part in a run."""

    run_id: str
    part: str
    """Names it in what is told of the run; ids of calls and steps are derived from it."""
    agent: str | None
    intent: str | None
    name: str | None
    outcome: str | None
    newest: int
    """Number of the last thing told in it."""


@method("runs.begin", roles=ACTING)
async def runs_begin(peer: Peer, params: BeginParams) -> Begun:
    """Begin a run; the same key gives the same run. Durable before the answer."""
    agent = agent_of(peer, params.agent)
    live = peer.service.live

    async def begin() -> tuple[RunHandle, LiveRun | None]:
        handle = await _new_run(peer, params, agent)
        resumable = "runs.resume.v1" in peer.features
        begun = await live.begin(handle, agent=agent or "", connection=peer.connection, resumable=resumable)
        return handle, begun

    return _begun(await parts_of(peer.service).take(peer, params.key, begin), params.intent, params.name)


async def _new_run(peer: Peer, params: BeginParams, agent: str | None) -> RunHandle:
    """Raises DelegationRefused, NotFound for a parent that is not the caller's."""
    check_external_id("external_id", params.external_id)
    options = params.options(agent)
    if params.parent is None:
        return peer.service.runtime.run(params.intent, name=params.name, shared=params.shared, **options)
    above = parts_of(peer.service).in_run(peer, params.parent)
    if above is not None and params.child:
        return above.handle.child(params.intent, name=params.name, **options)
    if above is not None:
        current_run.set(above.handle)  # of this request alone: the run is surrounded by that one
        return peer.service.runtime.run(params.intent, name=params.name, shared=params.shared, **options)
    parent = await _run_of(peer, params.parent)
    options["parent"] = parent.id
    return peer.service.runtime.run(params.intent, name=params.name, shared=params.shared, **options)


class JoinParams(Struct, frozen=True, kw_only=True):
    """Which run."""

    key: str
    run_id: str
    """An id, the beginning of one, or a run's name."""


@method("runs.join", roles=ACTING)
async def runs_join(peer: Peer, params: JoinParams) -> Begun:
    """Take part in a run that was started as shared."""
    found: list[Run] = []

    async def begin() -> tuple[RunHandle, LiveRun | None]:
        run = await _run_of(peer, params.run_id)
        found.append(run)
        return _strict(await peer.service.runtime.join(run.id)), None

    part = await parts_of(peer.service).take(peer, params.key, begin)
    run = found[0] if found else await _run_of(peer, part.handle.id)
    return _begun(part, run.intent, run.name)


@method("runs.named", roles=ACTING)
async def runs_named(peer: Peer, params: BeginParams) -> Begun:
    """The open run of this name: joined, or begun where there is none."""
    if not params.name or len(params.name) > NAME_CHARACTERS_MAX:
        raise InvalidInput(f"name has 1 to {NAME_CHARACTERS_MAX} characters.", field="name")
    agent = agent_of(peer, params.agent)
    check_external_id("external_id", params.external_id)
    # A bound agent has names of its own: another's run must not be found by its name.
    name = params.name if peer.access.agent is None else f"{peer.access.agent}/{params.name}"

    async def begin() -> tuple[RunHandle, LiveRun | None]:
        # Where somebody else's run has the name there is another of it, so that nobody learns of that run.
        for called in (name, f"{agent or ''}/{params.name}"):
            handle = await peer.service.runtime.named_run(called, params.intent, **params.options(agent))
            with suppress(NotFound):
                await _run_of(peer, handle.id)
                return _strict(handle), None
        raise no_such_run()

    part = await parts_of(peer.service).take(peer, params.key, begin)
    run = await _run_of(peer, part.handle.id)
    return _begun(part, run.intent, params.name)


class RejoinParams(Struct, frozen=True, kw_only=True):
    """By the key of its beginning."""

    key: str


@method("runs.rejoin", roles=ACTING)
async def runs_rejoin(peer: Peer, params: RejoinParams) -> Begun:
    """Go on in a run over another connection: the key shows that it is the same client."""
    return _begun(parts_of(peer.service).again(peer, params.key), None, None)


class RecordParams(Struct, frozen=True, kw_only=True):
    """What the client did itself, in order."""

    part: str
    entries: list[AnyEntry]
    now: int = 0
    """On the clock of the entries' `at`, when this is sent."""


@method("runs.record", roles=ACTING)
async def runs_record(peer: Peer, params: RecordParams) -> list[dict[str, Any]]:
    """Record what the caller did itself: calls as they start and end, steps, events; an answer to each."""
    if len(params.entries) > ENTRIES_MAX:
        raise InvalidInput(f"{ENTRIES_MAX} entries at a time are taken.", field="entries")
    part = parts_of(peer.service).of(peer, params.part)
    teller = Teller(
        part=part,
        door=peer.door,
        connection=peer.connection,
        agent=peer.access.agent,
        denied=_own_guards(peer),
        now=params.now,
    )
    async with part.telling:
        # A call may end after its run has: nothing else is taken then.
        with nullcontext() if part.live is None or part.finished else part.live.working():
            told = asyncio.ensure_future(asyncio.to_thread(teller.tell, params.entries))
            try:
                return await asyncio.shield(told)
            except asyncio.CancelledError:
                while not told.done():  # the thread goes on: nothing else is told meanwhile
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait({told})
                raise
            finally:
                peer.service.live.touched(part.live)


def _own_guards(peer: Peer) -> Any:
    """What the connection's own rules say of a call that its client wants to make itself."""
    guards, scope = peer.origin().guards, peer.service.runtime.settings.scope

    def denied(tool: str, arguments: Any) -> Decision | None:
        given = _mapping(arguments)
        decision = decide(Proposal(name=tool, tool=None, arguments=given, scope=scope, host=None), guards)
        return None if decision.verdict == "allow" else decision

    return denied


def _mapping(arguments: Any) -> dict[str, Any]:
    """What has no names has no arguments a rule or a schema could speak of."""
    named: dict[str, Any] = arguments if type(arguments) is dict else {}  # pyright: ignore[reportUnknownVariableType]
    return named


class FinishParams(Struct, frozen=True, kw_only=True):
    """How it ended; without an outcome it succeeded."""

    part: str
    outcome: str | None = None
    output: Any = None
    output_marked: bool = False
    reason: str | None = None
    passed: bool | None = None
    totals: Any = None
    """What the caller counted, beside the run's own numbers."""
    totals_marked: bool = False


class Finished(Struct, frozen=True, kw_only=True):
    """First terminal wins."""

    run_id: str
    outcome: str | None


@method("runs.finish", roles=ACTING)
async def runs_finish(peer: Peer, params: FinishParams) -> Finished:
    """End a run; what is in flight in it is ended first. Durable before the answer."""
    parts = parts_of(peer.service)
    part = parts.of(peer, params.part)
    if part.finished:  # asked again, as the first answer was lost
        return Finished(run_id=part.handle.id, outcome=part.handle.outcome)
    ended: dict[str, Any] = {
        "output": heard(params.output, marked=params.output_marked),
        "reason": params.reason,
        "passed": params.passed,
        "totals": heard(params.totals, marked=params.totals_marked),
    }
    outcome: Any = params.outcome  # a word that is none is recorded as unknown, and kept in the reason
    if part.live is None:
        await part.handle.finish(outcome, durable=True, **ended)
    else:
        await peer.service.live.end(part.live, outcome, **ended)
    parts.finish(part)
    return Finished(run_id=part.handle.id, outcome=part.handle.outcome)


def _strict(handle: RunHandle) -> RunHandle:
    """The client hears of what cannot be recorded, and makes of it what it was told to."""
    handle.on_error = "raise"
    return handle


def _begun(part: Part, intent: str | None, name: str | None) -> Begun:
    handle = part.handle
    return Begun(
        run_id=handle.id,
        part=part.id,
        agent=handle.who.agent,
        intent=intent,
        name=name,
        outcome=handle.outcome,
        newest=part.newest,
    )


async def _run_of(peer: Peer, text: str) -> Run:
    """A run that the peer may take part in; to anybody else it does not exist. Raises NotFound."""
    try:
        found = await own_run(peer, text)
    except (NotFound, Ambiguous):
        raise no_such_run() from None
    if not is_mine(peer, found.agent):
        raise no_such_run()
    return found


METHODS = (
    calls_make,
    calls_cancel,
    runs_begin,
    runs_join,
    runs_named,
    runs_rejoin,
    runs_record,
    runs_finish,
)
