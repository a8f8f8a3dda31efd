"""What was counted before a call: the rates, sequences and counters that rules ask for.

Owns against which account each is held. Knows nothing of budgets. Used by `budgets` and `weighing`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from custody.calls.admission import Admission, Limits
from custody.errors import ConditionFailed
from custody.index.spending import Freshness, SpendingTables, Writing
from custody.index.spending_rows import AGENT, HOUR_US, RUN, SESSION, THE_STORE, Scope, Spent
from custody.policy.model import GLOB_PREFIX, Per, Rule
from custody.policy.names import fits_any

A = TypeVar("A")


class WouldWait(Exception):
    """Nobody can tell at once."""


DAY_US = 24 * HOUR_US


class Counted:
    """What was counted before one call, as rules ask for it. Each question is answered from the tables;
    `at_once`, without waiting for other processes: what would have to raises WouldWait."""

    def __init__(
        self, tables: SpendingTables, call: Admission, limits: Limits, *, at_once: bool = False
    ) -> None:
        self._tables = tables
        self._call = call
        self._limits = limits
        self._at_once = at_once
        self.gave_up = False
        """A question was not answered, as that would have had to wait."""
        self._fresh = False
        self.rates: dict[Rule, bool] = {}
        """What each rule was told that asked whether its rate is used up. `Spending.admit` wants it."""

    def rate_used(self, rule: Rule) -> bool:
        used = self._read(lambda rows: rate_used(rows, rule, self._call, self._limits))
        self.rates[rule] = used
        return used

    def happened(self, rule: Rule) -> bool:
        sequence = rule.sequence
        assert sequence is not None, "only rules with a sequence ask"
        scope = account_of(sequence.per, self._call)
        since_us = 0 if sequence.seconds is None else self._call.at_us - int(sequence.seconds * 1_000_000)

        def ask(rows: Writing) -> bool:
            exact = all(not pattern.startswith(GLOB_PREFIX) for pattern in sequence.after)
            if sequence.after and exact:
                found = [row for tool in sequence.after for row in rows.rows("tool", *scope, tool)]
            else:
                found = [row for row in rows.rows("tools", *scope) if fits_any(sequence.after, row[0])]
            return any(
                last_us >= since_us and (not sequence.effects or effect in sequence.effects)
                for _, effect, last_us in found
            )

        return self._read_fresh(ask)

    def counters(self) -> Mapping[str, Any]:
        call = self._call

        def ask(rows: Writing) -> dict[str, int]:
            own = call.run_chain[:1]
            run = rows.spent((RUN, own[0]), None) if own else Spent()
            session = Spent() if call.session_id is None else rows.spent((SESSION, call.session_id), None)
            known = rows.run(own[0]) if own else None
            return {
                "calls": run.calls,
                "failures": run.failures,
                "writes": run.writes,
                "calls_session": session.calls,
                "calls_agent": rows.spent((AGENT, call.agent or ""), call.at_us - DAY_US).calls,
                "calls_store_hour": rows.spent(THE_STORE, call.at_us - HOUR_US).calls,
                "same_call": same_calls(rows, call),
                "consecutive_failures": 0 if known is None else known.streak,
            }

        return self._read_fresh(ask)

    def _read_fresh(self, ask: Callable[[Writing], A]) -> A:
        """The first question folds every record there is; the others are about the same moment."""
        if self._fresh:
            return self._read(ask)
        self._fresh = True
        return self._asked_at_once(ask, "all") if self._at_once else self._tables.write(ask, "all")

    def _read(self, ask: Callable[[Writing], A]) -> A:
        return self._asked_at_once(ask, "any") if self._at_once else self._tables.read(ask)

    def _asked_at_once(self, ask: Callable[[Writing], A], fresh: Freshness) -> A:
        found = self._tables.write_at_once(ask, fresh)
        if found is None:
            self.gave_up = True
            raise WouldWait
        return found


def rate_used(rows: Writing, rule: Rule, call: Admission, limits: Limits) -> bool:
    """Whether as many calls as the rule lets through were admitted in the time before this one.

    Raises ConditionFailed for a rule of another policy than the limits are.
    """
    rate = rule.rate
    assert rate is not None, "only rules with a rate ask"
    if rate.calls <= 0:
        return True
    window_us = int(rate.seconds * 1_000_000)
    # A clock that was set back leaves slots in the future: they count for no longer than the window.
    found = rows.row(
        "nth_slot", _window(rule, limits), *account_of(rate.per, call),
        call.at_us - window_us, call.at_us + window_us, rate.calls - 1,
    )  # fmt: skip
    return found is not None


def take_slot(rows: Writing, rule: Rule, call: Admission, limits: Limits) -> None:
    rate = rule.rate
    assert rate is not None, "only rules with a rate are asked for it"
    window, scope = _window(rule, limits), account_of(rate.per, call)
    window_us = int(rate.seconds * 1_000_000)
    rows.do("old_slots", window, *scope, call.at_us - window_us, call.at_us + window_us)
    rows.do("take_slot", window, *scope, call.at_us, call.call_id, call.at_us + window_us)


def _window(rule: Rule, limits: Limits) -> str:
    found = limits.windows.get(rule)
    if found is None:  # counted under a guess, it would be counted where nobody looks
        raise ConditionFailed("its policy was replaced just now; repeat the call")
    return found


def account_of(per: Per, call: Admission) -> Scope:
    """Where rates and sequences are counted. A run's are those of the topmost run, so that starting another
    leads to nothing; a call in no run, or no session, is held against the next wider one."""
    if per == "run" and call.run_chain:
        return RUN, call.run_chain[-1]
    if per in ("run", "session") and call.session_id is not None:
        return SESSION, call.session_id
    return THE_STORE if per == "store" else (AGENT, call.agent or "")


def loop_key(call: Admission) -> Any:
    return call.run_chain[0] if call.run_chain else call.session_id


def same_calls(rows: Writing, call: Admission) -> int:
    """Calls like this one that its run made before."""
    key = loop_key(call)
    return 0 if call.digest is None or key is None else rows.same(key, call.digest, call.tool)
