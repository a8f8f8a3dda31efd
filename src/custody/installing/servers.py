"""MCP servers in the settings of a client, made to go through `custody proxy` and given back.

Owns what an entry looks like before and after. Its environment, its working folder and whatever else it
says stay as they are: the client hands them to the proxy, which hands them to the server. An entry the proxy
cannot stand in for is left alone, and told. Used by `plans`; the same for TOML is `toml_servers`.
"""

import re
from collections.abc import Generator, Sequence
from json import dumps
from typing import Any, cast

from msgspec import Struct

from custody.installing.json_edits import Edit, added, apply, first_taken, put_first, removed, replaced
from custody.installing.jsonc import Node, parse

PROXY = "proxy"
URL_OPTION = "--url"
URL_NAMES = ("url", "httpUrl", "serverUrl")
"""What clients call the address of a server; the second is Gemini's for streamable HTTP."""

STREAMABLE = ("http", "streamable-http", "streamableHttp", "streamable_http")
"""What clients write as the `type` of such a server."""

NAME_OPTION = "--name"
NAME_CHARACTERS_MAX = 64
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]")  # the proxy's names are part of its tools' names

WORDS_MAX = 12  # between `proxy` and what it stands in for

SIGNED_IN = (
    "headers", "http_headers", "env_http_headers", "headersHelper", "oauth", "auth", "authProviderType",
    "bearer_token", "bearer_token_env_var",
)  # fmt: skip
"""What says how to sign in."""


class Proxy(Struct, frozen=True, kw_only=True):
    """What servers are put behind."""

    words: tuple[str, ...]
    """They start it: our program, `proxy`, options."""
    urls: bool = True
    """It can speak to a server at an address."""


class Server(Struct, frozen=True, kw_only=True):
    """One entry, and what may be done with it."""

    name: str
    through: bool
    """It goes through the proxy already."""
    left: str | None = None
    """Why it is left as it is."""


class Wrapped(Struct, frozen=True):
    """What an entry says once it goes through the proxy, and what it said before."""

    command: str
    first: tuple[str, ...]
    """Put before the arguments it had."""
    url: str | None = None


def wrapped(name: str, entry: dict[str, Any], proxy: Proxy, *, sse_is_url: bool = False) -> Wrapped | str:
    """What the entry of a server becomes, or why it cannot. `sse_is_url`: in this client's `url` the
    old HTTP with server-sent events is spoken."""
    first = (*proxy.words[1:], NAME_OPTION, _NO_NAME.sub("-", name)[:NAME_CHARACTERS_MAX] or "server")
    command, arguments = entry.get("command"), entry.get("args", [])
    if isinstance(command, str) and command:
        if not isinstance(arguments, list) or not all(isinstance(one, str) for one in cast("Any", arguments)):
            return "its args are no list of texts"
        if _is_custody([command, *cast("list[str]", arguments)]):
            return "it is Custody's own"
        return Wrapped(proxy.words[0], (*first, "--", command))
    found = [name for name in URL_NAMES if isinstance(entry.get(name), str)]
    if not found:
        return "it names neither a command nor a URL"
    if said := [name for name in SIGNED_IN if entry.get(name)]:
        return f"it signs in by {said[0]}, and a command line is no place for a secret"
    if entry.get("type", "http") not in STREAMABLE or (sse_is_url and found[0] == "url"):
        return "it does not speak streamable HTTP"
    if "args" in entry or len(found) > 1:
        return "it has more than one address"
    if not proxy.urls:
        return "a server at an address needs custody-runtime[mcp], which is not installed"
    return Wrapped(proxy.words[0], (*first, URL_OPTION, entry[found[0]]), entry[found[0]])


def _is_custody(words: Sequence[str]) -> int:
    """How many words of a command line start our program; 0: none."""
    if list(words[1:3]) == ["-m", "custody"]:
        return 3
    return 1 if words[0].rpartition("/")[2] == "custody" else 0


def through_proxy(entry: dict[str, Any]) -> tuple[int, str] | None:
    """How many of its first arguments are ours, and whether a command or a URL is the last of them (`--` or
    `--url`); None: it is no entry of ours."""
    command, arguments = entry.get("command"), texts(entry.get("args"))
    if not isinstance(command, str) or arguments is None:
        return None
    own = _is_custody([command, *arguments]) - 1
    if own < 0 or arguments[own : own + 1] != [PROXY]:
        return None
    for at, word in enumerate(arguments[: own + WORDS_MAX]):
        if at > own and word in ("--", URL_OPTION) and at + 1 < len(arguments):
            return at + 2, word
    return None


def texts(value: Any) -> list[str] | None:
    """The value, if it is a list of texts."""
    fits = isinstance(value, list) and all(isinstance(one, str) for one in cast("list[Any]", value))
    return cast("list[str]", value) if fits else None


# -- in JSON ----------------------------------------------------------------------------------------------


def lists_of_servers(root: Node, key: str) -> Generator[tuple[str, Node]]:
    """The objects whose members are servers, with what stands before the names: the one at `key`, and where
    settings have others for single projects (`projects.PATH.KEY`) those."""
    found = root.child(key) if root.kind == "object" else None
    if found is not None and found.kind == "object":
        yield "", found
    projects = root.child("projects") if root.kind == "object" else None
    for member in projects.children if projects is not None and projects.kind == "object" else ():
        found = member.node.child(key) if member.node.kind == "object" else None
        if found is not None and found.kind == "object":
            yield f"{member.key}: ", found


def servers_in(text: str, key: str, proxy: Proxy, *, sse_is_url: bool = False) -> list[Server]:
    """What servers settings name. Raises NotJson."""
    if not text.strip():
        return []
    return [
        _server(before, member.key, member.node, proxy, sse_is_url)
        for before, servers in lists_of_servers(parse(text), key)
        for member in servers.children
    ]


def _server(before: str, key: str, entry: Node, proxy: Proxy, sse_is_url: bool) -> Server:
    name = before + key
    if entry.kind != "object":
        return Server(name=name, through=False, left="it is no object")
    if through_proxy(entry.value) is not None:
        return Server(name=name, through=True)
    to = wrapped(key, entry.value, proxy, sse_is_url=sse_is_url)
    return Server(name=name, through=False, left=to if isinstance(to, str) else None)


def with_proxy(text: str, key: str, proxy: Proxy, *, sse_is_url: bool = False) -> str:
    """The settings with every server that can be behind the proxy. Raises NotJson."""
    if not text.strip():
        return text
    edits: list[Edit] = []
    for _, servers in lists_of_servers(parse(text), key):
        for member in servers.children:
            entry = member.node
            if entry.kind == "object" and through_proxy(entry.value) is None:
                to = wrapped(member.key, entry.value, proxy, sse_is_url=sse_is_url)
                edits += [] if isinstance(to, str) else _put_behind(text, entry, to)
    return apply(text, edits)


def _put_behind(text: str, entry: Node, to: Wrapped) -> list[Edit]:
    if to.url is not None:
        return _url_behind(text, entry, to)
    command, arguments = entry.child("command"), entry.child("args")
    assert command is not None, "an entry without a URL has a command"
    edits = [replaced(text, command, to.command)]
    if arguments is None:
        return edits + added(text, entry, [("args", list(to.first))])
    return edits + put_first(text, arguments, to.first)


def _url_behind(text: str, entry: Node, to: Wrapped) -> list[Edit]:
    """The address goes where the command and its arguments are: one name becomes two, in its place."""
    member = next(child for child in entry.children if child.key in URL_NAMES)
    words = dumps(list(to.first), ensure_ascii=False)
    new = f'"command": {dumps(to.command, ensure_ascii=False)}, "args": {words}'
    edits = [Edit(member.start, member.node.end, new)]
    kind = entry.child("type")
    return edits if kind is None else [*edits, replaced(text, kind, "stdio")]


def without_proxy(text: str, key: str, original: str | None) -> str:
    """The settings with every server as it was. `original`: what they were before; None where nobody knows.
    Raises NotJson."""
    if not text.strip():
        return text
    before = {} if original is None or not original.strip() else _entries(parse(original), key)
    edits: list[Edit] = []
    for path, servers in lists_of_servers(parse(text), key):
        for member in servers.children:
            ours = through_proxy(member.node.value) if member.node.kind == "object" else None
            if ours is not None:
                edits += _given_back(text, member.node, *ours, before.get(path + member.key))
    return apply(text, edits)


def _entries(root: Node, key: str) -> dict[str, dict[str, Any]]:
    return {
        path + member.key: member.node.value
        for path, servers in lists_of_servers(root, key)
        for member in servers.children
        if member.node.kind == "object"
    }


def _given_back(text: str, entry: Node, count: int, way: str, before: dict[str, Any] | None) -> list[Edit]:
    command, arguments = entry.child("command"), entry.child("args")
    assert command is not None and arguments is not None, "an entry of ours has both"
    words = texts(arguments.value) or []
    if way == URL_OPTION:
        return _url_back(text, entry, words[count - 1], before)
    edits = [replaced(text, command, words[count - 1])]
    if len(words) == count and before is not None and "args" not in before:
        at = next(number for number, child in enumerate(entry.children) if child.node is arguments)
        return edits + removed(text, entry, [at])
    return edits + first_taken(text, arguments, count)


def _url_back(text: str, entry: Node, url: str, before: dict[str, Any] | None) -> list[Edit]:
    said = before or {}
    name = next((name for name in URL_NAMES if said.get(name) == url), URL_NAMES[0])
    numbers = {child.key: number for number, child in enumerate(entry.children)}
    command, arguments = entry.children[numbers["command"]], entry.children[numbers["args"]]
    new = f"{dumps(name)}: {dumps(url, ensure_ascii=False)}"
    if numbers["args"] == numbers["command"] + 1:
        edits = [Edit(command.start, arguments.node.end, new)]
    else:
        edits = [Edit(command.start, command.node.end, new), *removed(text, entry, [numbers["args"]])]
    kind = entry.child("type")
    if kind is None or kind.scalar != "stdio":
        return edits
    return [*edits, replaced(text, kind, said.get("type", STREAMABLE[0]))]
