"""`http_fetch`: what is sent, what comes back, and how much of it."""

import asyncio
import base64
import gzip
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.http_servers import (
    WAIT_SECONDS,
    Fetching,
    Server,
    answer,
    failed,
    refused,
    succeeded,
)
from tests.tools.trees import cut_off

import custody
from custody.errors import ToolError
from custody.hosts import ascii_name, hosts_in, parse_address
from custody.index import CallFilter
from custody.sandbox.egress.rules import Allowed
from custody.tools.http_fetch.body import Body, shown
from custody.tools.http_fetch.request import Asked, read_url
from custody.tools.http_fetch.tool import HttpFetch

MEBIBYTE = 1024 * 1024
GZIPPED = "Content-Encoding: gzip"


def packed_by_gzip(data: bytes) -> bytes:
    """The same each time: it stands in names of tests."""
    return gzip.compress(data, mtime=0)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetching]:
    fetching = Fetching(tmp_path_factory.mktemp("work"))
    yield fetching
    fetching.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(running: Server) -> Server:
    running.clear()
    return running


@pytest.fixture
def fetch(opened: Fetching, server: Server) -> Fetching:
    opened.reset(server.place)
    return opened


# -- what is sent and what comes back -------------------------------------------------------------------


def test_an_answer_comes_with_all_there_is_to_say_of_it(server: Server, fetch: Fetching):
    said = answer(b"hello\n", "Content-Type: text/plain", "X-Two: 1", "x-two: 2")
    server.answers["/a"] = said
    result = succeeded(fetch(f"{server.url}/a?b=c#d"))
    assert result == {
        "status": 200,
        "reason": "OK",
        "url": f"{server.url}/a?b=c",
        "headers": {"content-type": "text/plain", "x-two": ["1", "2"], "content-length": "6"},
        "hops": [{"url": f"{server.url}/a?b=c", "status": 200, "address": "127.0.0.1"}],
        "encoding": "utf-8",
        "body": "hello\n",
        "body_bytes": 6,
        "body_dropped_bytes": 0,
        "undecodable": 0,
        "truncated": False,
        "decoded": None,
        "bytes_out": result["bytes_out"],
        "bytes_in": len(said),
    }
    ((line, fields, body),) = server.requests
    assert (line, body) == ("GET /a?b=c HTTP/1.1", b"")
    assert fields == {
        "host": server.place,
        "user-agent": "custody",
        "accept": "*/*",
        "accept-encoding": "gzip, deflate",
        "connection": "close",
    }
    assert result["bytes_out"] == len(line) + 2 + sum(len(f"{n}: {v}\r\n") for n, v in fields.items()) + 2


@pytest.mark.parametrize(
    ("arguments", "kind", "body"),
    [
        ({"body": "größer"}, "text/plain; charset=utf-8", "größer".encode()),
        ({"json": {"a": [1, None, "ü"]}}, "application/json", '{"a": [1, null, "ü"]}'.encode()),
        ({"json": None}, "application/json", b"null"),
        ({"body": "<a/>", "headers": {"Content-Type": "text/xml"}}, "text/xml", b"<a/>"),
        ({}, None, b""),
    ],
)
def test_a_body_is_sent_with_its_kind_and_its_length(
    server: Server, fetch: Fetching, arguments: dict[str, Any], kind: str | None, body: bytes
):
    server.answers["/"] = answer(status="201 Created")
    assert succeeded(fetch(server.url, method="POST", **arguments))["status"] == 201
    ((line, fields, sent),) = server.requests
    assert line == "POST / HTTP/1.1"
    assert (fields.get("content-type"), fields["content-length"], sent) == (kind, str(len(body)), body)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_sent_as_it_is(server: Server, fetch: Fetching, method: str):
    server.answers["/"] = answer(b"" if method == "HEAD" else b"done", length=4)
    result = succeeded(fetch(server.url, method=method, headers={"X-Key": "a b", "Accept": "text/html"}))
    ((line, fields, _),) = server.requests
    assert (line, fields["x-key"], fields["accept"]) == (f"{method} / HTTP/1.1", "a b", "text/html")
    assert result["body"] == ("" if method == "HEAD" else "done")
    assert (result["body_dropped_bytes"], result["truncated"]) == (0, False)


def test_an_answer_given_before_all_of_a_body_was_taken_is_heard(server: Server, fetch: Fetching):
    """A server that has heard enough answers and reads no further."""
    body = "x" * (8 * MEBIBYTE)
    line = b"POST /no HTTP/1.1"

    def early(connection: socket.socket) -> None:
        connection.sendall(answer(b"too large", status="413 Content Too Large"))

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    fetch.reset(f"127.0.0.1:{port}")

    async def both() -> Any:
        call = asyncio.create_task(
            asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/no", method="POST", body=body)
        )
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            assert (await asyncio.to_thread(connection.recv, len(line), socket.MSG_WAITALL)) == line
            early(connection)
            return await call

    with listener:
        result = succeeded(asyncio.run(both()))
    assert (result["status"], result["body"]) == (413, "too large")
    assert 0 < result["bytes_out"] < len(body)


def test_no_file_is_changed_by_it_and_that_is_told(server: Server, fetch: Fetching):
    server.answers["/"] = answer(b"x")
    assert fetch.recorded(fetch(server.url)).changes_count == 0


def test_it_is_built_in_and_asks_for_no_host_before_it_has_looked_at_the_arguments(fetch: Fetching):
    call = fetch.runtime.call("http_fetch", {"url": "file:///etc/passwd"})
    assert "Only http:// and https://" in refused(call)
    call = fetch.runtime.call("http_fetch", {"url": "http://service.test/"}, dry_run=True)
    assert succeeded(call)["would_send"]["url"] == "http://service.test/"


def test_a_status_that_is_no_success_is_an_answer(server: Server, fetch: Fetching):
    server.answers["/"] = answer(b"nothing here", status="404 Nicht da")
    result = succeeded(fetch(server.url))
    assert (result["status"], result["reason"], result["body"]) == (404, "Nicht da", "nothing here")


def test_what_comes_in_chunks_or_without_a_length_is_put_together(server: Server, fetch: Fetching):
    server.answers["/chunks"] = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + answer(b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer-Field: 1\r\n\r\n", "Transfer-Encoding: chunked")
    )
    server.answers["/open"] = b"HTTP/1.0 200 OK\r\n\r\nto the end"
    server.answers["/none"] = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert succeeded(fetch(f"{server.url}/chunks"))["body"] == "abcde"
    assert succeeded(fetch(f"{server.url}/open"))["body"] == "to the end"
    assert succeeded(fetch(f"{server.url}/none"))["body"] == ""


def test_the_proxies_of_the_environment_are_not_asked(
    server: Server, fetch: Fetching, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.answers["/"] = answer(b"direct")
    assert succeeded(fetch(server.url))["body"] == "direct"


# -- bodies as text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "encoding", "body"),
    [
        ("text/html; charset=ISO-8859-1", b"gr\xfc\xdfe", "iso8859-1", "grüße"),
        ('text/html;charset="Shift_JIS"', "日本".encode("shift_jis"), "shift_jis", "日本"),
        ("text/plain; charset=utf-16", "ü\n".encode("utf-16"), "utf-16", "ü\n"),
        ("text/plain; charset=utf-8", b"\xef\xbb\xbfmarked", "utf-8", "marked"),
        ("text/plain; charset=punycode", b"plain", "utf-8", "plain"),
        ("text/plain; charset=nonsense", "ü".encode(), "utf-8", "ü"),
        ("text/plain", b"caf\xe9 noir", "latin-1", "café noir"),
        ("application/json", b'{"a": 1}', "utf-8", '{"a": 1}'),
        ("", b"", "utf-8", ""),
        ("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "base64", None),
        ("text/plain; charset=utf-8", b"MZ\0\1\2", "base64", None),
    ],
)
def test_text_comes_as_text_by_its_charset_and_anything_else_as_base64(
    server: Server, fetch: Fetching, kind: str, data: bytes, encoding: str, body: str | None
):
    server.answers["/"] = answer(data, f"Content-Type: {kind}")
    result = succeeded(fetch(server.url))
    assert result["encoding"] == encoding
    assert result["body"] == (base64.b64encode(data).decode() if body is None else body)
    assert result["body_bytes"] == len(data)


def test_bytes_that_are_no_text_in_their_charset_are_counted(server: Server, fetch: Fetching):
    server.answers["/"] = answer(b"a\xffb\xef\xbf\xbd\xfe", "Content-Type: text/plain; charset=utf-8")
    result = succeeded(fetch(server.url))
    assert (result["body"], result["undecodable"]) == ("a\ufffdb\ufffd\ufffd", 2)


# -- how much of a body -----------------------------------------------------------------------------------


def test_what_is_more_than_was_asked_for_is_counted_and_no_character_is_cut(server: Server, fetch: Fetching):
    data = "größer ".encode() * 100
    server.answers["/"] = answer(data, "Content-Type: text/plain; charset=utf-8")
    result = succeeded(fetch(server.url, bytes_max=3))
    assert (result["body"], result["body_bytes"], result["truncated"]) == ("gr", 2, True)
    assert result["body_dropped_bytes"] == len(data) - 2
    exact = succeeded(fetch(server.url, bytes_max=len(data)))
    assert (exact["body_dropped_bytes"], exact["truncated"]) == (0, False)


def test_of_a_text_that_was_cut_the_record_has_no_half_word(server: Server, fetch: Fetching):
    token = "ghp_" + "a1B2c3" * 6
    server.answers["/"] = answer(f"key {token} end".encode())
    call = fetch(server.url, bytes_max=30)
    recorded = fetch.recorded(call).result
    assert call.result["body"] == f"key {token}"[:30]
    assert (recorded["body"], recorded["not_recorded_characters"]) == ("key ", 26)
    assert "not_recorded_characters" not in fetch.recorded(fetch(server.url)).result


def test_an_endless_body_is_ended_at_its_bound(server: Server, fetch: Fetching):
    server.answers["/"] = server.repeats(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)
    server.answers["/chunks"] = server.repeats(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"64\r\n" + b"y" * 100 + b"\r\n"
    )
    for path, byte in (("/", "x"), ("/chunks", "y")):
        server.ended.clear()
        result = succeeded(fetch(server.url + path, bytes_max=100_000))
        assert result["body"] == byte * 100_000
        assert (result["body_dropped_bytes"], result["truncated"]) == (None, True)
        assert server.ended.wait(WAIT_SECONDS)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", packed_by_gzip(b"expanded")),
        ("x-gzip", packed_by_gzip(b"expanded")),
        ("gzip", packed_by_gzip(b"exp") + packed_by_gzip(b"") + packed_by_gzip(b"anded") + b"\0\0rest"),
        ("deflate", zlib.compress(b"expanded")),
        ("Deflate", zlib.compress(b"expanded", wbits=-15)),
    ],
)
def test_a_compressed_body_is_expanded(server: Server, fetch: Fetching, coding: str, packed: bytes):
    server.answers["/"] = answer(packed, f"Content-Encoding: {coding}")
    result = succeeded(fetch(server.url))
    assert (result["body"], result["body_bytes"]) == ("expanded", 8)
    assert result["decoded"] == ("deflate" if "eflate" in coding else "gzip")


def test_a_body_in_a_coding_nobody_asked_for_stays_as_it_is(server: Server, fetch: Fetching):
    server.answers["/"] = answer(b"\0brotli", "Content-Encoding: br")
    result = succeeded(fetch(server.url))
    assert (result["decoded"], base64.b64decode(result["body"])) == (None, b"\0brotli")


def test_a_small_body_that_expands_without_end_is_expanded_to_its_bound(server: Server, fetch: Fetching):
    bomb = packed_by_gzip(b"\0" * (8 * MEBIBYTE))
    server.answers["/"] = answer(bomb, GZIPPED)
    result = succeeded(fetch(server.url, bytes_max=1000))
    assert (base64.b64decode(result["body"]), result["truncated"]) == (bytes(1000), True)
    assert result["body_dropped_bytes"] is None


@pytest.mark.parametrize(
    ("fields", "begun", "again", "why"),
    [
        (GZIPPED, b"", packed_by_gzip(b"") * 100, "more than 1000 pieces"),
        (
            "Content-Encoding: deflate",
            zlib.compressobj().compress(b""),
            b"\0\0\0\xff\xff" * 10_000,
            "hardly any content",
        ),
    ],
)
def test_a_body_that_expands_to_nothing_is_not_waited_for(
    server: Server, fetch: Fetching, fields: str, begun: bytes, again: bytes, why: str
):
    head = f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode()
    server.answers["/"] = server.repeats(head + begun, again)
    assert why in failed(fetch(server.url))
    assert server.ended.wait(WAIT_SECONDS)


@pytest.mark.parametrize(
    ("packed", "why"),
    [(b"plain", "cannot be expanded"), (packed_by_gzip(b"x" * 1000)[:-9], "ends in the middle")],
)
def test_a_body_that_is_not_what_its_server_says_is_no_answer(
    server: Server, fetch: Fetching, packed: bytes, why: str
):
    server.answers["/"] = answer(packed, GZIPPED)
    assert why in failed(fetch(server.url))


@given(
    data=st.binary(max_size=1000),
    coding=st.sampled_from([None, "gzip", "deflate"]),
    bytes_max=st.integers(1, 1500),
    cuts=st.lists(st.integers(0, 1000), max_size=8),
)
def test_however_a_body_arrives_as_much_of_it_is_kept(
    data: bytes, coding: Any, bytes_max: int, cuts: list[int]
):
    packed = {None: data, "gzip": packed_by_gzip(data), "deflate": zlib.compress(data)}[coding]
    body = Body(bytes_max, coding, None if coding else len(packed))
    places = sorted({0, len(packed), *(cut for cut in cuts if cut < len(packed))})
    pieces = (packed[begin:end] for begin, end in pairwise(places))
    if all(body.feed(piece) for piece in pieces):
        body.finish()
    assert body.data == data[:bytes_max]
    assert body.truncated == (len(data) > bytes_max)
    said, recorded = asyncio.run(shown(body, ""))
    kept = said["body"] if recorded is None else recorded["body"]
    assert said["body"].startswith(kept)
    if coding is None:
        assert said["body_bytes"] + said["body_dropped_bytes"] == len(data)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_whatever_says_it_is_compressed_is_expanded_within_its_bound_or_refused(data: bytes, coding: Any):
    body = Body(100, coding, None)
    with suppress(ToolError):
        if body.feed(data):
            body.finish()
    assert len(body.data) <= 100


# -- servers that do not do as they should ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer(b"short", length=10), "ended 5 bytes too early"),
        (answer(b"5\r\nab", "Transfer-Encoding: chunked"), "ended 3 bytes too early"),
        (answer(b"1\r\nab\r\n", "Transfer-Encoding: chunked"), "does not end where it should"),
        (answer(b"zz\r\n", "Transfer-Encoding: chunked"), "A chunk cannot be read"),
        (answer(b"1\r\na\r\n0\r\n" + b"X: y\r\n" * 200, "Transfer-Encoding: chunked"), "headers follow"),
        (answer(b"1\r\ny\r\n" * 11_000, "Transfer-Encoding: chunked"), "in more than 10000 pieces"),
        (answer(b"5" * 100_000, "Transfer-Encoding: chunked"), "too long"),
        (answer(b"a", "Transfer-Encoding: chunked", "Content-Length: 1"), "both"),
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n", "ended within a head"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "no response of HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "head is too long"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", "head is too long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "does not answer as HTTP asks"),
        (b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n", "does not answer as HTTP asks"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "a protocol nobody asked for"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, "one interim answer after the other"),
    ],
)
def test_what_is_no_http_is_said_to_be_none(server: Server, fetch: Fetching, said: bytes, why: str):
    server.answers["/"] = said
    assert why in failed(fetch(server.url))


def test_what_follows_a_body_of_the_length_its_server_said_is_no_part_of_it(server: Server, fetch: Fetching):
    server.answers["/"] = answer(b"body, and HTTP/1.1 200 OK", length=4)
    result = succeeded(fetch(server.url))
    assert (result["body"], result["truncated"]) == ("body", False)


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", answer(b"slow", length=100)])
def test_a_server_that_goes_silent_is_waited_for_until_the_deadline(
    server: Server, fetch: Fetching, begun: bytes
):
    server.answers["/"] = server.hangs(begun)
    call = cut_off(lambda seconds: fetch(server.url, timeout=seconds), lambda call: call.result)
    hop = {"url": f"{server.url}/", "status": None, "address": "127.0.0.1"}
    assert (call.outcome, call.result) == ("timed_out", {"hops": [hop]})
    assert server.ended.wait(WAIT_SECONDS)


def test_a_call_that_is_cancelled_ends_its_connection(tmp_path: Path, server: Server):
    server.answers["/"] = server.hangs()
    tool = HttpFetch(allowed=lambda _context: Allowed(hosts=(server.place,)))
    tool.name = "fetch"

    async def cancelled() -> str:
        async with custody.open(":memory:", cwd=str(tmp_path), tools=[tool]) as runtime:
            waiting = asyncio.create_task(runtime.call("fetch", {"url": server.url}, timeout=60))
            assert await asyncio.to_thread(server.came.wait, WAIT_SECONDS)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert await asyncio.to_thread(server.ended.wait, WAIT_SECONDS)
            runtime.index.refresh()
            (call,) = runtime.index.calls(CallFilter(tool="fetch")).items
            return str(call.outcome)

    assert asyncio.run(cancelled()) == "cancelled"


# -- what is not sent -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"url": "file:///etc/passwd"}, "Only http:// and https://"),
        ({"url": "ftp://127.0.0.1/"}, "Only http:// and https://"),
        ({"url": "127.0.0.1/a"}, "Only http:// and https://"),
        ({"url": "http:/127.0.0.1/"}, "names no host"),
        ({"url": "http://@/"}, "names no host"),
        ({"url": "http://a.test[::1]/"}, "names no host"),
        ({"url": "http://[::1]a.test/"}, "names no host"),
        ({"url": "http://%00/"}, "names no host"),
        ({"url": "http://127.0.0.1\r\nX: y/"}, "a control character"),
        ({"url": "http://127.0.0.1/a b"}, "a blank"),
        ({"url": "http://example.org\\@127.0.0.1/"}, "a backslash"),
        ({"url": "http://[::1/"}, "no URL"),
        ({"url": "http://127.0.0.1:99999/"}, "no URL"),
        ({"url": "http://127.0.0.1:0/"}, "port 0"),
        ({"url": "http://127.0.0.1/\ud800"}, "no URL"),
        ({"url": "http://127.0.0.1/" + "x" * 20_000}, "16384 is the most"),
        ({"headers": {"X\r\nY": "z"}}, "none can have"),
        ({"headers": {"X:": "z"}}, "none can have"),
        ({"headers": {"": "z"}}, "none can have"),
        ({"headers": {"X": "a\r\nY: z"}}, "a line end"),
        ({"headers": {"X": "a\nb"}}, "a line end"),
        ({"headers": {"X": "a\0b"}}, "a control character"),
        ({"headers": {"X": " a"}}, "a blank"),
        ({"headers": {"X": "大"}}, "not Latin-1"),
        ({"headers": {"Host": "elsewhere"}}, "not the caller's"),
        ({"headers": {"transfer-encoding": "chunked"}}, "not the caller's"),
        ({"headers": {"Content-Length": "1"}}, "not the caller's"),
        ({"headers": {"a": "1", "A": "2"}}, "given twice"),
        ({"headers": {f"x-{number}": "y" for number in range(101)}}, "At most 100 headers"),
        ({"headers": {"X": "y" * 40_000}}, "At most 100 headers"),
        ({"url": "http://a:b@127.0.0.1/", "headers": {"Authorization": "c"}}, "give one of them"),
        ({"method": "POST", "body": "a", "json": {}}, "either `body` or `json`"),
        ({"method": "POST", "body": "\ud800"}, "surrogate"),
        ({"method": "POST", "json": [float("nan")]}, "no value that JSON has"),
        ({"method": "TRACE"}, "method"),
        ({"method": "get"}, "method"),
        ({"bytes_max": 17 * MEBIBYTE}, "bytes_max"),
        ({"redirects_max": 11}, "redirects_max"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    server: Server, fetch: Fetching, arguments: dict[str, Any], why: str
):
    arguments = {"url": server.url, **arguments}
    assert why in refused(fetch(**arguments))
    assert server.requests == []


def test_a_dry_run_says_what_would_be_sent_and_reaches_nobody(server: Server, fetch: Fetching):
    fetch.reset()
    call = fetch("http://service.test/a?b", method="POST", json=[1], dry_run=True)
    assert succeeded(call) == {
        "dry_run": True,
        "would_send": {
            "method": "POST",
            "url": "http://service.test/a?b",
            "headers": {
                "host": "service.test",
                "user-agent": "custody",
                "accept": "*/*",
                "accept-encoding": "gzip, deflate",
                "content-length": "3",
                "content-type": "application/json",
                "connection": "close",
            },
            "body_bytes": 3,
        },
    }
    assert (fetch.asked, server.requests) == ([], [])


def test_no_credential_of_a_request_or_an_answer_is_on_the_record(server: Server, fetch: Fetching):
    server.answers["/"] = answer(
        b"in", "Set-Cookie: session=3f9a7c21d0b84e56; Path=/", "Set-Cookie: b=c7d8e9f0a1b2"
    )
    secrets = ("opensesame-41", "kq81-zz02", "3f9a7c21d0b84e56", "c7d8e9f0a1b2", "aladdin-lamp-7")
    first = fetch(server.url, headers={"Authorization": "Bearer opensesame-41", "Cookie": "s=kq81-zz02"})
    second = fetch(server.url.replace("//", "//aladdin:aladdin-lamp-7@"))
    assert (
        server.requests[1][1]["authorization"]
        == "Basic " + base64.b64encode(b"aladdin:aladdin-lamp-7").decode()
    )
    assert first.result["headers"]["set-cookie"][0].startswith("session=3f9a7c21d0b84e56")
    for call in (first, second):
        recorded = fetch.recorded(call)
        said = f"{recorded.arguments} {recorded.result}"
        assert [secret for secret in secrets if secret in said] == []


PARTS = (
    "a.test 127.0.0.1 [::1] 0x7f.1 @ : 80 \\ / ? # %40 %2f user \u3002 . ü [ ] // ; & %61 ü.test 2130706433"
)
AUTHORITIES = st.lists(
    st.sampled_from(PARTS.split()),
    min_size=1,
    max_size=8,
).map("".join)


@given(AUTHORITIES)
def test_rules_about_hosts_are_asked_about_the_host_that_is_connected_to(authority: str):
    """What policy finds in the argument and where the request goes are read by two readers."""
    text = f"http://{authority}"
    try:
        url = Asked(url=text).request().url
    except ValueError:
        return
    assert _meant(url.host) in {_meant(host.host) for host in hosts_in(text)}
    assert read_url(str(url)) == (url, None)


def _meant(host: str) -> str | None:
    return parse_address(host)[0] or ascii_name(host)
