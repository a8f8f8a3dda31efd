"""Everything that is wrong with a step plan, all at once and each once.

Owns the sentences. Pure, and starts nothing. Knows nothing of how far the plan has come: a fault is one of
the plan, whatever has ended. Used by `analysis`.

What makes a fault makes no second one: an action that waits for itself or for one that is not there is no
cycle, what comes after a cycle is sound, and a way round that goes through a cycle told already is not told
again. Where an id is there twice, the first action of that id is the one the others mean. Several ways round
among the same actions are told one by one as long as they have no action in common.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, islice

from custody.plans import order
from custody.plans.steps.contradictions import contradictions
from custody.plans.steps.model import FAULTS_MAX, MORE_FAULTS, FaultKind, PlanFault, StepAction, StepPlan
from custody.plans.steps.standing import NOBODY, Edges

WAYS_ROUND_MAX = 20
"""Told of one group of actions that wait for each other; each takes another look at all of the group."""

MEMBERS_SAID_MAX = 20
"""In one sentence; the fault has them all."""


def faults_of(plan: StepPlan, edges: Edges, tools: Collection[str] | None) -> tuple[PlanFault, ...]:
    """`edges` are those of the actions without a second one of an id. `tools` are the names on offer; None
    asks nothing about them."""
    actions = firsts(plan.actions)
    found = list(
        islice(
            chain(
                plan.faults,
                _duplicates(plan.actions),
                chain.from_iterable(_by_itself(action, edges, tools) for action in plan.actions),
                _cycles(actions, edges),
                _conditions(actions, edges),
            ),
            FAULTS_MAX + 1,
        )
    )
    return tuple(found) if len(found) <= FAULTS_MAX else (*found[:FAULTS_MAX], MORE_FAULTS)


def firsts(actions: Sequence[StepAction]) -> tuple[StepAction, ...]:
    """Without those whose id an earlier one has."""
    found: dict[str, StepAction] = {}
    for action in actions:
        found.setdefault(action.id, action)
    return actions if len(found) == len(actions) and isinstance(actions, tuple) else tuple(found.values())


def _duplicates(actions: Sequence[StepAction]) -> Iterator[PlanFault]:
    for action_id, count in Counter(action.id for action in actions).items():
        if count > 1:
            yield _fault("duplicate_id", action_id, f"{count} actions have the id {action_id!r}.")


def _by_itself(action: StepAction, edges: Edges, tools: Collection[str] | None) -> Iterator[PlanFault]:
    who = f"Action {action.id!r}"
    named = dict.fromkeys(action.depends_on)
    for other in named:
        if other == action.id:
            yield _fault("self_dependency", action.id, f"{who} depends on itself.")
        elif other not in edges.index:
            said = f"{who} depends on {other!r}, which is no action of the plan."
            yield _fault("missing_dependency", action.id, said, (other,))
    for reference in action.references:
        other = reference.action_id
        if other in named or not (reference.whole or other == action.id):
            continue
        named[other] = None
        if other == action.id:
            yield _fault("self_dependency", action.id, f"{who} refers to its own output.")
        elif other not in edges.index:
            said = f"{who} refers to {reference}, and there is no action of that id."
            said += " A text that only looks so is written with $$."
            yield _fault("missing_dependency", action.id, said, (other,))
    asked = action.condition.action_id
    if asked is not None and asked not in edges.index:
        said = f"{who} has the condition {action.condition}, and there is no action of that id."
        yield _fault("unknown_condition", action.id, said, (asked,))
    for tool in action.tools:
        if tools is not None and tool not in tools:
            yield _fault("unknown_tool", action.id, f"{who} asks for the tool {tool!r}, which is not there.")


# -- who waits for whom -----------------------------------------------------------------------------------


def _cycles(actions: Sequence[StepAction], edges: Edges) -> Iterator[PlanFault]:
    """Of what actions need."""
    needs = [[other for other in needs if other != number] for number, needs in enumerate(edges.needs)]
    for way in _ways_round(needs, lambda group: (group[0], None)):
        said = f"Actions wait for each other: {_around(actions, way)}."
        yield _fault("cycle", actions[way[0]].id, said, tuple(actions[one].id for one in way[1:]))


def _conditions(actions: Sequence[StepAction], edges: Edges) -> Iterator[PlanFault]:
    """That can never hold: on oneself, on what comes after oneself, or against what is needed."""
    for number, action in enumerate(actions):
        if edges.condition[number] == number:
            said = f"Action {action.id!r} asks on its condition how it ended itself, so it can never begin."
            yield _fault("never", action.id, said)
    before = _without_told_ways(edges)

    def begins(group: Sequence[int]) -> tuple[int, int]:
        members = set(group)
        first = next(one for one in group if edges.condition[one] in members and _asks(one, edges))
        return first, edges.condition[first]

    for way in _ways_round(before, begins):
        first = actions[way[0]]
        said = f"Action {first.id!r} can never begin: its condition {first.condition} waits for what waits"
        said += f" for it: {_around(actions, way)}."
        yield _fault("never", first.id, said, tuple(actions[one].id for one in way[1:]))
    yield from _contradictions(actions, edges)


def _contradictions(actions: Sequence[StepAction], edges: Edges) -> Iterator[PlanFault]:
    for one in contradictions(actions, edges, stuck(edges)):
        action, needed = actions[one.number], actions[one.needs].id
        said = f"Action {action.id!r} can never begin: when its condition {action.condition} holds, "
        said += f"{needed!r}, which it needs, {one.why}."
        yield _fault("never", action.id, said, (needed,))


def stuck(edges: Edges) -> set[int]:
    """Those whose turn never comes for a fault of the plan: their own, or one of what they come after."""
    found = edges.missing | set(edges.never_free)
    for number in edges.in_order:
        if number not in found and not found.isdisjoint(edges.before[number]):
            found.add(number)
    return found


def _asks(number: int, edges: Edges) -> bool:
    """Whether it comes after the action its condition asks for the sake of the condition alone."""
    return edges.condition[number] not in edges.needs[number]


def _without_told_ways(edges: Edges) -> list[list[int]]:
    """What each action comes after, without the ways of a cycle that is told as one."""
    group_of: dict[int, int] = {}
    for place, group in enumerate(order.circles(edges.needs)):
        group_of.update(dict.fromkeys(group, place))
    return [
        [
            other
            for other in before
            if other != number
            and not (
                other in edges.needs[number]
                and number in group_of
                and group_of[number] == group_of.get(other, NOBODY)
            )
        ]
        for number, before in enumerate(edges.before)
    ]


def _ways_round(
    before: order.Before, begins: Callable[[Sequence[int]], tuple[int, int | None]]
) -> Iterator[list[int]]:
    """Ways round that have nothing in common, each without its first member at the end. `begins` names the
    member of a group to begin with, and perhaps the one it goes to."""
    for group in order.circles(before):
        groups = [group]
        for _ in range(WAYS_ROUND_MAX):
            if not groups:
                break
            members = groups.pop()
            way = order.way_around(before, *begins(members), set(members))
            yield way
            groups += _rest(before, set(members) - set(way))


def _rest(before: order.Before, members: Collection[int]) -> list[list[int]]:
    """The groups among these alone, the first to be looked at last."""
    numbers = sorted(members)
    place = {number: at for at, number in enumerate(numbers)}
    among = [[place[other] for other in before[number] if other in place] for number in numbers]
    return [[numbers[one] for one in group] for group in reversed(order.circles(among))]


def _around(actions: Sequence[StepAction], way: Sequence[int]) -> str:
    names = [repr(actions[one].id) for one in way]
    left_out = len(names) - MEMBERS_SAID_MAX
    if left_out > 0:
        names = [*names[: MEMBERS_SAID_MAX // 2], f"… {left_out} more …", *names[-MEMBERS_SAID_MAX // 2 :]]
    return " -> ".join([*names, names[0]])


def _fault(kind: FaultKind, action_id: str, message: str, others: tuple[str, ...] = ()) -> PlanFault:
    return PlanFault(kind=kind, message=message, action_id=action_id, others=others)
