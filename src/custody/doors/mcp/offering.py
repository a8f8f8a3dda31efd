"""What one client is offered: the runtime's tools and the door's own, by name.

Owns which of them it sees. Used by `server`.
"""

import difflib
import logging

from mcp_types import Tool

from custody.doors.mcp.acts import refusal
from custody.doors.mcp.caller import Caller
from custody.doors.mcp.table import BY_NAME
from custody.doors.mcp.tool import annotations_of
from custody.tools import Registry

log = logging.getLogger("custody")


def offered(caller: Caller) -> list[Tool]:
    """What this client may call, by name."""
    found = [
        Tool(
            name=tool.name,
            description=tool.description,
            input_schema=dict(tool.schema),
            annotations=annotations_of(tool.effect),
        )
        for tool in caller.runtime.tools
        if tool.name not in BY_NAME and refusal(caller, tool.name, acts=True) is None
    ]
    found += [
        Tool(
            name=tool.name,
            description=tool.description,
            input_schema=tool.schema,
            annotations=annotations_of(tool.effect),
        )
        for tool in BY_NAME.values()
        if refusal(caller, tool.name, acts=tool.effect != "read", drives=tool.drives) is None
    ]
    return sorted(found, key=lambda tool: tool.name)


def nearest(caller: Caller, name: str) -> list[str]:
    """Names of tools that may have been meant."""
    names = {*BY_NAME, *caller.runtime.tools.names()}
    return difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.4)


def warn_of_hidden(registry: Registry) -> None:
    """A tool of one's own that has the name of one of the door's is not offered by this door."""
    for name in sorted(BY_NAME.keys() & set(registry.names())):
        log.warning("The tool %r is not offered over MCP: the name is taken there. Give it another.", name)
