"""The hooks of Gemini CLI: names of events, and the form of an answer.

Its tools' uses have no ids, so the two hooks of one find each other by what was asked. Used by `dialects`.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from custody.doors.hooks.event import Answer, Dialect, HookEvent


def _say(event: HookEvent, answer: Answer) -> str:
    if event.kind != "before":
        return ""
    if answer.verdict == "deny":
        return json.dumps({"decision": "deny", "reason": f"Custody: {answer.reason}"})
    if answer.arguments is None:
        return "{}"
    return json.dumps({"hookSpecificOutput": {"hookEventName": event.name, "tool_input": answer.arguments}})


def _error_of(document: Mapping[str, Any]) -> str | None:
    response = document.get("tool_response")
    error = cast("dict[str, Any]", response).get("error") if isinstance(response, dict) else None
    if error is None:
        return None
    message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else json.dumps(error, default=str)


GEMINI = Dialect(
    name="gemini",
    title="Gemini CLI",
    events={
        "SessionStart": "session_started",
        "SessionEnd": "session_ended",
        "BeforeAgent": "prompted",
        "AfterAgent": "stopped",
        "BeforeTool": "before",
        "AfterTool": "after",
        "PreCompress": "compacting",
    },
    fields={},
    details=("source", "reason", "trigger"),
    rewrites=True,
    say=_say,
    error_of=_error_of,
)
