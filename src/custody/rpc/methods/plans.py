"""`plans.*`: step plans are checked and drawn for anybody, and worked on for those who act.

Owns their shapes, which tools a peer's plan may name, and whose runs there are for it. What is found is
`plans.steps.analysis`'s, pictures are `shown`'s, and how a plan is worked on `running`'s: the same as at the
command line.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from custody.errors import InvalidInput, NotFound
from custody.index import RunFilter
from custody.index.lookup import LATEST
from custody.plans.schedule import CONCURRENT_ACTIONS_MAX
from custody.plans.steps.analysis import PlanReport, check_data, check_plan
from custody.plans.steps.earlier import external_id_of
from custody.plans.steps.model import PlanFault, StepPlan, parse_plan
from custody.plans.steps.results import StepsResult
from custody.plans.steps.running import run_steps
from custody.plans.steps.shown import Format, ShownPlan, as_left, checked, show_plan
from custody.records import Run
from custody.rpc import jsonrpc
from custody.rpc.errors import RpcError
from custody.rpc.identity import agent_of, is_mine
from custody.rpc.method import ACTING, method
from custody.rpc.peer import Peer
from custody.rpc.sight import apart, ask, narrowed, own_run

RUN_SECONDS = 365 * 24 * 3600.0
"""Each call of a plan has a deadline of its own; whoever asks waits for as long as they all take."""

PARALLEL_MAX = 64  # as many calls as a runtime makes at once
FAULTS_TOLD_MAX = 100  # in an error: `plans.check` has all of them


class CheckParams(Struct, frozen=True, kw_only=True):
    """A plan."""

    plan: dict[str, Any]
    tools: list[str] | None = None
    """Names of the tools there are; null: those that a plan of this connection may name."""


@method("plans.check")
async def plans_check(peer: Peer, params: CheckParams) -> PlanReport:
    """All that is wrong with a plan, what can begin, and how it stands: an analysis, which begins nothing."""
    tools = _names(peer) if params.tools is None else frozenset(params.tools)
    return await apart(peer, lambda: check_data(params.plan, tools))


class ShowParams(Struct, frozen=True, kw_only=True):
    """A plan, and how it is to be drawn."""

    plan: dict[str, Any]
    format: Format = "tree"
    run: str | None = None
    """Id, or its beginning, of a run of this plan, or `latest`: as far as it came; null: as the plan says."""


@method("plans.show")
async def plans_show(peer: Peer, params: ShowParams) -> ShownPlan:
    """A plan as a tree, as a Mermaid chart or in words: an analysis, which begins nothing."""
    plan, faults = await apart(peer, lambda: parse_plan(params.plan))
    if plan is None:
        raise _refused(faults)
    run = None if params.run is None else await _run_of(peer, plan, params.run)
    clean = peer.service.runtime.ledger.recorder.clean_text
    sees_all = peer.access.reads_everything

    def shows(one: Run) -> bool:
        return sees_all or is_mine(peer, one.agent)

    def show() -> ShownPlan:
        standing = plan
        if run is not None:
            index = peer.service.runtime.index
            standing = as_left(index, plan, run, lambda text: clean(text, "text")[0], shows)
        return show_plan(standing, check_plan(standing), params.format, None if run is None else run.id)

    return await apart(peer, show)


async def _run_of(peer: Peer, plan: StepPlan, text: str) -> Run:
    """A run of this plan that the peer may see. Raises NotFound, Ambiguous, UsageError."""
    if text not in LATEST:
        return checked(await own_run(peer, text), plan)
    wanted = await narrowed(peer, RunFilter(external_id=external_id_of(plan.digest)))
    page = await ask(peer, lambda index: index.runs(wanted, limit=1))
    if not page.items:
        raise NotFound("No run of this plan is on the record.", hint="plans.run makes one.")
    return page.items[0]


class RunParams(Struct, frozen=True, kw_only=True):
    """A plan, and what is decided about an earlier run of it that was cut."""

    plan: dict[str, Any]
    again: bool = False
    """Whether to begin anew, whatever an earlier run did."""
    retry: list[str] = []
    """Actions to be done again, which failed or whose end nobody knows."""
    done: list[str] = []
    """Actions that somebody saw to, or saw that they were done."""
    parallel: Annotated[int, Meta(ge=1, le=PARALLEL_MAX)] = CONCURRENT_ACTIONS_MAX
    agent: str | None = None
    caller: str | None = None
    session: str | None = None


def _run_seconds(params: RunParams) -> float:
    del params
    return RUN_SECONDS


@method("plans.run", roles=ACTING, seconds=_run_seconds)
async def plans_run(peer: Peer, params: RunParams) -> StepsResult:
    """Work on a plan, each action a guarded and recorded call; ended when whoever asked goes or cancels."""
    plan, faults = await apart(peer, lambda: parse_plan(params.plan))
    if plan is not None and not faults and peer.access.tools is not None:
        faults = await apart(peer, lambda: check_plan(plan, _names(peer)).faults)
    if plan is None or faults:
        raise _refused(faults)
    try:
        return await run_steps(
            peer.service.runtime,
            plan,
            origin=peer.origin(),
            again=params.again,
            retry=params.retry,
            done=params.done,
            agent=agent_of(peer, params.agent),
            caller=params.caller,
            session=params.session,
            own_runs_only=not peer.access.reads_everything,
            parallel_max=params.parallel,
        )
    except InvalidInput as error:
        if "faults" in error.details:
            raise _refused(error.details["faults"]) from None
        raise


def _names(peer: Peer) -> frozenset[str]:
    """The tools that a plan of this peer may name."""
    names = frozenset(peer.tools.names())
    return names if peer.access.tools is None else names & peer.access.tools


def _refused(faults: Sequence[PlanFault]) -> RpcError:
    """All that is wrong with a plan, in one error."""
    said = " ".join(fault.message for fault in faults)
    return RpcError(
        jsonrpc.INVALID_PARAMS,
        f"invalid params: nothing was begun, as the plan cannot be used: {said}",
        {
            "error": InvalidInput.__name__,
            "field": "plan",
            "faults": [msgspec.to_builtins(fault) for fault in faults[:FAULTS_TOLD_MAX]],
        },
    )


METHODS = (plans_check, plans_show, plans_run)
