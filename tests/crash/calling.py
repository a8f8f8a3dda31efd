"""A program that makes calls until it is killed, and tells at once what it knows of each.

Each message on standard output is one `Told` as a line: smaller than a pipe's atomic write, so that a kill
leaves whole lines only.
"""

import asyncio
import hashlib
import os
import random
import select
import sys
from typing import Any, Literal

import msgspec
from msgspec import Struct

import custody

CALLS_MAX = 12  # of one task in a run, so that there are runs that are finished before a kill
HANGING_MAX = 8  # calls that hang, far below what a runtime runs at once
LARGE_BYTES = 20_000
"""Of a result that is kept as a blob."""


class Told(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message. `id` is a run's in the first two kinds after `opening`, else a call's."""

    what: Literal["opening", "run_started", "run_finished", "begun", "returned"]
    id: str = ""
    tool: str | None = None
    effect: str | None = None
    run_id: str | None = None
    position: int | None = None
    outcome: str | None = None
    result: str | None = None
    """Its digest."""


def tell(told: Told) -> None:
    line = msgspec.json.encode(told) + b"\n"
    assert len(line) <= select.PIPE_BUF
    os.write(1, line)


def digest(result: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(result, order="sorted")).hexdigest()


# -- tools: each tells that it has begun, which is after its start is on the record ------------------------


def begun(context: custody.Context, tool: str) -> None:
    tell(Told(what="begun", id=context.call_id, tool=tool, run_id=context.run_id))


@custody.tool(effect="read")
async def look(context: custody.Context, text: str) -> dict[str, Any]:
    begun(context, "look")
    return {"seen": text}


@custody.tool(effect="write")
async def store(context: custody.Context, text: str) -> dict[str, Any]:
    begun(context, "store")
    await asyncio.sleep(0)
    return {"stored": len(text), "text": text[::-1]}


@custody.tool(effect="write")
def store_in_thread(context: custody.Context, text: str) -> dict[str, Any]:
    begun(context, "store_in_thread")
    return {"stored": len(text)}


@custody.tool(effect="read")
async def look_at_much(context: custody.Context, text: str) -> str:
    begun(context, "look_at_much")
    return (text * LARGE_BYTES)[:LARGE_BYTES]


@custody.tool(effect="read")
async def fail(context: custody.Context, text: str) -> None:
    begun(context, "fail")
    raise ValueError(text)


@custody.tool(effect="read")
async def hang_reading(context: custody.Context, text: str) -> None:
    begun(context, "hang_reading")
    await asyncio.Event().wait()


@custody.tool(effect="write")
async def hang_writing(context: custody.Context, text: str) -> None:
    begun(context, "hang_writing")
    await asyncio.Event().wait()


QUICK = (look, store, store_in_thread, look_at_much, fail)
SHARES = (45, 40, 8, 1, 6)
HANGING = (hang_reading, hang_writing)


# -- the caller --------------------------------------------------------------------------------------------


class Caller:
    """Makes calls in one runtime from several tasks, for ever. Each task has its own random numbers."""

    def __init__(self, runtime: custody.Runtime, seed: str) -> None:
        self.runtime = runtime
        self.seed = seed
        self.hanging = 0

    async def work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(self.alone(random.Random(f"{self.seed} alone {number}")))
            for number in range(3):
                group.create_task(self.in_runs(random.Random(f"{self.seed} runs {number}"), number == 0))

    async def alone(self, chance: random.Random) -> None:
        """Calls outside runs, and beside them now and then one that hangs."""
        async with asyncio.TaskGroup() as group:
            while True:
                for _ in range(chance.randrange(60)):
                    await self.call(chance, None)
                group.create_task(self.hang(chance, None))

    async def in_runs(self, chance: random.Random, shared: bool) -> None:
        """One run after the other, with three tasks that call in it; a call that hangs keeps one open."""
        while True:
            async with self.runtime.run("a job", agent="caller", shared=shared) as run:
                tell(Told(what="run_started", id=run.id))
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(self.some(chance, run, chance.randrange(CALLS_MAX)))
            tell(Told(what="run_finished", id=run.id, outcome=run.outcome))

    async def some(self, chance: random.Random, run: Any, calls: int) -> None:
        for _ in range(calls):
            await self.call(chance, run)
        if chance.random() < 0.1:
            await self.hang(chance, run)

    async def call(self, chance: random.Random, run: Any) -> None:
        (tool,) = chance.choices(QUICK, SHARES)
        text = chance.randbytes(chance.choice((2, 20, 200, 600))).hex()
        arguments = {"text": text} if chance.random() < 0.95 else {"text": len(text)}
        call = await self.runtime.call(tool, arguments, run=run)
        tell(
            Told(
                what="returned",
                id=call.id,
                tool=call.tool,
                effect=call.effect,
                run_id=call.run_id,
                position=call.position,
                outcome=call.outcome,
                result=digest(call.result),
            )
        )

    async def hang(self, chance: random.Random, run: Any) -> None:
        if self.hanging == HANGING_MAX:
            return
        self.hanging += 1
        await self.runtime.call(chance.choice(HANGING), {"text": "for ever"}, timeout=0, run=run)
        raise AssertionError("a call that hangs has returned")


async def main(folder: str, seed: str) -> None:
    tell(Told(what="opening"))
    async with custody.open(folder) as runtime:
        await Caller(runtime, seed).work()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
