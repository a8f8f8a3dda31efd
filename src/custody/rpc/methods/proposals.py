"""`proposal.submit`, `verify` and `simulate`: to have a proposal worked on, or told what would become of it.

Owns their shapes. How one is spelled is `proposals`, how it is worked on is `submission`; what can be
foreseen is `plans.foresee`, to which the guards' word is added here.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from custody.calls.guards import Guard, Proposal, decide
from custody.errors import InvalidInput
from custody.plans.foresee import Issue, Severity, Tier, simulate, verify
from custody.plans.graph import Action, Graph
from custody.plans.references import references_in
from custody.plans.results import Status
from custody.plans.state import State
from custody.rpc.method import ACTING, method
from custody.rpc.peer import Peer
from custody.rpc.proposals import ProposalResult, WireProposal, WireScope, actions_of, submit_seconds
from custody.rpc.submission import Asked, Submission, mint_of

VERIFY_SECONDS = 30.0

T = TypeVar("T")


class SubmitParams(Struct, frozen=True, kw_only=True):
    """A proposal, and under which of the peer's own rules, and on whose behalf, it is to be done."""

    proposal: WireProposal
    session_id: str | None = None
    """A policy session: its rules hold beside those of the connection, whatever the scope."""
    scope: WireScope | None = None
    undo_on_abort: bool = False
    """Whether changes to files are taken back too when the proposal is aborted."""


def _seconds(params: SubmitParams) -> float:
    return submit_seconds(params.proposal)


@method("proposal.submit", roles=ACTING, seconds=_seconds)
async def proposal_submit(peer: Peer, params: SubmitParams) -> ProposalResult:
    """Have a proposal worked on: its actions guarded, run in their order and recorded."""
    asked = Asked(
        proposal=params.proposal,
        policy_session=params.session_id,
        scope=params.scope or WireScope(),
        undo_on_abort=params.undo_on_abort,
    )
    return await Submission(peer, asked).work()


class VerifyParams(Struct, frozen=True, kw_only=True):
    """A proposal, and the state it is to be judged from: the connection's unless said."""

    proposal: WireProposal
    initial_state: dict[str, Any] | None = None
    session_id: str | None = None
    scope: WireScope | None = None


class WireIssue(Struct, frozen=True, kw_only=True):
    """One finding."""

    action_id: str | None
    severity: Severity
    message: str
    tier: Tier


class Verified(Struct, frozen=True, kw_only=True):
    """Everything that is wrong with a proposal, and what it would do to the state."""

    valid: bool
    """No issue is an error."""
    issues: list[WireIssue]
    simulated_state: dict[str, Any]
    execution_levels: tuple[tuple[str, ...], ...]
    conflicts: list[tuple[str, str, str]]
    """Two actions without an order between them, and a key both use and one writes."""


class SimulateResult(Struct, frozen=True, kw_only=True):
    """How a proposal would go if every tool succeeded."""

    statuses: dict[str, Status]
    reasons: dict[str, str]
    simulated_state: dict[str, Any]
    aborted_by: str | None


def _verify_seconds(params: VerifyParams) -> float:
    del params
    return VERIFY_SECONDS


@method("verify", seconds=_verify_seconds)
async def verify_proposal(peer: Peer, params: VerifyParams) -> Verified:
    """Everything that is wrong with a proposal, what the guards would refuse included; nothing is done."""
    actions = actions_of(params.proposal, mint_of(peer))
    initial = _initial(peer, params)
    foreseen = await _apart(peer, lambda: verify(actions, initial, frozenset(peer.tools.names())))
    issues = list(foreseen.issues)
    guards = [
        peer.session.policies.guards(params.session_id, State(state)) for state in (initial, foreseen.state)
    ]
    for action in actions:
        issues += _refusals(peer, action, guards)
        await asyncio.sleep(0)  # a thousand rules for a thousand actions take a while
    return Verified(
        valid=not any(issue.severity == "error" for issue in issues),
        issues=[
            WireIssue(
                action_id=issue.action_id, severity=issue.severity, message=issue.message, tier=issue.tier
            )
            for issue in issues
        ],
        simulated_state=foreseen.state,
        execution_levels=foreseen.waves,
        conflicts=[(one.one, one.other, one.key) for one in foreseen.conflicts],
    )


@method("simulate", seconds=_verify_seconds)
async def simulate_proposal(peer: Peer, params: VerifyParams) -> SimulateResult:
    """The statuses and the state to be expected of a proposal; nothing is done."""
    actions = actions_of(params.proposal, mint_of(peer))
    initial, tools = _initial(peer, params), frozenset(peer.tools.names())

    def refusal(action: Action, state: State) -> str | None:
        call = _call(peer, action)
        if call is None:
            return None
        refused = _standing_refusal(peer, call)
        if refused is not None:
            return refused
        decision = decide(call, peer.session.policies.guards(params.session_id, state))
        return None if decision.verdict == "allow" else decision.reason

    peer.session.policies.registered(params.session_id)  # raises for a session that is none
    try:
        simulated = await _apart(peer, lambda: simulate(Graph(actions), initial, tools, refusal))
    except InvalidInput as error:
        raise InvalidInput(error.message, field="proposal") from error
    return SimulateResult(
        statuses=simulated.statuses,
        reasons=simulated.reasons,
        simulated_state=simulated.state,
        aborted_by=simulated.aborted_by,
    )


async def _apart(peer: Peer, foresee: Callable[[], T]) -> T:
    """In a thread, of each connection one at a time: records are written in threads, too."""
    async with peer.service.live.alone(("foreseen", peer.connection)):
        return await asyncio.to_thread(foresee)


def _initial(peer: Peer, params: VerifyParams) -> dict[str, Any]:
    if params.initial_state is not None:
        try:
            State(params.initial_state)
        except InvalidInput as error:
            raise InvalidInput(error.message, field="initial_state") from error
        return params.initial_state
    return peer.session.state(None if params.scope is None else params.scope.tenant_id).contents()


def _refusals(peer: Peer, action: Action, guards: Sequence[Sequence[Guard]]) -> list[Issue]:
    """What would refuse the call. `guards` are those of the state before and of the state after: a rule that
    refuses in one of them only depends on the order."""
    call = _call(peer, action)
    if call is None:
        return []
    refused = _standing_refusal(peer, call)
    if refused is not None:
        return [Issue(severity="error", message=refused, action_id=action.id)]
    said = [decide(call, asked) for asked in guards]
    no = [decision.reason for decision in said if decision.verdict != "allow"]
    if len(no) == len(said):
        return [Issue(severity="error", message=no[0], action_id=action.id)]
    if no:
        message = f"Depending on the order: {no[0]}"
        return [Issue(severity="warning", message=message, tier="heuristic", action_id=action.id)]
    return []


def _call(peer: Peer, action: Action) -> Proposal | None:
    """The call it would be; None where it is none, or of no tool there is."""
    tool = None if action.type != "tool_call" or not action.tool else peer.tools.get(action.tool)
    if tool is None:
        return None
    return Proposal(
        name=tool.name,
        tool=tool,
        arguments=action.parameters,
        scope=peer.service.runtime.settings.scope,
        host=None,
        tools=peer.tools,
    )


def _standing_refusal(peer: Peer, call: Proposal) -> str | None:
    """By the peer's token, the tool's schema, where the parameters are all there, or the store's policy."""
    if peer.access.tools is not None and call.name not in peer.access.tools:
        return "Its token does not allow this tool."
    if not any(True for _ in references_in(call.arguments)):
        violation = peer.tools.schema(call.name).violation(call.arguments)
        if violation is not None:
            return violation
    decision = peer.service.runtime.recording.decide(call.name, call.arguments)
    return decision.reason if decision.verdict != "allow" and decision.by in ("rule", "error") else None


METHODS = (proposal_submit, verify_proposal, simulate_proposal)
