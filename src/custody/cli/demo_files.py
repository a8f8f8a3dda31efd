"""What the demo shows of files: edits through the tools, what they refuse, and a whole run taken back.

Owns these chapters of the story and the picture of a folder by which "as before" is checked. Used by `demo`.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custody.cli.demo_story import Story

if TYPE_CHECKING:
    from custody.blocking import BlockingRun, BlockingRuntime

OUTSIDE = "/etc/passwd"  # on every Linux, and of no use to anybody: nothing is lost should it be read
SHORTCUT = "shortcut"  # a link out of the workspace
LOOSER = '[[policy.rules]]\nname = "anything-goes"\n'


def reach_out(story: Story, run: "BlockingRun", workspace: Path, settings: Path, store: str) -> None:
    """A command and a file outside the roots, then Custody's own files."""
    story.chapter("2. It reaches for what is not its own")
    marker = workspace / "was-here"
    refused = run.call("exec", {"argv": ["touch", str(marker)], "cwd": "/"})
    story.claim(
        f"a command outside its root is refused before it runs: {refused.decision.reason}",
        refused.outcome == "rejected" and refused.decision.by == "path" and not marker.exists(),
        refused.outcome,
    )
    (workspace / SHORTCUT).symlink_to(os.path.dirname(OUTSIDE))
    around = os.path.relpath(OUTSIDE, workspace)
    for path in (OUTSIDE, around, os.path.join(SHORTCUT, os.path.basename(OUTSIDE))):
        read = run.call("file_read", {"path": path})
        story.claim(
            f"so is reading {path}",
            read.outcome == "rejected" and read.decision.by == "path" and read.result is None,
            read.decision.reason or read.outcome,
        )
    (workspace / SHORTCUT).unlink()
    before = settings.read_bytes()
    own = run.call("file_write", {"path": str(settings), "content": LOOSER})
    story.claim(
        f"and rewriting its own policy: {own.decision.reason}",
        own.outcome == "rejected" and own.decision.by == "path" and settings.read_bytes() == before,
        own.outcome,
    )
    picture = picture_of(Path(store) / "keys")
    record = run.call("file_delete", {"path": os.path.join(store, "keys"), "recursive": True})
    story.claim(
        "and deleting from the store that records it",
        record.outcome == "rejected" and picture_of(Path(store) / "keys") == picture,
        record.outcome,
    )


def take_back(story: Story, runtime: "BlockingRuntime", workspace: Path) -> str:
    """A run that edits, writes and deletes, and is undone as a whole; returns its id."""
    story.chapter("5. A second run tidies up too much, and is taken back")
    before = picture_of(workspace)
    with runtime.run("Tidy up the package", agent="demo-agent", session="demo") as run:
        calls = [
            run.call(
                "file_edit",
                {
                    "path": "thermometer/__init__.py",
                    "edits": [{"old": '"""Temperatures."""', "new": '"""Temperature conversions."""'}],
                },
            ),
            run.call("file_write", {"path": "docs/notes/tidy.md", "content": "# What was tidied\n"}),
            run.call("file_write", {"path": "docs/notes/tidy.md", "content": "\n- tests\n", "append": True}),
            run.call("file_delete", {"path": "tests", "recursive": True}),
        ]
    between = picture_of(workspace)
    story.claim(
        f"it edits a file, adds docs/, deletes tests/: {differing(before, between)} paths are not as before",
        all(call.outcome == "succeeded" for call in calls)
        and not (workspace / "tests").exists()
        and (workspace / "docs/notes/tidy.md").read_text() == "# What was tidied\n\n- tests\n",
        [call.reason or call.outcome for call in calls],
    )
    undone = runtime.call("undo", {"run": run.id}, agent="demo-agent")
    after = picture_of(workspace)
    story.claim(
        f"undone, the workspace is byte for byte as before: content, modes and times of {len(after)} paths",
        undone.outcome == "succeeded" and after == before and between != before,
        undone.error or differing(before, after),
    )
    again = runtime.call("undo", {"call": undone.id}, agent="demo-agent")
    redone = picture_of(workspace)
    runtime.call("undo", {"call": again.id}, agent="demo-agent")
    story.claim(
        "the undo is a call on the record like any other, and was itself undone and undone again",
        contents(redone) == contents(between) and picture_of(workspace) == before,
        again.error or differing(between, redone),
    )
    return run.id


def picture_of(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Relative path -> mode, time of change, and content or target, of a folder and of all beneath it."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        seen = path.lstat()
        said: Any = None
        if stat.S_ISLNK(seen.st_mode):
            said = os.readlink(path)
        elif stat.S_ISREG(seen.st_mode):
            said = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (seen.st_mode, seen.st_mtime_ns, said)
    return found


def contents(picture: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """The same without times."""
    return {path: (mode, said) for path, (mode, _, said) in picture.items()}


def differing(one: dict[str, tuple[Any, ...]], other: dict[str, tuple[Any, ...]]) -> int:
    return sum(one.get(path) != other.get(path) for path in one.keys() | other.keys())
