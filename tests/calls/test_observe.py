"""A call that its caller runs is on the record as if Custody had run it."""

import asyncio
import threading

import pytest
from tests.calls.faces import Stage, told

import custody
from custody.calls.run import current_run
from custody.errors import Denied
from custody.index import CallFilter

SECRET = "s3cr3t-v4lue-that-nobody-may-keep"


def only_call(runtime):
    (call,) = runtime.index.calls(CallFilter()).items
    return runtime.index.call(call.id)


# -- what is recorded -------------------------------------------------------------------------------------


def test_an_observed_call_has_its_start_before_and_its_end_behind_what_is_done_inside(stage: Stage):
    async def scenario(runtime):
        async with runtime.run("look something up", agent="a") as run:
            async with run.observe("search", {"q": "x"}, effect="read", external_id="toolu_1") as call:
                during = told(runtime)
                call.result = {"hits": 3}
            assert (call.outcome, call.position) == ("succeeded", 0)
            return call.id, during, told(runtime), only_call(runtime), run.id

    call_id, during, after, call, run_id = stage.play(scenario)
    assert during == ["run+", "call+"]
    assert after == ["run+", "call+", "call-"]
    assert (call.id, call.run_id, call.position, call.external_id) == (call_id, run_id, 0, "toolu_1")
    assert (call.tool, call.arguments, call.result, call.outcome) == (
        "search", {"q": "x"}, {"hits": 3}, "succeeded",
    )  # fmt: skip
    assert (call.effect, call.level, call.source, call.agent, call.dry_run) == (
        "read", "none", "observed", "a", False,
    )  # fmt: skip
    assert (call.decision.verdict, call.decision.by) == ("allow", "nobody")
    assert call.latency_us >= 0
    assert call.error is None


def test_an_exception_is_recorded_with_type_and_message_and_goes_on(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            with pytest.raises(KeyError):
                async with run.observe("search", {"q": "x"}):
                    raise KeyError("no such page")
            return only_call(runtime)

    call = stage.play(scenario)
    assert (call.outcome, call.reason) == ("failed", "KeyError")
    assert call.error == {"type": "KeyError", "message": "'no such page'"}
    assert call.result is None


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError("too slow"), "timed_out"),
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (SystemExit(1), "failed"),
    ],
)
def test_how_a_call_is_left_says_how_it_ended(error, outcome):
    with custody.open(":memory:") as runtime, runtime.run() as run:
        with pytest.raises(type(error)), run.observe("search"):
            raise error
        assert only_call(runtime).outcome == outcome


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"success": False}, "failed"),
        ({"error": "no"}, "failed"),
        ({"error": None}, "succeeded"),
        (None, "succeeded"),
    ],
)
def test_a_result_that_says_it_failed_is_a_failure(stage: Stage, result, outcome):
    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("search") as call:
                call.result = result
            return call.outcome, only_call(runtime).outcome

    assert stage.play(scenario) == (outcome, outcome)


def test_a_failure_without_an_exception_can_be_said(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("search") as call:
                call.fail("quota used up", type="QuotaError")
            return only_call(runtime)

    call = stage.play(scenario)
    assert (call.outcome, call.error) == ("failed", {"type": "QuotaError", "message": "quota used up"})


def test_a_call_that_never_ran_is_one_record(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            call = run.observe("delete", {"path": "/"})
            call.reject("a person said no", rule="deletes")
            call.close()
            assert (call.outcome, call.position) == ("rejected", 0)
            return told(runtime), only_call(runtime), run.totals

    kinds, call, totals = stage.play(scenario)
    assert kinds == ["run+", "call-"]
    assert (call.outcome, call.reason, call.arguments) == ("rejected", "a person said no", {"path": "/"})
    assert (call.decision.verdict, call.decision.rule) == ("deny", "deletes")
    assert call.started_at is None
    assert call.latency_us is None
    assert (totals.calls, totals.calls_by_outcome) == (1, {"rejected": 1})


def test_a_result_from_a_cache_has_no_latency_and_what_a_verifier_said_is_kept(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("search") as call:
                call.result, call.cached, call.passed = "page", True, False
            return only_call(runtime)

    call = stage.play(scenario)
    assert (call.source, call.latency_us, call.passed, call.outcome) == ("cache", None, False, "succeeded")


@pytest.mark.parametrize(("said", "passed"), [(None, True), (False, False)])
def test_what_the_result_says_of_the_work_holds_unless_the_caller_says_so(stage: Stage, said, passed):
    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("check") as call:
                call.result, call.passed = {"passed": True}, said
            return only_call(runtime)

    call = stage.play(scenario)
    assert (call.passed, call.outcome) == (passed, "succeeded")


def test_callbacks_that_come_in_pairs_open_and_close_it_and_only_once(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            first, second = run.observe("a").open(), run.observe("b").open()
            second.close(ValueError("no"))
            first.result = 1
            first.close()
            first.close(ValueError("too late"))
            return told(runtime), [call.outcome for call in (first, second)], run.totals.calls_by_outcome

    kinds, outcomes, by_outcome = stage.play(scenario)
    assert kinds == ["run+", "call+", "call+", "call-", "call-"]
    assert outcomes == ["succeeded", "failed"]
    assert by_outcome == {"succeeded": 1, "failed": 1}


# -- where it belongs -------------------------------------------------------------------------------------


def test_a_call_inside_a_call_names_its_parent_and_a_step_its_calls(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            step = run.step("let me look", model="m")
            async with run.observe("outer") as outer, run.observe("inner") as inner:
                pass
            async with run.observe("elsewhere", parent=inner.id, step=step.id) as third:
                pass
            calls = {call.id: call for call in runtime.index.calls(CallFilter()).items}
            return step.id, outer.id, inner.id, [calls[one.id] for one in (outer, inner, third)]

    step_id, outer, inner, calls = stage.play(scenario)
    assert [call.parent_id for call in calls] == [None, outer, inner]
    assert [call.step_id for call in calls] == [step_id] * 3
    assert [call.position for call in calls] == [1, 2, 3]


def test_concurrent_branches_have_positions_steps_and_parents_of_their_own():
    async def scenario(runtime):
        async with runtime.run() as run:

            async def branch(number: int):
                step = run.step(f"branch {number}")
                async with run.observe("outer", {"n": number}) as outer:
                    await asyncio.sleep(0)
                    async with run.observe("inner", {"n": number}) as inner:
                        await asyncio.sleep(0)
                return step.id, outer.id, inner.id

            branches = await asyncio.gather(*(branch(number) for number in range(5)))
            positions = [step.position for step in runtime.index.run_steps(run.run_id)]
            return branches, {call.id: call for call in runtime.index.run_calls(run.run_id)}, positions

    branches, calls, positions = Stage("asyncio").play(scenario)
    for step_id, outer, inner in branches:
        assert (calls[outer].step_id, calls[outer].parent_id) == (step_id, None)
        assert (calls[inner].step_id, calls[inner].parent_id) == (step_id, outer)
    taken = [call.position for call in calls.values()] + positions
    assert sorted(taken) == list(range(15))


def test_threads_have_positions_without_gap_or_double(store):
    with custody.open(store) as runtime, runtime.run() as run:

        def work(number: int) -> None:
            for _ in range(25):
                with run.observe("work", {"n": number}) as call:
                    call.result = number
                assert run.totals.calls >= 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        calls = runtime.index.run_calls(run.run_id)
        assert [call.position for call in calls] == list(range(200))
        assert run.totals.calls_by_outcome == {"succeeded": 200}


def test_a_call_left_in_another_context_than_it_was_entered_in_is_recorded_all_the_same():
    """As an asynchronous generator that the loop closes, or a fixture, does."""

    async def scenario(runtime):
        run = runtime.run()
        await asyncio.create_task(run.__aenter__())
        call = run.observe("search")
        await asyncio.create_task(call.__aenter__())
        step = run.step("x")
        await asyncio.create_task(asyncio.to_thread(step.__enter__))
        step.__exit__(None, None, None)
        await call.__aexit__(None, None, None)
        await run.__aexit__(None, None, None)
        return told(runtime)

    assert Stage("asyncio").play(scenario) == ["run+", "call+", "step", "call-", "run-"]


def test_a_run_left_in_another_context_is_finished():
    with custody.open(":memory:") as runtime:
        run = runtime.run()
        thread = threading.Thread(target=run.__enter__)
        thread.start()
        thread.join()
        run.__exit__(None, None, None)
        assert run.outcome == "succeeded"
        assert current_run.get() is None


def test_calls_in_a_shared_run_take_the_positions_of_the_journal(folder_stage: Stage):
    async def scenario(runtime):
        async with runtime.run(shared=True) as run:
            for number in range(3):
                async with run.observe("search", {"n": number}) as call:
                    call.result = number
            run.step("enough")
            async with run.observe("last"):
                pass
        return runtime.index.run_calls(run.run_id), runtime.index.run_steps(run.run_id)

    calls, steps = folder_stage.play(scenario)
    assert [(call.position, call.outcome) for call in calls] == [
        (position, "succeeded") for position in (0, 1, 2, 4)
    ]
    assert [step.position for step in steps] == [3]


# -- durable, guarded, redacted ---------------------------------------------------------------------------


def test_durable_waits_until_both_records_survive_a_power_loss(stage: Stage, tmp_path):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + "[observe]\ndelay_ms = 30000\n")  # a disk may be slow for a moment

    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("pay", {"amount": 3}, durable=True) as call:
                started = call.stored
                assert started.is_durable
            assert call.stored.is_durable
            assert call.stored.sequence > started.sequence

    stage.play(scenario)


def test_a_cancellation_while_its_start_is_made_durable_ends_the_call():
    """The `with` is never entered, so nobody else could."""

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall()
            task = asyncio.create_task(run.observe("pay", durable=True).__aenter__())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stage.heal()
            return only_call(runtime)

    stage = Stage("asyncio")
    assert stage.play(scenario).outcome == "cancelled"


def test_a_cancellation_while_a_strict_start_is_recorded_ends_the_call():
    async def scenario(runtime):
        async with runtime.run(on_error="raise") as run:
            stage.stall()
            task = asyncio.create_task(run.observe("pay", durable=True).__aenter__())
            assert await asyncio.to_thread(stage.disk.wait_for_hits, 1, 30)
            task.cancel()
            await asyncio.sleep(0)
            stage.heal()
            with pytest.raises(asyncio.CancelledError):
                await task
            return only_call(runtime)

    stage = Stage("asyncio")
    assert stage.play(scenario).outcome == "cancelled"


RULES = """
[[policy.rules]]
name = "no-deletes"
deny_tool = "delete"
reason = "nothing is deleted here"
"""


def test_a_guarded_observation_asks_policy_first(tmp_path, stage: Stage):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + RULES)

    async def scenario(runtime):
        async with runtime.run() as run:
            with pytest.raises(Denied) as caught:
                async with run.observe("delete", {"path": "x"}, guard=True):
                    raise AssertionError("it may not happen")
            async with run.observe("read", {"path": "x"}, guard=True) as call:
                call.result = "content"
            calls = runtime.index.run_calls(run.run_id)
            assert caught.value.details["call_id"] == calls[0].id
            return [(call.outcome, call.decision.verdict) for call in calls], run.totals

    said, totals = stage.play(scenario)
    assert said == [("rejected", "deny"), ("succeeded", "allow")]
    assert totals.calls_by_outcome == {"rejected": 1, "succeeded": 1}


def test_a_secret_in_arguments_result_or_error_is_on_no_byte_of_the_store(
    folder_stage: Stage, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)

    async def scenario(runtime):
        async with runtime.run(f"with {SECRET}", inputs={"k": SECRET}) as run:
            step = run.step(
                f"I use {SECRET}", calls=[{"id": "1", "name": "login", "arguments": {"k": SECRET}}]
            )
            async with run.observe("login", {"text": f"use {SECRET}", "password": "hunter2-hunter2"}) as call:
                call.result = {"session": {"access_token": "tok-hunter2-hunter2"}, "said": SECRET}
            with pytest.raises(ValueError, match="cannot use"):
                async with run.observe(f"tool {SECRET}", {"n": 1}, external_id=SECRET, step=step):
                    raise ValueError(f"cannot use {SECRET}")
            run.event("deployed", token="abc-hunter2", said=SECRET)
            run.error(f"went wrong with {SECRET}")
            run.child(f"below {SECRET}")
        run.step(SECRET)  # refused
        run.event(SECRET)
        await run.finish(SECRET)

    folder_stage.play(scenario)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert SECRET.encode() not in kept
    assert b"hunter2" not in kept
    assert SECRET not in caplog.text


def test_a_tools_setting_keeps_arguments_and_results_as_digests(tmp_path, stage: Stage):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(
        path.read_text() + '[observe]\nsecret_tools = ["glob:vault_*"]\nsecret_tools_keep = "digest"\n'
    )

    async def scenario(runtime):
        async with runtime.run() as run:
            for tool in ("vault_read", "mcp_call", "plain"):
                async with run.observe(tool, {"q": "the question"}) as call:
                    call.result = "the answer"
            return runtime.index.run_calls(run.run_id, details=True)

    *withheld, plain = stage.play(scenario)
    for call in withheld:
        assert set(call.arguments) == set(call.result) == {"$digest", "bytes"}
    assert (plain.arguments, plain.result) == ({"q": "the question"}, "the answer")
