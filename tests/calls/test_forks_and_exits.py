"""A forked child keeps recording, a program that just ends loses nothing it could keep."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from tests.calls.faces import Stage, told, wait_until
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.index import CallFilter, RunFilter

CHILD_SECONDS = 30


@pytest.fixture
def folder(tmp_path, monkeypatch) -> str:
    """A store whose records are waited for: a child that ends at once leaves none in a queue."""
    settings = never_short_of_resources(tmp_path / "config")
    settings.write_text(settings.read_text() + "[observe]\ndelay_ms = 30000\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    return os.fspath(tmp_path / "store")


def fork(work) -> int:
    """Run `work` in a forked child; its exit status says whether it raised, or hung."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(CHILD_SECONDS)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended_well(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def positions_of(runtime, run):
    calls = runtime.index.run_calls(run.run_id)
    steps = runtime.index.run_steps(run.run_id)
    return sorted(one.position for one in (*calls, *steps))


def test_parent_and_child_number_one_run_together_and_nothing_is_recorded_twice(folder):
    with custody.open(folder) as runtime:
        with runtime.run("share the work", agent="a") as run:
            run.step("before")
            with run.observe("outer", {"n": 0}) as outer:

                def work():
                    for number in range(20):
                        with run.observe("in child", {"n": number}) as call:
                            call.result = number
                            assert call.id != outer.id
                    run.step("in child")
                    run.event("from.child")
                    outer.__exit__(None, None, None)  # it leaves the blocks it was forked in
                    run.__exit__(None, None, None)
                    assert run.totals.calls == 21
                    run.finish("failed")
                    runtime.close()

                pid = fork(work)
                for number in range(20):
                    with run.observe("in parent", {"n": number}):
                        pass
                assert ended_well(pid)
        assert positions_of(runtime, run) == list(range(1 + 1 + 20 + 1 + 20))
        calls = runtime.index.run_calls(run.run_id, details=True)
        assert {call.outcome for call in calls} == {"succeeded"}
        assert len({call.id for call in calls}) == 41
        assert {call.parent_id for call in calls if call.tool == "in child"} == {outer.id}
        kinds = told(runtime._runtime)
        assert (kinds.count("run+"), kinds.count("run-"), kinds.count("app.from.child")) == (1, 1, 1)
        assert runtime.index.run(run.id).outcome == "succeeded"
        assert run.totals.calls == 21, "what this process did"


def test_children_of_children_and_several_runs_number_together(folder):
    with custody.open(folder) as runtime:
        with runtime.run("one") as one, runtime.run("two") as two:

            def work(depth):
                if depth:
                    assert ended_well(fork(lambda: work(depth - 1)))
                for run in (one, two):
                    for _ in range(10):
                        with run.observe("work", {"depth": depth}):
                            pass

            pids = [fork(lambda: work(1)) for _ in range(3)]
            work(0)
            assert all(map(ended_well, pids))
        assert positions_of(runtime, one) == positions_of(runtime, two) == list(range(70))


def test_a_fork_beside_threads_that_record_neither_hangs_nor_doubles(folder):
    with custody.open(folder) as runtime:
        with runtime.run() as run:
            over = threading.Event()

            def work():
                while not over.is_set():
                    with run.observe("thread") as call:
                        call.result = 1

            def in_child():
                for _ in range(10):
                    with run.observe("child"):
                        pass

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            assert all(ended_well(fork(in_child)) for _ in range(5))
            over.set()
            for thread in threads:
                thread.join()
        positions = positions_of(runtime, run)
        assert positions == list(range(len(positions)))
        assert len([call for call in runtime.index.run_calls(run.run_id) if call.tool == "child"]) == 50


def test_threads_that_fork_at_the_same_time_do_not_wait_for_each_other_for_ever(folder):
    with custody.open(folder) as runtime:
        with runtime.run() as run, runtime.run() as other:
            failed = []

            def work():
                for _ in range(5):
                    pid = fork(lambda: run.observe("child").open().close())
                    if not ended_well(pid):
                        failed.append(pid)

            threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(CHILD_SECONDS)
                assert not thread.is_alive(), "two forks wait for each other"
            with other.observe("still here"):
                pass
        assert failed == []
        assert positions_of(runtime, run) == list(range(20))


def test_a_child_in_a_shared_run_takes_the_journals_positions(folder):
    with custody.open(folder) as runtime:
        with runtime.run(shared=True) as run:
            with run.observe("parent"):
                pass
            assert ended_well(fork(lambda: run.observe("child").open().close()))
            with run.observe("parent"):
                pass
        assert positions_of(runtime, run) == [0, 1, 2]


def test_a_child_without_a_descriptor_left_records_without_positions_and_the_parent_goes_on(folder):
    """In a program of its own: what parent and child count in is made by its first fork."""
    script = """
        import os, resource, sys
        import custody
        with custody.open(sys.argv[1]) as runtime, runtime.run() as run:
            with run.observe("before"):
                pass
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # whatever is open or has just been closed
            pid = os.fork()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with run.observe("child" if pid == 0 else "parent"):
                pass
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            calls = runtime.index.run_calls(run.run_id)
            print({(call.tool, call.position, call.outcome) for call in calls} == {
                ("before", 0, "succeeded"), ("parent", 1, "succeeded"), ("child", None, "succeeded")
            })
    """
    said = program(script, folder)
    assert (said.returncode, said.stdout.strip()) == (0, "True"), said.stderr


def test_what_the_parent_has_in_its_queue_is_the_parents_to_write(folder):
    stage = Stage("blocking", folder)

    async def scenario(runtime):
        stage.fill_up()
        async with runtime.run("born poor") as run:
            run.step("dropped")

            def in_child():
                stage.heal()
                run.step("in child")
                runtime.recording.backlog.drain()

            assert ended_well(fork(in_child))
            stage.heal()
            wait_until(lambda: runtime.recording.backlog.healthy)
            run.step("in parent")
        return told(runtime)

    kinds = stage.play(scenario)
    assert (kinds.count("run+"), kinds.count("run-"), kinds.count("step")) == (1, 1, 2)
    assert kinds.count("journal.gap") == 1


def test_a_guarded_call_through_a_parents_runtime_is_refused_in_words(folder):
    with custody.open(folder) as runtime, runtime.run() as run:

        def in_child():
            with pytest.raises(custody.UsageError, match="forked child"):
                run.call("exec", {"argv": ["true"]})

        assert ended_well(fork(in_child))


# -- programs that just end -------------------------------------------------------------------------------


def program(script: str, folder: str, **options) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), folder],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": SOURCE}, **options,
    )  # fmt: skip


SOURCE = os.fspath(Path(custody.__path__[0]).parent)


def test_a_program_that_ends_without_finishing_leaves_what_it_had_recorded(folder):
    script = """
        import sys, custody
        runtime = custody.open(sys.argv[1]).__enter__()
        run = runtime.run("forgotten", agent="a").__enter__()
        run.step("thinking", model="m")
        with run.observe("done") as call:
            call.result = "x" * 50_000
        open_call = run.observe("open", {"n": 1}).open()
        run.event("last", text="y" * 50_000)
    """
    said = program(script, folder)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    with custody.open(folder) as runtime:
        (run,) = runtime.index.runs(RunFilter()).items
        calls = {call.tool: call for call in runtime.index.run_calls(bytes.fromhex(run.id), details=True)}
        assert (run.outcome, run.reason, run.steps) == ("incomplete", "killed", 1)
        assert (calls["done"].outcome, calls["done"].result) == ("succeeded", "x" * 50_000)
        assert (calls["open"].outcome, calls["open"].arguments) == ("unknown", {"n": 1})
        assert told(runtime._runtime).count("app.last") == 1


def test_an_asynchronous_program_that_ends_without_waiting_for_its_queue_loses_nothing(folder):
    script = """
        import asyncio, sys, custody
        from custody.calls import backlog
        backlog.EXIT_SECONDS = 40.0  # a machine that stands still takes longer than a program would wait
        async def main():
            runtime = await custody.open(sys.argv[1]).__aenter__()
            run = await runtime.run("forgotten").__aenter__()
            for number in range(5):
                run.event("large", text="y" * 200_000, n=number)
        asyncio.run(main())
    """
    said = program(script, folder)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    with custody.open(folder) as runtime:
        assert told(runtime._runtime).count("app.large") == 5


@pytest.mark.parametrize("how", ["sys.exit(3)", "raise KeyboardInterrupt", "raise ValueError('no')"])
def test_however_a_program_ends_its_exit_is_its_own(folder, how):
    script = f"""
        import sys, custody
        runtime = custody.open(sys.argv[1]).__enter__()
        run = runtime.run("x").__enter__()
        with run.observe("work"):
            {how}
    """
    plain = subprocess.run([sys.executable, "-c", f"import sys\n{how}"], capture_output=True, text=True)
    said = program(script, folder)
    assert said.returncode == plain.returncode
    with custody.open(folder) as runtime:
        (call,) = runtime.index.calls(CallFilter()).items
        assert call.outcome == ("cancelled" if "Keyboard" in how else "failed")


def test_a_finish_in_the_last_moment_of_the_interpreter_is_kept(folder):
    script = """
        import atexit, sys, custody
        runtime = custody.open(sys.argv[1]).__enter__()
        run = runtime.run("x").__enter__()
        atexit.register(lambda: (run.step("last words"), run.finish("succeeded", output="done")))
    """
    said = program(script, folder)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    with custody.open(folder) as runtime:
        (run,) = runtime.index.runs(RunFilter()).items
        assert (run.outcome, run.output, run.steps) == ("succeeded", "done", 1)
