"""The MCP server: requests of the protocol, each answered from what is offered here.

Owns which handlers there are and the way of a request: whose it is, its progress, its end, its answer. The
protocol itself, in every version, is the SDK's. Used by `stdio` and `http`.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError

from custody import __version__
from custody.doors.mcp import resources
from custody.doors.mcp.acts import make_call, refusal
from custody.doors.mcp.asking import Put, Shown, by_request, may_be_asked, prompt_of
from custody.doors.mcp.caller import Caller
from custody.doors.mcp.offering import nearest, offered
from custody.doors.mcp.progress import Progress
from custody.doors.mcp.results import answered, call_ended, refused, within
from custody.doors.mcp.rounds import Answered, Rounds, Waiting
from custody.doors.mcp.table import BY_NAME
from custody.doors.mcp.tool import NOT_IMPLEMENTED, RUNTIME_UNAVAILABLE, Asked, DoorTool
from custody.errors import Denied
from custody.rpc.errors import wire_error

INSTRUCTIONS = (
    "Tools that act are checked by policy, recorded before they run, confined and measured; a refusal says "
    "who refused and why. runs_list, calls_search and stats answer from that record. undo takes back what a "
    "call did to files."
)

Request = ServerRequestContext[Any, Any]
CallerOf = Callable[[Request], Awaitable[Caller]]
"""Whose request it is. A transport knows."""


def build_server(caller_of: CallerOf) -> Server[Any]:
    """The server for one transport."""
    handlers = _Handlers(caller_of)
    return Server(
        "custody",
        version=__version__,
        title="Custody",
        instructions=INSTRUCTIONS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
    )


class _Handlers:
    """Of one server."""

    def __init__(self, caller_of: CallerOf) -> None:
        self._caller_of = caller_of
        self._rounds = Rounds()
        self._shown = Shown()

    async def list_tools(
        self, request: Request, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        del params  # they are few: one page
        caller = await self._caller(request)
        with _told(caller):
            return types.ListToolsResult(tools=offered(caller))

    async def call_tool(self, request: Request, params: types.CallToolRequestParams) -> Answered:
        caller = await self._caller(request)
        try:
            result = await self._answered(caller, request, params)
        except MCPError:
            raise
        except Exception as error:
            result = refused(error, caller.service)
        if isinstance(result, types.InputRequiredResult):
            return result
        return within(result, caller.backing.message_bytes_max)

    async def _answered(
        self, caller: Caller, request: Request, params: types.CallToolRequestParams
    ) -> Answered:
        """In the newest version a client that is asked something comes again: then its call goes on."""
        if params.request_state is not None:
            return await self._rounds.answered(caller, self._rounds.taken(caller, params))

        def work(put: Put | None) -> Coroutine[Any, Any, types.CallToolResult]:
            prompt = None if put is None else prompt_of(caller, request, put, self._shown)
            return _worked(Asked(caller, _progress_of(request), prompt), params)

        if not may_be_asked(caller, request):
            return await caller.work(work(None))
        if request.session.can_send_request:
            return await caller.work(work(by_request(request)))
        waiting = Waiting(caller.peer.access, params.name, params.arguments or {})
        waiting.begin(caller, work(waiting.put))
        return await self._rounds.answered(caller, waiting)

    async def list_resources(
        self, request: Request, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        caller = await self._caller(request)
        with _told(caller):
            cursor = None if params is None else params.cursor
            found, following = await caller.work(resources.listed(caller, cursor))
            return types.ListResourcesResult(resources=found, next_cursor=following)

    async def list_templates(
        self, request: Request, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        del request, params
        return types.ListResourceTemplatesResult(resource_templates=resources.TEMPLATES)

    async def read_resource(
        self, request: Request, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        caller = await self._caller(request)
        with _told(caller):
            reading = resources.read(caller, str(params.uri), request.protocol_version)
            return types.ReadResourceResult(contents=[await caller.work(reading)])

    async def _caller(self, request: Request) -> Caller:
        caller = await self._caller_of(request)
        said = request.session.client_params
        if said is not None:
            caller.introduce(said.client_info.name, said.client_info.version)
        return caller


class _told:  # noqa: N801 - reads as what it does in a `with`
    """An error of a question that is no tool's becomes the protocol's."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, MCPError):
            clean = self._caller.runtime.ledger.recorder.clean_text
            code, message, data = wire_error(error, lambda text: clean(text, "error")[0])
            raise MCPError(code, message, data) from None


async def _worked(asked: Asked, params: types.CallToolRequestParams) -> types.CallToolResult:
    """What comes of a tool call."""
    tool, arguments = BY_NAME.get(params.name), params.arguments or {}
    async with asked.progress.telling():
        if tool is None:
            return await _called(asked, params.name, arguments)
        return await _asked(asked, tool, arguments)


async def _called(asked: Asked, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
    """A tool of the registry. One that is not there is an error of the protocol, and on the record."""
    caller = asked.caller
    call = await make_call(caller, name, arguments, asked.progress, prompt=asked.prompt)
    if call.outcome == "rejected" and caller.runtime.tools.get(name) is None:
        near = nearest(caller, name)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name[:128]}.{hint}", {"call_id": call.id})
    return call_ended(call)


async def _asked(asked: Asked, tool: DoorTool, arguments: dict[str, Any]) -> types.CallToolResult:
    """One of the door's own: who may, what it takes, what it needs, and only then what it does."""
    no = refusal(asked.caller, tool.name, acts=tool.effect != "read", drives=tool.drives)
    if no is not None:
        raise Denied(no.reason)
    params = tool.read(arguments)
    if tool.requires is not None and not tool.requires.met(asked.caller.backing):
        message = f"{tool.name} needs {tool.requires.what}, and there is none. {tool.requires.hint}"
        said = {"status": NOT_IMPLEMENTED, "reason_code": RUNTIME_UNAVAILABLE, "message": message}
        return answered({**arguments, "tool": tool.name, **said}, failed=True)
    answer = await tool.answer(asked, params)
    return answered(answer, failed=tool.failed(answer))


def _progress_of(request: Request) -> Progress:
    wanted = request.meta is not None and request.meta.get("progress_token") is not None
    return Progress(request.session.report_progress if wanted else None)
