"""Short ways to write step plans, and to run them: with tools that do as they are told, or in a store."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tests.plans.plans import BOUND_SECONDS, at_once

import custody
from custody.plans.steps.model import StepAction, StepPlan, parse_plan
from custody.plans.steps.results import StepResult, StepsResult
from custody.plans.steps.run import StepRun, Tried
from custody.plans.steps.running import run_steps

Answer = str | Tried | Callable[[], Awaitable[Tried]]
"""An outcome, what an attempt came to, or what gives that."""


def step(action_id: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    """An action as a file has it; it calls `echo` unless it says something else."""
    return {"id": action_id, "depends_on": list(depends_on), "tool": "echo", **fields}


def plan(*actions: dict[str, Any], plan_id: str = "example") -> StepPlan:
    read, faults = parse_plan({"id": plan_id, "actions": list(actions)})
    assert read is not None and not faults, faults
    return read


class Told:
    """Performs attempts as it is told: each action has its answers in turn, the last one for ever; without
    any it succeeds and gives its arguments."""

    def __init__(self, answers: Mapping[str, Sequence[Answer]] | None = None) -> None:
        self._answers = answers or {}
        self.begun: list[str] = []
        """Ids in the order in which attempts began."""
        self.arguments: dict[str, Any] = {}
        self.running = 0
        self.running_max = 0

    async def perform(self, action: StepAction, arguments: dict[str, Any], attempt: int) -> Tried:
        self.begun.append(action.id)
        self.arguments[action.id] = arguments
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            answers = self._answers.get(action.id, ("succeeded",))
            answer = answers[min(attempt, len(answers)) - 1]
            if isinstance(answer, str):
                return outcome(answer, arguments)
            return answer if isinstance(answer, Tried) else await answer()
        finally:
            self.running -= 1


def outcome(word: str, output: Any = None) -> Tried:
    """What an attempt with that outcome comes to."""
    if word == "succeeded":
        return Tried(status="succeeded", output=output, outcome=word)
    status = "rejected" if word == "rejected" else "failed"
    terminal = word in ("unknown", "cancelled")
    return Tried(status=status, error=f"It {word}.", outcome=word, terminal=terminal)


def begin(read: StepPlan, told: Told, **more: Any) -> StepRun:
    return StepRun(read, told.perform, **{"settings": at_once(), **more})


def run(read: StepPlan, told: Told | None = None, **more: Any) -> tuple[StepResult, ...]:
    """The plan worked on to its end, without a store."""

    async def main() -> tuple[StepResult, ...]:
        work = begin(read, told or Told(), **more)
        async with asyncio.timeout(BOUND_SECONDS):
            await work.work()
        return work.results

    return asyncio.run(main())


def words(results: Sequence[StepResult]) -> dict[str, str]:
    return {one.id: one.status for one in results}


def reasons(results: Sequence[StepResult]) -> dict[str, str]:
    return {one.id: one.reason for one in results if one.reason}


def of(result: StepsResult, action_id: str) -> StepResult:
    return next(one for one in result.actions if one.id == action_id)


def in_a_store(
    work: Callable[[Any], Awaitable[None]], *tools: Any, store: str = ":memory:", **options: Any
) -> None:
    """Do that with a runtime that has these tools."""

    async def main() -> None:
        async with asyncio.timeout(BOUND_SECONDS), custody.open(store, tools=tools, **options) as runtime:
            await work(runtime)

    asyncio.run(main())


async def stepped(runtime: Any, read: StepPlan, **options: Any) -> StepsResult:
    return await run_steps(runtime, read, settings=at_once(), **options)
