"""The daemon's life: take the store, listen, wait for a signal, drain, seal.

Owns the right to be a store's only daemon and the order of start and end. Knows nothing of options or of what
is printed. Used by `custody serve`.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from custody.errors import NotRecorded, StoreUnusable, UsageError
from custody.journal import Disk
from custody.records import now_us, rfc3339

if TYPE_CHECKING:
    from custody.calls.runtime import Runtime
    from custody.doors.server.app import ServerDoor
    from custody.doors.server.checks import Callers
    from custody.doors.server.listening import Listener
    from custody.journal.disk import Lock
    from custody.rpc.access import Doorkeeper
    from custody.rpc.tokens import Tokens
    from custody.settings import Settings

LOCK_FILE = "journal/serve.lock"
SERVING_FILE = "journal/serving"
"""Who holds the lock and where it listens: for whoever is refused, and for clients of this machine."""

DOOR = "server"
SPARE_DESCRIPTORS = 512
"""Beside one for each connection: segments, launchers, the index, children's pipes."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FREE_BYTES_MIN = 4 * 1024**2
"""With less room the next segment cannot be filled."""

PACKAGES = ("prometheus_client", "starlette", "uvicorn", "websockets")


class ServeOptions(Struct, frozen=True, kw_only=True):
    """What a daemon is started with, settings and command line joined."""

    listen: str
    socket: str | None
    """Path of the Unix socket; None: there is none."""
    auth: bool
    insecure: bool
    tls_cert: str | None
    tls_key: str | None
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    drain_seconds: float


class Serving(Struct, frozen=True, kw_only=True):
    """A daemon that listens."""

    store: str
    pid: int
    addresses: list[str]
    cwd: str
    """Where tools work."""
    roots: list[str]
    """Folders whose files they may touch, and what is below."""
    auth: bool
    token_file: str
    host_token_file: str
    started_at: str


def require_packages() -> None:
    """Raises UsageError, naming the extra, unless what serving needs is installed."""
    from importlib.util import find_spec

    if not all(find_spec(name) for name in PACKAGES):
        raise UsageError(
            "Serving needs packages that are not installed.", hint="pip install 'custody-runtime[serve]'"
        )


def default_socket(store: str, default_store: str, environ: Any = os.environ) -> str:
    """In the user's runtime folder, which goes with the user's last session: no part of the evidence.

    The user's own store has the plain name; another store's daemon may run beside it.
    """
    folder = environ.get("XDG_RUNTIME_DIR")
    folder = f"/tmp/custody-{os.geteuid()}" if not folder else os.path.join(folder, "custody")
    mark = "" if store == default_store else "-" + hashlib.sha256(os.fsencode(store)).hexdigest()[:8]
    return os.path.join(folder, f"serve{mark}.sock")


# -- the only one ---------------------------------------------------------------------------------------


def take_store(disk: Disk, store: str) -> "Lock":
    """The right to serve this store. Raises UsageError naming the daemon that has it."""
    disk.make_folder("journal")
    lock = disk.lock(LOCK_FILE)
    if lock is None:
        other = serving_of(disk)
        who = (
            f"process {other.pid} at {', '.join(other.addresses)}" if other is not None else "another process"
        )
        raise UsageError(
            f"{store} is served already, by {who}.", hint="Use that daemon, or give another folder: --store."
        )
    return lock


def serving_of(disk: Disk) -> Serving | None:
    """The daemon that serves a store, as it said when it came; the last one's word where none does now."""
    try:
        data = disk.read_all(SERVING_FILE)
        return None if data is None else msgspec.json.decode(data, type=Serving)
    except (OSError, msgspec.DecodeError):
        return None


# -- from start to end ------------------------------------------------------------------------------------


async def serve(
    settings: "Settings",
    options: ServeOptions,
    ready: Callable[[Serving], None],
    draining: Callable[[int], None],
) -> None:
    """Serve until a signal says to stop. `ready` hears where, once everybody can come; `draining` how many
    requests are under way when it is told to stop.

    Raises UsageError, StoreError, NotRecorded before that.
    """
    from custody.doors.server.notify import Notify
    from custody.rpc.tokens import PLAIN_NAMES, Tokens
    from custody.stores import open_disk

    stop = _Stop()
    notify = Notify()
    listeners, callers = checked(options)
    disk = await asyncio.to_thread(open_disk, settings.store)
    lock = take_store(disk, settings.store)
    try:
        tokens = Tokens(disk)
        for name in PLAIN_NAMES:
            await asyncio.to_thread(tokens.ensure, name)
        raise_descriptors(settings.file.serve.connections_max + SPARE_DESCRIPTORS)
        async with served(settings, options, disk, doorkeeper_of(tokens, auth=options.auth), callers) as door:
            await door.start(*listeners)
            serving = Serving(
                store=settings.store,
                pid=os.getpid(),
                addresses=door.addresses,
                cwd=settings.cwd,
                roots=list(settings.roots),
                auth=options.auth,
                token_file=os.path.join(settings.store, PLAIN_NAMES["serve"][0]),
                host_token_file=os.path.join(settings.store, PLAIN_NAMES["host"][0]),
                started_at=rfc3339(now_us()),
            )
            await record(door.runtime, "server.started", _said(serving, callers))
            await asyncio.to_thread(disk.replace, SERVING_FILE, msgspec.json.encode(serving))
            ready(serving)
            notify.tell("READY=1", f"STATUS=Listening on {', '.join(serving.addresses)}")
            beating = asyncio.create_task(notify.beat())
            await stop.asked.wait()
            notify.tell("STOPPING=1", "STATUS=Draining")
            draining(door.under_way)
            drained = await _drained(door, options.drain_seconds, stop)
            await record(door.runtime, "server.stopped", {"signal": stop.signal, "drained": drained})
            beating.cancel()
    finally:
        with contextlib.suppress(OSError):
            disk.remove(SERVING_FILE)
        lock.release()


@asynccontextmanager
async def served(
    settings: "Settings", options: ServeOptions, disk: Disk, doorkeeper: "Doorkeeper", callers: Any
) -> AsyncGenerator["ServerDoor"]:
    """A runtime behind a door that is not open yet; both are closed at the end, the store sealed."""
    from custody.compose import open_lasting_runtime
    from custody.doors.hooks.mount import PATH as HOOKS_PATH
    from custody.doors.hooks.mount import HooksMount
    from custody.doors.mcp.mount import PATH, McpMount
    from custody.doors.server.app import DoorBounds, ServerDoor
    from custody.doors.server.otlp import PATH as OTLP_PATH
    from custody.doors.server.otlp import OtlpMount
    from custody.offering import shelf_of
    from custody.rpc.service import Limits, Service
    from custody.settings import workspace_of
    from custody.stores import open_index

    section = settings.file.serve
    runtime = await open_lasting_runtime(settings, door=DOOR)
    try:
        service = Service(
            runtime,
            doorkeeper=doorkeeper,
            limits=Limits(
                in_flight_max=section.in_flight_max,
                frame_bytes_max=section.frame_bytes_max,
                requests_per_second=section.requests_per_second,
            ),
            shelf=shelf_of(settings),
        )
        mcp = McpMount(service, training=settings.file.training.command)
        otlp = OtlpMount(runtime, open_index=lambda: open_index(settings.store, runtime.journal))
        hooks = HooksMount(service, workspace_of)
        door = ServerDoor(
            runtime,
            service,
            open_index=lambda: open_index(settings.store, runtime.journal),
            writable=lambda: is_writable(settings.store, disk),
            callers=callers,
            bounds=DoorBounds(connections_max=section.connections_max),
            mounts={PATH: mcp, OTLP_PATH: otlp, HOOKS_PATH: hooks},
        )
        try:
            yield door
        finally:
            await door.close()
            await mcp.close()
            await otlp.close()
            if service.agents is not None:
                await service.agents.close()
    finally:
        await runtime.close()


async def _drained(door: "ServerDoor", seconds: float, stop: "_Stop") -> bool:
    """Whether everything under way ended by itself. A second signal does not wait for it."""
    draining = asyncio.create_task(door.close(seconds))
    hurrying = asyncio.create_task(stop.hurried.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if draining.done():
        return draining.result()
    draining.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await draining
    await door.close()
    return False


class _Stop:
    """The signals that end a daemon: the first asks it to drain, the second to hurry, a third kills it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.signal: str | None = None
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._take, number)

    def _take(self, number: signal.Signals) -> None:
        if not self.asked.is_set():
            self.signal = number.name
            self.asked.set()
            return
        self.hurried.set()
        for each in SIGNALS:
            self._loop.remove_signal_handler(each)


def checked(options: ServeOptions) -> tuple[list["Listener"], "Callers"]:
    """Where to listen, and who may connect. Raises UsageError for what would let in whom nobody meant to."""
    from custody.doors.server.checks import Callers
    from custody.doors.server.listening import Listener, Tls, check_reach, check_tls, parse_address

    host, port = parse_address(options.listen)
    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError("A certificate needs its key, and a key its certificate.", hint="Give both.")
    tls = None
    if options.tls_cert is not None and options.tls_key is not None:
        tls = Tls(options.tls_cert, options.tls_key)
        check_tls(tls)
    check_reach(host, auth=options.auth, tls=tls is not None, insecure=options.insecure)
    found = [Listener(host=host, port=port, tls=tls)]
    if options.socket is not None:
        found.append(Listener(path=os.path.abspath(os.path.expanduser(options.socket))))
    return found, Callers.of((*options.allowed_hosts, host), options.allowed_origins)


def doorkeeper_of(tokens: "Tokens", *, auth: bool) -> "Doorkeeper":
    from custody.rpc.access import OpenDoor, TokenDoor

    return TokenDoor(tokens.known) if auth else OpenDoor(TokenDoor(tokens.known_hosts))


async def record(runtime: "Runtime", name: str, data: dict[str, Any]) -> None:
    """A daemon that cannot record still lets what is recorded be read; no call would run."""
    import logging

    try:
        await runtime.ledger.append(runtime.ledger.recorder.draft_event(name, data))
    except NotRecorded as error:
        logging.getLogger("custody").warning("%s could not be recorded: %s", name, error)


def _said(serving: Serving, callers: Any) -> dict[str, Any]:
    return {
        "addresses": serving.addresses,
        "auth": serving.auth,
        "cwd": serving.cwd,
        "roots": serving.roots,
        "allowed_hosts": sorted(callers.hosts),
        "allowed_origins": sorted(callers.origins),
    }


def is_writable(store: str, disk: Disk) -> bool:
    """Whether a record would find room, as far as that can be said without making one."""
    try:
        read_only = os.statvfs(store).f_flag & os.ST_RDONLY
        return not read_only and os.access(store, os.W_OK) and disk.free_bytes()[0] >= FREE_BYTES_MIN
    except (OSError, StoreUnusable):
        return False


def raise_descriptors(wanted: int) -> None:
    """So many connections need so many descriptors; many systems give a process 1,024 until it asks."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
