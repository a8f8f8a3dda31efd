"""What counting is asked and what it answers: the limits of a policy, a call about to start, yes or no.

Owns the shapes, and which limits make counting necessary. Knows nothing of how anything is counted. Used by
`counting`, `weighing` and `budgets`.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from custody.policy.model import Budget, Layer, Loops, Per, Rule
from custody.records import By, Effect

COUNTED_BEFORE = frozenset({"calls", "writes", "hosts"})
"""Amounts known before a call runs; the others are known when it has ended."""

FILE_DIGITS = 32
"""Of the digest that tells files of policy apart in what is counted."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a policy sets bounds to, and so what has to be counted."""

    budgets: tuple[Budget, ...] = ()
    loops: Loops | None = None
    rates: bool = False
    """Whether rules ask for the rate of calls; the same for the two below."""
    sequences: bool = False
    counters: bool = False
    windows: Mapping[Rule, str] = {}
    """What each rule with a rate is counted under."""

    @property
    def admits(self) -> bool:
        """Whether each call has to be admitted. Where this is false nothing is counted, and nothing costs."""
        return bool(self.budgets or self.loops or self.rates or self.counters)

    @property
    def hosts(self) -> bool:
        """Whether the hosts a call names have to be told."""
        return any("hosts" in budget.amounts or "hosts" in budget.soft for budget in self.budgets)

    @property
    def used(self) -> bool:
        """Whether anything is limited that is known only when a call has ended."""
        return any(not COUNTED_BEFORE.issuperset((*one.amounts, *one.soft)) for one in self.budgets)


def limits_of(layers: Sequence[Layer], budgets: Sequence[Budget] = (), loops: Loops | None = None) -> Limits:
    """What has to be counted for these layers; their budgets and loops are given joined."""
    rules = [rule for layer in layers for rule in layer.rules]
    return Limits(
        budgets=tuple(budgets),
        loops=loops,
        rates=any(rule.rate is not None for rule in rules),
        sequences=any(rule.sequence is not None for rule in rules),
        counters=any(rule.when is not None and "counters" in rule.when.reads for rule in rules),
        windows=_windows(layers),
    )


def _windows(layers: Sequence[Layer]) -> dict[Rule, str]:
    """By the rule's name and its file: names are unique within a file only, and what one project allows
    itself is not another's. What the file says makes no difference, so that a new version of it goes on
    counting."""
    found: dict[Rule, str] = {}
    for layer in layers:
        rated = [rule for rule in layer.rules if rule.rate is not None]
        if rated:
            file = _file_digest(layer)
            found |= {rule: f"{file} {rule.name}" for rule in rated}
    return found


def _file_digest(layer: Layer) -> str:
    """The same in every process, from wherever it reads the file."""
    place = layer.source if layer.kind == "builtin" else os.path.realpath(layer.source)
    data = f"{layer.kind}\0{place}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:FILE_DIGITS]


class Admission(Struct, frozen=True, kw_only=True):
    """A call that is about to start, as counting sees it."""

    call_id: bytes
    tool: str
    effect: Effect
    at_us: int
    run_chain: tuple[bytes, ...] = ()
    """Its run, the one that run was started from, and so on; empty for a call in no run."""
    session_id: str | None = None
    agent: str | None = None
    """None: all that name no agent share one account."""
    dry_run: bool = False
    digest: bytes | None = None
    """Keyed, of tool and arguments: calls with the same are the same. None: it is like no other."""
    hosts: tuple[str, ...] = ()
    answered: bool = False
    """A person has said yes to exactly this call: what would ask does not ask again."""


class SoftCrossed(Struct, frozen=True, kw_only=True):
    """A soft bound that would have refused this call, were it hard. Told once; of an agent and of the store,
    once in their window."""

    per: Per
    key: str
    """The id of the run in hex, the session, the agent; empty for the store."""
    amount: str
    used: float
    limit: float


class Admitted(Struct, frozen=True, kw_only=True):
    """The call counts from now on. Its record of the start has to follow, or `Spending.release`."""

    soft: tuple[SoftCrossed, ...] = ()


class Refusal(Struct, frozen=True, kw_only=True):
    """Nothing was taken."""

    verdict: Literal["deny", "ask"]
    reason: str
    per: Per
    amount: str
    """`same_call` for a loop."""
    used: float
    limit: float
    by: By = "budget"


class Moved(Struct, frozen=True, kw_only=True):
    """A rate was used up since the policy was asked: it has to be asked again. Nothing was taken."""

    rules: tuple[str, ...]
