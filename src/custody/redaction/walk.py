"""The long way through one value: what is replaced, and what is marked.

Owns the walk and its bounds. Knows nothing of records or files, nor of how a secret is found in a text. Used
by the redactor for values it cannot prove to be ordinary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from custody.records import Redaction
from custody.redaction.encodings import encoded
from custody.redaction.keys import secret_arguments, secret_name
from custody.redaction.known import Fingerprints, encodable
from custody.redaction.scanner import TOKEN, Budget, Hit, OverBudget, Scanner
from custody.redaction.typed import MARK_KEYS, Mark, class_name, integer, opaque, reduce, surrogates
from custody.redaction.urls import RULE as URL_CREDENTIALS
from custody.redaction.urls import UrlCredentials

UNSCANNED = "unscanned"
"""Stands for a text that was not searched, because the record's budget was spent."""

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

NAME_CHARACTERS_MAX = 64
"""A longer key counts like a text."""

_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1
_type: Any = type  # untyped, here and below: nothing is known of what is kept
_DICT: Any = dict
_STR: Any = str
_TEXTS: Any = (str, bytes, bytearray, memoryview)
SEQUENCES = frozenset({list, tuple})
_PAIRS = (("name", "value"), ("key", "value"), ("Name", "Value"), ("Key", "Value"))


class Walk:
    """The long way through one value."""

    def __init__(self, fingerprints: Fingerprints, scanner: Scanner, budget: Budget, root: str) -> None:
        self._fingerprints = fingerprints
        self._scanner = scanner
        self._budget = budget
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
        pair = secret_pair(value)
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
            try:
                shown = self._without_secrets(name, path)
            except OverBudget:
                self._hit(UNSCANNED, path, 1)
                shown = self._fingerprints.token(UNSCANNED, encoded(name))
            if not encodable(shown):
                shown = surrogates(shown)
            if len(shown) > NAME_CHARACTERS_MAX and not self._spend(len(shown)):
                shown = f"[{len(shown)} characters dropped]"
            return name, shown
        shown = self.value(name, path, depth + 1, False)
        return (name.decode("latin-1"), shown) if kind is bytes else (name, shown)

    def _sequence(self, value: Sequence[Any], path: str, depth: int, secret: bool) -> Any:
        if not self._spend(ELEMENT_BYTES * len(value)):
            return _too_large(value, items=len(value))
        items = [str.__str__(item) if issubclass(_type(item), str) else item for item in list(value)]
        items = items if secret else self._lines(items, path)
        offsets = {} if secret else dict(secret_arguments(items))
        headers = not secret and bool(items) and all(is_pair(item) for item in items)
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

    def _lines(self, items: list[Any], path: str) -> list[Any]:
        """The items without a private key whose lines they are: the items themselves, or what mappings hold
        under one name."""
        for places in columns(items):
            texts = [items[index] if name is None else items[index][name] for index, name in places]
            try:
                kept, hits = self._scanner.replace_lines(texts, self._budget)
            except OverBudget:
                continue  # each is searched by itself, within what is left
            self._hits_in(hits, path)
            for (index, name), line in zip(places, kept, strict=True) if hits else ():
                items[index] = line if name is None else {**items[index], name: line}
        return items

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
        try:
            text = self._without_secrets(text, path)
        except OverBudget:
            return self._unscanned(encoded(text), path)
        if encodable(text):
            return text
        return {"$type": "str", "escaped": surrogates(text)}

    def _bytes(self, data: bytes, path: str, secret: bool) -> Any:
        if not self._spend(len(data)):
            return _too_large(data, bytes=len(data))
        if secret:
            return self._secret(data, data, path)
        try:
            data, hits = self._scanner.replace(data, self._budget)
        except OverBudget:
            return self._unscanned(data, path)
        self._hits_in(hits, path)
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
        text, hits = self._scanner.replace_text(text, self._budget)
        self._hits_in(hits, path)
        text, count = self._urls.replace(text)
        self._hit(URL_CREDENTIALS, path, count)
        return text

    def _secret(self, value: Any, data: bytes, path: str) -> Any:
        if not data or (type(value) is str and TOKEN.fullmatch(value.encode())):
            return value  # nothing to hide, or hidden before
        self._hit("sensitive_key", path, 1)
        return self._fingerprints.token("sensitive_key", data)

    def _unscanned(self, data: bytes, path: str) -> dict[str, Any]:
        """Stands for what was not searched: its size, and a digest under the store's key."""
        self._hit(UNSCANNED, path, 1)
        if not self._spend(ELEMENT_BYTES):
            return {"$type": UNSCANNED, "bytes": len(data)}
        return {"$type": UNSCANNED, "bytes": len(data), "digest": self._fingerprints.digest(data)}

    def _argument(self, text: str, offset: int, path: str) -> Any:
        head = self._text(text[:offset], path, False)
        tail = self._text(text[offset:], path, True)
        return head + tail if type(head) is str and type(tail) is str else [head, tail]

    def _hits_in(self, hits: Sequence[Hit], path: str) -> None:
        for hit in hits:
            self._hit(hit.rule, path, 1)

    def _hit(self, rule: str, path: str, count: int) -> None:
        if not count:
            return
        place = (rule, bounded(path))
        if place not in self._hits and len(self._hits) >= HITS_MAX:
            place = (rule, bounded(self._root))
        self._hits[place] = self._hits.get(place, 0) + count

    def _spend(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True


def columns(items: Sequence[Any]) -> list[list[tuple[int, Any]]]:
    """Where texts stand that may be the lines of one secret: index, and the name in the mapping there or
    None."""
    found: dict[Any, list[tuple[int, Any]]] = {}
    begins: set[Any] = set()
    for index, item in enumerate(items):
        if _type(item) is str:
            named = ((None, item),)
        else:
            named = item.items() if _type(item) is _DICT else ()
        for name, text in named:
            if _type(text) is str:
                found.setdefault(name, []).append((index, name))
                if "-----BEGIN " in text or "PuTTY-User-Key-File" in text:
                    begins.add(name)
    return [found[name] for name in begins if len(found[name]) > 1]


def secret_pair(value: Mapping[Any, Any]) -> str | None:
    """The key of the value in a `{"name": "API_KEY", "value": …}` that names a secret."""
    for name_key, value_key in _PAIRS:
        if value_key in value:
            name = value.get(name_key)
            if type(name) is str and secret_name(name):
                return value_key
    return None


def is_pair(item: Any) -> bool:
    """Two texts, as a header's name and value are."""
    return type(item) in SEQUENCES and len(item) == 2 and type(item[0]) is type(item[1]) is str


def _too_large(value: object, **size: int | None) -> dict[str, Any]:
    return {"$type": "too_large", "class": class_name(value), **size}


def _join(path: str, step: str) -> str:
    return f"{path}.{step}" if path else step


def bounded(path: str) -> str:
    return path if len(path) <= PATH_CHARACTERS_MAX else f"{path[: PATH_CHARACTERS_MAX - 1]}…"
