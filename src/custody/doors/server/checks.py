"""Which requests are listened to at all: the names they call us by, the pages they come from, their token.

Owns the rules for `Host`, `Origin` and `Authorization`; pure. They keep web pages out: a browser sends any
page's request to this machine's loopback, also under a foreign name that resolves to it. Used by `app`.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from custody.errors import UsageError

Send = Callable[[Any], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})

NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.ASCII)
ORIGIN = re.compile(
    r"(?P<site>(?P<scheme>[a-z][a-z0-9+.-]*)://([a-z0-9_.-]+|\[[0-9a-f:.]+\]))(?P<port>:\d{1,5})?/?", re.ASCII
)
"""RFC 6454, 6.2; of any scheme, because browser extensions have their own."""

USUAL_PORTS = frozenset({("http", ":80"), ("https", ":443")})

FROM_ANOTHER_SITE = frozenset({b"cross-site", b"same-site"})
"""Values of `Sec-Fetch-Site`, which browsers send also where they send no `Origin`: an image, a form."""


ALLOWED_HEADERS = (
    b"authorization, content-type, last-event-id, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name"
)


class Refusal(Struct, frozen=True):
    """What a request is answered with instead of being looked at."""

    status: int
    code: str
    message: str
    hint: str | None = None


class Callers(Struct, frozen=True, kw_only=True):
    """Who may connect."""

    hosts: frozenset[str] = frozenset()
    """Names we may be called by, beside those of loopback; lower case, without a port."""
    origins: frozenset[str] = frozenset()
    """Pages that may connect: `https://console.example`, lower case."""

    @classmethod
    def of(cls, hosts: Iterable[str], origins: Iterable[str]) -> "Callers":
        """As an operator writes them. Raises UsageError for what no request can say."""
        return cls(hosts=frozenset(map(_name, hosts)), origins=frozenset(map(_origin, origins)))

    def refuse(self, headers: Mapping[bytes, bytes], *, by_name: bool) -> Refusal | None:
        """None for a request that may be looked at. `by_name`: over TCP, where a name led here."""
        if by_name:
            host = headers.get(b"host")
            if host is None or not self._is_ours(host.decode("latin-1")):
                return Refusal(
                    421,
                    "host_refused",
                    "This daemon is not called by that name.",
                    "Use 127.0.0.1, or start it with --allow-host NAME.",
                )
        origin = headers.get(b"origin")
        if origin is not None:
            if origin.decode("latin-1").lower() in self.origins:
                return None
        elif headers.get(b"sec-fetch-site") not in FROM_ANOTHER_SITE:
            return None
        return Refusal(
            403,
            "origin_refused",
            "No web page may reach this daemon from there.",
            "Start it with --allow-origin ORIGIN to let one.",
        )

    def shared_with(self, scope: Mapping[str, Any], send: Send) -> Send:
        """`send`, which tells the browser of an allowed page that the page may read the answer."""
        origin = headers_of(scope).get(b"origin")
        if origin is None or origin.decode("latin-1").lower() not in self.origins:
            return send

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_shared(origin)]}
            await send(message)

        return sending

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        return name is not None and (name in self.hosts or is_loopback(name))


def _name(host: str) -> str:
    name = host.lower().rstrip(".")
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if not NAME.fullmatch(name) and not _is_address(name):
        raise UsageError(
            f"{host!r} is no name of a host.",
            hint="Write ledger.example or an address, with neither scheme nor port.",
        )
    return name


def _origin(page: str) -> str:
    """As browsers write it: without the port that its scheme has anyway."""
    found = ORIGIN.fullmatch(page.lower())
    if found is None:
        raise UsageError(f"{page!r} is no origin of a web page.", hint="Write https://console.example.")
    port = found["port"] or ""
    return found["site"] + ("" if (found["scheme"], port) in USUAL_PORTS else port)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _shared(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-headers", ALLOWED_HEADERS),
        (b"access-control-expose-headers", b"mcp-session-id"),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"vary", b"origin"),
    )


def host_name(host: str) -> str | None:
    """The name in a `Host` header, lower case, without port or brackets; None where there is none."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket and port[:1] in ("", ":") else "?"
    else:
        name, _, port = host.partition(":")
    name = name.lower().removesuffix(".")
    return name if name and (not port or (port.isascii() and port.isdigit())) else None


def is_loopback(name: str) -> bool:
    """Whether a host's name or address can only be this machine."""
    if name in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def bearer(headers: Mapping[bytes, bytes]) -> str | None:
    """The token of `Authorization: Bearer …`; None where there is none."""
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    token = token.strip()
    return token.decode("latin-1") if scheme.lower() == b"bearer" and token else None


def headers_of(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers of an ASGI scope. Of two with one name the refused one must not hide: they are joined."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        found[name] = found[name] + b", " + value if name in found else value
    return found
