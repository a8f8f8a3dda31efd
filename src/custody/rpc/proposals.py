"""How proposals are spelled on the wire: into the actions of a plan, and what came of them back.

Owns the shapes and their defaults, which are the reference's. Pure: knows nothing of peers, nor of how a plan
is worked on. Used by `submission` and by the methods of proposals.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from custody.bridges.objects import speakable
from custody.errors import InvalidInput
from custody.plans.conditions import Condition
from custody.plans.graph import ACTIONS_MAX, Action, ActionType, FailureBehavior, Fault
from custody.plans.results import ActionResult, Costs, PlanResult, Status
from custody.records import Decision, now_us, rfc3339

TOOL_SECONDS = 300.0
"""What an action without a deadline is reckoned with."""

SUBMIT_SECONDS_MIN = 30 * 60.0
SUBMIT_SECONDS_MORE = 15.0
"""A proposal's own deadline lies beyond those of its actions, so that theirs are reached first."""

SUBMIT_SECONDS_MAX = 7 * 24 * 60 * 60.0
"""A week: sums beyond it are not plans but accidents."""

TIMEOUT_MS_MAX = 24 * 60 * 60 * 1_000
"""A day, for one attempt of one action."""

Id = Annotated[str, Meta(min_length=1, max_length=256)]
"""Authors choose ids; they stand in every record of what came of them."""


class WireCondition(Struct, frozen=True):
    """What has to be true of one key of the state."""

    key: str
    operator: str = "eq"
    value: Any = None
    description: str | None = None


class WireAction(Struct, frozen=True):
    """One action. Null stands for what is left out."""

    type: ActionType
    id: Id | None = None
    tool: str | None = None
    parameters: dict[str, Any] | None = None
    preconditions: list[WireCondition] | None = None
    expected_effects: dict[str, Any] | None = None
    state_dependencies: list[str] | None = None
    dependencies: list[str] | None = None
    read_set: list[str] | None = None
    write_set: list[str] | None = None
    idempotent: bool | None = None
    max_retries: Annotated[int, Meta(ge=0)] | None = None
    """Attempts after the first, where `failure_behavior` is retry: 3 unless said."""
    failure_behavior: FailureBehavior | None = None
    """`abort` unless said."""
    timeout_ms: Annotated[float, Meta(ge=0, le=TIMEOUT_MS_MAX)] | None = None
    """Of one attempt. 0 and null: the tool's own."""
    invocation_mode: Literal["one_shot", "streaming", "long_running"] | None = None
    """Only `one_shot` is done here."""
    metadata: dict[str, Any] | None = None

    @property
    def retries(self) -> int:
        return RETRIES if self.max_retries is None else self.max_retries

    @property
    def seconds(self) -> float:
        """What it may take, all attempts together."""
        attempts = 1 + (self.retries if self.failure_behavior == "retry" else 0)
        return attempts * (self.timeout_ms / 1_000 if self.timeout_ms else TOOL_SECONDS)


RETRIES = 3  # the reference's default


class WireProposal(Struct, frozen=True):
    """Actions that belong together."""

    actions: list[WireAction]
    id: Id | None = None
    source: Annotated[str, Meta(max_length=1_024)] | None = None
    context: dict[str, Any] | None = None
    """The author's; nobody looks into it."""


class WireScope(Struct, frozen=True, rename="camel"):
    """On whose behalf, as the peer says."""

    caller_id: Annotated[str, Meta(max_length=256)] | None = None
    tenant_id: str | None = None
    claims: dict[str, Any] | None = None


class Rejection(Struct, frozen=True, kw_only=True):
    """Who refused an action, so that a policy's no is told from an unknown tool."""

    by: str
    """`schema` (no such tool, or parameters that do not fit), `rule` (a policy), `budget`, `resources`, …"""
    rule: str | None = None
    param: str | None = None


class WireResult(Struct, frozen=True, kw_only=True):
    """What became of one action."""

    action_id: str
    status: Status
    output: Any
    error: str | None
    state_changes: dict[str, Any]
    duration_ms: float
    timestamp: str
    rolled_back: bool | UnsetType = UNSET
    terminal: bool | UnsetType = UNSET
    source: Literal["cache"] | UnsetType = UNSET
    """Where nothing was done and an earlier result was given again."""
    attempts: int | UnsetType = UNSET
    """Where there was more than one."""
    call_ids: tuple[str, ...] | UnsetType = UNSET
    """Of the records of its attempts."""
    rejection: Rejection | UnsetType = UNSET


class WireCost(Struct, frozen=True, kw_only=True):
    """What a proposal took."""

    tool_calls: int
    actions_executed: int
    """Succeeded or failed."""
    actions_rejected: int
    actions_skipped: int
    total_duration_ms: float
    retries: int


class TakenBack(Struct, frozen=True, kw_only=True):
    """What was taken back of an aborted proposal beside the state."""

    call: str
    undo_call: str | None
    outcome: str
    error: str | None = None


class WireRollback(Struct, frozen=True, kw_only=True):
    """How an aborted proposal was taken back."""

    keys_left: tuple[str, ...]
    """State keys somebody else has written since: they are as those left them."""
    undone: tuple[TakenBack, ...] = ()
    """Calls whose changes to files were to be taken back, the newest first."""
    error: str | None = None


class ProposalResult(Struct, frozen=True, kw_only=True):
    """What became of a proposal."""

    proposal_id: str
    results: list[WireResult]
    cost: WireCost
    aborted_by: str | UnsetType = UNSET
    """The action that ended it."""
    rollback: WireRollback | UnsetType = UNSET


def actions_of(proposal: WireProposal, mint: Callable[[], str]) -> tuple[Action, ...]:
    """The actions of the plan a proposal spells; `mint` gives ids to those without. Raises InvalidInput, with
    the field."""
    if len(proposal.actions) > ACTIONS_MAX:
        raise InvalidInput(
            f"A proposal has {ACTIONS_MAX} actions at most; this one has {len(proposal.actions)}.",
            field="proposal.actions",
        )
    return tuple(_action(action, index, mint) for index, action in enumerate(proposal.actions))


def _action(wire: WireAction, index: int, mint: Callable[[], str]) -> Action:
    if wire.invocation_mode not in (None, "one_shot"):
        raise InvalidInput(
            f"Actions are one_shot here, not {wire.invocation_mode}.",
            field=f"proposal.actions[{index}].invocation_mode",
        )
    if wire.type == "tool_call" and not wire.tool:
        raise InvalidInput("A tool_call names its tool.", field=f"proposal.actions[{index}].tool")
    if len(wire.tool or "") > TOOL_CHARACTERS_MAX:
        raise InvalidInput(
            f"A tool's name has {TOOL_CHARACTERS_MAX} characters at most.",
            field=f"proposal.actions[{index}].tool",
        )
    return Action(
        id=wire.id or mint(),
        type=wire.type,
        tool=wire.tool,
        parameters=wire.parameters or {},
        preconditions=tuple(
            Condition(key=one.key, operator=one.operator, value=one.value, description=one.description or "")
            for one in wire.preconditions or ()
        ),
        expected_effects=wire.expected_effects or {},
        state_dependencies=tuple(wire.state_dependencies or ()),
        dependencies=tuple(wire.dependencies or ()),
        read_set=tuple(wire.read_set or ()),
        write_set=tuple(wire.write_set or ()),
        idempotent=bool(wire.idempotent),
        max_retries=wire.retries,
        failure_behavior=wire.failure_behavior or "abort",
        timeout_seconds=wire.timeout_ms / 1_000 if wire.timeout_ms else None,
        metadata=wire.metadata or {},
    )


TOOL_CHARACTERS_MAX = 128  # the registry has no longer names


def submit_seconds(proposal: WireProposal) -> float:
    """How long a proposal may take: longer than all its actions one after the other."""
    total = sum(action.seconds for action in proposal.actions) + SUBMIT_SECONDS_MORE
    return min(max(total, SUBMIT_SECONDS_MIN), SUBMIT_SECONDS_MAX)


# -- and back -----------------------------------------------------------------------------------------


def refused(actions: Sequence[Action], reasons: Mapping[str, str], otherwise: str) -> PlanResult:
    """Every action rejected, nothing begun: with its own reason, or the one that holds for all."""
    at_us = now_us()
    results = tuple(
        ActionResult(
            action_id=action.id,
            status="rejected",
            error=reasons.get(action.id, otherwise),
            began_at_us=at_us,
        )
        for action in actions
    )
    costs = Costs(
        tool_calls=0,
        actions_executed=0,
        actions_rejected=len(results),
        actions_skipped=0,
        retries=0,
        duration_seconds=0.0,
    )
    return PlanResult(results=results, costs=costs)


def reasons_of(faults: Sequence[Fault]) -> dict[str, str]:
    """The first fault of each action that has one."""
    reasons: dict[str, str] = {}
    for fault in faults:
        if fault.action_id is not None:
            reasons.setdefault(fault.action_id, fault.message)
    return reasons


def wire_result(
    proposal_id: str,
    result: PlanResult,
    rejections: Mapping[str, Decision],
    undone: Sequence[TakenBack] = (),
) -> ProposalResult:
    """The answer. `rejections` has the decisions of calls that were refused, by action."""
    rollback = result.rollback
    return ProposalResult(
        proposal_id=proposal_id,
        results=[_wire(one, rejections) for one in result.results],
        cost=wire_cost(result.costs),
        aborted_by=result.aborted_by or UNSET,
        rollback=UNSET
        if rollback is None
        else WireRollback(keys_left=rollback.keys_left, undone=tuple(undone), error=rollback.error),
    )


def wire_cost(costs: Costs) -> WireCost:
    return WireCost(
        tool_calls=costs.tool_calls,
        actions_executed=costs.actions_executed,
        actions_rejected=costs.actions_rejected,
        actions_skipped=costs.actions_skipped,
        total_duration_ms=_milliseconds(costs.duration_seconds),
        retries=costs.retries,
    )


def _wire(result: ActionResult, rejections: Mapping[str, Decision]) -> WireResult:
    decision = rejections.get(result.action_id) if result.status == "rejected" else None
    return WireResult(
        action_id=result.action_id,
        status=result.status,
        output=result.output,
        error=result.error,
        state_changes=result.state_changes,
        duration_ms=_milliseconds(result.duration_seconds),
        timestamp=rfc3339(result.began_at_us),
        rolled_back=result.rolled_back or UNSET,
        terminal=(result.terminal and result.status == "failed") or UNSET,
        source="cache" if result.source == "cache" else UNSET,
        attempts=result.attempts if result.attempts > 1 else UNSET,
        call_ids=result.call_ids or UNSET,
        rejection=UNSET
        if decision is None
        else Rejection(by=decision.by, rule=decision.rule, param=decision.param),
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1_000_000) / 1_000  # to round to digits takes ten times as long


def spoken(value: Any) -> Any:
    """What a tool of Custody's gave, as JSON has it: parts that are no JSON as their text."""
    try:
        return speakable(msgspec.to_builtins(value, enc_hook=str))
    except (TypeError, ValueError, RecursionError):
        return speakable(str(value))
