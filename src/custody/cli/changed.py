"""What a call or run did to files, as a person sees it: a line a path, and whether it can be taken back.

Owns the signs and words of a change. How two versions of a text are found and shown is `diffs`'. Used by
`show`, `changes` and `undo`.
"""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from custody.cli.invocation import printable
from custody.cli.lines import begun, cells, one_line
from custody.cli.render import GAP, UNKNOWN, ago, count, moment, paint, size, summary
from custody.records import Call, Change, ChangeKind, Version

if TYPE_CHECKING:
    from custody.settings import Settings
    from custody.stores import View
    from custody.tools.undone import Undone

SIGNS = {
    "created": ("+", "green"),
    "modified": ("~", "yellow"),
    "deleted": ("-", "red"),
    "mode": ("m", "cyan"),
    "link": ("@", "cyan"),
    "renamed": (">", "cyan"),
}
"""Kind of change -> its sign and style."""

PATH_WIDTH_MAX = 72  # columns kept free for paths; a longer one moves its own sizes to the right

UNDO_TOOL = "undo"
UNDO_CALLS_MAX = 1_000
"""Calls of `undo` looked at for what they took back: a person makes few in the days undo data is kept."""
PAGE_CALLS = 20  # of them read at a time: each may list thousands of changes
CLOCK_SLACK_US = 60_000_000  # another process's clock may have been set back in between


def print_changes(changes: Iterable[Change], base: str | None) -> None:
    """A line for each: sign, path (beneath `base` relative to it), sizes."""
    rows = [(change, path_shown(change, base)) for change in changes]
    width = min(max((cells(path) for _, path in rows), default=0), PATH_WIDTH_MAX)
    for change, path in rows:
        sign, style = SIGNS[change.change]
        gap = " " * (max(width - cells(path), 0) + GAP)
        print(f"{paint(sign, style)} {path}{gap}{paint(words(change, base), 'dim')}")


def path_shown(change: Change, base: str | None) -> str:
    """The path on one line; a folder's ends in a slash."""
    return relative(change.path, base) + ("/" if change.kind == "directory" else "")


def relative(path: str, base: str | None) -> str:
    """`path` as seen from `base`, where it lies beneath it; what would steer a terminal is escaped."""
    if base is not None and path == base:
        path = "."
    elif base is not None:
        path = path.removeprefix(f"{base.rstrip('/')}/")
    return printable(path, keep="")


def words(change: Change, base: str | None) -> str:
    """What is to be said beside the path: sizes, modes, targets."""
    said = [_kind_words(change, base)]
    before, after = change.before, change.after
    if change.change == "modified" and before and after and before.mode != after.mode:
        said.append(f"mode {_mode(before)} → {_mode(after)}")
    if not change.undoable:
        said.append("cannot be undone")
    return ", ".join(said)


def _kind_words(change: Change, base: str | None) -> str:
    before, after = change.before, change.after
    if change.change == "renamed":
        inferred = " (inferred)" if change.inferred else ""
        return f"from {relative(change.renamed_from or UNKNOWN, base)}{inferred}"
    if change.change == "mode":
        modes = (_mode(before), _mode(after))
        return f"mode {modes[0]} → {modes[1]}" if modes[0] != modes[1] else "owner or attributes"
    if change.change == "link":
        return f"{_target(before)} → {_target(after)}"
    if change.kind == "file" and before is not None and after is not None:
        return _sizes(before, after)
    version = after if before is None else before
    if change.kind == "link":
        return f"link to {_target(version)}"
    if change.kind == "file":
        return (version and size(version.bytes)) or UNKNOWN
    return "folder" if change.kind == "directory" else "neither file, folder nor link"


def _sizes(before: Version, after: Version) -> str:
    old, new = size(before.bytes) or UNKNOWN, size(after.bytes) or UNKNOWN
    if before.bytes == after.bytes:
        return f"{new} as before, other content"
    if old == new:
        old, new = f"{count(before.bytes)} B", f"{count(after.bytes)} B"
    return f"{old} → {new}"


def _mode(version: Version | None) -> str:
    return (version and version.mode) or UNKNOWN


def _target(version: Version | None) -> str:
    return printable((version and version.target) or UNKNOWN, keep="")


def unwatched(call: Call) -> str | None:
    """What was not looked at while a command ran, in a sentence."""
    result: Any = call.result
    said: Any = result.get("unwatched") if isinstance(result, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return said if isinstance(said, str) else None


def is_here(call: Call, settings: "Settings") -> bool:
    """Whether it was made in this workspace. Outside of one what lies beneath the current folder counts."""
    if call.workspace is not None or settings.workspace is not None:
        return call.workspace == settings.workspace
    beneath = f"{os.path.realpath(settings.cwd).rstrip('/')}/"
    return any(change.path.startswith(beneath) for change in call.changes or ())


def paths_in_words(count: int) -> str:
    return "1 path" if count == 1 else f"{count:,} paths"


def call_in_words(call: Call) -> str:
    """Which call changed how much, as a person is asked about it."""
    what = begun(one_line(summary(call.tool, call.arguments)), 0, 60)
    by = "" if call.agent is None else f" of {call.agent}"
    changed = paths_in_words(call.changes_count or 0)
    return f"call {call.id[:8]}{by}, {ago(call.asked_at)}: {call.tool} {what}, which changed {changed}"


# -- can it be taken back -----------------------------------------------------------------------------


class Standing(Struct, frozen=True):
    """What became of the changes of calls since."""

    kept: frozenset[str]
    """Ids of calls whose undo data is there."""
    undone: "Undone"


def standing(view: "View", since: str | None = None) -> Standing:
    """What can be taken back, and what has been of calls asked for at that time or later."""
    from custody.tools.undone import Undone, undoing_of

    kept = frozenset(call_id.hex() for call_id in view.undo.call_ids())
    undoings = [undoing for call in _undo_calls(view, since) if (undoing := undoing_of(call)) is not None]
    return Standing(kept, Undone(reversed(undoings)))


def _undo_calls(view: "View", since: str | None) -> Iterator[Call]:
    """The newest first."""
    from custody.index import CallFilter

    at = moment(since)
    since_us = None if at is None else round(at.timestamp() * 1e6) - CLOCK_SLACK_US
    asked = CallFilter(tool=UNDO_TOOL, dry_run=False, since_us=since_us)
    cursor: str | None = None
    for _ in range(UNDO_CALLS_MAX // PAGE_CALLS):
        page = view.index.calls(asked, limit=PAGE_CALLS, cursor=cursor, refresh=False)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return


def call_standing(call: Call, stands: Standing) -> str | None:
    """Whether a call's changes can still be taken back, in a sentence; None where it changed nothing."""
    if not call.changes_count or call.dry_run:
        return None
    if call.held == "held":
        return held_in_words(call)
    by = "" if call.settled_by is None else f" by call {call.settled_by[:8]}"
    if call.held == "discarded":
        by = by or ", as it had been held for too long"
        return f"Discarded{by}: no file was ever touched."
    if call.held == "committed":
        changing = call.settled_by or call.id
        return f"Committed{by}. {_standing_of(call, changing, stands)}"
    return _standing_of(call, call.id, stands)


def _standing_of(call: Call, changing: str, stands: Standing) -> str:
    """`changing` is the id of the call that touched the files."""
    undoing = stands.undone.by(changing)
    if undoing is not None:
        return f"Undone by call {undoing[:8]}; custody undo {undoing[:8]} brings it back."
    if changing not in stands.kept:
        return "It cannot be undone: what was there before is not kept, or not any more."
    lost = sum(not change.undoable for change in call.changes or ())
    if lost and lost == len(call.changes or ()):
        return "It cannot be undone: what was there before was not kept."
    if lost:
        return f"{lost:,} of it cannot be undone; the rest can: custody undo {call.id[:8]} --force"
    return f"It can be undone: custody undo {call.id[:8]}"


def held_in_words(call: Call) -> str:
    """What can be done about changes that are held."""
    short = call.id[:8]
    ways = (f"custody commit {short}", f"custody discard {short}", f"custody show {short} --diff")
    bound = "" if call.held_digest else "; not bound to the record, which has no digest of what is held"
    return f"changes held: {call.changes_count or 0:,} ({', '.join(ways)}){bound}"


def inverse(change: Change) -> Change:
    """What taking it back does."""
    kinds: dict[str, ChangeKind] = {"created": "deleted", "deleted": "created"}
    kind = kinds.get(change.change, change.change)
    swapped = replace(change, change=kind, before=change.after, after=change.before)
    if change.renamed_from is None:
        return swapped
    return replace(swapped, path=change.renamed_from, renamed_from=change.path)
