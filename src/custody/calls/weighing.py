"""One call held against every limit, inside the transaction that would take what it needs.

Owns what each amount of a budget means, and the order: rates, budgets, loops; then all is taken at once.
Knows nothing of transactions. Used by `budgets`.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from custody.calls.admission import (
    COUNTED_BEFORE,
    Admission,
    Admitted,
    Limits,
    Moved,
    Refusal,
    SoftCrossed,
)
from custody.calls.budget_words import loop_sentence, refusal_sentence
from custody.calls.counting import loop_key, rate_used, same_calls, take_slot
from custody.index.spending import Writing
from custody.index.spending_fold import scopes_of
from custody.index.spending_rows import (
    AGENT,
    RUN,
    SESSION,
    THE_STORE,
    WINDOW_HOURS_MAX,
    CallSaid,
    Scope,
    Spent,
    window_from,
)
from custody.policy.model import Budget, Per, Rule

HOURS = 24.0
"""Over which an agent's and the store's amounts are counted where the budget does not say."""


class _Crossed(Struct, frozen=True):
    """A soft bound that is reached, and where it is noted that this was told."""

    told: SoftCrossed
    scope: Scope
    since_us: int | None


class Weighing:
    """One call held against all limits, inside the transaction that would take it."""

    def __init__(
        self, call: Admission, limits: Limits, rates: Mapping[Rule, bool], hosts: tuple[bytes, ...]
    ) -> None:
        self._call = call
        self._limits = limits
        self._rates = rates
        self._said = CallSaid(
            scopes=scopes_of(call.run_chain, call.session_id, call.agent),
            tool=call.tool,
            effect=call.effect,
            dry_run=call.dry_run,
            loop_key=loop_key(call),
            digest=call.digest,
            hosts=hosts,
        )

    def weigh(self, rows: Writing) -> Admitted | Refusal | Moved:
        call = self._call
        moved = tuple(
            rule.name
            for rule, used in self._rates.items()
            if not used and rate_used(rows, rule, call, self._limits)
        )
        if moved:
            return Moved(rules=moved)
        refusal, soft = self._budgets(rows)
        refusal = refusal or self._loop(rows)
        if refusal is not None:
            return refusal
        rows.reserve(call.call_id, call.at_us, self._said)
        for rule in self._rates:
            take_slot(rows, rule, call, self._limits)
        return Admitted(soft=tuple(one.told for one in soft if self._is_news(rows, one)))

    def _budgets(self, rows: Writing) -> tuple[Refusal | None, list[_Crossed]]:
        crossed: list[_Crossed] = []
        for budget in self._limits.budgets:
            hours = min(budget.hours or HOURS, WINDOW_HOURS_MAX)
            since_us = window_from(self._call.at_us, hours) if budget.per in ("agent", "store") else None
            for scope in _accounts(budget.per, self._call):
                account = _Account(rows, self._said, scope, since_us)
                for amount, limit in budget.amounts.items():
                    if account.refuses(amount, limit):
                        return self._refusal(budget, scope, amount, account.used(amount), limit, hours), []
                for amount, limit in budget.soft.items():
                    if account.refuses(amount, limit):
                        used = account.used(amount) + account.takes(amount)
                        key = scope[1].hex() if isinstance(scope[1], bytes) else str(scope[1])
                        soft = SoftCrossed(per=budget.per, key=key, amount=amount, used=used, limit=limit)
                        crossed.append(_Crossed(soft, scope, since_us))
        return None, crossed

    def _refusal(
        self, budget: Budget, scope: Scope, amount: str, used: float, limit: float, hours: float
    ) -> Refusal:
        above = budget.per == "run" and scope[1] != self._call.run_chain[0]
        reason = refusal_sentence(budget.per, amount, used, limit, hours, above=above)
        return Refusal(verdict="deny", reason=reason, per=budget.per, amount=amount, used=used, limit=limit)

    def _loop(self, rows: Writing) -> Refusal | None:
        loops = self._limits.loops
        if loops is None:
            return None
        before = same_calls(rows, self._call)
        verdict: Literal["deny", "ask"]
        if loops.deny is not None and before + 1 >= loops.deny:
            verdict, limit = "deny", loops.deny
        elif loops.ask is not None and before + 1 >= loops.ask and not self._call.answered:
            verdict, limit = "ask", loops.ask
        else:
            return None
        reason = loop_sentence(verdict, self._call.tool, before)
        return Refusal(
            verdict=verdict, reason=reason, per="run", amount="same_call", used=before, limit=limit
        )

    def _is_news(self, rows: Writing, crossed: _Crossed) -> bool:
        """Whether it was not told yet, of a window not in its length; from now on it was."""
        amount = crossed.told.amount
        told = rows.row("told", *crossed.scope, amount)
        if told is not None and (crossed.since_us is None or told[0] > crossed.since_us):
            return False
        rows.do("tell", *crossed.scope, amount, self._call.at_us)
        return True


def _accounts(per: Per, call: Admission) -> tuple[Scope, ...]:
    """Every account a budget holds this call against: children spend from all the runs above them."""
    match per:
        case "run":
            return tuple((RUN, run) for run in call.run_chain)
        case "session":
            return () if call.session_id is None else ((SESSION, call.session_id),)
        case "agent":
            return ((AGENT, call.agent or ""),)
        case "store":
            return (THE_STORE,)


class _Account:
    """What one account has used of each amount, in the units of the policy."""

    def __init__(self, rows: Writing, said: CallSaid, scope: Scope, since_us: int | None) -> None:
        self._rows = rows
        self._said = said
        self._scope = scope
        self._since_us = since_us
        self._spent: Spent | None = None
        self._hosts: tuple[int, int] | None = None

    def used(self, amount: str) -> float:
        if amount == "hosts":
            return self._named_hosts()[0]
        if self._spent is None:
            self._spent = self._rows.spent(self._scope, self._since_us)
        spent = self._spent
        match amount:
            case "calls":
                return spent.calls
            case "writes":
                return spent.writes
            case "wall_seconds":
                return spent.wall_us / 1e6
            case "cpu_seconds":
                return spent.cpu_us / 1e6
            case "output_bytes":
                return spent.output_bytes
            case "tokens":
                return spent.tokens
            case "cost_usd":
                return spent.cost_nano_usd / 1e9
            case "files":
                return spent.files
            case _:
                raise ValueError(f"{amount!r} is no amount of a budget")

    def takes(self, amount: str) -> int:
        """What this call takes of it before it starts."""
        match amount:
            case "calls":
                return 1
            case "writes":
                return self._said.writes
            case "hosts":
                return self._named_hosts()[1]
            case _:
                return 0

    def refuses(self, amount: str, limit: float) -> bool:
        if amount in COUNTED_BEFORE:
            takes = self.takes(amount)
            return takes > 0 and self.used(amount) + takes > limit
        if amount == "files" and self._said.effect == "read":
            return False  # it changes none
        return self.used(amount) >= limit

    def _named_hosts(self) -> tuple[int, int]:
        if self._hosts is None:
            self._hosts = self._rows.hosts(self._scope, self._since_us, self._said.hosts)
        return self._hosts
