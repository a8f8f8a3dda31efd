"""Another program is told of each call, and whatever it does about it, calls go on."""

import asyncio
import errno
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from tests.bridges.boundary_listener import OK, WAIT_SECONDS, Listening, be_patient, listening, nobody
from tests.settings_for_tests import without_walls

import custody
from custody.bridges.boundary import delivery
from custody.bridges.boundary.delivery import NOT_TAKEN
from custody.bridges.boundary.listener import listener_of
from custody.bridges.boundary.notices import CLOSE_SECONDS, QUEUE_FULL, QUEUE_NOTICES_MAX
from custody.compose import open_runtime
from custody.errors import Denied, InvalidSetting
from custody.index import EventFilter
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.settings import load_settings
from custody.stores import open_view

BUSY_SECONDS = 20.0  # what a machine that is busy with other tests may add
NEVER_SECONDS = 300.0  # whoever waits for that does not end in time


@custody.tool(effect="read")
def add(left: int, right: int) -> int:
    return left + right


@custody.tool(effect="read")
def fail(text: str) -> None:
    raise LookupError(text)


@custody.tool(effect="read")
def say_no(pid: int) -> dict[str, Any]:
    return {"success": False, "pid": pid}


@custody.tool(effect="read", timeout=0.05)
async def sleep_long() -> None:
    await asyncio.sleep(30)


TOOLS = [add, fail, say_no, sleep_long]


@pytest.fixture
def store(tmp_path) -> str:
    return os.fspath(tmp_path / "store")


@pytest.fixture
def patient(monkeypatch) -> None:
    be_patient(monkeypatch)


@pytest.fixture
def unanswered(monkeypatch) -> None:
    """Who waits for an answer waits for ever; for nothing else is the time short."""
    monkeypatch.setattr(delivery, "WRITE_SECONDS", WAIT_SECONDS)
    monkeypatch.setattr(delivery, "ANSWER_SECONDS", NEVER_SECONDS)


@pytest.fixture
def told(hurried, patient):
    """As `hurried`, for listeners that are well and on a machine that may be busy."""
    return hurried


@pytest.fixture
def hurried(store, monkeypatch):
    """Open the store with a listener named in the environment, which has as little time as ever."""

    def open_told(listener: Listening | str, **options: Any) -> Any:
        monkeypatch.setenv("CUSTODY_BOUNDARY_URL", listener if isinstance(listener, str) else listener.url)
        return custody.open(store, tools=TOOLS, **options)

    return open_told


def settled(runtime: Any, count: int) -> None:
    """Wait until it is known of so many notices whether they arrived."""
    notices, pause = runtime.notices, threading.Event()
    end = time.monotonic() + WAIT_SECONDS
    while notices.delivered + notices.undelivered < count:
        assert time.monotonic() < end, (notices.delivered, notices.undelivered)
        pause.wait(0.005)


def undelivered(store: str) -> list[dict[str, Any]]:
    with open_view(load_settings(store=store)) as view:
        found = view.index.events(EventFilter(name="boundary.undelivered", order="oldest")).items
        return [event.data for event in found]


# -- what is told ---------------------------------------------------------------------------------------


def test_a_call_is_told_at_its_start_and_at_its_end(told, store):
    with listening() as listener, told(listener) as runtime:
        call = runtime.call("add", {"left": 1, "right": 2})
        start, end = listener.wait_for(2)
        settled(runtime, 2)
    assert list(start) == ["pid", "sig", "event", "call_id", "tool", "timestamp", "platform", "child_pid"]
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["sig"] == end["sig"] == start["call_id"] == call.id
    assert start["pid"] == os.getpid()
    assert start["tool"] == "add"
    assert start["timestamp"] == call.started_at
    assert list(end)[8:] == ["elapsed_ms", "success", "outcome", "error_class"]
    assert end["success"] is True
    assert end["elapsed_ms"] == call.latency_us / 1000
    assert end["error_class"] is None
    assert undelivered(store) == []


def test_a_notice_is_a_post_of_json(told):
    with listening() as listener, told(f"{listener.url}/below/") as runtime:
        runtime.call("add", {"left": 1, "right": 2})
        listener.wait_for(2)
    lines = listener.heads[0].split(b"\r\n")
    assert lines[0] == b"POST /below/boundary HTTP/1.1"
    assert b"Content-Type: application/json" in lines


def test_success_is_what_the_outcome_says(told):
    """Also of a tool that raises nothing and says in its result that it failed."""
    asked = [
        ("add", {"left": 1, "right": 2}),
        ("fail", {"text": "no such basket"}),
        ("say_no", {"pid": 1}),
        ("sleep_long", {}),
    ]
    with listening() as listener, told(listener) as runtime:
        calls = [runtime.call(tool, arguments) for tool, arguments in asked]
        ends = listener.wait_for(2 * len(asked))[1::2]
    told_of = [(end["success"], end["outcome"], end["error_class"]) for end in ends]
    assert told_of == [
        (True, "succeeded", None),
        (False, "failed", "LookupError"),
        (False, "failed", None),
        (False, "timed_out", None),
    ]
    assert [end["outcome"] for end in ends] == [call.outcome for call in calls]


def test_a_call_that_is_refused_is_told_with_both(told):
    with listening() as listener, told(listener) as runtime:
        runtime.call("add", {"left": "one"})
        runtime.call("nothing_by_this_name", {})
        notices = listener.wait_for(4)
    assert [notice["event"] for notice in notices] == ["start", "end"] * 2
    for end in notices[1::2]:
        assert (end["success"], end["outcome"], end["elapsed_ms"]) == (False, "rejected", None)


def test_a_command_is_told_with_its_process(told, tmp_path):
    without_walls(tmp_path / "config")
    with listening() as listener, told(listener) as runtime:
        call = runtime.call("exec", {"argv": ["true"]})
        start, end = listener.wait_for(2)
    assert start["child_pid"] is None
    assert end["child_pid"] == call.child_pid is not None


def test_observed_calls_are_told_too(told):
    with listening() as listener, told(listener) as runtime, runtime.run("shop") as run:
        with run.observe("lookup", {"pid": 1}) as call:
            call.result = {"error": "none there"}
        with pytest.raises(KeyError), run.observe("lookup", {}):
            raise KeyError("gone")
        run.observe("lookup", {}).reject("not today")
        notices = listener.wait_for(6)
    assert [notice["event"] for notice in notices] == ["start", "end"] * 3
    assert [notice["sig"] for notice in notices[:2]] == [call.id] * 2
    told_of = [(end["outcome"], end["error_class"]) for end in notices[1::2]]
    assert told_of == [("failed", "ResultError"), ("failed", "KeyError"), ("rejected", None)]


def test_a_call_that_is_cancelled_is_told(store, patient):
    with listening() as listener:

        async def use() -> None:
            settings = load_settings(store=store)
            async with await open_runtime(settings, tools=[sleep_long], boundary=listener.url) as runtime:
                task = asyncio.create_task(runtime.call("sleep_long", timeout=0))
                await asyncio.to_thread(listener.wait_for, 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await asyncio.to_thread(listener.wait_for, 2)

        asyncio.run(use())
    _, end = listener.notices
    assert (end["outcome"], end["success"]) == ("cancelled", False)


def test_a_call_whose_end_cannot_be_recorded_is_told_as_unknown(patient):
    disk = FaultyDisk(MemoryDisk())

    @custody.tool(effect="read")
    def break_disk() -> None:
        disk.inject(Fault(operation="put", times=None, error=errno.EIO))

    with listening() as listener:

        async def use() -> None:
            settings = load_settings(store=":memory:")
            runtime = await open_runtime(settings, tools=[break_disk], boundary=listener.url, disk=disk)
            with pytest.raises(custody.CustodyError):
                await runtime.call("break_disk")
            await asyncio.to_thread(listener.wait_for, 2)
            disk.heal()
            await runtime.close()

        asyncio.run(use())
    _, end = listener.notices
    assert (end["outcome"], end["success"], end["elapsed_ms"]) == ("unknown", None, None)


def test_a_call_whose_start_cannot_be_recorded_does_not_run_and_is_not_told(patient):
    disk = FaultyDisk(MemoryDisk())
    with listening() as listener:

        async def use() -> None:
            settings = load_settings(store=":memory:")
            runtime = await open_runtime(settings, tools=TOOLS, boundary=listener.url, disk=disk)
            await runtime.call("add", {"left": 1, "right": 2})
            disk.inject(Fault(operation="put", times=None, error=errno.ENOSPC))
            with pytest.raises(custody.CustodyError):
                await runtime.call("add", {"left": 1, "right": 2})
            disk.heal()
            await runtime.close()

        asyncio.run(use())
    assert len(listener.notices) == 2


def test_a_guarded_call_that_is_denied_is_told(told, monkeypatch, tmp_path):
    settings = tmp_path / "own.toml"
    settings.write_text('[[policy.rules]]\ndeny_tool = "lookup"\n')
    monkeypatch.setenv("CUSTODY_CONFIG", os.fspath(settings))
    with listening() as listener, told(listener) as runtime, runtime.run("shop") as run:
        with pytest.raises(Denied), run.observe("lookup", {}, guard=True):
            pass
        _, end = listener.wait_for(2)
    assert end["outcome"] == "rejected"


def test_nothing_of_what_a_call_was_asked_or_gave_is_told(told):
    with listening() as listener, told(listener) as runtime:
        runtime.call("say_no", {"pid": 987654321})
        runtime.call("fail", {"text": "987654321"})
        listener.wait_for(4)
    assert not any(b"987654321" in body for body in listener.bodies)


def test_a_tool_name_is_bounded_and_holds_no_known_secret(told, monkeypatch):
    monkeypatch.setenv("SHOP_API_TOKEN", "s3cr3t-of-the-shop-4711")
    with listening() as listener, told(listener) as runtime:
        runtime.call("get s3cr3t-of-the-shop-4711 \udcff", {})
        runtime.call('x"\n' * 1000, {})
        odd, _, long, _ = listener.wait_for(4)
    assert "s3cr3t-of-the-shop" not in odd["tool"]
    assert len(long["tool"]) == 256
    assert long["tool"].endswith("…")


PATIENT_PROGRAM = f"""
from custody.bridges.boundary import delivery, notices
from custody.cli import main
delivery.WRITE_SECONDS = delivery.ANSWER_SECONDS = notices.CLOSE_SECONDS = {WAIT_SECONDS}
main()
"""
"""The command line, on a machine that may be busy."""


def test_a_command_line_tells_the_listener_it_is_given(work, store, tmp_path):
    with listening() as listener:
        done = subprocess.run(
            [sys.executable, "-c", PATIENT_PROGRAM, "exec", "--boundary", listener.url, "--", "true"],
            env={**os.environ, "CUSTODY_STORE": store},
            cwd=work,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert [notice["event"] for notice in listener.wait_for(2)] == ["start", "end"]


def test_without_a_listener_nobody_is_told(store):
    with custody.open(store, tools=TOOLS) as runtime:
        assert runtime.notices is None  # the path of a call that nobody listens to


# -- listeners that do not take it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it answered 404"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
            "it answered 302",
        ),
        (b"HTTP/1.1 500 Oh\r\n\r\n", "it answered 500"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "its answer is not HTTP"),
        (b"\x00\xff" * 20_000, "its answer is not HTTP"),
        (b"", "it closed the connection without an answer"),
    ],
)
def test_anything_but_a_yes_is_not_delivered(told, store, answer, cause):
    with listening(answer) as listener, told(listener) as runtime:
        runtime.call("add", {"left": 1, "right": 2})
        listener.wait_for(2)
    (counted,) = undelivered(store)
    assert (counted["listener"], counted["undelivered"]) == (f"{listener.url}/boundary", 2)
    assert cause in counted["causes"]  # the second may have been cut off by the close


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_every_form_of_a_yes_is_taken(told, store, answer):
    with listening(answer) as listener, told(listener) as runtime:
        runtime.call("add", {"left": 1, "right": 2})
        settled(runtime, 2)
    assert undelivered(store) == []


def test_a_listener_that_is_not_there_is_counted_and_said_once(told, store, caplog):
    with caplog.at_level(logging.WARNING, logger="custody"), nobody() as url, told(url) as runtime:
        for _ in range(20):
            assert runtime.call("add", {"left": 1, "right": 2}).outcome == "succeeded"
    assert sum(entry["undelivered"] for entry in undelivered(store)) == 40
    said = [record for record in caplog.records if "Connection refused" in record.getMessage()]
    assert len(said) == 1


def test_a_listener_that_accepts_and_never_reads_costs_a_thousand_calls_no_second(hurried, store, unanswered):
    """What it does not take is counted to the last notice, and the close does not wait for it."""

    def hundred_calls(runtime: Any) -> float:
        began = time.monotonic()
        for number in range(100):
            runtime.call("add", {"left": number, "right": 1})
        return time.monotonic() - began

    def seconds(runtime: Any) -> float:
        """For a thousand calls, by the fastest hundred: the machine may be busy with others meanwhile."""
        return 10 * min(hundred_calls(runtime) for _ in range(10))

    with custody.open(store, tools=TOOLS) as runtime:
        alone = seconds(runtime)
    with listening(None) as listener:
        runtime = hurried(listener).__enter__()
        beside = seconds(runtime)
        began = time.monotonic()
        runtime.close()
        closing = time.monotonic() - began
    assert beside - alone <= 1.0 + alone  # on a slow machine the notices themselves take longer too
    assert closing < CLOSE_SECONDS + BUSY_SECONDS
    assert [entry["undelivered"] for entry in undelivered(store)] == [2_000]
    assert runtime.notices.undelivered == 2_000


def test_a_listener_that_accepts_nobody_any_more_is_let_go(hurried, store):
    """Its queue of connections is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        with hurried(f"http://127.0.0.1:{full.getsockname()[1]}") as runtime:
            runtime.call("add", {"left": 1, "right": 2})
            settled(runtime, 2)
        for each in waiting:
            each.close()
    (counted,) = undelivered(store)
    assert counted["causes"] == {NOT_TAKEN: 2}


def test_an_answer_that_drips_is_let_go(hurried, store):
    with listening(OK, pieces=True) as listener, hurried(listener) as runtime:
        runtime.call("add", {"left": 1, "right": 2})
        listener.wait_for(1)
    assert undelivered(store)[0]["undelivered"] == 2


def test_with_a_full_queue_notices_are_counted_and_not_kept(hurried, store, unanswered):
    with listening(None) as listener, hurried(listener) as runtime, runtime.run("shop") as run:
        for _ in range(QUEUE_NOTICES_MAX // 2 + 50):
            with run.observe("lookup", {}):
                pass
    (counted,) = undelivered(store)
    assert counted["undelivered"] == QUEUE_NOTICES_MAX + 100
    assert 90 <= counted["causes"][QUEUE_FULL] <= 100  # one or two were on their way


def test_a_listener_that_comes_back_is_told_again(told, store):
    with listening(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n") as listener, told(listener) as runtime:
        runtime.call("add", {"left": 1, "right": 2})
        settled(runtime, 2)
        listener.answer = OK
        runtime.call("add", {"left": 1, "right": 2})
        settled(runtime, 4)
    (counted,) = undelivered(store)
    assert counted["delivered"] == 2
    assert counted["undelivered"] == 2


def test_many_threads_tell_each_start_before_its_end(told):
    with listening() as listener, told(listener) as runtime, runtime.run("shop") as run:

        def observe() -> None:
            for _ in range(20):
                with run.observe("lookup", {}):
                    pass

        threads = [threading.Thread(target=observe) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        notices = listener.wait_for(320)
    first: dict[str, str] = {}
    for notice in notices:
        first.setdefault(notice["sig"], notice["event"])
    assert len(first) == 160
    assert set(first.values()) == {"start"}


def test_a_forked_child_tells_of_its_own_calls_alone(told, store):
    with listening() as listener, told(listener) as runtime, runtime.run("shop") as run:
        with run.observe("of_the_parent", {}):
            pass
        settled(runtime, 2)
        child = os.fork()
        if child == 0:
            try:
                with run.observe("of_the_child", {}):
                    pass
                settled(runtime, 2)
                runtime.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        notices = listener.wait_for(4)
    assert [notice["tool"] for notice in notices] == ["of_the_parent"] * 2 + ["of_the_child"] * 2
    assert [notice["pid"] for notice in notices] == [os.getpid()] * 2 + [child] * 2
    assert undelivered(store) == []


def test_where_the_count_cannot_be_recorded_the_log_says_so_and_the_close_goes_on(caplog):
    disk = FaultyDisk(MemoryDisk())

    async def use(url: str) -> None:
        runtime = await open_runtime(load_settings(store=":memory:"), tools=TOOLS, boundary=url, disk=disk)
        await runtime.call("add", {"left": 1, "right": 2})
        disk.inject(Fault(operation="put", times=None, error=errno.ENOSPC))
        await runtime.close()

    with caplog.at_level(logging.WARNING, logger="custody"), nobody() as url:
        asyncio.run(use(url))
    assert "How many boundary notices were not delivered could not be recorded" in caplog.text


# -- who may be told ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com:9718",
        "http://10.0.0.1:9718",
        "http://0.0.0.0:9718",
        "http://127.0.0.1.example.com:9718",
        "https://127.0.0.1:9718",
        "http://user:secret@127.0.0.1:9718",
        "http://127.0.0.1:9718/?a=b",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:9718/a b",
        "http://127.0.0.1:9718/é",
        "127.0.0.1:9718",
        "unix:/run/x",
        "http://",
    ],
)
def test_a_listener_that_is_not_on_this_machine_is_refused(url, store):
    with pytest.raises(InvalidSetting) as refused:
        asyncio.run(open_runtime(load_settings(store=store), boundary=url))
    assert "9718" in str(refused.value.hint)


def test_a_listener_is_named_with_or_without_its_path():
    assert listener_of("http://localhost:9718/boundary") == listener_of("http://localhost:9718")
    assert listener_of("http://[::1]:9718").shown == "http://[::1]:9718/boundary"
    assert listener_of("http://localhost").port == 80
    assert listener_of("http://localhost").addresses == ("127.0.0.1", "::1")


def test_what_is_named_here_goes_before_environment_and_settings(store, monkeypatch, tmp_path):
    settings = tmp_path / "own.toml"
    settings.write_text('[boundary]\nurl = "http://127.0.0.1:3"\n')
    monkeypatch.setenv("CUSTODY_CONFIG", os.fspath(settings))

    def listener(boundary: str | None = None) -> str:
        async def opened() -> str:
            runtime = await open_runtime(load_settings(store=store), boundary=boundary)
            await runtime.close()
            return runtime.notices._listener.shown

        return asyncio.run(opened())

    assert listener() == "http://127.0.0.1:3/boundary"
    monkeypatch.setenv("CUSTODY_BOUNDARY_URL", "http://127.0.0.1:2")
    assert listener() == "http://127.0.0.1:2/boundary"
    assert listener("http://127.0.0.1:1") == "http://127.0.0.1:1/boundary"
