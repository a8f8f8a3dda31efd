"""How much is left: budgets, rates, sequences and loops, decided and counted in one transaction.

Owns the face of it: what is asked before a call (`Counted`), the admission, and its taking back. How it is
counted exactly, over processes and crashes, is `index.spending`'s. Used by `execute`, before a call is
recorded as started, and by the guard that asks the policy.

`calls`, `writes` and `hosts` are exact: a call takes them before it starts. What a call uses otherwise is
known when it has ended, so the first call after the amount is used up is the one that is refused. A run's
amounts count the runs started from it; an agent's and the store's count the last `hours`, 24 unless said.
"""

from collections.abc import Callable, Mapping

from custody.calls.admission import (
    Admission,
    Admitted,
    Limits,
    Moved,
    Refusal,
    SoftCrossed,
    limits_of,
)
from custody.calls.counting import Counted
from custody.calls.named import RecordedNames, host_digests
from custody.calls.weighing import Weighing
from custody.index.spending import SpendingTables, Writing
from custody.journal import Journal
from custody.policy.model import Rule
from custody.records import now_us

__all__ = [
    "Admission",
    "Admitted",
    "Counted",
    "Limits",
    "Moved",
    "Refusal",
    "SoftCrossed",
    "Spending",
    "limits_of",
    "open_spending",
]


class Spending:
    """What was spent in one store, and what may still be. Safe for threads, processes and forks.

    Every method may wait for another process but those named `at_once`. All raise StoreError where nothing
    can be counted; whoever asks takes that for a no.
    """

    def __init__(self, tables: SpendingTables, key: bytes) -> None:
        """`key` is a secret of the store, for the digests of hosts; that of calls is made with it too."""
        self._tables = tables
        self._key = key

    def close(self) -> None:
        """May be used again afterwards."""
        self._tables.close()

    def refresh(self) -> None:
        """Count what the journal has and nobody counted yet, and give back what dead processes had reserved:
        on a large store that takes seconds, once."""
        self._tables.give_back_of_the_dead()
        self._tables.write(lambda rows: None, "all")

    def counted(self, call: Admission, limits: Limits = Limits(), *, at_once: bool = False) -> "Counted":  # noqa: B008
        """What rules may ask about this call; `limits` are those of their policy. `at_once` for an event
        loop."""
        return Counted(self._tables, call, limits, at_once=at_once)

    def admit(
        self, call: Admission, limits: Limits, rates: "Mapping[Rule, bool] | None" = None
    ) -> Admitted | Refusal | Moved:
        """Take what the call needs, all of it or nothing. `rates` are those of the `Counted` rules asked."""
        weighing = Weighing(call, limits, rates or {}, host_digests(self._key, call.hosts))
        found = self._tables.write(weighing.weigh, "own" if limits.used else "any")
        if isinstance(found, Admitted):
            return found
        # A no has to be true to the last record, and to what dead processes had reserved.
        self._tables.give_back_of_the_dead()
        return self._tables.write(weighing.weigh, "all")

    def admit_at_once(
        self, call: Admission, limits: Limits, rates: "Mapping[Rule, bool] | None" = None
    ) -> Admitted | Refusal | Moved | None:
        """The same for an event loop, which does not wait: None, and nothing taken, where that would have to.

        A no may be a moment old, and counts what dead processes had reserved until somebody does `refresh`.
        """
        weighing = Weighing(call, limits, rates or {}, host_digests(self._key, call.hosts))
        return self._tables.write_at_once(weighing.weigh, "own" if limits.used else "any")

    def foresee(
        self, call: Admission, limits: Limits, rates: "Mapping[Rule, bool] | None" = None
    ) -> Admitted | Refusal | Moved:
        """What `admit` would say now. Nothing is taken."""
        weighing = Weighing(call, limits, rates or {}, host_digests(self._key, call.hosts))

        def ask(rows: Writing) -> None:
            raise _Foreseen(weighing.weigh(rows))

        self.refresh()
        try:
            self._tables.write(ask, "any")
        except _Foreseen as foreseen:
            return foreseen.found
        raise AssertionError("it is always undone")

    def release(self, call_id: bytes) -> None:
        """The call was admitted and will not start: what it took is there again."""
        self._tables.release(call_id)

    def release_at_once(self, call_id: bytes) -> bool:
        """The same for an event loop: False, and nothing done, where that would have to wait."""
        return self._tables.write_at_once(lambda rows: (rows.give_back(call_id),), "any") is not None


class _Foreseen(Exception):
    """Undoes what was weighed, and says what it was."""

    def __init__(self, found: Admitted | Refusal | Moved) -> None:
        super().__init__()
        self.found = found


def open_spending(
    path: str | None, journal: Journal, key: bytes, clock_us: Callable[[], int] = now_us
) -> Spending:
    """`path` of index.db; None for a store in memory."""
    return Spending(SpendingTables(path, journal, clock_us, names=RecordedNames(journal, key)), key)
