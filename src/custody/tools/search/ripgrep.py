"""Which files ripgrep finds a pattern in: a quick look before Custody's own search.

ripgrep cannot be held to what `files` promises. It opens files by their paths, so that a folder or file that
is swapped for a link after it was listed leads it out of the roots, or to a secret. Therefore nothing that it
reads is ever shown. It is given the names of files that were found beneath the root, and asked which of them
to look into. Those are opened again beneath the root, by the search that would have run without it. Where it
was led elsewhere, a file is looked into for nothing, or is not.

Owns the one command line, the programs that are not trusted to be ripgrep, and the expressions that mean the
same to it as to RE2: no other is given to it. Used by `file_search`.
"""

import os
import shutil
import string
from collections.abc import Iterator, Mapping, Sequence

from custody.sandbox import Command, Finished

ARGUMENTS_BYTES_MAX = 512 * 1024  # a quarter of what Linux takes by default
FILES_EACH_MAX = 5_000  # of one command line

NOTHING_FOUND = 1  # its exit code; 2 is an error, with whatever else it found

_PERL = {"d": "0-9", "s": "\\t\\n\\f\\r ", "w": "0-9A-Za-z_"}
"""Of ASCII in RE2, of all of Unicode in ripgrep."""
_SAME_ESCAPES = frozenset("aftrv")


def program(environment: Mapping[str, str], roots: Sequence[str]) -> str | None:
    """The ripgrep that PATH names; None where there is none, or it lies where agents write."""
    folders = [folder for folder in environment.get("PATH", "").split(os.pathsep) if folder.startswith("/")]
    found = shutil.which("rg", path=os.pathsep.join(folders))
    if found is None:
        return None
    real = os.path.realpath(found)
    for root in roots:
        for path in (found, real):
            if path.startswith(root.rstrip("/") + "/"):
                return None
    return found


def commands(
    rg: str,
    folder: str,
    files: Sequence[str],
    expression: str,
    *,
    literal: bool,
    case_sensitive: bool,
    environment: Mapping[str, str],
    deadline_seconds: float | None,
) -> Iterator[tuple[Command, Sequence[str]]]:
    """The command lines that look into all the files, each with those it is about, told from `folder`."""
    fixed = (
        rg,
        "--no-config",
        "--files-with-matches",
        "--null",
        "--color=never",
        "--text",
        "--no-messages",
        "--no-ignore",
        "--hidden",
        "--no-mmap",
        "--case-sensitive" if case_sensitive else "--ignore-case",
        *(("--fixed-strings",) if literal else ()),
        f"--regexp={expression}",
        "--",
    )
    for some in _portions(files):
        command = Command(
            argv=(*fixed, *(f"./{file}" for file in some)),
            cwd=folder,
            environment=dict(environment),
            deadline_seconds=deadline_seconds,
            keep_head_bytes=2 * ARGUMENTS_BYTES_MAX,  # all it can say: every name it was given
            keep_tail_bytes=0,
        )
        yield command, some


def _portions(files: Sequence[str]) -> Iterator[Sequence[str]]:
    begin = size = 0
    for at, file in enumerate(files):
        bytes_of_it = len(os.fsencode(file)) + 16  # "./", NUL and a pointer to it
        if at > begin and (size + bytes_of_it > ARGUMENTS_BYTES_MAX or at - begin == FILES_EACH_MAX):
            yield files[begin:at]
            begin, size = at, 0
        size += bytes_of_it
    if begin < len(files):
        yield files[begin:]


def named(finished: Finished) -> set[str] | None:
    """The files it names; None where it met with an error, so that they may not be all."""
    if finished.exit_code not in (0, NOTHING_FOUND) or finished.stdout.dropped_bytes:
        return None
    return {os.fsdecode(name).removeprefix("./") for name in finished.stdout.data.split(b"\0") if name}


# -- expressions ----------------------------------------------------------------------------------------


def expression_for(pattern: str, *, literal: bool, case_sensitive: bool) -> str | None:
    """An expression with which ripgrep finds all files that RE2 finds with `pattern`, or more; None: unknown.

    `pattern` is one that RE2 takes. Line ends may be CR LF, of which RE2 is shown LF alone.
    """
    if not case_sensitive and not pattern.isascii():
        return None  # two tables of Unicode, of two years
    if literal:
        return pattern
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            part, at = _escape(pattern[at + 1 : at + 2]), at + 2
        elif character == "[":
            part, at = _class(pattern, at + 1)
        elif character == "(":
            plain = pattern[at + 1 : at + 2] != "?"
            part = "(?:" if plain or pattern[at : at + 3] == "(?:" else None
            at += 1 if plain else 3
        elif character == "{":
            end = _repetition_end(pattern, at)
            part, at = (_hex("{"), at + 1) if end is None else (pattern[at:end], end)
        elif character in "^$":
            part, at = _anchor(pattern, at), at + 1
        else:
            part, at = _character(character), at + 1
        if part is None:
            return None
        parts.append(part)
    return "".join(parts)


def _character(character: str) -> str:
    return character if character in ".*+?|)" or character.isalnum() else _hex(character)


def _anchor(pattern: str, at: int) -> str | None:
    """Only where people put them; elsewhere the two do not agree on lines that are empty."""
    if pattern[at] == "^":
        before, after = pattern[:at], pattern[at + 1 : at + 2]
        return (
            "^"
            if (not before or before.endswith(("(", "(?:", "|"))) and after not in tuple("*+?{$")
            else None
        )
    return "(?:\\r?$)" if pattern[at + 1 : at + 2] in ("", ")", "|") else None


def _hex(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"


def _escape(character: str) -> str | None:
    """Outside of brackets."""
    if character in _SAME_ESCAPES:
        return f"\\{character}"
    if character == "b":
        return "(?-u:\\b)"
    if character in string.punctuation:
        return _hex(character)
    if character.lower() in _PERL:
        negation = "^" if character.isupper() else ""
        return f"[{negation}{_PERL[character.lower()]}]"
    return None


def _class(pattern: str, at: int) -> tuple[str | None, int]:
    """A class in brackets, `at` being behind the first: only plain characters, ranges and escapes."""
    parts = ["["]
    if pattern[at : at + 1] == "^":
        parts.append("^")
        at += 1
    first = True
    while first or pattern[at] != "]":
        character = pattern[at]
        if character == "\\":
            escaped = pattern[at + 1]
            if escaped in _PERL and pattern[at + 2] != "-":
                parts.append(_PERL[escaped])
            elif escaped in string.punctuation:
                parts.append(_hex(escaped))
            elif escaped in _SAME_ESCAPES:
                parts.append(f"\\{escaped}")
            else:
                return None, at
            at += 2
        elif character in "[]":
            return None, at
        elif character == "-":
            parts.append(_hex("-") if first or pattern[at + 1] == "]" else "-")
            at += 1
        else:
            parts.append(character if character.isalnum() else _hex(character))
            at += 1
        first = False
    return "".join(parts) + "]", at + 1


def _repetition_end(pattern: str, at: int) -> int | None:
    """Behind `{2}`, `{2,}` or `{2,3}`; None for a brace that is a character, as it is to RE2 then."""
    end = pattern.find("}", at)
    low, comma, high = pattern[at + 1 : max(at + 1, end)].partition(",")
    numbers = (low, high) if comma and high else (low,)
    if end < 0 or not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    return end + 1
