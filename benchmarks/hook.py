"""What a coding CLI waits for at each hook: the whole line of its settings, from its start to its end.

With a daemon that runs: before a tool that reads, before a command (whose start is durable before the answer
is given), and the hook after it. Beside it an interpreter that does nothing, and the client alone as far as
it can get without a store. The last is without a daemon, where the hook does all of it itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from custody.doors.hooks.lines import CLIENT, hook_command
from harness import Measurement, Timing, arguments, interleave, never_refused, report, scratch, settle

HOOK_MS_MAX = 100.0
CLIENT_MS_MAX = 80.0
ROW = 20
SOURCE = os.fspath(Path(CLIENT).parents[3])


@contextmanager
def daemon(folder: Path, environment: dict[str, str]) -> Generator[None]:
    options = ["--listen", "127.0.0.1:0", "--socket", os.fspath(folder / "serve.sock"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "custody", "serve", *options],
        stdout=subprocess.PIPE,
        env=environment,
        cwd=folder,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


class Hook:
    """One hook of one CLI, as its settings have it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._number = 0

    def __call__(self, event: str, tool: str, tool_input: dict[str, Any]) -> None:
        self._number += 1
        told = {
            "session_id": "benchmark",
            "cwd": os.fspath(self._folder),
            "hook_event_name": event,
            "tool_name": tool,
            "tool_input": tool_input,
            "tool_use_id": f"{event}{self._number}",
            "tool_response": {"stdout": "done"},
        }
        done = subprocess.run(
            ["/bin/sh", "-c", hook_command("claude-code", event)],
            input=json.dumps(told).encode(),
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
        )
        if done.returncode:
            sys.exit(f"{event}: {done.stderr.decode(errors='replace')}")


def ways(folder: Path, hook: Hook) -> dict[str, Callable[[], object]]:
    client = [sys.executable, "-I", "-S", CLIENT, "--none"]
    return {
        "before a tool that reads": lambda: hook("PreToolUse", "Glob", {"pattern": "*.py"}),
        "before a command": lambda: hook("PreToolUse", "Bash", {"command": "make test"}),
        "after a tool": lambda: hook("PostToolUse", "Glob", {"pattern": "*.py"}),
        "the client alone": lambda: subprocess.run(client, cwd=folder, capture_output=True),
        "python -I -S -c pass": lambda: subprocess.run(
            [sys.executable, "-I", "-S", "-c", "pass"], check=True
        ),
    }


def measured(folder: Path, calls: int) -> dict[str, Timing]:
    never_refused(folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"CUSTODY_STORE": os.fspath(folder / "store"), "PYTHONPATH": SOURCE}
    hook = Hook(folder, environment)
    with daemon(folder, environment):
        with_daemon = ways(folder, hook)
        for way in with_daemon.values():
            way()
        settle()
        timings = interleave(with_daemon, rounds=max(2, calls // 5), calls=5)
    taken: list[int] = []
    for _ in range(max(3, calls // 10)):
        began_ns = time.perf_counter_ns()
        hook("PreToolUse", "Glob", {"pattern": "*.py"})
        taken.append(time.perf_counter_ns() - began_ns)
    return {**timings, "without a daemon": Timing.of(taken)}


def main() -> None:
    options = arguments(__doc__, calls=(60, "hooks of each kind"))
    calls = max(10, options.calls // (10 if options.quick else 1))
    with scratch() as folder:
        timings = measured(folder, calls)
    bare_ms = timings["python -I -S -c pass"].p50_us / 1e3
    limits = {
        "before a tool that reads": HOOK_MS_MAX,
        "before a command": HOOK_MS_MAX,
        "after a tool": HOOK_MS_MAX,
        "the client alone": CLIENT_MS_MAX,
    }
    measurements = [
        Measurement(
            row=ROW,
            what=f"hook {name}, as a whole line of a CLI's settings, p50",
            value=timings[name].p50_us / 1e3,
            unit="ms",
            target=f"≤ {limit_ms:.0f} ms",
            limit=limit_ms,
            peers={"python3 -I -S -c pass": bare_ms},
        )
        for name, limit_ms in limits.items()
    ]
    report("hook", measurements, timings, quick=options.quick)


if __name__ == "__main__":
    main()
