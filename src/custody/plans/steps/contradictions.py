"""Conditions of a step plan that can never hold, however its actions end.

Owns the question whether any way of carrying a plan out begins an action. Pure. The meaning of needs and
conditions is `standing`'s; what is asked here is asked of the plan alone, whatever its statuses are. Used by
`faults`.

An action with a condition is begun in some way of carrying the plan out if it is begun in the one most in its
favour: the actions that its condition asks, and those that *their* conditions ask, and so on, end as they are
asked to, every other action succeeds, and those that are to fail do so after all that does not wait for them.
Nothing is gained by another failure: what succeeds blocks nothing, loses nothing, and stops nothing. So there
is one way to be looked at for each action some `if_failed` asks, and all of them are looked at together: bit
`n` of each number below is the way in which the `n`-th of these actions fails.
"""

from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from custody.plans.steps.model import StepAction
from custody.plans.steps.standing import NOBODY, Edges


class Contradiction(Struct, frozen=True):
    """An action that no way begins."""

    number: int
    needs: int
    """What it comes after that is in the way."""
    why: str
    """What becomes of that: `fails`, `is skipped`, `is held back`."""


def contradictions(
    actions: Sequence[StepAction], edges: Edges, left_out: Collection[int]
) -> list[Contradiction]:
    """As the plan lists them. `left_out` are those that are faulty already, or come after such. An action
    whose condition asks one that is never begun is no further contradiction."""
    numbers = [number for number in edges.in_order if number not in left_out]
    return sorted(_Ways(actions, edges, numbers).contradictions(), key=lambda one: one.number)


class _Ways:
    """Every way that is to be looked at, each a bit."""

    def __init__(self, actions: Sequence[StepAction], edges: Edges, numbers: Sequence[int]) -> None:
        """`numbers` are in order, and hold all that those come after."""
        self._actions = actions
        self._edges = edges
        self._numbers = numbers
        targets = [edges.condition[number] for number in numbers if self._kind(number) == "if_failed"]
        self._way = {target: place for place, target in enumerate(dict.fromkeys(targets))}
        """Of each action that is asked to fail, the number of its bit."""
        self._fails = [0] * len(actions)
        self._ended = [0] * len(actions)
        self._completed = [0] * len(actions)
        self._failed = [0] * len(actions)
        self._lost = [0] * len(actions)
        """Skipped, with all that needs them, for a failure with `on_failure: skip`."""

    def contradictions(self) -> Iterator[Contradiction]:
        if not self._way:
            return
        self._ask()
        own_way: dict[int, int] = {}
        never: set[int] = set()
        for number in self._numbers:
            begun = self._go(number)
            asked = self._edges.condition[number]
            if asked == NOBODY:
                continue
            way = self._way[asked] if self._kind(number) == "if_failed" else own_way.get(asked)
            if way is None:
                continue
            own_way[number] = way
            if begun >> way & 1:
                continue
            never.add(number)
            if asked not in never:
                yield self._contradiction(number, 1 << way)

    def _ask(self) -> None:
        """In which ways each action has to fail: those in which a condition asks it to, directly or by way of
        the actions that conditions ask."""
        asking = [0] * len(self._actions)
        for number in reversed(self._numbers):
            if number in self._way:
                asking[number] |= 1 << self._way[number]
                self._fails[number] |= 1 << self._way[number]
            asked = self._edges.condition[number]
            if asked != NOBODY:
                asking[asked] |= asking[number]
                if self._kind(number) == "if_failed":
                    self._fails[asked] |= asking[number]

    def _go(self, number: int) -> int:
        """Carries one action out in every way at once; the ways in which it is begun."""
        asked, kind = self._edges.condition[number], self._kind(number)
        turn, blocked, lost = -1, 0, 0
        for other in self._edges.before[number]:
            turn &= self._ended[other]
            blocked |= self._blocked_by(number, other)
            lost |= self._lost_by(number, other)
        turn &= ~blocked
        self._lost[number] = lost & turn
        begun = turn & ~lost
        if kind == "if_succeeded":
            begun &= self._completed[asked]
        elif kind == "if_failed":
            begun &= self._failed[asked]
        self._failed[number] = begun & self._fails[number]
        self._completed[number] = begun & ~self._fails[number]
        self._ended[number] = turn
        return begun

    def _blocked_by(self, number: int, other: int) -> int:
        exempt = other == self._edges.condition[number]
        return 0 if exempt or self._actions[other].on_failure != "stop" else self._failed[other]

    def _lost_by(self, number: int, other: int) -> int:
        if other == self._edges.condition[number] and self._kind(number) == "if_failed":
            return 0
        failed = self._failed[other] if self._actions[other].on_failure == "skip" else 0
        return failed | self._lost[other]

    def _contradiction(self, number: int, way: int) -> Contradiction:
        for other in self._edges.before[number]:
            if not self._ended[other] & way:
                return Contradiction(number, other, "is held back")
            if (self._blocked_by(number, other) | self._lost_by(number, other)) & way:
                return Contradiction(number, other, "fails" if self._failed[other] & way else "is skipped")
        raise AssertionError("one whose condition asks an action that does as it is asked needs another")

    def _kind(self, number: int) -> str:
        return self._actions[number].condition.kind
