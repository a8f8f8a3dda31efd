"""Where records are exported to: endpoint, protocol, headers.

Owns the settings section `[otel]`, the spelling of endpoints and of the `OTEL_EXPORTER_OTLP_*` variables
(which are handed in; nothing here reads the environment), and the rule that secrets leave the machine only
under TLS. Used by `compose` and by `custody export`.
"""

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from custody.errors import InvalidSetting, UsageError

Protocol = Literal["http", "grpc"]

PROTOCOLS: dict[str, Protocol] = {"http": "http", "http/protobuf": "http", "grpc": "grpc"}
DEFAULT_ENDPOINTS: dict[Protocol, str] = {"http": "http://localhost:4318", "grpc": "http://localhost:4317"}
SIGNAL_PATH = re.compile(r"/v1/(traces|metrics)/?$")
"""What people copy along with the endpoint; each signal's own path is added when it is sent."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NAME_HEX_DIGITS = 16  # 64 bits tell a store's few destinations apart


class OtelSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[otel]`"""

    endpoint: str | None = None
    """Base URL of a collector. Unset: a program that opens the store exports nothing by itself."""
    protocol: Literal["http", "grpc"] | None = None
    headers: dict[str, str] = {}
    content: bool = False
    """Whether arguments, results and texts are exported too, as they are on the record: redacted."""
    insecure: bool = False
    """Whether anything but this machine may be reached without TLS."""
    service_name: str = "custody"


class Destination(Struct, frozen=True, kw_only=True):
    """One collector. Never shown with its headers: their values are secrets."""

    protocol: Protocol
    host: str
    port: int
    path: str
    secure: bool
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def shown(self) -> str:
        """For people and for the record; the path of a hosted collector may be a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port} ({self.protocol})"

    @property
    def name(self) -> str:
        """What its cursor is kept under."""
        whole = f"{self.protocol} {self.secure} {self.host} {self.port} {self.path}"
        return hashlib.sha256(whole.encode()).hexdigest()[:NAME_HEX_DIGITS]

    def __repr__(self) -> str:
        return f"<Destination {self.shown}>"


def destination_of(
    section: OtelSection,
    environ: Mapping[str, str],
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    insecure: bool = False,
) -> Destination:
    """Join what was asked for here, the settings and the variables: the first that says something wins.

    Raises UsageError and InvalidSetting.
    """
    endpoint = endpoint or section.endpoint or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    spoken = _protocol(protocol or section.protocol or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http")
    joined = {**_headers(environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")), **section.headers, **(headers or {})}
    for name, value in joined.items():
        if not HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise InvalidSetting(f"The header {name!r} cannot be sent: its name or its value is malformed.")
    destination = _parsed(endpoint or DEFAULT_ENDPOINTS[spoken], spoken, tuple(sorted(joined.items())))
    if not destination.secure and not (insecure or section.insecure or is_loopback(destination.host)):
        raise InvalidSetting(
            f"{destination.shown} is another machine, and without TLS others can read what is sent.",
            hint="Use https://, or allow it with insecure = true (--insecure).",
        )
    return destination


def require_packages(protocol: Protocol) -> None:
    """Raises UsageError, naming the extra, unless what exporting needs is installed."""
    from importlib.util import find_spec

    wanted = ["opentelemetry.proto", *(["grpc"] if protocol == "grpc" else [])]
    try:
        missing = not all(find_spec(name) for name in wanted)
    except ModuleNotFoundError:
        missing = True
    if missing:
        raise UsageError(
            "Exporting to OpenTelemetry needs packages that are not installed.",
            hint="pip install 'custody-runtime[otel]'",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _protocol(text: str) -> Protocol:
    if text not in PROTOCOLS:
        raise UsageError(f"{text} is not a protocol Custody exports by.", hint="Use http or grpc.")
    return PROTOCOLS[text]


def _headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, percent-encoded, as the variable has them."""
    pairs = (item.partition("=") for item in text.split(",") if item.strip())
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}


def _parsed(endpoint: str, protocol: Protocol, headers: tuple[tuple[str, str], ...]) -> Destination:
    wrong = InvalidSetting(
        "An endpoint is a URL of http or https without user, query or fragment.",
        hint="Write it as https://host:port, and what is secret as a header.",
    )
    if "://" not in endpoint:
        host = urlsplit(f"//{endpoint}").hostname or ""
        endpoint = f"{'http' if is_loopback(host) else 'https'}://{endpoint}"
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError:
        raise wrong from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise wrong
    if url.username is not None or url.query or url.fragment:
        raise wrong
    secure = url.scheme == "https"
    return Destination(
        protocol=protocol,
        host=url.hostname,
        port=port or (443 if secure else 80),
        path=SIGNAL_PATH.sub("", url.path).rstrip("/") if protocol == "http" else "",
        secure=secure,
        headers=headers,
    )
