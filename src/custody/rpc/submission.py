"""A proposal being worked on for a peer: each tool call of its plan guarded, run and recorded.

Owns what an attempt at an action means on the wire, what is noted of it in the connection's log, and the one
event that tells of the proposal as a whole. Order, attempts and the state are `plans`'; how a call is made is
the runtime's. Used by `proposal.submit`.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.calls.uncut import to_the_end
from custody.errors import CustodyError, InvalidInput, NotRecorded, OutcomeUnknown, RunClosed, ToolError
from custody.journal import sha256
from custody.plans.graph import Action, Graph, action_key
from custody.plans.results import ActionResult, Performed, PlanResult
from custody.plans.schedule import PlanRun
from custody.records import Call, Decision
from custody.rpc.events import current_run, record_event
from custody.rpc.live_run import Work
from custody.rpc.peer import Peer
from custody.rpc.proposals import (
    ProposalResult,
    TakenBack,
    WireProposal,
    WireScope,
    actions_of,
    reasons_of,
    refused,
    spoken,
    wire_result,
)
from custody.rpc.remembered import GivenAgain, WithGivenAgain
from custody.tools import Origin

log = logging.getLogger("custody")

HALTED = "A tool said that its failure is final, so this connection is halted until a host clears it."

REASON_CHARACTERS_MAX = 500
"""Of one action's reason in the event of its proposal; its call has the whole."""

ErrorClass = Literal["timeout", "rejected_by_policy", "tool_error", "validation", "unknown"]


ID_BYTES = 6
"""Of ids that are minted where an author names none: the reference has 12 hex digits."""


def mint_of(peer: Peer) -> Callable[[], str]:
    """Gives ids to what its author did not name."""
    take = peer.service.runtime.ledger.recorder.ids.take
    return lambda: take(ID_BYTES).hex()


class Asked(Struct, frozen=True, kw_only=True):
    """A proposal as it was submitted."""

    proposal: WireProposal
    policy_session: str | None = None
    scope: WireScope = WireScope()
    undo_on_abort: bool = False


class Submission:
    """One proposal of one peer."""

    def __init__(self, peer: Peer, asked: Asked) -> None:
        """Raises InvalidInput for what is no proposal, NotFound for an unknown policy session."""
        self._peer = peer
        self._asked = asked
        self._session = peer.session
        self._runtime = peer.service.runtime
        mint = mint_of(peer)
        self.proposal_id = asked.proposal.id or mint()
        self._actions = tuple(map(self._defined, actions_of(asked.proposal, mint)))
        self._tenant = asked.scope.tenant_id
        self._state = peer.session.state(self._tenant)
        self._from = peer.origin(
            proposal_id=self.proposal_id, policy_session=asked.policy_session, tenant=self._tenant
        )
        self._run = current_run(peer)
        """The run that is current when it begins: a later one is not its."""
        self._agent = peer.agent or (next(iter(peer.agents)) if len(peer.agents) == 1 else None)
        self._rejections: dict[str, Decision] = {}
        self._changed: dict[str, bool] = {}
        """Whether a call changed files, by its id."""
        self._undone: list[TakenBack] = []
        self._task: asyncio.Task[Any] | None = None
        self._work: Work | None = None
        self._told: dict[str, Any] = {}
        """What the tool that was begun last tells."""
        self._cancelled_by_run = False

    # -- the whole ------------------------------------------------------------------------------------

    async def work(self) -> ProposalResult:
        """To the end. Where its task is cancelled, but not for its run's sake, CancelledError goes on."""
        self._task = asyncio.current_task()
        run = self._run
        # The run ends only when nothing is in flight: what is taken back belongs to it as well.
        with nullcontext() if run is None else run.working(None, self._cancel) as self._work:
            result = await self._worked()
        return wire_result(self.proposal_id, result, self._rejections, self._undone)

    async def _worked(self) -> PlanResult:
        self._log("proposal_received", source=self._asked.proposal.source, actions=len(self._actions))
        result = self._refusal()
        if result is None:
            plan = self._plan()
            try:
                result = await plan.work()
            except asyncio.CancelledError:
                assert self._task is not None, "coroutines run in tasks"
                if not self._cancelled_by_run or self._task.uncancel() > 0:
                    await to_the_end(self._tell(plan.result))
                    raise
                result = plan.result
        await self._tell(result)
        return result

    def _refusal(self) -> PlanResult | None:
        """Why none of it is begun, or None."""
        if self._session.halted:
            return refused(self._actions, {}, HALTED)
        try:
            self._graph = Graph(self._actions)
        except InvalidInput as error:
            reasons = reasons_of(error.details.get("faults", ()))
            return refused(self._actions, reasons, f"Not begun, as the proposal is no plan: {error.message}")
        return None

    def _plan(self) -> PlanRun:
        return PlanRun(
            self._graph,
            self._state,
            self._perform,
            cache=self,
            on_rollback=self._take_back if self._asked.undo_on_abort else None,
        )

    async def _tell(self, result: PlanResult) -> None:
        """On the record, and in the connection's log, what became of it. What cannot be recorded any more is
        in the answer all the same: what was done, was done."""
        for one in result.results:
            self._log_end(one)
        if result.rollback is not None:
            self._log("state_rollback", keys_left=result.rollback.keys_left)
        counts: dict[str, int] = {}
        for one in result.results:
            counts[one.status] = counts.get(one.status, 0) + 1
        self._log_small("proposal_completed", **counts)
        try:
            await self._record(result)
        except NotRecorded as error:
            log.warning("What became of proposal %s could not be recorded: %s", self.proposal_id, error)

    async def _record(self, result: PlanResult) -> None:
        asked = self._asked
        for one in result.results:
            if one.state_changes:
                said = {
                    "proposal_id": self.proposal_id,
                    "action_id": one.action_id,
                    "by": "action",
                    "tenant_id": self._tenant,
                    "changes": one.state_changes,
                }
                await record_event(self._peer, "state.changed", said, run=self._run)
        optional: dict[str, Any] = {
            "source": asked.proposal.source,
            "policy_session": asked.policy_session,
            "tenant_id": self._tenant,
            "caller": asked.scope.caller_id,
            "claims": asked.scope.claims,
            "aborted_by": result.aborted_by,
            "cancelled": result.cancelled or None,
            "rolled_back": [one.action_id for one in result.results if one.rolled_back] or None,
            "undone": msgspec.to_builtins(self._undone) if self._undone else None,
        }
        more = {name: value for name, value in optional.items() if value is not None}
        if self._is_told_by_its_call(result, more):
            return
        said = {
            "proposal_id": self.proposal_id,
            # Ids are no names of fields: one that is called like a secret would have its status redacted.
            "actions": [
                {"action_id": one.action_id, "status": one.status, "reason": _short(one.error) or None}
                for one in result.results
            ],
            "cost": {name: getattr(result.costs, name) for name in result.costs.__struct_fields__},
        }
        await record_event(self._peer, "proposal.finished", said | more, run=self._run)

    def _is_told_by_its_call(self, result: PlanResult, more: Collection[str]) -> bool:
        """Whether the records of one call say all there is to say of the proposal."""
        only = result.results[0] if len(result.results) == 1 else None
        return only is not None and len(only.call_ids) == 1 and not only.state_changes and not more

    # -- one attempt ----------------------------------------------------------------------------------

    async def _perform(self, action: Action, parameters: dict[str, Any], attempt: int) -> Performed:
        assert action.tool is not None, "checked when it was read"
        if self._session.halted:
            return Performed(status="rejected", error=HALTED)
        if attempt > 1:
            self._log("action_retrying", action.id, tool=action.tool, attempt=attempt)
        origin = self._origin(action.id, attempt)
        return await self._attempt(action, parameters, origin)

    def _origin(self, action_id: str, attempt: int) -> Origin:
        return msgspec.structs.replace(self._from, action_id=action_id, attempt=attempt, told={})

    async def _attempt(self, action: Action, parameters: dict[str, Any], origin: Origin) -> Performed:
        assert action.tool is not None, "checked when it was read"
        if self._work is not None:
            self._work.action_id, self._told = action.id, origin.told
        about = {"tool": action.tool, "params_digest": _digest(parameters), "attempt": origin.attempt}
        self._log_small("action_executing", action.id, **about)
        try:
            call = await self._call(action.tool, parameters, action.timeout_seconds, origin)
        except (RunClosed, NotRecorded) as error:  # so would all that follows, whatever the action says
            return Performed(status="rejected", error=str(error), terminal=True)
        except OutcomeUnknown as error:  # trying again might do it twice
            said = error.details.get("call_id")
            return Performed(status="failed", error=str(error), terminal=True, call_id=said)
        if call.changes_count:
            self._changed[call.id] = True
        performed = self._performed(action, call, origin.told)
        if performed.status == "succeeded":
            if action.expected_effects:
                self._log("action_succeeded", action.id, **about, expected_effects=action.expected_effects)
            else:
                self._log_small("action_succeeded", action.id, **about, expected_effects={})
        elif performed.status == "failed":
            self._log("action_failed", action.id, **about, error_class=_error_class(call))
        return performed

    async def _call(
        self, tool: str, arguments: dict[str, Any], timeout_seconds: float | None, origin: Origin
    ) -> Call:
        run = self._run
        try:
            return await self._runtime.call(
                tool,
                arguments,
                run=None if run is None else run.handle,
                timeout=timeout_seconds,
                agent=self._agent if run is None else None,
                caller=self._asked.scope.caller_id,
                origin=origin,
            )
        finally:
            self._peer.service.live.touched(run)

    def _cancel(self) -> None:
        """The run is to end: nothing further begins, and the peer still hears what became of each action."""
        if self._task is not None and not self._cancelled_by_run:
            self._cancelled_by_run = True
            if self._work is not None:
                self._work.request_id = self._told.get("request_id")
            self._task.cancel()

    def _performed(self, action: Action, call: Call, told: dict[str, Any]) -> Performed:
        """What a call means on the wire: any result of a peer's own tool is a success there, whatever the
        record makes of what it says."""
        if call.outcome == "rejected":
            self._rejections[action.id] = call.decision
            if call.decision.by == "rule":
                self._log("policy_violation", action.id, policy_name=call.decision.rule)
            return Performed(status="rejected", error=call.decision.reason, call_id=call.id)
        source = "cache" if call.source == "cache" else "executed"
        answered = bool(told.get("answered"))
        if answered or call.outcome == "succeeded":
            self._rejections.pop(action.id, None)
            return Performed(
                status="succeeded",
                output=call.result if answered else spoken(call.result),
                call_id=call.id,
                source=source,
                cacheable=call.outcome == "succeeded" and call.passed is not False,
            )
        if told.get("terminal") is True:
            self._session.halted = True
        return Performed(
            status="failed",
            output=None if call.result is None else spoken(call.result),
            error=_error(call, told),
            # Nobody knows whether it was done, or somebody ended it: trying again is for neither.
            terminal=told.get("terminal") is True or call.outcome in ("unknown", "cancelled"),
            call_id=call.id,
        )

    # -- results that are given again -------------------------------------------------------------------

    def _defined(self, action: Action) -> Action:
        """With what its tool's definition says of every call of it."""
        definition = None if action.tool is None else self._session.definitions.get(action.tool)
        if definition is None or not definition.always_remembered:
            return action
        return msgspec.structs.replace(action, idempotent=True)

    async def get(self, action: Action, parameters: dict[str, Any], /) -> Performed | None:
        """An earlier result of a peer's own tool, given again by a call that is guarded and recorded."""
        tool = None if action.tool is None else self._peer.tools.get(action.tool)
        if tool is None or tool.name not in self._session.definitions:
            return None
        found = self._session.remembered.get(action_key(action, parameters))
        if found is None:
            return None
        self._log("action_deduplicated", action.id, tool=tool.name)
        tools = WithGivenAgain(self._peer.tools, GivenAgain(tool, found[0]))
        origin = msgspec.structs.replace(self._origin(action.id, 1), tools=tools)
        return await self._attempt(action, parameters, origin)

    def put(self, action: Action, parameters: dict[str, Any], performed: Performed, /) -> None:
        """Remember a result of a peer's own tool, while that tool is offered."""
        definition = None if action.tool is None else self._session.definitions.get(action.tool)
        if definition is not None:
            key = action_key(action, parameters)
            self._session.remembered.put(key, definition.name, performed.output, definition.cache_ttl_secs)

    # -- taking back ------------------------------------------------------------------------------------

    async def _take_back(self, ran: Sequence[ActionResult]) -> None:
        """Changes to files, the newest first, each by a call of the guarded tool `undo`."""
        for result in ran:
            for call_id in reversed(result.call_ids):
                if call_id in self._changed:
                    self._undone.append(await self._undo(result.action_id, call_id))
        failed = [one.call for one in self._undone if one.outcome != "succeeded"]
        if failed:
            raise ToolError(f"{len(failed)} of {len(self._undone)} calls could not be taken back.")

    async def _undo(self, action_id: str, call_id: str) -> TakenBack:
        # Custody's own tool, whatever the peer calls its own.
        origin = msgspec.structs.replace(self._origin(action_id, 1), tools=None)
        try:
            call = await self._call("undo", {"call": call_id}, None, origin)
        except CustodyError as error:
            return TakenBack(call=call_id, undo_call=None, outcome="rejected", error=str(error))
        error = None if call.outcome == "succeeded" else _error(call, {})
        return TakenBack(call=call_id, undo_call=call.id, outcome=call.outcome or "unknown", error=error)

    # -- the connection's log ---------------------------------------------------------------------------

    def _log(self, kind: str, action_id: str | None = None, /, **data: Any) -> None:
        self._session.log(kind, action_id=action_id, proposal_id=self.proposal_id, **data)

    def _log_small(self, kind: str, action_id: str | None = None, /, **data: Any) -> None:
        """Of names and numbers, which are on the way of every proposal."""
        self._session.events.add_small(kind, action_id, self.proposal_id, data)

    def _log_end(self, result: ActionResult) -> None:
        """What was not noted with its call."""
        action_id = result.action_id
        if result.status == "rejected":
            by = self._rejections.get(action_id)
            error_class = "rejected_by_policy" if by is not None and by.by == "rule" else "validation"
            self._log("action_rejected", action_id, error_class=error_class, reason=_short(result.error))
        elif result.status == "skipped":
            self._log("action_skipped", action_id, reason=_short(result.error))
        elif not result.call_ids:
            kind = "action_succeeded" if result.status == "succeeded" else "action_failed"
            self._log(kind, action_id, **({"error_class": "unknown"} if result.status == "failed" else {}))
        if result.state_changes:
            changes = result.state_changes
            self._log("state_changed", action_id, by="action", tenant_id=self._tenant, changes=changes)


def _digest(parameters: dict[str, Any]) -> str:
    """SHA-256 of the parameters as JSON with sorted names: equal ones are told, nothing else of them is."""
    try:
        return sha256(msgspec.json.encode(parameters, order="sorted")).hex()
    except (TypeError, ValueError, RecursionError):
        return ""


def _short(reason: str | None) -> str:
    return (reason or "")[:REASON_CHARACTERS_MAX]


def _error(call: Call, told: dict[str, Any]) -> str:
    """Why a call failed, for a person."""
    message = told.get("message")
    if isinstance(message, str):
        return message
    if call.outcome == "failed" and call.error is not None:
        return str(call.error.get("message") or call.reason)
    return f"{call.tool}: {call.reason or call.outcome}"


def _error_class(call: Call) -> ErrorClass:
    if call.outcome == "timed_out":
        return "timeout"
    return "tool_error" if call.outcome == "failed" else "unknown"
