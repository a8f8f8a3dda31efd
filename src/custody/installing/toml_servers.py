"""MCP servers in TOML settings (Codex), made to go through `custody proxy` and given back.

Owns where in such a text a key stands: a reading of its statements, enough to find `command`, `args` and
`url` of a server. The standard library's parser says what a text means: an edit after which it says anything
else than was wanted is not made. Used by `plans`; what an entry becomes is `servers`'.
"""

import json
import re
import tomllib
from collections.abc import Generator, Sequence
from typing import Any, cast

from msgspec import Struct

from custody.errors import InvalidInput
from custody.installing.json_edits import Edit, apply
from custody.installing.servers import (
    URL_NAMES,
    URL_OPTION,
    Proxy,
    Server,
    Wrapped,
    texts,
    through_proxy,
    wrapped,
)

INLINE = "it is not written as a table of its own"

_STRING = r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
_TOKEN = re.compile(rf"(?P<string>{_STRING})|(?P<comment>#[^\n]*)|(?P<other>.)", re.DOTALL)
_PART = re.compile(r'\s*("(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+)\s*(\.)?')


class NotToml(InvalidInput):
    """The text is not TOML."""


class Pair(Struct, frozen=True):
    """A statement `key = value`."""

    key: tuple[str, ...]
    """With the names of its table."""
    start: int
    value_start: int
    end: int
    """Behind the value."""


def meaning(text: str) -> dict[str, Any]:
    """What the text says. Raises NotToml."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotToml(f"{str(error).removesuffix('.')}.") from None


def servers_in(text: str, key: str, proxy: Proxy) -> list[Server]:
    """What servers settings name. Raises NotToml."""
    entries = meaning(text).get(key)
    found: list[Server] = []
    for name, entry in cast("dict[str, Any]", entries if isinstance(entries, dict) else {}).items():
        if not isinstance(entry, dict):
            continue
        said = cast("dict[str, Any]", entry)
        through = through_proxy(said) is not None
        to = None if through else wrapped(name, said, proxy)
        left = to if isinstance(to, str) else None
        if (
            to is not None
            and left is None
            and _put_behind(text, key, name, said, cast("Wrapped", to)) is None
        ):
            left = INLINE
        found.append(Server(name=name, through=through, left=left))
    return found


def with_proxy(text: str, key: str, proxy: Proxy) -> str:
    """The settings with every server that can be behind the proxy. Raises NotToml."""
    entries: dict[str, Any] = meaning(text).get(key, {})
    edits: list[Edit] = []
    for server in servers_in(text, key, proxy):
        if server.left is None and not server.through:
            entry = entries[server.name]
            edits += (
                _put_behind(
                    text, key, server.name, entry, cast("Wrapped", wrapped(server.name, entry, proxy))
                )
                or ()
            )
    return apply(text, edits)


def without_proxy(text: str, key: str, original: str | None) -> str:
    """The settings with every server as it was; `original` as in `servers`. Raises NotToml."""
    entries: dict[str, Any] = meaning(text).get(key, {})
    before: dict[str, Any] = {} if original is None else meaning(original).get(key, {})
    edits: list[Edit] = []
    for name, entry in entries.items():
        said = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        ours = through_proxy(said)
        if ours is not None:
            edits += _given_back(text, (key, name), said, *ours, before.get(name)) or ()
    return apply(text, edits)


def _put_behind(text: str, key: str, name: str, entry: dict[str, Any], to: Wrapped) -> list[Edit] | None:
    """Edits, where they come to what is wanted; else None."""
    pairs = {pair.key[2:]: pair for pair in _pairs(text) if pair.key[:2] == (key, name)}
    wanted: dict[str, Any] = {name: value for name, value in entry.items() if name not in URL_NAMES}
    wanted |= {"command": to.command, "args": [*to.first, *entry.get("args", [])]}
    command, url, args = pairs.get(("command",)), pairs.get(("url",)), pairs.get(("args",))
    if to.url is not None and url is not None:
        lines = f"command = {_text(to.command)}{_newline(text)}{_indent(text, url)}args = {_list(to.first)}"
        edits = [Edit(url.start, url.end, lines)]
    elif to.url is None and command is not None:
        edits = [Edit(command.value_start, command.end, _text(to.command))]
        if args is not None:
            edits.append(_first(text, args, to.first, bool(entry["args"])))
        else:
            line = f"{_newline(text)}{_indent(text, command)}args = {_list(to.first)}"
            edits.append(Edit(_line_end(text, command.end), _line_end(text, command.end), line))
    else:
        return None
    return _if_it_says(text, edits, (key, name), wanted)


def _given_back(
    text: str, path: tuple[str, str], entry: dict[str, Any], count: int, way: str, before: Any
) -> list[Edit] | None:
    pairs = {pair.key[2:]: pair for pair in _pairs(text) if pair.key[:2] == path}
    command, args = pairs.get(("command",)), pairs.get(("args",))
    words = texts(entry["args"]) or []
    if command is None or args is None:
        return None
    wanted = {name: value for name, value in entry.items() if name not in ("command", "args")}
    without_args = Edit(_blanks_before(text, args.start), args.end, "")
    if way == URL_OPTION:
        wanted |= {"url": words[count - 1]}
        edits = [Edit(command.start, command.end, f"url = {_text(words[count - 1])}"), without_args]
        return _if_it_says(text, edits, path, wanted)
    edits = [Edit(command.value_start, command.end, _text(words[count - 1]))]
    wanted |= {"command": words[count - 1]}
    if len(words) == count and isinstance(before, dict) and "args" not in before:
        return _if_it_says(text, [*edits, without_args], path, wanted)
    wanted |= {"args": words[count:]}
    own = _list(words[:count]).removesuffix("]") + ("," if words[count:] else "")
    first = Edit(args.value_start, args.value_start + len(own), "[")
    if not text.startswith(own, args.value_start):  # a person has written it anew
        first = Edit(args.value_start, args.end, _list(words[count:]))
    return _if_it_says(text, [*edits, first], path, wanted)


def _if_it_says(
    text: str, edits: list[Edit], path: tuple[str, str], wanted: dict[str, Any]
) -> list[Edit] | None:
    """The edits, if after them the text says what is wanted of that server, and all else as before."""
    expected = meaning(text)
    expected[path[0]][path[1]] = wanted
    try:
        return edits if meaning(apply(text, edits)) == expected else None
    except NotToml:
        return None


def _pairs(text: str) -> Generator[Pair]:
    """The statements of a text that is TOML."""
    table: tuple[str, ...] = ()
    at = 0
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
        elif text[at] == "#":
            at = _line_end(text, at)
        elif text[at] == "[":
            end = _value_end(text, at)
            table = _key(text, at + (2 if text.startswith("[[", at) else 1))[0]
            at = end
        else:
            key, equals = _key(text, at)
            value_start = equals + 1
            while text[value_start : value_start + 1] in (" ", "\t"):
                value_start += 1
            end = _value_end(text, value_start)
            yield Pair((*table, *key), at, value_start, end)
            at = end


def _key(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """A dotted key, and where it ends."""
    parts: list[str] = []
    while found := _PART.match(text, at):
        said = found[1]
        parts.append(said[1:-1] if said[0] == "'" else json.loads(said) if said[0] == '"' else said)
        at = found.end()
        if not found[2]:
            break
    return tuple(parts), at


def _value_end(text: str, at: int) -> int:
    """Where a value that begins here ends: at the line's end or a comment outside of all brackets."""
    depth, end = 0, at
    while found := _TOKEN.match(text, at):
        said = found[0]
        if not depth and (found["comment"] or said == "\n"):
            break
        at = found.end()
        depth += (said in ("[", "{")) - (said in ("]", "}"))
        end = at if found["string"] or (not said.isspace() and not found["comment"]) else end
    return end


def _first(text: str, args: Pair, words: Sequence[str], more: bool) -> Edit:
    new = _list(words).removesuffix("]") + ("," if more else "")
    return Edit(args.value_start, args.value_start + 1, new)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _indent(text: str, pair: Pair) -> str:
    line = text[text.rfind("\n", 0, pair.start) + 1 : pair.start]
    return line if not line.strip(" \t") else ""


def _line_end(text: str, at: int) -> int:
    """Before the line break, on the line of a position."""
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if end and text[end - 1] == "\r" else end


def _blanks_before(text: str, at: int) -> int:
    """With the break of the line before."""
    start = text.rfind("\n", 0, at)
    start = start - 1 if start > 0 and text[start - 1] == "\r" else start
    return start if start >= 0 and not text[start:at].strip() else at
