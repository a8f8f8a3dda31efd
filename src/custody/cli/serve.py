"""`custody serve`: the daemon.

Owns its options and what it says when it is ready. How it lives is `daemon`'s. Used by the program alone.
"""

import functools
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message
from custody.cli.options import Duration, json_option, load, store_option
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.cli.daemon import ServeOptions, Serving
    from custody.settings import Settings

EPILOG = """\b
Example:  custody serve
          export CAR_AUTH_TOKEN=$(cat ~/.local/share/custody/keys/serve.token)"""


class _Bound(Duration):
    """A duration that ends."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if value == "none":
            self.fail("There has to be a bound; 0 waits for nothing.", param, ctx)
        return super().convert(value, param, ctx)


@click.command("serve", epilog=EPILOG)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where agents connect; port 0 takes a free one [default: 127.0.0.1:9100].",
)
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    help="Where its Unix socket is [default: in $XDG_RUNTIME_DIR/custody].",
)
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
    type=_Bound(),
    metavar="TIME",
    help="How long what is under way may take at the end [default: 10s].",
)
@click.option("--cwd", metavar="FOLDER", help="Where its tools work, and may touch files [default: here].")
@click.option(
    "--root", "roots", multiple=True, metavar="FOLDER",
    help="Also allow this folder, and below (repeatable).",
)  # fmt: skip
@click.option("--systemd-unit", is_flag=True, help="Print a unit that starts this, and end.")
@store_option
@json_option
def serve_command(
    listen: str | None, socket_path: str | None, no_socket: bool, no_auth: bool, tls_cert: str | None,
    tls_key: str | None, insecure: bool, hosts: tuple[str, ...], origins: tuple[str, ...],
    drain: float | None, cwd: str | None, roots: tuple[str, ...], systemd_unit: bool, store: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Serve agents over WebSocket and HTTP until told to stop."""
    import asyncio

    from custody.cli.daemon import ServeOptions, checked, require_packages, serve

    if no_socket and socket_path is not None:
        raise UsageError("--socket and --no-socket exclude each other.")
    folders = (*(() if cwd is None else (cwd,)), *roots)
    for folder in folders:
        if not os.path.isdir(os.path.expanduser(folder)):
            raise UsageError(f"{folder!r} is no folder.", hint="--cwd and --root take one that is there.")
    settings = load(store, cwd=None if cwd is None else os.path.expanduser(cwd), roots=roots)
    section = settings.file.serve
    options = ServeOptions(
        listen=section.listen if listen is None else listen,
        socket=None if no_socket else _socket(socket_path, settings),
        auth=not no_auth,
        insecure=insecure,
        tls_cert=_file(section.tls_cert if tls_cert is None else tls_cert),
        tls_key=_file(section.tls_key if tls_key is None else tls_key),
        allowed_hosts=(*section.allowed_hosts, *hosts),
        allowed_origins=(*section.allowed_origins, *origins),
        drain_seconds=section.drain_seconds if drain is None else drain,
    )
    require_packages()
    checked(options)
    if systemd_unit:
        return _print_unit(settings, options, roots, as_json=as_json)
    if not options.auth:
        message(
            "--no-auth: whoever reaches this daemon acts as any agent it names, and sees what that agent did."
        )
    ready = functools.partial(_say_ready, as_json=as_json)
    asyncio.run(serve(settings, options, ready, functools.partial(_say_draining, options.drain_seconds)))
    return 0


def _socket(path: str | None, settings: "Settings") -> str:
    from custody.cli.daemon import default_socket
    from custody.settings import default_store

    if path == "":
        raise UsageError("--socket names no path.", hint="--no-socket does without.")
    own = os.path.abspath(os.path.expanduser(default_store()))
    return path or settings.file.serve.socket or default_socket(settings.store, own)


def _file(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(os.path.expanduser(path))


def _say_ready(serving: "Serving", *, as_json: bool) -> None:
    """Nobody may be reading."""
    try:
        if as_json:
            import msgspec

            from custody.cli.document import print_document

            print_document({**msgspec.to_builtins(serving), "export": _export(serving)})
        else:
            print("\n".join(ready_lines(serving)), flush=True)
    except BrokenPipeError:
        pass


def ready_lines(serving: "Serving") -> list[str]:
    """Where, what its tools may touch, as whom, and the line to paste."""
    lines = [f"Serving {serving.store} (process {serving.pid})"]
    lines += [f"  {address}" for address in serving.addresses]
    lines.append(f"  tools work in {serving.cwd}, on files in {', '.join(serving.roots)}")
    export = _export(serving)
    if export is not None:
        lines += [f"  token: {serving.token_file}", f"  {export}"]
    return lines


def _export(serving: "Serving") -> str | None:
    return f"export CAR_AUTH_TOKEN=$(cat {shlex.quote(serving.token_file)})" if serving.auth else None


def _say_draining(seconds: float, under_way: int) -> None:
    if under_way and seconds:
        what = "one request is" if under_way == 1 else f"{under_way} requests are"
        message(f"{what} under way and may take {seconds:g} s; a second signal does not wait.")


def _print_unit(
    settings: "Settings", options: "ServeOptions", roots: tuple[str, ...], *, as_json: bool
) -> int:
    from custody.doors.server.notify import unit_text
    from custody.settings import user_settings_path

    command = [
        sys.executable,
        "-m",
        "custody",
        "serve",
        "--store",
        settings.store,
        "--cwd",  # systemd would start it in the user's home, or in /
        settings.cwd,
        "--listen",
        options.listen,
    ]
    for root in roots:
        command += ["--root", _file(root) or root]
    command += ["--no-socket"] if options.socket is None else ["--socket", options.socket]
    command += [] if options.auth else ["--no-auth"]
    command += ["--insecure"] if options.insecure else []
    for flag, path in (("--tls-cert", options.tls_cert), ("--tls-key", options.tls_key)):
        command += [] if path is None else [flag, path]
    for flag, names in (("--allow-host", options.allowed_hosts), ("--allow-origin", options.allowed_origins)):
        for name in names:
            command += [flag, name]
    command += ["--drain", f"{options.drain_seconds:g}s"]
    # Where the settings lie is said by this environment, which systemd has not.
    told = any(os.environ.get(name) for name in ("CUSTODY_CONFIG", "XDG_CONFIG_HOME"))
    environment = {"CUSTODY_CONFIG": os.path.abspath(user_settings_path())} if told else {}
    text = unit_text(command, options.drain_seconds, environment)
    if as_json:
        from custody.cli.document import print_document

        print_document({"unit": text})
    else:
        print(text, end="")
    return 0
