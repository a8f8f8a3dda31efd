"""Row 6: whole commands, from the start of the interpreter to its end; and what importing Custody costs.

`custody exec -- true` decides, records, runs, measures and records again in one short-lived process.
`custody runs` asks a small store.
"""

import os
import subprocess
import sys
from pathlib import Path

from harness import (
    Measurement,
    Timing,
    arguments,
    interleave,
    never_refused,
    report,
    scratch,
    settle,
    small_workspace,
)

COMMAND_MS_MAX = 150.0
IMPORT_MS_MAX = 60.0
STORE_CALLS = 50

IMPORTING = (
    "import time; start = time.perf_counter_ns(); import custody; print(time.perf_counter_ns() - start)"
)


def custody_command() -> list[str]:
    """The installed script beside this interpreter, as a user would run it."""
    script = Path(sys.executable).with_name("custody")
    return [str(script)] if script.exists() else [sys.executable, "-m", "custody"]


def import_timing(count: int) -> Timing:
    taken = [
        int(subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, check=True).stdout)
        for _ in range(count)
    ]
    return Timing.of(taken)


def commands(folder: Path, calls: int) -> dict[str, Timing]:
    never_refused(folder)
    # Installed packages are compiled; a checkout compiles itself at the first run, unless it is told not to.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["CUSTODY_STORE"] = str(folder / "store")
    workspace = small_workspace(folder)

    def command(*words: str) -> None:
        line = [*custody_command(), *words]
        done = subprocess.run(line, env=environment, cwd=workspace, capture_output=True)
        if done.returncode:
            sys.exit(f"custody {' '.join(words)}: {done.stderr.decode(errors='replace')}")

    for _ in range(STORE_CALLS):
        command("exec", "--", "true")
    ways = {
        "custody exec -- true": lambda: command("exec", "--", "true"),
        "custody runs": lambda: command("runs", "--all", "--limit", "20"),
        "python -c pass": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
    }
    settle()
    return interleave(ways, rounds=max(2, calls // 5), calls=5)


def main() -> None:
    options = arguments(__doc__, calls=(60, "runs of each command"))
    calls = max(10, options.calls // (10 if options.quick else 1))
    with scratch() as folder:
        timings = commands(folder, calls)
    timings["import custody"] = import_timing(calls // 2)
    bare_ms = timings["python -c pass"].p50_us / 1e3
    measurements = [
        Measurement(
            row=6,
            what=f"`{name}` as a whole command, p50" if name != "import custody" else "`import custody`, p50",
            value=timings[name].p50_us / 1e3,
            unit="ms",
            target=f"≤ {limit_ms:.0f} ms",
            limit=limit_ms,
            peers=peers,
        )
        for name, limit_ms, peers in (
            ("custody exec -- true", COMMAND_MS_MAX, {"python3 -c pass": bare_ms}),
            ("custody runs", COMMAND_MS_MAX, {"python3 -c pass": bare_ms}),
            ("import custody", IMPORT_MS_MAX, {}),
        )
    ]
    report("command_line", measurements, timings, quick=options.quick)


if __name__ == "__main__":
    main()
