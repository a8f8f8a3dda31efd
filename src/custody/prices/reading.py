"""A price table from its TOML file, checked to the last entry.

Owns the format (docs/reference/prices.md) and what is said of a mistake in it: the file, the entry and what
is expected there. Knows nothing of tokens. Used by `load_prices`; nothing is read on import.
"""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from msgspec import Struct

from custody.errors import InvalidSetting
from custody.prices.table import NAME_CHARACTERS_MAX, Offer, Period, Prices, Rates, Table

if TYPE_CHECKING:
    from decimal import Decimal

BUILT_IN = os.path.join(os.path.dirname(__file__), "prices.toml")

FILE_BYTES_MAX = 2 * 1024 * 1024
"""A hundred times the table that ships; more is another kind of file."""

VERSION_CHARACTERS_MAX = 64
"""It is kept with every step."""

USD_MAX = 1_000_000
"""Per million tokens, that is a dollar a token: more is a price in the wrong unit."""

DECIMALS_MAX = 9
"""A price with so many is a whole number of femto-dollars a token."""

_PRICE_TEXT = re.compile(r"[0-9]+(\.[0-9]+)?")
_GLOB_CHARACTERS = frozenset("*?[]")
_GLOB, _DATED = "glob:", "dated:"
_PARTS = ("input", "output", "cache_read", "cache_write")


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    source: str | None = None
    extends: bool = False
    model: tuple[dict[str, Any], ...] = ()


class _Tier(Struct, frozen=True, forbid_unknown_fields=True):
    above_input_tokens: int
    input: Any = None
    output: Any = None
    cache_read: Any = None
    cache_write: Any = None


class _Model(Struct, frozen=True, forbid_unknown_fields=True):
    match: tuple[str, ...]
    provider: str
    input: Any
    output: Any
    cache_read: Any = None
    cache_write: Any = None
    tiers: tuple[_Tier, ...] = ()
    valid_from: date | None = None


@cache
def built_in_prices() -> Prices:
    """The table that ships."""
    header, table = _shipped()
    return Prices(header.version, [table])


def read_prices(path: str) -> Prices:
    """The table in a file of the user's. Raises InvalidSetting."""
    header, table = _read_table(path)
    if not header.extends:
        return Prices(header.version, [table])
    shipped_header, shipped = _shipped()
    return Prices(f"{header.version}+{shipped_header.version}", [table, shipped])


@cache
def _shipped() -> tuple[_Header, Table]:
    return _read_table(BUILT_IN)


def _read_table(path: str) -> tuple[_Header, Table]:
    try:
        header = msgspec.convert(_read_toml(path), _Header)
    except msgspec.ValidationError as error:
        _refuse(path, _said(error))
    version = header.version
    if not version.strip() or version != version.strip() or len(version) > VERSION_CHARACTERS_MAX:
        _refuse(path, f"version is {_shown(version)}, expected up to {VERSION_CHARACTERS_MAX} characters")
    names = _Names(path)
    for index, raw in enumerate(header.model):
        names.add(_Entry(path, index, raw))
    return header, names.table()


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib
    from decimal import Decimal

    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}.", where=path) from error
    except ValueError as error:  # a path with a zero byte
        raise InvalidSetting(f"{path!r} cannot be read: {error}.", where=path) from error
    if len(data) > FILE_BYTES_MAX:
        _refuse(path, f"it has more than {FILE_BYTES_MAX} bytes, which no price table has")
    try:
        return tomllib.loads(data.decode(), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:  # numbers and nesting beyond reason too
        raise InvalidSetting(f"{path} cannot be read: {error}.", where=path) from error


class _Entry:
    """One `[[model]]`, checked."""

    def __init__(self, path: str, index: int, raw: Mapping[str, Any]) -> None:
        self.path = path
        self.index = index
        self.place = f"model[{index}]"
        try:
            model = msgspec.convert(raw, _Model)
        except msgspec.ValidationError as error:
            self.refuse(_said(error))
        if not model.match:
            self.refuse("match is empty, expected at least one name")
        for match in model.match:
            self._check(match)
        self.place = f"model[{index}] ({model.match[0]})"
        if not model.provider.strip():
            self.refuse("provider is blank, expected a name")
        self.match = model.match
        self.provider = model.provider
        self.from_us = None if model.valid_from is None else _midnight_us(model.valid_from)
        self.tiers = self._tiers(model)

    def refuse(self, what: str, hint: str | None = None) -> NoReturn:
        _refuse(self.path, f"{self.place}: {what}", hint, entry=self.index)

    def _check(self, match: str) -> None:
        name = match.removeprefix(_GLOB if match.startswith(_GLOB) else _DATED)
        if not name or name != name.strip() or len(name) > NAME_CHARACTERS_MAX:
            self.refuse(f"match has {_shown(match)}, expected a model's name without blanks around it")
        if _GLOB_CHARACTERS & set(name) and not match.startswith(_GLOB):
            self.refuse(
                f"match has {_shown(match)}, expected a name", f'A pattern is written "{_GLOB}{name}".'
            )

    def _tiers(self, model: _Model) -> tuple[Rates, ...]:
        tiers = [self._rates(model, "", -1)]
        for number, tier in enumerate(model.tiers):
            place = f"tiers[{number}]."
            for part in _PARTS:
                if (getattr(tier, part) is None) != (getattr(model, part) is None):
                    self.refuse(f"{place}{part} has to be there if and only if the model has {part}")
            if tier.above_input_tokens <= max(0, tiers[-1].above_input_tokens):
                self.refuse(f"{place}above_input_tokens is not above the one before")
            tiers.append(self._rates(tier, place, tier.above_input_tokens))
        return tuple(reversed(tiers))

    def _rates(self, prices: "_Model | _Tier", place: str, above_input_tokens: int) -> Rates:
        priced = {part: getattr(prices, part) for part in _PARTS}
        return Rates(
            above_input_tokens=above_input_tokens,
            **{
                part: self._femto_usd(place + part, value)
                for part, value in priced.items()
                if value is not None
            },
        )

    def _femto_usd(self, name: str, value: Any) -> int:
        """A price in USD per million tokens, as femto-dollars a token."""
        found = self._decimal(name, value)
        if found.is_zero():
            return 0
        if found < 0 or found > USD_MAX:
            self.refuse(f"{name} is {found}, expected 0 to {USD_MAX} (USD per million tokens)")
        if found >= type(found)(f"1e-{DECIMALS_MAX}"):  # a smaller one's ratio could fill the memory
            above, below = found.as_integer_ratio()
            if above * 10**DECIMALS_MAX % below == 0:
                return above * 10**DECIMALS_MAX // below
        self.refuse(f"{name} has more than {DECIMALS_MAX} decimals")

    def _decimal(self, name: str, value: Any) -> "Decimal":
        from decimal import Decimal

        if isinstance(value, str) and _PRICE_TEXT.fullmatch(value):
            value = Decimal(value)
        if type(value) is int:
            value = Decimal(value)
        if not isinstance(value, Decimal) or not value.is_finite():
            self.refuse(f"{name} is {_shown(value)}, expected USD per million tokens")
        return value


class _Names:
    """What each name of a file stands for, each said once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._entries: dict[str, list[_Entry]] = {}

    def add(self, entry: _Entry) -> None:
        for match in entry.match:
            self._claim(match, entry)
            if match.startswith(_DATED):
                self._claim(match.removeprefix(_DATED), entry)

    def _claim(self, match: str, entry: _Entry) -> None:
        others = self._entries.setdefault(match, [])
        for other in others:
            if other.from_us == entry.from_us:
                entry.refuse(
                    f"{_shown(match)} is priced in model[{other.index}] already",
                    "Prices that change on a day are two entries, the second with valid_from.",
                )
            if other.provider != entry.provider:
                entry.refuse(f"{_shown(match)} is {_shown(other.provider)}'s in model[{other.index}]")
        others.append(entry)

    def table(self) -> Table:
        exact: dict[str, Offer] = {}
        dated: dict[str, Offer] = {}
        globs: list[tuple[re.Pattern[str], Offer]] = []
        for match, entries in self._entries.items():
            if match.startswith(_GLOB):
                globs.append((_pattern(match.removeprefix(_GLOB)), _offer(entries)))
            elif match.startswith(_DATED):
                dated[match.removeprefix(_DATED)] = _offer(entries)
            else:
                exact[match] = _offer(entries)
        return Table(exact, dated, globs)


def _offer(entries: Sequence[_Entry]) -> Offer:
    latest_first = sorted(
        entries, key=lambda entry: (entry.from_us is not None, entry.from_us or 0), reverse=True
    )
    return Offer(entries[0].provider, tuple(Period(entry.from_us, entry.tiers) for entry in latest_first))


def _pattern(glob: str) -> re.Pattern[str]:
    from fnmatch import translate

    return re.compile(translate(glob))


def _midnight_us(day: date) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _said(error: msgspec.ValidationError) -> str:
    return str(error).replace("`$", "`").replace("`.", "`")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(path: str, what: str, hint: str | None = None, **details: Any) -> NoReturn:
    raise InvalidSetting(f"{path}: {what}.", hint=hint, where=path, **details)
