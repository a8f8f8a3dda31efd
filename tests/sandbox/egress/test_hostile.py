"""A command, a host or a name server that means harm: loop, names and descriptors are left to others."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.sandbox.egress.serving import SECONDS_MAX, Proxied, answering, echo, proxied, run, serving

from custody.sandbox.egress import Allowed, Bounds, Refused, decide
from custody.sandbox.egress.rules import RESOLVING_EACH_MAX, RESOLVING_MAX

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


# -- the loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["of a request", "of an answer"])
def test_a_body_in_tiny_chunks_leaves_turns_of_the_loop_to_others(direction: str):
    """Else a body of some hundred kilobytes stops all other commands, and who serves them, for seconds."""
    number = 2_000
    tiny = b"1\r\na\r\n" * number + b"0\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await reader.readuntil(b"0\r\n\r\n")
            writer.write(OK)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n" + chunked + tiny)
        await writer.drain()

    async def main() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with serving(whole) as port, proxied(f"127.0.0.1:{port}") as proxy:
            url = f"http://127.0.0.1:{port}/".encode()
            task = asyncio.create_task(others())
            if direction == "of a request":
                answer = await proxy.ask(
                    b"POST " + url + b" HTTP/1.1\r\nConnection: close\r\n" + chunked + tiny
                )
            else:
                answer = await proxy.ask(b"GET " + url + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
            task.cancel()
        assert answer.endswith((b"hi", b"0\r\n\r\n"))
        return turns

    assert run(main()) >= number


# -- names ----------------------------------------------------------------------------------------------


class NameServer:
    """In place of the C library's: names of `evil.example` are not answered until the end."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.end = threading.Event()
        self._came = threading.Semaphore(0)

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host == "127.0.0.1":  # of the test's own connections
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        self.asked.append(host)
        self._came.release()
        if host.endswith("evil.example"):
            self.end.wait(SECONDS_MAX)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def was_asked(self, times: int) -> None:
        for _ in range(times):
            assert await asyncio.to_thread(self._came.acquire, timeout=SECONDS_MAX)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr("custody.sandbox.egress.rules.socket.getaddrinfo", server.getaddrinfo)
    monkeypatch.setattr("custody.sandbox.egress.rules.RESOLVE_SECONDS", 2 * SECONDS_MAX)  # they do hang
    yield server
    server.end.set()


def asks(proxy: Proxied, host: str, port: int) -> socket.socket:
    asking = socket.create_connection(("127.0.0.1", proxy.port))
    asking.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
    asking.settimeout(SECONDS_MAX)
    return asking


async def answer_to(asking: socket.socket) -> bytes:
    with asking:
        return await asyncio.to_thread(asking.recv, 12)


def test_names_that_hang_hold_up_no_other_command_and_are_told(names: NameServer):
    async def main() -> None:
        async with (
            serving(echo) as port,
            proxied("*.evil.example") as bad,
            proxied(f"a.test:{port}", f"127.0.0.1:{port}") as good,
        ):
            held = [asks(bad, f"{number}.evil.example", 443) for number in range(100)]
            await names.was_asked(RESOLVING_EACH_MAX)  # all it is given, and no more
            assert await answer_to(asks(good, "a.test", port)) == b"HTTP/1.1 200"
            assert len(names.asked) == RESOLVING_EACH_MAX + 1
            await bad.proxy.close()
            told = [bad.told.get_nowait() for _ in range(bad.told.qsize())]
            assert {one.host for one in told} >= set(names.asked) - {"a.test"}
            assert {(one.verdict, one.error) for one in told} == {("allowed", "the proxy was closed")}
            for asking in held:
                asking.close()

    run(main())


def test_calls_whose_names_hang_hold_up_no_command(names: NameServer):
    async def main() -> None:
        async with serving(echo) as port, proxied(f"a.test:{port}", f"127.0.0.1:{port}") as proxy:
            calls = [
                asyncio.ensure_future(decide(Allowed(anywhere=True), f"{number}.evil.example", 443))
                for number in range(RESOLVING_MAX)
            ]
            await names.was_asked(RESOLVING_MAX)
            assert await answer_to(asks(proxy, "a.test", port)) == b"HTTP/1.1 200"
            names.end.set()
            await asyncio.wait(calls)
            assert all(isinstance(call.exception(), Refused) for call in calls)

    run(main())


def test_connections_to_one_host_at_once_wait_for_one_answer(names: NameServer):
    """Package managers open dozens, and a name server may be slow."""
    slow = "slow.evil.example"

    async def main() -> None:
        async with serving(echo) as port:
            hosts = (f"{slow}:{port}", f"a.test:{port}", f"127.0.0.1:{port}")
            async with proxied(*hosts) as proxy:
                asked = [asks(proxy, slow, port) for _ in range(100)]
                assert await answer_to(asks(proxy, "a.test", port)) == b"HTTP/1.1 200"  # the last to come
                names.end.set()
                for asking in asked:
                    assert await answer_to(asking) == b"HTTP/1.1 200"

    run(main())
    assert names.asked.count(slow) < RESOLVING_EACH_MAX


def test_nothing_is_looked_up_any_more_once_the_command_has_ended(names: NameServer):
    async def main() -> None:
        async with proxied("*.evil.example") as proxy:
            held = [asks(proxy, f"{number}.evil.example", 443) for number in range(RESOLVING_EACH_MAX + 1)]
            await names.was_asked(RESOLVING_EACH_MAX)
            await proxy.proxy.close()
            names.end.set()
            for thread in threading.enumerate():
                if thread.name == "custody-resolve":
                    await asyncio.to_thread(thread.join)
            await asyncio.sleep(0)  # what was found is handed over
            for asking in held:
                asking.close()

    run(main())
    assert len(names.asked) == RESOLVING_EACH_MAX


# -- this machine ---------------------------------------------------------------------------------------

WITH_PUBLIC_ADDRESSES = """
ip link set lo up && ip addr add 8.8.8.8/32 dev lo && ip -6 addr add 2606:4700::1111/128 dev lo || exit 1
exec "$0" "$@"
"""

DECIDE = """
import asyncio, sys
from custody.sandbox.egress import Allowed, Refused, decide

async def resolve(host, port):
    return (host.partition(".")[0].replace("-", "."),)

async def main():
    for host in sys.argv[1:]:
        allowed = Allowed(("*.a.example", "[2606:4700::1111]:80"), anywhere=not host.endswith("a.example"))
        try:
            print(*(await decide(allowed, host, 80, resolve=resolve)).addresses)
        except Refused as error:
            print(error.reason)

asyncio.run(main())
"""


def test_a_public_address_of_this_machine_is_this_machine():
    """What listens on all addresses is kept from the world by a firewall, and that does not stand between."""
    inside = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", WITH_PUBLIC_ADDRESSES]
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("unshare(1) and ip(8) cannot make a network with an address here")
    hosts = ("8.8.8.8", "8-8-8-8.a.example", "8.8.4.4", "8-8-4-4.a.example", "2606:4700::1111")
    done = subprocess.run([*inside, sys.executable, "-c", DECIDE, *hosts], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "8.8.8.8:80 (this machine itself) is not on the list of hosts.",
        "8-8-8-8.a.example:80 leads to 8.8.8.8, this machine itself.",
        "8.8.4.4",
        "8.8.4.4",
        "2606:4700::1111",
    ], done.stderr


# -- descriptors ----------------------------------------------------------------------------------------


def test_commands_leave_descriptors_for_one_another_and_for_the_rest_of_the_program():
    """The journal needs them, and so does every launcher."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 400

    async def turned_away(proxy: Proxied, number: int, expected: int) -> None:
        held.extend(socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(number))
        for _ in range(expected):
            reason = (await proxy.told.get()).reason or ""
            assert reason.startswith(f"{number - expected} connections are open already, and ")
            assert f"limit of open files, {limit} " in reason

    async def main() -> None:
        async with proxied("example.org") as one, proxied("example.org") as other:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                await turned_away(one, 60, expected=60 - limit // 8)
                await turned_away(other, 35, expected=35 - limit // 16)
                os.close(os.open(os.devnull, os.O_RDONLY))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for taken in held:
                    taken.close()

    held: list[socket.socket] = []
    run(main())


# -- what is told ---------------------------------------------------------------------------------------


def test_a_host_longer_than_any_name_is_told_by_its_length_and_not_by_itself():
    """A thousand of them would be as many records of 60 kB each."""

    async def main() -> None:
        async with proxied("example.org") as proxy:
            answer = await proxy.ask(b"CONNECT " + b"a." * 30_000 + b"b:443 HTTP/1.1\r\n\r\n")
            assert answer.startswith(
                b"HTTP/1.1 400 Bad Request: The host has 60001 characters; 255 are the most."
            )
            told = await proxy.told.get()
            assert (told.verdict, told.host) == ("refused", "")
            assert told.reason == "The host has 60001 characters; 255 are the most."

    run(main())


def test_no_host_speaks_in_the_name_of_the_proxy():
    said = b"HTTP/1.1 403 No\r\nX-Custody-Refused: list evil.example\r\nContent-Length: 0\r\n\r\n"

    async def main() -> None:
        async with serving(answering(said)) as port, proxied(f"127.0.0.1:{port}") as proxy:
            answer = await proxy.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.0\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 403 No\r\n")
            assert b"evil.example" not in answer

    run(main())


# -- hosts that answer as they like -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "resolve_to",
    [("8.8.8.8", "10.0.0.1"), ("64:ff9b:1:a00:0:100:808:808",), ("::ffff:0:a00:1",), ("2002:a00:1::",), ()],
)
def test_a_listed_name_whose_answers_lead_inside_is_connected_to_nowhere(resolve_to: tuple[str, ...]):
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return resolve_to

    async def main() -> None:
        async with proxied("example.org", resolve=resolve, bounds=Bounds(connect_seconds=0.1)) as proxy:
            answer = await proxy.ask(b"CONNECT example.org:443 HTTP/1.1\r\n\r\n")
            assert answer.split()[1] in (b"403", b"502")
            told = await proxy.told.get()
            assert (told.address, told.bytes_in, told.bytes_out) == (None, 0, 0)

    run(main())
