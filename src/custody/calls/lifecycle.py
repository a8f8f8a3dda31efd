"""The life of one call as a pure state machine, and the judgement of an ended execution.

Owns which record may follow which, and what outcome an end means. Does no I/O; `execute` performs what
is decided here.
"""

import asyncio
import signal as signals
from collections.abc import Mapping
from typing import Any, Literal, cast

from msgspec import Struct

from custody.errors import CustodyError, LauncherLost
from custody.records import Kind, Outcome, RunOutcome
from custody.tools import Ended

State = Literal["new", "asked", "answered", "started", "finished"]

_NEXT: dict[tuple[State, Kind], State] = {
    ("new", Kind.CALL_ASKED): "asked",
    ("new", Kind.CALL_STARTED): "started",
    ("new", Kind.CALL_FINISHED): "finished",  # rejected without an ask: one record
    ("asked", Kind.CALL_ANSWERED): "answered",
    ("asked", Kind.CALL_FINISHED): "finished",  # nobody answered
    ("answered", Kind.CALL_STARTED): "started",
    ("answered", Kind.CALL_FINISHED): "finished",  # the answer was no
    ("started", Kind.CALL_FINISHED): "finished",
}


def advance(state: State, kind: Kind) -> State:
    """The state after a record of this kind. Exactly one path leads out of `finished`: none."""
    assert (state, kind) in _NEXT, f"a call that is {state} has no {kind.name} record"
    return _NEXT[state, kind]


class Judgement(Struct, frozen=True):
    """What an end means."""

    outcome: Outcome
    reason: str | None = None
    error: dict[str, Any] | None = None


_SUCCEEDED = Judgement("succeeded")


def judge(ended: Ended, timeout_seconds: float | None) -> Judgement:
    """A limit outranks an exit code, an exit code outranks what the result says of itself."""
    elapsed = (ended.ended_ns - ended.started_ns) / 1e9
    note = "" if ended.note is None else f"; {ended.note}"
    if ended.limit_hit == "deadline":
        limit = "none" if timeout_seconds is None else f"{timeout_seconds:g} s"
        return Judgement("timed_out", f"timed out after {elapsed:.1f} s (limit {limit}){note}")
    if ended.limit_hit == "cancelled":
        return Judgement("cancelled", f"cancelled after {elapsed:.1f} s{note}")
    if isinstance(ended.error, LauncherLost):
        return Judgement("unknown", "its launcher was killed", describe(ended.error))
    if ended.error is not None:
        error = describe(ended.error)
        return Judgement("failed", error["type"], error)
    if ended.signal is not None:
        return Judgement("failed", f"ended by {signal_name(ended.signal)}")
    if ended.exit_code:
        return Judgement("failed", f"exit code {ended.exit_code}")
    return judge_result(ended.result)


def judge_result(result: Any) -> Judgement:
    """A result that says it failed is a failure: `success` is false, or `error` is not null."""
    if type(result) is not dict and not isinstance(result, Mapping):
        return _SUCCEEDED
    said = cast("Mapping[Any, Any]", result)
    reported = said.get("error")
    if reported is not None:
        message = reported if isinstance(reported, str) else repr(reported)
        return Judgement("failed", "the result reports an error", {"type": "ResultError", "message": message})
    if said.get("success") is False:
        return Judgement("failed", "the result says success is false")
    return _SUCCEEDED


def outcome_of(error: BaseException) -> Literal["succeeded", "failed", "timed_out", "cancelled"]:
    """What an exception that leaves a call or run, run by their caller, says of it."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return "succeeded"  # the program ends in good order from within
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
        return "cancelled"
    return "timed_out" if isinstance(error, TimeoutError) else "failed"


def left_with(error: BaseException | None) -> tuple[RunOutcome | None, str | None]:
    """Outcome and reason of a run whose `with` is left."""
    if error is None:
        return None, None
    outcome = outcome_of(error)
    return outcome, None if outcome in ("succeeded", "cancelled") else type(error).__name__


def describe(error: BaseException) -> dict[str, Any]:
    """Type and message of an exception, as the record keeps them."""
    kind = error.details.get("type") if isinstance(error, CustodyError) else None
    try:
        message = str(error)
    except Exception:  # an exception whose __str__ raises must not take the call's record with it
        message = "<the exception's message cannot be read>"
    return {"type": kind or type(error).__name__, "message": message}


def signal_name(number: int) -> str:
    """`SIGKILL`, or `signal 40` where it has no name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
