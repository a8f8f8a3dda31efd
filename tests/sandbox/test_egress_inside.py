"""From inside a network that is `listed`: what is listed is reached, nothing else, and all is told."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sandbox.commands import eventually_async, launcher_pids
from tests.sandbox.places import WORKSPACE, Place

from custody.sandbox import Command, Launchers

BODY = b"from the machine\n"

FETCH = """
import sys, urllib.error, urllib.request
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            print(answer.status, answer.read().decode().strip())
    except urllib.error.HTTPError as error: print(error.code, error.headers["X-Custody-Refused"])
    except OSError as error: print(type(error).__name__)
"""

HOLD = """
import os, socket, sys
tunnel = socket.create_connection(("127.0.0.1", 3128))
tunnel.sendall(f"CONNECT 127.0.0.1:{sys.argv[1]} HTTP/1.1\\r\\n\\r\\n".encode())
print(tunnel.recv(4096).split()[1].decode(), flush=True)
if os.fork() == 0:  # away from its parent, with the connection
    os.setsid()
    os.read(os.pipe()[0], 1)
os._exit(0)
"""


class Served:
    """A server on the machine's own loopback, which a command's is not."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.open = 0


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.open += 1
        try:
            if await reader.readline():
                while (await reader.readline()).strip():
                    pass
                here.answered += 1
                length = f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n".encode()
                writer.write(b"HTTP/1.1 200 OK\r\n" + length + BODY)
                await writer.drain()
        finally:
            here.open -= 1
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    here = Served(server.sockets[0].getsockname()[1])
    try:
        yield here
    finally:
        server.close()


def listing(place: Place, program: str, *arguments: str, port: int, **options: Any) -> Command:
    sandbox = msgspec.structs.replace(WORKSPACE, network="listed", hosts=(f"127.0.0.1:{port}",))
    return place.command(place.python, "-I", "-S", "-c", program, *arguments, sandbox=sandbox, **options)


def told(finished: Any) -> list[Any]:
    return [[one.host, one.port, one.verdict] for one in finished.connections]


def test_what_is_listed_is_reached_and_nothing_else(place: Place) -> None:
    async def body(pool: Launchers) -> list[Any]:
        seen: list[str] = []
        async with served() as here, served() as other:
            urls = [f"http://127.0.0.1:{port}/" for port in (here.port, other.port)] + ["http://[fd00::1]/"]
            wanted = listing(
                place, FETCH, *urls, port=here.port, on_connection=lambda one: seen.append(one.verdict)
            )
            finished = await pool.run(wanted)
            (first, *_) = finished.connections
            ports = [here.port, other.port]
            return [
                finished.stdout.data.decode().splitlines(),
                told(finished),
                ports,
                seen,
                [here.answered, other.answered, first.bytes_in > len(BODY), first.bytes_out > 0],
            ]

    said, connections, (port, other), seen, counts = place.run(body)
    assert said[0] == f"200 {BODY.decode().strip()}"
    assert said[1].startswith("403 ") and f'hosts = ["127.0.0.1:{other}"]' in said[1]
    assert said[2].startswith("403 ")
    assert connections == [
        ["127.0.0.1", port, "allowed"],
        ["127.0.0.1", other, "refused"],
        ["fd00::1", 80, "refused"],
    ]
    assert sorted(seen) == ["allowed", "refused", "refused"]
    assert counts == [1, 0, True, True]


def test_past_the_proxy_there_is_no_way(place: Place) -> None:
    program = """
import socket, sys
for address in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 80)):
    try: socket.socket().connect(address)
    except OSError as error: print(error.errno)
try: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
except OSError as error: print(error.errno)
for family, kind in ((40, 1), (17, 3)):  # vsock, of which there is but one for all namespaces; packets
    try: socket.socket(family, kind)
    except OSError as error: print(error.errno)
taker = socket.socket()
for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): taker.setsockopt(socket.SOL_SOCKET, option, 1)
try: taker.bind(("127.0.0.1", 3128)); taker.listen(); print("taken over")
except OSError as error: print(error.errno)
"""

    async def body(pool: Launchers) -> list[Any]:
        async with served() as here:
            finished = await pool.run(listing(place, program, str(here.port), port=here.port))
            return [finished.stdout.data.decode().split(), told(finished), here.answered]

    refused, unreachable, no_family, in_use = "111", "101", "97", "98"
    expected = [refused, unreachable, unreachable, no_family, no_family, in_use]
    assert place.run(body) == [expected, [], 0]


def test_a_connection_is_its_commands_and_ends_with_it(place: Place) -> None:
    async def body(pool: Launchers) -> list[Any]:
        async with served() as here:
            held = await pool.run(listing(place, HOLD, str(here.port), port=here.port, grace_seconds=0.1))
            await eventually_async(lambda: here.open == 0)
            after = await pool.run(listing(place, "print('quiet')", port=here.port))
            return [
                held.stdout.data.decode(),
                told(held) == [["127.0.0.1", here.port, "allowed"]],
                told(after),
            ]

    assert place.run(body) == ["200\n", True, []]


def test_the_first_are_kept_and_the_rest_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.sandbox.outlet.CONNECTIONS_KEPT_MAX", 2)
    seen: list[int] = []

    async def body(pool: Launchers) -> list[int]:
        urls = [f"http://192.0.2.1:{port}/" for port in range(1, 6)]
        wanted = listing(place, FETCH, *urls, port=1, on_connection=lambda one: seen.append(one.port))
        finished = await pool.run(wanted)
        return [len(finished.connections), finished.connections_dropped, *sorted(seen)]

    assert place.run(body) == [2, 3, 1, 2, 3, 4, 5]


def test_an_error_of_who_is_told_ends_the_command_and_is_raised(place: Place) -> None:
    def broken(connection: object) -> None:
        raise ZeroDivisionError

    async def body(pool: Launchers) -> str:
        wanted = listing(place, FETCH + "sys.stdin.read()", "http://192.0.2.1/", port=1, on_connection=broken)
        try:
            await pool.run(wanted)
        except ZeroDivisionError:
            again = await pool.run(listing(place, "print('unharmed')", port=1))
            return again.stdout.data.decode()
        return "nothing was raised"

    assert place.run(body) == "unharmed\n"


@pytest.mark.parametrize(
    ("hosts", "direct"),
    [
        (("example.org",), "localhost,127.0.0.1,::1"),
        (("example.org", "127.0.0.1:4873"), ""),
        (("[::1]:80",), ""),
        (("localhost:8080",), ""),
        (("*.example.org", "10.0.0.1"), "localhost,127.0.0.1,::1"),
    ],
)
def test_programs_are_told_of_the_proxy(tmp_path: Path, hosts: tuple[str, ...], direct: str) -> None:
    from custody.sandbox.confined import confined_environment

    theirs = {"HTTP_PROXY": "http://elsewhere:1", "PATH": "/bin"}
    wanted = Command(argv=("env",), cwd=str(tmp_path), environment=theirs)
    own = msgspec.structs.replace(WORKSPACE, network="loopback")
    wanted = msgspec.structs.replace(wanted, sandbox=own)
    assert confined_environment(wanted) == {**theirs, "TMPDIR": "/tmp"}
    sandbox = msgspec.structs.replace(WORKSPACE, network="listed", hosts=hosts, environment=("PATH",))
    environment = confined_environment(msgspec.structs.replace(wanted, sandbox=sandbox))
    proxy = "http://127.0.0.1:3128"
    expected = {"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": direct}
    upper = {name.upper(): value for name, value in expected.items()}
    assert environment == {"PATH": "/bin", "TMPDIR": "/tmp", **expected, **upper}


def test_nothing_of_the_way_out_is_left(place: Place) -> None:
    async def body(pool: Launchers) -> bool:
        def open_here() -> int:
            return len(os.listdir("/proc/self/fd"))

        none = open_here()
        async with served() as here:
            url = f"http://127.0.0.1:{here.port}/"
            for _ in range(3):
                await pool.run(listing(place, FETCH, url, port=here.port))
            one = open_here()
            for _ in range(3):
                await pool.run(listing(place, FETCH, url, port=here.port))
            await eventually_async(lambda: open_here() <= one)
        pool.end_run("run")
        await eventually_async(lambda: open_here() == none and not launcher_pids())
        return True

    assert place.run(body) is True


def test_a_launcher_that_ends_before_its_listener_comes_is_a_refusal(place: Place) -> None:
    """Its machine claims what no kernel has here, so that it ends before it is walled in."""
    from custody.errors import SandboxError

    async def body(_: Launchers) -> str:
        claimed = msgspec.structs.replace(place.machine, landlock_abi=99)
        pool = Launchers(python=place.python, look_at_machine=lambda: claimed)
        try:
            await pool.run(listing(place, "print()", port=1))
        except SandboxError as error:
            return json.dumps([type(error).__name__, bool(error.details["wall"])])
        finally:
            await pool.close()
        return "it ran"

    assert json.loads(place.run(body)) == ["SandboxError", True]
