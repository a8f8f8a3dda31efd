"""What becomes at once of changes that a command left held: by a second call, guarded and recorded like any.

Owns which call that is. Without one they stay held, until somebody commits or discards them. Used by
`runtime`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from custody.calls.asked import inside
from custody.policy.model import Afterwards
from custody.records import Call, Decision, Settled
from custody.tools import Origin
from custody.tools.confinement import Confinement

if TYPE_CHECKING:
    from custody.calls.answers import Prompt
    from custody.calls.run import RunRecord

PATHS_TOLD_MAX = 10
"""In a question: more is for whoever looks at the difference."""

PATH_CHARACTERS_MAX = 200
"""Of each: a reason is kept for ever, and what a command calls its files is not its to fill."""

_SETTLED: dict[str, Settled] = {"commit": "committed", "discard": "discarded"}


async def settle(
    make: Callable[..., Awaitable[Call]],
    call: Call,
    confinement: Confinement | None,
    run: "RunRecord | None",
    prompt: "Prompt | None",
) -> Call:
    """The call, and what became of its changes; `make` makes the second one, as `Runtime.call` does.

    Raises NotRecorded, OutcomeUnknown of the second call.
    """
    afterwards = "hold" if confinement is None else confinement.afterwards
    tool = _tool(afterwards, call)
    if tool is None:
        return call
    guards = (_asks(call),) if afterwards == "ask" else ()
    with inside(bytes.fromhex(call.id)):
        made = await make(
            tool,
            {"call": call.id},
            run=run,
            agent=call.agent,
            caller=call.caller,
            session=call.session_id,
            prompt=prompt,
            origin=Origin(door=call.door, guards=guards, caused=True),
        )
    if made.outcome != "succeeded":
        return call
    return msgspec.structs.replace(call, held=_SETTLED[tool], settled_by=made.id)


def _tool(afterwards: Afterwards, call: Call) -> str | None:
    if afterwards == "discard":
        return "discard"
    passed = call.outcome == "succeeded"
    if afterwards in ("commit", "ask") or (afterwards == "commit_if_passed" and passed):
        return "commit"
    return None


def _asks(call: Call) -> Any:
    kinds = Counter(change.change for change in call.changes or ())
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    changes = call.changes or ()
    some = ", ".join(_on_one_line(one.path) for one in changes[:PATHS_TOLD_MAX])
    if len(changes) > PATHS_TOLD_MAX:
        some += f" and {len(changes) - PATHS_TOLD_MAX:,} more"
    reason = f"It changed ({told}): {some}. `custody show {call.id[:8]} --diff` shows what."

    def of_changes(_proposal: Any) -> Decision:
        return Decision("ask", "rule", reason)

    return of_changes


def _on_one_line(path: str) -> str:
    """With what would break the line, or steer a terminal, escaped."""
    seen = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in path[:PATH_CHARACTERS_MAX])
    left = len(path) - PATH_CHARACTERS_MAX
    return seen if left <= 0 else f"{seen}… (and {left:,} more characters)"
