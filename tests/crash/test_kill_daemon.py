"""A daemon is killed under the agents it serves: what it acknowledged is there when it is back, as they are.

Agents are processes of their own (`agents`). Which things were acknowledged is what they told before they
heard that the connection broke; what became of them is what the next daemon answers.
"""

import asyncio
import contextlib
import json
import os
import queue
import random
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.crash import agents
from tests.doors.daemons import Daemon, held_address
from tests.doors.wire import Wire, connected, trace, turns

AGENTS = 4
TOLD_SECONDS = 60.0  # for what a busy machine does within a second
END_SECONDS = 30.0
ROOT = Path(__file__).resolve().parents[2]


class AgentProcess:
    """One agent and what it told, in order."""

    def __init__(self, url: str, name: str, told: "queue.SimpleQueue[tuple[str, dict[str, Any]]]") -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, agents.__file__, url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        )
        self._told = told
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._told.put((self.name, json.loads(line)))
        self._told.put((self.name, {"what": "ended"}))

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self._reading.join()
            self.process.stdout.close()


@dataclass
class Acknowledged:
    """What agents had an answer for: run -> mark -> the index they were told, or None."""

    turns: defaultdict[str, dict[str, int | None]] = field(default_factory=lambda: defaultdict(dict))
    started: dict[str, str] = field(default_factory=dict[str, str])
    """Run -> agent."""
    completed: set[str] = field(default_factory=set[str])
    came_back: int = 0

    def note(self, agent: str, said: dict[str, Any]) -> None:
        what = said["what"]
        if what == "turn":
            self.turns[said["run"]][said["mark"]] = said["index"]
        elif what == "completed":
            self.completed.add(said["run"])
        elif what == "back":
            self.started.setdefault(said["run"], agent)
            self.came_back += 1
        else:
            assert what == "started", said
            assert self.started.setdefault(said["run"], agent) == agent


class Lane:
    """One store, its daemon, and the agents."""

    def __init__(self, folder: Path) -> None:
        self.daemon = Daemon(folder, "--no-auth")
        self.chance = random.Random(1)
        self.acknowledged = Acknowledged()
        self.told: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()

    def kill(self, times: int) -> None:
        with held_address() as address:  # nobody else is given it while no daemon has it
            self._kill(times, address)

    def _kill(self, times: int, address: str) -> None:
        self.daemon.start(address)
        working = [AgentProcess(self.daemon.url, f"agent{number}", self.told) for number in range(AGENTS)]
        try:
            for _ in range(times):
                self._take(self.chance.randrange(1, 60))
                self.daemon.kill()
                self.daemon.start(address)
                self._note_told()
            self._take(1)
        finally:
            with contextlib.ExitStack() as ending:
                for agent in working:
                    ending.callback(agent.end)
        self._note_told(all_ended=True)

    def _note_told(self, all_ended: bool = False) -> None:
        """What agents have told so far: of the time before a kill, when it is done right after it."""
        while not self.told.empty():
            name, said = self.told.get()
            if not (all_ended and said["what"] == "ended"):
                self.acknowledged.note(name, said)

    def _take(self, more: int) -> None:
        """Until each agent has had an answer since it came back, and together so many more."""
        seen: set[str] = set()
        while more > 0 or len(seen) < AGENTS:
            name, said = self.told.get(timeout=TOLD_SECONDS)
            self.acknowledged.note(name, said)
            if said["what"] != "back":
                seen.add(name)
                more -= 1

    def judge(self) -> None:
        asyncio.run(self._judge())
        assert self.daemon.stop() == 0, self.daemon.complaints()
        self.daemon.is_intact()

    def close(self) -> None:
        if self.daemon.process is not None:
            self.daemon.kill()

    async def _judge(self) -> None:
        for name in sorted({*self.acknowledged.started.values()}):
            async with connected(self.daemon.url) as wire:
                await wire.request("session.auth", {"token": "any", "agent_id": name})
                await self._judge_agent(wire, name)

    async def _judge_agent(self, wire: Wire, name: str) -> None:
        runs = [run for run, agent in self.acknowledged.started.items() if agent == name]
        for run in runs:
            first, *_ = records = await _ended_trace(wire, run)
            assert first["record"] == "started"
            found = turns(records)
            assert [turn["index"] for turn in found] == list(range(len(found)))
            places: dict[str, int] = {}
            for turn in found:
                assert places.setdefault(turn["parameters"]["mark"], turn["index"]) == turn["index"]
            for mark, index in self.acknowledged.turns[run].items():
                assert mark in places, (run, mark)
                assert index is None or places[mark] == index
        listed = await wire.request("runs.list", {"agent_id": name})
        statuses = {run["run_id"]: run["status"] for run in listed["runs"]}
        assert len(statuses) == len(listed["runs"])
        for run in runs:
            may = ("completed",) if run in self.acknowledged.completed else ("incomplete", "completed")
            assert statuses[run] in may, run


async def _ended_trace(wire: Wire, run: str) -> list[dict[str, Any]]:
    """Every record; waits for the end of a run whose agent has just gone."""
    said = await wire.request("runs.subscribe", {"run_id": run})
    if said["status"] == "in_progress":
        ended = (run, "ended")
        while ended != ((event := await wire.heard("runs.trace.event"))["run_id"], event["record"]["record"]):
            pass
    records = await trace(wire, run)
    assert records[-1]["record"] == "ended", run
    return records


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    lane = Lane(tmp_path)
    yield lane
    lane.close()


def test_what_a_killed_daemon_acknowledged_is_there_when_it_is_back(lane: Lane):
    lane.kill(2)
    lane.judge()
    assert lane.acknowledged.came_back >= 1


@pytest.mark.long
def test_fifty_kills_lose_nothing_that_was_acknowledged(lane: Lane):
    lane.kill(50)
    lane.judge()
    assert lane.acknowledged.came_back >= 50
    assert sum(map(len, lane.acknowledged.turns.values())) > 500
