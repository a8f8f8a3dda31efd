"""The built-in tool `file_edit`: exact replacements in one file or in several, all of them or none.

Owns what arguments mean and the bounds; what an edit is, is `edits`'. A file must not change between being
read and being put in place: `changes` sees to that.
"""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.changes import file_at, unified
from custody.errors import ToolError
from custody.files import State, Target
from custody.records import Decision, Effect, Level
from custody.tools.edits import Edit, edited
from custody.tools.mutation import FINISH_SECONDS, Mutation, carried_out
from custody.tools.roots import Scope
from custody.tools.standing import check_keepable, check_room, kind_in_words, read_whole, standing
from custody.tools.threads import run_in_thread
from custody.tools.tool import Context, Ended, Keep

FILE_BYTES_MAX = 16 * 1024 * 1024
"""Of a file to edit: it is held in memory twice, and what a person or a model edits by hand is smaller."""

FILES_MAX = 1_000  # of one call, as all of them are held in memory until the first is put in place
EDITS_MAX = 1_000  # of one file; each is a pass over it

_EDITS: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": EDITS_MAX,
    "items": {
        "type": "object",
        "properties": {
            "old": {"type": "string", "minLength": 1, "description": "Text that stands there, exactly."},
            "new": {"type": "string", "description": "What is to stand there instead."},
            "count": {"type": "integer", "minimum": 1, "description": "How often `old` stands there. (1)"},
        },
        "required": ["old", "new"],
        "additionalProperties": False,
    },
    "description": "Replacements, made one after another.",
}


class FileEdit:
    """Edit files."""

    name = "file_edit"
    description = (
        "Replace exact text in a file (`path`, `edits`) or in several (`files`): all of it or nothing. `old` "
        "must stand there exactly `count` times. Encoding and line endings stay. It can be undone."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file, inside the allowed roots."},
            "edits": _EDITS,
            "files": {
                "type": "array",
                "minItems": 1,
                "maxItems": FILES_MAX,
                "items": {
                    "type": "object",
                    "properties": {"path": {"type": "string"}, "edits": _EDITS},
                    "required": ["path", "edits"],
                    "additionalProperties": False,
                },
                "description": "Several files, instead of `path` and `edits`.",
            },
        },
        "oneOf": [{"required": ["path", "edits"]}, {"required": ["files"]}],
        "dependentRequired": {"edits": ["path"], "path": ["edits"]},
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        for asked in _files(arguments):
            for edit in asked.edits:
                if not (_is_text(edit.old) and _is_text(edit.new)):
                    return Decision(
                        "deny", "schema", "`old` and `new` are text; half a surrogate pair in them is not."
                    )
            decision = scope.reach.decision(asked.path, write=True)
            if decision is not None:
                return decision
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(_edit, arguments, context)
        return await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)


class _Asked(Struct, frozen=True):
    """The edits of one file."""

    path: str
    edits: tuple[Edit, ...]


class _Edited(Struct, frozen=True):
    """One file as it stands and as it is to stand."""

    target: Target
    before: State
    content: bytes
    result: dict[str, Any]


def _files(arguments: Mapping[str, Any]) -> tuple[_Asked, ...]:
    return msgspec.convert(arguments.get("files") or [arguments], tuple[_Asked, ...])


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _edit(arguments: Mapping[str, Any], context: Context) -> Any:
    """Raises ToolError, PathRefused, UndoConflict, OSError; then nothing was changed."""
    return carried_out(lambda: _planned(arguments, context), context, "would_edit")


def _planned(arguments: Mapping[str, Any], context: Context) -> Mutation:
    """Read and edit every file in memory. Raises ToolError, PathRefused, OSError."""
    files: dict[str, _Edited] = {}
    for asked in _files(arguments):
        one = _edited(asked, context)
        if one.target.path in files:
            raise ToolError(f"{one.target.path} is named twice; put all its edits into one.")
        files[one.target.path] = one
    changed = [one for one in files.values() if not one.result["unchanged"]]
    check_room((one.target, len(one.content)) for one in changed)
    check_keepable(context.undo, sum(one.before.size for one in changed))
    results = [one.result for one in files.values()]
    return Mutation(
        wanted=[file_at(one.target, one.content) for one in changed],
        expected={one.target.path: one.before for one in changed},
        result={"files": results} if "files" in arguments else results[0],
    )


def _edited(asked: _Asked, context: Context) -> _Edited:
    """Read a file and edit it in memory."""
    target = context.scope.reach.target(asked.path, write=True)
    before, old = _read(target)
    new = edited(old, asked.edits, target.path)
    diff = unified(old, new, target.path)
    result = {
        "path": target.path,
        "replaced": sum(edit.count for edit in asked.edits),
        "unchanged": new == old,
        "bytes_before": len(old),
        "bytes": len(new),
        "sha256": hashlib.sha256(new).hexdigest(),
        "diff": diff,
    }
    return _Edited(target, before, new, result)


def _read(target: Target) -> tuple[State, bytes]:
    """What stands there, with its content. Raises ToolError for what is no file, or a large one."""
    found = standing(target, digest=False)
    if found.kind == "absent":
        raise ToolError(f"There is no file {target.path}.")
    if found.kind != "file":
        raise ToolError(f"{target.path} is {kind_in_words(target)}, not a file.")
    if found.size > FILE_BYTES_MAX:
        raise ToolError(
            f"{target.path} has {found.size} bytes; a file to edit has {FILE_BYTES_MAX} at most. "
            "A program run with exec can change a larger one."
        )
    return read_whole(target)
