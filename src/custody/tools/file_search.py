"""The built-in tool `file_search`: the lines of files that match a pattern.

Owns what a caller asks for, the bounds and the words of the result. It goes three steps: which files there
are (`tree`), without secrets, links and what git ignores; where there are many, which of them ripgrep would
show (`ripgrep`); and the search itself (`matching`) in files opened beneath the root. The last step alone
says what matches, so that with ripgrep and without it the result is the same.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.errors import CustodyError, SandboxError, ToolError
from custody.files import Opened, Reach
from custody.records import Decision, Effect, Level
from custody.tools.roots import Scope
from custody.tools.search import ripgrep
from custody.tools.search.matching import as_text, matching_lines, occurs, pattern_of
from custody.tools.search.tree import CHOOSING, LeftOut, Seen, Wanted, Way
from custody.tools.search.wildmatch import PATTERN_BYTES_MAX, glob_of
from custody.tools.threads import run_in_thread
from custody.tools.tool import Context, Ended, Keep
from custody.tools.unreadable import unreadable

MATCHES_DEFAULT = 200  # lines; more than a model reads at once
MATCHES_MAX = 5_000
CONTEXT_LINES_MAX = 20
CHARACTERS_MAX = 2 * 1024 * 1024  # of all lines in a result together, whatever their number

FILES_MAX = 50_000
"""Looked into by one call: some seconds without ripgrep. A tree that has more is searched in parts."""
FILE_BYTES_MAX = 16 * 1024 * 1024  # a larger file is data, or a log for which `file_read` has line ranges
TOTAL_BYTES_MAX = 2 * 1024 * 1024 * 1024  # a second or two from the page cache
DEPTH_MAX = 1_000  # no path that can be opened is deeper in practice; names in all are bounded in `tree`

RIPGREP_FILES_MIN = 200
"""Below this the start of a process takes longer than the reading."""

Engine = Literal["custody", "ripgrep"]


class FileSearch:
    """Search in files."""

    name = "file_search"
    description = (
        "Find the lines of files that match a regular expression (RE2) or a text, in a file or in a folder. "
        "What git ignores, binary files and secrets are left out and counted. `truncated` says whether there "
        "are more matches, `searched_all` whether every file was looked into."
    )
    effect: Effect = "read"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "pattern": {
                "type": "string",
                "minLength": 1,
                "maxLength": PATTERN_BYTES_MAX,
                "description": "Regular expression in RE2's syntax, matched line by line.",
            },
            "literal": {
                "type": "boolean",
                "description": "The pattern is a text, not an expression. (false)",
            },
            "case_sensitive": {"type": "boolean", "description": "Upper and lower case differ. (true)"},
            "path": {"type": "string", "description": "Folder or file, inside the allowed roots. (.)"},
            **CHOOSING,
            "context_lines": {
                "type": "integer",
                "minimum": 0,
                "maximum": CONTEXT_LINES_MAX,
                "description": "Lines to show before and after each match. (0)",
            },
            "matches_max": {
                "type": "integer",
                "minimum": 1,
                "maximum": MATCHES_MAX,
                "description": f"Most matching lines to show. ({MATCHES_DEFAULT})",
            },
        },
        "required": ["pattern"],
        "additionalProperties": False,
    }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        asked = msgspec.convert(arguments, _Asked)
        try:
            asked.compiled()
            asked.wanted()
        except ValueError as error:
            return Decision("deny", "schema", str(error))
        return scope.reach.decision(asked.path, write=False)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        asked = msgspec.convert(arguments, _Asked)
        reach = context.scope.reach
        listing = await run_in_thread(functools.partial(_files, asked, reach, context), context, self.name)
        if not isinstance(listing.result, _Files):
            return listing
        files = listing.result
        engine: Engine = "custody"
        chosen: Sequence[str] = files.files
        if len(files.files) >= RIPGREP_FILES_MIN:
            found = await _with_ripgrep(asked, files, reach, context)
            if found is not None:
                engine, chosen = "ripgrep", found
        work = functools.partial(_search, asked, files, chosen, engine, reach, context)
        ended = await run_in_thread(work, context, self.name)
        return msgspec.structs.replace(ended, started_ns=listing.started_ns)


class _Asked(Struct, frozen=True):
    """The arguments of one call."""

    pattern: str
    literal: bool = False
    case_sensitive: bool = True
    path: str = "."
    glob: str | None = None
    hidden: bool = True
    ignored: bool = False
    context_lines: int = 0
    matches_max: int = MATCHES_DEFAULT

    def compiled(self) -> Any:
        """Raises ValueError for a pattern that is none, in words for the caller."""
        return pattern_of(self.pattern, literal=self.literal, case_sensitive=self.case_sensitive)

    def wanted(self) -> Wanted:
        """Raises ValueError for a glob that is none, in words for the caller."""
        glob = None if self.glob is None else glob_of(self.glob)
        return Wanted(depth_max=DEPTH_MAX, hidden=self.hidden, ignored=self.ignored, glob=glob)


# -- which files there are ------------------------------------------------------------------------------


class _Files(Struct):
    """What is to be looked into."""

    path: str
    """What was asked for: a folder, or a file."""
    folder: str
    """What `files` are told from."""
    files: list[str]
    left_out: dict[str, int]
    """How many, by reason."""
    all_of_them: bool
    """False where a bound was met."""


def _files(asked: _Asked, reach: Reach, context: Context) -> _Files:
    """Raises CustodyError."""
    try:
        try:
            opened = reach.open_folder(asked.path)
        except NotADirectoryError:
            return _one_file(asked, reach)
        with opened:
            return _files_below(opened, asked, reach, context)
    except OSError as error:
        raise unreadable(error, asked.path) from error


def _one_file(asked: _Asked, reach: Reach) -> _Files:
    with reach.open(asked.path) as opened:
        if opened.status.st_size > FILE_BYTES_MAX:
            raise ToolError(
                f"{opened.path} has {opened.status.st_size} bytes; {FILE_BYTES_MAX} is the most that is "
                "searched. file_read reads it in parts."
            )
        folder, name = os.path.split(opened.path)
        return _Files(opened.path, folder, [name], _none_left_out(), all_of_them=True)


def _files_below(opened: Opened, asked: _Asked, reach: Reach, context: Context) -> _Files:
    found = _Files(opened.path, opened.path, [], _none_left_out(), all_of_them=True)
    total_bytes = 0
    way = Way(opened, reach, asked.wanted(), lambda: context.cancelled)
    for seen in way:
        if seen.kind != "file":
            continue
        reason, size = _why_not(seen, opened.path, reach)
        if reason is not None:
            found.left_out[reason] += 1
        elif size >= 0:
            total_bytes += size
            if len(found.files) == FILES_MAX or total_bytes > TOTAL_BYTES_MAX:
                found.all_of_them = False
                break
            found.files.append(seen.relative)
    found.all_of_them = found.all_of_them and not way.left_out.too_many
    for reason, count in way.left_out.said().items():
        found.left_out[reason] += count
    return found


def _none_left_out() -> dict[str, int]:
    """All the reasons there are for not showing a file."""
    return {**LeftOut().said(), "too_large": 0, "binary": 0}


def _why_not(seen: Seen, folder: str, reach: Reach) -> tuple[str | None, int]:
    """Why it is not looked into, and its size: -1 where it vanished meanwhile."""
    try:
        status = os.stat(seen.name, dir_fd=seen.folder_fd, follow_symlinks=False)
    except OSError:
        return None, -1
    inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
    path = os.path.join(folder, seen.relative)
    if reach.protected.refusal(path, write=False, inode=inode) is not None:
        return "protected", 0
    return ("too_large", 0) if status.st_size > FILE_BYTES_MAX else (None, status.st_size)


# -- which of them ripgrep would show -------------------------------------------------------------------


async def _with_ripgrep(asked: _Asked, files: _Files, reach: Reach, context: Context) -> list[str] | None:
    """The files to look into, in order; None where ripgrep is not there or cannot tell."""
    environment = context.environment({})
    program = ripgrep.program(environment, reach.roots)
    expression = ripgrep.expression_for(
        asked.pattern, literal=asked.literal, case_sensitive=asked.case_sensitive
    )
    if program is None or expression is None:
        return None
    chosen: list[str] = []
    for command, some in ripgrep.commands(
        program,
        files.folder,
        files.files,
        expression,
        literal=asked.literal,
        case_sensitive=asked.case_sensitive,
        environment=environment,
        deadline_seconds=context.remaining_seconds(),
    ):
        try:
            named = ripgrep.named(await context.run_process(command))
        except SandboxError:
            return None
        if named is None:
            return None
        chosen += [file for file in some if file in named]
    return chosen


# -- the search -----------------------------------------------------------------------------------------


class _Search:
    """The matches of one call, as far as its bounds go."""

    def __init__(self, asked: _Asked) -> None:
        self.asked = asked
        self.pattern = asked.compiled()
        self.matches: list[dict[str, Any]] = []
        self.files_matched = 0
        self.binary = 0
        self.unreadable = 0
        self.characters_left = CHARACTERS_MAX
        self.truncated = False

    def look_into(self, path: str, data: bytes) -> None:
        text, encoding = as_text(data)
        if encoding is None:
            self.binary += occurs(text, self.pattern)
            return
        found = False
        for line in matching_lines(text, encoding, self.pattern, self.asked.context_lines):
            if len(self.matches) == self.asked.matches_max or self.characters_left <= 0:
                self.truncated = True
                return
            self.files_matched += not found
            found = True
            said = {"path": path, "line": line.number, "column": line.column, "text": line.text}
            if line.cut_characters:
                said["cut_characters"] = line.cut_characters
            if self.asked.context_lines:
                said |= {"before": list(line.before), "after": list(line.after)}
            self.matches.append(said)
            self.characters_left -= len(line.text) + sum(map(len, line.before + line.after))


def _search(
    asked: _Asked, files: _Files, chosen: Sequence[str], engine: Engine, reach: Reach, context: Context
) -> dict[str, Any]:
    """Raises CustodyError."""
    search = _Search(asked)
    for file in chosen:
        if context.cancelled:
            raise ToolError("The search was stopped.")
        path = os.path.join(files.folder, file)
        data = _content(path, reach, search)
        if data is not None:
            search.look_into(path, data)
        if search.truncated:
            break
    return {
        "path": files.path,
        "engine": engine,
        "matches": search.matches,
        "truncated": search.truncated,
        "files_matched": search.files_matched,
        "files": len(files.files),
        "searched_all": files.all_of_them and not search.truncated,
        "left_out": {
            **files.left_out,
            "binary": search.binary,
            "unreadable": files.left_out["unreadable"] + search.unreadable,
        },
    }


def _content(path: str, reach: Reach, search: _Search) -> bytes | None:
    """The file, opened beneath the root anew; None where it is not what it was when it was listed.

    What may not be opened by now is not counted: a count would tell what ripgrep saw behind a link that was
    swapped in.
    """
    try:
        with reach.open(path) as opened:
            if opened.path != path:
                return None
            data = bytearray()
            while chunk := os.read(opened.fd, FILE_BYTES_MAX + 1 - len(data)):
                data += chunk
            return bytes(data) if len(data) <= FILE_BYTES_MAX else None
    except PermissionError:
        search.unreadable += 1
    except (OSError, CustodyError):
        pass
    return None
