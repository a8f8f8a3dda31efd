"""Calls of a program that tells of them in passing: one process records the start, another the end.

Owns the two records of such a call, and that it lives with the process it names (the program), not with the
one that writes. Nothing of it is held in memory between the two. Refuses to know in which words it is told.
Used by the door of hooks. Everything here may wait: not for an event loop.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from custody.calls import stated
from custody.calls.lifecycle import Judgement
from custody.calls.run import RunRecord
from custody.journal import Receipt
from custody.recorder import Draft, Keep, Recorder, Said
from custody.records import (
    Call,
    CallFinished,
    CallStarted,
    Change,
    Decision,
    Effect,
    Redaction,
    Request,
    changes_said,
    now_us,
)


class OwnedCall(Struct, frozen=True, kw_only=True):
    """A call as it is told before it runs."""

    call_id: bytes
    tool: str
    arguments: Any
    effect: Effect
    decision: Decision
    external_id: str | None = None
    agent: str | None = None
    door: str
    cwd: str | None = None
    owner_pid: int
    owner_start_ticks: int | None
    decide_us: int | None = None
    redactions: tuple[Redaction, ...] = ()
    """Made before it came here."""


class OwnedEnd(Struct, frozen=True, kw_only=True):
    """How such a call ended."""

    judgement: Judgement
    result: Any = None
    changes: tuple[Change, ...] | None = None
    """None: nobody watched."""
    exit_code: int | None = None
    signal: int | None = None
    redactions: tuple[Redaction, ...] = ()


def append_started(run: RunRecord, call: OwnedCall) -> Receipt:
    """Put its start on the record. Raises RunClosed, NotRecorded."""
    run.takes("call", call.tool, strict=True)
    began_ns, at_us = time.monotonic_ns(), now_us()
    said = _said(run, call)
    recorder = run.recording.recorder

    def draft_at(position: int | None) -> Draft:
        return recorder.draft_of(
            said,
            CallStarted,
            call_id=call.call_id,
            at_us=at_us,
            monotonic_ns=began_ns,
            request=_request(run, call, position, at_us),
        )

    return _append(run, draft_at)


def append_rejected(run: RunRecord, call: OwnedCall) -> Receipt:
    """One record says that it was asked for and may not run. Raises RunClosed, NotRecorded."""
    run.takes("call", call.tool, strict=True)
    at_us = now_us()
    said = _said(run, call)
    recorder = run.recording.recorder

    def draft_at(position: int | None) -> Draft:
        return recorder.draft_of(
            said,
            CallFinished,
            call_id=call.call_id,
            at_us=at_us,
            outcome="rejected",
            request=_request(run, call, position, at_us),
            reason=call.decision.reason,
            source="observed",
        )

    return _append(run, draft_at)


def append_ended(recorder: Recorder, call: Call, end: OwnedEnd, *, keep: Keep = "full") -> Receipt:
    """Put its end on the record; `call` is its start, as it is found there. Raises NotRecorded."""
    ended_ns, judgement = time.monotonic_ns(), end.judgement
    payload: dict[str, Any] = {"result": end.result}
    if judgement.error is not None:
        payload["error"] = judgement.error
    if end.changes is not None:
        payload["changes"] = changes_said(end.changes)
    said = recorder.redact(payload, keep)
    if end.redactions:
        said = msgspec.structs.replace(said, redactions=end.redactions + said.redactions)
    return recorder.append(
        recorder.draft_of(
            said,
            CallFinished,
            call_id=bytes.fromhex(call.id),
            at_us=now_us(),
            outcome=judgement.outcome,
            reason=judgement.reason,
            passed=judgement.passed,
            source="observed",
            monotonic_ns=ended_ns,
            latency_us=_latency_us(call, judgement, ended_ns),
            exit_code=end.exit_code,
            signal=end.signal,
            changes=None if end.changes is None else len(end.changes),
        )
    )


def asks_the_same(recorder: Recorder, known: Call, call: OwnedCall, keep: Keep) -> bool:
    """Whether a call on the record was asked with the very tool, folder and arguments; not, where what was
    asked is not kept."""
    payload: dict[str, Any] = {"arguments": call.arguments, "cwd": call.cwd}
    asked = recorder.draft_of(
        recorder.redact(payload, keep), CallStarted, call_id=call.call_id, at_us=0, monotonic_ns=0
    ).said()
    return (known.tool, known.cwd, known.arguments) == (call.tool, asked["cwd"], asked["arguments"])


def _latency_us(call: Call, judgement: Judgement, ended_ns: int) -> int | None:
    """Unknown where it never ran, or began before the machine did."""
    began_ns = call.monotonic_start_ns
    if judgement.outcome in ("rejected", "unknown") or began_ns is None or began_ns > ended_ns:
        return None
    return (ended_ns - began_ns) // 1000


def _append(run: RunRecord, draft_at: Callable[[int | None], Draft]) -> Receipt:
    receipt = run.keep_numbered(draft_at, CallStarted, strict=True)
    assert isinstance(receipt, Receipt), "what may not be lost is not queued"
    return receipt


def _said(run: RunRecord, call: OwnedCall) -> Said:
    payload: dict[str, Any] = {"arguments": call.arguments}
    if call.cwd is not None:
        payload["cwd"] = call.cwd
    said = run.recording.recorder.redact(payload, run.recording.keep(call.tool))
    if not call.redactions:
        return said
    return msgspec.structs.replace(said, redactions=call.redactions + said.redactions)


def _request(run: RunRecord, call: OwnedCall, position: int | None, at_us: int) -> Request:
    return Request(
        run_id=run.run_id,
        position=position,
        tool=stated.name(call.tool) or "",
        effect=call.effect,
        level="none",
        decision=call.decision,
        asked_at_us=at_us,
        external_id=call.external_id,
        agent=call.agent,
        door=call.door,
        owner_pid=call.owner_pid,
        owner_start_ticks=call.owner_start_ticks,
        pid=os.getpid(),
        thread_id=threading.get_native_id(),
        decide_us=call.decide_us,
    )
