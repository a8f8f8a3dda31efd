"""The daemon's way in for hooks: who may tell."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from custody.compose import open_runtime
from custody.doors.hooks import mount as module
from custody.doors.hooks.mount import PATH, HooksMount
from custody.rpc.access import ANYBODY, Access
from custody.rpc.service import Service
from custody.settings import load_settings


def status_for(access: Access) -> int:
    """Of a hook that cannot be understood: one that is let in is answered all the same."""

    async def main() -> int:
        async with await open_runtime(load_settings(store=":memory:"), door="server") as runtime:
            mount = HooksMount(Service(runtime), lambda folder: None)

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await mount(scope, receive, send, access)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
                return (await client.post(PATH, content=b"{}")).status_code

    return asyncio.run(main())


@pytest.mark.parametrize(
    "access",
    [
        Access(role="agent", agent="ada"),
        Access(role="agent", tools=frozenset({"shell"})),
        Access(role="agent", methods=frozenset({"calls.make"})),
        Access(role="auditor"),
    ],
    ids=["of one agent", "for some tools", "for some methods", "of an auditor"],
)
def test_a_token_that_is_bound_tells_of_no_hook(access: Access):
    assert status_for(access) == 403


@pytest.mark.parametrize("access", [ANYBODY, Access(role="operator")], ids=["anybody", "operator"])
def test_whoever_may_act_as_any_agent_tells_of_hooks(access: Access):
    assert status_for(access) == 200


def test_all_hooks_at_once_hold_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch):
    """Those that find no room are told so, and what they held is there again."""
    monkeypatch.setattr(module, "BODY_BYTES_MAX", 1_000)
    monkeypatch.setattr(module, "BODIES_BYTES_MAX", 2_000)

    async def main() -> tuple[list[int], int, dict[str, Any]]:
        async with await open_runtime(load_settings(store=":memory:"), door="server") as runtime:
            mount = HooksMount(Service(runtime), lambda folder: None)
            senders = [Slow(), Slow()]
            slow = [asyncio.create_task(one_of(mount, 900, sender)) for sender in senders]
            for sender in senders:
                await sender.has_sent.wait()
            refused = [await one_of(mount, 900), await one_of(mount, 1_001)]
            for sender in senders:
                sender.may_end.set()
            statuses = [status for status, _ in [*[await task for task in slow], *refused]]
            after, _ = await one_of(mount, 900)
            return statuses, after, refused[0][1]

    statuses, after, said = asyncio.run(main())
    assert (statuses, after) == ([200, 200, 429, 413], 200)
    assert "hold 1800 bytes, and there is room for 2000" in said["error"]["message"]


class Slow:
    """A sender whose last part comes when it is let go."""

    def __init__(self) -> None:
        self.has_sent = asyncio.Event()
        self.may_end = asyncio.Event()


async def one_of(mount: HooksMount, count: int, slow: Slow | None = None) -> tuple[int, dict[str, Any]]:
    """A request of so many bytes: its status, and what it is answered."""
    parts = iter([b"x" * count, b""])
    sent: list[Any] = []

    async def receive() -> Any:
        part = next(parts)
        if not part and slow is not None:
            slow.has_sent.set()
            await slow.may_end.wait()
        return {"type": "http.request", "body": part, "more_body": bool(part)}

    async def send(message: Any) -> None:
        sent.append(message)

    await mount({"method": "POST"}, receive, send, ANYBODY)
    return sent[0]["status"], json.loads(sent[1]["body"])
