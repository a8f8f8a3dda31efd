"""Plans: graphs of actions that an agent proposes or people keep, and what can be said of them beforehand.

Owns order, conditions, attempts, the state that the actions of a proposal share and its taking back, and how
step plans are read, analysed and run. Nothing here runs a tool: calls are made by whoever takes a proposal,
and for step plans through a runtime (`steps.running`). Used by the doors that take either.
"""

from custody.plans.conditions import Condition
from custody.plans.graph import Action, Graph
from custody.plans.results import ActionResult, Performed, PlanResult
from custody.plans.schedule import PlanRun, ScheduleSettings, run_plan
from custody.plans.state import State
from custody.plans.steps.analysis import PlanReport, check_plan
from custody.plans.steps.model import StepPlan, parse_plan, read_plan

__all__ = [
    "Action",
    "ActionResult",
    "Condition",
    "Graph",
    "Performed",
    "PlanReport",
    "PlanResult",
    "PlanRun",
    "ScheduleSettings",
    "State",
    "StepPlan",
    "check_plan",
    "parse_plan",
    "read_plan",
    "run_plan",
]
