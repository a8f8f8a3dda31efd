"""What needs more than this server: agents that work by themselves, and a trainer.

Owns what each needs, and how to get it: without it the answer is an error that says so, never a pretence.
Agents are the daemon's (`rpc.methods.agents`), asked here or over its wire; a trainer is a command of the
settings, run as a call like any other. Used by `table`.
"""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from custody.doors.mcp.acts import make_call
from custody.doors.mcp.caller import END_SECONDS
from custody.doors.mcp.tool import Asked, DoorTool, Requirement
from custody.errors import CustodyError
from custody.rpc.agents import TOOL
from custody.rpc.methods import agents
from custody.rpc.methods.calls import call_said

TRAINING_SECONDS = 3_600.0
"""For a training that names no deadline."""
TRAINING_SECONDS_MAX = 24 * 3_600.0

A_DAEMON = Requirement(
    what="a connected daemon",
    hint="Start `custody serve` and name it: `custody mcp --daemon URL`, or use the MCP server at its /mcp.",
    met=lambda backing: backing.is_daemon or backing.daemon is not None,
)
A_TRAINER = Requirement(
    what="a configured trainer",
    hint="Set `[training] command` in custody.toml.",
    met=lambda backing: bool(backing.training),
)

AgentId = Annotated[str, Meta(min_length=1, max_length=64, description="The id that agent_spawn gave.")]


class AgentSpawnParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which coding CLI is to do what."""

    cli: Annotated[str, Meta(description="A coding CLI: claude, codex, gemini, or one of [drive_cli].")]
    prompt: Annotated[str, Meta(description="What it is to do.")]
    cwd: Annotated[str, Meta(description="Where, inside the allowed roots.")] | None = None
    timeout_s: Annotated[float, Meta(gt=0, description="Its deadline, in seconds.")] | None = None


async def agent_spawn(asked: Asked, params: AgentSpawnParams) -> Any:
    """An agent whose id nobody waited for is ended. Here that is `rpc.agents`' affair; the daemon's wire
    takes no request back, so of one elsewhere it is ours."""
    spawning = asyncio.ensure_future(_ask(asked, agents.agents_spawn, params, once=True))
    if asked.caller.backing.is_daemon:
        return await spawning
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        with suppress(CustodyError, TimeoutError):
            spawned = await asyncio.wait_for(spawning, END_SECONDS)
            await _ask(asked, agents.agents_cancel, AgentParams(id=spawned["id"]))
        raise


class AgentParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which agent."""

    id: AgentId


async def agent_status(asked: Asked, params: AgentParams) -> Any:
    return await _ask(asked, agents.agents_status, params)


async def agent_cancel(asked: Asked, params: AgentParams) -> Any:
    return await _ask(asked, agents.agents_cancel, params)


async def _ask(asked: Asked, method: Any, params: Struct, *, once: bool = False) -> Any:
    """The daemon, which is this process or one that was named."""
    caller = asked.caller
    said = msgspec.to_builtins(params)
    if caller.backing.is_daemon:
        return await method.handle(caller.peer, msgspec.convert(said, method.params))
    assert caller.backing.daemon is not None, "without it the requirement is not met"
    known = {name: value for name, value in said.items() if value is not None}
    return await caller.backing.daemon(method.name, known, agent=caller.peer.agent, once=once)


class TrainingTriggerParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to train on, and for how long."""

    scope: Annotated[
        Literal["incremental", "full"], Meta(description="What is new since the last time, or everything.")
    ] = "incremental"
    timeout_s: Annotated[
        float, Meta(gt=0, le=TRAINING_SECONDS_MAX, description="Its deadline, in seconds.")
    ] = TRAINING_SECONDS


class Trained(Struct, frozen=True, kw_only=True):
    """What came of it."""

    run_id: str
    scope: str
    outcome: str | None
    call: dict[str, Any]


async def training_trigger(asked: Asked, params: TrainingTriggerParams) -> Trained:
    caller = asked.caller
    session = await caller.run()
    handle = caller.runtime.run(
        f"training: {params.scope}",
        name="training",
        agent=caller.peer.agent,
        parent=None if session is None else session.id,
        on_error="raise",
    )
    async with handle:
        call = await make_call(
            caller,
            "exec",
            {"argv": [*caller.backing.training, params.scope]},
            asked.progress,
            run=handle,
            timeout=params.timeout_s,
            called="training_trigger",
            prompt=asked.prompt,
        )
        await handle.finish(call.outcome, reason=call.reason)
    return Trained(run_id=handle.id, scope=params.scope, outcome=call.outcome, call=call_said(call))


def _not_begun(answer: Any) -> bool:
    """What was asked for did not even begin."""
    return _status(answer) in ("rejected", "failed", "unknown")


def _not_ended(answer: Any) -> bool:
    return _status(answer) == "running"


def _status(answer: Any) -> str:
    return msgspec.to_builtins(answer)["status"]  # of a daemon elsewhere it is a mapping already


TOOLS = (
    DoorTool(
        name="agent_spawn",
        about="Have a coding CLI do what a prompt says, as a run of its own; answers while it works.",
        params=AgentSpawnParams,
        answer=agent_spawn,
        effect="irreversible",
        requires=A_DAEMON,
        drives=TOOL,
        failed=_not_begun,
    ),
    DoorTool(
        name="agent_status",
        about="Show how an agent stands, and how it ended.",
        params=AgentParams,
        answer=agent_status,
        requires=A_DAEMON,
    ),
    DoorTool(
        name="agent_cancel",
        about="End an agent with every process it started.",
        params=AgentParams,
        answer=agent_cancel,
        effect="write",
        requires=A_DAEMON,
        failed=_not_ended,
    ),
    DoorTool(
        name="training_trigger",
        about="Run the configured trainer to its end, as a run of its own.",
        params=TrainingTriggerParams,
        answer=training_trigger,
        effect="irreversible",
        requires=A_TRAINER,
        failed=lambda trained: trained.outcome != "succeeded",
    ),
)
