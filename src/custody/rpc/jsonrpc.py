"""JSON-RPC 2.0: what a text frame says, and the frames that are sent.

Owns the grammar and the codes of errors. Pure: knows no method, no peer and no stream. Ids are kept as they
came, byte for byte, so that `1`, `1.0` and `"1"` stay three ids. Used by `peer`, `serve` and the client.
"""

import json
import re
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct

from custody.bridges.objects import speakable
from custody.redaction import plain

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL: Final = -32603
TOOL_FAILED: Final = -32000  # what a peer answers whose tool failed
AUTH_REQUIRED: Final = -32001
DENIED: Final = -32003
DEADLINE: Final = -32004
HANDSHAKE_REQUIRED: Final = -32005
VERSION: Final = -32006
CAPABILITY: Final = -32008
BUSY: Final = -32010

ID_BYTES_MAX = 1_024
"""An id is kept while its request is worked on and sent back; nobody needs a longer one."""

_NONE = Raw(b"")
"""Of a member that is not there. No JSON value is empty."""

_NULL = b"null"


class Request(Struct, frozen=True, gc=False):
    """Somebody wants an answer."""

    id: bytes
    """As it came."""
    method: str
    params: bytes
    """An object or an array, still encoded; empty where there is none."""


class Notification(Struct, frozen=True, gc=False):
    """Somebody tells something."""

    method: str
    params: bytes


class Response(Struct, frozen=True, gc=False):
    """Somebody answers: a result, or an error."""

    id: Any
    """Decoded; None where the answer names no request."""
    result: bytes
    """Still encoded."""
    error: Any = None


class Malformed(Struct, frozen=True, gc=False):
    """Nothing that can be worked on."""

    id: bytes
    """`null` where it could not be told."""
    code: int
    message: str


Frame = Request | Notification | Response | Malformed


class _Members(Struct, frozen=True, gc=False):
    jsonrpc: Raw = _NONE
    id: Raw = _NONE
    method: Raw = _NONE
    params: Raw = _NONE
    result: Raw = _NONE
    error: Raw = _NONE


_members = msgspec.json.Decoder(_Members)


def parse(text: str) -> Frame:
    """What a frame says. Never raises."""
    try:
        members = _members.decode(text)
    except msgspec.ValidationError:
        if text.lstrip(" \t\r\n").startswith("["):
            return Malformed(_NULL, INVALID_REQUEST, "invalid request: batches are not supported")
        return Malformed(_NULL, INVALID_REQUEST, "invalid request: a frame is one JSON object")
    except RecursionError:
        return _no_json(text, "nested too deeply")
    except UnicodeEncodeError:
        return Malformed(_NULL, PARSE_ERROR, "parse error: text that is not Unicode")
    except msgspec.DecodeError as error:
        return _unreadable(text, str(error))
    return _frame(members)


def _frame(members: _Members) -> Frame:
    identity, method = bytes(members.id), bytes(members.method)
    if not method and (members.result is not _NONE or members.error is not _NONE):
        return _response(identity, members)
    known = identity if _is_id(identity) else _NULL
    if identity and known is _NULL:
        return _invalid(_NULL, "`id` is neither a string nor a number")
    if bytes(members.jsonrpc) != b'"2.0"':
        return _invalid(known, '`jsonrpc` is not "2.0"')
    if not method.startswith(b'"'):
        return _invalid(known, "`method` is no string" if method else "`method` is missing")
    params = bytes(members.params)
    if params == _NULL:
        params = b""
    if params and params[0] not in b"{[":
        return _invalid(known, "`params` is neither an object nor an array")
    name: str = msgspec.json.decode(method)
    return Request(identity, name, params) if identity else Notification(name, params)


def _is_id(identity: bytes) -> bool:
    return 0 < len(identity) <= ID_BYTES_MAX and identity[0] in b'"-0123456789'


def _invalid(identity: bytes, problem: str) -> Malformed:
    return Malformed(identity, INVALID_REQUEST, f"invalid request: {problem}")


def _response(identity: bytes, members: _Members) -> Response:
    """An answer that is oddly made still ends the wait for it."""
    named: Any = None
    with suppress(msgspec.DecodeError):  # a number beyond every bound, which no request of ours has
        named = msgspec.json.decode(identity) if _is_id(identity) else None
    error = bytes(members.error)
    if error in (b"", _NULL):
        return Response(named, bytes(members.result) or _NULL)
    try:
        return Response(named, b"", msgspec.json.decode(error))
    except (msgspec.DecodeError, RecursionError) as problem:
        return Response(named, b"", _not_understood(f"its error cannot be read: {problem}"))


def _unreadable(text: str, problem: str) -> Malformed | Response:
    """JSON may escape half of a character, which no text can hold: whoever asked or waits is told so."""
    loose: Any = None
    if "\\u" in text:
        try:
            loose = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            loose = None
    if not isinstance(loose, dict):
        return _no_json(text, problem)
    members = cast("dict[str, Any]", loose)
    identity, problem = members.get("id"), "half a character (a lone surrogate)"
    if "method" not in members and ("result" in members or "error" in members):
        named = identity if isinstance(identity, str) else None
        return Response(named, b"", _not_understood(f"it holds {problem}"))
    encoded = encode(identity)
    return Malformed(encoded if _is_id(encoded) else _NULL, PARSE_ERROR, f"parse error: {problem}")


def _no_json(text: str, problem: str) -> Malformed | Response:
    """An answer to ours that breaks off, or holds what JSON has no word for (NaN), ends the wait for it."""
    begun = _BEGINS_AN_ANSWER.match(text)
    if begun is None:
        return Malformed(_NULL, PARSE_ERROR, f"parse error: {problem}")
    return Response(begun[1], b"", _not_understood(problem))


_VERSION = r'(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?'
_BEGINS_AN_ANSWER = re.compile(
    rf'\s*\{{\s*{_VERSION}"id"\s*:\s*"([^"\\]{{1,64}})"\s*,\s*{_VERSION}"(?:result|error)"\s*:'
)
"""Up to its result: what stands in there may look like an answer itself."""


def _not_understood(problem: str) -> dict[str, Any]:
    return {"code": PARSE_ERROR, "message": f"the answer cannot be understood: {problem}"}


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


# -- frames that are sent -----------------------------------------------------------------------------


class ErrorObject(Struct, frozen=True, gc=False, omit_defaults=True):
    """The `error` member."""

    code: int
    message: str
    data: Any = None


class _Request(Struct, frozen=True, gc=False):
    id: str
    method: str
    params: Any
    jsonrpc: str = "2.0"


class _Notification(Struct, frozen=True, gc=False):
    method: str
    params: Any
    jsonrpc: str = "2.0"


def encode(value: Any) -> bytes:
    """A value as JSON; what JSON cannot hold becomes text that says so. Raises TypeError."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError):
        return msgspec.json.encode(speakable(plain(msgspec.to_builtins(value, str_keys=True))))


def success(identity: bytes, result: Any) -> str:
    """The answer to a request: it has no `error` member."""
    return (b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (identity, encode(result))).decode()


def failure(identity: bytes, code: int, message: str, data: Any = None) -> str:
    """The other answer: it has no `result` member."""
    error = encode(ErrorObject(code, message, data))
    return (b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (identity, error)).decode()


def request(identity: str, method: str, params: Any) -> str:
    return encode(_Request(identity, method, params)).decode()


def notification(method: str, params: Any) -> str:
    return encode(_Notification(method, params)).decode()
