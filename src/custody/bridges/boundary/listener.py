"""Who is told of calls: a URL of this machine.

Owns the spelling of the URL and the rule that notices stay on this machine: they go unencrypted, and which
tools run when is nobody else's business. Used by `compose` and by `delivery`.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from msgspec import Struct

from custody.bridges.otel.destination import is_loopback
from custody.errors import InvalidSetting

CONVENTION = "http://127.0.0.1:9718"
PATH = "/boundary"
HTTP_PORT = 80
PATH_CHARACTERS = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")

LOOPBACKS = ("127.0.0.1", "::1")
"""What `localhost` is, without asking a resolver that may take longer than a call."""


class Listener(Struct, frozen=True, kw_only=True):
    """Where notices are posted to."""

    addresses: tuple[str, ...]
    """Tried one after the other."""
    port: int
    path: str
    authority: str
    """Host and port as the URL has them."""

    @property
    def shown(self) -> str:
        return f"http://{self.authority}{self.path}"


def listener_of(url: str) -> Listener:
    """The listener a URL names; `/boundary` is added to it. Raises InvalidSetting."""
    hint = f"By convention it is {CONVENTION}."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidSetting(f"{url!r:.200} is no URL for boundary notices.", hint=hint) from None
    host = parts.hostname
    plain = parts.username is None and not parts.query and not parts.fragment
    path = parts.path.removesuffix("/").removesuffix(PATH)
    if parts.scheme != "http" or not host or not plain or not PATH_CHARACTERS.fullmatch(path):
        raise InvalidSetting(
            f"{url!r:.200} is no URL for boundary notices: http, without user, query or fragment.", hint=hint
        )
    if not is_loopback(host):
        raise InvalidSetting(
            f"{host} is another machine: boundary notices are not encrypted, and stay on this one.",
            hint=f"{hint} For another machine, let something here pass them on.",
        )
    shown = f"[{host}]" if ":" in host else host
    return Listener(
        addresses=_addresses(host),
        port=HTTP_PORT if port is None else port,
        path=f"{path}{PATH}",
        authority=shown if port is None else f"{shown}:{port}",
    )


def _addresses(host: str) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return LOOPBACKS
