"""Runs and calls as resources: what a client can put before its model without a tool call.

Owns their addresses and their bound. The JSON is that of `custody show --json`, redacted as it is kept; what
a client may not see is not there. Used by `server`.
"""

import re
from typing import Any
from urllib.parse import unquote

import msgspec
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, Resource, ResourceTemplate, TextResourceContents
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from custody.doors.mcp.caller import Caller
from custody.doors.mcp.results import MESSAGE_BYTES_MAX, shortened, shown
from custody.errors import Ambiguous, NotFound
from custody.rpc.methods import audit

RUNS = "custody://runs"
RUN = re.compile(r"custody://runs/([\w.:~%-]{1,512})", re.ASCII)
CALL = re.compile(r"custody://calls/([0-9a-f]{4,32})", re.ASCII)

MIME_TYPE = "application/json"

LATEST = 50
"""Runs in `custody://runs`, and in a page of resources."""

BYTES_MAX = MESSAGE_BYTES_MAX // 2
"""Of one resource: a client puts it before a model whole. As a text in a message it is twice as long at most:
quotes and backslashes are escaped."""

NOT_FOUND_BEFORE_2026 = -32002
"""Retired since, but what the older versions of the protocol have for a resource that is not there."""

TEMPLATES = [
    ResourceTemplate(
        name="run", uri_template="custody://runs/{id}", mime_type=MIME_TYPE,
        description="One recorded run, by id, the beginning of it, name, or `latest`.",
    ),
    ResourceTemplate(
        name="call", uri_template="custody://calls/{id}", mime_type=MIME_TYPE,
        description="One recorded call, by id or the beginning of it.",
    ),
]  # fmt: skip


async def listed(caller: Caller, cursor: str | None) -> tuple[list[Resource], str | None]:
    """The list of runs and the runs themselves, the newest first, and the cursor that goes on."""
    page = shown(await audit.audit_runs.handle(caller.peer, audit.RunsParams(limit=LATEST, cursor=cursor)))
    found = [
        Resource(
            uri=f"{RUNS}/{run['id']}",
            name=f"run {run['id'][:8]}",
            title=(run["intent"] or run["name"] or f"run {run['id'][:8]}")[:200],
            description=f"{run['agent'] or 'somebody'}, {run['started_at']}, {run['outcome'] or 'running'}",
            mime_type=MIME_TYPE,
        )
        for run in page["items"]
    ]
    if cursor is None:
        about = f"The {LATEST} latest runs that are recorded."
        found.insert(0, Resource(uri=RUNS, name="runs", description=about, mime_type=MIME_TYPE))
    return found, page["next"]


async def read(caller: Caller, uri: str, protocol_version: str) -> TextResourceContents:
    """One of them. Raises MCPError for one that is not there."""
    try:
        found = await _found(caller, uri)
    except (NotFound, Ambiguous):
        found = None
    if found is None:
        modern = protocol_version in MODERN_PROTOCOL_VERSIONS
        code = INVALID_PARAMS if modern else NOT_FOUND_BEFORE_2026
        raise MCPError(code, f"There is no resource {uri[:200]}.", {"uri": uri[:200]})
    return TextResourceContents(uri=uri, mime_type=MIME_TYPE, text=_text(found))


async def _found(caller: Caller, uri: str) -> dict[str, Any] | None:
    peer = caller.peer
    if uri == RUNS:
        return shown(await audit.audit_runs.handle(peer, audit.RunsParams(limit=LATEST)))
    if match := RUN.fullmatch(uri):
        return await audit.audit_run.handle(peer, audit.IdParams(id=unquote(match[1])))
    if match := CALL.fullmatch(uri):
        return await audit.audit_call.handle(peer, audit.CallParams(id=match[1]))
    return None


def _text(found: dict[str, Any]) -> str:
    """As JSON within the bound: of what is too large the size is told instead."""
    return msgspec.json.encode(shortened(found, BYTES_MAX)).decode()
