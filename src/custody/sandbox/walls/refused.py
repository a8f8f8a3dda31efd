"""Which paths a sandbox kept from a command that failed, as far as its own words and the sandbox tell.

Owns how programs say that a file could not be had, and the line that would let a sandbox allow it. Asks the
file system only what is there. Refuses to guess: a path that the sandbox allows is somebody else's no (its
owner's, its mode's), and one that is nowhere on this machine is not hidden. Used by whoever shows a failed
call, to people alone: an agent whose command writes such lines itself would be told what there is.

What a walled command sees: outside of what it may read there is nothing (`No such file or directory`), or a
refusal; what it may read alone answers a change with `Read-only file system` or a refusal.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from custody.sandbox.walls.model import Sandbox, is_beneath
from custody.sandbox.walls.plan import (
    KERNEL_FOLDERS,
    LINKED_FILES,
    RUN,
    SYSTEM_FOLDERS,
    TEMPORARY_FOLDERS,
    toolchains,
)

Wanted = Literal["read", "write", "execute", "unknown"]

PATHS_MAX = 20
"""Named of one call: who sees more than these has the wrong sandbox, and one line says so as well."""

MENTIONS_MAX = 1_000
"""Looked into of one text: each asks the file system. A command may print the same line for ever."""

HOMES = ("/home", "/root")
"""Where home folders are, also those of others: no line says to open a whole one."""

LINE_CHARACTERS_MAX = 8_192  # two paths of the longest kind; what is longer is no message


class RefusedPath(Struct, frozen=True):
    """A path that the sandbox does not allow."""

    path: str
    """As the command wrote it."""
    wanted: Wanted
    allow: str
    """What would allow it, as it is typed: `--root DIR`; of a sandbox made in a program, its argument."""


def refused_paths(
    stderr: str, sandbox: Sandbox, roots: Iterable[str], *, homes: Sequence[str] | None = None
) -> list[RefusedPath]:
    """At most PATHS_MAX, in the order they were written. `roots` are those of the call; `homes` the home
    folders that were hidden from it, unsaid the one of who asks."""
    reach = _Reach(sandbox, roots, (os.path.expanduser("~"),) if homes is None else homes)
    found: dict[str, RefusedPath] = {}
    for mention in _mentions(stderr):
        if mention.path in found:
            continue
        wanted = reach.refused(mention)
        if wanted is not None:
            found[mention.path] = RefusedPath(mention.path, wanted, reach.line_for(mention.path, wanted))
        if len(found) == PATHS_MAX:
            break
    return list(found.values())


# -- what programs write ------------------------------------------------------------------------------


class _Mention(Struct, frozen=True):
    """A path that somebody could not have."""

    path: str
    wanted: Wanted
    gone: bool
    """It is said not to be there, rather than refused."""
    makes: bool
    """It was to be made."""


_REFUSED = re.compile(
    r"permission denied|operation not permitted|read-only file system|AccessDeniedException"
    r"|(?<!:)\b(?:EACCES|EPERM|EROFS)\b",
    re.IGNORECASE,
)
_GONE = re.compile(
    r"no such file or directory|NoSuchFileException|directory nonexistent|(?<!:)\bENOENT\b"
    r"|does not exist|does not appear to be a git repository|(?<=: )(?:not found|no such file)$",
    re.IGNORECASE,
)
_SAYS_ALONE = re.compile(r"E[A-Z]+|does not .*|not found")
"""What follows a path without a colon: `spawn /x EACCES`."""
_READ_ONLY = re.compile(r"read-only file system|EROFS", re.IGNORECASE)

_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
"""Quotation marks, which differ from language to language."""
_QUOTED = re.compile(r"(?<!\w)'([^']+)'|\"([^\"]+)\"|`([^`']+)[`']")
_BARE = re.compile(r"(?<![^\s=(\[:,])(/[^\s:'\"`,;()<>|*?]*)[)\]]*$")
"""At the end of what is said before the reason."""
_CONNECTS = re.compile(r"(?:cannot|can't|could not|failed|unable|error)\b[^/]*", re.IGNORECASE)
"""Between a path and why it could not be had: `tar: /x: Cannot open: Permission denied`."""
_AFTER = re.compile(r"(?:: |, (?P<call>\w+) | @ \w+ - )(?P<rest>['\"/].*)")
_CAUSE = re.compile(r"\s*(?:Caused by:|\d+:)?\s*")
"""What stands between what failed and why, where that is on a line of its own."""
_CAUSE_LINES_MAX = 4

_PROGRAM = r"(?:^|\s|/)(?:%s): "
_FOR_READING = re.compile(r"\bfor reading\b")
_MAKES = re.compile(
    r"\b(?:creat(?:e|ing)|mkdir|touch|output file|index\.lock|lock config|sav(?:e|ing)|writ(?:e|ing)|install"
    r"|renam(?:e|ing)|mov(?:e|ing)|copyfile|mkfifo|symlink|symbolic link|append(?:ing)?|work tree)\b"
    rf"|{_PROGRAM % 'tee|mkdir|touch|mkfifo|install'}"
)
_CHANGES = re.compile(
    r"\b(?:remov(?:e|ing)|delet(?:e|ing)|unlink|rmdir|chmod|chown|chang(?:e|ing) (?!dir|to\b)\w+|setting"
    rf"|truncat(?:e|ing)|overwrit(?:e|ing)|modify)\b|{_PROGRAM % 'rm|rmdir|chmod|chown|chgrp|truncate'}"
)
_EXECUTES = re.compile(
    r"fork/exec|\bexecvp?e?\b|\bspawn\b|failed to run command|bad interpreter|cannot execute|: not found$"
    rf"|{_PROGRAM % 'env'}"
)
_READS = re.compile(
    r"\b(?:read|reading|l?stat|access|open directory|scandir|opendir|readlink|change_dir|change to|chdir|cd"
    r"|include|repository)\b"
    rf"|{_PROGRAM % 'cat|head|tail|less|grep|ls|find|wc|diff|sort|stat|du|file'}"
)


def _mentions(text: str) -> Iterator[_Mention]:
    """Each once."""
    seen: set[_Mention] = set()
    lines = text.translate(_STRAIGHT).splitlines()
    for at, line in enumerate(lines):
        if len(line) > LINE_CHARACTERS_MAX:
            continue
        for mention in _of_line(lines, at, line):
            if mention not in seen:
                seen.add(mention)
                yield mention
        if len(seen) >= MENTIONS_MAX:
            return


def _of_line(lines: Sequence[str], at: int, line: str) -> Iterator[_Mention]:
    found = [*_REFUSED.finditer(line), *_GONE.finditer(line)]
    if not found:
        return
    phrase = max(found, key=lambda one: one.start())
    paths, words = _paths(line, phrase)
    if not paths and _CAUSE.fullmatch(line[: phrase.start()]):
        paths, words = _cause_of(lines, at)
    gone = phrase.re is _GONE
    for path in paths:
        wanted, makes = _wish(words.replace(path, " "), read_only=bool(_READ_ONLY.search(phrase[0])))
        yield _Mention(path, wanted, gone, makes)


def _cause_of(lines: Sequence[str], at: int) -> tuple[list[str], str]:
    """The paths of what failed because of the line: `error: failed to open: /x`, then `Caused by:`."""
    for line in reversed(lines[max(0, at - _CAUSE_LINES_MAX) : at]):
        if len(line) <= LINE_CHARACTERS_MAX and not _CAUSE.fullmatch(line):
            return _in_segment(line.rpartition(": ")[2]) or _in_segment(line), line
    return [], ""


def _paths(line: str, phrase: re.Match[str]) -> tuple[list[str], str]:
    """The absolute paths a message is about, and the words that say what was done. They stand behind the
    phrase, as Python, Node and Ruby put them, or just before it."""
    after = _AFTER.match(line, phrase.end())
    if after is not None:
        return _behind(after["rest"], after["call"]), line
    before = line[: phrase.start()].rstrip()
    if not before.endswith((":", "(")) and not _SAYS_ALONE.fullmatch(phrase[0]):
        return [], line  # a sentence that happens to have the words
    before = before.rstrip(" :([").removesuffix(" failed")
    segments = before.split(": ")
    paths = _in_segment(segments[-1])
    if not paths and len(segments) > 2 and _CONNECTS.fullmatch(segments[-1]):
        paths = _in_segment(segments[-2])
    return paths, line


def _behind(rest: str, call: str | None) -> list[str]:
    """`'/a'`, or `'/a' -> '/b'`; what a link leads to is only text."""
    quoted = ["".join(one) for one in _QUOTED.findall(rest)]
    if not quoted:
        bare = re.match(r"/.*?(?= \(|$)", rest)
        quoted = [] if bare is None else [bare[0]]
    quoted = quoted[1:2] if call in ("symlink", "link") else quoted[:2]
    return [path for path in quoted if path.startswith("/")]


def _in_segment(segment: str) -> list[str]:
    """Of a part of a message between two colons. One in quotes may have blanks, and so may all of it."""
    quoted = ["".join(one) for one in _QUOTED.findall(segment)]
    if quoted:
        moved = len(quoted) == 2 and re.search(r"['\"] to ['\"]", segment)
        return [path for path in (quoted if moved else quoted[:1]) if path.startswith("/")]
    if segment.startswith("/"):
        return [segment]
    bare = _BARE.search(segment)
    return [] if bare is None else [bare[1]]


def _wish(words: str, *, read_only: bool) -> tuple[Wanted, bool]:
    """What was wanted of the path, by the words around it, and whether it was to be made."""
    words = words.lower()
    if _FOR_READING.search(words):
        return "read", False
    makes = _MAKES.search(words) is not None
    if makes or read_only or _CHANGES.search(words):
        return "write", makes
    if _EXECUTES.search(words):
        return "execute", False
    return ("read", False) if _READS.search(words) else ("unknown", False)


# -- what the sandbox says ----------------------------------------------------------------------------


class _Reach:
    """What a sandbox allows around some roots, as `plan` builds it of both."""

    def __init__(self, sandbox: Sandbox, roots: Iterable[str], homes: Iterable[str]) -> None:
        listed = _resolved((*sandbox.read, *sandbox.write))
        own = [root for root in _resolved(roots) if root not in (*TEMPORARY_FOLDERS, RUN)]
        system = _resolved(SYSTEM_FOLDERS)
        homes = [home for home in _resolved(homes) if not _in_any(home, (*system, *KERNEL_FOLDERS))]
        self._sandbox = sandbox
        self._roots = own
        self._system = system
        self._private = (*TEMPORARY_FOLDERS, RUN, *(home for home in homes if home != "/"))
        """Of which each run has its own."""
        self._writable = [*(own if sandbox.roots == "write" else ()), *_resolved(sandbox.write)]
        needed = [sys.base_prefix, sys.prefix, *filter(os.path.islink, LINKED_FILES)]
        tools = [path for home in homes for path in toolchains(home)]
        self._readable = [*own, *listed, *system, *_resolved(needed), *tools]

    def refused(self, mention: _Mention) -> Wanted | None:
        """What was wanted and is not allowed; None where that cannot be told, or is allowed."""
        try:
            path, wanted = os.path.realpath(mention.path), mention.wanted
        except ValueError:  # no path of any file: a NUL, or what the file system's encoding has not
            return None
        if _in_any(path, KERNEL_FOLDERS) and not is_beneath(path, "/dev/shm"):
            return None
        there = os.path.lexists(mention.path)
        could_be_made = not there and os.path.isdir(os.path.dirname(path))
        if mention.gone:
            hidden = there or (could_be_made and mention.makes)
            return wanted if hidden and not self._seen(path) else None
        if not there:
            if not could_be_made or wanted not in ("write", "unknown"):
                return None
            wanted = "write"  # of what is not there nothing else is refused
        return wanted if self._refuses(path, wanted) else None

    def _seen(self, path: str) -> bool:
        """Whether what is there is there for the command as well."""
        return _in_any(path, (*self._readable, *self._writable))

    def _refuses(self, path: str, wanted: Wanted) -> bool:
        if wanted == "execute" and self._sandbox.execute is not None and self._seen(path):
            return not _in_any(path, _resolved(self._sandbox.execute))
        if _in_any(path, self._writable):
            return False
        if _in_any(path, self._readable):
            return wanted == "write"
        if _in_any(path, self._private):
            return wanted == "write" and is_beneath(path, RUN)  # the rest of its own is its own to change
        return True

    def line_for(self, path: str, wanted: Wanted) -> str:
        """What would allow it."""
        path = os.path.realpath(path)
        folder = path
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        if wanted == "execute" and self._seen(path):
            return f"execute=({folder!r},)"
        narrow = "--sandbox workspace " if wanted == "write" and self._sandbox.roots == "read" else ""
        if narrow and _in_any(path, self._roots):
            return narrow.rstrip()
        if not self._can_be_root(folder):
            return "--sandbox open"
        return f"{narrow}--root {shlex.quote(folder)}"

    def _can_be_root(self, folder: str) -> bool:
        """Neither a folder of the system, but for what people install, nor somebody's home folder, nor one
        around a run's own."""
        somebodys = folder in HOMES or os.path.dirname(folder) == HOMES[0]
        if somebodys or any(is_beneath(place, folder) for place in (*self._private, *KERNEL_FOLDERS)):
            return False
        return not _in_any(folder, self._system) or (is_beneath(folder, "/opt") and folder != "/opt")


def _resolved(paths: Iterable[str]) -> list[str]:
    return [os.path.realpath(path) for path in paths]


def _in_any(path: str, places: Iterable[str]) -> bool:
    return any(is_beneath(path, place) for place in places)
