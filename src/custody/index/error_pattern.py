"""One sentence for many errors: what is particular in a message is replaced by the name of its kind.

`timeout after 31 s for /a/b` and `timeout after 7 s for /c` are both `timeout after <n> s for <path>`.
Owns the kinds and their order. Knows nothing of tables. Used by `fold`; a change of it is a new version of
the index's schema, as the patterns are stored.
"""

import functools
import re
from typing import Any, cast

PATTERN_CHARACTERS_MAX = 200
"""What two errors have in common stands at their beginning; a pattern is a line of a table."""

MESSAGE_CHARACTERS_MAX = 400
"""Read of a message: more than enough for a pattern, little enough for any expression below."""

REMEMBERED_MAX = 1_000
"""Messages whose pattern is remembered: what fails, fails again."""

_PARTICULAR = re.compile(
    r"""
      (?P<id>  \b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b )
    | (?P<url> \b[a-z][a-z0-9+.-]{1,20}://[^\s'"`<>]+ )
    | (?P<text> "[^"\n]*" | (?<!\w)'[^'\n]*'(?!\w) | `[^`\n]*` )
    | (?P<path> (?<![\w<]) (?: [A-Za-z]:\\ | (?:~|\.{1,2})?/ ) [^\s'"`,;:)\]}>]*
              | \b\w[\w.-]* (?: /[\w.-]+ )+ )
    | (?P<hex> \b0[xX][0-9a-fA-F]+\b
             | \b(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{6,}\b
             | \b(?=[A-F]*[0-9])(?=[0-9]*[A-F])[0-9A-F]{6,}\b )
    | (?P<token> \b(?=[A-Za-z_]*[0-9])(?=[0-9_]*[A-Za-z])\w{12,}\b )
    | (?P<n>   (?: (?<![\w<)\]]) [-+] )? \d+ (?: [.,:]\d+ )* (?: [eE][-+]?\d+ )? )
    | (?P<space> \s+ )
    """,
    re.VERBOSE,
)
"""In this order: a digit in a quoted text is part of that text."""


def error_pattern(error: Any, reason: str | None) -> str | None:
    """The pattern of an error's `type` and `message`, or of the reason of what ended without one."""
    said = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    kind, message = said.get("type"), said.get("message")
    parts = [part for part in (kind, message) if isinstance(part, str) and part]
    if not parts and isinstance(error, str):
        parts = [error]
    if not parts and reason:
        parts = [reason]
    if not parts:
        return None
    return normalised(": ".join(part[:MESSAGE_CHARACTERS_MAX] for part in parts))


@functools.lru_cache(REMEMBERED_MAX)
def normalised(message: str) -> str:
    """The message with numbers, ids, quoted texts, paths and white space replaced; at most 200 characters."""
    general = _PARTICULAR.sub(_kind, message[:MESSAGE_CHARACTERS_MAX]).strip()
    if len(general) <= PATTERN_CHARACTERS_MAX:
        return general
    return general[: PATTERN_CHARACTERS_MAX - 1] + "…"


def _kind(found: re.Match[str]) -> str:
    return " " if found.lastgroup == "space" else f"<{found.lastgroup}>"
