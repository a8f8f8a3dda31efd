"""Row 2: recording one whole call while another Python thread never rests.

What gives up the GIL on the way waits for that thread's time slice, 5 ms by default. The 99th percentile
shows whether anything does.
"""

import contextlib
import threading
from collections.abc import Iterator

from harness import Measurement, arguments, interleave, report, scratch, settle
from record_call import OPENTELEMETRY, opentelemetry
from recording import Store

P99_US_MAX = 100.0


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(500))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main() -> None:
    options = arguments(__doc__, calls=(20_000, "calls of each"))
    rounds = options.calls // (2_000 if options.quick else 200)
    with scratch() as folder:
        store = Store(folder)
        span, count = opentelemetry()
        settle()
        with busy_thread():
            timings = interleave(
                {"custody": store.record_call, OPENTELEMETRY: span}, rounds=rounds, calls=200
            )
        count()
        store.close()
    measurement = Measurement(
        row=2,
        what="the same beside one busy Python thread, p99",
        value=timings["custody"].p99_us,
        unit="µs",
        target=f"≤ {P99_US_MAX:.0f} µs",
        limit=P99_US_MAX,
        peers={OPENTELEMETRY: timings[OPENTELEMETRY].p99_us},
    )
    report("record_call_busy", [measurement], timings, quick=options.quick)


if __name__ == "__main__":
    main()
