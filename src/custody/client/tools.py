"""Tools of the program, run here when the daemon asks for them.

Owns which tools are offered over the link and the work the daemon gives back: it has checked and recorded the
call, and here it is only done. Used by `runtime`.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from custody.calls.asked import inside
from custody.calls.lifecycle import describe
from custody.calls.run import current_run
from custody.client.refusals import refused
from custody.client.wire import Wire
from custody.errors import NotFound, UsageError
from custody.records import CALL_ID_BYTES
from custody.redaction import secret_name
from custody.rpc import jsonrpc
from custody.rpc.errors import RemoteError
from custody.rpc.spoken import spoken
from custody.sandbox import InheritedEnvironment, Launchers
from custody.tools import Context, Ended, Means, ProcessIO, Scope, Tool
from custody.tools.function import FunctionTool
from custody.tools.registry import as_tool

if TYPE_CHECKING:
    from custody.changes import HeldStore, UndoStore
    from custody.client.link import Link
    from custody.files import Protected
    from custody.index import Index

CANCEL_SECONDS = 2.0
"""How long a tool that was told to end is waited for before its answer is given up."""


class OwnTools:
    """The tools that this program brings."""

    def __init__(
        self, link: "Link", tools: Iterable[Any], home_loop: asyncio.AbstractEventLoop | None
    ) -> None:
        """`home_loop` is the program's own event loop, where its coroutines have to run; None: the link's."""
        self._link = link
        self._home_loop = home_loop
        self._tools: dict[str, Tool] = {}
        self._registered: set[str] = set()
        """Over the connection there is."""
        self._running: dict[str, Context] = {}
        self._launchers: Launchers | None = None
        self.runs: Callable[[str], object | None] = lambda run_id: None
        """The program's run of that id."""
        for tool in tools:
            self.add(tool)

    def add(self, tool: Any) -> Tool:
        """Raises UsageError for what is no tool, and for a second one of a name."""
        made = as_tool(tool)
        if made.name in self._tools:
            raise UsageError(f"There already is a tool named {made.name!r}.")
        self._tools[made.name] = made
        return made

    def know(self, candidate: Any) -> Tool:
        """The tool a program gave; see `Registry.know`."""
        name = getattr(candidate, "name", None) or getattr(candidate, "__name__", "")
        known = self._tools.get(name)
        if known is candidate and known is not None:
            return known
        if isinstance(known, FunctionTool):
            if known.function is candidate:
                return known
            del self._tools[name]
            self._registered.discard(name)
        return self.add(candidate)

    # -- in the link's thread -------------------------------------------------------------------------

    async def offer_all(self, wire: Wire) -> None:
        """Over a new connection."""
        self._registered.clear()
        await self._offer(list(self._tools.values()), wire.request)

    async def offer(self, name: str) -> Tool | None:
        """Before it is called; None for one of the daemon's. Raises what the daemon raised, NotRecorded."""
        tool = self._tools.get(name)
        if tool is not None and name not in self._registered:
            await self._offer([tool], self._link.ask)
        return tool

    async def _offer(self, tools: list[Tool], request: Callable[[str, Any], Any]) -> None:
        if not tools:
            return
        said = [
            {"name": tool.name, "description": tool.description, "parameters": dict(tool.schema)}
            for tool in tools
        ]
        try:
            await request("tools.register", said)
        except RemoteError as error:
            raise refused(error) from None
        self._registered.update(tool.name for tool in tools)

    async def serve(self, method: str, params: Any) -> Any:
        """Answer what the daemon asks. Raises RemoteError."""
        tool = self._tools.get(params.get("tool", "")) if method == "tools.execute" else None
        if tool is None:
            raise RemoteError(jsonrpc.METHOD_NOT_FOUND, f"this client does not know {method}")
        request_id = str(params.get("request_id"))
        context = self._context(params)
        self._running[request_id] = context
        try:
            ended = await self._execute(tool, params, context)
        finally:
            del self._running[request_id]
        if ended.error is not None:
            said = describe(ended.error)
            message = spoken(said["message"]).value
            raise RemoteError(jsonrpc.TOOL_FAILED, str(message), {"type": said["type"]})
        if ended.limit_hit is not None:
            raise RemoteError(jsonrpc.TOOL_FAILED, ended.note or f"{tool.name}: {ended.limit_hit}")
        return spoken(ended.result).value

    def told(self, method: str, params: Any) -> None:
        """The daemon gives a call up: end its work."""
        if method != "tools.cancel" or not isinstance(params, dict):
            return
        context = self._running.get(str(cast("dict[str, Any]", params).get("request_id")))
        if context is not None:
            loop = self._home_loop or asyncio.get_running_loop()
            loop.call_soon_threadsafe(context.request_cancel)

    async def _execute(self, tool: Tool, params: Any, context: Context) -> Ended:
        if self._home_loop is None:
            return await self._run(tool, params, context)
        future = asyncio.run_coroutine_threadsafe(self._run(tool, params, context), self._home_loop)
        return await asyncio.wrap_future(future)

    async def _run(self, tool: Tool, params: Any, context: Context) -> Ended:
        began_ns = time.monotonic_ns()
        arguments: dict[str, Any] = params.get("parameters") or {}
        run = None if context.run_id is None else self.runs(context.run_id)
        token = None if run is None else current_run.set(cast("Any", run))
        try:
            refusal = tool.validate(arguments, context.scope)
            if refusal is not None:
                raise UsageError(refusal.reason)
            with inside(_call_id(context.call_id)):
                return await tool.execute(arguments, context)
        except Exception as error:
            return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), error=error)
        finally:
            if token is not None:
                current_run.reset(token)

    def _context(self, params: Any) -> Context:
        limit_ms = params.get("timeout_ms")
        self._launchers = self._launchers or Launchers()
        return Context(
            call_id=str(params.get("action_id")),
            run_id=params.get("run_id"),
            dry_run=False,
            scope=Scope(os.getcwd(), (), _no_files),
            timeout_seconds=None if limit_ms is None else limit_ms / 1000,
            io=ProcessIO(),
            means=Means(
                launchers=self._launchers,
                inherit=InheritedEnvironment("allow_list", {}, secret_name),
                no_new_privs=True,
                limits={},
                undo=_no_undo,
                held=_no_held,
                index=_no_index,
                watch=False,
            ),
        )

    async def close(self) -> None:
        if self._launchers is not None:
            await self._launchers.close()


def _call_id(text: str) -> bytes | None:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) == CALL_ID_BYTES else None


def _no_undo() -> "UndoStore":
    raise NotFound("A tool that runs at the client has no undo data: the daemon keeps none of its changes.")


def _no_held() -> "HeldStore":
    raise NotFound("A tool that runs at the client holds no changes.")


def _no_index() -> "Index":
    raise NotFound("A tool that runs at the client asks the runtime it was given, not its context.")


def _no_files() -> "Protected":
    raise NotFound("A tool that runs at the client is bound by no roots of the daemon.")
