"""Deadlines that share a timer keep what `asyncio.timeout` promises."""

import asyncio
import time
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


def test_each_ends_at_its_own_time_in_whatever_order_they_came() -> None:
    async def main() -> Any:
        deadlines = Deadlines()
        late = asyncio.create_task(end_of(deadlines, LONG_SECONDS))
        ended: list[float] = []

        async def wait(seconds: float) -> None:
            _, after = await end_of(deadlines, seconds)
            assert after >= seconds
            ended.append(seconds)

        async with asyncio.timeout(10):
            await asyncio.gather(*map(wait, (0.06, 0.02, 0.04, 0.0)))
        late.cancel()
        await asyncio.wait({late})
        return ended, late.cancelled()

    assert asyncio.run(main()) == ([0.0, 0.02, 0.04, 0.06], True)


def test_one_within_another_ends_alone() -> None:
    async def main() -> Any:
        deadlines = Deadlines()
        with deadlines.within(LONG_SECONDS) as outer:
            inner, _ = await end_of(deadlines, 0.01)
        return inner, outer.expired

    assert asyncio.run(main()) == ("timed out", False)


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
