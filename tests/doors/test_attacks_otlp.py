"""What a hostile or clumsy sender may do to `POST /v1/traces` over HTTP, and what the daemon counts of it."""

import contextlib
import gzip
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from prometheus_client.parser import text_string_to_metric_families
from tests.bridges.spans_told import Trace, as_json, request_of
from tests.doors.daemons import Daemon, daemon
from tests.doors.test_otlp import JSON, PROTOBUF, Sender, first_of, refused, work

from custody.doors.server.otlp import WAITING_MAX


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("otlp")) as made:
        yield made


@pytest.fixture(scope="module")
def token(served: Daemon) -> str:
    return (served.store / "keys" / "serve.token").read_text().strip()


@pytest.fixture
def sender(served: Daemon, token: str) -> Sender:
    return Sender(served, token)


class Wire:
    """A connection on which anything may be said."""

    def __init__(self, served: Daemon, token: str) -> None:
        host, port = served.address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._token = token

    def head(self, *lines: str, path: str = "/v1/traces") -> None:
        said = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self._token}", *lines]
        self.say("\r\n".join([*said, "", ""]).encode())

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        file = self._socket.makefile("rb")
        status = int(file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers.get("content-length", 0)))

    def is_closed(self) -> bool:
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def connection(served: Daemon, token: str) -> Iterator[Wire]:
    made = Wire(served, token)
    yield made
    made.close()


def in_pieces(body: bytes) -> bytes:
    return (
        b"".join(b"%x\r\n%b\r\n" % (1, body[place : place + 1]) for place in range(len(body))) + b"0\r\n\r\n"
    )


# -- what HTTP lets somebody say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"content_encoding": "gzip, gzip"}, {"content_encoding": "deflate"}, {"content_encoding": "zstd"},
        {"content_type": "application/jsonl"}, {"content_type": ""}, {"content_type": "text/plain"},
        {"content_type": "application/json, application/x-protobuf"}, {"content_type": "multipart/form-data"},
    ],
)  # fmt: skip
def test_a_body_in_no_form_that_is_known_is_refused(sender: Sender, headers: dict[str, str]):
    response = sender.send(b"{}", **({"content_type": JSON} | headers))
    assert response.status_code == 415
    assert response.json()["message"].startswith("Spans come as")


def test_the_wrong_type_for_a_body_refuses_it_and_nothing_else(sender: Sender):
    body = request_of(work().spans)
    assert refused(sender.send(body.SerializeToString(), JSON))[0] == 400
    assert refused(sender.send(as_json(body), PROTOBUF))[0] == 400
    assert refused(sender.send(gzip.compress(as_json(body)), JSON))[0] == 400
    assert refused(sender.send(as_json(body), JSON, content_encoding="gzip"))[0] == 400
    assert (
        sender.send(as_json(body), "Application/JSON; charset=UTF-8", content_encoding="GZIP").status_code
        == 400
    )
    assert (
        sender.send(as_json(body), "Application/JSON; charset=UTF-8", content_encoding="Identity").json()
        == {}
    )


def test_a_body_of_single_bytes_is_one_body(connection: Wire):
    connection.head(f"Content-Type: {JSON}", "Transfer-Encoding: chunked")
    connection.say(in_pieces(b'{"resourceSpans": []}'))
    assert connection.answer()[::2] == (200, b"{}")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 2", "Content-Length: 3"), ("Content-Length: -1",), ("Content-Length: 2x",),
        ("Content-Length: 1e3",), ("Transfer-Encoding: gzip, chunked",), ("Transfer-Encoding: identity",),
    ],
)  # fmt: skip
def test_lengths_that_contradict_themselves_are_no_request(connection: Wire, lines: tuple[str, ...]):
    connection.head(f"Content-Type: {JSON}", *lines)
    connection.say(b"{}")
    assert connection.answer()[0] in (400, 501)
    assert connection.is_closed()


def test_a_body_that_is_said_to_be_endless_is_refused_at_once(connection: Wire):
    connection.head(f"Content-Type: {JSON}", f"Content-Length: {10**15}")
    status, headers, body = connection.answer()
    assert (status, headers["connection"], json.loads(body)["code"]) == (413, "close", 8)
    assert connection.is_closed()


def test_a_sender_that_goes_away_in_the_middle_leaves_nothing(served: Daemon, token: str, sender: Sender):
    trace = work()
    body = request_of(trace.spans).SerializeToString()
    for cut in (0, 1, len(body) - 1):
        connection = Wire(served, token)
        connection.head(f"Content-Type: {PROTOBUF}", f"Content-Length: {len(body)}")
        connection.say(body[:cut])
        connection.close()
    assert Sender(served, host_of(served)).get(f"/runs/{trace.id.hex()}").status_code == 404
    assert sender.send(body).content == b""


def host_of(served: Daemon) -> str:
    return (served.store / "keys" / "host.token").read_text().strip()


def test_what_is_refused_before_it_was_read_does_not_become_the_next_request(served: Daemon, token: str):
    """A request within the body of one that is refused unread."""
    trace = work()
    hidden = as_json(request_of(trace.spans))
    head = f"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: {JSON}\r\nContent-Length: {len(hidden)}\r\n\r\n"
    inner = head.encode() + hidden
    connection = Wire(served, "wrong")
    connection.head("Content-Type: text/plain", f"Content-Length: {len(inner)}")
    connection.say(inner)
    assert connection.answer()[0] == 401
    connection.head(f"Content-Type: {JSON}", "Content-Length: 2")
    connection.say(b"{}")
    assert connection.answer()[0] == 401
    connection.close()
    assert Sender(served, host_of(served)).get(f"/runs/{trace.id.hex()}").status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "PATCH"])
def test_it_takes_post_alone(served: Daemon, token: str, method: str):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": JSON}
    response = httpx.request(method, f"http://{served.address}/v1/traces", headers=headers, timeout=20)
    assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")


@pytest.mark.parametrize("path", ["/v1/traces/", "/v1//traces", "/V1/TRACES", "/v1/traces%2f", "/v1/metrics"])
def test_no_other_path_takes_spans(served: Daemon, token: str, path: str):
    connection = Wire(served, token)
    connection.head(f"Content-Type: {JSON}", "Content-Length: 2", path=path)
    connection.say(b"{}")
    assert connection.answer()[0] in (404, 405)
    connection.close()


def test_a_token_for_some_methods_alone_may_not_send(served: Daemon):
    code, made = served.run("token", "create", "watcher", "--role", "agent", "--methods", "proposal.submit")
    assert code == 0, made
    status, said = refused(Sender(served, made["token"]).send(b"{}", JSON))
    assert (status, "methods" in said) == (403, True)


# -- told twice, at once, or not to the end -----------------------------------------------------------------


def test_two_senders_of_the_same_spans_at_once_make_one_record_of_each(served: Daemon, sender: Sender):
    trace = Trace()
    for number in range(100):
        trace.span(f"{number}", {"gen_ai.operation.name": "execute_tool"}, under="agent", at_ms=number)
    trace.span("agent", {"gen_ai.operation.name": "invoke_agent"}, ms=200)
    halves = [request_of(spans).SerializeToString() for spans in (trace.spans[:60], trace.spans[40:])]
    with ThreadPoolExecutor(6) as senders:
        answers = list(senders.map(sender.send, halves * 3))
    assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"")] * 6
    host = Sender(served, host_of(served))
    assert host.get(f"/runs/{trace.id.hex()}").json()["calls"] == 100
    calls = host.get(f"/runs/{trace.id.hex()}/calls?limit=200").json()["items"]
    assert sorted(call["position"] for call in calls) == list(range(100))


SOONER = tuple(0.1 / 2**times for times in range(10))
"""For a machine so fast that nothing else hits it."""


@pytest.mark.long
def test_a_daemon_killed_between_record_and_answer_is_told_again_and_has_it_once(tmp_path: Path):
    """Killed at some moment while it takes a request, again and again, until one was answered."""
    trace = Trace()
    for number in range(3_000):
        trace.span(f"{number}", {"gen_ai.operation.name": "execute_tool"}, under="agent", at_ms=number)
    trace.span("agent", {"gen_ai.operation.name": "invoke_agent"}, ms=4_000)
    body = request_of(trace.spans).SerializeToString()
    with daemon(tmp_path) as served:
        token = (served.store / "keys" / "serve.token").read_text().strip()
        cut = 0
        for after_seconds in (0.15, 0.3, 0.45, 0.6, *SOONER):
            if cut and after_seconds in SOONER:
                break
            killer = threading.Timer(after_seconds, served.kill)
            killer.start()
            try:
                assert Sender(served, token).send(body).status_code == 200
            except httpx.TransportError:
                cut += 1
            killer.join()
            served.start()
        assert cut > 0
        assert Sender(served, token).send(body).content == b""
        _, shown = served.run("show", trace.id.hex())
        assert (shown["outcome"], shown["calls_by_outcome"]) == ("succeeded", {"succeeded": 3_000})
        served.is_intact()


@pytest.mark.long
def test_a_disk_that_is_full_is_told_as_such_and_takes_it_again_once_there_is_room(tmp_path: Path):
    """A real file system of some megabytes."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", os.fspath(small)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        with daemon(small) as served:
            token = (served.store / "keys" / "serve.token").read_text().strip()
            fill = small / "fill"
            fill_up(fill)
            traces = [work() for _ in range(3_000)]
            body = request_of([span for trace in traces for span in trace.spans]).SerializeToString()
            answer = Sender(served, token).send(body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert Status.FromString(answer.content).code == 14
            fill.unlink()
            assert Sender(served, token).send(body).content == b""
            for trace in (traces[0], traces[-1]):
                _, shown = served.run("show", trace.id.hex())
                assert (shown["outcome"], shown["calls_by_outcome"]) == ("succeeded", {"succeeded": 1})
            assert served.stop() == 0
    finally:
        subprocess.run(["umount", "-l", os.fspath(small)], check=False)


def fill_up(path: Path) -> None:
    """Until nothing more goes onto its file system."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(64 * 1024)):
            pass
        raise AssertionError("a write of nothing ends no disk")


# -- what is counted ----------------------------------------------------------------------------------------


def counted(served: Daemon) -> dict[tuple[str, str], float]:
    """Of what came in: (name, label's value) -> count."""
    text = Sender(served, host_of(served)).get("/metrics").text
    return {
        (sample.name.removeprefix("custody_otlp_"), next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("custody_otlp_") and not sample.name.endswith("_created")
    }


def test_what_comes_in_is_counted_by_what_became_of_it(served: Daemon, sender: Sender):
    before = counted(served)
    trace = work()
    trace.span("GET /", {"http.request.method": "GET"}, under="agent")
    trace.span("odd", {}).span_id = b"123"
    body = request_of(trace.spans).SerializeToString()
    packed = gzip.compress(body)
    assert sender.send(packed, content_encoding="gzip").status_code == 200
    assert sender.send(body).status_code == 200
    assert sender.send(b"\xff").status_code == 400
    assert Sender(served, "wrong").send(b"", JSON).status_code == 401
    after = counted(served)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert {name: value for name, value in grown.items() if value} == {
        ("requests_total", "200"): 2, ("requests_total", "400"): 1, ("requests_total", "401"): 1,
        ("bytes_total", ""): len(packed) + len(body) + 1,
        ("spans_recorded_total", ""): 2, ("spans_known_total", ""): 2,
        ("spans_left_out_total", "other"): 2, ("spans_rejected_total", "no span id"): 2,
    }  # fmt: skip
    assert after["waiting", ""] == 0


def test_what_waits_and_what_is_sent_away_is_counted(served: Daemon, token: str, sender: Sender):
    before = counted(served).get(("requests_total", "429"), 0)
    connections = [Wire(served, token) for _ in range(WAITING_MAX)]
    for connection in connections:
        connection.head(f"Content-Type: {PROTOBUF}", "Content-Length: 9")
    first_of(sender, 429)
    now = counted(served)
    assert (now["waiting", ""], now["requests_total", "429"] > before) == (WAITING_MAX, True)
    for connection in connections:
        connection.close()
    first_of(sender, 200)


def test_words_of_a_sender_never_become_labels(served: Daemon, sender: Sender):
    """Whoever could name a label could make as many series as there are words."""
    trace = Trace()
    for number in range(20):
        trace.span(
            f"kind-{number}", {"gen_ai.operation.name": f"word-{number}", "openinference.span.kind": "X"}
        )
    answer = sender.send(as_json(request_of(trace.spans)), JSON).json()["partialSuccess"]
    assert answer["errorMessage"].endswith(": 20 other.")
    assert "word" not in Sender(served, host_of(served)).get("/metrics").text


def test_partial_success_says_every_reason_in_both_forms(sender: Sender):
    trace = work()
    trace.span("odd", {}).span_id = b"123"
    late = trace.span("late", {"gen_ai.operation.name": "execute_tool"})
    late.end_time_unix_nano = time.time_ns() + 10**15
    request = request_of(trace.spans)
    binary = ExportTraceServiceResponse.FromString(sender.send(request.SerializeToString()).content)
    in_json = sender.send(as_json(request), JSON).json()["partialSuccess"]
    said = "Rejected: 1 no span id, 1 times in the future."
    assert (binary.partial_success.rejected_spans, binary.partial_success.error_message) == (2, said)
    assert in_json == {"rejectedSpans": "2", "errorMessage": said}
