"""A step plan as it stands, to be shown: its actions in words, and the picture that was asked for.

Owns the one answer that the command line, the wire and Python give. An analysis: records may be read, and
nothing is begun. How a plan stands is `analysis`'s to say, how far a run of it came `earlier`'s, pictures are
`drawing`'s. Used by `custody plan show` and `plans.show`.
"""

from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from custody.errors import NotFound, UsageError
from custody.index import EventFilter, Index
from custody.index.lookup import LATEST
from custody.plans.steps.analysis import PlanReport
from custody.plans.steps.drawing import ActionWord, After, ShownAction, mermaid, tree
from custody.plans.steps.earlier import Clean, Shows, external_id_of, last_run_of, left_by
from custody.plans.steps.model import StepAction, StepPlan, StepStatus
from custody.plans.steps.results import StepResult
from custody.records import Run

Format = Literal["tree", "mermaid", "json"]


class ShownPlan(Struct, frozen=True, kw_only=True):
    """A plan as it stands."""

    plan_id: str
    goal: str
    digest: str
    run_id: str | None
    """The run whose record says how far the actions have come; null: the plan says so itself."""
    state: str
    """As `check_plan` has it."""
    why: str
    actions: tuple[ShownAction, ...]
    format: Format
    drawing: str | None
    """The tree, or the source of the chart; null where neither was asked for."""


def show_plan(
    plan: StepPlan, report: PlanReport, format: Format = "tree", run_id: str | None = None
) -> ShownPlan:
    """The plan, with what its report says of it. Starts nothing."""
    actions = shown_actions(plan, report)
    drawing = None
    if format == "tree":
        drawing = "".join(f"{line}\n" for line in tree(actions))
    elif format == "mermaid":
        drawing = mermaid(actions)
    return ShownPlan(
        plan_id=plan.id,
        goal=plan.goal,
        digest=plan.digest,
        run_id=run_id,
        state=report.state,
        why=report.why,
        actions=actions,
        format=format,
        drawing=drawing,
    )


def shown_actions(plan: StepPlan, report: PlanReport) -> tuple[ShownAction, ...]:
    """The actions in the order of the plan, with why those wait that do not only wait for their turn."""
    ready, ids = frozenset(report.ready), frozenset(step.id for step in plan.actions)
    why = {one.action_id: f"It will be skipped. {one.reason}" for one in report.skipped_next}
    why |= {one.action_id: f"Blocked by {one.by}, which failed." for one in report.blocked if one.chain}
    return tuple(
        ShownAction(
            id=step.id,
            description=step.description,
            tool=step.tool,
            after=_after(step, ids),
            status=_word(step, ready),
            reason=step.status.reason or why.get(step.id),
        )
        for step in plan.actions
    )


def _word(step: StepAction, ready: frozenset[str]) -> ActionWord:
    if step.status.waiting_for is not None:
        return "waiting"
    if step.status.kind == "pending" and step.id in ready:
        return "ready"
    return step.status.kind


def _after(step: StepAction, ids: frozenset[str]) -> tuple[After, ...]:
    """What it depends on; a reference within a text that names no action is plain text."""
    condition = step.condition
    only_if: Literal["succeeded", "failed"] = "failed" if condition.kind == "if_failed" else "succeeded"
    edges = [
        After(action_id=one, only_if=only_if if one == condition.action_id else None)
        for one in step.after
        if one in ids or one in step.depends_on
    ]
    if condition.action_id is not None and condition.action_id not in step.after:
        edges.append(After(action_id=condition.action_id, needed=False, only_if=only_if))
    return tuple(edges)


# -- as a run left it -----------------------------------------------------------------------------------


def run_of(index: Index, plan: StepPlan, text: str) -> Run:
    """The run of this plan that `text` names: an id, the beginning of one, or `latest` for the plan's last.

    Raises NotFound, Ambiguous, and UsageError for a run of something else.
    """
    if text not in LATEST:
        return checked(index.run(text), plan)
    found = last_run_of(index, plan.digest)
    if found is None:
        raise NotFound("No run of this plan is on the record.", hint="`custody plan run` makes one.")
    return found


def checked(run: Run, plan: StepPlan) -> Run:
    """Raises UsageError where it is not a run of this plan."""
    if run.external_id != external_id_of(plan.digest):
        raise UsageError(
            f"Run {run.id[:12]} is not of this plan, or of the plan as it was before it was changed.",
            hint="`latest` is the last run of the plan as it is.",
        )
    return run


def as_left(
    index: Index, plan: StepPlan, run: Run, clean: Clean, shows: Shows = lambda run: True
) -> StepPlan:
    """The plan with the statuses that the record of its run has, and of those that this one went on from."""
    statuses = {
        one.id: _status(one, live=run.outcome is None)
        for one in left_by(index, run, plan, clean, shows).results.values()
    }
    ids = {clean(step.id): step.id for step in plan.actions}
    for said in _finished(index, run.id):
        action_id, kind = ids.get(str(said.get("action_id"))), said.get("status")
        if action_id is not None and kind in ("completed", "failed", "skipped"):
            statuses[action_id] = StepStatus(kind, reason=None if kind == "completed" else said.get("reason"))
    actions = tuple(
        msgspec.structs.replace(step, status=statuses.get(step.id, step.status)) for step in plan.actions
    )
    return msgspec.structs.replace(plan, actions=actions)


def _status(result: StepResult, *, live: bool) -> StepStatus:
    """What has not ended in a run that goes on is in progress."""
    if live and result.outcome == "unknown":
        return StepStatus("in_progress")
    return StepStatus(result.status, reason=None if result.status == "completed" else result.reason)


def _finished(index: Index, run_id: str) -> list[dict[str, Any]]:
    """What the run said of each action when it ended; nothing where it was cut."""
    page = index.events(EventFilter(run=run_id, name="plan.finished"), limit=1, refresh=False)
    data: Any = page.items[0].data if page.items else None
    listed: Any = cast("dict[str, Any]", data).get("actions") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        return []
    return [cast("dict[str, Any]", one) for one in cast("list[Any]", listed) if isinstance(one, dict)]
