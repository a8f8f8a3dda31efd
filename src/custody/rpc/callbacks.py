"""A tool that runs at the peer: Custody checks and records the call, the peer does the work.

Owns the request `tools.execute`, its deadline and its cancellation. Knows nothing of proposals beyond the
names an `Origin` brings. Made by `tools.register`.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from custody.errors import PeerLost, ToolError
from custody.records import Decision, Effect, Level
from custody.rpc import jsonrpc
from custody.rpc.description import Push
from custody.rpc.errors import RemoteError
from custody.rpc.peer import Expected, Peer
from custody.tools import Context, Ended, Scope
from custody.tools.tool import Keep

TOOL_SECONDS = 300.0
"""For a call whose action says nothing: that of the reference."""

TIMEOUT_SECONDS_MAX = 1e9
"""What a peer is told of a longer deadline: its clock need not hold it."""

CANCEL_SECONDS = 1.0
"""How long telling the peer that a call was given up may hold its end back."""


class Execute(Struct, frozen=True, gc=False):
    """Params of `tools.execute`. The peer correlates by `request_id`: authors use action ids again."""

    action_id: str
    tool: str
    parameters: Mapping[str, Any]
    attempt: int
    """1-based."""
    request_id: str
    """The id of this very request."""
    timeout_ms: int | UnsetType = UNSET
    """How long this side waits."""
    session_id: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    """The run it is made in."""


class Cancel(Struct, frozen=True, gc=False):
    """Params of `tools.cancel`."""

    request_id: str
    action_id: str
    reason: str


class ClientTool:
    """One of a peer's own tools."""

    effect: Effect = "unknown"
    level: Level = "none"
    timeout_seconds: float | None = TOOL_SECONDS
    keep: Keep = "full"

    def __init__(
        self, peer: Peer, name: str, *, description: str = "", schema: Mapping[str, Any] | None = None
    ) -> None:
        self._peer = peer
        self.name = name
        self.description = description
        self.schema: Mapping[str, Any] = {} if schema is None else schema

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        del arguments, scope
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        """Ask the peer and wait, within the call's deadline and until it is cancelled."""
        began_ns = time.monotonic_ns()
        if context.dry_run:
            return _ended(began_ns, result={"dry_run": True, "would_call": self.name})
        peer, told = self._peer, context.origin.told
        try:
            expected = peer.expect()
        except PeerLost as error:
            return _ended(began_ns, error=error)
        said = self._said(expected, arguments, context)
        told["request_id"] = expected.id
        try:
            with peer.deadlines.within(context.remaining_seconds()) as limit:
                context.on_cancel(limit.expire)  # one way out for both
                await peer.send(jsonrpc.request(expected.id, "tools.execute", said))
                result = await expected.answer
        except RemoteError as error:
            return _ended(began_ns, error=_as_told(error, told))
        except PeerLost as error:
            return _ended(began_ns, error=error)
        except TimeoutError:
            ended = _ended(began_ns, limit_hit="cancelled" if context.cancelled else "deadline")
            await self._cancel(said, ended.limit_hit)
            return ended
        finally:
            peer.forget(expected)
        told["answered"] = True
        return _ended(began_ns, result=result)

    def _said(self, expected: Expected, arguments: Mapping[str, Any], context: Context) -> Execute:
        origin, seconds = context.origin, context.timeout_seconds
        return Execute(
            action_id=origin.action_id or context.call_id,
            tool=self.name,
            parameters=arguments,
            attempt=origin.attempt or 1,
            request_id=expected.id,
            timeout_ms=UNSET if seconds is None else round(min(seconds, TIMEOUT_SECONDS_MAX) * 1_000),
            session_id=origin.policy_session or context.asker.session_id or UNSET,
            run_id=context.run_id or UNSET,
        )

    async def _cancel(self, said: Execute, hit: str | None) -> None:
        """Tell the peer to stop: it has a child to kill. It need not listen."""
        reason = "deadline exceeded" if hit == "deadline" else "cancelled"
        with suppress(PeerLost, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._peer.notify("tools.cancel", Cancel(said.request_id, said.action_id, reason))


def _ended(
    began_ns: int,
    *,
    result: Any = None,
    error: BaseException | None = None,
    limit_hit: Literal["deadline", "cancelled"] | None = None,
) -> Ended:
    return Ended(
        started_ns=began_ns, ended_ns=time.monotonic_ns(), result=result, error=error, limit_hit=limit_hit
    )


def _as_told(error: RemoteError, told: dict[str, Any]) -> ToolError:
    told["code"], told["message"] = error.code, error.message
    data: Any = error.data
    if isinstance(data, dict) and data.get("terminal") is True:  # pyright: ignore[reportUnknownMemberType]
        told["terminal"] = True
    if isinstance(data, dict) and isinstance(kind := data.get("type"), str):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return ToolError(error.message, code=error.code, type=kind)  # as our own client tells an exception
    return ToolError(str(error), code=error.code)


PUSHES = (
    Push("tools.execute", Execute, "Run one of the peer's tools.", answered=True),
    Push("tools.cancel", Cancel, "Nobody waits for that answer any more: stop, and kill what was started."),
)
