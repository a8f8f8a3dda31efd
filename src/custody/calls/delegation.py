"""May an agent hand its task on: not in a circle, and not without end.

Owns the judgement. Pure; `run` keeps the line of ancestors in memory, where no failing store can open it.
"""

from msgspec import Struct


class Task(Struct, frozen=True):
    """What a run was started for, as far as it tells one task from another."""

    agent: str | None
    intent: str | None
    inputs: str
    """As JSON or repr, digested."""


def refusal(ancestors: tuple[Task, ...], task: Task, depth_max: int) -> str | None:
    """Why this task may not be handed on to a run below these; None when it may.

    An agent may call itself for a part of its task; the same task again, below itself, is a circle.
    """
    if task in ancestors:
        above = len(ancestors) - ancestors.index(task)
        who = "it" if task.agent is None else task.agent
        return f"{who} was given the same task {above} run{'s' if above > 1 else ''} above: a circle"
    if len(ancestors) > depth_max:
        return f"runs may be {depth_max} deep, and this one would be {len(ancestors)}"
    return None
