"""What messages of LangChain say, in the words of a step and of a call's result.

Owns where each provider's package puts model, finish reason and token counts. Pure: records nothing and
reads every message by its attributes, so that it needs no package. Used by `adapters.langchain`.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from custody.calls.lifecycle import describe

if TYPE_CHECKING:
    from langchain_core.outputs import LLMResult

JSON_CHARACTERS_MAX = 64 * 1024
"""Up to here the text of a tool message is read back into what the tool returned."""

MODEL_KEYS = ("model_name", "model", "model_id")
FINISH_KEYS = ("finish_reason", "stop_reason", "done_reason")
OWN_MESSAGE_IDS = ("lc_", "run-")
"""How the ids begin that LangChain makes up where a provider gave none."""


def first_text(mapping: Mapping[str, Any] | None, names: Iterable[str]) -> str | None:
    """The first of these that is a text with something in it."""
    for name in names if mapping else ():
        value = mapping.get(name)  # pyright: ignore[reportOptionalMemberAccess] - the loop is empty without one
        if isinstance(value, str) and value:
            return value
    return None


def turn_of(response: "LLMResult") -> dict[str, Any]:
    """Arguments of `run.step` for a model's answer, streamed or not."""
    generation: Any = next((one for many in response.generations for one in many), None)
    message: Any = getattr(generation, "message", None)
    output: Mapping[str, Any] = response.llm_output or {}
    said: dict[str, Any] = {
        **(getattr(generation, "generation_info", None) or {}),
        **(getattr(message, "response_metadata", None) or {}),
    }
    usage: Mapping[str, Any] | None = getattr(message, "usage_metadata", None)
    own_id = getattr(message, "id", None) or ""
    text = getattr(generation, "text", None) if message is None else str(message.text)
    turn: dict[str, Any] = {
        "text": text or None,
        "model": first_text(said, MODEL_KEYS) or first_text(output, MODEL_KEYS),
        "tokens": tokens_of(usage) if usage else tokens_of_completion(output.get("token_usage")),
        "finish_reason": first_text(said, FINISH_KEYS),
        "calls": requested_calls(message),
        "external_id": first_text(said, ("id",))
        or (None if own_id.startswith(OWN_MESSAGE_IDS) else own_id or None),
    }
    if usage and usage.get("total_cost") == 0:  # how LangChain marks what its own cache answered
        turn |= {"tokens": {"input": 0, "output": 0}, "model_us": None, "data": {"cached": True}}
    return turn


def broken_turn(error: BaseException, response: "LLMResult | None" = None) -> dict[str, Any]:
    """The same where the model raised, with what had come by then."""
    text = None if response is None else turn_of(response)["text"]
    return {"text": text, "responded": text is not None, "data": {"error": describe(error)}}


def requested_calls(message: Any) -> list[dict[str, Any]]:
    """What the model asked for, also where its arguments are no JSON: then they are its own text."""
    asked: list[Any] = [
        *(getattr(message, "tool_calls", None) or ()),
        *(getattr(message, "invalid_tool_calls", None) or ()),
    ]
    return [{"id": one.get("id"), "name": one.get("name"), "arguments": one.get("args")} for one in asked]


def tokens_of(usage: Mapping[str, Any]) -> dict[str, int | None]:
    """Counts of a `usage_metadata`. Some packages put a service tier in front of a detail's name, and one
    counts what it wrote to a cache by how long that lives."""
    read: Mapping[str, Any] = usage.get("input_token_details") or {}
    made: Mapping[str, Any] = usage.get("output_token_details") or {}
    return {
        "input": usage.get("input_tokens"),
        "output": usage.get("output_tokens"),
        "reasoning": _sum(made, "reasoning"),
        "cache_read": _sum(read, "cache_read"),
        "cache_write": _sum(read, "cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    }


def _sum(details: Mapping[str, Any], *endings: str) -> int | None:
    known = [count for name, count in details.items() if isinstance(count, int) and name.endswith(endings)]
    return sum(known) if known else None


def tokens_of_completion(usage: Any) -> dict[str, int | None] | None:
    """Counts of a model that completes text, which has no message to carry them."""
    if not isinstance(usage, Mapping):
        return None
    counts = cast("Mapping[str, Any]", usage)
    return {"input": counts.get("prompt_tokens"), "output": counts.get("completion_tokens")}


def result_of(output: Any) -> Any:
    """What a tool gave: the content of its message, read back where LangChain had made JSON of it."""
    if isinstance(output, list):
        return [result_of(one) for one in cast("list[Any]", output)]
    if getattr(output, "type", None) != "tool":
        return output
    content: Any = output.content
    if isinstance(content, str) and content[:1] in "{[" and 2 <= len(content) <= JSON_CHARACTERS_MAX:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return content
    return content


def failure_of(output: Any) -> str | None:
    """The text of a tool message that says its tool failed."""
    if getattr(output, "type", None) == "tool" and getattr(output, "status", None) == "error":
        return str(output.text)
    return None


def handed_over(error: BaseException) -> Any:
    """The command in an exception by which a tool's graph sends its caller somewhere; else None."""
    errors: Any = sys.modules.get("langgraph.errors")
    is_command = errors is not None and isinstance(error, errors.ParentCommand)
    return error.args[0] if is_command and error.args else None


def is_control_flow(error: BaseException) -> bool:
    """Whether it only carries a graph's control: an interrupt, a drain, a command for the graph above."""
    errors: Any = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)
