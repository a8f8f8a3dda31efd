"""The fields of a call, each taken from the record that says it.

Pure: knows no journal and no table. Used by `reading`.
"""

from typing import Any

from custody.journal import Stored
from custody.records import (
    CallAnswered,
    CallFinished,
    CallStarted,
    Change,
    Decision,
    Request,
    changes_read,
    rfc3339,
)


def hex_of(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def decision_of(request: Request, answered: CallAnswered | None, finished: CallFinished | None) -> Decision:
    """What the call came to; an answer that came after its end decided about another call."""
    if finished is not None and finished.decision is not None:
        return finished.decision
    if answered is None or (finished is not None and answered.at_us > finished.at_us):
        return request.decision
    return answered.decision


def prompt_of(payload: dict[str, Any]) -> str | None:
    """None also where it is not kept as it was."""
    said: Any = payload.get("prompt")
    return said if isinstance(said, str) else None


def asked(call_id: bytes, request: Request, stored: Stored) -> dict[str, Any]:
    return {
        "id": call_id.hex(),
        "run_id": hex_of(request.run_id),
        "position": request.position,
        "parent_id": hex_of(request.parent_id),
        "step_id": hex_of(request.step_id),
        "external_id": request.external_id,
        "tool": request.tool,
        "effect": request.effect,
        "level": request.level,
        "dry_run": request.dry_run,
        "asked_at": rfc3339(request.asked_at_us),
        "decide_us": request.decide_us,
        "door": request.door,
        "pid": request.pid,
        "thread_id": request.thread_id,
        "proposal_id": request.proposal_id,
        "action_id": request.action_id,
        "attempt": request.attempt,
        "connection": request.connection,
        "shard": stored.shard,
        "sequence": stored.sequence,
    }


def changes_of(said: Any) -> tuple[Change, ...] | None:
    """None also where the tool's setting keeps them out of the record."""
    return changes_read(said) if isinstance(said, list) else None


def executed(started: CallStarted | None, finished: CallFinished | None) -> dict[str, Any]:
    return {
        "started_at": _started_at(started, finished),
        "monotonic_start_ns": started and started.monotonic_ns,
        "queue_us": started and started.queue_us,
    }


def _started_at(started: CallStarted | None, finished: CallFinished | None) -> str | None:
    """Of a call that is only told of afterwards, in one record, it is when that says it was asked for."""
    if started is not None:
        return rfc3339(started.at_us)
    if finished is None or finished.request is None or finished.outcome == "rejected":
        return None
    return rfc3339(finished.request.asked_at_us)


_RUNNING: dict[str, Any] = {
    "source": "executed",
    **dict.fromkeys((
        "outcome", "reason", "passed", "exit_code", "signal", "limit_hit", "finished_at", "monotonic_end_ns",
        "latency_us", "record_us", "usage", "changes_count", "child_pid", "child_start_ticks",
    )),
}  # fmt: skip


def ended(finished: CallFinished | None) -> dict[str, Any]:
    if finished is None:
        return _RUNNING
    return {
        "source": finished.source,
        "outcome": finished.outcome,
        "reason": finished.reason,
        "passed": finished.passed,
        "exit_code": finished.exit_code,
        "signal": finished.signal,
        "limit_hit": finished.limit_hit,
        "finished_at": rfc3339(finished.at_us),
        "monotonic_end_ns": finished.monotonic_ns,
        "latency_us": finished.latency_us,
        "record_us": finished.record_us,
        "usage": finished.usage,
        "changes_count": finished.changes,
        "child_pid": finished.child_pid,
        "child_start_ticks": finished.child_start_ticks,
    }
