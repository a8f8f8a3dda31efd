"""What keeps Custody from being asked although it stands in the settings, as far as files say so.

Owns the switches by which each CLI turns hooks off, programs that have gone since, and files that others may
change. Reads; changes nothing. A CLI has more reasons than a file tells: hooks it waits to be trusted with, a
folder it does not trust. Used by `plans`.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from typing import Any, cast

from custody.errors import InvalidInput
from custody.installing import hooks, servers, toml_servers
from custody.installing.jsonc import parse
from custody.installing.programs import Place, Surroundings, folder_of
from custody.installing.settings_file import read

MANAGED = "/etc/claude-code/managed-settings.json"
"""What an administrator sets for everybody who uses Claude Code."""

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

CLIENT_WORDS = 4  # the interpreter, two options, the client


def of_place(place: Place, text: str, around: Surroundings) -> list[str]:
    """Each as a sentence. Raises NotJson, NotToml."""
    if place.form is None:
        return [*_servers_gone(place, text), *_exposed(place.path)]
    found = [*_turned_off(place, text, around)]
    if lines := {line for lines in hooks.events_hooked(text).values() for line in lines}:
        found += [*_programs(lines, around), *_exposed(place.path)]
    return found


# -- switches ---------------------------------------------------------------------------------------------


def _turned_off(place: Place, text: str, around: Surroundings) -> Iterator[str]:
    if place.target == "codex":
        for scope in dict.fromkeys(("user", place.scope)):
            yield from _codex(os.path.join(folder_of("codex", around, scope), "config.toml"))
    elif place.target == "gemini":
        yield from _gemini(text)
    else:
        yield from _claude(place, text, around)


def _claude(place: Place, text: str, around: Surroundings) -> Iterator[str]:
    if _mapping(_said(text)).get("disableAllHooks") is True:
        yield "disableAllHooks is true there: no hook is run"
    user = folder_of("claude-code", around, "user")
    project = folder_of("claude-code", around, "project")
    beside = (
        os.path.join(user, "settings.json"), os.path.join(user, "settings.local.json"),
        os.path.join(project, "settings.json"), os.path.join(project, "settings.local.json"), MANAGED,
    )  # fmt: skip
    for path in dict.fromkeys(beside):
        said = {} if path == place.path else _settings(path)
        if said.get("disableAllHooks") is True:
            yield f"disableAllHooks is true in {path}: no hook is run"
        if path == MANAGED and said.get("allowManagedHooksOnly") is True:
            yield f"allowManagedHooksOnly is true in {path}: no hook of these settings is run"


def _gemini(text: str) -> Iterator[str]:
    said = _mapping(_mapping(_said(text)).get("hooksConfig"))
    if said.get("enabled") is False:
        yield "hooksConfig.enabled is false there: no hook is run"
    off: Any = said.get("disabled")
    lines = {line for lines in hooks.events_hooked(text).values() for line in lines}
    if isinstance(off, list) and any(one == hooks.NAME or one in lines for one in cast("list[Any]", off)):
        yield "hooksConfig.disabled there names hooks of Custody's: those are not run"


def _codex(config: str) -> Iterator[str]:
    try:
        said = toml_servers.meaning(read(config).text or "")
    except InvalidInput:
        yield f"{config} cannot be read, and may turn hooks off"
        return
    features = _mapping(said.get("features"))
    if features.get("hooks", features.get("codex_hooks")) is False:
        yield f"[features] hooks is false in {config}: no hook is run"
    if "hooks" in said:
        yield f"{config} has hooks too: Codex runs both, and warns when it starts"


# -- programs ---------------------------------------------------------------------------------------------


def _programs(lines: set[str], around: Surroundings) -> Iterator[str]:
    started = {path for line in lines for path in _started_by(line)}
    for path in sorted(started):
        if not os.path.exists(path):
            yield f"its hooks start {path}, which is not there: every tool is refused"
    project = os.path.realpath(around.project)
    if os.path.commonpath((project, os.path.realpath(around.home))) == project:
        return  # a folder of everything
    for path in sorted(started):
        if os.path.realpath(path).startswith(project + "/"):
            yield f"{path} lies in this project, where agents may change it: install Custody elsewhere"
            return


def _started_by(line: str) -> Iterator[str]:
    """The interpreter and the program of a line of ours; nothing of one that was written anew."""
    try:
        words = shlex.split(line)
        shell = words[:2] == ["/bin/sh", "-c"]
        run = shlex.split(words[2].rpartition("; case $? in")[0]) if shell else []
    except (ValueError, IndexError):
        return
    if len(run) > CLIENT_WORDS and run[CLIENT_WORDS - 1].endswith(hooks.OURS):
        yield run[0]
        yield run[CLIENT_WORDS - 1]


def _servers_gone(place: Place, text: str) -> Iterator[str]:
    again = "custody uninstall mcp and custody install mcp put it right"
    for name, entry in _entries(place, text):
        command = entry.get("command")
        if servers.through_proxy(entry) is None or not isinstance(command, str):
            continue
        if os.path.isabs(command) and not os.access(command, os.X_OK):
            yield f"server {name} is started by {command}, which is not there: {again}"


def _entries(place: Place, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not text.strip():
        return
    if place.toml:
        yield from (
            (name, _mapping(one)) for name, one in _mapping(toml_servers.meaning(text).get(place.key)).items()
        )
        return
    for before, found in servers.lists_of_servers(parse(text), place.key):
        yield from ((before + member.key, _mapping(member.node.value)) for member in found.children)


# -- who may change it ------------------------------------------------------------------------------------


def _exposed(path: str) -> Iterator[str]:
    """A folder with the sticky bit lets nobody replace what is another's."""
    real = os.path.realpath(path)
    for one in (real, os.path.dirname(real)):
        try:
            status = os.stat(one)
        except OSError:
            continue
        open_to_all = status.st_mode & OTHERS_MAY_WRITE and not status.st_mode & stat.S_ISVTX
        if open_to_all or status.st_uid not in (0, os.geteuid()):
            yield f"users other than you may change {one}, and take Custody out"


def _settings(path: str) -> dict[str, Any]:
    """What another file says; nothing where it cannot be read: its CLI cannot read it either."""
    try:
        return _mapping(_said(read(path).text or ""))
    except InvalidInput:
        return {}


def _said(text: str) -> Any:
    return parse(text).value if text.strip() else None


def _mapping(value: Any) -> dict[str, Any]:
    """The value, if it is one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
