"""Recorded calls decided again: what would change is said exactly, and what cannot be told is not guessed."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.calls.made_again import STRICTER, WORDS, Live, layer_of
from tests.calls.week import BEGIN_US, EFFECTS, WEEK_US, Made, Week, arguments_of, made_up, run_of

import custody
from custody.calls.budgets import Admission, Refusal, limits_of, open_spending
from custody.calls.replay import Replay, Wanted
from custody.calls.replayed import Decided
from custody.journal import Journal, MemoryDisk, RealDisk
from custody.policy import Case, Policy
from custody.records import RunStarted, Step, Tokens

COUNTING = """
[[rules]]
name = "writes ask"
tool = "file_write"
decision = "ask"
when = 'size(params.content) > 350'

[[rules]]
name = "few reads"
tool = "file_read"
decision = "deny"
rate = { calls = 2, seconds = 3600, per = "session" }
when = 'params.path != "notes.md"'

[[rules]]
name = "no shell after a write elsewhere"
tool = "shell"
decision = "deny"
sequence = { after = "glob:file_*", seconds = 86400, per = "agent", effect = "write" }

[budgets.run]
calls = 14
writes = 6
wall_seconds = 24
tokens = 440

[budgets.store]
calls = 150

[loops]
same_call = { ask = 2, deny = 3 }
"""
"""Leans on what went before in every way there is."""


@pytest.fixture(scope="module")
def calls() -> list[Made]:
    return made_up(600)


@pytest.fixture(scope="module")
def week(calls: list[Made], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    week = Week(str(tmp_path_factory.mktemp("week")), calls)
    yield week
    week.close()


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """The same week, but of every fifth call the arguments are redacted, withheld or purged."""
    week = Week(str(tmp_path_factory.mktemp("holed")), made_up(600, holes=0.2))
    yield week
    week.close()


def decided(week: Week, text: str, wanted: Wanted = Wanted()) -> dict[bytes, Decided]:  # noqa: B008
    return {call.call_id: said for call, said in Replay(week.writer, layer_of(text)).decided(wanted)}


def test_a_replay_foresees_exactly_what_the_same_calls_made_again_come_to(week: Week, calls: list[Made]):
    foreseen = decided(week, STRICTER)
    live = Live(layer_of(STRICTER))
    made_again = {}
    for made in calls:
        if made.was != "unreached":  # the schema refuses those before any rule is asked
            made_again[made.call_id] = WORDS[live.make(made)]
    # A secret is known to be read where the call ran then; of one refused then nobody knows.
    told = {key: said.now for key, said in foreseen.items() if key in made_again}
    doubtful = [key for key, now in told.items() if now == "undecidable"]
    assert {key: now for key, now in told.items() if key not in doubtful} == {
        key: now for key, now in made_again.items() if key not in doubtful
    }
    assert len(doubtful) < len(calls) / 50
    assert set(Counter(made_again.values())) == {"allowed", "asked", "refused"}


def test_calls_come_in_the_order_they_were_made_over_all_writers(week: Week, calls: list[Made]):
    found = [call for call, _ in Replay(week.writer, layer_of("")).decided()]
    assert [call.call_id for call in found] == [made.call_id for made in calls]
    assert [call.was for call in found] == [made.was for made in calls]
    assert [(call.agent, call.session_id) for call in found] == [(made.agent, made.session) for made in calls]


@pytest.mark.parametrize("text", [STRICTER, COUNTING], ids=["stricter", "counting"])
def test_what_is_decided_with_holes_is_what_is_decided_without(week: Week, holed: Week, text: str):
    whole, seen = decided(week, text), decided(holed, text)
    assert whole.keys() == seen.keys()
    guessed = {
        key.hex(): (said, whole[key])
        for key, said in seen.items()
        if said.now != "undecidable" and whole[key].now not in (said.now, "undecidable")
    }
    assert guessed == {}
    count = Counter(said.now for said in seen.values())
    assert count["undecidable"] > Counter(said.now for said in whole.values())["undecidable"]
    assert count["refused"] > 20


def test_rules_that_look_at_no_argument_are_decided_whatever_was_purged(holed: Week):
    text = '[[rules]]\nname = "no mail"\ntool = "mail_send"\ndecision = "deny"\n'
    found = decided(holed, text)
    assert {said.now for said in found.values()} == {"allowed", "refused"}


def test_a_call_that_another_rule_denies_anyway_is_decided(holed: Week):
    text = """
    [[rules]]
    name = "some shells"
    tool = "shell"
    decision = "deny"
    when = 'params.command == "ls -la"'
    """
    hidden = {made.call_id for made in holed.calls if made.hole and made.tool == "shell"}
    unreached = {made.call_id for made in holed.calls if made.was == "unreached"}
    found = decided(holed, text)
    undecidable = {key for key, said in found.items() if said.now == "undecidable"}
    assert undecidable == hidden - unreached
    also = text + '[[rules]]\nname = "no shell"\ntool = "shell"\ndecision = "deny"\n'
    found = decided(holed, also)
    assert {found[key] for key in hidden - unreached} == {Decided("refused", "no shell")}


@pytest.mark.parametrize(
    ("default", "decision", "now"),
    [
        ("allow", "deny", "undecidable"),
        ("allow", "ask", "undecidable"),
        ("allow", "allow", "undecidable"),  # its condition might have failed, and then it denies
        ("deny", "deny", "refused"),
        ("deny", "allow", "undecidable"),
        ("ask", "ask", "undecidable"),
    ],
)
def test_a_rule_that_cannot_be_told_only_matters_where_it_could_change_something(
    holed: Week, default: str, decision: str, now: str
):
    text = f"""
    default = "{default}"
    [[rules]]
    name = "some"
    tool = "git"
    decision = "{decision}"
    when = 'params.argv[0] == "push"'
    """
    found = decided(holed, text)
    hidden = [made for made in holed.calls if made.hole and made.tool == "git" and made.was == "allowed"]
    assert {found[made.call_id].now for made in hidden} == {now}


def test_why_something_cannot_be_told_is_said(holed: Week):
    text = '[[rules]]\nname = "some"\ndecision = "deny"\nwhen = \'has(params.content)\'\n'
    report = Replay(holed.writer, layer_of(text)).report()
    assert {change.why for change in report.changes if change.now == "undecidable"} == {
        "its arguments were purged",
        "its arguments are redacted",
        "its arguments are not kept as they were",
    }
    assert all(change.rule == "some" for change in report.changes if change.now == "undecidable")


def test_the_state_of_then_is_on_no_record(week: Week):
    found = decided(week, '[[require_state]]\nkey = "reviewed"\nvalue = true\n')
    reached = [found[made.call_id] for made in week.calls if made.was != "unreached"]
    assert {said.now for said in reached} == {"undecidable"}
    assert {said.why for said in reached} == {"the state of then is not on the record"}


def test_a_budget_refuses_from_its_last_call_on(week: Week):
    found = decided(week, "[budgets.store]\ncalls = 100\nhours = 1000\n")
    reached = [found[made.call_id].now for made in week.calls if made.was != "unreached"]
    assert reached == ["allowed"] * 100 + ["refused"] * (len(reached) - 100)


def test_a_run_is_charged_what_its_own_calls_used(week: Week):
    found = decided(week, "[budgets.run]\nwall_seconds = 6\n")  # each call took two
    by_run: dict[int, list[str]] = defaultdict(list)
    for made in week.calls:
        if made.was in ("allowed", "asked"):  # those that ran
            by_run[made.run].append(found[made.call_id].now)
    assert all("refused" not in said[:3] for said in by_run.values())
    assert all(set(said[3:]) <= {"refused"} for said in by_run.values())


@pytest.mark.parametrize(("door", "now"), [("otel", "allowed"), ("import", "allowed"), ("python", "refused")])
def test_what_others_tell_of_their_steps_uses_nothing_up(tmp_path: Path, door: str, now: str):
    calls = made_up(20)
    week = Week(str(tmp_path), [])
    run, at_us = b"t" * 16, calls[0].at_us - 10
    week._put(RunStarted(run, at_us, b"", session_id="s", door=door), {}, week.writer)
    step = Step(run[:8], run, at_us + 1, b"", tokens=Tokens(input=2_000_000, output=0))
    week._put(step, {"text": ""}, week.writer)
    for made in calls:
        week._record(made, week.writer)
    week.writer.sync()
    said = decided(week, "[budgets.store]\ntokens = 1_000_000\n")
    assert said[calls[0].call_id].now == now
    week.close()


def test_what_is_narrowed_down_is_shown_alone_and_counted_with_the_rest(week: Week):
    every = decided(week, STRICTER)
    middle = BEGIN_US + WEEK_US // 2
    of_bob = decided(week, STRICTER, Wanted(agent="bob"))
    later = decided(week, STRICTER, Wanted(since_us=middle))
    of_run = decided(week, STRICTER, Wanted(run_id=run_of(3)))
    assert of_bob == {made.call_id: every[made.call_id] for made in week.calls if made.agent == "bob"}
    assert later == {made.call_id: every[made.call_id] for made in week.calls if made.at_us >= middle}
    assert of_run == {made.call_id: every[made.call_id] for made in week.calls if made.run == 3}
    assert decided(week, STRICTER, Wanted(until_us=BEGIN_US)) == {}


def test_a_file_in_shadow_is_replayed_as_if_enforced(week: Week):
    assert decided(week, 'mode = "shadow"\n' + STRICTER) == decided(week, STRICTER)


def test_a_file_that_says_nothing_allows_what_an_old_rule_refused(week: Week):
    report = Replay(week.writer, layer_of("")).report()
    assert {(change.was, change.now) for change in report.changes} == {
        ("refused", "allowed"),
        ("asked", "allowed"),
    }
    assert {change.rule for change in report.changes} == {"an old rule", "an old question"}
    assert report.changed == sum(made.was in ("refused", "asked") for made in week.calls)
    assert report.undecidable == 0
    assert report.unchanged + report.changed == report.calls == len(week.calls)


def test_the_table_adds_up_and_has_examples(week: Week):
    report = Replay(week.writer, layer_of(STRICTER)).report()
    assert sum(change.calls for change in report.changes) == report.changed + report.undecidable
    ids = {made.call_id.hex() for made in week.calls}
    assert all(change.examples and ids.issuperset(change.examples) for change in report.changes)
    assert [change.calls for change in report.changes] == sorted(
        (change.calls for change in report.changes), reverse=True
    )


def test_nothing_of_the_arguments_is_in_the_report(week: Week):
    report = str(Replay(week.writer, layer_of(STRICTER)).report())
    chance = random.Random(1)
    assert all(str(arguments_of(chance, tool)) not in report for tool in EFFECTS)
    assert "rm -rf build" not in report


@custody.tool(effect="read")
def fetch(url: str) -> str:
    return url


@custody.tool(effect="write")
def note(text: str) -> int:
    return len(text)


WATCHED = """
[[rules]]
name = "nothing from inside"
tool = "fetch"
decision = "deny"
when = 'params.url.contains("internal")'

[[rules]]
name = "bob reads only"
agent = "bob"
effect = "write"
decision = "deny"

[[rules]]
name = "short notes"
tool = "note"
decision = "deny"
when = 'size(params.text) > 5'
"""


def test_the_same_calls_made_again_under_a_file_are_refused_exactly_where_the_replay_said(tmp_path: Path):
    chance = random.Random(8)
    week = [
        (
            agent,
            [
                (fetch, {"url": f"https://{chance.choice(('example', 'internal.example'))}/{number}"})
                if chance.random() < 0.5
                else (note, {"text": "x" * chance.randrange(10)})
                for number in range(6)
            ],
        )
        for agent in ("ada", "bob", "cy")
    ]

    def made(store: Path) -> list[tuple[str, str | None]]:
        said = []
        with custody.open(str(store)) as runtime:
            for agent, calls in week:
                with runtime.run("work", agent=agent) as run:
                    for tool, arguments in calls:
                        call = run.call(tool, arguments)
                        refused = call.outcome == "rejected"
                        said.append(("refused", call.decision.rule) if refused else ("allowed", None))
        return said

    made(tmp_path / "before")
    with closing(Journal(RealDisk(str(tmp_path / "before")))) as journal:
        foreseen = [(said.now, said.rule) for _, said in Replay(journal, layer_of(WATCHED)).decided()]
    (tmp_path / "config" / "custody" / "policy.toml").write_text(WATCHED)
    assert made(tmp_path / "after") == foreseen
    assert {rule for _, rule in foreseen} == {None, "nothing from inside", "bob reads only", "short notes"}


def test_what_can_be_read_of_a_damaged_journal_is_decided_and_the_damage_told(tmp_path: Path):
    calls = made_up(60)
    Week(str(tmp_path), calls).close()
    damaged = min((tmp_path / "journal").rglob("*.seg"))
    data = bytearray(damaged.read_bytes())
    data[4096] ^= 0xFF
    damaged.write_bytes(data)
    with closing(Journal(RealDisk(str(tmp_path)))) as journal:
        replay = Replay(journal, layer_of(STRICTER))
        report = replay.report()
    assert 0 < report.calls < len(calls)
    assert replay.damage is not None


ADMITTED = """
[[rules]]
name = "few reads"
tool = "file_read"
decision = "deny"
rate = { calls = 2, seconds = 7200, per = "session" }
when = 'params.path != "notes.md"'

[[rules]]
name = "few commands of an agent"
tool = ["git", "shell"]
decision = "deny"
rate = { calls = 4, seconds = 36000, per = "agent" }

[budgets.run]
calls = 9
writes = 5

[budgets.agent]
calls = 12
hours = 20

[loops]
same_call = { deny = 2 }
"""


def test_rates_budgets_and_loops_count_as_those_of_live_calls_do(tmp_path: Path):
    calls = [replace(made, was="allowed") for made in made_up(250, seed=3)]
    week = Week(str(tmp_path), calls)
    layer = layer_of(ADMITTED)
    foreseen = decided(week, ADMITTED)
    week.close()
    policy = Policy([layer])
    limits = limits_of([layer], policy.budgets, policy.loops)
    live = {}
    with (
        closing(Journal(MemoryDisk())) as journal,
        closing(open_spending(None, journal, b"k" * 32)) as spending,
    ):
        for made in calls:
            wanted = Admission(
                call_id=made.call_id,
                tool=made.tool,
                effect=EFFECTS[made.tool],
                at_us=made.at_us,
                run_chain=(run_of(made.run),),
                session_id=made.session,
                agent=made.agent,
                digest=hashlib.sha256(f"{made.tool} {made.arguments}".encode()).digest(),
            )
            counted = spending.counted(wanted, limits)
            ruling = policy.decide(
                Case(
                    tool=made.tool,
                    effect=EFFECTS[made.tool],
                    params=made.arguments,
                    agent=made.agent,
                    session_id=made.session,
                    rate_used=counted.rate_used,
                )
            )
            if ruling is not None and ruling.verdict == "deny":
                live[made.call_id] = "refused", ruling.rule
                continue
            admitted = spending.admit(wanted, limits, counted.rates)
            refused = isinstance(admitted, Refusal)
            live[made.call_id] = ("refused", admitted.amount) if refused else ("allowed", None)
    assert {key: said.now for key, said in foreseen.items()} == {key: now for key, (now, _) in live.items()}
    assert {why for _, why in live.values()} == {
        None, "few reads", "few commands of an agent", "calls", "writes", "same_call"
    }  # fmt: skip


def test_rules_of_one_name_in_two_files_refuse_what_a_replay_of_each_file_says(tmp_path: Path):
    def limiting(tool: str, calls: int) -> str:
        rate = f"rate = {{ calls = {calls}, seconds = 36000, per = 'agent' }}"
        return f"[[rules]]\nname = 'few'\ntool = '{tool}'\ndecision = 'deny'\n{rate}\n"

    calls = [replace(made, was="allowed") for made in made_up(120, seed=5)]
    week = Week(str(tmp_path), calls)
    files = limiting("git", 2), limiting("file_read", 3)
    foreseen = [decided(week, text) for text in files]
    week.close()
    layers = [replace(layer_of(text), source=f"/srv/{at}.toml") for at, text in enumerate(files)]
    policy, limits = Policy(layers), limits_of(layers)
    with (
        closing(Journal(MemoryDisk())) as journal,
        closing(open_spending(None, journal, b"k" * 32)) as spending,
    ):
        for made in calls:
            wanted = Admission(
                call_id=made.call_id,
                tool=made.tool,
                effect=EFFECTS[made.tool],
                at_us=made.at_us,
                agent=made.agent,
            )
            counted = spending.counted(wanted, limits)
            case = Case(
                tool=made.tool,
                effect=EFFECTS[made.tool],
                params={},
                agent=made.agent,
                rate_used=counted.rate_used,
            )
            ruling = policy.decide(case)
            refused = ruling is not None and ruling.verdict == "deny"
            assert refused is any(said[made.call_id].now == "refused" for said in foreseen)
            if not refused:
                spending.admit(wanted, limits, counted.rates)
    assert all(Counter(said.now for said in one.values())["refused"] > 5 for one in foreseen)
