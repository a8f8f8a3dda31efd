"""The tables of a policy document, read with everything that is wrong with them, each fault with its place.

Owns the words for a key that is unknown, missing or has a value it cannot have. Refuses to know what the keys
are for: `document` and the rule kinds say which there are. Used by those, and by `bridges.policies`.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from custody.errors import InvalidPolicy
from custody.policy.places import Path, Places

SHOWN_CHARACTERS_MAX = 80
"""Of a wrong setting, in the sentence that refuses it."""

FAULTS_MAX = 100
"""Told at once. Whoever has more of them has one mistake many times."""

TEXT_CHARACTERS_MAX = 1_000
"""Of a name or a reason: they are kept with every record of a refusal."""


class Fault(Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    line: int
    column: int
    message: str
    key: str | None = None
    expected: str | None = None
    hint: str | None = None
    missing: bool = False
    """It has no place of its own: that of its table."""


class Faults:
    """What is wrong with one document, as far as it was read."""

    def __init__(self, source: str, places: Places) -> None:
        self.source = source
        self.places = places
        self.found: list[Fault] = []

    def add(
        self,
        place: tuple[int, int],
        message: str,
        *,
        key: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
        missing: bool = False,
    ) -> None:
        if len(self.found) < FAULTS_MAX:
            line, column = place
            self.found.append(
                Fault(
                    line=line,
                    column=column,
                    message=message,
                    key=key,
                    expected=expected,
                    hint=hint,
                    missing=missing,
                )
            )

    def refuse(self) -> None:
        """Raises InvalidPolicy if anything is wrong."""
        if self.found:
            raise refusal(self.source, self.found)


def refusal(source: str, faults: Sequence[Fault]) -> InvalidPolicy:
    """The error that says the first fault, in the order of the text, and holds them all. What is there and
    wrong comes before what is missing: a key that is misspelled is both."""
    ordered = sorted(faults, key=lambda fault: (fault.line, fault.column))
    first = next((fault for fault in ordered if not fault.missing), ordered[0])
    hints = [first.hint] if first.hint else []
    if len(ordered) > 1:
        hints.append(f"{len(ordered) - 1} more: custody policy check {source} lists all.")
    return InvalidPolicy(
        f"{source}:{first.line}:{first.column}: {first.message}",
        hint=" ".join(hints) or None,
        file=source,
        line=first.line,
        column=first.column,
        key=first.key,
        expected=first.expected,
        faults=[{"line": f.line, "column": f.column, "message": f.message} for f in ordered],
    )


class Table:
    """One table. What cannot be read becomes a fault and None, so that reading goes on to the next."""

    def __init__(
        self, raw: Mapping[str, Any], path: Path, faults: Faults, what: str, prefix: str = ""
    ) -> None:
        self.raw = raw
        self.path = path
        self.faults = faults
        self.what = what
        """In a sentence: `a rule`."""
        self.prefix = prefix
        """Before a key, in a sentence: `rate.`."""

    @property
    def line(self) -> int:
        return self.faults.places.key(self.path)[0]

    def only(self, known: Collection[str]) -> None:
        """A fault for every other key, with the nearest of those."""
        for key in self.raw:
            if key in known:
                continue
            near = nearest(key, known)
            said = f"did you mean {near}?" if near else f"expected {listed(known)}."
            self.faults.add(
                self.faults.places.key((*self.path, key)),
                f"`{self.prefix}{_cut(key)}` is no key of {self.what}; {said}",
                key=self.prefix + key,
                expected=near or listed(known),
            )

    def refuse(self, key: str, expected: str, found: str | None = None, hint: str | None = None) -> None:
        """What the key holds is not what is expected there."""
        missing = key not in self.raw
        found = found or ("is missing" if missing else f"is {shown(self.raw[key])}")
        place = self.faults.places.value((*self.path, key))
        self.faults.add(
            place,
            f"{self.prefix}{key} {found}, expected {expected}.",
            key=self.prefix + key,
            expected=expected,
            hint=hint,
            missing=missing,
        )

    # -- values -------------------------------------------------------------------------------------------

    def text(
        self, key: str, *, required: bool = False, characters_max: int = TEXT_CHARACTERS_MAX
    ) -> str | None:
        if key not in self.raw and not required:
            return None
        value = self.raw.get(key)
        if not isinstance(value, str) or not value.strip():
            self.refuse(key, "text")
        elif len(value) > characters_max:
            self.refuse(key, f"at most {characters_max:,}", f"has {len(value):,} characters")
        else:
            return value
        return None

    def word(self, key: str, known: Sequence[str], *, required: bool = False) -> str | None:
        """One of a few words."""
        if key not in self.raw and not required:
            return None
        value = self.raw.get(key)
        if isinstance(value, str) and value in known:
            return value
        near = nearest(value, known) if isinstance(value, str) else None
        self.refuse(key, listed(known), hint=f"Did you mean {near}?" if near else None)
        return None

    def number(
        self, key: str, *, low: float, high: float, whole: bool = False, required: bool = False
    ) -> float | None:
        """Between two bounds, both allowed."""
        if key not in self.raw and not required:
            return None
        value = self.raw.get(key)
        kinds = int if whole else (int, float)
        if isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high:
            return value
        kind = "a whole number" if whole else "a number"
        bounds = f"from {_figure(low)} up" if math.isinf(high) else f"from {_figure(low)} to {_figure(high)}"
        self.refuse(key, f"{kind} {bounds}")
        return None

    def flag(self, key: str) -> bool | None:
        value = self.raw.get(key)
        if key in self.raw and not isinstance(value, bool):
            self.refuse(key, "true or false")
            return None
        return value

    def texts(self, key: str, *, one: bool = True) -> tuple[str, ...]:
        """A list of texts, or, where `one`, a single one. Nothing for an absent key, and after a fault."""
        if key not in self.raw:
            return ()
        value = self.raw[key]
        items = [value] if one and isinstance(value, str) else value
        expected = "text, or a list of texts" if one else "a list of texts"
        if not isinstance(items, list) or not items:
            self.refuse(key, expected)
            return ()
        kept: list[str] = []
        for index, item in enumerate(cast("list[Any]", items)):
            if isinstance(item, str) and item.strip():
                kept.append(item)
            else:
                place = self.faults.places.value((*self.path, key, index))
                self.faults.add(
                    place,
                    f"{self.prefix}{key} has {shown(item)}, expected {expected}.",
                    key=key,
                    expected="text",
                )
        return tuple(kept)

    # -- tables inside ------------------------------------------------------------------------------------

    def table(self, key: str, what: str, prefix: str | None = None) -> "Table | None":
        if key not in self.raw:
            return None
        value = self.raw[key]
        if not isinstance(value, Mapping):
            self.refuse(key, "a table")
            return None
        inner = cast("Mapping[str, Any]", value)
        return Table(
            inner, (*self.path, key), self.faults, what, f"{self.prefix}{key}." if prefix is None else prefix
        )

    def tables(self, key: str, what: str, most: int) -> "list[Table]":
        """Of a list of tables, as `[[key]]` writes it."""
        if key not in self.raw:
            return []
        value = self.raw[key]
        if not isinstance(value, (list, tuple)):
            self.refuse(key, "a list of tables", hint=f"Write each under [[{key}]].")
            return []
        items = cast("Sequence[Any]", value)
        if len(items) > most:
            self.refuse(key, f"at most {most:,}", f"has {len(items):,} tables")
            return []
        kept: list[Table] = []
        for index, item in enumerate(items):
            path = (*self.path, key, index)
            if isinstance(item, Mapping):
                kept.append(Table(cast("Mapping[str, Any]", item), path, self.faults, what))
            else:
                self.faults.add(
                    self.faults.places.value(path),
                    f"{key}[{index}] is {shown(item)}, expected a table.",
                    key=key,
                    expected="a table",
                )
        return kept


# -- words --------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """A wrong setting, in the sentence that refuses it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits, or more lists in lists, than Python writes
        return "too long to show"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[: SHOWN_CHARACTERS_MAX - 1]}…"


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that was most likely meant."""
    from difflib import get_close_matches  # only who mistyped waits for it

    return next(iter(get_close_matches(word[:SHOWN_CHARACTERS_MAX], known, n=1)), None)


def listed(names: Collection[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _figure(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


NAME = re.compile(r"[A-Za-z0-9_.:/-](?:[A-Za-z0-9_.:/ -]{0,98}[A-Za-z0-9_.:/-])?")
NAME_WORDS = "1 to 100 letters, digits, blanks and - _ . : /"


def rule_name(table: Table, *, required: bool = False) -> str | None:
    """What a rule calls itself: it goes into records and sentences as it is."""
    name = table.text("name", required=required)
    if name is not None and not NAME.fullmatch(name):
        table.refuse("name", NAME_WORDS)
    return name
