"""Records as they are written, over server-sent events: none is lost, none comes twice, whoever is slow."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.doors.serving import Served, serving
from tests.doors.test_websocket import eventually
from tests.rpc.clients import opened_runtime

from custody.calls.runtime import Runtime
from custody.doors.server import events_stream
from custody.journal import MemoryDisk
from custody.rpc.access import TokenDoor
from custody.rpc.tokens import Tokens

WAIT_SECONDS = 30.0


class Reader:
    """One stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.last_id: str | None = None

    async def next(self) -> dict[str, Any]:
        """The next record; comments are passed over."""
        event: dict[str, str] = {}
        async with asyncio.timeout(WAIT_SECONDS):
            async for line in self._lines:
                if not line and "data" in event:
                    break
                name, _, value = line.partition(": ")
                if name:
                    event[name] = value
        assert event["event"] == "record", event
        self.last_id = event["id"]
        return json.loads(event["data"])

    async def some(self, count: int) -> list[dict[str, Any]]:
        return [await self.next() for _ in range(count)]


class Stage:
    def __init__(self, runtime: Runtime, served: Served, tokens: Tokens, client: httpx.AsyncClient) -> None:
        self.runtime, self.served, self.tokens, self.client = runtime, served, tokens, client

    @asynccontextmanager
    async def reading(self, query: str = "", **headers: str) -> AsyncGenerator[Reader]:
        async with self.client.stream("GET", f"/events{query}", headers=headers) as response:
            assert response.status_code == 200
            yield Reader(response)

    async def note(self, *numbers: int) -> None:
        recorder = self.runtime.ledger.recorder
        for number in numbers:
            await self.runtime.ledger.append(recorder.draft_event("app.noted", {"number": number}))

    async def records(self) -> list[dict[str, Any]]:
        return (await self.client.get("/records?limit=1000")).json()["items"]


@asynccontextmanager
async def staged(**options: Any) -> AsyncGenerator[Stage]:
    tokens = Tokens(MemoryDisk())
    token, _ = tokens.create("auditor", lambda name, data: None, role="auditor")
    async with (
        opened_runtime() as runtime,
        serving(runtime, doorkeeper=TokenDoor(tokens.known), **options) as served,
        httpx.AsyncClient(
            base_url=served.url, headers={"Authorization": f"Bearer {token}"}, timeout=WAIT_SECONDS
        ) as client,
    ):
        yield Stage(runtime, served, tokens, client)


def numbers(records: list[dict[str, Any]]) -> list[int]:
    return [record["payload"]["data"]["number"] for record in records]


def test_without_a_cursor_the_stream_begins_with_what_comes_next():
    async def main() -> None:
        async with staged() as stage:
            await stage.note(1, 2)
            async with stage.reading() as reader:
                await stage.note(3, 4)
                assert numbers(await reader.some(2)) == [3, 4]

    asyncio.run(main())


def test_from_the_start_or_a_cursor_every_record_comes_once_and_as_it_is_listed():
    async def main() -> None:
        async with staged() as stage:
            await stage.note(*range(20))
            listed = await stage.records()
            async with stage.reading("?cursor=start") as reader:
                first = await reader.some(8)
            async with stage.reading(f"?cursor={reader.last_id}") as reader:
                second = await reader.some(5)
            headers = {"Last-Event-ID": str(reader.last_id)}
            async with stage.reading("?cursor=start", **headers) as reader:
                await stage.note(20)
                third = await reader.some(len(listed) + 1 - 13)
            assert first + second + third[:-1] == listed
            assert numbers(third[-1:]) == [20]

    asyncio.run(main())


def test_only_what_is_asked_for_comes():
    async def main() -> None:
        async with staged() as stage, stage.reading("?kind=event&name=app.noted") as reader:
            await stage.note(1)
            await stage.runtime.call("file_list", {})
            await stage.note(2)
            assert numbers(await reader.some(2)) == [1, 2]

    asyncio.run(main())


@pytest.mark.long
def test_a_slow_reader_is_caught_up_from_the_disk_and_nothing_is_queued_for_it():
    async def main() -> None:
        async with staged() as stage, stage.reading("?name=app.noted") as slow:
            text = "x" * 10_000
            recorder = stage.runtime.ledger.recorder
            for number in range(300):
                data = {"number": number, "text": text}
                await stage.runtime.ledger.append(recorder.draft_event("app.noted", data))
            async with stage.reading("?name=app.noted") as quick:
                await stage.note(300)
                assert numbers([await quick.next()]) == [300]
            assert numbers(await slow.some(301)) == list(range(301))

    asyncio.run(main())


@pytest.mark.long
def test_a_reader_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events_stream, "SEND_SECONDS_MAX", 0.2)

    async def main() -> None:
        async with staged() as stage:
            recorder = stage.runtime.ledger.recorder
            for number in range(600):
                data = {"number": number, "text": "x" * 10_000}
                await stage.runtime.ledger.append(recorder.draft_event("app.noted", data))
            reader, writer = await asyncio.open_connection("127.0.0.1", stage.served.port, limit=1_024)
            token = stage.client.headers["Authorization"]
            head = f"Host: localhost\r\nAuthorization: {token}\r\n\r\n"
            writer.write(b"GET /events?cursor=start HTTP/1.1\r\n" + head.encode())
            streams = stage.served.door.streams
            await eventually(lambda: streams.open == 1)
            await eventually(lambda: streams.open == 0)
            del reader
            writer.close()

    asyncio.run(main())


@pytest.mark.long
def test_a_reader_that_leaves_or_whose_token_ends_leaves_nothing_behind():
    async def main() -> None:
        async with staged() as stage:
            streams = stage.served.door.streams
            async with stage.reading():
                await eventually(lambda: streams.open == 1)
            await eventually(lambda: streams.open == 0)
            async with stage.client.stream("GET", "/events") as response:
                stage.tokens.revoke("auditor", lambda name, data: None)
                async with asyncio.timeout(WAIT_SECONDS):
                    assert b"record" not in await response.aread()
            await eventually(lambda: streams.open == 0)

    asyncio.run(main())


@pytest.mark.long
def test_silence_is_broken_now_and_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events_stream, "HEARTBEAT_SECONDS", 0.05)

    async def main() -> None:
        async with staged() as stage, stage.client.stream("GET", "/events") as response:
            async with asyncio.timeout(WAIT_SECONDS):
                async for line in response.aiter_lines():
                    if line == ": nothing new":
                        return

    asyncio.run(main())


def test_streams_end_when_the_daemon_stops():
    async def main() -> None:
        async with staged() as stage, stage.client.stream("GET", "/events") as response:
            closing = asyncio.create_task(stage.served.door.close())
            async with asyncio.timeout(WAIT_SECONDS):
                await response.aread()
                await closing

    asyncio.run(main())


@pytest.mark.long
def test_there_are_only_so_many_streams(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events_stream, "STREAMS_MAX", 2)

    async def main() -> None:
        async with staged() as stage, stage.reading(), stage.reading():
            refused = await stage.client.get("/events")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")

    asyncio.run(main())
