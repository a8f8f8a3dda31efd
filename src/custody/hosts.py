"""Hosts, ports and addresses in the arguments of a call, and what kind of address each one is.

Owns the spellings under which one machine can be named: the numbers `inet_aton` reads (`127.1`,
`0x7f000001`, `017700000001`, `2130706433`), full-width digits, percent-encoding, user information in front
of an `@`, backslashes that a browser takes for slashes, addresses inside IPv6. Refuses to know the network:
no name is resolved, and a name that leads to a private address is still a `name`. Used by the facts of a
call, by the rules of egress, and by whoever else is about to connect.
"""

import re
import string
import unicodedata
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct

AddressKind = Literal[
    "public",
    "private",
    "loopback",
    "link_local",
    "cgnat",
    "metadata",
    "multicast",
    "unspecified",
    "reserved",
    "name",
    "odd",
]

HOST_CHARACTERS_MAX = 255
"""A name of the DNS is shorter (RFC 1035), and so is every spelling of an address; longer is `odd`."""
HOSTS_MAX = 1_000
"""Of one call. No call that means well names more, and rules look at each."""
AUTHORITY_CHARACTERS_MAX = 2_048
"""Of one URL that is looked at; user and host stand at its front."""
SCHEME_CHARACTERS_MAX = 32
"""No registered scheme is longer."""
USER_CHARACTERS_MAX = 65
"""In front of the `@` of `user@host:path`, with the blank before it."""
UNQUOTE_ROUNDS_MAX = 3
"""How often percent-encoding is undone; what is still encoded then is `odd`."""

METADATA_ADDRESSES = frozenset(
    {
        "169.254.169.254",  # AWS, Azure, Google, DigitalOcean, Oracle and others
        "169.254.170.2",  # AWS, credentials of a container
        "169.254.170.23",  # AWS, identity of a pod
        "168.63.129.16",  # Azure's wire server
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle, before 2020
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
    }
)
METADATA_NAMES = frozenset(
    {
        "metadata.google.internal",
        "metadata",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.internal",
    }
)
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "localhost6")

_CGNAT = IPv4Network("100.64.0.0/10")
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
"""Translated inside a network, to an address that lies at one of several places (RFC 8215, RFC 6052)."""
_COMPATIBLE = IPv6Network("::/96")

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_URL = re.compile(r":[/\\]{2,}([^\s\"'<>`]{0,2048})")
_NO_SCHEME_BEGINS = string.digits + "+.-"
_SCHEME_CHARACTERS = string.ascii_letters + _NO_SCHEME_BEGINS
_USER_CHARACTERS = string.ascii_letters + string.digits + "_.-"
_SCHEMELESS = re.compile(r"\s*()[/\\]{2}([^\s\"'<>`/\\][^\s\"'<>`]*)")
_SLASHLESS = re.compile(r"\s*(https?|wss?|ftp):[/\\]?([^\s\"'<>`/\\][^\s\"'<>`]*)", re.IGNORECASE)
"""`http:host` and `http:/host`, which browsers take for `http://host`."""
_SCP_LIKE = re.compile(r"@(\[[^\]\s]{1,64}\]|[^\s:/\\@\"']{1,255}):(?![/\\]{2}|\s)")
_PSEUDO_DEVICE = re.compile(r"/dev/(?:tcp|udp)/([^/\s\"']{1,255})/([\w-]{1,16})")
_SLASHES = re.compile(r"[/\\?#]")
_BEGINS_WITH_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,31}:[/\\]{2}")
_BROKEN = re.compile(r"[\t\r\n]")
_DOTS = str.maketrans({"\u3002": ".", "\uff0e": ".", "\uff61": "."})  # UTS 46 takes each for a full stop
_HIDDEN = re.compile(r"[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\t\r\n]")


class Host(Struct, frozen=True, kw_only=True):
    """One host that an argument names."""

    host: str
    """As written, without brackets, port and user."""
    port: int | None = None
    scheme: str | None = None
    address: str | None = None
    """The address in its usual spelling, where the host is one; of an IPv4 address in IPv6, that one."""
    kind: AddressKind


# -- one host -----------------------------------------------------------------------------------------


def parse_address(text: str) -> tuple[str | None, AddressKind]:
    """The address a host's text names, in its usual spelling, and its kind; (None, "name") for a name.

    `odd` is what no rule should take for a harmless name: empty, too long, or spelled so that one reader
    finds a name there and another an address.
    """
    if not text or len(text) > HOST_CHARACTERS_MAX:
        return None, "odd"
    plain = _plain(text)
    if plain is None:
        return None, "odd"
    if ":" in plain:
        return _version6(plain)
    bare = _ascii(plain.removesuffix("."))
    if bare is None:
        return None, "odd"
    if bare in METADATA_NAMES:
        return None, "metadata"
    if bare in _LOOPBACK_NAMES or bare.endswith(".localhost"):
        return None, "loopback"
    address, kind = _version4_or_name(bare)
    return address, "odd" if kind == "name" and _BROKEN.search(text) else kind


def ascii_name(text: str) -> str | None:
    """A name as it is asked for in the DNS: lower case, IDNA, no closing dot. None for an address, and for
    what is `odd`."""
    address, kind = parse_address(text)
    plain = None if address is not None or kind == "odd" else _plain(text)
    return None if plain is None else _ascii(plain.removesuffix("."))


def _plain(text: str) -> str | None:
    """The host as a resolver gets it; None where it cannot be told."""
    for _ in range(UNQUOTE_ROUNDS_MAX):
        if "%" not in text or ":" in text:  # in an IPv6 address it begins the zone
            break
        text = unquote(text)
    if text.startswith("["):
        if not text.endswith("]"):
            return None
        text = text[1:-1]
    text = unicodedata.normalize("NFKC", _HIDDEN.sub("", text.translate(_DOTS)))
    return text.lower() or None


def _ascii(name: str) -> str | None:
    """Before anything is read from it: IDNA drops characters, and what is left may be an address."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return None


def _version4_or_name(text: str) -> tuple[str | None, AddressKind]:
    parts = text.split(".")
    if _NUMBER.fullmatch(parts[-1]):  # a name whose last label is a number is an address (WHATWG URL)
        address = _by_numbers(parts)
        return (None, "odd") if address is None else (str(address), _kind4(address))
    return (None, "name") if _NAME.fullmatch(text) else (None, "odd")


def _by_numbers(parts: list[str]) -> IPv4Address | None:
    """One to four numbers, decimal, octal or hexadecimal, the last filling what is left: `inet_aton`."""
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return None
    *front, last = numbers
    if any(number > 255 for number in front) or last >= 256 ** (4 - len(front)):
        return None
    return IPv4Address(sum(number << (24 - 8 * place) for place, number in enumerate(front)) + last)


def _number(part: str) -> int:
    if part[:2] in ("0x", "0X"):
        return int(part[2:] or "0", 16)
    return int(part, 8) if part.startswith("0") else int(part)


def _version6(text: str) -> tuple[str | None, AddressKind]:
    try:
        address = IPv6Address(text.partition("%")[0])
    except ValueError:
        return None, "odd"
    inner = _embedded(address)
    if inner is not None and not (address in _NAT64_LOCAL and _kind4(inner) == "public"):
        return str(inner), _kind4(inner)
    shown = str(address)
    if shown in METADATA_ADDRESSES:
        return shown, "metadata"
    if address.is_link_local or address.is_site_local:
        return shown, "link_local"
    return shown, _kind_of(address)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address a packet to this one may end up at."""
    mapped = address.ipv4_mapped or address.sixtofour
    if mapped is not None:
        return mapped
    if address.teredo is not None:
        return address.teredo[1]
    number = int(address)
    if address in _NAT64 or address in _NAT64_LOCAL or (address in _COMPATIBLE and number > 1):
        return IPv4Address(number & 0xFFFFFFFF)
    return None


def _kind4(address: IPv4Address) -> AddressKind:
    if str(address) in METADATA_ADDRESSES:
        return "metadata"
    if address.is_unspecified:
        return "unspecified"
    if address in _CGNAT:
        return "cgnat"
    if address.is_link_local:
        return "link_local"
    if address in _THIS_NETWORK:
        return "reserved"
    return _kind_of(address)


def _kind_of(address: IPv4Address | IPv6Address) -> AddressKind:
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return "loopback"
    if address.is_multicast:
        return "multicast"
    if address.is_reserved:
        return "reserved"
    if address.is_private:
        return "private"
    return "public" if address.is_global else "reserved"


# -- hosts in texts -----------------------------------------------------------------------------------


def hosts_in(text: str) -> Iterator[Host]:
    """Hosts of the URLs in a text, of `user@host:path` as git and scp read it, and of `/dev/tcp/host/port`.

    Where two readers would find two hosts (`http://good\\@evil/`) both are given.
    """
    if _BROKEN.search(text) and _BEGINS_WITH_URL.match(text):  # browsers drop tabs and line ends in a URL
        yield from hosts_in(_BROKEN.sub("", text))
    for scheme, authority in dict.fromkeys(_urls_in(text)):
        yield from _of_authority(authority, scheme)
    if "@" in text:
        yield from (host_of(name, scheme="ssh") for name in dict.fromkeys(_scp_hosts_in(text)))
    if "/dev/" in text:
        for name, port in dict.fromkeys(found.groups() for found in _PSEUDO_DEVICE.finditer(text)):
            yield host_of(name, port=_port(port))


def _urls_in(text: str) -> Iterator[tuple[str | None, str]]:
    """Scheme and what follows its slashes; found from the colon on, which most texts lack."""
    for found in _URL.finditer(text):
        before = text[max(0, found.start() - SCHEME_CHARACTERS_MAX) : found.start()]
        scheme = before[len(before.rstrip(_SCHEME_CHARACTERS)) :].lstrip(_NO_SCHEME_BEGINS)
        if scheme:
            yield scheme.lower(), _upto_path(found[1])
    for expression in (_SLASHLESS, _SCHEMELESS):
        alone = expression.match(text)
        if alone is not None:
            yield (alone[1] or "").lower() or None, _upto_path(alone[2])


def _upto_path(text: str) -> str:
    return text.partition("/")[0].rstrip(",.;)}!*|")  # in prose a URL ends in front of them


def _scp_hosts_in(text: str) -> Iterator[str]:
    for found in _SCP_LIKE.finditer(text):
        before = text[max(0, found.start() - USER_CHARACTERS_MAX) : found.start()]
        rest = before.rstrip(_USER_CHARACTERS)
        if len(rest) < len(before) and rest[-1:] in ("", " ", "\t", "\n", '"', "'", "="):
            yield found[1]


def host_and_port(text: str) -> Iterator[Host]:
    """A text that is a host, `host:port`, `user@host` or a URL, because its parameter says so."""
    found = tuple(hosts_in(text))
    if found:
        yield from found
    elif text.strip():
        yield from _of_authority(text.strip()[:AUTHORITY_CHARACTERS_MAX], None)


def host_of(text: str, *, port: int | None = None, scheme: str | None = None) -> Host:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address, kind = parse_address(inner)
    return Host(host=inner, port=port, scheme=scheme, address=address, kind=kind)


def _of_authority(text: str, scheme: str | None) -> Iterator[Host]:
    """`user:password@host:port/path`. What ends it for one (`\\`, `?`, `#`), another takes for the user."""
    short = _SLASHES.split(text, maxsplit=1)[0]
    long = text.partition("/")[0]
    places = [short.rpartition("@")[2]]
    if "@" in long and (long != short or long.count("@") > 1):
        places += [_SLASHES.split(part, maxsplit=1)[0] for part in long.split("@")[1:]]
    for place in dict.fromkeys(places):
        host, port = _split_port(place)
        if host:
            yield host_of(host, port=port, scheme=scheme)


def _split_port(place: str) -> tuple[str, int | None]:
    if place.startswith("["):
        inner, _, rest = place[1:].partition("]")
        return inner, _port(rest.removeprefix(":"))
    host, colon, port = place.rpartition(":")
    if not colon or ":" in host:  # several colons without brackets: an IPv6 address
        return place, None
    return host, _port(port)


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65_536 else None


LOOPBACK = ("127.0.0.1", "::1", "localhost")


def webhook_host(address: str) -> str | None:
    """The host of a webhook that people are told by; None where this is no address of one. What is asked goes
    over no network in plain text."""
    try:
        url = urlsplit(address)
        host = url.hostname if url.port != 0 else None
    except ValueError:
        return None
    if url.scheme == "http":
        return host if host in LOOPBACK else None
    return host if url.scheme == "https" else None
