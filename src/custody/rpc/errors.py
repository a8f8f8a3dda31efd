"""Errors on the wire: one function maps every error to a code, a message and data.

Owns that mapping, and what a peer that failed told us. Knows nothing of peers or streams. Used by `serve`
and by whoever asks a peer.
"""

import logging
import secrets
from collections.abc import Callable
from typing import Any, cast

from custody.errors import (
    Ambiguous,
    AnswerRefused,
    CustodyError,
    Denied,
    NotFound,
    PathRefused,
    RunClosed,
    RunNotShared,
    UsageError,
)
from custody.rpc import jsonrpc

log = logging.getLogger("custody")

MESSAGE_CHARACTERS_MAX = 2_000
"""A message is for a person; what is longer repeats somebody's input."""

_NOT_THE_PARAMS = (NotFound, Ambiguous, RunClosed, RunNotShared)
"""The params are well made, but the store cannot serve them, which the reference calls a failure."""


class RpcError(Exception):
    """A method answers with this error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class RemoteError(Exception):
    """The peer answered our request with an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


def remote_error(error: Any) -> RemoteError:
    """An `error` member as it came; one that is oddly made is an error all the same."""
    if not isinstance(error, dict):
        return RemoteError(jsonrpc.INTERNAL, str(error)[:MESSAGE_CHARACTERS_MAX])
    members = cast("dict[str, Any]", error)
    code, message = members.get("code"), members.get("message")
    return RemoteError(
        code if isinstance(code, int) and not isinstance(code, bool) else jsonrpc.INTERNAL,
        message if isinstance(message, str) else "no message",
        members.get("data"),
    )


def invalid_params(message: str, field: str | None = None) -> RpcError:
    """`invalid params: …` with the field named."""
    return RpcError(
        jsonrpc.INVALID_PARAMS, f"invalid params: {message}", None if field is None else {"field": field}
    )


def wire_error(error: BaseException, clean: Callable[[str], str]) -> tuple[int, str, Any]:
    """Code, message and data for a peer. `clean` takes known secrets out of a text."""
    if isinstance(error, RpcError):
        return error.code, clean(error.message)[:MESSAGE_CHARACTERS_MAX], error.data
    if isinstance(error, CustodyError):
        data: dict[str, Any] = {"error": type(error).__name__, "exit_code": error.exit_code}
        if error.hint is not None:
            data["hint"] = clean(error.hint)
        field = error.details.get("field")
        if isinstance(field, str):
            data["field"] = field
        message = clean(error.message)[:MESSAGE_CHARACTERS_MAX]
        code = _code(error)
        if code == jsonrpc.INVALID_PARAMS:
            message = f"invalid params: {message}"
        return code, message, data
    incident = secrets.token_hex(4)
    log.error("A request failed (incident %s).", incident, exc_info=error)
    return jsonrpc.INTERNAL, f"internal error (incident {incident})", {"incident": incident}


def _code(error: CustodyError) -> int:
    if isinstance(error, _NOT_THE_PARAMS):
        return jsonrpc.INTERNAL
    if isinstance(error, UsageError):
        return jsonrpc.INVALID_PARAMS
    if isinstance(error, (Denied, PathRefused, AnswerRefused)):
        return jsonrpc.DENIED
    return jsonrpc.INTERNAL
