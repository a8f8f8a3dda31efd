"""Deadlines that share a timer keep what `asyncio.timeout` promises."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from custody.rpc.deadlines import Deadlines

LONG_SECONDS = 60.0


async def end_of(deadlines: Deadlines, seconds: float | None) -> tuple[str, float]:
    """How waiting without end ends, and after how many seconds."""
    began = time.monotonic()
    try:
        with deadlines.within(seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        return "timed out", time.monotonic() - began
    raise AssertionError("nothing else ends it")


def test_each_ends_at_its_own_time_in_whatever_order_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still in between: on one that goes, two may be due at once."""
    now = 1_000.0

    async def main() -> Any:
        nonlocal now
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        deadlines = Deadlines()
        ended: list[float] = []

        async def wait(seconds: float) -> None:
            await end_of(deadlines, seconds)
            ended.append(seconds)

        waiting = [asyncio.create_task(wait(seconds)) for seconds in (3.0, LONG_SECONDS, 1.0, 2.0, 0.0)]
        by_then: list[list[float]] = []
        for _ in range(4):
            for _ in range(20):  # turns of the loop, until nothing is left to do
                await asyncio.sleep(0)
            by_then.append(list(ended))
            now += 1.0
        waiting[1].cancel()
        await asyncio.wait(waiting)
        return by_then, waiting[1].cancelled()

    monkeypatch.setattr("custody.rpc.deadlines.time", SimpleNamespace(monotonic=lambda: now))
    assert asyncio.run(main()) == ([[0.0], [0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]], True)


def test_one_within_another_ends_alone_and_not_before_its_time() -> None:
    async def main() -> Any:
        deadlines = Deadlines()
        with deadlines.within(LONG_SECONDS) as outer:
            inner, after = await end_of(deadlines, 0.01)
        return inner, outer.expired, after >= 0.01

    assert asyncio.run(main()) == ("timed out", False, True)


def test_a_task_that_is_cancelled_as_well_stays_cancelled() -> None:
    async def main() -> Any:
        deadlines = Deadlines()

        async def wait() -> None:
            with deadlines.within(LONG_SECONDS) as limit:
                asyncio.get_running_loop().call_soon(limit.expire)
                asyncio.get_running_loop().call_soon(task.cancel)
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.wait({task})
        return task.cancelled()

    assert asyncio.run(main())


def test_one_that_was_left_ends_nothing_any_more() -> None:
    async def main() -> Any:
        deadlines = Deadlines()
        with deadlines.within(0.0) as limit:
            pass
        limit.expire()
        await end_of(deadlines, 0.01)  # by then its own timer has come and found nothing
        return limit.expired

    assert asyncio.run(main()) is False


@pytest.mark.parametrize("seconds", [None, LONG_SECONDS])
def test_one_may_be_ended_before_its_time(seconds: float | None) -> None:
    async def main() -> None:
        with Deadlines().within(seconds) as limit:
            asyncio.get_running_loop().call_soon(limit.expire)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
