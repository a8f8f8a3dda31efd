"""What can be said of a plan before anything of it is done.

Owns finding everything that is wrong with it at once, and the state and statuses to be expected. Pure and
without side effects: tools are names here and what they will give is unknown. Expected effects are taken for
kept promises, and what nobody can know yet (a value that refers to an output, a key that is written without
saying what) is not held against a plan. Used by the doors that let a plan be asked about.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from msgspec import Struct

from custody.errors import InvalidInput
from custody.plans.conditions import OPERATORS, Condition, unmet
from custody.plans.effects import assertion, effects, unfit
from custody.plans.graph import ACTIONS_MAX, Action, Conflict, Graph, action_key, faults_of
from custody.plans.references import references_in
from custody.plans.results import Status
from custody.plans.state import State

Severity = Literal["error", "warning", "info"]

Tier = Literal["decision_procedure", "heuristic", "sampled"]
"""How sure a finding is: it is so; it looks so; it was so in what was tried."""

IDENTICAL_CALLS_MIN = 3
"""Of one tool with the same parameters: an agent that goes round in circles."""

CONFLICTS_MAX = 1000
"""Told of one plan: half a million pairs of actions may write one key."""


class Issue(Struct, frozen=True, kw_only=True):
    """One finding."""

    severity: Severity
    message: str
    tier: Tier = "decision_procedure"
    action_id: str | None = None
    """None: the plan as a whole."""


class Foreseen(Struct, frozen=True, kw_only=True):
    """What is to be expected of a plan."""

    issues: tuple[Issue, ...]
    state: dict[str, Any]
    """At its end, if every tool succeeds. Effects of blocked actions are in it, so that one fault does not
    make others of all that comes after; a value that is not known yet stands as its reference."""
    waves: tuple[tuple[str, ...], ...] = ()
    """Empty where the actions have no order."""
    conflicts: tuple[Conflict, ...] = ()

    @property
    def valid(self) -> bool:
        return not any(issue.severity == "error" for issue in self.issues)


class Simulated(Struct, frozen=True, kw_only=True):
    """How a plan would go, if every tool succeeds."""

    statuses: dict[str, Status]
    """By action id, in the order of the plan."""
    reasons: dict[str, str]
    """Of those that would not succeed."""
    state: dict[str, Any]
    """At its end: as before where the plan would be aborted."""
    aborted_by: str | None = None


def verify(
    actions: Sequence[Action],
    initial_state: Mapping[str, Any] | State | None = None,
    tools: Collection[str] | None = None,
) -> Foreseen:
    """Every fault at once. `tools` are the names on offer; None asks nothing about them.

    Raises InvalidInput for an initial state that is none.
    """
    likely = _Likely(initial_state)
    faults = faults_of(actions)
    issues = [
        *(_error(fault.message, fault.action_id) for fault in faults),
        *_unknown_tools(actions[:ACTIONS_MAX], tools),
        *_unknown_operators(actions[:ACTIONS_MAX]),
    ]
    if faults:
        return Foreseen(issues=tuple(issues), state=likely.state.contents())
    graph = Graph(actions)
    for action in _in_order(graph):
        blocked = [*likely.unfit(action, graph), *likely.unasserted(action)]
        issues += [_error(message, action.id) for message in [*blocked, *likely.apply(action)]]
    conflicts = tuple(islice(graph.conflicts(), CONFLICTS_MAX))
    issues += [*map(_conflicting, conflicts), *_loops(actions), *_texts_like_references(graph)]
    return Foreseen(
        issues=tuple(issues), state=likely.state.contents(), waves=graph.waves, conflicts=conflicts
    )


Refusal = Callable[[Action, State], str | None]
"""Why somebody would refuse the action in that state; None: nobody would, as far as can be told."""


def simulate(
    graph: Graph,
    initial_state: Mapping[str, Any] | State | None = None,
    tools: Collection[str] | None = None,
    refusal: Refusal | None = None,
) -> Simulated:
    """The way the scheduler would go. Raises InvalidInput for an initial state that is none."""
    likely = _Likely(initial_state)
    before = likely.state.contents()
    statuses: dict[str, Status] = {}
    reasons: dict[str, str] = {}
    aborted_by: str | None = None
    for action in _in_order(graph):
        if aborted_by is None:
            status, reason = _expected(action, graph, likely, tools, refusal, statuses)
        else:
            status, reason = "skipped", f"The plan would have been aborted by {aborted_by!r}."
        statuses[action.id] = status
        if status != "succeeded":
            reasons[action.id] = reason
            if status != "skipped" and action.failure_behavior != "skip":
                aborted_by = action.id
    return Simulated(
        statuses={action.id: statuses[action.id] for action in graph.actions},
        reasons=reasons,
        state=likely.state.contents() if aborted_by is None else before,
        aborted_by=aborted_by,
    )


def _expected(
    action: Action,
    graph: Graph,
    likely: "_Likely",
    tools: Collection[str] | None,
    refusal: Refusal | None,
    statuses: Mapping[str, Status],
) -> tuple[Status, str]:
    """What it would come to, and why; its effects are applied where it would succeed."""
    for needed in graph.needed_by(action.id):
        if statuses[needed] != "succeeded":
            return "skipped", f"It needs {needed!r}, which would not succeed."
    refused = [*likely.unfit(action, graph), *(issue.message for issue in _unknown_tools([action], tools))]
    if not refused and refusal is not None:
        refused = [why for why in [refusal(action, likely.state)] if why is not None]
    if refused:
        return "rejected", refused[0]
    failed = likely.unasserted(action) or likely.apply(action)
    return ("failed", failed[0]) if failed else ("succeeded", "")


def _in_order(graph: Graph) -> Iterator[Action]:
    return (graph[action_id] for wave in graph.waves for action_id in wave)


class _Likely:
    """A state as it would be, and of which keys nobody can know what would stand there."""

    def __init__(self, initial: Mapping[str, Any] | State | None) -> None:
        self.state = State(initial.contents() if isinstance(initial, State) else initial)
        self._unknown: set[str] = set()

    def unfit(self, action: Action, graph: Graph) -> list[str]:
        known = [condition for condition in action.preconditions if self._is_known(condition)]
        return unfit(action, graph, self.state, known)

    def unasserted(self, action: Action) -> list[str]:
        """Why an assertion would fail."""
        if action.type != "assertion" or _refers(action):
            return []
        asserted = assertion(action, action.parameters)
        return unmet([asserted], self.state) if self._is_known(asserted) else []

    def apply(self, action: Action) -> list[str]:
        """Its effects; why one of them cannot be kept."""
        found: list[str] = []
        said = effects(action, action.parameters)
        self._unknown |= action.writes() - said.keys()
        for key, value in said.items():
            try:
                self.state.set(key, value)
            except InvalidInput as error:
                found.append(str(error))
            self._unknown.discard(key)
        if action.type == "state_write" and action.key and _refers(action):
            self._unknown.add(action.key)
        return found

    def _is_known(self, condition: Condition) -> bool:
        if condition.key not in self._unknown:
            return True
        return condition.operator in ("exists", "not_exists") and condition.key in self.state


def _refers(action: Action) -> bool:
    return any(True for _ in references_in(action.parameters))


# -- findings -----------------------------------------------------------------------------------------


def _error(message: str, action_id: str | None) -> Issue:
    return Issue(severity="error", message=message, action_id=action_id)


def _unknown_tools(actions: Iterable[Action], tools: Collection[str] | None) -> Iterator[Issue]:
    for action in actions:
        if tools is not None and action.type == "tool_call" and action.tool and action.tool not in tools:
            yield _error(f"There is no tool named {action.tool!r}.", action.id)


def _unknown_operators(actions: Iterable[Action]) -> Iterator[Issue]:
    """Beside the condition that does not hold, as this says what to mend."""
    for action in actions:
        used = [condition.operator for condition in action.preconditions]
        if action.type == "assertion" and action.key:
            used.append(assertion(action, action.parameters).operator)
        for operator in used:
            if operator not in OPERATORS:
                yield _error(f"The operator {operator!r} is none of {', '.join(OPERATORS)}.", action.id)


def _conflicting(conflict: Conflict) -> Issue:
    return Issue(
        severity="warning",
        message=f"{conflict.one!r} and {conflict.other!r} use state key {conflict.key!r}, "
        "one of them writing, and have no order between them.",
        action_id=conflict.other,
    )


def _loops(actions: Iterable[Action]) -> Iterator[Issue]:
    alike: dict[bytes, list[Action]] = {}
    for action in actions:
        if action.type == "tool_call":
            alike.setdefault(action_key(action, action.parameters), []).append(action)
    for same in alike.values():
        if len(same) >= IDENTICAL_CALLS_MIN:
            yield Issue(
                severity="warning",
                message=f"{len(same)} calls of {same[0].tool!r} have the same parameters: a loop?",
                tier="heuristic",
                action_id=same[-1].id,
            )


def _texts_like_references(graph: Graph) -> Iterator[Issue]:
    for action in graph.actions:
        for reference in dict.fromkeys(references_in(action.parameters)):
            if reference.action_id not in graph:
                message = f"{reference} stays text, as no action is called {reference.action_id!r}."
                yield Issue(severity="info", message=message, tier="heuristic", action_id=action.id)
