"""Calls that somebody tells of once they are over: nothing of them was guarded, and nobody saw their start.

Owns the one record of each: a *finished* that also says what was asked, with source `observed`. Knows nothing
of any wire; who tells, in which words and how long they may be is the door's. Used by `rpc`.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from custody.calls import stated
from custody.calls.lifecycle import Judgement, judge_result
from custody.calls.numbering import Numbering
from custody.calls.observe import UNGUARDED
from custody.calls.run import RunRecord
from custody.errors import NotRecorded
from custody.journal import Receipt
from custody.recorder import Draft, Said
from custody.records import CALL_ID_BYTES, CallFinished, Decision, Redaction, Request, now_us


class Refusal(Struct, frozen=True):
    """Somebody's rule said no, so the call never ran."""

    rule: str | None
    param: str | None = None


class NarratedCall(Struct, frozen=True, kw_only=True):
    """One call as it is told."""

    tool: str
    arguments: Any
    result: Any
    prompt: str | None = None
    exit_code: int | None = None
    timed_out: bool = False
    passed: bool | None = None
    refusal: Refusal | None = None
    cut: Mapping[str, int] | None = None
    """What is left out of it, counted."""
    redactions: tuple[Redaction, ...] = ()
    """Made before it was cut, so that no half of a secret is left."""


def append_narrated(
    run: RunRecord, calls: Sequence[NarratedCall], *, connection: str | None = None
) -> tuple[int, Receipt]:
    """Put them on the record of their run, in contiguous positions: all, or none where there is no room.

    Returns the first position and the receipt of the last. Waits, so it belongs on a thread. Raises
    RunClosed, NotRecorded.
    """
    run.takes("call", calls[0].tool, strict=True)
    records = [_Narrated(run, call, connection) for call in calls]
    recorder = run.recording.recorder

    def drafts_at(first: int | None) -> list[Draft]:
        return [
            record.draft(None if first is None else first + index) for index, record in enumerate(records)
        ]

    numbering, count = run.numbering, len(records)
    if numbering.shared:
        first, receipt = recorder.append_all_in_shared_run(run.run_id, count, drafts_at)
    else:
        with numbering.guarded:
            taken = numbering.take(count)
            try:
                receipt = recorder.append_all(drafts_at(taken))
            except NotRecorded as error:
                _give_back(numbering, taken, count, error.details.get("appended", 0))
                raise
        first = 0 if taken is None else taken
    for record in records:
        run.tally.call_offered()
        run.tally.call_ended(record.judgement.outcome)
    return first, receipt


def _give_back(numbering: Numbering, taken: int | None, count: int, appended: int) -> None:
    """Positions of what is on the record stay taken."""
    if taken is not None:
        numbering.give_back(taken + appended, count - appended)


class _Narrated:
    """One of them, redacted, before its position is known."""

    def __init__(self, run: RunRecord, call: NarratedCall, connection: str | None) -> None:
        self._run = run
        self._call = call
        self._connection = connection
        self._at_us = now_us()
        self._tool = stated.name(call.tool) or ""
        self._call_id = run.recording.recorder.ids.take(CALL_ID_BYTES)
        self.judgement = _judge(call)
        self._said = self._redacted()

    def _redacted(self) -> Said:
        call, recording = self._call, self._run.recording
        keep = recording.keep(self._tool)
        payload: dict[str, Any] = {"arguments": call.arguments, "result": call.result}
        if call.prompt is not None and keep == "full":  # it says what the arguments say
            payload["prompt"] = call.prompt
        if self.judgement.error is not None:
            payload["error"] = self.judgement.error
        if call.cut is not None:
            payload["cut"] = dict(call.cut)
        said = recording.recorder.redact(payload, keep)
        if not call.redactions:
            return said
        return msgspec.structs.replace(said, redactions=call.redactions + said.redactions)

    def draft(self, position: int | None) -> Draft:
        call, judgement = self._call, self.judgement
        return self._run.recording.recorder.draft_of(
            self._said,
            CallFinished,
            call_id=self._call_id,
            at_us=self._at_us,
            outcome=judgement.outcome,
            request=self._request(position),
            reason=judgement.reason,
            passed=call.passed,
            source="observed",
            exit_code=call.exit_code,
            limit_hit="deadline" if call.timed_out else None,
        )

    def _request(self, position: int | None) -> Request:
        return Request(
            run_id=self._run.run_id,
            position=position,
            tool=self._tool,
            effect="unknown",
            level="none",
            decision=_decision(self._call.refusal),
            asked_at_us=self._at_us,
            door=self._run.recording.door,
            pid=os.getpid(),
            thread_id=threading.get_native_id(),
            connection=self._connection,
        )


def _decision(refusal: Refusal | None) -> Decision:
    if refusal is None:
        return UNGUARDED
    rule, param = stated.name(refusal.rule), stated.name(refusal.param)
    return Decision("deny", "rule", "refused where it was to run", rule, param)


def _judge(call: NarratedCall) -> Judgement:
    """What is said of how it ended outranks what its result says of itself."""
    if call.refusal is not None:
        return Judgement("rejected", "refused where it was to run")
    if call.timed_out:
        return Judgement("timed_out", "told to have timed out")
    if call.exit_code:
        return Judgement("failed", f"exit code {call.exit_code}")
    return judge_result(call.result)
