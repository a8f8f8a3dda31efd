"""A command reaches the hosts that are listed, and is told at once of one that is not."""

import asyncio
import contextlib
import ctypes
import itertools
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Sequence

import pytest
from msgspec import structs
from tests.sandbox.commands import eventually_async
from tests.sandbox.egress.serving import (
    SECONDS_MAX,
    Proxied,
    answering,
    echo,
    listener,
    port_of,
    proxied,
    run,
    serving,
)

from custody.sandbox.egress import Allowed, Bounds, Connection, Proxy
from custody.sandbox.egress.proxy import NO_DESCRIPTOR_SECONDS

SO_ATTACH_FILTER = 26  # which Python has no name for
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def timeless(connection: Connection) -> Connection:
    assert 0 < connection.started_us <= connection.ended_us
    return structs.replace(connection, started_us=0, ended_us=0)


# -- tunnels --------------------------------------------------------------------------------------------


def test_a_tunnel_carries_bytes_both_ways_and_is_accounted_for_at_its_end():
    async def main() -> None:
        async with serving(echo) as port, proxied(f"127.0.0.1:{port}") as proxy:
            reader, writer = await proxy.connect()
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: whatever\r\n\r\nfirst".encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
            assert await reader.readexactly(5) == b"first"
            writer.write(b"second")
            assert await reader.readexactly(6) == b"second"
            assert proxy.told.empty()
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert timeless(await proxy.told.get()) == Connection(
                host="127.0.0.1",
                port=port,
                address="127.0.0.1",
                verdict="allowed",
                bytes_in=11,
                bytes_out=11,
                started_us=0,
                ended_us=0,
            )

    run(main())


def test_each_side_of_a_tunnel_may_end_before_the_other():
    async def last_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await reader.read()
        writer.write(b"got %d" % len(whole))

    async def first_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        heard.put_nowait(await reader.read())

    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def main() -> None:
        async with serving(last_word) as port, proxied(f"127.0.0.1:{port}") as proxy:
            reader, writer = await proxy.connect()
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode() + b"x" * 100_000)
            writer.write_eof()
            assert (await reader.read()).endswith(b"\r\n\r\ngot 100000")
            writer.close()
        async with serving(first_word) as port, proxied(f"127.0.0.1:{port}") as proxy:
            reader, writer = await proxy.connect()
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            assert (await reader.read()).endswith(b"\r\n\r\nhello")
            writer.write(b"late")
            writer.write_eof()
            assert (await proxy.told.get()).bytes_out == 4
            assert await heard.get() == b"late"
            writer.close()

    run(main())


def test_a_host_is_reached_by_the_first_of_its_addresses_that_answers():
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ("127.0.0.2", "127.0.0.1")

    async def main() -> None:
        async with serving(echo) as port:
            hosts = (f"inside.example:{port}", f"127.0.0.1:{port}", f"127.0.0.2:{port}")
            async with proxied(*hosts, resolve=resolve) as proxy:
                reader, writer = await proxy.connect()
                writer.write(f"CONNECT Inside.Example:{port} HTTP/1.1\r\n\r\nx".encode())
                assert (await reader.readuntil(b"x")).endswith(b"\r\n\r\nx")
                writer.close()
                told = await proxy.told.get()
                assert (told.host, told.address, told.error) == ("Inside.Example", "127.0.0.1", None)

    run(main())


def test_the_addresses_that_were_judged_are_the_ones_connected_to():
    """A second answer, from a server that changes its mind, is never asked for."""
    answers = iter([("127.0.0.1",), ("127.0.0.9",)])

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return next(answers)

    async def main() -> None:
        async with (
            serving(echo) as port,
            proxied(f"a.example:{port}", f"127.0.0.1:{port}", resolve=resolve) as proxy,
        ):
            request = f"CONNECT a.example:{port} HTTP/1.1\r\n\r\n".encode()
            reader, writer = await proxy.connect()
            writer.write(request)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert b"403 Refused by Custody" in await proxy.ask(request)
            writer.close()

    run(main())


# -- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_line",
    ["CONNECT evil.example:443", "GET http://evil.example:443/a", "POST http://EVIL.example:443?secret"],
)
def test_a_host_that_is_not_listed_is_refused_at_once_with_the_line_that_allows_it(request_line: str):
    async def resolve(host: str, _port: int) -> Sequence[str]:
        raise AssertionError(f"{host} was looked up")

    words = (
        "evil.example:443 is not on the list of hosts. "
        'Allow it in the settings: [sandbox] hosts = ["evil.example"]'
    )

    async def main() -> None:
        async with proxied("example.org", resolve=resolve) as proxy:
            answer = await proxy.ask(f"{request_line} HTTP/1.1\r\n\r\n".encode())
            head, _, body = answer.decode().partition("\r\n\r\n")
            first, *headers = head.split("\r\n")
            assert first == f"HTTP/1.1 403 Refused by Custody: {words}"
            assert f"X-Custody-Refused: {words}" in headers
            assert body == words + "\n"
            told = await proxy.told.get()
            assert (told.verdict, told.port, told.reason) == ("refused", 443, words.partition(" Allow")[0])
            assert told.hint == "Allow it" + words.partition("Allow it")[2]
            assert (told.bytes_in, told.bytes_out, told.address) == (0, 0, None)

    run(main())


def test_each_request_of_a_connection_is_decided_by_itself():
    seen: list[bytes] = []

    async def main() -> None:
        async with serving(answering(OK, seen)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            reader, writer = await proxy.connect()
            for _ in range(2):
                writer.write(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
                assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.write(b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 403 Refused by Custody")
            writer.close()
            assert [(await proxy.told.get()).verdict for _ in range(3)] == ["allowed", "allowed", "refused"]

    run(main())
    assert len(seen) == 2


def test_requests_sent_ahead_are_answered_in_their_order():
    async def main() -> None:
        async with serving(answering(OK)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            one = f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n".encode()
            answer = await proxy.ask(one + b"\r\n" + one + b"\r\n" + one + b"Connection: close\r\n\r\n")
            assert answer.count(b"200 OK") == answer.count(b"\r\n\r\nhi") == 3

    run(main())


def test_a_host_that_cannot_be_reached_is_told_apart_from_one_that_is_refused():
    async def main() -> None:
        closed = socket.socket()
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can be given the port
        port = port_of(closed)
        async with proxied(f"127.0.0.1:{port}", "no-such-name.invalid") as proxy:
            answer = await proxy.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            assert answer.startswith(f"HTTP/1.1 502 Bad Gateway: 127.0.0.1:{port}: ".encode())
            told = await proxy.told.get()
            assert (told.verdict, told.reason, told.address) == ("allowed", None, None)
            assert "refused" in (told.error or "").lower()
            answer = await proxy.ask(b"GET http://no-such-name.invalid/ HTTP/1.1\r\n\r\n")
            assert b"502 Bad Gateway: no-such-name.invalid could not be looked up" in answer
            assert "could not be looked up" in ((await proxy.told.get()).error or "")
        closed.close()

    run(main())


def drop_all(host: socket.socket) -> None:
    """Whatever comes for it, as behind a firewall that does not answer."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes of it
    attached = struct.pack("HP", 1, ctypes.addressof(program))
    host.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attached)


def test_a_host_that_does_not_answer_a_connection_is_given_up():
    async def main() -> None:
        silent = listener()
        drop_all(silent)
        port = port_of(silent)
        async with proxied(f"127.0.0.1:{port}", bounds=Bounds(connect_seconds=0.1)) as proxy:
            answer = await proxy.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 504 Gateway Timeout: ")
            assert (await proxy.told.get()).error == "no connection within 0.1 s"
        silent.close()

    run(main())


# -- bounds ---------------------------------------------------------------------------------------------


def test_who_never_reads_is_sent_no_more_and_holds_up_nobody_else():
    sent: list[int] = []

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(sent)
        sent.append(0)
        writer.transport.set_write_buffer_limits(high=0)
        while sent[number] < 1 << 30:
            writer.write(bytes(65_536))
            await writer.drain()
            sent[number] += 65_536

    async def never_reads(proxy: Proxied, flooding: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await proxy.connect()
        writer.transport.pause_reading()
        writer.write(f"CONNECT 127.0.0.1:{flooding} HTTP/1.1\r\n\r\n".encode())
        return reader, writer

    async def given_up(proxy: Proxied, flooding: int) -> Connection:
        reader, writer = await never_reads(proxy, flooding)
        told = await proxy.told.get()
        writer.transport.resume_reading()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        return told

    async def main() -> None:
        async with (
            serving(flood) as flooding,
            serving(answering(OK)) as port,
            proxied(f"127.0.0.1:{flooding}", f"127.0.0.1:{port}") as proxy,
            proxied(f"127.0.0.1:{flooding}", bounds=Bounds(idle_seconds=0.3)) as hasty,
        ):
            _, writer = await never_reads(proxy, flooding)
            answer = await proxy.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.0\r\n\r\n".encode())
            assert answer.endswith(b"\r\n\r\nhi")
            assert (await proxy.told.get()).port == port
            assert proxy.told.empty()
            writer.close()
            while not (told := await given_up(hasty, flooding)).bytes_in:
                pass  # this process was not run for so long
            assert told.error == "nothing moved for 0.3 s"
            assert 0 < told.bytes_in <= sent[-1] < 64 << 20

    run(main())


def test_a_connection_on_which_nothing_moves_is_ended():
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        async with (
            serving(silent) as port,
            proxied(f"127.0.0.1:{port}", bounds=Bounds(idle_seconds=0.05)) as proxy,
        ):
            answer = await proxy.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 504 Gateway Timeout: ")
            assert (await proxy.told.get()).error == "nothing moved for 0.05 s"

    run(main())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET http://a.example/ HTTP/1.1\r\nA: b", 408),
        (b"G", 408),
        (b"GET http://a.example/" + b"a" * 70_000, 431),
        (b"GET http://a.example/ HTTP/1.1\r\n" + b"A: b\r\n" * 300, 431),
        (b"GET http://a.example/ HTTP/1.1\r\n" + (b"A: " + b"b" * 60_000 + b"\r\n") * 3, 431),
    ],
)
def test_a_head_has_an_end_in_time_and_in_bytes(head: bytes, status: int):
    async def main() -> None:
        bounds = Bounds(head_seconds=0.2) if status == 408 else Bounds()
        async with proxied("a.example", bounds=bounds) as proxy:
            assert (await proxy.ask(head)).startswith(f"HTTP/1.1 {status} ".encode())
            told = await proxy.told.get()
            assert (told.verdict, told.host) == ("refused", "")

    run(main())


def test_who_asks_nothing_is_hung_up_on_without_an_account():
    async def main() -> None:
        async with proxied("a.example", bounds=Bounds(head_seconds=0.05)) as proxy:
            assert await proxy.ask(b"") == b""
            assert proxy.told.empty()

    run(main())


def test_one_connection_too_many_is_turned_away_and_the_others_stay():
    async def main() -> None:
        async with serving(echo) as port, proxied(f"127.0.0.1:{port}", bounds=Bounds(connections=2)) as proxy:
            held = [await proxy.connect() for _ in range(2)]
            for reader, writer in held:
                writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
            reader, writer = await proxy.connect()
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()
            assert (await proxy.told.get()).reason == "2 connections are open already."
            for reader, writer in held:
                writer.write(b"still")
                assert await reader.readexactly(5) == b"still"
                writer.close()

    run(main())


def test_a_closed_proxy_leaves_no_connection_and_tells_of_each():
    async def main() -> None:
        gone = asyncio.Event()

        async def until_gone(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            gone.set()

        quiet = Bounds(head_seconds=300.0, idle_seconds=300.0)  # nobody is to wait for that
        async with serving(until_gone) as port, proxied(f"127.0.0.1:{port}", bounds=quiet) as proxy:
            reader, writer = await proxy.connect()
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nx".encode())
            await reader.readuntil(b"\r\n\r\n")
            idle_reader, idle_writer = await proxy.connect()
            before = time.monotonic()
            await proxy.proxy.close()
            assert time.monotonic() - before < SECONDS_MAX / 2
            told = await proxy.told.get()
            assert (told.error, told.address) == ("the proxy was closed", "127.0.0.1")
            await gone.wait()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            with contextlib.suppress(ConnectionResetError):
                assert await idle_reader.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await proxy.connect()
            writer.close()
            idle_writer.close()

    run(main())


def test_a_machine_out_of_descriptors_is_waited_for():
    async def main() -> None:
        async with serving(echo) as port, proxied(f"127.0.0.1:{port}") as proxy:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            taken = socket.socket()
            taken.connect(("127.0.0.1", proxy.port))
            assert select.select([proxy.listener], [], [], SECONDS_MAX)[0]  # it has come there
            before = time.monotonic()
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                for _ in range(3):  # turns of the loop, which sees who is there
                    await asyncio.sleep(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            reader, writer = await asyncio.open_connection(sock=taken)
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nx".encode())
            assert (await reader.readuntil(b"x")).endswith(b"\r\n\r\nx")
            assert time.monotonic() - before >= NO_DESCRIPTOR_SECONDS
            writer.close()

    run(main())


def test_many_connections_leave_no_descriptor_behind():
    async def main() -> None:
        async with serving(echo) as port, proxied(f"127.0.0.1:{port}") as proxy:
            before = len(os.listdir("/proc/self/fd"))

            async def one(number: int) -> None:
                host = "evil.example" if number % 4 == 0 else "127.0.0.1"
                reader, writer = await proxy.connect()
                writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\nx".encode())
                await reader.readuntil(b"\r\n\r\n")
                if number % 3 == 0:
                    writer.write_eof()
                    await reader.read()
                writer.close()

            await asyncio.gather(*map(one, range(100)))
            told = [await proxy.told.get() for _ in range(100)]
            assert sum(connection.verdict == "refused" for connection in told) == 25
            await proxy.proxy.close()
            await eventually_async(lambda: len(os.listdir("/proc/self/fd")) <= before)

    run(main())


def test_an_account_that_cannot_be_kept_does_not_end_the_proxy(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        bound = listener()
        numbers = itertools.count(1)

        def failing(_connection: Connection) -> None:
            raise RuntimeError(f"no room {next(numbers)}")

        proxy = Proxy(bound, Allowed(), failing)
        proxy.start()
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*bound.getsockname())
            writer.write(b"CONNECT a.example:1 HTTP/1.1\r\n\r\n")
            assert b"403" in await reader.read()
            writer.close()
        await proxy.close()

    run(main())
    assert [record.exc_text is not None and "no room" in record.exc_text for record in caplog.records] == [
        True
    ] * 2
