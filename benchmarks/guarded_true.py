"""Row 5: a guarded, recorded `/bin/true` in a warm runtime, beside plain subprocess.run and bubblewrap.

The call is decided, its *started* made durable before the process runs, its tree watched, its usage read and
its *finished* written. The disk's own cost of one sync is measured in the same turns and granted. The command
runs in a workspace of 20 files, where what it changed is told; "1,000 files" is the same in a larger one.
"""

import asyncio
import shutil
import subprocess
import time
from pathlib import Path

import custody
from harness import (
    Measurement,
    RawDisk,
    Timing,
    arguments,
    never_refused,
    report,
    scratch,
    settle,
    small_workspace,
)

RATIO_MAX = 2.0
TRUE = "/bin/true"
LARGER = "custody, 1,000 files"
PLAIN, BUBBLEWRAP, RAW = "subprocess.run", "bubblewrap, mount namespace", "raw fdatasync"


def bubblewrap() -> list[str] | None:
    """The command line of a minimal bubblewrap, where it is installed and works."""
    if shutil.which("bwrap") is None:
        return None
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", TRUE]
    return command if subprocess.run(command, capture_output=True).returncode == 0 else None


async def measure(folder: Path, rounds: int, calls: int) -> dict[str, Timing]:
    times: dict[str, list[int]] = {"custody": [], LARGER: [], PLAIN: [], RAW: []}
    wrapped = bubblewrap()
    if wrapped is not None:
        times[BUBBLEWRAP] = []
    raw = RawDisk(folder, 600)
    clock = time.perf_counter_ns

    def timed(name: str, way: object, *given: object) -> None:
        assert callable(way)
        for _ in range(calls):
            start = clock()
            way(*given)
            times[name].append(clock() - start)

    async with (
        custody.open(str(folder / "store"), cwd=str(small_workspace(folder))) as runtime,
        custody.open(str(folder / "other"), cwd=str(small_workspace(folder, 1_000))) as in_larger,
        runtime.run("benchmark") as run,
    ):
        await run.call("exec", {"argv": [TRUE]})
        for _ in range(rounds):
            for _ in range(calls):
                start = clock()
                call = await run.call("exec", {"argv": [TRUE]})
                times["custody"].append(clock() - start)
                assert call.outcome == "succeeded", call
            for _ in range(calls):
                start = clock()
                await in_larger.call("exec", {"argv": [TRUE]})
                times[LARGER].append(clock() - start)
            # Blocking the loop is right here: nothing else runs, and each way is to be alone.
            timed(PLAIN, subprocess.run, [TRUE])
            timed(RAW, raw.durable_put)
            if wrapped is not None:
                timed(BUBBLEWRAP, subprocess.run, wrapped)
    raw.close()
    return {name: Timing.of(taken) for name, taken in times.items()}


def main() -> None:
    options = arguments(__doc__, calls=(600, "calls of each"))
    with scratch() as folder:
        never_refused(folder)
        settle()
        rounds = max(2, options.calls // (200 if options.quick else 20))
        timings = asyncio.run(measure(folder, rounds, 20))
    beside = {name: timing.p50_us for name, timing in timings.items() if name not in ("custody", LARGER)}
    measurement = Measurement(
        row=5,
        what="a guarded /bin/true at `process`, warm runtime, p50",
        value=timings["custody"].p50_us,
        unit="µs",
        target=f"≤ {RATIO_MAX} × subprocess.run + one raw fdatasync",
        limit=RATIO_MAX * beside[PLAIN] + beside[RAW],
        peers=beside,
    )
    report("guarded_true", [measurement], timings, quick=options.quick)


if __name__ == "__main__":
    main()
