"""What the demo shows of walls: what a command cannot reach, and changes that wait until somebody decides.

Owns these claims. Where the machine gives no walls it says so, and claims nothing. Used by `demo`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from custody.cli.demo_story import Story

if TYPE_CHECKING:
    from custody.blocking import BlockingRun


def behind_walls(story: Story, run: "BlockingRun", workspace: Path, settings: Path) -> None:
    """A command that reaches for the settings beside its workspace, and changes a file within."""
    outside, inside = settings.with_name("outside"), workspace / "inside"
    line = f"cat {settings}; echo x > {outside}; echo x > {inside.name}"
    call = run.call("shell", {"command": line}, level="transaction")
    if call.result is None:
        story.say(
            f"    (this machine gives no walls, so none are shown: {(call.error or {}).get('message')})"
        )
        return
    result: dict[str, Any] = call.result
    story.claim(
        "behind walls a shell neither reads nor writes what lies beside its workspace",
        not result["stdout"] and not outside.exists(),
        result,
    )
    story.claim(
        "and in a transaction what it changes within is held: the file is not there yet",
        call.held == "held" and call.changes_count == 1 and not inside.exists(),
        call.held,
    )
    dropped = run.call("discard", {"call": call.id})
    story.claim(
        "until a call of its own commits it, or as here drops it",
        dropped.outcome == "succeeded" and not inside.exists(),
        dropped.reason,
    )
