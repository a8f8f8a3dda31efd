"""Several servers as one: each keeps its connection, and a client sees one server with the names of all.

Owns the names (`SERVER__NAME` of tools and prompts), whose a message is, and how the answers of all become
one. To `session` it is a server like any other; to each server it is a client that relays. What a message
says beyond its names is not changed. Used by `custody proxy --config`.
"""

import asyncio
import base64
import binascii
import itertools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from msgspec import Raw, Struct

from custody import __version__
from custody.doors.proxy.calling import SEPARATOR
from custody.doors.proxy.messages import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Id,
    Member,
    Message,
    NoMessage,
    TooLong,
    answered_by,
    encoded,
    error,
    members,
    place_of,
    read,
    result,
    value_of,
    with_value,
)
from custody.doors.proxy.relay import CANCELLED, META
from custody.doors.proxy.session import Server
from custody.doors.proxy.streams import OnLine

if TYPE_CHECKING:
    from custody.sandbox.egress.proxy import Connection

LISTS: Mapping[str, str] = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
"""By method, what its answer is a list of."""

PREFIXED = frozenset({"tools/list", "prompts/list"})
NAMED = frozenset({"tools/call", "prompts/get"})
OF_RESOURCES = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})
OF_ALL = frozenset({"initialize", "server/discover", "ping", "logging/setLevel"})

ANSWER_SECONDS = 20.0
"""For what is asked of all servers: one that says nothing is left out."""


RESOURCES_MAX = 100_000
"""Addresses whose server is remembered, the first that listed it; of others a lone server is asked."""

OWNERS_MAX = 4_096
"""Requests whose server is remembered: what is given up may never be answered."""


class _Gathered(Struct, kw_only=True):
    """One request that is asked of several servers."""

    asked: Message
    waiting: set[str]
    said: dict[str, dict[str, Any]] = {}
    """By server, its result."""
    lines: dict[str, bytes] = {}
    failed: list[bytes] = []
    timer: asyncio.TimerHandle | None = None


class ManyServers:
    """The servers of a file, by their names there."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._servers = dict(servers)
        self._alive = set(self._servers)
        self._on_line: OnLine = lambda line: None
        self._on_lost: Callable[[Id, str], None] = lambda identity, why: None
        self._owners: dict[Id, str] = {}
        """Of requests that one server has."""
        self._gathered: dict[Id, _Gathered] = {}
        self._asked: dict[Id, tuple[str, Id]] = {}
        """Requests of servers, by the id under which the client has them."""
        self._resources: dict[str, str] = {}
        """By address, the server that listed it."""
        self._numbers = itertools.count(1)
        self.on_connection: Callable[[Connection], None] = lambda connection: None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def full(self) -> bool:
        # One that takes nothing does not hold up what is for the others; what waits for it is bounded.
        return bool(self._alive) and all(self._servers[name].full for name in self._alive)

    def start(self, on_line: OnLine, on_room: Callable[[], None], on_lost: Callable[[Id, str], None]) -> None:
        self._on_line, self._on_lost = on_line, on_lost
        for name, server in self._servers.items():
            server.on_connection = self.on_connection
            server.start(
                lambda line, name=name: self._said(name, line),
                on_room,
                lambda identity, why, name=name: self._lost(name, identity, why),
            )
            server.ended.add_done_callback(lambda ended, name=name: self._gone(name, ended.result()))

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        for gathered in self._gathered.values():
            if gathered.timer is not None:
                gathered.timer.cancel()
        if not self.ended.done():
            self.ended.set_result("it was left")

    # -- of the client ------------------------------------------------------------------------------------

    def send(self, line: bytes) -> None:
        message = read(line)
        if message.is_answer:
            owner, identity = self._asked.pop(cast("Id", message.id), ("", 0))
            if owner in self._alive:
                self._servers[owner].send(with_value(line, identity, "id"))
        elif message.id is None:
            self._notify(message, line)
        elif message.method in LISTS or message.method in OF_ALL:
            self._ask_all(message, message.id, line)
        else:
            self._ask_one(message, message.id, line)

    def _notify(self, message: Message, line: bytes) -> None:
        told = self._alive
        if message.method == CANCELLED:
            told = {self._owners.get(message.said.get("requestId", ""), "")} & self._alive
        for name in sorted(told):
            self._servers[name].send(line)

    def _ask_one(self, message: Message, identity: Id, line: bytes) -> None:
        owner, line = self._owner(message, line)
        if owner is None or owner not in self._alive:
            why = "No server here has that." if owner is None else f"The server {owner!r} is gone."
            code = INVALID_PARAMS if owner is None else CONNECTION_CLOSED
            self._on_line(error(identity, code, f"{why} There are: {', '.join(sorted(self._alive))}."))
            return
        self._owners[identity] = owner
        if len(self._owners) > OWNERS_MAX:
            del self._owners[next(iter(self._owners))]
        self._servers[owner].send(line)

    def _owner(self, message: Message, line: bytes) -> tuple[str | None, bytes]:
        """Whose a request is, and the line as that server knows it."""
        said = message.said
        if message.method in NAMED:
            owner, name = self._split(said.get("name"))
            return owner, line if owner is None else with_value(line, name, "params", "name")
        if message.method in OF_RESOURCES:
            return self._resources.get(str(said.get("uri"))) or self._only(), line
        if message.method == "completion/complete":
            about: Any = said.get("ref")
            ref = cast("dict[str, Any]", about) if isinstance(about, dict) else {}
            owner, name = self._split(ref.get("name"))
            if owner is not None:
                return owner, with_value(line, name, "params", "ref", "name")
            return self._resources.get(str(ref.get("uri"))) or self._only(), line
        return self._only(), line

    def _only(self) -> str | None:
        """What names no server is for the one there is."""
        return next(iter(self._servers)) if len(self._servers) == 1 else None

    def _split(self, name: Any) -> tuple[str | None, str]:
        if isinstance(name, str):
            for server in self._servers:
                if name.startswith(server + SEPARATOR):
                    return server, name[len(server + SEPARATOR) :]
        return None, ""

    # -- asked of all -------------------------------------------------------------------------------------

    def _ask_all(self, message: Message, identity: Id, line: bytes) -> None:
        lines = dict.fromkeys(self._alive, line)
        cursor = message.said.get("cursor")
        if cursor is not None:
            further = _read_cursor(cursor)
            lines = {
                name: with_value(line, further[name], "params", "cursor")
                for name in self._alive & further.keys()
            }
            if not lines:
                self._on_line(error(identity, INVALID_PARAMS, "There is no page of that cursor."))
                return
        gathered = self._gathered[identity] = _Gathered(asked=message, waiting=set(lines))
        gathered.timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._gather, identity)
        if not lines:
            self._gather(identity)
        for name, one in sorted(lines.items()):
            self._servers[name].send(one)

    def _gather(self, identity: Id) -> None:
        """All have answered, or have had their time."""
        gathered = self._gathered.pop(identity, None)
        if gathered is None:
            return
        if gathered.timer is not None:
            gathered.timer.cancel()
        method, said = gathered.asked.method or "", dict(sorted(gathered.said.items()))
        try:
            if not said:
                why = "None of the servers has answered."
                answer = next(iter(gathered.failed), None) or error(identity, CONNECTION_CLOSED, why)
            elif method in LISTS:
                answer = self._joined(identity, method, gathered, said)
            else:
                answer = result(identity, _merged(said))
        except (NoMessage, ValueError, TypeError, AttributeError, LookupError, RecursionError) as wrong:
            answer = error(identity, INTERNAL_ERROR, f"The answers of the servers make no whole: {wrong}")
        self._on_line(answer)

    def _joined(
        self, identity: Id, method: str, gathered: _Gathered, results: Mapping[str, Mapping[str, Any]]
    ) -> bytes:
        """One list of all, each part as its server wrote it but for its name."""
        parts: list[str] = []
        cursors: dict[str, str] = {}
        caching: dict[str, Any] = {}
        for server, named in results.items():
            text = gathered.lines[server].decode("utf-8")
            if isinstance(named.get("nextCursor"), str):
                cursors[server] = named["nextCursor"]
            caching |= {name: named[name] for name in ("resultType", "ttlMs") if name in named}
            place = place_of(text, "result", LISTS[method])
            found = members(text, place[0])[0] if place is not None and text[place[0]] == "[" else ()
            parts += [self._part(server, method, text, one) for one in found]
        if caching:
            caching["cacheScope"] = "private"
        if cursors:
            caching["nextCursor"] = _cursor(cursors)
        rest = encoded(caching).decode()[1:-1]
        body = f'{{"{LISTS[method]}":[{",".join(parts)}]{"," if rest else ""}{rest}}}'
        return f'{{"jsonrpc":"2.0","id":{encoded(identity).decode()},"result":{body}}}'.encode()

    def _part(self, server: str, method: str, text: str, one: Member) -> str:
        part = text[one.start : one.end]
        said: Any = value_of(Raw(part.encode()))
        named = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
        for address in (named.get("uri"), named.get("uriTemplate")):
            if isinstance(address, str) and len(self._resources) < RESOURCES_MAX:
                self._resources.setdefault(address, server)
        if method not in PREFIXED or not isinstance(named.get("name"), str):
            return part
        return with_value(part.encode(), f"{server}{SEPARATOR}{named['name']}", "name").decode()

    # -- of a server --------------------------------------------------------------------------------------

    def _said(self, name: str, line: bytes | TooLong) -> None:
        if isinstance(line, TooLong):
            if line.id is None or self._owners.get(line.id) == name:
                self._on_line(line)
            elif line.id in self._gathered:
                self._lost(name, line.id, "Its answer was too long.")
            return
        if not line.strip():
            return
        try:
            message = read(line)
        except NoMessage as wrong:
            identity = answered_by(line)
            if identity is not None:
                self._lost(name, identity, f"The server gave an answer that cannot be read: {wrong}.")
            self._unread(str(wrong))
            return
        if message.is_request and message.id is not None:
            known = f"{name}-{next(self._numbers)}"
            self._asked[known] = name, message.id
            self._on_line(with_value(line, known, "id"))
        elif message.is_answer:
            self._answered(name, message, line)
        elif message.method == CANCELLED:
            self._taken_back(name, message, line)
        else:
            self._on_line(line)

    def _unread(self, why: str) -> None:
        """For whoever counts what is no message."""
        self._on_line(encoded(why))

    def _taken_back(self, name: str, message: Message, line: bytes) -> None:
        """A request of a server, of its own alone."""
        asked = (name, message.said.get("requestId"))
        known = next((known for known, one in self._asked.items() if one == asked), None)
        if known is None:
            self._unread("it takes back what it has not asked")
        else:
            self._on_line(with_value(line, known, "params", "requestId"))

    def _answered(self, name: str, message: Message, line: bytes) -> None:
        gathered = self._gathered.get(cast("Id", message.id))
        if gathered is not None and name in gathered.waiting:
            gathered.waiting.discard(name)
            try:
                said: Any = value_of(message.result)
            except NoMessage as wrong:
                said = None
                self._unread(str(wrong))
            if isinstance(said, dict):
                gathered.said[name], gathered.lines[name] = cast("dict[str, Any]", said), line
            elif message.result is None:
                gathered.failed.append(line)
            if not gathered.waiting:
                self._gather(cast("Id", message.id))
        elif self._owners.get(cast("Id", message.id)) == name:
            del self._owners[cast("Id", message.id)]
            self._on_line(line)
        else:
            self._unread("an answer to what this server was not asked")

    def _lost(self, name: str, identity: Id, why: str) -> None:
        gathered = self._gathered.get(identity)
        if gathered is not None:
            gathered.waiting.discard(name)
            if not gathered.waiting:
                self._gather(identity)
        elif self._owners.get(identity) == name:
            del self._owners[identity]
            self._on_lost(identity, why)

    def _gone(self, name: str, how: str) -> None:
        self._alive.discard(name)
        why = f"The server {name!r} is gone: {how.removesuffix('.')}."
        for identity in [one for one, gathered in self._gathered.items() if name in gathered.waiting]:
            self._lost(name, identity, why)
        for identity in [one for one, owner in self._owners.items() if owner == name]:
            self._lost(name, identity, why)
        if not self._alive and not self.ended.done():
            self.ended.set_result(f"the last of its servers {how}")


def _merged(said: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One greeting of all: what any of them can, in the oldest version that one of them speaks."""
    merged: dict[str, Any] = {}
    for one in said.values():
        merged = one | merged
    capabilities: dict[str, Any] = {}
    for one in said.values():
        for name, about in _named(one.get("capabilities")).items():
            capabilities[name] = {**capabilities.get(name, {}), **_named(about)}
    if any("capabilities" in one for one in said.values()):
        merged["capabilities"] = capabilities
    versions = [
        one["protocolVersion"] for one in said.values() if isinstance(one.get("protocolVersion"), str)
    ]
    if versions:
        merged["protocolVersion"] = min(versions)
    spoken = [_texts(one["supportedVersions"]) for one in said.values() if "supportedVersions" in one]
    if spoken:
        merged["supportedVersions"] = sorted(spoken[0].intersection(*spoken[1:]))
    ours = {"name": "custody-proxy", "version": __version__}
    if "serverInfo" in merged:
        merged["serverInfo"] = ours
    meta = _named(merged.get("_meta"))
    if f"{META}serverInfo" in meta:
        merged["_meta"] = {**meta, f"{META}serverInfo": ours}
    words = [f"{name}: {one['instructions']}" for name, one in said.items() if one.get("instructions")]
    return merged | ({"instructions": "\n\n".join(words)} if words else {})


def _named(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _texts(value: Any) -> set[str]:
    return (
        {one for one in cast("list[Any]", value) if isinstance(one, str)}
        if isinstance(value, list)
        else set()
    )


def _cursor(cursors: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(cursors).encode()).decode()


def _read_cursor(cursor: Any) -> dict[str, str]:
    """Of each server that has a further page, its own; of what is none of ours, nothing."""
    try:
        said: Any = json.loads(base64.urlsafe_b64decode(str(cursor)))
    except (ValueError, binascii.Error):
        return {}
    named = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    return {name: one for name, one in named.items() if isinstance(one, str)}
