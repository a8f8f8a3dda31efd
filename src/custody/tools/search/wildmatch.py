"""Globs as git reads them, as expressions for RE2: `*`, `?`, `[...]`, `**` and backslashes.

Owns the one grammar of patterns over paths: that of git's wildmatch.c with WM_PATHNAME, on bytes. Knows
nothing of files. Used by `gitignore` and by the tools that take a `glob`. Python's `re` is never asked, as it
can take years over a pattern that somebody else wrote.
"""

import os
import string
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

PATTERN_BYTES_MAX = 4096  # no path is longer, so no pattern that could match one has to be

BRACES_MAX = 64
"""Patterns that the braces of one glob may stand for: each is compiled."""

_ONE_BYTE = "[^/]"
_ONE_CHARACTER = r"(?:[^/\x80-\xff]|[\xc2-\xf4][\x80-\xbf]{1,3}|[\x80-\xff])"
"""Of UTF-8, or a stray byte: what a person means by `?` in a glob. In .gitignore it is a byte, as for git."""

_STAR, _QUESTION, _OPEN, _CLOSE, _BACKSLASH, _SLASH, _DASH = b"*?[]\\/-"
_MAGIC = frozenset(b"*?[\\")

_CLASSES = {
    b"alnum": (string.ascii_letters + string.digits).encode(),
    b"alpha": string.ascii_letters.encode(),
    b"blank": b"\t ",
    b"cntrl": bytes((*range(32), 127)),
    b"digit": string.digits.encode(),
    b"graph": bytes(range(33, 127)),
    b"lower": string.ascii_lowercase.encode(),
    b"print": bytes(range(32, 127)),
    b"punct": string.punctuation.encode(),
    b"space": string.whitespace.encode(),
    b"upper": string.ascii_uppercase.encode(),
    b"xdigit": string.hexdigits.encode(),
}


class Unmatchable(Exception):
    """The pattern is malformed; git takes it for one that matches nothing."""


def compiled(expression: str) -> Any:
    """The expression over bytes, to be asked with `fullmatch`. Raises re2.error where it is too large."""
    import re2  # pyright: ignore[reportMissingTypeStubs]

    library: Any = re2
    options: Any = library.Options()
    options.encoding = library.Options.Encoding.LATIN1
    options.dot_nl = True
    options.never_capture = True
    options.log_errors = False
    return library.compile(expression.encode("latin-1"), options=options)


def expression_of(pattern: bytes, *, characters: bool = False) -> str:
    """The pattern as an expression for a whole path without a leading slash. Raises Unmatchable.

    Without a slash it is about the name at the end of the path; one at its beginning says that it is not.
    `characters`: `?` is a character of UTF-8, not a byte.
    """
    of_path = b"/" in pattern
    pattern = pattern.removeprefix(b"/")
    one = _ONE_CHARACTER if characters else _ONE_BYTE
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        byte = pattern[at]
        at += 1
        if byte == _STAR:
            at, part = _stars(pattern, at, of_path)
        elif byte == _QUESTION:
            part = one
        elif byte == _OPEN:
            at, part = _bracket(pattern, at)
        elif byte == _BACKSLASH:
            if at == len(pattern):
                raise Unmatchable
            part = _literal(pattern[at])
            at += 1
        else:
            part = _literal(byte)
        parts.append(part)
    return "".join(parts if of_path else ["(?:.*/)?", *parts])


def glob_of(glob: str) -> Any:
    """What a person's glob matches among paths below a folder, to be asked with `fullmatch`.

    Without a slash it is about names, at any depth; `{a,b}` is either. Raises ValueError, in words for the
    caller.
    """
    patterns = _without_braces(glob.removeprefix("./"))
    expressions: list[str] = []
    for pattern in patterns:
        try:
            expressions.append(expression_of(os.fsencode(pattern), characters=True))
        except Unmatchable:
            raise ValueError(
                "The glob has an open bracket or ends with a backslash; "
                "write a backslash before a character that is meant as it is."
            ) from None
    import re2  # pyright: ignore[reportMissingTypeStubs]

    library: Any = re2
    try:
        return compiled("|".join(expressions))
    except library.error:
        raise ValueError("The glob is too large; ask with a simpler one.") from None


def _without_braces(glob: str) -> list[str]:
    """The globs that one with braces stands for. A brace without its other half stands for itself."""
    done: list[str] = []
    pending = [glob]
    while pending:
        pattern = pending.pop()
        found = _first_braces(pattern)
        if found is None:
            done.append(pattern)
            continue
        before, alternatives, after = found
        pending += [before + alternative + after for alternative in alternatives]
        if len(pending) + len(done) > BRACES_MAX:
            raise ValueError(f"The braces of the glob stand for more than {BRACES_MAX} patterns; use fewer.")
    return done


def _first_braces(pattern: str) -> tuple[str, list[str], str] | None:
    start: int | None = None
    depth = 0
    commas: list[int] = []
    escaped = False
    for at, character in enumerate(pattern):
        if escaped or character == "\\":
            escaped = not escaped
        elif character == "{":
            depth += 1
            if depth == 1:
                start, commas = at, []
        elif character == "," and depth == 1:
            commas.append(at)
        elif character == "}" and depth:
            depth -= 1
            if depth == 0 and start is not None and commas:
                cuts = [start, *commas, at]
                between = [pattern[first + 1 : last] for first, last in pairwise(cuts)]
                return pattern[:start], between, pattern[at + 1 :]
    return None


def _literal(byte: int) -> str:
    return chr(byte) if chr(byte).isalnum() and byte < 0x80 else f"\\x{byte:02x}"


def _stars(pattern: bytes, at: int, of_path: bool) -> tuple[int, str]:
    """`at` is behind the first star."""
    first = at - 1
    while at < len(pattern) and pattern[at] == _STAR:
        at += 1
    rest = pattern[at : at + 2]
    # git compares the plain text before the first special character by itself, so that two stars right after
    # it count as two at the beginning: `foo**/bar` is `foo/**/bar` and more.
    begins = pattern[first - 1 : first] in (b"", b"/") or _MAGIC.isdisjoint(pattern[:first])
    if not of_path or at - first < 2 or not begins or not (rest[:1] in (b"", b"/") or rest == b"\\/"):
        return at, "[^/]*"
    if rest[:1] == b"/":
        return at + 1, "(?:.*/)?"  # any folders, or none
    return at, ".*"


def _bracket(pattern: bytes, at: int) -> tuple[int, str]:
    """`at` is behind the opening bracket. Bytes are gathered one by one, so that no outer syntax leaks in."""
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    bytes_in: set[int] = set()
    previous: int | None = None
    first = True
    while first or pattern[at : at + 1] != b"]":
        first = False
        byte, at = _next(pattern, at)
        if byte == _BACKSLASH:
            previous, at = _next(pattern, at)
            bytes_in.add(previous)
        elif byte == _DASH and previous is not None and pattern[at : at + 1] not in (b"", b"]"):
            last, at = _next(pattern, at)
            if last == _BACKSLASH:
                last, at = _next(pattern, at)
            bytes_in.update(range(previous, last + 1))
            previous = None
        elif byte == _OPEN and pattern[at : at + 1] == b":":
            end = pattern.find(b"]", at + 1)
            if end < 0:
                raise Unmatchable
            if end > at + 1 and pattern[end - 1] == ord(":"):
                bytes_in.update(_class(pattern[at + 1 : end - 1]))
                at, previous = end + 1, None
            else:  # no ":]" follows: an ordinary bracket
                bytes_in.add(byte)
                previous = byte
        else:
            bytes_in.add(byte)
            previous = byte
    if negated:
        bytes_in = set(range(256)) - bytes_in
    return at + 1, _set(bytes_in - {_SLASH})


def _next(pattern: bytes, at: int) -> tuple[int, int]:
    if at >= len(pattern):
        raise Unmatchable
    return pattern[at], at + 1


def _class(name: bytes) -> bytes:
    if name not in _CLASSES:
        raise Unmatchable
    return _CLASSES[name]


def _set(bytes_in: Iterable[int]) -> str:
    ranges: list[list[int]] = []
    for byte in sorted(bytes_in):
        if ranges and byte == ranges[-1][1] + 1:
            ranges[-1][1] = byte
        else:
            ranges.append([byte, byte])
    if not ranges:
        return r"[^\x00-\xff]"  # no byte at all
    return "[" + "".join(f"\\x{first:02x}-\\x{last:02x}" for first, last in ranges) + "]"
