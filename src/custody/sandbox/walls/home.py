"""What of a person's home folder a command is told of, in a home folder of its own: how a person signs.

Owns which settings of git those are. A home folder holds tokens, and git's settings may too (in a URL, in a
header), so nothing else is handed on. Reads files; used by `plan`.
"""

import os
from collections.abc import Iterable, Iterator

from custody.sandbox.git_config import read_text, variables

GIT_SETTINGS = frozenset(
    {
        ("user", "name"),
        ("user", "email"),
        ("init", "defaultbranch"),
        ("core", "autocrlf"),
        ("core", "eol"),
        ("pull", "rebase"),
        ("merge", "conflictstyle"),
    }
)
"""What a commit or a merge needs to be as the person's own; none of these names a program or a server."""

CONFIG_BYTES_MAX = 1 << 20
VALUE_CHARACTERS_MAX = 1_000


def home_files(homes: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Path and content of what stands in the home folder of a command."""
    for home in homes:
        found = dict(_settings(home))
        if found:
            yield os.path.join(home, ".gitconfig"), _written(found).encode()


def _settings(home: str) -> Iterator[tuple[tuple[str, str], str]]:
    """In the order git reads them, so that the later outrank the earlier."""
    for name in (".config/git/config", ".gitconfig"):
        for variable in variables(read_text(os.path.join(home, name), CONFIG_BYTES_MAX)):
            key = variable.section, variable.name
            harmless = variable.value.isprintable() and len(variable.value) <= VALUE_CHARACTERS_MAX
            if variable.subsection is None and key in GIT_SETTINGS and harmless:
                yield key, variable.value


def _written(settings: dict[tuple[str, str], str]) -> str:
    lines: list[str] = []
    section = ""
    for (within, name), value in sorted(settings.items()):
        if within != section:
            lines.append(f"[{within}]\n")
            section = within
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'\t{name} = "{quoted}"\n')
    return "".join(lines)
