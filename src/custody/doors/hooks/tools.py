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

from custody.doors.hooks.event import HookEvent
from custody.records import Effect

Does = Literal["command", "change", "read", "fetch", "patch"]

PATH_NAMES = ("file_path", "notebook_path", "absolute_path", "path", "dir_path")
"""Where the arguments of file tools say which file."""

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
_PATCHED = re.compile(r"^\*\*\* (?:Add File|Update File|Delete File|Move to): (.+?)\s*$", re.MULTILINE)

COMMAND_SECONDS: Mapping[str, float] = {"claude-code": 120.0}
"""How long a CLI lets a command run that says nothing of it; None: as Custody's settings say."""

SPARE_SECONDS = 1.0
"""So much before the CLI ends a command Custody does, and says why on its standard error."""


class Use(Struct, frozen=True, kw_only=True):
    """One use of a tool, as far as it is known what that does."""

    effect: Effect = "unknown"
    command: str | None = None
    writes: tuple[str, ...] = ()
    """Paths as they were given."""
    reads: tuple[str, ...] = ()
    means: tuple[tuple[str, dict[str, Any]], ...] = ()
    """The tool of Custody's that does the same, with its arguments: rules for it count here, too."""


def use_of(event: HookEvent) -> Use:
    arguments, does = event.arguments, TOOLS.get(event.tool or "")
    if does is None:
        return Use()
    effect = EFFECTS[does]
    if does == "command":
        command = _text(arguments, "command")
        means = () if command is None else (("shell", {"command": command}),)
        return Use(effect=effect, command=command, means=means)
    if does == "fetch":
        url = _text(arguments, "url")
        return Use(effect=effect, means=() if url is None else (("http_fetch", {"url": url}),))
    if does == "patch":
        return Use(effect=effect, writes=_patched(arguments))
    paths = tuple(path for name in PATH_NAMES if (path := _text(arguments, name)) is not None)
    if does == "read":
        return Use(effect=effect, reads=paths, means=_of_file("file_read", paths))
    return Use(effect=effect, writes=paths, means=_of_file("file_write", paths))


def _of_file(tool: str, paths: tuple[str, ...]) -> tuple[tuple[str, dict[str, Any]], ...]:
    return ((tool, {"path": paths[0]}),) if paths else ()


def _patched(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Files that a patch in Codex's form names."""
    body = _text(arguments, "command") or _text(arguments, "input") or ""
    return tuple(dict.fromkeys(_PATCHED.findall(body)))


def command_seconds(event: HookEvent) -> float | None:
    """The deadline of a command, from what its CLI would give it; None: none is known, 0: it has none."""
    if in_background(event.arguments):
        return 0.0
    said = event.arguments.get("timeout", event.arguments.get("timeout_ms"))
    seconds = COMMAND_SECONDS.get(event.cli)
    if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
        seconds = said / 1000
    return None if seconds is None else max(seconds - SPARE_SECONDS, seconds / 2)


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
