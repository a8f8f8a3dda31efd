"""Progress is told at a pace, and the last of it always."""

import asyncio
from typing import Any

from custody.doors.mcp.progress import Progress


def test_what_is_being_told_when_the_work_ends_arrives():
    async def main() -> list[Any]:
        told: list[Any] = []
        begun, may_go_on = asyncio.Event(), asyncio.Event()

        async def tell(*said: Any) -> None:
            begun.set()
            await may_go_on.wait()
            told.append(said)

        progress = Progress(tell)
        async with progress.telling():
            progress.note(7, 7, "all of it")
            await begun.wait()
            asyncio.get_running_loop().call_soon(may_go_on.set)
        return told

    assert asyncio.run(main()) == [(7, 7, "all of it")]
