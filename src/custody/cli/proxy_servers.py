"""The servers that `custody proxy` is to stand before: a command, an address, or all of an `mcpServers` file.

Owns how each is written and made. Used by `proxy`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from msgspec import structs

from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.doors.proxy.child import Walls
    from custody.doors.proxy.session import Server
    from custody.settings import Settings

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # with a tool's name behind it, it is a tool's name as well

Place = tuple[str, ...] | str | dict[str, Any]
"""A command, an address, or what a file says of several servers."""


def checked_name(name: str) -> str:
    """Raises UsageError."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a server.", hint="It has letters, digits and _.-, 64 at most."
        )
    return name


def default_name(command: tuple[str, ...], url: str | None, config: str | None) -> str:
    """Where nobody says: as its program, its host or its file, as far as a name can have that."""
    path = command[0] if command else config or ""
    said = os.path.basename(path).partition(".")[0] if path else urlsplit(url or "").hostname or ""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", said)[:64] or "server"


def place_of(command: tuple[str, ...], url: str | None, config: str | None) -> Place:
    """What was asked for, checked. Raises UsageError."""
    if sum((bool(command), url is not None, config is not None)) != 1:
        raise UsageError(
            "Which server?", hint="custody proxy [options] -- COMMAND [ARGUMENTS], or --url, or --config."
        )
    if config is not None:
        return servers_of(config)
    return command if url is None else checked_address(url)


def checked_address(url: str) -> str:
    """Raises UsageError for what is none, and where the HTTP client is missing."""
    from importlib.util import find_spec

    parts = urlsplit(url)
    if parts.username or parts.password:  # not to be said again
        raise UsageError(
            "The address of a server holds no name and no password.", hint="--header 'Authorization: …' does."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{url!r} is no address of a server.", hint="It is https://host/path; --header authorizes."
        )
    if find_spec("mcp") is None:
        raise UsageError(
            "A server at an address needs packages that are not installed.",
            hint="pip install 'custody-runtime[mcp]'",
        )
    return url


def servers_of(path: str) -> dict[str, Any]:
    """By name, what a file says of its servers. Raises UsageError."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            said: Any = json.load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}.") from error
    servers: Any = cast("dict[str, Any]", said).get("mcpServers") if isinstance(said, dict) else None
    if not isinstance(servers, dict) or not servers:
        raise UsageError(f"{path} has no mcpServers.", hint='{"mcpServers": {"NAME": {"command": …}}}')
    named = cast("dict[str, Any]", servers)
    for name, entry in named.items():
        checked_name(name)
        about = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        if isinstance(about.get("url"), str):
            checked_address(about["url"])
        elif not isinstance(about.get("command"), str):
            raise UsageError(f"{name} in {path} has neither a command nor a url.")
    _apart(named, path)
    return named


def _apart(names: Iterable[str], path: str) -> None:
    """No tool of one server may have the name of another's. Raises UsageError."""
    for name in names:
        for other in names:
            if other != name and f"{other}__".startswith(f"{name}__"):
                raise UsageError(
                    f"In {path} a tool of {name} could have the name of one of {other}.",
                    hint=f"Give one of the two another name: {name}__ is in front of all tools of {name}.",
                )


def walls_of(place: Place, name: str | None, roots: tuple[str, ...], settings: "Settings") -> "Walls | None":
    """What its commands run behind: a sandbox around these roots, or the working directory. Raises
    UsageError."""
    if name is None:
        if roots:
            raise UsageError("Roots are those of a sandbox.", hint="--sandbox workspace --root FOLDER")
        return None
    if isinstance(place, str):
        raise UsageError(
            "A server at an address runs somewhere else.", hint="--sandbox is for one that is a command."
        )
    from custody.doors.proxy.child import Walls
    from custody.sandbox.egress.remotes import hosts_listed
    from custody.sandbox.walls import NAMED

    sandbox = NAMED[name]
    if sandbox.network == "listed":
        hosts = hosts_listed(settings.file.sandbox.hosts, settings.cwd)
        sandbox = structs.replace(sandbox, hosts=hosts)
    whole = tuple(os.path.realpath(os.path.expanduser(root)) for root in roots or (settings.cwd,))
    for root in whole:
        if not os.path.isdir(root):
            raise UsageError(f"There is no folder {root}.", hint="--root names one that is there.")
    return Walls(sandbox=sandbox, roots=whole, uids=settings.file.sandbox.uids)


def server_at(
    place: Place, settings: "Settings", headers: Mapping[str, str], walls: "Walls | None" = None
) -> "Server":
    """The server, not yet begun. On an event loop."""
    if isinstance(place, dict):
        from custody.doors.proxy.many import ManyServers

        return ManyServers({name: _of_entry(entry, settings, walls) for name, entry in place.items()})
    if isinstance(place, str):
        from custody.doors.proxy.remote import RemoteServer

        return RemoteServer(place, headers)
    from custody.doors.proxy.child import ServerProcess

    return ServerProcess(place, settings.cwd, os.environ, walls)


def _of_entry(entry: dict[str, Any], settings: "Settings", walls: "Walls | None") -> "Server":
    if "url" in entry:
        headers: dict[str, str] = entry.get("headers") or {}
        return server_at(entry["url"], settings, {name: filled(one) for name, one in headers.items()})
    from custody.doors.proxy.child import ServerProcess

    argv = [filled(str(word)) for word in (entry["command"], *(entry.get("args") or ()))]
    added: dict[str, str] = entry.get("env") or {}
    environment = {**os.environ, **{name: filled(str(value)) for name, value in added.items()}}
    return ServerProcess(argv, os.path.expanduser(entry.get("cwd") or settings.cwd), environment, walls)


def headers_of(given: tuple[str, ...]) -> dict[str, str]:
    """Raises UsageError."""
    headers: dict[str, str] = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not colon or not HEADER_NAME.fullmatch(name.strip()):
            raise UsageError(f"{name!r} is no header.", hint="--header takes 'NAME: VALUE'.")
        headers[name.strip()] = filled(value.strip())
    return headers


def filled(text: str) -> str:
    """With the variables of the environment that it names. Raises UsageError for one that is not set."""

    def value_of(variable: re.Match[str]) -> str:
        if variable[1] not in os.environ:
            raise UsageError(
                f"${{{variable[1]}}} is named, and is not set here.", hint="Set it, or leave it out."
            )
        return os.environ[variable[1]]

    return VARIABLE.sub(value_of, text)


def recorded_place(place: Place) -> Any:
    """What the record of a session says of it: no environment and no header, which hold what is secret."""
    if not isinstance(place, dict):
        return place
    return {
        name: {part: entry[part] for part in ("command", "args", "url") if part in entry}
        for name, entry in place.items()
    }
