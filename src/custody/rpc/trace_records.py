"""The records of a run's trace as the wire has them, each made from what the index shows.

Owns their shapes and the words: `turn`, `model_turn`, `started`, `ended`, and the status of a run. Everything
is said as it is recorded, so secrets are tokens. Pure; `traces` reads, peers and subscriptions send.
"""

from typing import Any, Literal, cast

from msgspec import UNSET, Struct, UnsetType

from custody.index import StepView
from custody.records import Call, Run

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
Verdict = Literal["pass", "fail", "not_run"]

STATUSES: dict[str | None, Status] = {
    None: "in_progress",
    "succeeded": "completed",
    "unknown": "completed",  # its agent completed it in words nobody here knows
    "incomplete": "incomplete",
    "cancelled": "cancelled",
    "failed": "failed",
    "timed_out": "failed",
    "rejected": "failed",
}

DRIVES_A_CLI = "drive_cli"
CHECKS_AN_OUTCOME = "check_outcome"
"""The tools whose results have a meaning of their own in a trace."""


class CliExited(Struct, frozen=True, tag_field="kind", tag="exited"):
    code: int


class CliTimeout(Struct, frozen=True, tag_field="kind", tag="timeout"):
    pass


class PolicyRejected(Struct, frozen=True):
    rule: str | None
    """Name of the rule that said no."""
    param: str | None = None
    """The parameter it was about."""


class StartedRecord(Struct, frozen=True, kw_only=True, tag_field="record", tag="started"):
    run_id: str
    agent_id: str | None
    client_id: str | None
    """The connection it was started over."""
    intent: str | None
    outcome_description: str | UnsetType = UNSET
    started_at: str


class TurnRecord(Struct, frozen=True, kw_only=True, tag_field="record", tag="turn"):
    index: int
    """The call's position in its run."""
    prompt: str | None
    tool: str | None
    parameters: Any
    output: Any
    cli_outcome: CliExited | CliTimeout | None
    verifier_verdict: Verdict
    policy_rejected: PolicyRejected | None


class ModelTurnRecord(Struct, frozen=True, kw_only=True, tag_field="record", tag="model_turn"):
    index: int
    recorded_at: str
    turn_index: int | None
    """1-based, as the agent counts its own turns."""
    assistant_text: Any
    requested_tool_calls: Any
    model_id: str | None
    token_usage: Any
    duration_ms: float | None


class Termination(Struct, frozen=True, omit_defaults=True):
    """How a run ended: `outcome` with what its agent said, `incomplete` or `cancelled`."""

    kind: Literal["outcome", "incomplete", "cancelled"]
    outcome: Any = None


class EndedRecord(Struct, frozen=True, kw_only=True, tag_field="record", tag="ended"):
    termination: Termination
    outcome: str
    """In Custody's words."""
    ended_at: str | None
    reason: str | UnsetType = UNSET


TraceRecord = StartedRecord | TurnRecord | ModelTurnRecord | EndedRecord


def wire_id(run: Run) -> str:
    """What a run is called on the wire: the key it was started with, else its own id."""
    return run.external_id or run.id


def status_of(outcome: str | None) -> Status:
    return STATUSES.get(outcome, "failed")


def started_record(run: Run) -> StartedRecord:
    described: Any = run.outcome_description
    return StartedRecord(
        run_id=wire_id(run),
        agent_id=run.agent,
        client_id=run.client,
        intent=run.intent,
        outcome_description=described if isinstance(described, str) else UNSET,
        started_at=run.started_at,
    )


def ended_record(run: Run) -> EndedRecord:
    assert run.outcome is not None, "only a run that ended has an end"
    return EndedRecord(
        termination=_termination(run),
        outcome=run.outcome,
        ended_at=run.finished_at,
        reason=UNSET if run.reason is None else run.reason,
    )


def _termination(run: Run) -> Termination:
    if run.output is None and run.outcome == "incomplete":
        return Termination("incomplete")
    if run.output is None and run.outcome == "cancelled":
        return Termination("cancelled")
    return Termination("outcome", run.output)


def turn_record(call: Call) -> TurnRecord:
    """A call as a turn. One that did not end before its run did has no output."""
    assert call.position is not None, "what has no position has no place in a trace"
    rejected = call.outcome == "rejected"
    return TurnRecord(
        index=call.position,
        prompt=_prompt(call),
        tool=call.tool or None,
        parameters=_verbatim(call.arguments),
        output=None if rejected else _verbatim(call.result),
        cli_outcome=None if rejected else _cli_outcome(call),
        verifier_verdict="not_run" if rejected else _verdict(call),
        policy_rejected=_policy_rejected(call),
    )


def _told_afterwards(call: Call) -> bool:
    """Whether the call is known from its agent's words alone, which are given back whatever the tool."""
    return call.source == "observed" and call.monotonic_end_ns is None


def _verbatim(value: Any) -> Any:
    """As JSON said it: the record marks integers beyond 64 bits, and mappings that look like a mark."""
    if isinstance(value, list):
        return [_verbatim(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("dict[str, Any]", value)
    if named.get("$type") == "int" and isinstance(named.get("value"), str):
        return int(named["value"], 0)
    if named.get("$type") == "mapping" and isinstance(named.get("items"), list):
        pairs: list[Any] = named["items"]
        said = {name: _verbatim(item) for name, item in pairs if isinstance(name, str)}
        if len(said) == len(pairs):  # else two names became one token, or a name was no text
            return said
    return {name: _verbatim(item) for name, item in named.items()}


def _prompt(call: Call) -> str | None:
    if call.prompt is not None or _told_afterwards(call):
        return call.prompt
    said: Any = _mapping(call.arguments).get("prompt") if call.tool == DRIVES_A_CLI else None
    return said if isinstance(said, str) else None


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _cli_outcome(call: Call) -> CliExited | CliTimeout | None:
    if _told_afterwards(call):
        if call.limit_hit in ("deadline", "cancelled"):
            return CliTimeout()
        return None if call.exit_code is None else CliExited(call.exit_code)
    if call.tool != DRIVES_A_CLI:
        return None
    said = _mapping(call.result)
    if call.outcome == "timed_out" or said.get("timed_out") is True:
        return CliTimeout()
    code: Any = said.get("exit_code")
    return CliExited(code) if isinstance(code, int) and not isinstance(code, bool) else None


def _verdict(call: Call) -> Verdict:
    if call.passed is None or not (_told_afterwards(call) or call.tool == CHECKS_AN_OUTCOME):
        return "not_run"
    return "pass" if call.passed else "fail"


def _policy_rejected(call: Call) -> PolicyRejected | None:
    """Of a tool that is not known, or of arguments that do not fit it, no policy was asked."""
    decision = call.decision
    if call.outcome != "rejected" or decision.verdict != "deny" or decision.by != "rule":
        return None
    return PolicyRejected(decision.rule, decision.param)


def model_turn_record(step: StepView) -> ModelTurnRecord:
    assert step.position is not None, "what has no position has no place in a trace"
    said = _mapping(step.data)
    turn_index: Any = said.get("turn_index")
    usage: Any = said.get("token_usage")
    if usage is None and step.tokens is not None:
        usage = {
            name: count
            for name in step.tokens.__struct_fields__
            if (count := getattr(step.tokens, name)) is not None
        }
    return ModelTurnRecord(
        index=step.position,
        recorded_at=step.at,
        turn_index=turn_index if isinstance(turn_index, int) else step.iteration,
        assistant_text=step.text,
        requested_tool_calls=step.calls or [],
        model_id=step.model,
        token_usage=usage,
        duration_ms=None if step.model_us is None else step.model_us / 1000,
    )
