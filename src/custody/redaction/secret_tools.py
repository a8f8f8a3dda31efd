"""Tools that handle secrets: what a model says in a step that asks for one is not kept.

Owns the one list of such tools and how a tool's name is compared with it. The list only grows: settings add
names, and nothing takes one away. Knows nothing of steps. Used by whoever records what a model said.

Elsewhere names match exactly. Here a name that is missed puts a secret on the record, while one hit too many
costs a step its text; so the spellings of a name are one name. Case, `-`, `.`, `/`, `:`, blanks and camelCase
make no difference (`http.get`, `Email-Send`, `mcpCall`), nor does a namespace in front (`mail__email_send`,
`web/http_get`). A name, not a pattern, may also be the last words of a longer one (`google_email_send`).
"""

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from functools import lru_cache

from custody.errors import InvalidSetting

SECRET_TOOLS = ("mcp_call", "email_send", "glob:http_*", "glob:webhook_*")
"""They hand on whatever they are given: credentials in headers, addresses and letters, another server's
arguments. A pattern is marked `glob:`; `*` stands for anything, `?` for one character."""

NAMES_REMEMBERED_MAX = 4096
"""More than any agent has tools; beyond it the least recent are looked at again."""

NAME_CHARACTERS_MAX = 256
"""A longer name is nobody's tool: it is not looked at, and what goes with it is not kept."""

_GLOB = "glob:"
_BETWEEN_WORDS = re.compile(r"(?:[^\w*?]|_)+")
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NAMESPACE = re.compile(r"__+|[./:]")


class SecretTools:
    """The list that ships and what was added to it. May be asked from any thread."""

    def __init__(self, added: Iterable[str] = ()) -> None:
        """`added` are names, or patterns marked `glob:`. Raises InvalidSetting for what is neither."""
        if isinstance(added, str):
            raise InvalidSetting(
                f"Secret-bearing tools are {added!r}, expected a list of names.", hint=f"Write [{added!r}]."
            )
        self.names = (*SECRET_TOOLS, *map(_checked, added))
        """As written: the list that ships first."""
        exact = [name for name in self.names if not name.startswith(_GLOB)]
        globs = [name.removeprefix(_GLOB) for name in self.names if name.startswith(_GLOB)]
        self._endings = tuple({f"_{spelling}" for name in exact for spelling in _spellings(name)})
        self._globs = re.compile(
            "|".join(translate(spelling) for glob in globs for spelling in _spellings(glob))
        )
        self._remembered = lru_cache(NAMES_REMEMBERED_MAX)(self._judge)

    def matches(self, tool: str) -> bool:
        """Whether what goes with a request for this tool is held back."""
        return len(tool) > NAME_CHARACTERS_MAX or self._remembered(tool)

    def _judge(self, tool: str) -> bool:
        if any(f"_{spelling}".endswith(self._endings) for spelling in _spellings(tool)):
            return True
        return any(
            self._globs.match(spelling) for name in _without_namespaces(tool) for spelling in _spellings(name)
        )


def _spellings(name: str) -> tuple[str, str]:
    """The name in small letters with `_` between its words: as it is, and with camelCase taken apart."""
    return _plain(name), _plain(_CAMEL_HUMP.sub("_", name))


def _plain(name: str) -> str:
    words = _BETWEEN_WORDS.sub("_", name).casefold()
    return words.lstrip("_") if words.endswith("*") else words.strip("_")


def _without_namespaces(tool: str) -> Iterator[str]:
    yield tool
    for found in _NAMESPACE.finditer(tool):
        yield tool[found.end() :]


def _checked(name: object) -> str:
    """A name somebody adds. Nothing but a name: no sign that could be meant to take one away."""
    if not isinstance(name, str) or len(name) > NAME_CHARACTERS_MAX:
        raise InvalidSetting(f"A secret-bearing tool is {str(name)[:80]!r}, expected a name.")
    pattern = name.removeprefix(_GLOB)
    if not any(character.isalnum() or character in "*?" for character in pattern):
        raise InvalidSetting(f"A secret-bearing tool is {name!r}, expected a name.")
    if not (pattern[0].isalnum() or pattern[0] in "_*?"):
        raise InvalidSetting(
            f"A secret-bearing tool is {name!r}, which starts like no name.",
            hint="Names are added to those that ship; none can be taken away.",
        )
    if "[" in pattern or "]" in pattern:
        raise InvalidSetting(
            f"A secret-bearing tool is {name!r}, expected no brackets.", hint="Write one pattern for each."
        )
    if not name.startswith(_GLOB) and ("*" in name or "?" in name):
        raise InvalidSetting(
            f"A secret-bearing tool is {name!r}, expected an exact name.",
            hint=f'A pattern is written "{_GLOB}{name}".',
        )
    return name
