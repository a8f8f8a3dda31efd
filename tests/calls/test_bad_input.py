"""Values nobody should offer: the agent goes on, what can be kept is kept, the journal stays readable."""

import gc
import json
import time
import weakref

import pytest
from tests.calls.faces import Stage, events, of_kind, records, told

import custody
from custody.errors import UsageError
from custody.index import CallFilter
from custody.records import CallFinished, CallStarted


def only_call(runtime):
    (call,) = runtime.index.calls(CallFilter()).items
    return runtime.index.call(call.id)


class Hostile:
    """Everything it is asked raises."""

    def __getattribute__(self, name):
        raise RuntimeError("hands off")

    def __repr__(self):
        raise RuntimeError("hands off")

    __str__ = __iter__ = __len__ = __bool__ = __hash__ = __eq__ = __repr__


class HostileMapping(dict):
    def get(self, *_):
        raise RuntimeError("hands off")

    items = keys = values = __iter__ = __getitem__ = get


STRANGE = [
    Hostile(),
    HostileMapping(error=1),
    {Hostile: 1},
    {"x": Hostile()},
    "\ud800",
    b"\xff",
    float("nan"),
    10**30,
]


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_what_cannot_be_serialised_is_marked_and_the_agent_goes_on(stage: Stage, number):
    value = STRANGE[number]

    async def scenario(runtime):
        async with runtime.run(inputs=value) as run:
            async with run.observe("odd", value) as call:
                call.result = value
            run.step("odd", data=value, tokens=value, calls=value)
            run.event("odd", value=value)
            run.error("odd", value=value)
            await run.finish(output=value, totals=value)
        runtime.index.refresh()
        return told(runtime), run.totals.dropped, only_call(runtime).outcome

    kinds, dropped, outcome = stage.play(scenario)
    assert kinds == ["run+", "call+", "call-", "step", "app.odd", "run.error", "run-"]
    assert dropped == 0
    assert outcome == "succeeded"


@pytest.mark.parametrize(
    "options",
    [
        {"effect": "delete"}, {"effect": 5}, {"external_id": 7}, {"external_id": ["x"]}, {"step": "no id"},
        {"step": 7}, {"parent": "zz"}, {"parent": 9}, {"agent": 7}, {"dry_run": "yes"},
        {"durable": "yes"}, {"external_id": "x" * 200_000}, {"agent": "a" * 200_000},
        {"parent": "ab"}, {"step": "ab"},
    ],
    ids=repr,
)  # fmt: skip
def test_an_option_that_makes_no_sense_neither_disturbs_the_agent_nor_spoils_the_journal(
    stage: Stage, options
):
    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("search", {"q": 1}, **options) as call:
                call.result = "found"
            return only_call(runtime), run.totals.dropped

    call, dropped = stage.play(scenario)
    assert (call.tool, call.outcome, call.result) == ("search", "succeeded", "found")
    assert dropped == 0


NO_NAMES = [None, 5, "", "x" * 300_000, "\ud800", Hostile()]


@pytest.mark.parametrize("number", range(len(NO_NAMES)))
def test_a_name_that_is_none_still_has_its_call_recorded(stage: Stage, number):
    tool = NO_NAMES[number]

    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe(tool, {"q": 1}) as call:
                call.result, call.passed = "found", "perhaps"
            call = run.observe("b").open()
            call.fail(Hostile(), type=Hostile)
            call.close()
            run.observe("c").reject(5, rule=7)
            return [(call.outcome, call.passed) for call in runtime.index.run_calls(run.run_id)], run.totals

    outcomes, totals = stage.play(scenario)
    assert outcomes == [("succeeded", None), ("failed", None), ("rejected", None)]
    assert totals.dropped == 0


def test_a_result_is_not_consumed(stage: Stage):
    async def scenario(runtime):
        items = iter([1, 2, 3])
        async with runtime.run() as run, run.observe("stream", {"items": items}) as call:
            call.result = items
        return list(items)

    assert stage.play(scenario) == [1, 2, 3]


@pytest.mark.parametrize("size", [20_000, 5_000_000, 100_000_000])
def test_a_very_large_result_is_kept_or_counted_and_the_call_is_complete(
    folder_stage: Stage, size, monkeypatch
):
    for waiting in ("calls.handle", "blocking"):  # to write so much takes a busy machine longer
        monkeypatch.setattr(f"custody.{waiting}.FINISH_SECONDS", 60.0)
    text = "x" * size

    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("dump", {"query": text}) as call:
                call.result = text
            run.step(text, whole_text=True)
            await run.finish(output=text)
        return only_call(runtime), runtime.index.run_steps(run.run_id), runtime.index.run(run.id)

    def judge(value):
        assert value == text or (value["$type"] == "too_large" and value["bytes"] == size)

    call, (step,), run = folder_stage.play(scenario)
    judge(call.arguments["query"])
    judge(call.result)
    judge(run.output)
    assert (call.outcome, run.outcome) == ("succeeded", "succeeded")
    assert (step.text, step.text_bytes) == ("x" * 2000, size)
    assert run.totals.dropped == 0


def test_a_clock_that_jumps_back_changes_no_latency(stage: Stage, monkeypatch):
    real = time.time_ns

    async def scenario(runtime):
        async with runtime.run() as run:
            run.step("one")
            async with run.observe("search") as call:
                monkeypatch.setattr(time, "time_ns", lambda: real() - 10**18)
            run.step("two")
        monkeypatch.undo()
        runtime.index.refresh()
        (finished,) = of_kind(runtime, CallFinished)
        return finished[0], runtime.index.run_steps(run.run_id), runtime.index.run(run.id), call

    finished, steps, run, call = stage.play(scenario)
    assert 0 <= finished.latency_us < 10**9
    assert all(0 <= step.since_previous_us < 10**9 for step in steps)
    assert (run.outcome, call.outcome) == ("succeeded", "succeeded")


def test_a_call_holds_neither_arguments_nor_payload_once_it_is_over(stage: Stage):
    class Large:
        pass

    async def scenario(runtime):
        async with runtime.run() as run:
            large = Large()
            alive = weakref.ref(large)
            async with run.observe("search", {"large": large}) as call:
                pass
            del large
            gc.collect()
            assert alive() is None
            return call.id

    assert stage.play(scenario)


def test_the_end_of_a_call_that_began_before_the_run_finished_is_kept(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            call = run.observe("slow", {"n": 1}).open()
            await run.finish()
            call.result = "late"
            call.close()
            return told(runtime), only_call(runtime), events(runtime, "run.refused"), records(runtime)[1][0]

    kinds, call, refused, started = stage.play(scenario)
    assert kinds == ["run+", "call+", "run-", "call-"]
    assert (call.outcome, call.result) == ("succeeded", "late")
    assert refused == []
    assert isinstance(started, CallStarted)


@pytest.mark.parametrize("word", ["rasie", "", 5, ["raise"]])
def test_a_mistyped_on_error_is_refused_instead_of_meaning_something_else(word):
    with (
        pytest.raises(UsageError, match="on_error cannot be"),
        custody.open(":memory:", on_error=word or "x"),
    ):
        pass
    with custody.open(":memory:") as runtime:
        with pytest.raises(UsageError, match="on_error cannot be"):
            runtime.run(on_error=word or "x")
        with runtime.run() as run:
            with pytest.raises(UsageError, match="on_error cannot be"):
                run.observe("search", on_error=word)
            with pytest.raises(UsageError, match="on_error cannot be"):
                run.step("text", on_error=word)


def test_no_secret_is_kept_where_data_stands_for_a_name_or_json_for_data(tmp_path):
    secret = {"api_key": "pl41n-s3cret-v4lue"}
    with custody.open(tmp_path / "store") as runtime:
        with runtime.run(secret, agent=secret, session=secret) as run:  # type: ignore[arg-type]
            run.step(secret, calls=[{"id": "1", "name": "n", "arguments": json.dumps(secret)}])  # type: ignore[arg-type]
            with run.observe("t", json.dumps(secret), external_id=secret):  # type: ignore[arg-type]
                pass
            run.finish(reason=secret)  # type: ignore[arg-type]
        assert runtime.index.run("latest").intent.startswith('{"api_key":"[redacted:')
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert b"pl41n-s3cret-v4lue" not in kept
