"""Work that another program did and told of in its own words, put on the record as it is told.

Owns the records of an imported run, call and step, and the batches they are appended in. Nothing of it was
guarded, and nobody here saw it happen: a call is one *finished* record with source `imported`. Ids, times and
positions are the teller's. Knows nothing of the wire or the words it comes in. Used by `bridges.otel`.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from custody.calls import stated
from custody.calls.lifecycle import Judgement, judge_result
from custody.calls.recording import Recording
from custody.calls.steps import TEXT_CHARACTERS_MAX, make_turn
from custody.journal import Receipt
from custody.recorder import Draft
from custody.records import (
    CallFinished,
    Decision,
    Effect,
    Outcome,
    Request,
    RunFinished,
    RunOutcome,
    RunStarted,
    Step,
)

TOLD = Decision("allow", "nobody", "told by the program that ran it")

APPENDED_AT_ONCE = 256
"""Records between two looks at the room there is: so much is set aside, and others append in between."""


class ImportedRun(Struct, frozen=True, kw_only=True):
    """A run as it is told."""

    run_id: bytes
    at_us: int
    door: str
    name: str | None = None
    agent: str | None = None
    caller: str | None = None
    session_id: str | None = None
    parent_run_id: bytes | None = None
    client: str | None = None
    host: str | None = None
    workspace: str | None = None
    external_id: str | None = None
    intent: Any = None
    """What it is for, in words."""
    inputs: Any = None
    labels: Mapping[str, str] | None = None


class ImportedCall(Struct, frozen=True, kw_only=True):
    """A call as it is told, from its beginning to its end."""

    call_id: bytes
    run_id: bytes
    position: int
    door: str
    tool: str
    arguments: Any
    result: Any
    started_us: int
    ended_us: int
    effect: Effect = "unknown"
    outcome: Outcome | None = None
    """None: what the result says of itself."""
    reason: str | None = None
    error: dict[str, Any] | None = None
    """`type` and `message`."""
    passed: bool | None = None
    dry_run: bool = False
    external_id: str | None = None
    agent: str | None = None
    parent_id: bytes | None = None
    step_id: bytes | None = None


class ImportedStep(Struct, frozen=True, kw_only=True):
    """One model turn as it is told."""

    step_id: bytes
    run_id: bytes
    position: int
    started_us: int
    ended_us: int
    text: str | None = None
    model: str | None = None
    requested_model: str | None = None
    tokens: Mapping[str, int | None] | None = None
    finish_reason: str | None = None
    calls: Sequence[Mapping[str, Any]] = ()
    """What the model asked for: `id`, `name`, `arguments`."""
    external_id: str | None = None
    agent: str | None = None
    parent_id: bytes | None = None
    responded: bool = True
    data: Any = None


def run_started(recording: Recording, run: ImportedRun) -> Draft:
    said = {"intent": run.intent, "inputs": run.inputs, "labels": run.labels}
    return recording.recorder.draft(
        RunStarted,
        {name: value for name, value in said.items() if value is not None},
        run_id=run.run_id,
        at_us=run.at_us,
        parent_run_id=run.parent_run_id,
        **_named(run),
    )


def _named(run: ImportedRun) -> dict[str, Any]:
    names = ("agent", "caller", "client", "door", "external_id", "host", "name", "session_id", "workspace")
    return {name: stated.name(getattr(run, name)) for name in names}


def run_finished(
    recording: Recording,
    run_id: bytes,
    at_us: int,
    outcome: RunOutcome,
    *,
    reason: str | None = None,
    output: Any = None,
) -> Draft:
    payload = {} if output is None else {"output": output}
    return recording.recorder.draft(
        RunFinished, payload, run_id=run_id, at_us=at_us, outcome=outcome, reason=stated.name(reason)
    )


def call_finished(recording: Recording, call: ImportedCall) -> Draft:
    """The one record of a call."""
    recorder, tool = recording.recorder, stated.name(call.tool) or ""
    result = stated.arguments(call.result)  # in a text of JSON no secret is found by its name
    judged = judge_result(result)
    if call.outcome is not None:
        judged = Judgement(call.outcome, call.reason, call.error, call.passed)
    payload: dict[str, Any] = {"arguments": stated.arguments(call.arguments), "result": result}
    if judged.error is not None:
        payload["error"] = judged.error
    refused = Decision("deny", "rule", "refused where it was to run")
    request = Request(
        run_id=call.run_id,
        position=call.position,
        tool=tool,
        effect=call.effect,
        level="none",
        decision=refused if judged.outcome == "rejected" else TOLD,
        asked_at_us=call.started_us,
        parent_id=call.parent_id,
        step_id=call.step_id,
        external_id=stated.name(call.external_id),
        agent=stated.name(call.agent),
        door=call.door,
        dry_run=call.dry_run,
        pid=os.getpid(),
        thread_id=threading.get_native_id(),
    )
    ran = judged.outcome != "rejected"
    return recorder.draft_of(
        recorder.redact(payload, recording.keep(tool)),
        CallFinished,
        call_id=call.call_id,
        at_us=call.ended_us,
        outcome=judged.outcome,
        request=request,
        reason=stated.name(judged.reason),
        passed=judged.passed if call.passed is None else call.passed,
        source="imported",
        latency_us=call.ended_us - call.started_us if ran else None,
    )


def step_recorded(recording: Recording, step: ImportedStep) -> Draft:
    turn = make_turn(
        recording,
        step.text,
        model=step.model,
        requested_model=step.requested_model,
        tokens=step.tokens,
        model_us=step.ended_us - step.started_us,
        finish_reason=step.finish_reason,
        calls=step.calls,
        external_id=step.external_id,
        agent=step.agent,
        responded=step.responded,
        data=step.data,
        text_characters_max=TEXT_CHARACTERS_MAX,
        whole_text=False,
    )
    recorder = recording.recorder
    said = recorder.redact(turn.payload)
    if turn.redactions:
        said = replace(said, redactions=turn.redactions + said.redactions)
    return recorder.draft_of(
        said,
        Step,
        step_id=step.step_id,
        run_id=step.run_id,
        at_us=step.ended_us,
        position=step.position,
        parent_id=step.parent_id,
        **turn.fields,
    )


def append_imported(recording: Recording, drafts: Sequence[Draft]) -> Receipt | None:
    """Put them on the record in this order; the receipt of the last, None for none.

    Waits, so it belongs on a thread. Raises NotRecorded: then those up to some point stand, and who tells it
    all again adds the rest.
    """
    receipt: Receipt | None = None
    for start in range(0, len(drafts), APPENDED_AT_ONCE):
        receipt = recording.recorder.append_all(drafts[start : start + APPENDED_AT_ONCE])
    return receipt
