"""Works on a step plan: each action begins as soon as what it comes after has ended.

Owns what runs when, how much at once, and what came of each action. Which actions may begin is `standing`'s
to say; attempts and the one stop are those of every plan (`schedule`). Knows nothing of tools, runs or
records: each attempt is the caller's, through `perform`. Used by `running`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from custody.plans.references import Unresolved, references_in, resolved
from custody.plans.results import Performed
from custody.plans.schedule import DEFAULT, Attempts, Progress, ScheduleSettings, end_all
from custody.plans.steps.model import StepAction, StepPlan
from custody.plans.steps.results import StepResult
from custody.plans.steps.standing import Standing


class Tried(Performed, frozen=True, kw_only=True):
    """What one attempt came to. `terminal`: nothing further is begun in the plan."""

    outcome: str | None = None


PerformStep = Callable[[StepAction, dict[str, Any], int], Awaitable[Tried]]
"""Calls the action's tool with these arguments, references put in, for the attempt of that number
(1-based)."""


class StepRun:
    """One step plan being worked on."""

    def __init__(
        self,
        plan: StepPlan,
        perform: PerformStep,
        *,
        ended: Mapping[str, StepResult] | None = None,
        attempts: Mapping[str, int] | None = None,
        outputs: Mapping[str, Any] | None = None,
        settings: ScheduleSettings = DEFAULT,
        on_change: Callable[[StepResult], None] = lambda result: None,
    ) -> None:
        """`ended` is what is known before anything begins, `attempts` what was tried of actions that have not
        ended, `outputs` what those that are done gave. `on_change` hears of every action that begins or
        ends."""
        self._plan = plan
        self._perform = perform
        self._attempts = Attempts(settings)
        self._on_change = on_change
        self._results = dict(ended or {})
        self._tried_before = attempts or {}
        self._outputs = dict(outputs or {})
        self._referred_to = referred_to(plan)
        self._standing = Standing(plan.actions, {one.id: one.status for one in self._results.values()})
        self._ids = {step.id for step in plan.actions}
        self._workers: set[asyncio.Task[None]] = set()
        self._all_ended = asyncio.Event()
        self._fault: BaseException | None = None
        self._note_skipped()

    @property
    def may_begin(self) -> bool:
        """Whether there is anything to do."""
        return len(self._standing) > 0

    def stop(self, why: str) -> None:
        """Nothing further begins, for that reason."""
        self._attempts.stop(why)

    async def work(self) -> None:
        """Everything that may begin, to the end. When this task is cancelled, what is in flight is cancelled
        and waited for, and CancelledError goes on; `results` tells what came of each action."""
        self._staff(len(self._standing))
        try:
            if self._workers:
                await self._all_ended.wait()
        except asyncio.CancelledError:
            self.stop("Not begun: the plan was cancelled.")
            await end_all(list(self._workers))
            raise
        if self._fault is not None:
            raise self._fault

    @property
    def results(self) -> tuple[StepResult, ...]:
        """Of every action, in the order of the plan."""
        return tuple(self._results.get(step.id) or self._not_begun(step) for step in self._plan.actions)

    def _not_begun(self, step: StepAction) -> StepResult:
        why = self._attempts.stopped_why or self._standing.held_back(step.id)
        return StepResult(
            id=step.id, status="pending", reason=why, attempts=self._tried_before.get(step.id, 0)
        )

    # -- workers --------------------------------------------------------------------------------------

    def _staff(self, actions: int) -> None:
        """Have enough workers for so many actions more."""
        wanted = min(actions, self._attempts.settings.concurrent_actions_max - len(self._workers))
        for _ in range(wanted):
            worker = asyncio.create_task(self._in_turn())
            self._workers.add(worker)
            worker.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        fault = None if worker.cancelled() else worker.exception()
        if fault is not None:  # an error of Custody's own: nobody knows what it means for what comes after
            self._fault = self._fault or fault
            self.stop("Not begun: the plan could not be worked on.")
        if not self._workers:
            self._all_ended.set()

    async def _in_turn(self) -> None:
        while not self._attempts.stopped and (step := self._standing.take()) is not None:
            await self._work_on(step)
            self._staff(len(self._standing) - 1)

    # -- one action -----------------------------------------------------------------------------------

    async def _work_on(self, step: StepAction) -> None:
        progress = Progress(attempts=self._tried_before.get(step.id, 0))
        self._tell(
            StepResult(id=step.id, status="in_progress", attempts=progress.attempts, source="executed")
        )
        tried, cancelled = await self._attempts.to_its_end(
            self._execute(step, progress),
            lambda why: Tried(
                status="failed",
                error=why,
                terminal=True,
                outcome="cancelled" if progress.running and not progress.fault else None,
            ),
            progress,
        )
        self._end(step, progress, tried)
        if cancelled:
            raise asyncio.CancelledError

    async def _execute(self, step: StepAction, progress: Progress) -> Tried:
        try:
            arguments = resolved(step.arguments, self._outputs, self._ids.__contains__)
        except Unresolved as error:
            return Tried(status="rejected", error=f"{error}{self._why_no_output(step)}")
        performed = await self._attempts.make(
            lambda attempt: self._perform(step, arguments, attempt), 1 + step.retries, progress
        )
        assert isinstance(performed, Tried), "it is what this plan's `perform` gave"
        return performed

    def _why_no_output(self, step: StepAction) -> str:
        """Where it refers to what an earlier run did and whose result is not on the record as it was."""
        for one in step.references:
            before = self._results.get(one.action_id)
            if one.action_id not in self._outputs and before is not None and before.source == "earlier run":
                return (
                    " It was done by an earlier run, and the record has its result no more, or not as it "
                    "was: secrets are replaced there, and what is old may be purged."
                )
        return ""

    def _end(self, step: StepAction, progress: Progress, tried: Tried) -> None:
        done = tried.status == "succeeded"
        result = StepResult(
            id=step.id,
            status="completed" if done else "failed",
            reason=tried.error,
            call_ids=tuple(progress.call_ids),
            attempts=progress.attempts,
            outcome=tried.outcome,
            source="executed",
            duration_s=progress.duration_seconds,
        )
        if done and step.id in self._referred_to:
            self._outputs[step.id] = tried.output
        if tried.terminal:
            self.stop(f"Not begun: the plan stopped at {step.id!r}.")
        self._tell(result)
        self._standing.ended(step.id, result.status)
        self._note_skipped()

    def _note_skipped(self) -> None:
        for step_id, reason in self._standing.take_skipped():
            self._tell(StepResult(id=step_id, status="skipped", reason=reason, source="executed"))

    def _tell(self, result: StepResult) -> None:
        self._results[result.id] = result
        self._on_change(result)


def referred_to(plan: StepPlan) -> set[str]:
    """The actions whose outputs some action's arguments ask for: no others are kept."""
    return {reference.action_id for step in plan.actions for reference in references_in(step.arguments)}
