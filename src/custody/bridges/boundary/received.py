"""The other side: notices of other programs become events of this store.

Owns what a notice must look like, and the pairing of a start with its end. Fields come from the parsed body
alone, and from its top: what a tool was asked may hold a `pid` as well. Knows nothing of HTTP but the status
of its answer. Used by whatever serves `POST /boundary`.
"""

import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import Struct

from custody.errors import NotRecorded, StoreError

RECEIVED = "boundary.received"

BODY_BYTES_MAX = 64 * 1024  # a hundred times a notice
OPEN_MAX = 10_000  # starts whose end may still come; a program that never ends its calls loses the oldest
TEXT_CHARACTERS_MAX = 256
PID_MAX = 2**31 - 1
WIDE_MAX = 2**53  # whole numbers that every reader of JSON has without loss

Record = Callable[[str, Mapping[str, Any]], object]
"""Puts an event on the record: its name, its data. Raises NotRecorded."""


class Answer(Struct, frozen=True):
    """What to answer a notice with: an HTTP status, and a JSON object."""

    status: int
    body: dict[str, Any]


class _Refused(Exception):
    """The notice is none; `args` has the status and the reason."""


class Boundaries:
    """The notices one store takes. May be used from several threads."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[int, str], int] = OrderedDict()
        """Process and sig -> when its start came, by our monotonic clock."""
        self._forgotten = 0

    def receive(self, body: bytes) -> Answer:
        """Take one notice. Recorded first, then answered; raises nothing."""
        try:
            said, ignored = _parsed(body)
            return self._take(said, ignored, time.monotonic_ns())
        except _Refused as refused:
            status, reason = refused.args
            return Answer(status, {"error": reason})
        except (NotRecorded, StoreError, OSError) as error:
            return Answer(503, {"error": f"it could not be recorded: {error}"})

    def _take(self, said: dict[str, Any], ignored: int, at_ns: int) -> Answer:
        key = (cast("int", said["pid"]), cast("str", said["sig"]))
        with self._lock:
            opened_ns = self._open.get(key)
            if said["event"] == "end" and opened_ns is None:
                raise _Refused(404, "no start with that pid and sig is open")
            data = said | {"ignored": ignored}
            if said["event"] == "start":
                data |= {"replaces": opened_ns is not None, "forgotten": self._forgotten}
                answer = {"sig": said["sig"], "start_ns": time.time_ns()}
            else:
                assert opened_ns is not None, "an end without a start is refused above"
                elapsed_ms = (at_ns - opened_ns) / 1e6
                data |= {"said_elapsed_ms": said.get("elapsed_ms"), "elapsed_ms": elapsed_ms}
                answer = {"sig": said["sig"], "elapsed_ms": elapsed_ms}
            self._record(RECEIVED, data)
            self._note(key, said["event"], at_ns)
        return Answer(200, answer)

    def _note(self, key: tuple[int, str], event: str, at_ns: int) -> None:
        self._open.pop(key, None)
        if event == "start":
            if len(self._open) >= OPEN_MAX:
                self._open.popitem(last=False)
                self._forgotten += 1
            self._open[key] = at_ns


def _parsed(body: bytes) -> tuple[dict[str, Any], int]:
    """What a notice says, and how many further fields it has. Raises _Refused."""
    if len(body) > BODY_BYTES_MAX:
        raise _Refused(413, f"a notice has at most {BODY_BYTES_MAX} bytes")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # what cannot be decoded is a ValueError as well
        raise _Refused(400, "the body is not one JSON object with each name once") from None
    if not isinstance(value, dict):
        raise _Refused(400, "the body is no JSON object")
    named = cast("dict[str, Any]", value)
    said = {name: check(name, named.get(name)) for name, check in _FIELDS.items()}
    for name in ("pid", "sig", "event"):
        if said[name] is None:
            raise _Refused(400, f"{name} is missing")
    if said["event"] not in ("start", "end"):
        raise _Refused(400, "event is neither start nor end")
    return said, len(named.keys() - _FIELDS.keys())


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ValueError
    return named


def _no_constant(_name: str) -> Any:
    raise ValueError  # NaN and Infinity are no JSON


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if type(value) is not str or not 0 < len(value) <= TEXT_CHARACTERS_MAX or not value.isprintable():
        raise _Refused(400, f"{name} is no text of 1 to {TEXT_CHARACTERS_MAX} printable characters")
    return value


def _pid(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= PID_MAX:
        raise _Refused(400, f"{name} is no process id")
    return value


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= WIDE_MAX or not math.isfinite(value):
        raise _Refused(400, f"{name} is no duration")
    return value


def _truth(name: str, value: Any) -> bool | None:
    if value is not None and type(value) is not bool:
        raise _Refused(400, f"{name} is neither true nor false")
    return value


def _moment(name: str, value: Any) -> str | float | None:
    """RFC 3339, or seconds: kept as it was said, for our own clock decides."""
    return _text(name, value) if isinstance(value, str) else _number(name, value)


_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "pid": _pid,
    "sig": _text,
    "event": _text,
    "call_id": _text,
    "tool": _text,
    "timestamp": _moment,
    "platform": _text,
    "child_pid": _pid,
    "elapsed_ms": _number,
    "success": _truth,
    "outcome": _text,
    "error_class": _text,
}
"""What is taken from a notice, and what it must be; null is as if it were not there."""
