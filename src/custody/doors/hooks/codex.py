"""The hooks of Codex: names of events, and the form of an answer.

Its words are Claude Code's, with less that it takes: an `ask`, or an `allow` without changed arguments, makes
it ignore the whole answer, and the tool runs. Used by `dialects`.
"""

import json

from custody.doors.hooks.event import Answer, Dialect, HookEvent


def _say(event: HookEvent, answer: Answer) -> str:
    """Nothing is said of what may run as it is. Its own approval of commands comes after the hook."""
    if event.kind != "before":
        return ""
    if answer.verdict == "deny":
        said = {"permissionDecision": "deny", "permissionDecisionReason": f"Custody: {answer.reason}"}
    elif answer.arguments is not None:
        said = {"permissionDecision": "allow", "updatedInput": answer.arguments}
    else:
        return ""
    return json.dumps({"hookSpecificOutput": {"hookEventName": event.name, **said}})


CODEX = Dialect(
    name="codex",
    title="Codex",
    events={
        "SessionStart": "session_started",
        "SessionEnd": "session_ended",
        "UserPromptSubmit": "prompted",
        "PreToolUse": "before",
        "PostToolUse": "after",
        "SubagentStart": "subagent_started",
        "SubagentStop": "subagent_stopped",
        "Stop": "stopped",
        "Interrupt": "stopped",
        "PreCompact": "compacting",
    },
    fields={},
    details=("source", "trigger", "model", "permission_mode", "turn_id"),
    interrupts=frozenset({"Interrupt"}),
    rewrites=True,
    say=_say,
)
