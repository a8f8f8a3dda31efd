"""A coding CLI is started as a run of its own, told of, and ended with all it started."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import eventually
from tests.rpc.clients import WAIT_SECONDS, Client, Failure, connected, door, opened_runtime
from tests.sandbox.commands import is_alive
from tests.settings_for_tests import NEVER_SHORT, nothing_is_asked

from custody.calls.runtime import Runtime
from custody.index import RunFilter
from custody.rpc import agents
from custody.rpc.access import Access, KnownToken, TokenDoor, digest_of
from custody.rpc.agents import INTENT_CHARACTERS_MAX, RUNNING_MAX, Agents

WORKS = '#!/bin/sh\necho "asked for: $1"\nexit ${2:-0}\n'
HANGS = '#!/bin/sh\nsleep 4321 &\necho "$! $$" > pids\nwait\n'

GUARDED = TokenDoor(
    lambda: [
        KnownToken(digest=digest_of(name), access=Access(role="agent", name=name, agent=name))
        for name in ("one", "other")
    ]
)


@pytest.fixture(autouse=True)
def clis(tmp_path: Path, work: Path) -> None:
    """`works`, `fails` and `hangs` are CLIs; `gone` is not there."""
    for name, text in {"works": WORKS, "hangs": HANGS}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    commands = f"""
[drive_cli.commands]
works = ["{tmp_path}/works", "{{prompt}}"]
fails = ["{tmp_path}/works", "{{prompt}}", "3"]
hangs = ["{tmp_path}/hangs", "{{prompt}}"]
gone = ["{tmp_path}/gone", "{{prompt}}"]
"""
    settings = tmp_path / "config" / "custody" / "custody.toml"
    settings.write_text(NEVER_SHORT + commands, encoding="utf-8")
    nothing_is_asked(tmp_path / "config")


def play(scenario: Callable[[Client, Runtime], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with opened_runtime() as runtime, connected("memory", runtime) as client:
            return await scenario(client, runtime)

    return asyncio.run(main())


async def over(client: Client, agent_id: str) -> Any:
    async with asyncio.timeout(WAIT_SECONDS):
        while (state := await client.call("agents.status", {"id": agent_id}))["status"] == "running":
            pass  # each look is a question to the index
    return state


async def pids(work: Path) -> list[int]:
    """Of the CLI that hangs and of what it started."""
    file = work / "pids"
    text = await asyncio.to_thread(eventually, lambda: file.exists() and file.read_text(encoding="utf-8"))
    return [int(pid) for pid in text.split()]


def test_it_is_a_run_of_its_own_that_can_be_read_back():
    async def scenario(client: Client, runtime: Runtime) -> Any:
        spawned = await client.call("agents.spawn", {"cli": "works", "prompt": "mend it", "agent": "one"})
        state = await over(client, spawned["id"])
        run = await client.call("audit.run", {"id": spawned["id"]})
        call = await client.call("audit.call", {"id": state["call_id"]})
        return spawned, state, run, call

    spawned, state, run, call = play(scenario)
    assert state == {
        "id": spawned["id"], "status": "succeeded", "cli": "works", "prompt": "mend it", "reason": None,
        "started_at": run["started_at"], "finished_at": run["finished_at"], "call_id": call["id"],
        "exit_code": 0, "output": "asked for: mend it\n",
    }  # fmt: skip
    assert (run["agent"], run["intent"], run["outcome"]) == ("one", "mend it", "succeeded")
    assert (call["run_id"], call["tool"]) == (run["id"], "drive_cli")


def test_what_its_cli_says_of_its_end_is_how_it_ended():
    async def scenario(client: Client, runtime: Runtime) -> Any:
        spawned = await client.call("agents.spawn", {"cli": "fails", "prompt": "mend it", "agent": "one"})
        return await over(client, spawned["id"])

    state = play(scenario)
    assert (state["status"], state["exit_code"]) == ("failed", 3)
    assert state["reason"] == "its CLI ended with exit code 3"


@pytest.mark.parametrize(("cli", "status"), [("nonsense", "rejected"), ("gone", "failed")])
def test_one_that_cannot_be_started_is_told_at_once_and_never_said_to_run(cli: str, status: str):
    async def scenario(client: Client, runtime: Runtime) -> Any:
        spawned = await client.call("agents.spawn", {"cli": cli, "prompt": "mend it", "agent": "one"})
        return await over(client, spawned["id"])

    assert play(scenario)["status"] == status


def test_cancelled_it_ends_with_everything_it_started(work: Path):
    async def scenario(client: Client, runtime: Runtime) -> Any:
        spawned = await client.call("agents.spawn", {"cli": "hangs", "prompt": "wait", "agent": "one"})
        alive = await pids(work)
        cancelled = await client.call("agents.cancel", {"id": spawned["id"]})
        again = await client.call("agents.cancel", {"id": spawned["id"]})
        return spawned, alive, cancelled, again

    spawned, alive, cancelled, again = play(scenario)
    assert spawned["status"] == "running"
    assert cancelled["status"] == again["status"] == "cancelled"
    assert not any(is_alive(pid) for pid in alive)


def test_it_outlives_the_connection_and_ends_with_the_daemon(work: Path):
    async def main() -> Any:
        async with opened_runtime(os.fspath(work.parent / "store")) as runtime:
            async with door("memory", runtime) as connect:
                async with connect() as client:
                    spawned = await client.call(
                        "agents.spawn", {"cli": "hangs", "prompt": "wait", "agent": "one"}
                    )
                    service = client.service
                alive = await pids(work)
                running = [is_alive(pid) for pid in alive]
                assert service.agents is not None
                await service.agents.close()
            state = await service.agents.status(spawned["id"])
            return running, [is_alive(pid) for pid in alive], (state.status, state.reason)

    running, left, end = asyncio.run(main())
    assert all(running)
    assert not any(left)
    assert end == ("cancelled", "the daemon stopped")


def test_one_whose_id_nobody_waited_for_is_ended(work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(agents, "TOLD_SECONDS", WAIT_SECONDS)

    async def scenario(client: Client, runtime: Runtime) -> Any:
        spawning = asyncio.create_task(Agents(runtime).spawn("hangs", "wait"))
        alive = await pids(work)
        spawning.cancel()
        await asyncio.wait({spawning})
        (run,) = await asyncio.to_thread(lambda: runtime.index.runs(RunFilter(), 10).items)
        return [is_alive(pid) for pid in alive], run.outcome

    left, outcome = play(scenario)
    assert not any(left)
    assert outcome == "cancelled"


def test_one_given_up_while_it_begins_leaves_no_run_open():
    async def scenario(client: Client, runtime: Runtime) -> Any:
        spawning = asyncio.create_task(Agents(runtime).spawn("works", "mend it"))
        await asyncio.sleep(0)
        spawning.cancel()
        await asyncio.wait({spawning})
        return await asyncio.to_thread(lambda: runtime.index.runs(RunFilter(), 10).items)

    assert {run.outcome for run in play(scenario)} <= {"cancelled"}


def test_a_secret_where_the_intent_is_cut_is_not_on_the_record():
    secret = "sk-ant-api03-" + "Ab1" * 30
    prompt = "x" * (INTENT_CHARACTERS_MAX - 20) + " " + secret

    async def scenario(client: Client, runtime: Runtime) -> Any:
        spawned = await client.call("agents.spawn", {"cli": "works", "prompt": prompt, "agent": "one"})
        await over(client, spawned["id"])
        return (await client.call("audit.run", {"id": spawned["id"]}))["intent"]

    intent = play(scenario)
    assert "sk-ant" not in intent
    assert len(intent) <= INTENT_CHARACTERS_MAX


def test_to_anybody_else_it_does_not_exist():
    async def main() -> Any:
        async with (
            opened_runtime() as runtime,
            door("memory", runtime, doorkeeper=GUARDED) as connect,
            connect() as one,
            connect() as other,
        ):
            await one.call("session.auth", {"token": "one"})
            await other.call("session.auth", {"token": "other"})
            spawned = await one.call("agents.spawn", {"cli": "works", "prompt": "mend it"})
            said: list[tuple[int, str]] = []
            for asked in (spawned["id"], "0" * 32):
                for name in ("agents.status", "agents.cancel"):
                    with pytest.raises(Failure) as failure:
                        await other.call(name, {"id": asked})
                    said.append((failure.value.code, failure.value.message))
            return said, await over(one, spawned["id"])

    said, state = asyncio.run(main())
    assert len(set(said)) == 1
    assert state["status"] == "succeeded"


def test_a_run_that_is_no_agent_is_none():
    async def scenario(client: Client, runtime: Runtime) -> Any:
        run = await client.call("runs.start", {"intent": "other work", "agent_id": "one"})
        with pytest.raises(Failure) as failure:
            await client.call("agents.cancel", {"id": run["run_id"]})
        return failure.value

    assert "No agent has that id" in play(scenario).message


def test_there_is_a_bound_to_how_many_run_at_once():
    async def scenario(client: Client, runtime: Runtime) -> Any:
        asked = {"cli": "hangs", "prompt": "wait", "agent": "one"}
        spawned = await asyncio.gather(*(client.call("agents.spawn", asked) for _ in range(RUNNING_MAX)))
        with pytest.raises(Failure) as failure:
            await client.call("agents.spawn", asked)
        assert client.service.agents is not None
        await client.service.agents.close()
        return {state["status"] for state in spawned}, failure.value

    statuses, failure = play(scenario)
    assert statuses == {"running"}
    assert "run already" in failure.message


@pytest.mark.parametrize(
    "params",
    [
        {"cli": "works", "prompt": "  "},
        {"cli": "works", "prompt": "x" * 70_000},
        {"cli": "works", "prompt": "x", "timeout_s": -1},
        {"cli": "works"},
    ],
    ids=["blank", "long", "no time", "no prompt"],
)
def test_nonsense_starts_no_run(params: dict[str, Any]):
    async def scenario(client: Client, runtime: Runtime) -> Any:
        with pytest.raises(Failure) as failure:
            await client.call("agents.spawn", {"agent": "one", **params})
        return failure.value.code, await asyncio.to_thread(lambda: runtime.index.runs(RunFilter(), 10).items)

    assert play(scenario) == (-32602, [])
