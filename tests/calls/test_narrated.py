"""Calls told of afterwards: one record each, in contiguous positions, all of a batch or none."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import custody
from custody.calls.narrated import NarratedCall, Refusal, append_narrated
from custody.calls.run import RunRecord
from custody.calls.runtime import Runtime
from custody.compose import open_runtime
from custody.errors import NotRecorded, RunClosed
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.settings import load_settings


def told(count: int, **more: Any) -> list[NarratedCall]:
    return [NarratedCall(tool="look", arguments={"n": n}, result=n, **more) for n in range(count)]


def until_full(run: RunRecord, calls: list[NarratedCall]) -> None:
    for _ in range(10):
        append_narrated(run, calls)


def in_runtime(scenario: Callable[[Runtime, FaultyDisk], Awaitable[None]], *tools: Any) -> None:
    disk = FaultyDisk(MemoryDisk())

    async def main() -> None:
        async with await open_runtime(load_settings(store=":memory:"), disk=disk, tools=tools) as runtime:
            try:
                await scenario(runtime, disk)
            finally:
                disk.heal()

    asyncio.run(main())


def test_each_is_one_record_that_says_what_was_asked_and_how_it_ended():
    async def scenario(runtime: Runtime, disk: FaultyDisk) -> None:
        async with runtime.run("x", on_error="raise") as run:
            calls = [
                *told(1, prompt="go", exit_code=3),
                *told(1, timed_out=True),
                *told(1, refusal=Refusal("no_rm", "path")),
            ]
            first, receipt = await asyncio.to_thread(append_narrated, run, calls, connection="c1")
            await receipt.durable()
            assert (first, receipt.is_durable) == (0, True)
        kept = runtime.index.run_calls(run.run_id)
        assert [(call.outcome, call.exit_code, call.source, call.connection) for call in kept] == [
            ("failed", 3, "observed", "c1"),
            ("timed_out", None, "observed", "c1"),
            ("rejected", None, "observed", "c1"),
        ]
        assert [call.prompt for call in kept] == ["go", None, None]
        assert (kept[2].decision.rule, kept[2].decision.param) == ("no_rm", "path")
        assert runtime.index.run(run.id).totals.calls_by_outcome == {
            "failed": 1, "timed_out": 1, "rejected": 1
        }  # fmt: skip
        assert [len(runtime.index.call_records(call.id)) for call in kept] == [1, 1, 1]

    in_runtime(scenario)


@pytest.mark.parametrize("shared", [False, True])
def test_batches_beside_guarded_calls_have_contiguous_positions(shared):
    @custody.tool(effect="read")
    async def nothing() -> None:
        return None

    async def scenario(runtime: Runtime, disk: FaultyDisk) -> None:
        async with runtime.run("x", shared=shared, on_error="raise") as run:
            batches = [asyncio.to_thread(append_narrated, run, told(10)) for _ in range(6)]
            calls = [run.call("nothing") for _ in range(40)]
            answers = await asyncio.gather(*batches, *calls)
        by_position = runtime.index.run_calls(run.run_id)
        assert [call.position for call in by_position] == list(range(100))
        for first, _ in answers[:6]:
            mine = by_position[first : first + 10]
            assert [call.result for call in mine] == list(range(10))

    in_runtime(scenario, nothing)


@pytest.mark.parametrize("large", [False, True])
def test_where_there_is_no_room_for_all_none_is_on_the_record_and_no_position_is_used(large):
    calls = told(50) if large else told(50, prompt="x" * 10_000)
    if large:
        calls = [NarratedCall(tool="look", arguments={}, result="x" * 100_000) for _ in range(50)]

    async def scenario(runtime: Runtime, disk: FaultyDisk) -> None:
        async with runtime.run("x", on_error="raise") as run:
            await asyncio.to_thread(append_narrated, run, told(1))
            disk.inject(
                Fault(operation="create", error=errno.ENOSPC, times=None),
                Fault(operation="replace", error=errno.ENOSPC, times=None),
            )
            with pytest.raises(NotRecorded):
                await asyncio.to_thread(until_full, run, calls)
            before = len(runtime.index.run_calls(run.run_id))
            assert before % 50 == 1
            disk.heal()
            first, _ = await asyncio.to_thread(append_narrated, run, told(2))
            assert first == before
        positions = [call.position for call in runtime.index.run_calls(run.run_id)]
        assert positions == list(range(before + 2))

    in_runtime(scenario)


def test_positions_of_what_was_put_before_the_disk_failed_stay_taken():
    async def scenario(runtime: Runtime, disk: FaultyDisk) -> None:
        async with runtime.run("x", on_error="raise") as run:
            await asyncio.to_thread(append_narrated, run, told(1))
            disk.inject(
                Fault(operation="put", error=errno.EIO, at=4, times=None),
                Fault(operation="create", error=errno.EIO, times=None),
            )
            with pytest.raises(NotRecorded):
                await asyncio.to_thread(append_narrated, run, told(10))
            disk.heal()
            first, _ = await asyncio.to_thread(append_narrated, run, told(2))
            positions = [call.position for call in runtime.index.run_calls(run.run_id)]
            assert positions == list(range(first + 2))

    in_runtime(scenario)


def test_a_run_that_has_ended_takes_none():
    async def scenario(runtime: Runtime, disk: FaultyDisk) -> None:
        async with runtime.run("x") as run:
            pass
        with pytest.raises(RunClosed):
            await asyncio.to_thread(append_narrated, run, told(1))

    in_runtime(scenario)
