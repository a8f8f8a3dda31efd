"""A program that works on a plan until it is done, or killed: each action adds a line to a file.

It tells on standard output, a line each, what begins and what ends; the last line is what the plan came to.
"""

import asyncio
import os
import shlex
import sys
from typing import Any

import msgspec

import custody
from custody.plans.steps.model import StepPlan, parse_plan
from custody.plans.steps.results import StepsProgress
from custody.plans.steps.running import run_steps

ACTIONS = 10


def plan_of(lines: str) -> StepPlan:
    """Two branches that meet now and then, so that one or two actions are under way when the program dies."""
    actions: list[dict[str, Any]] = []
    for number in range(ACTIONS):
        before = [
            f"a{one}" for one in ((number - 2,) if number % 3 else (number - 1, number - 2)) if one >= 0
        ]
        command = f"echo a{number} >> {shlex.quote(lines)}"
        actions.append(
            {
                "id": f"a{number}",
                "depends_on": before,
                "tool": "exec",
                "arguments": {"argv": ["sh", "-c", command]},
            }
        )
    plan, faults = parse_plan({"id": "lines", "actions": actions})
    assert plan is not None and not faults
    return plan


def tell(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def changed(progress: StepsProgress) -> None:
    if progress.run_id is not None:
        tell(f"{progress.changed.id} {progress.changed.status}")


async def main(store: str, lines: str, done: str, retry: str) -> None:
    async with custody.open(store) as runtime:
        tell("open")
        result = await run_steps(
            runtime, plan_of(lines), on_change=changed, done=done.split(), retry=retry.split()
        )
    tell(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
