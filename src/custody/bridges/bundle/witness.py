"""The name of a call's file in a bundle: `<time>_<tool>_<id>.witness.json`.

Owns how a tool's name, which may be anything, becomes part of a file's: percent-encoded, so that two names
never become one and none leads anywhere. Used by `making`.
"""

from datetime import datetime
from hashlib import sha256
from urllib.parse import quote

from custody.records import Call

TOOL_CHARACTERS_MAX = 46
"""So that the whole name has a hundred at most, which is what the plainest tar holds in one field."""

DIGEST_CHARACTERS = 8


def witness_name(call: Call) -> tuple[str, int]:
    """The file's name, and when the call was asked for in seconds since 1970.

    Time and id hold no `_`, so the tool is what stands between the first and the last.
    """
    at = datetime.fromisoformat(call.asked_at)
    return f"witnesses/{at:%Y%m%dT%H%M%S.%fZ}_{encoded(call.tool)}_{call.id}.witness.json", int(
        at.timestamp()
    )


def encoded(tool: str) -> str:
    """The tool's name as part of a file's. A long one ends in `~` and its digest; no other has `~`."""
    name = quote(tool, safe="", errors="backslashreplace").replace("~", "%7E")
    if len(name) <= TOOL_CHARACTERS_MAX:
        return name
    kept = name[: TOOL_CHARACTERS_MAX - DIGEST_CHARACTERS - 1]
    return f"{kept}~{sha256(name.encode()).hexdigest()[:DIGEST_CHARACTERS]}"
