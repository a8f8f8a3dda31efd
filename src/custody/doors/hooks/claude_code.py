"""The hooks of Claude Code: names of events, and the form of an answer.

Owns nothing but these tables; `docs/reference/hooks.md` says where they are from, and of when. Used by
`dialects`.
"""

import json
from typing import Any

from custody.doors.hooks.event import Answer, Dialect, HookEvent


def _say(event: HookEvent, answer: Answer) -> str:
    """A tool that may run is left to the CLI's own permissions: to say `allow` would skip its question."""
    if event.kind != "before":
        return ""
    said: dict[str, Any] = {"hookEventName": event.name}
    if answer.verdict != "allow":
        said |= {
            "permissionDecision": answer.verdict,
            "permissionDecisionReason": f"Custody: {answer.reason}",
        }
    if answer.verdict != "deny" and answer.arguments is not None:
        said["updatedInput"] = answer.arguments
    return json.dumps({"hookSpecificOutput": said}) if len(said) > 1 else ""


CLAUDE_CODE = Dialect(
    name="claude-code",
    title="Claude Code",
    events={
        "SessionStart": "session_started",
        "SessionEnd": "session_ended",
        "UserPromptSubmit": "prompted",
        "PreToolUse": "before",
        "PostToolUse": "after",
        "PostToolUseFailure": "failed",
        "SubagentStart": "subagent_started",
        "SubagentStop": "subagent_stopped",
        "Stop": "stopped",
        "PreCompact": "compacting",
    },
    fields={},
    details=("source", "reason", "trigger", "model", "permission_mode"),
    on_failure={"onFailure": "block"},
    asks=True,
    rewrites=True,
    say=_say,
)
