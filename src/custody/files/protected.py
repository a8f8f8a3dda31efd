"""Which files agents are kept from, and the sentence that says so.

Owns the list that ships (`protected.toml`), its patterns and the comparison of a path with them. Knows
nothing of roots or of how a file is opened. Used by `reach` for every path, and by what adds files to git.

Names are compared as the most lenient file system does: after NFC, without case, without the characters that
are invisible, and by the short names of FAT.
"""

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from functools import lru_cache

import msgspec
from msgspec import Struct

from custody.errors import InvalidSetting
from custody.files.other_names import OtherNames
from custody.files.spelling import folded, shown

BUILT_IN = os.path.join(os.path.dirname(__file__), "protected.toml")

_DEEP = "**"

_SHORT_NAME = re.compile(r"([^.~]{1,6})~[0-9]{1,4}(?:\.([^.]{1,3}))?")
"""The 8.3 name that FAT gives a file beside its own."""


class Category(Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns that protect the same thing."""

    name: str
    protects: str
    """Why, as a sentence."""
    patterns: tuple[str, ...]
    secret: bool = False
    """Whether reading is refused too."""
    fine: tuple[str, ...] = ()
    """What a pattern of this category would match and is let be."""


class _Commit(Struct, frozen=True, forbid_unknown_fields=True):
    patterns: tuple[str, ...]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    category: tuple[Category, ...]
    commit: _Commit


class Refused(Struct, frozen=True):
    """Why an agent may not do something with a file."""

    words: str
    own: bool = False
    """It belongs to Custody itself, and no person opens it to an agent."""


class Protected(Struct, frozen=True):
    """The list as it holds here; `load_protected` makes one."""

    own: tuple[str, ...] = ()
    """Files and folders of Custody's own, absolute, links resolved."""
    secret: tuple[str, ...] = ()
    """Patterns added: neither read nor written."""
    write: tuple[str, ...] = ()
    """Patterns added: not written."""

    def refusal(self, path: str, *, write: bool, inode: tuple[int, int] | None = None) -> str | None:
        """The words of `refused`."""
        refused = self.refused(path, write=write, inode=inode)
        return None if refused is None else refused.words

    def refused(self, path: str, *, write: bool, inode: tuple[int, int] | None = None) -> Refused | None:
        """Why an agent may not do this with what stands at the path; None where it may.

        `path` is absolute, its links resolved. To write a folder is to remove it or to change its attributes:
        what lies in it has refusals of its own. `inode`: device and inode of a file that has several names,
        which is refused where another of them is found to be protected.
        """
        table = _table(self)
        name = folded(path)
        own = table.own_of(name, write)
        if own is not None:
            said = f"{shown(path)} belongs to Custody itself ({own}), which agents are kept out of."
            return Refused(said, own=True)
        by_names = None if inode is None else self._refused_by_names(path, inode, write)
        rule = table.rule_of(name, write)
        if rule is None or (by_names is not None and by_names.own):
            return by_names
        said = f"{shown(path)} is protected ({rule.text}: {rule.category.name}). {_why(rule, write)}"
        return Refused(said if by_names is None else f"{said} {by_names.words}")

    def _refused_by_names(self, path: str, inode: tuple[int, int], write: bool) -> Refused | None:
        """A name of Custody's own goes before others: those a person may open."""
        table = _table(self)
        refused: Refused | None = None
        for name in table.other_names.of(path, inode, table.places()):
            said = f"{shown(path)} is another name of {shown(name)}, which"
            if table.own_of(folded(name), False) is not None:
                return Refused(f"{said} belongs to Custody itself.", own=True)
            rule = table.rule_of(folded(name), write)  # none: it is protected from writing, and this reads
            if rule is not None and refused is None:
                said = f"{said} is protected ({rule.text}: {rule.category.name}). {_why(rule, write)}"
                refused = Refused(said)
        return refused

    def secret_name(self, relative: str) -> bool:
        """Whether a file of this name holds secrets, or so often does that it stays out of commits."""
        table = _table(self)
        name = folded("/" + relative)
        return table.rule_of(name, False) is not None or table.commit.find(name) is not None


def load_protected(own: Iterable[str], secret: Iterable[str] = (), write: Iterable[str] = ()) -> Protected:
    """The list that ships, with what is added to it.

    `own`: absolute folders and files of Custody itself (store, settings files), neither written nor read; one
    that is a link is both the link and what it leads to.
    `secret` and `write`: patterns, spelled as in the list (`.ssh/**`, `~/keys/*`). Raises InvalidSetting for
    what is none.
    """
    made = Protected(
        tuple(dict.fromkeys(real for path in own for real in (os.path.realpath(path), _as_link(path)))),
        tuple(secret),
        tuple(write),
    )
    for pattern in (*made.secret, *made.write):
        _parse(pattern)
    return made


def _as_link(path: str) -> str:
    """The path itself, whatever stands there: only the links on the way to it are resolved."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _why(rule: "Rule", write: bool) -> str:
    can = (
        "A person can change it; agents may not."
        if write
        else "A person can read it; agents are not given it."
    )
    return f"{rule.category.protects} {can}"


# -- comparing ----------------------------------------------------------------------------------------


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _matches(pattern: str, part: str) -> bool:
    """One component."""
    if pattern == part or (_is_glob(pattern) and _glob(pattern).match(part)):
        return True
    return "~" in part and _matches_short(pattern, part)


def _matches_short(pattern: str, part: str) -> bool:
    """Whether FAT may have given a file that the pattern matches this short name."""
    short = _SHORT_NAME.fullmatch(part)
    if short is None or pattern == "*":
        return False
    stem, dot, extension = pattern.lstrip(".").rpartition(".")
    stem, extension = (stem, extension) if dot else (extension, "")
    if stem[:2] != short[1][:2]:  # after a few of the same beginning, two characters of the name are left
        return False
    return _glob(extension[:3]).match(short[2] or "") is not None


class Rule(Struct, frozen=True):
    """One pattern, ready to be compared."""

    text: str
    parts: tuple[str, ...]
    """Folded; without the `**` at the end."""
    deep: bool
    anchored: bool
    category: Category

    def matches(self, parts: list[str]) -> bool:
        """`parts`: the folded components of a path."""
        count = len(self.parts)
        spare = len(parts) - count
        if spare < 0 or (self.anchored and not self.deep and spare):
            return False
        first = 0 if self.anchored or self.deep else spare
        last = 0 if self.anchored else spare
        return any(
            all(map(_matches, self.parts, parts[start : start + count])) for start in range(first, last + 1)
        )


def _parse(pattern: str) -> tuple[tuple[str, ...], bool, bool]:
    """Parts, whether it goes deep, whether it is anchored. Raises InvalidSetting."""
    text = os.path.expanduser(pattern) if pattern.startswith("~/") else pattern
    anchored = text.startswith("/")
    parts = text.removeprefix("/").split("/")
    deep = len(parts) > 1 and parts[-1] == _DEEP
    if deep:
        parts.pop()
    if parts == ["*"] or any(part in ("", ".", "..", _DEEP) or "\0" in part for part in parts):
        raise InvalidSetting(
            f"{pattern!r} is no pattern of protected files; expected names between slashes, as in `.ssh/**`.",
            pattern=pattern,
        )
    return tuple(map(folded, parts)), deep, anchored


def _rules(category: Category, patterns: Iterable[str]) -> Iterator[Rule]:
    for text in patterns:
        yield Rule(text, *_parse(text), category)


class _Rules:
    """Rules arranged so that most paths are told apart by a look into two tables."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.all = tuple(rules)
        self._by_last: dict[str, list[Rule]] = {}
        self._by_folder: dict[str, list[Rule]] = {}
        self._globs: list[Rule] = []
        for rule in self.all:
            last = rule.parts[-1]
            if _is_glob(last):
                self._globs.append(rule)
            else:
                (self._by_folder if rule.deep else self._by_last).setdefault(last, []).append(rule)
        self._glob_ends = re.compile(
            "|".join(translate(rule.parts[-1]) for rule in self._globs if not rule.deep) or r"(?!)"
        )
        self._deep_globs = any(rule.deep for rule in self._globs)

    def find(self, name: str) -> Rule | None:
        """The first rule that matches a folded absolute path."""
        parts = name[1:].split("/")
        return next((rule for rule in self._candidates(name, parts) if rule.matches(parts)), None)

    def _candidates(self, name: str, parts: list[str]) -> Iterable[Rule]:
        if "~" in name:
            return self.all
        found = self._by_last.get(parts[-1], ())
        if not self._by_folder.keys().isdisjoint(parts):
            found = [*found, *(rule for part in parts for rule in self._by_folder.get(part, ()))]
        if self._deep_globs or self._glob_ends.match(parts[-1]):
            found = [*found, *self._globs]
        return found


class _Patterns:
    """The rules of the list and of what is added to it: the same for every store."""

    def __init__(self, secret: tuple[str, ...], write: tuple[str, ...]) -> None:
        shipped = _shipped()
        categories = (
            *shipped.category,
            Category("added secrets", "The settings keep agents from it.", secret, secret=True),
            Category("added files", "The settings keep agents from changing it.", write),
        )
        rules = [rule for category in categories for rule in _rules(category, category.patterns)]
        self.secret = _Rules(rule for rule in rules if rule.category.secret)
        self.write = _Rules(rule for rule in rules if not rule.category.secret)
        self.fine = _Rules(rule for category in categories for rule in _rules(category, category.fine))
        commit = Category("commit", "", shipped.commit.patterns)
        self.commit = _Rules(_rules(commit, commit.patterns))
        self.on_the_way = {part for rule in rules for part in rule.parts[: -1 if not rule.deep else None]}


@lru_cache(maxsize=16)
def _patterns(secret: tuple[str, ...], write: tuple[str, ...], home: str) -> _Patterns:
    """`home` is what `~` in a pattern stands for now; making the rules takes milliseconds."""
    return _Patterns(secret, write)


class _Table:
    """Everything that one Protected compares with."""

    def __init__(self, protected: Protected) -> None:
        self._own = [(path, folded(path)) for path in protected.own]
        patterns = _patterns(protected.secret, protected.write, os.path.expanduser("~"))
        self._secret, self._write, self._fine = patterns.secret, patterns.write, patterns.fine
        self.commit = patterns.commit
        self._on_the_way = patterns.on_the_way
        self.other_names = OtherNames(self._protects, self._leads_on)

    def own_of(self, name: str, write: bool) -> str | None:
        """Custody's own file or folder that the path is, lies in, or (to be removed) holds."""
        for path, own in self._own:
            if name == own or name.startswith(own + "/"):
                return path
            if write and own.startswith(name.rstrip("/") + "/"):
                return path
        return None

    def rule_of(self, name: str, write: bool) -> Rule | None:
        rule = self._secret.find(name)
        if rule is None and write:
            rule = self._write.find(name)
        return None if rule is None or self._fine.find(name) is not None else rule

    def places(self) -> Iterator[str]:
        """Where protected files are, wherever the file in question lies."""
        yield os.path.expanduser("~")
        for path, _ in self._own:
            yield os.path.dirname(path)
        for rule in (*self._secret.all, *self._write.all):
            if rule.anchored and not any(map(_is_glob, rule.parts[:-1])):
                yield "/" + "/".join(rule.parts[:-1])

    def _protects(self, path: str) -> bool:
        name = folded(path)
        return self.rule_of(name, True) is not None or self.own_of(name, False) is not None

    def _leads_on(self, folder: str) -> bool:
        return folded(os.path.basename(folder)) in self._on_the_way or self._protects(folder)


@lru_cache(maxsize=16)
def _table(protected: Protected) -> _Table:
    return _Table(protected)


@lru_cache(maxsize=1)
def _shipped() -> _File:
    with open(BUILT_IN, "rb") as file:
        return msgspec.toml.decode(file.read(), type=_File)
