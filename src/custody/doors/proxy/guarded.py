"""A tool of a server behind the proxy: Custody checks and records the call, the server does the work.

Owns what the record says of the answer, and the ways a call ends: answered, past its deadline, given up, or
its server gone. Knows nothing of how lines travel. Made by `session`, one for each call.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import msgspec

from custody.calls.lifecycle import judge_result
from custody.doors.proxy.messages import Message
from custody.errors import PeerLost, ToolError
from custody.records import Decision, Effect, Level
from custody.redaction import Mark
from custody.tools import Context, Ended, Registry, Scope, Tool
from custody.tools.schema import ArgumentsSchema
from custody.tools.tool import Keep

CALL_SECONDS = 600.0
"""For a call of which nobody says how long it may take: clients give up before."""

ROUND_SECONDS = 600.0
"""How long a client has to come again: a person looks something up."""

RESULT_BYTES_MAX = 4 * 1024**2
"""Of a result that is read for the record; of a larger one its size and digest are kept."""

REASON_CHARACTERS_MAX = 1_000
"""Of what a server says of a failure: the result itself has all of it."""

How = Literal["answered", "deadline", "cancelled", "lost"]

_ANY_ARGUMENTS = ArgumentsSchema({"type": "object"}, "a tool of a server")
"""What a tool takes its server checks, and says so in its own words."""


class ServerTool:
    """One call of one tool; `settle` it with what became of it."""

    schema: Mapping[str, Any] = {"type": "object"}
    description = ""
    level: Level = "none"
    keep: Keep = "full"

    def __init__(self, name: str, effect: Effect, seconds: float | None, send: Callable[[], None]) -> None:
        """`send` gives the call to its server."""
        self.name = name
        self.effect: Effect = effect
        self.timeout_seconds = seconds
        self.answer: Message | None = None
        self.line = b""
        """The answer, as the client gets it."""
        self.how: How | None = None
        self.began = False
        self._send = send
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self.reason = ""
        """Why it was lost."""

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        del arguments, scope
        return None

    def settle(self, how: How, reason: str = "") -> None:
        """It is over; the first counts."""
        if self.how is None:
            self.how, self.reason = how, reason
            if not self._settled.done():
                self._settled.set_result(None)

    def answered(self, message: Message, line: bytes) -> None:
        if self.how is None:
            self.answer, self.line = message, line
            self.settle("answered")

    def within(self, seconds: float | None) -> None:
        """From now on it has so long; None: for ever."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = (
            None
            if seconds is None
            else asyncio.get_running_loop().call_later(seconds, self.settle, "deadline")
        )

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        """Send it, and wait for what becomes of it."""
        del arguments  # the server has them as they came
        began_ns = time.monotonic_ns()
        self.began = True
        context.on_cancel(lambda: self.settle("cancelled"))
        self.within(context.remaining_seconds())
        if self.how is None:
            self._send()
        try:
            await self._settled
        finally:
            self.within(None)
        return self._ended(began_ns, time.monotonic_ns())

    def _ended(self, began_ns: int, ended_ns: int) -> Ended:
        ended = Ended(started_ns=began_ns, ended_ns=ended_ns, source="observed")
        if self.how == "deadline":
            return msgspec.structs.replace(ended, limit_hit="deadline")
        if self.how == "cancelled":
            return msgspec.structs.replace(ended, limit_hit="cancelled")
        if self.how == "lost":
            return msgspec.structs.replace(ended, error=PeerLost(self.reason))
        assert self.answer is not None, "it was answered"
        result, error = said_of(self.answer)
        return msgspec.structs.replace(ended, result=result, error=error)


class _Marks(msgspec.Struct):
    isError: Any = None  # noqa: N815 - the wire's


def said_of(answer: Message) -> tuple[Any, ToolError | None]:
    """What the record has of an answer, and the failure that it tells of."""
    raw = answer.result
    if raw is None:
        return None, _error_of(answer.error)
    size = memoryview(raw).nbytes
    if size > RESULT_BYTES_MAX:
        digest = hashlib.sha256(raw).hexdigest()
        failed = _is_error(raw)
        error = ToolError("The result says that it is an error.") if failed else None
        return Mark({"$omitted": True, "bytes": size, "sha256": digest}), error
    try:
        result = msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        try:
            result = json.loads(bytes(raw))  # it takes half a character
        except (ValueError, RecursionError):  # the client has it as it is
            return Mark({"$omitted": True, "bytes": size}), None
    return result, _failure_in(result)


def _is_error(raw: msgspec.Raw) -> bool:
    try:
        return msgspec.json.decode(raw, type=_Marks).isError is True
    except (msgspec.DecodeError, ValueError):
        return False


def _failure_in(result: Any) -> ToolError | None:
    """What a result says of itself: that it is an error, or its structured content does."""
    if not isinstance(result, dict):
        return None
    said = cast("dict[str, Any]", result)
    if said.get("isError") is True:
        return ToolError(_text_of(said.get("content")) or "The result says that it is an error.")
    judged = judge_result(said.get("structuredContent"))
    return ToolError(judged.reason or judged.outcome) if judged.outcome != "succeeded" else None


def _text_of(content: Any) -> str:
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    texts = [cast("dict[str, Any]", part).get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))[:REASON_CHARACTERS_MAX]


def _error_of(error: Any) -> ToolError:
    said = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    message = str(said.get("message", ""))[:REASON_CHARACTERS_MAX]
    return ToolError(f"The server answered with error {said.get('code')}: {message}")


class Offering:
    """The one tool of one call, where the call looks for it."""

    def __init__(self, tool: ServerTool, registry: Registry) -> None:
        self._tool = tool
        self._registry = registry

    def get(self, name: str) -> Tool | None:
        return self._tool if name == self._tool.name else None

    def schema(self, name: str) -> ArgumentsSchema:
        del name
        return _ANY_ARGUMENTS

    def nearest(self, name: str) -> list[str]:
        del name
        return [self._tool.name]

    def keep(self, tool: Tool) -> Keep:
        return self._registry.keep(tool)
