"""`custody proxy`: between an MCP client and the servers it would have spoken to.

Owns its options and the entry for a client's configuration. What is relayed and how calls are made is
`doors.proxy`'s. Used by the program alone.
"""

import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message
from custody.cli.options import Duration, json_option, load, store_option
from custody.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from custody.doors.proxy.calling import Options
    from custody.doors.proxy.streams import ClientStreams
    from custody.settings import Settings

EPILOG = "Example:  custody proxy --name files -- npx -y @modelcontextprotocol/server-filesystem ~/shop"

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # with a tool's name behind it, it is a tool's name as well


@click.command("proxy", epilog=EPILOG)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVER [ARGUMENTS]...]")
@click.option("--name", metavar="NAME", help="What rules call the server: its tools are NAME__TOOL.")
@click.option("--agent", metavar="NAME", help="Which agent acts [default: what the client calls itself].")
@click.option("--reads", metavar="TOOLS", help="These tools only read, on your word: list_files,search.")
@click.option(
    "--timeout", type=Duration(), metavar="TIME", help="How long a call may take, or none [default: 10m]."
)
@click.option("--no-ask", is_flag=True, help="Put no questions to the person behind the client.")
@click.option("--trust", is_flag=True, help="Trust the descriptions of its tools that have changed, and end.")
@click.option("--yes", is_flag=True, help="With --trust: do not ask, what has changed has been read.")
@store_option
@json_option
def proxy_command(
    command: tuple[str, ...], name: str | None, agent: str | None, reads: str | None, timeout: float | None,
    no_ask: bool, trust: bool, yes: bool, store: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Guard and record what an MCP client has a server do.

    A client starts it in place of the server; messages are relayed as they come, and each tool call is
    checked and recorded first. With --json it prints what a client's configuration takes, and ends.
    """
    name = name or _name_of(command)
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a server.", hint="--name takes letters, digits and _.-, 64 at most."
        )
    if trust:
        from custody.cli.proxy_trust import trust_changes

        return trust_changes(store, name, yes=yes, as_json=as_json)
    if not command:
        raise UsageError(
            "Which server?",
            hint="custody proxy [options] -- COMMAND [ARGUMENTS], as a client would start it.",
        )
    settings = load(store)
    if as_json:
        _print_entry(command, {"--name": name, "--agent": agent, "--reads": reads, "--store": settings.store})
        return 0
    return _relay(settings, command, _options(name, agent, reads, timeout, asks=not no_ask))


def _name_of(command: tuple[str, ...]) -> str:
    """What it is called where nobody says: as its program, without what such a name cannot have."""
    program = os.path.basename(command[0]).partition(".")[0] if command else "server"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", program)[:64] or "server"


def _options(
    name: str, agent: str | None, reads: str | None, timeout: float | None, *, asks: bool
) -> "Options":
    from custody.doors.proxy.calling import Options
    from custody.doors.proxy.guarded import CALL_SECONDS

    return Options(
        name=name,
        agent=agent,
        reads=frozenset(filter(None, (tool.strip() for tool in (reads or "").split(",")))),
        call_seconds=CALL_SECONDS if timeout is None else timeout or None,
        asks=asks,
    )


def _print_entry(command: tuple[str, ...], options: "Mapping[str, str | None]") -> None:
    """A client starts it somewhere else: everything is said, with whole paths."""
    from custody.cli.document import print_document

    arguments = ["-m", "custody", "proxy"]
    for option, value in options.items():
        arguments += [] if value is None else [option, value]
    entry = {"command": sys.executable, "args": [*arguments, "--", *command]}
    print_document({"mcpServers": {options["--name"]: entry}})


def _relay(settings: "Settings", command: tuple[str, ...], options: "Options") -> int:
    import asyncio

    from custody.doors.proxy.streams import ClientStreams

    if sys.stdin.isatty():
        message("A client speaks MCP here; docs/how-to/proxy.md says how one is told to. Ctrl-D ends it.")
    streams = ClientStreams()
    try:
        asyncio.run(_serve(streams, settings, command, options))
    finally:
        streams.give_back()
    return 0


async def _serve(
    streams: "ClientStreams", settings: "Settings", command: tuple[str, ...], options: "Options"
) -> None:
    import asyncio

    from custody.doors.proxy.child import ServerProcess
    from custody.doors.proxy.session import Session

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    behind = Behind(settings)
    server = ServerProcess(command, settings.cwd, os.environ)
    try:
        await Session(options, server, streams.output, behind.open).serve(streams.input, stop)
    finally:
        await behind.close()


class Behind:
    """The runtime behind a session: opened while the first words are relayed already."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._runtime: Any = None

    async def open(self) -> Any:
        """Raises StoreError, InvalidSetting."""
        import asyncio

        def load_them() -> None:  # what calls are made of: not while lines wait for the loop
            import custody.calls.runtime
            import custody.compose  # noqa: F401

        await asyncio.to_thread(load_them)
        from custody.compose import open_lasting_runtime
        from custody.doors.proxy.calling import DOOR

        self._runtime = await open_lasting_runtime(self._settings, door=DOOR)
        return self._runtime

    async def close(self) -> None:
        if self._runtime is not None:
            await self._runtime.close()
