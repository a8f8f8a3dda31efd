"""The life of one call as a pure state machine, and the judgement of an ended execution.

Owns which record may follow which, and what outcome an end means. Does no I/O; `execute` performs what
is decided here.
"""

import asyncio
import signal as signals
from collections.abc import Mapping
from typing import Any, Literal, cast

from msgspec import Struct

from custody.errors import CustodyError, LauncherLost, PeerLost
from custody.records import Kind, Outcome, RunOutcome
from custody.sandbox import LimitHit
from custody.tools import Ended

State = Literal["new", "asked", "answered", "started", "finished", "unanswered"]

_NEXT: dict[tuple[State, Kind], State] = {
    ("new", Kind.CALL_ASKED): "asked",
    ("new", Kind.CALL_STARTED): "started",
    ("new", Kind.CALL_FINISHED): "finished",  # rejected without an ask: one record
    ("asked", Kind.CALL_ANSWERED): "answered",
    ("asked", Kind.CALL_FINISHED): "unanswered",  # nobody did in time; the question stays open
    ("unanswered", Kind.CALL_ANSWERED): "finished",  # for the next call that asks the same
    ("answered", Kind.CALL_STARTED): "started",
    ("answered", Kind.CALL_FINISHED): "finished",  # the answer was no
    ("started", Kind.CALL_FINISHED): "finished",
}


def advance(state: State, kind: Kind) -> State:
    """The state after a record of this kind. No path leads out of `finished`, and none starts a call that
    has ended."""
    assert (state, kind) in _NEXT, f"a call that is {state} has no {kind.name} record"
    return _NEXT[state, kind]


class Judgement(Struct, frozen=True):
    """What an end means."""

    outcome: Outcome
    reason: str | None = None
    error: dict[str, Any] | None = None
    passed: bool | None = None
    """What a verifier says of the work it looked at: its own outcome is another matter."""


_SUCCEEDED = Judgement("succeeded")

_LIMITS: dict[LimitHit, str] = {
    "memory": "its processes needed more memory than they may have",
    "processes": "no more processes could be started",
    "cpu_time": "a process used up its processor time",
    "file_size": "a file grew larger than it may",
    "disk": "a folder of its own was full",
    "files": "a folder of its own could take no more files",
}
"""Beside time and whoever cancelled it, which have outcomes of their own, and output, which fails nothing."""


def judge(ended: Ended, timeout_seconds: float | None) -> Judgement:
    """A limit outranks an exit code, an exit code outranks what the result says of itself."""
    elapsed = (ended.ended_ns - ended.started_ns) / 1e9
    note = "" if ended.note is None else f"; {ended.note}"
    if ended.limit_hit == "deadline":
        limit = "none" if timeout_seconds is None else f"{timeout_seconds:g} s"
        # The limit holds from the call on, which begins a little before its process does.
        reason = f"timed out after {max(elapsed, timeout_seconds or 0):.1f} s (limit {limit}){note}"
        return Judgement("timed_out", reason, passed=_passed(_mapping(ended.result)))
    if ended.limit_hit == "cancelled":
        return Judgement("cancelled", f"cancelled after {elapsed:.1f} s{note}")
    if isinstance(ended.error, LauncherLost):
        return Judgement("unknown", "its launcher was killed", describe(ended.error))
    if isinstance(ended.error, PeerLost):
        return Judgement("unknown", "whoever ran it went away before it answered", describe(ended.error))
    if ended.error is not None:
        error = describe(ended.error)
        return Judgement("failed", error["type"], error)
    if ended.limit_hit in _LIMITS:
        reason = _LIMITS[ended.limit_hit]
        if ended.signal is not None:
            reason += f" ({signal_name(ended.signal)})"
        elif ended.exit_code is not None:
            reason += f" (exit code {ended.exit_code})"
        return Judgement("failed", reason, passed=_passed(_mapping(ended.result)))
    if ended.signal is not None:
        return Judgement(
            "failed", f"ended by {signal_name(ended.signal)}", passed=_passed(_mapping(ended.result))
        )
    if ended.exit_code:
        return Judgement("failed", f"exit code {ended.exit_code}", passed=_passed(_mapping(ended.result)))
    return judge_result(ended.result)


def judge_result(result: Any) -> Judgement:
    """What a result says of itself: it timed out (`timed_out` is true), it failed (`error` is not null, or
    `success` is false), the work it looked at passed or did not (`passed`). It is no failure to find one."""
    said = _mapping(result)
    if said is None:
        return _SUCCEEDED
    passed = _passed(said)
    if said.get("timed_out") is True:
        return Judgement("timed_out", "the result says it timed out", passed=passed)
    reported = said.get("error")
    if reported is not None:
        message = reported if isinstance(reported, str) else repr(reported)
        error = {"type": "ResultError", "message": message}
        return Judgement("failed", "the result reports an error", error, passed)
    if said.get("success") is False:
        return Judgement("failed", "the result says success is false", passed=passed)
    return _SUCCEEDED if passed is None else Judgement("succeeded", passed=passed)


def _mapping(result: Any) -> Mapping[Any, Any] | None:
    is_one = type(result) is dict or isinstance(result, Mapping)  # the first alone in nearly every call
    return cast("Mapping[Any, Any]", result) if is_one else None


def _passed(said: Mapping[Any, Any] | None) -> bool | None:
    passed = None if said is None else said.get("passed")
    return passed if isinstance(passed, bool) else None


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
