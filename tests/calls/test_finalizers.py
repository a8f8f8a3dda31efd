"""A coroutine that nobody holds is thrown away by the garbage collector, in whatever thread allocates next,
between any two of its steps, also in the middle of another record. What it was in ends there."""

import asyncio
import itertools
import os
import signal
import threading
import time

import pytest
from tests.calls.faces import Forgotten, Stage, collecting, counted, forget, told

import custody
from custody.errors import NotRecorded
from custody.index import RunFilter
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import FaultyDisk

CALLS = 1000
FORGOTTEN = 500


class Interrupting(FaultyDisk):
    """A disk that does something else in the middle of the next put into the journal, in the same thread."""

    interruption = None

    def meet(self, operation, path):
        interruption = self.interruption
        if operation == "put" and interruption is not None and path.endswith(".seg"):
            self.interruption = None
            interruption()
        return super().meet(operation, path)


@pytest.fixture
def stage():
    stage = Stage("asyncio")
    stage.disk = Interrupting(MemoryDisk())
    return stage


def outcomes(runtime):
    """Of all runs by what they were for, and of their calls."""
    runs = {run.intent: run for run in runtime.index.runs(RunFilter()).items}
    calls = [call.outcome for run in runs.values() for call in runtime.index.run_calls(bytes.fromhex(run.id))]
    return {intent: run.outcome for intent, run in runs.items()}, calls


@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_call_that_ends_in_the_middle_of_another_record_is_recorded_after_it(stage, on_error, durable):
    async def scenario(runtime):
        async with runtime.run("work") as run:

            async def work(wait):
                async with run.observe("slow", on_error=on_error, durable=durable):
                    await wait()

            forgotten = await Forgotten(work).begin()
            stage.disk.interruption = forgotten.throw_away
            run.step("thinking")
            assert stage.disk.interruption is None, "it came in the middle"
        return outcomes(runtime)

    assert stage.play(scenario) == ({"work": "succeeded"}, ["cancelled"])


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_run_that_ends_in_the_middle_of_another_record_is_recorded_after_it(stage, on_error):
    async def scenario(runtime):
        async with runtime.run("work") as run:

            async def work(wait):
                async with run.child("part", on_error=on_error) as child, child.observe("slow"):
                    await wait()

            forgotten = await Forgotten(work).begin()
            stage.disk.interruption = forgotten.throw_away
            run.step("thinking")
            assert stage.disk.interruption is None, "it came in the middle"
        return outcomes(runtime)

    assert stage.play(scenario) == ({"work": "succeeded", "part": "cancelled"}, ["cancelled"])


def test_a_blocking_generator_that_ends_in_the_middle_of_another_record_is_recorded_after_it():
    stage = Stage()
    stage.disk = Interrupting(MemoryDisk())

    async def scenario(runtime):
        async with runtime.run("work") as run:

            def work():
                child = run.child("part", on_error="raise")._run
                with child, child.observe("slow"):
                    yield

            generator = work()
            next(generator)
            stage.disk.interruption = generator.close
            run.step("thinking")
            assert stage.disk.interruption is None, "it came in the middle"
        return outcomes(runtime)

    assert stage.play(scenario) == ({"work": "succeeded", "part": "cancelled"}, ["cancelled"])


def test_what_a_finalizer_records_in_the_middle_of_another_record_comes_after_it(stage):
    async def scenario(runtime):
        async with runtime.run("work") as run:

            def finalize():
                run.step("from a finalizer")
                run.event("noted")
                run.error("a small thing")

            stage.disk.interruption = finalize
            run.step("thinking")
        return told(runtime), run.totals

    kinds, totals = stage.play(scenario)
    assert (totals.steps, totals.dropped) == (2, 0)
    assert sorted(kinds) == ["app.noted", "run+", "run-", "run.error", "step", "step"]


def test_a_call_that_ends_while_its_store_is_closed_is_recorded(stage):
    async def scenario(runtime):
        run = runtime.run("work")

        async def work(wait):
            async with run.child("part") as child, child.observe("slow"):
                await wait()

        async with run:
            forgotten = await Forgotten(work).begin()
        stage.disk.interruption = forgotten.throw_away

    stage.play(scenario)
    assert stage.disk.interruption is None, "it came in the middle"

    async def look(runtime):
        return outcomes(runtime), runtime.recovered

    assert stage.play(look) == (({"work": "succeeded", "part": "incomplete"}, ["cancelled"]), None)


def test_a_tool_that_is_called_in_the_middle_of_another_record_does_not_run():
    stage = Stage()
    stage.disk = Interrupting(MemoryDisk())
    ran, refused = [], []

    def act() -> str:
        ran.append("act")
        return "done"

    async def scenario(runtime):
        async with runtime.run("work") as run:

            def interrupt():
                for call in (run._run.call, runtime._blocking.call):
                    with pytest.raises(NotRecorded) as raised:
                        call(act)
                    refused.append(raised.value.message)

            stage.disk.interruption = interrupt
            run.step("thinking")

    stage.play(scenario)
    assert (len(refused), ran) == (2, [])


def test_a_signal_handler_records_in_the_middle_of_another_record(tmp_path):
    """Signals come at any moment, one after the other. Not steps: each sets a context variable, and where the
    collector has run the handler in the middle of another such setting, CPython 3.11 itself crashes."""
    handled, over, count = threading.Semaphore(1), threading.Event(), itertools.count()

    def shower():
        while not over.is_set():
            if handled.acquire(timeout=0.1):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    showering = threading.Thread(target=shower)
    before = signal.getsignal(signal.SIGUSR1)
    with custody.open(os.fspath(tmp_path / "store")) as runtime, runtime.run("work") as run:

        def handle(*_):
            run.event("signalled", n=next(count))
            handled.release()

        signal.signal(signal.SIGUSR1, handle)
        try:
            showering.start()
            for number in range(CALLS):
                with run.observe("search", {"n": number}):
                    pass
        finally:
            over.set()
            showering.join(30)
            time.sleep(0)  # the last one's handler runs here
            signal.signal(signal.SIGUSR1, before)
    with custody.open(os.fspath(tmp_path / "store")) as runtime:
        (run,) = runtime.index.runs(RunFilter()).items
        assert (run.totals.calls, run.totals.dropped) == (CALLS, 0)
        signalled = told(runtime._runtime).count("app.signalled")
        assert signalled == next(count) > 0
        calls = runtime.index.run_calls(bytes.fromhex(run.id))
        assert {call.outcome for call in calls} == {"succeeded"}


@pytest.mark.parametrize("store", ["memory", "folder"])
def test_with_the_collector_at_every_allocation_forgotten_tasks_leave_nothing_open(store, tmp_path):
    """It runs in each thread that records, in the one that syncs and in the one that writes behind."""
    place = ":memory:" if store == "memory" else os.fspath(tmp_path / "store")
    stage = Stage("asyncio", place)

    async def scenario(runtime):
        async with runtime.run("work") as run:
            await asyncio.gather(*(forget(run, FORGOTTEN // 5) for _ in range(5)))
            await Forgotten.all_thrown_away()
            return run.totals

    with collecting():
        totals = stage.play(scenario)
    assert (totals.calls, totals.steps, totals.dropped) == (FORGOTTEN, FORGOTTEN, 0)

    async def look(runtime):
        return counted(runtime), runtime.recovered

    (runs, calls), recovered = stage.play(look)
    assert runs == {"succeeded": 1, "cancelled": FORGOTTEN}
    assert calls == {"succeeded": FORGOTTEN, "cancelled": FORGOTTEN}
    assert recovered is None, "nothing was left for the next process to close"
