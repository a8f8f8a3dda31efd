"""Errors of the daemon as the exceptions they were there.

Owns the way back from a wire error to Custody's one tree of errors. Used by everything that asks.
"""

from typing import Any, cast

from custody import errors
from custody.errors import (
    CustodyError,
    Denied,
    InvalidInput,
    NotRecorded,
    OutcomeUnknown,
    StoreUnusable,
    UsageError,
)
from custody.rpc import jsonrpc
from custody.rpc.errors import RemoteError

_BY_CODE: dict[int, type[CustodyError]] = {
    jsonrpc.INVALID_PARAMS: InvalidInput,
    jsonrpc.INVALID_REQUEST: InvalidInput,
    jsonrpc.PARSE_ERROR: InvalidInput,
    jsonrpc.METHOD_NOT_FOUND: UsageError,
    jsonrpc.DENIED: Denied,
    jsonrpc.AUTH_REQUIRED: Denied,
    jsonrpc.DEADLINE: OutcomeUnknown,
    jsonrpc.BUSY: NotRecorded,
}
"""Of an answer that names no class: from a daemon that is not ours, or a part of it that knows no errors."""

_PREFIX = "invalid params: "


def refused(error: RemoteError) -> CustodyError:
    """The exception an answer stands for."""
    data = cast("dict[str, Any]", error.data) if isinstance(error.data, dict) else {}
    return from_wire(data.get("error"), error.message, data, _BY_CODE.get(error.code, CustodyError))


def from_wire(
    name: Any, message: str, data: dict[str, Any], otherwise: type[CustodyError] = CustodyError
) -> CustodyError:
    """The exception of that class, if it is one of ours."""
    kind = getattr(errors, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, CustodyError)):
        kind = otherwise
    hint = data.get("hint")
    said = kind(message.removeprefix(_PREFIX), hint=hint if isinstance(hint, str) else None)
    said.details |= {key: value for key, value in data.items() if key not in ("error", "hint", "exit_code")}
    return said


def unreachable(where: str, problem: object, *, act: bool) -> CustodyError:
    """Nobody was asked. `act`: something was to be recorded or run."""
    if act:
        return NotRecorded(
            f"The daemon at {where} cannot be reached, so nothing was run ({problem}).",
            hint="Start it with `custody serve`; the client connects again by itself.",
        )
    return StoreUnusable(
        f"The daemon at {where} cannot be reached ({problem}).", hint="Start it with `custody serve`."
    )


def lost(where: str) -> OutcomeUnknown:
    """The connection broke between question and answer."""
    return OutcomeUnknown(
        f"The connection to {where} broke before the answer came, so nobody here knows what became of it.",
        hint="The record says it: `custody calls`. Nothing is sent a second time by itself.",
    )
