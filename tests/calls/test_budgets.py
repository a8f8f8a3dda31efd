"""What budgets, rates, sequences and loops let through, on a store with records as a runtime puts them."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from custody.calls.budgets import (
    Admission,
    Admitted,
    Limits,
    Moved,
    Refusal,
    SoftCrossed,
    limits_of,
    open_spending,
)
from custody.errors import ConditionFailed, StoreError
from custody.index import Index
from custody.journal import Journal, JournalSettings
from custody.journal.disk import RealDisk
from custody.journal.disk_memory import MemoryDisk
from custody.policy.model import Budget, Layer, Loops, Rate, Rule, Sequence
from custody.records import (
    KINDS,
    CallAsked,
    CallFinished,
    CallStarted,
    Decision,
    Leaf,
    Redacted,
    Request,
    RunStarted,
    Step,
    Tokens,
    Usage,
    encode_leaf,
)

BEGIN_US = 1_790_000_000_000_000
HOUR = 3_600.0
ALLOW = Decision("allow", "rule", "")
SMALL = JournalSettings(first_segment_bytes=64 * 1024)


class Agent:
    """Somebody who calls tools: admitted first, and then on the record. Times are seconds after BEGIN_US."""

    def __init__(self, folder: str | None, limits: Limits) -> None:
        disk = MemoryDisk() if folder is None else RealDisk(folder)
        self.limits = limits
        self.journal = Journal(disk, settings=SMALL)
        self.path = None if folder is None else os.path.join(folder, "index.db")
        self.spending = open_spending(self.path, self.journal, b"k" * 32, lambda: BEGIN_US)

    def close(self) -> None:
        self.spending.close()
        self.journal.close()

    def put(self, leaf: Leaf) -> None:
        self.journal.append(KINDS[type(leaf)], encode_leaf(leaf), Redacted(b""))

    def start_run(self, name: str, parent: str | None = None, **fields: Any) -> None:
        above = None if parent is None else run_id(parent)
        self.put(RunStarted(run_id(name), BEGIN_US, b"", parent_run_id=above, **fields))

    def admission(self, at: float = 0.0, *, runs: str = "", **fields: Any) -> Admission:
        fields = {"tool": "bash", "effect": "read", **fields}
        return Admission(
            call_id=os.urandom(8),
            at_us=BEGIN_US + int(at * 1e6),
            run_chain=tuple(run_id(name) for name in runs.split()),
            **fields,
        )

    def ask(self, at: float = 0.0, **fields: Any) -> Admitted | Refusal | Moved:
        return self.spending.admit(self.admission(at, **fields), self.limits)

    def call(self, at: float = 0.0, outcome: Any = "succeeded", *, usage: dict[str, Any] = {}, **fields: Any):  # noqa: B006
        """One call all the way, if it is let."""
        asked = self.admission(at, **fields)
        answer = self.spending.admit(asked, self.limits)
        if isinstance(answer, Admitted):
            self.start(asked)
            self.finish(asked, outcome, **usage)
        return answer

    def start(self, asked: Admission) -> None:
        self.put(CallStarted(asked.call_id, asked.at_us, 0, b"", request=request_of(asked)))

    def finish(
        self, asked: Admission, outcome: Any = "succeeded", *, changes: int | None = None, **used: Any
    ):
        leaf = CallFinished(
            asked.call_id, asked.at_us, outcome, b"", usage=Usage(**used) if used else None, changes=changes
        )
        self.put(leaf)

    def step(self, run: str, tokens: int, cost_nano_usd: int) -> None:
        self.put(
            Step(
                os.urandom(8), run_id(run), BEGIN_US, b"",
                tokens=Tokens(input=tokens - 1, output=1), cost_nano_usd=cost_nano_usd,
            )
        )  # fmt: skip

    def counters(self, **fields: Any) -> dict[str, Any]:
        return dict(self.spending.counted(self.admission(**fields)).counters())


def run_id(name: str) -> bytes:
    return name.encode().ljust(16, b"-")


def request_of(asked: Admission) -> Request:
    return Request(
        run_id=asked.run_chain[0] if asked.run_chain else None, position=None, tool=asked.tool,
        effect=asked.effect, level="none", decision=ALLOW, asked_at_us=asked.at_us,
        session_id=asked.session_id, agent=asked.agent, dry_run=asked.dry_run,
    )  # fmt: skip


def limited(
    per: Any, soft: dict[str, float] | None = None, hours: float | None = None, **amounts: float
) -> Limits:
    return Limits(budgets=(Budget(per=per, amounts=amounts, soft=soft or {}, hours=hours),))


Start = Callable[..., Agent]


@pytest.fixture
def start() -> Iterator[Start]:
    """Agents on stores in memory, each on its own."""
    agents: list[Agent] = []

    def make(limits: Limits = Limits()) -> Agent:  # noqa: B008
        agents.append(Agent(None, limits))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


@pytest.fixture
def on_disk(tmp_path: Any) -> Iterator[Start]:
    """Agents on one store."""
    agents: list[Agent] = []

    def make(limits: Limits = Limits()) -> Agent:  # noqa: B008
        agents.append(Agent(str(tmp_path), limits))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


def refused(answer: Any) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.reason


# -- amounts --------------------------------------------------------------------------------------------


def test_the_call_after_the_last_one_is_refused_with_what_was_used_and_what_to_do(start: Start):
    agent = start(limited("run", calls=2))
    assert [agent.call(runs="one") for _ in range(2)] == [Admitted(), Admitted()]

    answer = agent.call(runs="one")

    assert answer == Refusal(
        verdict="deny",
        reason="The run has used 2 of 2 calls. "
        "Start another run, or raise `calls` of [budgets.run] in the policy.",
        per="run",
        amount="calls",
        used=2,
        limit=2,
    )
    assert agent.call(runs="two") == Admitted()


def test_a_call_counts_before_it_is_on_the_record(start: Start):
    agent = start(limited("store", calls=1))
    assert agent.ask() == Admitted()
    assert "1 of 1 calls in 24 hours" in refused(agent.ask())


def test_a_call_that_does_not_start_takes_nothing(start: Start):
    agent = start(limited("run", calls=1, hosts=1))
    first = agent.admission(runs="one", hosts=("a.example",))
    assert agent.spending.admit(first, agent.limits) == Admitted()
    agent.spending.release(first.call_id)
    agent.spending.release(first.call_id)

    assert agent.call(runs="one", hosts=("b.example",)) == Admitted()
    assert isinstance(agent.call(runs="one"), Refusal)


def test_what_is_released_after_its_start_was_recorded_stays_spent(start: Start):
    agent = start(limited("run", calls=1))
    first = agent.admission(runs="one")
    agent.spending.admit(first, agent.limits)
    agent.start(first)
    agent.spending.release(first.call_id)
    assert isinstance(agent.call(runs="one"), Refusal)


def test_a_call_that_is_rejected_after_it_was_admitted_takes_nothing(start: Start):
    agent = start(limited("run", calls=1))
    assert agent.call(runs="one", outcome="rejected") == Admitted()
    assert agent.call(runs="one") == Admitted()


def test_a_call_of_unknown_end_is_spent(start: Start):
    agent = start(limited("run", calls=1))
    agent.call(runs="one", outcome="unknown")
    assert isinstance(agent.call(runs="one"), Refusal)


def test_a_refused_call_takes_nothing_of_other_budgets(start: Start):
    budgets = (Budget(per="store", amounts={"calls": 2}), Budget(per="run", amounts={"calls": 1}))
    agent = start(Limits(budgets=budgets))
    agent.call(runs="one")
    assert isinstance(agent.call(runs="one"), Refusal)
    assert agent.call(runs="two") == Admitted()
    assert "The store has used 2 of 2" in refused(agent.call(runs="three"))


def test_reads_go_on_when_the_writes_are_used_up(start: Start):
    agent = start(limited("run", writes=1))
    assert agent.call(runs="one", effect="irreversible") == Admitted()
    assert agent.call(runs="one", effect="read") == Admitted()
    assert agent.call(runs="one", effect="write", dry_run=True) == Admitted()
    assert "1 of 1 writes" in refused(agent.call(runs="one", effect="write"))


def test_a_host_counts_once_whatever_its_case(start: Start):
    agent = start(limited("session", hosts=2))
    for hosts in (("a.example",), ("A.example", "b.example"), ("b.example",), ()):
        assert agent.call(session_id="s", hosts=hosts) == Admitted()
    assert "2 of 2 hosts, and this call names another" in refused(
        agent.call(session_id="s", hosts=("c.example",))
    )
    assert agent.call(session_id="other", hosts=("c.example",)) == Admitted()


@pytest.mark.parametrize(
    ("amount", "usage"),
    [
        ("wall_seconds", {"wall_us": 1_500_000}),
        ("cpu_seconds", {"user_us": 1_000_000, "system_us": 500_000}),
        ("output_bytes", {"stdout_bytes": 1, "stderr_bytes": 1}),
        ("files", {"changes": 2}),
    ],
)
def test_the_call_after_the_one_that_used_it_up_is_refused(start: Start, amount: str, usage: dict[str, int]):
    agent = start(limited("run", **{amount: 1.5}))
    assert agent.call(runs="one", effect="write", usage=usage) == Admitted()
    answer = agent.call(runs="one", effect="write")
    assert isinstance(answer, Refusal)
    assert (answer.amount, answer.used) == (amount, 2 if amount in ("output_bytes", "files") else 1.5)


@pytest.mark.parametrize(("amount", "used"), [("tokens", 100), ("cost_usd", 0.25)])
def test_what_the_model_used_counts_for_the_run_and_for_those_above_it(
    start: Start, amount: str, used: float
):
    agent = start(limited("run", **{amount: used}))
    agent.start_run("top")
    agent.start_run("child", "top")
    assert agent.call(runs="child top") == Admitted()
    agent.step("child", tokens=100, cost_nano_usd=250_000_000)
    assert "The run has used" in refused(agent.call(runs="child top"))
    assert "A run above this one has used" in refused(agent.call(runs="sister top"))
    assert agent.call(runs="stranger") == Admitted()


def test_children_spend_what_their_parents_have(start: Start):
    agent = start(limited("run", calls=3))
    for runs in ("top", "child top", "grandchild child top"):
        assert agent.call(runs=runs) == Admitted()
    reason = refused(agent.call(runs="grandchild child top"))
    assert reason.startswith("A run above this one has used 3 of 3 calls. Start another run on its own")


def test_amounts_of_an_agent_come_back_after_their_hours(start: Start):
    agent = start(limited("agent", calls=2, hours=2))
    assert agent.call(0, agent="ada") == Admitted()
    assert agent.call(1.5 * HOUR, agent="ada") == Admitted()
    assert "2 of 2 calls in 2 hours. Wait" in refused(agent.call(1.9 * HOUR, agent="ada"))
    assert agent.call(1.9 * HOUR, agent="bob") == Admitted()
    assert agent.call(2.1 * HOUR, agent="ada") == Admitted()
    assert isinstance(agent.call(3.4 * HOUR, agent="ada"), Refusal)


def test_a_window_of_days_begins_at_a_full_hour(start: Start):
    agent = start(limited("store", calls=1, hours=72))
    full = HOUR - BEGIN_US / 1e6 % HOUR
    assert agent.call(full + 0.1 * HOUR) == Admitted()
    assert isinstance(agent.call(full + 72.9 * HOUR), Refusal)
    assert agent.call(full + 73 * HOUR) == Admitted()


def test_those_who_name_no_agent_share_one_account(start: Start):
    agent = start(limited("agent", calls=1))
    assert agent.call() == Admitted()
    assert isinstance(agent.call(session_id="other"), Refusal)


def test_a_claim_to_have_used_less_than_nothing_gives_nothing_back(start: Start):
    agent = start(limited("run", cost_usd=1))
    agent.step("one", tokens=1, cost_nano_usd=10**9)
    agent.step("one", tokens=-5, cost_nano_usd=-(10**18))
    assert isinstance(agent.call(runs="one"), Refusal)


def test_a_soft_bound_is_told_once(start: Start):
    agent = start(limited("run", soft={"calls": 2}, calls=4))
    told = [agent.call(runs="one") for _ in range(4)]
    one = SoftCrossed(per="run", key=run_id("one").hex(), amount="calls", used=3, limit=2)
    assert told == [Admitted(), Admitted(), Admitted(soft=(one,)), Admitted()]


def test_a_soft_bound_of_a_window_is_told_again_in_the_next(start: Start):
    agent = start(limited("store", soft={"calls": 1}, hours=1))
    told = [len(agent.call(at * HOUR).soft) for at in (0, 0.5, 1.2, 1.9, 2.4)]
    assert told == [0, 1, 0, 1, 0]


def test_an_amount_nobody_knows_is_an_error_and_not_a_yes(start: Start):
    agent = start(limited("run", kindness=5))
    with pytest.raises(ValueError, match="kindness"):
        agent.call(runs="one")


# -- what others recorded -------------------------------------------------------------------------------


def test_calls_that_nobody_admitted_count_from_their_records(on_disk: Start):
    agent = on_disk(limited("session", calls=3))
    agent.start_run("one", session_id="s", agent="ada")
    for _ in range(3):
        seen = agent.admission(runs="one")
        agent.start(seen)
        agent.finish(seen)
    assert isinstance(agent.call(runs="two", session_id="s"), Refusal)
    assert agent.counters(runs="one", session_id="s", agent="ada") == {
        "calls": 3, "failures": 0, "writes": 0, "calls_session": 3, "calls_agent": 3, "calls_store_hour": 3,
        "same_call": 0, "consecutive_failures": 0,
    }  # fmt: skip


def test_a_call_that_was_asked_about_counts_when_it_starts(start: Start):
    agent = start()
    asked = agent.admission(runs="one")
    agent.put(CallAsked(asked.call_id, request_of(asked), b""))
    assert agent.counters(runs="one")["calls"] == 0
    agent.put(CallStarted(asked.call_id, asked.at_us, 0, b""))
    assert agent.counters(runs="one")["calls"] == 1
    agent.finish(asked, "failed")
    assert agent.counters(runs="one")["failures"] == 1


def test_the_order_of_shards_does_not_matter(on_disk: Start):
    """The end of a call stands in a shard that is read before the one with its start, and its run's."""
    first, second = on_disk(), on_disk()
    first.journal.lease()
    second.journal.lease()
    asked = second.admission(runs="child")
    second.start_run("child", "top", session_id="s")
    second.start(asked)
    first.finish(asked, "failed", wall_us=7)
    assert second.counters(runs="child top", session_id="s")["failures"] == 1
    assert second.counters(runs="top", session_id="s")["calls_session"] == 1


def test_failures_in_a_row_are_counted_until_one_succeeds(start: Start):
    agent = start()
    agent.start_run("one")
    for outcome in ("failed", "succeeded", "timed_out", "failed"):
        agent.call(runs="one", outcome=outcome)
    assert agent.counters(runs="one")["consecutive_failures"] == 2
    agent.call(runs="one")
    assert agent.counters(runs="one")["consecutive_failures"] == 0


# -- rates ----------------------------------------------------------------------------------------------


def rated(calls: int, seconds: float, per: Any = "store", decision: Any = "deny") -> Rule:
    return Rule(name="not-too-often", decision=decision, rate=Rate(calls=calls, seconds=seconds, per=per))


def ruled(*rules: Rule, kind: Any = "user", source: str = "/srv/policy.toml") -> Limits:
    return limits_of([Layer(kind=kind, source=source, digest="sha256:0", rules=rules)])


def is_used(agent: Agent, rule: Rule, limits: Limits, at: float = 0.0, **fields: Any) -> bool:
    """Whether the rule's rate is used up; a call that it lets through is made."""
    asked = agent.admission(at, **fields)
    counted = agent.spending.counted(asked, limits)
    used = counted.rate_used(rule)
    if not used:
        assert agent.spending.admit(asked, limits, counted.rates) == Admitted()
    return used


def test_a_rate_lets_so_many_through_in_any_window(start: Start):
    agent, rule = start(), rated(2, 60)
    limits = ruled(rule)
    assert [is_used(agent, rule, limits, at) for at in (0, 30, 59, 59, 59.9, 60, 61, 89.9, 90)] == [
        False, False, True, True, True, False, True, True, False,
    ]  # fmt: skip


def test_a_rate_used_up_in_the_meantime_is_noticed(start: Start):
    rule = rated(1, 60)
    agent = start(ruled(rule))
    first, second = agent.admission(), agent.admission()
    one, other = (agent.spending.counted(asked, agent.limits) for asked in (first, second))
    assert not one.rate_used(rule)
    assert not other.rate_used(rule)
    assert agent.spending.admit(first, agent.limits, one.rates) == Admitted()
    assert agent.spending.admit(second, agent.limits, other.rates) == Moved(rules=("not-too-often",))


def test_a_slot_is_given_back_with_the_call_that_took_it(start: Start):
    rule = rated(1, 60)
    agent = start(ruled(rule))
    asked = agent.admission()
    agent.spending.admit(asked, agent.limits, {rule: False})
    agent.spending.release(asked.call_id)
    assert not agent.spending.counted(agent.admission(1), agent.limits).rate_used(rule)


def test_a_rate_of_a_run_is_shared_by_the_runs_below_it(start: Start):
    rule = rated(1, 60, per="run")
    agent = start(ruled(rule))
    agent.spending.admit(agent.admission(runs="child top"), agent.limits, {rule: False})
    assert agent.spending.counted(agent.admission(1, runs="sister top"), agent.limits).rate_used(rule)
    assert not agent.spending.counted(agent.admission(1, runs="stranger"), agent.limits).rate_used(rule)


def test_a_clock_set_back_by_a_year_does_not_block_for_a_year(start: Start):
    rule = rated(1, 60)
    agent = start(ruled(rule))
    agent.spending.admit(agent.admission(365 * 24 * HOUR), agent.limits, {rule: False})
    assert not agent.spending.counted(agent.admission(0), agent.limits).rate_used(rule)


def test_a_rate_of_no_calls_is_always_used(start: Start):
    agent = start()
    assert agent.spending.counted(agent.admission()).rate_used(rated(0, 60))


def test_rules_of_one_name_in_two_files_are_counted_apart(start: Start):
    agent, one, other = start(), rated(1, 60), rated(1, 60)
    limits = ruled(one)
    assert not is_used(agent, one, limits)
    for elsewhere in (
        ruled(other, source="/srv/shop/custody.toml"),
        ruled(other, kind="project"),
    ):
        assert not is_used(agent, other, elsewhere)
        assert is_used(agent, other, elsewhere)
    assert is_used(agent, one, limits)


def test_the_window_of_a_rule_outlives_a_new_version_of_its_file(start: Start):
    agent, before, after_it = start(), rated(1, 60), rated(2, 60)
    assert not is_used(agent, before, ruled(before))
    assert [is_used(agent, after_it, ruled(after_it)) for _ in range(2)] == [False, True]


def test_a_rule_of_a_policy_that_was_replaced_meanwhile_is_not_guessed_at(start: Start):
    """Its rate would be counted where nobody looks."""
    agent, rule = start(ruled(rated(1, 60))), rated(1, 60)
    with pytest.raises(ConditionFailed, match="replaced"):
        agent.spending.counted(agent.admission(), agent.limits).rate_used(rule)


# -- sequences ------------------------------------------------------------------------------------------


def after(*tools: str, per: Any = "run", seconds: float | None = None, effects: Any = ()) -> Rule:
    sequence = Sequence(after=tools, per=per, seconds=seconds, effects=effects)
    return Rule(name="not-afterwards", decision="deny", sequence=sequence)


def test_only_what_succeeded_in_this_run_has_happened(start: Start):
    agent = start()
    agent.call(tool="secret_read", runs="one", outcome="failed")
    asked = agent.admission(runs="one")
    assert not agent.spending.counted(asked).happened(after("secret_read"))
    agent.call(tool="secret_read", runs="one")
    agent.call(tool="secret_read_dry", runs="one", dry_run=True)
    counted = agent.spending.counted(asked)
    assert counted.happened(after("secret_read"))
    assert counted.happened(after("glob:*secret*"))
    assert counted.happened(after("other", "secret_read"))
    assert counted.happened(after(effects=("read",)))
    assert not counted.happened(after("secret"))
    assert not counted.happened(after("secret_read_dry"))
    assert not counted.happened(after("secret_read", effects=("write",)))
    assert not agent.spending.counted(agent.admission(runs="two")).happened(after("secret_read"))


def test_what_a_child_did_has_happened_in_the_run_above_and_beside_it(start: Start):
    agent = start()
    agent.call(tool="secret_read", runs="child top")
    for runs in ("top", "sister top", "child top"):
        assert agent.spending.counted(agent.admission(runs=runs)).happened(after("secret_read"))


def test_what_happened_longer_ago_does_not_count(start: Start):
    agent = start()
    agent.call(0, tool="secret_read", session_id="s")
    rule = after("secret_read", per="session", seconds=60)
    assert agent.spending.counted(agent.admission(60, session_id="s")).happened(rule)
    assert not agent.spending.counted(agent.admission(61, session_id="s")).happened(rule)


def test_outside_runs_what_the_session_did_counts(start: Start):
    agent = start()
    agent.call(tool="secret_read", session_id="s")
    assert agent.spending.counted(agent.admission(session_id="s")).happened(after("secret_read"))
    assert not agent.spending.counted(agent.admission(session_id="t")).happened(after("secret_read"))


# -- loops ----------------------------------------------------------------------------------------------


def test_the_same_call_again_and_again_is_asked_about_and_then_denied(start: Start):
    agent = start(Limits(loops=Loops(ask=3, deny=4)))

    def same(**fields: Any) -> Any:
        return agent.call(runs="one", digest=b"same", **fields)

    assert same() == Admitted()
    assert same(outcome="failed") == Admitted()
    asked = same()
    assert isinstance(asked, Refusal)
    assert (asked.verdict, asked.amount, asked.used, asked.limit) == ("ask", "same_call", 2, 3)
    assert asked.reason.startswith("bash was called 2 times with exactly these arguments in this run.")
    assert same(answered=True) == Admitted()
    denied = same(answered=True)
    assert isinstance(denied, Refusal)
    assert denied.verdict == "deny"
    assert agent.call(runs="one", digest=b"other") == Admitted()
    assert agent.call(runs="two", digest=b"same") == Admitted()
    assert agent.counters(runs="one", digest=b"same")["same_call"] == 3


# -- many at once, and broken things --------------------------------------------------------------------


def test_sixteen_threads_on_two_connections_get_exactly_what_there_is(on_disk: Start):
    agents = [on_disk(limited("store", calls=20)) for _ in range(2)]
    go = threading.Barrier(16)

    def work(number: int) -> int:
        go.wait(30)
        agent = agents[number % 2]
        return sum(isinstance(agent.call(number, effect="write"), Admitted) for _ in range(3))

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, range(16))) == 20


def test_nobody_waits_on_an_event_loop(on_disk: Start):
    agent, other = on_disk(limited("run", calls=1)), on_disk()
    assert agent.spending.admit_at_once(agent.admission(runs="one"), agent.limits) is None  # nothing is open
    agent.spending.refresh()
    asked = agent.admission(runs="one")
    held: list[Any] = []
    other.spending._tables.write(  # type: ignore[reportPrivateUsage]
        lambda rows: held.append(agent.spending.admit_at_once(asked, agent.limits))
    )
    assert held == [None]
    assert agent.spending.admit_at_once(asked, agent.limits) == Admitted()
    refused = agent.spending.admit_at_once(agent.admission(runs="one"), agent.limits)
    assert isinstance(refused, Refusal)
    assert isinstance(agent.ask(runs="one"), Refusal)


def test_a_file_deleted_beneath_it_is_filled_again_from_the_records(on_disk: Start):
    agent = on_disk(limited("run", calls=3, wall_seconds=10))
    for _ in range(3):
        agent.call(runs="one", usage={"wall_us": 1_000_000})
    for name in os.listdir(os.path.dirname(agent.path or "")):
        if name.startswith("index.db"):
            os.unlink(os.path.join(os.path.dirname(agent.path or ""), name))
    other = on_disk(agent.limits)
    assert "3 of 3 calls" in refused(other.call(runs="one"))
    assert "3 of 3 calls" in refused(agent.call(runs="one"))


def test_making_the_index_anew_leaves_what_is_reserved(on_disk: Start):
    agent = on_disk(limited("run", calls=2))
    agent.call(runs="one")
    assert agent.ask(runs="one") == Admitted()
    index = Index(agent.path, agent.journal)
    index.refresh()
    index.rebuild()
    assert index.forget()
    index.close()
    assert "2 of 2 calls" in refused(agent.ask(runs="one"))


def test_a_damaged_file_is_filled_again(on_disk: Start):
    agent = on_disk(limited("run", calls=1))
    agent.call(runs="one")
    agent.spending.close()
    with open(agent.path or "", "r+b") as file:
        file.write(b"\xff" * 4096)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(f"{agent.path}{suffix}"):
            os.unlink(f"{agent.path}{suffix}")
    assert "1 of 1 calls" in refused(agent.call(runs="one"))


def test_where_nothing_can_be_counted_nothing_is_allowed(on_disk: Start, tmp_path: Any):
    agent = on_disk(limited("run", calls=1))
    os.mkdir(agent.path or "")
    with pytest.raises(StoreError, match="cannot be counted"):
        agent.call(runs="one")


def test_no_limit_needs_no_counting():
    assert not limits_of([Layer(kind="user", source="p", digest="sha256:0")]).admits
    layer = Layer(kind="user", source="p", digest="sha256:0", rules=(rated(1, 1), after("x")))
    found = limits_of([layer], [Budget(per="run", amounts={"calls": 1, "hosts": 3})], None)
    assert (found.admits, found.rates, found.sequences, found.counters) == (True, True, True, False)
    assert (found.hosts, found.used) == (True, False)


def test_no_host_is_to_be_read_in_the_file(on_disk: Start):
    agent = on_disk(limited("run", hosts=1))
    agent.call(runs="one", hosts=("private.example",))
    agent.spending.close()
    with open(agent.path or "", "rb") as file:
        assert b"private.example" not in file.read()
