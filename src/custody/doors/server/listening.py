"""The sockets the daemon listens on, and the servers behind them.

Owns binding (a port that is taken and a socket that is alive are refused, a dead one is replaced), TLS, and
the order in which it stops: first nobody new, then what is under way, then everybody out. Knows nothing of
what is served. Used by `app`.
"""

import asyncio
import contextlib
import errno
import os
import re
import socket
import ssl
import stat
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from msgspec import Struct

from custody.doors.server.checks import is_loopback
from custody.doors.server.protocols import Occupancy, bounds_of, protocols_for
from custody.errors import StoreUnusable, UsageError

PROBE_SECONDS = 1.0  # a daemon that lives takes a connection on its own machine at once
ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9a-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[\w.-]+)):(?P<port>\d{1,5})", re.IGNORECASE | re.ASCII
)
PORT_MAX = 65_535
START_SECONDS = 10.0
CLOSE_SECONDS = 5.0  # closing frames and last answers; then connections are cut


class Tls(Struct, frozen=True):
    """PEM files."""

    certificate: str
    key: str


class Listener(Struct, frozen=True, kw_only=True):
    """One place to listen at: a host and port, or the path of a Unix socket."""

    host: str | None = None
    port: int = 0
    path: str | None = None
    tls: Tls | None = None


def parse_address(listen: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[::1]:PORT`. Raises UsageError."""
    found = ADDRESS.fullmatch(listen)
    if found is None or int(found["port"]) > PORT_MAX:
        raise UsageError(
            f"{listen!r} is no address to listen on.", hint="Write HOST:PORT: 127.0.0.1:9100, [::1]:9100."
        )
    return found["six"] or found["name"], int(found["port"])


class Listening:
    """Servers on some sockets, from `start` to `close`."""

    def __init__(self, app: Callable[..., Any], occupancy: Occupancy, frame_bytes_max: int) -> None:
        self._app = app
        self._occupancy = occupancy
        self._bounds = bounds_of(frame_bytes_max)
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._paths: list[tuple[str, tuple[int, int]]] = []
        self.addresses: list[str] = []
        """Where it listens: `ws://127.0.0.1:9100`, `unix:///run/user/1000/custody/serve.sock`."""

    async def start(self, *listeners: Listener) -> None:
        """Bind and serve all of them, or none. Raises UsageError, StoreUnusable."""
        bound: dict[Listener, socket.socket] = {}
        try:
            for listener in listeners:
                bound[listener] = self._bind(listener)
            for listener, sock in bound.items():
                await self._serve(listener, sock)
        except BaseException:
            for sock in bound.values():
                sock.close()
            await self.close()
            raise

    def _bind(self, listener: Listener) -> socket.socket:
        if listener.path is None:
            sock, address = bind_port(listener)
        else:
            sock, address = bind_path(listener.path), f"unix://{listener.path}"
            status = os.stat(listener.path)
            self._paths.append((listener.path, (status.st_dev, status.st_ino)))
        self.addresses.append(address)
        return sock

    async def _serve(self, listener: Listener, sock: socket.socket) -> None:
        http, websocket = protocols_for(self._occupancy)
        tls = listener.tls
        config = uvicorn.Config(
            self._app,
            http=http,
            ws=websocket,
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            reset_contextvars=True,
            timeout_graceful_shutdown=round(CLOSE_SECONDS),
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
            **self._bounds,
        )
        try:
            config.load()
        except OSError as error:
            raise UsageError(f"The certificate or its key cannot be used: {error}.") from error
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        self._servers.append((server, task))
        await asyncio.wait_for(server.listens.wait(), START_SECONDS)

    def stop_accepting(self) -> None:
        """Nobody new from here on; who is there stays."""
        for path, identity in self._paths:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                if (status.st_dev, status.st_ino) == identity:
                    os.unlink(path)
        self._paths.clear()
        for server, _ in self._servers:
            for each in server.servers:
                each.close()

    async def close(self) -> None:
        """Everybody out."""
        self.stop_accepting()
        for server, _ in self._servers:
            server.should_exit = True
        if self._servers:
            await asyncio.wait({task for _, task in self._servers}, timeout=2 * CLOSE_SECONDS)
        for _, task in self._servers:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._servers), return_exceptions=True)
        self._servers.clear()


class _Server(uvicorn.Server):
    """A server in a program whose signals are not its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, connection.transport.abort)
        await super().shutdown(sockets)


# -- binding ----------------------------------------------------------------------------------------------


def bind_port(listener: Listener) -> tuple[socket.socket, str]:
    """A listening TCP socket and its address as a URL. Raises UsageError."""
    assert listener.host is not None, "a listener without a path has a host"
    host, port = listener.host, listener.port
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{host!r} is no address of this machine: {why}.") from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
    except OSError as error:
        sock.close()
        hint = "Choose another with --listen; port 0 takes a free one." if error.errno in _TAKEN else None
        raise UsageError(f"{host}:{port} cannot be listened on: {error.strerror}.", hint=hint) from error
    sock.setblocking(False)
    scheme = "ws" if listener.tls is None else "wss"
    shown = f"[{host}]" if ":" in host else host
    return sock, f"{scheme}://{shown}:{sock.getsockname()[1]}"


_TAKEN = (errno.EADDRINUSE, errno.EACCES)


def bind_path(path: str) -> socket.socket:
    """A listening Unix socket, 0600 in a folder 0700 where that is made here. Raises StoreUnusable."""
    folder = os.path.dirname(path)
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            os.chmod(folder, 0o700)
        _check_folder(folder)
        _clear(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
            os.chmod(path, 0o600)  # before anybody can connect: it does not listen yet
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise StoreUnusable(
            f"The socket {path} cannot be made: {error.strerror or error}.",
            hint="Name another with --socket PATH, or do without: --no-socket.",
        ) from error
    sock.setblocking(False)
    return sock


def _check_folder(folder: str) -> None:
    """Nobody else may put another socket in the place of ours. Raises StoreUnusable."""
    status = os.stat(folder)
    others_write = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    if others_write or status.st_uid not in (0, os.geteuid()):
        raise StoreUnusable(
            f"Others can put files in {folder}, so nobody could trust a socket there.",
            hint="Name another place with --socket PATH, or do without: --no-socket.",
        )


def _clear(path: str) -> None:
    """Take away what a dead daemon left. Raises StoreUnusable for anything that is alive or no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StoreUnusable(f"{path} is no socket.", hint="Name another with --socket PATH.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError:
            pass  # somebody is there, too busy to answer
    raise StoreUnusable(
        f"Another program listens on {path}.", hint="Name another with --socket PATH, or use that daemon."
    )


def check_tls(tls: Tls) -> None:
    """A server could be started with these. Raises UsageError naming the file, before anything is served."""
    for what, path in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            open(path, "rb").close()
        except OSError as error:
            raise UsageError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    try:  # with a password, even a wrong one, nobody is asked for it at a terminal that may not be there
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password=str)
    except (OSError, ValueError) as error:
        strangers = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        raise UsageError(
            f"{tls.certificate} and {tls.key} are no certificate and its key.",
            hint="The key is another's." if strangers else "Both are PEM files, the key without a password.",
        ) from error


def check_reach(host: str, *, auth: bool, tls: bool, insecure: bool) -> None:
    """Other machines are let in only as the operator meant it. Raises UsageError."""
    if is_loopback(host):
        return
    if not auth:
        raise UsageError(
            f"--no-auth lets everybody in who reaches {host}.",
            hint="It is for loopback: --listen 127.0.0.1:9100.",
        )
    if not tls and not insecure:
        raise UsageError(
            f"Tokens and what agents say would cross the network to {host} in the clear.",
            hint="Give --tls-cert and --tls-key, or say --insecure.",
        )
