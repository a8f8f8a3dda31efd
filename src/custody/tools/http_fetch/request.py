"""What is sent: the arguments of a call as an HTTP request, and what a redirect makes of it.

Owns how a URL is read, which header fields a caller may set, and what goes along to another host. Pure: it
reaches no network, and which hosts may be reached is not its to say. Used by `tool` and `exchange`.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from custody.errors import ToolError
from custody.hosts import parse_address

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
METHODS: tuple[Method, ...] = get_args(Method)

URL_CHARACTERS_MAX = 16 * 1024  # twice what servers and proxies commonly take
HEADERS_MAX = 100  # what servers commonly take
HEADER_BYTES_MAX = 32 * 1024  # of all together: half of what is read of an answer's
SENT_BYTES_MAX = 16 * 1024 * 1024  # a body is an argument: it is held in memory and on the record

BYTES_DEFAULT = 1024 * 1024  # as `file_read`: more than a model reads at once
BYTES_MAX = 16 * 1024 * 1024
REDIRECTS_DEFAULT = 5  # a short link, a move to https, a login and a mirror make four
REDIRECTS_MAX = 10

USER_AGENT = "custody"

_PORTS = {"http": 80, "https": 443}
_UNFIT = re.compile(r"[\x00-\x20\x7f\\]")
"""What one reader of a URL drops and another takes for its end, or for a slash."""
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_AUTHORITY = re.compile(r"(?:\[[^\[\]]*\]|[^\[\]:]*)(?::[0-9]*)?")
"""Host and port. Python's reader passes over what stands in front of a bracket."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")

_CONNECTIONS_OWN = frozenset(
    (
        "host content-length transfer-encoding connection keep-alive te trailer upgrade expect "
        "proxy-authorization proxy-connection http2-settings"
    ).split()
)
"""Header fields that say where a request ends, where it goes or what becomes of its connection."""

_GO_ALONG = frozenset(
    (
        "accept accept-charset accept-encoding accept-language cache-control content-encoding "
        "content-language content-type dnt if-match if-modified-since if-none-match if-unmodified-since "
        "pragma range user-agent"
    ).split()
)
"""All that is sent on to another host: any other field may hold a key."""

_OF_A_BODY = frozenset("content-encoding content-language content-location content-type".split())


class Asked(Struct, frozen=True):
    """The arguments of one call."""

    url: str
    method: Method = "GET"
    headers: Mapping[str, str] = {}
    body: str | None = None
    json: Any | UnsetType = UNSET
    bytes_max: int = BYTES_DEFAULT
    redirects_max: int = REDIRECTS_DEFAULT

    def request(self) -> "Request":
        """Raises ValueError, in words for the caller."""
        url, credentials = read_url(self.url)
        headers = _checked(self.headers)
        body, kind = self._body()
        if credentials is not None:
            if "authorization" in headers:
                raise ValueError(
                    "The URL has a user, and there is an Authorization header: give one of them."
                )
            headers["authorization"] = _basic(credentials)
        if kind is not None:
            headers.setdefault("content-type", kind)
        return Request(self.method, url, headers, body)

    def _body(self) -> tuple[bytes | None, str | None]:
        """What is sent, and its kind."""
        if self.json is not UNSET and self.body is not None:
            raise ValueError("Give either `body` or `json`.")
        try:
            if self.json is not UNSET:
                data = json.dumps(self.json, ensure_ascii=False, allow_nan=False).encode()
                kind = "application/json"
            elif self.body is not None:
                data, kind = self.body.encode(), "text/plain; charset=utf-8"
            else:
                return None, None
        except UnicodeEncodeError:
            raise ValueError("The body has half a surrogate pair, which is no text.") from None
        except (TypeError, ValueError, RecursionError):
            raise ValueError("`json` is no value that JSON has.") from None
        if len(data) > SENT_BYTES_MAX:
            raise ValueError(f"The body has {len(data)} bytes; {SENT_BYTES_MAX} is the most that is sent.")
        return data, kind


class Url(Struct, frozen=True):
    """Where a request goes, without a user and without a fragment."""

    scheme: Literal["http", "https"]
    host: str
    """As written, in lower case and without brackets."""
    port: int
    target: str
    """Path and query."""

    @property
    def place(self) -> str:
        """For words about it: path and query may hold secrets."""
        return f"{self.scheme}://{authority(self, self.host)}"

    def __str__(self) -> str:
        return self.place + self.target


def authority(url: Url, host: str) -> str:
    """Host and port as they stand in a URL and in the Host header."""
    shown = f"[{host}]" if ":" in host else host
    return shown if url.port == _PORTS[url.scheme] else f"{shown}:{url.port}"


class Request(Struct, frozen=True):
    """One request, before it is known at which address it arrives."""

    method: Method
    url: Url
    headers: Mapping[str, str]
    """The caller's, names in lower case."""
    body: bytes | None = None
    withheld: tuple[str, ...] = ()
    """Names of header fields that were not sent along to this host."""

    def fields(self, host: str) -> list[tuple[str, str]]:
        """All header fields, for a server that is called `host`."""
        own = {
            "host": authority(self.url, host),
            "user-agent": USER_AGENT,
            "accept": "*/*",
            "accept-encoding": "gzip, deflate",
        }
        length = len(self.body or b"")
        if self.body is not None or self.method in ("POST", "PUT", "PATCH"):
            own["content-length"] = str(length)
        return [*({**own, **self.headers}).items(), ("connection", "close")]


# -- reading ------------------------------------------------------------------------------------------


def read_url(text: str) -> tuple[Url, str | None]:
    """The URL, and its user and password as they stand there. Raises ValueError, in words for the caller."""
    if len(text) > URL_CHARACTERS_MAX:
        raise ValueError(f"The URL has {len(text)} characters; {URL_CHARACTERS_MAX} is the most.")
    if _UNFIT.search(text):
        raise ValueError("The URL has a blank, a control character or a backslash; percent-encode it.")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        target = quote(parts.path or "/", safe=_PRINTABLE)
        if parts.query:
            target += "?" + quote(parts.query, safe=_PRINTABLE)
    except ValueError:  # of surrogates as well
        raise ValueError("This is no URL.") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("Only http:// and https:// are fetched.")
    userinfo, at, place = parts.netloc.rpartition("@")
    if not host or parse_address(host)[1] == "odd" or not _AUTHORITY.fullmatch(place):
        raise ValueError("The URL names no host that one could connect to.")
    if port == 0:
        raise ValueError("The URL has the port 0, which nobody listens at.")
    scheme: Literal["http", "https"] = "http" if parts.scheme == "http" else "https"
    url = Url(scheme, host, _PORTS[scheme] if port is None else port, target)
    return url, userinfo if at and userinfo else None


def _basic(userinfo: str) -> str:
    user, _, password = userinfo.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The header fields with their names in lower case. Raises ValueError."""
    checked: dict[str, str] = {}
    size = 0
    for name, value in headers.items():
        low = name.lower()
        if not _TOKEN.fullmatch(name):
            raise ValueError("The name of a header has a character that none can have.")
        if low in _CONNECTIONS_OWN:
            raise ValueError(f"The header {name} is not the caller's to set.")
        if low in checked:
            raise ValueError(f"The header {name} is given twice.")
        if not _VALUE.fullmatch(value):
            raise ValueError(
                f"The value of the header {name} begins or ends with a blank, or has a line end, a control "
                "character or one that is not Latin-1."
            )
        checked[low] = value
        size += len(name) + len(value)
    if len(checked) > HEADERS_MAX or size > HEADER_BYTES_MAX:
        raise ValueError(f"At most {HEADERS_MAX} headers of {HEADER_BYTES_MAX} bytes together are sent.")
    return checked


# -- redirects ----------------------------------------------------------------------------------------


def sends_on(status: int, location: str | None) -> bool:
    """Whether the answer is a redirect (RFC 9110, section 15.4)."""
    return location is not None and status in (301, 302, 303, 307, 308)


def redirected(request: Request, status: int, location: str) -> Request:
    """The request that a redirect asks for, as browsers send it. Raises ToolError for one not to be made."""
    before = request.url
    try:
        url, _ = read_url(_joined(before, location))
    except ValueError as error:
        raise ToolError(f"{before.place} sends on to what is not fetched: {error}") from None
    if (before.scheme, url.scheme) == ("https", "http"):
        raise ToolError(
            f"{before.place} sends on from https to {url.place}, which anybody on the way can read.",
            hint="Give that URL itself, where it is what you want.",
        )
    request = msgspec.structs.replace(request, url=url, withheld=())
    to_get = (status == 303 and request.method != "HEAD") or (
        status in (301, 302) and request.method == "POST"
    )
    if to_get:
        headers = {name: value for name, value in request.headers.items() if name not in _OF_A_BODY}
        request = msgspec.structs.replace(request, method="GET", headers=headers, body=None)
    return request if _same_server(before, url) else _for_strangers(request)


def _joined(before: Url, location: str) -> str:
    """Raises ValueError, in words for the caller."""
    try:
        return urljoin(str(before), location.strip(" ").replace(" ", "%20"))
    except ValueError:
        raise ValueError("This is no URL.") from None


def _same_server(before: Url, after: Url) -> bool:
    """The same origin, or the same host asked over TLS from now on."""
    if before.host != after.host:
        return False
    return (before.scheme, before.port) == (after.scheme, after.port) or (before.port, after.port) == (
        80,
        443,
    )


def _for_strangers(request: Request) -> Request:
    headers = {name: value for name, value in request.headers.items() if name in _GO_ALONG}
    withheld = tuple(name for name in request.headers if name not in _GO_ALONG)
    return msgspec.structs.replace(request, headers=headers, withheld=withheld)
