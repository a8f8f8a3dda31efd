"""Works on a plan: what begins when, what is tried again, what is skipped, and what is taken back.

Owns attempts and how a plan stops, for every kind of plan; and of a proposal the order, the state actions,
the assertions and the way back. Tool calls are the caller's, through `perform`: this module knows nothing of
tools, guards, records or wires. Used by the doors that take proposals, on their event loop, and by step plans
(`steps.run`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from custody.errors import CustodyError, InvalidInput
from custody.plans.conditions import unmet
from custody.plans.effects import assertion, effects, unfit
from custody.plans.graph import Action, Graph
from custody.plans.references import Unresolved, resolved
from custody.plans.results import ActionResult, Costs, Performed, PlanResult, Rollback, Status
from custody.plans.state import State, Writes
from custody.records import now_us

log = logging.getLogger("custody")

CONCURRENT_ACTIONS_MAX = 16
"""Of one plan: a quarter of what a runtime runs at once, so that one plan does not hold up all others."""

RETRY_BASE_SECONDS = 0.1
RETRY_FACTOR = 2.0

RETRY_PAUSE_SECONDS_MAX = 30.0
"""Longer than this a plan should end and be proposed again."""

Perform = Callable[[Action, dict[str, Any], int], Awaitable[Performed]]
"""Calls the action's tool with these parameters, references put in, for the attempt of that number (1-based).
Keeps the action's deadline. May raise CancelledError when cancelled; an exception aborts the plan."""

OnRollback = Callable[[Sequence[ActionResult]], Awaitable[None]]
"""Takes back what an aborted plan did beside the state: it is given what came of the actions that came to an
attempt, the last one first."""


class Cache(Protocol):
    """Outputs of idempotent actions."""

    async def get(self, action: Action, parameters: dict[str, Any], /) -> Performed | None:
        """With source `cache`. None where it is to be performed."""
        ...

    def put(self, action: Action, parameters: dict[str, Any], performed: Performed, /) -> None: ...


class ScheduleSettings(Struct, frozen=True, kw_only=True):
    """How a plan is worked on."""

    concurrent_actions_max: int = CONCURRENT_ACTIONS_MAX
    retry_base_seconds: float = RETRY_BASE_SECONDS
    retry_factor: float = RETRY_FACTOR
    retry_pause_seconds_max: float = RETRY_PAUSE_SECONDS_MAX
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep

    def pause_seconds(self, attempt: int) -> float:
        """After that attempt."""
        return min(self.retry_base_seconds * self.retry_factor ** (attempt - 1), self.retry_pause_seconds_max)


DEFAULT = ScheduleSettings()


async def run_plan(
    graph: Graph,
    state: State,
    perform: Perform,
    *,
    settings: ScheduleSettings = DEFAULT,
    cache: Cache | None = None,
    on_rollback: OnRollback | None = None,
) -> PlanResult:
    """Work on a plan to its end. Who needs its result after a cancellation as well makes a `PlanRun`."""
    run = PlanRun(graph, state, perform, settings=settings, cache=cache, on_rollback=on_rollback)
    return await run.work()


class Progress(Struct):
    """Of one action while it is worked on."""

    began_at_us: int = msgspec.field(default_factory=now_us)
    began: float = msgspec.field(default_factory=time.monotonic)
    attempts: int = 0
    running: bool = False
    """Whether an attempt has begun and not ended."""
    call_ids: list[str] = msgspec.field(default_factory=list[str])
    fault: bool = False
    """Something raised that should not: nobody knows what that means, so nothing further is begun."""

    @property
    def duration_seconds(self) -> float:
        return time.monotonic() - self.began


R = TypeVar("R")


class Attempts:
    """What is tried in one plan, and its one stop: after that nothing further is begun or tried again."""

    def __init__(self, settings: ScheduleSettings) -> None:
        self.settings = settings
        self.tool_calls = 0
        self.retries = 0
        self.stopped_why = ""
        self._stopped = asyncio.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self, why: str) -> bool:
        """Whether it had not been stopped before: the first reason stays."""
        if self.stopped:
            return False
        self.stopped_why = why
        self._stopped.set()
        return True

    async def make(
        self, attempt: Callable[[int], Awaitable[Performed]], attempts_max: int, progress: Progress
    ) -> Performed:
        """One attempt after the other, until one is no failure, or no further one is allowed or of use."""
        while True:
            progress.attempts += 1
            self.retries += progress.attempts > 1
            progress.running = True
            performed = await attempt(progress.attempts)
            progress.running = False
            self.note(performed, progress)
            if performed.status != "failed" or performed.terminal or progress.attempts >= attempts_max:
                return performed
            if not await self._pause(progress.attempts):
                return performed

    def note(self, performed: Performed, progress: Progress) -> None:
        if performed.call_id is not None:
            progress.call_ids.append(performed.call_id)
        self.tool_calls += performed.status != "rejected" and performed.source == "executed"

    async def to_its_end(
        self, work: Awaitable[R], failed: Callable[[str], R], progress: Progress
    ) -> tuple[R, bool]:
        """What an action came to, and whether its task was cancelled meanwhile: an answer that it had all the
        same is kept, and whoever asked for the cancellation is to hear of it."""
        task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        asked = task.cancelling()
        try:
            result = await work
        except asyncio.CancelledError:
            self.tool_calls += progress.running
            when = "while it ran" if progress.running else "before its next attempt"
            result = failed(f"It was cancelled {when}.")
        except Exception as error:
            progress.fault = True
            result = failed(said(error))
        return result, task.cancelling() > asked

    async def _pause(self, attempt: int) -> bool:
        """Whether there is to be another attempt: no longer when the plan has been stopped meanwhile."""
        pause = asyncio.ensure_future(self.settings.sleep(self.settings.pause_seconds(attempt)))
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((pause, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            stopped.cancel()
        return not self.stopped


class PlanRun:
    """One plan being worked on."""

    def __init__(
        self,
        graph: Graph,
        state: State,
        perform: Perform,
        *,
        settings: ScheduleSettings = DEFAULT,
        cache: Cache | None = None,
        on_rollback: OnRollback | None = None,
    ) -> None:
        self._graph = graph
        self._state = state
        self._perform = perform
        self._attempts = Attempts(settings)
        self._cache = cache
        self._on_rollback = on_rollback
        self._writes = Writes(state)
        self._results: dict[str, ActionResult] = {}
        """In the order in which actions ended."""
        self._outputs: dict[str, Any] = {}
        self._aborted_by: str | None = None
        self._cancelled = False
        self._rollback: Rollback | None = None
        self._duration_seconds = 0.0

    async def work(self) -> PlanResult:
        """Everything, to the end. When this task is cancelled, what is in flight is cancelled and waited for,
        the plan is taken back, and CancelledError goes on; `result` then tells what came of each action."""
        began = time.monotonic()
        try:
            for wave in self._graph.waves:
                await self._wave([self._graph[action_id] for action_id in wave])
        except BaseException as error:
            self._cancelled = isinstance(error, asyncio.CancelledError)
            self._stop(_CANCELLED if self._cancelled else "Not begun: the plan could not be worked on.")
            raise
        finally:
            self._duration_seconds = time.monotonic() - began
            self._skip_the_rest()
            if self._attempts.stopped:
                await self._take_back()
        return self.result

    @property
    def result(self) -> PlanResult:
        """Of every action, once `work` has returned or raised; before, of those that have ended."""
        results = tuple(self._results[a.id] for a in self._graph.actions if a.id in self._results)
        return PlanResult(
            results=results,
            costs=self._costs(results),
            aborted_by=self._aborted_by,
            cancelled=self._cancelled,
            rollback=self._rollback,
        )

    def _costs(self, results: Iterable[ActionResult]) -> Costs:
        statuses = [result.status for result in results]
        return Costs(
            tool_calls=self._attempts.tool_calls,
            actions_executed=statuses.count("succeeded") + statuses.count("failed"),
            actions_rejected=statuses.count("rejected"),
            actions_skipped=statuses.count("skipped"),
            retries=self._attempts.retries,
            duration_seconds=self._duration_seconds,
        )

    # -- waves ----------------------------------------------------------------------------------------

    async def _wave(self, actions: Sequence[Action]) -> None:
        """One by one where a failure would abort the plan: nothing is done that need not have been."""
        if len(actions) == 1 or any(action.failure_behavior == "abort" for action in actions):
            await self._in_turn(iter(actions))
            return
        waiting = iter(actions)
        workers = min(len(actions), self._attempts.settings.concurrent_actions_max)
        tasks = [asyncio.create_task(self._in_turn(waiting)) for _ in range(workers)]
        try:
            await asyncio.wait(tasks)
        finally:
            await end_all(tasks)
        for error in [task.exception() for task in tasks if not task.cancelled()]:
            if error is not None:
                raise error

    async def _in_turn(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if self._attempts.stopped:
                return
            await self._work_on(action)

    # -- one action -----------------------------------------------------------------------------------

    async def _work_on(self, action: Action) -> None:
        progress, cancelled = Progress(), False
        result = self._refusal(action)
        if result is None:
            result, cancelled = await self._attempts.to_its_end(
                self._execute(action, progress), lambda why: _result(action, "failed", why), progress
            )
        if cancelled:
            self._stop(_CANCELLED)
        self._end(action, progress, result)
        if cancelled:
            raise asyncio.CancelledError

    def _refusal(self, action: Action) -> ActionResult | None:
        """Why it is not even tried, or None."""
        for needed in self._graph.needed_by(action.id):
            status = self._results[needed].status
            if status != "succeeded":
                return _result(action, "skipped", f"Not begun: it needs {needed!r}, which {_DID[status]}.")
        reasons = unfit(action, self._graph, self._state)
        return _result(action, "rejected", " ".join(reasons)) if reasons else None

    async def _execute(self, action: Action, progress: Progress) -> ActionResult:
        try:
            parameters = resolved(action.parameters, self._outputs, self._graph.__contains__)
        except Unresolved as error:
            return _result(action, "rejected", str(error))
        if action.type == "tool_call":
            performed = await self._tried(action, parameters, progress)
        else:
            performed = self._state_action(action, parameters)
        changes = effects(action, parameters) if performed.status == "succeeded" else {}
        performed = self._with_effects(performed, changes)
        return ActionResult(
            action_id=action.id,
            status=performed.status,
            output=performed.output,
            error=performed.error,
            state_changes=changes if performed.status == "succeeded" else {},
            terminal=performed.terminal,
            source=performed.source,
        )

    def _with_effects(self, performed: Performed, changes: Mapping[str, Any]) -> Performed:
        try:
            self._writes.apply(changes)
        except InvalidInput as error:
            # Later actions would wait for what is not there: that is no success, whatever the tool did.
            message = f"Its effects on the state could not be kept. {error}"
            return msgspec.structs.replace(performed, status="failed", error=message)
        return performed

    def _state_action(self, action: Action, parameters: dict[str, Any]) -> Performed:
        key = action.key
        assert key is not None, "the graph refuses a state action without a key"
        if action.type == "state_write":
            return Performed(status="succeeded", output=parameters["value"])
        if action.type == "state_read":
            return Performed(status="succeeded", output=self._state.get(key))
        wrong = unmet([assertion(action, parameters)], self._state)
        return Performed(
            status="failed" if wrong else "succeeded", output=not wrong, error=wrong[0] if wrong else None
        )

    async def _tried(self, action: Action, parameters: dict[str, Any], progress: Progress) -> Performed:
        cache = self._cache if action.idempotent else None
        performed = await cache.get(action, parameters) if cache is not None else None
        if performed is not None:
            self._attempts.note(performed, progress)
            return performed
        attempts_max = 1 + (action.max_retries if action.failure_behavior == "retry" else 0)
        performed = await self._attempts.make(
            lambda attempt: self._perform(action, parameters, attempt), attempts_max, progress
        )
        if cache is not None and performed.status == "succeeded" and performed.cacheable:
            cache.put(action, parameters, performed)
        return performed

    # -- ends -----------------------------------------------------------------------------------------

    def _end(self, action: Action, progress: Progress, result: ActionResult) -> None:
        self._results[action.id] = result = msgspec.structs.replace(
            result,
            attempts=progress.attempts,
            call_ids=tuple(progress.call_ids),
            began_at_us=progress.began_at_us,
            duration_seconds=progress.duration_seconds,
        )
        if result.status == "succeeded":
            self._outputs[action.id] = result.output
        elif result.status != "skipped" and (
            result.terminal or progress.fault or action.failure_behavior != "skip"
        ):
            why = f"Not begun: the plan was aborted when {action.id!r} {_DID[result.status]}."
            self._stop(why, action.id)

    def _stop(self, why: str, aborted_by: str | None = None) -> None:
        """Nothing further begins, and the plan is taken back."""
        if self._attempts.stop(why):
            self._aborted_by = aborted_by

    def _skip_the_rest(self) -> None:
        for action in self._graph.actions:
            if action.id not in self._results:
                skipped = _result(action, "skipped", self._attempts.stopped_why)
                self._results[action.id] = msgspec.structs.replace(skipped, began_at_us=now_us())

    async def _take_back(self) -> None:
        self._rollback = Rollback(keys_left=tuple(self._writes.take_back()))
        ran = [result for result in reversed(self._results.values()) if result.attempts]
        for result in list(self._results.values()):
            if result.status == "succeeded":
                self._results[result.action_id] = msgspec.structs.replace(
                    result, rolled_back=True, state_changes={}
                )
        if self._on_rollback is None or not ran:
            return
        try:
            await self._on_rollback(ran)
        except asyncio.CancelledError:
            self._rollback = msgspec.structs.replace(self._rollback, error="It was cancelled.")
            raise
        except Exception as error:
            self._rollback = msgspec.structs.replace(self._rollback, error=said(error))


_CANCELLED = "Not begun: the plan was cancelled."

_DID: dict[Status, str] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "rejected": "was rejected",
    "skipped": "was skipped",
}


async def end_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels what still runs and waits for it, however often this is cancelled itself: what is left running
    would write to a state that has been taken back. Whoever performs bounds how long that takes."""
    again = False
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            again = True
    if again:
        raise asyncio.CancelledError


def _result(action: Action, status: Status, error: str) -> ActionResult:
    return ActionResult(action_id=action.id, status=status, error=error)


def said(error: Exception) -> str:
    """Errors of our own are written for people; others may hold anything, and go to the log alone."""
    if isinstance(error, CustodyError):
        return str(error)
    log.error("A plan could not be worked on as it should.", exc_info=error)
    return f"An error of the runtime: {type(error).__name__}."
