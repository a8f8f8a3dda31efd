"""A served runtime in the test's own process: real sockets, the daemon's own door.

async with serving(runtime) as served:
    async with websockets.connect(served.address) as socket: ...
"""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from custody.calls.runtime import Runtime
from custody.compose import open_runtime
from custody.doors.mcp.mount import PATH, McpMount
from custody.doors.server.app import DoorBounds, ServerDoor
from custody.doors.server.checks import Callers
from custody.doors.server.listening import Listener
from custody.rpc.access import Doorkeeper
from custody.rpc.service import Limits, Service
from custody.settings import load_settings

if TYPE_CHECKING:
    from custody.index import Index
    from custody.skills import Shelf


class Served:
    """A runtime behind its door."""

    def __init__(self, door: ServerDoor, service: Service, path: str) -> None:
        self.door = door
        self.service = service
        self.path = path
        """Of the Unix socket."""

    @property
    def address(self) -> str:
        """`ws://127.0.0.1:PORT`."""
        return self.door.addresses[0]

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return self.address.replace("ws", "http", 1)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def connect(self) -> socket.socket:
        """A bare TCP connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@asynccontextmanager
async def serving(
    runtime: Runtime,
    *,
    doorkeeper: Doorkeeper | None = None,
    limits: Limits | None = None,
    service: Service | None = None,
    callers: Callers | None = None,
    bounds: DoorBounds | None = None,
    writable: Callable[[], bool] = lambda: True,
    open_index: "Callable[[], Index] | None" = None,
    drain_seconds: float = 0.0,
    shelf: "Shelf | None" = None,
    training: tuple[str, ...] = (),
) -> AsyncGenerator[Served]:
    """Serve a runtime on a port of its own and on a Unix socket; without a doorkeeper anybody may come in."""
    service = service or Service(runtime, doorkeeper=doorkeeper, limits=limits, shelf=shelf)
    mcp = McpMount(service, training=training)
    door = ServerDoor(
        runtime, service, callers=callers, bounds=bounds, writable=writable, open_index=open_index,
        mounts={PATH: mcp},
    )  # fmt: skip
    with TemporaryDirectory(prefix="custody-") as folder:
        path = str(Path(folder, "serve.sock"))  # short: a socket's path has 107 bytes at most
        await door.start(Listener(host="127.0.0.1", port=0), Listener(path=path))
        try:
            yield Served(door, service, path)
        finally:
            await door.close(drain_seconds)
            await mcp.close()
            if service.agents is not None:
                await service.agents.close()


@contextmanager
def serving_in_thread(store: str = ":memory:", **options: Any) -> Generator[Served]:
    """The same for tests that need no loop of their own: served on a thread until the end."""
    found: list[Served] = []
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        runtime = await open_runtime(load_settings(store=store), door="server")
        try:
            async with serving(runtime, **options) as served:
                found.append(served)
                ready.set()
                await stop.wait()
        finally:
            await runtime.close()

    def run() -> None:
        try:
            asyncio.run(main())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="serving")
    thread.start()
    try:
        assert ready.wait(30)
        assert found, "it could not be served"
        yield found[0]
    finally:
        if loops and not loops[0].is_closed():
            loops[0].call_soon_threadsafe(stop.set)
        thread.join(60)
