"""Short ways to write plans, and tools that do as they are told."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest

from custody.plans import Action, Graph, Performed, PlanResult, PlanRun, ScheduleSettings, State, run_plan

BOUND_SECONDS = 60
"""For what takes milliseconds: what takes so long hangs."""

Answer = Performed | Exception | Callable[[], Awaitable[Performed]]


def call(action_id: str, **fields: Any) -> Action:
    said: dict[str, Any] = {"tool": "echo", **fields}
    return Action(id=action_id, type="tool_call", **said)


def write(action_id: str, key: str, value: Any, **fields: Any) -> Action:
    return Action(id=action_id, type="state_write", parameters={"key": key, "value": value}, **fields)


def read(action_id: str, key: str, **fields: Any) -> Action:
    return Action(id=action_id, type="state_read", parameters={"key": key}, **fields)


def assertion(action_id: str, key: str, **said: Any) -> Action:
    return Action(id=action_id, type="assertion", parameters={"key": key, **said})


def succeeded(output: Any = None, **fields: Any) -> Performed:
    return Performed(status="succeeded", output=output, **fields)


def failed(error: str = "It broke.", **fields: Any) -> Performed:
    return Performed(status="failed", error=error, **fields)


def rejected(error: str = "A rule denies it.") -> Performed:
    return Performed(status="rejected", error=error)


async def cancelled_once(reached: asyncio.Event, work: Coroutine[Any, Any, Any]) -> None:
    """Do the work until it has come so far, and cancel it."""
    task = asyncio.create_task(work)
    async with asyncio.timeout(BOUND_SECONDS):
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class Tools:
    """Gives each action its answers in turn, the last one for ever; without any, its parameters."""

    def __init__(self, answers: Mapping[str, Sequence[Answer]] | None = None) -> None:
        self._answers = answers or {}
        self.calls: list[tuple[str, int]] = []
        """Action id and attempt, in the order in which they began."""
        self.parameters: dict[str, dict[str, Any]] = {}
        self.running = 0
        self.running_max = 0

    async def perform(self, action: Action, parameters: dict[str, Any], attempt: int) -> Performed:
        self.calls.append((action.id, attempt))
        self.parameters[action.id] = parameters
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            return await self._answer(action.id, parameters, attempt)
        finally:
            self.running -= 1

    async def _answer(self, action_id: str, parameters: dict[str, Any], attempt: int) -> Performed:
        answers = self._answers.get(action_id)
        if not answers:
            return succeeded(parameters)
        answer = answers[min(attempt, len(answers)) - 1]
        if isinstance(answer, Performed):
            return answer
        if isinstance(answer, Exception):
            raise answer
        return await answer()


class Pauses:
    """Sleeps that take no time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def at_once(**fields: Any) -> ScheduleSettings:
    return ScheduleSettings(sleep=Pauses().sleep, **fields)


def run(
    actions: Sequence[Action], tools: Tools | None = None, state: State | None = None, **more: Any
) -> PlanResult:
    """The plan worked on to its end."""

    async def main() -> PlanResult:
        fields: dict[str, Any] = {"settings": at_once(), **more}
        async with asyncio.timeout(BOUND_SECONDS):
            return await run_plan(
                Graph(actions), State() if state is None else state, (tools or Tools()).perform, **fields
            )

    return asyncio.run(main())


def statuses(result: PlanResult) -> dict[str, str]:
    return {one.action_id: one.status for one in result.results}


def begun(plan: Sequence[Action], tools: Tools, state: State | None = None, **more: Any) -> PlanRun:
    fields: dict[str, Any] = {"settings": at_once(), **more}
    return PlanRun(Graph(plan), State() if state is None else state, tools.perform, **fields)
