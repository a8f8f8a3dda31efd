"""What a tool call is answered with: the structured content, and the same in words.

Owns the one shape of every answer and of every error. Errors of a tool, those of its arguments included, are
results that say so (`isError`), as the protocol has it: a model reads them and tries again. Used by `server`.
"""

import json
from typing import Any, cast

import msgspec
from mcp_types import CallToolResult, TextContent

from custody.bridges.objects import speakable
from custody.errors import CustodyError
from custody.records import Call, document
from custody.redaction import plain
from custody.rpc.errors import RpcError, wire_error
from custody.rpc.methods.calls import call_said
from custody.rpc.service import Service

FAULTS_TOLD_MAX = 100
"""Of a plan, in an error: `plan_check` has all of them."""

MESSAGE_BYTES_MAX = 1_000_000
"""Of an answer over HTTP: clients take an event of a stream up to a MiB, and an envelope is around it."""

OMITTED = "It is too large for one message; the same question at the command line has it."
OMITTED_BYTES_MIN = 256
"""To say of less that it is left out takes as much room."""

TEXT_CHARACTERS_MAX = 64 * 1024
"""Of an answer in words; the structured content has all of it that fits into a message."""


def answered(answer: Any, *, failed: bool = False) -> CallToolResult:
    """Whatever a question answers, as every other door shows it."""
    content = shown(answer)
    return _result(content, _as_text(content), is_error=failed)


def call_ended(call: Call) -> CallToolResult:
    """A call, as it is shown by `custody call --json`; the result is as the tool gave it."""
    said = call_said(call)
    if call.outcome == "succeeded":
        return _result(said, _as_text(said["result"]), is_error=False)
    return _result(said, _why(call, said), is_error=True)


def refused(error: Exception, service: Service) -> CallToolResult:
    """An error, as `--json` of the command line shows it."""
    clean = service.runtime.ledger.recorder.clean_text
    hint: str | None = None
    if isinstance(error, CustodyError):
        kind, message = type(error).__name__, clean(error.message, "error")[0]
        hint = None if error.hint is None else clean(error.hint, "error")[0]
    else:
        kind = "RpcError" if isinstance(error, RpcError) else "InternalError"
        message = wire_error(error, lambda text: clean(text, "error")[0])[1]
    content: dict[str, Any] = {"error": {"type": kind, "message": message, "hint": hint}}
    if isinstance(error, CustodyError) and (faults := error.details.get("faults")):
        content["error"]["faults"] = shown(faults[:FAULTS_TOLD_MAX])["items"]
    return _result(shown(content), message if hint is None else f"{message} {hint}", is_error=True)


def shown(answer: Any) -> dict[str, Any]:
    """Plain JSON, an object: a list becomes its `items`."""
    try:
        encoded = msgspec.json.encode(answer)
    except (TypeError, ValueError):  # the name of a file that is no UTF-8, a value that is no JSON
        encoded = msgspec.json.encode(speakable(plain(document(answer))))
    value = msgspec.json.decode(encoded)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"items": value}


def within(result: CallToolResult, bytes_max: int | None) -> CallToolResult:
    """The result, for a client that takes messages of `bytes_max`; None: of any size."""
    if bytes_max is None:
        return result
    words = sum(len(msgspec.json.encode(said.text)) for said in result.content if said.type == "text")
    content = cast("dict[str, Any]", result.structured_content)
    return result.model_copy(update={"structured_content": shortened(content, bytes_max - words)})


def shortened(content: dict[str, Any], bytes_max: int) -> dict[str, Any]:
    """It, within a bound as JSON: of the largest members, be it of each item of a list, the size is told
    instead."""
    if len(msgspec.json.encode(content)) <= bytes_max:
        return content
    short = dict(content)
    objects = _objects(short.get("items"))
    if objects:
        others = len(msgspec.json.encode({**short, "items": []}))
        share = (bytes_max - others) // len(objects) - 1
        short["items"] = [shortened(one, share) for one in objects]
    sizes = {name: len(msgspec.json.encode(value)) for name, value in short.items()}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if sizes[name] <= OMITTED_BYTES_MIN or len(msgspec.json.encode(short)) <= bytes_max:
            break
        short[name] = {"omitted_bytes": sizes[name], "hint": OMITTED}
    return short


def _objects(value: Any) -> list[dict[str, Any]]:
    """A list of nothing but objects; else none."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return items if all(isinstance(one, dict) for one in items) else []


def _result(content: dict[str, Any], text: str, *, is_error: bool) -> CallToolResult:
    written = text.encode("utf-8", "backslashreplace").decode()  # the name of a file may be no UTF-8
    return CallToolResult(
        content=[TextContent(type="text", text=written)], structured_content=content, is_error=is_error
    )


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return _cut(value)
    return "null" if value is None else _cut(json.dumps(value, ensure_ascii=False, indent=2))


def _cut(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    left = len(text) - TEXT_CHARACTERS_MAX
    return f"{text[:TEXT_CHARACTERS_MAX]}\n[{left:,} more characters are left out here]"


def _why(call: Call, said: dict[str, Any]) -> str:
    """What became of a call that did not succeed, and by whose word."""
    parts = [f"{call.tool} {call.outcome}"]
    if call.outcome == "rejected":
        parts.append(f"by {call.decision.by}")
    error = cast("dict[str, Any]", said.get("error") or {})
    reason = call.reason or error.get("message")
    text = " ".join(parts) + (f": {reason}" if reason else "")
    if error.get("message") and error["message"] != reason:
        text += f"\n{error['message']}"
    if said.get("result") is not None:
        text += f"\n{_as_text(said['result'])}"
    return f"{text}\ncall {call.id}"
