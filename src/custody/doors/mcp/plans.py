"""Plans over MCP: looked at, and worked on.

Owns the parameters, the progress that is told, and that a client's plan calls only what the client may call.
What a plan is and how it is worked on is `plans`'; looking at one starts nothing. Used by `table`.
"""

import asyncio
from typing import Annotated, Any

from msgspec import Meta, Struct, structs

from custody.calls.guards import Proposal
from custody.calls.run import current_run
from custody.doors.mcp.acts import refusal
from custody.doors.mcp.tool import Asked, DoorTool
from custody.errors import InvalidInput
from custody.plans.steps.analysis import PlanReport
from custody.plans.steps.model import parse_plan
from custody.plans.steps.results import StepsProgress, StepsResult
from custody.plans.steps.running import run_steps
from custody.records import Decision
from custody.rpc.methods import plans as wire

ENDED = ("completed", "failed", "skipped")

Plan = Annotated[
    dict[str, Any],
    Meta(
        description="{id, goal, actions: [{id, description, depends_on: [id], tools_required: [name], "
        "condition: always | {if_succeeded: id} | {if_failed: id}, status, tool, arguments, "
        "on_failure: stop | skip | continue, retries, timeout_s}]}"
    ),
]


class PlanCheckParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which plan."""

    plan: Plan


async def plan_check(asked: Asked, params: PlanCheckParams) -> PlanReport:
    return await wire.plans_check.handle(asked.caller.peer, wire.CheckParams(plan=params.plan))


class PlanRunParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which plan, whether from the beginning, and what is decided about an earlier run that was cut."""

    plan: Plan
    again: Annotated[bool, Meta(description="Begin anew, whatever an earlier run of it has done.")] = False
    retry: Annotated[
        list[str],
        Meta(description="Ids of actions to do again, which failed or whose end nobody knows."),
    ] = []
    done: Annotated[
        list[str], Meta(description="Ids of such actions that somebody saw to, or saw that they were done.")
    ] = []


async def plan_run(asked: Asked, params: PlanRunParams) -> StepsResult:
    """Raises InvalidInput for a plan that cannot be run, PlanBusy, NotRecorded."""
    caller = asked.caller
    report = await plan_check(asked, PlanCheckParams(plan=params.plan))
    plan, _ = await asyncio.to_thread(parse_plan, params.plan)
    if plan is None or not report.valid:
        said = " ".join(fault.message for fault in report.faults)
        raise InvalidInput(f"Nothing was begun: {said}", faults=report.faults)
    actions = len(plan.actions)

    def allowed_here(proposal: Proposal) -> Decision | None:
        return refusal(caller, proposal.name, acts=True)

    def told(progress: StepsProgress) -> None:
        ended = sum(progress.counts.get(word, 0) for word in ENDED)
        changed = progress.changed
        asked.progress.note(ended, actions, f"{changed.id} {changed.status}")

    session = await caller.run()
    if session is not None:
        current_run.set(session)  # of this request alone: the plan's run is started from the session's
    origin = caller.peer.origin()
    return await run_steps(
        caller.runtime,
        plan,
        origin=structs.replace(origin, guards=(allowed_here, *origin.guards)),
        on_change=told,
        again=params.again,
        retry=params.retry,
        done=params.done,
        agent=caller.peer.agent,
        own_runs_only=not caller.peer.access.reads_everything,
        prompt=asked.prompt,
    )


TOOLS = (
    DoorTool(
        name="plan_check",
        about=(
            "Analyse a plan without starting anything: every error at once, what is ready, what is blocked "
            "and by what, groups that can run side by side, and the critical path."
        ),
        params=PlanCheckParams,
        answer=plan_check,
        failed=lambda report: not report.valid,
    ),
    DoorTool(
        name="plan_run",
        about=(
            "Work on a plan to its end: each action is a guarded, recorded call of one run; one that was cut "
            "is gone on with."
        ),
        params=PlanRunParams,
        answer=plan_run,
        effect="irreversible",
        failed=lambda result: result.state != "complete",
    ),
)
