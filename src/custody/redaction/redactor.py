"""Any Python value to the bytes of a payload, secrets replaced on the way.

Owns the short way for ordinary values, and what a store's redactor is made of. Knows nothing of records or
files. Used by the recorder.

Most values are plain data without a secret. `_weigh` proves that of a value (exact built-in
types, names that are no secrets' names, within the bounds), one search of the encoded bytes proves that no
known value, no scanner's keyword and no URL with credentials is in it (text lies in msgpack as it is), and
the encoder's output is the result. Where it was built, C does both in one go for most of them. Where there
are keywords alone, the texts are searched one by one. Whatever is not proved goes the long way, `Walk`, which
alone decides what is replaced.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from custody import native
from custody.records import Redacted, Redaction
from custody.redaction.encodings import encoded
from custody.redaction.keys import has_secret_argument, secret_name
from custody.redaction.known import Fingerprints, encodable
from custody.redaction.needles import ITSELF, NOTHING
from custody.redaction.rule import ScanRule
from custody.redaction.rules import RULES
from custody.redaction.scanner import Budget, Hit, OverBudget, Scanner
from custody.redaction.typed import MARK_KEYS, class_name, surrogates
from custody.redaction.urls import RULE as URL_CREDENTIALS
from custody.redaction.urls import UrlCredentials, holds_userinfo
from custody.redaction.walk import (
    DEPTH_MAX,
    ELEMENT_BYTES,
    NAME_CHARACTERS_MAX,
    UNSCANNED,
    VALUE_BYTES_MAX,
    Walk,
    bounded,
    columns,
    is_pair,
    secret_pair,
)

SCANNED_BYTES_MAX = 8 * 1024 * 1024
SCANNED_MS_MAX = 250.0
"""Of one record that are searched for secrets, and how long. Of what is beyond only a digest is kept."""

_ORDINARY_NAMES_MAX = 8192
"""Names remembered as no secret's name; when full it starts anew, for names made of data."""

_type: Any = type  # untyped, here and below: nothing is known of what is kept
_DICT: Any = dict
_CONTAINERS = frozenset({dict, list, tuple})
_SCALARS = frozenset({int, float, bool, type(None)})

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_encode_ordinary: Any = native.encode_ordinary


class Kept(Struct, frozen=True):
    """A value as it goes on the record."""

    data: Redacted
    """msgpack, behind the salt."""
    hits: tuple[Redaction, ...] = ()


class Redactor:
    """Keeps values for one store. Safe to share between threads.

    `key` is the store's fingerprint key; `known` maps a name to a secret value the runtime was told of.
    `rules` are searched for beside the built-in ones. `allowed` are fingerprints of scanners' finds that are
    no secrets; known values and values under sensitive keys cannot be allowed. Of one record at most
    `bytes_max` bytes of text are searched, for at most `ms_max` milliseconds of this thread's time.
    A value must not be changed by another thread while it is being kept.
    """

    def __init__(
        self,
        key: bytes,
        known: Mapping[str, str] | None = None,
        *,
        rules: Sequence[ScanRule] = (),
        allowed: frozenset[str] = frozenset(),
        bytes_max: int = SCANNED_BYTES_MAX,
        ms_max: float = SCANNED_MS_MAX,
    ) -> None:
        self._fingerprints = Fingerprints(key)
        self._urls = UrlCredentials(self._fingerprints)
        self._scanner = Scanner(
            self._fingerprints, known=(known or {}).values(), rules=(*RULES, *rules), allowed=allowed
        )
        self._filter = self._scanner.tables
        self._always = self._scanner.always
        self._bytes_max = bytes_max
        self._ms_max = ms_max
        self._ordinary_names: set[str] = set()

    def keep(self, value: Any, path: str, salt: bytes = b"") -> Kept:
        """The value as msgpack, secrets replaced, what is not plain data marked. Raises for no value.

        `path` is where the value stands in the record, the root of the paths in `hits`. The salt stands
        before the value.
        """
        data = self.keep_ordinary(value, salt)
        return self.keep_slowly(value, path, salt) if data is None else Kept(data)

    def keep_ordinary(self, value: Any, salt: bytes) -> Redacted | None:
        """What `keep` gives for a value without anything to replace or to mark; None for another."""
        # All untyped: a call of NewType costs as much as the search for a secret.
        if _encode_ordinary is not None:
            data = _encode_ordinary(value, self._ordinary_names, self._filter, VALUE_BYTES_MAX, salt)
            if _type(data) is list and self._learn(data):
                data = _encode_ordinary(value, self._ordinary_names, self._filter, VALUE_BYTES_MAX, salt)
            if _type(data) is bytes:
                if len(data) <= self._bytes_max and not self._always:
                    return data
                data = (data,)
            if _type(data) is tuple:
                return data[0] if self._holds_none(data[0], len(salt)) else None
        data = self._encode_if_ordinary(value)
        return data if data is None else salt + data

    def text(self, text: str, path: str) -> tuple[str, tuple[Redaction, ...]]:
        """A text that stands in a leaf: secrets replaced, and fit for UTF-8."""
        counts: dict[str, int] = {}
        try:
            text, hits = self._scanner.replace_text(text, self._budget())
            for hit in hits:
                counts[hit.rule] = counts.get(hit.rule, 0) + 1
            text, in_urls = self._urls.replace(text)
            if in_urls:
                counts[URL_CREDENTIALS] = in_urls
        except OverBudget:
            text = self._fingerprints.token(UNSCANNED, encoded(text))
            counts = {UNSCANNED: 1}
        if not encodable(text):
            text = surrogates(text)
        return text, tuple(Redaction(rule, bounded(path), count) for rule, count in counts.items())

    def knows(self, data: bytes) -> bool:
        """Whether a secret, or what may be credentials in a URL, stands in a text of this msgpack."""
        level = self._scanner.level(data)
        if level == ITSELF or holds_userinfo(data):
            return True
        return (level != NOTHING or self._always) and not self._holds_none(data, 0)

    def scan(self, data: bytes) -> list[Hit]:
        """Known values and what scanners find in a text, by start. Raises OverBudget."""
        budget = self._budget()
        budget.spend(len(data))
        return self._scanner.find(data, budget)

    def keep_slowly(self, value: Any, path: str, salt: bytes) -> Kept:
        """What `keep` gives for any value, found on the long way."""
        walk = self._walk(path)
        try:
            data = _encode(walk.value(value, path, 0, False))
        except Exception as error:
            # The walk handles every value it was ever shown; should one break it, the record says so.
            data = _encode({"$type": "object", "class": class_name(value), "error": type(error).__name__})
        return Kept(Redacted(salt + data), walk.redactions())

    def _walk(self, root: str) -> Walk:
        return Walk(self._fingerprints, self._scanner, self._budget(), root)

    def _budget(self) -> Budget:
        self._scanner.prepare()
        return Budget(self._bytes_max, self._ms_max)

    # -- proving a value ordinary ---------------------------------------------------------------------

    def _encode_if_ordinary(self, value: Any) -> Any:
        try:
            if self._weigh(value if type(value) in _CONTAINERS else (value,), VALUE_BYTES_MAX, 0) >= 0:
                data = _encode(value)
                level = self._scanner.level(data)
                if level == ITSELF or holds_userinfo(data):
                    return None
                if level == NOTHING and not self._always and len(data) <= self._bytes_max:
                    return data
                return data if self._holds_none(data, 0) else None
        except (UnicodeEncodeError, OverflowError, RuntimeError):
            pass  # lone surrogates, integers beyond 64 bits, changed while it was read: the walk marks them
        return None

    def _holds_none(self, data: bytes, start: int) -> bool:
        """Whether scanners find nothing in the texts of this msgpack, which begins at `start`; no also where
        that would be too much to search."""
        if len(data) - start > self._bytes_max:
            return False
        scanner, budget = self._scanner, self._budget()
        try:
            for text in _texts_in(_decode(data[start:])):
                if (self._always or scanner.level(text)) and scanner.find(text, budget):
                    return False
        except OverBudget:
            return False
        return True

    def _weigh(self, value: Any, left: int, depth: int) -> int:
        """What is left of the bound after an ordinary container; negative: not proved to be one."""
        if depth >= DEPTH_MAX:
            return -1
        items: Any = value
        if type(value) is _DICT:
            if not (self._ordinary_names.issuperset(value) or self._learn(value)):
                return -1
            if ("value" in value or "Value" in value) and secret_pair(value) is not None:
                return -1
            items = value.values()
        elif str in (kinds := set(map(type, value))):
            if has_secret_argument(value) or (len(value) == 2 and is_pair(value) and secret_name(value[0])):
                return -1
        elif kinds <= _SCALARS:
            return left - ELEMENT_BYTES * len(value)
        left -= ELEMENT_BYTES * len(value)
        for item in items:
            kind = _type(item)
            if kind is str:
                left -= len(item)
            elif kind not in _SCALARS:
                if kind in _CONTAINERS:
                    left = self._weigh(item, left, depth + 1)
                elif kind is bytes:
                    left -= len(item)
                else:
                    return -1
                if left < 0:
                    return -1
        return left

    def _learn(self, names: Iterable[Any]) -> bool:
        """Whether all names are ordinary; those that are will be known by sight."""
        ordinary = self._ordinary_names
        for name in names:
            if type(name) is not str or len(name) > NAME_CHARACTERS_MAX or name in MARK_KEYS:
                return False
            if name not in ordinary:
                if secret_name(name):
                    return False
                if len(ordinary) >= _ORDINARY_NAMES_MAX:
                    ordinary.clear()
                ordinary.add(name)
        return True


def _texts_in(value: Any) -> Iterator[bytes]:
    """Every text in plain data, keys too."""
    kind = _type(value)
    if kind is str:
        yield encoded(value)
    elif kind is bytes:
        yield value
    elif kind is _DICT:
        for name, item in value.items():
            yield from _texts_in(name)
            yield from _texts_in(item)
    elif kind in _CONTAINERS:
        for places in columns(value):
            texts = (value[index] if name is None else value[index][name] for index, name in places)
            yield b"\n".join(map(encoded, texts))
        for item in value:
            yield from _texts_in(item)
