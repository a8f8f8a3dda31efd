"""What one span of another program says, in Custody's words: an agent's run, a call, a step, or none.

Owns the reading of a span by the table `understood`: which value wins, how messages become a text, and what
its status says of the outcome. Pure; knows nothing of other spans. Used by `received`.
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.bridges.otel import understood as names
from custody.bridges.otel.wire import STATUS_ERROR, STATUS_OK, Span
from custody.records import EFFECTS, OUTCOMES, Effect, Outcome

MESSAGES_MAX = 64
CALLS_MAX = 256
"""Of one turn's output that are read; a provider gives one message and a few calls."""

OTHER = "other"
"""The kind of a span that none of the conventions describes: a request over HTTP, a query of a database."""


class Ended(Struct, frozen=True, kw_only=True):
    """What a span says of how it ended."""

    outcome: Outcome | None
    """None: nothing was said, so the result's own word counts."""
    reason: str | None = None
    error: dict[str, Any] | None = None


def kind_of(span: Span) -> tuple[names.Kind | None, str]:
    """What it is, and the word that says so; None and `other` for a span of something else."""
    attributes = span.attributes
    for name, kinds in names.KINDS:
        said = attributes.get(name)
        if type(said) is str:
            kind = kinds.get(said) or kinds.get(said.upper())
            if kind is not None:
                return kind, said
    return None, OTHER


def first(attributes: Mapping[str, Any], wanted: tuple[str, ...]) -> Any:
    """The value under the first of these names that has one."""
    for name in wanted:
        value = attributes.get(name)
        if value is not None and value != "":
            return value
    return None


def text(attributes: Mapping[str, Any], wanted: tuple[str, ...]) -> str | None:
    value = first(attributes, wanted)
    return value if value is None or isinstance(value, str) else _spelt(value)


def left_out(span: Span) -> int:
    """How many of its attributes no record takes, those the sender dropped included."""
    used = names.USED
    unused = sum(
        1 for name in span.attributes if name not in used and not name.startswith(names.USED_PREFIXES)
    )
    return unused + span.attributes_left_out


# -- what each part says ------------------------------------------------------------------------------


def agent_of(span: Span, kind: names.Kind | None) -> str | None:
    found = text(span.attributes, names.AGENT)
    if found is None and kind == "agent":
        found = text(span.attributes, (names.AGENT_ENTITY,)) or _after(span.name, "invoke_agent ")
    return found


def tool_of(span: Span, word: str) -> str:
    """Its tool's name; of a call that is its own tool (a retrieval) that word, else the span's name."""
    named = text(span.attributes, names.TOOL)
    if named is not None:
        return named
    if word in names.UNNAMED_TOOLS:
        return word.lower()
    return _after(span.name, "execute_tool ") or _after(span.name, "tools/call ") or span.name or word


def _after(name: str, prefix: str) -> str | None:
    return name.removeprefix(prefix) or None if name.startswith(prefix) else None


def effect_of(span: Span, word: str) -> Effect:
    said = span.attributes.get(names.EFFECT)
    for effect in EFFECTS:
        if said == effect:
            return effect
    return "read" if word in names.READING else "unknown"


def ended_of(span: Span) -> Ended:
    """The word of another Custody goes before the status, an error's type before that it is one."""
    attributes, kind = span.attributes, _error_type(span)
    message = span.status_message or span.exception[1]
    said = attributes.get(names.OUTCOME)
    outcome: Outcome | None = next((word for word in OUTCOMES if word == said), None)
    if outcome is None and (span.status == STATUS_ERROR or names.ERROR_TYPE in attributes):
        last = (kind or "").rpartition(".")[2]
        outcome = "failed"
        if last in names.TIMED_OUT:
            outcome = "timed_out"
        elif last in names.CANCELLED:
            outcome = "cancelled"
    if outcome is None:
        return Ended(outcome="succeeded" if span.status == STATUS_OK else None)
    reason = text(attributes, (names.REASON,))
    if outcome != "failed":
        return Ended(outcome=outcome, reason=reason or (message if outcome != "succeeded" else None))
    error = {"type": kind or "Error", "message": message or ""}
    return Ended(outcome=outcome, reason=reason or kind, error=error)


def _error_type(span: Span) -> str | None:
    said = span.attributes.get(names.ERROR_TYPE)
    return (said if isinstance(said, str) and said else None) or span.exception[0]


def tokens_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = {part: first(attributes, wanted) for part, wanted in names.TOKENS.items()}
    counted = {part: value for part, value in found.items() if value is not None}
    return counted or None


def finish_reason_of(attributes: Mapping[str, Any]) -> str | None:
    said = first(attributes, names.FINISH_REASON)
    if isinstance(said, list):
        reasons = cast("list[Any]", said)
        said = reasons[0] if reasons else None
    return None if said is None else str(said)


def output_of(attributes: Mapping[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """What the model said as one text, and the calls it asked for."""
    messages = _messages(attributes.get(names.OUTPUT_MESSAGES))
    texts, calls = _from_messages(messages)
    for flat in names.FLAT_OUTPUT if not messages else ():
        texts, calls = _from_flat(attributes, flat)
        if texts or calls:
            break
    if texts or calls:
        return "\n".join(texts) if texts else None, calls[:CALLS_MAX]
    return text(attributes, names.OUTPUT_TEXT), []


def said_in(value: Any) -> Any:
    """What is said in messages as one text, the last one's alone; anything else as it is."""
    messages = _messages(value)
    if not messages:
        return value
    texts, _ = _from_messages(messages[-1:])
    return "\n".join(texts) if texts else value


def _messages(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str) and value[:1] == "[":
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return []
    if not isinstance(value, list):
        return []
    items = cast("list[Any]", value)[:MESSAGES_MAX]
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _from_messages(messages: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for message in messages:
        parts: Any = message.get("parts")
        if not isinstance(parts, list):
            parts = [{"type": "text", "content": message.get("content")}]
        for part in cast("list[Any]", parts):
            if not isinstance(part, dict):
                continue
            said = cast("dict[str, Any]", part)
            if said.get("type") == "tool_call":
                calls.append({name: said.get(name) for name in ("id", "name", "arguments")})
            elif said.get("type") == "text" and isinstance(said.get("content"), str):
                texts.append(said["content"])
    return texts, calls


def _from_flat(attributes: Mapping[str, Any], flat: names.Flat) -> tuple[list[str], list[dict[str, Any]]]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for number in range(MESSAGES_MAX):
        message = flat.message.format(number)
        content = attributes.get(message + flat.content)
        if isinstance(content, str) and content:
            texts.append(content)
        found = len(calls)
        for one in range(CALLS_MAX):
            call = message + flat.call.format(one)
            if attributes.get(call + flat.name) is None:
                break
            said = (flat.id, flat.name, flat.arguments)
            values = [attributes.get(call + part) for part in said]
            calls.append(dict(zip(("id", "name", "arguments"), values, strict=True)))
        if content is None and len(calls) == found:
            break
    return texts, calls


def _spelt(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
