"""The actions of a plan and the order they have among each other.

Owns what an action is, which actions it comes after and needs, and the waves that follow; refuses plans that
have no order, each fault told apart. Pure: knows nothing of tools, of the state's values, nor of how an
action is spelled on a wire. Used by the scheduler, by what foresees a plan, and by the doors that take plans.

An action *needs* another that it names in `dependencies` or refers to in its parameters, and every earlier
one that writes a key of its `state_dependencies`: when one of those does not succeed it is skipped. It only
*comes after* earlier ones that write a key it reads otherwise (a `state_read`, an assertion, a precondition):
it may be there for the very case that they fail.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput
from custody.plans import order
from custody.plans.conditions import Condition
from custody.plans.json_values import DEPTH_MAX
from custody.plans.references import references_in, too_deep

ActionType = Literal["tool_call", "state_write", "state_read", "assertion"]
FailureBehavior = Literal["abort", "skip", "retry"]

ACTIONS_MAX = 1000
"""Of one plan; an agent that wants more proposes again when it has seen what these gave."""

RETRIES_MAX = 100
"""Of one action. With the longest pause between attempts this is most of an hour."""

FAULTS_MAX = 100
"""Told of one plan; who reads more mends these first."""


class Action(Struct, frozen=True, kw_only=True):
    """One node of a plan."""

    id: str
    type: ActionType
    tool: str | None = None
    """Of a `tool_call`."""
    parameters: dict[str, Any] = {}  # msgspec gives every action its own
    """Arguments of the tool; `key` and `value` of a `state_write`, `key` of a `state_read`; `key`, `operator`
    and `value` (or `expected`) of an `assertion`."""
    preconditions: tuple[Condition, ...] = ()
    expected_effects: dict[str, Any] = {}
    """What stands in the state once it has succeeded."""
    state_dependencies: tuple[str, ...] = ()
    """Keys it needs."""
    dependencies: tuple[str, ...] = ()
    """Ids of actions it needs."""
    read_set: tuple[str, ...] = ()
    """Further keys it reads; makes no order, but conflicts are told."""
    write_set: tuple[str, ...] = ()
    """Further keys it writes."""
    idempotent: bool = False
    max_retries: int = 3
    """Attempts after the first, where `failure_behavior` is retry."""
    failure_behavior: FailureBehavior = "abort"
    timeout_seconds: float | None = None
    """None: the tool's own."""
    metadata: dict[str, Any] = {}
    """The agent's; nobody looks into it."""

    @property
    def key(self) -> str | None:
        """The key a state action or an assertion is about."""
        key = None if self.type == "tool_call" else self.parameters.get("key")
        return key if isinstance(key, str) else None

    def writes(self) -> set[str]:
        """The keys it writes, as far as it says."""
        own = {self.key} if self.type == "state_write" and self.key else set[str]()
        return own | set(self.write_set) | self.expected_effects.keys()

    def reads(self) -> set[str]:
        """The keys it reads, as far as it says."""
        return self.looks_at() | set(self.state_dependencies) | set(self.read_set)

    def looks_at(self) -> set[str]:
        """The keys whose values decide what it gives or whether it is done at all."""
        own = {self.key} if self.type in ("state_read", "assertion") and self.key else set[str]()
        return own | {condition.key for condition in self.preconditions}


FaultKind = Literal[
    "too_many",
    "malformed",
    "duplicate_id",
    "self_reference",
    "missing_dependency",
    "unknown_reference",
    "cycle",
]


class Fault(Struct, frozen=True, kw_only=True):
    """Why actions are no plan."""

    kind: FaultKind
    message: str
    action_id: str | None = None
    """The action to be mended; None where it is the plan as a whole."""


class Conflict(Struct, frozen=True, kw_only=True):
    """Two actions without an order between them that use a key, one of them writing."""

    one: str
    other: str
    key: str


class Graph:
    """Actions that have an order. The same actions in the same order give the same graph."""

    def __init__(self, actions: Iterable[Action]) -> None:
        """Raises InvalidInput; `details` has `faults`, all that were found."""
        self.actions = tuple(actions)
        faults, edges = _checked(self.actions)
        if faults or edges is None:
            raise InvalidInput(faults[0].message, faults=faults)
        self._needs = edges.needs
        self._after = edges.after
        self._index = edges.index
        self._writers = edges.writers
        self.waves = edges.waves
        """Each wave comes after the ones before it; within a wave as the plan lists them."""

    def __getitem__(self, action_id: str) -> Action:
        return self.actions[self._index[action_id]]

    def __contains__(self, action_id: object) -> bool:
        return action_id in self._index

    def __len__(self) -> int:
        return len(self.actions)

    def needed_by(self, action_id: str) -> tuple[str, ...]:
        """The actions it needs, as the plan lists them."""
        return self._ids(self._needs[self._index[action_id]])

    def before(self, action_id: str) -> tuple[str, ...]:
        """The actions it comes after, whether it needs them or not."""
        index = self._index[action_id]
        return self._ids(self._needs[index] | self._after[index])

    def conflicts(self) -> Iterator[Conflict]:
        """Pairs of actions without an order that use a key, one of them writing: by key in order, then as the
        plan lists them."""
        writers, users = dict[str, int](), dict[str, int]()
        for number, action in enumerate(self.actions):
            written = action.writes()
            for key in written:
                writers[key] = writers.get(key, 0) | 1 << number
            for key in written | action.reads():
                users[key] = users.get(key, 0) | 1 << number
        related = self._related()
        for key in sorted(writers):
            for one in _bits(users[key]):
                against = users[key] if writers[key] >> one & 1 else writers[key]
                for other in _bits(against & ~related[one] & ~_below(one + 1)):
                    yield Conflict(one=self.actions[one].id, other=self.actions[other].id, key=key)

    def _related(self) -> list[int]:
        """For each action those that come before it or after it, at once or by way of others."""
        direct = [needs | after for needs, after in zip(self._needs, self._after, strict=True)]
        before, behind = [0] * len(direct), [0] * len(direct)
        in_order = [self._index[action_id] for wave in self.waves for action_id in wave]
        for index in in_order:
            before[index] = direct[index]
            for other in _bits(direct[index]):
                before[index] |= before[other]
        for index in reversed(in_order):
            for other in _bits(direct[index]):
                behind[other] |= behind[index] | 1 << index
        return [one | other for one, other in zip(before, behind, strict=True)]

    def written_before(self, action_id: str, key: str) -> bool:
        """Whether an action listed before it writes the key."""
        return bool(self._writers.get(key, 0) & _below(self._index[action_id]))

    def _ids(self, mask: int) -> tuple[str, ...]:
        return tuple(self.actions[index].id for index in _bits(mask))


def faults_of(actions: Sequence[Action]) -> tuple[Fault, ...]:
    """Everything that keeps these actions from being a plan, the first `FAULTS_MAX` of it."""
    return _checked(actions)[0]


def _checked(actions: Sequence[Action]) -> "tuple[tuple[Fault, ...], _Edges | None]":
    """The faults, and what leads from where to where if each action by itself is sound."""
    if len(actions) > ACTIONS_MAX:
        message = f"The plan has {len(actions)} actions; {ACTIONS_MAX} is the most it may have."
        return (Fault(kind="too_many", message=message),), None
    found = tuple(itertools.islice(_faults_by_themselves(actions), FAULTS_MAX))
    if found:
        return found, None
    edges = _Edges(actions)
    if not edges.waiting:
        return (), edges
    cycle = [actions[index].id for index in order.some_way_around(edges.before, edges.waiting)]
    shown = " -> ".join(repr(action_id) for action_id in cycle)
    first = actions[edges.waiting[0]]
    return (_fault(first, "cycle", f"Actions wait for each other: {shown}.", cycle[0]),), edges


def _faults_by_themselves(actions: Sequence[Action]) -> Iterator[Fault]:
    seen: set[str] = set()
    for action in actions:
        if action.id in seen:
            yield _fault(action, "duplicate_id", f"A second action has the id {action.id!r}.")
        seen.add(action.id)
    for action in actions:
        yield from _faults_of_one(action, seen)


def _faults_of_one(action: Action, ids: set[str]) -> Iterator[Fault]:
    wrong = _malformed(action)
    if wrong is not None:
        yield _fault(action, "malformed", f"Action {action.id!r}: {wrong}.")
        return
    for other in dict.fromkeys(action.dependencies):
        if other == action.id:
            yield _fault(action, "self_reference", f"Action {action.id!r} depends on itself.")
        elif other not in ids:
            yield _fault(
                action,
                "missing_dependency",
                f"Action {action.id!r} depends on {other!r}, which is no action of the plan.",
            )
    for reference in dict.fromkeys(references_in(action.parameters)):
        if reference.action_id == action.id:
            yield _fault(action, "self_reference", f"Action {action.id!r} refers to its own output.")
        elif reference.action_id not in ids and reference.whole:
            yield _fault(
                action,
                "unknown_reference",
                f"Action {action.id!r} refers to {reference}, and there is no action of that id. "
                "A text that only looks so is written with $$.",
            )


def _malformed(action: Action) -> str | None:
    """What is wrong with an action by itself, or None."""
    if not action.id:
        return "the id is empty"
    if action.type == "tool_call":
        if not action.tool:
            return "a tool_call names its tool"
    elif action.key is None or not action.key:
        return f"a {action.type} has the state key as parameters.key"
    if action.type == "state_write" and "value" not in action.parameters:
        return "a state_write has parameters.value"
    if not 0 <= action.max_retries <= RETRIES_MAX:
        return f"max_retries is {action.max_retries}, expected 0 to {RETRIES_MAX}"
    timeout = action.timeout_seconds
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        return "the timeout is no time that can pass"
    if too_deep(action.parameters):
        return f"the parameters are nested deeper than {DEPTH_MAX}"
    return None


def _fault(action: Action, kind: FaultKind, message: str, action_id: str | None = None) -> Fault:
    return Fault(kind=kind, message=message, action_id=action_id or action.id)


class _Edges:
    """For each action the bits of those it needs, and of those it only comes after. A set of actions is an
    integer: a thousand actions that all wait for each other's keys are a million edges otherwise."""

    def __init__(self, actions: Sequence[Action]) -> None:
        self.index = {action.id: index for index, action in enumerate(actions)}
        self.writers: dict[str, int] = {}
        self.needs: list[int] = []
        self.after: list[int] = []
        if len(actions) == 1:  # most plans; there is nothing that it could come after
            self.needs = self.after = [0]
            self.before: list[list[int]] = [[]]
            self.waves, self.waiting = ((actions[0].id,),), list[int]()
            return
        for number, action in enumerate(actions):
            needs = self._writing(action.state_dependencies)
            for other in (*action.dependencies, *(one.action_id for one in references_in(action.parameters))):
                if other in self.index:
                    needs |= 1 << self.index[other]
            self.needs.append(needs)
            self.after.append(self._writing(action.looks_at()) if self.writers else 0)
            for key in action.writes():
                self.writers[key] = self.writers.get(key, 0) | 1 << number
        self.before = [
            list(_bits(needs | after)) for needs, after in zip(self.needs, self.after, strict=True)
        ]
        waves, self.waiting = order.waves(self.before)
        self.waves = tuple(tuple(actions[index].id for index in wave) for wave in waves)

    def _writing(self, keys: Iterable[str]) -> int:
        """Of the actions so far."""
        found = 0
        for key in keys:
            found |= self.writers.get(key, 0)
        return found


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _below(index: int) -> int:
    return (1 << index) - 1


def action_key(action: Action, parameters: Mapping[str, Any]) -> bytes:
    """Equal for two calls of one tool with the same parameters, in whatever order they are written."""
    return msgspec.json.encode([action.tool, parameters], order="sorted")
