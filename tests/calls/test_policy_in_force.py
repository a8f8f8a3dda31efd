"""A policy on the way of a call: what rules refuse, ask and count, and what the record says of it."""

import asyncio
import functools
import threading
import time
from contextlib import closing

import apsw
import pytest

import custody
from custody.calls.answers import no, yes
from custody.calls.pause import begin_pause
from custody.calls.questions import Means, Standing, answer_question
from custody.compose import open_runtime
from custody.errors import Denied, NotRecorded
from custody.index import CallFilter, EventFilter, Index
from custody.journal import Journal, RealDisk
from custody.records import Kind
from custody.settings import load_settings


@custody.tool(effect="write")
def note(text: str) -> str:
    return text


ASKS = '[[rules]]\nname = "look"\ndecision = "ask"\ntool = "note"\nreason = "Notes are looked at."\n'


def kinds_of(runtime, call_id):
    """Of the records of a call, in their order."""
    return [
        Kind(stored.kind).name.lower()
        for stored in runtime.journal.follow()
        if bytes.fromhex(call_id) in stored.leaf
        and stored.kind in (Kind.CALL_ASKED, Kind.CALL_ANSWERED, Kind.CALL_STARTED, Kind.CALL_FINISHED)
    ]


async def with_prompt(said, *calls, tools=(note,)):
    """The calls, made one after the other where somebody sits at the door; and the runtime they left."""
    async with await open_runtime(load_settings(store=":memory:"), tools=tools) as runtime:
        runtime.prompt = said
        made = [await runtime.call("note", {"text": text}) for text in calls]
        return made, [kinds_of(runtime, call.id) for call in made]


def test_all_rules_that_match_are_on_the_record_with_the_digest_of_the_policy(policy):
    policy(
        '[[rules]]\nname = "no b"\ndecision = "deny"\nwhen = \'params.text == "b"\'\n'
        '[[rules]]\nname = "notes"\ndecision = "allow"\ntool = "note"\n'
    )
    with custody.open(":memory:", tools=[note]) as runtime:
        a, b = (runtime.call("note", {"text": text}) for text in "ab")
        stored = runtime.index.call(b.id).decision
    assert (a.outcome, a.decision.matched) == ("succeeded", ("notes",))
    assert (b.outcome, b.decision.rule, b.decision.matched) == ("rejected", "no b", ("no b", "notes"))
    assert len(b.decision.policy) == 16 and a.decision.policy == b.decision.policy
    assert stored == b.decision


def test_a_condition_that_fails_refuses_and_keeps_the_value_to_itself(policy):
    policy('[[rules]]\nname = "odd"\ndecision = "allow"\nwhen = "params.text.missing == 1"\n')
    with custody.open(":memory:", tools=[note]) as runtime:
        call = runtime.call("note", {"text": "a-value-of-mine"})
    assert (call.outcome, call.decision.by, call.decision.rule) == ("rejected", "error", "odd")
    assert "a-value-of-mine" not in call.decision.reason


def test_where_nobody_is_there_an_ask_is_a_no_at_once_and_one_record(policy):
    policy(ASKS)
    (call,), kinds = asyncio.run(with_prompt(None, "x"))
    assert (call.outcome, call.decision.verdict, call.decision.by) == ("rejected", "deny", "nobody")
    assert call.decision.rule == "look"
    assert kinds == [["call_finished"]]


def test_a_yes_at_the_door_lets_this_one_call_run(policy):
    policy(ASKS)
    shown = []

    async def prompt(question):
        shown.append((question.tool, question.shown, question.reason, question.rule))
        return yes(question, "kim")

    (first, second), kinds = asyncio.run(with_prompt(prompt, "x", "x"))
    assert (first.outcome, first.result) == ("succeeded", "x")
    assert (first.decision.verdict, first.decision.by, first.decision.rule) == ("allow", "person", "look")
    assert kinds == [["call_asked", "call_answered", "call_started", "call_finished"]] * 2
    assert shown == [("note", {"text": "x"}, "Notes are looked at.", "look")] * 2
    assert second.outcome == "succeeded"


def test_how_long_deciding_took_is_the_same_for_the_caller_and_on_the_record(policy):
    """Before the question: the call is decided once more after the yes, which stands on no record."""
    policy(ASKS)

    async def prompt(question):
        return yes(question, "kim")

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = prompt
            made = [await runtime.call("note", {"text": text}) for text in "abc"]
            return made, [runtime.index.call(call.id) for call in made]

    made, stored = asyncio.run(main())
    assert [call.decide_us for call in made] == [call.decide_us for call in stored]
    assert all(call.decide_us is not None for call in made)


def test_a_no_at_the_door_ends_the_call(policy):
    policy(ASKS)

    async def prompt(question):
        return no(question, "kim", "not today")

    (call,), kinds = asyncio.run(with_prompt(prompt, "x"))
    assert (call.outcome, call.decision.by, call.decision.reason) == ("rejected", "person", "not today")
    assert kinds == [["call_asked", "call_answered", "call_finished"]]


def test_a_yes_that_comes_late_lets_the_same_call_pass_once_and_no_other(policy):
    policy(ASKS + "[approvals]\nwait_seconds = 0.05\n")

    async def silent(question):
        await asyncio.Event().wait()

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = silent
            late = await runtime.call("note", {"text": "x"})
            means = Means(journal=runtime.journal, recorder=runtime.ledger.recorder, index=runtime.index)
            await asyncio.to_thread(answer_question, means, late.id, "allow", person="kim")
            other = await runtime.call("note", {"text": "y"})
            again = await runtime.call("note", {"text": "x"})
            third = await runtime.call("note", {"text": "x"})
            return [late, other, again, third], runtime.index.call(late.id)

    (late, other, again, third), stored = asyncio.run(main())
    assert [call.outcome for call in (late, other, again, third)] == [
        "rejected", "rejected", "succeeded", "rejected",
    ]  # fmt: skip
    assert (late.decision.by, again.decision.by) == ("nobody", "person")
    assert late.id[:8] in late.decision.reason and "repeat the same call" in late.decision.reason
    assert stored.outcome == "rejected"


def test_calls_that_are_the_same_at_once_all_pass_on_what_a_person_granted(policy):
    """The yes itself lets one pass, the grant the others; whoever comes second to the yes takes the grant."""
    policy(ASKS + "[approvals]\nwait_seconds = 0.05\n")

    async def silent(question):
        await asyncio.Event().wait()

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = silent
            late = await runtime.call("note", {"text": "x"})
            means = Means(journal=runtime.journal, recorder=runtime.ledger.recorder, index=runtime.index)
            standing = Standing(hours=1, calls_max=5)
            await asyncio.to_thread(answer_question, means, late.id, "allow", person="kim", standing=standing)
            return await asyncio.gather(*(runtime.call("note", {"text": "x"}) for _ in range(4)))

    assert [call.outcome for call in asyncio.run(main())] == ["succeeded"] * 4


def test_a_call_that_waits_holds_no_place_among_those_that_run(policy, tmp_path):
    settings = tmp_path / "config" / "custody" / "custody.toml"
    settings.write_text(settings.read_text() + "[calls]\nparallel = 1\n")
    policy(ASKS)

    async def main():
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def prompt(question):
            asked.set()
            await go_on.wait()
            return yes(question, "kim")

        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = prompt
            waiting = asyncio.ensure_future(runtime.call("note", {"text": "x"}))
            await asked.wait()
            beside = await asyncio.wait_for(runtime.call("file_list", {"path": "."}), 30)
            go_on.set()
            return beside, await waiting

    beside, waited = asyncio.run(main())
    assert (beside.outcome, waited.outcome) == ("succeeded", "succeeded")


def test_a_policy_in_shadow_blocks_nothing_and_says_what_it_would_have_done(policy):
    policy('mode = "shadow"\n[[rules]]\nname = "no notes"\ndecision = "deny"\ntool = "note"\n')
    with custody.open(":memory:", tools=[note]) as runtime:
        call = runtime.call("note", {"text": "x"})
        with runtime.run("observed") as run, run.observe("note", {"text": "y"}, guard=True):
            pass
        said = runtime.index.events(EventFilter(name="shadow.denied")).items
    assert call.outcome == "succeeded"
    assert [event.data["rule"] for event in said] == ["no notes", "no notes"]


def test_an_observed_call_that_a_rule_asks_about_is_refused_for_nobody_is_asked(policy):
    policy(ASKS)
    with custody.open(":memory:") as runtime, runtime.run("observed") as run:
        with pytest.raises(Denied) as refused, run.observe("note", {"text": "y"}, guard=True):
            raise AssertionError("it must not run")
        assert refused.value.details["decision"].by == "nobody"


def test_a_budget_refuses_the_call_that_would_exceed_it(policy):
    policy("[budgets.run]\ncalls = 2\nsoft = { calls = 1 }\n")
    with custody.open(":memory:", tools=[note]) as runtime:
        with runtime.run("spend") as run:
            outcomes = [run.call("note", {"text": text}) for text in "abc"]
        other = runtime.call("note", {"text": "d"})
        soft = runtime.index.events(EventFilter(name="budget.soft")).items
    assert [call.outcome for call in outcomes] == ["succeeded", "succeeded", "rejected"]
    assert (outcomes[2].decision.by, outcomes[2].decision.param) == ("budget", "calls")
    assert other.outcome == "succeeded"
    assert len(soft) == 1


def test_the_same_call_again_and_again_is_asked_about_and_then_refused(policy):
    policy("[loops]\nsame_call = { ask = 2, deny = 3 }\n")

    async def prompt(question):
        return yes(question, "kim")

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[note]) as runtime:
            runtime.prompt = prompt
            async with runtime.run("again") as run:
                return [await run.call("note", {"text": "x"}) for _ in range(3)]

    calls = asyncio.run(main())
    assert [(call.outcome, call.decision.by) for call in calls] == [
        ("succeeded", "rule"), ("succeeded", "person"), ("rejected", "budget"),
    ]  # fmt: skip


def test_a_rate_and_a_sequence_hold_over_several_calls(policy):
    policy(
        '[[rules]]\nname = "slowly"\ndecision = "deny"\ntool = "note"\nrate = { calls = 2, seconds = 3600 }\n'
        '[[rules]]\nname = "not after a list"\ndecision = "deny"\ntool = "file_read"\n'
        'sequence = { after = "file_list" }\n'
    )
    with custody.open(":memory:", tools=[note]) as runtime, runtime.run("order") as run:
        rated = [run.call("note", {"text": text}).outcome for text in "abc"]
        before = run.call("file_read", {"path": "missing"})
        run.call("file_list", {"path": "."})
        after = run.call("file_read", {"path": "missing"})
    assert rated == ["succeeded", "succeeded", "rejected"]
    assert before.decision.rule is None
    assert (after.outcome, after.decision.rule) == ("rejected", "not after a list")


def test_what_a_project_allows_has_no_effect_before_it_is_trusted(policy, tmp_path):
    own = tmp_path / "config" / "custody" / "policy.toml"
    own.write_text('default = "deny"\n')
    policy('[[rules]]\nname = "notes"\ndecision = "allow"\ntool = "note"\n')
    with custody.open(":memory:", tools=[note]) as runtime:
        assert runtime.call("note", {"text": "a"}).outcome == "rejected"


def test_sixty_four_callers_in_threads_spend_a_budget_exactly(policy):
    policy("[budgets.store]\ncalls = 20\n")
    outcomes: list[str] = []
    with custody.open(":memory:", tools=[note]) as runtime:

        def work(number):
            outcomes.append(runtime.call("note", {"text": str(number)}).outcome)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        kept = runtime.index.calls(CallFilter(outcome="succeeded"), limit=100).items
    assert (outcomes.count("succeeded"), outcomes.count("rejected")) == (20, 44)
    assert len(kept) == 20


def observed(run, *texts, tool="note", **options):
    """How each of such calls ends, made by the program itself and guarded."""
    return [ended(run.observe(tool, {"text": text}, guard=True, **options)) for text in texts]


def ended(call):
    try:
        with call:
            pass
    except Denied as refused:
        return refused.details["decision"]
    return call.outcome


BUDGET_OF_TWO = "[budgets.run]\ncalls = 2\nsoft = { calls = 1 }\n"


def test_an_observed_call_spends_a_budget_with_the_others_and_soft_bounds_are_told_once(policy):
    policy(BUDGET_OF_TWO)
    with custody.open(":memory:", tools=[note]) as runtime, runtime.run("spend") as run:
        first = run.call("note", {"text": "a"})
        second, third = observed(run, "b", "c")
        soft = runtime.index.events(EventFilter(name="budget.soft")).items
    assert (first.outcome, second, third.by, third.param) == ("succeeded", "succeeded", "budget", "calls")
    assert [event.data["amount"] for event in soft] == ["calls"]


def test_a_child_spends_with_observed_calls_what_its_parent_has(policy):
    policy(BUDGET_OF_TWO)
    with custody.open(":memory:") as runtime, runtime.run("above") as run:
        with run.child("below") as child:
            assert observed(child, "a", "b") == ["succeeded", "succeeded"]
        (refused,) = observed(run, "c")
    assert refused.by == "budget"


def test_rates_sequences_and_loops_hold_for_observed_calls(policy):
    policy(
        '[[rules]]\nname = "slowly"\ndecision = "deny"\ntool = "note"\nrate = { calls = 2, seconds = 3600 }\n'
        '[[rules]]\nname = "not after a list"\ndecision = "deny"\ntool = "send"\n'
        'sequence = { after = "list" }\n[loops]\nsame_call = { deny = 3 }\n'
    )
    with custody.open(":memory:") as runtime, runtime.run("order") as run:
        *_, rated = observed(run, "a", "b", "c")
        (before,) = observed(run, "x", tool="send")
        *_, again = observed(run, "y", "y", "y", tool="list")
        (after,) = observed(run, "x", tool="send")
    assert (rated.rule, before, again.param, after.rule) == (
        "slowly", "succeeded", "same_call", "not after a list",
    )  # fmt: skip


def test_rules_see_the_effect_and_the_agent_that_an_observed_call_states(policy):
    policy(
        '[[rules]]\nname = "no writes"\ndecision = "deny"\neffect = "write"\n'
        '[[rules]]\nname = "not kim"\ndecision = "deny"\nagent = "kim"\n'
    )
    with custody.open(":memory:") as runtime, runtime.run("say") as run:
        (free,) = observed(run, "a")
        (effect,) = observed(run, "a", effect="write")
        (agent,) = observed(run, "a", agent="kim")
    assert (free, effect.rule, agent.rule) == ("succeeded", "no writes", "not kim")


def test_on_an_event_loop_an_observed_call_is_counted_without_waiting(policy):
    policy(BUDGET_OF_TWO)

    async def main():
        async with await open_runtime(load_settings(store=":memory:")) as runtime:
            async with runtime.run("spend") as run:
                at_once = observed(run, "a", "b", "c")
                with pytest.raises(Denied) as waited:
                    async with run.observe("note", {"text": "d"}, guard=True):
                        raise AssertionError("it must not run")
            return at_once, waited.value.details["decision"]

    (*allowed, refused), waited = asyncio.run(main())
    assert allowed == ["succeeded", "succeeded"]
    assert (refused.by, refused.param) == ("budget", "calls")
    assert (waited.by, waited.param) == ("budget", "calls")


def test_on_an_event_loop_a_call_is_refused_rather_than_kept_waiting_for_another_process(policy, tmp_path):
    policy('[[rules]]\nname = "slowly"\ndecision = "deny"\nrate = { calls = 9, seconds = 3600 }\n')

    async def main():
        settings = load_settings(store=str(tmp_path / "store"))
        async with await open_runtime(settings) as runtime, runtime.run("spend") as run:
            other = apsw.Connection(str(tmp_path / "store" / "index.db"))
            other.set_busy_timeout(20_000)
            other.execute("BEGIN IMMEDIATE")
            (meanwhile,) = observed(run, "a")
            other.execute("ROLLBACK")
            other.close()
            return meanwhile, made_until(lambda: observed(run, "b")[0])

    meanwhile, afterwards = asyncio.run(main())
    assert (meanwhile.by, "async with" in meanwhile.reason) == ("budget", True)
    assert afterwards == "succeeded"


def test_what_an_observed_call_took_that_could_not_be_recorded_is_given_back(policy, monkeypatch):
    policy(BUDGET_OF_TWO)
    with custody.open(":memory:") as runtime, runtime.run("spend") as run:
        observed(run, "a")
        call = run.observe("note", {"text": "b"}, guard=True)
        monkeypatch.setattr(type(run), "keep_numbered", refuse_to_keep)
        with pytest.raises(NotRecorded):
            call.open()
        monkeypatch.undo()
        assert observed(run, "c") == ["succeeded"]


def test_where_nothing_can_be_counted_calls_are_refused_and_that_is_on_the_record(policy, tmp_path):
    policy(BUDGET_OF_TWO)
    (tmp_path / "store" / "index.db").mkdir(parents=True)
    settings = load_settings(store=str(tmp_path / "store"))
    with custody.open(settings.store, tools=[note]) as runtime, runtime.run("spend") as run:
        own = run.call("note", {"text": "a"})
        (told,) = observed(run, "a")
    with closing(Journal(RealDisk(settings.store))) as journal, closing(Index(None, journal)) as index:
        stored = index.calls(CallFilter(outcome="rejected")).items
    assert [call.decision for call in stored] == [told, own.decision]
    for decision in (own.decision, told):
        assert (decision.verdict, decision.by) == ("deny", "error")
        assert "cannot be counted" in decision.reason


BUDGET_OF_HOSTS = "[budgets.run]\nhosts = 1\n"
TOO_DEEP = functools.reduce(lambda inside, _: [inside], range(100), "https://a.example/")
"""Which hosts it names is not looked for any more."""


@pytest.mark.parametrize(
    ("arguments", "decided"),
    [
        (["https://a.example/", "https://b.example/"], "succeeded"),
        ("https://a.example/", "succeeded"),
        ({"text": TOO_DEEP}, ("deny", "error")),
        ({"to": ["https://a.example/", "https://b.example/"]}, ("deny", "budget")),
    ],
    ids=["list", "text", "deep", "many"],
)
def test_whatever_a_caller_hands_over_its_hosts_are_counted_or_it_is_refused(policy, arguments, decided):
    policy(BUDGET_OF_HOSTS)
    with custody.open(":memory:") as runtime, runtime.run("reach") as run:
        said = ended(run.observe("note", arguments, guard=True))
        (stored,) = runtime.index.calls(CallFilter(tool="note")).items
    if decided == "succeeded":
        assert (said, stored.outcome) == (decided, decided)
    else:
        assert (said.verdict, said.by) == decided
        assert (stored.outcome, stored.decision) == ("rejected", said)
        assert "example" not in said.reason


@pytest.mark.parametrize(("arguments", "by"), [(["a"], "schema"), ({"text": TOO_DEEP}, "error")])
def test_a_call_whose_hosts_cannot_be_told_is_rejected_and_raises_nothing(policy, arguments, by):
    policy(BUDGET_OF_HOSTS)
    with custody.open(":memory:", tools=[note]) as runtime, runtime.run("reach") as run:
        call = run.call("note", arguments)
        stored = runtime.index.call(call.id)
    assert (call.outcome, call.decision.by) == ("rejected", by)
    assert stored.decision == call.decision


def refuse_to_keep(*_, **__):
    raise NotRecorded


def test_whoever_only_asks_whether_a_call_may_happen_uses_nothing_up(policy):
    policy(BUDGET_OF_TWO)
    with custody.open(":memory:") as runtime, runtime.run("spend") as run:
        asked = [run.recording.decide("note", {"text": "a"}, run=run).verdict for _ in range(3)]
        made = observed(run, "a", "b")
        last = run.recording.decide("note", {"text": "c"}, run=run)
    assert (asked, made) == (["allow"] * 3, ["succeeded"] * 2)
    assert (last.verdict, last.by) == ("deny", "budget")


def test_a_pause_lets_observed_calls_pass_that_a_rule_refuses(policy):
    policy('[[rules]]\nname = "no notes"\ndecision = "deny"\ntool = "note"\n')
    with custody.open(":memory:") as runtime, runtime.run("paused") as run:
        (refused,) = observed(run, "a")
        begin_pause(
            run.recording.recorder, runtime.index, seconds=60, reason="a move", person="kim", may_pause=True
        )
        made = made_until(lambda: observed(run, "b")[0])
        said = runtime.index.events(EventFilter(name="shadow.denied")).items
    assert (refused.rule, made) == ("no notes", "succeeded")
    assert [event.data["rule"] for event in said] == ["no notes"]


def made_until(make, seconds=30.0):
    """What is at last allowed, within a moment."""
    end = time.monotonic() + seconds
    while (outcome := make()) != "succeeded" and time.monotonic() < end:
        pass
    return outcome
