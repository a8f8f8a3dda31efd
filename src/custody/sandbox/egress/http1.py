"""HTTP/1.1 as far as a proxy reads it: heads, where a request wants to go, and how long a body is.

Owns the grammar (RFC 9112), read strictly: what two readers could read in two ways is refused, since the one
behind us may be the other reader. Does no I/O. Used by `link`, which reads the bytes, by `proxy` and
`forwarding`.
"""

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from custody.hosts import HOST_CHARACTERS_MAX

Header = tuple[str, str]

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) ([!-~]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/?#@\\]+)(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,18}")

HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer "
    "transfer-encoding upgrade".split()
)
"""What is between two neighbours only (RFC 9110, 7.6.1), with the names older clients use for it."""


class Malformed(Exception):
    """What was sent is no HTTP, or could be read in two ways. `status` answers it."""

    def __init__(self, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.status = status


class Request(Struct, frozen=True):
    method: str
    target: str
    minor: int
    headers: tuple[Header, ...]


class Response(Struct, frozen=True):
    status: int
    reason: str
    minor: int
    headers: tuple[Header, ...]


class Framing(Struct, frozen=True):
    """How long a body is: none, by its length, by chunks, or until the connection ends."""

    kind: Literal["none", "length", "chunked", "end"]
    length: int = 0


class Target(Struct, frozen=True):
    """Where a request wants to go."""

    host: str
    port: int
    path: str | None
    """What the server there is asked for; None for a tunnel."""


def parse_request(head: bytes) -> Request:
    first, headers = _parse(head)
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise Malformed("The first line is no request of HTTP/1.1.")
    return Request(method=found[1], target=found[2], minor=int(found[3]), headers=headers)


def parse_response(head: bytes) -> Response:
    first, headers = _parse(head)
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise Malformed("The first line is no response of HTTP/1.1.")
    return Response(status=int(found[2]), reason=found[3] or "", minor=int(found[1]), headers=headers)


def _parse(head: bytes) -> tuple[str, tuple[Header, ...]]:
    """The first line and the headers. Every line ends as it should: `link` has seen to it."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers: list[Header] = []
    for line in lines:
        name, colon, value = line.partition(":")
        # Folded lines and blanks in front of the colon are no names.
        if not (colon and _NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise Malformed("A header line cannot be read.")
        headers.append((name, value.strip(" \t")))
    return first, tuple(headers)


def values(headers: Iterable[Header], name: str) -> list[str]:
    """Of every header of that name, the name in lower case."""
    return [value for key, value in headers if key.lower() == name]


def tokens(headers: Iterable[Header], name: str) -> set[str]:
    """Of a header that is a list, in lower case."""
    return {part.strip().lower() for value in values(headers, name) for part in value.split(",")} - {""}


# -- where to -------------------------------------------------------------------------------------------


def target_of(request: Request) -> Target:
    """Where a request wants to go: the URL says it, whatever `Host` says (RFC 9112, 3.2.2)."""
    if len(values(request.headers, "host")) > 1:
        raise Malformed("There is more than one Host.")
    if request.method == "CONNECT":
        host, port = _authority(request.target)
        if port is None:
            raise Malformed("CONNECT takes a host and a port.")
        return Target(host=host, port=port, path=None)
    found = _ABSOLUTE.fullmatch(request.target)
    if found is None:
        raise Malformed("This is a proxy: it takes `http://` URLs and CONNECT.")
    if found[1].lower() != "http":
        raise Malformed("This proxy takes `http://` URLs; for any other there is CONNECT.")
    host, port = _authority(found[2])
    path = found[3] if found[3].startswith("/") else f"/{found[3]}"
    if request.method == "OPTIONS" and not found[3]:
        path = "*"
    return Target(host=host, port=80 if port is None else port, path=path)


def _authority(text: str) -> tuple[str, int | None]:
    """With neither user nor password: they belong in a header, and what precedes an `@` has fooled many."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise Malformed("The host cannot be read.")
    if len(found[1]) > HOST_CHARACTERS_MAX:  # it would stand in the account of the connection
        raise Malformed(f"The host has {len(found[1])} characters; {HOST_CHARACTERS_MAX} are the most.")
    return found[1].removeprefix("[").removesuffix("]"), None if found[2] is None else int(found[2])


# -- how long -------------------------------------------------------------------------------------------


def request_framing(request: Request) -> Framing:
    return _framing(request.headers, request.minor) or Framing("none")


def response_framing(response: Response, method: str) -> Framing:
    if method == "HEAD" or response.status in (204, 304) or response.status < 200:
        return Framing("none")
    return _framing(response.headers, response.minor) or Framing("end")


def _framing(headers: tuple[Header, ...], minor: int) -> Framing | None:
    """Two answers to the same question are none (request smuggling)."""
    encodings, lengths = values(headers, "transfer-encoding"), values(headers, "content-length")
    if encodings and lengths:
        raise Malformed("There are both Transfer-Encoding and Content-Length.")
    if encodings:
        if [value.lower() for value in encodings] != ["chunked"] or minor == 0:
            raise Malformed("The only Transfer-Encoding taken is `chunked`.", 501)
        return Framing("chunked")
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Malformed("The Content-Length cannot be read.")
    return Framing("length", int(lengths[0]))


def chunk_bytes(line: bytes) -> int:
    """How many bytes follow the line in front of a chunk; 0 is the end of the body."""
    found = _CHUNK.fullmatch(line)
    if found is None:
        raise Malformed("A chunk cannot be read.")
    return int(found[1], 16)


# -- what is passed on ----------------------------------------------------------------------------------


def passed_on(headers: tuple[Header, ...], *without: str) -> list[Header]:
    """All but those that are for the neighbour, and those named, in lower case."""
    dropped = HOP_BY_HOP | tokens(headers, "connection") | set(without)
    return [header for header in headers if header[0].lower() not in dropped]


def framing_headers(framing: Framing) -> list[Header]:
    if framing.kind == "length":
        return [("Content-Length", str(framing.length))]
    return [("Transfer-Encoding", "chunked")] if framing.kind == "chunked" else []


def head_bytes(first: str, headers: Iterable[Header]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
