"""Rows 3 and 4: durable appends, by one thread and by 64 asyncio callers, beside the disk itself.

A record of 600 bytes, acknowledged when fdatasync has returned. The peer of one thread is the least that can
cost: the same bytes put into a zero-filled file and synced, in the same folder and in turns.
"""

import asyncio
import os
import time

from custody.records import Kind, Redacted
from harness import Measurement, RawDisk, arguments, interleave, report, scratch, settle
from recording import Store

RECORD_BYTES = 600
RATIO_MAX = 1.2
ASYNCIO_CALLERS = 64
ASYNCIO_PER_SECOND_MIN = 80_000
LEAF = os.urandom(200)
PAYLOAD = Redacted(os.urandom(RECORD_BYTES - len(LEAF)))


async def many_callers(store: Store, records: int) -> float:
    """Durable records a second of callers that each wait for their own before the next."""

    async def caller(count: int) -> None:
        for _ in range(count):
            await store.journal.append(Kind.EVENT, LEAF, PAYLOAD).durable()

    each = records // ASYNCIO_CALLERS
    start = time.perf_counter()
    await asyncio.gather(*(caller(each) for _ in range(ASYNCIO_CALLERS)))
    return each * ASYNCIO_CALLERS / (time.perf_counter() - start)


def one_thread(calls: int) -> tuple[Measurement, dict[str, object]]:
    with scratch() as folder:
        store, raw = Store(folder), RawDisk(folder, RECORD_BYTES)

        def durable_append() -> None:
            store.journal.append(Kind.EVENT, LEAF, PAYLOAD).wait_durable()

        settle()
        ways = {"custody": durable_append, "raw fdatasync": raw.durable_put}
        timings = interleave(ways, rounds=max(2, calls // 50), calls=50)
        raw.close()
        store.close()
    peer = timings["raw fdatasync"].p50_us
    measurement = Measurement(
        row=3,
        what="durable append, one thread, p50",
        value=timings["custody"].p50_us,
        unit="µs",
        target=f"≤ {RATIO_MAX} × raw fdatasync",
        limit=RATIO_MAX * peer,
        peers={"raw fdatasync of a zero-filled file": peer},
    )
    return measurement, dict(timings)


def asyncio_callers(records: int) -> tuple[Measurement, dict[str, object]]:
    with scratch() as folder:
        store = Store(folder)
        settle()
        asyncio.run(many_callers(store, records // 10))
        rounds = [asyncio.run(many_callers(store, records)) for _ in range(3)]
        store.close()
    measurement = Measurement(
        row=4,
        what=f"durable appends of {RECORD_BYTES} bytes, {ASYNCIO_CALLERS} asyncio callers",
        value=sorted(rounds)[1],
        unit="/s",
        target=f"≥ {ASYNCIO_PER_SECOND_MIN:,}/s",
        limit=ASYNCIO_PER_SECOND_MIN,
        better="more",
    )
    return measurement, {"records a second, three rounds": rounds}


def main() -> None:
    options = arguments(__doc__, calls=(4_000, "appends by one thread"), records=(64_000, "by all callers"))
    part = 10 if options.quick else 1
    alone, alone_details = one_thread(options.calls // part)
    together, together_details = asyncio_callers(options.records // part)
    report("durable_append", [alone, together], {**alone_details, **together_details}, quick=options.quick)


if __name__ == "__main__":
    main()
