"""The list of a server's tools on its way to the client: looked through, pinned, cut to what may be called.

Owns that nothing of a list is shown before its pins are on the record, and what is told of it: how many
characters nobody sees, how many secrets were in it. Used by `session`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from custody.calls.handle import RunHandle
from custody.calls.runtime import Runtime
from custody.doors.proxy.calling import DOOR, Options
from custody.doors.proxy.lists import by_name, described, invisible_in, never_allowed, shown, tools_in
from custody.doors.proxy.messages import INTERNAL_ERROR, Message, NoMessage, error, is_name, value_of
from custody.doors.proxy.pins import CHANGED, PINNED, Pins, guard_of, known_pins, said_of_pins
from custody.doors.proxy.relay import Request
from custody.doors.proxy.telling import Telling
from custody.errors import CustodyError
from custody.records import Decision

Recording = Callable[[], Awaitable[tuple[Runtime, RunHandle]]]
Write = Callable[[bytes], None]


class Listing:
    """Of one session."""

    def __init__(self, options: Options, recording: Recording, telling: Telling) -> None:
        self._options = options
        self._recording = recording
        self._telling = telling
        self._reading: asyncio.Task[Pins] | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    def listed(self, request: Request, message: Message, line: bytes, write: Write) -> None:
        """A list has come; `write` gives it to the client once that may be."""
        task = asyncio.create_task(self._look(request, message, line, write))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def close(self) -> None:
        for task in self._work:
            task.cancel()
        if self._work:
            await asyncio.wait(self._work)

    # -- its guard ----------------------------------------------------------------------------------------

    async def ready(self) -> None:
        await self._pins()

    def guard(self, tool: str) -> Callable[[Any], Decision | None]:
        assert self._reading is not None, "it is ready"
        return guard_of(self._reading.result(), tool)

    async def _pins(self) -> Pins:
        if self._reading is None or (self._reading.done() and self._reading.exception() is not None):
            self._reading = asyncio.create_task(self._read())
        return self._reading.result() if self._reading.done() else await asyncio.shield(self._reading)

    async def _read(self) -> Pins:
        runtime, _ = await self._recording()
        known = await asyncio.to_thread(lambda: known_pins(runtime.index, self._options.name))
        return Pins(self._options.name, known)

    # -- one list -----------------------------------------------------------------------------------------

    async def _look(self, request: Request, message: Message, line: bytes, write: Write) -> None:
        try:
            async with self._turn:
                cut = await self._looked(message, line)
        except (NoMessage, CustodyError, ValueError, KeyError, TypeError) as wrong:
            why = f"The tools of {self._options.name!r} cannot be shown: {wrong}"
            self._telling.fault(True, why)
            write(error(request.id, INTERNAL_ERROR, why))
        else:
            write(cut)
            self._telling.passed(request, False, message)

    async def _looked(self, message: Message, line: bytes) -> bytes:
        """The list as the client gets it. Raises CustodyError, NoMessage."""
        listed = by_name(tools_in(value_of(message.result)))
        tools = {name: same for name, same in listed.items() if is_name(name)}
        hidden = [name for name in listed if name not in tools]
        if hidden:
            self._telling.fault(True, f"{len(hidden)} names in its list can be no tool's; they are left out.")
        runtime, run = await self._recording()
        pins = await self._pins()
        first, changed = pins.look(tools)
        recorder = runtime.ledger.recorder
        for said in said_of_pins(pins.server, first):
            await runtime.ledger.append(recorder.draft_event(PINNED, said, leaf_data=True, run_id=run.run_id))
        pins.pinned(first)
        for one in changed:
            told = {
                "tool": one.tool,
                "was": one.was,
                "now": one.now,
                "described": dict(described(tools[one.tool])),
            }
            self._telling.event(CHANGED, told)
        if first or changed:
            self._scan({name: described(tools[name]) for name in (*first, *(one.tool for one in changed))})
        policy, agent = runtime.policy(), run.who.agent
        hidden += [
            name
            for name in tools
            if never_allowed(
                policy, self._options.recorded_name(name), self._options.effect(name), agent, DOOR
            )
        ]
        return shown(line, hidden)

    def _scan(self, tools: Mapping[str, Any]) -> None:
        """What new descriptions hold: as an event, whose own redactions say which secrets were in them."""
        invisible = {name: count for name, tool in tools.items() if (count := invisible_in(dict(tool)))}
        self._telling.event("mcp.described", {"tools": dict(tools), "invisible_characters": invisible})
