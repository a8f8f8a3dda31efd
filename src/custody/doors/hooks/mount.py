"""The daemon's way in for hooks: one path, one request and one answer a hook.

Owns the bounds of a request and of all that are held at once, and who may make one. Loads the rest when the
first hook comes. Used by the daemon, which mounts it.
"""

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from custody.rpc.access import Access
from custody.rpc.service import Service

if TYPE_CHECKING:
    from custody.doors.hooks.answering import Hooks

PATH = "/hooks"
BODY_BYTES_MAX = 160 * 1024 * 1024
"""The client's 64 MiB, each byte of which may take more in JSON; what is larger is no result of a tool."""

BODIES_BYTES_MAX = 2 * BODY_BYTES_MAX
"""Of all hooks that are on their way in or being answered: results of many agents must not be the end of the
daemon they share. What is beyond is refused, which before a tool is a no."""

BODY_SECONDS_MAX = 20.0

TOO_MUCH = "All hooks that are being answered hold {} bytes, and there is room for {}."


class HooksMount:
    """Answers what comes to its path."""

    def __init__(self, service: Service, workspace_of: Callable[[str], str | None]) -> None:
        self._service = service
        self._workspace_of = workspace_of
        self._hooks: Hooks | None = None
        self._loading = asyncio.Lock()
        self._held_bytes = 0

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        access: Access,
    ) -> None:
        """Answer one request of somebody who has been admitted."""
        if scope["method"] != "POST":
            await _send(send, 405, _wrong("method_not_allowed", "A hook is told by POST."))
        elif access.role == "auditor" or _is_bound(access):
            await _send(
                send, 403, _wrong("not_allowed", "This token is not for hooks.", "Use the agents' own.")
            )
        else:
            await self._answer(receive, send)

    async def _answer(
        self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        hold = _Hold(self)
        try:
            body = await _body(receive, hold)
            spoken = await (await self._ready()).answer(body)
        except _TooMuch as refused:
            await _send(send, refused.status, _wrong(*refused.said))
            return
        finally:
            hold.release()
        said = {"exit_code": spoken.exit_code, "out": spoken.out, "err": spoken.err}
        await _send(send, 200, json.dumps(said).encode())

    def hold(self, count: int) -> None:
        """Raises _TooMuch where there is no room for so many more bytes."""
        if self._held_bytes + count > BODIES_BYTES_MAX:
            words = TOO_MUCH.format(self._held_bytes, BODIES_BYTES_MAX)
            raise _TooMuch(429, "too_busy", words, "Try again when they are done.")
        self._held_bytes += count

    def let_go(self, count: int) -> None:
        self._held_bytes -= count

    async def _ready(self) -> "Hooks":
        async with self._loading:
            if self._hooks is None:
                module = await asyncio.to_thread(importlib.import_module, "custody.doors.hooks.answering")
                self._hooks = module.Hooks(self._service.runtime, self._workspace_of)
        assert self._hooks is not None, "it was made just now"
        return self._hooks


def _is_bound(access: Access) -> bool:
    """A hook says itself whose it is, which tool, and of which process: more than a token for one agent, some
    tools or some methods lets anybody say."""
    return any(bound is not None for bound in (access.agent, access.tools, access.methods))


class _TooMuch(Exception):
    """There is no room for a request."""

    def __init__(self, status: int, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.said = (code, message, hint)


class _Hold:
    """What one request holds of the room there is."""

    def __init__(self, mount: HooksMount) -> None:
        self._mount = mount
        self._bytes = 0

    def more(self, count: int) -> None:
        """Raises _TooMuch."""
        if self._bytes + count > BODY_BYTES_MAX:
            raise _TooMuch(413, "too_large", f"A hook tells {BODY_BYTES_MAX} bytes at most.")
        self._mount.hold(count)
        self._bytes += count

    def release(self) -> None:
        self._mount.let_go(self._bytes)
        self._bytes = 0


async def _body(receive: Callable[[], Awaitable[Any]], hold: _Hold) -> bytes:
    """Raises _TooMuch, TimeoutError, ConnectionResetError."""
    body, more = bytearray(), True
    async with asyncio.timeout(BODY_SECONDS_MAX):
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise ConnectionResetError
            part = message.get("body", b"")
            hold.more(len(part))
            body += part
            more = message.get("more_body", False)
    return bytes(body)


async def _send(send: Callable[[Any], Awaitable[None]], status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _wrong(code: str, message: str, hint: str | None = None) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "hint": hint}}).encode()
