"""What the record says of a session beside its calls: an event for each request that is no tool call, for the
end of its server, and for what was not handed on.

Owns the words of those events and how many there may be of one kind. Waits for nothing: an event that cannot
be recorded is counted, and the session goes on. Used by `session`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import asdict

from custody.calls.handle import RunHandle
from custody.calls.runtime import Runtime
from custody.doors.proxy.messages import Message
from custody.doors.proxy.relay import Request
from custody.errors import CustodyError

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection

log = logging.getLogger("custody")

FAULTS_MAX = 100
"""Told of each side, each as an event; further ones are counted and told at the end."""

OF_SERVER_MAX = 10_000
"""Requests of a server that are told in one session; further ones are counted."""

PENDING_MAX = 1_000
"""Events on their way into the record: whoever causes more than are written has them counted."""

NOT_TOLD = frozenset({"ping", "initialize", "notifications/initialized"})
"""Every session has them."""

PARAMETERS_TOLD: Mapping[str, tuple[str, ...]] = {
    "prompts/get": ("name", "arguments"),
    "resources/read": ("uri",),
    "resources/subscribe": ("uri",),
    "resources/unsubscribe": ("uri",),
    "completion/complete": ("ref",),
    "logging/setLevel": ("level",),
    "sampling/createMessage": ("systemPrompt", "messages", "maxTokens", "modelPreferences"),
    "elicitation/create": ("message", "mode", "url"),
}
"""Of a request, what says what it was about."""

ANSWERS_TOLD: Mapping[str, tuple[str, ...]] = {
    "sampling/createMessage": ("model", "stopReason", "content"),
    "elicitation/create": ("action",),
    "roots/list": ("roots",),
}
"""Of an answer of the client, what it gave the server."""

Recording = Callable[[], Awaitable[tuple[Runtime, RunHandle]]]


class Telling:
    """Of one session."""

    def __init__(self, recording: Recording, server: str) -> None:
        """`recording` gives the runtime and the session's run. Raises CustodyError."""
        self._recording = recording
        self._server = server
        self._faults: Counter[str] = Counter()
        self._telling: set[asyncio.Task[None]] = set()
        self._of_server = 0
        self.dropped = 0
        """Events that could not be recorded, or were too many."""

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        """Record one, soon."""
        if len(self._telling) >= PENDING_MAX:
            self.dropped += 1
            return
        task = asyncio.ensure_future(self._record(name, {"server": self._server, **data}))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def connection(self, one: "Connection") -> None:
        """A server behind walls has reached a host, or was refused it."""
        self._of_server += 1
        if self._of_server > OF_SERVER_MAX:
            self.dropped += 1
            return
        said = {name: value for name, value in asdict(one).items() if value is not None}
        allowed = said.pop("verdict") == "allowed"
        self.event("network.connected" if allowed else "network.refused", said)

    def passed(self, request: Request, by_server: bool, answer: Message | None) -> None:
        """A request that is no tool call has had its answer."""
        if request.method in NOT_TOLD:
            return
        self._of_server += by_server
        if by_server and self._of_server > OF_SERVER_MAX:
            self.dropped += 1
            return
        told = PARAMETERS_TOLD.get(request.method, ())
        data: dict[str, Any] = {
            "method": request.method,
            "by": "server" if by_server else "client",
            "asked": {name: request.params[name] for name in told if name in request.params},
            "outcome": "cancelled" if answer is None else "failed" if answer.error else "succeeded",
        }
        if answer is not None and answer.error:
            data["error"] = answer.error
        elif answer is not None and answer.result is not None:
            data["bytes"] = memoryview(answer.result).nbytes
            data |= _answered(request.method, answer) if by_server else {}
        self.event("mcp.request", data)

    def fault(self, by_server: bool, reason: str) -> None:
        """Something was not handed on."""
        by = "server" if by_server else "client"
        self._faults[by] += 1
        if self._faults[by] <= FAULTS_MAX:
            self.event("mcp.fault", {"by": by, "reason": reason})
        if self._faults[by] == 1:
            log.warning("The %s of an MCP session sent what cannot be handed on: %s", by, reason)

    async def finish(self) -> None:
        """Everything that was told is on the record, or counted."""
        for by, count in self._faults.items():
            if count > FAULTS_MAX:
                self.event("mcp.fault", {"by": by, "reason": "further ones", "count": count - FAULTS_MAX})
        while self._telling:
            await asyncio.wait(set(self._telling))
        if self.dropped:
            left_out = {"by": "proxy", "reason": "events that are on no record", "count": self.dropped}
            await self._record("mcp.fault", {"server": self._server, **left_out})
            log.warning("%d events of an MCP session could not be recorded.", self.dropped)

    async def _record(self, name: str, data: Mapping[str, Any]) -> None:
        try:
            runtime, run = await self._recording()
            draft = runtime.ledger.recorder.draft_event(name, data, run_id=run.run_id)
            await runtime.ledger.append(draft)
        except CustodyError:
            self.dropped += 1


def _answered(method: str, answer: Message) -> dict[str, Any]:
    from custody.doors.proxy.messages import NoMessage, value_of

    try:
        said: Any = value_of(answer.result)
    except NoMessage:
        return {}
    named = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    told = {name: named[name] for name in ANSWERS_TOLD.get(method, ()) if name in named}
    return {"answered": told} if told else {}
