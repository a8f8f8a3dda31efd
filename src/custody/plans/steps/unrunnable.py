"""Why a step plan cannot be run as it stands: asked before any of it is begun, all answers at once.

Owns what running asks beyond what `analysis` finds: that every action says what is to be called, and that its
arguments fit. Starts nothing. Used by `running`, and by the doors that tell what would keep a plan from
being run.
"""

from collections.abc import Iterator, Mapping

from custody.errors import InvalidInput
from custody.plans.references import references_in, resolved
from custody.plans.steps.analysis import check_plan
from custody.plans.steps.model import FAULTS_MAX, PlanFault, StepAction, StepPlan
from custody.tools import Offered
from custody.tools.schema import ArgumentsSchema

FAULTS_SAID_MAX = 5  # in one message; `details` has them all


def schemas_of(plan: StepPlan, offered: Offered) -> dict[str, ArgumentsSchema]:
    """Of the plan's tools that there are. Where tools are offered and withdrawn on an event loop it is asked
    there; the rest may be asked in a thread."""
    names = {name for step in plan.actions for name in step.tools}
    return {name: offered.schema(name) for name in names if offered.get(name) is not None}


def check_runnable(plan: StepPlan, schemas: Mapping[str, ArgumentsSchema]) -> None:
    """Raises InvalidInput; `details` has `faults`, all that were found."""
    faults = _faults(plan, schemas)
    if not faults:
        return
    said = " ".join(fault.message for fault in faults[:FAULTS_SAID_MAX])
    more = len(faults) - FAULTS_SAID_MAX
    raise InvalidInput(
        f"The plan cannot be run: {said}{f' And {more} more.' if more > 0 else ''}",
        hint="`custody plan check` tells what is wrong with a plan and starts nothing.",
        faults=faults,
    )


def faults_of_run(plan: StepPlan, offered: Offered) -> tuple[PlanFault, ...]:
    """Everything that keeps it from being run, the first `FAULTS_MAX` of it; empty where nothing does."""
    return _faults(plan, schemas_of(plan, offered))


def _faults(plan: StepPlan, schemas: Mapping[str, ArgumentsSchema]) -> tuple[PlanFault, ...]:
    faults = list(check_plan(plan, schemas).faults)
    ids = {step.id for step in plan.actions}
    for step in plan.actions:
        if len(faults) >= FAULTS_MAX:
            break
        faults.extend(_faults_of_one(step, ids, schemas))
    return tuple(faults[:FAULTS_MAX])


def _faults_of_one(
    step: StepAction, ids: set[str], schemas: Mapping[str, ArgumentsSchema]
) -> Iterator[PlanFault]:
    if step.status.kind == "in_progress":
        yield _fault(
            step,
            "is in progress by the plan's own word, so it is somebody else's to end; say how it stands, or "
            "`pending` to have it done",
        )
    elif step.status.kind != "pending":
        return
    elif step.tool is None:
        yield _fault(
            step, "has no `tool`, so there is nothing to be called; name one, or `completed` as status"
        )
    elif step.tool in schemas and not _refers(step, ids):
        wrong = schemas[step.tool].violation(resolved(step.arguments, {}, ids.__contains__))
        if wrong is not None:
            yield _fault(step, f"has arguments that {step.tool!r} does not take. {wrong.rstrip('.')}")


def _refers(step: StepAction, ids: set[str]) -> bool:
    """Whether what its tool gets is not known before others have ended."""
    return any(one.action_id in ids or one.whole for one in references_in(step.arguments))


def _fault(step: StepAction, said: str) -> PlanFault:
    return PlanFault(kind="malformed", message=f"Action {step.id!r} {said}.", action_id=step.id)
