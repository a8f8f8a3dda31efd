"""The built-in tool `file_delete`: files, links and whole trees.

Owns what may go: never a root, the working directory, or a tree with something protected in it. A symbolic
link goes itself, never what it points to. Keeping what goes, and giving it back, are `changes`'.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from custody.changes import nothing_at
from custody.errors import PathRefused, ToolError
from custody.files import Target, TooDeep, TooMany, parent_of, walk
from custody.records import Decision, Effect, EntryKind, Level
from custody.tools.mutation import FINISH_SECONDS, Mutation, carried_out
from custody.tools.roots import Scope
from custody.tools.standing import check_keepable, kind_in_words, standing
from custody.tools.threads import run_in_thread
from custody.tools.tool import Context, Ended, Keep

PATHS_MAX = 1_000
"""Of one call: each is resolved before the call is allowed, while other calls wait. A folder is one."""

ENTRIES_MAX = 100_000
"""Of all trees of one call. Each is read, kept and held in memory: about a second for 5,000."""
DEPTH_MAX = 256
"""Folders within folders. The walk holds two descriptors for each, of the 1,024 that are usual."""

NAMED_MAX = 10  # missing paths that a message names

_ONLY = "only files, folders and links are deleted, which can be given back. Nothing was deleted."


class FileDelete:
    """Delete files."""

    name = "file_delete"
    description = (
        "Delete a file, a link (never what it points to) or a folder: `path`, or several as `paths`. A "
        "folder that is not empty needs `recursive`. All of it goes or nothing, and it can be undone."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "What to delete, inside the allowed roots."},
            "paths": {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": PATHS_MAX,
                "description": "Several, instead of `path`.",
            },
            "recursive": {
                "type": "boolean",
                "description": "Also folders that are not empty, with all that is in them. (false)",
            },
            "missing_ok": {
                "type": "boolean",
                "description": "What is not there is no error. (false)",
            },
        },
        "oneOf": [{"required": ["path"]}, {"required": ["paths"]}],
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        return next(filter(None, (_refusal(scope, path) for path in _paths(arguments))), None)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(_delete, arguments, context)
        return await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)


class _Doomed(Struct, frozen=True):
    """One path that is to go."""

    target: Target
    kind: EntryKind
    bytes: int


def _paths(arguments: Mapping[str, Any]) -> list[str]:
    return arguments.get("paths") or [arguments["path"]]


def _refusal(scope: Scope, path: str) -> Decision | None:
    """Why this path cannot go, by what it is called; None where it may be tried."""
    reach = scope.reach
    decision = reach.decision(path, write=True, follow=False)
    if decision is not None:
        return decision
    try:
        target = reach.target(path, write=True, follow=False)
    except OSError:
        return None
    for kept, what in (
        (os.path.realpath(scope.cwd), "the working directory"),
        *((r, "a root") for r in scope.roots),
    ):
        if kept == target.path or kept.startswith(target.path + "/"):
            return Decision(
                "deny", "path", f"{target.path} is, or holds, {what} ({kept}), which is not deleted."
            )
    return None


def _delete(arguments: Mapping[str, Any], context: Context) -> Any:
    """Raises ToolError, PathRefused, UndoConflict, OSError; then nothing was deleted."""
    return carried_out(lambda: _planned(arguments, context), context, "would_delete")


def _planned(arguments: Mapping[str, Any], context: Context) -> Mutation:
    """Look at all that is to go. Raises ToolError, PathRefused, OSError."""
    doomed: dict[str, _Doomed] = {}
    named: list[str] = []
    missing: list[str] = []
    for path in _paths(arguments):
        target = context.scope.reach.target(path, write=True, follow=False)
        found = list(_doomed(target, arguments, context, ENTRIES_MAX - len(doomed)))
        doomed.update((one.target.path, one) for one in found)
        (named if found else missing).append(target.path)
    if missing and not arguments.get("missing_ok"):
        raise ToolError(f"There is no {' and no '.join(missing[:NAMED_MAX])}; nothing was deleted.")
    check_keepable(context.undo, sum(one.bytes for one in doomed.values()))
    kinds = Counter(one.kind for one in doomed.values())
    result = {
        "deleted": list(dict.fromkeys(named)),
        "missing": missing,
        "files": kinds["file"],
        "folders": kinds["directory"],
        "links": kinds["link"],
        "bytes": sum(one.bytes for one in doomed.values()),
    }
    return Mutation([nothing_at(one.target) for one in doomed.values()], {}, result)


def _doomed(
    target: Target, arguments: Mapping[str, Any], context: Context, entries_max: int
) -> Iterator[_Doomed]:
    """The path and all that is below it; nothing where nothing stands."""
    found = standing(target, digest=False)
    if found.kind == "absent":
        return
    if found.kind == "other":
        raise ToolError(f"{target.path} is {kind_in_words(target)}; {_ONLY}")
    yield _Doomed(target, found.kind, found.size)
    if found.kind == "directory":
        yield from _below(target, found.device, arguments, context, max(0, entries_max - 1))


def _below(
    folder: Target, device: int, arguments: Mapping[str, Any], context: Context, entries_max: int
) -> Iterator[_Doomed]:
    protected = context.scope.reach.protected
    try:
        # Any name in it will do: what is wanted is the folder, opened beneath its root.
        with parent_of(Target(folder.root, os.path.join(folder.relative, "any"))) as (fd, _):
            for entry in walk(fd, entries_max=entries_max, depth_max=DEPTH_MAX):
                target = Target(folder.root, os.path.join(folder.relative, entry.relative))
                if not arguments.get("recursive"):
                    raise ToolError(
                        f"{folder.path} is a folder that is not empty; `recursive` deletes it as well."
                    )
                if entry.kind == "other":
                    raise ToolError(f"{target.path} is {kind_in_words(target)}; {_ONLY}")
                if entry.stat.st_dev != device:
                    raise ToolError(f"{target.path} is on another disk, mounted there; nothing was deleted.")
                refusal = protected.refusal(target.path, write=True)
                if refusal is not None:
                    raise PathRefused(f"{folder.path} was not deleted. {refusal}")
                yield _Doomed(target, entry.kind, entry.stat.st_size if entry.kind == "file" else 0)
    except TooDeep as error:
        raise ToolError(
            f"{folder.path} holds folders more than {DEPTH_MAX} levels deep; nothing was deleted. "
            f"Delete {error.details['relative']} first, in a call of its own."
        ) from None
    except TooMany:
        raise ToolError(
            f"{folder.path} holds more than the {ENTRIES_MAX} files and folders that one call deletes. "
            "Nothing was deleted; delete the folders in it one by one."
        ) from None
