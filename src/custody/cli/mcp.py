"""`custody mcp`: the MCP server on standard input and output.

Owns its options, the entry for a client's configuration, the order of its start (the client is greeted while
the store is still being opened) and its end. What is served is `doors.mcp`'s. Used by the program alone.
"""

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message
from custody.cli.options import json_option, load, store_option
from custody.errors import Denied, UsageError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from custody.client import RemoteRuntime
    from custody.doors.mcp.caller import Backing
    from custody.doors.mcp.pipes import Pipes
    from custody.settings import Settings

EPILOG = "Example:  custody mcp --cwd ~/shop --root ~/data   (a client starts it)"

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@click.command("mcp", epilog=EPILOG)
@click.option("--agent", metavar="NAME", help="Which agent acts [default: what the client calls itself].")
@click.option("--cwd", metavar="FOLDER", help="Where tools work, and may touch files [default: here].")
@click.option(
    "--root", "roots", multiple=True, metavar="FOLDER",
    help="Also allow this folder, and below (repeatable).",
)  # fmt: skip
@click.option("--tools", "only", metavar="NAMES", help="Offer these tools alone: exec,file_read,runs_list.")
@click.option(
    "--daemon", metavar="URL", help="A daemon that runs agents: ws://127.0.0.1:9100 [default: none]."
)
@click.option("--no-ask", is_flag=True, help="Put no questions to the person behind the client.")
@store_option
@json_option
def mcp_command(
    agent: str | None, cwd: str | None, roots: tuple[str, ...], only: str | None, daemon: str | None,
    no_ask: bool, store: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Serve the Model Context Protocol on standard input and output.

    With --json it prints what a client's configuration takes to start it with these options, and ends.
    """
    import asyncio
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise UsageError(
            "The MCP server needs packages that are not installed.",
            hint="pip install 'custody-runtime[mcp]'",
        )
    for folder in (*(() if cwd is None else (cwd,)), *roots):
        if not os.path.isdir(os.path.expanduser(folder)):
            raise UsageError(f"{folder!r} is no folder.", hint="--cwd and --root take one that is there.")
    settings = load(store, cwd=None if cwd is None else os.path.expanduser(cwd), roots=roots)
    offered = None if only is None else frozenset(filter(None, (name.strip() for name in only.split(","))))
    if daemon is not None:
        from custody.client import Address

        Address.of(daemon)  # an error now, not when somebody first asks for it
    if as_json:
        if offered is not None:
            from custody.offering import tool_names

            _check_offered(offered, tool_names(settings))
        options = {"--agent": agent, "--cwd": settings.cwd, "--tools": only, "--daemon": daemon}
        _print_entry({**options, "--store": settings.store}, roots, flags=("--no-ask",) if no_ask else ())
        return 0
    if sys.stdin.isatty():
        message("A client speaks MCP here; docs/how-to/mcp.md says how one is told to. Ctrl-D ends it.")
    from custody.doors.mcp.pipes import Pipes

    pipes = Pipes()
    try:
        asyncio.run(_serve(pipes, _Behind(settings, offered, daemon, asks=not no_ask), agent))
    finally:
        pipes.give_back()
    return 0


def _print_entry(options: "Mapping[str, str | None]", roots: tuple[str, ...], flags: tuple[str, ...]) -> None:
    """A client starts it somewhere else, with another environment: everything is said, with whole paths."""
    from custody.cli.document import print_document

    arguments = ["-m", "custody", "mcp"]
    for option, value in options.items():
        arguments += [] if value is None else [option, value]
    for root in roots:
        arguments += ["--root", os.path.abspath(os.path.expanduser(root))]
    arguments += flags
    print_document({"mcpServers": {"custody": {"command": sys.executable, "args": arguments}}})


def _check_offered(only: "frozenset[str]", names: "Iterable[str]") -> None:
    """`names` are those of the runtime's tools. Raises UsageError where one to be offered is not there."""
    from custody.doors.mcp.table import BY_NAME

    known = {*BY_NAME, *names}
    if unknown := sorted(only - known):
        raise UsageError(
            f"--tools names {', '.join(unknown)}, and there is no such tool.",
            hint=f"There are: {', '.join(sorted(known))}.",
        )


async def _serve(pipes: "Pipes", behind: "_Behind", agent: str | None) -> None:
    import asyncio

    from custody.doors.mcp.stdio import serve_stdio

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        await serve_stdio(pipes, behind.open, stop, agent=agent)
    finally:
        await behind.close()


class _Behind:
    """The runtime behind the server, and the daemon where one was named."""

    def __init__(
        self, settings: "Settings", only: frozenset[str] | None, daemon: str | None, *, asks: bool
    ) -> None:
        self._settings = settings
        self._asks = asks
        self._only = only
        self._url = daemon
        self._runtime: Any = None
        self._remote: RemoteRuntime | None = None
        self._connecting: asyncio.Task[RemoteRuntime] | None = None

    async def open(self) -> "Backing":
        """Raises StoreError, InvalidSetting, UsageError for a tool to be offered that there is not."""
        from custody.compose import open_lasting_runtime
        from custody.doors.mcp.caller import DOOR, Backing
        from custody.offering import shelf_of
        from custody.rpc.service import Service

        self._runtime = runtime = await open_lasting_runtime(self._settings, door=DOOR)
        _check_offered(self._only or frozenset(), runtime.tools.names())
        return Backing(
            service=Service(runtime, shelf=shelf_of(self._settings)),
            daemon=None if self._url is None else self._ask,
            training=self._settings.file.training.command,
            only=self._only,
            asks=self._asks,
        )

    async def _ask(self, method: str, params: dict[str, Any], *, agent: str | None, once: bool) -> Any:
        """Raises StoreUnusable or NotRecorded where the daemon cannot be reached, and what it answers."""
        link = (await self._connected(agent)).link
        return await link.work(link.act(method, params) if once else link.ask(method, params)).over()

    async def _connected(self, agent: str | None) -> "RemoteRuntime":
        """It is connected to when it is first needed: the server serves without it."""
        import asyncio

        if self._connecting is None or (self._connecting.done() and self._remote is None):
            self._connecting = asyncio.create_task(self._connect(agent))
        return await asyncio.shield(self._connecting)

    async def _connect(self, agent: str | None) -> "RemoteRuntime":
        """Under the client's name, or where the token is an agent's own, under that."""
        import asyncio

        from custody.client import Address, RemoteRuntime, Speaker
        from custody.compose import daemon_token

        assert self._url is not None, "nobody asks a daemon that was not named"
        address = Address.of(self._url)
        token, home = daemon_token(address, self._settings.store), asyncio.get_running_loop()

        async def connected(name: str | None) -> RemoteRuntime:
            return await RemoteRuntime(address, Speaker(token=token, agent=name), home_loop=home).open()

        try:
            self._remote = await connected(agent)
        except Denied:
            if agent is None:
                raise
            self._remote = await connected(None)
        return self._remote

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._remote is not None:
            await self._remote.close()
        if self._runtime is not None:
            await self._runtime.close()
