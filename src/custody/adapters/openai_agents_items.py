"""What the objects of the OpenAI Agents SDK say, in the words of a record.

Owns which of their fields is text, tokens, arguments or a reason. Keeps nothing and records nothing. Used by
`openai_agents`, which says it when the SDK is missing.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import agents
from agents.models import get_default_model
from agents.tool import default_tool_timeout_error_message
from agents.tool_context import ToolContext
from msgspec import Struct

Key = tuple[int, str]
"""Agent and call id: which call of the model it is. Ids of real models differ; those of two agents at once
need not."""

LOCAL_KINDS = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "apply_patch_call",
        "shell_call",
        "local_shell_call",
        "computer_call",
    }
)
"""Items whose tool runs in this process; the provider runs the others."""

NOT_ARGUMENTS = {"type", "id", "call_id", "name", "namespace", "status"}


class Asked(Struct, frozen=True):
    """A call that the model asked for."""

    id: str
    kind: str
    """The type of its item: `function_call`, `web_search_call`."""
    name: str
    arguments: Mapping[str, Any]
    """For what the provider runs itself, all it told: query, code, results."""
    item: Any


def asked_for(output: Iterable[Any]) -> list[Asked]:
    """The calls among the items of a response, those included that the provider has already made."""
    return [_asked(item) for item in output if str(getattr(item, "type", "")).endswith("_call")]


def _asked(item: Any) -> Asked:
    kind = item.type
    if kind == "function_call":
        said = arguments_of(item.arguments)
    elif kind == "custom_tool_call":
        said = arguments_of(item.input)
    else:
        said = item.model_dump(mode="json", exclude_none=True, exclude=NOT_ARGUMENTS)
    name = getattr(item, "name", None) or kind.removesuffix("_call")
    call_id = getattr(item, "call_id", None) or getattr(item, "id", None) or ""
    return Asked(call_id, kind, name, said, item)


def arguments_of(text: str) -> Mapping[str, Any]:
    """Arguments as the model wrote them: the members of a JSON object, anything else as `input`."""
    try:
        said = json.loads(text or "{}")
    except ValueError:
        said = None
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {"input": text}


def runs_here(asked: Asked, agent: Any) -> bool:
    """Whether the SDK will run it in this process."""
    if asked.kind != "shell_call":
        return asked.kind in LOCAL_KINDS
    shells = [tool for tool in agent.tools if isinstance(tool, agents.ShellTool)]
    return not shells or any(tool.executor is not None for tool in shells)


def handoff_names(agent: Any) -> set[str]:
    """What the model calls to hand the conversation on."""
    return {
        one.tool_name if isinstance(one, agents.Handoff) else agents.Handoff.default_tool_name(one)
        for one in agent.handoffs
    }


def outer_call(context: Any) -> Key | None:
    """The call in which this agent runs, for an agent that is a tool."""
    if not isinstance(context, ToolContext):
        return None
    outer = cast("ToolContext[Any]", context)
    return id(outer.agent), outer.tool_call_id


def has_own_context(tool: Any) -> bool:
    """Whether the hooks of this tool are told which call it is."""
    return isinstance(tool, agents.FunctionTool | agents.CustomTool)


def text_of(output: Iterable[Any]) -> str | None:
    """All a response says to its reader, refusals included. None where it says nothing."""
    parts = [
        getattr(part, "text", None) or getattr(part, "refusal", None) or ""
        for item in output
        if item.type == "message"
        for part in item.content
    ]
    return "".join(parts) if parts else None


def tokens_of(usage: agents.Usage) -> dict[str, int | None] | None:
    """The SDK counts 0 where its provider said nothing, so a 0 among the details is not taken for known."""
    if not usage.input_tokens and not usage.output_tokens:
        return None
    read = usage.input_tokens_details
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "reasoning": usage.output_tokens_details.reasoning_tokens or None,
        "cache_read": read.cached_tokens or None,
        "cache_write": getattr(read, "cache_write_tokens", None) or None,
    }


def finish_reason_of(output: Sequence[Any], served: Any) -> str | None:
    """As the provider says where its response is known, else as the SDK marks the items."""
    if served is not None:
        details = served.incomplete_details
        return (details and details.reason) or served.status
    states = {getattr(item, "status", None) for item in output} - {None}
    return "incomplete" if "incomplete" in states else "completed" if states == {"completed"} else None


def requested_model(agent: Any, run_config: Any) -> str | None:
    """The name of the model that the SDK asks for this agent."""
    chosen = getattr(run_config, "model", None) or agent.model or get_default_model()
    name = chosen if isinstance(chosen, str) else getattr(chosen, "model", None)
    return name if isinstance(name, str) else None


def plain(result: Any) -> Any:
    """A tool's result without the SDK's own types around it."""
    if isinstance(result, list):
        return [plain(one) for one in cast("list[Any]", result)]
    return result.model_dump(mode="json", exclude_none=True) if hasattr(result, "model_dump") else result


def timed_out(tool: Any, result: object) -> bool:
    """Whether the SDK gave up on the tool and told the model so."""
    seconds = getattr(tool, "timeout_seconds", None)
    return seconds is not None and result == default_tool_timeout_error_message(
        tool_name=tool.name, timeout_seconds=seconds
    )


def span_error(span: Any) -> str | None:
    """What the SDK's own span of a call says went wrong; nothing where tracing is off."""
    error = None if span is None else cast("dict[str, Any] | None", span.error)
    if error is None:
        return None
    data: dict[str, Any] = error.get("data") or {}
    return str(data.get("error") or error["message"])


def tripped(stated: Any, error: BaseException | None) -> Iterator[tuple[str, str, Any]]:
    """Kind, name and information of each guardrail that did not let something pass.

    `stated` is a result of the SDK, or what an exception of the SDK's knows of the run.
    """
    seen: set[int] = set()
    for kind, guardrail, output in _guardrails(stated, error):
        behaviour = getattr(output, "behavior", None)
        passed = not output.tripwire_triggered if behaviour is None else behaviour["type"] == "allow"
        if not passed and id(output) not in seen:
            seen.add(id(output))
            yield kind, guardrail.get_name(), plain(output.output_info)


def _guardrails(stated: Any, error: BaseException | None) -> Iterator[tuple[str, Any, Any]]:
    for kind in ("input", "output", "tool_input", "tool_output"):
        for one in getattr(stated, f"{kind}_guardrail_results", ()):
            yield kind, one.guardrail, one.output
    if isinstance(error, agents.InputGuardrailTripwireTriggered):
        yield "input", error.guardrail_result.guardrail, error.guardrail_result.output
    elif isinstance(error, agents.OutputGuardrailTripwireTriggered):
        yield "output", error.guardrail_result.guardrail, error.guardrail_result.output
    elif isinstance(error, agents.ToolInputGuardrailTripwireTriggered):
        yield "tool_input", error.guardrail, error.output
    elif isinstance(error, agents.ToolOutputGuardrailTripwireTriggered):
        yield "tool_output", error.guardrail, error.output


def cause_of(error: BaseException) -> BaseException:
    """What a tool raised, from what the SDK makes of it."""
    if isinstance(error, agents.ToolTimeoutError):
        return TimeoutError(str(error))
    return error.__cause__ or error


def is_cancelled(error: BaseException | None) -> bool:
    return isinstance(error, asyncio.CancelledError)
