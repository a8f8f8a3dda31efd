"""A worker is killed in mid-call: what it had recorded is there, what it left open is closed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import custody
from custody.errors import RunClosed, RunNotShared
from custody.index import CallFilter, RunFilter

WORKER = textwrap.dedent(
    """
    import sys, threading
    import custody

    @custody.tool(effect="read")
    def done(n: int) -> int:
        return n

    @custody.tool(effect="write")
    def hang(context: custody.Context) -> None:
        print(context.call_id, flush=True)
        threading.Event().wait()

    with custody.open(sys.argv[1], tools=[done, hang]) as runtime:
        with runtime.run("a job", agent="worker") as run:
            for n in range(3):
                print(run.call("done", {"n": n}).id, flush=True)
            if sys.argv[2] == "hang":
                run.call("hang", {}, timeout=0)
            run.call("shell", {"command": "echo started; " + sys.argv[3]}, timeout=0)
    """
)


def start_worker(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    return subprocess.Popen(
        [sys.executable, os.fspath(script), os.fspath(folder / "store"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


def lines(worker: subprocess.Popen[str], count: int) -> list[str]:
    assert worker.stdout is not None
    return [worker.stdout.readline().strip() for _ in range(count)]


def kill(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    assert worker.stdout is not None
    worker.stdout.close()


def test_the_call_in_flight_becomes_unknown_and_everything_before_it_is_kept(tmp_path):
    worker = start_worker(tmp_path, "hang", "")
    *finished, hanging = lines(worker, 4)
    kill(worker)

    with custody.open(os.fspath(tmp_path / "store")) as runtime:
        outcomes = {call.id: call.outcome for call in runtime.index.calls(CallFilter()).items}
        (run,) = runtime.index.runs(RunFilter()).items
        again = runtime.call("exec", {"argv": ["true"]})

    assert outcomes == {**dict.fromkeys(finished, "succeeded"), hanging: "unknown"}
    assert (run.outcome, run.reason) == ("incomplete", "killed")
    assert again.outcome == "succeeded"


def test_a_second_opening_closes_nothing_twice(tmp_path):
    worker = start_worker(tmp_path, "hang", "")
    lines(worker, 4)
    kill(worker)
    store = os.fspath(tmp_path / "store")

    with custody.open(store) as first:
        closed = first._runtime.recovered
    with custody.open(store) as second:
        assert second._runtime.recovered is None
        assert len(second.index.calls(CallFilter(outcome="unknown")).items) == 1

    assert len(closed.calls_unknown) == len(closed.runs_incomplete) == 1


def test_a_call_of_a_living_process_is_left_alone(tmp_path):
    worker = start_worker(tmp_path, "hang", "")
    *_, hanging = lines(worker, 4)
    try:
        with custody.open(os.fspath(tmp_path / "store")) as runtime:
            assert runtime.index.call(hanging).outcome is None
            assert runtime._runtime.recovered is None
    finally:
        kill(worker)


def test_a_run_joined_by_eight_processes_numbers_its_calls_without_gap_or_double(tmp_path):
    joiner = tmp_path / "joiner.py"
    joiner.write_text(
        textwrap.dedent(
            """
            import sys
            import custody

            @custody.tool(effect="read")
            def note(n: int) -> int:
                return n

            with custody.open(sys.argv[1], tools=[note]) as runtime:
                with runtime.named_run("together") as run:
                    for n in range(25):
                        assert run.call("note", {"n": n}).outcome == "succeeded"
                    print(run.id)
            """
        )
    )
    store = os.fspath(tmp_path / "store")
    with custody.open(store) as runtime:
        runtime.named_run("together")
        workers = [
            subprocess.Popen([sys.executable, os.fspath(joiner), store], stdout=subprocess.PIPE, text=True)
            for _ in range(8)
        ]
        said = {worker.communicate(timeout=60)[0].strip() for worker in workers}
        assert [worker.returncode for worker in workers] == [0] * 8
        (run_id,) = said
        calls = runtime.index.run_calls(bytes.fromhex(run_id))

    assert [call.position for call in calls] == list(range(200))


def test_a_name_whose_run_has_ended_starts_another_run(tmp_path):
    store = os.fspath(tmp_path / "store")
    with custody.open(store) as runtime:
        first = runtime.named_run("nightly")
        assert runtime.named_run("nightly").id == first.id
        first.finish("succeeded")
        second = runtime.named_run("nightly")

        assert second.id != first.id
        assert runtime.index.run("nightly").id == second.id


def test_a_shared_run_can_be_joined_by_id_and_any_other_refuses(tmp_path):
    with custody.open(os.fspath(tmp_path / "store")) as runtime:
        with runtime.run("together", shared=True) as shared, runtime.run("alone") as alone:
            with runtime.join(shared.id[:8]) as joined:
                call = joined.call("exec", {"argv": ["true"]})
            assert (call.run_id, call.position) == (shared.id, 0)
            with pytest.raises(RunNotShared):
                runtime.join(alone.id)
        with pytest.raises(RunClosed), runtime.join(shared.id) as joined:
            joined.call("exec", {"argv": ["true"]})
