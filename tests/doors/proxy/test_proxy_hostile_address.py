"""A server at an address that answers `custody proxy --url` with whatever it likes: each request has an
answer or an error, soon, and nothing goes where nobody sent it.
"""

import gzip
import json
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.doors.mcp_clients import Home
from tests.doors.proxy.proxied import Proxied, calls
from tests.sandbox.commands import eventually

SECRET = "Bearer tok-of-the-test"


class Answering:
    """HTTP by hand, a connection a thread. What it answers stands in the arguments of a call."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.greeting_headers = ""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # A client may go at any time: what it has not read then comes back as a reset.
        with suppress(OSError), connection, connection.makefile("rb") as file:
            while first := file.readline():
                headers: dict[str, str] = {}
                while line := file.readline().decode("latin-1").strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                length = int(headers.get("content-length", 0))
                body = file.read(length)
                if len(body) < length:
                    return
                self.requests.append((first.decode().split()[0], headers))
                if not self._answered(connection, json.loads(body) if body else {}):
                    return

    def _answered(self, connection: socket.socket, asked: dict[str, Any]) -> bool:
        """Whether there may be another request on this connection."""
        if "id" not in asked:
            connection.sendall(b"HTTP/1.1 405 no\r\ncontent-length: 0\r\n\r\n" if not asked else ACCEPTED)
            return True
        result: dict[str, Any] = {"content": [{"type": "text", "text": "done"}]}
        more = ""
        if asked["method"] == "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {}}
            more = self.greeting_headers
        given: dict[str, Any] = asked.get("params", {}).get("arguments", {})
        answer = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()
        for part in given.get("parts", [plain(answer, more)]):
            data: bytes = part if isinstance(part, bytes) else bytes.fromhex(part)
            data = data.replace(b"$ID", str(asked["id"]).encode())
            for _ in range(given.get("times", 1) if part is given.get("parts", [0])[-1] else 1):
                connection.sendall(data)
        return given.get("keeps") or not given.get("parts")


ACCEPTED = b"HTTP/1.1 202 ok\r\ncontent-length: 0\r\n\r\n"


def plain(body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 200 ok\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def replied(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


ANSWER = b'{"jsonrpc":"2.0","id":$ID,"result":{"content":[{"type":"text","text":"said"}]}}'
IS_JSON, IS_EVENTS = "content-type: application/json", "content-type: text/event-stream"


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    made = Answering()
    yield made
    made.close()


def begun(port: int, folder: Path, *options: str) -> Proxied:
    home = Home(folder)
    url = f"http://127.0.0.1:{port}/mcp"
    return Proxied(home, "--url", url, "--header", f"Authorization: {SECRET}", *options, server=())


@contextmanager
def greeted(port: int, folder: Path, *options: str) -> Generator[Proxied]:
    made = begun(port, folder, *options)
    try:
        made.greet()
        yield made
        assert made.close() == 0, made.complaints()
    finally:
        made.kill()


@pytest.fixture(scope="module")
def client(server: Answering, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with greeted(server.port, tmp_path_factory.mktemp("address")) as made:
        yield made


@pytest.fixture(scope="module")
def impatient(server: Answering, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """Its calls have little time: on a slow machine one may be late that need not be."""
    with greeted(server.port, tmp_path_factory.mktemp("impatient"), "--timeout", "2s") as made:
        yield made


def got(client: Proxied, *parts: bytes) -> dict[str, Any]:
    arguments = {"parts": [part.hex() for part in parts]}
    return client.ask("tools/call", {"name": "do", "arguments": arguments})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([replied("401 no")], "--header gives what authorizes"),
        ([replied("404 no")], "status 404"),
        ([replied("500 no", "content-type: text/html", body=b"<html>")], "status 500"),
        ([replied("503 no", IS_JSON, body=b"[")], "status 503"),
        ([replied("200 ok", "content-type: text/html", body=b"<html>")], "text/html, and no message"),
        ([replied("200 ok", body=ANSWER)], "and no message"),
        ([replied("200 ok", IS_JSON, "content-encoding: gzip", body=gzip.compress(ANSWER))], "not asked for"),
        ([replied("200 ok", IS_JSON, body=ANSWER[:40])], "cannot be read"),
        ([replied("200 ok", IS_JSON, "content-length: 900", body=ANSWER)], "connection to the server broke"),
        ([replied("200 ok", IS_JSON, "transfer-encoding: chunked", body=b"zz\r\n")], "server broke"),
        ([replied("200 ok", IS_JSON, body=b"")], "is no answer to it"),
        ([replied("200 ok", IS_JSON, body=ANSWER.replace(b"$ID", b"999999"))], "is no answer to it"),
        ([replied("200 ok", IS_JSON, body=ANSWER.replace(b'"id"', b'"id":$ID,"id"'))], "cannot be read"),
        ([replied("200 ok", "x: " + "y" * 100_000, IS_JSON, body=ANSWER)], "server broke"),
        ([b"nonsense\r\n\r\n"], "server broke"),
        ([b""], "server broke"),
        ([replied("200 ok", IS_EVENTS, body=b"data: {}\n\n")], "stream without an answer"),
        ([replied("200 ok", IS_EVENTS, body=b"data: " + ANSWER[:30])], "stream without an answer"),
        (
            [replied("200 ok", IS_EVENTS, body=b"event: other\ndata: " + ANSWER + b"\n\n")],
            "without an answer",
        ),
    ],
)
def test_an_answer_that_is_none_is_an_error_that_says_so(client: Proxied, parts: list[bytes], said: str):
    error = got(client, *parts)["error"]
    assert said in error["message"]
    assert "result" in client.ask("tools/call", {"name": "do", "arguments": {}})


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + ANSWER + b"\n\n",
        b"\xef\xbb\xbf: a comment\r\nid: 1\r\nretry: 5\r\ndata:" + ANSWER + b"\r\n\r\n",
        b"data: " + ANSWER.replace(b',"result"', b',\ndata: "result"') + b"\r\r",
        b"event: message\ndata: {\ndata: " + ANSWER[1:] + b"\n\n",
    ],
)
def test_events_are_read_however_they_are_written(client: Proxied, body: bytes):
    answer = got(client, *(replied("200 ok", IS_EVENTS) + body[:20], body[20:]))
    assert answer["result"]["content"][0]["text"] == "said"


def test_a_redirect_is_not_followed_and_what_authorizes_goes_nowhere_else(client: Proxied):
    other = Answering()
    try:
        for status in ("301 x", "302 x", "307 x", "308 x"):
            location = f"location: http://127.0.0.1:{other.port}/mcp"
            error = got(client, replied(status, location))["error"]
            assert "to somewhere else" in error["message"]
        assert other.requests == []
    finally:
        other.close()


@pytest.mark.parametrize("start", [b"", replied("200 ok", IS_EVENTS), replied("200 ok", IS_JSON, body=b"{")])
def test_what_never_ends_ends_with_its_call(impatient: Proxied, start: bytes):
    said = {"parts": [start.hex()], "keeps": True}
    error = impatient.ask("tools/call", {"name": "do", "arguments": said})["error"]
    assert "timed out after 2.0 s" in error["message"]
    eventually(lambda: "result" in impatient.ask("tools/call", {"name": "do", "arguments": {}}))


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "why"),
    [(IS_JSON, "more than 67,108,864 bytes"), (IS_EVENTS, "ended the stream without an answer")],
)
def test_a_body_beyond_the_bound_is_an_error_and_is_not_kept(client: Proxied, kind: str, why: str):
    chunk = b"100000\r\n" + b"data:     " + b" " * (0x100000 - 10) + b"\r\n"
    said = {"parts": [replied("200 ok", kind, "transfer-encoding: chunked").hex(), chunk.hex()], "times": 70}
    error = client.ask("tools/call", {"name": "do", "arguments": said})["error"]
    assert why in error["message"]


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    ["mcp-session-id: caf\xe9\r\n", "mcp-session-id: a b\r\n", "mcp-session-id: " + "s" * 7_000 + "\r\n"],
    ids=["no ascii", "a blank", "long"],
)
def test_a_session_with_an_odd_name_hangs_nobody(server: Answering, tmp_path: Path, more: str):
    server.greeting_headers = more
    made = begun(server.port, tmp_path)
    try:
        assert made.ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}})
        made.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert made.ask("tools/call", {"name": "do", "arguments": {}}).keys() & {"result", "error"}
        assert made.close() == 0
    finally:
        server.greeting_headers = ""
        made.kill()


def test_a_server_that_is_not_there_is_said_to_be_so(tmp_path: Path):
    with socket.socket() as nobody:  # it does not listen, and nobody else is given its port
        nobody.bind(("127.0.0.1", 0))
        made = begun(nobody.getsockname()[1], tmp_path)
        try:
            error = made.ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}})["error"]
            assert "cannot be reached" in error["message"]
            answer = made.ask("tools/call", {"name": "do", "arguments": {}})
            assert "cannot be reached" in answer["error"]["message"]
            (call,) = calls(made.records()).values()
        finally:
            made.kill()
    assert call["outcome"] == "failed"
