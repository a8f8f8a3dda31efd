"""Which name of OpenTelemetry each part of the record has: the one table, pinned to one version.

Owns every attribute and metric name that leaves Custody, and the schema URL that says which version of the
conventions they are from. Knows nothing of how they are encoded or sent, and loads nothing of
OpenTelemetry. `spans` and `metrics` read it; docs/reference/opentelemetry.md is made from it.
"""

from collections.abc import Callable
from typing import Any, cast

from msgspec import Struct

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
"""The last version in which the GenAI conventions were published. Their successor, a repository of its own,
has had no release and renames things from week to week (docs/decisions/0016)."""

SCOPE_NAME = "custody"


class Row(Struct, frozen=True):
    """One attribute of a span. A name that ends in `.*` has one attribute for each item of a mapping."""

    name: str
    source: str
    """Where it comes from, in Custody's words; shown in the reference."""
    value: Callable[[Any], Any]
    """From what is exported to the value; None leaves the attribute out."""
    content: bool = False
    """What was said: arguments, results, texts. Exported only where content was asked for."""


def _of(name: str, path: str, *, content: bool = False) -> Row:
    """A row whose value stands at a dotted path of what is exported."""
    parts = path.split(".")

    def value(exported: Any) -> Any:
        for part in parts:
            if exported is None:
                return None
            exported = getattr(exported, part)
        return exported

    return Row(name, f"`{path}`", value, content)


def _always(name: str, text: str) -> Row:
    return Row(name, f"always `{text}`", lambda _: text)


# -- the kinds of error -------------------------------------------------------------------------------


def call_error(call: Any) -> str | None:
    """`error.type`: of a failed call the type it failed with, else the outcome that is no success."""
    if call.outcome == "succeeded":
        return None
    error = cast("dict[str, Any]", call.error if call.outcome == "failed" else None) or {}
    named = error.get("type")
    return named if isinstance(named, str) and named else call.outcome


QUOTING = frozenset({"schema", "path", "error"})
"""Guards whose reasons repeat what was in the arguments, secrets known only by their key included."""


def call_reason(call: Any) -> str | None:
    """Why it ended so, unless that repeats arguments: those are content, and redacted where they stand."""
    return None if _quotes(call) else call.reason


def _decision_reason(call: Any) -> str | None:
    return None if _quotes(call) else call.decision.reason


def _quotes(call: Any) -> bool:
    return call.decision.verdict == "deny" and call.decision.by in QUOTING


def run_error(run: Any) -> str | None:
    return None if run.outcome == "succeeded" else run.outcome


def step_error(turn: Any) -> str | None:
    return None if turn.step.responded else "no_response"


# -- spans --------------------------------------------------------------------------------------------


def _usage(call: Any) -> dict[str, Any]:
    usage = call.usage
    return {} if usage is None else {name: getattr(usage, name) for name in usage.__struct_fields__}


def _redacted(call: Any) -> int:
    return sum(hit.count for hit in call.redactions)


def _output_messages(turn: Any) -> list[dict[str, Any]] | None:
    """The turn as the conventions want it: one message, a text part and one part for each tool call."""
    said = turn.payload
    parts: list[dict[str, Any]] = []
    if said.get("text") is not None:
        parts.append({"type": "text", "content": said["text"]})
    for call in said.get("calls") or ():
        asked = cast("dict[str, Any]", call if isinstance(call, dict) else {})
        named = {name: asked[name] for name in ("id", "name", "arguments") if name in asked}
        parts.append({"type": "tool_call", **named})
    if not parts:
        return None
    return [{"role": "assistant", "parts": parts, "finish_reason": turn.step.finish_reason}]


RUN_OPERATION = "invoke_agent"
RUN: tuple[Row, ...] = (
    _always("gen_ai.operation.name", RUN_OPERATION),
    _of("gen_ai.agent.name", "agent"),
    _of("gen_ai.conversation.id", "session_id"),
    _of("gen_ai.usage.input_tokens", "totals.input_tokens"),
    _of("gen_ai.usage.output_tokens", "totals.output_tokens"),
    Row("error.type", "`outcome`, unless it succeeded", run_error),
    _of("custody.run.id", "id"),
    _of("custody.run.name", "name"),
    _of("custody.parent_run_id", "parent_run_id"),
    _of("custody.external_id", "external_id"),
    _of("custody.outcome", "outcome"),
    _of("custody.reason", "reason"),
    _of("custody.passed", "passed"),
    _of("custody.caller", "caller"),
    _of("custody.client", "client"),
    _of("custody.channel", "channel"),
    _of("custody.door", "door"),
    _of("custody.shared", "shared"),
    _of("custody.label.*", "labels"),
    _of("custody.steps", "totals.steps"),
    _of("custody.calls", "calls"),
    _of("custody.calls.*", "calls_by_outcome"),
    _of("custody.usage.reasoning_tokens", "totals.reasoning_tokens"),
    _of("custody.usage.cache_read_tokens", "totals.cache_read_tokens"),
    _of("custody.usage.cache_write_tokens", "totals.cache_write_tokens"),
    _of("custody.cost_usd", "totals.cost_usd"),
    _of("custody.steps_without_tokens", "totals.steps_without_tokens"),
    _of("custody.steps_without_cost", "totals.steps_without_cost"),
    _of("custody.records.dropped", "totals.dropped"),
    _of("custody.shard", "shard"),
    _of("custody.sequence", "sequence"),
    _of("custody.intent", "intent", content=True),
    _of("custody.inputs", "inputs", content=True),
    _of("custody.output", "output", content=True),
)

STEP_OPERATION = "chat"
STEP: tuple[Row, ...] = (
    _always("gen_ai.operation.name", STEP_OPERATION),
    Row("gen_ai.request.model", "`requested_model`, else `model`", lambda turn: turn.requested_model),
    _of("gen_ai.response.model", "step.model"),
    _of("gen_ai.response.id", "step.external_id"),
    Row(
        "gen_ai.response.finish_reasons",
        "`finish_reason`, as a list of one",
        lambda turn: None if turn.step.finish_reason is None else (turn.step.finish_reason,),
    ),
    _of("gen_ai.usage.input_tokens", "step.tokens.input"),
    _of("gen_ai.usage.output_tokens", "step.tokens.output"),
    _of("gen_ai.usage.reasoning.output_tokens", "step.tokens.reasoning"),
    _of("gen_ai.usage.cache_read.input_tokens", "step.tokens.cache_read"),
    _of("gen_ai.usage.cache_creation.input_tokens", "step.tokens.cache_write"),
    _of("gen_ai.agent.name", "agent"),
    _of("gen_ai.conversation.id", "session_id"),
    Row("error.type", "`no_response` when nothing came", step_error),
    Row("custody.step.id", "`id`", lambda turn: turn.step.step_id.hex()),
    _of("custody.position", "step.position"),
    _of("custody.iteration", "step.iteration"),
    _of("custody.model_us", "step.model_us"),
    _of("custody.since_previous_us", "step.since_previous_us"),
    _of("custody.cost_usd", "cost_usd"),
    _of("custody.prices", "step.prices"),
    _of("custody.requested_tools", "step.requested"),
    _of("custody.text.bytes", "step.text_bytes"),
    _of("custody.text.cut_bytes", "step.text_cut_bytes"),
    _of("custody.text.withheld", "step.text_withheld"),
    Row("custody.redactions", "how many values were redacted", lambda turn: _redacted(turn.step)),
    _of("custody.shard", "shard"),
    _of("custody.sequence", "sequence"),
    Row("gen_ai.output.messages", "`text` and the calls it asked for", _output_messages, content=True),
)

CALL_OPERATION = "execute_tool"
CALL: tuple[Row, ...] = (
    _always("gen_ai.operation.name", CALL_OPERATION),
    _of("gen_ai.tool.name", "tool"),
    _of("gen_ai.tool.call.id", "external_id"),
    _of("gen_ai.agent.name", "agent"),
    _of("gen_ai.conversation.id", "session_id"),
    Row("error.type", "`error.type` of a failed call, else `outcome`, unless it succeeded", call_error),
    _of("custody.call.id", "id"),
    _of("custody.outcome", "outcome"),
    Row("custody.reason", "`reason`, unless it repeats arguments", call_reason),
    _of("custody.passed", "passed"),
    _of("custody.decision.verdict", "decision.verdict"),
    _of("custody.decision.by", "decision.by"),
    _of("custody.decision.rule", "decision.rule"),
    _of("custody.decision.param", "decision.param"),
    Row("custody.decision.reason", "`decision.reason`, unless it repeats arguments", _decision_reason),
    _of("custody.effect", "effect"),
    _of("custody.level", "level"),
    _of("custody.source", "source"),
    _of("custody.dry_run", "dry_run"),
    _of("custody.position", "position"),
    _of("custody.proposal_id", "proposal_id"),
    _of("custody.action_id", "action_id"),
    _of("custody.attempt", "attempt"),
    _of("custody.connection", "connection"),
    _of("custody.caller", "caller"),
    _of("custody.door", "door"),
    _of("custody.exit_code", "exit_code"),
    _of("custody.signal", "signal"),
    _of("custody.limit_hit", "limit_hit"),
    _of("custody.queue_us", "queue_us"),
    _of("custody.decide_us", "decide_us"),
    _of("custody.record_us", "record_us"),
    _of("custody.changes", "changes_count"),
    Row("custody.usage.*", "`usage`, field by field", _usage),
    Row("custody.redactions", "how many values were redacted", _redacted),
    _of("custody.shard", "shard"),
    _of("custody.sequence", "sequence"),
    _of("custody.prompt", "prompt", content=True),
    _of("gen_ai.tool.call.arguments", "arguments", content=True),
    _of("gen_ai.tool.call.result", "result", content=True),
    _of("custody.error", "error", content=True),
)

CUT_BYTES = "custody.cut_bytes"
"""How many bytes of the span's attributes were cut because one was too long."""

LINK_ROLE = "custody.link"
"""What a link leads to: `parent_run` or `parent_call`."""


# -- metrics ------------------------------------------------------------------------------------------

SECONDS_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BOUNDS = tuple(float(4**power) for power in range(14))


class Metric(Struct, frozen=True):
    """One instrument. With bounds it is a histogram, without a counter; always of delta temporality."""

    name: str
    unit: str
    description: str
    attributes: tuple[str, ...]
    bounds: tuple[float, ...] = ()


TOOL_DURATION = Metric(
    "gen_ai.execute_tool.duration",
    "s",
    "How long the tool ran, of calls that ran and whose time is known.",
    ("gen_ai.tool.name", "gen_ai.agent.name", "error.type"),
    SECONDS_BOUNDS,
)
MODEL_DURATION = Metric(
    "gen_ai.client.operation.duration",
    "s",
    "How long the model took, of steps whose caller measured it.",
    ("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.response.model", "error.type"),
    SECONDS_BOUNDS,
)
TOKEN_USAGE = Metric(
    "gen_ai.client.token.usage",
    "{token}",
    "Tokens of one step, as its provider counted them.",
    ("gen_ai.operation.name", "gen_ai.token.type", "gen_ai.request.model", "gen_ai.response.model"),
    TOKEN_BOUNDS,
)
CALLS = Metric(
    "custody.calls",
    "{call}",
    "Calls that ended, by outcome; rejected ones never ran.",
    ("custody.outcome", "gen_ai.tool.name", "gen_ai.agent.name"),
)
DROPPED = Metric(
    "custody.records.dropped",
    "{record}",
    "Records that could not be kept, as gap events say.",
    (),
)
METRICS = (TOOL_DURATION, MODEL_DURATION, TOKEN_USAGE, CALLS, DROPPED)
