"""Words for the full-text index, and what a person types turned into a query of it.

Owns what of a payload can be searched for (the strings and numbers in it, not the names of its top-level
fields) and the quoting that lets any text be asked for. Knows nothing of tables. Used by `fold` and `query`.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from custody.errors import CorruptJournal, InvalidInput

TEXT_CHARACTERS_MAX = 64 * 1024
"""Searched of one record: what a person remembers of a call stands at its beginning, and an index that
holds whole build logs would outgrow the journal."""

DEPTH_MAX = 64
"""Nesting followed in a value; deeper text is in the record but not found."""

QUERY_CHARACTERS_MAX = 1_000
QUERY_WORDS_MAX = 32
"""Bounds of one question: each word is a walk through its occurrences."""

Blob = Callable[[bytes], bytes | None]
"""Content of a blob by its digest; None when it is gone."""

_NAMES_NOT_SAID = frozenset({"environment_withheld", "sandbox"})
"""Fields of a payload that say how a call was confined, much the same in every one of them."""

_QUOTED_OR_WORD = re.compile(r'"([^"]*)"?|(\S+)')

_kind: Callable[[Any], Any] = type
"""An exact type, so that the branches on it leave the value's own type alone."""


class _Full(Exception):
    """Enough text has been gathered."""


class Gatherer:
    """Gathers the text of one record, up to the bound."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._parts: list[str] = []
        self._left = TEXT_CHARACTERS_MAX

    def payload(self, payload: dict[str, Any] | None) -> str:
        """The text of a record's payload, in the order of its fields."""
        parts = self._parts = []
        self._left = TEXT_CHARACTERS_MAX
        try:
            for name, value in (payload or {}).items():
                if name not in _NAMES_NOT_SAID:
                    self._field(value)
        except _Full:
            pass
        return " ".join(parts)

    def whole(self, value: Any) -> Any:
        """A payload's field itself where the payload holds only its digest; None for one that is gone."""
        if _kind(value) is dict:
            digest: Any = value.get("$blob")
            if isinstance(digest, str):
                return self._detached(digest)
        return value

    def _field(self, value: Any) -> None:
        """A payload's field: the keys of its mapping are a tool's parameters, said by every call of it."""
        value = self.whole(value)
        if _kind(value) is dict:
            for part in value.values():
                self._value(part, 2)
        else:
            self._value(value, 1)

    def _value(self, value: Any, depth: int) -> None:
        kind = _kind(value)
        if kind is str:
            self._say(value)
        elif kind is list:
            self._list(value, depth)
        elif kind is dict:
            if depth < DEPTH_MAX:
                for key, part in value.items():
                    if type(key) is str:
                        self._say(key)
                    self._value(part, depth + 1)
        elif kind is int or kind is float:
            self._say(str(value))
        elif kind is bytes:
            self._say(value[: self._left].decode("utf-8", "ignore"))

    def _list(self, parts: list[Any], depth: int) -> None:
        try:
            text = " ".join(parts)  # argument lists, lines: nearly always strings alone
        except TypeError:
            if depth < DEPTH_MAX:
                for part in parts:
                    self._value(part, depth + 1)
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        self._left -= len(text) + 1
        if self._left < 0:
            self._parts.append(text[: self._left])
            raise _Full
        if text:
            self._parts.append(text)

    def _detached(self, digest: str) -> Any:
        try:
            data = self._blob(bytes.fromhex(digest))
            return None if data is None else msgspec.msgpack.decode(data)
        except (ValueError, msgspec.DecodeError, CorruptJournal):
            return None


def match_expression(text: str) -> str | None:
    """An FTS5 query in which every word, and every "quoted phrase" as it stands, must occur.

    None when nothing in `text` can be searched for, so that nothing matches. Raises InvalidInput for a
    question beyond the bounds.
    """
    if len(text) > QUERY_CHARACTERS_MAX:
        raise InvalidInput(
            f"The text to search for has {len(text)} characters; "
            f"at most {QUERY_CHARACTERS_MAX} are possible.",
            field="text",
        )
    # NUL would end the query for SQLite, and a lone surrogate is not text.
    clean = text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    found = [quoted or word for quoted, word in _QUOTED_OR_WORD.findall(clean)]
    words = [word for word in found if any(character.isalnum() for character in word)]
    if len(words) > QUERY_WORDS_MAX:
        raise InvalidInput(
            f"The text to search for has {len(words)} words; at most {QUERY_WORDS_MAX} are possible.",
            field="text",
        )
    return " AND ".join('"' + word.replace('"', " ") + '"' for word in words) or None
