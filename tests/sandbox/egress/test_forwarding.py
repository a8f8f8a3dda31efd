"""A request in plain HTTP is passed on as it was meant, and refused where it could mean two things."""

import asyncio
import contextlib
import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sandbox.egress.serving import answering, proxied, run, serving

from custody.sandbox.egress.http1 import Malformed, parse_request, parse_response, request_framing, target_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n"
    b"1;x=y\r\na\r\n0b\r\nten and one\r\n0\r\nA: b\r\n\r\n"
)


def test_the_host_is_asked_for_what_the_url_says_and_not_for_what_is_between_neighbours():
    seen: list[bytes] = []

    async def main() -> None:
        async with serving(answering(OK, seen)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            answer = await proxy.ask(
                f"GET HTTP://127.1:{port}?a=b HTTP/1.1\r\nHost: evil.example\r\nAccept: */*\r\n"
                "Proxy-Authorization: Basic x\r\nProxy-Connection: close\r\nTE: trailers\r\nUpgrade: h2c\r\n"
                "Connection: X-Mine, close\r\nX-Mine: 1\r\nkeep-alive: 5\r\nX-Other: é\r\n\r\n".encode(
                    "latin-1"
                )
            )
            assert answer == (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            assert seen == [
                f"GET /?a=b HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nX-Other: é\r\n"
                "Connection: close\r\n\r\n".encode("latin-1")
            ]
            told = await proxy.told.get()
            assert (told.host, told.address, told.bytes_in, told.bytes_out) == (
                "127.1",
                "127.0.0.1",
                len(OK),
                len(seen[0]),
            )

    run(main())


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"Content-Length: 2\r\n\r\nhi"),
        (b"HTTP/1.0 200 OK\r\n\r\nall of it", b"Connection: close\r\n\r\nall of it"),
        (
            CHUNKS,
            b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nb\r\nten and one\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"204 No Content\r\n\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"Content-Length: 9\r\n\r\n"),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        ),
    ],
)
def test_an_answer_comes_back_whole_however_its_end_is_told(answer: bytes, shown: bytes):
    async def main() -> None:
        async with serving(answering(answer)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            reader, writer = await proxy.connect()
            writer.write(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            assert (await reader.readuntil(shown)).endswith(shown)
            writer.close()
            assert (await proxy.told.get()).error is None

    run(main())


def test_an_old_client_gets_a_body_in_chunks_as_one():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"

    async def main() -> None:
        async with serving(answering(chunked)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            answer = await proxy.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.0\r\n\r\n".encode())
            assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcdef"

    run(main())


def test_an_answer_to_head_has_a_length_and_no_body():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"

    async def main() -> None:
        async with serving(answering(answer)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            head = f"HEAD http://127.0.0.1:{port}/ HTTP/1.1\r\n"
            found = await proxy.ask(f"{head}\r\n{head}Connection: close\r\n\r\n".encode())
            assert found == answer + answer[:-2] + b"Connection: close\r\n\r\n"

    run(main())


@pytest.mark.parametrize("chunked", [True, False])
def test_a_large_body_is_streamed_there_and_back(chunked: bool):
    whole = bytes(range(256)) * 12_000
    received = hashlib.sha256()

    async def echoing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if chunked:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                received.update(await reader.readexactly(size))
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readexactly(2) == b"\r\n"
        else:
            received.update(await reader.readexactly(len(whole)))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + whole)
        await writer.drain()

    async def main() -> None:
        async with serving(echoing) as port, proxied(f"127.0.0.1:{port}") as proxy:
            length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(whole)}"
            reader, writer = await proxy.connect()
            writer.write(f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\n{length}\r\n\r\n".encode())
            for at in range(0, len(whole), 100_000):
                piece = whole[at : at + 100_000]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")
            answer = await reader.read()
            assert answer.partition(b"\r\n\r\n")[2] == whole
            writer.close()
            assert (await proxy.told.get()).bytes_out > len(whole)

    run(main())
    assert received.digest() == hashlib.sha256(whole).digest()


def test_who_waits_to_be_told_to_go_on_is_told_by_the_host():
    async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect: 100-continue\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)

    async def main() -> None:
        async with serving(careful) as port, proxied(f"127.0.0.1:{port}") as proxy:
            reader, writer = await proxy.connect()
            head = (
                f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            )
            writer.write(head.encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"body")
            assert await reader.readuntil(b"body") == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
            writer.close()

    run(main())


def test_an_answer_that_comes_before_the_request_has_ended_is_passed_on():
    async def impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()

    async def main() -> None:
        async with serving(impatient) as port, proxied(f"127.0.0.1:{port}") as proxy:
            reader, writer = await proxy.connect()
            writer.write(f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\nno")).startswith(b"HTTP/1.1 413 Too Much\r\n")
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    run(main())


# -- what could be read in two ways ---------------------------------------------------------------------

AMBIGUOUS = {
    "both lengths": "POST {url} HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "POST {url} HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbodyx",
    "a length in two": "POST {url} HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\nbody",
    "a length with a sign": "POST {url} HTTP/1.1\r\nContent-Length: +4\r\n\r\nbody",
    "another encoding": "POST {url} HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an encoding twice": "POST {url} HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    "an encoding that is odd": "POST {url} HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "an encoding in an old request": "POST {url} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a blank in front of the colon": "POST {url} HTTP/1.1\r\nContent-Length : 4\r\n\r\nbody",
    "a folded line": "GET {url} HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "a line feed alone": "GET {url} HTTP/1.1\nHost: a\n\n",
    "a line feed alone in a header": "GET {url} HTTP/1.1\r\nA: b\nContent-Length: 4\r\n\r\n",
    "a carriage return alone": "GET {url} HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    "a NUL": "GET {url} HTTP/1.1\r\nA: b\0\r\n\r\n",
    "a control character": "GET {url} HTTP/1.1\r\nA: b\x1bc\r\n\r\n",
    "no colon": "GET {url} HTTP/1.1\r\nA\r\n\r\n",
    "two hosts": "GET {url} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two blanks": "GET  {url} HTTP/1.1\r\n\r\n",
    "no version": "GET {url}\r\n\r\n",
    "another version": "GET {url} HTTP/2.0\r\n\r\n",
    "an empty line first": "\r\nGET {url} HTTP/1.1\r\n\r\n",
    "a user": "GET http://user@127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
    "a host behind a backslash": "GET http://127.0.0.1:{port}\\@evil.example/ HTTP/1.1\r\n\r\n",
    "a fragment": "GET {url}#a HTTP/1.1\r\n\r\n",
    "a path alone": "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    "another scheme": "GET https://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
    "a tunnel without a port": "CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n",
    "a tunnel to a URL": "CONNECT http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
    "an odd port": "CONNECT 127.0.0.1:{port}x HTTP/1.1\r\n\r\n",
    "another protocol": "\x16\x03\x01\x02\x00\x01\r\n\r\n",
}


@pytest.mark.parametrize("request_text", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_that_could_be_read_in_two_ways_reaches_no_host(request_text: str):
    connected: list[bool] = []

    async def seen(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        connected.append(True)

    async def main() -> None:
        async with serving(seen) as port, proxied(f"127.0.0.1:{port}") as proxy:
            raw = request_text.replace("{url}", f"http://127.0.0.1:{port}/").replace("{port}", str(port))
            answer = await proxy.ask(raw.encode("latin-1"))
            assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")
            told = await proxy.told.get()
            assert (told.verdict, told.bytes_out) == ("refused", 0)
            assert told.reason
            assert proxy.told.empty()

    run(main())
    assert connected == []


@pytest.mark.parametrize(
    "body",
    ["x\r\n", "-1\r\n", "3\r\nabcd\r\n", "3\nabc\n0\n\n", "ffffffffffffffffff\r\n", "1;" + "x" * 9_000],
)
def test_a_body_that_cannot_be_read_is_not_passed_on_further(body: str):
    async def main() -> None:
        ended = asyncio.Event()

        async def until_broken(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            finally:
                ended.set()

        async with serving(until_broken) as port, proxied(f"127.0.0.1:{port}") as proxy:
            head = f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            assert (await proxy.ask((head + body + "\r\n" * 2_000).encode())).startswith(b"HTTP/1.1 400 ")
            await ended.wait()
            assert (await proxy.told.get()).error

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 smtp.example ready\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA",
    ],
)
def test_a_host_that_answers_no_http_is_no_answer(answer: bytes):
    async def main() -> None:
        async with serving(answering(answer)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            found = await proxy.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            assert found.startswith(b"HTTP/1.1 502 Bad Gateway: ")
            assert (await proxy.told.get()).error

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nx\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_seen_to_be_incomplete(answer: bytes):
    async def main() -> None:
        async with serving(answering(answer)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            with pytest.raises(ConnectionResetError):
                await proxy.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            assert (await proxy.told.get()).error

    run(main())


def test_whatever_is_sent_the_proxy_goes_on(caplog: pytest.LogCaptureFixture):
    """Requests that are cut, doubled and changed somewhere, from the same seed each time."""
    chance = random.Random(7)

    def changed(whole: bytes) -> bytes:
        at, to = sorted(chance.choices(range(len(whole)), k=2))
        return chance.choice(
            (whole[:at], whole[:to] + whole[at:], whole[:at] + chance.randbytes(3) + whole[to:], whole[at:])
        )

    async def main() -> None:
        async with serving(answering(OK)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            url = f"http://127.0.0.1:{port}/"
            requests = [
                f"POST {url} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                f"PUT {url} HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n",
                f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            ]
            for number in range(150):
                reader, writer = await proxy.connect()
                writer.write(changed(requests[number % 3].encode()))
                writer.write_eof()
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()
                writer.close()
            answer = await proxy.ask(f"GET {url} HTTP/1.0\r\n\r\n".encode())
            assert answer.endswith(b"\r\n\r\nhi")

    run(main())
    assert caplog.records == []


@settings(max_examples=60)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"GET http://a.example/ HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"]),
)
def test_any_bytes_are_read_or_called_malformed(data: bytes, front: bytes):
    for parse in (parse_request, parse_response):
        try:
            parsed = parse(front + data + b"\r\n\r\n")
        except Malformed:
            continue
        for name, value in parsed.headers:
            assert "\n" not in name + value and "\r" not in name + value and ":" not in name


@pytest.mark.parametrize("piece", [" ", "\t", "a ", "; ", ",", ":", "\xe9"])
def test_a_long_line_is_read_at_once(piece: str):
    line = f"a{piece * (60_000 // len(piece))}b"
    request = parse_request(f"GET http://a.example/ HTTP/1.1\r\nA: {line}\r\n\r\n".encode("latin-1"))
    assert request.headers == (("A", line),)


headers = st.lists(
    st.tuples(
        st.sampled_from(["Content-Length", "content-length", "Transfer-Encoding", "Host", "X-A"]),
        st.sampled_from(["", "0", "5", "5 5", "0x5", "chunked", "Chunked", "identity", "a.example"]),
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(headers)
def test_a_request_has_one_length_or_is_malformed(fields: list[tuple[str, str]]):
    head = "POST http://a.example/ HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    try:
        request = parse_request(head.encode() + b"\r\n")
        framing, _ = request_framing(request), target_of(request)
    except Malformed:
        return
    sized = [value for name, value in fields if name.lower() in ("content-length", "transfer-encoding")]
    assert len(sized) <= 1
    assert framing.kind == ("none" if not sized else "chunked" if sized[0].lower() == "chunked" else "length")
