"""What the tests of runs share: runs in few words."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.rpc.clients import WAIT_SECONDS, Client, Connect, Failure, door, opened_runtime
from tests.sandbox.commands import eventually_async

from custody.calls.runtime import Runtime
from custody.journal import RealDisk, boot_id
from custody.rpc.live import GRACE_SECONDS, LEASE_SECONDS, LiveRuns
from custody.rpc.service import service_of
from custody.verify import Wanted, verify_store

MEMORY = "memory"
"""Of tests that say nothing of the wire: one transport does."""

Play = Callable[[Connect, Runtime], Awaitable[None]]


def play(
    transport: str,
    scenario: Play,
    store: str = ":memory:",
    *,
    seconds_max: float = WAIT_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
    lease_seconds: float = LEASE_SECONDS,
    **options: Any,
) -> None:
    """Run a scenario that makes its own connections."""

    async def run() -> None:
        async with opened_runtime(store, **options) as runtime:
            live = LiveRuns(runtime, grace_seconds=grace_seconds, lease_seconds=lease_seconds)
            async with door(transport, runtime, live=live) as connect, asyncio.timeout(seconds_max):
                await scenario(connect, runtime)

    asyncio.run(run())


@asynccontextmanager
async def live_runs(store: str = ":memory:", **options: Any) -> AsyncGenerator[LiveRuns]:
    """Runs without any peer."""
    async with opened_runtime(store) as runtime:
        yield LiveRuns(runtime, **options)


def live_of(runtime: Runtime) -> LiveRuns:
    return service_of(runtime).live


async def start(client: Client, **params: Any) -> str:
    """The id of a new run of agent `ada`, unless it is said to be another's."""
    answer = await client.call("runs.start", {"intent": "to see", "agent_id": "ada", **params})
    return answer["run_id"]


async def trace(client: Client, run_id: str, **params: Any) -> list[dict[str, Any]]:
    return (await client.call("runs.get_trace", {"run_id": run_id, **params}))["records"]


async def turns(client: Client, run_id: str) -> list[dict[str, Any]]:
    return [record for record in await trace(client, run_id) if record["record"] == "turn"]


async def status(client: Client, run_id: str, agent: str = "ada") -> str | None:
    listed = await client.call("runs.list", {"agent_id": agent})
    return next((run["status"] for run in listed["runs"] if run["run_id"] == run_id), None)


async def until_status(client: Client, run_id: str, expected: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await status(client, run_id) != expected:
            pass


async def until_left(runtime: Runtime, run_id: str) -> None:
    """Until the last who worked on the run has gone, so that its grace has begun."""

    def has_none_left() -> bool:
        live = live_of(runtime).find_live(run_id, None)
        return live is not None and live.grace is not None

    await eventually_async(has_none_left)


async def failure(answer: Awaitable[Any]) -> Failure:
    """The error that was answered."""
    try:
        result = await answer
    except Failure as error:
        return error
    raise AssertionError(f"there is no error, but {result}")


def turn(tool: str | None = "look", **more: Any) -> dict[str, Any]:
    """A turn as it is told."""
    return {"tool": tool, "parameters": {"q": 1}, "output": "seen", **more}


def whole(told: dict[str, Any], index: int) -> dict[str, Any]:
    """A told turn as a trace has it."""
    said = {
        "prompt": None,
        "tool": None,
        "parameters": None,
        "output": None,
        "cli_outcome": None,
        "verifier_verdict": "not_run",
        "policy_rejected": None,
        **told,
    }
    return {"record": "turn", **said, "index": index}


def assert_intact(store: str) -> None:
    """The journal verifies, and the index has what it has."""
    report = verify_store(RealDisk(store), root=os.fspath(store), wanted=Wanted(), boot_id=boot_id())
    assert (report.exit_code, report.faults, report.problems) == (0, [], [])
    assert report.index == "agrees"
