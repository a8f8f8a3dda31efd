"""Commands of `custody` that the demo has run, each in a process of its own, and how it waits for others.

Owns how they are started, bounded and killed. Used by the chapters of the demo.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMAND_SECONDS = 60
WAIT_SECONDS = 10.0  # a claim about another process is given so long to become true


def run_custody(*arguments: str, store: Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command to its end, with what it wrote."""
    return subprocess.run(
        _command(arguments),
        check=False,
        cwd=cwd,
        env={**os.environ, "CUSTODY_STORE": str(store)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )


def kill_custody(*arguments: str, store: Path, cwd: Path, once: Callable[[], bool]) -> None:
    """Start a command and kill it with SIGKILL once something is so."""
    working = subprocess.Popen(
        _command(arguments),
        cwd=cwd,
        env={**os.environ, "CUSTODY_STORE": str(store)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(once)
    finally:
        working.send_signal(signal.SIGKILL)
        working.wait()


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "custody", *arguments]


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition becomes true in time."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
