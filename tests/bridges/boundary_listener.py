"""Listeners for boundary notices: one that takes them, and the ways in which one does not."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from custody.bridges.boundary import delivery, notices

WAIT_SECONDS = 60.0  # a test that hangs fails instead


class Listening:
    """A socket of this machine that connections are accepted on, and what they brought."""

    def __init__(self, answer: bytes | None, *, pieces: bool = False) -> None:
        """`answer` None: whatever comes is accepted and never read. `pieces`: byte by byte."""
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self._pieces = pieces
        self._ended = threading.Event()
        self._arrived = threading.Condition()
        self._kept: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def notices(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.bodies) >= count, WAIT_SECONDS), self.bodies
        return self.notices

    def close(self) -> None:
        self._ended.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(WAIT_SECONDS)
        for kept in self._kept:
            kept.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self.answer is None:
                self._kept.append(connection)
                continue
            with connection, suppress(OSError):
                self._take(connection, self.answer)

    def _take(self, connection: socket.socket, answer: bytes) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += _more(connection)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(
            next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")).split()[1]
        )
        while len(body) < length:
            body += _more(connection)
        with self._arrived:
            self.heads.append(head)
            self.bodies.append(body)
            self._arrived.notify_all()
        for piece in [bytes([byte]) for byte in answer] if self._pieces else [answer]:
            connection.sendall(piece)
            if self._pieces and self._ended.wait(0.2):
                return


def _more(connection: socket.socket) -> bytes:
    """Raises OSError when the other side hung up in the middle of its request."""
    data = connection.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def listening(answer: bytes | None = OK, **options: Any) -> Iterator[Listening]:
    listener = Listening(answer, **options)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def nobody() -> Iterator[str]:
    """A URL at which nothing listens: its port is held meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def be_patient(patch: pytest.MonkeyPatch) -> None:
    """Wait for a listener that is well, however busy the machine is."""
    patch.setattr(delivery, "WRITE_SECONDS", WAIT_SECONDS)
    patch.setattr(delivery, "ANSWER_SECONDS", WAIT_SECONDS)
    patch.setattr(notices, "CLOSE_SECONDS", WAIT_SECONDS)
