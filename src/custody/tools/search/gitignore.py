"""What git would ignore: .gitignore files of every folder on the way, and `.git/info/exclude`.

Owns the reading of those files and the order in which they count; `wildmatch` owns the patterns. Whoever
goes through a tree does not enter a folder that is ignored, so nothing in it can be named again: that is
git's rule too. They count outside of git as well, where a copy of a project lies. Refuses to know what else
is on the machine: the user's own `core.excludesFile` lies outside the roots, and what `core.ignoreCase` says
does not change what a name is. Used by `tree`.
"""

import os
import stat
from collections.abc import Collection
from typing import Any

from msgspec import Struct

from custody.files.beneath import open_beneath, open_exactly
from custody.tools.search.wildmatch import PATTERN_BYTES_MAX, Unmatchable, compiled, expression_of

RULES_FILE_BYTES_MAX = 256 * 1024  # a hundred times what people write; what is behind it does not count
RULES_MAX = 5_000  # of one file; each costs some microseconds to compile

GIT_FOLDER = ".git"
RULES_FILE = ".gitignore"
EXCLUDE_FILE = ".git/info/exclude"

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
"""A named pipe called .gitignore holds nobody up; git reads none that is a link either."""


class Ignoring:
    """The rules in force in one folder. Going into another makes another."""

    def __init__(self, levels: "tuple[_Level, ...]" = ()) -> None:
        self._levels = levels
        """The nearest folder's first: the first that says anything is right."""

    def inside(self, folder_fd: int, relative: str, names: Collection[str]) -> "Ignoring":
        """The rules in a folder in which there are these names, below one where these are in force.

        `relative` is its path from where all paths are told from. A repository begins anew.
        """
        levels = () if GIT_FOLDER in names else self._levels
        levels = _levels(folder_fd, names, len(os.fsencode(f"{relative}/")) if relative else 0) + levels
        return self if levels is self._levels else Ignoring(levels)

    def ignores(self, relative: str, is_folder: bool) -> bool:
        """Whether what stands in the folder under this path is ignored."""
        if relative.rpartition("/")[2] == GIT_FOLDER:
            return True
        if not self._levels:
            return False
        path = os.fsencode(relative)
        for level in self._levels:
            verdict = level.rules.verdict(level.before + path[level.skipped_bytes :], is_folder)
            if verdict is not None:
                return verdict
        return False


def rules_above(path: str, roots: Collection[str]) -> Ignoring:
    """The rules that the folders above `path`, up to the top of its repository, have for what is in it.

    None where no repository is found before the root's end: it is not asked what lies outside. `path` is
    absolute, its links resolved; what is in it is told from it.
    """
    root = min((root for root in roots if _is_below(path, root)), key=len, default=None)
    if root is None:
        return Ignoring()
    levels: tuple[_Level, ...] = ()
    try:
        root_fd = open_exactly(root, _PLACE)
    except OSError:
        return Ignoring()
    try:
        folder = path
        while True:
            fd = open_beneath(root_fd, os.path.relpath(folder, root), _PLACE, links=False)
            try:
                names = [name for name in (GIT_FOLDER, RULES_FILE) if _is_there(fd, name)]
                if folder != path:
                    before = os.fsencode(os.path.relpath(path, folder) + "/")
                    levels += _levels(fd, names, 0, before)
            finally:
                os.close(fd)
            if GIT_FOLDER in names:
                return Ignoring(levels)
            if folder == root:
                return Ignoring()
            folder = os.path.dirname(folder)
    except OSError:  # moved or replaced meanwhile
        return Ignoring()
    finally:
        os.close(root_fd)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _is_there(folder_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except OSError:
        return False
    return True


class _Level(Struct, frozen=True):
    """The rules of one file, and how a path is told from the folder they are about."""

    rules: "Rules"
    skipped_bytes: int
    """Of the path's beginning: the way to a folder below where paths are told from."""
    before: bytes
    """The way from a folder above it."""


def _levels(
    folder_fd: int, names: Collection[str], skipped_bytes: int, before: bytes = b""
) -> "tuple[_Level, ...]":
    """Those of one folder. `.gitignore` counts before what only this copy of a repository ignores."""
    files = [RULES_FILE] if RULES_FILE in names else []
    files += [EXCLUDE_FILE] if GIT_FOLDER in names else []
    found = [_rules_in(folder_fd, name) for name in files]
    return tuple(_Level(rules, skipped_bytes, before) for rules in found if rules is not None)


def _rules_in(folder_fd: int, name: str) -> "Rules | None":
    """None where the file cannot be read: what cannot be told to be ignored is shown."""
    try:
        fd = open_beneath(folder_fd, name, _READ, links=False)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return Rules(os.read(fd, RULES_FILE_BYTES_MAX))
    except OSError:
        return None
    finally:
        os.close(fd)


class _Rule(Struct, frozen=True):
    """One line."""

    expression: str
    ignores: bool
    """False for a line that begins with `!`."""
    folders_only: bool


class Rules:
    """What one file says of paths relative to the folder it is about."""

    def __init__(self, data: bytes) -> None:
        self._rules = _parsed(data)
        self._any: Any = None
        self._each: dict[int, Any] = {}
        if self._rules:
            self._any = _compiled_or_none("|".join({rule.expression for rule in self._rules}))

    def verdict(self, relative: bytes, is_folder: bool) -> bool | None:
        """Whether it is ignored; None where no line is about it."""
        if not self._rules or (self._any is not None and self._any.fullmatch(relative) is None):
            return None
        for index in range(len(self._rules) - 1, -1, -1):
            rule = self._rules[index]
            if (is_folder or not rule.folders_only) and self._matches(index, relative):
                return rule.ignores
        return None

    def _matches(self, index: int, relative: bytes) -> bool:
        if index not in self._each:
            self._each[index] = _compiled_or_none(self._rules[index].expression)
        expression = self._each[index]
        return expression is not None and expression.fullmatch(relative) is not None


def _compiled_or_none(expression: str) -> Any:
    """None where it is too large for RE2: lines are asked one by one then, and such a one matches nothing."""
    import re2  # pyright: ignore[reportMissingTypeStubs]

    library: Any = re2
    try:
        return compiled(expression)
    except library.error:
        return None


def _parsed(data: bytes) -> list[_Rule]:
    """The lines as git's dir.c reads them."""
    rules: list[_Rule] = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        rule = _rule(line.removesuffix(b"\r"))
        if rule is not None:
            rules.append(rule)
            if len(rules) == RULES_MAX:
                break
    return rules


def _rule(line: bytes) -> _Rule | None:
    if line.startswith(b"#"):
        return None
    pattern = _without_trailing_spaces(line.partition(b"\0")[0])
    ignores = not pattern.startswith(b"!")
    pattern = pattern[not ignores :]
    folders_only = pattern.endswith(b"/")
    pattern = pattern[: len(pattern) - folders_only]
    if not pattern or len(pattern) > PATTERN_BYTES_MAX:
        return None
    try:
        expression = expression_of(pattern)
    except Unmatchable:
        return None
    return _Rule(expression, ignores, folders_only)


def _without_trailing_spaces(line: bytes) -> bytes:
    """Spaces at the end do not count, unless a backslash stands before them."""
    bare = line.rstrip(b" ")
    if len(bare) == len(line):
        return line
    backslashes = len(bare) - len(bare.rstrip(b"\\"))
    return bare + b" " if backslashes % 2 else bare
