"""Row 17: what a large step plan costs to be checked, and what the scheduler adds to each of its actions.

Checked is the text of a plan of ten thousand actions with thirty thousand edges: read from JSON, every fault
looked for, groups, critical path and state said. Beside it stands the standard library's order of the same
graph, which is a small part of that. Scheduled are actions that do nothing, as a chain and all at once.
"""

import asyncio
import json
import random
import time
from graphlib import TopologicalSorter
from typing import Any

from custody.plans import StepPlan, check_plan, parse_plan, read_plan
from custody.plans.steps.run import StepRun, Tried
from harness import Measurement, Timing, arguments, interleave, report

ACTIONS = 10_000
EDGES_EACH = 3
CHECK_MS_MAX = 1_000.0
SCHEDULE_US_MAX = 200.0
SEED = 17
ORDER = "graphlib, the order alone"


def large_plan(actions: int) -> dict[str, Any]:
    chance = random.Random(SEED)
    return {
        "id": "large",
        "goal": "to be checked",
        "actions": [
            {
                "id": f"a{number}",
                "description": "one of many",
                "depends_on": [f"a{one}" for one in chance.sample(range(number), min(number, EDGES_EACH))],
                "tool": "exec",
                "arguments": {"argv": ["true"]},
            }
            for number in range(actions)
        ],
    }


def in_order(plan: dict[str, Any]) -> int:
    return len(
        list(TopologicalSorter({one["id"]: one["depends_on"] for one in plan["actions"]}).static_order())
    )


def checked(text: str) -> None:
    plan, faults = read_plan(text, ".json")
    assert plan is not None and not faults
    assert check_plan(plan, {"exec"}).state == "ready"


def shaped(chain: bool, actions: int) -> StepPlan:
    listed = [
        {"id": f"a{n}", "tool": "exec", "depends_on": [f"a{n - 1}"] if chain and n else []}
        for n in range(actions)
    ]
    plan, faults = parse_plan({"id": "shaped", "actions": listed})
    assert plan is not None, faults
    return plan


async def nothing(step: Any, given: dict[str, Any], attempt: int) -> Tried:
    return Tried(status="succeeded")


def scheduled_us(plan: StepPlan) -> float:
    """Of one action."""

    async def work() -> None:
        run = StepRun(plan, nothing)
        await run.work()
        assert all(result.status == "completed" for result in run.results)

    began = time.perf_counter()
    asyncio.run(work())
    return (time.perf_counter() - began) / len(plan.actions) * 1e6


def main() -> None:
    options = arguments(__doc__)
    actions = ACTIONS // 10 if options.quick else ACTIONS
    wanted = large_plan(actions)
    text = json.dumps(wanted)
    rounds = 2 if options.quick else 9
    timings = interleave(
        {"check": lambda: checked(text), ORDER: lambda: in_order(wanted)}, rounds=rounds, calls=1
    )
    costs = {
        name: [scheduled_us(shaped(name == "chain", actions)) for _ in range(5)] for name in ("chain", "wide")
    }
    middle = {name: sorted(found)[len(found) // 2] for name, found in costs.items()}
    measurements = [check_row(timings), *(schedule_row(name, cost) for name, cost in middle.items())]
    report("plans", measurements, {**timings, "costs_us": costs}, quick=options.quick)


def check_row(timings: dict[str, Timing]) -> Measurement:
    return Measurement(
        row=17,
        what=f"check a plan of {ACTIONS:,} actions and 30,000 edges, from its text, p50",
        value=timings["check"].p50_us / 1e3,
        unit="ms",
        target=f"≤ {CHECK_MS_MAX:,.0f} ms",
        limit=CHECK_MS_MAX,
        peers={ORDER: timings[ORDER].p50_us / 1e3},
    )


def schedule_row(name: str, cost: float) -> Measurement:
    what = {"chain": "a chain", "wide": "all at once"}[name]
    return Measurement(
        row=17,
        what=f"what the scheduler adds to an action, {ACTIONS:,} of them, {what}",
        value=cost,
        unit="µs",
        target=f"≤ {SCHEDULE_US_MAX:.0f} µs",
        limit=SCHEDULE_US_MAX,
    )


if __name__ == "__main__":
    main()
