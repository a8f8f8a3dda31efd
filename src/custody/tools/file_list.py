"""The built-in tool `file_list`: what is in a folder, and below it as deep as is asked.

Owns the words of the result and the bound on what is shown. The way through the tree, with what is hidden and
ignored, is `tree`'s; what may be opened is `files`'. Names are shown as they are, UTF-8 or not.
"""

import functools
import os
import stat
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import ToolError
from custody.files import Reach
from custody.records import Decision, Effect, Level, rfc3339
from custody.tools.roots import Scope
from custody.tools.search.tree import CHOOSING, Seen, Wanted, Way
from custody.tools.search.wildmatch import glob_of
from custody.tools.threads import run_in_thread
from custody.tools.tool import Context, Ended, Keep
from custody.tools.unreadable import unreadable

ENTRIES_DEFAULT = 1_000  # more than a model reads at once
ENTRIES_MAX = 10_000  # of one call: some 2 MB of its record
DEPTH_MAX = 100  # deeper than any project, and far from the longest path there can be


class FileList:
    """List a folder."""

    name = "file_list"
    description = (
        "List what is in a folder, and with `depth` what is below it: kind, size, permissions, time of each. "
        "What git ignores is left out and counted. `truncated` says whether there is more."
    )
    effect: Effect = "read"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The folder, inside the allowed roots. (.)"},
            "depth": {
                "type": "integer",
                "minimum": 1,
                "maximum": DEPTH_MAX,
                "description": "1: the folder itself, 2: its folders too, and so on. (1)",
            },
            **CHOOSING,
            "entries_max": {
                "type": "integer",
                "minimum": 1,
                "maximum": ENTRIES_MAX,
                "description": f"Most entries to show. ({ENTRIES_DEFAULT})",
            },
        },
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        asked = msgspec.convert(arguments, _Asked)
        try:
            asked.wanted()
        except ValueError as error:
            return Decision("deny", "schema", str(error))
        return scope.reach.decision(asked.path, write=False)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        asked = msgspec.convert(arguments, _Asked)
        work = functools.partial(_listed, asked, context.scope.reach, context)
        return await run_in_thread(work, context, self.name)


class _Asked(Struct, frozen=True):
    """The arguments of one call."""

    path: str = "."
    depth: int = 1
    glob: str | None = None
    hidden: bool = True
    ignored: bool = False
    entries_max: int = ENTRIES_DEFAULT

    def wanted(self) -> Wanted:
        """Raises ValueError for a glob that is none, in words for the caller."""
        return Wanted(
            depth_max=self.depth,
            hidden=self.hidden,
            ignored=self.ignored,
            glob=None if self.glob is None else glob_of(self.glob),
        )


def _listed(asked: _Asked, reach: Reach, context: Context) -> dict[str, Any]:
    """Raises CustodyError."""
    entries: list[dict[str, Any]] = []
    beyond = 0
    try:
        with reach.open_folder(asked.path) as opened:
            way = Way(opened, reach, asked.wanted(), lambda: context.cancelled)
            for seen in way:
                if len(entries) < asked.entries_max:
                    entry = _entry(seen, opened.path)
                    entries += [] if entry is None else [entry]
                else:
                    beyond += 1
    except NotADirectoryError as error:
        raise ToolError(
            f"{asked.path} is no folder; file_read reads a file.", type="NotADirectoryError"
        ) from error
    except OSError as error:
        raise unreadable(error, asked.path) from error
    return {
        "path": opened.path,
        "entries": entries,
        "truncated": beyond > 0 or way.left_out.too_many,
        "left_out": {
            "entries": beyond,
            "entries_exact": not way.left_out.too_many,
            **way.left_out.said(),
        },
    }


def _entry(seen: Seen, folder: str) -> dict[str, Any] | None:
    """None: it vanished meanwhile."""
    try:
        status = os.stat(seen.name, dir_fd=seen.folder_fd, follow_symlinks=False)
        target = os.readlink(seen.name, dir_fd=seen.folder_fd) if stat.S_ISLNK(status.st_mode) else None
    except OSError:
        return None
    return {
        "path": os.path.join(folder, seen.relative),
        "kind": seen.kind,
        "bytes": status.st_size if stat.S_ISREG(status.st_mode) else None,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "modified_at": _time(status.st_mtime_ns),
        "target": target,
    }


def _time(at_ns: int) -> str | None:
    """None for a time that no calendar has: a file can be given any."""
    try:
        return rfc3339(at_ns // 1000)
    except OverflowError:
        return None
