"""Runs without any peer: the same start, turns, trace and end; and what becomes of them when peers, disks and
processes fail."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from tests.rpc.clients import WAIT_SECONDS, Connect, opened_runtime
from tests.rpc.running import MEMORY, assert_intact, live_of, play, start, trace, turn

from custody.calls.runtime import Runtime
from custody.compose import open_runtime
from custody.errors import InvalidInput, NotRecorded, RunClosed, RunNotShared
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.rpc.following import TraceAnswer, list_runs, read_trace
from custody.rpc.live import LiveRuns
from custody.rpc.live_run import LiveRun
from custody.rpc.narration import ModelTurn, record_model_turn, record_turns
from custody.rpc.run_cancel import cancel_run
from custody.rpc.traces import Trace
from custody.settings import load_settings

ADA = {"ada"}


def in_process(scenario: Callable[[LiveRuns], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with opened_runtime() as runtime, asyncio.timeout(WAIT_SECONDS):
            await scenario(LiveRuns(runtime, **options))

    asyncio.run(main())


def on_a_disk_that_fails(scenario: Callable[[LiveRuns, FaultyDisk], Awaitable[None]]) -> None:
    disk = FaultyDisk(MemoryDisk())

    async def main() -> None:
        async with await open_runtime(load_settings(store=":memory:"), disk=disk) as runtime:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await scenario(LiveRuns(runtime), disk)
            finally:
                disk.heal()

    asyncio.run(main())


async def records_of(runs: LiveRuns, run_id: str) -> list[Any]:
    read = await read_trace(runs, run_id, whose=ADA)
    assert isinstance(read, TraceAnswer)
    return read.records


async def tell(runs: LiveRuns, run_id: str, *outputs: Any) -> Any:
    return await record_turns(runs, run_id, [turn(output=output) for output in outputs], whose=ADA)


async def outcome_of(runs: LiveRuns, live: LiveRun) -> str | None:
    await live.ended.wait()
    run = await asyncio.to_thread(runs.runtime.index.run, live.handle.id)
    return run.outcome


def test_a_run_is_started_told_of_read_and_ended_as_over_the_wire():
    async def scenario(connect: Connect, runtime: Runtime) -> None:
        runs = live_of(runtime)
        async with connect() as client:
            there = await start(client)
            here = (await runs.start("to see", agent="ada")).id
            told = [turn(output=number) for number in range(3)]
            answered = await client.call("runs.record_turns", {"run_id": there, "turns": told})
            recorded = await record_turns(runs, here, told, whose=ADA)
            assert (recorded.base_index, recorded.count) == (answered["base_index"], answered["count"])
            await client.call("runs.record_model_turn", {"run_id": there, "assistant_text": "hm"})
            await record_model_turn(runs, here, ModelTurn(assistant_text="hm"), whose=ADA)
            await client.call("runs.complete", {"run_id": there, "outcome": "success"})
            live = runs.find_live(here, ADA)
            assert live is not None
            await runs.end(live, "succeeded", output="success")
            both = [await trace(client, run_id) for run_id in (there, here)]
            for record in (record for records in both for record in records):
                for name in ("run_id", "client_id", "started_at", "recorded_at", "ended_at"):
                    record.pop(name, None)
            assert both[0] == both[1]
            listed = await list_runs(runs, "ada", whose=ADA)
            assert [run.run_id for run in listed.runs] == [here, there]

    play(MEMORY, scenario)


def test_a_run_goes_on_until_the_last_connection_that_works_on_it_is_gone():
    async def scenario(runs: LiveRuns) -> None:
        live = await runs.start("x", agent="ada", key="job", connection="c1")
        assert await runs.start("x", agent="ada", key="job", connection="c2") is live
        assert live.owner == "c2"
        runs.departed("c2")
        assert (live.owner, live.grace) == ("c1", None)
        with pytest.raises(RunNotShared):
            await runs.resume("job", whose=ADA, connection="c3")
        runs.departed("c1")
        assert await outcome_of(runs, live) == "incomplete"
        assert len(runs) == 0

    in_process(scenario, grace_seconds=0.01)


def test_a_lease_is_longer_than_a_grace_and_a_connection_that_comes_back_ends_either():
    async def scenario(runs: LiveRuns) -> None:
        short = await runs.start("x", agent="ada", connection="c1")
        long = await runs.start("x", agent="ada", connection="c1", resumable=True)
        runs.departed("c1")
        assert await outcome_of(runs, short) == "incomplete"
        assert not long.over
        live, resumed = await runs.resume(long.id, whose=ADA, connection="c2")
        assert (live, resumed.resumed_from_client_id) == (long, "c1")
        assert long.grace is None
        await runs.end(long, "succeeded")

    in_process(scenario, grace_seconds=0.01, lease_seconds=60.0)


def test_the_first_end_wins_whoever_asks():
    async def scenario(runs: LiveRuns) -> None:
        for _ in range(5):
            live = await runs.start("x", agent="ada", connection="c1")
            asked = [
                runs.end(live, "succeeded"),
                cancel_run(runs, live.id, "k", "r", whose=ADA),
                runs.end(live, "failed"),
            ]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(isinstance(answer, RunClosed) for answer in answers) == 1
            receipt: Any = answers[1]
            assert (receipt.status, await outcome_of(runs, live)) == ("already_terminal", "succeeded")

    in_process(scenario)


def test_a_run_whose_work_does_not_end_is_not_said_to_be_cancelled_until_it_does():
    async def scenario(runs: LiveRuns) -> None:
        live = await runs.start("x", agent="ada")
        told = []
        with live.working("a1", lambda: told.append("stop")) as work:
            work.request_id = "cb-1"
            receipt = await cancel_run(runs, live.id, "k", "r", whose=None, principal="host")
            assert (receipt.status, receipt.terminal_digest) == ("termination_unconfirmed", None)
            assert (receipt.action_id, receipt.request_id, receipt.principal) == ("a1", "cb-1", "host")
            assert told == ["stop"]
            assert await cancel_run(runs, live.id, "k", "r", whose=None, principal="host") == receipt
            assert (await tell(runs, live.id, 1)).dropped == "run_terminal"
            with pytest.raises(RunClosed):
                await runs.end(live, "succeeded")
            with pytest.raises(RunClosed), live.working():
                pass
        assert await outcome_of(runs, live) == "cancelled"

    in_process(scenario, stop_seconds=0.01)


def test_an_orphan_that_a_host_closes_is_incomplete_and_nobody_claims_to_have_cancelled_it():
    async def scenario(runs: LiveRuns) -> None:
        live = await runs.start("x", agent="ada", connection="c1", resumable=True)
        runs.departed("c1")
        receipt = await cancel_run(runs, live.id, "k", "r", whose=None, principal="host")
        assert (receipt.status, await outcome_of(runs, live)) == ("already_terminal", "incomplete")
        assert receipt.terminal_digest is not None
        assert await cancel_run(runs, live.id, "k", "r", whose=None, principal="host") == receipt

    in_process(scenario)


def test_turns_being_recorded_are_on_the_record_before_the_end():
    async def scenario(runs: LiveRuns) -> None:
        live = await runs.start("x", agent="ada")
        telling = asyncio.create_task(tell(runs, live.id, *range(100)))
        while not live.in_flight:  # noqa: ASYNC110 - it begins when its turn comes
            await asyncio.sleep(0)
        await runs.end(live, "succeeded")
        assert (await telling).ok
        assert [record.__struct_config__.tag for record in await records_of(runs, live.id)] == [
            "started", *["turn"] * 100, "ended"
        ]  # fmt: skip

    in_process(scenario)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"intent": "é" * 40_000}, "intent"),
        ({"outcome_description": "x" * 70_000}, "outcome_description"),
        ({"key": ""}, "idempotency_key"),
        ({"key": "k" * 257}, "idempotency_key"),
        ({"session": "s" * 257}, "session"),
        ({"labels": {str(n): "" for n in range(65)}}, "labels"),
    ],
)
def test_what_is_said_of_a_run_has_bounds(said, field):
    async def scenario(runs: LiveRuns) -> None:
        with pytest.raises(InvalidInput) as raised:
            await runs.start(said.pop("intent", "x"), agent="ada", **said)
        assert raised.value.details["field"] == field

    in_process(scenario)


# -- missing positions --------------------------------------------------------------------------------


def test_a_position_that_was_lost_holds_back_what_follows_until_the_run_ends():
    async def scenario(runs: LiveRuns) -> None:
        live = await runs.start("x", agent="ada")
        await tell(runs, live.id, "a", "b")
        live.handle.numbering.take()  # of a record that was dropped
        await tell(runs, live.id, "c", "d")
        assert len(await records_of(runs, live.id)) == 3
        await runs.end(live, "succeeded")
        records = await records_of(runs, live.id)
        assert [record.index for record in records[1:-1]] == [0, 1, 3, 4]
        trace = Trace(runs.runtime.index, live.handle.run_id)
        for offset in range(8):
            page = await asyncio.to_thread(lambda offset=offset: trace.page(trace.seek(offset), 100))
            assert page.records == records[offset:]

    in_process(scenario)


# -- disks --------------------------------------------------------------------------------------------


def test_on_a_full_disk_turns_are_refused_and_none_that_was_acknowledged_is_lost():
    async def scenario(runs: LiveRuns, disk: FaultyDisk) -> None:
        live = await runs.start("x", agent="ada")
        acknowledged = 0
        disk.inject(Fault(operation="create", error=errno.ENOSPC, times=None))
        with pytest.raises(NotRecorded):  # noqa: PT012
            while True:
                answer = await tell(runs, live.id, *["x" * 8_000] * 10)
                assert (answer.ok, answer.base_index) == (True, acknowledged)
                acknowledged += 10
        assert acknowledged > 0
        assert len(await records_of(runs, live.id)) == 1 + acknowledged
        disk.heal()
        assert (await tell(runs, live.id, "after")).base_index == acknowledged
        assert live.narrated == acknowledged + 1
        await runs.end(live, "succeeded")
        assert len(await records_of(runs, live.id)) == acknowledged + 3

    on_a_disk_that_fails(scenario)


@pytest.mark.parametrize("asked", ["start", "turns", "model turn", "end", "cancel"])
def test_nothing_is_acknowledged_before_it_survives_a_power_loss(asked):
    async def scenario(runs: LiveRuns, disk: FaultyDisk) -> None:
        live = await runs.start("x", agent="ada")
        ask = {
            "start": lambda: runs.start("y", agent="ada"),
            "turns": lambda: tell(runs, live.id, "a"),
            "model turn": lambda: record_model_turn(runs, live.id, ModelTurn(), whose=ADA),
            "end": lambda: runs.end(live, "succeeded"),
            "cancel": lambda: cancel_run(runs, live.id, "k", "r", whose=ADA),
        }
        index = runs.runtime.index

        def written() -> tuple[int, Any]:
            run = index.run(live.handle.id)
            return len(index.runs().items) + run.calls + run.steps, run.outcome

        before = written(), len(index.events(run=live.handle.id).items)
        disk.inject(Fault(operation="sync", error=None, stall_seconds=60, times=None))
        asking = asyncio.create_task(ask[asked]())
        while (written(), len(index.events(run=live.handle.id).items)) == before:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not asking.done()
        disk.heal()
        await asking

    on_a_disk_that_fails(scenario)


def test_a_run_whose_end_could_not_be_recorded_is_open_and_can_be_ended():
    async def scenario(runs: LiveRuns, disk: FaultyDisk) -> None:
        live = await runs.start("x", agent="ada")
        disk.inject(*[Fault(operation=what, error=errno.EIO, times=None) for what in ("put", "create")])
        with pytest.raises(NotRecorded):
            await runs.end(live, "succeeded")
        assert not live.over
        disk.heal()
        assert (await tell(runs, live.id, "it goes on")).ok
        await runs.end(live, "failed", reason="changed its mind")
        assert await outcome_of(runs, live) == "failed"

    on_a_disk_that_fails(scenario)


def test_a_start_that_was_not_durable_is_no_answer_and_the_same_key_starts_no_second_run():
    async def scenario(runs: LiveRuns, disk: FaultyDisk) -> None:
        first = await runs.start("x", agent="ada")
        disk.inject(
            Fault(operation="sync", error=errno.EIO, times=None),
            Fault(operation="create", error=errno.EIO, times=None),
        )
        for _ in range(2):
            with pytest.raises(NotRecorded):
                await runs.start("x", agent="ada", key="job")
        disk.heal()
        live = await runs.start("x", agent="ada", key="job")
        assert (await tell(runs, "job", "a")).ok
        await runs.end(live, "succeeded")
        await runs.end(first, "succeeded")
        started = runs.runtime.index.runs(external_id="job").items
        assert [run.outcome for run in started] == ["succeeded"]

    on_a_disk_that_fails(scenario)


# -- processes ----------------------------------------------------------------------------------------

KILLED = """
import asyncio, sys
from custody.compose import open_runtime
from custody.settings import load_settings
from custody.rpc.live import LiveRuns
from custody.rpc.narration import record_turns

async def main():
    async with await open_runtime(load_settings(store=sys.argv[1])) as runtime:
        runs = LiveRuns(runtime)
        await runs.start("x", agent="ada", key="job")
        for batch in range(1_000):
            recorded = await record_turns(runs, "job", [{"tool": "look", "output": batch}] * 2, whose={"ada"})
            print(recorded.base_index + recorded.count, flush=True)
        await asyncio.Event().wait()  # it ends by being killed, however late that comes

asyncio.run(main())
"""


def test_after_a_kill_every_acknowledged_turn_is_in_the_trace_of_an_incomplete_run(tmp_path):
    store = str(tmp_path / "store")
    command = [sys.executable, "-c", KILLED, store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        acknowledged = [int(next(process.stdout)) for _ in range(10)][-1]
        process.send_signal(signal.SIGKILL)
        with suppress(ValueError):
            acknowledged = [acknowledged, *map(int, process.stdout.read().split("\n")[:-1])][-1]

    async def scenario(connect: Connect, runtime: Runtime) -> None:
        async with connect() as client:
            await client.call("session.auth", {"agent_id": "ada"})
            records = await trace(client, "job")
            assert len(records) - 2 >= acknowledged
            outputs = [record["output"] for record in records[1:-1]]
            assert outputs == [index // 2 for index in range(len(outputs))]
            assert records[-1]["termination"] == {"kind": "incomplete"}
            assert records[-1]["reason"] == "killed"
            assert await start(client, idempotency_key="job") == "job"
            dropped = await client.call("runs.record_turns", {"run_id": "job", "turns": [{}]})
            assert dropped["dropped"] == "run_terminal"

    play(MEMORY, scenario, store)
    assert_intact(store)
