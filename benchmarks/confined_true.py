"""Row 5, the walls alone: `/bin/true` in a warm launcher behind walls, beside one without, plain
subprocess.run, and other sandboxes of the command line where they are installed. An agent's command has a way
out to hosts that are listed; what that costs shows beside the same walls without one.

Nothing is decided or recorded here: what is measured is a command's way to the launcher and back. How long a
launcher takes to be walled in is measured too, as the first command of a run waits for it.
"""

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

from msgspec.structs import replace

from custody.sandbox import Command, Launchers
from custody.sandbox.walls import NAMED
from custody.sandbox.walls.machine import Machine, look_at_machine
from harness import Measurement, Timing, arguments, report, scratch, settle, small_workspace

RATIO_MAX = 1.2
TRUE = "/bin/true"
STARTS = 20  # each is a process walled in anew, of 30 ms
CONFINED, PROCESS, PLAIN, START = "confined", "process", "subprocess.run", "confined, first of a run"
NO_WAY_OUT = "confined, no way out"
OTHERS = {
    # As pid 1, or each of its own leaves a zombie for a while, and the breaker counts those.
    "bubblewrap, all namespaces": [
        "bwrap", "--unshare-all", "--as-pid-1", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
        "--tmpfs", "/tmp", TRUE,
    ],
    "firejail": [
        "firejail", "--quiet", "--noprofile", "--net=none", "--private", "--caps.drop=all", "--seccomp",
        "--nonewprivs", TRUE,
    ],
}  # fmt: skip


def others() -> dict[str, list[str]]:
    """Other sandboxes of the command line, near these walls, where they are installed and work."""
    found: dict[str, list[str]] = {}
    for name, command in OTHERS.items():
        if shutil.which(command[0]) and subprocess.run(command, capture_output=True).returncode == 0:
            found[name] = command
        else:
            print(f"{name} is not here, or does not work here: left out")
    return found


async def measure(folder: Path, machine: Machine, rounds: int, calls: int) -> dict[str, Timing]:
    workspace = str(small_workspace(folder))
    plain = Command(argv=(TRUE,), cwd=workspace, environment=dict(os.environ))
    confined = Command(
        argv=plain.argv, cwd=workspace, environment=plain.environment, sandbox=NAMED["workspace"],
        roots=(workspace,), run_id="run",
    )  # fmt: skip
    alone = replace(NAMED["workspace"], network="loopback")
    commands = {CONFINED: confined, NO_WAY_OUT: replace(confined, sandbox=alone), PROCESS: plain}
    outside = {PLAIN: [TRUE], **others()}
    times: dict[str, list[int]] = {name: [] for name in (*commands, *outside, START)}
    clock = time.perf_counter_ns
    launchers = Launchers(look_at_machine=lambda: machine)

    async def run(name: str) -> None:
        start = clock()
        finished = await launchers.run(commands[name])
        times[name].append(clock() - start)
        assert finished.exit_code == 0, finished

    def run_outside(name: str) -> None:
        start = clock()
        subprocess.run(outside[name])
        times[name].append(clock() - start)

    try:
        await launchers.run(commands[PROCESS])
        for _ in range(STARTS):
            await run(CONFINED)
            times[START].append(times[CONFINED].pop())
            launchers.end_run("run")
        await launchers.run(commands[CONFINED])
        await launchers.run(commands[NO_WAY_OUT])
        for _ in range(rounds):
            for name in commands:
                for _ in range(calls):
                    await run(name)
            for name in outside:  # blocking the loop is right: each way is to be alone
                for _ in range(calls):
                    run_outside(name)
    finally:
        await launchers.close()
    return {name: Timing.of(taken) for name, taken in times.items()}


def main() -> None:
    options = arguments(__doc__, calls=(600, "calls of each"))
    machine = look_at_machine()
    if machine.missing:
        print(f"`confined` is not offered here: {', '.join(one.name for one in machine.missing)} missing")
        return
    with scratch() as folder:
        settle()
        rounds = max(2, options.calls // (200 if options.quick else 20))
        timings = asyncio.run(measure(folder, machine, rounds, 20))
    beside = {name: timings[name].p50_us for name in (PLAIN, *OTHERS, PROCESS, NO_WAY_OUT) if name in timings}
    measurement = Measurement(
        row=5,
        what="`/bin/true` behind walls, warm launcher, nothing recorded, p50",
        value=timings[CONFINED].p50_us,
        unit="µs",
        target=f"≤ {RATIO_MAX} × subprocess.run",
        limit=RATIO_MAX * beside[PLAIN],
        peers=beside,
    )
    report("confined_true", [measurement], timings, quick=options.quick)
    print(f"walled in anew: p50 {timings[START].p50_us / 1e3:.1f} ms")


if __name__ == "__main__":
    main()
