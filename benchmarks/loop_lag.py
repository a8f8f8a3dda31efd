"""How late the event loop is while 64 tools record durably on a disk whose sync stalls for 500 ms.

A task asks to be woken every millisecond and notes how much later it is; beside it the same with no Custody
at all, as what this machine's scheduler costs by itself.
"""

import asyncio
import time

import custody
from custody.compose import open_runtime
from custody.journal import RealDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.settings import load_settings
from harness import Measurement, Timing, arguments, never_refused, report, scratch, settle

CALLERS = 64
STALL_SECONDS = 0.5
WAKE_SECONDS = 0.001
OBSERVED_SECONDS = 0.01
LAG_MS_MAX = 5.0


@custody.tool(effect="write")
async def act() -> None:
    """Does nothing, but only once its start is durable."""


async def lags(seconds: float) -> list[int]:
    """Nanoseconds that each wake-up came late."""
    late: list[int] = []
    until = time.monotonic() + seconds
    while (before := time.monotonic()) < until:
        await asyncio.sleep(WAKE_SECONDS)
        late.append(max(0, int((time.monotonic() - before - WAKE_SECONDS) * 1e9)))
    return late


async def observing(store: str, seconds: float) -> tuple[Timing, int]:
    """The same for 64 agents that run their tools themselves, each a hundred times a second."""
    disk = FaultyDisk(RealDisk(store, create=True))
    async with await open_runtime(load_settings(store=store), disk=disk) as runtime, runtime.run() as run:
        disk.inject(Fault(operation="sync", error=None, stall_seconds=STALL_SECONDS, times=None))

        async def agent() -> None:
            while True:
                async with run.observe("search", {"query": "q" * 1000}) as call:
                    await asyncio.sleep(OBSERVED_SECONDS)
                    call.result = "r" * 1000

        agents = [asyncio.create_task(agent()) for _ in range(CALLERS)]
        stalled = Timing.of(await lags(seconds))
        disk.heal()
        for task in agents:
            task.cancel()
        await asyncio.gather(*agents, return_exceptions=True)
        return stalled, run.totals.dropped


async def measure(store: str, seconds: float) -> tuple[Timing, Timing, int]:
    alone = Timing.of(await lags(seconds))
    disk = FaultyDisk(RealDisk(store, create=True))
    async with await open_runtime(load_settings(store=store), disk=disk, tools=[act]) as runtime:
        await runtime.call("act", {})
        disk.inject(Fault(operation="sync", error=None, stall_seconds=STALL_SECONDS, times=None))
        done = 0

        async def caller() -> None:
            nonlocal done
            while True:
                await runtime.call("act", {})
                done += 1

        callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        stalled = Timing.of(await lags(seconds))
        disk.heal()
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return stalled, alone, done


def main() -> None:
    options = arguments(__doc__, seconds=(10, "how long each is measured"))
    with scratch() as folder:
        never_refused(folder)
        settle()
        seconds = options.seconds / (10 if options.quick else 1)
        stalled, alone, done = asyncio.run(measure(str(folder / "store"), seconds))
        observed, dropped = asyncio.run(observing(str(folder / "observed"), seconds))
    observed_lag = Measurement(
        row=9,
        what=f"loop lag, {CALLERS} agents observe 100 calls/s each, sync stalls {STALL_SECONDS:g} s, p99",
        value=observed.p99_us,
        unit="µs",
        target=f"≤ {LAG_MS_MAX:g} ms",
        limit=LAG_MS_MAX * 1000,
        peers={"the loop with nothing to do": alone.p99_us},
    )
    measurement = Measurement(
        row=9,
        what=f"loop lag, {CALLERS} tools durable, sync stalls {STALL_SECONDS:g} s, p99",
        value=stalled.p99_us,
        unit="µs",
        target=f"≤ {LAG_MS_MAX:g} ms",
        limit=LAG_MS_MAX * 1000,
        peers={"the loop with nothing to do": alone.p99_us},
    )
    details = {"stalled": stalled, "alone": alone, "calls": done, "observed": observed, "dropped": dropped}
    report("loop_lag", [measurement, observed_lag], details, quick=options.quick)


if __name__ == "__main__":
    main()
