"""A disk that hangs: whoever offers a record is not held up, and nothing is lost while there is room."""

import asyncio
import gc
import threading
import time
import tracemalloc

import pytest
from tests.calls.faces import UNDISTURBED_SECONDS, Stage, gaps, of_kind, settle, some_work, told

from custody.calls import backlog
from custody.compose import open_runtime
from custody.index import CallFilter
from custody.journal import RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.records import RunFinished
from custody.settings import load_settings


def test_a_sync_that_hangs_delays_nobody_and_loses_nothing(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("sync")
            began = time.monotonic()
            await some_work(run, calls=200)
            elapsed = time.monotonic() - began
            stage.heal()
        return elapsed, told(runtime), run.totals

    elapsed, kinds, totals = stage.play(scenario)
    assert elapsed < UNDISTURBED_SECONDS
    assert totals.dropped == 0
    assert (kinds.count("call-"), kinds.count("step"), kinds[-1]) == (200, 200, "run-")
    assert "journal.gap" not in kinds


def test_durable_waits_no_longer_than_the_delay_and_the_log_says_so_once(stage: Stage, caplog):
    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("sync")
            began = time.monotonic()
            for _ in range(3):
                async with run.observe("pay", durable=True):
                    pass
            elapsed = time.monotonic() - began
            stage.heal()
        return elapsed

    elapsed = stage.play(scenario)
    assert 0.1 < elapsed < 6 * 0.1 + UNDISTURBED_SECONDS
    assert [line for line in caplog.messages if "durable" in line] == [
        "A record is written, and not yet durable: the disk is slow."
    ]


def test_a_disk_that_hangs_altogether_delays_the_agent_once_and_loses_nothing(stage: Stage):
    """The records queue up behind a blob that cannot be written."""

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("create", "replace", "sync")
            began = time.monotonic()
            async with run.observe("dump") as call:
                call.result = "x" * 50_000
            await some_work(run, calls=50)
            elapsed = time.monotonic() - began
            queued = told(runtime)
            totals = run.totals
            stage.heal()
        return elapsed, queued, totals, told(runtime), runtime.index.call(call.id), run.id

    elapsed, queued, totals, kinds, call, _ = stage.play(scenario)
    assert elapsed < UNDISTURBED_SECONDS
    assert queued == ["run+", "call+"]
    assert (totals.calls, totals.steps, totals.dropped) == (51, 50, 0)
    assert (kinds.count("call-"), kinds.count("step"), kinds[-1]) == (51, 50, "run-")
    assert (call.outcome, call.result) == ("succeeded", "x" * 50_000)


def test_a_call_that_begins_and_ends_in_the_queue_is_one_call_with_one_position(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("create", "replace", "sync")
            run.event("large", text="x" * 50_000)
            async with run.observe("search", {"q": 1}) as call:
                call.result = "found"
            stage.heal()
        return call.id, [runtime.index.call(one.id) for one in runtime.index.calls(CallFilter()).items]

    call_id, (call,) = stage.play(scenario)
    assert (call.id, call.position, call.arguments, call.result, call.outcome) == (
        call_id, 0, {"q": 1}, "found", "succeeded",
    )  # fmt: skip


def test_the_event_loop_goes_on_while_the_disk_hangs():
    stage = Stage("asyncio")

    async def scenario(runtime):
        longest = 0.0

        async def watch():
            nonlocal longest
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - before)

        async with runtime.run() as run:
            watching = asyncio.create_task(watch())
            stage.stall("create", "replace", "sync")
            for number in range(50):
                run.event("large", text="x" * 50_000, n=number)
                async with run.observe("search", durable=number < 3):
                    await asyncio.sleep(0)
            watching.cancel()
            stage.heal()
        return longest, run.totals.dropped

    longest, dropped = stage.play(scenario)
    assert longest < UNDISTURBED_SECONDS, "a wait for the disk would be silent for a minute"
    assert dropped == 0


def test_many_threads_are_not_held_up_by_a_sync_that_hangs():
    stage = Stage()

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("sync")

            def work():
                for _ in range(50):
                    run.step("x")
                    with run._run.observe("search") as call:
                        call.result = 1

            threads = [threading.Thread(target=work) for _ in range(8)]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            elapsed = time.monotonic() - began
            stage.heal()
        positions = [call.position for call in runtime.index.run_calls(run.run_id)]
        positions += [step.position for step in runtime.index.run_steps(run.run_id)]
        return elapsed, sorted(positions)

    elapsed, positions = stage.play(scenario)
    assert elapsed < UNDISTURBED_SECONDS
    assert positions == list(range(800))


@pytest.mark.long
def test_a_queue_that_is_full_drops_counts_and_keeps_no_payload(stage: Stage, caplog):
    large = 8_000

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("create", "replace", "sync")
            run.event("large", text="x" * 50_000)
            tracemalloc.start()
            kept = [run.step("y" * large, text_characters_max=None) for _ in range(20_000)]
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            totals = run.totals
            stage.heal()
        return held, totals, len(kept), told(runtime), gaps(runtime)

    held, totals, offered, kinds, found = stage.play(scenario)
    assert 0 < totals.dropped < offered
    assert sum(gap["count"] for gap in found) == totals.dropped
    assert kinds.count("step") == offered - totals.dropped
    assert kinds[-1] == "run-", "the end of a run has a place in any queue"
    assert held < 110 * 1024 * 1024, f"{held} bytes"
    assert len([line for line in caplog.messages if line.startswith("Records are dropped")]) == 1


@pytest.mark.long
def test_ten_thousand_dropped_records_leave_nothing_in_memory(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            stage.fill_up()
            run.step("the first")
            gc.collect()
            tracemalloc.start()
            steps = [run.step("y" * 1_000, data={"n": number}) for number in range(10_000)]
            settle(runtime)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            stage.heal()
            return held, len(steps), run.totals.dropped

    held, steps, dropped = stage.play(scenario)
    assert dropped == steps + 1
    assert held < steps * 900, "what names a step, and no text of 1,000 bytes each"


def test_finish_waits_its_own_time_for_a_disk_and_no_longer(stage: Stage, monkeypatch):
    monkeypatch.setattr("custody.calls.handle.FINISH_SECONDS", 0.3)
    monkeypatch.setattr("custody.blocking.FINISH_SECONDS", 0.3)

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("create", "replace", "sync")
            began = time.monotonic()
            await run.finish(output="x" * 50_000)
            elapsed = time.monotonic() - began
            stage.heal()
        return elapsed

    assert 0.25 < stage.play(scenario) < 0.3 + UNDISTURBED_SECONDS


def test_the_settings_file_sets_the_delay(tmp_path):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + "[observe]\ndelay_ms = 700\n")
    stage = Stage()

    async def scenario(runtime):
        async with runtime.run() as run:
            stage.stall("create", "replace", "sync")
            began = time.monotonic()
            run.event("large", text="x" * 50_000)
            waited = time.monotonic() - began
            stage.heal()
        assert len(of_kind(runtime, RunFinished)) == 1
        return waited

    assert 0.65 < stage.play(scenario) < 0.7 + UNDISTURBED_SECONDS


def test_who_outruns_a_slow_disk_is_slowed_down_and_loses_nothing(tmp_path, monkeypatch):
    """Twelve threads offer large values faster than a disk of 2 ms an operation takes them."""
    monkeypatch.setattr(backlog, "QUEUE_RECORDS_MAX", 4)
    with (tmp_path / "config" / "custody" / "custody.toml").open("a") as file:
        file.write("[observe]\ndelay_ms = 20_000\n")  # a machine that stands still is no disk that does
    settings = load_settings(store=str(tmp_path / "store"))
    disk = FaultyDisk(RealDisk(settings.store, create=True))

    async def main():
        async with await open_runtime(settings, disk=disk) as runtime, runtime.run() as run:
            disk.inject(Fault(operation="create", error=None, stall_seconds=0.002, times=None))

            def work(number):
                for turn in range(5):
                    with run.observe("dump", {"number": number, "turn": turn}) as call:
                        call.result = f"{number} {turn} " * 10_000

            await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(12)))
            disk.heal()
            return run.totals

    totals = asyncio.run(main())
    assert (totals.dropped, totals.calls_by_outcome) == (0, {"succeeded": 60})
