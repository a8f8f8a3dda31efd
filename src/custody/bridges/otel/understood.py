"""Which names of other programs' spans are understood, and as what: the one table of what comes in.

Owns the kinds of span and the attributes that say each part of a run, call or step, the preferred name first.
What Custody itself sends (`mapping`) is in it. Knows nothing of how a span arrives or is recorded. Used by
`told_spans`; the table in docs/how-to/opentelemetry.md says the same in words.

Sources, read on 2026-11-22: the GenAI conventions of OpenTelemetry (semantic-conventions-genai, and 1.36 to
1.41 of semantic-conventions), the OpenInference specification (Arize-ai/openinference), and
`opentelemetry-semantic-conventions-ai` of OpenLLMetry (traceloop/openllmetry).
"""

from typing import Literal

from custody.bridges.otel.mapping import CALL_OPERATION, RUN_OPERATION, STEP_OPERATION

Kind = Literal["agent", "part", "call", "step"]
"""`agent`: work of one agent, a run where it is the root. `part`: what only holds others together, a run
where it is the root and no record otherwise. `call` and `step` are what they are here."""

KINDS: tuple[tuple[str, dict[str, Kind]], ...] = (
    (
        "gen_ai.operation.name",
        {
            RUN_OPERATION: "agent",
            "invoke_workflow": "part",
            "create_agent": "part",
            "plan": "part",
            CALL_OPERATION: "call",
            "embeddings": "call",
            "retrieval": "call",
            "search_memory": "call",
            "create_memory": "call",
            "update_memory": "call",
            "upsert_memory": "call",
            "delete_memory": "call",
            STEP_OPERATION: "step",
            "text_completion": "step",
            "generate_content": "step",
        },
    ),
    (
        "openinference.span.kind",
        {
            "AGENT": "agent",
            "CHAIN": "part",
            "PROMPT": "part",
            "TOOL": "call",
            "RETRIEVER": "call",
            "RERANKER": "call",
            "EMBEDDING": "call",
            "GUARDRAIL": "call",
            "EVALUATOR": "call",
            "LLM": "step",
        },
    ),
    (
        "traceloop.span.kind",
        {"agent": "agent", "workflow": "part", "task": "part", "tool": "call"},
    ),
    (
        "llm.request.type",
        {"chat": "step", "completion": "step", "rerank": "call", "embedding": "call"},
    ),
    ("mcp.method.name", {"tools/call": "call"}),
)
"""Attribute -> what its values make of a span. The first attribute whose value is listed decides."""

READING = frozenset({"embeddings", "retrieval", "search_memory", "RETRIEVER", "RERANKER", "EMBEDDING"})
"""Values of a kind that is a call whose effect is known: it only reads."""

UNNAMED_TOOLS = READING | {
    "create_memory", "update_memory", "upsert_memory", "delete_memory", "rerank", "embedding",
}  # fmt: skip
"""Values of a kind that is its own tool where none is named."""

# -- attributes ---------------------------------------------------------------------------------------

TOOL = ("gen_ai.tool.name", "tool.name", "traceloop.entity.name")
ARGUMENTS = (
    "gen_ai.tool.call.arguments",
    "input.value",
    "tool.parameters",
    "traceloop.entity.input",
    "mcp.request.argument",
)
RESULT = ("gen_ai.tool.call.result", "output.value", "traceloop.entity.output", "mcp.response.value")
CALL_EXTERNAL_ID = ("gen_ai.tool.call.id", "tool_call.id", "tool.id")

AGENT = ("gen_ai.agent.name", "agent.name")
AGENT_ENTITY = "traceloop.entity.name"  # names the agent on a span of kind agent, the tool on one of a tool
SESSION = (
    "gen_ai.conversation.id",
    "session.id",
    "traceloop.association.properties.session_id",
    "traceloop.association.properties.thread_id",
)
CALLER = ("custody.caller", "user.id", "enduser.id", "traceloop.association.properties.user_id")
RUN_NAME = ("gen_ai.workflow.name", "traceloop.workflow.name")
RUN_INPUT = ("custody.intent", "gen_ai.input.messages", "input.value", "traceloop.entity.input")
RUN_OUTPUT = ("custody.output", "gen_ai.output.messages", "output.value", "traceloop.entity.output")

MODEL = ("gen_ai.response.model", "llm.response.model_name", "llm.model_name")
REQUESTED_MODEL = ("gen_ai.request.model", "llm.request.model_name")
STEP_EXTERNAL_ID = ("gen_ai.response.id",)
FINISH_REASON = (
    "gen_ai.response.finish_reasons",
    "llm.response.finish_reason",
    "llm.response.stop_reason",
    "gen_ai.completion.0.finish_reason",
)
TOKENS: dict[str, tuple[str, ...]] = {
    "input": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
        "llm.usage.prompt_tokens",
    ),
    "output": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
        "llm.usage.completion_tokens",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cache_write": (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
}

OUTPUT_MESSAGES = "gen_ai.output.messages"
"""JSON, or an array: messages with parts `text` and `tool_call`."""

OUTPUT_TEXT = ("output.value", "traceloop.entity.output")
"""Where no message says what the model said."""


class Flat:
    """Messages spread over attributes with a number in each name."""

    def __init__(self, message: str, content: str, call: str, name: str, arguments: str, id: str) -> None:
        self.message, self.content = message, content
        self.call, self.name, self.arguments, self.id = call, name, arguments, id


FLAT_OUTPUT = (
    Flat("gen_ai.completion.{}.", "content", "tool_calls.{}.", "name", "arguments", "id"),
    Flat(
        "llm.output_messages.{}.message.",
        "content",
        "tool_calls.{}.tool_call.",
        "function.name",
        "function.arguments",
        "id",
    ),
)

ERROR_TYPE = "error.type"
TIMED_OUT = frozenset({"timeout", "timed_out", "TimeoutError", "DeadlineExceeded", "DEADLINE_EXCEEDED"})
CANCELLED = frozenset({"cancelled", "canceled", "CancelledError", "CANCELLED"})
"""Types of error, the last part of a dotted name, that are outcomes of their own."""

RUN_ID = "custody.run.id"
"""Of the span that another Custody, or this one, made of a run: it has an id that no program gave it."""
OUTCOME = "custody.outcome"
EFFECT = "custody.effect"
REASON = "custody.reason"
PASSED = "custody.passed"
DRY_RUN = "custody.dry_run"

SERVICE, HOST = "service.name", "host.name"
"""Of the resource."""

USED = frozenset(
    {
        *(name for name, _ in KINDS),
        *TOOL, *ARGUMENTS, *RESULT, *CALL_EXTERNAL_ID, *AGENT, *SESSION, *CALLER, *RUN_NAME,
        *RUN_INPUT, *RUN_OUTPUT,
        *MODEL, *REQUESTED_MODEL, *STEP_EXTERNAL_ID, *FINISH_REASON, *OUTPUT_TEXT,
        *(name for names in TOKENS.values() for name in names),
        OUTPUT_MESSAGES, ERROR_TYPE, RUN_ID, OUTCOME, EFFECT, REASON, PASSED, DRY_RUN,
    }
)  # fmt: skip
"""Every attribute that some record takes; the others of a span are counted."""

USED_PREFIXES = tuple(flat.message.partition("{")[0] for flat in FLAT_OUTPUT)
