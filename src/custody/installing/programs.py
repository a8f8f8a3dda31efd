"""The programs whose settings Custody can be put into, and where those stand.

Owns the table: coding CLIs with hooks, MCP clients with a list of servers, for a user and for a project; as
their documentation had it on 2026-11-22. Used by `plans`.
"""

import os
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from custody.installing.hooks import CLAUDE_CODE, CODEX, GEMINI, HookForm

Target = Literal["claude-code", "codex", "gemini", "mcp"]
Scope = Literal["user", "project"]
TARGETS: tuple[Target, ...] = ("claude-code", "codex", "gemini", "mcp")
CLIS: tuple[Target, ...] = ("claude-code", "codex", "gemini")


class Cli(Struct, frozen=True, kw_only=True):
    """A coding CLI with hooks."""

    title: str
    form: HookForm
    folder: str
    """Where its user's settings are, below the home folder."""
    folder_variable: str | None
    """What may name another one."""
    file: str
    can: str
    """What its hooks can do, and what they cannot."""


CODING: dict[str, Cli] = {
    "claude-code": Cli(
        title="Claude Code",
        form=CLAUDE_CODE,
        folder=".claude",
        folder_variable="CLAUDE_CONFIG_DIR",
        file="settings.json",
        can="Tools are decided before they run, commands are rewritten; where a rule asks, it asks you. It "
        "counts from the next session on. Before 2.1.295, a hook that it kills after 60 s lets the tool run.",
    ),
    "codex": Cli(
        title="Codex",
        form=CODEX,
        folder=".codex",
        folder_variable="CODEX_HOME",
        file="hooks.json",
        can="Tools are decided before they run, commands are rewritten; where a rule asks, the answer is no. "
        "Codex runs no hook before you trust it: start codex, type /hooks, trust those of custody. A hook "
        "that it kills after 60 s lets the tool run.",
    ),
    "gemini": Cli(
        title="Gemini CLI",
        form=GEMINI,
        folder=".gemini",
        folder_variable=None,
        file="settings.json",
        can="Tools are decided before they run, commands are rewritten; where a rule asks, the answer is no. "
        "A hook that it kills after 60 s lets the tool run.",
    ),
}


class Place(Struct, frozen=True, kw_only=True):
    """One thing in one file: the hooks of a CLI, or the servers of a client."""

    target: Target
    title: str
    """Of the program."""
    scope: Scope
    path: str
    form: HookForm | None = None
    """Of hooks; None: these are servers."""
    key: str = "mcpServers"
    """Where its servers are."""
    toml: bool = False
    sse_is_url: bool = False
    """Its `url` is spoken to in the old HTTP with server-sent events."""


class Surroundings(Struct, frozen=True, kw_only=True):
    """Where a person works."""

    home: str
    project: str
    environ: Mapping[str, str]


def folder_of(cli: str, around: Surroundings, scope: Scope) -> str:
    program = CODING[cli]
    if scope == "project":
        return os.path.join(around.project, program.folder)
    named = around.environ.get(program.folder_variable or "", "")
    return named or os.path.join(around.home, program.folder)


def is_there(cli: str, around: Surroundings, scope: Scope) -> bool:
    """Whether somebody uses that CLI here."""
    return os.path.isdir(folder_of(cli, around, scope))


def places(target: Target, around: Surroundings, scope: Scope) -> tuple[Place, ...]:
    """Where Custody goes: one file of a CLI; every list of servers that there may be."""
    if target == "mcp":
        return _servers(around, scope)
    cli = CODING[target]
    path = os.path.join(folder_of(target, around, scope), cli.file)
    return (Place(target=target, title=cli.title, scope=scope, path=path, form=cli.form),)


def _servers(around: Surroundings, scope: Scope) -> tuple[Place, ...]:
    def place(
        title: str, path: str, key: str = "mcpServers", *, toml: bool = False, sse: bool = False
    ) -> Place:
        whole = os.path.join(around.project if scope == "project" else around.home, path)
        return Place(target="mcp", title=title, scope=scope, path=whole, key=key, toml=toml, sse_is_url=sse)

    gemini = os.path.join(folder_of("gemini", around, scope), "settings.json")
    codex = os.path.join(folder_of("codex", around, scope), "config.toml")
    either = (
        place("Cursor", ".cursor/mcp.json"),
        place("Gemini CLI", gemini, sse=True),
        place("Codex", codex, "mcp_servers", toml=True),
    )
    if scope == "project":
        return (place("Claude Code", ".mcp.json"), place("VS Code", ".vscode/mcp.json", "servers"), *either)
    claude = os.path.join(around.environ.get("CLAUDE_CONFIG_DIR") or around.home, ".claude.json")
    config = around.environ.get("XDG_CONFIG_HOME") or ".config"
    return (
        place("Claude Code", claude),
        place("Claude Desktop", os.path.join(config, "Claude", "claude_desktop_config.json")),
        place("VS Code", os.path.join(config, "Code", "User", "mcp.json"), "servers"),
        place("Windsurf", ".codeium/windsurf/mcp_config.json"),
        *either,
    )
