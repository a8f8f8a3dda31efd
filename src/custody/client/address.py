"""Where a daemon is: the URL that `custody.open` and `--url` take.

Used by `link` and by whoever looks for a token.
"""

import ipaddress
from typing import Self
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from custody.errors import UsageError

_HINT = "ws://127.0.0.1:9100, wss://host:port or unix:///path/to/serve.sock."


class Address(Struct, frozen=True):
    """A daemon's address."""

    url: str
    """As a person reads it; holds no token."""
    path: str | None = None
    """Of a Unix socket."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises UsageError for what is no such URL."""
        try:
            parts = urlsplit(text)
            named = parts.hostname is not None and parts.port != 0
        except ValueError:
            raise UsageError("This is not the URL of a daemon.", hint=f"One is {_HINT}") from None
        if parts.username is not None or parts.password is not None:
            raise UsageError("A URL is no place for a token.", hint="Give it as token=, or in CUSTODY_TOKEN.")
        if parts.scheme == "unix" and not parts.netloc and parts.path:
            return cls(text, parts.path)
        if parts.scheme not in ("ws", "wss") or not named or parts.query or parts.fragment:
            raise UsageError(f"{text!r:.200} is not the URL of a daemon.", hint=f"One is {_HINT}")
        return cls(text)

    @property
    def local(self) -> bool:
        """Whether nobody but this machine can be listening there."""
        return self.path is not None or _is_loopback(urlsplit(self.url))

    @property
    def open_to_readers(self) -> bool:
        """Whether what is sent there can be read on its way."""
        return not self.local and urlsplit(self.url).scheme == "ws"


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
