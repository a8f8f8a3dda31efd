"""What can be said of a step plan: what is wrong with it, how it stands, what comes next.

Owns the report and its words. An analysis: it reads a plan and starts nothing, asks no tool and no record.
Faults are `faults`', the meaning of needs, conditions and failures is `standing`'s. Used by what runs step
plans, and by every door that checks or shows one.

`state` is

- `invalid`: the plan has faults, so nothing of it is to be begun (but `running` where something is in
  progress all the same, and `deadlocked` where the faults keep everything that is left from ever beginning);
- `running`: something is in progress that does not wait for an answer;
- `ready`: something may begin;
- `waiting`: nothing may begin, and everything in progress waits for an answer;
- `blocked`: a failure keeps what is left from being begun; or nothing is left, and something failed;
- `deadlocked`: nothing is in progress, nothing can ever begin, and no failure is to blame: only faults do
  that;
- `complete`: everything is completed or skipped, or will be skipped.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

from msgspec import Struct

from custody.plans import order
from custody.plans.steps.faults import faults_of, firsts, stuck
from custody.plans.steps.model import FAULTS_MAX, PlanFault, StepAction, StepPlan, parse_plan
from custody.plans.steps.standing import NOBODY, Blocked, Edges, Standing

PlanState = Literal["running", "ready", "blocked", "waiting", "deadlocked", "complete", "invalid"]

NAMED_MAX = 5
"""Ids in one sentence."""


UNREADABLE = ("malformed", "too_many", "duplicate_id")
"""Kinds of faults with which nobody knows what the plan is."""


class PlanCounts(Struct, frozen=True, kw_only=True):
    """How many actions the plan has of each status."""

    pending: int = 0
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    skipped: int = 0


class PlanWarning(Struct, frozen=True, kw_only=True):
    """What may be meant, and hardly is."""

    action_id: str
    message: str


class SkippedNext(Struct, frozen=True, kw_only=True):
    """A pending action that is skipped as soon as the plan goes on."""

    action_id: str
    reason: str


class PlanReport(Struct, frozen=True, kw_only=True):
    """A step plan, analysed. Nothing was started to find this out."""

    plan_id: str | None
    """Null where the plan could not be read so far."""
    digest: str | None
    """Of what is to be done; null where the plan could not be read as a whole."""
    valid: bool
    """Whether there are no faults."""
    faults: tuple[PlanFault, ...] = ()
    warnings: tuple[PlanWarning, ...] = ()
    state: PlanState
    why: str
    """Why it is in that state, in a sentence."""
    counts: PlanCounts = PlanCounts()
    ready: tuple[str, ...] = ()
    """What may begin now, as the plan lists it."""
    groups: tuple[tuple[str, ...], ...] = ()
    """What has not ended, by when it could begin at the earliest; those of one group may run at once. Without
    what is blocked or skipped next. Empty where the actions have no order."""
    critical_path: tuple[str, ...] = ()
    """The longest chain of these: so many have to be done one after the other."""
    blocked: tuple[Blocked, ...] = ()
    skipped_next: tuple[SkippedNext, ...] = ()
    runnable: bool = False
    """Whether the plan is valid and everything left of it says which tool is to be called."""
    analysis_only: Literal[True] = True


def check_data(data: Any, tools: Collection[str] | None = None) -> PlanReport:
    """The report of a plan of plain values, with everything that is wrong with their spelling."""
    plan, faults = parse_plan(data)
    if plan is not None:
        return check_plan(plan, tools)
    why = f"The plan cannot be read: {faults[0].message}"
    return PlanReport(plan_id=None, digest=None, valid=False, faults=faults, state="invalid", why=why)


def check_plan(plan: StepPlan, tools: Collection[str] | None = None) -> PlanReport:
    """Everything that can be said of the plan. `tools` are the names on offer; None asks nothing of them."""
    actions = firsts(plan.actions)
    edges = Edges(actions)
    faults = faults_of(plan, edges, tools)
    statuses = {action.id: action.status.kind for action in actions if action.status.kind != "pending"}
    standing = Standing(actions, statuses, edges)
    skipped = tuple(SkippedNext(action_id=one, reason=why) for one, why in standing.take_skipped())
    view = _View(actions, edges, standing, faults, len(skipped))
    groups, critical_path = view.to_come()
    state, why = view.state()
    left = [action for action in plan.actions if not action.status.ended]
    return PlanReport(
        plan_id=plan.id or None,
        digest=None if plan.faults else plan.digest,
        valid=not faults,
        faults=faults,
        warnings=tuple(islice(_warnings(actions, edges), FAULTS_MAX)),
        state=state,
        why=why,
        counts=PlanCounts(**Counter(action.status.kind for action in plan.actions)),
        ready=standing.ready,
        groups=groups,
        critical_path=critical_path,
        blocked=view.blocked,
        skipped_next=skipped,
        runnable=not faults and all(action.tool is not None for action in left),
    )


class _View:
    """How a plan stands once what is skipped next is skipped."""

    def __init__(
        self,
        actions: Sequence[StepAction],
        edges: Edges,
        standing: Standing,
        faults: Sequence[PlanFault],
        skipped: int,
    ) -> None:
        self._actions = actions
        self._edges = edges
        self._ready = standing.ready
        self._faults = faults
        self._skipped = skipped
        self._status = [standing.status_of(action.id) for action in actions]
        self._stuck = stuck(edges)
        self._readable = not any(fault.kind in UNREADABLE for fault in faults)
        self._failed = [action.id for action in self._of("failed")]
        self._pending = [action.id for action in self._of("pending")]
        self.blocked = standing.blocked()
        if not self._pending and not any(self._of("in_progress")):
            self.blocked = tuple(Blocked(action_id=one, by=one) for one in self._failed)

    def _of(self, word: str) -> Iterator[StepAction]:
        for action, status in zip(self._actions, self._status, strict=True):
            if status == word:
                yield action

    def to_come(self) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
        """Groups and critical path."""
        if self._stuck or not self._readable:
            return (), ()
        blocked = {one.action_id for one in self.blocked}
        left = [
            number
            for number in self._edges.in_order
            if self._status[number] in ("pending", "in_progress") and self._actions[number].id not in blocked
        ]
        place: dict[int, int] = {}
        groups: list[list[int]] = []
        for number in left:
            before = (place[other] for other in self._edges.before[number] if other in place)
            place[number] = 1 + max(before, default=-1)
            if place[number] == len(groups):
                groups.append([])
            groups[place[number]].append(number)
        way = order.longest_way(self._edges.before, left)
        return tuple(self._ids(sorted(group)) for group in groups), self._ids(way)

    def _ids(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._actions[number].id for number in numbers)

    def state(self) -> tuple[PlanState, str]:
        """The word, and the sentence."""
        in_progress = list(self._of("in_progress"))
        running = [action.id for action in in_progress if action.status.waiting_for is None]
        if running:
            return "running", f"{_named(running)} {_is(running)} in progress."
        if self._faults:
            return self._with_faults(in_progress)
        if self._ready:
            return "ready", f"{_named(self._ready)} may begin."
        if in_progress:
            ids = [action.id for action in in_progress]
            return "waiting", f"{_named(ids)} {'waits' if len(ids) == 1 else 'wait'} for an answer."
        if self._pending:
            by = list(dict.fromkeys(one.by for one in self.blocked))
            held = [one.action_id for one in self.blocked]
            return "blocked", f"{_named(by)} failed, which keeps {_named(held)} from being begun."
        if self._failed:
            return "blocked", f"Nothing is left to be begun, and {_named(self._failed)} failed."
        if self._skipped:
            return "complete", f"Nothing is left to be begun; {self._skipped} will be skipped."
        return "complete", "Every action is completed or skipped." if self._actions else "There is no action."

    def _with_faults(self, in_progress: Sequence[StepAction]) -> tuple[PlanState, str]:
        count = "1 fault" if len(self._faults) == 1 else f"{len(self._faults)} faults"
        idle = not self._ready and not in_progress and not self.blocked
        if self._readable and idle and self._pending:
            why = f"Nothing is in progress, and {_named(self._pending)} can never begin"
            return "deadlocked", f"{why}, for {count} of the plan: {self._faults[0].message}"
        return "invalid", f"The plan has {count}: {self._faults[0].message}"


def _warnings(actions: Sequence[StepAction], edges: Edges) -> Iterator[PlanWarning]:
    """Statuses that do not go together: something was begun before its turn."""
    for number, action in enumerate(actions):
        if action.status.kind in ("pending", "skipped"):
            continue
        who = f"Action {action.id!r} is {_word(action)}"
        before = [actions[one] for one in edges.before[number] if one != number]
        early = next((one for one in before if not one.status.ended), None)
        if early is not None:
            said = f"{who}, though {early.id!r}, which it comes after, is {_word(early)}."
            yield PlanWarning(action_id=action.id, message=said)
        asked = edges.condition[number]
        if asked != NOBODY and actions[asked].status.ended:
            wanted = "failed" if action.condition.kind == "if_failed" else "completed"
            if actions[asked].status.kind != wanted:
                said = f"{who}, though its condition {action.condition} does not hold."
                yield PlanWarning(action_id=action.id, message=said)


def _word(action: StepAction) -> str:
    return action.status.kind.replace("_", " ")


def _named(ids: Sequence[str]) -> str:
    names = [repr(one) for one in ids[:NAMED_MAX]]
    if len(ids) > NAMED_MAX:
        return f"{', '.join(names)} and {len(ids) - NAMED_MAX} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(ids: Sequence[str]) -> str:
    return "is" if len(ids) == 1 else "are"
