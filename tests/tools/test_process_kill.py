"""A signal reaches the process that was meant, if a call of Custody started it, and no other."""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.sandbox.commands import eventually, is_alive, launcher_pids
from tests.settings_for_tests import never_short_of_resources, nothing_is_asked, without_walls

import custody
from custody.calls.runtime import Runtime
from custody.index import CallFilter
from custody.records import Call
from custody.sandbox import start_ticks
from custody.sandbox.launcher.tree import stat_of
from custody.tools import ProcessIO

READY = "echo $$; while :; do sleep 0.01; done"
STUBBORN = "trap '' TERM; echo $$; while :; do sleep 0.01; done"

PATIENT: dict[str, Any] = {"wait_seconds": 60}
"""For what ends at once, if nobody else keeps the machine busy."""


@pytest.fixture(autouse=True)
def _nobody_has_to_allow_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path))
    never_short_of_resources(tmp_path)
    nothing_is_asked(tmp_path)
    without_walls(tmp_path)  # behind them nothing has a number that others know


@asynccontextmanager
async def running(runtime: Runtime, script: str, on_text: Callable[[bytes], object] = bytes):
    """A shell command of another call, once it has said its pid; and that call. Ended at the end."""
    said: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    text = bytearray()

    def take(stream: str, data: bytes) -> None:
        text.extend(data)
        on_text(bytes(text))
        if b"\n" in text and not said.done():
            said.set_result(int(text.split()[0]))

    io = ProcessIO(on_output=take)
    call = asyncio.create_task(runtime.call("shell", {"command": script}, timeout=0, io=io))
    try:
        yield await asyncio.wait_for(said, 30), call
    finally:
        if not call.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(said.result(), signal.SIGKILL)  # else one that ignores SIGTERM is given its time
            call.cancel()
            await asyncio.wait({call})


def with_runtime(body: Callable[[Runtime], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with custody.open(":memory:") as runtime:
            return await body(runtime)

    return asyncio.run(main())


def kill(pid: int, *, dry_run: bool = False, **arguments: Any) -> Call:
    """A call on its own."""
    with custody.open(":memory:") as runtime:
        return runtime.call("process_kill", {"pid": pid, **arguments}, dry_run=dry_run)


def command_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this program, which no call started."""
    process = subprocess.Popen(["sleep", "4321"], stdin=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that nobody here started any more: its parent is gone."""
    script = "setsid sleep 4321 >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout)
    eventually(lambda: command_of(pid) == [b"sleep", b"4321"])
    eventually(lambda: (found := stat_of(pid)) is not None and found.parent_pid != os.getpid())
    yield pid
    os.kill(pid, signal.SIGKILL)


def test_a_command_of_another_call_is_ended_and_the_answer_says_so():
    async def body(runtime: Runtime) -> None:
        async with running(runtime, READY) as (pid, other):
            ticks = start_ticks(pid)
            call = await runtime.call("process_kill", {"pid": pid, **PATIENT})
            result = dict(call.result)

            assert (call.outcome, call.effect, call.level) == ("succeeded", "irreversible", "none")
            assert 0 <= result.pop("waited_ms") < 60_000
            assert result.pop("started_at") <= call.started_at
            assert result.pop("user") != ""
            assert result == {
                "pid": pid,
                "command": shlex.join(["/bin/sh", "-c", READY]),
                "start_ticks": ticks,
                "signal": "TERM",
                "ended": True,
                "exit_code": None,
                "exit_signal": None,
            }
            assert (await other).reason == "ended by SIGTERM"

    with_runtime(body)


def test_what_ignores_the_signal_is_told_to_be_there_still():
    async def body(runtime: Runtime) -> None:
        async with running(runtime, STUBBORN) as (pid, other):
            asked = await runtime.call("process_kill", {"pid": pid, "wait_seconds": 0.05})
            assert (asked.outcome, asked.result["ended"]) == ("succeeded", False)

            made = await runtime.call("process_kill", {"pid": pid, "signal": "KILL", **PATIENT})
            assert made.result["ended"] is True
            assert (await other).reason == "ended by SIGKILL"

    with_runtime(body)


def test_a_process_that_left_its_session_and_its_environment_is_still_the_calls():
    script = "setsid env -i sh -c 'echo $$; exec sleep 4321' & sleep 4321"

    async def body(runtime: Runtime) -> None:
        async with running(runtime, script) as (pid, _):
            assert (await runtime.call("process_kill", {"pid": pid, **PATIENT})).result["ended"] is True

    with_runtime(body)


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", 15])
def test_a_signal_is_named_or_numbered(name: Any, child: subprocess.Popen[bytes]):
    assert kill(child.pid, signal=name).result["signal"] == "TERM"
    assert child.wait() == -signal.SIGTERM


def test_how_a_child_of_this_program_ended_is_told_and_left_for_the_program_to_learn():
    script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        result = kill(process.pid, **PATIENT).result

        assert (result["ended"], result["exit_code"], result["exit_signal"]) == (True, 7, None)
        assert process.wait() == 7


def test_a_child_that_a_signal_ended_says_which(child: subprocess.Popen[bytes]):
    result = kill(child.pid, signal="INT", **PATIENT).result

    assert (result["exit_code"], result["exit_signal"]) == (None, signal.SIGINT)


def test_stop_and_continue_wait_for_nothing(child: subprocess.Popen[bytes]):
    stopped = kill(child.pid, signal="STOP")
    eventually(lambda: (found := stat_of(child.pid)) is not None and found.state == b"T")
    assert (stopped.result["signal"], stopped.result["ended"]) == ("STOP", False)

    kill(child.pid, signal="CONT")
    eventually(lambda: (found := stat_of(child.pid)) is not None and found.state == b"S")


def test_a_dry_run_tells_who_it_is_and_touches_nothing(child: subprocess.Popen[bytes]):
    call = kill(child.pid, signal="KILL", dry_run=True)

    assert call.outcome == "succeeded"
    assert call.result["dry_run"] is True
    assert (
        call.result["would_signal"].items()
        >= {
            "pid": child.pid,
            "command": "sleep 4321",
            "signal": "KILL",
        }.items()
    )
    assert child.poll() is None


# -- who is never signalled -----------------------------------------------------------------------------


def refused(call: Call) -> str:
    assert (call.outcome, call.decision.verdict, call.decision.by) == ("rejected", "deny", "rule"), call
    return call.decision.reason


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_first_process_this_program_and_those_above_it_are_refused(dry_run: bool):
    assert "first" in refused(kill(1, dry_run=dry_run))
    assert "itself" in refused(kill(os.getpid(), dry_run=dry_run))
    assert refused(kill(os.getppid(), dry_run=dry_run))


def test_a_process_that_no_call_started_is_refused(stranger: int):
    assert "No call of Custody" in refused(kill(stranger, signal="KILL"))
    assert "No call of Custody" in refused(kill(stranger, dry_run=True))
    assert is_alive(stranger)


def test_a_launcher_is_refused():
    others = {*launcher_pids()}  # of a runtime before, and about to end

    async def body(runtime: Runtime) -> None:
        await runtime.call("exec", {"argv": ["true"]})
        for pid in {*launcher_pids()} - others:
            assert "launcher" in refused(await runtime.call("process_kill", {"pid": pid, "signal": "KILL"}))
        assert (await runtime.call("exec", {"argv": ["true"]})).outcome == "succeeded"

    with_runtime(body)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_is_refused_even_below_this_program():
    with subprocess.Popen(["sleep", "4321"], user=65534) as process:
        eventually(lambda: os.stat(f"/proc/{process.pid}").st_uid == 65534)
        assert "another user" in refused(kill(process.pid))
        process.kill()


def test_a_thread_of_the_kernel_is_refused():
    if not (found := stat_of(2)) or found.parent_pid != 0 or os.path.exists("/proc/2/exe"):
        pytest.skip("no thread of the kernel is to be seen from here")
    assert "kernel" in refused(kill(2))


def test_a_process_that_says_it_belongs_to_a_call_may_be_ended(stranger: int):
    """As recovery has it: the token in the environment is the proof."""
    script = "setsid sleep 4321 >/dev/null 2>&1 & echo $!"
    environment = {**os.environ, "CUSTODY_CALL": "00" * 16}
    said = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True).stdout
    # While a program is being executed its process tells no environment.
    eventually(lambda: command_of(int(said)) == [b"sleep", b"4321"])

    assert kill(int(said), **PATIENT).result["ended"] is True
    assert is_alive(stranger)


# -- what is not there ----------------------------------------------------------------------------------


def failed(call: Call) -> str:
    assert call.error is not None, call
    assert (call.outcome, call.error["type"]) == ("failed", "ToolError")
    return str(call.error["message"])


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_process_that_has_ended_is_named_as_gone(dry_run: bool):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    zombie = failed(kill(process.pid, dry_run=dry_run))
    process.wait()

    assert zombie == failed(kill(process.pid, dry_run=dry_run)) == f"There is no process {process.pid}."


def test_another_process_of_the_same_number_is_let_be(child: subprocess.Popen[bytes]):
    ticks = start_ticks(child.pid)
    assert ticks is not None

    assert f"tick {ticks + 1} has ended" in failed(kill(child.pid, signal="KILL", start_ticks=ticks + 1))
    assert child.poll() is None
    assert kill(child.pid, start_ticks=ticks, **PATIENT).result["ended"] is True


def test_the_number_of_a_thread_is_no_process():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert "thread" in failed(kill(thread.native_id))
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pid": 0},
        {"pid": -1},
        {"pid": 2**31},
        {"pid": "1"},
        {"pid": 5, "signal": "SEGV"},
        {"pid": 5, "signal": 0},
        {"pid": 5, "signal": 999},
        {"pid": 5, "signal": True},
        {"pid": 5, "wait_seconds": -1},
        {"pid": 5, "wait_seconds": 1e9},
        {"pid": 5, "force": True},
    ],
)
def test_what_makes_no_sense_is_refused_by_the_schema(arguments: dict[str, Any]):
    with custody.open(":memory:") as runtime:
        call = runtime.call("process_kill", arguments)

    assert (call.outcome, call.decision.by) == ("rejected", "schema")


# -- the wait -------------------------------------------------------------------------------------------


def test_a_wait_ends_at_the_deadline_of_the_call():
    async def body(runtime: Runtime) -> None:
        async with running(runtime, STUBBORN) as (pid, _):
            call = await runtime.call("process_kill", {"pid": pid, "wait_seconds": 60}, timeout=0.1)
            assert (call.outcome, call.result["ended"]) == ("timed_out", False)

    with_runtime(body)


def test_a_wait_can_be_cancelled_and_what_was_done_is_on_the_record():
    script = "trap 'echo asked' TERM; echo $$; while :; do sleep 0.01; done"

    async def body(runtime: Runtime) -> None:
        asked = asyncio.Event()
        async with running(runtime, script, lambda text: b"asked" in text and asked.set()) as (pid, _):
            waiting = asyncio.create_task(
                runtime.call("process_kill", {"pid": pid, "wait_seconds": 60}, timeout=0)
            )
            await asyncio.wait_for(asked.wait(), 30)
            waiting.cancel()
            await asyncio.wait({waiting})
            runtime.index.refresh()
            (call,) = runtime.index.calls(CallFilter(tool="process_kill")).items
            assert (call.outcome, call.result["ended"]) == ("cancelled", False)

    with_runtime(body)
