"""What of a step plan may begin now, what is skipped, and what is held back by which failure.

Owns the meaning of `depends_on`, conditions and `on_failure`, once for the analysis and for running. Pure:
nothing is begun here; whoever runs a plan takes what is ready and says how it ended. Knows nothing of tools,
attempts or times. Used by `analysis` and `run`.

- An action's **turn** comes when every action it needs (those it depends on, and those its arguments refer
  to) and the one its condition asks have ended: completed, failed or skipped. Only then is anything decided.
- **Unmet**: `if_succeeded x` where x did not complete, `if_failed x` where x did not fail. It is skipped;
  what needs it may still begin, as a skipped action satisfies.
- **A need that failed** satisfies where its `on_failure` is `continue`, and for an action whose own condition
  is `if_failed` of it. With `skip` whatever needs it is skipped, and what needs that, and so on; to ask
  `if_succeeded` of it is to need it. With `stop` it blocks, but for an action whose own condition is
  `if_succeeded` of it, which is unmet.
- **Stopped**: once an action with `on_failure: stop` has failed nothing further begins but what **answers** a
  failure, and what that waits for. `if_failed x` answers once x has failed; `if_succeeded x` answers once x,
  which answered, has completed. Skipping goes on.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from custody.plans import order
from custody.plans.steps.model import StepAction

CHAIN_ENDS_MAX = 20
"""Of the actions between a failure and what it blocks, told from either end: the chains of a plan that is one
long chain would be half a million ids."""

NOBODY = -1


class Edges:
    """What each action needs and what its condition asks, by number. The ids are unique."""

    def __init__(self, actions: Sequence[StepAction]) -> None:
        self.index = {action.id: number for number, action in enumerate(actions)}
        self.needs: list[list[int]] = []
        self.condition: list[int] = []
        """The action a condition asks; NOBODY for `always`, and where there is no such action."""
        self.missing: set[int] = set()
        """Actions that need, or whose condition asks, one that is not there: their turn never comes."""
        for number, action in enumerate(actions):
            self.needs.append(self._needs(number, action))
            self.condition.append(self._asked(number, action))
        self.before = [
            needs if asked == NOBODY or asked in needs else [*needs, asked]
            for needs, asked in zip(self.needs, self.condition, strict=True)
        ]
        self.behind = order.behind(self.before)
        waves, self.never_free = order.waves(self.before)
        """Those in circles, and what comes after them."""
        self.in_order = [number for wave in waves for number in wave]
        """Each after those it comes after; without those that are never free."""

    def _needs(self, number: int, action: StepAction) -> list[int]:
        found: dict[int, None] = {}
        for other in action.depends_on:
            if other in self.index:
                found[self.index[other]] = None
            else:
                self.missing.add(number)
        for reference in action.references:
            if reference.action_id in self.index:
                found[self.index[reference.action_id]] = None
            elif reference.whole:
                self.missing.add(number)
        return list(found)

    def _asked(self, number: int, action: StepAction) -> int:
        if action.condition.action_id is None:
            return NOBODY
        asked = self.index.get(action.condition.action_id, NOBODY)
        if asked == NOBODY:
            self.missing.add(number)
        return asked


class Blocked(Struct, frozen=True, kw_only=True):
    """An action that a failure keeps from being begun."""

    action_id: str
    by: str
    """The action that failed."""
    chain: tuple[str, ...] = ()
    """From the failed action to this one, each held back by the one before it; empty for the failed action
    itself, where nothing else is left of the plan."""
    left_out: int = 0
    """How many were left out of the middle of a long chain."""


class Standing:
    """How a step plan stands. The same statuses come to the same, in whatever order they came about, but for
    which of several failures is told as the one that stopped the plan."""

    def __init__(
        self,
        actions: Sequence[StepAction],
        statuses: Mapping[str, str] | None = None,
        edges: Edges | None = None,
    ) -> None:
        """`statuses` has the word of each action that is not pending."""
        self._actions = actions
        self._edges = edges or Edges(actions)
        words = statuses or {}
        self._status = [words.get(action.id, "pending") for action in actions]
        self._waits = [
            sum(not self._ended(other) for other in before) + (number in self._edges.missing)
            for number, before in enumerate(self._edges.before)
        ]
        """Of those it comes after, how many have not ended."""
        self._answers = [False] * len(actions)
        self._wanted = [False] * len(actions)
        """Answers a failure, or is waited for by one that does."""
        self._lost_to = [NOBODY] * len(actions)
        """Of skipped actions: the failure for which all that needs them is skipped too."""
        self._stopped_by = NOBODY
        self._held: set[int] = set()
        """Their turn has come, and the plan is stopped."""
        self._queue: list[int] = []
        self._skipped: list[tuple[str, str]] = []
        self._turns: deque[int] = deque()
        self._holders_found: tuple[list[int], list[int]] | None = None
        self._begin_with_what_ended()

    def _begin_with_what_ended(self) -> None:
        for number, status in enumerate(self._status):
            if status == "failed":
                self._note_failure(number)
        self._find_losses()
        self._turns.extend(
            number
            for number, status in enumerate(self._status)
            if status == "pending" and not self._waits[number]
        )
        self._decide()

    def _find_losses(self) -> None:
        """For which failures those were skipped that are skipped already."""
        rest = deque(number for number, status in enumerate(self._status) if status == "failed")
        while rest:
            for later in self._edges.behind[rest.popleft()]:
                if self._status[later] == "skipped" and self._lost_to[later] == NOBODY:
                    self._lost_to[later] = self._loss(later)
                    if self._lost_to[later] != NOBODY:
                        rest.append(later)

    # -- what may be begun ----------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._queue)

    @property
    def ready(self) -> tuple[str, ...]:
        """As the plan lists them."""
        return tuple(self._actions[number].id for number in sorted(self._queue))

    def take(self) -> StepAction | None:
        """The first that is ready, as the plan lists them: it is in progress from now on."""
        if not self._queue:
            return None
        number = heapq.heappop(self._queue)
        self._status[number] = "in_progress"
        self._holders_found = None
        return self._actions[number]

    def ended(self, action_id: str, status: str) -> None:
        """An action in progress was completed, failed, or skipped."""
        number = self._edges.index[action_id]
        assert self._status[number] == "in_progress", "an action ends once, and was taken before"
        self._end(number, status)
        self._decide()

    def take_skipped(self) -> list[tuple[str, str]]:
        """Ids and reasons of those that were skipped since this was asked last, by their condition or for a
        failure: at the beginning too."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def status_of(self, action_id: str) -> str:
        return self._status[self._edges.index[action_id]]

    # -- ends and turns -------------------------------------------------------------------------------

    def _ended(self, number: int) -> bool:
        return self._status[number] in ("completed", "failed", "skipped")

    def _end(self, number: int, status: str) -> None:
        self._status[number] = status
        if status == "failed":
            self._note_failure(number)
        elif status == "completed" and self._answers[number]:
            self._answer(self._asking(number, "if_succeeded"))
        for later in self._edges.behind[number]:
            self._waits[later] -= 1
            if not self._waits[later] and self._status[later] == "pending":
                self._turns.append(later)

    def _decide(self) -> None:
        """Of all whose turn has come, and of those whose turn that brings."""
        self._holders_found = None
        while self._turns:
            number = self._turns.popleft()
            if self._failed_need(number) != NOBODY:
                continue
            self._lost_to[number] = self._loss(number)
            reason = self._why_skipped(number)
            if reason is not None:
                self._skipped.append((self._actions[number].id, reason))
                self._end(number, "skipped")
            elif self._stopped_by != NOBODY and not self._wanted[number]:
                self._held.add(number)
            else:
                heapq.heappush(self._queue, number)

    # -- failures -------------------------------------------------------------------------------------

    def _note_failure(self, number: int) -> None:
        self._answer(self._asking(number, "if_failed"))
        if self._actions[number].on_failure == "stop" and self._stopped_by == NOBODY:
            self._stopped_by = number
            self._held.update(one for one in self._queue if not self._wanted[one])
            self._queue = sorted(one for one in self._queue if self._wanted[one])

    def _asking(self, number: int, kind: str) -> Iterator[int]:
        """Those whose condition asks it in that way."""
        for later in self._edges.behind[number]:
            if self._edges.condition[later] == number and self._actions[later].condition.kind == kind:
                yield later

    def _answer(self, numbers: Iterable[int]) -> None:
        rest = list(numbers)
        while rest:
            number = rest.pop()
            if not self._answers[number]:
                self._answers[number] = True
                self._want(number)
                if self._status[number] == "completed":
                    rest.extend(self._asking(number, "if_succeeded"))

    def _want(self, number: int) -> None:
        """It, and what it waits for, may begin though the plan is stopped."""
        rest = [number]
        while rest:
            one = rest.pop()
            if self._wanted[one] or self._ended(one):
                continue
            self._wanted[one] = True
            if one in self._held:
                self._held.discard(one)
                heapq.heappush(self._queue, one)
            rest.extend(self._edges.before[one])

    def _failed_need(self, number: int) -> int:
        """The first need that failed and blocks it."""
        asked = self._edges.condition[number]
        for other in self._edges.needs[number]:
            if (
                self._status[other] == "failed"
                and self._actions[other].on_failure == "stop"
                and other != asked
            ):
                return other
        return NOBODY

    def _loss(self, number: int) -> int:
        """The failure for which it is to be skipped, and all that needs it."""
        asked, kind = self._edges.condition[number], self._actions[number].condition.kind
        for other in self._edges.before[number]:
            if other == asked and kind == "if_failed":
                continue
            if self._status[other] == "failed" and self._actions[other].on_failure == "skip":
                return other
            if self._lost_to[other] != NOBODY:
                return self._lost_to[other]
        return NOBODY

    def _why_skipped(self, number: int) -> str | None:
        condition = self._actions[number].condition
        asked = self._edges.condition[number]
        if condition.kind != "always":
            wanted = "completed" if condition.kind == "if_succeeded" else "failed"
            if self._status[asked] != wanted:
                return f"Its condition {condition} does not hold: {self._did(asked)}."
        lost_to = self._lost_to[number]
        if lost_to == NOBODY:
            return None
        if lost_to in self._edges.needs[number] and lost_to != asked:
            return f"It needs {self._name(lost_to)}, which failed."
        via = next(one for one in self._edges.before[number] if self._lost_to[one] == lost_to)
        return f"It needs {self._name(via)}, which was skipped because {self._name(lost_to)} failed."

    def _did(self, number: int) -> str:
        words = {"completed": "succeeded", "failed": "failed", "skipped": "was skipped"}
        return f"{self._name(number)} {words[self._status[number]]}"

    def _name(self, number: int) -> str:
        return repr(self._actions[number].id)

    # -- what is held back ----------------------------------------------------------------------------

    def held_back(self, action_id: str) -> str | None:
        """Why a failure keeps it from being begun, as things stand; None where none does."""
        number = self._edges.index[action_id]
        by, via = (found[number] for found in self._holders)
        if by == NOBODY:
            return None
        if via != by:
            return f"It comes after {self._name(via)}, which is held back because {self._name(by)} failed."
        if by in self._edges.needs[number]:
            return f"It needs {self._name(by)}, which failed."
        return f"The plan was stopped when {self._name(by)} failed."

    def blocked(self) -> tuple[Blocked, ...]:
        """All that failures keep from being begun, as things stand, as the plan lists them."""
        blamed, via = self._holders
        heads: dict[int, tuple[int, ...]] = {}
        lengths: dict[int, int] = {}
        for number in self._edges.in_order:
            if blamed[number] != NOBODY:
                head = heads.get(via[number], (via[number],))
                heads[number] = head if len(head) >= CHAIN_ENDS_MAX else (*head, number)
                lengths[number] = lengths.get(via[number], 1) + 1
        found: list[Blocked] = []
        for number in sorted(heads):
            head, tail, one = heads[number], list[int](), number
            while len(tail) < min(CHAIN_ENDS_MAX, lengths[number] - len(head)):
                tail.append(one)
                one = via[one]
            chain = tuple(self._actions[one].id for one in (*head, *reversed(tail)))
            found.append(
                Blocked(
                    action_id=self._actions[number].id,
                    by=self._actions[blamed[number]].id,
                    chain=chain,
                    left_out=lengths[number] - len(chain),
                )
            )
        return tuple(found)

    @property
    def _holders(self) -> tuple[list[int], list[int]]:
        """For each action the failure that holds it back, and the action before it on the way from there."""
        if self._holders_found is None:
            by, via = [NOBODY] * len(self._actions), [NOBODY] * len(self._actions)
            ready = set(self._queue)
            for number in self._edges.in_order:
                if self._status[number] == "pending" and number not in ready:
                    by[number], via[number] = self._holder(number, by)
            self._holders_found = by, via
        return self._holders_found

    def _holder(self, number: int, by: Sequence[int]) -> tuple[int, int]:
        failed = self._failed_need(number)
        if failed != NOBODY:
            return failed, failed
        for other in self._edges.before[number]:
            if by[other] != NOBODY:
                return by[other], other
        if number in self._held or (self._stopped_by != NOBODY and self._would_be_held(number)):
            return self._stopped_by, self._stopped_by
        return NOBODY, NOBODY

    def _would_be_held(self, number: int) -> bool:
        """Once its turn comes, as things stand: what has no condition, and would not be skipped."""
        return (
            not self._wanted[number]
            and number not in self._edges.missing
            and self._actions[number].condition.kind == "always"
            and self._loss(number) == NOBODY
        )
