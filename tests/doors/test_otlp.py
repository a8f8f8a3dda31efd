"""`POST /v1/traces` of a real daemon: what a sender is answered in its own form, and what it cannot do."""

import asyncio
import errno
import gzip
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from tests.bridges.spans_told import Trace, as_json, request_of
from tests.doors.daemons import Daemon, daemon

from custody.bridges.otel.wire import BODY_BYTES_MAX
from custody.compose import open_runtime
from custody.doors.server.otlp import PATH, REFUSALS_TOLD_MAX, WAITING_MAX, OtlpMount
from custody.index import EventFilter
from custody.journal import MemoryDisk
from custody.journal.disk_faulty import Fault, FaultyDisk
from custody.rpc.access import ANYBODY
from custody.settings import load_settings

TRIES_MAX = 150  # below what one token may ask in a second
PROTOBUF, JSON = "application/x-protobuf", "application/json"
PROGRAM = Path(__file__).with_name("instrumented.py")


class Sender:
    """Somebody with a token."""

    def __init__(self, daemon: Daemon, token: str | None) -> None:
        self._url = f"http://{daemon.address}"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self._url + path, headers=self._headers, timeout=60)

    def send(self, body: Any, content_type: str = PROTOBUF, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Content-Type": content_type, **self._headers}
        return httpx.post(f"{self._url}/v1/traces", content=body, headers=named, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("otlp")) as made:
        yield made


@pytest.fixture(scope="module")
def tokens(served: Daemon) -> dict[str, str]:
    keys = served.store / "keys"
    found = {name: (keys / f"{name}.token").read_text().strip() for name in ("serve", "host")}
    for name, options in (("ada", ["--role", "agent", "--agent", "ada"]), ("auditor", ["--role", "auditor"])):
        code, made = served.run("token", "create", name, *options)
        assert code == 0, made
        found[name] = made["token"]
    return found


@pytest.fixture
def sender(served: Daemon, tokens: dict[str, str]) -> Sender:
    return Sender(served, tokens["serve"])


def work(tool: str = "search") -> Trace:
    trace = Trace()
    called = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
    trace.span("call", called, under="agent", at_ms=1)
    trace.span("agent", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "shopper"}, ms=9)
    return trace


def refused(response: httpx.Response) -> tuple[int, str]:
    """The HTTP status and what the google.rpc.Status says, in the encoding that was asked in."""
    content_type = response.headers["content-type"]
    assert content_type == response.request.headers["content-type"]
    if content_type == JSON:
        said = response.json()
        assert set(said) == {"code", "message"}
        assert said["code"] > 0
        return response.status_code, said["message"]
    status = Status.FromString(response.content)
    assert status.code > 0
    return response.status_code, status.message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_spans_are_taken_in_both_encodings_plain_and_packed(
    served: Daemon, sender: Sender, tokens: dict[str, str], content_type: str, packed: bool
):
    trace = work()
    request = request_of(trace.spans)
    body = request.SerializeToString() if content_type == PROTOBUF else as_json(request)
    headers = {"content_encoding": "gzip"} if packed else {}
    response = sender.send(gzip.compress(body) if packed else body, content_type, **headers)
    assert (response.status_code, response.headers["content-type"]) == (200, content_type)
    assert response.content == (b"" if content_type == PROTOBUF else b"{}")
    run = Sender(served, tokens["host"]).get(f"/runs/{trace.id.hex()}").json()
    assert (run["agent"], run["outcome"], run["calls"], run["door"]) == ("shopper", "succeeded", 1, "otel")


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_what_cannot_be_read_is_refused_in_the_senders_form(sender: Sender, content_type: str):
    status, said = refused(sender.send(b"\xff\xffnothing", content_type))
    assert (status, "ExportTraceServiceRequest" in said) == (400, True)
    whole = gzip.compress(b"x" * 1000)
    for body, what in ((b"no gzip", "no gzip"), (whole[:-9], "in the middle")):
        status, said = refused(sender.send(body, content_type, content_encoding="gzip"))
        assert (status, what in said) == (400, True)
    assert refused(sender.send(b"", content_type, content_encoding="br"))[0] == 415


def test_what_is_too_large_is_refused_before_and_after_it_is_unpacked(sender: Sender):
    status, said = refused(sender.send(b"x" * (BODY_BYTES_MAX + 1)))
    assert (status, "at most" in said) == (413, True)
    bomb = gzip.compress(bytes(BODY_BYTES_MAX + 1))
    assert len(bomb) < 100_000
    status, said = refused(sender.send(bomb, content_encoding="gzip"))
    assert (status, "unpacked" in said) == (413, True)

    def pieces() -> Iterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65536 + 2):
            yield bytes(65536)

    assert refused(sender.send(pieces()))[0] == 413


def test_an_unknown_form_is_answered_in_json(sender: Sender):
    response = sender.send(b"x", "text/plain")
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip")
    assert "x-protobuf" in response.json()["message"]
    assert sender.get("/v1/traces").status_code == 405


def test_some_spans_may_be_refused_and_the_others_stand(sender: Sender):
    trace = work()
    trace.span("odd", {}).span_id = b"123"
    response = ExportTraceServiceResponse.FromString(
        sender.send(request_of(trace.spans).SerializeToString()).content
    )
    assert response.partial_success.rejected_spans == 1
    assert "no span id" in response.partial_success.error_message
    in_json = sender.send(as_json(request_of(trace.spans)), JSON).json()
    assert in_json["partialSuccess"]["rejectedSpans"] == "1"


def test_a_sender_of_nothing_but_other_spans_is_told(sender: Sender):
    trace = Trace()
    trace.span("GET /", {"http.request.method": "GET"})
    said = sender.send(as_json(request_of(trace.spans)), JSON).json()["partialSuccess"]
    assert (said["rejectedSpans"], "1 other" in said["errorMessage"]) == ("0", True)
    assert sender.send(b"").content == b""


def test_no_token_and_an_auditors_are_refused_in_the_senders_form(served: Daemon, tokens: dict[str, str]):
    response = Sender(served, None).send(b"")
    assert refused(response)[0] == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert refused(Sender(served, "wrong").send(b"{}", JSON))[0] == 401
    assert refused(Sender(served, tokens["auditor"]).send(b"{}", JSON))[0] == 403
    page = Sender(served, tokens["serve"]).send(b"{}", JSON, Origin="https://elsewhere.example")
    assert refused(page)[0] == 403


def test_a_token_for_one_agent_tells_of_that_agent(served: Daemon, tokens: dict[str, str], sender: Sender):
    trace = work()
    assert Sender(served, tokens["ada"]).send(request_of(trace.spans).SerializeToString()).status_code == 200
    own = Sender(served, tokens["ada"]).get(f"/runs/{trace.id.hex()}")
    assert own.json()["agent"] == "ada"
    others = work()
    sender.send(request_of(others.spans).SerializeToString())
    response = Sender(served, tokens["ada"]).send(as_json(request_of(others.spans[:1])), JSON)
    assert response.json() == {}  # it is on the record already, and nothing more is said
    others.span("more", {"gen_ai.operation.name": "execute_tool"}, under="agent")
    response = Sender(served, tokens["ada"]).send(as_json(request_of(others.spans[2:])), JSON)
    assert response.json()["partialSuccess"]["rejectedSpans"] == "1"


def test_whoever_is_many_is_told_to_come_again(served: Daemon, tokens: dict[str, str], sender: Sender):
    head = f"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {tokens['serve']}\r\n"
    head += f"Content-Type: {PROTOBUF}\r\nContent-Length: 1000\r\n\r\nx"
    host, port = served.address.split(":")
    with ExitStack() as waiting:
        for _ in range(WAITING_MAX):
            connection = waiting.enter_context(socket.create_connection((host, int(port)), timeout=10))
            connection.sendall(head.encode())
        response = first_of(sender, 429)
        assert refused(response) == (429, "Too many spans wait to be taken. Send them again in a moment.")
        assert response.headers["retry-after"] == "1"
    assert first_of(sender, 200).content == b""


def first_of(sender: Sender, status: int) -> httpx.Response:
    """The first answer of this kind: the daemon hears of connections in its own time."""
    for _ in range(TRIES_MAX):
        response = sender.send(b"")
        if response.status_code == status:
            return response
    raise AssertionError(f"no {status}, but {response.status_code}")


@pytest.mark.parametrize("part", [1, 400])
def test_what_cannot_be_recorded_is_sent_again_and_stands_once(part: int):
    """Also where the disk failed in the middle of a request."""
    disk = FaultyDisk(MemoryDisk())
    trace = Trace()
    for number in range(600):
        trace.span(f"{number}", {"gen_ai.operation.name": "execute_tool"}, under="agent", at_ms=number)
    trace.span("agent", {"gen_ai.operation.name": "invoke_agent"}, ms=1_000)
    body = request_of(trace.spans).SerializeToString()

    async def main() -> None:
        async with await open_runtime(load_settings(store=":memory:"), door="server", disk=disk) as runtime:
            mount = OtlpMount(runtime)

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await mount(scope, receive, send, ANYBODY)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
                disk.inject(
                    Fault(operation="put", error=errno.ENOSPC, at=part, times=None),
                    Fault(operation="create", error=errno.ENOSPC, times=None),
                )
                refusal = await client.post(PATH, content=body, headers={"Content-Type": PROTOBUF})
                assert (refused(refusal)[0], refusal.headers["retry-after"]) == (503, "5")
                disk.heal()
                taken = await client.post(PATH, content=body, headers={"Content-Type": PROTOBUF})
                assert (taken.status_code, taken.content) == (200, b"")
            (run,) = runtime.index.runs().items
            assert (run.outcome, run.calls, run.id) == ("succeeded", 600, trace.id.hex())
            calls = runtime.index.run_calls(trace.id)
            assert [call.position for call in calls] == list(range(600))
            await mount.close()

    asyncio.run(main())


def test_what_was_refused_is_on_the_record_and_a_flood_of_it_is_counted():
    async def main() -> None:
        async with await open_runtime(load_settings(store=":memory:"), door="server") as runtime:
            mount = OtlpMount(runtime)

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await mount(scope, receive, send, ANYBODY)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
                for _ in range(REFUSALS_TOLD_MAX + 3):
                    refusal = await client.post(PATH, content=b"\xff", headers={"Content-Type": PROTOBUF})
                    assert refusal.status_code == 400
            await mount.close()
            events = runtime.index.events(EventFilter(name="trace.refused", order="oldest")).items
            assert [event.data["count"] for event in events] == [1] * REFUSALS_TOLD_MAX + [3]
            assert "ExportTraceServiceRequest" in events[0].data["reason"]

    asyncio.run(main())


def program(
    served: Daemon, token: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{served.address}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Bearer {token}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "30",
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        **variables,
    }
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_real_program_appears_once_also_when_it_sends_twice(
    served: Daemon, tokens: dict[str, str], compression: str
):
    done = program(served, tokens["serve"], "twice", OTEL_EXPORTER_OTLP_COMPRESSION=compression)
    assert (done.returncode, done.stderr) == (0, "")
    host = Sender(served, tokens["host"])
    run = host.get(f"/runs/{done.stdout.strip()}").json()
    assert (run["outcome"], run["agent"], run["calls"], run["steps"]) == ("succeeded", "shopper", 50, 1)
    calls = host.get(f"/runs/{run['id']}/calls").json()["items"]
    assert sorted(call["arguments"]["page"] for call in calls) == list(range(50))


@pytest.mark.long
def test_it_still_appears_once_when_the_daemon_is_killed_between(tmp_path: Path):
    with daemon(tmp_path) as first:
        token = (first.store / "keys" / "serve.token").read_text().strip()
        trace = work()
        body = request_of(trace.spans).SerializeToString()
        part = request_of(trace.spans[:1]).SerializeToString()
        assert Sender(first, token).send(part).status_code == 200
        first.kill()
        first.start()
        assert Sender(first, token).send(body).status_code == 200
        first.kill()
        first.start()
        assert Sender(first, token).send(body).status_code == 200
        _, shown = first.run("show", trace.id.hex())
        assert (shown["outcome"], shown["calls_by_outcome"]) == ("succeeded", {"succeeded": 1})
        first.is_intact()


@pytest.mark.long
def test_a_run_without_its_root_is_closed_when_the_daemon_stops_and_ends_as_its_root_says(tmp_path: Path):
    with daemon(tmp_path) as first:
        token = (first.store / "keys" / "serve.token").read_text().strip()
        trace = work()
        assert Sender(first, token).send(request_of(trace.spans[:1]).SerializeToString()).status_code == 200
        assert first.stop() == 0
        _, shown = first.run("show", trace.id.hex())
        assert (shown["outcome"], shown["reason"]) == ("incomplete", "its root span never came")
        first.start()
        assert Sender(first, token).send(request_of(trace.spans[1:]).SerializeToString()).status_code == 200
        _, shown = first.run("show", trace.id.hex())
        assert (shown["outcome"], shown["agent"], shown["duration_us"]) == ("succeeded", "shopper", 9_000)
