"""Runs a step plan through a runtime: each action is a guarded, recorded call of one run.

Owns that a plan is run once at a time, what a call's outcome means for its action, and how a plan goes on
from an earlier run of it: the state of a plan is in the records of its calls and nowhere else. Order
is `run`'s, reading the record `earlier`'s, what is asked beforehand `unrunnable`'s. Used by the doors
that run plans.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from custody.calls import stated
from custody.calls.beginning import user_name
from custody.calls.uncut import to_the_end
from custody.errors import InvalidInput, NotRecorded, OutcomeUnknown, PlanBusy, RunClosed, StoreClosed
from custody.index import Index
from custody.plans.schedule import CONCURRENT_ACTIONS_MAX, DEFAULT, ScheduleSettings
from custody.plans.steps.analysis import check_plan
from custody.plans.steps.earlier import (
    Earlier,
    Place,
    done_by,
    external_id_of,
    last_run_of,
    left_by,
    said_of,
    why_not_done,
)
from custody.plans.steps.holding import EVERYBODY, Holding, of_agent
from custody.plans.steps.model import StepAction, StepPlan, StepStatus
from custody.plans.steps.results import StepResult, StepsProgress, StepsResult
from custody.plans.steps.run import StepRun, Tried
from custody.plans.steps.unrunnable import check_runnable, schemas_of
from custody.records import Call, Run, RunOutcome
from custody.tools import Offered, Origin

if TYPE_CHECKING:
    from custody.calls.answers import Prompt
    from custody.calls.handle import RunHandle
    from custody.calls.runtime import Runtime

log = logging.getLogger("custody")

REASON_CHARACTERS_MAX = 500
"""Of one action's reason in the event of its plan; its call has the whole."""

OnChange = Callable[[StepsProgress], None]
"""Called on the event loop for every action that begins or ends, so it must not wait."""


class Decisions(Struct, frozen=True, kw_only=True):
    """What a person says of actions that failed, or of which nobody knows how they ended."""

    retry: tuple[str, ...] = ()
    """They are to be done again."""
    done: tuple[str, ...] = ()
    """Somebody saw to them, or saw that they were done."""
    person: str | None = None
    """Who said so at a terminal, where somebody was asked there."""

    @property
    def by_id(self) -> dict[str, str]:
        return {**dict.fromkeys(self.retry, "retry"), **dict.fromkeys(self.done, "done")}


async def run_steps(
    runtime: "Runtime",
    plan: StepPlan,
    *,
    tools: Offered | None = None,
    origin: Origin | None = None,
    on_change: OnChange | None = None,
    again: bool = False,
    retry: Iterable[str] = (),
    done: Iterable[str] = (),
    person: str | None = None,
    agent: str | None = None,
    caller: str | None = None,
    session: str | None = None,
    own_runs_only: bool = False,
    parallel_max: int = CONCURRENT_ACTIONS_MAX,
    settings: ScheduleSettings = DEFAULT,
    prompt: "Prompt | None" = None,
) -> StepsResult:
    """Run a plan to its end, in one run of its own; go on from where its last run in this folder came to.

    What is done is not done again, however that run ended: where all is done, nothing begins and no run is
    made. `again` begins anew. `retry` and `done` name actions that failed, or whose end nobody knows, and
    which are to be done again, or which somebody saw to; `person` is who said so when asked at a terminal.
    With `own_runs_only` other agents' runs of the plan are as if they had never been: neither gone on from,
    nor in the way, nor told of. `origin` says through which door the calls come; `tools` is where their names
    are looked up, by default the runtime's; `prompt` asks a person at that door, where a rule asks.

    Raises InvalidInput for a plan that cannot be run (`details` has `faults`) and for decisions where there
    is nothing to decide, PlanBusy while it is being run, NotRecorded; nothing has begun then. When cancelled,
    what runs is cancelled and the run is recorded as cancelled before CancelledError goes on."""
    origin = origin or Origin()
    offered = tools or origin.tools or runtime.tools
    decisions = Decisions(retry=tuple(retry), done=tuple(done), person=person)
    if again and decisions.by_id:
        raise InvalidInput("`again` begins anew, so there is nothing to decide about an earlier run.")
    await asyncio.to_thread(check_runnable, plan, schemas_of(plan, offered))
    work = _Stepping(
        runtime,
        plan,
        msgspec.structs.replace(origin, tools=tools or origin.tools),
        msgspec.structs.replace(settings, concurrent_actions_max=parallel_max),
        on_change,
        {"agent": agent, "caller": caller, "session": session},
        own_runs_only=own_runs_only,
        prompt=prompt,
    )
    return await work.alone(again, decisions)


class _Stepping:
    """One plan being run for somebody."""

    def __init__(
        self,
        runtime: "Runtime",
        plan: StepPlan,
        origin: Origin,
        settings: ScheduleSettings,
        on_change: OnChange | None,
        who: dict[str, Any],
        *,
        own_runs_only: bool,
        prompt: "Prompt | None",
    ) -> None:
        self._runtime = runtime
        self._plan = plan
        self._digest = plan.digest
        self._origin = origin
        self._settings = settings
        self._on_change = on_change
        self._prompt = prompt
        self._who = who
        self._recorder = runtime.ledger.recorder
        agent = stated.name(who["agent"] or runtime.settings.agent)
        self._place = Place(
            workspace=runtime.settings.workspace,
            cwd=self._clean(runtime.settings.scope.cwd),
            agent=None if agent is None else self._recorder.clean_text(agent, "leaf")[0],
            own_runs_only=own_runs_only,
        )
        self._run: RunHandle | None = None
        self._resumed_from: str | None = None
        self._is_closed = False
        """Whether somebody else has ended the run."""
        self._not_recorded: str | None = None
        """Why not, once a call could not be recorded."""
        self._words = {step.id: step.status.kind for step in plan.actions}
        self._counts = Counter(self._words.values())

    # -- once at a time -------------------------------------------------------------------------------

    async def alone(self, again: bool, decisions: Decisions) -> StepsResult:
        """All of it, while nobody else works on this plan in this folder, as far as that may be known."""
        held = Holding(self._runtime.journal, self._digest, self._place.cwd)
        try:
            last = await self._hold(held)
            return await self._work(None if again else last, decisions)
        finally:
            await held.let_go()

    async def _hold(self, held: Holding) -> Run | None:
        """Everything that is to be held, and then the last run of the plan. Raises PlanBusy."""
        index = self._runtime.index
        own = of_agent(self._place.agent)
        for whom in (own,) if self._place.own_runs_only else (EVERYBODY, own):
            if not await held.take(whom):
                raise self._busy(await asyncio.to_thread(last_run_of, index, self._digest, self._place))
        while True:
            last = await asyncio.to_thread(last_run_of, index, self._digest, self._place)
            if last is None or held.has(of_agent(last.agent)):
                return last
            if not await held.take(of_agent(last.agent)):
                raise self._busy(last)

    def _busy(self, run: Run | None) -> PlanBusy:
        if run is None or run.outcome is not None:
            return PlanBusy(f"Plan {self._plan.id!r} is being run already.", hint="Wait until it has ended.")
        return PlanBusy(
            f"Plan {self._plan.id!r} is being run already: run {run.id[:12]}, process {run.owner_pid}.",
            hint=f"Wait until it has ended, or end it with `custody cancel {run.id[:12]}`.",
            run_id=run.id,
            pid=run.owner_pid,
        )

    # -- what is known beforehand ---------------------------------------------------------------------

    async def _work(self, last: Run | None, decisions: Decisions) -> StepsResult:
        """`last` is the run to go on from."""
        earlier = await asyncio.to_thread(self._look_back, self._runtime.index, last, decisions)
        ended = self._ended_before(earlier, decisions)
        steps = StepRun(
            self._plan,
            self._perform,
            ended=ended,
            attempts={} if earlier is None else _without(earlier.attempts, decisions.by_id),
            outputs={} if earlier is None else earlier.outputs,
            settings=self._settings,
            on_change=self._changed,
        )
        for result in ended.values():
            self._changed(result)
        open_questions = [one.id for one in ended.values() if one.outcome == "unknown"]
        if open_questions:
            steps.stop(f"Not begun: nobody knows how {open_questions[0]!r} ended.")
        elif steps.may_begin or decisions.by_id:  # what was decided is on the record, whatever is left
            await self._in_a_run(steps, decisions)
        return self._result(steps)

    def _look_back(self, index: Index, last: Run | None, decisions: Decisions) -> Earlier | None:
        """What there is to go on from; None to begin anew. Raises InvalidInput."""
        earlier = None if last is None else left_by(index, last, self._plan, self._clean, self._place.shows)
        for action_id in decisions.by_id:
            if earlier is None or not earlier.may_be_decided(action_id):
                raise InvalidInput(
                    f"There is nothing to decide of {action_id!r}: no run of this plan in this folder has "
                    "left it failed or with an end that nobody knows.",
                    hint="`custody plan show FILE --run latest` tells how the last run left each action.",
                )
        both = sorted(set(decisions.retry) & set(decisions.done))
        if both:
            raise InvalidInput(f"{both[0]!r} cannot both be done again and be taken as done.")
        if earlier is not None:
            self._resumed_from = earlier.run.id
        return earlier

    def _ended_before(self, earlier: Earlier | None, decisions: Decisions) -> dict[str, StepResult]:
        """What is known before anything begins: the record, over it what the plan says, over it decisions."""
        known = {} if earlier is None else dict(earlier.results)
        for step in self._plan.actions:
            if step.status.ended:
                said = step.status
                known[step.id] = StepResult(id=step.id, status=said.kind, reason=said.reason, source="plan")
        for action_id, decided in decisions.by_id.items():
            known.pop(action_id, None)
            if decided == "done":
                known[action_id] = done_by(action_id, self._decider)
        return known

    # -- the run --------------------------------------------------------------------------------------

    async def _in_a_run(self, steps: StepRun, decisions: Decisions) -> None:
        async with self._runtime.run(
            self._plan.goal or f"Plan {self._plan.id}",
            name=f"plan {self._plan.id}",
            external_id=external_id_of(self._digest),
            inputs={
                "plan_id": self._plan.id,
                "cwd": self._place.cwd,
                "resumed_from": self._resumed_from,
            },
            on_error="raise",
            **self._who,
        ) as self._run:
            try:
                await self._record_beginning(decisions)
                await steps.work()
            except BaseException as error:
                cancelled = isinstance(error, asyncio.CancelledError)
                outcome: RunOutcome = "cancelled" if cancelled else "incomplete"
                await to_the_end(self._finish(steps, outcome, None if cancelled else type(error).__name__))
                raise
            await to_the_end(self._finish(steps, *self._outcome(steps)))

    async def _record_beginning(self, decisions: Decisions) -> None:
        """What the run goes on from is on the record before its first call."""
        if self._resumed_from is not None:
            counts = {word: count for word, count in self._counts.items() if count}
            await self._event(
                "plan.resumed", {"resumed_from": self._resumed_from, "counts": counts}, leaf=True
            )
        for action_id, decided in decisions.by_id.items():
            said = {"action_id": action_id, "as": decided, "who": self._decider}
            if decisions.person is not None:
                said["person"] = decisions.person
            await self._event("plan.decided", said, leaf=True)

    def _outcome(self, steps: StepRun) -> tuple[RunOutcome, str | None]:
        """Of the run, once nothing of it is in flight."""
        outcomes = {one.outcome: one.id for one in steps.results if one.source == "executed"}
        if "unknown" in outcomes:
            return "unknown", f"nobody knows how {outcomes['unknown']!r} ended"
        if self._not_recorded is not None:
            return "incomplete", "a call could not be recorded"
        if self._is_closed:
            return "incomplete", "the run was ended before the plan was"
        if "cancelled" in outcomes:
            return "cancelled", f"{outcomes['cancelled']!r} was cancelled"
        state, why = self._state(steps.results)
        return ("succeeded", None) if state == "complete" else ("failed", f"{state}: {why}")

    async def _finish(self, steps: StepRun, outcome: RunOutcome, reason: str | None) -> None:
        """On the record, what became of each action. What cannot be recorded any more is in the answer all
        the same: what was done, was done."""
        assert self._run is not None, "it is the run that ends"
        said = {
            "plan_id": self._plan.id,
            "digest": self._digest,
            # Ids are no names of fields: one that is called like a secret would have its status redacted.
            "actions": [
                {
                    "action_id": one.id,
                    "status": one.status,
                    "reason": (one.reason or "")[:REASON_CHARACTERS_MAX] or None,
                }
                for one in steps.results
            ],
        }
        for work in (self._event("plan.finished", said), self._run.finish(outcome, reason=reason)):
            try:
                await work
            except (NotRecorded, StoreClosed) as error:
                log.warning("What became of plan %s could not be recorded: %s", self._plan.id, error)

    async def _event(self, name: str, data: Mapping[str, Any], *, leaf: bool = False) -> None:
        assert self._run is not None, "events of a plan belong to its run"
        run_id = self._run.run_id
        draft = await asyncio.to_thread(  # of a large plan it is long, and all of it is searched for secrets
            self._recorder.draft_event, name, data, leaf_data=leaf, run_id=run_id
        )
        await self._runtime.ledger.append(draft)

    # -- one attempt ----------------------------------------------------------------------------------

    async def _perform(self, step: StepAction, arguments: dict[str, Any], attempt: int) -> Tried:
        assert step.tool is not None, "asked before anything began"
        origin = msgspec.structs.replace(
            self._origin, proposal_id=self._plan.id, action_id=step.id, attempt=attempt, told={}
        )
        try:
            call = await self._runtime.call(
                step.tool,
                arguments,
                run=self._run,
                timeout=step.timeout_s,
                origin=origin,
                prompt=self._prompt,
            )
        except RunClosed as error:  # so would all that follows
            self._is_closed = True
            return Tried(status="rejected", error=str(error), terminal=True)
        except (NotRecorded, StoreClosed) as error:
            why = f"It did not run, as it could not be recorded: {error}"
            self._not_recorded = self._not_recorded or f"Action {step.id!r}: {why}"
            return Tried(status="rejected", error=why, terminal=True)
        except OutcomeUnknown as error:
            call_id = str(error.details.get("call_id"))
            why = why_not_done(step.id, call_id, "unknown", None)
            return Tried(status="failed", error=why, terminal=True, call_id=call_id, outcome="unknown")
        return _tried(step, call)

    # -- what is told ---------------------------------------------------------------------------------

    def _changed(self, result: StepResult) -> None:
        self._counts[self._words[result.id]] -= 1
        self._counts[result.status] += 1
        self._words[result.id] = result.status
        if self._on_change is None:
            return
        run_id = None if self._run is None else self._run.id
        counts = {word: count for word, count in self._counts.items() if count}
        progress = StepsProgress(plan_id=self._plan.id, run_id=run_id, changed=result, counts=counts)
        try:
            self._on_change(progress)
        except Exception:  # showing it is nothing that may end it
            log.exception("Whoever watches plan %s could not be told of a change.", self._plan.id)
            self._on_change = None

    def _result(self, steps: StepRun) -> StepsResult:
        results = steps.results
        state, why = self._state(results)
        return StepsResult(
            plan_id=self._plan.id,
            digest=self._digest,
            run_id=None if self._run is None else self._run.id,
            state=state,
            why=why,
            actions=results,
            counts=dict(Counter(one.status for one in results)),
            resumed_from=self._resumed_from,
            recorded=self._not_recorded is None,
        )

    def _state(self, results: tuple[StepResult, ...]) -> tuple[str, str]:
        for one in results:
            if one.outcome == "unknown":
                return "blocked", f"Action {one.id!r}: {one.reason}"
        if self._not_recorded is not None:
            return "blocked", self._not_recorded
        report = check_plan(with_statuses(self._plan, results))
        return report.state, report.why

    @property
    def _decider(self) -> str | None:
        caller = self._who["caller"] or self._runtime.settings.caller
        if caller is None and self._origin.door is not None:  # who says so is on the other side of it
            caller = self._who["agent"]
        return caller or user_name()

    def _clean(self, text: str) -> str:
        """As the record has it."""
        return self._recorder.clean_text(text, "text")[0]


def with_statuses(plan: StepPlan, results: Iterable[StepResult]) -> StepPlan:
    """The plan as it stands after what came of its actions."""
    by_id = {one.id: StepStatus(one.status, reason=one.reason) for one in results}
    actions = tuple(
        msgspec.structs.replace(step, status=by_id.get(step.id, step.status)) for step in plan.actions
    )
    return msgspec.structs.replace(plan, actions=actions)


def _tried(step: StepAction, call: Call) -> Tried:
    """What a call means for its action. Nobody wants anything further where somebody ended it, and nobody
    knows what it would be where its end is unknown."""
    outcome = call.outcome or "unknown"
    if outcome == "succeeded":
        return Tried(status="succeeded", output=call.result, call_id=call.id, outcome=outcome)
    return Tried(
        status="rejected" if outcome == "rejected" else "failed",
        error=why_not_done(step.id, call.id, outcome, said_of(call)),
        terminal=outcome in ("unknown", "cancelled"),
        call_id=call.id,
        outcome=outcome,
    )


def _without(attempts: Mapping[str, int], ids: Collection[str]) -> dict[str, int]:
    """What a person has decided about begins anew."""
    return {action_id: count for action_id, count in attempts.items() if action_id not in ids}
