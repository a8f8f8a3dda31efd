"""YAML as far as it is another spelling of JSON: what somebody else wrote, read without surprises.

Owns the bounds and the meaning of plain words. What comes out is null, true, false, numbers, texts, lists and
mappings with text keys. Refused are anchors and aliases (a few lines of them make gigabytes), tags beyond
YAML's own, several documents, a key that is there twice, and what is nested too deep. Knows nothing of what
the text is about. Used for the front matter of skills and for plans.

Plain words mean what they mean in JSON. Where other readers of YAML see a truth value, a date, an octal or a
sexagesimal number (`on`, `yes`, `True`, `2026-01-31`, `010`, `0x1f`, `1_000`, `12:30`), this one sees the
text that stands there. Only an empty value and `~` are taken for null beside `null`. Keys are the texts they
are spelled with, also `1` and `true`.
"""

import math
import re
from typing import Any, cast

from custody.errors import InvalidInput

TEXT_BYTES_MAX = 4 * 1024 * 1024
"""Of one text: a plan of the most actions there may be fits. Reading takes about a second for so much, four
at worst."""

DEPTH_MAX = 100
"""Lists and mappings within each other; well below what recursion over them may cost."""

NUMBER_CHARACTERS_MAX = 400
"""Of one number. A number of any length costs more than linear time to read."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_CORE = "tag:yaml.org,2002:"
_NULLS = ("", "~", "null")
_NONE = object()


def load(
    text: str | bytes,
    *,
    what: str = "The YAML",
    first_line: int = 1,
    bytes_max: int = TEXT_BYTES_MAX,
) -> Any:
    """The value; None for a text that says nothing. `what` begins the sentences of refusals, and `first_line`
    is the line the text begins on where it is part of something longer.

    Raises InvalidInput, whose details have `line` and `column` (both from 1), or `offset` for bytes that are
    no UTF-8.
    """
    return _Reading(_decoded(text, what, bytes_max), what, first_line).value()


def _decoded(text: str | bytes, what: str, bytes_max: int) -> str:
    try:
        data = text.encode() if isinstance(text, str) else text
        if len(data) > bytes_max:
            raise InvalidInput(f"{what} has {len(data)} bytes; {bytes_max} is the most that is read.")
        return (text if isinstance(text, str) else data.decode()).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} is not UTF-8 at byte {error.start}.", offset=error.start) from error
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} has half a character at {error.start}.", offset=error.start) from error


class _Reading:
    """One text being read, event by event and without recursion: nothing is built before it is allowed."""

    def __init__(self, text: str, what: str, first_line: int) -> None:
        self._text = text
        self._what = what
        self._first_line = first_line
        self._root: Any = None
        self._open: list[list[Any] | dict[str, Any]] = []
        self._keys: list[Any] = []
        """For each open mapping the key whose value comes next, or _NONE."""

    def value(self) -> Any:
        import yaml  # most commands read none

        try:
            parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(self._text)
            try:
                documents = 0
                while (event := parser.get_event()) is not None:
                    documents += isinstance(event, yaml.DocumentStartEvent)
                    if documents > 1:
                        self._refuse("has a second document, and one is read", event)
                    self._take(event)
            finally:
                parser.dispose()
        except yaml.MarkedYAMLError as error:
            self._refuse(f"cannot be read: {error.problem or error.context}", error, cause=error)
        except yaml.YAMLError as error:  # a character that YAML does not have
            position = getattr(error, "position", 0)
            self._refuse("has a character that YAML does not allow", position, cause=error)
        return self._root

    def _take(self, event: Any) -> None:
        if getattr(event, "anchor", None) is not None:  # an alias has the name of its anchor here
            self._refuse("has an anchor or alias (& or *); write the value out where it is used", event)
        match type(event).__name__:
            case "ScalarEvent":
                self._check_text(event)
                self._put(event.value if self._is_key() else self._scalar(event), event)
            case "SequenceStartEvent":
                self._begin([], "seq", event)
            case "MappingStartEvent":
                self._begin({}, "map", event)
            case "SequenceEndEvent" | "MappingEndEvent":
                ended = self._open.pop()
                if isinstance(ended, dict):
                    self._keys.pop()
            case "DocumentStartEvent" if event.tags:
                self._refuse("declares tags, which are not read", event)
            case _:
                pass

    def _check_text(self, event: Any) -> None:
        """PyYAML's own parser takes escapes of half characters; libyaml's does not."""
        if not event.value.isascii():
            try:
                event.value.encode()
            except UnicodeEncodeError as error:
                self._refuse("cannot be read: it has half a character", event, cause=error)

    def _is_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1], dict) and self._keys[-1] is _NONE

    def _begin(self, collection: list[Any] | dict[str, Any], tag: str, event: Any) -> None:
        if event.tag not in (None, "!", _CORE + tag):
            self._refuse(f"has the tag {_shown(event.tag)}, which is not read", event)
        if self._is_key():
            self._refuse("has a list or a mapping as a key; keys are texts", event)
        if len(self._open) >= DEPTH_MAX:
            self._refuse(f"is nested deeper than {DEPTH_MAX}", event)
        self._put(collection, event)
        self._open.append(collection)
        if isinstance(collection, dict):
            self._keys.append(_NONE)

    def _put(self, value: Any, event: Any) -> None:
        if not self._open:
            self._root = value
            return
        inner = self._open[-1]
        if isinstance(inner, list):
            inner.append(value)
        elif self._keys[-1] is _NONE:
            self._keys[-1] = self._key(inner, cast("str", value), event)
        else:
            inner[self._keys[-1]] = value
            self._keys[-1] = _NONE

    def _key(self, mapping: dict[str, Any], key: str, event: Any) -> str:
        if event.tag not in (None, "!", _CORE + "str"):
            self._refuse(f"has the tag {_shown(event.tag)} at a key; keys are texts", event)
        if key == "<<" and not event.style:
            self._refuse("merges mappings with <<, which is not read; write the values out", event)
        if key in mapping:
            self._refuse(f"has the key {_shown(key)} twice", event)
        return key

    def _scalar(self, event: Any) -> Any:
        """A plain word by its spelling; everything quoted, and what is tagged as text, is text."""
        text, tag = event.value, event.tag
        if tag in ("!", _CORE + "str"):
            return text
        if tag is None and not event.implicit[0]:
            return text
        value = self._plain(text, event)
        if tag is not None and tag != _CORE + _kind(value):
            self._refuse(f"has the tag {_shown(tag)} at {_shown(text)}, which is not read so", event)
        return value

    def _plain(self, text: str, event: Any) -> Any:
        if text in _NULLS:
            return None
        if text in ("true", "false"):
            return text == "true"
        found = _NUMBER.fullmatch(text)
        if found is None:
            return text
        if len(text) > NUMBER_CHARACTERS_MAX:
            self._refuse(f"has a number of {len(text)} characters", event)
        if found[1] is None and found[2] is None:
            return int(text)
        number = float(text)
        if not math.isfinite(number):
            self._refuse(f"has the number {_shown(text)}, which is too large", event)
        return number

    def _refuse(self, wrong: str, at: Any, cause: BaseException | None = None) -> None:
        line, column = self._place(at)
        raise InvalidInput(
            f"{self._what} {wrong} (line {line}, column {column}).", line=line, column=column
        ) from cause

    def _place(self, at: Any) -> tuple[int, int]:
        """Line and column, from 1."""
        if isinstance(at, int):
            before = self._text[:at]
            return self._first_line + before.count("\n"), len(before) - before.rfind("\n")
        mark = getattr(at, "start_mark", None) or getattr(at, "problem_mark", None)
        mark = mark or getattr(at, "context_mark", None)
        return (self._first_line, 1) if mark is None else (self._first_line + mark.line, mark.column + 1)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case _:
            return "str"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
