"""What an install or uninstall would change, file by file, before anything is changed; and the change itself.

Owns the order: every file is read and edited in memory first, so that one that cannot be edited stops all of
it; then each is copied and replaced. A copy beside a file is what it was before Custody came: it says what to
give back exactly, and goes when nothing of ours is left. Used by `custody install`, `uninstall` and `status`.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from custody.errors import InvalidInput
from custody.installing import hindrances, hooks, servers, toml_servers
from custody.installing.jsonc import parse
from custody.installing.programs import Place, Scope, Surroundings, Target, is_there, places
from custody.installing.servers import Proxy, Server
from custody.installing.settings_file import (
    SettingsFile,
    SettingsUnusable,
    backup_of,
    keep_backup,
    read,
    remove,
    remove_backup,
    write,
)

State = Literal["installed", "partly", "outdated", "absent", "broken"]


class Ours(Struct, frozen=True, kw_only=True):
    """What is put in."""

    lines: Mapping[str, Sequence[hooks.HookLine]]
    """Of each CLI."""
    proxy: Proxy


class Planned(Struct, frozen=True, kw_only=True):
    """One file, and what it is to become."""

    places: tuple[Place, ...]
    file: SettingsFile
    text: str | None
    """None: it is to go."""
    servers: tuple[Server, ...] = ()

    @property
    def changes(self) -> bool:
        return self.text != self.file.text


class Look(Struct, frozen=True, kw_only=True):
    """How one place stands."""

    place: Place
    state: State
    notes: tuple[str, ...] = ()
    servers: tuple[Server, ...] = ()
    backup: str | None = None


def wanted(target: Target | None, around: Surroundings, scope: Scope) -> list[Place]:
    """The places that are meant: of one target, or of every program there is."""
    if target is not None and target != "mcp":
        return list(places(target, around, scope))
    found: list[Place] = []
    for cli in ("claude-code", "codex", "gemini") if target is None else ():
        found += places(cli, around, scope) if is_there(cli, around, scope) else ()
    return [*found, *(place for place in places("mcp", around, scope) if os.path.lexists(place.path))]


def place_of_file(path: str) -> Place:
    """The servers of a client that is not in the table, by the file it reads. Raises SettingsUnusable."""
    path = os.path.abspath(path)
    file = read(path)
    if file.text is None:
        raise SettingsUnusable(f"There is no {path}.", hint="Name the file that the client reads.")
    toml = path.endswith(".toml")
    key = "mcp_servers" if toml else "mcpServers"
    try:
        root = None if toml or not file.text.strip() else parse(file.text)
    except InvalidInput as error:
        raise _stays(path, error) from None
    if root is not None and root.child(key) is None and root.child("servers") is not None:
        key = "servers"
    title = os.path.basename(path)
    return Place(target="mcp", title=title, scope="user", path=path, key=key, toml=toml)


def plan_install(found: Sequence[Place], ours: Ours, around: Surroundings) -> list[Planned]:
    """What would be put in. Raises SettingsUnusable, PathRefused."""

    def plan(file: SettingsFile, at: tuple[Place, ...]) -> Planned:
        text = file.text or ""
        named = tuple(server for place in at for server in _servers(place, text, ours))
        for place in at:
            text = _put_in(place, text, ours)
        kept = file.text is None and not text
        return Planned(places=at, file=file, text=None if kept else text, servers=named)

    return _plan(found, around, plan)


def plan_uninstall(found: Sequence[Place], ours: Ours, around: Surroundings) -> list[Planned]:
    """What would be taken out. Raises as `plan_install`."""

    def plan(file: SettingsFile, at: tuple[Place, ...]) -> Planned:
        if file.text is None:
            return Planned(places=at, file=file, text=None)
        before = backup_of(file)
        text = file.text
        for place in at:
            text = _take_out(place, text, before)
        if before is not None and text != before and _comes_to(before, file.text, at, ours):
            text = before
        made_by_us = before is None and text != file.text and text.strip() in ("", "{}")
        made_by_us = made_by_us and not os.path.islink(file.path)  # its other end is somebody's
        return Planned(places=at, file=file, text=None if made_by_us else text)

    return _plan(found, around, plan)


def carry_out(planned: Planned, around: Surroundings) -> str | None:
    """Change the file, keeping or dropping the copy beside it; gives the copy's path where there is one.
    Raises SettingsNotWritten."""
    file, before = planned.file, planned.file.text
    known = [*places_of(file.path, around), *planned.places]
    if planned.text is None:
        remove(file)
        return None
    if before is not None and not any(_has_ours(place, before) for place in known):
        keep_backup(file)
    write(file, planned.text)
    if not any(_has_ours(place, planned.text) for place in known):
        remove_backup(file)
    return file.backup if os.path.exists(file.backup) else None


def look(place: Place, ours: Ours, around: Surroundings) -> Look:
    """How it stands in one place."""
    try:
        file = read(place.path, within=_within(place, around))
        text = file.text or ""
        _put_in(place, text, ours)  # what cannot be edited is told here too
        named = tuple(_servers(place, text, ours))
        state = _state(place, text, ours, named)
        notes = tuple(hindrances.of_place(place, text, around))
    except InvalidInput as error:
        return Look(place=place, state="broken", notes=(error.message,))
    backup = file.backup if os.path.exists(file.backup) else None
    return Look(place=place, state=state, notes=notes, servers=named, backup=backup)


# -- one file ---------------------------------------------------------------------------------------------


def _plan(
    found: Sequence[Place],
    around: Surroundings,
    plan: Callable[[SettingsFile, tuple[Place, ...]], Planned],
) -> list[Planned]:
    """A file may be two places: Gemini has its hooks and its servers in one."""
    planned: list[Planned] = []
    for path in dict.fromkeys(place.path for place in found):
        at = tuple(place for place in found if place.path == path)
        file = read(path, within=_within(at[0], around))
        try:
            planned.append(plan(file, at))
        except InvalidInput as error:
            raise _stays(path, error) from None
    return planned


def _stays(path: str, error: InvalidInput) -> SettingsUnusable:
    return SettingsUnusable(
        f"{path} cannot be edited, and stays as it is. {error.message}", hint="Put that right first."
    )


def _within(place: Place, around: Surroundings) -> str | None:
    """A project comes from elsewhere: a link in it may lead to any file of its reader."""
    return around.project if place.scope == "project" else None


def places_of(path: str, around: Surroundings) -> list[Place]:
    """Every place that is in one file."""
    scopes: tuple[Scope, ...] = ("user", "project")
    targets: tuple[Target, ...] = ("claude-code", "codex", "gemini", "mcp")
    every = (place for scope in scopes for target in targets for place in places(target, around, scope))
    return [place for place in every if place.path == path]


def _comes_to(before: str, now: str, at: tuple[Place, ...], ours: Ours) -> bool:
    """Whether nobody has changed anything since it was put in: then what was is given back to the byte."""
    for count in range(1, len(at) + 1):
        for order in itertools.permutations(at, count):
            text = before
            for place in order:
                text = _put_in(place, text, ours)
            if text == now:
                return True
    return False


# -- one place --------------------------------------------------------------------------------------------


def _put_in(place: Place, text: str, ours: Ours) -> str:
    if place.form is not None:
        return hooks.with_hooks(text, place.form, ours.lines[place.target])
    if place.toml:
        return toml_servers.with_proxy(text, place.key, ours.proxy)
    return servers.with_proxy(text, place.key, ours.proxy, sse_is_url=place.sse_is_url)


def _take_out(place: Place, text: str, before: str | None) -> str:
    if place.form is not None:
        return hooks.without_hooks(text, before)
    if place.toml:
        return toml_servers.without_proxy(text, place.key, before)
    return servers.without_proxy(text, place.key, before)


def _servers(place: Place, text: str, ours: Ours) -> list[Server]:
    if place.form is not None:
        return []
    if place.toml:
        return toml_servers.servers_in(text, place.key, ours.proxy)
    return servers.servers_in(text, place.key, ours.proxy, sse_is_url=place.sse_is_url)


def _has_ours(place: Place, text: str) -> bool:
    if place.form is not None:
        return bool(hooks.events_hooked(text))
    return any(
        server.through
        for server in _servers(place, text, Ours(lines={}, proxy=Proxy(words=("custody", "proxy"))))
    )


def _state(place: Place, text: str, ours: Ours, named: Sequence[Server]) -> State:
    if place.form is None:
        through = [server for server in named if server.through]
        return "absent" if not through else "installed" if len(through) == len(named) else "partly"
    found = hooks.events_hooked(text)
    lines = ours.lines[place.target]
    if not found:
        return "absent"
    if any(line.event not in found for line in lines):
        return "partly"
    return "installed" if _put_in(place, text, ours) == text else "outdated"
