"""`tools.*`: the tools a peer runs itself, beside Custody's own.

Owns their shapes on the wire and their bounds. How such a tool is run is `callbacks`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput, UsageError
from custody.records import Effect
from custody.rpc.callbacks import ClientTool
from custody.rpc.definitions import ToolDefinition
from custody.rpc.events import current_run, record_event
from custody.rpc.method import ACTING, method
from custody.rpc.peer import Peer
from custody.rpc.rates import Rate
from custody.tools import Registry, Tool

TOOLS_MAX = 1_000
"""Of one connection. No model is offered so many."""

SCHEMA_BYTES_MAX = 64 * 1024
"""Of one tool's schema as JSON: it is compiled on the event loop that serves everybody."""

DESCRIPTION_CHARACTERS_MAX = 16 * 1024  # of one tool: a model reads it


class ToolDefinitions(Struct, frozen=True, kw_only=True):
    """The same in an object."""

    tools: list[ToolDefinition]


class ToolsListParams(Struct, frozen=True, kw_only=True):
    """Nothing."""


class OfferedTool(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that a proposal of this connection may name."""

    name: str
    source: Literal["builtin", "user_defined"]
    description: str
    parameters: dict[str, Any]
    effect: Effect
    returns: dict[str, Any] | None = None
    idempotent: bool = False
    cache_ttl_secs: float | None = None
    rate_limit: Rate | None = None


class ToolsListed(Struct, frozen=True, kw_only=True):
    """By name."""

    tools: list[OfferedTool]
    count: int


class ToolName(Struct, frozen=True, kw_only=True):
    """Which tool."""

    name: str


class ToolUnregistered(Struct, frozen=True, kw_only=True):
    """Whether there was one: 1 or 0."""

    unregistered: str
    removed: int


async def register(peer: Peer, definitions: Sequence[ToolDefinition]) -> int:
    """Offer tools, all of them or none; how many. Raises UsageError, InvalidInput, NotRecorded."""
    tools: list[ClientTool] = []
    for index, definition in enumerate(definitions):
        tools.append(_tool(peer, definition, index))
        await asyncio.sleep(0)  # a schema takes its time to compile, and others are served meanwhile
    names = {tool.name for tool in tools}
    if len(names | {tool.name for tool in peer.tools.own}) > TOOLS_MAX:
        raise InvalidInput(
            f"A connection may offer {TOOLS_MAX} tools.", hint="tools.unregister takes one away."
        )
    said = [{"name": tool.name, "description": tool.description, "parameters": tool.schema} for tool in tools]
    await record_event(peer, "tool.registered", {"tools": said}, run=current_run(peer))
    for tool, definition in zip(tools, definitions, strict=True):
        peer.tools.offer(tool)
        peer.session.define(definition)
    return len(tools)


def _tool(peer: Peer, definition: ToolDefinition, index: int) -> ClientTool:
    description = definition.description or ""
    schema = definition.parameters or {}
    if len(description) > DESCRIPTION_CHARACTERS_MAX:
        raise InvalidInput(
            f"The description of a tool has {DESCRIPTION_CHARACTERS_MAX} characters at most.",
            field=f"[{index}].description",
        )
    if len(msgspec.json.encode(schema)) > SCHEMA_BYTES_MAX:
        raise InvalidInput(
            f"The schema of a tool has {SCHEMA_BYTES_MAX} bytes at most.", field=f"[{index}].parameters"
        )
    tool = ClientTool(peer, definition.name, description=description, schema=schema)
    try:
        Registry(over=peer.service.runtime.tools).offer(tool)
    except UsageError as error:
        field = f"[{index}].parameters" if "schema" in error.message else f"[{index}].name"
        raise InvalidInput(error.message.partition("\n")[0], hint=error.hint, field=field) from error
    return tool


@method("tools.register", roles=ACTING)
async def tools_register(peer: Peer, params: list[ToolDefinition] | ToolDefinitions) -> int:
    """Offer tools that this connection runs itself; how many were taken."""
    return await register(peer, params if isinstance(params, list) else params.tools)


@method("tools.list")
async def tools_list(peer: Peer, params: ToolsListParams) -> ToolsListed:
    """Every tool that a proposal of this connection may name: its own and Custody's."""
    del params
    own = {tool.name for tool in peer.tools.own}
    allowed = peer.access.tools
    tools = [
        _offered(peer, tool, own=tool.name in own)
        for tool in peer.tools
        if allowed is None or tool.name in allowed
    ]
    return ToolsListed(tools=tools, count=len(tools))


def _offered(peer: Peer, tool: Tool, *, own: bool) -> OfferedTool:
    definition = peer.session.definitions.get(tool.name) if own else None
    return OfferedTool(
        name=tool.name,
        source="user_defined" if own else "builtin",
        description=tool.description,
        parameters=dict(tool.schema),
        effect=tool.effect,
        returns=None if definition is None else definition.returns,
        idempotent=definition is not None and bool(definition.idempotent),
        cache_ttl_secs=None if definition is None else definition.cache_ttl_secs,
        rate_limit=None if definition is None else definition.rate_limit,
    )


@method("tools.unregister", roles=ACTING)
async def tools_unregister(peer: Peer, params: ToolName) -> ToolUnregistered:
    """Offer one of this connection's own tools no longer; Custody's stay."""
    known = params.name in {tool.name for tool in peer.tools.own}
    if known:
        await record_event(peer, "tool.unregistered", {"name": params.name}, run=current_run(peer))
        known = peer.tools.withdraw(params.name)
        peer.session.undefine(params.name)
    return ToolUnregistered(unregistered=params.name, removed=int(known))


METHODS = (tools_register, tools_list, tools_unregister)
