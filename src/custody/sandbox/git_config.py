"""Configuration of git, read without git: as git-config(1) writes it, no `include` followed.

What is not understood is passed over. Used for what commands behind walls are told of it, and for the hosts
of a repository's remotes.
"""

import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SECTION = re.compile(r'\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\\n]|\\.)*)")?\s*\]')
_VARIABLE = re.compile(r"([A-Za-z][A-Za-z0-9-]*)\s*(?:=(.*))?", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b", "\\": "\\", '"': '"'}


class Variable(NamedTuple):
    """One line of it. Section and name in lower case; their case does not count."""

    section: str
    subsection: str | None
    name: str
    value: str


def variables(text: str) -> Iterator[Variable]:
    """In the order they stand in; of those that are the same the last counts."""
    section: re.Match[str] | None = None
    for line in _lines(text):
        line = line.strip()
        begun = _SECTION.match(line)
        if begun is not None:
            section = begun
            line = line[begun.end() :].strip()
        variable = None if section is None else _VARIABLE.match(line)
        if section is None or variable is None or variable[2] is None:
            continue
        value = _value(variable[2])
        if value is not None:
            yield Variable(section[1].lower(), section[2], variable[1].lower(), value)


def read_text(path: str, bytes_max: int) -> str:
    """Empty for what is not there, no file, too long or no text."""
    try:
        fd = os.open(path, _FLAGS)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    try:
        data = os.read(fd, bytes_max + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        return data.decode() if len(data) <= bytes_max else ""
    except (OSError, ValueError):
        return ""
    finally:
        os.close(fd)


def _lines(text: str) -> Iterator[str]:
    """With those joined that end in a backslash."""
    joined = ""
    for line in text.replace("\r\n", "\n").split("\n"):
        if (len(line) - len(line.rstrip("\\"))) % 2:
            joined += line[:-1]
        else:
            yield joined + line
            joined = ""
    yield joined


def _value(text: str) -> str | None:
    """Quotes and escapes undone, the comment dropped; None for what git would not read."""
    found: list[str] = []
    quoted = False
    characters = iter(text.strip())
    for character in characters:
        if character == "\\":
            escaped = _ESCAPES.get(next(characters, ""))
            if escaped is None:
                return None
            found.append(escaped)
        elif character == '"':
            quoted = not quoted
        elif character in "#;" and not quoted:
            break
        else:
            found.append(character)
    return None if quoted else "".join(found).strip()
