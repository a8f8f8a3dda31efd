"""`custody serve`: the daemon.

Owns its options and what it says when it is ready. How it lives is `daemon`'s. Used by the program alone.
"""

import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from custody.cli.invocation import message
from custody.cli.options import Duration, json_option, load, store_option

if TYPE_CHECKING:
    from custody.cli.daemon import ServeOptions, Serving
    from custody.settings import Settings

EPILOG = """\b
Example:  custody serve
          export CAR_AUTH_TOKEN=$(cat ~/.local/share/custody/keys/serve.token)"""


@click.command("serve", epilog=EPILOG)
@click.option(
    "--listen", metavar="HOST:PORT", help="Where; port 0 takes a free one [default: 127.0.0.1:9100]."
)
@click.option("--socket", "socket_path", metavar="PATH", help="Also a Unix socket, here [default: yours].")
@click.option("--no-socket", is_flag=True, help="No Unix socket.")
@click.option("--no-auth", is_flag=True, help="Let everybody on this machine act; loopback only.")
@click.option("--tls-cert", metavar="FILE", help="Certificate (PEM), for other machines.")
@click.option("--tls-key", metavar="FILE", help="Its key (PEM).")
@click.option("--insecure", is_flag=True, help="Other machines without TLS: something else encrypts.")
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="A name we are called by (repeatable)."
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="A web page that may connect: https://console.example (repeatable).",
)
@click.option(
    "--drain",
    type=Duration(),
    metavar="TIME",
    help="How long what is under way may take at the end [default: 10s].",
)
@click.option("--systemd-unit", is_flag=True, help="Print a unit that starts this, and end.")
@store_option
@json_option
def serve_command(
    listen: str | None, socket_path: str | None, no_socket: bool, no_auth: bool, tls_cert: str | None,
    tls_key: str | None, insecure: bool, hosts: tuple[str, ...], origins: tuple[str, ...],
    drain: float | None, systemd_unit: bool, store: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Serve agents over WebSocket and HTTP until told to stop."""
    import asyncio

    from custody.cli.daemon import ServeOptions, default_socket, require_packages, serve
    from custody.errors import UsageError
    from custody.settings import default_store

    if no_socket and socket_path is not None:
        raise UsageError("--socket and --no-socket exclude each other.")
    settings = load(store)
    section = settings.file.serve
    options = ServeOptions(
        listen=listen or section.listen,
        socket=None
        if no_socket
        else socket_path
        or section.socket
        or default_socket(settings.store, os.path.abspath(os.path.expanduser(default_store()))),
        auth=not no_auth,
        insecure=insecure,
        tls_cert=tls_cert or section.tls_cert,
        tls_key=tls_key or section.tls_key,
        allowed_hosts=(*section.allowed_hosts, *hosts),
        allowed_origins=(*section.allowed_origins, *origins),
        drain_seconds=section.drain_seconds if drain is None else drain,
    )
    if systemd_unit:
        return _print_unit(settings, options, as_json=as_json)
    require_packages()
    if not options.auth:
        message(
            "--no-auth: whoever reaches this daemon acts as any agent it names, and sees what that agent did."
        )
    asyncio.run(serve(settings, options, lambda serving: _say_ready(serving, as_json=as_json)))
    return 0


def _say_ready(serving: "Serving", *, as_json: bool) -> None:
    """Where, as whom, and the line to paste. Nobody may be reading."""
    export = f"export CAR_AUTH_TOKEN=$(cat {shlex.quote(serving.token_file)})" if serving.auth else None
    try:
        if as_json:
            import msgspec

            from custody.cli.document import print_document

            print_document({**msgspec.to_builtins(serving), "export": export})
            return
        print(f"Serving {serving.store} (process {serving.pid})")
        for address in serving.addresses:
            print(f"  {address}")
        if export is not None:
            print(f"  token: {serving.token_file}")
            print(f"  {export}")
        sys.stdout.flush()
    except BrokenPipeError:
        pass


def _print_unit(settings: "Settings", options: "ServeOptions", *, as_json: bool) -> int:
    from custody.doors.server.notify import unit_text

    command = [
        sys.executable,
        "-m",
        "custody",
        "serve",
        "--store",
        settings.store,
        "--listen",
        options.listen,
    ]
    command += ["--no-socket"] if options.socket is None else ["--socket", options.socket]
    command += [] if options.auth else ["--no-auth"]
    command += ["--insecure"] if options.insecure else []
    for flag, path in (("--tls-cert", options.tls_cert), ("--tls-key", options.tls_key)):
        command += [] if path is None else [flag, os.path.abspath(path)]
    for flag, names in (("--allow-host", options.allowed_hosts), ("--allow-origin", options.allowed_origins)):
        for name in names:
            command += [flag, name]
    command += ["--drain", f"{options.drain_seconds:g}s"]
    text = unit_text(command, options.drain_seconds)
    if as_json:
        from custody.cli.document import print_document

        print_document({"unit": text})
    else:
        print(text, end="")
    return 0
