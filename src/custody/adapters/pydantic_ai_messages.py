"""What the messages of Pydantic AI say, in Custody's words.

Owns the translation of usage, arguments, results and refusals, and the clock of a turn. Does no I/O. Used by
`pydantic_ai_run` and `pydantic_ai`.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

from msgspec import Struct
from pydantic_ai import ModelRetry, RunContext, ToolReturn
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    ToolCallPart,
)
from pydantic_ai.models import StreamedResponse
from pydantic_ai.usage import RequestUsage
from pydantic_core import ValidationError, to_jsonable_python

from custody.records import Tokens

TOLD: dict[str, str] = {
    "success": "NotRun",
    "failed": "ToolFailed",
    "denied": "ToolDenied",
    "interrupted": "Interrupted",
    "validation_error": "ValidationError",
    "model_retry": "ModelRetry",
    "unknown_tool": "UnknownTool",
    "unavailable_tool": "UnavailableTool",
}
"""What the model was told of a call that never ran, in the framework's word -> the reason on the record."""


class Asked(Struct, frozen=True):
    """A call the model asked for, until it is known what became of it."""

    name: str
    arguments: Any


class Took:
    """How long a model took. Of a stream only the whole is known, its reader's pauses included."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.model_us: int | None = None
        self.stream_us: int | None = None
        self.first_event_us: int | None = None

    def request(self) -> "Took":
        self.model_us = _us(time.perf_counter() - self._started)
        return self

    def stream(self, stream: StreamedResponse) -> "Took":
        self.stream_us = _us(time.perf_counter() - self._started)
        first_event_seconds = stream.time_to_first_chunk(self._started)
        self.first_event_us = None if first_event_seconds is None else _us(first_event_seconds)
        return self


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


def tokens_of(usage: RequestUsage) -> Tokens:
    """The framework has 0 for what its provider did not count: that is unknown."""
    return Tokens(
        input=usage.input_tokens or None,
        output=usage.output_tokens or None,
        reasoning=usage.output_reasoning_tokens or usage.details.get("reasoning_tokens") or None,
        cache_read=usage.cache_read_tokens or None,
        cache_write=usage.cache_write_tokens or None,
    )


def provider_tools(response: ModelResponse) -> list[dict[str, Any]]:
    """Tools the provider ran itself: their calls and results come as parts of the response."""
    return [
        {"id": part.tool_call_id, "name": part.tool_name}
        | (
            {"arguments": part.args_as_dict()}
            if isinstance(part, NativeToolCallPart)
            else {"result": plain(part.content)}
        )
        for part in response.parts
        if isinstance(part, NativeToolCallPart | NativeToolReturnPart)
    ]


def plain(value: Any) -> Any:
    """Arguments and results as JSON; as they are where they are not JSON, which the recorder marks."""
    try:
        return to_jsonable_python(value, bytes_mode="base64", serialize_unknown=True)
    except Exception:  # a model's own serialiser may raise anything
        return value


def returned(result: Any) -> Any:
    return cast("ToolReturn[Any]", result).return_value if isinstance(result, ToolReturn) else result


def prompt_text(ctx: RunContext[Any]) -> str | None:
    prompt = ctx.prompt
    if prompt is None or isinstance(prompt, str):
        return prompt
    return "\n".join(part for part in prompt if isinstance(part, str)) or None


def refusal_of(error: ValidationError | ModelRetry | ToolFailed) -> str:
    """Which arguments were not accepted, and in what way; not what they were."""
    kind = type(error).__name__
    if not isinstance(error, ValidationError):
        return kind
    found = error.errors(include_url=False, include_context=False, include_input=False)
    places = (f"{'.'.join(map(str, each['loc'])) or '(all)'} {each['type']}" for each in found)
    return f"{kind}: {', '.join(places)}"


def asked_before(call_id: str, messages: Sequence[ModelMessage]) -> Asked | None:
    """A call that an earlier agent run asked for, in the history this one goes on from."""
    for message in reversed(messages):
        if isinstance(message, ModelResponse):
            for part in message.parts:
                if isinstance(part, ToolCallPart) and part.tool_call_id == call_id:
                    return Asked(part.tool_name, part.args_as_dict())
    return None
