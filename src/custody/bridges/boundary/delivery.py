"""One notice on its way: connect, write, read the answer, each within its time.

Owns the HTTP of a notice. Knows nothing of what it says, nor of what becomes of one that is not delivered.
Used by `notices`, from the one thread that sends; only `abort` is for another.
"""

import socket
import time
from contextlib import suppress

from custody.bridges.boundary.listener import Listener

WRITE_SECONDS = 0.05
"""For connecting and writing together: on one machine both take microseconds, or somebody is stuck."""
LEAST_SECONDS = 0.002
"""Waited for the listener all the same when the time has passed: then our own threads took it, in a program
that is busy, and a listener that is well takes a connection at once."""
ANSWER_SECONDS = 1.0  # for the whole answer, however it drips
ANSWER_BYTES_MAX = 16 * 1024  # an answer to a notice is a line; nobody reads on for ever
READ_BYTES = 4096

NO_ANSWER = f"it gave no answer within {ANSWER_SECONDS:g} s"
NOT_TAKEN = f"it did not take it within {WRITE_SECONDS * 1000:g} ms"
NO_HTTP = "its answer is not HTTP"
ABORTED = "the store was closed meanwhile"


class Delivery:
    """Sends notices to one listener, one at a time: the start of a call never arrives after its end."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._head = (
            f"POST {listener.path} HTTP/1.1\r\nHost: {listener.authority}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\nContent-Length: "
        ).encode("ascii")
        self._socket: socket.socket | None = None
        self._aborted = False

    def post(self, body: bytes) -> str | None:
        """Why the notice is not delivered; None when the listener has taken it."""
        if self._aborted:
            return ABORTED
        try:
            sent = self._send(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
            return self._answer(sent)
        except TimeoutError:
            return NOT_TAKEN
        except OSError as error:
            return f"{error.strerror or error}"
        finally:
            self.drop()

    def abort(self) -> None:
        """End what is under way; nothing more is sent."""
        self._aborted = True
        current = self._socket
        if current is not None:
            with suppress(OSError):
                current.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close the connection; in a forked child its copy of one."""
        current, self._socket = self._socket, None
        if current is not None:
            current.close()

    def _send(self, request: bytes) -> socket.socket:
        deadline = time.monotonic() + WRITE_SECONDS
        connected = self._connect(deadline)
        connected.settimeout(max(LEAST_SECONDS, deadline - time.monotonic()))
        connected.sendall(request)
        return connected

    def _connect(self, deadline: float) -> socket.socket:
        addresses = self._listener.addresses
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            current = self._socket = socket.socket(family, socket.SOCK_STREAM)
            current.settimeout(max(LEAST_SECONDS, deadline - time.monotonic()))
            try:
                current.connect((address, self._listener.port))
            except OSError:
                if address == addresses[-1]:
                    raise
                self.drop()
            else:
                return current
        raise AssertionError("a listener has an address")

    def _answer(self, connected: socket.socket) -> str | None:
        deadline = time.monotonic() + ANSWER_SECONDS
        answer, left = b"", ANSWER_SECONDS
        try:
            while left > 0 and not _is_whole(answer) and len(answer) < ANSWER_BYTES_MAX:
                connected.settimeout(left)
                piece = connected.recv(READ_BYTES)
                if not piece:
                    break
                answer += piece
                left = deadline - time.monotonic()
        except OSError as error:
            if b"\r\n" not in answer:
                return NO_ANSWER if isinstance(error, TimeoutError) else f"{error.strerror or error}"
        if left <= 0 and b"\r\n" not in answer:
            return NO_ANSWER
        return _refusal(answer)


def _refusal(answer: bytes) -> str | None:
    """Why this answer is none of a listener that has taken a notice."""
    words = answer.partition(b"\r\n")[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
        return NO_HTTP if answer else "it closed the connection without an answer"
    return None if words[1].startswith(b"2") else f"it answered {words[1].decode()}"


def _is_whole(answer: bytes) -> bool:
    """Whether there is nothing more to read, so that the listener is not cut off in the middle of its answer
    (RFC 9112, 6.3)."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if head.split(b" ", 2)[1:2] == [b"204"]:
        return True
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        name, value = name.strip().lower(), value.strip()
        if name == b"content-length" and value.isdigit() and len(value) < 10:
            return len(body) >= int(value)
        if name == b"transfer-encoding":
            return body.endswith(b"0\r\n\r\n")
    return False
