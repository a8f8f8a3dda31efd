"""Plans: graphs of actions that an agent proposes, the order they are worked on in, and what can be foreseen.

Owns order, conditions, the state that actions share, attempts and taking back. Knows nothing of tools,
guards, records or wires: whoever takes a plan performs its calls. Used by the doors that take proposals and
step plans.
"""

from custody.plans.conditions import Condition
from custody.plans.graph import Action, Graph
from custody.plans.results import ActionResult, Performed, PlanResult
from custody.plans.schedule import PlanRun, ScheduleSettings, run_plan
from custody.plans.state import State

__all__ = [
    "Action",
    "ActionResult",
    "Condition",
    "Graph",
    "Performed",
    "PlanResult",
    "PlanRun",
    "ScheduleSettings",
    "State",
    "run_plan",
]
