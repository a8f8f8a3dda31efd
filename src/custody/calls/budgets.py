"""How much is left: budgets, rates, sequences and loops, decided and counted in one transaction.

Owns the face of it: what is asked before a call (`Counted`), the admission, and its taking back. How it is
counted exactly, over processes and crashes, is `index.spending`'s. Used by `execute`, before a call is
recorded as started, and by the guard that asks the policy.

`calls`, `writes` and `hosts` are exact: a call takes them before it starts. What a call uses otherwise is
known when it has ended, so the first call after the amount is used up is the one that is refused. A run's
amounts count the runs started from it; an agent's and the store's count the last `hours`, 24 unless said.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence

from custody.calls.admission import (
    AMOUNT_NAMES,
    Admission,
    Admitted,
    Limits,
    Moved,
    Refusal,
    SoftCrossed,
    limits_of,
)
from custody.calls.counting import Counted
from custody.calls.weighing import Weighing
from custody.index.spending import SpendingTables
from custody.journal import Journal
from custody.policy.model import Rule
from custody.records import now_us

__all__ = [
    "AMOUNT_NAMES",
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

HOST_DIGEST_BYTES = 16
"""Two hosts of one store never have the same."""


class Spending:
    """What was spent in one store, and what may still be. Safe for threads, processes and forks.

    Every method may wait for another process but `admit_at_once`. All raise StoreError where nothing can be
    counted; whoever asks takes that for a no.
    """

    def __init__(self, tables: SpendingTables, key: bytes) -> None:
        """`key` is a secret of the store, for the digests of hosts."""
        self._tables = tables
        self._key = key

    def close(self) -> None:
        """May be used again afterwards."""
        self._tables.close()

    def refresh(self) -> None:
        """Count what the journal has and nobody counted yet: on a large store that takes seconds, once."""
        self._tables.write(lambda rows: None, "all")

    def counted(self, call: Admission) -> "Counted":
        """What rules may ask about this call."""
        return Counted(self._tables, call)

    def admit(
        self, call: Admission, limits: Limits, rates: "Mapping[Rule, bool] | None" = None
    ) -> Admitted | Refusal | Moved:
        """Take what the call needs, all of it or nothing. `rates` are those of the `Counted` rules asked."""
        weighing = Weighing(call, limits, rates or {}, self._digests(call.hosts))
        found = self._tables.write(weighing.weigh, "own" if limits.used else "any")
        if isinstance(found, Admitted):
            return found
        # A no has to be true to the last record, and to what dead processes had reserved.
        self._tables.give_back_of_the_dead()
        return self._tables.write(weighing.weigh, "all")

    def admit_at_once(
        self, call: Admission, limits: Limits, rates: "Mapping[Rule, bool] | None" = None
    ) -> Admitted | None:
        """The same for an event loop, which does not wait: None, and nothing taken, unless all is well."""
        weighing = Weighing(call, limits, rates or {}, self._digests(call.hosts))
        found = self._tables.write_at_once(weighing.weigh, "own" if limits.used else "any")
        return found if isinstance(found, Admitted) else None

    def release(self, call_id: bytes) -> None:
        """The call was admitted and will not start: what it took is there again."""
        self._tables.release(call_id)

    def _digests(self, hosts: Sequence[str]) -> tuple[bytes, ...]:
        """Names without case, each once."""
        names = dict.fromkeys(host.lower() for host in hosts)
        return tuple(self._digest(name) for name in names)

    def _digest(self, name: str) -> bytes:
        data = name.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, data, "sha256")[:HOST_DIGEST_BYTES]


def open_spending(
    path: str | None, journal: Journal, key: bytes, clock_us: Callable[[], int] = now_us
) -> Spending:
    """`path` of index.db; None for a store in memory."""
    return Spending(SpendingTables(path, journal, clock_us), key)
