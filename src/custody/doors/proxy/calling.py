"""The tool calls of a session: each is decided, recorded and sent, and answered once its end is recorded.

Owns what a client gets of a call that its server did not answer (refused, too late, given up, its server
gone), and how a question of a rule comes to the client. Used by `session`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from custody.calls.answers import Prompt
from custody.calls.handle import RunHandle
from custody.calls.runtime import Runtime
from custody.doors.proxy.asking import KEY, Asking, Put, form_request, input_required, own_id, own_state
from custody.doors.proxy.guarded import CALL_SECONDS, ROUND_SECONDS, Offering, ServerTool
from custody.doors.proxy.messages import (
    CONNECTION_CLOSED,
    REQUEST_CANCELLED,
    REQUEST_TIMEOUT,
    Id,
    Message,
    NoMessage,
    error,
    notification,
    refused,
    request,
    result,
    value_of,
)
from custody.doors.proxy.relay import CANCELLED, Relay, ToolCall
from custody.errors import CustodyError
from custody.records import Call, Decision, Effect
from custody.tools import Origin

log = logging.getLogger("custody")

DOOR = "proxy"

SEPARATOR = "__"
"""Between the name of a server and that of its tool, as clients put them together."""

Recording = Callable[[], Awaitable[tuple[Runtime, RunHandle]]]
Reply = Callable[[Id], bytes]
"""The answer to a call, under the id of whichever request it answers in the end."""


class Options(Struct, frozen=True, kw_only=True):
    """What a person says of one server."""

    name: str
    """What its tools are recorded under, and rules name: `NAME__TOOL`."""
    named_already: bool = False
    """Its tools come with the names of their servers in front."""
    where: Any = None
    """Its command, or its address, for the record of the session."""
    agent: str | None = None
    """Who acts; None: what the client calls itself."""
    reads: frozenset[str] = frozenset()
    """Tools that only read, on the word of whoever starts the proxy: a server's own is none."""
    call_seconds: float | None = CALL_SECONDS
    asks: bool = True
    """Whether questions of rules are put to the client."""

    def recorded_name(self, tool: str) -> str:
        return tool if self.named_already else f"{self.name}{SEPARATOR}{tool}"

    def effect(self, tool: str) -> Effect:
        return "read" if tool in self.reads else "unknown"


class Objecting(Protocol):
    """Whose guard is asked of each call beside the rules."""

    async def ready(self) -> None:
        """What it has to know is known. Raises CustodyError."""
        ...

    def guard(self, tool: str) -> Callable[[Any], Decision | None]: ...


class Calling:
    """Of one session."""

    def __init__(
        self, options: Options, relay: Relay, objecting: Objecting, recording: Recording, *,
        to_client: Callable[[bytes], None], to_server: Callable[[bytes], None],
    ) -> None:  # fmt: skip
        self._options = options
        self._relay = relay
        self._objecting = objecting
        self._recording = recording
        self._to_client = to_client
        self._to_server = to_server
        self._tools: dict[ToolCall, ServerTool] = {}
        self._work: dict[ToolCall, asyncio.Task[None]] = {}
        self._asking: Asking | None = None
        self._questions: dict[Id | ToolCall, asyncio.Future[Any]] = {}
        """Of ours at the client: by the id of our request, in the newest version by the call."""
        self._replies: dict[ToolCall, Reply] = {}
        """For clients that have to come again to have them."""
        self._held: set[ToolCall] = set()
        """May happen; its client has to come again first."""
        self._gone: str | None = None

    # -- one call -----------------------------------------------------------------------------------------

    def begin(self, call: ToolCall) -> None:
        """Decide about a call, and have it made."""
        task = self._work[call] = asyncio.create_task(self._make(call))
        task.add_done_callback(lambda _: self._over(call))

    async def _make(self, call: ToolCall) -> None:
        name = self._options.recorded_name(call.name)
        tool = ServerTool(
            name, self._options.effect(call.name), self._options.call_seconds, lambda: self._send(call)
        )
        self._tools[call] = tool
        try:
            runtime, run = await self._recording()
            await self._objecting.ready()
            made = await runtime.call(
                name,
                call.arguments,
                run=run,
                external_id=str(call.id),
                origin=Origin(
                    door=DOOR,
                    tools=Offering(tool, runtime.tools),
                    guards=(self._objecting.guard(call.name),),
                ),
                prompt=self._prompt(call, runtime),
            )
        except CustodyError as wrong:
            # What was not recorded did not happen, or its answer is withheld.
            why = wrong.message if wrong.hint is None else f"{wrong.message} {wrong.hint}"
            self._reply(call, lambda identity: refused(identity, why, modern=call.modern))
        except Exception:  # a defect of ours: no answer would leave the client waiting
            log.exception("A tool call through the proxy failed")
            why = "The proxy failed on this call; its record says how far it came."
            self._reply(call, lambda identity: refused(identity, why, modern=call.modern))
        else:
            self._tell(call, tool, made)

    def _send(self, call: ToolCall) -> None:
        if self._gone is not None:
            self._tools[call].settle("lost", self._gone)
        elif not self._relay.has(call):  # its id may be another's by now
            self._tools[call].settle("cancelled")
        elif call.asks:
            self._held.add(call)
        else:
            self._to_server(self._relay.forwarded(call))

    def _tell(self, call: ToolCall, tool: ServerTool, made: Call) -> None:
        """Its end is on the record: now the client has it."""
        if tool.how == "answered":
            self._to_client(tool.line)
        elif made.outcome == "rejected":
            why = f"{made.tool} was refused by {made.decision.by}: {made.reason} (call {made.id})"
            self._reply(call, lambda identity: refused(identity, why, modern=call.modern))
        elif tool.how == "lost":
            why = f"{tool.reason} What became of the call is not known. (call {made.id})"
            self._reply(call, lambda identity: error(identity, CONNECTION_CLOSED, why))
        else:
            self._no_answer(call, made)

    def _no_answer(self, call: ToolCall, made: Call) -> None:
        why = f"{made.tool} {made.reason or made.outcome} (call {made.id})"
        if call.sent:
            said = {"requestId": call.id, "reason": made.reason or "given up"}
            self._to_server(notification(CANCELLED, said))
        code = REQUEST_TIMEOUT if made.outcome == "timed_out" else REQUEST_CANCELLED
        self._reply(call, lambda identity: error(identity, code, why))

    def _reply(self, call: ToolCall, reply: Reply) -> None:
        if call.asks and call.state is not None:  # it has to come again to be answered
            self._replies[call] = reply
            asyncio.get_running_loop().call_later(ROUND_SECONDS, self._leave, call)
            return
        self._relay.forget(call)
        self._to_client(reply(call.id))

    def _over(self, call: ToolCall) -> None:
        self._work.pop(call, None)
        self._tools.pop(call, None)
        self._held.discard(call)
        if call not in self._replies:
            self._relay.forget(call)

    def _leave(self, call: ToolCall) -> None:
        if self._replies.pop(call, None) is not None:
            self._relay.forget(call)

    # -- what comes of it ---------------------------------------------------------------------------------

    def ended(self, call: ToolCall, message: Message, line: bytes) -> None:
        """Its server has answered it."""
        tool = self._tools.get(call)
        if tool is not None:
            tool.answered(message, line)

    def waits(self, call: ToolCall) -> None:
        """Its client is asked something by the server first: that is not the call's time."""
        if call in self._tools:
            self._tools[call].within(ROUND_SECONDS)

    def goes_on(self, call: ToolCall) -> None:
        """Its next round is with the server."""
        if call in self._tools:
            self._tools[call].within(self._options.call_seconds)

    def given_up(self, call: ToolCall) -> None:
        """Its client does not want it any more, and waits for no answer."""
        task = self._work.get(call)
        if task is not None:
            task.cancel()

    def told(self, call: ToolCall, responses: Mapping[str, Any]) -> None:
        """The client has come again with what was said to a question of ours."""
        reply = self._replies.pop(call, None)
        if reply is not None:
            self._relay.forget(call)
            self._to_client(reply(call.id))
            return
        question = self._questions.get(call)
        if question is not None and not question.done():
            question.set_result(responses.get(KEY))
        if call in self._held:
            self._held.discard(call)
            self._send(call)

    def heard(self, identity: Id, message: Message) -> None:
        """The client has answered a request of ours."""
        question = self._questions.get(identity)
        if question is None or question.done():
            return
        try:
            question.set_result(value_of(message.result))
        except NoMessage:
            question.set_result(None)

    def lost(self, call: ToolCall, why: str) -> None:
        """Nobody will answer it."""
        if call in self._tools:
            self._tools[call].settle("lost", why)

    def server_gone(self, why: str) -> None:
        """Nobody answers any more."""
        self._gone = why
        for tool in self._tools.values():
            if tool.began:
                tool.settle("lost", why)

    async def close(self, seconds: float) -> None:
        """The client is gone: what is under way is ended, and recorded."""
        for task in self._work.values():
            task.cancel()
        if self._work:
            await asyncio.wait(self._work.values(), timeout=seconds)

    # -- questions ----------------------------------------------------------------------------------------

    def _prompt(self, call: ToolCall, runtime: Runtime) -> Prompt | None:
        if not (self._options.asks and call.forms):
            return None
        if self._asking is None:
            self._asking = Asking(runtime, lambda: self._relay.client.name)
        put = self._by_coming_again(call) if call.modern else self._by_request()
        return self._asking.prompt_by(put)

    def _by_request(self) -> Put:
        async def put(message: str, form: Mapping[str, Any]) -> Any:
            identity = own_id()
            answered = self._questions[identity] = asyncio.get_running_loop().create_future()
            self._relay.ask(identity)
            said = form_request(message, form, modern=False)
            self._to_client(request(identity, "elicitation/create", said))
            try:
                return await answered
            except asyncio.CancelledError:
                gone = {"requestId": identity, "reason": "it has been answered elsewhere, or not in time"}
                self._to_client(notification(CANCELLED, gone))
                raise
            finally:
                self._relay.unask(identity)
                del self._questions[identity]

        return put

    def _by_coming_again(self, call: ToolCall) -> Put:
        async def put(message: str, form: Mapping[str, Any]) -> Any:
            state = own_state()
            answered = self._questions[call] = asyncio.get_running_loop().create_future()
            self._to_client(result(call.id, input_required(message, form, state)))
            crowded_out = self._relay.ask_again(call, state)
            if crowded_out is not None:
                self.given_up(crowded_out)
            try:
                return await answered
            finally:
                del self._questions[call]

        return put
