"""HTTP servers on loopback that answer byte for byte as a test says, and a runtime that fetches from them."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import custody
from custody.records import Call
from custody.sandbox.egress.rules import Allowed
from custody.tools.http_fetch.tool import HttpFetch

WAIT_SECONDS = 60.0  # for what comes within milliseconds, where the machine is not kept busy
TLS_BEGINS = b"\x16"

Answer = bytes | Callable[[socket.socket], None]
"""What is sent; or what is done with the connection, which is closed behind it."""


def answer(body: bytes = b"", *fields: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP answer, with a Content-Length unless its fields have a Transfer-Encoding."""
    head = [f"HTTP/1.1 {status}", *fields]
    if not any(field.lower().startswith("transfer-encoding") for field in fields):
        head.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def sends_on(location: str, status: str = "302 Found") -> bytes:
    return answer(b"moved", f"Location: {location}", status=status)


class Server:
    """Answers by path; each connection serves one request, in a thread of its own."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        """Request line, fields with their names in lower case, body."""
        self.ended = threading.Event()
        """Whether the other side has ended a connection that `hangs` keeps."""
        self.came = threading.Event()
        """Whether a request has come in."""
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.place = f"{shown}:{self.port}"
        self.url = f"{'http' if tls is None else 'https'}://{self.place}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def clear(self) -> None:
        self.answers.clear()
        self.requests.clear()
        self.ended.clear()
        self.came.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT_SECONDS)
        self._listener.close()

    def hangs(self, begun: bytes = b"") -> Callable[[socket.socket], None]:
        """Sends the beginning of an answer and nothing more, until the other side ends it."""

        def hang(connection: socket.socket) -> None:
            with suppress(ConnectionError):
                connection.sendall(begun)
                while connection.recv(65536):
                    pass
            self.ended.set()

        return hang

    def repeats(self, begun: bytes, again: bytes) -> Callable[[socket.socket], None]:
        """Sends the same again and again, until the other side ends it."""

        def repeat(connection: socket.socket) -> None:
            with suppress(ConnectionError):
                connection.sendall(begun)
                while True:
                    connection.sendall(again)
            self.ended.set()

        return repeat

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        connection.settimeout(WAIT_SECONDS)
        with connection, suppress(OSError):
            if self._tls is not None:
                with self._tls.wrap_socket(connection, server_side=True) as wrapped:
                    self._answer(wrapped)
            else:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        line, fields, body = _request(connection)
        self.requests.append((line, fields, body))
        self.came.set()
        said = self.answers.get(line.split(" ")[1].partition("?")[0], answer(status="404 Not Found"))
        if callable(said):
            said(connection)
        else:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def _request(connection: socket.socket) -> tuple[str, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more or more[:1] == TLS_BEGINS:
            raise OSError("no request came")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (field.partition(": ") for field in rest)}
    while len(body) < int(fields.get("content-length", 0)):
        body += connection.recv(65536)
    return line, fields, body


class Fetching:
    """A runtime whose calls reach what a test lists, and look names up where it says."""

    def __init__(self, folder: Path) -> None:
        self.allowed = Allowed()
        self.asked: list[str] = []
        self._left: dict[str, Iterator[Sequence[str]]] = {}
        tool = HttpFetch(allowed=lambda _context: self.allowed, resolve=self._resolve)
        tool.name = "fetch"  # the runtime has one of its own by the other name
        self._opening = custody.open(":memory:", cwd=str(folder), tools=[tool])
        self.runtime = self._opening.__enter__()

    def close(self) -> None:
        self._opening.__exit__(None, None, None)

    def reset(self, *hosts: str, anywhere: bool = False, **names: Sequence[Sequence[str]]) -> None:
        """Which hosts are listed, and the addresses of names, which have `__` for dots: each time one is
        looked up, the next ones."""
        self.allowed = Allowed(hosts=hosts, anywhere=anywhere)
        self.asked.clear()
        self._left.clear()
        for name, found in names.items():
            self.answers(name.replace("__", "."), *found)

    def answers(self, name: str, *found: Sequence[str]) -> None:
        self._left[name] = iter(found)

    def __call__(
        self, url: str, *, timeout: float = WAIT_SECONDS, dry_run: bool = False, **arguments: Any
    ) -> Call:
        return self.runtime.call("fetch", {"url": url, **arguments}, timeout=timeout, dry_run=dry_run)

    def recorded(self, call: Call) -> Call:
        return self.runtime.index.call(call.id)

    async def _resolve(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self._left:
            raise OSError("no such name")
        return next(self._left[host])


def succeeded(call: Call) -> dict[str, Any]:
    assert call.outcome == "succeeded", (call.outcome, call.reason, call.error)
    return call.result


def failed(call: Call) -> str:
    """What it says."""
    assert call.outcome == "failed", (call.outcome, call.reason, call.result)
    assert call.error is not None
    return call.error["message"]


def refused(call: Call) -> str:
    """Why its arguments were not taken."""
    assert (call.outcome, call.decision.by) == ("rejected", "schema"), (call.outcome, call.reason)
    return str(call.reason)
