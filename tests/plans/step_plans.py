"""Short ways to write step plans."""

from typing import Any

from custody.plans import StepPlan, parse_plan


def step(action_id: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    """An action as a file has it."""
    return {"id": action_id, **({"depends_on": list(depends_on)} if depends_on else {}), **fields}


def done(action_id: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    return step(action_id, *depends_on, status="completed", **fields)


def failed(action_id: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    return step(action_id, *depends_on, status={"failed": "It broke."}, **fields)


def in_progress(action_id: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    return step(action_id, *depends_on, status="in_progress", **fields)


def waiting(action_id: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    return step(action_id, *depends_on, status={"in_progress": {"waiting_for": "answer"}}, **fields)


def if_failed(action_id: str) -> dict[str, str]:
    return {"if_failed": action_id}


def if_succeeded(action_id: str) -> dict[str, str]:
    return {"if_succeeded": action_id}


def plan_of(*actions: dict[str, Any]) -> StepPlan:
    """Of actions that are all well written."""
    plan, faults = parse_plan({"id": "test", "actions": list(actions)})
    assert plan is not None
    assert faults == ()
    return plan
