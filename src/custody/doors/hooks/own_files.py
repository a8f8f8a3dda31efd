"""Files by which Custody stands in a CLI's way, beyond the names that are protected everywhere.

Owns which those are: our own program, the folders that a CLI's environment names for its settings, the files
that links among its settings lead to, and what an administrator sets for everybody. And the ways in which a
CLI may read one path. Asks the file system where links lead; opens nothing. Used by `guarding`.
"""

import functools
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

MANAGED = ("/etc/claude-code", "/etc/codex", "/etc/gemini-cli")
"""Where administrators set what holds for every user of a CLI."""

SETTINGS = (
    ".claude/settings.json", ".claude/settings.local.json", ".claude.json", ".mcp.json",
    ".codex/hooks.json", ".codex/config.toml", ".gemini/settings.json",
)  # fmt: skip
"""Below a home folder or a project's; protected by these names already, and not by those a link leads to."""

NAMED_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "CLAUDE_CONFIG_DIR": ("settings.json", "settings.local.json", ".claude.json", ".credentials.json"),
    "CODEX_HOME": ("",),
}
"""What may name another folder for a CLI's settings, and what in it is kept from it: "" is all of it."""

CREDENTIALS = (".credentials.json", "auth.json")
"""In those folders, and not read either."""

BLANKS = "\ufeff"  # what JavaScript takes for a blank and Python does not


def spellings(path: str, cwd: str) -> tuple[str, ...]:
    """A path as it stands, and as CLIs take it: without blanks around it, composed (NFC), and with `..` taken
    back by its spelling, where we follow links first."""
    bare = unicodedata.normalize("NFC", path.strip().strip(BLANKS).strip())
    home = os.path.expanduser("~") + bare[1:] if bare == "~" or bare.startswith("~/") else bare
    return tuple(dict.fromkeys((path, bare, os.path.normpath(os.path.join(cwd, home)))))


def refusal(path: str, guarded: tuple[str, ...]) -> str | None:
    """Why a file is not written; `path` is absolute, its links resolved."""
    for own in guarded:
        if path == own or path.startswith(own.rstrip("/") + "/"):
            return (
                f"{path} belongs to what guards this agent ({own}). A person can change it; agents may not."
            )
    return None


def guarded(folders: Mapping[str, str], *places: str) -> tuple[str, ...]:
    """Files and folders that are not written, links resolved. `folders`: what the CLI's environment names;
    `places`: its project and working folder."""
    return (*_program(), *MANAGED, *dict.fromkeys((*_named(folders), *_led_to(places))))


def credentials(folders: Mapping[str, str]) -> tuple[str, ...]:
    """Files that are not read, links resolved: where the CLI's environment names no folder, names protect
    them."""
    return tuple(
        os.path.realpath(os.path.join(folder, name)) for folder in _folders(folders) for name in CREDENTIALS
    )


def settings_among(paths: Iterable[str], own: tuple[str, ...]) -> list[str]:
    """Those of the paths that are a CLI's settings, or are guarded."""
    ends = tuple(f"/{name}" for name in SETTINGS)
    return [path for path in paths if path.endswith(ends) or refusal(path, own) is not None]


@functools.lru_cache(maxsize=1)
def _program() -> tuple[str, ...]:
    """This very Custody, with the interpreter it has for itself."""
    package = os.path.realpath(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    own_interpreter = sys.prefix != sys.base_prefix
    return (package, os.path.realpath(sys.prefix)) if own_interpreter else (package,)


def _folders(folders: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Those that are named, with what in them is kept from the CLI."""
    named = {folders.get(variable, ""): names for variable, names in NAMED_FOLDERS.items()}
    return {
        folder: names
        for folder, names in named.items()
        if folder.startswith("/") and folder.strip("/") and "\0" not in folder
    }


def _named(folders: Mapping[str, str]) -> Iterator[str]:
    for folder, names in _folders(folders).items():
        for name in names:
            yield os.path.join(folder, name).rstrip("/")
            yield os.path.realpath(os.path.join(folder, name))


def _led_to(places: tuple[str, ...]) -> Iterator[str]:
    for place in dict.fromkeys((os.path.expanduser("~"), *places)):
        for name in SETTINGS:
            path = os.path.join(place, name)
            real = os.path.realpath(path)
            if real != path:
                yield real
