"""From a model's name and its tokens to a cost, in whole numbers.

Owns how a name finds its prices and how tokens are multiplied with them. Pure but for the clock, which is
read only for a model whose prices have a date. Knows nothing of files. Built by `reading`.

Prices are kept as whole femto-dollars (10⁻¹⁵ USD) a token: a price in USD per million tokens with up to
nine decimals is exactly such a number, so that nothing is rounded before the sum is.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from custody.records import Tokens, now_us

MODELS_REMEMBERED_MAX = 1024
"""Names a process meets; beyond it the least recent are looked up again."""

NAME_CHARACTERS_MAX = 256
"""No model has a longer name, and what is longer shall not be remembered."""

COST_NANO_USD_MAX = 2**63 - 1
"""What a record and the index can hold. A dearer turn is a miscount."""

_FEMTO_PER_NANO = 10**6

_DATE = re.compile(r"-(?:[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2})\Z")
"""How providers date a snapshot of a model: `-20260921`, `-2026-09-21`."""

PREFIXES = {
    "anthropic:": "anthropic",
    "anthropic/": "anthropic",
    "gemini/": "google",
    "google:": "google",
    "google-gla:": "google",
    "google_genai:": "google",
    "models/": "google",
    "meta:": "meta",
    "mistral:": "mistral",
    "mistral/": "mistral",
    "mistralai:": "mistral",
    "openai:": "openai",
    "openai-chat:": "openai",
    "openai-responses:": "openai",
    "openai/": "openai",
    "xai:": "xai",
    "xai/": "xai",
}
"""How client libraries spell "this provider's own API" before a model's name, and whose prices then hold.
Spellings that only gateways and other hosts use (`google/`, `x-ai/`, `azure/`, `bedrock/`) are left out:
their prices are their own."""


class Rates(Struct, frozen=True):
    """Femto-dollars for each token of a turn. None is unknown."""

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    above_input_tokens: int = -1
    """They hold for every token of a turn with more input than this."""


class Period(Struct, frozen=True):
    """The rates from one day on."""

    from_us: int | None
    """None: since ever."""
    tiers: tuple[Rates, ...]
    """The one with the highest threshold first; the last has none."""


class Offer(Struct, frozen=True):
    """What one name costs at its provider."""

    provider: str
    periods: tuple[Period, ...]
    """The latest first."""


class Table(Struct, frozen=True):
    """The names of one file. The most exact says what holds: the name itself, then the name without its
    date, then patterns in the order of the file."""

    exact: Mapping[str, Offer]
    dated: Mapping[str, Offer]
    globs: Sequence[tuple[re.Pattern[str], Offer]]

    def offer(self, name: str) -> Offer | None:
        found = self._named(name)
        if found is not None:
            return found
        for prefix, provider in PREFIXES.items():
            if name.startswith(prefix):
                found = self._named(name[len(prefix) :])
                return found if found is not None and found.provider == provider else None
        return None

    def _named(self, name: str) -> Offer | None:
        if name in self.exact:
            return self.exact[name]
        date = _DATE.search(name)
        if date is not None and name[: date.start()] in self.dated:
            return self.dated[name[: date.start()]]
        return next((offer for pattern, offer in self.globs if pattern.match(name)), None)


class Prices:
    """A price table. Its methods may be called from any thread."""

    def __init__(self, version: str, tables: Sequence[Table]) -> None:
        """The first of `tables` that knows a name decides."""
        self.version = version
        self._tables = tuple(tables)
        self._remembered = lru_cache(MODELS_REMEMBERED_MAX)(self._find)

    def cost_nano_usd(self, model: str | None, tokens: Tokens | None, at_us: int | None = None) -> int | None:
        """The list price of one turn in billionths of a dollar, rounded once, half up.

        None where it is not known: the model, its input or output tokens, a price at the time of the turn
        (`at_us`; None is now), or the price of a part that was used. None also for counts that cannot be:
        negative, more from and to the cache than there was input, more reasoning than output. Tokens not
        said to be cached are priced as input; reasoning is part of the output. Never raises for a value.
        """
        if model is None or tokens is None:
            return None
        name = model if type(model) is str else _text(model)
        if name is None or len(name) > NAME_CHARACTERS_MAX:
            return None
        offer = self._remembered(name)
        counts = _counts(tokens)
        if offer is None or counts is None:
            return None
        for period in offer.periods:
            if period.from_us is not None:
                if at_us is None:
                    at_us = now_us()
                if at_us < period.from_us:
                    continue
            return _cost(period.tiers, *counts)
        return None

    def _find(self, name: str) -> Offer | None:
        for table in self._tables:
            offer = table.offer(name)
            if offer is not None:
                return offer
        return None


def _text(model: object) -> str | None:
    """The plain text of a kind of str, such as a member of a StrEnum."""
    return str.__str__(model) if isinstance(model, str) else None


def _counts(tokens: Tokens) -> tuple[int, int, int, int] | None:
    """Input, output, cache read and cache write of a turn; None for what cannot be a turn's counts."""
    asked, said, thought = tokens.input, tokens.output, tokens.reasoning
    read = 0 if tokens.cache_read is None else tokens.cache_read
    written = 0 if tokens.cache_write is None else tokens.cache_write
    # What a provider's library hands on was never validated: a boolean, a float or text is no count.
    if type(asked) is not int or type(said) is not int or type(read) is not int or type(written) is not int:
        return None
    if asked < 0 or said < 0 or read < 0 or written < 0 or read + written > asked:
        return None
    if thought is not None and (type(thought) is not int or not 0 <= thought <= said):
        return None
    return asked, said, read, written


def _cost(tiers: Sequence[Rates], asked: int, said: int, read: int, written: int) -> int | None:
    for rates in tiers:
        if asked > rates.above_input_tokens:
            break
    else:  # the last tier is above -1, and no count is less than 0
        raise AssertionError("a period without a tier for every count")
    femto_usd = (asked - read - written) * rates.input + said * rates.output
    if read:
        if rates.cache_read is None:
            return None
        femto_usd += read * rates.cache_read
    if written:
        if rates.cache_write is None:
            return None
        femto_usd += written * rates.cache_write
    nano_usd = (femto_usd + _FEMTO_PER_NANO // 2) // _FEMTO_PER_NANO
    return nano_usd if nano_usd <= COST_NANO_USD_MAX else None
