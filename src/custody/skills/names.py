"""Which names a skill may have, and which two are taken for one another.

Owns the rules and the sentences that explain them. Asks no file system: a name is judged before anything is
written. Used by the catalog and by whoever installs.

A name is a path component that means the same on every system: ASCII letters, digits, `-`, `_` and `.`, at
most 64 of them, beginning with a letter or digit, not ending with a dot, no name of a device on Windows, and
none of the names the files of a root have.
"""

import re
from collections.abc import Iterable

from custody.errors import InvalidInput

NAME_CHARACTERS_MAX = 64  # as in the public format; with `.md.sig` still a file name everywhere

_ALLOWED = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))]
)
"""On Windows these name devices, in every folder and with any extension."""

_RESERVED = frozenset(["skill", "skills.lock.json", "skills.trust.json"])
"""`skill.md` would be a SKILL.md of the root itself where case does not count."""

_RESERVED_ENDINGS = (".md", ".sig")
"""The folder `notes.md` and the file of the skill `notes` would be one path."""

_LOOKS_LIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "_": "-", ".": "-"})
_NEIGHBOURS = (("rn", "m"), ("vv", "w"))

NAMES_SHOWN_MAX = 40
"""Characters of a refused name that are repeated in the sentence about it."""


def name_fault(name: str) -> str | None:
    """Why a skill cannot be called that, as a sentence, or None."""
    shown = ascii(name if len(name) <= NAMES_SHOWN_MAX else name[:NAMES_SHOWN_MAX] + "…")
    if not name:
        return "The name of a skill cannot be empty."
    if "/" in name or "\\" in name or "\0" in name or ".." in name or name == ".":
        return f"{shown} is a path, not the name of a skill: a name has no separators and no `..`."
    if len(name) > NAME_CHARACTERS_MAX:
        return f"A name of {len(name)} characters is too long; {NAME_CHARACTERS_MAX} are allowed."
    if not _ALLOWED.fullmatch(name):
        return f"{shown} has other characters than ASCII letters, digits, `-`, `_` and `.`."
    if not name[0].isalnum():
        return f"{shown} does not begin with a letter or a digit."
    if name.endswith("."):
        return f"{shown} ends with a dot, which some systems drop."
    return _reserved(name, shown)


def _reserved(name: str, shown: str) -> str | None:
    small = name.lower()
    if small.split(".")[0] in _DEVICES:
        return f"{shown} is the name of a device on Windows."
    if small in _RESERVED or small.endswith(_RESERVED_ENDINGS):
        return f"{shown} is reserved for the files of a folder of skills."
    return None


def check_name(name: str) -> None:
    """Raises InvalidInput with a sentence where a skill cannot be called that."""
    if fault := name_fault(name):
        raise InvalidInput(fault, hint="Choose another name, for example `pdf-tools`.")


def skeleton(name: str) -> str:
    """What is left of a name for a reader who does not look closely. Two different names with one skeleton
    are look-alikes."""
    seen = name.casefold().translate(_LOOKS_LIKE)
    for pair, looks_like in _NEIGHBOURS:
        seen = seen.replace(pair, looks_like)
    return seen


def look_alike(name: str, others: Iterable[str]) -> str | None:
    """The first of the other names that is taken for this one; the name itself is no look-alike of itself."""
    seen = skeleton(name)
    return next((other for other in others if other != name and skeleton(other) == seen), None)
