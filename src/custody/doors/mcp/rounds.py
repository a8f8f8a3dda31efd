"""Questions to a client of the newest version, which takes no request: its own is answered with what is
required of it, and comes again with that.

Owns the calls that wait between two requests of a client: whose they are, how many, and for how long. Knows
nothing of what is asked. Used by `server`.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from custody.calls.uncut import until_done
from custody.doors.mcp.asking import FORM
from custody.doors.mcp.caller import Caller
from custody.rpc.access import Access

ROUNDS_MAX = 8
"""Of one request; clients go along with ten. What asks later is asked in other ways."""

WAITING_MAX = 64
"""As many calls as may wait for people; each holds its arguments and, once it has ended, its result."""

WAITING_OF_ONE_MAX = 16
"""Of them, of one token: who asks and never comes again leaves room for the others."""

WAITING_SECONDS = 600.0
"""How long a client has to come again: a person looks something up. Then its call is ended."""

TOKEN_BYTES = 24

OVER = "Nothing waits under this requestState: make the call again without it."

Answered = types.CallToolResult | types.InputRequiredResult


class Waiting:
    """One tool call over several requests."""

    def __init__(self, access: Access, name: str, arguments: Mapping[str, Any]) -> None:
        self.access = access
        self._bound = access, name, arguments
        self._open: dict[str, tuple[str, asyncio.Future[types.ElicitResult | None]]] = {}
        """By the key under which the client is told of it: the message, and where its answer goes."""
        self._told: set[str] = set()
        self._changed = asyncio.Event()
        self._asked = 0
        self._rounds = 0
        self._work: asyncio.Task[types.CallToolResult] | None = None

    def is_of(self, access: Access, name: str, arguments: Mapping[str, Any]) -> bool:
        """Whether exactly this was asked, by whoever asks it now."""
        return self._bound == (access, name, arguments)

    def begin(self, caller: Caller, work: Coroutine[Any, Any, types.CallToolResult]) -> None:
        """The call goes on while no request of the client is here."""
        self._work = caller.keep(work)

    async def put(self, message: str) -> types.ElicitResult | None:
        """To the client, with what this or its next request is answered with."""
        if self._rounds >= ROUNDS_MAX:
            return None
        self._asked += 1
        key = f"question-{self._asked}"
        said: asyncio.Future[types.ElicitResult | None] = asyncio.get_running_loop().create_future()
        self._open[key] = message, said
        self._changed.set()
        try:
            return await said
        finally:
            del self._open[key]

    def take(self, responses: Mapping[str, Any] | None) -> None:
        """What came back. A question that was told of and is not among it was not answered."""
        for key in self._told:
            _, said = self._open.get(key, ("", None))
            response = None if responses is None else responses.get(key)
            if said is not None and not said.done():
                said.set_result(response if isinstance(response, types.ElicitResult) else None)
        self._told.clear()

    async def next(self) -> Answered:
        """The result, or the questions to be put first. Cancelled meanwhile, the call is ended."""
        assert self._work is not None, "begun before anybody waits"
        while not self._work.done():
            new = {key: message for key, (message, said) in self._open.items() if not said.done()}
            if new:
                return self._required(new)
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait({self._work, changed}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self._work.cancel()
                await until_done(self._work)
                raise
            finally:
                changed.cancel()
        return self._work.result()

    def _required(self, new: Mapping[str, str]) -> types.InputRequiredResult:
        self._rounds += 1
        self._told.update(new)
        forms: dict[str, types.InputRequest] = {
            key: types.ElicitRequest(
                params=types.ElicitRequestFormParams(message=message, requested_schema=FORM)
            )
            for key, message in new.items()
        }
        return types.InputRequiredResult(
            input_requests=forms, request_state=secrets.token_urlsafe(TOKEN_BYTES)
        )

    def leave(self) -> None:
        """The client does not come again."""
        self.take(None)
        if self._work is not None and not self._work.done():
            self._work.cancel()


class Rounds:
    """The calls of one server that wait for their client to come again."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Waiting, asyncio.TimerHandle]] = {}

    async def answered(self, caller: Caller, waiting: Waiting) -> Answered:
        """What a request is answered with: the result, or what is required first."""
        while True:
            try:
                answer = await caller.work(waiting.next())
            except asyncio.CancelledError:
                waiting.leave()
                raise
            if isinstance(answer, types.CallToolResult) or answer.request_state is None:
                return answer
            if self._has_room_for(waiting):
                state, loop = answer.request_state, asyncio.get_running_loop()
                self._waiting[state] = waiting, loop.call_later(WAITING_SECONDS, self._leave, state)
                return answer
            waiting.take(None)

    def _has_room_for(self, waiting: Waiting) -> bool:
        of_one = sum(other.access == waiting.access for other, _ in self._waiting.values())
        return len(self._waiting) < WAITING_MAX and of_one < WAITING_OF_ONE_MAX

    def taken(self, caller: Caller, params: types.CallToolRequestParams) -> Waiting:
        """The call that goes on with this request. Raises MCPError."""
        waiting, later = self._waiting.get(params.request_state or "", (None, None))
        if waiting is None or not waiting.is_of(caller.peer.access, params.name, params.arguments or {}):
            raise MCPError(types.INVALID_PARAMS, OVER)
        del self._waiting[params.request_state or ""]
        if later is not None:
            later.cancel()
        waiting.take(params.input_responses)
        return waiting

    def _leave(self, state: str) -> None:
        waiting, _ = self._waiting.pop(state)
        waiting.leave()
