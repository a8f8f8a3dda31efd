"""Any Python value to the bytes of a payload, secrets replaced on the way.

Owns the walk, its bounds and the short way for ordinary values. Knows nothing of records or files. Used
by the recorder.

Most values are plain data without a secret. `_weigh` proves that of a value (exact built-in
types, names that are no secrets' names, within the bounds), one search of the encoded bytes proves that no
known value and no URL with credentials is in it (text lies in msgpack as it is), and the encoder's output is
the result. Where it was built, C does both in one go for most of them. Whatever is not proved goes the long
way, `_Walk`, which alone decides what is replaced.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from custody import native
from custody.records import Redacted, Redaction
from custody.redaction.keys import has_secret_argument, secret_arguments, secret_name
from custody.redaction.known import Fingerprints, KnownValues, encodable, holds_any
from custody.redaction.typed import MARK_KEYS, Mark, class_name, integer, opaque, reduce, surrogates
from custody.redaction.urls import RULE as URL_CREDENTIALS
from custody.redaction.urls import UrlCredentials, holds_userinfo

RULES = ("sensitive_key", "known_value", URL_CREDENTIALS)

VALUE_BYTES_MAX = 64 * 1024 * 1024
"""Of one kept value. It is encoded on the caller's thread with the interpreter lock held; what is larger
is marked instead of copied."""

ELEMENT_BYTES = 64
"""What each element of a container counts for, so that one bound covers bytes and a million elements."""

DEPTH_MAX = 64
"""Deeper data exhausts the stack of whoever reads it."""

PATH_CHARACTERS_MAX = 256
HITS_MAX = 100
"""Paths kept apart in one record's leaf; further hits are counted under the root's path."""

_ORDINARY_NAMES_MAX = 8192
"""Names remembered as no secret's name; when full it starts anew, for names made of data."""
_ORDINARY_NAME_CHARACTERS_MAX = 64

_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1
_TOKEN = re.compile(r"\[redacted:[a-z_]+:[0-9a-f]{8}\]")
_type: Any = type  # untyped, here and below: nothing is known of what is kept
_DICT: Any = dict
_STR: Any = str
_TEXTS: Any = (str, bytes, bytearray, memoryview)
_SEQUENCES = frozenset({list, tuple})
_CONTAINERS = frozenset({dict, list, tuple})
_SCALARS = frozenset({int, float, bool, type(None)})
_PAIRS = (("name", "value"), ("key", "value"), ("Name", "Value"), ("Key", "Value"))

_encode = msgspec.msgpack.Encoder().encode
_encode_ordinary: Any = native.encode_ordinary


class Kept(Struct, frozen=True):
    """A value as it goes on the record."""

    data: Redacted
    """msgpack, behind the salt."""
    hits: tuple[Redaction, ...] = ()


class Redactor:
    """Keeps values for one store. Safe to share between threads.

    `key` is the store's fingerprint key; `known` maps a name to a secret value the runtime was told of.
    A value must not be changed by another thread while it is being kept.
    """

    def __init__(self, key: bytes, known: Mapping[str, str] | None = None) -> None:
        self._fingerprints = Fingerprints(key)
        self._known = KnownValues(known or {}, self._fingerprints)
        self._urls = UrlCredentials(self._fingerprints)
        self._needles = self._known.byte_needles
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
            names = self._ordinary_names
            data = _encode_ordinary(value, names, self._needles, VALUE_BYTES_MAX, salt)
            if _type(data) is bytes:
                return data
            if data is not None and self._learn(data):
                data = _encode_ordinary(value, names, self._needles, VALUE_BYTES_MAX, salt)
                if _type(data) is bytes:
                    return data
        data = self._encode_if_ordinary(value)
        return data if data is None else salt + data

    def text(self, text: str, path: str) -> tuple[str, tuple[Redaction, ...]]:
        """A text that stands in a leaf: known values and credentials in URLs replaced, and fit for UTF-8."""
        text, known = self._known.replace(text)
        text, in_urls = self._urls.replace(text)
        if not encodable(text):
            text = surrogates(text)
        counts = (("known_value", known), (URL_CREDENTIALS, in_urls))
        return text, tuple(Redaction(rule, _bounded(path), count) for rule, count in counts if count)

    def knows(self, data: bytes) -> bool:
        """Whether a known value, or what may be credentials in a URL, stands in these bytes."""
        return holds_any(data, self._needles) or holds_userinfo(data)

    def keep_slowly(self, value: Any, path: str, salt: bytes) -> Kept:
        """What `keep` gives for any value, found on the long way."""
        walk = _Walk(self._fingerprints, self._known, path)
        try:
            data = _encode(walk.value(value, path, 0, False))
        except Exception as error:
            # The walk handles every value it was ever shown; should one break it, the record says so.
            data = _encode({"$type": "object", "class": class_name(value), "error": type(error).__name__})
        return Kept(Redacted(salt + data), walk.redactions())

    # -- proving a value ordinary ---------------------------------------------------------------------

    def _encode_if_ordinary(self, value: Any) -> Any:
        try:
            if self._weigh(value if type(value) in _CONTAINERS else (value,), VALUE_BYTES_MAX, 0) >= 0:
                data = _encode(value)
                if not holds_any(data, self._needles) and not holds_userinfo(data):
                    return data
        except (UnicodeEncodeError, OverflowError, RuntimeError):
            pass  # lone surrogates, integers beyond 64 bits, changed while it was read: the walk marks them
        return None

    def _weigh(self, value: Any, left: int, depth: int) -> int:
        """What is left of the bound after an ordinary container; negative: not proved to be one."""
        if depth >= DEPTH_MAX:
            return -1
        items: Any = value
        if type(value) is _DICT:
            if not (self._ordinary_names.issuperset(value) or self._learn(value)):
                return -1
            if ("value" in value or "Value" in value) and _secret_pair(value) is not None:
                return -1
            items = value.values()
        elif str in (kinds := set(map(type, value))):
            if has_secret_argument(value) or (len(value) == 2 and _is_pair(value) and secret_name(value[0])):
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
            if type(name) is not str or len(name) > _ORDINARY_NAME_CHARACTERS_MAX or name in MARK_KEYS:
                return False
            if name not in ordinary:
                if secret_name(name):
                    return False
                if len(ordinary) >= _ORDINARY_NAMES_MAX:
                    ordinary.clear()
                ordinary.add(name)
        return True


class _Walk:
    """The long way through one value."""

    def __init__(self, fingerprints: Fingerprints, known: KnownValues, root: str) -> None:
        self._fingerprints = fingerprints
        self._known = known
        self._urls = UrlCredentials(fingerprints)
        self._root = root
        self._left = VALUE_BYTES_MAX
        self._open: set[int] = set()
        self._hits: dict[tuple[str, str], int] = {}

    def redactions(self) -> tuple[Redaction, ...]:
        return tuple(Redaction(rule, path, count) for (rule, path), count in self._hits.items())

    def value(self, value: Any, path: str, depth: int, secret: bool) -> Any:
        """The value as plain data. `secret`: it stands under a name that says so."""
        kind = _type(value)
        if kind is str:
            return self._text(value, path, secret)
        if kind is bytes:
            return self._bytes(value, path, secret)
        if value is None or kind is bool:
            return value
        if kind is int or kind is float:
            return self._number(value, path, secret)
        if issubclass(kind, _TEXTS):
            return self._copied(value, kind, path, secret)
        if id(value) in self._open:
            return {"$type": "cycle", "class": class_name(value)}
        if depth >= DEPTH_MAX:
            return {"$type": "too_deep", "class": class_name(value)}
        self._open.add(id(value))
        try:
            return self._inside(value, kind, path, depth, secret)
        finally:
            self._open.discard(id(value))

    def _inside(self, value: Any, kind: type, path: str, depth: int, secret: bool) -> Any:
        if kind is _DICT:
            return self._mapping(value, path, depth, secret)
        if kind is list or kind is tuple:
            return self._sequence(value, path, depth, secret)
        reduced = value if kind is Mark else reduce(value)
        if type(reduced) is Mark:
            return self._mark(reduced, path, depth, secret)
        return self.value(reduced, path, depth + 1, secret)

    # -- containers -----------------------------------------------------------------------------------

    def _mapping(self, value: dict[Any, Any], path: str, depth: int, secret: bool) -> dict[str, Any]:
        if not self._spend(ELEMENT_BYTES * len(value)):
            return _too_large(value, items=len(value))
        pair = _secret_pair(value)
        pairs: list[tuple[Any, Any]] = []
        textual = True
        for name, item in list(value.items()):
            name, shown = self._name(name, path, depth)
            textual = textual and type(shown) is str and shown not in MARK_KEYS
            below = secret or (type(name) is str and (name == pair or secret_name(name)))
            step = shown if type(shown) is str else "?"
            pairs.append((shown, self.value(item, _join(path, step), depth + 1, below)))
        if textual:
            plain = dict(pairs)
            if len(plain) == len(pairs):
                return plain
        return {"$type": "mapping", "items": [list(pair) for pair in pairs]}

    def _name(self, name: Any, path: str, depth: int) -> tuple[Any, Any]:
        """A key as text where it is text, to judge it by; and as it is kept."""
        kind = _type(name)
        if issubclass(kind, _STR):
            name = str.__str__(name)
            shown = self._without_secrets(name, path)
            if not encodable(shown):
                shown = surrogates(shown)
            if len(shown) > _ORDINARY_NAME_CHARACTERS_MAX and not self._spend(len(shown)):
                shown = f"[{len(shown)} characters dropped]"
            return name, shown
        shown = self.value(name, path, depth + 1, False)
        return (name.decode("latin-1"), shown) if kind is bytes else (name, shown)

    def _sequence(self, value: Sequence[Any], path: str, depth: int, secret: bool) -> Any:
        if not self._spend(ELEMENT_BYTES * len(value)):
            return _too_large(value, items=len(value))
        items = [str.__str__(item) if issubclass(type(item), str) else item for item in list(value)]
        offsets = {} if secret else dict(secret_arguments(items))
        headers = not secret and bool(items) and all(_is_pair(item) for item in items)
        kept: list[Any] = []
        for index, item in enumerate(items):
            step = _join(path, str(index))
            if index in offsets:
                kept.append(self._argument(item, offsets[index], step))
            elif headers and secret_name(item[0]):
                kept.append([self._text(item[0], step, False), self.value(item[1], step, depth + 1, True)])
            else:
                kept.append(self.value(item, step, depth + 1, secret))
        return kept

    def _mark(self, mark: Mark, path: str, depth: int, secret: bool) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, item in mark.items():
            below = secret and name not in ("$type", "class")
            kept[name] = self.value(item, path, depth + 1, below)
        if kept.get("$type") == "set" and type(kept.get("items")) is list:
            kept["items"].sort(key=repr)  # what was an unordered value has one spelling
        return kept

    # -- leaves ---------------------------------------------------------------------------------------

    def _text(self, text: str, path: str, secret: bool) -> Any:
        if not self._spend(len(text)):
            return _too_large(text, bytes=len(text) if text.isascii() else None, characters=len(text))
        if secret:
            return self._secret(text, text.encode("utf-8", "surrogatepass"), path)
        text = self._without_secrets(text, path)
        if encodable(text):
            return text
        return {"$type": "str", "escaped": surrogates(text)}

    def _bytes(self, data: bytes, path: str, secret: bool) -> Any:
        if not self._spend(len(data)):
            return _too_large(data, bytes=len(data))
        if secret:
            return self._secret(data, data, path)
        data, count = self._known.replace_bytes(data)
        self._hit("known_value", path, count)
        data, count = self._urls.replace_bytes(data)
        self._hit(URL_CREDENTIALS, path, count)
        return data

    def _number(self, number: int | float, path: str, secret: bool) -> Any:
        if secret:
            shown = integer(number)["value"] if type(number) is int else repr(number)
            return self._secret(number, shown.encode(), path)
        if type(number) is int and not _INTEGER_MIN <= number <= _INTEGER_MAX:
            if not self._spend(number.bit_length() // 3):
                return _too_large(number, bytes=number.bit_length() // 8 + 1)
            return dict(integer(number))
        return number

    def _copied(self, value: Any, kind: type, path: str, secret: bool) -> Any:
        """Text and bytes of other types: weighed before they are copied."""
        if issubclass(kind, _STR):
            length = str.__len__(value)
            if length > self._left:
                return _too_large(value, bytes=None, characters=length)
            return self._text(str.__str__(value), path, secret)
        try:
            with memoryview(value) as view:
                if view.nbytes > self._left:
                    return _too_large(value, bytes=view.nbytes)
                data = view.tobytes()
        except ValueError:  # a released memoryview
            return dict(opaque(value))
        return self._bytes(data, path, secret)

    # -- replacing ------------------------------------------------------------------------------------

    def _without_secrets(self, text: str, path: str) -> str:
        text, count = self._known.replace(text)
        self._hit("known_value", path, count)
        text, count = self._urls.replace(text)
        self._hit(URL_CREDENTIALS, path, count)
        return text

    def _secret(self, value: Any, data: bytes, path: str) -> Any:
        if not data or (type(value) is str and _TOKEN.fullmatch(value)):
            return value  # nothing to hide, or hidden before
        self._hit("sensitive_key", path, 1)
        return self._fingerprints.token("sensitive_key", data)

    def _argument(self, text: str, offset: int, path: str) -> Any:
        head = self._text(text[:offset], path, False)
        tail = self._text(text[offset:], path, True)
        return head + tail if type(head) is str and type(tail) is str else [head, tail]

    def _hit(self, rule: str, path: str, count: int) -> None:
        if not count:
            return
        place = (rule, _bounded(path))
        if place not in self._hits and len(self._hits) >= HITS_MAX:
            place = (rule, _bounded(self._root))
        self._hits[place] = self._hits.get(place, 0) + count

    def _spend(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True


def _secret_pair(value: Mapping[Any, Any]) -> str | None:
    """The key of the value in a `{"name": "API_KEY", "value": …}` that names a secret."""
    for name_key, value_key in _PAIRS:
        if value_key in value:
            name = value.get(name_key)
            if type(name) is str and secret_name(name):
                return value_key
    return None


def _is_pair(item: Any) -> bool:
    """Two texts, as a header's name and value are."""
    return type(item) in _SEQUENCES and len(item) == 2 and type(item[0]) is type(item[1]) is str


def _too_large(value: object, **size: int | None) -> dict[str, Any]:
    return {"$type": "too_large", "class": class_name(value), **size}


def _join(path: str, step: str) -> str:
    return f"{path}.{step}" if path else step


def _bounded(path: str) -> str:
    return path if len(path) <= PATH_CHARACTERS_MAX else f"{path[: PATH_CHARACTERS_MAX - 1]}…"
