"""A daemon in a thread of the test's own process, on a real socket, and the faces of a client of it.

The thread has the event loop on which the runtime lives, so that a blocking test can be its client; whatever
a test wants to know of the daemon's side is asked of `Daemon.runtime`.
"""

import asyncio
import gc
import socket
import threading
from collections.abc import Coroutine
from typing import Any

from tests.calls.faces import Stage, _Runtime, drive

import custody
from custody.calls.runtime import Runtime
from custody.compose import open_runtime
from custody.doors.server.app import ServerDoor
from custody.doors.server.listening import Listener
from custody.rpc.access import Access, Doorkeeper, OpenDoor, Role
from custody.rpc.service import Service
from custody.settings import load_settings

AGENT = "tester"
WAIT_SECONDS = 60.0


class Everybody(OpenDoor):
    """Admits everybody in one role."""

    def __init__(self, role: Role = "operator") -> None:
        super().__init__()
        self._access = Access(role=role)

    @property
    def auth_enabled(self) -> bool:
        return True

    def admit(self, token: str) -> Access:
        return self._access

    def holds(self, access: Access) -> bool:
        return True


class Daemon:
    """Started by `with`; may be stopped and started again on the same disk and port."""

    def __init__(
        self,
        store: str = ":memory:",
        *,
        disk: Any = None,
        doorkeeper: Doorkeeper | None = None,
        path: str | None = None,
        **options: Any,
    ) -> None:
        self.store = store
        self.runtime: Runtime
        self.service: Service
        self.door: ServerDoor
        # Held while it is stopped as well, so that nobody else is given the port meanwhile.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        """The same after it was started again."""
        self._disk = disk
        self._path = path
        self._doorkeeper = doorkeeper or Everybody()
        self._options = options
        self._up = False
        self._loop = asyncio.new_event_loop()
        self._unheard: list[str] = []
        """What went wrong on its loop and nobody asked about."""
        self._loop.set_exception_handler(lambda _, said: self._unheard.append(str(said)))
        self._thread = threading.Thread(target=self._loop.run_forever, name="daemon", daemon=True)

    def __enter__(self) -> "Daemon":
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()
        self._held.close()
        gc.collect()
        assert self._unheard == [], self._unheard

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """On the daemon's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)

    def start(self) -> None:
        self.do(self._start())

    def stop(self) -> None:
        self.do(self._stop())

    def open(self, **options: Any) -> Any:
        """A client of it."""
        return custody.open(self.address, **{"agent": AGENT, **options})

    def drop_connections(self) -> None:
        """As when the network breaks: the daemon goes on. A client may notice a moment later."""

        async def drop() -> None:
            for peer in list(self.service.peers.values()):
                peer.close("the test breaks it")

        self.do(drop())

    async def _start(self) -> None:
        settings = load_settings(store=self.store)
        self.runtime = await open_runtime(settings, disk=self._disk, **self._options)
        self.service = Service(self.runtime, doorkeeper=self._doorkeeper)
        self.door = ServerDoor(self.runtime, self.service)
        listeners = [Listener(host="127.0.0.1", port=self.port)]
        if self._path is not None:
            listeners.append(Listener(path=self._path))
        await self.door.start(*listeners)
        self._up = True

    async def _stop(self) -> None:
        if self._up:
            self._up = False
            await self.door.close(0.0)
            await self.runtime.close()


class _Blocking(_Runtime):
    def __init__(self, runtime: Any) -> None:
        super().__init__(runtime)
        self.runtime = runtime


class Seen:
    """A client's runtime, and behind it what only the daemon has: its journal, its settings."""

    def __init__(self, client: Any, daemon: Daemon) -> None:
        self._client = client
        self._daemon = daemon

    def __getattr__(self, name: str) -> Any:
        if name in ("journal", "recording", "ledger", "settings"):
            _settle(self._client)
            return getattr(self._daemon.runtime, name)
        return getattr(self._client, name)


def _settle(client: Any) -> None:
    """Until everything that was told is recorded."""
    outbox = getattr(client, "_blocking", client).outbox
    item = outbox._newest()
    if item is not None:
        item.future.exception(WAIT_SECONDS)


class WireStage(Stage):
    """A stage whose scenarios are played by a client of a daemon on that disk."""

    def play(self, scenario: Any, **options: Any) -> Any:
        on_error = options.pop("on_error", None)
        tools = options.pop("tools", ())
        named = {name: options.pop(name) for name in ("caller", "session") if name in options}
        client = {"on_error": on_error, "tools": tools, "agent": options.pop("agent", AGENT), **named}
        with Daemon(self.store, disk=self.disk, **options) as daemon:
            if self.face == "blocking":
                with daemon.open(**client) as runtime:
                    return drive(scenario(Seen(_Blocking(runtime), daemon)))

            async def main() -> Any:
                async with daemon.open(**client) as runtime:
                    return await scenario(Seen(runtime, daemon))

            return asyncio.run(main())
