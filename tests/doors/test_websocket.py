"""The WebSocket door over real sockets: who is let in, what a socket may hold, and how it ends."""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import websockets
from tests.doors.serving import Served, serving, serving_in_thread
from tests.rpc.clients import opened_runtime
from websockets.asyncio.client import ClientConnection
from websockets.typing import Origin

from custody.doors.server.app import DoorBounds
from custody.doors.server.checks import Callers
from custody.journal import MemoryDisk
from custody.rpc.access import TokenDoor
from custody.rpc.service import Limits
from custody.rpc.tokens import Tokens

WAIT_SECONDS = 60.0  # for what takes milliseconds on a machine that is not overloaded
Scenario = Callable[[Served], Awaitable[Any]]


def play(scenario: Scenario, **options: Any) -> Any:
    """Run a scenario against a served store in memory."""

    async def main() -> Any:
        async with opened_runtime() as runtime, serving(runtime, **options) as served:
            async with asyncio.timeout(WAIT_SECONDS):
                return await scenario(served)

    return asyncio.run(main())


async def ask(connection: ClientConnection, method: str, params: Any = None, identity: Any = 1) -> Any:
    frame: dict[str, Any] = {"jsonrpc": "2.0", "id": identity, "method": method}
    await connection.send(json.dumps(frame if params is None else {**frame, "params": params}))
    return json.loads(await connection.recv())


async def closed_with(connection: ClientConnection) -> tuple[int | None, str | None]:
    await connection.wait_closed()
    return connection.close_code, connection.close_reason


async def refused(address: str, **options: Any) -> int:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websockets.connect(address, **options):
            pass
    return caught.value.response.status_code


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """One that many tests disturb; each of them looks whether it still serves."""
    with serving_in_thread() as served:
        yield served


def among(shared: Served, scenario: Scenario) -> None:
    async def main() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await scenario(shared)
            await still_serves(shared)

    asyncio.run(main())


@pytest.fixture
def tokens() -> Tokens:
    tokens = Tokens(MemoryDisk())
    tokens.ensure("serve")
    return tokens


def make(tokens: Tokens, name: str, agent: str | None = None) -> str:
    return tokens.create(name, lambda name, data: None, role="agent", agent=agent)[0]


# -- who is let in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/", "/rpc"])
def test_the_wire_is_at_the_root_and_at_rpc(shared: Served, path: str):
    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address + path) as connection:
            answer = await ask(connection, "state.keys")
            assert answer == {"jsonrpc": "2.0", "id": 1, "result": []}

    among(shared, scenario)


def test_the_same_wire_is_on_the_unix_socket(shared: Served):
    async def scenario(served: Served) -> None:
        async with websockets.unix_connect(served.path, uri="ws://anything/") as connection:
            assert (await ask(connection, "state.keys"))["result"] == []
        assert os.stat(served.path).st_mode & 0o777 == 0o600

    among(shared, scenario)


def test_there_is_no_other_place(shared: Served):
    async def scenario(served: Served) -> None:
        for path in ("/runs", "/rpc/", "//", "/%2e%2e/rpc", "/../rpc"):
            assert await refused(served.address + path) == 404

    among(shared, scenario)


def test_a_web_page_or_another_name_is_refused_at_the_upgrade():
    async def scenario(served: Served) -> None:
        assert await refused(served.address, origin="https://evil.example") == 403
        assert await refused(served.address, additional_headers={"Origin": "null"}) == 403
        assert await refused(f"ws://localhost.evil.example:{served.port}", host="127.0.0.1") == 421
        async with websockets.connect(served.address, origin=Origin("https://console.example")):
            pass

    play(scenario, callers=Callers.of([], ["https://console.example"]))


def test_a_page_is_kept_from_the_unix_socket_too(shared: Served):
    async def scenario(served: Served) -> None:
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.unix_connect(
                served.path, uri="ws://localhost/", origin=Origin("https://e.example")
            ):
                pass
        assert caught.value.response.status_code == 403

    among(shared, scenario)


def test_a_token_shown_with_the_upgrade_admits_at_once(tokens: Tokens):
    token = make(tokens, "ada", agent="ada")

    async def scenario(served: Served) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        async with websockets.connect(served.address, additional_headers=headers) as connection:
            assert (await ask(connection, "capabilities.list"))["result"]["caller_role"] == "agent"
        wrong = {"Authorization": "Bearer wrong"}
        assert await refused(served.address, additional_headers=wrong) == 401

    play(scenario, doorkeeper=TokenDoor(tokens.known))


def test_whoever_does_not_say_who_it_is_is_shown_out(tokens: Tokens):
    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address) as silent:
            code, reason = await closed_with(silent)
            assert code == 1008
            assert "who it is" in (reason or "")

    play(scenario, doorkeeper=TokenDoor(tokens.known), limits=Limits(auth_seconds=0.05))


def test_whoever_asks_before_it_says_who_it_is_is_shown_out_at_once(tokens: Tokens):
    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address) as hasty:
            assert (await ask(hasty, "state.keys"))["error"]["code"] == -32001
            assert (await closed_with(hasty))[0] == 1008

    play(scenario, doorkeeper=TokenDoor(tokens.known), limits=Limits(auth_seconds=300))


def test_a_connection_ends_with_its_token(tokens: Tokens):
    token, other = make(tokens, "ada"), make(tokens, "bob")

    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address) as one, websockets.connect(served.address) as two:
            assert (await ask(one, "session.auth", {"token": token}))["result"]["ok"]
            assert (await ask(two, "session.auth", {"token": other}))["result"]["ok"]
            tokens.revoke("ada", lambda name, data: None)
            assert await closed_with(one) == (1008, "its token is no longer good")
            assert (await ask(two, "state.keys"))["result"] == []

    play(scenario, doorkeeper=TokenDoor(tokens.known), bounds=DoorBounds(tokens_seconds=0.05))


# -- what a socket may hold ---------------------------------------------------------------------------------


def test_a_binary_frame_ends_the_connection(shared: Served):
    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address) as connection:
            await connection.send(b'{"jsonrpc": "2.0", "id": 1, "method": "state.keys"}')
            assert await closed_with(connection) == (1003, "text frames only")

    among(shared, scenario)


def test_text_that_is_no_utf_8_ends_the_connection(shared: Served):
    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address) as connection:
            await connection.send(b"\xff\xfe", text=True)
            assert (await closed_with(connection))[0] == 1007

    among(shared, scenario)


def test_a_frame_of_a_hundred_megabytes_is_refused_by_its_length_alone(shared: Served):
    async def scenario(served: Served) -> None:
        reader, writer = await upgraded(served)
        writer.write(struct.pack("!BBQ4s", 0x81, 0xFF, 100 * 1024**2, b"\0" * 4) + b"x" * 1_000)
        await writer.drain()
        assert await close_code(reader) == 1009
        writer.close()

    among(shared, scenario)


@pytest.mark.long
def test_a_message_that_grows_too_large_piece_by_piece_is_refused():
    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address) as connection:
            with contextlib.suppress(websockets.ConnectionClosed):
                await connection.send("x" * 1_000 for _ in range(100))
            assert (await closed_with(connection))[0] == 1009
        await still_serves(served)

    play(scenario, limits=Limits(frame_bytes_max=10_000))


def test_a_message_in_countless_empty_pieces_is_refused(shared: Served):
    async def scenario(served: Served) -> None:
        reader, writer = await upgraded(served)
        writer.write(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 5_000)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        assert await close_code(reader) == 1009
        writer.close()

    among(shared, scenario)


def test_a_connection_too_many_is_told_so_and_others_go_on():
    async def scenario(served: Served) -> None:
        async with websockets.connect(served.address) as one, websockets.connect(served.address):
            assert await refused(served.address) == 503
            assert (await ask(one, "state.keys"))["result"] == []
            await eventually(lambda: len(served.door.occupancy.connections) == 2)
        await eventually(lambda: not served.door.occupancy.connections)
        await still_serves(served)

    play(scenario, bounds=DoorBounds(connections_max=2))


def test_half_a_request_is_not_waited_for():
    beginnings = [
        b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9_000,
    ]  # fmt: skip

    async def vanish(served: Served, beginning: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(beginning)
        assert await until_end(reader) == b""
        writer.close()

    async def scenario(served: Served) -> None:
        await asyncio.gather(*(vanish(served, beginning) for beginning in beginnings))
        await eventually(lambda: not served.door.occupancy.connections)

    play(scenario, bounds=DoorBounds(head_seconds_max=0.1, stalled_seconds_max=0.1))


@pytest.mark.long
def test_half_a_second_request_is_not_waited_for_either():
    async def scenario(served: Served) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /health HT")
        assert await until_end(reader) == b""
        writer.close()

    play(scenario, bounds=DoorBounds(head_seconds_max=0.1, stalled_seconds_max=0.1))


def test_a_head_without_end_is_refused(shared: Served):
    async def scenario(served: Served) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert (await until_end(reader)).startswith(b"HTTP/1.1 400")
        writer.close()

    among(shared, scenario)


def test_what_is_no_http_is_refused_and_others_go_on(shared: Served):
    async def scenario(served: Served) -> None:
        for nonsense in (b"\x16\x03\x01\x02\0\x01\0", b"\r\n\r\n\r\n", b"\xff" * 300, b"GET\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(nonsense + b"\r\n\r\n")
            assert (await until_end(reader)).startswith(b"HTTP/1.1 400")
            writer.close()

    among(shared, scenario)


def test_a_peer_that_vanishes_in_mid_frame_leaves_nothing_behind(shared: Served):
    async def scenario(served: Served) -> None:
        for ending in (b"\x81", b"\x81\xfe\x10", b"\x81\xfe\x10\0\0\0\0\0" + b"x" * 100):
            _, writer = await upgraded(served)
            writer.write(ending)
            await writer.drain()
            abruptly(writer)
        await eventually(lambda: not served.door.occupancy.connections and not served.service.peers)

    among(shared, scenario)


@pytest.mark.long
def test_a_peer_that_takes_nothing_is_let_go_and_others_are_not_disturbed():
    """It asks for large answers and reads none of them: what waits for it is bounded, then it is closed."""

    async def scenario(served: Served) -> None:
        reader, writer = await upgraded(served)
        await eventually(lambda: served.service.peers)
        peer = next(iter(served.service.peers.values()))
        flooding = asyncio.create_task(flood(writer))
        async with websockets.connect(served.address) as other:
            while peer.connection in served.service.peers:
                assert (await ask(other, "state.keys"))["result"] == []
        flooding.cancel()
        await eventually(lambda: len(served.door.occupancy.connections) == 0)
        del reader
        writer.transport.abort()

    play(
        scenario,
        limits=Limits(send_seconds_max=0.3, outgoing_bytes_max=200_000, requests_per_second=1e6),
        bounds=DoorBounds(stalled_seconds_max=0.1),
    )


async def flood(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        for number in range(100_000):
            writer.write(masked(b'{"jsonrpc":"2.0","id":%d,"method":"server.schema"}' % number))
            await writer.drain()


@pytest.mark.long
def test_a_flood_of_connections_that_say_nothing_leaves_room_again():
    async def scenario(served: Served) -> None:
        sockets = [served.connect() for _ in range(50)]
        await eventually(lambda: served.door.occupancy.refused > 0)
        for each in sockets:
            each.close()
        await eventually(lambda: not served.door.occupancy.connections)
        await still_serves(served)

    play(scenario, bounds=DoorBounds(connections_max=20))


# -- how it ends --------------------------------------------------------------------------------------------


def test_what_is_under_way_may_end_and_then_everybody_is_told():
    async def main() -> None:
        async with (
            opened_runtime() as runtime,
            serving(runtime) as served,
            asyncio.timeout(WAIT_SECONDS),
        ):
            connection = await websockets.connect(served.address)
            await ask(connection, "tools.register", [{"name": "slow"}])
            await connection.send(json.dumps(SUBMIT))
            callback = json.loads(await connection.recv())
            assert callback["method"] == "tools.execute"
            closing = asyncio.create_task(served.door.close(WAIT_SECONDS))
            await eventually(lambda: served.service.draining)
            await connection.send(json.dumps({"jsonrpc": "2.0", "id": 9, "method": "state.keys"}))
            assert json.loads(await connection.recv())["error"]["code"] == -32010
            with pytest.raises(ConnectionRefusedError):  # nobody new
                await websockets.connect(served.address)
            answer = {"jsonrpc": "2.0", "id": callback["id"], "result": "done"}
            await connection.send(json.dumps(answer))
            result = json.loads(await connection.recv())
            assert result["result"]["results"][0]["output"] == "done"
            assert await closed_with(connection) == (1001, "the daemon stops")
            assert await closing is True

    asyncio.run(main())


def test_what_does_not_end_in_time_is_ended_and_on_the_record():
    async def main() -> None:
        async with opened_runtime() as runtime:
            async with serving(runtime) as served:
                connection = await websockets.connect(served.address)
                await ask(connection, "tools.register", [{"name": "slow"}])
                await connection.send(json.dumps(SUBMIT))
                assert json.loads(await connection.recv())["method"] == "tools.execute"
                assert await served.door.close(0.05) is False
                await connection.wait_closed()
            (call,) = (await asyncio.to_thread(runtime.index.calls)).items
            assert call.outcome in ("cancelled", "unknown")

    asyncio.run(main())


SUBMIT: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "proposal.submit",
    "params": {"proposal": {"actions": [{"type": "tool_call", "tool": "slow", "parameters": {}}]}},
}


# -- bare sockets -------------------------------------------------------------------------------------------


async def eventually(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(WAIT_SECONDS):
        while not (found := condition()):  # noqa: ASYNC110 - what becomes true is not ours to signal
            await asyncio.sleep(0.005)
        return found


async def still_serves(served: Served) -> None:
    async with websockets.connect(served.address) as connection:
        assert (await ask(connection, "state.keys"))["result"] == []


async def upgraded(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket connection whose frames are written by hand."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # what is not read is soon in the way
    sock.connect(("127.0.0.1", served.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return reader, writer


def masked(text: bytes) -> bytes:
    """A text frame whose mask changes nothing."""
    return struct.pack("!BB4s", 0x81, 0x80 | len(text), b"\0" * 4) + text


async def until_end(reader: asyncio.StreamReader) -> bytes:
    """What still comes. Where the other side closes before it has taken all that was sent, a reset is the
    end."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := await reader.read(65_536):
            data += more
    return data


async def close_code(reader: asyncio.StreamReader) -> int:
    """Of the close frame that ends the stream."""
    data = await until_end(reader)
    assert data[0] == 0x88
    return struct.unpack("!H", data[2:4])[0]


def abruptly(writer: asyncio.StreamWriter) -> None:
    """As if the machine had gone: a reset instead of an end."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
