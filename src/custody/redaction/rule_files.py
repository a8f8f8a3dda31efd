"""Scanner rules that users bring: files in the TOML form of gitleaks.

Owns reading them. Knows nothing of how texts are searched or of where settings name the files. Used by
whoever puts a redactor together. Such rules are added to the built-in ones: none can take one away or excuse
what it finds.

Of a rule `id`, `description`, `regex`, `secretGroup`, `entropy`, `keywords` and its allow lists count
(`allowlist`, `allowlists`: `regexes`, `regexTarget`, `stopwords`, `condition`), and of the file its own allow
lists, for its rules alone. What is told by the names of files or by commits has no meaning here: rules with
nothing but a `path` are skipped, and such conditions are never fulfilled.
"""

import os
import re
from typing import Any, NoReturn, cast

from msgspec import Struct

from custody.errors import InvalidSetting
from custody.redaction.patterns import Pattern, compiled
from custody.redaction.rule import FIRST_GROUP, KEYWORD_BYTES_MIN, WHOLE_TEXT, Exemption, ScanRule
from custody.redaction.rules import RULES

FILE_BYTES_MAX = 4 * 1024 * 1024
"""The rules of gitleaks itself are a twentieth of that."""

RULES_MAX = 2000
ID_CHARACTERS_MAX = 64

_NO_ID = re.compile(r"[^a-z0-9]+")
_TARGETS = {None: "secret", "": "secret", "secret": "secret", "match": "match", "line": "line"}


class RuleFile(Struct, frozen=True):
    """What a file gave."""

    rules: tuple[ScanRule, ...]
    skipped: int
    """Rules that look at the names of files alone."""


def load_rules(path: str | os.PathLike[str], taken: frozenset[str] = frozenset()) -> tuple[ScanRule, ...]:
    """The rules of a file. `taken`: ids that are there beside the built-in ones. Raises InvalidSetting, which
    names file and rule."""
    return read_rules(path, taken).rules


def read_rules(path: str | os.PathLike[str], taken: frozenset[str] = frozenset()) -> RuleFile:
    """As `load_rules`, and how many it skipped."""
    return _Reader(os.fspath(path), {*taken, *(rule.id for rule in RULES)}).read()


class _Reader:
    def __init__(self, path: str, taken: set[str]) -> None:
        self._path = path
        self._taken = taken

    def read(self) -> RuleFile:
        document = self._document()
        if "path" in document.get("extend", {}):
            self._refuse("it extends another file", "Name each file in [redaction] rules.")
        common = self._exemptions(document, "the file")
        rules: list[ScanRule] = []
        tables = self._tables(document, "rules", "the file")
        if len(tables) > RULES_MAX:
            self._refuse(f"it has {len(tables)} rules, at most {RULES_MAX} are read", None)
        skipped = 0
        for index, table in enumerate(tables):
            if not table.get("regex"):
                skipped += 1
                continue
            rules.append(self._rule(table, index, common))
        return RuleFile(tuple(rules), skipped)

    def _document(self) -> dict[str, Any]:
        import tomllib

        try:
            with open(self._path, "rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise InvalidSetting(f"The rules in {self._path} cannot be read: {error.strerror}.") from error
        if len(data) > FILE_BYTES_MAX:
            self._refuse(f"it is larger than {FILE_BYTES_MAX} bytes", None)
        try:
            return tomllib.loads(data.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidSetting(f"{self._path} is not TOML: {error}.") from error

    def _rule(self, table: dict[str, Any], index: int, common: tuple[Exemption, ...]) -> ScanRule:
        given = self._text(table, "id", f"rule {index + 1}")
        where = f"rule {given!r}"
        name = _NO_ID.sub("_", given.lower()).strip("_")
        if not name or len(name) > ID_CHARACTERS_MAX:
            self._refuse(f"{where} has no usable id", "An id has letters or digits, 64 characters at most.")
        if name in self._taken:
            self._refuse(
                f"{where} is there already",
                "Give it another id: rules can be added, and none can be replaced.",
            )
        self._taken.add(name)
        pattern = self._text(table, "regex", where)
        found = self._compiled(pattern, where)
        group = table.get("secretGroup", 0)
        if type(group) is not int or not 0 <= group <= found.groups:
            self._refuse(f"{where} names group {group!r} as the secret, which its regex does not have", None)
        keywords = self._texts(table, "keywords", where)
        if any(len(keyword.encode()) < KEYWORD_BYTES_MIN for keyword in keywords):
            keywords = ()  # too short to search for: the whole of each text is
        entropy = table.get("entropy", 0.0)
        if type(entropy) not in (int, float):
            self._refuse(f"{where} has the entropy {entropy!r}, expected a number", None)
        return ScanRule(
            id=name,
            kind=str(table.get("description") or given)[:200],
            keywords=tuple(keyword.lower() for keyword in keywords),
            pattern=pattern,
            secret=group or FIRST_GROUP,
            before=WHOLE_TEXT,
            after=WHOLE_TEXT,
            entropy=float(entropy),
            exemptions=(*common, *self._exemptions(table, where)),
        )

    def _exemptions(self, table: dict[str, Any], where: str) -> tuple[Exemption, ...]:
        listed = self._tables(table, "allowlists", where)
        if "allowlist" in table:
            listed = [*listed, *self._tables({"one": [table["allowlist"]]}, "one", where)]
        found = [self._exemption(one, where) for one in listed]
        return tuple(exemption for exemption in found if exemption is not None)

    def _exemption(self, table: dict[str, Any], where: str) -> Exemption | None:
        if table.get("regexTarget") not in _TARGETS:
            self._refuse(f"{where} has the regexTarget {table.get('regexTarget')!r}", None)
        patterns = self._texts(table, "regexes", where)
        for pattern in patterns:
            self._compiled(pattern, where)
        stopwords = tuple(word.lower() for word in self._texts(table, "stopwords", where))
        if "targetRules" in table or not (patterns or stopwords):
            return None  # for some rules only, or by what texts do not have: excuses nothing
        every = str(table.get("condition", "OR")).upper() in ("AND", "&&")
        if every and (table.get("paths") or table.get("commits")):
            return None
        needed = every and bool(patterns) and bool(stopwords)
        target = _TARGETS[table.get("regexTarget")]
        return Exemption(
            patterns=patterns, target=cast("Any", target), stopwords=stopwords, all_needed=needed
        )

    def _compiled(self, pattern: str, where: str) -> Pattern:
        try:
            return compiled(pattern)
        except Exception as error:  # re2.error, which is not loaded before it is needed
            self._refuse(f"{where} has a regex that RE2 refuses: {error}", None)

    def _text(self, table: dict[str, Any], name: str, where: str) -> str:
        value = table.get(name)
        if type(value) is not str or not value:
            self._refuse(f"{where} has no {name}", None)
        return value

    def _texts(self, table: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
        value: Any = table.get(name, [])
        if type(value) is not list or not all(
            type(item) is str and item for item in cast("list[Any]", value)
        ):
            self._refuse(f"{where} has {name} that are no list of texts", None)
        return tuple(cast("list[str]", value))

    def _tables(self, table: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
        value: Any = table.get(name, [])
        if type(value) is not list or not all(type(item) is dict for item in cast("list[Any]", value)):
            self._refuse(f"{where} has {name} that are no tables", None)
        return cast("list[dict[str, Any]]", value)

    def _refuse(self, what: str, hint: str | None) -> NoReturn:
        raise InvalidSetting(f"The rules in {self._path}: {what}.", hint=hint)
