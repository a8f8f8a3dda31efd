"""Row 8 for agents that run their own tools: what the process grows by over a million observed calls.

Every tenth call is followed by a step. Memory is the resident set after the first calls against the end.
"""

import time

import custody
from custody.blocking import BlockingRun
from harness import Measurement, arguments, never_refused, report, scratch, settle
from memory_and_size import GROWTH_MB_MAX, WARM_UP_CALLS, resident_bytes
from recording import SMALL_ARGUMENTS, SMALL_RESULT


def observe(run: BlockingRun, calls: int) -> None:
    for number in range(calls):
        with run.observe("exec", SMALL_ARGUMENTS) as call:
            call.result = SMALL_RESULT
        if number % 10 == 0:
            run.step("looked at the basket", model="gpt-4o", tokens={"input": 2_140, "output": 187})


def main() -> None:
    options = arguments(__doc__, calls=(1_000_000, "calls observed"))
    calls = options.calls // (10 if options.quick else 1)
    with scratch() as folder:
        never_refused(folder)
        with custody.open(folder / "store") as runtime, runtime.run("benchmark") as run:
            observe(run, WARM_UP_CALLS)
            settle()
            before = resident_bytes()
            start = time.perf_counter()
            observe(run, calls)
            seconds = time.perf_counter() - start
            growth_mb = (resident_bytes() - before) / 1e6
            totals = run.totals
    measurement = Measurement(
        row=8,
        what=f"memory growth over {calls:,} observed calls",
        value=growth_mb,
        unit="MB",
        target=f"≤ {GROWTH_MB_MAX:.0f} MB",
        limit=GROWTH_MB_MAX,
    )
    details = {
        "calls": calls,
        "calls a second": calls / seconds,
        "steps": totals.steps,
        "dropped": totals.dropped,
    }
    report("observe_memory", [measurement], details, quick=options.quick)


if __name__ == "__main__":
    main()
