"""A call is checked, recorded before it runs, run, measured and recorded again."""

import asyncio
import math
import threading
import time

import pytest
from tests.settings_for_tests import NEVER_SHORT

import custody
from custody.errors import RunClosed, StoreClosed, UsageError
from custody.index import CallFilter, EventFilter
from custody.records import Decision
from custody.tools import Origin, ProcessIO


@custody.tool(effect="read")
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def recorded(runtime, call):
    return runtime.index.call(call.id)


def test_a_command_runs_and_its_call_says_how_it_ended(runtime):
    call = runtime.call("exec", {"argv": ["sh", "-c", "echo out; echo err >&2; exit 3"]})

    assert (call.outcome, call.exit_code, call.reason) == ("failed", 3, "exit code 3")
    assert call.result["stdout"] == "out\n"
    assert call.result["stderr"] == "err\n"
    assert call.decision.verdict == "allow"
    assert call.latency_us > 0
    assert call.usage.wall_us > 0


def test_what_the_caller_gets_is_what_is_on_the_record(runtime):
    call = runtime.call("exec", {"argv": ["echo", "hello"]})

    found = recorded(runtime, call)

    assert found == call
    assert call.host_before["memory_total_bytes"] > 0


def test_a_python_function_is_a_tool_with_a_schema_from_its_annotations(runtime):
    call = runtime.call(add, {"a": 2, "b": 3})

    assert (call.outcome, call.result, call.tool, call.effect, call.level) == (
        "succeeded",
        5,
        "add",
        "read",
        "none",
    )
    assert add.schema["properties"]["a"] == {"type": "integer"}
    assert add.schema["required"] == ["a"]
    assert add(1) == 2


@custody.tool(effect="read")
def check(found: dict[str, bool]) -> dict[str, bool]:
    """Say what was found."""
    return found


@pytest.mark.parametrize(
    ("found", "outcome", "passed"),
    [
        ({"passed": True}, "succeeded", True),
        ({"passed": False}, "succeeded", False),
        ({"passed": False, "timed_out": True}, "timed_out", False),
        ({"done": True}, "succeeded", None),
    ],
)
def test_what_a_result_says_of_the_work_it_looked_at_is_on_the_record(runtime, found, outcome, passed):
    call = runtime.call(check, {"found": found})

    assert (call.outcome, call.passed) == (outcome, passed)
    assert recorded(runtime, call) == call


def test_a_call_says_where_it_came_from_and_what_a_guard_of_that_place_said(runtime):
    no = Decision("deny", "rule", "not that one", rule="only_small", param="a")
    fields = {"connection": "c1", "proposal_id": "p", "action_id": "act", "attempt": 2}
    allowed = runtime.call(add, {"a": 1}, origin=Origin(**fields))
    denied = runtime.call(add, {"a": 1}, origin=Origin(guards=(lambda _: no,), **fields))

    assert (allowed.outcome, denied.outcome, denied.decision) == ("succeeded", "rejected", no)
    assert recorded(runtime, allowed) == allowed
    assert recorded(runtime, denied).decision == no
    for call in (allowed, denied, recorded(runtime, denied)):
        assert {name: getattr(call, name) for name in fields} == fields


def test_arguments_that_do_not_fit_the_schema_are_rejected_on_the_record(runtime):
    call = runtime.call("exec", {"argv": "ls"})

    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert "arguments.argv" in call.reason
    assert call.started_at is None
    assert recorded(runtime, call).arguments == {"argv": "ls"}


def test_an_unknown_tool_is_rejected_with_the_nearest_names(runtime):
    call = runtime.call("exce", {})

    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert "exec" in call.reason


def test_a_working_directory_outside_the_roots_is_refused_naming_the_root_that_would_allow_it(runtime):
    call = runtime.call("exec", {"argv": ["true"], "cwd": "/usr"})

    assert (call.outcome, call.decision.by) == ("rejected", "path")
    assert "--root /usr" in call.reason


def test_a_working_directory_that_is_gone_is_bad_input(runtime, tmp_path):
    call = runtime.call("exec", {"argv": ["true"], "cwd": str(tmp_path / "gone")})

    assert (call.outcome, call.decision.by) == ("rejected", "schema")
    assert "does not exist" in call.reason


def test_a_validate_of_the_tool_itself_may_refuse(runtime):
    @custody.tool(validate=lambda arguments: "only even numbers" if arguments["n"] % 2 else None)
    def even(n: int) -> int:
        return n

    assert runtime.call(even, {"n": 1}).reason == "only even numbers"
    assert runtime.call(even, {"n": 2}).result == 2


def test_a_guard_that_raises_is_a_no(runtime):
    @custody.tool(validate=lambda arguments: 1 / 0)
    def anything() -> None: ...

    call = runtime.call(anything, {})

    assert (call.outcome, call.decision.by) == ("rejected", "error")
    assert "ZeroDivisionError" in call.reason


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"success": False}, "failed"),
        ({"success": True}, "succeeded"),
        ({"error": "no such page"}, "failed"),
        ({"error": None, "page": 1}, "succeeded"),
        ({"error": {"code": 5}}, "failed"),
        (False, "succeeded"),
    ],
)
def test_a_result_that_says_it_failed_is_a_failure(runtime, result, outcome):
    @custody.tool
    def answer() -> object:
        return result

    assert runtime.call(answer, {}).outcome == outcome


def test_an_exception_is_a_failure_with_type_and_message(runtime):
    @custody.tool
    def broken() -> None:
        raise ValueError("no such thing")

    call = runtime.call(broken, {})

    assert call.outcome == "failed"
    assert call.error == {"type": "ValueError", "message": "no such thing"}
    assert recorded(runtime, call).error == call.error


def test_a_result_that_is_not_json_is_kept_with_a_mark(runtime):
    cycle: list = []
    cycle.append(cycle)

    @custody.tool
    def odd() -> object:
        return {"nan": math.nan, "bytes": b"\xff\x00", "cycle": cycle, "object": threading.Lock()}

    result = recorded(runtime, runtime.call(odd, {})).result

    assert result["nan"] == {"$type": "float", "value": "NaN"}
    assert result["bytes"] == {"$type": "bytes", "base64": "/wA="}
    assert result["cycle"][0]["$type"] == "cycle"
    assert result["object"]["$type"] == "object"


def test_a_function_past_its_deadline_times_out_and_says_what_it_cannot_stop(runtime):
    release = threading.Event()

    @custody.tool(timeout=0.1)
    def slow() -> None:
        release.wait(60)

    call = runtime.call(slow, {})
    release.set()

    assert (call.outcome, call.limit_hit) == ("timed_out", "deadline")
    assert "limit 0.1 s" in call.reason
    assert "goes on in its thread" in call.reason


def test_a_coroutine_past_its_deadline_is_cancelled(runtime):
    @custody.tool(timeout=0.1)
    async def slow() -> None:
        await asyncio.sleep(30)

    assert runtime.call(slow, {}).outcome == "timed_out"


def test_a_function_may_ask_for_the_context_of_its_call(runtime):
    @custody.tool
    def who(context: custody.Context, greeting: str = "hi") -> dict:
        return {"call": context.call_id, "run": context.run_id, "left": context.remaining_seconds() > 0}

    with runtime.run("look around") as run:
        call = run.call(who, {})

    assert call.result == {"call": call.id, "run": run.id, "left": True}
    assert "context" not in who.schema["properties"]


def test_an_isolated_function_runs_in_a_process_that_can_be_killed(runtime, tools_for_tests):
    began = time.monotonic()
    call = runtime.call(tools_for_tests.spin, {"seconds": 60.0}, timeout=1)
    finished = runtime.call(tools_for_tests.spin, {"seconds": 0.0})

    assert (call.outcome, call.level) == ("timed_out", "process")
    assert time.monotonic() - began < 20
    assert (finished.outcome, finished.result) == ("succeeded", {"spun": 0.0})


def test_an_isolated_function_that_raises_or_dies_is_a_failure(runtime, tools_for_tests):
    raised = runtime.call(tools_for_tests.fail, {"how": "raise"})
    died = runtime.call(tools_for_tests.fail, {"how": "exit"})

    assert raised.error == {"type": "KeyError", "message": "'how'"}
    assert died.outcome == "failed"


def test_calls_of_a_run_are_numbered_from_zero_without_gaps_refusals_included(runtime):
    with runtime.run("count", agent="counter") as run:
        calls = [run.call("exec", {"argv": ["true"]}), run.call("exce", {}), run.call(add, {"a": 1})]

    assert [call.position for call in calls] == [0, 1, 2]
    found = runtime.index.run(run.id)
    assert (found.outcome, found.calls, found.agent, found.intent) == ("succeeded", 3, "counter", "count")


def test_a_call_outside_a_run_stands_alone(runtime):
    assert runtime.call(add, {"a": 1}).run_id is None


@pytest.mark.parametrize("shared", [False, True])
def test_a_call_made_inside_a_call_names_its_parent_and_run(runtime, shared):
    @custody.tool
    def outer() -> str:
        return runtime.call(add, {"a": 1}).id

    with runtime.run(shared=shared) as run:
        parent = run.call(outer, {})

    child = runtime.index.call(parent.result)
    assert (child.parent_id, child.run_id) == (parent.id, run.id)


def test_a_run_whose_body_raises_has_failed(runtime):
    with pytest.raises(KeyError), runtime.run() as run:
        raise KeyError("x")

    found = runtime.index.run(run.id)
    assert (found.outcome, found.reason) == ("failed", "KeyError")


def test_a_run_that_finished_takes_no_more_calls(runtime):
    with runtime.run() as run:
        run.finish("failed", output={"answer": 42}, reason="gave up")
        run.finish("succeeded")
        with pytest.raises(RunClosed):
            run.call(add, {"a": 1})

    found = runtime.index.run(run.id)
    assert (found.outcome, found.output, found.reason) == ("failed", {"answer": 42}, "gave up")


def test_a_dry_run_touches_nothing_and_is_marked(runtime, tmp_path):
    target = tmp_path / "work" / "made"
    call = runtime.call("exec", {"argv": ["touch", str(target)]}, dry_run=True)

    assert (call.outcome, call.dry_run, target.exists()) == ("succeeded", True, False)
    assert call.result["would_run"] == ["touch", str(target)]


@pytest.mark.parametrize("keep", ["digest", "none"])
def test_a_setting_keeps_payloads_out_of_the_store(runtime, keep):
    @custody.tool(keep=keep)
    def private(text: str) -> str:
        return text.upper()

    call = runtime.call(private, {"text": "unmistakable"})
    found = recorded(runtime, call)

    assert call.result == "UNMISTAKABLE"
    assert "unmistakable" not in repr(found).lower()
    assert found.outcome == "succeeded"


def test_a_large_result_is_kept_whole(runtime):
    @custody.tool
    def large() -> str:
        return "x" * 1_000_000

    assert recorded(runtime, runtime.call(large, {})).result == "x" * 1_000_000


def test_calls_at_once_are_bounded_and_the_wait_is_told_apart_from_the_work(store, tmp_path, monkeypatch):
    settings = tmp_path / "custody.toml"
    monkeypatch.setenv("CUSTODY_CONFIG", str(settings))

    now_us = 0
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_us * 1000)

    async def made(parallel: int) -> list[tuple[int, int]]:
        """What four calls took and how long they waited, by a clock that goes on while they work."""
        settings.write_text(f"{NEVER_SHORT}[calls]\nparallel = {parallel}\n")
        at_once = asyncio.Barrier(parallel)

        @custody.tool
        async def nap() -> None:
            nonlocal now_us
            if await at_once.wait() == parallel - 1:  # the last to come: for all that are here it is as late
                now_us += 50_000

        async with custody.open(store, tools=[nap]) as runtime:
            calls = await asyncio.gather(*(runtime.call("nap", {}) for _ in range(4)))
            assert {call.outcome for call in calls} == {"succeeded"}
            return sorted((call.latency_us, call.queue_us) for call in calls)

    one_by_one, together = asyncio.run(made(1)), asyncio.run(made(4))

    assert one_by_one == [(50_000, queue_us) for queue_us in (0, 50_000, 100_000, 150_000)]
    assert together == [(50_000, 0)] * 4


def test_a_timeout_that_makes_no_sense_is_the_callers_error(runtime):
    for timeout in (-1, math.nan):
        with pytest.raises(UsageError):
            runtime.call(add, {"a": 1}, timeout=timeout)


def test_a_task_that_is_cancelled_ends_its_call_on_the_record(store):
    async def scenario() -> tuple:
        async with custody.open(store) as runtime:
            started = asyncio.Event()
            io = ProcessIO(on_output=lambda stream, data: started.set())
            task = asyncio.create_task(runtime.call("shell", {"command": "echo go; sleep 30"}, io=io))
            await asyncio.wait_for(started.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return runtime.index.calls(CallFilter()).items[0]

    call = asyncio.run(scenario())
    assert (call.outcome, call.limit_hit) == ("cancelled", "cancelled")


def test_each_writer_says_once_who_it_is(tmp_path):
    store = str(tmp_path / "store")
    for _ in range(2):
        with custody.open(store) as runtime:
            runtime.call(add, {"a": 1})
            runtime.call(add, {"a": 2})
            events = runtime.index.events(EventFilter(name="writer.opened")).items

    assert len(events) == 2
    assert events[0].data["custody"] == custody.__version__
    facts = {"pid", "host", "boot_id", "platform", "kernel", "python", "custody"}
    assert set(events[0].data) == facts | {"checkpoints", "root"}  # what it found signed
    assert sorted((event.data["checkpoints"] for event in events), key=str) == [1, None]


@pytest.mark.parametrize("timeout", [1e7, 1e300, math.inf, 0])
def test_a_deadline_may_be_as_far_away_as_one_likes(runtime, timeout):
    assert runtime.call("exec", {"argv": ["true"]}, timeout=timeout).outcome == "succeeded"


def test_a_plain_function_may_be_called_again_and_redefined(runtime):
    def make(plus: int):
        def twice(n: int) -> int:
            return 2 * n + plus

        return twice

    first, second = make(0), make(1)

    assert [runtime.call(first, {"n": n}).result for n in (1, 2)] == [2, 4]
    assert runtime.call(second, {"n": 1}).result == 3
    with pytest.raises(UsageError, match="exec"):
        runtime.call(custody.tool(name="exec")(lambda: None), {})


def test_a_closed_runtime_says_so(store):
    with custody.open(store) as runtime:
        pass

    with pytest.raises(StoreClosed):
        runtime.call(add, {"a": 1})
    runtime.close()
