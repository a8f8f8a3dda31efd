"""The built-in tool `file_write`: a file's content, put in place in one step, or added at its end.

Owns what arguments mean for the file that is to stand there. Keeping what was there, putting the new in place
and taking it back are `changes`'; where it may reach is `files`'.

Content that stands there already is left alone: no new time, no undo data, `unchanged` in the result.
"""

import base64
import binascii
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

from custody.changes import Wanted, appended_at, file_at, missing_folders
from custody.errors import ToolError
from custody.files import State, Target
from custody.records import Change, Decision, Effect, Level
from custody.tools.mutation import FINISH_SECONDS, Mutation, carried_out
from custody.tools.roots import Scope
from custody.tools.standing import check_keepable, check_room, kind_in_words, standing
from custody.tools.threads import run_in_thread
from custody.tools.tool import Context, Ended, Keep

CONTENT_BYTES_MAX = 64 * 1024 * 1024
"""Of one call: it is held in memory, and the record of the call holds it too."""

NEW_FILE_MODE = "0666"


class FileWrite:
    """Write a file."""

    name = "file_write"
    description = (
        "Write a file: its whole content, put in place in one step (a reader sees the old or the new), or "
        "with `append` more at its end. Folders that are missing are made. It can be undone."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file, inside the allowed roots."},
            "content": {"type": "string", "description": "Text, written as UTF-8."},
            "content_base64": {"type": "string", "description": "Bytes, instead of `content`."},
            "append": {"type": "boolean", "description": "Add at the end; what stands there stays. (false)"},
            "mode": {
                "type": "string",
                "pattern": "^0?[0-7]{3}$",
                "description": "Of a new file, octal, less the umask; a file there keeps its own. (0666)",
            },
            "make_parents": {"type": "boolean", "description": "Make folders that are missing. (true)"},
            "expected_sha256": {
                "type": "string",
                "pattern": "^[0-9a-fA-F]{64}$",
                "description": "Only if this is what the file holds now.",
            },
            "create": {
                "enum": ["allow", "only", "never"],
                "description": "`only` a new file, `never` a new one, or either. (allow)",
            },
        },
        "required": ["path"],
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        wrong = _wrong(arguments)
        if wrong is not None:
            return Decision("deny", "schema", wrong)
        return scope.reach.decision(arguments["path"], write=True)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(_write, arguments, context)
        return await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)


def _wrong(arguments: Mapping[str, Any]) -> str | None:
    """What the arguments say that cannot be meant; None when they make sense."""
    try:
        content = _content(arguments)
    except ValueError as error:
        return str(error)
    if len(content) > CONTENT_BYTES_MAX:
        return (
            f"The content has {len(content)} bytes; one call writes {CONTENT_BYTES_MAX} at most. "
            "Write the rest with `append`."
        )
    if arguments["path"].endswith("/"):
        return "The path ends with a slash, so it names a folder; give the file's name."
    if "expected_sha256" in arguments and arguments.get("create") == "only":
        return "`expected_sha256` asks for a file that is there, `create: only` for none."
    return None


def _content(arguments: Mapping[str, Any]) -> bytes:
    """Raises ValueError, in words for the caller."""
    if ("content" in arguments) == ("content_base64" in arguments):
        raise ValueError("Give either `content` or `content_base64`.")
    if "content_base64" in arguments:
        try:
            return base64.b64decode(arguments["content_base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"`content_base64` is not base64: {error}.") from None
    try:
        return arguments["content"].encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`content` has half a surrogate pair at character {error.start}, which is no text; "
            "give bytes as `content_base64`."
        ) from None


def _write(arguments: Mapping[str, Any], context: Context) -> Any:
    """Raises ToolError, PathRefused, UndoConflict, OSError; then nothing was changed."""
    content = _content(arguments)
    return carried_out(lambda: _planned(arguments, content, context), context, "would_write", _as_it_stands)


def _planned(arguments: Mapping[str, Any], content: bytes, context: Context) -> Mutation:
    """Look at what stands there, and say what is to. Raises ToolError, PathRefused, OSError."""
    target = context.scope.reach.target(arguments["path"], write=True)
    before = standing(target, digest=False)
    _check_kind(arguments, target, before)
    there = before.kind == "file"
    grows = there and arguments.get("append", False)
    sha256 = None if grows else hashlib.sha256(content).digest()
    if there and ("expected_sha256" in arguments or (before.size == len(content) and not grows)):
        before = standing(target, digest=True)
    _check_expected(arguments, target, before)
    unchanged = not content if grows else there and before.sha256 == sha256
    folders = missing_folders(target)
    if folders and not arguments.get("make_parents", True):
        raise ToolError(f"The folder {folders[0].target.path} does not exist; `make_parents` makes it.")
    wanted: tuple[Wanted, ...] = ()
    if not unchanged:
        check_room([(target, len(content))])
        check_keepable(context.undo, 0 if grows else before.size)
        mode = int(arguments.get("mode", NEW_FILE_MODE), 8)
        file = appended_at(target, before, content) if grows else file_at(target, content, mode=mode)
        wanted = (*folders, file)
    result = {
        "path": target.path,
        "created": not there,
        "unchanged": unchanged,
        "bytes_written": 0 if unchanged else len(content),
        "bytes_before": before.size if there else None,
        "bytes": len(content) + (before.size if grows else 0),
        "sha256": None if sha256 is None else sha256.hex(),
        "folders_made": [folder.target.path for folder in folders],
    }
    return Mutation(wanted, {target.path: before}, result)


def _check_kind(arguments: Mapping[str, Any], target: Target, before: State) -> None:
    """Raises ToolError where what stands there, or that nothing does, is not what was meant."""
    create = arguments.get("create", "allow")
    if before.kind not in ("absent", "file"):
        raise ToolError(f"{target.path} is {kind_in_words(target)}, not a file.")
    if create == "only" and before.kind == "file":
        raise ToolError(f"{target.path} is there already, and `create` is `only`. Nothing was changed.")
    if create == "never" and before.kind == "absent":
        raise ToolError(f"There is no file {target.path}, and `create` is `never`. Nothing was changed.")


def _check_expected(arguments: Mapping[str, Any], target: Target, before: State) -> None:
    """Raises ToolError where the file is not the one that was meant."""
    expected = arguments.get("expected_sha256")
    if expected is None:
        return
    if before.sha256 is None:
        raise ToolError(
            f"There is no file {target.path}; `expected_sha256` asks for one. Nothing was changed."
        )
    if before.sha256.hex() != expected.lower():
        raise ToolError(
            f"{target.path} is not the file that was expected: its sha256 is {before.sha256.hex()}, "
            f"`expected_sha256` is {expected.lower()}. Nothing was changed."
        )


def _as_it_stands(result: dict[str, Any], changes: tuple[Change, ...]) -> dict[str, Any]:
    """The digest of a file that grew is known when it has grown."""
    after = next(change.after for change in changes if change.path == result["path"])
    assert after is not None, "a file was written"
    return {**result, "sha256": after.sha256}
