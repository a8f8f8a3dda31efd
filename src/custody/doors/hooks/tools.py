"""What tools of coding CLIs do, as far as Custody acts on it: run a command, change or read a file, fetch.

Owns one table for all CLIs, the paths in a tool's arguments, and the Custody tool that a rule may mean by it.
Pure. A tool that is not known is guarded by its name and recorded; nothing more is known of it. Used by
`answering`.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any, Literal, cast

from msgspec import Struct

from custody.doors.hooks.event import HookEvent, HookUnclear
from custody.doors.hooks.own_files import spellings
from custody.records import Effect

Does = Literal["command", "change", "read", "fetch", "patch"]

PATH_NAMES = ("file_path", "notebook_path", "absolute_path", "path", "dir_path")
"""Where the arguments of file tools say which file."""

LISTS_OF_PATHS = ("paths", "include")
"""Where those of tools that read say which files."""

LOOKING = ("read", "get", "list", "search", "find", "view", "show", "stat", "info", "tree", "glob", "grep")
"""A word of these in the name of a tool that nobody knows says that it changes nothing."""

TOOLS: Mapping[str, Does] = {
    # Claude Code
    "Bash": "command", "Monitor": "command",
    "Edit": "change", "MultiEdit": "change", "Write": "change", "NotebookEdit": "change",
    "Read": "read", "NotebookRead": "read", "Glob": "read", "Grep": "read", "LS": "read",
    "WebFetch": "fetch",
    # Codex says `Bash` of its shells
    "apply_patch": "patch",
    # Gemini CLI
    "run_shell_command": "command",
    "write_file": "change", "replace": "change",
    "read_file": "read", "read_many_files": "read", "glob": "read", "grep_search": "read",
    "search_file_content": "read", "list_directory": "read",
    "web_fetch": "fetch",
}  # fmt: skip

EFFECTS: Mapping[Does, Effect] = {
    "command": "unknown",
    "change": "write",
    "patch": "write",
    "read": "read",
    "fetch": "read",
}

PATCH_PATHS_MAX = 1_000
_PATCHED = re.compile(
    r"^[^\S\n]*\*\*\*[^\S\n]*(?:Add File|Update File|Delete File|Move to):[^\S\n]?([^\n]*\S)[^\S\n]*$",
    re.MULTILINE | re.IGNORECASE,
)
"""Codex takes blanks around such a line; one too many here is a file that is looked at for nothing."""

COMMAND_SECONDS: Mapping[str, float] = {"claude-code": 120.0}
"""How long a CLI lets a command run that says nothing of it; None: as Custody's settings say."""

SPARE_SECONDS = 1.0
"""So much before the CLI ends a command Custody does, and says why on its standard error."""

SECONDS_MIN = 0.1
"""Of a deadline: one that rounds to nothing would be none."""

SECONDS_MAX = 7 * 86_400.0
"""What a model may ask for at most; CLIs give it less."""


class Use(Struct, frozen=True, kw_only=True):
    """One use of a tool, as far as it is known what that does."""

    effect: Effect = "unknown"
    command: str | None = None
    writes: tuple[str, ...] = ()
    """Paths as they were given."""
    reads: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Paths in the arguments of a tool that nobody knows."""
    looks: bool = False
    """Its name says that it changes nothing."""
    means: tuple[tuple[str, dict[str, Any]], ...] = ()
    """The tool of Custody's that does the same, with its arguments: rules for it count here, too."""


def use_of(event: HookEvent) -> Use:
    """Raises HookUnclear for a tool that is known and does not say what it would do: a CLI may read more out
    of its arguments than is read here."""
    arguments, does = event.arguments, TOOLS.get(event.tool or "")
    if does is None:
        words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", event.tool or "").lower())
        named = (arguments.get(name) for name in PATH_NAMES)
        names = tuple(path for path in named if isinstance(path, str) and path.strip())
        return Use(names=names, looks=not set(LOOKING).isdisjoint(words))
    effect = EFFECTS[does]
    if does == "command":
        command = _text(arguments, "command")
        if command is None or "\0" in command:
            raise HookUnclear(f"{event.tool} says no command that can be read.")
        return Use(effect=effect, command=command, means=(("shell", {"command": command}),))
    if does == "fetch":
        url = _text(arguments, "url")
        return Use(effect=effect, means=() if url is None else (("http_fetch", {"url": url}),))
    if does == "patch":
        patched = _patched(event)
        return Use(effect=effect, writes=patched, means=_of_files("file_write", patched, event))
    paths = _paths(event)
    if does == "read":
        more = tuple(path for name in LISTS_OF_PATHS for path in _texts(arguments.get(name)))
        reads = (*paths, *more)
        return Use(effect=effect, reads=reads, means=_of_files("file_read", reads, event))
    if not paths:
        raise HookUnclear(f"{event.tool} names no file to be written.")
    return Use(effect=effect, writes=paths, means=_of_files("file_write", paths, event))


def _of_files(tool: str, paths: tuple[str, ...], event: HookEvent) -> tuple[tuple[str, dict[str, Any]], ...]:
    """For each file, however its path may be read: a rule must not be got around by a blank."""
    spelt = dict.fromkeys(form for path in paths for form in spellings(path, event.cwd or "/"))
    return tuple((tool, {"path": form}) for form in spelt)


def _paths(event: HookEvent) -> tuple[str, ...]:
    """Raises HookUnclear for one that is no text."""
    found: list[str] = []
    for name in PATH_NAMES:
        said: Any = event.arguments.get(name)
        if isinstance(said, str) and said.strip():
            found.append(said)
        elif said not in (None, ""):
            raise HookUnclear(f"{name} of {event.tool} is no path.")
    return tuple(found)


def _texts(value: Any) -> tuple[str, ...]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return tuple(item for item in items if isinstance(item, str) and item.strip())


def _patched(event: HookEvent) -> tuple[str, ...]:
    """Files that a patch in Codex's form names. Raises HookUnclear."""
    body = _text(event.arguments, "command") or _text(event.arguments, "input") or ""
    paths = tuple(dict.fromkeys(_PATCHED.findall(body)))
    if not paths or len(paths) > PATCH_PATHS_MAX:
        count = "no file" if not paths else f"{len(paths)} files, {PATCH_PATHS_MAX} at most are looked at,"
        raise HookUnclear(f"The patch names {count} to be changed.")
    return paths


def command_seconds(event: HookEvent) -> float | None:
    """The deadline of a command, from what its CLI would give it; None: none is known, 0: it has none."""
    if in_background(event.arguments):
        return 0.0
    said = event.arguments.get("timeout", event.arguments.get("timeout_ms"))
    seconds = COMMAND_SECONDS.get(event.cli)
    if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
        seconds = min(said, SECONDS_MAX * 1000) / 1000
    return None if seconds is None else max(seconds - SPARE_SECONDS, seconds / 2, SECONDS_MIN)


def in_background(arguments: Any) -> bool:
    """Whether a tool ends while its command goes on."""
    if not isinstance(arguments, dict):  # not kept, or purged
        return False
    said = cast("dict[str, Any]", arguments)
    return said.get("run_in_background") is True or said.get("is_background") is True


def rewritten(event: HookEvent, argv: list[str]) -> dict[str, Any]:
    """The tool's arguments with another command in the place of its own."""
    return {**event.arguments, "command": shlex.join(argv)}


def adopted_in(event: HookEvent) -> str | None:
    """The call that a rewritten command names, where a CLI tells of it in its changed form."""
    command = event.arguments.get("command")
    found = _ADOPTING.search(command) if isinstance(command, str) else None
    return None if found is None else found[1]


_ADOPTING = re.compile(r" exec --adopt ([0-9a-f]{16}) ")


def _text(arguments: Mapping[str, Any], name: str) -> str | None:
    value = cast("Any", arguments.get(name))
    return value if isinstance(value, str) and value else None
