"""What an action asks of the state, and what it does to it.

Owns the judgement, once for those that work on a plan and those that foresee one. Pure. Used by the scheduler
and by `foresee`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from custody.plans.conditions import Condition, Readable, unmet
from custody.plans.graph import Action, Graph


def unfit(
    action: Action, graph: Graph, state: Readable, conditions: Iterable[Condition] | None = None
) -> list[str]:
    """A sentence for everything that keeps it from being begun. `conditions` are those of its preconditions
    to be asked; None is all."""
    missing = [
        f"State key {key!r}, which it depends on, is not there."
        for key in action.state_dependencies
        if key not in state and not graph.written_before(action.id, key)
    ]
    return [*missing, *unmet(action.preconditions if conditions is None else conditions, state)]


def assertion(action: Action, parameters: Mapping[str, Any]) -> Condition:
    """What an assertion says; `parameters` are its own, with references put in."""
    assert action.key is not None, "the graph refuses an assertion without a key"
    value = parameters["value"] if "value" in parameters else parameters.get("expected")
    return Condition(key=action.key, operator=str(parameters.get("operator", "eq")), value=value)


def effects(action: Action, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the state once it has succeeded; what it writes itself outranks what it expects."""
    own = {action.key: parameters["value"]} if action.type == "state_write" and action.key else {}
    return {**action.expected_effects, **own}
