"""A connection breaks, and the client goes on: nothing twice, nothing lost that can be kept."""

import asyncio
import threading

import pytest
from tests.calls.faces import wait_until
from tests.client.daemon import Daemon

import custody
from custody.errors import NotRecorded, OutcomeUnknown, RunClosed, StoreUnusable

WAIT_SECONDS = 60.0


@custody.tool(effect="read")
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def running(daemon: Daemon) -> list:
    return daemon.runtime.index.calls(tool="exec", outcome="running").items


def calls_of(daemon: Daemon, run_id: str) -> list:
    return daemon.runtime.index.run_calls(bytes.fromhex(run_id))


def test_a_run_its_calls_and_the_programs_own_tools_go_on_over_another_connection(daemon, runtime):
    with runtime.run("go on") as run:
        first = run.call(add, {"a": 1})
        daemon.drop_connections()
        runtime.index.run(run.id)  # asked again over the new one
        second = run.call(add, {"a": 2})

    assert (first.result, second.result) == (2, 3)
    assert [call.position for call in calls_of(daemon, run.id)] == [0, 1]
    assert first.connection != second.connection
    assert daemon.runtime.index.run(run.id).outcome == "succeeded"


def test_what_the_program_does_itself_is_recorded_once_however_often_the_connection_breaks(daemon, runtime):
    with runtime.run("observe") as run:
        for number in range(300):
            with run.observe("search", {"n": number}) as call:
                call.result = number
            if number % 60 == 0:
                daemon.drop_connections()

    calls = calls_of(daemon, run.id)
    assert [call.arguments["n"] for call in calls] == list(range(300))
    assert [call.position for call in calls] == list(range(300))
    assert {call.outcome for call in calls} == {"succeeded"}
    assert run.totals.dropped == 0


def test_a_call_under_way_when_the_connection_breaks_is_unknown_here_and_never_sent_again(daemon, runtime):
    started, release = threading.Event(), threading.Event()

    @custody.tool
    def wait() -> str:
        started.set()
        release.wait(WAIT_SECONDS)
        return "done"

    def break_it() -> None:
        assert started.wait(WAIT_SECONDS)
        daemon.drop_connections()

    breaking = threading.Thread(target=break_it)
    breaking.start()
    with runtime.run("break") as run:
        with pytest.raises(OutcomeUnknown, match="broke"):
            run.call(wait, {})
        release.set()
        after = run.call(add, {"a": 1})
    breaking.join()

    assert [call.tool for call in calls_of(daemon, run.id)] == ["wait", "add"]
    # The daemon ends what it did over the old connection while the new one is already in use.
    wait_until(lambda: calls_of(daemon, run.id)[0].outcome is not None)
    assert calls_of(daemon, run.id)[0].outcome in ("unknown", "cancelled")
    assert after.result == 2
    assert run.totals.calls_by_outcome == {"unknown": 1, "succeeded": 1}


@pytest.mark.long
def test_a_question_is_asked_again(daemon, runtime):
    call = runtime.call("exec", {"argv": ["true"]})
    for _ in range(5):
        daemon.drop_connections()
        assert runtime.index.call(call.id).outcome == "succeeded"


@pytest.mark.long
def test_a_daemon_that_was_started_again_has_ended_the_run_and_takes_another(tmp_path):
    with Daemon(str(tmp_path / "store")) as daemon, daemon.open() as runtime:
        with runtime.run("cut short") as run:
            with run.observe("search") as call:
                call.result = 1
            assert call.position == 0
            daemon.stop()
            daemon.start()
            with pytest.raises(RunClosed):
                run.call(add, {"a": 1})
            with run.observe("search"):
                pass
        assert (run.outcome, run.totals.refused) == ("incomplete", 2)
        assert daemon.runtime.index.run(run.id).outcome == "incomplete"
        with runtime.run("another") as run:
            assert run.call(add, {"a": 1}).result == 2


@pytest.mark.long
def test_without_a_daemon_a_call_is_not_made_and_the_programs_own_work_goes_on(daemon, caplog):
    with daemon.open() as runtime:
        runtime.link.wait_seconds = 0.2
        daemon.stop()
        with pytest.raises(NotRecorded, match="cannot be reached, so nothing was run"):
            runtime.call("exec", {"argv": ["true"]})
        with runtime.run("on its own") as run:
            with run.observe("search", {"q": 1}) as call:
                call.result = "found"
            assert (run.id, call.id, call.outcome) == ("", "", "succeeded")
            runtime.link.wait_seconds = WAIT_SECONDS
            daemon.start()
            assert call.position == 0
            assert call.id != ""
        assert [call.result for call in calls_of(daemon, run.id)] == ["found"]
        assert daemon.runtime.index.run(run.id).outcome == "succeeded"
    assert "not begun, as the daemon does not answer" in caplog.text


@pytest.mark.long
def test_with_on_error_raise_a_daemon_that_is_away_stops_the_program(daemon):
    with daemon.open(on_error="raise") as runtime:
        runtime.link.wait_seconds = 0.2
        daemon.stop()
        with pytest.raises(NotRecorded), runtime.run("never"):
            raise AssertionError("it began")


def test_nobody_listening_is_said_when_it_is_opened():
    with pytest.raises(StoreUnusable, match="cannot be reached") as caught, custody.open("ws://127.0.0.1:1"):
        pass
    assert "custody serve" in caught.value.hint


def test_a_coroutine_that_is_cancelled_hears_once_its_call_is_recorded(daemon):
    async def main() -> None:
        async with daemon.open() as runtime, runtime.run("cancel") as run:
            task = asyncio.ensure_future(run.call("exec", {"argv": ["sleep", "60"]}, timeout=90))
            async with asyncio.timeout(WAIT_SECONDS):
                while not await asyncio.to_thread(running, daemon):
                    pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (call,) = daemon.runtime.index.calls(tool="exec").items
            assert call.outcome == "cancelled"

    asyncio.run(main())
