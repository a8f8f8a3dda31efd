"""Rates, sequences, budgets and loops of calls that were made, counted again under another policy.

Owns the counts of a replay, in memory, and what bounds say of them: for certain, or perhaps, where it is not
known what was admitted before. They mean what those of live calls mean (`counting`, `weighing`). Knows
nothing of conditions, and does no I/O. Used by `replay`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from custody.calls.history import RecordedCall, RunSeen
from custody.calls.possible import Certain, Hosts, Remembered, Repeats, Streak, Success, Sum, Window
from custody.policy.model import Budget, Loops, Per, Rule
from custody.policy.names import fits_any
from custody.records import CallFinished, Step, Verdict

Account = tuple[str, bytes | str]
"""What something is counted for: a run, session or agent, or the store, and which."""

THE_STORE: Account = ("store", "")

OPEN_MAX = 100_000
"""Calls admitted whose end has not been read. Those of processes that were killed never get one."""

TOOLS_MAX = 10_000
"""Tools remembered with the sequences they begin."""

WINDOW_HOURS = 24.0
"""In which the calls of an agent and of the store are summed up where the budget says nothing."""

WINDOW_HOURS_MAX = 31 * 24.0
"""The longest, as for live calls."""

HOUR_US = 3_600_000_000

BEFORE = frozenset({"calls", "writes"})
"""Amounts a call takes before it starts, so that none goes beyond; the others refuse the call after."""

WRITES = frozenset({"write", "irreversible"})
WENT_WRONG = frozenset({"failed", "timed_out"})

RANK: Mapping[Verdict, int] = {"allow": 0, "ask": 1, "deny": 2}


class Standing(Struct, frozen=True):
    """What the counts say of a call: for certain, and at the most."""

    certain: Verdict = "allow"
    possible: Verdict = "allow"
    name: str | None = None
    """The budget, or the loops, that said the most."""

    def beside(self, certain: Verdict, name: str) -> "Standing":
        """With a budget that refuses the call, for certain or perhaps."""
        if self.certain == "deny" or (self.possible == "deny" and certain != "deny"):
            return self
        return Standing(certain if certain == "deny" else self.certain, "deny", name)


FREE = Standing()


class Meter(Struct, frozen=True):
    """One amount that is summed up, for whom, and over which window; 0 hours: altogether."""

    per: Per
    name: str
    hours: float = 0.0


COUNTERS: Mapping[str, Meter] = {
    "calls": Meter("run", "calls"),
    "failures": Meter("run", "failures"),
    "writes": Meter("run", "writes"),
    "calls_session": Meter("session", "calls"),
    "calls_agent": Meter("agent", "calls", 24.0),
    "calls_store_hour": Meter("store", "calls", 1.0),
}
"""What conditions read as `counters`, as far as it is a sum."""


class _Open(Struct, frozen=True, gc=False):
    """An admitted call that has not ended."""

    call: RecordedCall
    certain: bool


class Recount:
    """All counts of one replay: of the rules of one file, within which their names are unique."""

    def __init__(self, rules: Sequence[Rule], budgets: Sequence[Budget], loops: Loops | None) -> None:
        self._sequences = [rule for rule in rules if rule.sequence is not None]
        self._rates = any(rule.rate is not None for rule in rules)
        self._counters = any(rule.when is not None and "counters" in rule.when.reads for rule in rules)
        self._budgets = tuple(budgets)
        self._loops = loops if loops is not None and (loops.ask or loops.deny) else None
        meters = {
            Meter(budget.per, name, _hours(budget)) for budget in budgets for name in budget.amounts
        } | set(COUNTERS.values() if self._counters else ())
        self._meters: dict[str, list[Meter]] = {}
        for meter in meters:
            self._meters.setdefault(meter.name, []).append(meter)
        self._windows = Remembered(Window)
        self._successes = Remembered(Success)
        self._sums = Remembered(Sum)
        self._hosts = Remembered(Hosts)
        self._repeats = Remembered(Repeats)
        self._streaks = Remembered(Streak)
        self._open: OrderedDict[bytes, _Open] = OrderedDict()
        self._begun_by: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self.reads_steps = not self._meters.keys().isdisjoint({"tokens", "cost_usd"})
        self.reads_hosts = "hosts" in self._meters
        self.compares_arguments = self._loops is not None or self._counters
        self.looks_at_every_call = bool(self._budgets or self._loops or self._counters)
        self.remembers = bool(self._rates or self._sequences or self._meters or self._loops)
        """Whether anything of one call bears on another."""
        self.unknown_ends = 0
        """Calls that were refused and would run: what they would have used is not known."""

    @property
    def forgotten(self) -> int:
        """Counts that had to be dropped: more was under way at once than is kept."""
        tables = (self._windows, self._successes, self._sums, self._hosts, self._repeats, self._streaks)
        return sum(table.forgotten for table in tables)

    # -- asked of a call ------------------------------------------------------------------------------

    def rate_used(self, rule: Rule, call: RecordedCall) -> Certain:
        rate = rule.rate
        assert rate is not None, "asked of rules with a rate only"
        if rate.calls <= 0:
            return True
        window = self._windows.get((rule.name, account_of(rate.per, call)))
        return False if window is None else window.used(call.at_us, rate.calls, rate.seconds)

    def happened(self, rule: Rule, call: RecordedCall) -> Certain:
        sequence = rule.sequence
        assert sequence is not None, "asked of rules with a sequence only"
        success = self._successes.get((rule.name, account_of(sequence.per, call)))
        return False if success is None else success.happened(call.at_us, sequence.seconds)

    def counters(self, call: RecordedCall, same: str | None) -> Mapping[str, Any] | None:
        """What conditions read as `counters`; None where a part of it cannot be told."""
        said: dict[str, Any] = {}
        for name, meter in COUNTERS.items():
            accounts = budget_accounts(meter.per, call)[:1]
            total = self._sum(meter, accounts[0], call.at_us) if accounts else Sum()
            if total.least != total.greatest:
                return None
            said[name] = int(total.least)
        least, most = self._before(call, same)
        own = call.request.run_id
        streak = None if own is None else self._streaks.get(own)
        if least != most or (streak is not None and not streak.certain):
            return None
        said["same_call"] = least
        said["consecutive_failures"] = 0 if streak is None else streak.count
        return said

    def standing(self, call: RecordedCall, same: str | None, hosts: frozenset[str] | None) -> Standing:
        """What budgets and loops say; `same` tells identical calls apart, None where that is not known."""
        standing = FREE if self._loops is None else self._in_loops(self._loops, call, same)
        for budget in self._budgets:
            for account in budget_accounts(budget.per, call):
                for name, limit in budget.amounts.items():
                    meter = Meter(budget.per, name, _hours(budget))
                    beyond = self._beyond(meter, account, limit, call, hosts)
                    if beyond is not False:
                        standing = standing.beside(
                            "deny" if beyond else "allow", f"budget {budget.per}.{name}"
                        )
        return standing

    def _beyond(
        self, meter: Meter, account: Account, limit: float, call: RecordedCall, hosts: frozenset[str] | None
    ) -> Certain:
        request, name = call.request, meter.name
        if name == "hosts":
            since_us = call.at_us - int(meter.hours * HOUR_US) if meter.hours else 0
            return self._hosts[meter, account].beyond(limit, hosts, since_us)
        takes = int(name == "calls" or (name == "writes" and _writes(call)))
        if (name == "writes" and not takes) or (name == "files" and request.effect == "read"):
            return False
        total = self._sum(meter, account, call.at_us)
        if name in BEFORE:
            least, most = total.least + takes > limit, total.greatest + takes > limit
        else:
            least, most = total.least >= limit, total.greatest >= limit
        return True if least else None if most else False

    def _sum(self, meter: Meter, account: Account, now_us: int) -> Sum:
        total = self._sums[meter, account]
        if meter.hours:
            total.forget_before(now_us - int(meter.hours * HOUR_US))
        return total

    def _in_loops(self, loops: Loops, call: RecordedCall, same: str | None) -> Standing:
        def verdict(count: int) -> Verdict:
            if loops.deny is not None and count >= loops.deny:
                return "deny"
            return "ask" if loops.ask is not None and count >= loops.ask else "allow"

        least, most = self._before(call, same)
        return Standing(verdict(least + 1), verdict(most + 1), "loops")

    def _before(self, call: RecordedCall, same: str | None) -> tuple[int, int]:
        """How often its run, or outside one its session, made such a call before."""
        key = call.request.run_id or call.session_id
        repeats = None if key is None else self._repeats.get(key)
        return (0, 0) if repeats is None else repeats.before(call.request.tool, same)

    # -- what happened --------------------------------------------------------------------------------

    def admit(
        self,
        call: RecordedCall,
        slots: Mapping[Rule, bool],
        same: str | None,
        hosts: frozenset[str] | None,
        *,
        certain: bool,
    ) -> None:
        """The call was let through, for certain or perhaps. `slots`: the rules whose rate it uses up, and
        whether it does so for certain."""
        request = call.request
        for rule, sure in slots.items():
            rate = rule.rate
            assert rate is not None, "only rules with a rate have slots"
            window = self._windows[rule.name, account_of(rate.per, call)]
            window.add(call.at_us, rate.calls, certain=certain and sure)
        self._spend(call, "calls", 1, call.at_us, certain=certain)
        if _writes(call):
            self._spend(call, "writes", 1, call.at_us, certain=certain)
        for meter in self._meters.get("hosts", ()) if hosts else ():
            for account in budget_accounts(meter.per, call):
                self._hosts[meter, account].add(hosts or (), call.at_us, certain=certain)
        key = request.run_id or call.session_id
        if self.compares_arguments and key is not None:
            self._repeats[key].add(request.tool, same, certain=certain)
        if not self._sequences and not self._meters:
            return
        if call.was in ("allowed", "asked"):
            self._open[call.call_id] = _Open(call, certain)
            if len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)
            return
        self.unknown_ends += 1
        self._succeeded(call, call.at_us, certain=False)
        if request.run_id is not None:
            self._streaks[request.run_id].ended(failed=True, certain=False)

    def finished(self, at_us: int, leaf: CallFinished) -> None:
        """A call ended: what it used counts, and it may be what a sequence waits for."""
        found = self._open.pop(leaf.call_id, None)
        if found is None or leaf.outcome == "rejected":
            return
        call, certain = found.call, found.certain
        failed = leaf.outcome in WENT_WRONG
        if leaf.outcome == "succeeded" and not call.request.dry_run:
            self._succeeded(call, at_us, certain=certain)
        if self._counters and call.request.run_id is not None:
            self._streaks[call.request.run_id].ended(failed=failed, certain=certain)
        for name, amount in used_by(leaf).items() if self._meters else ():
            self._spend(call, name, amount, at_us, certain=certain)

    def stepped(self, at_us: int, step: Step, run: RunSeen | None) -> None:
        """A turn of the model: it was paid for whatever is said of its calls."""
        tokens = (
            0 if step.tokens is None else max(step.tokens.input or 0, 0) + max(step.tokens.output or 0, 0)
        )
        used = {"tokens": float(tokens), "cost_usd": max(step.cost_nano_usd or 0, 0) / 1e9}
        agent = step.agent or (None if run is None else run.agent)
        accounts: Mapping[Per, Iterable[Account]] = {
            "run": (("run", step.run_id),) if run is None else lineage(run),
            "agent": (("agent", agent or ""),),
            "session": () if run is None or run.session_id is None else (("session", run.session_id),),
            "store": (THE_STORE,),
        }
        for name, amount in used.items():
            for meter in self._meters.get(name, ()) if amount else ():
                for account in accounts[meter.per]:
                    self._sums[meter, account].add(amount, at_us, certain=True, rolls=bool(meter.hours))

    def _succeeded(self, call: RecordedCall, at_us: int, *, certain: bool) -> None:
        for rule in self._begun(call.request.tool, call.request.effect):
            assert rule.sequence is not None, "only those are looked through"
            key = rule.name, account_of(rule.sequence.per, call)
            self._successes[key].add(at_us, certain=certain)

    def _begun(self, tool: str, effect: str) -> tuple[Rule, ...]:
        """Rules with a sequence that a success of such a call begins."""
        found = self._begun_by.get((tool, effect))
        if found is None:
            found = tuple(rule for rule in self._sequences if begins(rule, tool, effect))
            if len(self._begun_by) < TOOLS_MAX:
                self._begun_by[tool, effect] = found
        return found

    def _spend(self, call: RecordedCall, name: str, amount: float, at_us: int, *, certain: bool) -> None:
        for meter in self._meters.get(name, ()):
            for account in budget_accounts(meter.per, call):
                self._sums[meter, account].add(amount, at_us, certain=certain, rolls=bool(meter.hours))


# -- for whom something is counted --------------------------------------------------------------------


def account_of(per: Per, call: RecordedCall) -> Account:
    """Where rates and sequences are counted: a run's with the topmost run above it; a call in no run, or in
    no session, with the next wider account."""
    if per == "run" and call.request.run_id is not None:
        return ("run", call.request.run_id) if call.run is None else lineage(call.run)[-1]
    if per in ("run", "session") and call.session_id is not None:
        return "session", call.session_id
    return THE_STORE if per == "store" else ("agent", call.agent or "")


def budget_accounts(per: Per, call: RecordedCall) -> tuple[Account, ...]:
    """Where amounts are summed up: what a run uses, the runs above it use too."""
    if per == "run":
        if call.run is not None:
            return lineage(call.run)
        return () if call.request.run_id is None else (("run", call.request.run_id),)
    if per == "session":
        return () if call.session_id is None else (("session", call.session_id),)
    return (THE_STORE,) if per == "store" else (("agent", call.agent or ""),)


def lineage(run: RunSeen) -> tuple[Account, ...]:
    """The run and those above it. Each was begun before those below, so that there is no circle."""
    found: list[Account] = []
    above: RunSeen | None = run
    while above is not None:
        found.append(("run", above.run_id))
        above = above.parent
    return tuple(found)


def begins(rule: Rule, tool: str, effect: str) -> bool:
    """Whether a success of such a call is what the rule's sequence waits for."""
    sequence = rule.sequence
    if sequence is None or (sequence.effects and effect not in sequence.effects):
        return False
    return fits_any(sequence.after, tool)


def used_by(leaf: CallFinished) -> dict[str, float]:
    """What the record says a call used; nothing where it says nothing."""
    usage, wall_us = leaf.usage, leaf.latency_us
    used = {"failures": float(leaf.outcome in WENT_WRONG), "files": float(max(leaf.changes or 0, 0))}
    if usage is not None:
        wall_us = wall_us if usage.wall_us is None else usage.wall_us
        used["cpu_seconds"] = (max(usage.user_us or 0, 0) + max(usage.system_us or 0, 0)) / 1e6
        used["output_bytes"] = float(max(usage.stdout_bytes or 0, 0) + max(usage.stderr_bytes or 0, 0))
    used["wall_seconds"] = max(wall_us or 0, 0) / 1e6
    return {name: amount for name, amount in used.items() if amount}


def _writes(call: RecordedCall) -> bool:
    return call.request.effect in WRITES and not call.request.dry_run


def _hours(budget: Budget) -> float:
    """Only an agent's and the store's amounts are counted over a window."""
    if budget.per in ("run", "session"):
        return 0.0
    return min(budget.hours or WINDOW_HOURS, WINDOW_HOURS_MAX)
