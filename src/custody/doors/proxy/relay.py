"""What becomes of each line between a client and a server: which are handed on, which are a tool call to be
decided about, and what answers what.

Owns which requests are open on either side, the rounds that make up one call in the newest version of the
protocol, and what a client may do at all (its version, its forms). Decides and sends nothing: it says what is
to be done, in order, and `session` does it. Pure; has no clock. Used by `session`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from custody.doors.proxy.messages import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    NAME_CHARACTERS_MAX,
    Id,
    Message,
    NoMessage,
    answered_by,
    error,
    in_two_cases,
    is_name,
    misspelt_in,
    read,
    read_strictly,
    without,
)
from custody.policy import json_equal

TOOLS_CALL, TOOLS_LIST = "tools/call", "tools/list"
CANCELLED = "notifications/cancelled"

PARAMETER_NAMES = frozenset({"name", "arguments", "_meta", "inputResponses", "requestState", "task"})
ROUND_NAMES = frozenset({"inputResponses", "requestState"})

META = "io.modelcontextprotocol/"
"""What the newest version puts in front of what each request says of its client."""

OPEN_MAX = 1_024
"""Requests of one side that wait for an answer: a client has a few; each holds its parameters."""

WAITING_MAX = 64
"""Calls between two rounds: each holds its line."""

GIVEN_UP_MAX = 1_024
"""Requests nobody waits for any more, whose answer may still be on its way: their ids are not free again."""


class Request(Struct, kw_only=True):
    """One that waits for its answer, of the client to the server or the other way."""

    id: Id
    method: str
    params: Mapping[str, Any]
    modern: bool = False


class ToolCall(Struct, kw_only=True, eq=False):
    """One logical tool call: in the newest version it may be several requests."""

    id: Id
    """Of the request of the client that is to be answered now."""
    name: str
    arguments: Mapping[str, Any]
    line: bytes
    modern: bool
    forms: bool
    """Whether its client shows forms to a person."""
    task: bool = False
    sent: bool = False
    """The server has it. What answers it before does not answer it."""
    state: str | None = None
    """Under which the client comes again, while it waits for that."""
    asks: bool = False
    """What it waits with is a question of ours, not of the server."""


# -- what is to be done -------------------------------------------------------------------------------------


class ToServer(Struct, frozen=True):
    line: bytes


class ToClient(Struct, frozen=True):
    line: bytes


class Begin(Struct, frozen=True):
    """A tool call: decide, and then it is `forwarded`."""

    call: ToolCall


class Waits(Struct, frozen=True):
    """Its client has been asked something first; its next request goes on with it."""

    call: ToolCall


class GoesOn(Struct, frozen=True):
    """The next round of a call has been sent."""

    call: ToolCall


class Told(Struct, frozen=True):
    """The client has come again with what was said to a question of ours. The call is not with the server."""

    call: ToolCall
    responses: Mapping[str, Any]


class GivenUp(Struct, frozen=True):
    """Its client does not want it any more."""

    call: ToolCall


class Ended(Struct, frozen=True):
    """The server has answered a tool call; the line is the client's once that is on the record."""

    call: ToolCall
    message: Message
    line: bytes


class Listed(Struct, frozen=True):
    """The tools of the server; the line is the client's once it has been looked through."""

    request: Request
    message: Message
    line: bytes


class Passed(Struct, frozen=True):
    """Another request has had its answer; None: it was given up, or its side is gone."""

    request: Request
    by_server: bool
    """The server asked, and the client answered."""
    answer: Message | None


class Heard(Struct, frozen=True):
    """A request of our own has had its answer."""

    id: Id
    message: Message


class Lost(Struct, frozen=True):
    """A call that the server had will not be answered."""

    call: ToolCall
    reason: str


class Faulty(Struct, frozen=True):
    """A line was not handed on."""

    by_server: bool
    reason: str


Step = (
    ToServer | ToClient | Begin | Waits | GoesOn | Told | GivenUp | Ended | Listed | Passed | Heard | Lost
    | Faulty
)  # fmt: skip


class Client(Struct, kw_only=True):
    """What a client has said of itself."""

    name: str = ""
    version: str = ""
    protocol: str = ""
    forms: bool = False


class _Peek(Struct):
    """Of a result, what says whether it is one."""

    resultType: Any = UNSET  # noqa: N815 - the wire's
    requestState: str | UnsetType | None = UNSET  # noqa: N815


_peek = msgspec.json.Decoder(_Peek).decode


class Relay:
    """Between one client and one server."""

    def __init__(self) -> None:
        self.client = Client()
        self._requests: dict[Id, Request] = {}
        """The client's, but for tool calls."""
        self._calls: dict[Id, ToolCall] = {}
        self._waiting: list[ToolCall] = []
        self._given_up: OrderedDict[Id, bool] = OrderedDict()
        """Whether a late answer is handed on: that of a tool call would be on no record."""
        self._asked: dict[Id, Request] = {}
        """The server's."""
        self._own: set[Id] = set()
        self._gone: tuple[int, str] | None = None
        """Code and reason of the error that each request has had since there is no server."""

    # -- of the client ----------------------------------------------------------------------------------

    def from_client(self, line: bytes) -> list[Step]:
        """What to do about a line of the client."""
        try:
            message = read_strictly(line)
            if message.is_answer:
                return self._answer_of_client(message, line)
            if message.id is None:
                return self._notified(message, line)
            return self._asked_by_client(message, message.id, line)
        except NoMessage as wrong:
            return [Faulty(False, str(wrong)), ToClient(error(wrong.id, wrong.code, str(wrong)))]

    def _asked_by_client(self, message: Message, identity: Id, line: bytes) -> list[Step]:
        if identity in self._requests or identity in self._calls:
            raise NoMessage(INVALID_REQUEST, f"A request with the id {identity!r} is open already.")
        if len(self._requests) + len(self._calls) >= OPEN_MAX:
            raise NoMessage(INVALID_REQUEST, f"{OPEN_MAX} requests are open already.", identity)
        if identity in self._given_up:
            why = f"The id {identity!r} was that of a request whose answer may still come."
            raise NoMessage(INVALID_REQUEST, why, identity)
        assert message.method is not None, "a request has one"
        if self._gone is not None:
            return [ToClient(error(identity, *self._gone))]
        modern = self._introduced(message, identity)
        for known in (TOOLS_CALL, TOOLS_LIST):
            if message.method != known and _means(message.method, known):
                raise NoMessage(INVALID_REQUEST, f"{known!r} is spelt otherwise here.", identity)
        if message.method == TOOLS_CALL:
            return self._tool_call(message, identity, line, modern=modern)
        self._requests[identity] = Request(
            id=identity, method=message.method, params=message.said, modern=modern
        )
        return [ToServer(line)]

    def _introduced(self, message: Message, identity: Id) -> bool:
        """Take what it says of its client; whether it is of the newest version."""
        meta = _named(message.said.get("_meta"))
        modern = message.method != "initialize" and f"{META}protocolVersion" in meta
        if modern:
            client = _client(meta, f"{META}clientInfo", f"{META}clientCapabilities", f"{META}protocolVersion")
        elif message.method == "initialize":
            client = _client(message.said, "clientInfo", "capabilities", "protocolVersion")
        else:
            return False
        if max(len(client.name), len(client.version)) > NAME_CHARACTERS_MAX:
            why = f"The name of a client and its version have at most {NAME_CHARACTERS_MAX} characters."
            raise NoMessage(INVALID_PARAMS, why, identity)
        self.client = client
        return modern

    def _tool_call(self, message: Message, identity: Id, line: bytes, *, modern: bool) -> list[Step]:
        said = message.said
        try:
            misspelt_in(said, PARAMETER_NAMES)
        except NoMessage as wrong:
            raise NoMessage(INVALID_PARAMS, str(wrong), identity) from None
        name, arguments = said.get("name"), said.get("arguments")
        if not isinstance(name, str) or not (arguments is None or isinstance(arguments, dict)):
            raise NoMessage(INVALID_PARAMS, "A tool call has a name, and arguments by name.", identity)
        if not is_name(name):
            why = f"The name of a tool has at most {NAME_CHARACTERS_MAX} characters, all of which are seen."
            raise NoMessage(INVALID_PARAMS, why, identity)
        named = _named(arguments)
        twice = in_two_cases(named)
        if twice is not None:
            why = f"{twice[0]!r} and {twice[1]!r} are one name to some readers."
            raise NoMessage(INVALID_PARAMS, why, identity)
        waited = self._coming_again(said, name, named) if ROUND_NAMES & said.keys() else None
        if waited is None:
            call = ToolCall(
                id=identity, name=name, arguments=named, line=line, modern=modern, forms=self.client.forms,
                task="task" in said,
            )  # fmt: skip
            self._calls[identity] = call
            return [Begin(call)]
        waited.id, waited.state = identity, None
        self._calls[identity] = waited
        if not waited.asks:
            return [GoesOn(waited), ToServer(line)]
        waited.asks = False
        waited.line = without(line, ROUND_NAMES, "params")
        return [Told(waited, _named(said.get("inputResponses")))]

    def _coming_again(
        self, said: Mapping[str, Any], name: str, arguments: Mapping[str, Any]
    ) -> ToolCall | None:
        """The call that goes on with this: of the same tool, with the very same arguments. What only looks
        like one is a call of its own."""
        state = said.get("requestState")
        for call in self._waiting:
            same = call.state == state and call.name == name
            if same and json_equal(dict(call.arguments), dict(arguments)):
                self._waiting.remove(call)
                return call
        return None

    def _notified(self, message: Message, line: bytes) -> list[Step]:
        if self._gone is not None:
            return []
        if _means(message.method, TOOLS_CALL):
            raise NoMessage(INVALID_REQUEST, "A tool call is a request, with an id.")
        if message.method != CANCELLED:
            return [ToServer(line)]
        identity = _id(message.said.get("requestId"))
        if identity is None:  # 1.0 is 1 to some readers
            raise NoMessage(INVALID_REQUEST, "What is cancelled has an id that is an integer or a text.")
        call = self._calls.pop(identity, None)
        request = self._requests.pop(identity, None)
        if call is not None:
            if not call.sent:
                return [GivenUp(call)]
            self._give_up(identity, late=False)
            return [ToServer(line), GivenUp(call)]
        if request is not None:
            # A late list would not have been looked through.
            self._give_up(identity, late=request.method != TOOLS_LIST)
            return [ToServer(line), Passed(request, False, None)]
        return [ToServer(line)]

    def _give_up(self, identity: Id, *, late: bool) -> None:
        self._given_up[identity] = late
        if len(self._given_up) > GIVEN_UP_MAX:
            self._given_up.popitem(last=False)

    def _answer_of_client(self, message: Message, line: bytes) -> list[Step]:
        if message.id in self._own:
            self._own.discard(message.id)
            return [Heard(message.id, message)]
        request = None if message.id is None else self._asked.pop(message.id, None)
        if request is None:
            return [Faulty(False, "It answers nothing that the server has asked.")]
        return [ToServer(line), Passed(request, True, message)]

    # -- of the server ----------------------------------------------------------------------------------

    def from_server(self, line: bytes) -> list[Step]:
        """What to do about a line of the server."""
        try:
            message = read(line)
        except NoMessage as wrong:
            # Whoever waits for it would wait until nobody does.
            identity, why = answered_by(line), f"The server gave an answer that cannot be read: {wrong}."
            lost = [] if identity is None else self.lost(identity, CONNECTION_CLOSED, why)
            return [Faulty(True, str(wrong)), *lost]
        if message.is_answer:
            return self._answer_of_server(message, line)
        if message.id is not None:
            return self._asked_by_server(message, message.id, line)
        if message.method == CANCELLED:
            identity = _id(message.said.get("requestId"))
            request = None if identity is None else self._asked.pop(identity, None)
            return [ToClient(line), *([] if request is None else [Passed(request, True, None)])]
        return [ToClient(line)]

    def _asked_by_server(self, message: Message, identity: Id, line: bytes) -> list[Step]:
        assert message.method is not None, "a request has one"
        if identity in self._asked or identity in self._own or len(self._asked) >= OPEN_MAX:
            why = "A request with that id is open already, or too many are."
            return [Faulty(True, why), ToServer(error(identity, INVALID_REQUEST, why))]
        self._asked[identity] = Request(id=identity, method=message.method, params=message.said)
        return [ToClient(line)]

    def _answer_of_server(self, message: Message, line: bytes) -> list[Step]:
        identity = message.id
        if identity is None:
            return [Faulty(True, "An error that answers nothing."), ToClient(line)]
        call = self._calls.get(identity)
        if call is not None and call.sent:
            return self._tool_answered(call, message, line)
        request = self._requests.pop(identity, None)
        if request is not None:
            if request.method == TOOLS_LIST and message.result is not None:
                return [Listed(request, message, line)]
            return [ToClient(line), Passed(request, False, message)]
        late = self._given_up.pop(identity, None)
        if late is not None:
            return [ToClient(line)] if late else [Faulty(True, "It answers what was given up before.")]
        return [Faulty(True, "It answers nothing that is open; or twice.")]

    def _tool_answered(self, call: ToolCall, message: Message, line: bytes) -> list[Step]:
        del self._calls[call.id]
        if message.result is not None and call.modern:
            try:
                said = _peek(message.result)
            except (msgspec.DecodeError, ValueError):
                said = _Peek()
            if said.resultType == "input_required":
                call.state = None if isinstance(said.requestState, UnsetType) else said.requestState
                crowded_out = self._waits(call)
                left: list[Step] = [] if crowded_out is None else [GivenUp(crowded_out)]
                return [*left, ToClient(line), Waits(call)]
        return [Ended(call, message, line)]

    def _waits(self, call: ToolCall) -> ToolCall | None:
        self._waiting.append(call)
        return self._waiting.pop(0) if len(self._waiting) > WAITING_MAX else None

    # -- of ours ----------------------------------------------------------------------------------------

    def has(self, call: ToolCall) -> bool:
        """Whether its client still waits for it."""
        return self._calls.get(call.id) is call or call in self._waiting

    def forwarded(self, call: ToolCall) -> bytes:
        """The line of a call that may happen, for the server."""
        call.sent = True
        return call.line

    def ask_again(self, call: ToolCall, state: str) -> ToolCall | None:
        """Have the client come again with the answer to a question of ours; gives the call that has to be
        given up for it."""
        self._calls.pop(call.id, None)
        call.state, call.asks = state, True
        return self._waits(call)

    def ask(self, identity: Id) -> None:
        """A request of our own is sent to the client."""
        self._own.add(identity)

    def forget(self, call: ToolCall) -> None:
        """Nobody waits for it any more: what the server may still say to it is dropped."""
        if self._calls.get(call.id) is call:
            del self._calls[call.id]
            if call.sent:
                self._give_up(call.id, late=False)
        if call in self._waiting:
            self._waiting.remove(call)

    def unask(self, identity: Id) -> None:
        """Nobody waits for the answer to a request of our own."""
        self._own.discard(identity)

    def lost(self, identity: Id, code: int, reason: str) -> list[Step]:
        """Nobody will answer a request that the server has had."""
        call, request = self._calls.get(identity), self._requests.pop(identity, None)
        if call is not None and call.sent:
            return [Lost(call, reason)]
        if request is None:
            return []
        self._give_up(identity, late=False)
        return [ToClient(error(identity, code, reason)), Passed(request, False, None)]

    def server_gone(self, code: int, reason: str) -> list[Step]:
        """Every request it had is answered with an error; its tool calls are `Lost`. So is every
        request that comes later."""
        self._gone = code, reason
        steps: list[Step] = [Lost(call, reason) for call in self._calls.values() if call.sent]
        for request in self._requests.values():
            steps += [ToClient(error(request.id, code, reason)), Passed(request, False, None)]
        self._requests.clear()
        self._asked.clear()
        return steps


def _client(said: Mapping[str, Any], info: str, capabilities: str, protocol: str) -> Client:
    named, version = _named(said.get(info)), said.get(protocol)
    shows = _named(said.get(capabilities)).get("elicitation")
    name, number = named.get("name"), named.get("version")
    return Client(
        name=name if isinstance(name, str) else "",
        version=number if isinstance(number, str) else "",
        protocol=version if isinstance(version, str) else "",
        # One that names no mode is of a version that had the form alone.
        forms=isinstance(shows, dict) and ("form" in shows or "url" not in shows),
    )


def _named(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _means(method: str | None, known: str) -> bool:
    """Whether a lenient reader may take it for a method."""
    if method is None:
        return False
    seen = method if method.isprintable() else "".join(filter(str.isprintable, method))
    return seen.strip().casefold() == known


def _id(value: Any) -> Id | None:
    return value if type(value) in (int, str) else None
