"""Disks that are really full, and then are not: the agent is unharmed, and the gap record has the count."""

import asyncio
import os
import subprocess
import sys
from contextlib import suppress

from tests.calls.faces import gaps, of_kind, settle

import custody
from custody.compose import open_runtime
from custody.records import RunStarted
from custody.settings import load_settings

LIMITED = """
import resource, signal, sys
import custody

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

with custody.open(sys.argv[1]) as runtime:
    with runtime.run("fill it up", agent="a") as run:
        run.step("before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        for number in range(200):
            with run.observe("dump", {"n": number}) as call:
                call.result = "x" * 8_000
        runtime._runtime.recording.backlog.drain(40)  # what is still queued is dropped as well
        dropped = run.totals.dropped
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with run.observe("last"):
            pass
        run.finish(output="done")
    print(dropped, run.totals.dropped, run.totals.calls)
"""


def test_files_that_may_not_grow_are_a_full_disk(tmp_path):
    """RLIMIT_FSIZE: real writes that fail with EFBIG, while the agent runs."""
    store = os.fspath(tmp_path / "store")
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, store],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    dropped, all_dropped, calls = map(int, said.stdout.split())
    judge_filled(store, dropped, all_dropped, calls)


def judge_filled(store, dropped, all_dropped, calls):
    async def look():
        async with await open_runtime(load_settings(store=store)) as runtime:
            (run,) = runtime.index.runs().items
            return gaps(runtime), run, of_kind(runtime, RunStarted)

    found, run, starts = asyncio.run(look())
    assert dropped > 0, "it never was full"
    assert sum(gap["count"] for gap in found) == all_dropped == run.totals.dropped
    assert (run.outcome, run.output, run.totals.calls) == ("succeeded", "done", calls)
    assert len(starts) == 1


def fill(ballast):
    """Take all the room there is, by the page."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_tmpfs_that_is_full_and_then_is_not(mounted):
    folder = mounted("tmpfs", "size=3m")
    store = os.fspath(folder / "store")
    ballast = folder / "ballast"
    with custody.open(store) as runtime, runtime.run("fill it up") as run:
        run.step("before")
        fill(ballast)
        for number in range(100):
            with run.observe("dump", {"n": number}) as call:
                call.result = "x" * 8_000
        settle(runtime._runtime)  # what is still queued is dropped as well
        dropped = run.totals.dropped
        ballast.unlink()
        with run.observe("last"):
            pass
        run.finish(output="done")
    judge_filled(store, dropped, run.totals.dropped, run.totals.calls)
