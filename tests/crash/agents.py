"""An agent that works through a daemon which is killed under it, and says what was acknowledged.

Started by `test_kill_daemon`: connects, starts a run by a key, proposes and records turns, and tells each
thing it has an answer for as a line of JSON. When the connection breaks it comes back, starts its last run
again by its key, then another. It ends when its standard input does.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
from typing import Any

import websockets
from tests.doors.wire import Refused, Wire, action, connected, submit

BACK_SECONDS = 0.02  # between two tries to connect
BATCH_MAX = 8
COMPLETES_ONE_IN = 12


class Agent:
    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.chance = random.Random(name)
        self.numbers = itertools.count()
        self.keys = itertools.count()
        self.key: str | None = None
        """Of the run that was under way when the connection broke."""

    async def work(self) -> None:
        """For ever; whatever a broken connection raises begins another."""
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException, TimeoutError):
                async with connected(self.url) as wire:
                    await self.session(wire)
            await asyncio.sleep(BACK_SECONDS)

    async def session(self, wire: Wire) -> None:
        wire.tools["work"] = lambda call: {"mark": call["parameters"]["mark"]}
        await wire.request("tools.register", [{"name": "work"}])
        if self.key is not None:
            started = await self.start(wire, self.key)
            tell("back", run=started)
        while True:
            self.key = f"{self.name}-{next(self.keys)}"
            started = await self.start(wire, self.key)
            assert started == self.key
            tell("started", run=started)
            while self.chance.randrange(COMPLETES_ONE_IN):
                await (self.propose if self.chance.random() < 0.5 else self.narrate)(wire, started)
            await wire.request("runs.complete", {"run_id": started, "outcome": {"status": "success"}})
            tell("completed", run=started)
            self.key = None

    async def start(self, wire: Wire, key: str) -> str:
        asked = {"intent": "survive", "agent_id": self.name, "idempotency_key": key}
        started = await wire.request("runs.start", asked)
        return started["run_id"]

    def mark(self) -> str:
        return f"{self.name}:{next(self.numbers)}"

    async def propose(self, wire: Wire, run: str) -> None:
        marks = [self.mark() for _ in range(self.chance.randint(1, 3))]
        result = await submit(wire, *(action("work", {"mark": mark}) for mark in marks))
        assert [each["output"]["mark"] for each in result["results"]] == marks
        for mark in marks:
            tell("turn", run=run, mark=mark, index=None)

    async def narrate(self, wire: Wire, run: str) -> None:
        marks = [self.mark() for _ in range(self.chance.randint(1, BATCH_MAX))]
        batch = [{"tool": "told", "parameters": {"mark": mark}} for mark in marks]
        said = await wire.request("runs.record_turns", {"run_id": run, "turns": batch})
        assert said["ok"], said
        for index, mark in enumerate(marks, said["base_index"]):
            tell("turn", run=run, mark=mark, index=index)


def tell(what: str, **more: Any) -> None:
    os.write(1, json.dumps({"what": what, **more}).encode() + b"\n")


async def until_told_to_end(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    working = asyncio.create_task(agent.work())
    await asyncio.wait({working, asyncio.ensure_future(ended.wait())}, return_when=asyncio.FIRST_COMPLETED)
    loop.remove_reader(0)
    while not working.done():  # a connection that breaks while it is closed takes a cancellation's place
        working.cancel()
        await asyncio.wait({working}, timeout=1.0)
    with contextlib.suppress(asyncio.CancelledError):
        await working


if __name__ == "__main__":
    try:
        asyncio.run(until_told_to_end(Agent(sys.argv[1], sys.argv[2])))
    except Refused as refused:
        tell("refused", message=str(refused))
        raise
