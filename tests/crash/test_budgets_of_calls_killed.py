"""64 callers in four processes call tools under a policy with a budget, and one of these is killed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import eventually

from custody.journal import Journal
from custody.journal.disk import RealDisk
from custody.records import Kind

pytestmark = pytest.mark.long

CALLS = 300
CALLERS = 16
SECONDS_MAX = 60
KILLED_AFTER = 20

POLICY = f"""
[breaker]
memory_percent_max = 100
cpu_pressure_percent_max = 100
disk_free_percent_min = 0
disk_free_bytes_min = 0
zombies_max = 1_000_000
[policy.budgets.store]
calls = {CALLS}
"""

WORKER = """
import asyncio, os, sys
import custody
from custody.compose import open_runtime
from custody.settings import load_settings

@custody.tool(effect="write")
async def note(number: int) -> int:
    os.write(1, b"ran\\n")
    return number

async def work(runtime, number):
    made = 0
    while True:
        # However long it waits for those it competes with.
        call = await runtime.call("note", {"number": made * 100 + number}, timeout=0)
        if call.outcome != "succeeded":
            assert call.outcome == "rejected" and call.decision.by == "budget", call
            return
        made += 1

async def main():
    settings = load_settings(store=sys.argv[1])
    async with await open_runtime(settings, tools=(note,)) as runtime:
        os.write(1, b"ready\\n")
        sys.stdin.buffer.readline()
        async with asyncio.TaskGroup() as group:
            for number in range(int(sys.argv[2])):
                group.create_task(work(runtime, number))

asyncio.run(main())
"""

Begin = Callable[..., list["Worker"]]


class Worker:
    """A process whose callers begin when they are told."""

    def __init__(self, folder: Path, output: Path, environment: dict[str, str]) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(folder / "store"), str(CALLERS)],
                stdin=subprocess.PIPE, stdout=file, cwd=folder, env=environment,
            )  # fmt: skip

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def ran(self) -> int:
        """How many calls ran so far."""
        return self.output.read_bytes().count(b"ran\n")

    def end(self) -> int:
        """Wait for its end; how many ran."""
        assert self.process.wait(SECONDS_MAX) == 0
        return self.ran()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    begun: list[Worker] = []
    settings = tmp_path / "config" / "custody" / "custody.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(POLICY, encoding="utf-8")
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }

    def make(number: int, ahead: int = 0) -> list[Worker]:
        """So many processes, all of which are ready before any is told to go; the first gets so many calls
        before the others begin, for the lock they fight for is not fair."""
        made = [
            Worker(tmp_path, tmp_path / f"out-{len(begun) + each}", environment) for each in range(number)
        ]
        begun.extend(made)
        eventually(lambda: all(b"ready" in each.output.read_bytes() for each in made), SECONDS_MAX)
        first, *others = made
        first.go()
        eventually(lambda: first.ran() >= ahead, SECONDS_MAX)
        for each in others:
            each.go()
        return made

    yield make
    for each in begun:
        each.close()


def started(folder: Path) -> int:
    journal = Journal(RealDisk(str(folder / "store")))
    return sum(stored.kind == Kind.CALL_STARTED for stored in journal.follow())


def test_callers_in_four_processes_get_exactly_the_calls_there_are(begin: Begin, tmp_path: Path):
    assert sum(each.end() for each in begin(4)) == CALLS
    assert started(tmp_path) == CALLS
    assert begin(1)[0].end() == 0, "nor is there more after a restart"


def test_a_killed_process_gives_back_what_it_had_not_started_and_no_more(begin: Begin, tmp_path: Path):
    doomed, *others = begin(4, KILLED_AFTER)
    eventually(lambda: any(each.ran() for each in others) or doomed.process.poll() is not None, SECONDS_MAX)
    doomed.process.kill()
    doomed.process.wait()
    survived = sum(each.end() for each in others)
    last = begin(1)[0].end()

    assert started(tmp_path) == CALLS, "what the dead had reserved is there for others, once"
    # Of the dead, calls may be on the record that had not begun.
    assert CALLS - CALLERS <= doomed.ran() + survived + last <= CALLS
