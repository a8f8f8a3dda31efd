"""What the tests of the published sequences say again and again: an agent that drives a coding CLI and lets
its outcome be checked, with both tools its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.doors.wire import Wire, action, connected

AGENT = "bulldozer"
BATCH = 25


def with_peer(url: str, body: Callable[[Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        async with connected(url) as wire:
            await body(wire)

    asyncio.run(main())


async def register(wire: Wire, **tools: Callable[[dict[str, Any]], Any]) -> None:
    wire.tools.update(tools)
    count = await wire.request("tools.register", [{"name": name} for name in tools])
    assert count == len(tools)


async def start(wire: Wire, agent: str = AGENT, **more: Any) -> str:
    started = await wire.request("runs.start", {"intent": "make it green", "agent_id": agent, **more})
    assert started["agent_id"] == agent
    return started["run_id"]


async def negotiate(wire: Wire, *capabilities: str) -> None:
    said = await wire.request(
        "server.handshake", {"protocol_version": 3, "required_capabilities": list(capabilities)}
    )
    assert said["negotiated_capabilities"] == sorted(capabilities)


def drives(exit_code: int | None = 0, *, timed_out: bool = False, tail: str = "done") -> Callable[..., Any]:
    """What runs `drive_cli` at the peer."""
    said = {"cli": "claude", "exit_code": exit_code, "timed_out": timed_out, "output_tail": tail}

    def run(call: dict[str, Any]) -> Any:
        return said

    return run


def drive(prompt: str, **more: Any) -> dict[str, Any]:
    return action("drive_cli", {"cli": "claude", "prompt": prompt}, **more)


def statuses(result: dict[str, Any]) -> list[str]:
    return [each["status"] for each in result["results"]]
