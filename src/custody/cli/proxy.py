"""`custody proxy`: between an MCP client and the servers it would have spoken to.

Owns its options and the entry for a client's configuration. What is relayed and how calls are made is
`doors.proxy`'s, which servers there are `proxy_servers`'. Used by the program alone.
"""

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message
from custody.cli.options import SANDBOXES, Duration, json_option, load, store_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from custody.cli.proxy_servers import Place
    from custody.doors.proxy.calling import Options
    from custody.doors.proxy.session import Server
    from custody.doors.proxy.streams import ClientStreams
    from custody.settings import Settings

EPILOG = "Example:  custody proxy --name files -- npx -y @modelcontextprotocol/server-filesystem ~/shop"

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

M_MMAP_THRESHOLD = -3  # malloc.h
OF_ITS_OWN_BYTES = 512 * 1024
"""A block of memory this large is given back the moment it is free: a client keeps its servers all day."""


@click.command("proxy", epilog=EPILOG)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVER [ARGUMENTS]...]")
@click.option("--name", metavar="NAME", help="What rules call the server: its tools are NAME__TOOL.")
@click.option("--url", metavar="URL", help="The server's address, where it is no command.")
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'",
    help="With --url: send it along; ${VARIABLE} is taken from the environment (repeatable).",
)  # fmt: skip
@click.option("--config", metavar="FILE", help="All servers of this mcpServers file, as one.")
@click.option("--agent", metavar="NAME", help="Which agent acts [default: what the client calls itself].")
@click.option("--reads", metavar="TOOLS", help="These tools only read, on your word: list_files,search.")
@click.option(
    "--timeout", type=Duration(), metavar="TIME", help="How long a call may take, or none [default: 10m]."
)
@click.option(
    "--sandbox", type=click.Choice(SANDBOXES),
    help="Have a server that is a command run behind these walls [default: it may do what you may].",
)  # fmt: skip
@click.option(
    "--root", "roots", multiple=True, metavar="FOLDER",
    help="With --sandbox: what it may work in, beside the system [default: here] (repeatable).",
)  # fmt: skip
@click.option("--no-ask", is_flag=True, help="Put no questions to the person behind the client.")
@click.option("--trust", is_flag=True, help="Trust the descriptions of its tools that have changed, and end.")
@click.option("--yes", is_flag=True, help="With --trust: do not ask, what has changed has been read.")
@store_option
@json_option
def proxy_command(
    command: tuple[str, ...], name: str | None, url: str | None, headers: tuple[str, ...], config: str | None,
    agent: str | None, reads: str | None, timeout: float | None, sandbox: str | None, roots: tuple[str, ...],
    no_ask: bool, trust: bool, yes: bool, store: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Guard and record what an MCP client has a server do.

    A client starts it in place of the server; messages are relayed as they come, and each tool call is
    checked and recorded first. With --json it prints what a client's configuration takes, and ends.
    """
    from custody.cli.proxy_servers import (
        checked_name,
        default_name,
        headers_of,
        place_of,
        server_at,
        walls_of,
    )

    name = checked_name(name or default_name(command, url, config))
    if trust:
        from custody.cli.proxy_trust import trust_changes

        return trust_changes(store, name, yes=yes, as_json=as_json)
    place = place_of(command, url, config)
    settings = load(store)
    walls = walls_of(place, sandbox, roots, settings)
    if as_json:
        said = {"--name": name, "--agent": agent, "--reads": reads, "--store": settings.store, "--url": url}
        whole = None if config is None else os.path.abspath(os.path.expanduser(config))
        named = () if walls is None else walls.roots
        repeated = [("--header", header) for header in headers] + [("--root", root) for root in named]
        _print_entry(command, {**said, "--config": whole, "--sandbox": sandbox}, repeated)
        return 0
    options = _options(name, place, agent, reads, timeout, asks=not no_ask)
    sent = headers_of(headers)
    return _relay(settings, options, lambda: server_at(place, settings, sent, walls))


def _options(
    name: str, place: "Place", agent: str | None, reads: str | None, timeout: float | None, *, asks: bool
) -> "Options":
    from custody.cli.proxy_servers import recorded_place
    from custody.doors.proxy.calling import Options
    from custody.doors.proxy.guarded import CALL_SECONDS

    return Options(
        name=name,
        named_already=isinstance(place, dict),
        where=recorded_place(place),
        agent=agent,
        reads=frozenset(filter(None, (tool.strip() for tool in (reads or "").split(",")))),
        call_seconds=CALL_SECONDS if timeout is None else timeout or None,
        asks=asks,
    )


def _print_entry(
    command: tuple[str, ...], options: "Mapping[str, str | None]", repeated: "Iterable[tuple[str, str]]"
) -> None:
    """A client starts it somewhere else: everything is said, with whole paths."""
    from custody.cli.document import print_document

    arguments = ["-m", "custody", "proxy"]
    for option, value in options.items():
        arguments += [] if value is None else [option, value]
    for pair in repeated:
        arguments += pair
    arguments += ["--", *command] if command else []
    print_document({"mcpServers": {options["--name"]: {"command": sys.executable, "args": arguments}}})


def _relay(settings: "Settings", options: "Options", make_server: "Callable[[], Server]") -> int:
    import asyncio

    from custody.doors.proxy.streams import ClientStreams

    if sys.stdin.isatty():
        message("A client speaks MCP here; docs/how-to/proxy.md says how one is told to. Ctrl-D ends it.")
    _give_memory_back()
    streams = ClientStreams()
    try:
        asyncio.run(_serve(streams, settings, options, make_server))
    finally:
        streams.give_back()
    return 0


def _give_memory_back() -> None:
    """glibc keeps what one large message took for the next one, were that never to come."""
    import ctypes
    from contextlib import suppress

    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OF_ITS_OWN_BYTES)


async def _serve(
    streams: "ClientStreams", settings: "Settings", options: "Options", make_server: "Callable[[], Server]"
) -> None:
    import asyncio

    from custody.doors.proxy.session import Session

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    behind = Behind(settings)
    try:
        await Session(options, make_server(), streams.output, behind.open).serve(streams.input, stop)
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
        import importlib

        # In a thread: lines are relayed meanwhile.
        await asyncio.to_thread(importlib.import_module, "custody.compose")
        from custody.compose import open_lasting_runtime
        from custody.doors.proxy.calling import DOOR

        self._runtime = await open_lasting_runtime(self._settings, door=DOOR)
        return self._runtime

    async def close(self) -> None:
        if self._runtime is not None:
            await self._runtime.close()
