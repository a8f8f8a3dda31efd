"""The MCP server of a daemon, begun when somebody first asks for it: half a second that most daemons never
need.

Owns that beginning and the end. Imports nothing of the SDK. Used by the daemon, which mounts it at `/mcp`.
"""

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from custody.rpc.access import Access
from custody.rpc.service import Service

if TYPE_CHECKING:
    from custody.doors.mcp.http import McpOverHttp

PATH = "/mcp"

MISSING = json.dumps(
    {
        "error": {
            "code": "not_installed",
            "message": "The MCP server needs packages that are not installed.",
            "hint": "pip install 'custody-runtime[mcp]'",
        }
    }
).encode()


class McpMount:
    """Answers what comes to its path. `close` it before its runtime."""

    def __init__(self, service: Service, *, training: tuple[str, ...] = ()) -> None:
        self._service = service
        self._training = training
        self._ready: asyncio.Future[McpOverHttp] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        access: Access,
    ) -> None:
        """Answer one request of somebody who has been admitted."""
        if find_spec("mcp") is None:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(MISSING))]
            await send({"type": "http.response.start", "status": 501, "headers": headers})
            await send({"type": "http.response.body", "body": MISSING})
            return
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._keeping = asyncio.create_task(self._keep(self._ready))
        server = await asyncio.shield(self._ready)
        await server(scope, receive, send, access)

    async def _keep(self, ready: "asyncio.Future[McpOverHttp]") -> None:
        """From its first request to the end: the SDK wants both in one task."""
        try:
            module = await asyncio.to_thread(importlib.import_module, "custody.doors.mcp.http")
            caller = await asyncio.to_thread(importlib.import_module, "custody.doors.mcp.caller")
            backing = caller.Backing(service=self._service, is_daemon=True, training=self._training)
            server: McpOverHttp = module.McpOverHttp(backing)
            async with server.running():
                ready.set_result(server)
                await self._over.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
                self._ready = None  # the next request tries again
                return
            raise

    async def close(self) -> None:
        """End every session, on the record. A second close does nothing."""
        self._over.set()
        if self._keeping is not None:
            with suppress(asyncio.CancelledError):
                await self._keeping
